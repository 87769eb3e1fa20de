//! The webhook sink: every event posted, signed, at least once, under one `webhook-id` for good.
//!
//! For each (sink, shard) one [`run`] takes events from its feed, attempts them in memory, and moves a cursor in the
//! ledger at most once a second. On the good path that cursor is all that is written. A row is written for a failure,
//! for what waits behind a failure of its record, and for an attempt that takes longer than a second; the cursor passes
//! an event only when it is delivered, filtered, or such a row (INV-10), so that a crash repeats at most what was under
//! way and one second of cursor.
//!
//! Where its rules look records up, an attempt begins with that (`load`): an event that must wait for an answer is a row
//! like one whose attempt failed, its record's lane waits, and other records go on.
//!
//! The parts: `pending` is the state and its bounds, `lanes` the order of one record's events (INV-12), `breaker` and
//! `pace` spare an endpoint that fails, `driver` is the loop around them, `attempts` are the workers that it gives them
//! to, `request`, `sign` and `response` are one attempt, `connection` is its way there, `guard` keeps it away from
//! addresses that it must not reach.

mod attempts;
mod breaker;
mod check;
mod config;
mod connection;
mod driver;
mod error;
mod failing;
mod guard;
mod lanes;
mod load;
mod meters;
mod outcome;
mod pace;
mod pending;
mod progress;
mod request;
mod response;
mod schedule;
mod sign;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use check::{Checked, check};
pub use config::{Endpoint, EndpointError, Texts};
pub use error::{CheckError, WebhookSinkError};
pub use guard::{Guard, Refused};
pub use request::{Message, Sender};
pub use response::{Answer, Failure, Verdict};
pub use sign::{KeyError, Keys, TOLERANCE_SECONDS, Verifying, id_of, new_secret, new_signing_key, webhook_id};

use crate::clock::Clock;
use crate::config::{SinkStart, WebhookConfig};
use crate::event::ports::{Feed, Ownership, Route, SinkBook};
use crate::event::{DeliveryBook, SinkName};
use crate::http::Transport;
use crate::sink::enrich::Enricher;

/// A webhook sink in one shard, with everything that it works with.
pub struct WebhookSink<F, B, D> {
    /// Its configured name.
    pub name: SinkName,
    /// The right to write to the shard.
    pub ownership: Ownership,
    /// Its configuration.
    pub config: WebhookConfig,
    /// Where it begins when the ledger does not know it yet.
    pub start: SinkStart,
    /// How long its dead letters are kept.
    pub dead_letter_retention: Duration,
    /// Its rules.
    pub route: Arc<dyn Route>,
    /// Who looks up what they want to know; none where that is nothing.
    pub enricher: Option<Arc<Enricher>>,
    /// The shard's events.
    pub feed: F,
    /// Its row in the ledger.
    pub book: B,
    /// Its deliveries in the ledger.
    pub deliveries: D,
    /// The wall clock.
    pub clock: Clock,
    /// Ends it. What is under way may finish within a few seconds; what does not is repeated by the next owner.
    pub stop: CancellationToken,
}

impl<F, B, D> fmt::Debug for WebhookSink<F, B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSink")
            .field("name", &self.name)
            .field("ownership", &self.ownership)
            .finish_non_exhaustive()
    }
}

/// Delivers until it is stopped or the ledger fails. Whatever the endpoint does, it goes on.
pub async fn run<F, B, D>(sink: WebhookSink<F, B, D>) -> Result<(), WebhookSinkError>
where
    F: Feed,
    B: SinkBook,
    D: DeliveryBook,
{
    Box::pin(driver::run(sink, None)).await
}

/// As [`run`], over a transport of one's own where there is one.
pub async fn run_on<F, B, D>(sink: WebhookSink<F, B, D>, transport: Option<Transport>) -> Result<(), WebhookSinkError>
where
    F: Feed,
    B: SinkBook,
    D: DeliveryBook,
{
    Box::pin(driver::run(sink, transport)).await
}
