//! ① pull: one task for each stream of an account polls the vendor and gives pages to the ledger.
//!
//! A stream polls only when there is room for what may come (INV-11). One page is fetched ahead, from a position
//! that is not committed yet; it is *recorded* only by the ledger's compare-and-set (INV-3), in the order in which
//! it was submitted. Where the ledger holds the stream elsewhere (a seek, a pause, an older owner) everything on its
//! way is dropped and polled again from there: nothing in memory is ever needed to go on.
//!
//! No failure of the vendor ends a source. What an operator changes is seen within a second.

mod account;
mod backoff;
mod fetch;
mod gate;
mod meter;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod track;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{AccountConfig, StreamStart};
use crate::event::ports::{Dialect, LedgerDisposition, LedgerError, StreamBook, StreamRow, Submission, Witness};
use crate::event::{AccountName, Capacity, Position, StreamKey};
use crate::sell::Vendor;
use crate::sell::wire::Wanted;

pub use account::run;
pub use status::{AccountStatus, SourceStatus, StreamStatus, Trouble};

/// What the source of one account needs.
#[derive(Debug)]
pub struct SourceConfig<B> {
    /// The deployment's name; names subscriptions.
    pub deployment: String,
    /// The account.
    pub account: AccountName,
    /// What is configured for it.
    pub config: AccountConfig,
    /// Its way to the vendor, shared with everything else that calls for this account: its budget must outlive a
    /// source that starts anew.
    pub vendor: Vendor,
    /// What is kept about its streams.
    pub book: B,
    /// Where pages go.
    pub pages: mpsc::Sender<Submission>,
    /// Who hears of pages before they go there.
    pub witness: Option<Arc<dyn Witness>>,
    /// The room in front of the ledger.
    pub room: Capacity,
    /// Whether the ledger's backlog is full: nothing is polled then, loudly.
    pub backlog_full: watch::Receiver<bool>,
    /// What the time is.
    pub clock: Clock,
    /// Where it is told how things stand.
    pub status: SourceStatus,
    /// How long it waits for what.
    pub pace: Pace,
    /// Where its randomness comes from.
    pub seed: u64,
    /// Ends it.
    pub stop: CancellationToken,
}

/// The waits of a source that are not configured. Pairs are the first and the longest wait.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between looks at what an operator changed.
    pub look: Duration,
    /// After failures that pass.
    pub backoff: (Duration, Duration),
    /// After a refused credential.
    pub unauthorized: (Duration, Duration),
    /// After a 403.
    pub forbidden: (Duration, Duration),
    /// After a 404.
    pub missing: Duration,
    /// Between listings of the streams.
    pub listing: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        Self {
            look: second,
            backoff: (second / 2, minute),
            unauthorized: (second * 5, minute * 5),
            forbidden: (second * 5, minute * 15),
            missing: minute * 60,
            listing: minute * 60,
        }
    }
}

/// What ends a source. The vendor never does.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The shard's recorder is gone.
    #[error("the recorder of the shard is gone")]
    RecorderGone,
    /// The ledger cannot say where the streams are.
    #[error("the source cannot read its streams")]
    Ledger(#[from] LedgerError),
    /// A task of the source ended by panic.
    #[error("the task of {task} ended by itself: {why}")]
    Task {
        /// Which one.
        task: String,
        /// The panic.
        why: String,
    },
}

impl SourceError {
    /// What the owner of the source does.
    #[must_use]
    pub const fn disposition(&self) -> LedgerDisposition {
        match self {
            Self::RecorderGone | Self::Task { .. } => LedgerDisposition::Restart,
            Self::Ledger(error) => error.disposition(),
        }
    }
}

/// What the tasks of one account share.
#[derive(Debug)]
struct Shared<B> {
    deployment: String,
    account: AccountName,
    config: AccountConfig,
    wanted: Wanted,
    dialect: Dialect,
    vendor: Vendor,
    book: B,
    pages: mpsc::Sender<Submission>,
    witness: Option<Arc<dyn Witness>>,
    room: Capacity,
    clock: Clock,
    status: SourceStatus,
    gate: gate::Gate,
    blocked: meter::Blocked,
    pace: Pace,
    /// How many streams are polled.
    streams: AtomicUsize,
}

impl<B: StreamBook> Shared<B> {
    /// The stream as the ledger holds it now.
    async fn open(&self, key: &StreamKey) -> Result<StreamRow, LedgerError> {
        let start = match self.config.start {
            StreamStart::Tail => Position::tail(),
            StreamStart::Top => Position::top(),
        };
        self.book.open(key, &start).await
    }

    /// The pause between polls under which all streams together leave 30 % of the requests to others.
    fn fair_share(&self) -> Duration {
        let streams = self.streams.load(std::sync::atomic::Ordering::Relaxed);
        let limits = self.vendor.limits(self.dialect);
        let a_minute = f64::from(limits.per_minute).min(f64::from(limits.per_hour) / 60.0);
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        Duration::from_secs_f64((f64::from(streams) * 60.0 / (0.7 * a_minute)).min(3_600.0))
    }
}
