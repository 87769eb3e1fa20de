//! Where messages land. A partition's offsets only rise: a message that lands below what was there before fell into a
//! topic that was made anew, or whose end was lost (an unclean election). Nothing else tells while a producer lives: the
//! client knows topics by their names, and once the message is committed the topic's end agrees with the cursor again. So
//! it is found before the commit, and the next start compares the ends and stops.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The offsets behind what each partition was seen to hold, for one producer.
#[derive(Clone, Debug, Default)]
pub(super) struct Landed(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// By topic, then partition.
    ends: HashMap<Arc<str>, HashMap<i32, i64>>,
    fell: Option<String>,
}

impl Landed {
    /// A partition was seen to hold everything below `end`, or a message landed at `end - 1`. A client that was not told
    /// where a message landed says a negative offset.
    pub(super) fn saw(&self, topic: &str, partition: i32, end: i64) {
        let mut seen = self.seen();
        if !seen.ends.contains_key(topic) {
            seen.ends.insert(topic.into(), HashMap::new());
        }
        let known = seen.ends.get_mut(topic).expect("just put there").entry(partition).or_insert(end);
        if (1..*known).contains(&end) {
            let why = format!(
                "a message landed at {} of partition {partition} of `{topic}`, which reached to {} before: the topic was \
                 made anew, or lost its end",
                end - 1,
                *known - 1
            );
            seen.fell.get_or_insert(why);
        } else {
            *known = end.max(*known);
        }
    }

    /// What fell short since it was last asked.
    pub(super) fn take_fall(&self) -> Option<String> {
        self.seen().fell.take()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_below_what_was_there_is_told_and_nothing_else() {
        let landed = Landed::default();
        landed.saw("a", 0, 10);
        landed.saw("a", 1, 1);
        landed.saw("b", 0, 2);
        landed.saw("a", 0, 12);
        landed.saw("a", 0, 0);
        assert_eq!(landed.take_fall(), None);
        landed.saw("a", 0, 11);
        let fall = landed.take_fall().expect("it fell");
        assert!(fall.contains("at 10 of partition 0 of `a`") && fall.contains("reached to 11"), "{fall}");
        assert_eq!(landed.take_fall(), None);
    }
}
