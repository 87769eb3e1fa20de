use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use time::OffsetDateTime;

use crate::event::StreamKey;
use crate::telemetry::metrics::{
    BLOCKED_SECONDS_TOTAL, SOURCE_AT_TOP, SOURCE_EVENTS_TOTAL, SOURCE_LAG_SECONDS, SOURCE_POLLS_TOTAL,
    SOURCE_RETENTION_HEADROOM_SECONDS, SOURCE_UNWANTED_TOTAL, add_seconds,
};
use crate::telemetry::series;

/// The metrics of one stream. Lag and headroom follow the clock, also while nothing can be polled.
#[derive(Debug)]
pub(super) struct Meter {
    pub polls: Polls,
    pub events: Counter,
    pub unwanted: Counter,
    lag: Gauge,
    headroom: Gauge,
    at_top: Gauge,
    history: Duration,
    place: Mutex<Place>,
}

#[derive(Debug)]
pub(super) struct Polls {
    pub page: Counter,
    pub empty: Counter,
    pub throttled: Counter,
    pub error: Counter,
    pub gone: Counter,
}

/// Where the committed position lies in the source's history.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The time up to which everything is committed, at least.
    anchor: OffsetDateTime,
    top: bool,
}

impl Meter {
    pub fn new(key: &StreamKey, history: Duration, anchor: OffsetDateTime, top: bool) -> Self {
        series::stream(key);
        let labels = [("account", key.account.to_string()), ("stream", key.stream.to_string())];
        let polls = |outcome: &'static str| {
            let [account, stream] = labels.clone();
            counter!(SOURCE_POLLS_TOTAL, &[account, stream, ("outcome", outcome.to_owned())])
        };
        Self {
            polls: Polls {
                page: polls("page"),
                empty: polls("empty"),
                throttled: polls("throttled"),
                error: polls("error"),
                gone: polls("gone"),
            },
            events: counter!(SOURCE_EVENTS_TOTAL, &labels),
            unwanted: counter!(SOURCE_UNWANTED_TOTAL, &labels),
            lag: gauge!(SOURCE_LAG_SECONDS, &labels),
            headroom: gauge!(SOURCE_RETENTION_HEADROOM_SECONDS, &labels),
            at_top: gauge!(SOURCE_AT_TOP, &labels),
            history,
            place: Mutex::new(Place { anchor, top }),
        }
    }

    /// A page was committed: everything up to `anchor` is recorded, where the page tells.
    pub fn committed(&self, anchor: Option<OffsetDateTime>, top: bool) {
        let mut place = self.place();
        place.top = top;
        if let Some(anchor) = anchor {
            place.anchor = anchor;
        }
    }

    /// Lag and headroom at `now`, written to their gauges too.
    pub fn tick(&self, now: OffsetDateTime) -> (bool, Duration, Duration) {
        let place = *self.place();
        let age = Duration::try_from(now - place.anchor).unwrap_or_default();
        let lag = if place.top { Duration::ZERO } else { age };
        let headroom = self.history.saturating_sub(age);
        self.lag.set(lag.as_secs_f64());
        self.headroom.set(headroom.as_secs_f64());
        self.at_top.set(f64::from(u8::from(place.top)));
        (place.top, lag, headroom)
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the time that this stage waited for room.
#[derive(Debug)]
pub(super) struct Blocked(Counter);

impl Blocked {
    pub fn new() -> Self {
        Self(counter!(BLOCKED_SECONDS_TOTAL, "stage" => "source"))
    }

    pub fn add(&self, waited: Duration) {
        add_seconds(&self.0, waited);
    }
}
