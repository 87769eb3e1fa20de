use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use time::OffsetDateTime;

use crate::event::StreamKey;
use crate::telemetry::metrics::{
    BLOCKED_SECONDS_TOTAL, SOURCE_AT_TOP, SOURCE_EVENTS_TOTAL, SOURCE_LAG_SECONDS, SOURCE_POLLS_TOTAL,
    SOURCE_RETENTION_HEADROOM_SECONDS, SOURCE_UNWANTED_TOTAL,
};

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
        let labels = [("account", key.account.to_string()), ("stream", key.stream.to_string())];
        let polls = |outcome: &'static str| {
            let [account, stream] = labels.clone();
            let labels = [account, stream, ("outcome", outcome.to_owned())];
            let polls = counter!(SOURCE_POLLS_TOTAL, &labels);
            polls.increment(0);
            polls
        };
        let (events, unwanted) = (counter!(SOURCE_EVENTS_TOTAL, &labels), counter!(SOURCE_UNWANTED_TOTAL, &labels));
        events.increment(0);
        unwanted.increment(0);
        Self {
            polls: Polls {
                page: polls("page"),
                empty: polls("empty"),
                throttled: polls("throttled"),
                error: polls("error"),
                gone: polls("gone"),
            },
            events,
            unwanted,
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

/// Counts the seconds that this stage waited for room, fractions carried over.
#[derive(Debug)]
pub(super) struct Blocked {
    seconds: Counter,
    carried: Mutex<Duration>,
}

impl Blocked {
    pub fn new() -> Self {
        let seconds = counter!(BLOCKED_SECONDS_TOTAL, "stage" => "source");
        seconds.increment(0);
        Self { seconds, carried: Mutex::default() }
    }

    pub fn add(&self, waited: Duration) {
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        *carried += waited;
        let whole = carried.as_secs();
        self.seconds.increment(whole);
        *carried -= Duration::from_secs(whole);
    }
}
