//! Between the rules and the delivery of a sink that looks records up: asks for what they want to know, within bounds, and
//! gives the completed events back with their decisions.
//!
//! The records of a piece of events are collected, each is asked for once, and the events go on in their order, as far as
//! they are answered. One that must wait holds what comes behind it, and nothing else: the asking is this sink's own, in
//! its own task, while everything around it goes on (INV-15); what waits is behind the cursor (INV-10).

mod plan;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;
use metrics::{Counter, Gauge, Histogram};
use tokio::time::Instant;

use self::plan::{Asked, Plan, plan};
use crate::clock::Clock;
use crate::event::ports::{Decision, Route, RouteError};
use crate::event::{Answerer, Batch, LookUp, LookUpError, LookUps, OnMiss, RecordKey, Recorded, Seq, Shard, SinkName};
use crate::mutant::{Mutant, planted};
use crate::telemetry::metrics as names;

/// Bytes of completed events, about, at most, and of records that are at hand: one large record may stand in many events.
const PIECE_BYTES: usize = 8 << 20;
/// Lookups of one sink that are under way at once.
const AT_ONCE: usize = 16;
/// How long one is waited for where the event waits.
const WAITING: Duration = Duration::from_secs(30);
/// How long where it goes without.
const PASSING: Duration = Duration::from_secs(5);
/// The pause before what had no answer is asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Events that are known to wait, at most: a webhook sink has no more rows.
const MOST_TOLD: usize = 10_000;
/// What waited this long ago without another word does not wait any more.
const STALE: Duration = Duration::from_mins(1);

/// What one sink needs to complete its events.
#[derive(Debug)]
pub struct Enricher {
    sink: SinkName,
    lookups: Arc<dyn LookUp>,
    clock: Clock,
    waits: Mutex<Waits>,
    answered: [(Answerer, Counter); 3],
    missed: Counter,
    seconds: Histogram,
    waiting: Gauge,
}

/// The events that wait, and when each said so last.
#[derive(Debug, Default)]
struct Waits {
    why: String,
    told: HashMap<Seq, Instant>,
}

/// An event with what was looked up for it, and what the rules say of it.
#[derive(Debug)]
pub struct Completed {
    /// The event; its body is longer where something was found.
    pub event: Recorded,
    /// Never `LookUp`.
    pub decision: Result<Decision, RouteError>,
}

/// Events of a batch, from where the piece was asked for, that can be delivered.
#[derive(Debug)]
pub struct Piece {
    /// By index in the batch: the first event that is not in it.
    pub end: usize,
    /// In their order.
    completed: VecDeque<Completed>,
}

impl Piece {
    /// Takes an event out, and those before it. They are taken in their order.
    pub fn take(&mut self, seq: Seq) -> Option<Completed> {
        while self.completed.front().is_some_and(|completed| completed.event.seq < seq) {
            self.completed.pop_front();
        }
        self.completed.pop_front_if(|completed| completed.event.seq == seq)
    }
}

/// An event must wait: somebody who must answer cannot now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MustWait {
    /// Why.
    pub why: String,
    /// How long, at least.
    pub pause: Duration,
}

impl Enricher {
    /// Of a sink in a shard; none where its rules look nothing up.
    pub fn of(
        route: &dyn Route,
        lookups: &Arc<dyn LookUp>,
        sink: &SinkName,
        shard: Shard,
        clock: &Clock,
    ) -> Option<Arc<Self>> {
        let counter = |outcome: &'static str| metrics::counter!(names::ENRICHMENT_LOOKUPS_TOTAL, "sink" => sink.to_string(), "outcome" => outcome);
        route.looks_up().then(|| {
            Arc::new(Self {
                sink: sink.clone(),
                lookups: Arc::clone(lookups),
                clock: clock.clone(),
                waits: Mutex::default(),
                answered: Answerer::ALL.map(|answerer| (answerer, counter(answerer.as_str()))),
                missed: counter("missed"),
                seconds: metrics::histogram!(names::ENRICHMENT_SECONDS, "sink" => sink.to_string()),
                waiting: metrics::gauge!(
                    names::ENRICHMENT_WAITING, "sink" => sink.to_string(), "shard" => shard.to_string()
                ),
            })
        })
    }

    /// Why events wait now, where they do.
    pub fn waits(&self) -> Option<String> {
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.told.values().any(|told| told.elapsed() < STALE).then(|| waits.why.clone())
    }

    /// Completes the events of a batch from `at` on, as many as can be; waits until that is at least one. Nothing is lost
    /// when it is cancelled.
    pub async fn piece(&self, route: &dyn Route, batch: &Batch, at: usize) -> Piece {
        let events = &batch.events[at.min(batch.events.len())..];
        loop {
            // Anew after a wait: what was at hand then may be too old now.
            let (plans, mut asked) = plan(route, events, &*self.lookups);
            self.ask(&mut asked).await;
            let mut completed = VecDeque::with_capacity(plans.len());
            let (mut stopped, mut bytes) = (None, 0);
            for (event, plan) in events.iter().zip(&plans) {
                match self.complete(route, event, plan, &asked) {
                    Ok(done) => {
                        bytes += done.event.body.len();
                        completed.push_back(done);
                    }
                    Err(wait) => {
                        stopped = Some(wait);
                        break;
                    }
                }
                if bytes >= PIECE_BYTES {
                    break;
                }
            }
            if let Some(wait) = stopped {
                self.note_wait(batch.events[at + completed.len()].seq, &wait);
                if completed.is_empty() {
                    tokio::time::sleep(wait.pause).await;
                    continue;
                }
            } else {
                self.goes_on(None);
            }
            return Piece { end: at + completed.len(), completed };
        }
    }

    /// Completes one event.
    pub async fn one(&self, route: &dyn Route, event: &Recorded) -> Result<Completed, MustWait> {
        match route.decide(event) {
            Ok(Decision::LookUp(lookups)) => self.decided(route, event, lookups).await,
            decision => Ok(Completed { event: event.clone(), decision }),
        }
    }

    /// Completes one event, of which the rules have said what is to be looked up.
    pub async fn decided(
        &self,
        route: &dyn Route,
        event: &Recorded,
        lookups: Box<LookUps>,
    ) -> Result<Completed, MustWait> {
        let mut asked = Asked::default();
        asked.add(&lookups, &*self.lookups);
        self.ask(&mut asked).await;
        let done = self.complete(route, event, &Plan::LookUp(lookups), &asked);
        match &done {
            Err(wait) => self.note_wait(event.seq, wait),
            Ok(_) => self.goes_on(Some(event.seq)),
        }
        done
    }

    /// Asks for what is not at hand, each record once, some at a time.
    async fn ask(&self, asked: &mut Asked) {
        if asked.is_empty() {
            return;
        }
        let began = Instant::now();
        let mut asking: Vec<BoxFuture<'_, ()>> = Vec::new();
        for (key, open) in asked.open() {
            asking.push(Box::pin(async move {
                let patience = if open.waits { WAITING } else { PASSING };
                open.answer = Some(self.lookups.look_up(key, open.max_age, patience).await);
            }));
        }
        stream::iter(asking).buffer_unordered(AT_ONCE).for_each(|()| std::future::ready(())).await;
        self.seconds.record(began.elapsed());
        for answer in asked.answers() {
            match answer {
                Ok(found) => {
                    let counters = self.answered.iter().filter(|(answerer, _)| *answerer == found.answerer);
                    counters.for_each(|(_, counter)| counter.increment(1));
                }
                Err(_) => self.missed.increment(1),
            }
        }
    }

    fn complete(&self, route: &dyn Route, event: &Recorded, plan: &Plan, asked: &Asked) -> Result<Completed, MustWait> {
        let lookups = match plan {
            Plan::Done(decision) => return Ok(Completed { event: event.clone(), decision: decision.clone() }),
            Plan::LookUp(lookups) => lookups,
        };
        for (key, wanted) in lookups.keys().filter(|(_, wanted)| wanted.on_miss == OnMiss::Wait) {
            match asked.answer(key) {
                Some(Ok(_)) => {}
                Some(Err(LookUpError::NotNow { .. })) if planted(Mutant::WaitSkipped) => {}
                Some(Err(LookUpError::Never { why })) => {
                    let error = RouteError { what: format!("enrich.{}", wanted.name), why: why.clone() };
                    return Ok(Completed { event: event.clone(), decision: Err(error) });
                }
                Some(Err(LookUpError::NotNow { why, again_after })) => {
                    let pause = (*again_after).clamp(PAUSE.0, PAUSE.1);
                    return Err(MustWait { why: format!("enrich.{} waits: {why}", wanted.name), pause });
                }
                None => return Err(MustWait { why: format!("enrich.{} was not asked", wanted.name), pause: PAUSE.0 }),
            }
        }
        let found = |key: &RecordKey| asked.answer(key).and_then(|answer| answer.as_ref().ok()).cloned();
        let event = route.complete(event, lookups, &found, self.clock.now());
        let decision = route.decide_completed(&event, lookups);
        Ok(Completed { event, decision })
    }

    fn note_wait(&self, seq: Seq, wait: &MustWait) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.told.len() >= MOST_TOLD {
            waits.told.retain(|_, told| told.elapsed() < STALE);
        }
        if waits.told.is_empty() {
            tracing::warn!(sink = %self.sink, why = wait.why, "events wait for what is looked up for them");
        }
        if waits.told.len() < MOST_TOLD {
            waits.told.insert(seq, Instant::now());
        }
        waits.why.clone_from(&wait.why);
        self.waiting.set(1.0);
    }

    /// An event does not wait any more; or none does.
    fn goes_on(&self, seq: Option<Seq>) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.told.is_empty() {
            return;
        }
        match seq {
            Some(seq) => {
                waits.told.remove(&seq);
                // What was passed over meanwhile, by an operator's wish, never says that it goes on.
                waits.told.retain(|_, told| told.elapsed() < STALE);
            }
            None => waits.told.clear(),
        }
        if waits.told.is_empty() {
            self.waiting.set(0.0);
            tracing::info!(sink = %self.sink, "what is looked up is answered again");
        }
    }
}

impl Drop for Enricher {
    /// The sink starts anew, or elsewhere: what waits then says so itself.
    fn drop(&mut self) {
        self.waiting.set(0.0);
    }
}

#[cfg(test)]
#[path = "enrich_tests.rs"]
mod tests;
