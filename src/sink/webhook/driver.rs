//! The loop of one (sink, shard).

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::info_span;

use super::attempts::{Attempts, Job, Means};
use super::breaker::{Breaker, Passage};
use super::config::Endpoint;
use super::error::Standing;
use super::failing::Failing;
use super::guard::Guard;
use super::load::Load;
use super::meters::Meters;
use super::pace::Pace;
use super::pending::{Due, Fate, Pending, Start};
use super::request::Sender;
use super::schedule::Schedule;
use super::watch::{Reading, Reported};
use super::{WebhookSink, WebhookSinkError};
use crate::config::SinkStart;
use crate::event::ports::{Feed, LedgerError, NewDeadLetter, SinkBook, SinkRow, SinkState};
use crate::event::{Batch, DeliveryBook, Recorded, Seq};
use crate::http::Transport;
use crate::telemetry::trace;

/// How often the loop looks at slow attempts and at its clock.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a sink that cannot work waits before it looks again.
const STAND_FOR: Duration = Duration::from_secs(1);
/// What is under way at a stop may take so long; then it is cut off, and the next owner repeats it.
const FINISH_WITHIN: Duration = Duration::from_secs(5);
/// Events decided in one turn, so that a filter over a long backlog does not hold up the answers.
const TURN: usize = 256;

/// Why a session ended.
enum Left {
    Stopped,
    Sought(Seq),
}

pub(super) struct Driver<'s, F, B, D> {
    pub sink: &'s WebhookSink<F, B, D>,
    pub guard: Guard,
    pub endpoint: Arc<Endpoint>,
    pub reading: Reading,
    pub pending: Pending,
    pub breaker: Breaker,
    pub pace: Pace,
    pub schedule: Schedule,
    pub attempts: Attempts,
    pub meters: Meters,
    pub batch: Option<(Arc<Batch>, usize)>,
    pub letters: Vec<NewDeadLetter>,
    pub row: SinkRow,
    pub failing: Failing,
    pub reported: Reported,
    pub head: Seq,
    pub kept_cursor: Seq,
    /// Probes since one was made of an event that was never attempted.
    pub row_probes: usize,
    /// Whether a place that cannot be shared is for a row.
    pub rows_first: bool,
}

/// Sessions follow each other until the sink is stopped: each begins from the ledger, a seek ends one.
pub(super) async fn run<F: Feed, B: SinkBook, D: DeliveryBook>(
    mut sink: WebhookSink<F, B, D>,
    transport: Option<Transport>,
) -> Result<(), WebhookSinkError> {
    let stop = sink.stop.clone();
    let meters = Meters::new(&sink.name, sink.ownership.shard);
    meters.state(SinkState::Starting);
    let mut told = None;
    while !stop.is_cancelled() {
        let row = sink.book.row(&sink.name, sink.ownership).await?;
        if let Some(target) = row.seek {
            sink.book.sought(&sink.name, sink.ownership, target).await?;
            // What lies after it comes again from the ledger.
            sink.deliveries.forget_after(&sink.name, sink.ownership, target).await?;
            tracing::info!(sink = %sink.name, cursor = %target, "the sink goes on elsewhere, as was ordered");
            continue;
        }
        match Opened::new(&sink, &row, transport.as_ref()).await? {
            Ok(opened) => {
                told = None;
                if let Left::Stopped = session(&mut sink, opened, row).await? {
                    break;
                }
            }
            Err(standing) => {
                let why = crate::telemetry::causes(&standing);
                if told.as_ref() != Some(&why) || !row.halted {
                    tracing::error!(sink = %sink.name, error = why, "the sink stands still");
                    meters.state(SinkState::Halted);
                    sink.book.report(&sink.name, sink.ownership, SinkState::Halted, Some(&why)).await?;
                    told = Some(why);
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(STAND_FOR) => {}
                }
            }
        }
    }
    Ok(())
}

/// What a session begins with.
struct Opened {
    guard: Guard,
    sender: Sender,
    endpoint: Endpoint,
    reading: Reading,
    pending: Pending,
    failing: Failing,
    head: Seq,
}

impl Opened {
    async fn new<F, B: SinkBook, D: DeliveryBook>(
        sink: &WebhookSink<F, B, D>,
        row: &SinkRow,
        transport: Option<&Transport>,
    ) -> Result<Result<Self, Standing>, LedgerError> {
        let shard = sink.ownership.shard;
        let bounds = sink.book.bounds(shard).await?;
        let cursor = if let Some(cursor) = row.cursor {
            cursor
        } else {
            let cursor = match sink.start {
                SinkStart::Oldest => Seq(bounds.oldest.0.saturating_sub(1)),
                SinkStart::Now => bounds.head,
            };
            sink.book.keep_cursor(&sink.name, sink.ownership, cursor).await?;
            cursor
        };
        if cursor.next() < bounds.oldest {
            return Ok(Err(Standing::Expired { cursor, oldest: bounds.oldest }));
        }
        if cursor > bounds.head {
            return Ok(Err(Standing::Ahead { cursor, head: bounds.head }));
        }
        let guard = Guard::new(sink.config.allow_http, &sink.config.allow_networks);
        let (reading, endpoint) = match Reading::first(&sink.config, &guard).await {
            Ok(read) => read,
            Err(error) => return Ok(Err(error.into())),
        };
        let sender = match transport {
            Some(transport) => Sender::over(transport.clone(), &sink.config, sink.clock.clone()),
            None => match Sender::new(&sink.config, &guard, sink.clock.clone()) {
                Ok(sender) => sender,
                Err(error) => return Ok(Err(Standing::Client(error))),
            },
        };
        let rows = sink.deliveries.deliveries(&sink.name, shard).await?;
        let (now, wall) = (Instant::now(), sink.clock.now());
        let due = |at: time::OffsetDateTime| now + Duration::try_from(at - wall).unwrap_or(Duration::ZERO);
        let pending = Pending::new(sink.config.order, cursor, rows, due);
        let failing = Failing::new(sink.deliveries.failures(&sink.name, shard).await?);
        Ok(Ok(Self { guard, sender, endpoint, reading, pending, failing, head: bounds.head }))
    }
}

/// Fetches ahead by one batch; the place for it is taken before (INV-11). A future of its own, because a read that is
/// under way must not be given up whenever an attempt ends.
async fn fetch(
    feed: &mut impl Feed,
    mut after: Seq,
    batches: mpsc::Sender<(Arc<Batch>, Seq)>,
) -> Result<Infallible, LedgerError> {
    loop {
        let Ok(place) = batches.reserve().await else { std::future::pending().await };
        let batch = feed.next(after).await?;
        after = batch.to();
        place.send((batch, feed.head()));
    }
}

async fn session<F: Feed, B: SinkBook, D: DeliveryBook>(
    sink: &mut WebhookSink<F, B, D>,
    opened: Opened,
    row: SinkRow,
) -> Result<Left, WebhookSinkError> {
    let Opened { guard, sender, endpoint, reading, pending, failing, head } = opened;
    let after = pending.cursor();
    let (sender_of_batches, batches) = mpsc::channel(1);
    // The feed is borrowed by the fetching alone, the rest of the sink by the driver.
    let WebhookSink {
        name,
        ownership,
        config,
        start,
        dead_letter_retention,
        route,
        enricher,
        feed,
        book,
        deliveries,
        clock,
        stop,
    } = sink;
    let rest = WebhookSink {
        name: name.clone(),
        ownership: *ownership,
        config: config.clone(),
        start: *start,
        dead_letter_retention: *dead_letter_retention,
        route: Arc::clone(route),
        enricher: enricher.clone(),
        feed: (),
        book: book.clone(),
        deliveries: deliveries.clone(),
        clock: clock.clone(),
        stop: stop.clone(),
    };
    let means =
        Means { sender, route: Arc::clone(&rest.route), enricher: rest.enricher.clone(), shard: rest.ownership.shard };
    let driver = Driver {
        breaker: Breaker::new(rest.config.breaker),
        pace: Pace::new(rest.config.max_in_flight),
        schedule: Schedule::new(rest.config.retry_schedule.clone()),
        meters: Meters::new(&rest.name, rest.ownership.shard),
        sink: &rest,
        guard,
        attempts: Attempts::new(means, rest.config.max_in_flight),
        endpoint: Arc::new(endpoint),
        reading,
        pending,
        batch: None,
        letters: Vec::new(),
        row,
        failing,
        reported: Reported::default(),
        head,
        kept_cursor: after,
        row_probes: 0,
        rows_first: true,
    };
    tokio::select! {
        biased;
        failed = fetch(feed, after, sender_of_batches) => match failed? {},
        ended = driver.drive(batches) => ended,
    }
}

impl<F, B: SinkBook, D: DeliveryBook> Driver<'_, F, B, D> {
    async fn drive(mut self, mut batches: mpsc::Receiver<(Arc<Batch>, Seq)>) -> Result<Left, WebhookSinkError> {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.sink.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        let ended = loop {
            // Rows first: a claim must find them as this state has them.
            self.write().await?;
            let more = self.start().await?;
            let wake = self.wake_at();
            tokio::select! {
                biased;
                () = &mut stopped => break Left::Stopped,
                _ = looks.tick() => {
                    if let Some(target) = self.look().await? {
                        break Left::Sought(target);
                    }
                }
                ended = self.attempts.ended() => self.ended(&ended?),
                Some((batch, head)) = batches.recv(), if self.batch.is_none() => {
                    self.head = self.head.max(head).max(batch.to());
                    self.batch = Some((batch, 0));
                }
                () = tokio::task::yield_now(), if more => {}
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        };
        self.wind_up().await?;
        if let Left::Sought(target) = ended {
            tracing::info!(sink = %self.sink.name, %target, "the sink is ordered to go on elsewhere");
        }
        Ok(ended)
    }

    /// Lets what is under way finish, for a while, and keeps what came of it. What is cut off is not counted: its row is
    /// as it was, or the cursor lies before it.
    async fn wind_up(&mut self) -> Result<(), WebhookSinkError> {
        let deadline = Instant::now() + FINISH_WITHIN.min(self.sink.config.timeout);
        while self.attempts.under_way() > 0
            && let Ok(ended) = tokio::time::timeout_at(deadline, self.attempts.ended()).await
        {
            self.ended(&ended?);
        }
        self.attempts.shutdown().await;
        self.write().await?;
        self.keep_cursor().await?;
        Ok(())
    }

    pub(super) fn now(&self) -> Due {
        Due { at: Instant::now(), wall: self.sink.clock.now() }
    }

    /// Writes what the state wants written; only then may the cursor move.
    pub(super) async fn write(&mut self) -> Result<(), LedgerError> {
        let (name, owner) = (&self.sink.name, self.sink.ownership);
        if !self.letters.is_empty() {
            self.sink.book.dead_letters(name, owner, &self.letters, self.sink.dead_letter_retention).await?;
            self.meters.dead_letter.increment(self.letters.len() as u64);
            self.letters.clear();
        }
        if !self.pending.changes().is_empty() {
            let changes = std::mem::take(self.pending.changes());
            fail::fail_point!("webhook::before_rows");
            self.sink.deliveries.change(name, owner, &changes, self.sink.dead_letter_retention).await?;
            fail::fail_point!("webhook::after_rows");
        }
        Ok(())
    }

    /// Keeps the cursor where it has moved. Everything before it must be written.
    pub(super) async fn keep_cursor(&mut self) -> Result<(), LedgerError> {
        let cursor = self.pending.cursor();
        if cursor > self.kept_cursor {
            fail::fail_point!("webhook::before_cursor");
            self.sink.book.keep_cursor(&self.sink.name, self.sink.ownership, cursor).await?;
            fail::fail_point!("webhook::after_cursor");
            self.kept_cursor = cursor;
        }
        Ok(())
    }

    /// Begins what may begin. Says whether a turn's worth of events was not enough.
    async fn start(&mut self) -> Result<bool, LedgerError> {
        let now = Instant::now();
        if self.held().is_some() || self.pace.paused_until(now).is_some() {
            return Ok(false);
        }
        match self.breaker.passage(now) {
            Passage::Shut(_) => Ok(false),
            Passage::Probe => self.probe().await,
            Passage::Open => {
                let free = self.free();
                // Rows that are due and fresh events share what is free.
                let contested = self.pending.has_ready() || self.batch.is_some();
                let share = if contested { free / 2 + usize::from(self.rows_first && free % 2 == 1) } else { free };
                // A single free place goes to the one and to the other in turn.
                self.rows_first ^= free % 2 == 1;
                self.start_rows(now, share, false).await?;
                Ok(self.start_fresh(self.free(), false))
            }
        }
    }

    /// How many attempts more may be under way.
    fn free(&self) -> usize {
        self.pace.limit().saturating_sub(self.attempts.under_way())
    }

    /// Why nothing is delivered at all.
    pub(super) fn held(&self) -> Option<SinkState> {
        if self.row.disabled.is_some() || self.failing.disabling.is_some() {
            Some(SinkState::Disabled)
        } else if self.row.paused {
            Some(SinkState::Paused)
        } else {
            None
        }
    }

    /// One attempt of something, to see whether the endpoint is well again. Rows take turns, so that one event that the
    /// endpoint will never take does not keep the breaker open; after each round of them a fresh event has its turn.
    async fn probe(&mut self) -> Result<bool, LedgerError> {
        let now = Instant::now();
        let before = self.attempts.under_way();
        if self.row_probes < self.pending.count_due(now) {
            self.row_probes += 1;
            self.start_rows(now, 1, true).await?;
            return Ok(false);
        }
        let more = self.start_fresh(1, true);
        if self.attempts.under_way() > before {
            self.row_probes = 0;
            return Ok(false);
        }
        if !more {
            self.row_probes = 1;
            self.start_rows(now, 1, true).await?;
        }
        Ok(more)
    }

    /// Claims rows that are due and attempts them.
    async fn start_rows(&mut self, now: Instant, most: usize, probe: bool) -> Result<(), LedgerError> {
        let rows = self.pending.start_due(now, most);
        if rows.is_empty() {
            return Ok(());
        }
        let events = self.sink.deliveries.claim(&self.sink.name, self.sink.ownership, &rows).await?;
        for event in events {
            match self.decide(&event) {
                Ok(Some(load)) => {
                    self.attempt(Start { seq: event.seq, recorded_at: event.recorded_at, load }, probe);
                }
                Ok(None) => {
                    self.meters.filtered.increment(1);
                    self.pending.settle(event.seq, Fate::Done, self.now());
                }
                Err(reason) => {
                    self.meters.dead_letter.increment(1);
                    self.pending.settle(event.seq, Fate::GivenUp { reason }, self.now());
                }
            }
        }
        Ok(())
    }

    /// Takes events and attempts those that need not wait, at most `free`. Says whether it stopped only for its turn.
    fn start_fresh(&mut self, mut free: usize, probe: bool) -> bool {
        let now = self.now();
        for _ in 0..TURN {
            if free == 0 {
                return false;
            }
            if let Some(start) = self.pending.start_ready(now.at) {
                self.attempt(start, probe);
                free -= 1;
            } else if !self.take_one(now) {
                return false;
            }
        }
        true
    }

    /// Takes the next event of the batch in hand, where there is room for it.
    fn take_one(&mut self, now: Due) -> bool {
        if !self.pending.has_room() {
            return false;
        }
        let Some((batch, at)) = &mut self.batch else { return false };
        let batch = Arc::clone(batch);
        if let Some(void) = batch.void.filter(|_| *at == 0)
            && !self.pending.pass_void(void.to)
        {
            return false;
        }
        let Some(event) = batch.events.get(*at) else {
            self.batch = None;
            return false;
        };
        *at += 1;
        if *at == batch.events.len() {
            self.batch = None;
        }
        if self.pending.was_row(event.seq) {
            self.pending.skip(event.seq);
            return true;
        }
        match self.decide(event) {
            Ok(Some(load)) => self.pending.take(event, load, now),
            Ok(None) => {
                self.meters.filtered.increment(1);
                self.pending.skip(event.seq);
            }
            Err(reason) => {
                tracing::warn!(sink = %self.sink.name, seq = %event.seq, reason, "dead letter");
                self.letters.push(NewDeadLetter { seq: event.seq, reason, attempts: 0 });
                self.pending.skip(event.seq);
            }
        }
        true
    }

    /// What is sent of an event; none where it is not for this sink.
    fn decide(&self, event: &Recorded) -> Result<Option<Load>, String> {
        Load::of(event, &*self.sink.route, self.sink.ownership.shard)
    }

    fn attempt(&mut self, start: Start, probe: bool) {
        if probe {
            self.breaker.begin_probe();
        }
        let span = trace::of_event(
            &start.load.traceparent(),
            || info_span!(parent: None, "attempt", sink = %self.sink.name, seq = %start.seq),
        );
        self.attempts.begin(Job { start, endpoint: Arc::clone(&self.endpoint), probe, span });
    }

    /// When something may begin that cannot now, if nothing else happens before.
    fn wake_at(&self) -> Option<Instant> {
        if self.held().is_some() {
            return None;
        }
        let now = Instant::now();
        let next_due = self.pending.next_due().filter(|due| *due > now);
        match (self.pace.paused_until(now), self.breaker.passage(now)) {
            (Some(until), _) | (None, Passage::Shut(Some(until))) => Some(until),
            (None, Passage::Open | Passage::Probe) => next_due,
            (None, Passage::Shut(None)) => None,
        }
    }
}
