//! Recording: INV-1 to INV-6, INV-14.

use standpipe::event::ports::{ChainAt, LedgerError, PageOutcome, ReadLedger as _, SinkBook as _};
use standpipe::event::{Chain, Position, Seq, Shard};

use super::world::{SOON, World, event, events, page};

const SHARD: Shard = Shard(0);

fn superseded(at: &str) -> PageOutcome {
    PageOutcome::Superseded { at: Position::from(at) }
}

#[tokio::test]
async fn an_event_is_recorded_once_and_its_position_with_it_inv_1() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    assert_eq!(world.record(page(&deals, "tail", "p1", events(1..=3))).await, PageOutcome::Recorded);
    let both = "SELECT count(*) FROM events JOIN event_ids USING (shard, seq, content_hash)";
    assert_eq!(world.count(both).await, 3, "events with their ids");
    // The same events again, on a later page, among new ones; one of them twice.
    assert_eq!(world.record(page(&deals, "p1", "p2", events([2, 4, 3, 4, 5]))).await, PageOutcome::Recorded);
    assert_eq!(world.shelf.ids(), ["1", "2", "3", "4", "5"]);
    assert_eq!(world.position(&deals).await, "p2");
    for count in [both, "SELECT count(*) FROM events", "SELECT count(*) FROM event_ids"] {
        assert_eq!(world.count(count).await, 5, "{count}");
    }
    assert_eq!(world.count("SELECT count(*) FROM conflicts").await, 0);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn the_server_may_not_compile_what_a_recording_asks() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    world.note_jit().await;
    assert_eq!(world.record(page(&deals, "tail", "p1", events(1..=3))).await, PageOutcome::Recorded);
    assert_eq!(world.count("SELECT count(*) FROM noted WHERE jit = 'off'").await, 1);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn seqs_are_dense_in_page_order_and_the_ledger_tells_the_same_story_as_memory_inv_2() {
    let world = World::new().await;
    let (deals, notes) = (world.stream("deals").await, world.stream("notes").await);
    let mut answers = Vec::new();
    for round in 0..20 {
        let (from, to) = (if round == 0 { "tail".to_owned() } else { round.to_string() }, (round + 1).to_string());
        let ids = |stream: &'static str| (0..7).map(move |n| format!("{stream}-{}", round * 5 + n));
        answers.push(world.submit(page(&deals, &from, &to, events(ids("d")))).await);
        let notes = page(&notes, &from, &to, events(ids("n")));
        // The first ones in groups; then one by one, so that the ids that come again have been recorded before.
        if round < 10 {
            answers.push(world.submit(notes).await);
        } else {
            assert_eq!(world.record(notes).await, PageOutcome::Recorded);
        }
    }
    for answer in answers {
        assert_eq!(answer.await.unwrap(), PageOutcome::Recorded);
    }
    let batches = world.shelf.batches();
    let mut chain = Chain::start(world.ledger.id());
    let mut last = Seq::ZERO;
    for batch in &batches {
        assert_eq!((batch.after, batch.chain_before), (last, chain));
        for event in &batch.events {
            chain = chain.link(event.seq, &event.id, &event.content_hash);
            assert_eq!((event.seq, event.chain), (last.next(), chain));
            last = event.seq;
        }
    }
    let bounds = world.ledger.bounds(SHARD).await.unwrap();
    assert_eq!((bounds.oldest, bounds.head, bounds.chain), (Seq(1), last, chain));
    let memory: Vec<_> = batches.iter().flat_map(|batch| batch.events.clone()).collect();
    let mut after = Seq::ZERO;
    while after < last {
        let batch = world.ledger.read(SHARD, after, last, 17, 1 << 20).await.unwrap();
        for (read, remembered) in batch.events.iter().zip(&memory[usize::try_from(after.0).unwrap()..]) {
            assert_eq!(format!("{read:?}"), format!("{remembered:?}"));
            let known = ChainAt::Known(read.chain);
            assert_eq!(world.ledger.chain_at(SHARD, read.seq).await.unwrap(), known);
        }
        after = batch.to();
    }
    assert_eq!(world.ledger.chain_at(SHARD, last.next()).await.unwrap(), ChainAt::Beyond);
    let small = world.ledger.read(SHARD, Seq(3), last, 1000, 1).await.unwrap();
    assert_eq!(small.to(), Seq(4), "at least one event, however few bytes");
    world.finish().await.unwrap();
}

/// Field 7: a page that was polled from a position which has moved since is not recorded.
#[tokio::test]
async fn a_page_from_elsewhere_is_left_out_whole_and_the_others_are_not_inv_3() {
    let world = World::new().await;
    let (deals, notes) = (world.stream("deals").await, world.stream("notes").await);
    assert_eq!(world.record(page(&deals, "tail", "p1", events(["a"]))).await, PageOutcome::Recorded);
    // One group: a page from elsewhere, its successor, and a page of another stream with an event in common.
    let stale = world.submit(page(&deals, "tail", "p2", events(["x", "y"]))).await;
    let next = world.submit(page(&deals, "p2", "p3", events(["z"]))).await;
    let other = world.submit(page(&notes, "tail", "n1", events(["x", "n"]))).await;
    assert_eq!(stale.await.unwrap(), superseded("p1"));
    assert_eq!(next.await.unwrap(), superseded("p1"));
    assert_eq!(other.await.unwrap(), PageOutcome::Recorded);
    assert_eq!(world.shelf.ids(), ["a", "x", "n"]);
    assert_eq!(world.position(&deals).await, "p1");
    world.execute("UPDATE streams SET paused = true WHERE name = 'notes'").await;
    assert_eq!(world.record(page(&notes, "n1", "n2", events(["m"]))).await, superseded("n1"));
    world.finish().await.unwrap();
}

#[tokio::test]
async fn an_empty_page_moves_the_position_and_an_unmoved_one_keeps_its_age_inv_4() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    assert_eq!(world.record(page(&deals, "tail", "p1", vec![])).await, PageOutcome::Recorded);
    assert_eq!(world.position(&deals).await, "p1");
    world.execute("UPDATE streams SET position_at = '2020-01-01'").await;
    assert_eq!(world.record(page(&deals, "p1", "p1", vec![])).await, PageOutcome::Recorded);
    let aged = "SELECT count(*) FROM streams WHERE position_at = '2020-01-01'";
    assert_eq!(world.count(aged).await, 1);
    assert_eq!(world.record(page(&deals, "p1", "p2", vec![])).await, PageOutcome::Recorded);
    assert_eq!(world.count(aged).await, 0);
    assert!(world.shelf.batches().is_empty());
    world.finish().await.unwrap();
}

#[tokio::test]
async fn the_same_id_with_other_content_is_kept_beside_the_first() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    let first = vec![event("a", "one"), event("b", "one"), event("b", "two")];
    assert_eq!(world.record(page(&deals, "tail", "p1", first)).await, PageOutcome::Recorded);
    let second = vec![event("a", "two"), event("a", "two"), event("c", "one")];
    assert_eq!(world.record(page(&deals, "p1", "p2", second)).await, PageOutcome::Recorded);
    assert_eq!(world.shelf.ids(), ["a", "b", "c"]);
    assert_eq!(world.count("SELECT count(*) FROM conflicts").await, 2);
    assert_eq!(world.count("SELECT sum(times)::bigint FROM conflicts").await, 3);
    let conflicts = world.ledger.conflict_rows(10).await.unwrap();
    let newest = &conflicts[0];
    assert_eq!((newest.event_id.as_str(), newest.kept_seq, newest.times), ("a", Seq(1), 2));
    assert_ne!(newest.kept_hash, newest.other_hash);
    assert!(newest.other.contains("two"));
    let first_stays = "SELECT count(*) FROM events WHERE convert_from(body, 'UTF8') LIKE '%one%'";
    assert_eq!(world.count(first_stays).await, 3);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn an_owner_whose_epoch_is_over_writes_nothing_inv_6() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    assert_eq!(world.record(page(&deals, "tail", "p1", events(["a"]))).await, PageOutcome::Recorded);
    world.execute("UPDATE shards SET epoch = epoch + 1").await;
    let ledger = world.ledger.clone();
    let owner = world.held.ownership();
    let answer = world.submit(page(&deals, "p1", "p2", events(["b"]))).await;
    assert!(answer.await.is_err(), "nobody answers for a shard that is lost");
    assert!(matches!(world.ended().await, Err(LedgerError::Fenced { .. })));
    let sink = "crm".into();
    assert!(matches!(ledger.row(&sink, owner).await, Err(LedgerError::Fenced { .. })));
    assert!(matches!(ledger.keep_cursor(&sink, owner, Seq(1)).await, Err(LedgerError::Fenced { .. })));
    assert!(matches!(ledger.sought(&sink, owner, Seq(1)).await, Err(LedgerError::Fenced { .. })));
    assert!(matches!(ledger.dead_letters(&sink, owner, &[], SOON).await, Err(LedgerError::Fenced { .. })));
    assert_eq!(ledger.bounds(SHARD).await.unwrap().head, Seq(1));
}

#[tokio::test]
async fn a_database_that_was_rewound_is_noticed_by_the_next_commit() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    assert_eq!(world.record(page(&deals, "tail", "p1", events(["a", "b"]))).await, PageOutcome::Recorded);
    // As after a fail-over to a standby that had not heard of the last commit: the epoch is the same.
    world
        .execute(
            "DELETE FROM events; DELETE FROM event_ids; DELETE FROM chain_marks WHERE seq > 0;
             UPDATE shards SET head = 0, bytes = 0, chain = (SELECT chain FROM chain_marks);
             UPDATE streams SET position = 'tail'",
        )
        .await;
    let answer = world.submit(page(&deals, "p1", "p2", events(["c"]))).await;
    assert!(answer.await.is_err());
    assert_eq!(world.count("SELECT count(*) FROM events").await, 0);
    assert!(matches!(world.ended().await, Err(LedgerError::Moved { .. })));
}

#[tokio::test]
async fn a_stale_owner_that_writes_at_the_same_time_does_no_harm_inv_6() {
    let mut stale = World::new().await;
    let deals = stale.stream("deals").await;
    assert_eq!(stale.record(page(&deals, "tail", "p0", events(["first"]))).await, PageOutcome::Recorded);
    stale.execute("UPDATE shards SET lease_until = clock_timestamp() - interval '1 second'").await;
    let fresh = World::with(stale.config.clone(), stale.url.clone()).await;
    assert!(fresh.held.ownership().epoch > stale.held.ownership().epoch);
    // Both go at it; the stream stands at p0 for both of them.
    let (one, other) = tokio::join!(
        stale.submit(page(&deals, "p0", "stale", events(["s1", "s2"]))),
        fresh.submit(page(&deals, "p0", "fresh", events(["f1", "s2"]))),
    );
    assert_eq!(other.await.unwrap(), PageOutcome::Recorded);
    assert!(one.await.is_err(), "nobody answers for the stale one");
    let lost = tokio::time::timeout(SOON, stale.held.hold()).await.unwrap();
    assert!(matches!(lost, LedgerError::Fenced { .. }), "{lost}");
    assert_eq!(fresh.position(&deals).await, "fresh");
    assert_eq!(fresh.shelf.ids(), ["f1", "s2"]);
    assert!(matches!(stale.ended().await, Err(LedgerError::Fenced { .. })));
    assert_eq!(fresh.ledger.read(SHARD, Seq::ZERO, Seq(3), 10, 1 << 20).await.unwrap().to(), Seq(3));
    fresh.finish().await.unwrap();
}
