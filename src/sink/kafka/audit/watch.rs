//! What the audit knows of the messages that it has met, and what it says of the next one. Pure, and bounded.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::super::proof::{Fault, Trail};
use crate::event::Seq;

/// Messages that are remembered to know a repetition, and events whose contents are: the last so many.
pub(super) const WINDOW: usize = 65_536;

/// Messages of a partition that are named and have not come, as far as they are remembered.
const MAX_AWAITED: usize = 1_000;

/// A message, as far as it is judged.
#[derive(Clone, Debug)]
pub(super) struct Light {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) seq: Seq,
    pub(super) prev: Seq,
    pub(super) is_repair: bool,
    /// The digest of what it says; none where a stub stands in for the event.
    pub(super) content: Option<u64>,
}

/// What is said of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is as it should be.
    Good,
    /// Its links are; what it says cannot be compared any more.
    Unjudged,
    /// It is not.
    Bad(Fault, String),
}

/// One partition.
#[derive(Debug)]
struct Followed {
    trail: Trail,
    /// The highest seq that links.
    highest: Seq,
    /// Predecessors that were named and have not come, the last so many.
    awaited: VecDeque<Seq>,
    /// Offsets below this one were there before: remembered, not judged.
    judged_from: i64,
    /// Whether the first message may name a predecessor that retention has removed.
    may_begin_anywhere: bool,
}

/// Everything that is remembered.
#[derive(Debug, Default)]
pub(super) struct Watch {
    partitions: HashMap<(Arc<str>, i32), Followed>,
    recent: HashSet<(Arc<str>, Seq)>,
    order: VecDeque<(Arc<str>, Seq)>,
    /// Digests of the ledger's events behind `before`, in order.
    contents: VecDeque<u64>,
    before: Seq,
}

impl Watch {
    /// Nothing is known of the events up to `before`.
    pub(super) fn behind(before: Seq) -> Self {
        Self { before, ..Self::default() }
    }

    /// Follows a partition whose last message of this sink is `last`.
    pub(super) fn follow(&mut self, topic: Arc<str>, partition: i32, last: Seq, judged_from: i64) {
        let followed = Followed {
            trail: Trail::behind(last),
            highest: last,
            awaited: VecDeque::new(),
            judged_from,
            may_begin_anywhere: false,
        };
        self.partitions.insert((topic, partition), followed);
    }

    /// Follows a partition that is new to the sink, from its first message on.
    pub(super) fn follow_new(&mut self, topic: Arc<str>, partition: i32, low: i64) {
        self.follow(topic.clone(), partition, Seq::ZERO, 0);
        if let Some(followed) = self.partitions.get_mut(&(topic, partition)) {
            followed.may_begin_anywhere = low > 0;
        }
    }

    /// The last event of the ledger that is known here.
    pub(super) fn known(&self) -> Seq {
        Seq(self.before.0 + self.contents.len() as u64)
    }

    /// Takes the next event of the ledger in.
    pub(super) fn learn(&mut self, content: u64) {
        if self.contents.len() == WINDOW {
            self.contents.pop_front();
            self.before = self.before.next();
        }
        self.contents.push_back(content);
    }

    /// Passes events that the ledger has lost: nothing is known of what their messages say.
    pub(super) fn pass(&mut self, to: Seq) {
        self.contents.clear();
        self.before = to;
    }

    /// Says what is to be said of the next message of its partition; none of one that was there before.
    pub(super) fn judge(&mut self, light: &Light) -> Option<Verdict> {
        let place = (light.topic.clone(), light.partition);
        let followed = self.partitions.get_mut(&place)?;
        let event = (light.topic.clone(), light.seq);
        let is_again = !self.recent.insert(event.clone());
        if !is_again {
            self.order.push_back(event);
            if self.order.len() > WINDOW
                && let Some(oldest) = self.order.pop_front()
            {
                self.recent.remove(&oldest);
            }
        }
        if light.offset < followed.judged_from {
            // What the cursor did not count yet carries the links on.
            if light.seq > followed.highest && !light.is_repair {
                followed.step(light);
            }
            return None;
        }
        if is_again {
            return Some(Verdict::Bad(Fault::Duplicate, "the same event stands in this topic before it".to_owned()));
        }
        if !light.is_repair
            && let Some((fault, why)) = followed.step(light)
        {
            return Some(Verdict::Bad(fault, why));
        }
        Some(self.compare(light))
    }

    fn compare(&self, light: &Light) -> Verdict {
        if light.seq > self.known() {
            return Verdict::Bad(Fault::Altered, "the ledger has no such event".to_owned());
        }
        let known = light.seq.0.checked_sub(self.before.0 + 1).and_then(|at| usize::try_from(at).ok());
        match (known.and_then(|at| self.contents.get(at)), light.content) {
            (Some(known), Some(content)) if *known == content => Verdict::Good,
            (Some(_), Some(_)) => Verdict::Bad(Fault::Altered, "it does not say what the ledger says".to_owned()),
            // A stub says less than its event; `verify` compares it.
            (Some(_), None) => Verdict::Good,
            (None, _) => Verdict::Unjudged,
        }
    }
}

impl Followed {
    fn step(&mut self, light: &Light) -> Option<(Fault, String)> {
        let first = std::mem::take(&mut self.may_begin_anywhere);
        let links = self.trail.step(light.seq, light.prev, light.offset) || first;
        self.trail.forget_hops();
        if let Some(at) = self.awaited.iter().position(|awaited| *awaited == light.seq) {
            self.awaited.remove(at);
            return Some((Fault::Reordered, "it comes after one that must follow it".to_owned()));
        }
        if links {
            self.highest = self.highest.max(light.seq);
            return None;
        }
        if light.seq <= self.highest {
            return Some((Fault::Reordered, format!("it comes after {}: late, or again", self.highest)));
        }
        if self.awaited.len() == MAX_AWAITED {
            self.awaited.pop_front();
        }
        self.awaited.push_back(light.prev);
        Some((Fault::Missing, format!("it names {} as the one before it, which was not there", light.prev)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn light(seq: u64, prev: u64, offset: i64) -> Light {
        Light {
            topic: "deals".into(),
            partition: 0,
            offset,
            seq: Seq(seq),
            prev: Seq(prev),
            is_repair: false,
            content: Some(seq),
        }
    }

    fn watch() -> Watch {
        let mut watch = Watch::behind(Seq(10));
        watch.follow("deals".into(), 0, Seq(10), 100);
        for seq in 11..=30 {
            watch.learn(seq);
        }
        watch
    }

    fn judged(watch: &mut Watch, light: &Light) -> Option<Fault> {
        match watch.judge(light) {
            Some(Verdict::Bad(fault, _)) => Some(fault),
            _ => None,
        }
    }

    #[test]
    fn what_links_and_says_what_the_ledger_says_is_good() {
        let mut watch = watch();
        assert_eq!(watch.judge(&light(10, 7, 99)), None, "it was there before");
        assert_eq!(watch.judge(&light(11, 10, 100)), Some(Verdict::Good));
        assert_eq!(watch.judge(&light(15, 11, 101)), Some(Verdict::Good));
        let stub = Light { content: None, ..light(16, 15, 102) };
        assert_eq!(watch.judge(&stub), Some(Verdict::Good));
    }

    #[test]
    fn each_defect_is_told_by_its_name_once() {
        let mut watch = watch();
        watch.judge(&light(10, 7, 99));
        watch.judge(&light(11, 10, 100));
        assert_eq!(judged(&mut watch, &light(11, 10, 101)), Some(Fault::Duplicate));
        assert_eq!(judged(&mut watch, &light(10, 7, 102)), Some(Fault::Duplicate), "of one that was there before");
        assert_eq!(judged(&mut watch, &light(14, 13, 103)), Some(Fault::Missing));
        assert_eq!(judged(&mut watch, &light(13, 11, 104)), Some(Fault::Reordered));
        let altered = Light { content: Some(7), ..light(15, 14, 105) };
        assert_eq!(judged(&mut watch, &altered), Some(Fault::Altered));
        assert_eq!(watch.judge(&light(16, 15, 106)), Some(Verdict::Good), "one defect is told once");
        assert_eq!(judged(&mut watch, &light(31, 16, 107)), Some(Fault::Altered), "the ledger has no such event");
        let repair = Light { is_repair: true, ..light(12, 11, 108) };
        assert_eq!(watch.judge(&repair), Some(Verdict::Good), "a repair is outside the chain");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut watch = Watch::behind(Seq::ZERO);
        watch.follow_new("deals".into(), 0, 5);
        for (offset, seq) in (5..).zip(7..WINDOW as u64 + 20) {
            let fault = judged(&mut watch, &light(seq, seq - 1, offset));
            assert_ne!(fault, Some(Fault::Missing), "the first one may name what retention removed");
            watch.learn(seq);
        }
        assert!(watch.recent.len() <= WINDOW && watch.order.len() <= WINDOW && watch.contents.len() == WINDOW);
        assert_eq!(watch.known(), Seq(WINDOW as u64 + 13));
    }
}
