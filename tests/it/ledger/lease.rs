//! The lease: liveness, and the hand-over.

use std::time::Duration;

use standpipe::event::Shard;
use standpipe::event::ports::LedgerError;
use standpipe::ledger::Lease;
use tokio::time::Instant;
use uuid::Uuid;

use super::world::{SOON, config, open};
use crate::support::postgres::Postgres;
use crate::support::wait::hold;

const SHARD: Shard = Shard(0);

#[tokio::test]
async fn one_instance_owns_a_shard_and_hands_it_over_at_once() {
    let url = Postgres::shared().await.database().await;
    let ledger = open(&config(&url)).await;
    let (one, other) = (Lease::new(&ledger, SHARD, Uuid::new_v4()), Lease::new(&ledger, SHARD, Uuid::new_v4()));
    let held = one.try_acquire().await.unwrap().expect("nobody has it");
    assert!(other.try_acquire().await.unwrap().is_none(), "it is taken");
    // The same instance, after a crash: at once, under a new epoch.
    let again = one.try_acquire().await.unwrap().expect("its own lease");
    assert!(again.ownership().epoch > held.ownership().epoch);
    again.release().await.unwrap();
    let handed = tokio::time::timeout(SOON, other.acquire()).await.unwrap();
    assert!(one.try_acquire().await.unwrap().is_none());
    // An epoch that is over releases nothing.
    held.release().await.unwrap();
    assert!(one.try_acquire().await.unwrap().is_none());
    handed.release().await.unwrap();
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_passes_on_and_its_holder_stops_before() {
    let url = Postgres::shared().await.database().await;
    let mut config = config(&url);
    config.lease_ttl = Duration::from_secs(3);
    let ledger = open(&config).await;
    let (one, other) = (Lease::new(&ledger, SHARD, Uuid::new_v4()), Lease::new(&ledger, SHARD, Uuid::new_v4()));
    let mut held = one.try_acquire().await.unwrap().unwrap();
    let silent = Instant::now();
    let taken = tokio::time::timeout(SOON, other.acquire()).await.unwrap();
    assert!(silent.elapsed() > Duration::from_millis(2500), "not before its time");
    assert!(silent.elapsed() < Duration::from_secs(8), "within TTL + 5 s");
    // The revived holder finds out at once, and does no harm.
    let lost = tokio::time::timeout(SOON, held.hold()).await.unwrap();
    assert!(matches!(lost, LedgerError::Fenced { .. } | LedgerError::Unavailable { .. }), "{lost}");
    assert!(taken.ownership().epoch > held.ownership().epoch);
}

/// PostgreSQL's clock was set back by a day while an owner that is gone held the lease.
#[tokio::test]
async fn a_lease_of_a_clock_that_was_set_back_is_over() {
    let url = Postgres::shared().await.database().await;
    let ledger = open(&config(&url)).await;
    let (one, other) = (Lease::new(&ledger, SHARD, Uuid::new_v4()), Lease::new(&ledger, SHARD, Uuid::new_v4()));
    let mut held = one.try_acquire().await.unwrap().unwrap();
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let until = async |away: &str| {
        let set = format!("UPDATE shards SET lease_until = clock_timestamp() + interval '{away}'");
        sqlx::query(sqlx::AssertSqlSafe(set)).execute(&pool).await.unwrap();
    };
    // As long as a replica with another configuration may hold one.
    until("100 s").await;
    assert!(other.try_acquire().await.unwrap().is_none());
    until("1 day").await;
    let taken = other.try_acquire().await.unwrap().expect("it is over");
    let lost = tokio::time::timeout(SOON, held.hold()).await.unwrap();
    assert!(matches!(lost, LedgerError::Fenced { .. }), "{lost}");
    assert!(taken.ownership().epoch > held.ownership().epoch);
}

#[tokio::test]
async fn a_held_lease_is_renewed() {
    let url = Postgres::shared().await.database().await;
    let mut config = config(&url);
    config.lease_ttl = Duration::from_secs(3);
    let ledger = open(&config).await;
    let (one, other) = (Lease::new(&ledger, SHARD, Uuid::new_v4()), Lease::new(&ledger, SHARD, Uuid::new_v4()));
    let mut held = one.try_acquire().await.unwrap().unwrap();
    tokio::select! {
        lost = held.hold() => panic!("lost: {lost}"),
        _ = other.acquire() => panic!("taken while it was held"),
        () = hold("nobody loses it", Duration::from_secs(6), async || true) => {}
    }
}
