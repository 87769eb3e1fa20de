//! The attempts that are under way. Each is made by a worker: a task that is kept, with its connection and its memory, for
//! the next one.
//!
//! With a task, timers, headers and a connection looked for anew, an attempt took a quarter more of this process's CPU
//! (ARCHITECTURE.md, "Why it is fast").

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tracing::{Instrument as _, Span};

use super::config::Endpoint;
use super::load::Load;
use super::outcome::{Ended, Finished, Nothing};
use super::pending::Start;
use super::request::Sender;
use crate::event::Shard;
use crate::event::ports::Route;
use crate::sink::enrich::Enricher;

/// What all attempts of a sink have in common.
pub(super) struct Means {
    pub sender: Sender,
    pub route: Arc<dyn Route>,
    pub enricher: Option<Arc<Enricher>>,
    pub shard: Shard,
}

/// One attempt, before it is made.
pub(super) struct Job {
    pub start: Start,
    pub endpoint: Arc<Endpoint>,
    /// Whether it shows if the endpoint is well again.
    pub probe: bool,
    /// What it is part of, where traces are sent.
    pub span: Span,
}

/// The right to give a worker one more job. Who has it knows that the worker waits, or has gone.
type Permit = oneshot::Sender<Job>;

/// The workers of a sink, and what they are at. Dropped, they end.
pub(super) struct Attempts {
    means: Arc<Means>,
    workers: JoinSet<()>,
    /// Of those that wait, the one that worked last at the end: those that are not needed close their connections.
    idle: Vec<Permit>,
    done: mpsc::Receiver<(Ended, Permit)>,
    tell: mpsc::Sender<(Ended, Permit)>,
    heard: Vec<(Ended, Permit)>,
    under_way: usize,
}

impl Attempts {
    /// None yet; about `most` at once.
    pub(super) fn new(means: Means, most: usize) -> Self {
        let (tell, done) = mpsc::channel(most.max(1));
        Self {
            means: Arc::new(means),
            workers: JoinSet::new(),
            idle: Vec::new(),
            done,
            tell,
            heard: Vec::new(),
            under_way: 0,
        }
    }

    /// How many are under way.
    pub(super) const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Begins one.
    pub(super) fn begin(&mut self, mut job: Job) {
        self.under_way += 1;
        while let Some(permit) = self.idle.pop() {
            match permit.send(job) {
                Ok(()) => return,
                Err(gone) => job = gone,
            }
        }
        self.workers.spawn(work(Arc::clone(&self.means), job, self.tell.clone()));
    }

    /// Waits until some have ended. Given up, it has taken none. Fails where a worker panicked.
    pub(super) async fn ended(&mut self) -> Result<Vec<Ended>, JoinError> {
        while self.heard.is_empty() {
            tokio::select! {
                biased;
                _ = self.done.recv_many(&mut self.heard, usize::MAX) => {}
                Some(gone) = self.workers.join_next() => gone?,
            }
        }
        self.under_way -= self.heard.len();
        let Self { idle, heard, .. } = self;
        Ok(heard
            .drain(..)
            .map(|(ended, permit)| {
                idle.push(permit);
                ended
            })
            .collect())
    }

    /// Cuts off what is under way.
    pub(super) async fn shutdown(&mut self) {
        self.workers.shutdown().await;
        self.under_way = 0;
    }
}

async fn work(means: Arc<Means>, mut job: Job, tell: mpsc::Sender<(Ended, Permit)>) {
    let mut sender = means.sender.clone();
    loop {
        let span = std::mem::replace(&mut job.span, Span::none());
        let ended = attempt(&means, &mut sender, job).instrument(span).await;
        let (permit, mut next) = oneshot::channel();
        if tell.send((ended, permit)).await.is_err() {
            return;
        }
        job = match sender.idle(&mut next).await {
            Some(Ok(more)) => more,
            Some(Err(_)) => return,
            None => {
                next.close();
                // It may have come in this moment.
                let Ok(last) = next.try_recv() else { return };
                last
            }
        };
    }
}

async fn attempt(means: &Means, sender: &mut Sender, job: Job) -> Ended {
    let Job { start: Start { seq, recorded_at, load }, endpoint, probe, .. } = job;
    let message = match load {
        Load::Message(message) => message,
        // On the heap: only where something is looked up is an attempt as large as that.
        load @ Load::LookUp(..) => {
            match Box::pin(load.message(&*means.route, means.enricher.clone(), means.shard)).await {
                Ok(message) => message,
                Err(unsent) => return Ended::Unsent(Nothing { seq, unsent, probe }),
            }
        }
    };
    fail::fail_point!("webhook::before_send");
    let answer = sender.attempt(&endpoint, message).await;
    fail::fail_point!("webhook::after_send");
    Ended::Sent(Finished { seq, recorded_at, answer, probe })
}

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
