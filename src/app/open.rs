//! Opening the ledger: the configured database, or a private one that lives as long as the program.

use std::time::Duration;

use tokio::time::Instant;

use super::run::RunDisposition;
use super::start::{OutOfReach, within_reach};
use crate::config::{Config, LedgerUrl, Secret, SecretError};
use crate::embedded::{EmbeddedError, EmbeddedPostgres};
use crate::ledger::{Ledger, OpenDisposition, OpenError};

/// An open ledger, with the database under it where that is ours.
#[derive(Debug)]
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    embedded: Option<EmbeddedPostgres>,
}

/// Why there is no ledger.
#[derive(Debug, thiserror::Error)]
pub enum OpenLedgerError {
    /// The URL's file cannot be read.
    #[error("ledger.url_file: {0}")]
    Secret(#[from] SecretError),
    /// The private database does not start.
    #[error("ledger.url = \"embedded\": {0}")]
    Embedded(#[from] EmbeddedError),
    /// The database answers, but does not hold a ledger that can be used.
    #[error(transparent)]
    Refused(OpenError),
    /// It does not answer in time.
    #[error(transparent)]
    OutOfReach(#[from] OutOfReach),
}

impl OpenLedgerError {
    /// What kind of trouble it is.
    #[must_use]
    pub const fn disposition(&self) -> RunDisposition {
        match self {
            Self::Secret(_) => RunDisposition::Configuration,
            Self::Refused(_) | Self::Embedded(_) | Self::OutOfReach(_) => RunDisposition::Environment,
        }
    }
}

impl Opened {
    /// Resolves when the private database ends on its own, with what it said; never where there is none.
    pub async fn database_ended(&mut self) -> String {
        match &mut self.embedded {
            Some(embedded) => embedded.ended().await.to_string(),
            None => std::future::pending().await,
        }
    }

    /// Closes the connections, then the private database.
    pub async fn close(self) {
        // A connection that does not say goodbye in time is cut by the end of the process.
        let _closed = tokio::time::timeout(Duration::from_secs(3), self.ledger.close()).await;
        if let Some(embedded) = self.embedded
            && let Err(error) = embedded.stop(Duration::from_secs(10)).await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the embedded PostgreSQL did not stop well");
        }
    }
}

/// Opens it, trying until `deadline`; makes or migrates it where that is configured.
pub async fn ledger(config: &Config, deadline: Instant) -> Result<Opened, OpenLedgerError> {
    let (url, embedded) = url(config).await?;
    let connect = || async {
        let url = url.read().map_err(OpenLedgerError::Secret)?;
        Ledger::connect(&config.ledger, &url, &config.deployment).await.map_err(OpenLedgerError::Refused)
    };
    let passing = |error: &OpenLedgerError| match error {
        OpenLedgerError::Refused(error) => error.disposition() == OpenDisposition::Retry,
        _ => false,
    };
    match within_reach("the ledger", deadline, passing, connect).await {
        Ok(ledger) => Ok(Opened { ledger, embedded }),
        Err(Ok(error)) => Err(error),
        Err(Err(out_of_reach)) => Err(out_of_reach.into()),
    }
}

/// Where the database is; a private one is started.
async fn url(config: &Config) -> Result<(Secret, Option<EmbeddedPostgres>), OpenLedgerError> {
    match &config.ledger.url {
        LedgerUrl::Postgres(url) => Ok((url.clone(), None)),
        LedgerUrl::Embedded => {
            let embedded = EmbeddedPostgres::start(&config.state_dir).await?;
            Ok((embedded.url(), Some(embedded)))
        }
    }
}
