//! What the topics hold of a history that the ledger has lost, where Kafka has lost something too and an operator has ordered
//! a sink reconciled: as where both were restored.
//!
//! The cursor may stand before all of it, so that only the topics tell; and the ledger may have recorded other events under
//! the same seqs, which by their seqs alone would seem to be delivered. The furthest that the ledger has not is gone back from
//! (see [`way_back`]), by what is left in the topics: what they hold is not delivered again, and what they have lost comes
//! again from the source.

use std::sync::Arc;

use super::cluster::Cluster;
use super::cursor::{Cursor, Tail, Tails};
use super::error::KafkaSinkError;
use super::place::Start;
use super::proof::{PartitionHeld, TopicHeld};
use super::rehydrate::{Lost, Trace, way_back};
use crate::event::ports::{ChainAt, Feed, RehydrateBook, Rehydration, ShardBounds, SinkBook};
use crate::event::{Chain, Seq};
use crate::mutant::{Mutant, planted};

/// Where the sink stands, as far as anybody knows.
pub(super) struct Known {
    pub(super) cursor: Option<Cursor>,
    /// The ledger's copy of it.
    pub(super) copy: Option<Seq>,
    /// What a ledger that was rewound has lost of it.
    pub(super) lost: Option<Lost>,
}

/// What topics hold of the events from a seq on, once the ledger knows again what the sink has delivered of what it had lost;
/// and by which way back.
pub(super) async fn look<C: Cluster, F: Feed, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    cluster: &mut C,
    feed: &mut F,
    known: &Known,
    (topics, from): (&[Arc<str>], Seq),
    bounds: &ShardBounds,
) -> Result<(Vec<TopicHeld>, Option<Rehydration>), KafkaSinkError> {
    let held = cluster.held(topics, (from, bounds.head)).await?;
    let ends = ends(&held);
    let gone_back = match stranger(start, known, &held).await? {
        Some(place) => {
            let forgotten = known.lost.and_then(|lost| lost.rehydrated);
            Some(way_back(start, cluster, feed, place, (known.copy, forgotten), Trace::Topics(&ends), bounds).await?)
        }
        None => None,
    };
    // The ledger may have come further meanwhile: by a void, or because it has recorded again what the topics hold.
    let back = gone_back.map_or(Seq::ZERO, |back| back.goes_on);
    let reach = ends.values().flat_map(|tail| &tail.last).copied().max().unwrap_or_default().max(back);
    if reach <= bounds.head {
        return Ok((held, gone_back));
    }
    Ok((cluster.held(topics, (from, reach)).await?, gone_back))
}

/// The furthest place of the sink in a history that the ledger has lost; none where it has lost nothing of it.
async fn stranger<B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    known: &Known,
    held: &[TopicHeld],
) -> Result<Option<(Seq, Chain)>, KafkaSinkError> {
    let shard = start.settings.shard;
    let cursor = known.cursor.as_ref();
    // Where the cursor is the ledger's, so is what lies before it; else the cursor is a place to go back from, or the one
    // where the rehydration began that the ledger has forgotten.
    let (sure, lost) = match known.lost {
        None => (cursor.map(|cursor| cursor.seq), None),
        Some(Lost { has_cursor: true, rehydrated }) => (None, rehydrated.map(|last| (last.seq, last.chain))),
        Some(_) => (None, cursor.map(|cursor| (cursor.seq, cursor.chain))),
    };
    let sure = sure.max(known.copy).unwrap_or_default();
    let ends = held.iter().flat_map(|topic| topic.partitions.iter().flatten()).filter_map(|partition| partition.end);
    let mut places: Vec<(Seq, Chain)> = ends.filter(|(seq, _)| *seq > sure).collect();
    places.sort_unstable_by_key(|(seq, _)| std::cmp::Reverse(*seq));
    places.dedup();
    for (seq, chain) in places.into_iter().filter(|(seq, _)| lost.is_none_or(|(lost, _)| *seq > lost)) {
        let is_ours = match start.book.chain_at(shard, seq).await? {
            // A void ends there with the chain of who came furthest, which need not be by way of the void.
            ChainAt::Known(ours) if ours == chain => {
                start.book.crossing(shard, seq).await?.is_none_or(|crossing| crossing.to != seq)
            }
            ChainAt::Expired => true,
            ChainAt::Known(_) | ChainAt::Void | ChainAt::Beyond => false,
        };
        if !is_ours && !planted(Mutant::StrangerUnread) {
            return Ok(Some((seq, chain)));
        }
    }
    Ok(lost)
}

/// What the topics end with.
fn ends(held: &[TopicHeld]) -> Tails {
    let topics = held.iter().filter_map(|topic| Some((topic.topic.clone(), topic.partitions.as_ref()?)));
    let last = |partition: &PartitionHeld| partition.end.map_or(Seq::ZERO, |(seq, _)| seq);
    topics.map(|(topic, partitions)| (topic, Tail { last: partitions.iter().map(last).collect() })).collect()
}
