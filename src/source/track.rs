use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::meter::Meter;
use super::{Shared, SourceError};
use crate::event::ports::{PageOutcome, StreamBook, StreamRow, StreamState};
use crate::event::{Position, StreamKey};
use crate::telemetry::causes;

/// Where a stream is: what is committed, what is on its way to the ledger, and from where to poll next.
pub(super) struct Track<B> {
    pub shared: Arc<Shared<B>>,
    pub key: StreamKey,
    pub meter: Arc<Meter>,
    /// The stream as the ledger held it when it was last looked at, with what was committed since.
    pub row: StreamRow,
    /// From where to poll: the position of the last submitted page.
    pub next: Position,
    pub inflight: VecDeque<Inflight>,
    pub orders: Orders,
    /// Set when the ledger seemed to hold another position while pages were on their way.
    doubt: bool,
}

/// A page on its way.
pub(super) struct Inflight {
    pub settled: oneshot::Receiver<PageOutcome>,
    pub from: Position,
    pub to: Position,
    pub top: bool,
    /// Up to when everything is recorded once it is, where the page tells.
    pub anchor: Option<OffsetDateTime>,
}

/// What comes to a stream from outside.
#[derive(Clone)]
pub(super) struct Orders {
    /// The stream as the ledger held it a moment ago.
    pub rows: watch::Receiver<Option<StreamRow>>,
    /// Whether the ledger's backlog is full.
    pub backlog_full: watch::Receiver<bool>,
    pub stop: CancellationToken,
}

/// Why work was left.
pub(super) enum Interrupt {
    /// The source is asked to end.
    Stop,
    /// The stream cannot go on at all.
    Failed(SourceError),
    /// A page was left out: the ledger holds the stream elsewhere.
    Superseded,
    /// An operator paused the stream or put it elsewhere.
    Moved(StreamRow),
    /// The ledger takes nothing for now.
    BacklogFull,
}

impl<B: StreamBook> Track<B> {
    pub fn new(shared: Arc<Shared<B>>, meter: Arc<Meter>, row: StreamRow, orders: Orders) -> Self {
        let (key, next) = (row.key.clone(), row.position.clone());
        Self { shared, key, meter, row, next, inflight: VecDeque::new(), orders, doubt: false }
    }

    /// Goes on from what the ledger holds; pages on their way were left out or will be.
    pub fn adopt(&mut self, row: StreamRow) {
        self.inflight.clear();
        self.doubt = false;
        self.next = row.position.clone();
        self.row = row;
    }

    /// Does `work` while settling pages and listening to orders; leaves it where going on would be in vain.
    pub async fn watch<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        tokio::pin!(work);
        loop {
            let stop = self.orders.stop.clone();
            let looked = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Interrupt::Stop),
                outcome = front(&mut self.inflight) => {
                    self.settle(outcome.as_ref())?;
                    self.inflight.is_empty() && self.doubt
                }
                changed = self.orders.rows.changed() => {
                    changed.map_err(|_| Interrupt::Stop)?;
                    self.is_suspicious()
                }
                changed = self.orders.backlog_full.changed() => {
                    changed.map_err(|_| Interrupt::Stop)?;
                    if *self.orders.backlog_full.borrow() {
                        return Err(Interrupt::BacklogFull);
                    }
                    false
                }
                done = &mut work => return Ok(done),
            };
            if looked {
                self.look_again().await?;
            }
        }
    }

    /// Waits until at most `most` pages are on their way.
    pub async fn settle_down_to(&mut self, most: usize) -> Result<(), Interrupt> {
        while self.inflight.len() > most {
            let stop = self.orders.stop.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Interrupt::Stop),
                outcome = front(&mut self.inflight) => self.settle(outcome.as_ref())?,
            }
        }
        Ok(())
    }

    fn settle(&mut self, outcome: Option<&PageOutcome>) -> Result<(), Interrupt> {
        match outcome {
            Some(PageOutcome::Recorded) => {
                if let Some(page) = self.inflight.pop_front() {
                    self.row.position = page.to;
                    self.row.top = page.top;
                    self.meter.committed(page.anchor, page.top);
                }
                Ok(())
            }
            Some(PageOutcome::Superseded { .. }) => Err(Interrupt::Superseded),
            None => Err(Interrupt::Failed(SourceError::RecorderGone)),
        }
    }

    /// Whether the ledger seems to hold the stream where it should not be. Not certain: the row may be older than
    /// what was committed since.
    fn is_suspicious(&mut self) -> bool {
        let rows = self.orders.rows.borrow_and_update();
        let Some(row) = rows.as_ref() else { return false };
        let stands_still = |state| matches!(state, StreamState::Paused | StreamState::Halted);
        if stands_still(row.state) != stands_still(self.row.state) {
            return true;
        }
        let known = |position: &Position| {
            *position == self.row.position
                || self.inflight.iter().any(|page| page.from == *position || page.to == *position)
        };
        let elsewhere = !known(&row.position);
        self.doubt |= elsewhere && !self.inflight.is_empty();
        elsewhere && self.inflight.is_empty()
    }

    /// Looks at the ledger itself, so that only a true change interrupts anything.
    async fn look_again(&mut self) -> Result<(), Interrupt> {
        self.doubt = false;
        let Ok(row) = self.shared.open(&self.key).await else { return Ok(()) };
        let stands_still = matches!(row.state, StreamState::Paused | StreamState::Halted);
        let moved = self.inflight.is_empty() && row.position != self.row.position;
        if moved || stands_still != matches!(self.row.state, StreamState::Paused | StreamState::Halted) {
            return Err(Interrupt::Moved(row));
        }
        Ok(())
    }

    /// Waits until the stream may be polled: neither paused nor halted, and the ledger takes pages.
    pub async fn may_poll(&mut self) -> Result<(), Interrupt> {
        if matches!(self.row.state, StreamState::Paused | StreamState::Halted) {
            let state = self.row.state;
            tracing::info!(stream = %self.key, state = state.as_str(), "not polled until an operator says so");
            loop {
                // A change is told once, and perhaps before this stream stood still, or while the ledger failed: looked at
                // without being told, or a stream that was resumed would stand still for good.
                self.pause(self.shared.pace.look).await?;
                if self.is_suspicious() {
                    self.look_again().await?;
                }
            }
        }
        let mut full = self.orders.backlog_full.clone();
        if *full.borrow() {
            self.settle_down_to(0).await?;
        }
        let stop = self.orders.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Interrupt::Stop),
            free = full.wait_for(|full| !full) => free.map(drop).map_err(|_| Interrupt::Stop),
        }
    }

    /// Sleeps, but for what [`Track::watch`] listens to.
    pub async fn pause(&mut self, wait: Duration) -> Result<(), Interrupt> {
        self.watch(tokio::time::sleep(wait)).await
    }

    /// Tells, or takes back, that polls have been failing for a while.
    pub fn note_failing(&self, why: Option<String>) {
        self.shared.status.note(&self.key.account, |account| {
            if let Some(status) = account.streams.get_mut(&self.key.stream) {
                status.failing = why;
            }
        });
    }

    /// Notes what the stream is doing, where that is news.
    pub async fn set_state(&mut self, state: StreamState, detail: &str) {
        self.shared.status.note(&self.key.account, |account| {
            if let Some(status) = account.streams.get_mut(&self.key.stream) {
                status.state = state;
                detail.clone_into(&mut status.detail);
            }
        });
        if self.row.state != state {
            match self.shared.book.set_state(&self.key, state, detail).await {
                Ok(()) => self.row.state = state,
                // Tried again with the next page; the state is a note, not what the stream goes by.
                Err(error) => {
                    tracing::warn!(stream = %self.key, error = causes(&error), "cannot note the state");
                }
            }
        }
    }
}

/// The outcome of the oldest page on its way; never, when there is none.
async fn front(inflight: &mut VecDeque<Inflight>) -> Option<PageOutcome> {
    match inflight.front_mut() {
        Some(page) => (&mut page.settled).await.ok(),
        None => std::future::pending().await,
    }
}
