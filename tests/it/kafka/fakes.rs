//! A ledger in memory that can be rewound, frozen and looked into, and rules that a test makes up.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use standpipe::clock::Clock;
use standpipe::config::{KafkaConfig, NewProducer, SinkStart};
use standpipe::event::ports::{
    Address, ChainAt, Crossing, Decision, Delivered, Excuses, Feed, LedgerError, NewDeadLetter, Ownership,
    RehydrateBook, Rehydration, Route, RouteError, ShardBounds, SinkBook, SinkRow, SinkState,
};
use standpipe::event::{
    AccountName, Batch, Chain, ContentHash, Epoch, EventType, GapReason, LedgerId, Recorded, Replay, Seq, Shard,
    SinkName, Void,
};
use standpipe::sink::kafka::{KafkaSink, KafkaSinkError, Runner, run};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const SINK: &str = "crm";
/// Who runs it.
pub const INSTANCE: uuid::Uuid = uuid::Uuid::from_u128(0x1001);

/// One shard of a ledger, with the rows of one sink.
#[derive(Clone)]
pub struct FakeLedger(Arc<Shared>);

struct Shared {
    id: LedgerId,
    state: Mutex<State>,
    /// The lock of the sink's row: whoever writes to it holds it over his whole transaction.
    row: tokio::sync::Mutex<()>,
    head: watch::Sender<Seq>,
}

pub struct State {
    events: Vec<Recorded>,
    /// Seqs without an event: the one before them, and what stands at their end.
    voids: Vec<(Seq, Void)>,
    ways: Vec<Rehydration>,
    /// Ends of voids that the sink has found its way past.
    settled: Vec<Seq>,
    /// What the sink is to skip.
    pub skips: HashSet<Delivered>,
    /// What it wished to get again.
    pub reclaimed: Vec<Seq>,
    /// The oldest event kept.
    pub oldest: Seq,
    pub row: SinkRow,
    pub sought: Vec<Seq>,
    pub letters: Vec<NewDeadLetter>,
    pub reports: Vec<(SinkState, Option<String>)>,
    /// Cursors are no longer kept, as if the database had stopped between the two commits.
    pub frozen: bool,
    /// How long a transaction that writes to the sink's row holds it.
    pub writing_takes: Duration,
    /// Another owner has the shard.
    pub lost: bool,
}

impl FakeLedger {
    pub fn new() -> Self {
        Self::of(LedgerId(uuid::Uuid::new_v4()))
    }

    pub fn of(id: LedgerId) -> Self {
        let state = State {
            events: Vec::new(),
            voids: Vec::new(),
            ways: Vec::new(),
            settled: Vec::new(),
            skips: HashSet::new(),
            reclaimed: Vec::new(),
            oldest: Seq(1),
            row: SinkRow::default(),
            sought: Vec::new(),
            letters: Vec::new(),
            reports: Vec::new(),
            frozen: false,
            writing_takes: Duration::ZERO,
            lost: false,
        };
        let row = tokio::sync::Mutex::default();
        Self(Arc::new(Shared { id, state: Mutex::new(state), row, head: watch::Sender::new(Seq::ZERO) }))
    }

    pub fn id(&self) -> LedgerId {
        self.0.id
    }

    /// Whether a transaction is writing to the sink's row.
    pub fn is_writing(&self) -> bool {
        self.0.row.try_lock().is_err()
    }

    /// A transaction on the sink's row, at its commit.
    async fn at_commit(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let row = self.0.row.lock().await;
        let takes = self.state().writing_takes;
        if takes > Duration::ZERO {
            tokio::time::sleep_until(tokio::time::Instant::now() + takes).await;
        }
        row
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Records events of the type `deal.updated`, each with its record id and body.
    pub fn record(&self, records: impl IntoIterator<Item = (String, String)>) {
        for (record_id, body) in records {
            self.add("deal.updated", &record_id, body, None);
        }
        self.publish();
    }

    /// `count` small events over eleven records.
    pub fn record_some(&self, count: usize) {
        let first = usize::try_from(self.head().0).unwrap();
        let event = |at: usize| ((at % 11).to_string(), format!(r#"{{"id":"e{}","n":{at}}}"#, at + 1));
        self.record((first..first + count).map(event));
    }

    pub fn add(&self, event_type: &str, record_id: &str, body: String, replay: Option<Replay>) {
        let id = format!("e{}", self.head().next());
        self.add_as(&id, event_type, record_id, body, replay);
    }

    /// An event under an id of its own.
    pub fn add_as(&self, id: &str, event_type: &str, record_id: &str, body: String, replay: Option<Replay>) {
        let mut state = self.state();
        let seq = state.head().next();
        let before = self.chain(&state, state.head()).unwrap();
        let content_hash = ContentHash::of(event_type, "", body.as_bytes(), b"");
        state.events.push(Recorded {
            seq,
            chain: before.link(seq, id, &content_hash),
            account: AccountName::from("acme"),
            event_type: EventType::from(event_type),
            id: id.into(),
            record_id: record_id.into(),
            occurred_at: None,
            recorded_at: OffsetDateTime::UNIX_EPOCH,
            content_hash,
            body: Bytes::from(body),
            replay: replay.map(Box::new),
        });
    }

    pub fn publish(&self) {
        let head = self.head();
        self.0.head.send_replace(head);
    }

    /// Forgets every event after `head`, as a restored backup does.
    pub fn rewind(&self, head: u64) {
        let mut state = self.state();
        state.events.retain(|event| event.seq <= Seq(head));
        state.row.cursor = state.row.cursor.min(Some(Seq(head)));
        drop(state);
        self.publish();
    }

    /// The ledger of before: it knows of no rehydration, nor what came of it.
    pub fn forget_rehydrations(&self) {
        let mut state = self.state();
        state.ways.clear();
        state.settled.clear();
        state.skips.clear();
        state.reclaimed.clear();
    }

    /// Marks as void what another sink had used, which had come as far as this one.
    pub fn mark_void(&self, found: u64, chain: Chain) {
        let mut state = self.state();
        let head = state.head();
        state.voids.push((head, Void { to: Seq(found), chain }));
        drop(state);
        self.publish();
    }

    /// What the source gives again after a rewind: events under the ids that they had.
    pub fn record_again(&self, ids: impl IntoIterator<Item = usize>) {
        for at in ids {
            let (record, body) = ((at % 11).to_string(), format!(r#"{{"id":"e{at}","n":{at}}}"#));
            self.add_as(&format!("e{at}"), "deal.updated", &record, body, None);
        }
        self.publish();
    }

    /// The body of the event at an index.
    pub fn body(&self, at: usize) -> Bytes {
        self.state().events[at].body.clone()
    }

    pub fn head(&self) -> Seq {
        self.state().head()
    }

    /// The last state that the sink reported, with its error.
    pub fn reported(&self) -> (SinkState, String) {
        let (state, error) = self.state().reports.last().cloned().unwrap_or((SinkState::Starting, None));
        (state, error.unwrap_or_default())
    }

    fn chain(&self, state: &State, seq: Seq) -> Option<Chain> {
        let event = || state.events.iter().find(|event| event.seq == seq).map(|event| event.chain);
        let void = || state.voids.iter().find(|(_, void)| void.to == seq).map(|(_, void)| void.chain);
        (seq == Seq::ZERO).then(|| Chain::start(self.0.id)).or_else(event).or_else(void)
    }
}

impl State {
    fn head(&self) -> Seq {
        let events = self.events.last().map_or(Seq::ZERO, |last| last.seq);
        self.voids.iter().map(|(_, void)| void.to).fold(events, Seq::max)
    }
}

/// Of a first recording a replay tells too.
fn tells_of(skip: &Delivered, one: &Delivered) -> bool {
    skip.key == one.key && [skip.replay_of, Seq::ZERO].contains(&one.replay_of)
}

impl RehydrateBook for FakeLedger {
    async fn rewound(
        &self,
        _: &SinkName,
        _: Ownership,
        found: Seq,
        chain: Chain,
        base: Seq,
    ) -> Result<Rehydration, LedgerError> {
        let mut state = self.state();
        if let Some(begun) = state.ways.iter().find(|way| way.found == found && way.chain == chain) {
            return Ok(*begun);
        }
        let head = state.head();
        let (until, goes_on) = if found > head {
            state.voids.push((head, Void { to: found, chain }));
            (head, found)
        } else {
            (found, found)
        };
        let goes_on_chain = self.chain(&state, goes_on).unwrap();
        let base = base.min(until);
        let way = Rehydration { found, chain, base, until, reclaimed_to: base, goes_on, goes_on_chain };
        state.ways.push(way);
        drop(state);
        self.publish();
        Ok(way)
    }

    async fn crossing(&self, _: Shard, at: Seq) -> Result<Option<Crossing>, LedgerError> {
        let state = self.state();
        let voids = state.voids.iter().filter(|(_, void)| void.to <= at);
        Ok(voids.fold(None, |before, (after, void)| {
            Some(Crossing::from((*after, self.chain(&state, *after).unwrap()), before, void.to))
        }))
    }

    async fn is_rehydrated(&self, _: &SinkName, _: Shard, found: Seq, chain: Chain) -> Result<bool, LedgerError> {
        let state = self.state();
        let way = state.ways.iter().find(|way| way.found == found && way.chain == chain);
        Ok(way.is_some_and(|way| state.settled.contains(&way.goes_on)))
    }

    async fn keep_skips(&self, _: &SinkName, _: Ownership, of: &[(Seq, Delivered)]) -> Result<(), LedgerError> {
        self.state().skips.extend(of.iter().map(|(_, delivered)| delivered));
        Ok(())
    }

    async fn skips(&self, _: &SinkName, _: Shard, of: &[Delivered]) -> Result<HashSet<Delivered>, LedgerError> {
        let state = self.state();
        Ok(of.iter().filter(|one| state.skips.iter().any(|skip| tells_of(skip, one))).copied().collect())
    }

    async fn has_skips(&self, _: &SinkName, _: Shard) -> Result<bool, LedgerError> {
        Ok(!self.state().skips.is_empty())
    }

    async fn forget_skips(&self, _: &SinkName, _: Ownership, after: Seq, upto: Seq) -> Result<(), LedgerError> {
        let mut state = self.state();
        let passed = state.events.iter().filter(|event| event.seq > after && event.seq <= upto);
        let passed: HashSet<Delivered> = passed.map(Delivered::of).collect();
        state.skips.retain(|skip| !passed.iter().any(|one| tells_of(skip, one)));
        Ok(())
    }

    async fn reclaim(
        &self,
        sink: &SinkName,
        _: Ownership,
        way: &Rehydration,
        to: Seq,
        events: &[Seq],
    ) -> Result<(), LedgerError> {
        let mut state = self.state();
        let kept = state.ways.iter_mut().find(|kept| kept.found == way.found && kept.chain == way.chain).unwrap();
        assert_eq!(kept.reclaimed_to, way.reclaimed_to, "reclaimed twice");
        kept.reclaimed_to = to;
        state.reclaimed.extend(events);
        let again: Vec<Recorded> = state.events.iter().filter(|event| events.contains(&event.seq)).cloned().collect();
        drop(state);
        for event in again {
            let body = String::from_utf8(event.body.to_vec()).unwrap();
            let replay = Replay { sink: sink.clone(), of: event.seq };
            self.add_as(&event.id, event.event_type.as_str(), &event.record_id, body, Some(replay));
        }
        self.publish();
        Ok(())
    }

    async fn rehydrated(&self, _: &SinkName, _: Ownership, way: &Rehydration, _: u64) -> Result<(), LedgerError> {
        self.state().settled.push(way.goes_on);
        Ok(())
    }
}

impl SinkBook for FakeLedger {
    async fn row(&self, _: &SinkName, _: Ownership) -> Result<SinkRow, LedgerError> {
        Ok(self.state().row.clone())
    }

    async fn keep_cursor(&self, _: &SinkName, _: Ownership, cursor: Seq) -> Result<(), LedgerError> {
        let frozen = self.state().frozen;
        if frozen {
            std::future::pending::<()>().await;
        }
        let _row = self.at_commit().await;
        let mut state = self.state();
        state.row.cursor = state.row.cursor.max(Some(cursor));
        Ok(())
    }

    async fn opens(&self, _: &SinkName, _: Ownership, to: Seq) -> Result<(), LedgerError> {
        let _row = self.at_commit().await;
        self.state().row.opening = to;
        Ok(())
    }

    async fn sought(&self, _: &SinkName, _: Ownership, cursor: Seq) -> Result<(), LedgerError> {
        let mut state = self.state();
        state.row = SinkRow { cursor: Some(cursor), opening: Seq::ZERO, seek: None, ..state.row.clone() };
        state.sought.push(cursor);
        Ok(())
    }

    async fn dead_letters(
        &self,
        _: &SinkName,
        _: Ownership,
        letters: &[NewDeadLetter],
        _: Duration,
    ) -> Result<(), LedgerError> {
        let mut state = self.state();
        for letter in letters {
            if !state.letters.iter().any(|known| known.seq == letter.seq) {
                state.letters.push(letter.clone());
            }
        }
        Ok(())
    }

    async fn report(
        &self,
        _: &SinkName,
        _: Ownership,
        state: SinkState,
        error: Option<&str>,
    ) -> Result<(), LedgerError> {
        let _row = self.at_commit().await;
        let mut ledger = self.state();
        if ledger.lost {
            return Err(LedgerError::Fenced { shard: Shard(0), why: "the test says so".into() });
        }
        ledger.row.halted = state == SinkState::Halted;
        ledger.reports.push((state, error.map(str::to_owned)));
        Ok(())
    }

    async fn bounds(&self, _: Shard) -> Result<ShardBounds, LedgerError> {
        let state = self.state();
        let head = state.head();
        let chain = self.chain(&state, head).unwrap();
        Ok(ShardBounds { ledger: self.0.id, oldest: state.oldest, head, chain })
    }

    async fn chain_at(&self, _: Shard, seq: Seq) -> Result<ChainAt, LedgerError> {
        let state = self.state();
        if seq.next() < state.oldest {
            return Ok(ChainAt::Expired);
        }
        let missing = if seq > state.head() { ChainAt::Beyond } else { ChainAt::Void };
        Ok(self.chain(&state, seq).map_or(missing, ChainAt::Known))
    }

    async fn keep_rules(&self, _: &SinkName, _: Ownership, _: &str, _: Seq) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn excuses(&self, _: &SinkName, _: Shard, _: Seq, _: Seq) -> Result<Excuses, LedgerError> {
        unreachable!("reconciling is tested on the real ledger")
    }

    async fn reconciled(&self, _: &SinkName, _: Ownership, _: Seq) -> Result<(), LedgerError> {
        unreachable!("reconciling is tested on the real ledger")
    }

    async fn gap(&self, _: &SinkName, _: Ownership, _: Seq, _: Seq, _: GapReason) -> Result<(), LedgerError> {
        Ok(())
    }
}

/// Gives out what the ledger has, in batches of at most `step`.
pub struct FakeFeed {
    ledger: FakeLedger,
    head: watch::Receiver<Seq>,
    step: usize,
}

impl Feed for FakeFeed {
    async fn next(&mut self, after: Seq) -> Result<Arc<Batch>, LedgerError> {
        self.head.wait_for(|head| *head > after).await.expect("the ledger outlives the feed");
        let state = self.ledger.state();
        let void = state.voids.iter().find(|(before, void)| *before <= after && void.to > after).map(|(_, void)| *void);
        let mut next = void.map_or(after, |void| void.to).next();
        let mut events: Vec<Recorded> = Vec::new();
        for event in state.events.iter().filter(|event| event.seq > after).take(self.step) {
            if event.seq != next {
                break;
            }
            next = next.next();
            events.push(event.clone());
        }
        let chain_before = self.ledger.chain(&state, after).unwrap();
        Ok(Arc::new(Batch { shard: Shard(0), after, chain_before, void, events }))
    }

    fn head(&self) -> Seq {
        *self.head.borrow()
    }
}

/// Everything goes to one topic under its record; what a test wants otherwise stands in the body.
pub struct FakeRoute(pub Arc<str>);

impl Route for FakeRoute {
    fn decide(&self, event: &Recorded) -> Result<Decision, RouteError> {
        let body = String::from_utf8_lossy(&event.body).into_owned();
        if body.contains("FILTERED") {
            return Ok(Decision::Filtered);
        }
        if body.contains("FAILING") {
            return Err(RouteError { what: "filter".into(), why: "no such field".into() });
        }
        let topic: Arc<str> = if body.contains("NOWHERE") { "a/b".into() } else { Arc::clone(&self.0) };
        let key = format!("acme/deal/{}", event.record_id);
        Ok(Decision::Deliver(Address { topic, key, headers: vec![("team".into(), "blue".into())] }))
    }
}

/// A sink that runs until it is stopped.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), KafkaSinkError>>,
}

impl Running {
    pub async fn stop(self) -> Result<(), KafkaSinkError> {
        self.stop.cancel();
        tokio::time::timeout(std::time::Duration::from_secs(30), self.task).await.expect("it stops").unwrap()
    }

    /// As a crash does: nothing is finished.
    pub async fn crash(self) {
        self.task.abort();
        self.task.await.expect_err("aborted");
    }

    /// How it ends on its own.
    pub async fn end(self) -> Result<(), KafkaSinkError> {
        tokio::time::timeout(std::time::Duration::from_mins(1), self.task).await.expect("it ends").unwrap()
    }
}

pub fn config(brokers: &str, topic: &str) -> KafkaConfig {
    KafkaConfig {
        brokers: brokers.to_owned(),
        topic: topic.into(),
        key: String::new(),
        new_producer: NewProducer::OnDoubt,
        create_topics: true,
        partitions: Some(3),
        replication: None,
        properties: indexmap::IndexMap::new(),
        secret_properties: indexmap::IndexMap::new(),
    }
}

/// The sink as the tests run it; fields may be changed before it starts.
pub fn sink(ledger: &FakeLedger, deployment: &str, config: KafkaConfig) -> KafkaSink<FakeFeed, FakeLedger> {
    KafkaSink {
        name: SinkName::from(SINK),
        deployment: deployment.to_owned(),
        ledger: ledger.id(),
        shards: 1,
        owner: Ownership { shard: Shard(0), epoch: Epoch(1) },
        start: SinkStart::Oldest,
        dead_letter_retention: Duration::from_hours(720),
        route: Arc::new(FakeRoute(config.topic.as_str().into())),
        enricher: None,
        config,
        feed: FakeFeed { ledger: ledger.clone(), head: ledger.0.head.subscribe(), step: 100 },
        book: ledger.clone(),
        runner: Runner::new(Some(INSTANCE), false, Duration::from_secs(15)),
        clock: Clock::system(),
        stop: CancellationToken::new(),
    }
}

pub fn start(sink: KafkaSink<FakeFeed, FakeLedger>) -> Running {
    let stop = sink.stop.clone();
    Running { stop, task: tokio::spawn(run(sink)) }
}
