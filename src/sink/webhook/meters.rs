//! The sink's metrics, looked up once.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::event::ports::SinkState;
use crate::event::{Shard, SinkName};
use crate::telemetry::metrics::{
    END_TO_END_SECONDS, SINK_EVENTS_TOTAL, SINK_LAG_EVENTS, SINK_LAG_SECONDS, SINK_STATE, WEBHOOK_ATTEMPTS_TOTAL,
    WEBHOOK_BREAKER_STATE, values,
};

#[derive(Debug)]
pub struct Meters {
    sink: String,
    shard: String,
    attempts: Vec<(&'static str, Counter)>,
    pub delivered: Counter,
    pub filtered: Counter,
    pub dead_letter: Counter,
    pub lag_events: Gauge,
    pub lag_seconds: Gauge,
    pub end_to_end: Histogram,
    pub breaker: Gauge,
}

impl Meters {
    pub fn new(sink: &SinkName, shard: Shard) -> Self {
        let (sink, shard) = (sink.to_string(), shard.to_string());
        let outcome = |outcome: &'static str| counter!(SINK_EVENTS_TOTAL, "sink" => sink.clone(), "outcome" => outcome);
        let attempts = values::ATTEMPT_CLASSES
            .map(|class| (class, counter!(WEBHOOK_ATTEMPTS_TOTAL, "sink" => sink.clone(), "status_class" => class)));
        Self {
            attempts: attempts.into(),
            delivered: outcome("delivered"),
            filtered: outcome("filtered"),
            dead_letter: outcome("dead-letter"),
            lag_events: gauge!(SINK_LAG_EVENTS, "sink" => sink.clone(), "shard" => shard.clone()),
            lag_seconds: gauge!(SINK_LAG_SECONDS, "sink" => sink.clone(), "shard" => shard.clone()),
            end_to_end: histogram!(END_TO_END_SECONDS, "sink" => sink.clone()),
            breaker: gauge!(WEBHOOK_BREAKER_STATE, "sink" => sink.clone(), "shard" => shard.clone()),
            sink,
            shard,
        }
    }

    pub fn attempt(&self, class: &'static str) {
        if let Some((_, counter)) = self.attempts.iter().find(|(known, _)| *known == class) {
            counter.increment(1);
        }
    }

    pub fn state(&self, state: SinkState) {
        for known in SinkState::ALL {
            let series = gauge!(
                SINK_STATE,
                "sink" => self.sink.clone(), "shard" => self.shard.clone(), "state" => known.as_str()
            );
            series.set(f64::from(u8::from(known == state)));
        }
    }
}
