//! Retention, and who holds it back.

use std::time::Duration;

use standpipe::event::ports::{ChainAt, LedgerError, PageOutcome, ReadLedger as _, SinkBook as _};
use standpipe::event::{Seq, Shard, SinkName};

use super::world::{World, events, page};

const SHARD: Shard = Shard(0);
const DAY: Duration = Duration::from_hours(24);

/// Three commits of ten events, in partitions of eight seqs.
async fn world() -> World {
    let world = World::new().await;
    world
        .execute(
            "DROP TABLE events_0_1; DELETE FROM event_partitions; UPDATE shards SET partitioned_to = 1;
             SELECT standpipe_add_partition(0::smallint, 8) FROM generate_series(1, 5)",
        )
        .await;
    let deals = world.stream("deals").await;
    for (from, to, ids) in [("tail", "p1", 1..=10), ("p1", "p2", 11..=20), ("p2", "p3", 21..=30)] {
        assert_eq!(world.record(page(&deals, from, to, events(ids))).await, PageOutcome::Recorded);
    }
    world
}

#[tokio::test]
async fn old_partitions_go_whole_and_never_past_a_configured_sink() {
    let world = world().await;
    let (owner, crm) = (world.held.ownership(), SinkName::from("crm"));
    let sinks = [crm.clone()];
    let mut chains = Vec::new();
    for seq in 0..=30 {
        chains.push(world.ledger.chain_at(SHARD, Seq(seq)).await.unwrap());
    }
    world.execute("UPDATE events SET recorded_at = clock_timestamp() - interval '30 hours' WHERE seq <= 26").await;
    world.ledger.retain(owner, DAY * 7, &[]).await.unwrap();
    assert_eq!(world.ledger.bounds(SHARD).await.unwrap().oldest, Seq(1), "younger than the retention");
    // The slow path waits longer than the retention itself, so only whole partitions go here.
    let retention = Duration::from_hours(28);
    world.ledger.retain(owner, retention, &sinks).await.unwrap();
    assert_eq!(world.ledger.bounds(SHARD).await.unwrap().oldest, Seq(1), "a sink that has not started holds all");
    world.ledger.row(&crm, owner).await.unwrap();
    world.ledger.keep_cursor(&crm, owner, Seq(19)).await.unwrap();
    world.ledger.retain(owner, retention, &sinks).await.unwrap();
    assert_eq!(world.ledger.bounds(SHARD).await.unwrap().oldest, Seq(17), "whole partitions below its cursor");
    world.execute("UPDATE sinks SET seek_to = 30, seek_reason = 'backlog_hold'").await;
    world.ledger.retain(owner, retention, &sinks).await.unwrap();
    assert_eq!(world.ledger.bounds(SHARD).await.unwrap().oldest, Seq(25), "one that was cut off holds nothing");
    assert_eq!(world.count("SELECT count(*) FROM event_partitions").await, 2);
    assert_eq!(world.count("SELECT min(seq) FROM chain_marks").await, 24);
    for (seq, before) in (0..).zip(chains) {
        let expected = if seq < 24 { ChainAt::Expired } else { before };
        assert_eq!(world.ledger.chain_at(SHARD, Seq(seq)).await.unwrap(), expected, "seq {seq}");
    }
    let gone = world.ledger.read(SHARD, Seq(20), Seq(30), 100, 1 << 20).await;
    assert!(matches!(gone, Err(LedgerError::Refused { .. })), "{gone:?}");
    assert_eq!(world.ledger.read(SHARD, Seq(24), Seq(30), 100, 1 << 20).await.unwrap().to(), Seq(30));
    assert_eq!(world.ledger.backlog(SHARD, &[]).await.unwrap().bytes, 0);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_slow_ledger_forgets_row_by_row_what_its_partition_would_keep_for_long() {
    let world = world().await;
    let owner = world.held.ownership();
    world.execute("DELETE FROM event_partitions WHERE to_seq > 9; UPDATE event_partitions SET to_seq = 1000").await;
    world.execute("UPDATE events SET recorded_at = clock_timestamp() - interval '29 hours' WHERE seq <= 13").await;
    world.ledger.retain(owner, DAY, &[]).await.unwrap();
    assert_eq!(world.ledger.bounds(SHARD).await.unwrap().oldest, Seq(1), "not overdue yet");
    world.execute("UPDATE events SET recorded_at = clock_timestamp() - interval '31 hours' WHERE seq <= 12").await;
    world.ledger.retain(owner, DAY, &[]).await.unwrap();
    assert_eq!(world.ledger.bounds(SHARD).await.unwrap().oldest, Seq(14));
    assert_eq!(world.count("SELECT count(*) FROM events").await, 17);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn event_ids_are_forgotten_after_the_dedupe_window_and_not_before() {
    let world = world().await;
    let owner = world.held.ownership();
    assert_eq!(world.ledger.expire_ids(owner, DAY * 14).await.unwrap(), 0);
    // Who copies all tables elsewhere stops neither this nor the recording of a page with known ids, which moves seqs.
    world.execute("CREATE PUBLICATION everything FOR ALL TABLES").await;
    let known = page(&world.stream("notes").await, "tail", "p1", events([1, 31]));
    assert_eq!(world.record(known).await, PageOutcome::Recorded);
    // 13 days, because the day may change meanwhile.
    world.execute("UPDATE event_ids SET day = day - CASE WHEN seq <= 7 THEN 20 ELSE 13 END WHERE seq <= 12").await;
    assert_eq!(world.ledger.expire_ids(owner, DAY * 14).await.unwrap(), 7);
    assert_eq!(world.count("SELECT count(*) FROM event_ids").await, 24);
    world.execute("UPDATE shards SET epoch = epoch + 1").await;
    let fenced = world.ledger.expire_ids(owner, DAY * 14).await;
    assert!(matches!(fenced, Err(LedgerError::Fenced { .. })), "INV-6");
    let fenced = world.ledger.retain(owner, DAY, &[]).await;
    assert!(matches!(fenced, Err(LedgerError::Fenced { .. })), "INV-6");
}

#[tokio::test]
async fn partitions_are_made_ahead_and_at_need() {
    let world = world().await;
    let owner = world.held.ownership();
    let made = "SELECT count(*) FROM event_partitions";
    assert_eq!(world.count(made).await, 5);
    // 41 is the first seq without a partition: the call makes one.
    let deals = world.stream("deals").await;
    assert_eq!(world.record(page(&deals, "p3", "p4", events(31..=60))).await, PageOutcome::Recorded);
    assert_eq!(world.count(made).await, 6);
    world.ledger.look_ahead(owner, DAY * 7).await.unwrap();
    assert_eq!(world.count(made).await, 6, "there is enough");
    let fresh = World::new().await;
    fresh
        .execute(
            "DROP TABLE events_0_1; DELETE FROM event_partitions; UPDATE shards SET partitioned_to = 1;
             SELECT standpipe_add_partition(0::smallint, 12)",
        )
        .await;
    let deals = fresh.stream("deals").await;
    assert_eq!(fresh.record(page(&deals, "tail", "p1", events(1..=10))).await, PageOutcome::Recorded);
    fresh.ledger.look_ahead(fresh.held.ownership(), DAY * 7).await.unwrap();
    assert_eq!(fresh.count(made).await, 2);
    fresh.finish().await.unwrap();
    world.finish().await.unwrap();
}
