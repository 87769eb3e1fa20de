//! A ledger in memory that can be rewound, frozen and looked into, and rules that a test makes up.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use standpipe::clock::Clock;
use standpipe::config::{KafkaConfig, NewProducer, SinkStart};
use standpipe::event::ports::{
    Address, ChainAt, Decision, Feed, LedgerError, NewDeadLetter, Ownership, Route, RouteError, ShardBounds, SinkBook,
    SinkRow, SinkState,
};
use standpipe::event::{
    AccountName, Batch, Chain, ContentHash, Epoch, EventType, GapReason, LedgerId, Recorded, Replay, Seq, Shard,
    SinkName,
};
use standpipe::sink::kafka::{KafkaSink, KafkaSinkError, run};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const SINK: &str = "crm";

/// One shard of a ledger, with the rows of one sink.
#[derive(Clone)]
pub struct FakeLedger(Arc<Shared>);

struct Shared {
    id: LedgerId,
    state: Mutex<State>,
    head: watch::Sender<Seq>,
}

pub struct State {
    events: Vec<Recorded>,
    /// The oldest event kept.
    pub oldest: Seq,
    pub row: SinkRow,
    pub sought: Vec<Seq>,
    pub letters: Vec<NewDeadLetter>,
    pub reports: Vec<(SinkState, Option<String>)>,
    /// Cursors are no longer kept, as if the database had stopped between the two commits.
    pub frozen: bool,
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
            oldest: Seq(1),
            row: SinkRow { cursor: None, seek: None, paused: false, disabled: None },
            sought: Vec::new(),
            letters: Vec::new(),
            reports: Vec::new(),
            frozen: false,
            lost: false,
        };
        Self(Arc::new(Shared { id, state: Mutex::new(state), head: watch::Sender::new(Seq::ZERO) }))
    }

    pub fn id(&self) -> LedgerId {
        self.0.id
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
        let first = self.state().events.len();
        let event = |at: usize| ((at % 11).to_string(), format!(r#"{{"id":"e{}","n":{at}}}"#, at + 1));
        self.record((first..first + count).map(event));
    }

    pub fn add(&self, event_type: &str, record_id: &str, body: String, replay: Option<Replay>) {
        let mut state = self.state();
        let seq = Seq(state.events.len() as u64 + 1);
        let before = state.events.last().map_or(Chain::start(self.0.id), |last| last.chain);
        let id = format!("e{seq}");
        let content_hash = ContentHash::of(event_type, "", body.as_bytes(), b"");
        state.events.push(Recorded {
            seq,
            chain: before.link(seq, &id, &content_hash),
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
        self.state().events.truncate(usize::try_from(head).unwrap());
        self.publish();
    }

    /// The body of the event at an index.
    pub fn body(&self, at: usize) -> Bytes {
        self.state().events[at].body.clone()
    }

    pub fn head(&self) -> Seq {
        Seq(self.state().events.len() as u64)
    }

    /// The last state that the sink reported, with its error.
    pub fn reported(&self) -> (SinkState, String) {
        let (state, error) = self.state().reports.last().cloned().unwrap_or((SinkState::Starting, None));
        (state, error.unwrap_or_default())
    }

    fn chain(&self, state: &State, seq: Seq) -> Option<Chain> {
        match usize::try_from(seq.0).unwrap() {
            0 => Some(Chain::start(self.0.id)),
            at => state.events.get(at - 1).map(|event| event.chain),
        }
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
        let mut state = self.state();
        state.row.cursor = state.row.cursor.max(Some(cursor));
        Ok(())
    }

    async fn sought(&self, _: &SinkName, _: Ownership, cursor: Seq) -> Result<(), LedgerError> {
        let mut state = self.state();
        state.row = SinkRow { cursor: Some(cursor), seek: None, ..state.row.clone() };
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
        let mut ledger = self.state();
        if ledger.lost {
            return Err(LedgerError::Fenced { shard: Shard(0), why: "the test says so".into() });
        }
        ledger.reports.push((state, error.map(str::to_owned)));
        Ok(())
    }

    async fn bounds(&self, _: Shard) -> Result<ShardBounds, LedgerError> {
        let state = self.state();
        let head = Seq(state.events.len() as u64);
        let chain = self.chain(&state, head).unwrap();
        Ok(ShardBounds { ledger: self.0.id, oldest: state.oldest, head, chain })
    }

    async fn chain_at(&self, _: Shard, seq: Seq) -> Result<ChainAt, LedgerError> {
        let state = self.state();
        if seq.next() < state.oldest {
            return Ok(ChainAt::Expired);
        }
        Ok(self.chain(&state, seq).map_or(ChainAt::Beyond, ChainAt::Known))
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
        let from = usize::try_from(after.0).unwrap();
        let events: Vec<Recorded> = state.events[from..].iter().take(self.step).cloned().collect();
        let chain_before = self.ledger.chain(&state, after).unwrap();
        Ok(Arc::new(Batch { shard: Shard(0), after, chain_before, events }))
    }

    fn head(&self) -> Seq {
        *self.head.borrow()
    }
}

/// Everything goes to one topic under its record; what a test wants otherwise stands in the body.
pub struct FakeRoute(Arc<str>);

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
        config,
        feed: FakeFeed { ledger: ledger.clone(), head: ledger.0.head.subscribe(), step: 100 },
        book: ledger.clone(),
        clock: Clock::system(),
        stop: CancellationToken::new(),
    }
}

pub fn start(sink: KafkaSink<FakeFeed, FakeLedger>) -> Running {
    let stop = sink.stop.clone();
    Running { stop, task: tokio::spawn(run(sink)) }
}
