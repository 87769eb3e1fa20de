//! The start of a Kafka sink: the one way to a [`Placed`] producer, which is what the loop needs (INV-8).
//!
//! The order is the point. `init_transactions` first: from then on no older producer can commit. Only then the high
//! watermark of the cursor partition, and only when everything below it is decided the last cursor in it. Only then
//! the comparison with the ledger. Reading the cursor before the fence would miss what an older owner still commits.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::config::SinkStart;
use crate::event::ports::{
    ChainAt, Crossing, Feed, LedgerError, Ownership, RehydrateBook, Route, ShardBounds, SinkBook, SinkRow,
};
use crate::event::{Chain, Seq, SinkName};
use crate::mutant::{Mutant, planted};
use crate::sink::enrich::Enricher;

use super::cluster::{Cluster, Transaction, Transactions};
use super::config::Settings;
use super::cursor::{Cursor, Rehydrated, Tails};
use super::error::{Disposition, KafkaSinkError};
use super::reconcile::reconcile;
use super::rehydrate::{lost, refuse_another, rehydrate};
use super::runner::Runner;
use super::stranger::Known;
use super::verify::{Stop, Verdict, compare, found_tails, judge};

/// Where a sink stands in its shard: what its last committed cursor says.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) seq: Seq,
    pub(super) chain: Chain,
    pub(super) tails: Tails,
    /// The last void on its way.
    pub(super) crossed: Option<Crossing>,
    /// Its last rehydration.
    pub(super) rehydrated: Option<Rehydrated>,
}

impl Place {
    /// What the sink's cursor says there.
    pub(super) fn cursor(&self, settings: &Settings) -> Cursor {
        let Self { seq, chain, tails, crossed, rehydrated } = self;
        Cursor::new(settings.ledger, settings.shard, *seq, *chain, tails.clone())
            .by(settings.instance)
            .crossed(*crossed)
            .rehydrated(*rehydrated)
    }
}

/// A fenced producer whose place is known and agrees with the ledger. Only [`place`] makes one.
#[derive(Debug)]
pub(super) struct Placed<P> {
    producer: P,
    place: Place,
}

impl<P> Placed<P> {
    pub(super) const fn seq(&self) -> Seq {
        self.place.seq
    }

    /// Where it has delivered before.
    pub(super) fn topics(&self) -> Vec<Arc<str>> {
        self.place.tails.keys().cloned().collect()
    }

    pub(super) fn into_parts(self) -> (P, Place) {
        (self.producer, self.place)
    }
}

/// What a start needs to know.
pub(super) struct Start<'s, B> {
    pub(super) settings: &'s Settings,
    pub(super) sink: &'s SinkName,
    pub(super) owner: Ownership,
    pub(super) begin: SinkStart,
    pub(super) rules: &'s dyn Route,
    pub(super) enricher: Option<&'s Enricher>,
    pub(super) runner: &'s Runner,
    /// By the wall clock.
    pub(super) now: OffsetDateTime,
    pub(super) book: &'s B,
}

/// Fences, reads the cursor, verifies it, and carries out an operator's seek.
pub(super) async fn place<C: Cluster, F: Feed, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    cluster: &mut C,
    feed: &mut F,
    row: &SinkRow,
) -> Result<Placed<C::Producer>, KafkaSinkError> {
    let settings = start.settings;
    look_first(start, cluster).await?;
    if !cluster.cursor_topic(false).await? {
        let copy = row.cursor.unwrap_or(Seq::ZERO);
        // A cluster that may be the wrong one gets no topic of ours.
        if row.has_begun() && row.seek.is_none() && row.reconcile.is_none() {
            return Err(Stop::CursorLost { topic: settings.cursor_topic.clone(), copy }.into());
        }
        cluster.cursor_topic(true).await?;
    }
    let early = if planted(Mutant::CursorBeforeInit) { Some(cluster.last_cursor().await?) } else { None };
    let producer = cluster.fence().await?;
    fail::fail_point!("kafka::after_init");
    let mut found = match early {
        None => cluster.read_cursor(&producer).await?,
        Some(early) => early,
    };
    fail::fail_point!("kafka::after_cursor");
    let bounds = start.book.bounds(settings.shard).await?;
    if planted(Mutant::CursorInLedgerOnly) {
        return adopt(start, producer, row, &bounds).await;
    }
    if let Some(to) = row.seek {
        return seek(start, cluster, producer, to, found.cursor.and_then(Result::ok), &bounds).await;
    }
    let lost = match &found.cursor {
        Some(Ok(cursor)) => lost(start, cursor, &bounds).await?,
        _ => None,
    };
    if lost.is_some() {
        refuse_another(start, &found)?;
    }
    let has_begun = found.cursor.is_some() || row.has_begun();
    if let Some(order) = row.reconcile.as_ref().filter(|_| has_begun) {
        let known = Known { cursor: found.cursor.and_then(Result::ok), copy: row.cursor, lost };
        let done = reconcile(start, cluster, producer, feed, known, order, &bounds).await;
        if done.as_ref().is_err_and(|error| error.disposition() == Disposition::Halt) {
            // It cannot be carried out: who orders it again has done something about the reason.
            start.book.reconciled(start.sink, start.owner, Seq::ZERO).await?;
        }
        return done.map(|(producer, place)| Placed { producer, place });
    }
    if row.reconcile.is_some() {
        start.book.reconciled(start.sink, start.owner, Seq::ZERO).await?;
    }
    if let Some(Ok(cursor)) = &found.cursor
        && cursor.ledger != bounds.ledger
        && start.runner.adopt
    {
        tracing::warn!(
            sink = %start.sink, shard = %settings.shard, of = %cursor.ledger,
            "the cursor of another ledger is taken over (--adopt)"
        );
        return adopt(start, producer, row, &bounds).await;
    }
    let cursor = found.cursor.take().transpose()?;
    let cursor = match (cursor, lost) {
        (Some(cursor), Some(lost)) => {
            return rehydrate(start, cluster, producer, feed, (cursor, row.cursor, lost), &bounds).await;
        }
        (cursor, _) => cursor,
    };
    // The offset is above 0 only by deletion: then there was a cursor that W had not followed yet.
    let has_begun = found.low > 0 || row.has_begun();
    match (judge(&settings.cursor_topic, has_begun, cursor.as_ref(), row.cursor, &bounds)?, cursor) {
        (Verdict::FirstStart, _) | (_, None) => first(start, producer, &bounds).await,
        (verdict, Some(cursor)) => {
            let ends = cluster.ends(&cursor.topics).await?;
            compare(&cursor, &ends)?;
            if verdict == Verdict::NoteAndGo {
                start.book.keep_cursor(start.sink, start.owner, Seq::ZERO).await?;
            }
            let Cursor { seq, chain, topics: tails, crossed, rehydrated, .. } = cursor;
            let place = Place { seq, chain, tails, crossed, rehydrated };
            Ok(Placed { producer, place })
        }
    }
}

/// Before anything is fenced: a ledger that is behind, or elsewhere, may be a copy beside a running original, whose
/// producers it must not take away.
async fn look_first<C: Cluster, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    cluster: &mut C,
) -> Result<(), KafkaSinkError> {
    if !start.runner.is_new() {
        return Ok(());
    }
    let found = cluster.last_cursor().await?;
    let Some(Ok(cursor)) = &found.cursor else { return Ok(()) };
    let bounds = start.book.bounds(start.settings.shard).await?;
    let suspect = start.runner.moved || lost(start, cursor, &bounds).await?.is_some();
    if suspect { refuse_another(start, &found) } else { Ok(()) }
}

/// Takes over the cursor topic of another ledger: from where this one says that the sink stood, else as a new one.
async fn adopt<P: Transactions, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    producer: P,
    row: &SinkRow,
    bounds: &ShardBounds,
) -> Result<Placed<P>, KafkaSinkError> {
    match row.cursor.filter(|copy| *copy > Seq::ZERO) {
        Some(copy) => write(start, producer, copy, (Tails::new(), None)).await,
        None => first(start, producer, bounds).await,
    }
}

/// The first start of a sink: W = 0 first, so that a cursor without W can only be a crash between the two.
async fn first<P: Transactions, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    producer: P,
    bounds: &ShardBounds,
) -> Result<Placed<P>, KafkaSinkError> {
    start.book.keep_cursor(start.sink, start.owner, Seq::ZERO).await?;
    fail::fail_point!("kafka::first_start");
    let seq = match start.begin {
        SinkStart::Now => bounds.head,
        SinkStart::Oldest => Seq(bounds.oldest.0.saturating_sub(1)),
    };
    write(start, producer, seq, (Tails::new(), None)).await
}

/// An operator's seek: the cursor is set in a transaction, then the ledger is told. A crash between the two carries it
/// out again, which changes nothing, because nothing is delivered before both are done.
async fn seek<C: Cluster, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    cluster: &mut C,
    producer: C::Producer,
    to: Seq,
    cursor: Option<Cursor>,
    bounds: &ShardBounds,
) -> Result<Placed<C::Producer>, KafkaSinkError> {
    let settings = start.settings;
    let passed = cursor.as_ref().map_or(Seq::ZERO, |cursor| cursor.seq).min(bounds.head);
    let rehydrated = cursor.as_ref().and_then(|cursor| cursor.rehydrated);
    let tails = match cursor {
        Some(cursor) if cursor.ledger != bounds.ledger => {
            let topic = settings.cursor_topic.clone();
            return Err(Stop::OtherLedger { topic, found: cursor.ledger, ours: bounds.ledger }.into());
        }
        Some(cursor) => found_tails(&cursor.topics, &cluster.ends(&cursor.topics).await?),
        None => Tails::new(),
    };
    if to > bounds.head {
        return Err(Stop::Seek { to, why: format!("the ledger ends at {}", bounds.head) }.into());
    }
    if to.next() < bounds.oldest {
        return Err(Stop::Seek { to, why: format!("the oldest event kept is {}", bounds.oldest) }.into());
    }
    // Before the cursor is back there, so that a crash leaves nothing that would be skipped against the operator's will.
    // What lies beyond the former cursor has not come again yet, and is still skipped.
    if to < passed && start.book.has_skips(start.sink, settings.shard).await? {
        start.book.forget_skips(start.sink, start.owner, to, passed).await?;
    }
    let placed = write(start, producer, to, (tails, rehydrated)).await?;
    start.book.sought(start.sink, start.owner, to).await?;
    tracing::info!(sink = %start.sink, shard = %settings.shard, cursor = %to, "an operator's seek is carried out");
    Ok(placed)
}

/// Puts the cursor somewhere, in a transaction of its own.
pub(super) async fn write<P: Transactions, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    mut producer: P,
    seq: Seq,
    (tails, rehydrated): (Tails, Option<Rehydrated>),
) -> Result<Placed<P>, KafkaSinkError> {
    let settings = start.settings;
    let ChainAt::Known(chain) = start.book.chain_at(settings.shard, seq).await? else {
        return Err(KafkaSinkError::Ledger(LedgerError::Refused {
            doing: "placing a sink",
            why: format!("it does not know the chain at {seq}, though it keeps the events behind it"),
        }));
    };
    let crossed = start.book.crossing(settings.shard, seq).await?;
    let place = Place { seq, chain, tails, crossed, rehydrated };
    let cursor = place.cursor(settings).to_json();
    producer.submit(Transaction { messages: Vec::new(), cursor }).await?;
    fail::fail_point!("kafka::after_place");
    Ok(Placed { producer, place })
}
