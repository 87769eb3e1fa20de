//! Seqs that the ledger has lost and Kafka has used: who writes, reads and keeps house knows of them.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use standpipe::event::ports::{
    ChainAt, Delivered, LedgerError, PageOutcome, ProofBook as _, ReadLedger as _, RehydrateBook as _, SinkBook as _,
    SinkState,
};
use standpipe::event::{Chain, DedupeKey, DeliveryBook as _, Seq, Shard, SinkName};
use standpipe::ledger::operator::SeekTo;

use super::world::{World, events, page};
use crate::support::postgres::Postgres;

const SHARD: Shard = Shard(0);
const FROM_KAFKA: Chain = Chain([0xab; 32]);

fn sink(name: &str) -> SinkName {
    SinkName::from(name)
}

/// Ten events; then `crm` is found at 25 and `slow` at 18; then five events more, in partitions of eight seqs.
async fn world() -> World {
    let mut world = World::new().await;
    world
        .execute(
            "DROP TABLE events_0_1; DELETE FROM event_partitions; UPDATE shards SET partitioned_to = 1;
             SELECT standpipe_add_partition(0::smallint, 8) FROM generate_series(1, 5)",
        )
        .await;
    let deals = world.stream("deals").await;
    assert_eq!(world.record(page(&deals, "tail", "p1", events(1..=10))).await, PageOutcome::Recorded);
    let owner = world.held.ownership();
    for (name, at) in [("crm", 10), ("slow", 8)] {
        world.ledger.row(&sink(name), owner).await.unwrap();
        world.ledger.keep_cursor(&sink(name), owner, Seq(at)).await.unwrap();
    }
    let crm = world.ledger.rewound(&sink("crm"), owner, Seq(25), FROM_KAFKA, Seq(10)).await.unwrap();
    assert_eq!((crm.base, crm.until, crm.goes_on, crm.goes_on_chain), (Seq(10), Seq(10), Seq(25), FROM_KAFKA));
    let slow = world.ledger.rewound(&sink("slow"), owner, Seq(18), Chain([1; 32]), Seq(8)).await.unwrap();
    assert_eq!((slow.base, slow.until, slow.goes_on, slow.goes_on_chain), (Seq(8), Seq(10), Seq(25), FROM_KAFKA));
    let again = world.ledger.rewound(&sink("crm"), owner, Seq(25), FROM_KAFKA, Seq(3)).await.unwrap();
    assert_eq!(again, crm, "found again after a crash");
    world = world.again().await;
    assert_eq!(world.record(page(&deals, "p1", "p2", events(11..=15))).await, PageOutcome::Recorded);
    world
}

/// INV-18.
#[tokio::test]
async fn what_is_recorded_after_a_void_stands_behind_it_and_links_to_what_kafka_has() {
    let world = world().await;
    let bounds = world.ledger.bounds(SHARD).await.unwrap();
    assert_eq!((bounds.oldest, bounds.head), (Seq(1), Seq(30)));
    let chain = async |seq| world.ledger.chain_at(SHARD, Seq(seq)).await.unwrap();
    assert_eq!(chain(25).await, ChainAt::Known(FROM_KAFKA));
    assert_eq!(chain(24).await, ChainAt::Void);
    assert_eq!(chain(11).await, ChainAt::Void);
    assert_eq!(chain(31).await, ChainAt::Beyond);
    let reused = async |name| world.ledger.standing(&sink(name), SHARD, None).await.unwrap().reused;
    assert_eq!(
        (reused("slow").await, reused("crm").await),
        (vec![(Seq(9), Seq(10))], vec![]),
        "crm agreed up to the head"
    );
    let before = world.ledger.read(SHARD, Seq(0), Seq(30), 100, 1 << 20).await.unwrap();
    assert_eq!((before.to(), before.void), (Seq(10), None), "a batch ends where a void begins");
    let across = world.ledger.read(SHARD, Seq(10), Seq(30), 100, 1 << 20).await.unwrap();
    let void = across.void.expect("it begins with the void");
    assert_eq!((void.to, void.chain, across.start(), across.to()), (Seq(25), FROM_KAFKA, Seq(25), Seq(30)));
    let first = &across.events[0];
    assert_eq!(first.chain, FROM_KAFKA.link(Seq(26), &first.id, &first.content_hash));
    assert_eq!(chain(30).await, ChainAt::Known(across.chain()));
    let alone = world.ledger.read(SHARD, Seq(10), Seq(25), 100, 1 << 20).await.unwrap();
    assert_eq!((alone.to(), alone.chain(), alone.events.len()), (Seq(25), FROM_KAFKA, 0));
    let behind = world.ledger.read(SHARD, Seq(25), Seq(30), 100, 1 << 20).await.unwrap();
    assert_eq!((behind.void, behind.chain_before, behind.to()), (None, FROM_KAFKA, Seq(30)));
}

#[tokio::test]
async fn a_seek_into_a_void_leads_behind_it_and_a_copy_of_a_cursor_never_passes_the_head() {
    let world = world().await;
    let cursor = world.ledger.seek_sink(&sink("crm"), SHARD, SeekTo::Seq(Seq(20))).await.unwrap();
    assert_eq!(cursor, Seq(25));
    let owner = world.held.ownership();
    world.ledger.keep_cursor(&sink("crm"), owner, Seq(99)).await.unwrap();
    assert_eq!(world.ledger.row(&sink("crm"), owner).await.unwrap().cursor, Some(Seq(30)));
}

#[tokio::test]
async fn retention_passes_a_void_whole_and_never_before_the_sinks_have() {
    let world = world().await;
    let (owner, sinks) = (world.held.ownership(), [sink("crm"), sink("slow")]);
    world.execute("UPDATE events SET recorded_at = clock_timestamp() - interval '30 hours' WHERE seq <= 26").await;
    let retention = Duration::from_hours(28);
    let oldest = async |cursor| {
        for sink in &sinks {
            world.ledger.keep_cursor(sink, owner, Seq(cursor)).await.unwrap();
        }
        world.ledger.retain(owner, retention, &sinks).await.unwrap();
        world.ledger.bounds(SHARD).await.unwrap().oldest
    };
    assert_eq!(oldest(10).await, Seq(9), "the partition that ends in the void stays");
    assert_eq!(oldest(30).await, Seq(26));
    assert_eq!(world.ledger.chain_at(SHARD, Seq(25)).await.unwrap(), ChainAt::Known(FROM_KAFKA));
    assert_eq!(world.ledger.read(SHARD, Seq(25), Seq(30), 100, 1 << 20).await.unwrap().to(), Seq(30));
    // Rows that go one by one pass it too.
    world.execute("UPDATE events SET recorded_at = clock_timestamp() - interval '99 hours'").await;
    assert_eq!(oldest(30).await, Seq(31));
}

#[tokio::test]
async fn what_a_sink_delivered_is_kept_for_it_alone_and_what_it_did_not_is_wished_for_once() {
    let world = world().await;
    let owner = world.held.ownership();
    let delivered = |id: &str, of| Delivered { key: DedupeKey::by_id("acme", id), replay_of: Seq(of) };
    // 11 and 12 were recorded again under 26 and 27; 5 stands in its own place.
    let kept = [(11, "11", 0), (4, "12", 0), (12, "12", 0), (13, "3", 3), (5, "5", 0)];
    let kept = kept.map(|(seq, id, of)| (Seq(seq), delivered(id, of)));
    for _ in 0..2 {
        world.ledger.keep_skips(&sink("crm"), owner, &kept).await.unwrap();
    }
    let excuses = world.ledger.excuses(&sink("crm"), SHARD, Seq(1), Seq(30)).await.unwrap();
    assert_eq!(excuses.skips, [(Seq(3), Seq(13)), (Seq(26), Seq(11)), (Seq(27), Seq(12))]);
    assert_eq!([5, 26, 28].map(|seq| excuses.elsewhere(Seq(seq))), [None, Some(Seq(11)), None]);
    let asked = [delivered("11", 0), delivered("3", 0), delivered("3", 3), delivered("99", 0)];
    let skips = world.ledger.skips(&sink("crm"), SHARD, &asked).await.unwrap();
    // What was delivered as a replay alone has been delivered, when it comes as a first recording; and not the other way.
    assert_eq!(skips, [delivered("11", 0), delivered("3", 0), delivered("3", 3)].into_iter().collect());
    let replay = world.ledger.skips(&sink("crm"), SHARD, &[delivered("11", 11)]).await.unwrap();
    assert!(replay.is_empty(), "{replay:?}");
    assert!(world.ledger.has_skips(&sink("crm"), SHARD).await.unwrap());
    assert!(!world.ledger.has_skips(&sink("slow"), SHARD).await.unwrap());

    // An operator sends the sink back to 26, where it has come to 30.
    world.ledger.forget_skips(&sink("crm"), owner, Seq(26), Seq(30)).await.unwrap();
    let asked = [delivered("11", 0), delivered("12", 0), delivered("3", 0), delivered("3", 3)];
    let left = world.ledger.skips(&sink("crm"), SHARD, &asked).await.unwrap();
    assert_eq!(left, [delivered("11", 0), delivered("3", 0), delivered("3", 3)].into_iter().collect());
    // And back to the beginning: of a first recording every message is forgotten.
    world.ledger.forget_skips(&sink("crm"), owner, Seq(2), Seq(3)).await.unwrap();
    let left = world.ledger.skips(&sink("crm"), SHARD, &asked).await.unwrap();
    assert_eq!(left, [delivered("11", 0)].into_iter().collect());

    let way = world.ledger.rewound(&sink("slow"), owner, Seq(18), Chain([1; 32]), Seq(8)).await.unwrap();
    world.ledger.reclaim(&sink("slow"), owner, &way, Seq(10), &[Seq(9), Seq(10)]).await.unwrap();
    let twice = world.ledger.reclaim(&sink("slow"), owner, &way, Seq(10), &[Seq(9), Seq(10)]).await;
    assert!(matches!(twice, Err(LedgerError::Moved { .. })), "{twice:?}");
    assert_eq!(world.count("SELECT count(*) FROM replays WHERE sink = 'slow'").await, 2);
    let known = async |name, at| world.ledger.is_rehydrated(&sink(name), SHARD, Seq(at), Chain([1; 32])).await.unwrap();
    assert!(!known("slow", 18).await, "begun is not done");
    world.ledger.rehydrated(&sink("slow"), owner, &way, 7).await.unwrap();
    assert_eq!((known("slow", 18).await, known("slow", 17).await, known("crm", 18).await), (true, false, false));
    let rows = world.ledger.rehydration_rows(10).await.unwrap();
    let row = rows.iter().find(|row| row.sink == "slow").unwrap();
    assert_eq!((row.skips, row.reclaimed, row.done_at.is_some()), (7, 2, true));
    let voids = world.ledger.void_rows().await.unwrap();
    assert_eq!(voids.iter().map(|void| (void.from, void.to)).collect::<Vec<_>>(), [(Seq(11), Seq(25))]);
}

/// INV-6: the database lost its last commits, among them who owns the shard, and what Kafka had used of it is void: then head,
/// chain and epoch are those that the owner before knows.
#[tokio::test]
async fn an_owner_who_began_on_the_database_before_records_and_marks_nothing() {
    let mut world = World::new().await;
    let deals = world.stream("deals").await;
    let home = world.ledger.home(SHARD).await.unwrap();
    assert_eq!(world.record(page(&deals, "tail", "p1", events(1..=2))).await, PageOutcome::Recorded);
    let name = world.url.rsplit('/').next().unwrap().to_owned();
    let mut admin = PgConnection::connect(&Postgres::shared().await.url("postgres")).await.unwrap();
    // Another database of the same content takes its name.
    let swap = [
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        format!("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'"),
        format!("ALTER DATABASE {name} RENAME TO {name}_before"),
        format!("CREATE DATABASE {name} TEMPLATE {name}_before"),
        format!("DROP DATABASE {name}_before"),
    ];
    let swapped = async {
        for statement in swap {
            admin.execute(AssertSqlSafe(statement)).await.unwrap();
        }
    };
    world.record_on(swapped).await;
    assert_eq!(world.try_record(page(&deals, "p1", "p2", events(3..=3))).await, None, "nobody answers");
    assert_eq!(world.count("SELECT count(*) FROM events").await, 2);
    let owner = world.held.ownership();
    let marked = world.ledger.rewound(&sink("crm"), owner, Seq(25), FROM_KAFKA, Seq(0)).await;
    assert!(matches!(marked, Err(LedgerError::Moved { .. })), "{marked:?}");
    // Who begins on it now may.
    assert_ne!(world.ledger.home(SHARD).await.unwrap().now, home.now);
    world.record_on(std::future::ready(())).await;
    assert_eq!(world.record(page(&deals, "p1", "p2", events(3..=3))).await, PageOutcome::Recorded);
}

/// INV-6.
#[tokio::test]
async fn an_owner_whose_epoch_is_over_marks_nothing() {
    let world = world().await;
    let mut owner = world.held.ownership();
    owner.epoch.0 -= 1;
    let refused = world.ledger.rewound(&sink("crm"), owner, Seq(99), FROM_KAFKA, Seq(10)).await;
    assert!(matches!(refused, Err(LedgerError::Fenced { .. })), "{refused:?}");
    assert_eq!(world.ledger.bounds(SHARD).await.unwrap().head, Seq(30));
}

#[tokio::test]
async fn a_ledger_knows_when_it_lives_elsewhere() {
    let world = World::new().await;
    let owner = world.held.ownership();
    let home = world.ledger.home(SHARD).await.unwrap();
    assert!(home.noted.is_none() && !home.has_moved(), "{home:?}");
    world.ledger.settle(owner, &home).await.unwrap();
    assert!(!world.ledger.home(SHARD).await.unwrap().has_moved());
    world.execute("UPDATE shards SET home = 'elsewhere'").await;
    assert!(world.ledger.home(SHARD).await.unwrap().has_moved());
}

/// Hosted servers withhold functions that tell who they are.
#[tokio::test]
async fn a_server_that_does_not_say_who_it_is_has_a_home_all_the_same() {
    let world = World::new().await;
    let role = format!("withheld_{}", uuid::Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(&world.url).await.unwrap();
    for sql in [
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC".to_owned(),
        format!("CREATE ROLE {role}"),
        format!("SET ROLE {role}"),
    ] {
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    let (home,): (String,) = sqlx::query_as("SELECT standpipe_home()").fetch_one(&mut connection).await.unwrap();
    assert!(home.starts_with("untold/"), "{home}");
    connection.execute("RESET ROLE").await.unwrap();
    let (home,): (String,) = sqlx::query_as("SELECT standpipe_home()").fetch_one(&mut connection).await.unwrap();
    assert!(!home.contains("untold") && home.split('/').count() >= 3, "{home}");
    connection.execute(AssertSqlSafe(format!("DROP ROLE {role}"))).await.unwrap();
}

/// A fail-over to a standby that lacked the newest names gives their numbers to others.
#[tokio::test]
async fn an_owner_begins_without_the_numbers_that_another_database_gave_to_names() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    assert_eq!(world.record(page(&deals, "tail", "p1", events(1..=1))).await, PageOutcome::Recorded);
    world.execute("UPDATE event_types SET name = 'deal.deleted' WHERE name = 'deal.updated'").await;
    world.ledger.home(SHARD).await.unwrap();
    assert_eq!(world.record(page(&deals, "p1", "p2", events(2..=2))).await, PageOutcome::Recorded);
    let named =
        "SELECT count(*) FROM events JOIN event_types USING (type_id) WHERE event_id = '2' AND name = 'deal.updated'";
    assert_eq!(world.count(named).await, 1);
}

/// INV-10: a standby may have the epoch and every event, and yet lack the row of a delivery that a sink believes to be there.
#[tokio::test]
async fn a_write_is_refused_where_the_ledger_lives_elsewhere_than_where_its_owner_began() {
    let world = world().await;
    let (owner, crm) = (world.held.ownership(), sink("crm"));
    world.ledger.home(SHARD).await.unwrap();
    world.ledger.keep_cursor(&crm, owner, Seq(26)).await.unwrap();
    let elsewhere = "CREATE OR REPLACE FUNCTION standpipe_home() RETURNS text LANGUAGE sql AS $$ SELECT '1/2/3' $$";
    world.execute(elsewhere).await;
    for refused in [
        world.ledger.keep_cursor(&crm, owner, Seq(30)).await,
        world.ledger.report(&crm, owner, SinkState::Running, None).await,
        world.ledger.reconciled(&crm, owner, Seq(30)).await,
        world.ledger.keep_failures(&crm, owner, None).await,
        world.ledger.forget_after(&crm, owner, Seq(0)).await,
    ] {
        assert!(matches!(refused, Err(LedgerError::Moved { .. })), "{refused:?}");
    }
    world.ledger.home(SHARD).await.unwrap();
    assert_eq!(world.ledger.row(&crm, owner).await.unwrap().cursor, Some(Seq(26)));
    world.ledger.keep_cursor(&crm, owner, Seq(30)).await.unwrap();
}
