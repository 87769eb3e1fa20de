//! Kafka behind PostgreSQL: topics that were restored, mirrored, truncated or recreated, or a cursor that was. By an
//! operator's order, a sink that starts reads what its topics really hold, emits what is missing of what it had delivered,
//! and puts its cursor behind all of it.
//!
//! The sink itself does it, and not the verb: it alone has the lease, the fence and the feed, so that nothing can deliver
//! beside it, and an order in the ledger outlives a crash of either. What is done is found again by reading, so that doing
//! it anew emits nothing twice. The cursor stays where it was until all of it is there: until then, a start without the
//! order would stop as before.
//!
//! PostgreSQL may have been rewound too, as where both were restored: see [`stranger`](super::stranger).
//!
//! What is missing at a partition's end goes there as ever, and its links hold. Where later messages stand already it comes
//! behind them, outside the order promise, and says so by `standpipe-repair`; its `standpipe-prev` names the one that it
//! belongs behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::OffsetDateTime;

use super::cluster::{Cluster, TopicInfo, TopicKind, Transaction, Transactions};
use super::cursor::{Cursor, Rehydrated, Tail, Tails};
use super::draft::{MAX_BYTES, fits};
use super::error::KafkaSinkError;
use super::message::Outgoing;
use super::partition::partition_of;
use super::place::{Place, Start};
use super::proof::{TopicHeld, Way, way};
use super::stranger::{Known, look};
use super::verify::Stop;
use crate::event::ports::{
    ChainAt, Decision, Excuses, Feed, LedgerError, Reconcile, RehydrateBook, Route, ShardBounds, SinkBook,
};
use crate::event::{Chain, GapReason, Seq};
use crate::sink::enrich::Enricher;

/// Messages of one transaction, at most.
const MAX_MESSAGES: usize = 1_000;

/// The state of a reconciliation.
struct Work {
    /// Of the events from `from` on.
    held: BTreeMap<Arc<str>, TopicHeld>,
    from: Seq,
    /// What each partition was given last, in the order of the ledger; then what the cursor says.
    tails: Tails,
    /// The same of what is met on the way, for `standpipe-prev`.
    before: BTreeMap<(Arc<str>, i32), Seq>,
    infos: BTreeMap<Arc<str>, TopicInfo>,
    messages: Vec<Outgoing>,
    bytes: usize,
    emitted: u64,
    repairs: u64,
    expired: u64,
}

/// Carries the order out.
pub(super) async fn reconcile<C: Cluster, F: Feed, B: SinkBook + RehydrateBook>(
    start: &Start<'_, B>,
    cluster: &mut C,
    mut producer: C::Producer,
    feed: &mut F,
    known: Known,
    order: &Reconcile,
    bounds: &ShardBounds,
) -> Result<(C::Producer, Place), KafkaSinkError> {
    let (sink, shard) = (start.sink, start.settings.shard);
    agree(start, known.cursor.as_ref(), bounds, order)?;
    let from = bounds.oldest.max(order.after.next());
    let written = known.cursor.as_ref().map(|cursor| cursor.topics.clone()).unwrap_or_default();
    let names = names(start, feed, &written, (from, bounds.head)).await?;
    let (held, gone_back) = look(start, cluster, feed, &known, (&names, from), bounds).await?;
    let Known { cursor, copy, lost } = known;
    let base = cursor.as_ref().map_or(Seq::ZERO, |cursor| cursor.seq);
    let held: BTreeMap<_, _> = held.into_iter().map(|topic| (topic.topic.clone(), topic)).collect();
    let furthest =
        held.values().flat_map(|topic| topic.partitions.iter().flatten()).map(|partition| partition.last).max();
    let stood = if lost.is_some_and(|lost| !lost.has_cursor) { Seq::ZERO } else { base };
    let back = gone_back.map_or(Seq::ZERO, |back| back.goes_on);
    let goal = stood.max(back).max(copy.unwrap_or_default()).max(furthest.unwrap_or_default());
    tracing::warn!(%sink, %shard, cursor = %base, goes_on = %goal, from = %from, "the sink is being reconciled");
    if order.after >= bounds.oldest {
        tracing::warn!(
            %sink, %shard, from = %bounds.oldest, to = %order.after,
            "these events came before the sink began, or were delivered by other rules: what its topics lost of them does \
             not come again"
        );
    }
    let mut work = Work {
        tails: tails(&written, &held, from, base)?,
        held,
        from,
        before: BTreeMap::new(),
        infos: BTreeMap::new(),
        messages: Vec::new(),
        bytes: 0,
        emitted: 0,
        repairs: 0,
        expired: 0,
    };
    for (topic, tail) in &work.tails {
        for (number, last) in (0..).zip(&tail.last) {
            work.before.insert((topic.clone(), number), *last);
        }
    }
    let kept = cursor.unwrap_or_else(|| nowhere(start, bounds));
    let excuses = start.book.excuses(sink, shard, from, goal).await?;
    let mut at = Seq(from.0.saturating_sub(1));
    while at < goal {
        let batch = feed.next(at).await?;
        for (index, event) in batch.events.iter().enumerate().filter(|(_, event)| event.seq <= goal) {
            let Way::To(topic, key, headers) = way(start.rules, start.settings, event) else { continue };
            let info = work.info(cluster, &topic, event.is_control()).await?;
            let mut message = Outgoing::new(&batch, index, topic, key, headers);
            if let Some(enricher) = start.enricher.filter(|_| work.lacks(&message)) {
                message = complete(start.rules, enricher, message).await;
            }
            work.take(message, info, start.now, &excuses)?;
            if work.messages.len() >= MAX_MESSAGES || work.bytes >= MAX_BYTES {
                work.commit(&mut producer, kept.to_json()).await?;
            }
        }
        at = batch.to().min(goal);
    }
    fail::fail_point!("kafka::reconcile_part");
    work.commit(&mut producer, kept.to_json()).await?;
    fail::fail_point!("kafka::reconcile_cursor");
    let chain = chain(start, goal).await?;
    work.end_behind_what_is_held();
    let crossed = start.book.crossing(shard, goal).await?;
    let rehydrated = gone_back.as_ref().map(Rehydrated::by).or(kept.rehydrated);
    let place = Place { seq: goal, chain, tails: work.tails, crossed, rehydrated };
    producer.submit(Transaction { messages: Vec::new(), cursor: place.cursor(start.settings).to_json() }).await?;
    // What neither the ledger nor the topics can tell of any more.
    if base > Seq::ZERO && base.next() < from && goal > base {
        start.book.gap(sink, start.owner, base.next(), Seq(from.0 - 1), GapReason::Retention).await?;
    }
    start.book.reconciled(sink, start.owner, goal).await?;
    let Work { emitted, repairs, expired, .. } = work;
    tracing::warn!(%sink, %shard, cursor = %goal, emitted, repairs, expired, "the sink is reconciled");
    Ok((producer, place))
}

/// Reconciling starts from the ledger that the sink delivered from, and from the rules by which it did.
fn agree<B>(
    start: &Start<'_, B>,
    cursor: Option<&Cursor>,
    bounds: &ShardBounds,
    order: &Reconcile,
) -> Result<(), KafkaSinkError> {
    let refuse = |why: String| Err(KafkaSinkError::from(Stop::Reconcile { why }));
    match (order.rules.as_deref(), start.rules.fingerprint()) {
        (Some(known), Some(rules)) if known != rules => {
            return refuse(
                "the rules were changed since it delivered last, so that nobody can tell what it should have delivered: \
                 start it once with the former filter, topic, key and headers"
                    .to_owned(),
            );
        }
        (None, Some(_)) => {
            return refuse(
                "it has not delivered since it notes by which rules it does, so that nobody can tell what it should have \
                 delivered: choose with `standpipe sinks seek` where it goes on"
                    .to_owned(),
            );
        }
        _ => {}
    }
    let Some(cursor) = cursor else { return Ok(()) };
    if cursor.ledger != bounds.ledger {
        let topic = start.settings.cursor_topic.clone();
        return Err(Stop::OtherLedger { topic, found: cursor.ledger, ours: bounds.ledger }.into());
    }
    Ok(())
}

/// The topics that the cursor or the rules name.
async fn names<F: Feed, B: SinkBook>(
    start: &Start<'_, B>,
    feed: &mut F,
    written: &Tails,
    (from, head): (Seq, Seq),
) -> Result<Vec<Arc<str>>, KafkaSinkError> {
    let mut names: Vec<Arc<str>> = written.keys().cloned().collect();
    let mut at = Seq(from.0.saturating_sub(1));
    while at < head {
        let batch = feed.next(at).await?;
        for event in &batch.events {
            match way(start.rules, start.settings, event) {
                Way::To(topic, ..) if !names.contains(&topic) => names.push(topic),
                Way::Open => {
                    let why = "its filter, topic or key hang on what was looked up when it delivered, so that nobody can \
                               tell where its events should be: choose with `standpipe sinks seek` where it goes on";
                    return Err(Stop::Reconcile { why: why.to_owned() }.into());
                }
                _ => {}
            }
        }
        at = batch.to();
    }
    Ok(names)
}

/// With what its rules look up, as it is now; waits where that must be waited for. An event on which they fail now goes as
/// it is.
async fn complete(rules: &dyn Route, enricher: &Enricher, mut message: Outgoing) -> Outgoing {
    loop {
        match enricher.one(rules, message.event()).await {
            Ok(completed) => {
                if let Ok(Decision::Deliver(address)) = completed.decision {
                    message.user = address.headers;
                }
                return message.with_body(completed.event.body);
            }
            Err(wait) => tokio::time::sleep(wait.pause).await,
        }
    }
}

/// The ends of partitions as far as the ledger does not tell them: what lies before `from`.
fn tails(written: &Tails, held: &BTreeMap<Arc<str>, TopicHeld>, from: Seq, base: Seq) -> Result<Tails, KafkaSinkError> {
    let mut tails = Tails::new();
    for (name, topic) in held {
        let Some(partitions) = &topic.partitions else { continue };
        let now = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        let known = written.get(name);
        let is_empty = partitions.iter().all(|partition| partition.last == Seq::ZERO && partition.low == 0);
        if let Some(known) = known.filter(|known| known.partitions() != now && !is_empty) {
            let (topic, was) = (name.clone(), known.partitions());
            return Err(Stop::PartitionsChanged { topic, was, now, cursor: base }.into());
        }
        let last = partitions.iter().enumerate().map(|(number, partition)| {
            let known = known.and_then(|tail| tail.last.get(number)).copied().unwrap_or_default();
            let is_there =
                known < from && (partition.low > 0 || (partition.last > Seq::ZERO && known <= partition.last));
            // A cursor that was set back does not know what was delivered after it.
            if is_there { known.max(partition.before) } else { partition.before }
        });
        tails.insert(name.clone(), Tail { last: last.collect() });
    }
    Ok(tails)
}

/// A cursor that stops every start without the order, for a sink that has lost its own.
fn nowhere<B>(start: &Start<'_, B>, bounds: &ShardBounds) -> Cursor {
    Cursor::new(bounds.ledger, start.settings.shard, Seq::ZERO, Chain::start(bounds.ledger), Tails::new())
        .by(start.settings.instance)
}

async fn chain<B: SinkBook>(start: &Start<'_, B>, seq: Seq) -> Result<Chain, KafkaSinkError> {
    match start.book.chain_at(start.settings.shard, seq).await? {
        ChainAt::Known(chain) => Ok(chain),
        _ => Err(KafkaSinkError::Ledger(LedgerError::Refused {
            doing: "reconciling a sink",
            why: format!("it does not know the chain at {seq}"),
        })),
    }
}

impl Work {
    /// What is known of a topic; makes one that is gone.
    async fn info<C: Cluster>(
        &mut self,
        cluster: &mut C,
        topic: &Arc<str>,
        is_control: bool,
    ) -> Result<TopicInfo, KafkaSinkError> {
        if let Some(info) = self.infos.get(topic) {
            return Ok(*info);
        }
        let kind = if is_control { TopicKind::Control } else { TopicKind::Data };
        let info = cluster.topic(topic, kind).await?;
        fits(cluster)?;
        self.infos.insert(topic.clone(), info);
        self.tails.entry(topic.clone()).or_insert_with(|| Tail::new(info.partitions));
        Ok(info)
    }

    /// Whether the topic does not hold the message.
    fn lacks(&self, message: &Outgoing) -> bool {
        !self.held.get(&message.topic).is_some_and(|topic| topic.seqs.contains(message.event().seq))
    }

    /// Passes an event that is there, or gone with good reason; takes one that is missing.
    fn take(
        &mut self,
        mut message: Outgoing,
        info: TopicInfo,
        now: OffsetDateTime,
        excuses: &Excuses,
    ) -> Result<(), KafkaSinkError> {
        let event = message.event();
        let seq = event.seq;
        let age = (now - event.recorded_at).try_into().unwrap_or_default();
        message.partition = partition_of(message.key.as_bytes(), info.partitions);
        let number = usize::try_from(message.partition).expect("a partition is never negative");
        let place = (message.topic.clone(), message.partition);
        let held = self.held.get(&message.topic);
        let partition = held.and_then(|topic| topic.partitions.as_ref()?.get(number)).copied().unwrap_or_default();
        let is_there = held.is_some_and(|topic| topic.seqs.contains(seq));
        let is_compacted = held.is_some_and(|topic| topic.config.is_compacted());
        let is_cut = |seq| partition.low > 0 && (partition.first == Seq::ZERO || seq < partition.first);
        // What the sink had delivered under a seq that the ledger then lost need only be there under that one.
        let is_elsewhere = excuses.elsewhere(seq).is_some_and(|at| {
            at < self.from || is_compacted || is_cut(at) || self.held.values().any(|topic| topic.seqs.contains(at))
        });
        if !is_there && (is_elsewhere || excuses.is_in_gap(seq) || excuses.is_dead_letter(seq)) {
            return Ok(());
        }
        // Another partition has it: what stood under this seq before the ledger was rewound, so that this one is a skip or
        // comes again as a replay.
        if is_there && seq > partition.last {
            return Ok(());
        }
        let is_expired = held.is_some_and(|topic| is_cut(seq) && !topic.config.still_keeps(age));
        let may_be_gone = is_compacted || is_expired;
        if !is_there && may_be_gone {
            self.expired += 1;
        }
        let mut prev = self.before.insert(place, seq).unwrap_or_default();
        let is_late = !is_there && !may_be_gone && partition.last > seq;
        if !is_late {
            // What stands last may be of a void, which the ledger does not tell of.
            prev = prev.max(partition.last);
        }
        if !is_late {
            let tail = self.tails.get_mut(&message.topic).and_then(|tail| tail.last.get_mut(number));
            *tail.ok_or_else(|| counted_anew(&message.topic))? = seq;
        }
        if is_there || may_be_gone {
            return Ok(());
        }
        message.prev = prev;
        if is_late {
            message.repair = Some(partition.last);
            self.repairs += 1;
        }
        if message.size() > info.max_bytes {
            message.truncate();
        }
        self.bytes += message.size();
        self.emitted += 1;
        self.messages.push(message);
        Ok(())
    }

    /// A partition ends with what it holds, also where that is of a void, which the ledger does not tell of.
    fn end_behind_what_is_held(&mut self) {
        for (name, topic) in &self.held {
            let Some(tail) = self.tails.get_mut(name) else { continue };
            for (last, partition) in tail.last.iter_mut().zip(topic.partitions.iter().flatten()) {
                *last = (*last).max(partition.last);
            }
        }
    }

    async fn commit<P: Transactions>(&mut self, producer: &mut P, cursor: Vec<u8>) -> Result<(), KafkaSinkError> {
        if self.messages.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let messages = std::mem::take(&mut self.messages);
        producer.submit(Transaction { messages, cursor }).await.map(drop)
    }
}

fn counted_anew(topic: &str) -> KafkaSinkError {
    KafkaSinkError::Topic { topic: topic.to_owned(), why: "its partitions changed while it was read".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::proof::{PartitionHeld, SeqSet};
    use super::super::topics::TopicConfig;
    use super::*;

    #[test]
    fn a_cursor_that_was_set_back_does_not_hide_what_its_partitions_hold() {
        let written = Tails::from([(Arc::from("sell"), Tail { last: vec![Seq(3), Seq(3), Seq(3), Seq::ZERO] })]);
        let held = |before: u64, last: u64| PartitionHeld {
            low: 0,
            first: Seq(1),
            before: Seq(before),
            last: Seq(last),
            end: None,
        };
        // Behind the cursor, cut before it, made anew, and written to since the cursor was set back.
        let partitions = vec![held(7, 12), held(2, 2), PartitionHeld::default(), held(5, 5)];
        let topic = TopicHeld {
            topic: "sell".into(),
            seqs: SeqSet::new(Seq(10), Seq(20)),
            partitions: Some(partitions),
            config: TopicConfig::default(),
        };
        let held = BTreeMap::from([(topic.topic.clone(), topic)]);
        let tails = tails(&written, &held, Seq(10), Seq(3)).unwrap();
        assert_eq!(tails["sell"].last, [Seq(7), Seq(2), Seq::ZERO, Seq(5)]);
    }
}
