//! What is told of the door's requests, by account.

use std::time::Duration;

use metrics::{Counter, Histogram};

use crate::event::AccountName;
use crate::telemetry::metrics::values::PASSTHROUGH_OUTCOMES;
use crate::telemetry::metrics::{PASSTHROUGH_REQUESTS_TOTAL, PASSTHROUGH_SECONDS};

/// One account's, looked up in the registry once: to look a series up by its labels would cost each request more than to find
/// its answer.
#[derive(Debug)]
pub(super) struct Meter {
    /// As in [`PASSTHROUGH_OUTCOMES`].
    requests: [Counter; PASSTHROUGH_OUTCOMES.len()],
    seconds: Histogram,
}

impl Meter {
    pub(super) fn new(account: &AccountName) -> Self {
        let name = || account.to_string();
        Self {
            requests: PASSTHROUGH_OUTCOMES.map(
                |outcome| metrics::counter!(PASSTHROUGH_REQUESTS_TOTAL, "account" => name(), "outcome" => outcome),
            ),
            seconds: metrics::histogram!(PASSTHROUGH_SECONDS, "account" => name()),
        }
    }

    /// A request was answered, with one of the outcomes, after so long.
    pub(super) fn answered(&self, outcome: &str, after: Duration) {
        if let Some(at) = PASSTHROUGH_OUTCOMES.iter().position(|known| *known == outcome) {
            self.requests[at].increment(1);
        }
        self.seconds.record(after);
    }
}
