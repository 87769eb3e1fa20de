use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::super::config::Settings;
use super::super::draft::topic_problem;
use crate::event::ports::{Decision, Route};
use crate::event::{Batch, Chain, Recorded, Seq};

/// Stands for a topic that only links can tell.
const OPEN: u32 = u32::MAX;

/// What the ledger says that Kafka must hold, between two seqs: 16 bytes an event.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) from: Seq,
    pub(super) to: Seq,
    /// By seq: half a digest of what the message says; 0 where the ledger does not keep the event.
    content: Vec<u64>,
    /// By seq: which of `topics`, counted from 1; 0 where the rules name none.
    place: Vec<u32>,
    /// By seq: a quarter of a digest of the key, where there is a place.
    keys: Vec<u32>,
    pub(super) topics: Vec<Arc<str>>,
    /// Events behind this one are judged by the rules; none where only links can be judged.
    pub(super) rules_after: Option<Seq>,
    /// Where the topics may hold what the ledger has lost, under seqs that it has given anew: first and last.
    pub(super) reused: Vec<(Seq, Seq)>,
    pub(super) filtered: u64,
    pub(super) dead_letters: u64,
}

/// Where the rules send one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Way {
    /// Nowhere: it is not for this sink.
    Filtered,
    /// Nowhere: the rules fail on it.
    DeadLetter,
    /// Where it goes hangs on what was looked up when it was delivered.
    Open,
    /// To a topic, under a key, with the headers of the configuration.
    To(Arc<str>, String, Vec<(Arc<str>, String)>),
}

/// What the sink does with an event, as its loop decides it.
pub(in super::super) fn way(rules: &dyn Route, settings: &Settings, event: &Recorded) -> Way {
    let address = match rules.decide(event) {
        Ok(Decision::Filtered) => return Way::Filtered,
        Ok(Decision::Deliver(address)) => address,
        Ok(Decision::LookUp(lookups)) => match lookups.address {
            Some(address) => address,
            None => return Way::Open,
        },
        Err(_) => return Way::DeadLetter,
    };
    if event.is_control() {
        Way::To(settings.control_topic.as_str().into(), event.account.to_string(), address.headers)
    } else if topic_problem(&address.topic).is_none() {
        Way::To(address.topic, address.key, address.headers)
    } else {
        Way::DeadLetter
    }
}

impl Expected {
    pub(super) fn new(from: Seq, to: Seq, rules_after: Option<Seq>, reused: Vec<(Seq, Seq)>) -> Self {
        let count = usize::try_from((to.0 + 1).saturating_sub(from.0)).unwrap_or(0);
        Self {
            from,
            to,
            content: vec![0; count],
            place: vec![0; count],
            keys: vec![0; count],
            topics: Vec::new(),
            rules_after,
            reused,
            filtered: 0,
            dead_letters: 0,
        }
    }

    /// Takes what the ledger holds of the range.
    pub(super) fn take(&mut self, batch: &Batch, rules: &dyn Route, settings: &Settings) {
        for event in &batch.events {
            let Some(at) = self.at(event.seq) else { continue };
            self.content[at] = content(&event.id, &event.chain.to_string(), &event.body);
            if !self.is_ruled(event.seq) {
                continue;
            }
            match way(rules, settings, event) {
                Way::Filtered => self.filtered += 1,
                Way::DeadLetter => self.dead_letters += 1,
                Way::Open => self.place[at] = OPEN,
                Way::To(topic, key, _) => {
                    self.place[at] = self.number(topic);
                    self.keys[at] = quarter(key.as_bytes());
                }
            }
        }
    }

    fn at(&self, seq: Seq) -> Option<usize> {
        let at = usize::try_from(seq.0.checked_sub(self.from.0)?).ok()?;
        (at < self.content.len()).then_some(at)
    }

    fn number(&mut self, topic: Arc<str>) -> u32 {
        let at = self.topics.iter().position(|known| *known == topic).unwrap_or_else(|| {
            self.topics.push(topic);
            self.topics.len() - 1
        });
        u32::try_from(at + 1).unwrap_or(0)
    }

    /// Whether the present rules are those by which the event was delivered, and tell where it went.
    pub(super) fn is_ruled(&self, seq: Seq) -> bool {
        self.rules_after.is_some_and(|after| seq > after) && self.at(seq).is_none_or(|at| self.place[at] != OPEN)
    }

    /// Whether what stands there may be of a history that the ledger has lost.
    pub(super) fn is_reused(&self, seq: Seq) -> bool {
        self.reused.iter().any(|(first, last)| *first <= seq && seq <= *last)
    }

    /// The topic that the rules name for an event.
    pub(super) fn topic(&self, seq: Seq) -> Option<&Arc<str>> {
        let number = usize::try_from(*self.place.get(self.at(seq)?)?).ok()?;
        self.topics.get(number.checked_sub(1)?)
    }

    /// Whether a message says what the ledger does; none where the ledger does not keep the event.
    pub(super) fn agrees(&self, seq: Seq, id: &str, chain: &str, value: &[u8]) -> Option<bool> {
        let known = *self.content.get(self.at(seq)?)?;
        (known != 0).then(|| known == content(id, chain, value))
    }

    /// Whether a message has the key that the rules give it; for those with a [`Expected::topic`].
    pub(super) fn has_key(&self, seq: Seq, key: &[u8]) -> bool {
        self.at(seq).is_some_and(|at| self.keys[at] == quarter(key))
    }

    /// Every event for which the rules name a topic.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, &Arc<str>)> {
        (self.from.0..).zip(&self.place).filter_map(|(seq, number)| {
            let at = usize::try_from(*number).ok()?.checked_sub(1)?;
            Some((Seq(seq), self.topics.get(at)?))
        })
    }
}

/// Half a digest of what a message says; never 0.
pub(in super::super) fn content(id: &str, chain: &str, value: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    for part in [id.as_bytes(), chain.as_bytes(), value] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let half = u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"));
    // 0 says that nothing is known.
    half.max(1)
}

fn quarter(key: &[u8]) -> u32 {
    let digest: [u8; 32] = Sha256::digest(key).into();
    u32::from_be_bytes(digest[..4].try_into().expect("four bytes"))
}

/// The digest of a value, as a finding compares it.
pub(super) fn digest(value: &[u8]) -> Chain {
    Chain(Sha256::digest(value).into())
}
