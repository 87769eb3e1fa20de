use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many of the last arrivals are kept.
const LAST: usize = 8;

/// What has come out at the other end: written by the consumer and the receiver, read by the screen.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Counts>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Messages that a `read_committed` consumer saw, by topic.
    pub(super) topics: BTreeMap<String, u64>,
    /// Webhook requests whose signature fits.
    pub(super) verified: u64,
    /// Webhook requests whose signature does not.
    pub(super) refused: u64,
    /// The last arrivals in Kafka, oldest first.
    pub(super) last: VecDeque<Arrival>,
}

/// A message that arrived in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) event_type: String,
    pub(super) key: String,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

impl Counts {
    pub(super) fn in_kafka(&self) -> u64 {
        self.topics.values().sum()
    }
}

impl Seen {
    pub(super) fn look(&self) -> Counts {
        self.counts().clone()
    }

    pub(super) fn arrived(&self, arrival: Arrival) {
        let mut counts = self.counts();
        *counts.topics.entry(arrival.topic.clone()).or_default() += 1;
        if counts.last.len() == LAST {
            counts.last.pop_front();
        }
        counts.last.push_back(arrival);
    }

    pub(super) fn webhook(&self, verified: bool) {
        let mut counts = self.counts();
        if verified {
            counts.verified += 1;
        } else {
            counts.refused += 1;
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
