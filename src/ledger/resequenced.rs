//! Notices the same sequence of a record under another event id: recorded, because the id decides, and counted.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::event::{DedupeKey, Event};

/// How many of the newest events are remembered. In memory only: what came before them, or before a restart, is not
/// noticed, which costs a count and never an event.
const REMEMBERED: usize = 100_000;

#[derive(Debug, Default)]
pub(crate) struct Resequenced {
    seen: HashMap<u64, DedupeKey>,
    order: VecDeque<u64>,
}

impl Resequenced {
    /// Remembers a new event; true when its record's sequence was seen under another id.
    pub(crate) fn is_again(&mut self, event: &Event) -> bool {
        let Some(sequence) = &event.sequence else { return false };
        let mut hash = DefaultHasher::new();
        (&event.account, event.event_type.resource(), &event.record_id, sequence).hash(&mut hash);
        let place = hash.finish();
        if let Some(key) = self.seen.insert(place, event.dedupe_key) {
            return key != event.dedupe_key;
        }
        self.order.push_back(place);
        if self.order.len() > REMEMBERED {
            self.order.pop_front().and_then(|oldest| self.seen.remove(&oldest));
        }
        false
    }
}
