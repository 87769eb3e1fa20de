//! `pooler = true`, behind a transaction-mode pgbouncer.

use standpipe::event::ports::{ChainAt, PageOutcome, ReadLedger as _, SinkBook as _};
use standpipe::event::{Seq, Shard, SinkName};
use standpipe::ledger::Lease;
use uuid::Uuid;

use super::world::{World, config, event, events, page};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::Postgres;

#[tokio::test]
async fn a_ledger_behind_a_transaction_mode_pooler_keeps_every_promise() {
    let server = Postgres::shared().await;
    let direct = server.database().await;
    let pooler = PgBouncer::start(server).await;
    let mut config = config(&pooler.url(&direct));
    config.pooler = true;
    let world = World::with(config, direct).await;
    let owner = world.held.ownership();
    let (deals, notes) = (world.stream("deals").await, world.stream("notes").await);
    let crm = SinkName::from("crm");
    world.ledger.row(&crm, owner).await.unwrap();
    super::promises::shares_grants(&world.ledger).await;
    world.note_jit().await;
    for round in 0..30 {
        let (from, to) = (if round == 0 { "tail".to_owned() } else { round.to_string() }, (round + 1).to_string());
        let one = world.submit(page(&deals, &from, &to, events((0..5).map(|n| format!("d{round}-{n}"))))).await;
        let mut other = events((0..5).map(|n| format!("n{round}-{n}")));
        other.push(event(&format!("n{round}-nul\0"), "content"));
        let other = world.submit(page(&notes, &from, &to, other)).await;
        assert_eq!((one.await.unwrap(), other.await.unwrap()), (PageOutcome::Recorded, PageOutcome::Recorded));
        let head = world.ledger.bounds(Shard(0)).await.unwrap().head;
        world.ledger.keep_cursor(&crm, owner, head).await.unwrap();
    }
    assert_eq!(world.count("SELECT count(*) FROM noted WHERE jit <> 'off'").await, 0);
    assert!(world.count("SELECT count(*) FROM noted").await > 0);
    let head = Seq(300);
    assert_eq!(world.ledger.row(&crm, owner).await.unwrap().cursor, Some(head));
    assert_eq!(world.count("SELECT count(*) FROM rejected").await, 30);
    let batch = world.ledger.read(Shard(0), Seq(100), head, 1000, 1 << 20).await.unwrap();
    assert_eq!(batch.to(), head);
    assert_eq!(world.ledger.chain_at(Shard(0), head).await.unwrap(), ChainAt::Known(batch.chain()));
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    assert_eq!(world.count(left).await, 0, "no transaction is left open");
    let other = Lease::new(&world.ledger, Shard(0), Uuid::new_v4());
    assert!(other.try_acquire().await.unwrap().is_none(), "the lease is held");
    world.finish().await.unwrap();
}
