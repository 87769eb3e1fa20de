//! A ledger in memory: what the recorder and the books do, without a database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

use crate::event::ports::{Dialect, LedgerError, PageOutcome, StreamBook, StreamRow, StreamState, Submission};
use crate::event::{AccountName, Event, Gap, Position, Rejected, StreamKey};

#[derive(Clone, Debug, Default)]
pub struct Twin(Arc<Mutex<Ledger>>);

#[derive(Debug, Default)]
pub struct Ledger {
    pub dialect: Option<Dialect>,
    pub rows: BTreeMap<StreamKey, StreamRow>,
    pub events: Vec<Event>,
    pub ids: BTreeSet<String>,
    pub rejected: Vec<Rejected>,
    pub gaps: Vec<Gap>,
    /// Every position that was committed, in order.
    pub committed: Vec<(StreamKey, Position)>,
    pub superseded: usize,
    /// So many openings fail.
    pub failing_opens: usize,
    pub states: Vec<StreamState>,
    /// Most submissions that waited at once.
    pub most_waiting: usize,
}

impl Twin {
    pub fn look(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap()
    }

    /// Records what comes, as long as `open` says so, and ends with its channel.
    pub async fn record(self, mut pages: mpsc::Receiver<Submission>, mut open: watch::Receiver<bool>) {
        loop {
            if open.wait_for(|open| *open).await.is_err() {
                return;
            }
            let Some(submission) = pages.recv().await else { return };
            if open.wait_for(|open| *open).await.is_err() {
                return;
            }
            let waiting = pages.len() + 1;
            let outcome = self.take(&submission);
            let most = self.look().most_waiting.max(waiting);
            self.look().most_waiting = most;
            drop(submission.settled.send(outcome));
        }
    }

    fn take(&self, submission: &Submission) -> PageOutcome {
        let mut ledger = self.look();
        let page = &submission.page;
        let row = ledger.rows.get_mut(&page.stream).expect("opened before");
        if row.position != page.from || row.state == StreamState::Paused {
            let at = row.position.clone();
            ledger.superseded += 1;
            return PageOutcome::Superseded { at };
        }
        row.position = page.to.clone();
        row.position_at = page.fetched_at;
        row.top = page.top;
        ledger.committed.push((page.stream.clone(), page.to.clone()));
        for event in &page.events {
            if ledger.ids.insert(event.id.to_string()) {
                ledger.events.push(event.clone());
            }
        }
        ledger.rejected.extend(page.rejected.iter().cloned());
        ledger.gaps.extend(page.gap.clone());
        PageOutcome::Recorded
    }

    /// What `streams seek` does.
    pub fn seek(&self, key: &StreamKey, position: &Position) {
        self.look().rows.get_mut(key).expect("opened before").position = position.clone();
    }

    /// What `streams pause` and `resume` do.
    pub fn put(&self, key: &StreamKey, state: StreamState) {
        self.look().rows.get_mut(key).expect("opened before").state = state;
    }
}

impl StreamBook for Twin {
    async fn dialect(&self, _account: &AccountName) -> Result<Option<Dialect>, LedgerError> {
        Ok(self.look().dialect)
    }

    async fn keep_dialect(&self, _account: &AccountName, dialect: Dialect) -> Result<(), LedgerError> {
        self.look().dialect = Some(dialect);
        Ok(())
    }

    async fn open(&self, key: &StreamKey, start: &Position) -> Result<StreamRow, LedgerError> {
        let row = || StreamRow {
            key: key.clone(),
            position: start.clone(),
            position_at: OffsetDateTime::UNIX_EPOCH,
            top: false,
            state: StreamState::Active,
        };
        let mut ledger = self.look();
        if let Some(left) = ledger.failing_opens.checked_sub(1) {
            ledger.failing_opens = left;
            return Err(LedgerError::Unavailable { doing: "opening a stream", source: "the answer is lost".into() });
        }
        Ok(ledger.rows.entry(key.clone()).or_insert_with(row).clone())
    }

    async fn streams(&self, _account: &AccountName) -> Result<Vec<StreamRow>, LedgerError> {
        Ok(self.look().rows.values().cloned().collect())
    }

    async fn set_state(&self, key: &StreamKey, state: StreamState, _detail: &str) -> Result<(), LedgerError> {
        let mut ledger = self.look();
        ledger.states.push(state);
        let row = ledger.rows.get_mut(key).expect("opened before");
        if row.state != StreamState::Paused {
            row.state = state;
        }
        Ok(())
    }
}
