//! The loop of a placed Kafka sink: gathers the next transaction while the last one commits.
//!
//! A transaction goes out at once when nothing is behind it, and grows with the backlog. The cursor moves by a definite
//! yes alone; any error ends the loop, and the producer with it (INV-9). W, the ledger's copy, follows later, off this
//! path: it may lag behind C by any number of events, and is never ahead of it.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{Instrument as _, info_span};

use super::cluster::{Cluster, Committed, Transactions};
use super::draft::{Draft, Means, entry};
use super::error::KafkaSinkError;
use super::place::{Place, Placed};
use super::run::Session;
use super::verify::Stop;
use crate::config::NewProducer;
use crate::event::ports::{Delivered, Feed, LedgerError, RehydrateBook, SinkBook, SinkRow, SinkState};
use crate::event::{Batch, Seq};
use crate::mutant::{Mutant, planted};
use crate::sink::enrich::Piece;

/// Events of one transaction, at most.
pub(super) const MAX_EVENTS: usize = 5_000;
/// How long a transaction is gathered while events keep coming.
const GATHER: Duration = Duration::from_millis(25);
/// After a transaction of so many events, which are not what a vendor sends while its streams are read in time, the next
/// one has time to grow: each costs the broker as much as some hundred events do.
const BUSY: usize = 500;
/// From the beginning of such a transaction to the next, unless that is full before: at full rate several pages share one.
const PACE: Duration = Duration::from_millis(75);
/// How long events that are all filtered wait for a transaction of the cursor alone.
const CURSOR_ALONE: Duration = Duration::from_secs(5);
/// How often W follows, at most.
const KEEP_EVERY: Duration = Duration::from_millis(250);
/// The bound on one call of the ledger.
const LEDGER_LIMIT: Duration = Duration::from_secs(30);
/// How often the topics are looked for and their partitions counted.
const COUNT_EVERY: Duration = Duration::from_secs(20);
/// A producer without a transaction for this long is made anew: brokers forget transactional ids after 7 days.
const IDLE_LIMIT: Duration = Duration::from_hours(24);

/// How the loop ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The sink was told to stop.
    Stopped,
    /// An operator wants something else of it: its row says what.
    Wished,
    /// A new producer is configured for every transaction.
    Renew,
}

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A transaction on its way.
struct InFlight {
    outcome: Pending<Result<Committed, KafkaSinkError>>,
    draft: Draft,
    recorded: Vec<(OffsetDateTime, usize)>,
    sent: Vec<Seq>,
}

struct Loop<'s, C: Cluster, F, B> {
    session: &'s mut Session<F, B>,
    cluster: &'s mut C,
    producer: C::Producer,
    /// What is committed.
    place: Place,
    draft: Draft,
    in_flight: Option<InFlight>,
    /// A batch that did not fit whole, and how far it was taken.
    rest: Option<(Arc<Batch>, usize)>,
    /// What of that batch was delivered before the ledger lost it.
    skips: HashSet<Delivered>,
    /// What is looked up for the next events of that batch, and what was.
    enriching: Option<Pending<Piece>>,
    piece: Option<Piece>,
    /// Why the sink waits for it, as was reported.
    waits: Option<String>,
    kept: Seq,
    keeping: Option<Pending<Result<Seq, LedgerError>>>,
    looking: Option<Pending<Result<SinkRow, LedgerError>>>,
    last_commit: Instant,
    last_count: Instant,
    /// The next transaction begins then, or when it is full.
    send_from: Instant,
    leaving: Option<End>,
}

/// Delivers until it is told to stop, an operator wants something else, or something fails.
pub(super) async fn deliver<C: Cluster, F: Feed, B: SinkBook + RehydrateBook>(
    session: &mut Session<F, B>,
    cluster: &mut C,
    placed: Placed<C::Producer>,
) -> Result<End, KafkaSinkError> {
    let (producer, place) = placed.into_parts();
    let now = Instant::now();
    let mut this = Loop {
        draft: Draft::new(place.clone()),
        kept: Seq::ZERO,
        session,
        cluster,
        producer,
        place,
        in_flight: None,
        rest: None,
        skips: HashSet::new(),
        enriching: None,
        piece: None,
        waits: None,
        keeping: None,
        looking: None,
        last_commit: now,
        last_count: now,
        send_from: now,
        leaving: None,
    };
    let ended = this.run().await;
    let Loop { producer, session, in_flight, keeping, looking, .. } = this;
    // What was in flight is decided by the next start; a call that nobody polls any more would hold its rows.
    drop((in_flight, keeping, looking));
    if ended.is_err() {
        session.meters.discarded.increment(1);
    }
    let discarded = producer.discard().await;
    fail::fail_point!("kafka::after_discard");
    ended.and_then(|end| discarded.map(|()| end))
}

impl<C: Cluster, F: Feed, B: SinkBook + RehydrateBook> Loop<'_, C, F, B> {
    async fn run(&mut self) -> Result<End, KafkaSinkError> {
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_keep = Instant::now();
        let stop = self.session.stop.clone();
        loop {
            if let Some(end) = self.leaving.filter(|_| self.in_flight.is_none()) {
                self.keep_last().await;
                return Ok(end);
            }
            tokio::select! {
                biased;
                () = stop.cancelled(), if self.leaving != Some(End::Stopped) => {
                    self.leaving = Some(End::Stopped);
                    continue;
                }
                taken = self.take_rest() => taken?,
            }
            let staying = self.leaving.is_none();
            let wants_more =
                staying && self.rest.is_none() && self.draft.has_room(self.session.limit) && !self.is_ripe();
            let may_send = staying && self.in_flight.is_none() && self.is_due();
            let sends_at = self.sends_at();
            let may_keep = self.keeping.is_none() && self.place.seq > self.kept;
            tokio::select! {
                biased;
                () = stop.cancelled(), if self.leaving != Some(End::Stopped) => self.leaving = Some(End::Stopped),
                outcome = settled(&mut self.in_flight) => self.committed(outcome)?,
                kept = done(&mut self.keeping) => {
                    self.kept = kept?;
                    next_keep = Instant::now() + KEEP_EVERY;
                }
                piece = done(&mut self.enriching) => self.piece = Some(piece),
                row = done(&mut self.looking) => self.obey(&row?),
                batch = self.session.feed.next(self.draft.place.seq), if wants_more => {
                    let batch = batch?;
                    let at = entry(&batch, &self.draft.place)?;
                    self.skips = skips_of(self.session, &batch).await?;
                    self.rest = Some((batch, at));
                }
                () = sleep_until(sends_at), if may_send => self.send().await?,
                () = sleep_until(next_keep), if may_keep => self.keep(),
                _ = tick.tick() => tokio::select! {
                    biased;
                    // Seen again, and obeyed, at the loop's beginning.
                    () = stop.cancelled(), if self.leaving != Some(End::Stopped) => {}
                    done = self.every_second() => done?,
                },
            }
        }
    }

    /// Whether enough was gathered: what comes now can go with the next one.
    fn is_ripe(&self) -> bool {
        let gathered = self.draft.since.is_some_and(|since| since.elapsed() >= GATHER);
        self.in_flight.is_none() && gathered && self.sends_at() <= Instant::now()
    }

    /// When the draft may go out at the earliest.
    fn sends_at(&self) -> Instant {
        if self.draft.has_room(self.session.limit) { self.send_from } else { Instant::now() }
    }

    /// Whether the draft should go out as it is.
    fn is_due(&self) -> bool {
        let taken = self.draft.taken();
        !self.draft.messages.is_empty()
            || !self.draft.letters.is_empty()
            || !self.draft.has_room(self.session.limit)
            || (taken > 0 && self.last_commit.elapsed() >= CURSOR_ALONE)
    }

    /// Takes what a batch has left, as far as there is room.
    async fn take_rest(&mut self) -> Result<(), KafkaSinkError> {
        let room = self.draft.has_room(self.session.limit);
        let Some((batch, at)) = self.rest.take_if(|_| room && self.leaving.is_none()) else { return Ok(()) };
        let Session { limit, rules, known, settings, enricher, opening, .. } = &mut *self.session;
        if let Some(enricher) = enricher.as_ref().filter(|_| self.piece.is_none()) {
            if self.enriching.is_none() {
                let (enricher, rules, batch) = (Arc::clone(enricher), Arc::clone(rules), Arc::clone(&batch));
                self.enriching = Some(Box::pin(async move { enricher.piece(&*rules, &batch, at).await }));
            }
            self.rest = Some((batch, at));
            return Ok(());
        }
        let (skips, piece) = (&self.skips, self.piece.as_mut());
        let mut means = Means {
            max_messages: *limit,
            rules: &**rules,
            piece,
            skips,
            opening: *opening,
            known,
            cluster: self.cluster,
            settings,
        };
        let at = self.draft.take(&batch, at, &mut means).await?;
        self.piece.take_if(|piece| at >= piece.end);
        if at < batch.events.len() {
            self.rest = Some((batch, at));
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), KafkaSinkError> {
        if !self.draft.letters.is_empty() {
            let session = &*self.session;
            let written = session.book.dead_letters(
                &session.sink,
                session.owner,
                &self.draft.letters,
                session.dead_letter_retention,
            );
            within("writing dead letters", written).await?;
        }
        if self.draft.opens {
            self.end_keeping().await?;
            let session = &*self.session;
            let noted = session.book.opens(&session.sink, session.owner, self.draft.place.seq);
            within("noting that a sink opens a partition", noted).await?;
        }
        let mut recorded: Vec<(OffsetDateTime, usize)> = Vec::new();
        for message in &self.draft.messages {
            let at = message.event().recorded_at;
            match recorded.last_mut() {
                Some((last, count)) if *last == at => *count += 1,
                _ => recorded.push((at, 1)),
            }
        }
        let sent: Vec<Seq> = self.draft.messages.iter().map(|message| message.event().seq).collect();
        let transaction = self.draft.transaction(&self.session.settings);
        let now = Instant::now();
        self.send_from = if sent.len() >= BUSY { now + PACE } else { now };
        let span = info_span!(
            parent: None,
            "transaction",
            sink = %self.session.sink,
            shard = %self.session.owner.shard,
            events = sent.len(),
            to = %self.draft.place.seq
        );
        let outcome = Box::pin(self.producer.submit(transaction).instrument(span));
        let next = Draft::new(self.draft.place.clone());
        let draft = std::mem::replace(&mut self.draft, next);
        self.in_flight = Some(InFlight { outcome, draft, recorded, sent });
        Ok(())
    }

    fn committed(&mut self, outcome: Result<Committed, KafkaSinkError>) -> Result<(), KafkaSinkError> {
        let Some(InFlight { draft, recorded, sent, .. }) = self.in_flight.take() else { return Ok(()) };
        let session = &mut *self.session;
        let committed = match outcome {
            Ok(committed) => committed,
            Err(KafkaSinkError::Doubt { .. }) if planted(Mutant::ProducerKept) => {
                (self.draft, self.rest) = (Draft::new(self.place.clone()), None);
                (self.enriching, self.piece) = (None, None);
                return Ok(());
            }
            Err(error) => {
                session.shrink(&error, &sent, draft.oldest);
                return Err(error);
            }
        };
        self.last_commit = Instant::now();
        let meters = &session.meters;
        meters.committed.increment(1);
        meters.transaction.record(committed.took);
        meters.filtered.increment(draft.filtered);
        meters.skipped.increment(draft.skipped);
        meters.truncated.increment(draft.truncated);
        meters.dead_letters.increment(draft.letters.len() as u64);
        meters.delivered.increment((sent.len() as u64).saturating_sub(draft.truncated));
        let now = session.clock.now();
        for (at, count) in recorded {
            meters.end_to_end.record_many((now - at).as_seconds_f64().max(0.0), count);
        }
        self.place = draft.place;
        session.grow(self.place.seq);
        self.tell_lag();
        if self.session.settings.config.new_producer == NewProducer::EveryTransaction {
            self.leaving = self.leaving.or(Some(End::Renew));
        }
        Ok(())
    }

    fn keep(&mut self) {
        let (book, sink, owner) = (self.session.book.clone(), self.session.sink.clone(), self.session.owner);
        let seq = self.place.seq;
        self.keeping = Some(Box::pin(async move {
            fail::fail_point!("kafka::before_note");
            within("keeping a sink's cursor", book.keep_cursor(&sink, owner, seq)).await?;
            fail::fail_point!("kafka::after_note");
            Ok(seq)
        }));
    }

    /// Before leaving: W follows once more, where the ledger can.
    async fn keep_last(&mut self) {
        self.looking = None;
        let last = async {
            self.end_keeping().await?;
            if self.place.seq > self.kept {
                let session = &*self.session;
                session.book.keep_cursor(&session.sink, session.owner, self.place.seq).await?;
            }
            Ok::<(), LedgerError>(())
        };
        match timeout(Duration::from_secs(5), last).await {
            Ok(Ok(())) => {}
            // The next start reads C, which is ahead of W then as after a crash.
            Ok(Err(error)) => tracing::debug!(%error, "the copy of the cursor stays behind"),
            Err(_) => tracing::debug!("the copy of the cursor stays behind: the ledger does not answer"),
        }
    }

    /// Lets the copy that is under way end. It holds the sink's row, and goes on only while it is polled: who writes to
    /// that row beside it waits for himself.
    async fn end_keeping(&mut self) -> Result<(), LedgerError> {
        if self.keeping.is_some() {
            self.kept = done(&mut self.keeping).await?;
        }
        Ok(())
    }

    async fn every_second(&mut self) -> Result<(), KafkaSinkError> {
        self.tell_lag();
        self.tell_waits().await?;
        if self.looking.is_none() {
            let (book, sink, owner) = (self.session.book.clone(), self.session.sink.clone(), self.session.owner);
            self.looking = Some(Box::pin(async move { within("looking at a sink", book.row(&sink, owner)).await }));
        }
        if self.last_commit.elapsed() >= IDLE_LIMIT {
            return Err(KafkaSinkError::Renewal { why: "the producer was idle for a day" });
        }
        if self.last_count.elapsed() >= COUNT_EVERY {
            self.last_count = Instant::now();
            self.count_partitions().await?;
        }
        Ok(())
    }

    /// Lets the sink's row say what it waits for, and that it does not any more.
    async fn tell_waits(&mut self) -> Result<(), LedgerError> {
        let waits = self.session.enricher.as_ref().and_then(|enricher| enricher.waits());
        if waits != self.waits {
            self.end_keeping().await?;
            let state = if waits.is_some() { SinkState::Retrying } else { SinkState::Running };
            self.session.report(state, waits.as_deref()).await?;
            self.waits = waits;
        }
        Ok(())
    }

    /// A changed partition count moves keys, so it needs a person's consent; without its cursor a sink must not go on.
    async fn count_partitions(&mut self) -> Result<(), KafkaSinkError> {
        let mut topics: Vec<Arc<str>> = self.session.known.topics.keys().cloned().collect();
        topics.push(self.session.settings.cursor_topic.as_str().into());
        let mut counts = self.cluster.partitions(&topics).await?;
        if let (Some(topic), Some(None)) = (topics.pop(), counts.pop()) {
            return Err(Stop::CursorLost { topic: topic.to_string(), copy: self.place.seq }.into());
        }
        for (topic, now) in topics.into_iter().zip(counts) {
            let was = self.session.known.topics[&topic].partitions;
            let cursor = self.place.seq;
            match now {
                None => return Err(Stop::TopicLost { topic, cursor }.into()),
                Some(now) if now != was => return Err(Stop::PartitionsChanged { topic, was, now, cursor }.into()),
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn obey(&mut self, row: &SinkRow) {
        if row.is_wished_otherwise() {
            self.leaving = self.leaving.or(Some(End::Wished));
        }
    }

    fn tell_lag(&self) {
        let oldest = self.in_flight.as_ref().map_or(self.draft.oldest, |in_flight| in_flight.draft.oldest);
        self.session.tell_lag(self.place.seq, oldest);
    }
}

/// What of a batch the sink delivered before the ledger was rewound; nothing is asked where it never was.
async fn skips_of<F: Feed, B: SinkBook + RehydrateBook>(
    session: &Session<F, B>,
    batch: &Batch,
) -> Result<HashSet<Delivered>, LedgerError> {
    if !session.skipping {
        return Ok(HashSet::new());
    }
    let events: Vec<Delivered> = batch.events.iter().map(Delivered::of).collect();
    within("asking for skips", session.book.skips(&session.sink, session.owner.shard, &events)).await
}

/// The outcome of what is in flight; for ever pending where nothing is.
async fn settled(in_flight: &mut Option<InFlight>) -> Result<Committed, KafkaSinkError> {
    match in_flight {
        Some(in_flight) => in_flight.outcome.as_mut().await,
        None => std::future::pending().await,
    }
}

/// The result of a pending call, which is taken out; for ever pending where there is none.
async fn done<T>(pending: &mut Option<Pending<T>>) -> T {
    let Some(call) = pending else { return std::future::pending().await };
    let result = call.as_mut().await;
    *pending = None;
    result
}

/// A call of the ledger, with a bound.
pub(super) async fn within<T>(
    doing: &'static str,
    call: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    timeout(LEDGER_LIMIT, call)
        .await
        .map_err(|elapsed| LedgerError::Unavailable { doing, source: Box::new(elapsed) })?
}
