//! Opening a ledger: its identity is checked before anything is written.

use standpipe::ledger::{Database, Ledger, OpenDisposition, OpenError, newest_schema};

use super::world::{config, open};
use crate::support::postgres::Postgres;

async fn url() -> String {
    Postgres::shared().await.database().await
}

fn secret(url: &str) -> secrecy::SecretString {
    url.to_owned().into()
}

async fn execute(url: &str, sql: &'static str) {
    use sqlx::Connection as _;
    sqlx::raw_sql(sql).execute(&mut sqlx::PgConnection::connect(url).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn two_replicas_that_start_together_make_one_ledger() {
    let url = url().await;
    let config = config(&url);
    let start = async || {
        loop {
            match Ledger::connect(&config, &secret(&url), "test").await {
                Ok(ledger) => return ledger.id(),
                // As `run` does within startup_timeout.
                Err(error) if error.disposition() == OpenDisposition::Retry => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let (one, other, third) = tokio::join!(start(), start(), start());
    assert_eq!((one, one), (other, third));
    assert_eq!(open(&config).await.id(), one, "and it stays that one");
}

#[tokio::test]
async fn a_ledger_that_does_not_fit_is_refused_with_the_way_out() {
    let url = url().await;
    let mut other = config(&url);
    other.migrate = false;
    let older = Ledger::connect(&other, &secret(&url), "test").await.unwrap_err();
    assert!(matches!(older, OpenError::Older { found: 0, .. }), "{older}");
    assert!(older.to_string().contains("standpipe migrate"));
    let database = Database::connect(&other, &secret(&url), "test").await.unwrap();
    assert_eq!(database.migrate().await.unwrap(), (0, newest_schema()));
    assert_eq!(database.migrate().await.unwrap(), (newest_schema(), newest_schema()), "again changes nothing");
    let absent = Ledger::attach(&other, &secret(&url), "test").await.unwrap_err();
    assert!(matches!(absent, OpenError::Absent), "{absent}");
    let made = Ledger::connect(&other, &secret(&url), "test").await.unwrap();
    assert_eq!(Ledger::attach(&other, &secret(&url), "test").await.unwrap().id(), made.id());
    let foreign = Ledger::connect(&other, &secret(&url), "prod").await.unwrap_err();
    assert!(matches!(foreign, OpenError::Deployment { .. }), "{foreign}");
    assert_eq!(foreign.disposition(), OpenDisposition::Configuration);
    other.shards = 2;
    let shards = Ledger::connect(&other, &secret(&url), "test").await.unwrap_err();
    assert!(matches!(shards, OpenError::Shards { stored: 1, configured: 2 }), "{shards}");
    other.shards = 1;
    execute(
        &url,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'of tomorrow', true, '', 0)",
    )
    .await;
    for migrate in [true, false] {
        other.migrate = migrate;
        let newer = Ledger::connect(&other, &secret(&url), "test").await.unwrap_err();
        assert!(matches!(newer, OpenError::Newer { found: 9999, .. }), "{newer}");
    }
}

#[tokio::test]
async fn what_is_no_database_is_said_without_its_secrets() {
    let config = config("unused");
    let wrong = Ledger::connect(&config, &secret("mysql://u:hunter2@h/d"), "test").await.unwrap_err();
    let nobody = "postgres://u:hunter2@127.0.0.1:1/d";
    let away = Ledger::connect(&config, &secret(nobody), "test").await.unwrap_err();
    assert!(matches!(wrong, OpenError::Url), "{wrong}");
    assert_eq!(away.disposition(), OpenDisposition::Retry);
    for error in [wrong, away] {
        assert!(!format!("{error:?} {error}").contains("hunter2"), "INV-16: {error:?}");
    }
}

#[tokio::test]
async fn accounts_spread_over_the_shards_and_stay_where_they_were_first_seen() {
    let url = url().await;
    let mut config = config(&url);
    config.shards = 3;
    let ledger = open(&config).await;
    let mut shards = Vec::new();
    for account in ["a", "b", "c", "d", "e", "f"] {
        shards.push(ledger.shard_of(&account.into()).await.unwrap().0);
    }
    let mut spread = shards.clone();
    spread.sort_unstable();
    assert_eq!(spread, [0, 0, 1, 1, 2, 2]);
    let again = open(&config).await;
    for (account, shard) in ["a", "b", "c", "d", "e", "f"].into_iter().zip(shards) {
        assert_eq!(again.shard_of(&account.into()).await.unwrap().0, shard);
    }
}
