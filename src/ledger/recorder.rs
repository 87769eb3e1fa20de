//! The one writer of a shard: takes what is waiting, records it in one call, answers, publishes.
//!
//! One commit is in flight at a time; what the sources send meanwhile waits in their bounded channel and is the next
//! group. Nothing is published, and no source is answered, before the commit is known to have happened.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info_span, warn};

use super::database::{failed, is_data_exception, seq_from_db, within};
use super::open::Ledger;
use super::plan::{Answer, Draft, Element, Kind, Known};
use super::resequenced::Resequenced;
use super::store::{Doubt, Standing, Store};
use super::streams::{position, printable};
use crate::event::ports::{LedgerError, Ownership, PageOutcome, Publish, Submission};
use crate::event::{AccountName, Batch, Chain, Recorded, Room, Seq};
use crate::telemetry::metrics::{GAPS_TOTAL, LEDGER_COMMIT_SECONDS, LEDGER_EVENTS_TOTAL};

/// A commit takes what is waiting until it has this many events or bytes, and always at least one page.
const GROUP_EVENTS: usize = 5_000;
const GROUP_BYTES: usize = 8 << 20;
/// How often the operators' wishes are looked at, idle or not.
const WISHES_EVERY: Duration = Duration::from_secs(1);
/// How long a commit in doubt is asked about before the shard is started anew.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
const DOING: &str = "recording";

/// Records pages under one ownership of one shard.
#[derive(Debug)]
pub struct Recorder<S: Store = Ledger> {
    store: S,
    owner: Ownership,
    head: Seq,
    chain: Chain,
    kept: S::Kept,
    resequenced: Resequenced,
    wishes_at: Instant,
}

/// A page whose source waits.
struct Waiting {
    step: usize,
    settled: oneshot::Sender<PageOutcome>,
    room: Room,
}

/// What a commit did.
struct Committed {
    at: OffsetDateTime,
    known: HashMap<usize, Known>,
    chain: Chain,
}

impl<S: Store> Recorder<S> {
    /// Starts from the head and the chain that the ledger has now; fails when the epoch is over.
    pub async fn open(store: &S, owner: Ownership) -> Result<Self, LedgerError> {
        let Standing { epoch, head, chain } = store.standing(owner.shard).await?;
        if epoch != owner.epoch {
            return Err(fenced(owner, format!("its epoch is {epoch}, ours is {}", owner.epoch)));
        }
        Ok(Self {
            store: store.clone(),
            owner,
            head,
            chain,
            kept: S::Kept::default(),
            resequenced: Resequenced::default(),
            wishes_at: Instant::now(),
        })
    }

    /// The newest event and the chain there.
    #[must_use]
    pub const fn head(&self) -> (Seq, Chain) {
        (self.head, self.chain)
    }

    /// Records until `pages` is closed (then everything in it is recorded) or `stop` is cancelled (then the group in
    /// hand is). An error ends the ownership: its disposition says how to go on.
    pub async fn run(
        mut self,
        mut pages: mpsc::Receiver<Submission>,
        publish: impl Publish,
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => return self.close().await,
                () = tokio::time::sleep_until(self.wishes_at) => None,
                page = pages.recv() => match page {
                    Some(page) => Some(page),
                    None => return self.close().await,
                },
            };
            let mut draft = Draft::default();
            if Instant::now() >= self.wishes_at {
                self.wishes(&mut draft).await?;
                self.wishes_at = Instant::now() + WISHES_EVERY;
            }
            let waiting = self.gather(first, &mut pages, &mut draft).await?;
            if !draft.steps.is_empty() || !draft.elements.is_empty() {
                let (pages, events) = (waiting.len(), draft.elements.len());
                let span = info_span!(parent: None, "record", shard = %self.owner.shard, pages, events);
                self.commit(draft, waiting, &publish).instrument(span).await?;
            }
        }
    }

    async fn close(self) -> Result<(), LedgerError> {
        self.store.close(self.kept).await
    }

    async fn wishes(&mut self, draft: &mut Draft) -> Result<(), LedgerError> {
        let wishes = self.store.wished(self.owner.shard).await?;
        if !wishes.is_empty() {
            debug!(shard = %self.owner.shard, "carrying out what operators wished");
        }
        // First, so that pages from before a seek find the stream elsewhere.
        for seek in wishes.seeks {
            draft.step(seek);
        }
        draft.elements.extend(wishes.elements);
        Ok(())
    }

    async fn gather(
        &self,
        first: Option<Submission>,
        pages: &mut mpsc::Receiver<Submission>,
        draft: &mut Draft,
    ) -> Result<Vec<Waiting>, LedgerError> {
        let mut waiting = Vec::new();
        let (mut events, mut bytes) = (0, 0);
        let mut next = first.or_else(|| pages.try_recv().ok());
        while let Some(Submission { page, room, settled }) = next {
            let Some(numbers) = self.store.stream(&page.stream).await? else {
                return Err(LedgerError::Refused {
                    doing: "recording a page",
                    why: format!("the stream {} was never opened", page.stream),
                });
            };
            events += page.events.len();
            bytes += page.size();
            waiting.push(Waiting { step: draft.page(page, numbers), settled, room });
            next = if events < GROUP_EVENTS && bytes < GROUP_BYTES { pages.try_recv().ok() } else { None };
        }
        let types = self.store.types(&draft.elements).await?;
        draft.number_types(&types);
        Ok(waiting)
    }

    async fn commit(
        &mut self,
        mut draft: Draft,
        waiting: Vec<Waiting>,
        publish: &impl Publish,
    ) -> Result<(), LedgerError> {
        let started = Instant::now();
        let before = (self.head, self.chain);
        let mut late = None;
        if let Some(committed) = self.record(&mut draft).await? {
            histogram!(LEDGER_COMMIT_SECONDS, "shard" => self.owner.shard.to_string()).record(started.elapsed());
            failpoint("ledger::after_commit").await;
            self.count(&draft, &committed);
            let batch = self.batch(draft.elements, &committed, before)?;
            late = (!batch.events.is_empty()).then(|| publish.publish(Arc::new(batch)));
        }
        for Waiting { step, settled, room } in waiting {
            let outcome = match draft.steps[step].superseded.take() {
                Some(at) => PageOutcome::Superseded { at },
                None => PageOutcome::Recorded,
            };
            // A source that went away meanwhile reads its position from the ledger when it comes back.
            drop(settled.send(outcome));
            drop(room);
        }
        // The sources fetch meanwhile.
        if let Some(late) = late {
            late.await;
        }
        Ok(())
    }

    /// Calls until everything that can be recorded is; each call that writes nothing names what to leave out.
    async fn record(&mut self, draft: &mut Draft) -> Result<Option<Committed>, LedgerError> {
        while !draft.is_empty() {
            failpoint("ledger::before_commit").await;
            match self.call(draft).await {
                Ok(answer) if answer.outcome == "recorded" => {
                    self.head = seq_from_db(answer.head.unwrap_or_default());
                    self.chain = super::read::chain(answer.chain.as_deref().unwrap_or_default(), DOING)?;
                    let known = answer.known();
                    let at = answer.recorded_at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
                    return Ok(Some(Committed { at, known, chain: self.chain }));
                }
                Ok(answer) if answer.outcome == "superseded" => {
                    for (stream, at) in answer.superseded.iter().zip(answer.superseded_at) {
                        draft.leave_out(*stream, at.map(position).as_ref());
                    }
                }
                Ok(answer) => return Err(self.lost(answer.epoch, answer.head.map(seq_from_db))),
                Err(Doubt::Elsewhere(error)) => return Err(error),
                Err(Doubt::Nothing(error)) if is_data_exception(&error) => self.set_aside(draft, &error).await?,
                Err(Doubt::Nothing(error)) => return Err(failed(DOING)(error)),
                Err(Doubt::Unknown(error)) => {
                    warn!(
                        shard = %self.owner.shard,
                        error = &error as &dyn std::error::Error,
                        "a commit's answer is lost; asking the ledger"
                    );
                    failpoint("ledger::in_doubt").await;
                    if let Some(committed) = self.settle(draft).await? {
                        return Ok(Some(committed));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn call(&mut self, draft: &Draft) -> Result<Answer, Doubt> {
        let limit = super::database::CALL_LIMIT;
        let call = self.store.record(&mut self.kept, draft, self.owner, (self.head, self.chain));
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Doubt::Unknown(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))),
        }
    }

    /// Sets aside the one element whose content the server refuses (INV-5).
    async fn set_aside(&mut self, draft: &mut Draft, error: &sqlx::Error) -> Result<(), LedgerError> {
        let (at, words) = self.store.refused(&draft.elements, error).await?;
        warn!(shard = %self.owner.shard, reason = %words, "an element is set aside");
        draft.refuse(at, printable(&format!("PostgreSQL refuses it: {words}"), 1024));
        Ok(())
    }

    /// Learns what became of a call whose answer is lost. The row's lock waits for the old backend.
    async fn settle(&mut self, draft: &Draft) -> Result<Option<Committed>, LedgerError> {
        let until = Instant::now() + SETTLE_LIMIT;
        loop {
            match within("settling a commit in doubt", self.settle_once(draft)).await {
                Err(LedgerError::Unavailable { .. }) if Instant::now() < until => {
                    tokio::time::sleep(SETTLE_PAUSE).await;
                }
                settled => return settled,
            }
        }
    }

    async fn settle_once(&mut self, draft: &Draft) -> Result<Option<Committed>, LedgerError> {
        let (Standing { epoch, head, chain }, rows) = self.store.settled(self.owner.shard, self.head).await?;
        if epoch != self.owner.epoch || head < self.head || (head == self.head && chain != self.chain) {
            return Err(self.lost(Some(epoch.0), Some(head)));
        }
        if head == self.head {
            // It did not commit, or had nothing new: calling again is safe in both cases.
            return Ok(None);
        }
        let mut at = OffsetDateTime::UNIX_EPOCH;
        let mut rows = rows.into_iter().peekable();
        let mut known = HashMap::new();
        for (index, element) in draft.elements.iter().enumerate() {
            let of = element.replay.as_ref().map(|replay| replay.of);
            let ours = rows.next_if(|row| {
                row.event_id == *element.event.id
                    && row.content_hash == element.event.content_hash
                    && row.replay_of == of
            });
            match ours {
                Some(row) => at = row.recorded_at,
                // Its seq is not looked up: nobody asks for it after the fact.
                None => drop(known.insert(index, Known { seq: Seq::ZERO, content_hash: element.event.content_hash })),
            }
        }
        if rows.next().is_some() {
            return Err(moved(self.owner, "somebody else recorded under our epoch".to_owned()));
        }
        (self.head, self.chain) = (head, chain);
        Ok(Some(Committed { at, known, chain }))
    }

    /// Why the ledger refuses this owner: the epoch is over, or it is ours still and the shard is elsewhere.
    fn lost(&self, epoch: Option<i64>, head: Option<Seq>) -> LedgerError {
        let owner = self.owner;
        if epoch == Some(owner.epoch.0) {
            return moved(
                owner,
                format!("it is at seq {head:?}, or its chain is another; our last commit ended at {}", self.head),
            );
        }
        fenced(owner, format!("its epoch is {epoch:?}, ours is {}", owner.epoch))
    }

    fn count(&mut self, draft: &Draft, committed: &Committed) {
        let mut counts = Counts::default();
        for (index, Element { event, kind, .. }) in draft.elements.iter().enumerate() {
            let known = committed.known.get(&index);
            let result = match known {
                None => "new",
                Some(first) if first.content_hash == event.content_hash => "duplicate",
                Some(first) => {
                    warn!(
                        account = %event.account,
                        event_id = %event.id,
                        kept_seq = %first.seq,
                        kept = %first.content_hash,
                        other = %event.content_hash,
                        "an event came again under its id with other content; the first one stays"
                    );
                    "conflicting"
                }
            };
            counts.add(&event.account, result, 1);
            if *kind == Kind::Event && known.is_none() && self.resequenced.is_again(event) {
                counts.add(&event.account, "resequenced", 1);
            }
        }
        for (_, step) in draft.taken() {
            counts.add(&step.key.account, "rejected", step.rejected.len() as u64);
            if let Some((gap, _)) = &step.gap {
                counter!(GAPS_TOTAL, "reason" => gap.reason.as_str()).increment(1);
                warn!(stream = %step.key, reason = gap.reason.as_str(), detail = gap.detail, "a gap is recorded");
            }
        }
        for (account, result, count) in counts.0 {
            counter!(LEDGER_EVENTS_TOTAL, "account" => account.to_string(), "result" => result).increment(count);
        }
    }

    fn batch(
        &self,
        elements: Vec<Element>,
        committed: &Committed,
        (after, chain_before): (Seq, Chain),
    ) -> Result<Batch, LedgerError> {
        let mut batch = Batch {
            shard: self.owner.shard,
            after,
            chain_before,
            void: None,
            events: Vec::with_capacity(elements.len()),
        };
        for (index, Element { event, replay, .. }) in elements.into_iter().enumerate() {
            if committed.known.contains_key(&index) {
                continue;
            }
            let seq = batch.to().next();
            let chain = batch.chain().link(seq, &event.id, &event.content_hash);
            batch.events.push(Recorded {
                seq,
                chain,
                account: event.account,
                event_type: event.event_type,
                id: event.id,
                record_id: event.record_id,
                occurred_at: event.occurred_at,
                recorded_at: committed.at,
                content_hash: event.content_hash,
                body: event.body,
                replay,
            });
        }
        if batch.to() == self.head && batch.chain() == committed.chain {
            return Ok(batch);
        }
        Err(moved(
            self.owner,
            format!("the commit ends at seq {}, ours at {}, or its chain is another", self.head, batch.to()),
        ))
    }
}

/// Events of one commit by account and result: a handful, mostly the same one again.
#[derive(Default)]
struct Counts<'d>(Vec<(&'d AccountName, &'static str, u64)>);

impl<'d> Counts<'d> {
    fn add(&mut self, account: &'d AccountName, result: &'static str, more: u64) {
        match self.0.iter_mut().find(|(of, is, _)| *of == account && *is == result) {
            Some((_, _, count)) => *count += more,
            None => self.0.push((account, result, more)),
        }
    }
}

fn moved(owner: Ownership, why: String) -> LedgerError {
    LedgerError::Moved { shard: owner.shard, why }
}

fn fenced(owner: Ownership, why: String) -> LedgerError {
    LedgerError::Fenced { shard: owner.shard, why }
}

/// A place at which a test build can be made to wait, fail or die; apart from the runtime's threads, because it blocks.
#[cfg_attr(not(feature = "failpoints"), expect(clippy::unused_async, reason = "it waits in a test build alone"))]
async fn failpoint(name: &'static str) {
    #[cfg(feature = "failpoints")]
    if fail::list().iter().any(|(armed, _)| armed == name)
        && let Err(died) = tokio::task::spawn_blocking(move || fail::fail_point!(name)).await
        && died.is_panic()
    {
        std::panic::resume_unwind(died.into_panic());
    }
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}
