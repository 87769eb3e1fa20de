//! The sink's metrics: handles that are looked up once.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::event::ports::SinkState;
use crate::event::{Shard, SinkName};
use crate::telemetry::metrics as names;

/// The handles of one (sink, shard).
#[derive(Debug)]
pub(super) struct Meters {
    pub(super) delivered: Counter,
    pub(super) filtered: Counter,
    pub(super) skipped: Counter,
    pub(super) truncated: Counter,
    pub(super) dead_letters: Counter,
    pub(super) committed: Counter,
    pub(super) discarded: Counter,
    pub(super) transaction: Histogram,
    pub(super) end_to_end: Histogram,
    pub(super) lag_events: Gauge,
    pub(super) lag_seconds: Gauge,
    states: Vec<(SinkState, Gauge)>,
}

impl Meters {
    pub(super) fn new(sink: &SinkName, shard: Shard) -> Self {
        let (sink, shard) = (sink.to_string(), shard.to_string());
        let events = |outcome| counter!(names::SINK_EVENTS_TOTAL, "sink" => sink.clone(), "outcome" => outcome);
        let transactions =
            |outcome| counter!(names::KAFKA_TRANSACTIONS_TOTAL, "sink" => sink.clone(), "outcome" => outcome);
        let gauges = |name: &'static str| gauge!(name, "sink" => sink.clone(), "shard" => shard.clone());
        let state = |state: SinkState| {
            let labels = [("sink", sink.clone()), ("shard", shard.clone()), ("state", state.as_str().to_owned())];
            (state, gauge!(names::SINK_STATE, &labels))
        };
        Self {
            delivered: events("delivered"),
            filtered: events("filtered"),
            skipped: events("skipped"),
            truncated: events("truncated"),
            dead_letters: events("dead-letter"),
            committed: transactions("committed"),
            discarded: transactions("discarded"),
            transaction: histogram!(names::KAFKA_TRANSACTION_SECONDS, "sink" => sink.clone()),
            end_to_end: histogram!(names::END_TO_END_SECONDS, "sink" => sink.clone()),
            lag_events: gauges(names::SINK_LAG_EVENTS),
            lag_seconds: gauges(names::SINK_LAG_SECONDS),
            states: SinkState::ALL.into_iter().map(state).collect(),
        }
    }

    pub(super) fn state(&self, now: SinkState) {
        for (state, gauge) in &self.states {
            gauge.set(if *state == now { 1.0 } else { 0.0 });
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a lag of 2^53 events is not told exactly")]
    pub(super) fn lag(&self, events: u64, oldest: Duration) {
        self.lag_events.set(events as f64);
        self.lag_seconds.set(if events == 0 { 0.0 } else { oldest.as_secs_f64() });
    }
}
