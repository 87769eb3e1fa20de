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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::{AccountName, ContentHash, EventType, StreamName};

    fn event(id: &str, record: &str, sequence: Option<&str>) -> Event {
        Event {
            account: AccountName::from("acme"),
            stream: StreamName::from("deals"),
            event_type: EventType::from("deal.updated"),
            id: id.into(),
            record_id: record.into(),
            occurred_at: None,
            sequence: sequence.map(Into::into),
            dedupe_key: DedupeKey::by_id("acme", id),
            content_hash: ContentHash([0; 16]),
            body: Bytes::new(),
        }
    }

    #[test]
    fn a_sequence_of_a_record_is_noticed_under_another_id_alone() {
        let mut seen = Resequenced::default();
        let mut is_again = |id, record, sequence| seen.is_again(&event(id, record, sequence));
        assert!(!is_again("a", "7", Some("1")));
        assert!(!is_again("a", "7", Some("1")), "the same event");
        assert!(is_again("b", "7", Some("1")));
        assert!(!is_again("c", "8", Some("1")), "another record");
        assert!(!is_again("d", "7", Some("2")), "another sequence");
        assert!(!is_again("e", "7", None) && !is_again("f", "7", None), "no sequence");
    }

    #[test]
    fn its_memory_is_bounded() {
        let mut seen = Resequenced::default();
        for n in 0..=REMEMBERED {
            assert!(!seen.is_again(&event(&n.to_string(), &n.to_string(), Some("1"))));
        }
        assert_eq!((seen.seen.len(), seen.order.len()), (REMEMBERED, REMEMBERED));
    }
}
