//! The way back of a sink whose ledger was rewound behind it (design.md section 5): PostgreSQL was restored from a backup,
//! or failed over to a standby that lacked commits.
//!
//! The ledger marks as void what this sink has used beyond its head, so that no seq means two events; the sink reads back
//! from its topics what it has delivered that the ledger may not know, and the ledger keeps that as skips. What was lost
//! comes again from the source under new seqs, and is passed where it is a skip. Where the ledger had gone on before it
//! was known to be rewound, it may hold events under seqs that the sink has used for others: those that the sink never
//! delivered are wished for again, as replays for this sink alone.
//!
//! Each step may be done again, so that a crash anywhere only starts it anew. The ledger may also be rewound once more, to
//! before it noted any of it: a sink's cursor tells of its last rehydration, and one that the ledger does not know of is gone
//! through again.

use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::cluster::{Cluster, CursorFound, Extent};
use super::cursor::{Cursor, Rehydrated, Tails};
use super::error::KafkaSinkError;
use super::place::{Placed, Start, write};
use super::verify::compare;
use crate::config::SinkStart;
use crate::event::ports::{
    ChainAt, Decision, Delivered, Feed, LedgerError, RehydrateBook, Rehydration, ShardBounds, SinkBook,
};
use crate::event::{Chain, Seq};
use crate::mutant::{Mutant, planted};

/// Parts of what was delivered that wait to be kept, at most.
const PARTS: usize = 4;

/// What a ledger that was rewound has lost of a sink.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    /// Whether it still has what the cursor stands for.
    pub(super) has_cursor: bool,
    /// The sink's last rehydration, where the ledger does not know of it: what the sink was to skip and to get again is lost
    /// with it.
    pub(super) rehydrated: Option<Rehydrated>,
}

/// What a sink's way back is found by.
pub(super) enum Trace<'t> {
    /// All that its cursor tells of: the topics must still hold it.
    Cursor(&'t Cursor),
    /// What is left in these topics, which Kafka has lost a part of.
    Topics(&'t Tails),
}

/// What the ledger has lost of a sink whose cursor is its own; none where that is nothing.
pub(super) async fn lost<B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    cursor: &Cursor,
    bounds: &ShardBounds,
) -> Result<Option<Lost>, LedgerError> {
    if cursor.ledger != bounds.ledger {
        return Ok(None);
    }
    let (sink, shard) = (start.sink, start.settings.shard);
    let has_cursor = if cursor.seq > bounds.head {
        false
    } else {
        match start.book.chain_at(shard, cursor.seq).await? {
            ChainAt::Known(chain) if chain == cursor.chain => {
                // Another sink that had come as far may have found it before this one: then the chain at the void's end is
                // this one's too, and what follows links to it. So it tells by which void it came there.
                start.book.crossing(shard, cursor.seq).await? == cursor.crossed || planted(Mutant::CrossingUnread)
            }
            ChainAt::Known(_) | ChainAt::Void | ChainAt::Beyond => false,
            ChainAt::Expired => return Ok(None),
        }
    };
    let rehydrated = match cursor.rehydrated {
        Some(last) if !start.book.is_rehydrated(sink, shard, last.seq, last.chain).await? => Some(last),
        _ => None,
    };
    let rehydrated = rehydrated.filter(|_| !planted(Mutant::RehydrationForgotten));
    Ok(Some(Lost { has_cursor, rehydrated }).filter(|lost| !lost.has_cursor || lost.rehydrated.is_some()))
}

/// Refuses while another instance, which this ledger may not know of, was writing a moment ago: it may be the original
/// that this ledger is a copy of.
pub(super) fn refuse_another<B>(start: &Start<'_, B>, found: &CursorFound) -> Result<(), KafkaSinkError> {
    let Some(Ok(cursor)) = &found.cursor else { return Ok(()) };
    let settings = start.settings;
    match start.runner.another_writer(settings.instance, cursor.owner, found.written_at, start.now) {
        Some((owner, seconds)) => {
            Err(KafkaSinkError::AnotherWrites { topic: settings.cursor_topic.clone(), owner, seconds })
        }
        None => Ok(()),
    }
}

/// Finds the sink's way back and puts its cursor there.
pub(super) async fn rehydrate<C: Cluster, F: Feed, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    cluster: &mut C,
    producer: C::Producer,
    feed: &mut F,
    (cursor, copy, lost): (Cursor, Option<Seq>, Lost),
    bounds: &ShardBounds,
) -> Result<Placed<C::Producer>, KafkaSinkError> {
    // Where the cursor is on the ledger's chain, so is all that was delivered since the last rehydration.
    let again = lost.rehydrated.filter(|_| lost.has_cursor);
    let place = again.map_or((cursor.seq, cursor.chain), |last| (last.seq, last.chain));
    let way = way_back(start, cluster, feed, place, (copy, lost.rehydrated), Trace::Cursor(&cursor), bounds).await?;
    let goes_on = if lost.has_cursor { cursor.seq } else { way.goes_on };
    let placed = write(start, producer, goes_on, (cursor.topics, Some(Rehydrated::by(&way)))).await?;
    tracing::warn!(sink = %start.sink, shard = %start.settings.shard, cursor = %goes_on, "the sink is rehydrated");
    Ok(placed)
}

/// Finds the way back of a sink that has come to a place which the ledger has lost, and has the ledger ready for it to go on.
/// The ledger's copy of its cursor, and a rehydration that it has lost, tell up to where both agreed.
pub(super) async fn way_back<C: Cluster, F: Feed, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    cluster: &mut C,
    feed: &mut F,
    (found, chain): (Seq, Chain),
    (copy, forgotten): (Option<Seq>, Option<Rehydrated>),
    trace: Trace<'_>,
    bounds: &ShardBounds,
) -> Result<Rehydration, KafkaSinkError> {
    let (sink, shard) = (start.sink, start.settings.shard);
    // Without a copy it was new to this ledger.
    let base = copy.unwrap_or(match start.begin {
        SinkStart::Oldest => Seq::ZERO,
        SinkStart::Now => bounds.head,
    });
    let base = forgotten.map_or(base, |last| base.min(last.base));
    let way = start.book.rewound(sink, start.owner, found, chain, base).await?;
    if way.goes_on > bounds.head && start.runner.recording.load(Ordering::SeqCst) {
        // The recorder and the feeds would hear of it with the next event that is recorded.
        let why = format!("its seqs up to {} are void now, since a sink has used them", way.goes_on);
        return Err(LedgerError::Moved { shard, why }.into());
    }
    tracing::warn!(
        %sink, %shard, came = %found, head = %bounds.head, agreed = %way.base, goes_on = %way.goes_on,
        "the ledger was rewound behind the sink: reading back what it has delivered, so that nothing of it is repeated"
    );
    fail::fail_point!("kafka::rehydrate_void");
    let (tails, extent) = match trace {
        Trace::Cursor(cursor) => {
            compare(cursor, &cluster.ends(&cursor.topics).await?)?;
            (&cursor.topics, Extent::Whole)
        }
        Trace::Topics(tails) => (tails, Extent::Left),
    };
    let skips = keep_delivered(start, cluster, (tails, extent), &way).await?;
    fail::fail_point!("kafka::rehydrate_skips");
    let reclaimed = reclaim(start, feed, way).await?;
    start.book.rehydrated(sink, start.owner, &way, skips).await?;
    fail::fail_point!("kafka::rehydrate_cursor");
    metrics::counter!(crate::telemetry::metrics::KAFKA_REHYDRATIONS_TOTAL, "sink" => sink.to_string()).increment(1);
    tracing::warn!(%sink, %shard, skips, reclaimed, "the ledger knows again what the sink has delivered");
    Ok(way)
}

/// Keeps as skips what the topics hold of the sink after the place where it and the ledger agreed. Gives their number.
async fn keep_delivered<C: Cluster, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    cluster: &mut C,
    (tails, extent): (&Tails, Extent),
    way: &Rehydration,
) -> Result<u64, KafkaSinkError> {
    let (parts, mut found) = mpsc::channel::<Vec<(Seq, Delivered)>>(PARTS);
    let keep = async move {
        let mut count = 0;
        while let Some(part) = found.recv().await {
            start.book.keep_skips(start.sink, start.owner, &part).await?;
            count += part.len() as u64;
        }
        Ok::<u64, KafkaSinkError>(count)
    };
    let (read, kept) = tokio::join!(cluster.delivered(tails, (way.base, way.found), extent, parts), keep);
    let kept = kept?;
    read.map(|()| kept)
}

/// Looks at what the ledger holds under seqs that the sink has used, and wishes again for what the sink takes and never
/// delivered. Gives the number of wishes.
async fn reclaim<F: Feed, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    feed: &mut F,
    mut way: Rehydration,
) -> Result<usize, KafkaSinkError> {
    let mut reclaimed = 0;
    while way.reclaimed_to < way.until {
        let batch = feed.next(way.reclaimed_to).await?;
        let events: Vec<_> = batch
            .events
            .iter()
            .filter(|event| event.seq > way.reclaimed_to && event.seq <= way.until)
            // One that cannot be decided becomes a dead letter when it comes again.
            .filter(|event| !matches!(start.rules.decide(event), Ok(Decision::Filtered)))
            .collect();
        let keys: Vec<Delivered> = events.iter().map(|event| Delivered::of(event)).collect();
        let known = start.book.skips(start.sink, start.settings.shard, &keys).await?;
        let wanted: Vec<Seq> =
            events.iter().zip(&keys).filter(|(_, key)| !known.contains(key)).map(|(event, _)| event.seq).collect();
        let to = batch.to().min(way.until);
        start.book.reclaim(start.sink, start.owner, &way, to, &wanted).await?;
        way.reclaimed_to = to;
        reclaimed += wanted.len();
    }
    Ok(reclaimed)
}
