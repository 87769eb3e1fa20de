//! What reading costs: a piece of a backlog is found by the index, however long the backlog is, and whether or not the
//! server knows anything of the table yet.

use standpipe::event::ports::{PageOutcome, ReadLedger as _};
use standpipe::event::{Seq, Shard};

use super::world::{SOON, World, event, open, page};
use crate::support::wait::wait_until;

const SHARD: Shard = Shard(0);
const BACKLOG: u64 = 40_000;
const PIECE: usize = 500;

/// Ends the connections to the test's database: a backend tells what it did at its end at the latest.
async fn end_connections(world: &World) {
    let mut sql = world.sql().await;
    let others: Vec<(i32,)> = sqlx::query_as(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
         AND backend_type = 'client backend'",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    let others: Vec<i32> = others.into_iter().map(|(pid,)| pid).collect();
    let ended = sqlx::query("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid").bind(&others);
    ended.execute(&mut sql).await.unwrap();
    wait_until("all of them have ended", SOON, async || {
        let left = sqlx::query_as("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)").bind(&others);
        let (left,): (i64,) = left.fetch_one(&mut world.sql().await).await.unwrap();
        left == 0
    })
    .await;
}

/// The rows of `events` that statements have looked at so far.
async fn touched(world: &World) -> i64 {
    end_connections(world).await;
    world
        .count(
            "SELECT (sum(seq_tup_read) + sum(coalesce(idx_tup_fetch, 0)))::bigint FROM pg_stat_user_tables
             WHERE relname LIKE 'events\\_0\\_%'",
        )
        .await
}

#[tokio::test]
async fn a_piece_of_a_backlog_costs_what_is_in_it_however_long_the_backlog_is() {
    let world = World::new().await;
    world.execute("ALTER TABLE events_0_1 SET (autovacuum_enabled = false)").await;
    let deals = world.stream("deals").await;
    let mut from = "tail".to_owned();
    for first in (1..=BACKLOG).step_by(PIECE) {
        let to = format!("p{first}");
        // Large enough that the server, which guesses the rows by the pages, would rather sort them than follow the index.
        let events = (first..first + PIECE as u64).map(|id| event(&id.to_string(), &"x".repeat(1_000))).collect();
        assert_eq!(world.record(page(&deals, &from, &to, events)).await, PageOutcome::Recorded);
        from = to;
    }
    let known = "SELECT count(*) FROM pg_stats WHERE tablename LIKE 'events\\_0\\_%'";
    assert_eq!(world.count(known).await, 0, "no statistics");

    for after in [0, 7_777, BACKLOG - 2 * PIECE as u64] {
        let before = touched(&world).await;
        let ledger = open(&world.config).await;
        let batch = ledger.read(SHARD, Seq(after), Seq(BACKLOG), PIECE, 64 << 20).await.unwrap();
        assert_eq!((batch.start(), batch.events.len()), (Seq(after), PIECE));
        let rows = touched(&world).await - before;
        // The piece, and what lies between `after` and the commit before it: the chain begins there.
        let most = 3 * i64::try_from(PIECE).unwrap();
        assert!((1..=most).contains(&rows), "{PIECE} events after {after} cost {rows} rows of {BACKLOG}");
    }
}
