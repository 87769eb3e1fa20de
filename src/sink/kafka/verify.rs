//! The start-up verification (INV-8): what Kafka says (the cursor C and the ends of the partitions) against what the
//! ledger says (head, the copy W). Pure; the table of design.md section 5, row by row. Whether the ledger was rewound behind
//! the sink is asked before, in [`lost`](super::rehydrate::lost).

use std::sync::Arc;

use super::cluster::{PartitionEnd, TopicEnd};
use super::cursor::{Cursor, Tails};
use crate::event::ports::ShardBounds;
use crate::event::{LedgerId, Seq};

/// Kafka and the ledger disagree: going on could lose or repeat events, so the sink stops and names the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// No C, but W: the cursor is gone.
    #[error(
        "the ledger says that events up to {copy} are delivered, but there is no cursor in `{topic}`: the cursor topic \
         was lost, or this is another cluster. Point `brokers` back to the old cluster. If it is the right one, \
         `standpipe reconcile --sink NAME` makes the cursor anew from what the topics hold; `standpipe sinks seek` \
         chooses a place without looking ({copy} to go on where the ledger says)"
    )]
    CursorLost {
        /// The cursor topic.
        topic: String,
        /// The ledger's copy.
        copy: Seq,
    },
    /// C is of another ledger.
    #[error(
        "the cursor in `{topic}` belongs to the ledger {found}, but this is {ours}: the database or the cluster was \
         swapped, or one is a copy. Point both back, or give this deployment another name; `standpipe run --adopt` \
         takes the topic over for good"
    )]
    OtherLedger {
        /// The cursor topic.
        topic: String,
        /// Whose the cursor is.
        found: LedgerId,
        /// Which ledger this is.
        ours: LedgerId,
    },
    /// C + 1 is no longer kept.
    #[error(
        "the sink was away for longer than the ledger keeps events: it has taken {cursor}, the oldest kept is {oldest}. \
         `standpipe sinks seek NAME oldest` records the gap and goes on there"
    )]
    Expired {
        /// C.
        cursor: Seq,
        /// The oldest event kept.
        oldest: Seq,
    },
    /// The ledger was rewound, and a partition no longer holds all that the sink has delivered since.
    #[error(
        "the ledger was rewound behind the sink, and partition {partition} of `{topic}` no longer holds the message of \
         seq {seq} (retention or compaction removed it), so that what was delivered cannot be told. Bring the newer \
         database back, or go on with `standpipe sinks seek`: to `now` skips what the ledger has recorded since, to \
         an earlier seq repeats what was delivered"
    )]
    TailTooShort {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// What is missing.
        seq: Seq,
    },
    /// The ledger was rewound, and a message that the sink has delivered since cannot be read.
    #[error(
        "the ledger was rewound behind the sink, and the message at offset {offset} of partition {partition} of \
         `{topic}` does not tell which event it is: {why}. Bring the newer database back, or choose where to go on with \
         `standpipe sinks seek`, which may repeat or skip events"
    )]
    TailUnreadable {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// The message.
        offset: i64,
        /// What is wrong with it.
        why: String,
    },
    /// The ledger was rewound by more than can be read back.
    #[error(
        "the ledger was rewound behind the sink by more than can be read back: partition {partition} of `{topic}` holds \
         over {most} messages since. Bring a newer database back, or choose where to go on with \
         `standpipe sinks seek`, which may repeat or skip events"
    )]
    TailTooLong {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// How many can be.
        most: usize,
    },
    /// W is beyond C.
    #[error(
        "the ledger says that events up to {copy} are delivered, but the cursor in `{topic}` stands at {cursor}: Kafka \
         was rewound (a topic restored or recreated, an unclean leader election). `standpipe reconcile --sink NAME` \
         reads the topics, emits what is missing and nothing else, and goes on; `--dry-run` tells it before. \
         `standpipe sinks seek` chooses a place without looking, which may repeat or skip events"
    )]
    KafkaRewound {
        /// The cursor topic.
        topic: String,
        /// C.
        cursor: Seq,
        /// The ledger's copy.
        copy: Seq,
    },
    /// A topic of the cursor is gone.
    #[error(
        "the topic `{topic}` is gone, but the cursor says that it was written to: it was deleted, or this is another \
         cluster. Bring it back; or `standpipe reconcile --sink NAME` makes it anew with all that the ledger keeps of it; \
         or go on without what it held with `standpipe sinks seek` to the cursor, {cursor}"
    )]
    TopicLost {
        /// The topic.
        topic: Arc<str>,
        /// C.
        cursor: Seq,
    },
    /// A partition does not end as the cursor says.
    #[error(
        "partition {partition} of `{topic}` disagrees with the cursor: its last message of this shard should be \
         {expected}, but {found}: the topic was recreated, truncated or written to behind the cursor's back (a second \
         sink that delivers the same events there does that too). `standpipe reconcile --sink NAME` reads the topics, \
         emits what is missing and nothing else, and goes on; `--dry-run` tells it before. `standpipe sinks seek` chooses \
         a place without looking"
    )]
    TailDisagrees {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: usize,
        /// What the cursor says.
        expected: Seq,
        /// What was found, in words.
        found: String,
    },
    /// A topic's partition count is another one.
    #[error(
        "`{topic}` now has {now} partitions and had {was}: keys land elsewhere from here on, so the order of a record's \
         events holds only from now. When its consumers are ready for that, `standpipe sinks seek` to the cursor, \
         {cursor}, goes on with the new count"
    )]
    PartitionsChanged {
        /// The topic.
        topic: Arc<str>,
        /// Before.
        was: i32,
        /// Now.
        now: i32,
        /// C.
        cursor: Seq,
    },
    /// An operator's order to reconcile cannot be carried out.
    #[error("cannot reconcile: {why}")]
    Reconcile {
        /// Why not.
        why: String,
    },
    /// An operator's seek leads nowhere.
    #[error("cannot seek to {to}: {why}; give another place with `standpipe sinks seek`")]
    Seek {
        /// The asked place.
        to: Seq,
        /// Why not.
        why: String,
    },
}

/// How a start goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The sink has never run: note W = 0, then write the first cursor.
    FirstStart,
    /// It crashed in its first start, after the cursor: note W = 0 and go on.
    NoteAndGo,
    /// Go on.
    Go,
}

/// Compares the cursor partition with a ledger that has lost nothing of what the cursor stands for. `has_begun`: there was a
/// cursor, whatever W says.
pub(super) fn judge(
    topic: &str,
    has_begun: bool,
    cursor: Option<&Cursor>,
    copy: Option<Seq>,
    bounds: &ShardBounds,
) -> Result<Verdict, Stop> {
    let Some(cursor) = cursor else {
        let copied = copy.unwrap_or(Seq::ZERO);
        if copied > Seq::ZERO || has_begun {
            return Err(Stop::CursorLost { topic: topic.to_owned(), copy: copied });
        }
        return Ok(Verdict::FirstStart);
    };
    let at = cursor.seq;
    if cursor.ledger != bounds.ledger {
        return Err(Stop::OtherLedger { topic: topic.to_owned(), found: cursor.ledger, ours: bounds.ledger });
    }
    if let Some(copy) = copy.filter(|copy| *copy > at) {
        return Err(Stop::KafkaRewound { topic: topic.to_owned(), cursor: at, copy });
    }
    if at.next() < bounds.oldest {
        return Err(Stop::Expired { cursor: at, oldest: bounds.oldest });
    }
    Ok(if copy.is_none() { Verdict::NoteAndGo } else { Verdict::Go })
}

/// Compares the partition counts and the ends of partitions with what the cursor says of them.
pub(super) fn compare(cursor: &Cursor, ends: &[TopicEnd]) -> Result<(), Stop> {
    for end in ends {
        let Some(tail) = cursor.topics.get(&end.topic) else { continue };
        let Some(partitions) = &end.partitions else {
            return Err(Stop::TopicLost { topic: Arc::clone(&end.topic), cursor: cursor.seq });
        };
        let now = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        if now != tail.partitions() {
            let was = tail.partitions();
            return Err(Stop::PartitionsChanged { topic: Arc::clone(&end.topic), was, now, cursor: cursor.seq });
        }
        for (partition, (expected, found)) in tail.last.iter().zip(partitions).enumerate() {
            if let Some(found) = disagreement(*expected, found) {
                let topic = Arc::clone(&end.topic);
                return Err(Stop::TailDisagrees { topic, partition, expected: *expected, found });
            }
        }
    }
    Ok(())
}

/// What is wrong with the end of a partition. Another sink may write to the same topic, so a later message counts only
/// when it names ours as its predecessor; what retention has removed cannot be compared.
fn disagreement(expected: Seq, end: &PartitionEnd) -> Option<String> {
    let at = end.ours.iter().rposition(|(seq, _)| *seq == expected);
    if expected == Seq::ZERO {
        return None;
    }
    if at.is_none() {
        let all_was_read = end.from <= end.low;
        return match end.ours.last() {
            _ if !all_was_read || end.low > 0 => None,
            Some((last, _)) => Some(format!("it is {last}")),
            None => Some("there is none".to_owned()),
        };
    }
    let after = at.map_or(0, |at| at + 1);
    let follower = end.ours[after..].iter().find(|(seq, prev)| *prev == expected && *seq > expected);
    follower.map(|(seq, _)| format!("{seq} follows it"))
}

/// The tails that a sink has after an operator's seek: what the partitions really hold, with their present count.
pub(super) fn found_tails(known: &Tails, ends: &[TopicEnd]) -> Tails {
    let mut tails = Tails::new();
    for end in ends {
        let Some(partitions) = &end.partitions else { continue };
        let before = known.get(&end.topic);
        let last = partitions.iter().enumerate().map(|(partition, end)| {
            let kept = before.and_then(|tail| tail.last.get(partition)).copied().unwrap_or(Seq::ZERO);
            match end.ours.last() {
                Some((last, _)) => *last,
                None if end.from <= end.low && end.low == 0 => Seq::ZERO,
                None => kept,
            }
        });
        tails.insert(Arc::clone(&end.topic), super::cursor::Tail { last: last.collect() });
    }
    tails
}

#[cfg(test)]
mod tests;
