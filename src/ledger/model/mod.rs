//! A ledger in memory, for simulations: the same ports, the same promises (`tests/it/ledger` asks both).
//!
//! It does at once, under one lock a shard, what PostgreSQL does in one transaction. What lies between, the network and
//! its failures, is a [`Wire`] that the simulation holds in its hand: a call may be late, be lost, be carried out after its
//! caller has given up, or be carried out and not answered. It can be put back to what it was ([`Model::restore`]).
//! Of operators' wishes only replays, of retention nothing is modelled.

mod books;
mod owner;
mod record;
mod rehydrate;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::budgets::Book;
use super::database::within;
use super::grants::Kept;
use crate::clock::Clock;
use crate::event::ports::{
    AuditNote, ChainAt, Delivered, Dialect, LedgerError, NewDeadLetter, Ownership, Rehydration, SinkRow, SinkState,
    StreamRow,
};
use crate::event::{
    AccountName, Chain, ContentHash, DedupeKey, Epoch, EventType, Failures, Gap, LedgerId, Position, Recorded,
    Rejected, Replay, Seq, Shard, SinkName, StreamKey, Void,
};
use crate::mutant::{Mutant, planted};

/// A call that was not answered: whether it was carried out cannot be told.
#[derive(Clone, Copy, Debug)]
pub struct Lost;

/// What a call does on the server's side.
pub type Work = Box<dyn FnOnce() + Send>;

/// How calls reach the ledger.
pub trait Wire: Send + Sync + 'static {
    /// Carries a call out, now, later or never, and says whether its answer arrives. The caller may go away meanwhile.
    fn carry(&self, doing: &'static str, work: Work) -> BoxFuture<'static, Result<(), Lost>>;
}

/// A wire without length.
#[derive(Clone, Copy, Debug)]
pub struct Direct;

impl Wire for Direct {
    fn carry(&self, _: &'static str, work: Work) -> BoxFuture<'static, Result<(), Lost>> {
        work();
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The ledger. Cheap to clone; all clones are the same ledger.
#[derive(Clone)]
pub struct Model {
    id: LedgerId,
    shards: Arc<[Mutex<State>]>,
    database: Arc<Mutex<Database>>,
    /// In which database the present owners of one process began.
    homes: Arc<Mutex<BTreeMap<Shard, u64>>>,
    wire: Arc<dyn Wire>,
    clock: Clock,
    lease_ttl: Duration,
}

/// Where the ledger lives, and which accounts it has seen.
#[derive(Debug, Default)]
struct Database {
    /// Counts the databases: a restored ledger lives in another one.
    number: u64,
    accounts: Vec<AccountName>,
}

/// What the ledger holds of a shard.
#[derive(Clone, Debug)]
pub struct State {
    /// Which ledger it is.
    pub id: LedgerId,
    /// The database that its last owner noted.
    pub home: Option<String>,
    /// Counts the owners.
    pub epoch: Epoch,
    /// Who holds the shard, and until when.
    pub lease: Option<(Uuid, OffsetDateTime)>,
    /// Every event ever recorded; `oldest` says from where on they are kept.
    pub events: Vec<Recorded>,
    /// Seqs without an event: the one before them, and what stands at their end.
    pub voids: Vec<(Seq, Void)>,
    /// The ways back of sinks, and whether each is done.
    pub ways: Vec<(SinkName, Rehydration, bool)>,
    /// What sinks have delivered and the ledger has lost.
    pub skips: BTreeMap<(SinkName, Delivered), Seq>,
    /// Replays that sinks wished for on their way back, and under which seqs they were recorded.
    pub replays: Vec<(Replay, Recorded, Option<Seq>)>,
    /// The oldest event kept.
    pub oldest: Seq,
    /// The streams.
    pub streams: BTreeMap<StreamKey, Stream>,
    /// The sinks.
    pub sinks: BTreeMap<SinkName, Sink>,
    /// The rows of webhook sinks.
    pub deliveries: BTreeMap<(SinkName, Seq), Delivery>,
    /// Events that sinks gave up on.
    pub dead_letters: BTreeMap<(SinkName, Seq), NewDeadLetter>,
    /// Holes of streams.
    pub gaps: Vec<(StreamKey, Gap)>,
    /// Holes of sinks.
    pub sink_gaps: Vec<(SinkName, Seq, Seq)>,
    /// Elements that were no events.
    pub rejected: Vec<Rejected>,
    /// How often an id came again with other content.
    pub conflicts: usize,
    /// The epoch that the last write named, and the one that held then.
    pub written: Option<(Epoch, Epoch)>,
    /// The budgets of accounts.
    budgets: BTreeMap<AccountName, Book>,
    /// The OAuth grants of accounts.
    grants: BTreeMap<AccountName, Kept>,
    /// What audits noted.
    pub audits: Vec<(SinkName, AuditNote)>,
    /// The last call that was refused for a reason that only a person can remove.
    pub refused: Option<String>,
    /// A page that was recorded from elsewhere: the stream, from where it was polled, and where the stream was.
    pub misstep: Option<(StreamKey, Position, Position)>,
    ids: HashMap<DedupeKey, (Seq, ContentHash)>,
    types: BTreeMap<EventType, i32>,
    dialects: BTreeMap<AccountName, Dialect>,
    failures: BTreeMap<SinkName, Failures>,
    /// Seqs given for nothing ([`Mutant::SequenceObject`]).
    burnt: u64,
}

/// A stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// As the ports show it.
    pub row: StreamRow,
    number: i32,
}

/// A sink's row.
#[derive(Clone, Debug)]
pub struct Sink {
    /// As the ports show it.
    pub row: SinkRow,
    /// By which rules it delivers, and what it had taken before.
    pub rules: Option<(String, Seq)>,
    /// What it reported last, with its error.
    pub reported: Option<(SinkState, Option<String>)>,
}

/// A delivery that is not simply done.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its event, whole.
    pub event: Recorded,
    /// Counts its changes.
    pub version: i64,
    /// Attempts that failed.
    pub attempts: u32,
    /// When the next one is due.
    pub due_at: OffsetDateTime,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

impl Model {
    /// An empty ledger of one shard, whose own clock is `clock`.
    #[must_use]
    pub fn new(id: LedgerId, clock: Clock, lease_ttl: Duration) -> Self {
        Self::with_shards(id, 1, clock, lease_ttl)
    }

    /// An empty ledger.
    #[must_use]
    pub fn with_shards(id: LedgerId, shards: u16, clock: Clock, lease_ttl: Duration) -> Self {
        let shards = (0..shards).map(|_| Mutex::new(State::new(id))).collect();
        Self { id, shards, database: Arc::default(), homes: Arc::default(), wire: Arc::new(Direct), clock, lease_ttl }
    }

    /// The same ledger at the end of another wire, of another process.
    #[must_use]
    pub fn over(&self, wire: impl Wire) -> Self {
        Self { wire: Arc::new(wire), homes: Arc::default(), ..self.clone() }
    }

    /// What it holds now of a shard, without a wire.
    ///
    /// # Panics
    /// Where there is no such shard.
    pub fn look(&self, shard: Shard) -> MutexGuard<'_, State> {
        self.shards[usize::from(shard.0)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it holds now: a backup.
    #[must_use]
    pub fn backup(&self) -> Vec<State> {
        self.shards.iter().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// Puts it back to a backup, in another database: calls that are under way were made to the one before.
    pub fn restore(&self, backup: &[State]) {
        self.database().number += 1;
        for (state, kept) in self.shards.iter().zip(backup) {
            state.lock().unwrap_or_else(PoisonError::into_inner).clone_from(kept);
        }
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard of an account: given at its first sight, to each shard in turn.
    fn home_of(&self, account: &AccountName) -> Shard {
        let mut database = self.database();
        let at = database.accounts.iter().position(|known| known == account).unwrap_or_else(|| {
            database.accounts.push(account.clone());
            database.accounts.len() - 1
        });
        Shard(u16::try_from(at % self.shards.len()).unwrap_or(0))
    }

    fn homes(&self) -> MutexGuard<'_, BTreeMap<Shard, u64>> {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call, bounded as every call of the ledger is.
    async fn call<T: Send + 'static>(
        &self,
        doing: &'static str,
        shard: Shard,
        work: impl FnOnce(&mut State) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        if usize::from(shard.0) >= self.shards.len() {
            let why = format!("the model has no shard {shard}");
            return Err(LedgerError::Refused { doing: "looking up a shard", why });
        }
        let answered = async {
            self.carry(doing, shard, work)
                .await
                .map_err(|Lost| LedgerError::Unavailable { doing, source: "the connection broke".into() })?
        };
        within(doing, answered).await
    }

    async fn carry<T: Send + 'static>(
        &self,
        doing: &'static str,
        shard: Shard,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let (answer, answered) = oneshot::channel();
        let (model, database) = (self.clone(), self.database().number);
        let work = Box::new(move || {
            // A connection ends with its database.
            if model.database().number == database {
                let done = work(&mut model.look(shard));
                // Nobody waits for the answer of a call whose caller has gone away.
                drop(answer.send(done));
            }
        });
        self.wire.carry(doing, work).await?;
        answered.await.map_err(|_| Lost)
    }

    /// Refuses a database that is not the one that the shard's owner began on. A connection ends with its database, so that
    /// this is the one that is written to.
    fn at_home(&self, shard: Shard) -> Result<(), LedgerError> {
        let (known, database) = (self.homes().get(&shard).copied(), self.database().number);
        match known {
            Some(known) if known != database => {
                Err(LedgerError::Moved { shard, why: "the ledger lives in another database now".to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// A write of an owner: only under its epoch (INV-6).
    async fn write<T: Send + 'static>(
        &self,
        doing: &'static str,
        owner: Ownership,
        work: impl FnOnce(&mut State) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let at_home = self.at_home(owner.shard);
        self.call(doing, owner.shard, move |state| {
            if state.epoch != owner.epoch && !planted(Mutant::EpochUnchecked) {
                return Err(fenced(owner));
            }
            at_home?;
            let done = work(state);
            if let Err(error @ LedgerError::Refused { .. }) = &done {
                state.refused = Some(error.to_string());
            }
            let done = done?;
            state.written = Some((owner.epoch, state.epoch));
            Ok(done)
        })
        .await
    }
}

impl State {
    fn new(id: LedgerId) -> Self {
        Self {
            id,
            home: None,
            epoch: Epoch(0),
            lease: None,
            events: Vec::new(),
            voids: Vec::new(),
            ways: Vec::new(),
            skips: BTreeMap::new(),
            replays: Vec::new(),
            oldest: Seq(1),
            streams: BTreeMap::new(),
            sinks: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            dead_letters: BTreeMap::new(),
            gaps: Vec::new(),
            sink_gaps: Vec::new(),
            rejected: Vec::new(),
            conflicts: 0,
            written: None,
            budgets: BTreeMap::new(),
            grants: BTreeMap::new(),
            audits: Vec::new(),
            refused: None,
            misstep: None,
            ids: HashMap::new(),
            types: BTreeMap::new(),
            dialects: BTreeMap::new(),
            failures: BTreeMap::new(),
            burnt: 0,
        }
    }

    /// The newest event.
    #[must_use]
    pub fn head(&self) -> Seq {
        let last = self.events.last().map_or(Seq::ZERO, |last| last.seq);
        self.voids.last().map_or(last, |(_, void)| last.max(void.to))
    }

    /// The chain at `head`.
    #[must_use]
    pub fn chain(&self) -> Chain {
        let last = self.events.last().map_or((Seq::ZERO, Chain::start(self.id)), |last| (last.seq, last.chain));
        self.voids.last().filter(|(_, void)| void.to > last.0).map_or(last.1, |(_, void)| void.chain)
    }

    /// The void that begins after `seq` or has begun before it and reaches beyond it.
    #[must_use]
    pub fn void_after(&self, seq: Seq) -> Option<Void> {
        self.voids.iter().find(|(before, void)| *before <= seq && void.to > seq).map(|(_, void)| *void)
    }

    /// The event at a seq, kept or not.
    #[must_use]
    pub fn event(&self, seq: Seq) -> Option<&Recorded> {
        self.events.binary_search_by_key(&seq, |event| event.seq).ok().map(|at| &self.events[at])
    }

    /// The chain where a void begins, whether that is still kept or not.
    fn chain_before(&self, after: Seq) -> Chain {
        let void = self.voids.iter().find(|(_, void)| void.to == after).map(|(_, void)| void.chain);
        let known = void.or_else(|| self.event(after).map(|event| event.chain));
        known.unwrap_or_else(|| Chain::start(self.id))
    }

    /// The chain at a seq.
    #[must_use]
    pub fn chain_at(&self, seq: Seq) -> ChainAt {
        if seq > self.head() {
            ChainAt::Beyond
        } else if seq.next() < self.oldest {
            ChainAt::Expired
        } else if seq == Seq::ZERO {
            ChainAt::Known(Chain::start(self.id))
        } else {
            let void = self.voids.iter().find(|(_, void)| void.to == seq).map(|(_, void)| void.chain);
            let known = void.or_else(|| self.event(seq).map(|event| event.chain));
            let missing = if self.void_after(seq).is_some() { ChainAt::Void } else { ChainAt::Expired };
            known.map_or(missing, ChainAt::Known)
        }
    }
}

fn fenced(owner: Ownership) -> LedgerError {
    LedgerError::Fenced { shard: owner.shard, why: format!("epoch {} is over", owner.epoch) }
}
