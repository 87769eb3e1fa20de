//! Reading the ends of partitions, backwards in steps, as a `read_committed` consumer sees them once everything below
//! the high watermark is decided (INV-8). Blocks; the caller stands on a thread of its own.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{ClientConfig, Offset};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::client::{Admin, Looker};
use super::cluster::{CursorFound, PartitionEnd, TopicEnd};
use super::config::{ADMIN_TIMEOUT, Isolation, Settings, TRANSACTION_TIMEOUT};
use super::cursor::{Cursor, Tails};
use super::error::KafkaSinkError;
use super::message::Common;
use super::read::{header, read_through};
use crate::event::Seq;
use crate::mutant::{Mutant, planted};

/// How many offsets the first look takes; each further one eight times as many.
const FIRST_STEP: i64 = 64;
/// How far back the end of an output partition is looked at, in offsets.
const FURTHEST: i64 = 32_768;

/// A topic, and the number of one of its partitions.
pub(super) type Partition = (Arc<str>, i32);

/// The offsets of a partition between which everything is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decided {
    pub(super) low: i64,
    pub(super) high: i64,
}

/// Two views of one cluster, and a client that administers it. All but the first are had where they are needed.
pub(super) struct Views {
    pub(super) committed: Looker,
    uncommitted: OnceCell<Looker>,
    admin: OnceCell<Admin>,
    /// Of those that were not needed yet.
    configs: [ClientConfig; 2],
}

impl Views {
    pub(super) fn new(settings: &Settings) -> Result<Self, KafkaSinkError> {
        Ok(Self {
            committed: Looker::new(settings, Isolation::Committed)?,
            uncommitted: OnceCell::new(),
            admin: OnceCell::new(),
            configs: [settings.consumer(Isolation::Uncommitted)?, settings.admin()?],
        })
    }

    fn uncommitted(&self) -> Result<&Looker, KafkaSinkError> {
        if self.uncommitted.get().is_none() {
            // It was empty, and nobody else has it.
            drop(self.uncommitted.set(Looker::of(&self.configs[0])?));
        }
        Ok(self.uncommitted.get().expect("set before"))
    }

    pub(super) fn admin(&self) -> Result<&Admin, KafkaSinkError> {
        if self.admin.get().is_none() {
            drop(self.admin.set(Admin::of(&self.configs[1])?));
        }
        Ok(self.admin.get().expect("set before"))
    }

    /// Waits until everything below the present high watermark is decided, for twice the transactions' timeout.
    pub(super) fn decided(&self, topic: &str, partition: i32, deadline: Instant) -> Result<Decided, KafkaSinkError> {
        let mut all = self.all_decided(&[(topic.into(), partition)], deadline)?;
        Ok(all.pop().expect("one answer for one partition"))
    }

    /// The same of many partitions, at the price of one.
    fn all_decided(&self, partitions: &[Partition], deadline: Instant) -> Result<Vec<Decided>, KafkaSinkError> {
        let seen = if planted(Mutant::LastStableOffset) { &self.committed } else { self.uncommitted()? };
        let lows = seen.offsets(partitions, Offset::Beginning)?;
        let highs = seen.offsets(partitions, Offset::End)?;
        loop {
            // For a read_committed client the end is the last stable offset.
            let stables = self.committed.offsets(partitions, Offset::End)?;
            let Some(open) = stables.iter().zip(&highs).position(|(stable, high)| stable < high) else {
                let decided = lows.iter().zip(&highs).map(|(low, high)| Decided { low: *low, high: *high });
                return Ok(decided.collect());
            };
            if Instant::now() >= deadline {
                let ((topic, partition), stable) = (&partitions[open], stables[open]);
                return Err(KafkaSinkError::Hanging { topic: topic.to_string(), partition: *partition, stable });
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// The last committed cursor of the shard.
pub(super) fn cursor(views: &Views, settings: &Settings) -> Result<CursorFound, KafkaSinkError> {
    let (topic, partition) = (settings.cursor_topic.as_str(), settings.cursor_partition());
    let decided = views.decided(topic, partition, Instant::now() + 2 * TRANSACTION_TIMEOUT)?;
    last_of(&views.committed, settings, decided)
}

/// The last cursor that is committed now, whatever else may be under way.
pub(super) fn cursor_now(committed: &Looker, settings: &Settings) -> Result<CursorFound, KafkaSinkError> {
    let (topic, partition) = (settings.cursor_topic.as_str(), settings.cursor_partition());
    let there = committed.partitions(topic, Instant::now() + ADMIN_TIMEOUT)?;
    if there.is_none_or(|count| count <= partition) {
        return Ok(CursorFound { low: 0, cursor: None, written_at: None });
    }
    let (low, high) = committed
        .consumer
        .fetch_watermarks(topic, partition, ADMIN_TIMEOUT)
        .map_err(|error| committed.failed(format!("asking for the watermarks of `{topic}`"), error))?;
    last_of(committed, settings, Decided { low, high })
}

fn last_of(committed: &Looker, settings: &Settings, decided: Decided) -> Result<CursorFound, KafkaSinkError> {
    let (topic, partition) = (settings.cursor_topic.as_str(), settings.cursor_partition());
    let mut step = FIRST_STEP;
    loop {
        let from = decided.low.max(decided.high - step);
        let (mut cursor, mut written_at) = (None, None);
        read_through(committed, topic, &[(partition, from, decided.high)], TRANSACTION_TIMEOUT, |message| {
            if let Some(value) = message.payload() {
                cursor = Some(Cursor::from_json(value));
                let millis = message.timestamp().to_millis().map(i128::from);
                written_at = millis.and_then(|at| OffsetDateTime::from_unix_timestamp_nanos(at * 1_000_000).ok());
            }
            Ok(())
        })?;
        if cursor.is_some() || from <= decided.low {
            return Ok(CursorFound { low: decided.low, cursor, written_at });
        }
        step *= 8;
    }
}

/// The ends of the topics, each partition read back to the seq that is expected last in it; those of which nothing is
/// expected are not read.
pub(super) fn ends(views: &Views, settings: &Settings, expected: &Tails) -> Result<Vec<TopicEnd>, KafkaSinkError> {
    let deadline = Instant::now() + 2 * TRANSACTION_TIMEOUT;
    let mut ends = BTreeMap::new();
    let mut open: Vec<(Arc<str>, usize)> = Vec::new();
    for (topic, tail) in expected {
        let Some(count) = views.committed.partitions(topic, deadline)? else {
            ends.insert(Arc::clone(topic), None);
            continue;
        };
        let partitions = vec![PartitionEnd::default(); usize::try_from(count).unwrap_or(0)];
        let written = tail.last.iter().take(partitions.len()).enumerate().filter(|(_, last)| **last > Seq::ZERO);
        open.extend(written.map(|(partition, _)| (Arc::clone(topic), partition)));
        ends.insert(Arc::clone(topic), Some(partitions));
    }
    let numbered =
        |(topic, partition): &(Arc<str>, usize)| (topic.clone(), i32::try_from(*partition).unwrap_or(i32::MAX));
    let asked: Vec<Partition> = open.iter().map(numbered).collect();
    for ((topic, partition), decided) in open.iter().zip(views.all_decided(&asked, deadline)?) {
        let Some(Some(partitions)) = ends.get_mut(topic) else { continue };
        partitions[*partition] =
            PartitionEnd { low: decided.low, from: decided.high, high: decided.high, ours: Vec::new() };
    }
    let mut step = FIRST_STEP;
    while !open.is_empty() && step <= FURTHEST && Instant::now() < deadline {
        look_back(&views.committed, settings, &open, step, &mut ends)?;
        open.retain(|(topic, partition)| {
            let Some(Some(partitions)) = ends.get(topic) else { return false };
            let end = &partitions[*partition];
            let last = expected[topic].last[*partition];
            end.from > end.low && !end.ours.iter().any(|(seq, _)| *seq == last)
        });
        step *= 8;
    }
    Ok(ends.into_iter().map(|(topic, partitions)| TopicEnd { topic, partitions }).collect())
}

fn look_back(
    looker: &Looker,
    settings: &Settings,
    open: &[(Arc<str>, usize)],
    step: i64,
    ends: &mut BTreeMap<Arc<str>, Option<Vec<PartitionEnd>>>,
) -> Result<(), KafkaSinkError> {
    let common = settings.common();
    let mut by_topic: BTreeMap<&Arc<str>, Vec<usize>> = BTreeMap::new();
    for (topic, partition) in open {
        by_topic.entry(topic).or_default().push(*partition);
    }
    // One topic at a time, because the client names only a partition where it meets an end.
    for (topic, numbers) in by_topic {
        let Some(Some(partitions)) = ends.get_mut(topic) else { continue };
        let mut wanted = Vec::with_capacity(numbers.len());
        for number in numbers {
            let end = &mut partitions[number];
            end.from = end.low.max(end.high - step);
            end.ours.clear();
            wanted.push((i32::try_from(number).unwrap_or(i32::MAX), end.from, end.high));
        }
        read_through(looker, topic, &wanted, TRANSACTION_TIMEOUT, |message| {
            let at = usize::try_from(message.partition()).unwrap_or(usize::MAX);
            if let (Some(end), Some(seqs)) = (partitions.get_mut(at), seqs(message, &common)) {
                end.ours.push(seqs);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// `standpipe-seq` and `standpipe-prev` of a message that this ledger's shard wrote in its order: a repair stands out of it
/// on purpose, and ends nothing.
fn seqs(message: &BorrowedMessage<'_>, common: &Common) -> Option<(Seq, Seq)> {
    link(message, common).filter(|_| header(message, "standpipe-repair").is_none())
}

/// The same, whether it is a repair or not.
pub(super) fn link(message: &BorrowedMessage<'_>, common: &Common) -> Option<(Seq, Seq)> {
    let value = |name: &str| header(message, name);
    if !common.are_of(value) {
        return None;
    }
    Some((Seq(value("standpipe-seq")?.parse().ok()?), Seq(value("standpipe-prev")?.parse().ok()?)))
}
