//! Notices the same sequence of a record under another event id: recorded, because the id decides, and counted.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::event::Event;

/// Places for events, of 16 bytes. In memory only: what was before another event of its place, or before a restart, is not
/// noticed, which costs a count and never an event.
const PLACES: usize = 1 << 17;

/// The newest event of each place, which the sequence of its record decides: hashes of the sequence and of the event id,
/// zeros where nothing was seen. Memory that was never written to is none.
#[derive(Debug)]
pub(crate) struct Resequenced(Vec<[u64; 2]>);

impl Default for Resequenced {
    fn default() -> Self {
        Self(vec![[0; 2]; PLACES])
    }
}

impl Resequenced {
    /// Remembers a new event; true when its record's sequence was seen under another id, as far as is remembered.
    pub(crate) fn is_again(&mut self, event: &Event) -> bool {
        let Some(sequence) = &event.sequence else { return false };
        let mut hash = DefaultHasher::new();
        (&event.account, event.event_type.resource(), &event.record_id, sequence).hash(&mut hash);
        let (sequence, id) = (hash.finish(), event.dedupe_key.0.as_u64_pair().0);
        let place = usize::try_from(sequence % PLACES as u64).expect("less than the places");
        let before = std::mem::replace(&mut self.0[place], [sequence, id]);
        before[0] == sequence && before[1] != id
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::{AccountName, ContentHash, DedupeKey, EventType, StreamName};

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
    fn most_of_the_newest_are_remembered_and_the_oldest_make_place() {
        let mut seen = Resequenced::default();
        let mut all = |id: &str, records: std::ops::Range<usize>| {
            records
                .filter(|record| seen.is_again(&event(&format!("{id}{record}"), &record.to_string(), Some("1"))))
                .count()
        };
        assert_eq!(all("a", 0..PLACES), 0, "all are new");
        let newest = PLACES * 3 / 4..PLACES;
        let (asked, again) = (newest.len(), all("b", newest));
        assert!(again > asked * 2 / 3, "{again} of {asked}");
        all("c", PLACES..PLACES * 9);
        let first = all("d", 0..1_000);
        assert!(first < 10, "{first} of 1000");
    }
}
