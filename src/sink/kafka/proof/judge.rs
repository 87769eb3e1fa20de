//! What the messages of a sink's topics say, each judged as it is read, with nothing kept of those that are in order.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::topics::TopicConfig;
use super::expected::{Expected, digest};
use super::report::{Fault, Finding, Proof};
use super::seen::Seen;
use super::seqs::SeqSet;
use super::trail::Trail;
use crate::event::{Chain, Seq};

/// Messages that are looked at a second time, at most; more are counted as altered.
const MAX_SUSPECTS: usize = 10_000;

/// A topic while it is judged.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) seen: SeqSet,
    /// None where it does not exist.
    pub(super) partitions: Option<Vec<Partition>>,
    pub(super) config: TopicConfig,
}

/// A partition while it is judged.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) low: i64,
    pub(super) trail: Trail,
}

/// A message that does not say what the ledger says, or is a stub.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) seq: Seq,
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) id: String,
    pub(super) chain: String,
    pub(super) key: Vec<u8>,
    pub(super) value: Chain,
    pub(super) is_stub: bool,
}

#[derive(Debug)]
pub(super) struct Judge {
    pub(super) expected: Expected,
    pub(super) topics: HashMap<Arc<str>, Topic>,
    pub(super) suspects: Vec<Suspect>,
    pub(super) proof: Proof,
}

impl Topic {
    pub(super) fn new(name: Arc<str>, expected: &Expected) -> Self {
        let seen = SeqSet::new(expected.from, expected.to);
        Self { name, seen, partitions: None, config: TopicConfig::default() }
    }

    pub(super) fn partition(&self, number: i32) -> Option<&Partition> {
        self.partitions.as_ref()?.get(usize::try_from(number).ok()?)
    }

    /// Whether the beginning of a partition is gone and the event belongs there; or whether compaction may have taken
    /// it.
    pub(super) fn may_have_expired(&self, partition: i32, seq: Seq) -> bool {
        let cut = |partition: &Partition| partition.low > 0 && partition.trail.first().is_none_or(|first| seq < first);
        self.config.is_compacted() || self.partition(partition).is_some_and(cut)
    }
}

impl Judge {
    /// Judges one message; those beyond the range say nothing yet.
    pub(super) fn message(&mut self, name: &Arc<str>, seen: &Seen<'_>) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        let Some(partition) =
            topic.partitions.as_mut().and_then(|all| all.get_mut(usize::try_from(seen.partition).ok()?))
        else {
            return;
        };
        let (expected, proof) = (&self.expected, &mut self.proof);
        if seen.seq > expected.to {
            return;
        }
        let finding = |fault, why| Finding {
            fault,
            topic: name.to_string(),
            partition: Some(seen.partition),
            offset: Some(seen.offset),
            seq: seen.seq,
            why,
        };
        let is_judged = seen.seq >= expected.from;
        if is_judged && !topic.seen.insert(seen.seq) {
            proof.found(finding(Fault::Duplicate, "the same event stands in this topic before it".to_owned()));
            return;
        }
        if seen.is_repair {
            partition.trail.mend(seen.seq);
        } else {
            partition.trail.step(seen.seq, seen.prev, seen.offset);
        }
        if !is_judged {
            return;
        }
        let is_ours = !expected.is_ruled(seen.seq) || expected.topic(seen.seq) == Some(name);
        let agrees = expected
            .agrees(seen.seq, seen.id, seen.chain, &seen.event())
            .map(|content| content && (expected.topic(seen.seq) != Some(name) || expected.has_key(seen.seq, seen.key)));
        match agrees {
            None => proof.unknown += 1,
            Some(true) if is_ours => {
                proof.delivered += 1;
                proof.replays += u64::from(seen.is_replay);
                proof.repairs += u64::from(seen.is_repair);
            }
            Some(true) => proof.others += 1,
            Some(false) if self.suspects.len() < MAX_SUSPECTS => self.suspects.push(Suspect {
                seq: seen.seq,
                topic: name.clone(),
                partition: seen.partition,
                offset: seen.offset,
                id: seen.id.to_owned(),
                chain: seen.chain.to_owned(),
                key: seen.key.to_vec(),
                value: digest(&seen.event()),
                is_stub: seen.is_stub,
            }),
            Some(false) if expected.is_reused(seen.seq) => proof.unknown += 1,
            Some(false) => proof.found(finding(Fault::Altered, "it does not say what the ledger says".to_owned())),
        }
    }

    /// What the hops of the partitions mean, once everything was read; gives the events that they miss.
    pub(super) fn hops(&mut self) -> Vec<(Arc<str>, i32, Seq)> {
        let mut missing = Vec::new();
        for topic in self.topics.values() {
            for (number, partition) in (0..).zip(topic.partitions.iter().flatten()) {
                for hop in partition.trail.hops().iter().filter(|hop| hop.seq >= self.expected.from && !hop.is_mended) {
                    // What precedes the first message that is kept is gone with good reason.
                    if hop.prev < self.expected.from || (!hop.is_late && topic.may_have_expired(number, hop.prev)) {
                        continue;
                    }
                    let (fault, why) = match (hop.is_late, topic.seen.contains(hop.prev)) {
                        (true, _) => (Fault::Reordered, format!("it stands before {}, which it must follow", hop.prev)),
                        (false, true) => (
                            Fault::Unlinked,
                            format!("it names {} as the one before it, which another one follows", hop.prev),
                        ),
                        (false, false) => {
                            missing.push((topic.name.clone(), number, hop.prev));
                            (Fault::Unlinked, format!("it names {} as the one before it, which is not there", hop.prev))
                        }
                    };
                    self.proof.found(Finding {
                        fault,
                        topic: topic.name.to_string(),
                        partition: Some(number),
                        offset: Some(hop.offset),
                        seq: hop.seq,
                        why,
                    });
                }
            }
        }
        missing
    }
}
