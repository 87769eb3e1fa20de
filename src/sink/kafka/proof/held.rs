//! What a sink's topics hold of one shard, as bits: for reconciling, which must know of every event whether it is there.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::super::config::{ADMIN_TIMEOUT, Settings, TRANSACTION_TIMEOUT};
use super::super::error::KafkaSinkError;
use super::super::look::Views;
use super::super::read::read_through;
use super::super::topics::{self, TopicConfig};
use super::seen::{STALLED, Seen};
use super::seqs::SeqSet;
use crate::event::{Chain, Seq};

/// One topic of it.
#[derive(Debug)]
pub struct TopicHeld {
    /// The topic.
    pub topic: Arc<str>,
    /// Which events are there, of those that were asked for.
    pub seqs: SeqSet,
    /// By partition; none where the topic does not exist.
    pub partitions: Option<Vec<PartitionHeld>>,
    /// How long the topic keeps what it is given.
    pub config: TopicConfig,
}

/// One partition of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionHeld {
    /// The offset of the oldest message kept.
    pub low: i64,
    /// The seq of the first message of this ledger and shard; 0 where there is none.
    pub first: Seq,
    /// The highest seq below those that were asked for; repairs do not count.
    pub before: Seq,
    /// The highest seq; repairs do not count.
    pub last: Seq,
    /// The highest seq of all, beyond those that were asked for too, and the chain at it; none where there is none.
    pub end: Option<(Seq, Chain)>,
}

impl PartitionHeld {
    /// Meets a message, and what its `standpipe-chain` says.
    pub fn meet(&mut self, seq: Seq, chain: &str) {
        if self.end.is_none_or(|(end, _)| end < seq) {
            self.end = chain.parse().ok().map(|chain| (seq, chain)).or(self.end);
        }
    }
}

/// Reads topics through. Blocks.
pub(in super::super) fn held(
    settings: &Settings,
    handle: &Handle,
    names: &[Arc<str>],
    (from, to): (Seq, Seq),
) -> Result<Vec<TopicHeld>, KafkaSinkError> {
    let views = Views::new(settings)?;
    let common = settings.common();
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        let mut topic = TopicHeld {
            topic: name.clone(),
            seqs: SeqSet::new(from, to),
            partitions: None,
            config: TopicConfig::default(),
        };
        if let Some(count) = views.committed.partitions(name, Instant::now() + ADMIN_TIMEOUT)? {
            topic.config = topics::describe(handle, &views, name)?.unwrap_or_default();
            let mut partitions = Vec::new();
            let mut wanted = Vec::new();
            for number in 0..count {
                let decided = views.decided(name, number, Instant::now() + 2 * TRANSACTION_TIMEOUT)?;
                wanted.push((number, decided.low, decided.high));
                partitions.push(PartitionHeld { low: decided.low, ..PartitionHeld::default() });
            }
            read_through(&views.committed, name, &wanted, STALLED, |message| {
                let Some(seen) = Seen::of(message, &common) else { return Ok(()) };
                let at = usize::try_from(seen.partition).unwrap_or(usize::MAX);
                let Some(partition) = partitions.get_mut(at) else { return Ok(()) };
                partition.meet(seen.seq, seen.chain);
                if seen.seq > to {
                    return Ok(());
                }
                topic.seqs.insert(seen.seq);
                if !seen.is_repair {
                    partition.last = partition.last.max(seen.seq);
                    if seen.seq < from {
                        partition.before = partition.before.max(seen.seq);
                    }
                    if partition.first == Seq::ZERO {
                        partition.first = seen.seq;
                    }
                }
                Ok(())
            })?;
            topic.partitions = Some(partitions);
        }
        all.push(topic);
    }
    Ok(all)
}
