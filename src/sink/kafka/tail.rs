//! Reading back what a sink has delivered, from the ends of its partitions to a place where ledger and sink still agreed.
//!
//! Each message names the one before it in its partition (`standpipe-prev`), so that it can be told whether all of them
//! were found: what retention or compaction took away is noticed and stops the sink, because an event that is not known
//! to be delivered would be delivered again.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::message::{BorrowedMessage, Message as _};
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use super::client::Looker;
use super::cluster::Extent;
use super::config::{Settings, TRANSACTION_TIMEOUT};
use super::cursor::Tails;
use super::error::KafkaSinkError;
use super::look::{Decided, Views, link};
use super::message::Common;
use super::read::{header, read_through};
use super::verify::Stop;
use crate::event::ports::Delivered;
use crate::event::{DedupeKey, Seq};

/// How long reading everything back may take.
pub(super) const LIMIT: Duration = Duration::from_mins(10);
/// How many offsets the first look at a partition takes; each further one eight times as many.
const FIRST_STEP: i64 = 4_096;
/// Messages of one partition that are held at once, at most: about 100 MB.
const MOST: usize = 2_000_000;
/// Messages handed over at once.
const PART: usize = 5_000;

/// What one look at a partition found after a place.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// `standpipe-seq` and `standpipe-prev`, in order.
    links: Vec<(Seq, Seq)>,
    delivered: Vec<(Seq, Delivered)>,
}

/// Reads partitions whose last message lies after `after`; blocks.
pub(super) fn delivered(
    settings: &Settings,
    tails: &Tails,
    (after, upto): (Seq, Seq),
    extent: Extent,
    found: &mpsc::Sender<Vec<(Seq, Delivered)>>,
) -> Result<(), KafkaSinkError> {
    let views = Views::new(settings)?;
    for (topic, tail) in tails {
        for (partition, last) in tail.last.iter().enumerate().filter(|(_, last)| **last > after) {
            let number = i32::try_from(partition).unwrap_or(i32::MAX);
            let decided = views.decided(topic, number, Instant::now() + 2 * TRANSACTION_TIMEOUT)?;
            let wanted = Wanted { topic, partition: number, after, upto, last: *last, extent };
            let Found { delivered, .. } = wanted.read_back(&views.committed, settings, decided)?;
            for part in delivered.chunks(PART) {
                if found.blocking_send(part.to_vec()).is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// One partition, and which part of it.
struct Wanted<'t> {
    topic: &'t str,
    partition: i32,
    after: Seq,
    upto: Seq,
    last: Seq,
    extent: Extent,
}

impl Wanted<'_> {
    /// Looks further and further back until nothing is missing.
    fn read_back(&self, looker: &Looker, settings: &Settings, decided: Decided) -> Result<Found, KafkaSinkError> {
        if self.extent == Extent::Left {
            // Where something is lost, no link tells whether more is to come.
            return self.read(looker, settings, decided.low, decided.high);
        }
        let mut step = FIRST_STEP;
        loop {
            let from = decided.low.max(decided.high - step);
            let found = self.read(looker, settings, from, decided.high)?;
            let missing = missing(&found.links, (self.after, self.upto), self.last);
            match missing {
                None => return Ok(found),
                // From its very beginning nothing can be missing but what was never there.
                Some(_) if from <= 0 => return Ok(found),
                Some(seq) if from <= decided.low => {
                    return Err(Stop::TailTooShort { topic: self.topic.into(), partition: self.partition, seq }.into());
                }
                Some(_) => step = step.saturating_mul(8),
            }
        }
    }

    fn read(&self, looker: &Looker, settings: &Settings, from: i64, to: i64) -> Result<Found, KafkaSinkError> {
        let common = settings.common();
        let mut found = Found::default();
        read_through(looker, self.topic, &[(self.partition, from, to)], TRANSACTION_TIMEOUT, |message| {
            self.take(message, &common, &mut found)
        })?;
        Ok(found)
    }

    fn take(&self, message: &BorrowedMessage<'_>, common: &Common, found: &mut Found) -> Result<(), KafkaSinkError> {
        let Some((seq, prev)) = link(message, common) else { return Ok(()) };
        if seq <= self.after || seq > self.upto {
            return Ok(());
        }
        let unreadable = |why: &str| Stop::TailUnreadable {
            topic: self.topic.into(),
            partition: self.partition,
            offset: message.offset(),
            why: why.to_owned(),
        };
        let traceparent = header(message, "traceparent").ok_or_else(|| unreadable("it has no `traceparent`"))?;
        let key = key_of(traceparent).ok_or_else(|| unreadable("its `traceparent` is not ours"))?;
        let replay_of = match header(message, "standpipe-replay") {
            Some(of) => Seq(of.parse().map_err(|_| unreadable("its `standpipe-replay` is no seq"))?),
            None => Seq::ZERO,
        };
        if found.delivered.len() == MOST {
            return Err(Stop::TailTooLong { topic: self.topic.into(), partition: self.partition, most: MOST }.into());
        }
        // What a reconciled sink has emitted late was delivered too; it stands in nobody's order. It is behind messages that
        // came after it, so that who has read those has read it.
        if header(message, "standpipe-repair").is_none() {
            found.links.push((seq, prev));
        }
        found.delivered.push((seq, Delivered { key, replay_of }));
        Ok(())
    }
}

/// The trace id of a message is the first half of SHA-256(account ‖ 0 ‖ event id): what a dedupe key by id is.
fn key_of(traceparent: &str) -> Option<DedupeKey> {
    let mut parts = traceparent.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let ours = version == "00" && trace.len() == 32;
    ours.then(|| Uuid::try_parse(trace).ok().map(DedupeKey)).flatten()
}

/// The first message that a partition should hold after `after` and that was not found: each names the one before it.
fn missing(links: &[(Seq, Seq)], (after, upto): (Seq, Seq), last: Seq) -> Option<Seq> {
    let there: HashSet<Seq> = links.iter().map(|(seq, _)| *seq).collect();
    let needed = links.iter().map(|(_, prev)| *prev).chain([last]);
    needed.filter(|seq| *seq > after && *seq <= upto && !there.contains(seq)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_names_and_is_not_there_is_missing() {
        let links = |pairs: &[(u64, u64)]| -> Vec<(Seq, Seq)> {
            pairs.iter().map(|(seq, prev)| (Seq(*seq), Seq(*prev))).collect()
        };
        assert_eq!(missing(&links(&[(12, 9), (15, 12)]), (Seq(10), Seq(20)), Seq(15)), None);
        assert_eq!(missing(&links(&[(15, 12)]), (Seq(10), Seq(20)), Seq(15)), Some(Seq(12)), "its beginning is gone");
        assert_eq!(missing(&links(&[(12, 9)]), (Seq(10), Seq(20)), Seq(15)), Some(Seq(15)), "its end is gone");
        assert_eq!(missing(&links(&[]), (Seq(10), Seq(20)), Seq(10)), None, "nothing came after");
        let shared = links(&[(12, 9), (12, 8), (14, 12), (15, 12)]);
        assert_eq!(missing(&shared, (Seq(10), Seq(20)), Seq(15)), None, "two sinks that share a partition");
        let sought = links(&[(15, 12), (11, 15), (12, 11), (16, 12)]);
        assert_eq!(missing(&sought, (Seq(10), Seq(20)), Seq(16)), None, "an operator has sent some again");
    }

    #[test]
    fn the_key_of_a_message_is_the_dedupe_key_of_its_event() {
        let key = DedupeKey::by_id("acme", "e1");
        let traceparent = format!("00-{}-0123456789abcdef-01", key.0.simple());
        assert_eq!(key_of(&traceparent), Some(key));
        for other in ["", "00", "01-0123", "00-xyz-0-1", "00-0123-0-1"] {
            assert_eq!(key_of(other), None, "{other}");
        }
    }
}
