//! How a verb reaches the ledger: directly, as the daemon does, without making or migrating anything.

use std::time::Duration;

use super::{Failure, Global, Ready};
use crate::config::{LedgerUrl, Secret};
use crate::embedded::EmbeddedPostgres;
use crate::event::Shard;
use crate::event::ports::LedgerError;
use crate::ledger::operator::OrderError;
use crate::ledger::{Ledger, OpenDisposition, OpenError};

/// An operator waits this long for the database.
const DEADLINE: Duration = Duration::from_secs(15);

/// Loads the configuration and attaches to its ledger.
pub(super) async fn attach(global: &Global) -> Result<(Ready, Ledger), Failure> {
    let ready = super::load(global)?;
    let config = &ready.loaded.config;
    let url = ledger_url(config).read().map_err(Failure::configuration)?;
    let ledger = tokio::time::timeout(DEADLINE, Ledger::attach(&config.ledger, &url, &config.deployment))
        .await
        .map_err(|_| Failure::environment(format!("the ledger did not answer within {DEADLINE:?}")))?
        .map_err(open_failure)?;
    Ok((ready, ledger))
}

/// The URL of the configured ledger; an embedded one is there while its daemon runs.
pub(super) fn ledger_url(config: &crate::config::Config) -> Secret {
    match &config.ledger.url {
        LedgerUrl::Postgres(url) => url.clone(),
        LedgerUrl::Embedded => EmbeddedPostgres::url_of(&config.state_dir),
    }
}

/// The exit code of a ledger that cannot be opened.
pub(super) fn open_failure(error: OpenError) -> Failure {
    match error.disposition() {
        OpenDisposition::Configuration => Failure::configuration(error),
        OpenDisposition::Retry | OpenDisposition::Environment => Failure::environment(error),
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Unavailable { .. } => Self::environment(error),
            LedgerError::Fenced { .. } | LedgerError::Moved { .. } | LedgerError::Refused { .. } => {
                Self::runtime(error)
            }
        }
    }
}

impl From<OrderError> for Failure {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Ledger(error) => error.into(),
            other => Self::runtime(other),
        }
    }
}

/// A sentence for when an order was given and no replica is there to carry it out.
pub(super) async fn when(ledger: &Ledger) -> Result<&'static str, Failure> {
    Ok(if ledger.owners().await?.is_empty() {
        "No replica runs now: it is carried out when one starts."
    } else {
        "The running replica carries it out within seconds."
    })
}

/// `--shard N`, where only one is meant.
pub(super) fn shards(ledger: &Ledger, only: Option<u16>) -> Result<Vec<Shard>, Failure> {
    let meant: Vec<Shard> = ledger.shards().filter(|shard| only.is_none_or(|only| shard.0 == only)).collect();
    match only {
        Some(only) if meant.is_empty() => Err(Failure::runtime(format!(
            "the ledger has no shard {only}; its shards are numbered from 0 to {}",
            ledger.shards().count().saturating_sub(1)
        ))),
        _ => Ok(meant),
    }
}
