use crate::event::Seq;
use crate::event::ports::{LedgerDisposition, LedgerError};

use super::config::EndpointError;

/// Why a webhook sink ends. What the endpoint or its configuration does is no reason: the sink says so in its row, keeps
/// its events and tries again, so that it stops nobody else (INV-15).
#[derive(Debug, thiserror::Error)]
pub enum WebhookSinkError {
    /// The ledger fails, or the shard is lost.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An attempt's task panicked.
    #[error("an attempt ended abnormally")]
    Attempt(#[from] tokio::task::JoinError),
}

impl WebhookSinkError {
    /// What the shard's owner does about it.
    #[must_use]
    pub const fn disposition(&self) -> LedgerDisposition {
        match self {
            Self::Ledger(error) => error.disposition(),
            Self::Attempt(_) => LedgerDisposition::Restart,
        }
    }
}

/// Why a sink stands still until a person or a file changes something.
#[derive(Debug, thiserror::Error)]
pub(super) enum Standing {
    /// The endpoint cannot be used as it is configured.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made")]
    Client(#[source] std::io::Error),
    /// The sink was away longer than events are kept.
    #[error(
        "the sink stands at {cursor}, and the oldest event kept is {oldest}: `standpipe sinks seek NAME oldest` goes on \
         from there and records the gap"
    )]
    Expired {
        /// Where the sink stands.
        cursor: Seq,
        /// What is kept.
        oldest: Seq,
    },
    /// The ledger holds less than the sink has taken.
    #[error(
        "the sink stands at {cursor}, and the newest event is {head}: the ledger was rewound without it; `standpipe sinks \
         seek NAME now` goes on from there"
    )]
    Ahead {
        /// Where the sink stands.
        cursor: Seq,
        /// Where the ledger ends.
        head: Seq,
    },
}

/// Why an endpoint cannot be reached, as `standpipe check` tells it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It cannot be used as it is configured.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The guard refuses it.
    #[error(transparent)]
    Refused(#[from] super::guard::Refused),
    /// Its name is not resolved, or nobody listens.
    #[error("{host} is out of reach: {why}")]
    Unreachable {
        /// The host, without the rest of the URL.
        host: String,
        /// What the system said.
        why: String,
    },
}
