//! What is to be asked for the next events, as many as may go together, and what of it is at hand.

use std::collections::HashMap;
use std::time::Duration;

use super::PIECE_BYTES;
use crate::event::ports::{Decision, Route, RouteError};
use crate::event::{Found, LookUp, LookUpError, LookUps, OnMiss, RecordKey, Recorded, Wanted};

/// Events that are completed together, at most: so long nothing else of the sink goes on.
pub(super) const PIECE_EVENTS: usize = 1_024;
/// Records that others are asked for together, at most: what is held of them is bounded by their size.
pub(super) const PIECE_RECORDS: usize = 128;

/// What the rules said before anything was looked up.
pub(super) enum Plan {
    Done(Result<Decision, RouteError>),
    LookUp(Box<LookUps>),
}

/// The records that are asked for, each once.
#[derive(Default)]
pub(super) struct Asked {
    records: HashMap<RecordKey, Record>,
    /// Those that are not at hand.
    open: usize,
    /// Bytes of those that are.
    held: usize,
}

/// How a record is asked for, by whoever asks for it most strictly.
pub(super) struct Record {
    pub(super) max_age: Duration,
    pub(super) waits: bool,
    pub(super) answer: Option<Result<Found, LookUpError>>,
}

/// What is to be asked for the first of these events, as many as may go together; at least one.
pub(super) fn plan(route: &dyn Route, events: &[Recorded], from: &dyn LookUp) -> (Vec<Plan>, Asked) {
    let (mut plans, mut asked) = (Vec::new(), Asked::default());
    for event in events.iter().take(PIECE_EVENTS) {
        match route.decide(event) {
            Ok(Decision::LookUp(lookups)) => {
                if !asked.add(&lookups, from) {
                    break;
                }
                plans.push(Plan::LookUp(lookups));
            }
            decided => plans.push(Plan::Done(decided)),
        }
    }
    (plans, asked)
}

impl Asked {
    /// Adds what an event wants to know, unless that is more than goes together; what is added first always does.
    pub(super) fn add(&mut self, lookups: &LookUps, from: &dyn LookUp) -> bool {
        let new = lookups.keys().filter(|(key, _)| !self.records.contains_key(key));
        let new: Vec<_> = new.map(|(key, wanted)| (key, Record::of(key, wanted, from))).collect();
        let held: usize = new.iter().map(|(_, record)| record.held()).sum();
        let open = new.iter().filter(|(_, record)| record.answer.is_none()).count();
        let fits = self.open + open <= PIECE_RECORDS && self.held + held <= PIECE_BYTES;
        if !fits && !self.is_empty() {
            return false;
        }
        (self.open, self.held) = (self.open + open, self.held + held);
        for (key, record) in new {
            self.records.entry(key.clone()).or_insert(record);
        }
        for (key, wanted) in lookups.keys() {
            if let Some(record) = self.records.get_mut(key) {
                record.also(key, wanted, from);
            }
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Those that somebody is to be asked for.
    pub(super) fn open(&mut self) -> impl Iterator<Item = (&RecordKey, &mut Record)> {
        self.records.iter_mut().filter(|(_, record)| record.answer.is_none())
    }

    pub(super) fn answer(&self, key: &RecordKey) -> Option<&Result<Found, LookUpError>> {
        self.records.get(key)?.answer.as_ref()
    }

    pub(super) fn answers(&self) -> impl Iterator<Item = &Result<Found, LookUpError>> {
        self.records.values().filter_map(|record| record.answer.as_ref())
    }
}

impl Record {
    fn of(key: &RecordKey, wanted: &Wanted, from: &dyn LookUp) -> Self {
        let answer = from.at_hand(key, wanted.max_age).map(Ok);
        Self { max_age: wanted.max_age, waits: wanted.on_miss == OnMiss::Wait, answer }
    }

    fn also(&mut self, key: &RecordKey, wanted: &Wanted, from: &dyn LookUp) {
        self.waits |= wanted.on_miss == OnMiss::Wait;
        if wanted.max_age < self.max_age {
            // What was at hand may be too old for this one.
            let answer = self.answer.take().and_then(|_| from.at_hand(key, wanted.max_age)).map(Ok);
            (self.max_age, self.answer) = (wanted.max_age, answer);
        }
    }

    fn held(&self) -> usize {
        let found = self.answer.as_ref().and_then(|answer| answer.as_ref().ok());
        found.and_then(|found| found.record.as_ref()).map_or(0, bytes::Bytes::len)
    }
}
