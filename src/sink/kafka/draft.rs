//! The next transaction while it is being gathered: events as messages, what is filtered as taken, what cannot be
//! routed as a dead letter.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::cluster::{Cluster, TopicInfo, TopicKind, Transaction};
use super::config::Settings;
use super::cursor::Tail;
use super::error::KafkaSinkError;
use super::message::Outgoing;
use super::opening::refuse_again;
use super::partition::partition_of;
use super::place::Place;
use super::verify::Stop;
use crate::event::ports::{Crossing, Decision, Delivered, LedgerError, NewDeadLetter, Route};
use crate::event::{Batch, Recorded, Seq};
use crate::sink::enrich::Piece;

/// Bytes of a transaction, about, at most.
pub(super) const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Events that are passed by one transaction without a message, at most.
pub(super) const MAX_TAKEN: u64 = 50_000;
/// Longest reason of a dead letter, in bytes.
const MAX_REASON_BYTES: usize = 1024;

/// What is gathered on top of a place.
#[derive(Debug)]
pub(super) struct Draft {
    /// The place once this is committed.
    pub(super) place: Place,
    /// The place that it builds on.
    pub(super) after: Seq,
    pub(super) messages: Vec<Outgoing>,
    pub(super) letters: Vec<NewDeadLetter>,
    pub(super) bytes: usize,
    pub(super) filtered: u64,
    /// Delivered before the ledger lost them.
    pub(super) skipped: u64,
    pub(super) truncated: u64,
    /// Whether one of the messages is the sink's first to its partition.
    pub(super) opens: bool,
    /// When the first message came in.
    pub(super) since: Option<Instant>,
    /// When the oldest event of it was recorded.
    pub(super) oldest: Option<OffsetDateTime>,
}

/// What the sink knows of its topics, and which events the broker has refused for their size.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) topics: HashMap<Arc<str>, TopicInfo>,
    /// Their stubs are sent.
    pub(super) oversize: HashSet<Seq>,
    /// Even their stubs were refused.
    pub(super) hopeless: HashSet<Seq>,
}

/// What gathering needs beside the events.
pub(super) struct Means<'s, C> {
    pub(super) max_messages: usize,
    pub(super) rules: &'s dyn Route,
    /// What was looked up for them, where the rules want that: no event beyond it is taken.
    pub(super) piece: Option<&'s mut Piece>,
    pub(super) skips: &'s HashSet<Delivered>,
    /// Up to here a partition that the cursor knows no message of may hold one all the same.
    pub(super) opening: Seq,
    pub(super) known: &'s mut Known,
    pub(super) cluster: &'s mut C,
    pub(super) settings: &'s Settings,
}

impl Known {
    /// Looks at topics that a sink will meet again: one by one, each would cost its first transaction three requests.
    pub(super) async fn meet<C: Cluster>(
        &mut self,
        cluster: &mut C,
        topics: Vec<Arc<str>>,
    ) -> Result<(), KafkaSinkError> {
        self.topics.clear();
        let infos = cluster.topics(&topics).await?;
        fits(cluster)?;
        self.topics = topics.into_iter().zip(infos).filter_map(|(topic, info)| Some((topic, info?))).collect();
        Ok(())
    }
}

/// Whether the present producer suits all topics that were met.
pub(super) fn fits(cluster: &impl Cluster) -> Result<(), KafkaSinkError> {
    if cluster.outgrown() {
        return Err(KafkaSinkError::Renewal { why: "a topic takes less than the producer puts into one batch" });
    }
    Ok(())
}

impl Draft {
    pub(super) fn new(place: Place) -> Self {
        let after = place.seq;
        Self {
            place,
            after,
            messages: Vec::new(),
            letters: Vec::new(),
            bytes: 0,
            filtered: 0,
            skipped: 0,
            truncated: 0,
            opens: false,
            since: None,
            oldest: None,
        }
    }

    /// How many events it passes.
    pub(super) fn taken(&self) -> u64 {
        self.place.seq.since(self.after)
    }

    /// Whether one more event may be taken.
    pub(super) fn has_room(&self, max_messages: usize) -> bool {
        self.messages.len() + self.letters.len() < max_messages && self.bytes < MAX_BYTES && self.taken() < MAX_TAKEN
    }

    /// The transaction, with the cursor that passes it; the draft is left without its messages.
    pub(super) fn transaction(&mut self, settings: &Settings) -> Transaction {
        let cursor = self.place.cursor(settings).to_json();
        Transaction { messages: std::mem::take(&mut self.messages), cursor }
    }

    /// Takes events of a batch from `at` on while there is room; gives how far it came.
    pub(super) async fn take<C: Cluster>(
        &mut self,
        batch: &Arc<Batch>,
        mut at: usize,
        means: &mut Means<'_, C>,
    ) -> Result<usize, KafkaSinkError> {
        if let Some(void) = batch.void.filter(|void| at == 0 && self.place.seq < void.to) {
            let Place { seq, chain, crossed, .. } = &mut self.place;
            *crossed = Some(Crossing::from((*seq, *chain), *crossed, void.to));
            (*seq, *chain) = (void.to, void.chain);
        }
        let end = means.piece.as_ref().map_or(batch.events.len(), |piece| piece.end);
        while let Some(event) = batch.events.get(at).filter(|_| at < end && self.has_room(means.max_messages)) {
            if event.seq != self.place.seq.next() {
                return Err(moved(batch, format!("event {} follows {}", event.seq, self.place.seq)));
            }
            self.oldest.get_or_insert(event.recorded_at);
            if !means.skips.is_empty() && means.skips.contains(&Delivered::of(event)) {
                self.skipped += 1;
                (self.place.seq, self.place.chain) = (event.seq, event.chain);
                at += 1;
                continue;
            }
            let completed = means.piece.as_mut().and_then(|piece| piece.take(event.seq));
            let (decision, body) = match completed {
                Some(completed) => (completed.decision, Some(completed.event.body)),
                None => (means.rules.decide(event), None),
            };
            match decision {
                Ok(Decision::Filtered) => self.filtered += 1,
                Ok(Decision::Deliver(address)) => {
                    let (topic, key, kind) = if event.is_control() {
                        (means.settings.control_topic.as_str().into(), event.account.to_string(), TopicKind::Control)
                    } else {
                        (address.topic, address.key, TopicKind::Data)
                    };
                    if let Some(why) = topic_problem(&topic) {
                        self.bury(event, why);
                    } else {
                        let info = topic_info(&topic, kind, means).await?;
                        let message = Outgoing::new(batch, at, topic, key, address.headers);
                        let mut message = body.into_iter().fold(message, Outgoing::with_body);
                        message.partition = partition_of(message.key.as_bytes(), info.partitions);
                        let (tails, opening) = (&self.place.tails, means.opening);
                        refuse_again(means.cluster, &message, info.partitions, tails, opening).await?;
                        self.add(message, info, means.known)?;
                    }
                }
                Ok(Decision::LookUp(_)) => self.bury(event, "nobody looks up what its rules want to know".to_owned()),
                Err(error) => self.bury(event, error.to_string()),
            }
            (self.place.seq, self.place.chain) = (event.seq, event.chain);
            at += 1;
        }
        Ok(at)
    }

    fn add(&mut self, mut message: Outgoing, info: TopicInfo, known: &Known) -> Result<(), KafkaSinkError> {
        let seq = message.event().seq;
        if known.hopeless.contains(&seq) {
            let why = format!("the broker takes not even its stub: `{}` takes {} bytes", message.topic, info.max_bytes);
            self.bury(message.event(), why);
            return Ok(());
        }
        if message.size() > info.max_bytes || known.oversize.contains(&seq) {
            message.truncate();
            self.truncated += 1;
        }
        let tail = match self.place.tails.get_mut(&message.topic) {
            Some(tail) => tail,
            None => self.place.tails.entry(message.topic.clone()).or_insert_with(|| Tail::new(info.partitions)),
        };
        if tail.partitions() != info.partitions {
            let (was, now) = (tail.partitions(), info.partitions);
            return Err(Stop::PartitionsChanged { topic: message.topic, was, now, cursor: self.after }.into());
        }
        let partition = usize::try_from(message.partition).expect("a partition is never negative");
        message.prev = std::mem::replace(&mut tail.last[partition], seq);
        self.opens |= message.prev == Seq::ZERO;
        self.bytes += message.size();
        self.since.get_or_insert_with(Instant::now);
        self.messages.push(message);
        Ok(())
    }

    fn bury(&mut self, event: &Recorded, mut reason: String) {
        let mut end = reason.len().min(MAX_REASON_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        self.since.get_or_insert_with(Instant::now);
        self.letters.push(NewDeadLetter { seq: event.seq, reason, attempts: 1 });
    }
}

/// Where a batch goes on behind `place`: the chain must link there, else the ledger is another one (INV-8).
pub(super) fn entry(batch: &Batch, place: &Place) -> Result<usize, KafkaSinkError> {
    // Before a void the batch links at its beginning, behind it at the void's end.
    let (link, before) = match batch.void.filter(|_| place.seq != batch.after) {
        Some(void) => (void.to, void.chain),
        None => (batch.after, batch.chain_before),
    };
    let Some(at) = place.seq.0.checked_sub(link.0).and_then(|at| usize::try_from(at).ok()) else {
        return Err(moved(batch, format!("events behind {link} follow {}", place.seq)));
    };
    let chain = match at.checked_sub(1) {
        None => Some(before),
        Some(before) => batch.events.get(before).map(|event| event.chain),
    };
    if chain != Some(place.chain) {
        return Err(moved(batch, format!("the events behind {} do not link to its chain", place.seq)));
    }
    Ok(at)
}

/// The ledger is not what it was when the sink was verified: everything starts anew, and verifies again.
pub(super) fn moved(batch: &Batch, why: String) -> KafkaSinkError {
    KafkaSinkError::Ledger(LedgerError::Moved { shard: batch.shard, why })
}

async fn topic_info<C: Cluster>(
    topic: &Arc<str>,
    kind: TopicKind,
    means: &mut Means<'_, C>,
) -> Result<TopicInfo, KafkaSinkError> {
    if let Some(info) = means.known.topics.get(topic) {
        return Ok(*info);
    }
    let info = means.cluster.topic(topic, kind).await?;
    fits(means.cluster)?;
    means.known.topics.insert(topic.clone(), info);
    Ok(info)
}

/// Why Kafka would refuse a topic's name.
pub(super) fn topic_problem(topic: &str) -> Option<String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if topic.is_empty() || topic == "." || topic == ".." || topic.len() > 249 || !topic.bytes().all(legal) {
        return Some(format!("`{}` is not a legal topic name", topic.escape_debug()));
    }
    None
}
