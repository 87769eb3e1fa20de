//! A ledger of one's own, a shard that is owned, and a recorder that runs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sqlx::{Connection as _, PgConnection};
use standpipe::config::{LedgerConfig, LedgerUrl};
use standpipe::event::ports::{LedgerError, PageOutcome, Publish, StreamBook as _, Submission};
use standpipe::event::{
    AccountName, Batch, Capacity, ContentHash, DedupeKey, Event, EventType, Page, Position, StreamKey, StreamName,
};
use standpipe::ledger::{Held, Lease, Ledger, Recorder};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::mutants;
use crate::support::postgres::Postgres;
pub use crate::support::postgres::ledger_config as config;

pub const SOON: Duration = Duration::from_secs(20);

pub async fn open(config: &LedgerConfig) -> Ledger {
    let LedgerUrl::Postgres(url) = &config.url else { panic!("tests have a URL") };
    let url = url.read().unwrap();
    let ledger = Ledger::connect(config, &url, "test").await.unwrap();
    mutants::plant(&url).await;
    ledger
}

/// Keeps every published batch.
#[derive(Clone, Debug, Default)]
pub struct Shelf(Arc<Mutex<Vec<Arc<Batch>>>>);

impl Publish for Shelf {
    fn publish(&self, batch: Arc<Batch>) -> impl Future<Output = ()> + Send {
        self.0.lock().unwrap().push(batch);
        std::future::ready(())
    }
}

impl Shelf {
    pub fn batches(&self) -> Vec<Arc<Batch>> {
        self.0.lock().unwrap().clone()
    }

    /// The event ids in the order of their publication.
    pub fn ids(&self) -> Vec<String> {
        self.batches().iter().flat_map(|batch| batch.events.iter().map(|event| event.id.to_string())).collect()
    }
}

pub struct World {
    pub url: String,
    pub config: LedgerConfig,
    instance: Uuid,
    pub ledger: Ledger,
    pub held: Held,
    pub shelf: Shelf,
    pages: mpsc::Sender<Submission>,
    task: JoinHandle<Result<(), LedgerError>>,
    capacity: Capacity,
}

impl World {
    pub async fn new() -> Self {
        let url = Postgres::shared().await.database().await;
        Self::with(config(&url), url).await
    }

    /// `url` is where the test itself looks, which is not behind a pooler.
    pub async fn with(config: LedgerConfig, url: String) -> Self {
        Self::of(config, url, Uuid::new_v4()).await
    }

    /// The same instance after its stages ended: everything anew, from the ledger.
    pub async fn again(self) -> Self {
        self.task.abort();
        Self::of(self.config, self.url, self.instance).await
    }

    /// Ends the recorder, does `meanwhile`, and has another one run over the same connections' pool, under the same epoch.
    pub async fn record_on(&mut self, meanwhile: impl Future<Output = ()>) {
        self.task.abort();
        drop((&mut self.task).await);
        meanwhile.await;
        let (pages, taken) = mpsc::channel(64);
        let recorder = Recorder::open(&self.ledger, self.held.ownership()).await.unwrap();
        self.task = tokio::spawn(recorder.run(taken, self.shelf.clone(), CancellationToken::new()));
        self.pages = pages;
    }

    async fn of(config: LedgerConfig, url: String, instance: Uuid) -> Self {
        let ledger = open(&config).await;
        let held = Lease::new(&ledger, standpipe::event::Shard(0), instance).try_acquire().await.unwrap().unwrap();
        let shelf = Shelf::default();
        let (pages, taken) = mpsc::channel(64);
        let recorder = Recorder::open(&ledger, held.ownership()).await.unwrap();
        let running = recorder.run(taken, shelf.clone(), CancellationToken::new());
        // Shown where the test fails.
        let task = tokio::spawn(async { running.await.inspect_err(|error| println!("the recorder ended: {error}")) });
        Self { url, config, instance, ledger, held, shelf, pages, task, capacity: Capacity::new(100_000, 1 << 30) }
    }

    pub async fn sql(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// One number.
    pub async fn count(&self, sql: &'static str) -> i64 {
        let (count,): (i64,) = sqlx::query_as(sql).fetch_one(&mut self.sql().await).await.unwrap();
        count
    }

    pub async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut self.sql().await).await.unwrap();
    }

    /// From now on each commit that records notes whether the server may compile its statements.
    pub async fn note_jit(&self) {
        self.execute(
            "CREATE TABLE noted (jit text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN INSERT INTO noted VALUES (current_setting('jit')); RETURN NEW; END $$;
             CREATE TRIGGER note AFTER INSERT ON chain_marks FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await;
    }

    pub async fn stream(&self, name: &str) -> StreamKey {
        let key = key(name);
        self.ledger.open(&key, &Position::tail()).await.unwrap();
        key
    }

    /// Hands a page over without waiting.
    pub async fn submit(&self, page: Page) -> oneshot::Receiver<PageOutcome> {
        let room = self.capacity.reserve(page.events.len(), page.size() as u64).await;
        let (settled, answer) = oneshot::channel();
        self.pages.send(Submission { page, room, settled }).await.unwrap();
        answer
    }

    /// Hands a page over and waits for what became of it.
    pub async fn record(&self, page: Page) -> PageOutcome {
        let answer = self.submit(page).await;
        tokio::time::timeout(SOON, answer).await.expect("an answer in time").expect("the recorder runs")
    }

    /// The same, where the recorder may end instead, as it does when the database is lost: then none.
    pub async fn try_record(&self, page: Page) -> Option<PageOutcome> {
        let room = self.capacity.reserve(page.events.len(), page.size() as u64).await;
        let (settled, answer) = oneshot::channel();
        self.pages.send(Submission { page, room, settled }).await.ok()?;
        tokio::time::timeout(SOON, answer).await.expect("an answer in time").ok()
    }

    pub async fn position(&self, key: &StreamKey) -> String {
        let rows = self.ledger.streams(&key.account).await.unwrap();
        rows.iter().find(|row| row.key == *key).unwrap().position.to_string()
    }

    /// Closes the way in and waits for the recorder's end.
    pub async fn finish(self) -> Result<(), LedgerError> {
        drop(self.pages);
        tokio::time::timeout(SOON, self.task).await.expect("ends in time").expect("does not panic")
    }

    /// Waits for the recorder to end by itself.
    pub async fn ended(self) -> Result<(), LedgerError> {
        tokio::time::timeout(SOON, self.task).await.expect("ends in time").expect("does not panic")
    }
}

pub fn key(stream: &str) -> StreamKey {
    StreamKey { account: AccountName::from("acme"), stream: StreamName::from(stream) }
}

pub fn page(key: &StreamKey, from: &str, to: &str, events: Vec<Event>) -> Page {
    Page {
        stream: key.clone(),
        from: Position::from(from),
        to: Position::from(to),
        top: false,
        events,
        rejected: Vec::new(),
        gap: None,
        fetched_at: OffsetDateTime::UNIX_EPOCH,
    }
}

pub fn events(ids: impl IntoIterator<Item = impl ToString>) -> Vec<Event> {
    ids.into_iter().map(|id| event(&id.to_string(), "content")).collect()
}

pub fn event(id: &str, content: &str) -> Event {
    Event {
        account: AccountName::from("acme"),
        stream: StreamName::from("deals"),
        event_type: EventType::from("deal.updated"),
        id: id.into(),
        record_id: "7".into(),
        occurred_at: Some(OffsetDateTime::UNIX_EPOCH),
        sequence: None,
        dedupe_key: DedupeKey::by_id("acme", id),
        content_hash: ContentHash::of("deal.updated", "1970-01-01T00:00:00Z", content.as_bytes(), b""),
        body: Bytes::from(format!("{{\"id\":{id:?},\"content\":{content:?}}}")),
    }
}
