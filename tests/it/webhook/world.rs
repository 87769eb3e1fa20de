//! A ledger, a shard that is owned, its recorder and fan-out, and webhook sinks that run in it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sqlx::{Connection as _, PgConnection};
use standpipe::clock::Clock;
use standpipe::config::{BreakerConfig, LedgerUrl, Order, Secret, SinkStart, WebhookConfig};
use standpipe::event::ports::{Decision, Ownership, Route, RouteError, StreamBook as _, Submission};
use standpipe::event::{
    AccountName, Capacity, ContentHash, DedupeKey, Event, EventType, Page, Position, Recorded, Shard, SinkName,
    StreamKey, StreamName,
};
use standpipe::ledger::{Held, Lease, Ledger, Recorder};
use standpipe::route::Fanout;
use standpipe::sink::webhook::{self, WebhookSink, WebhookSinkError};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::postgres::{Postgres, ledger_config};
use crate::support::wait::wait_until;

pub const SOON: Duration = Duration::from_secs(30);
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

pub struct World {
    pub url: String,
    pub ledger: Ledger,
    pub held: Held,
    fanout: Fanout,
    pages: mpsc::Sender<Submission>,
    capacity: Capacity,
    at: std::sync::Mutex<u64>,
    _recorder: JoinSet<()>,
}

/// A sink that runs.
pub struct Running {
    pub stop: CancellationToken,
    pub task: JoinHandle<Result<(), WebhookSinkError>>,
}

impl Running {
    /// kill -9, as far as one task can die of it.
    pub async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub async fn end(self) -> Result<(), WebhookSinkError> {
        self.stop.cancel();
        self.ended().await
    }

    pub async fn ended(self) -> Result<(), WebhookSinkError> {
        tokio::time::timeout(SOON, self.task).await.expect("ends in time").expect("does not panic")
    }
}

/// Takes everything but what another sink replays, and events whose type says `unwanted` or `broken`.
#[derive(Debug)]
struct Everything(SinkName);

impl Route for Everything {
    fn decide(&self, event: &Recorded) -> Result<Decision, RouteError> {
        if event.replay.as_ref().is_some_and(|replay| replay.sink != self.0) {
            return Ok(Decision::Filtered);
        }
        match event.event_type.action() {
            "unwanted" => Ok(Decision::Filtered),
            "broken" => Err(RouteError { what: "filter".to_owned(), why: "as the test wants".to_owned() }),
            _ => Ok(Decision::Deliver(standpipe::event::ports::Address {
                headers: vec![("x-type".into(), event.event_type.to_string())],
                ..Default::default()
            })),
        }
    }
}

/// As the defaults are, but quick.
pub fn config(url: &str) -> WebhookConfig {
    WebhookConfig {
        url: Secret::value(url),
        secrets: vec![Secret::value(SECRET)],
        signing_key: None,
        allow_http: true,
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        retry_schedule: vec![Duration::from_millis(100); 20],
        max_in_flight: 16,
        order: Order::Record,
        breaker: BreakerConfig {
            failure_ratio: 0.9,
            min_attempts: 1_000,
            window: Duration::from_mins(5),
            probe_after: Duration::from_millis(200),
        },
        disable_after: Duration::from_hours(120),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(15),
    }
}

impl World {
    pub async fn new() -> Self {
        let url = Postgres::shared().await.database().await;
        let config = ledger_config(&url);
        let LedgerUrl::Postgres(secret) = &config.url else { unreachable!() };
        let ledger = Ledger::connect(&config, &secret.read().unwrap(), "test").await.unwrap();
        let held = Lease::new(&ledger, Shard(0), Uuid::new_v4()).try_acquire().await.unwrap().unwrap();
        let recorder = Recorder::open(&ledger, held.ownership()).await.unwrap();
        let fanout = Fanout::new(Shard(0), recorder.head().0);
        let (pages, taken) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        let run = recorder.run(taken, fanout.clone(), CancellationToken::new());
        tasks.spawn(async move { drop(run.await) });
        let world = Self {
            url,
            ledger,
            held,
            fanout,
            pages,
            capacity: Capacity::new(100_000, 1 << 30),
            at: std::sync::Mutex::new(0),
            _recorder: tasks,
        };
        world.ledger.open(&key(), &Position::from("0")).await.unwrap();
        world
    }

    pub fn ownership(&self) -> Ownership {
        self.held.ownership()
    }

    /// Records events of these records in one page; the types are `deal.updated`.
    pub async fn record(&self, records: impl IntoIterator<Item = impl ToString>) {
        self.record_as("deal.updated", records).await;
    }

    pub async fn record_as(&self, event_type: &str, records: impl IntoIterator<Item = impl ToString>) {
        let (from, events) = {
            let mut at = self.at.lock().unwrap();
            let from = *at;
            let events: Vec<Event> = records
                .into_iter()
                .map(|record| {
                    *at += 1;
                    event(*at, event_type, &record.to_string())
                })
                .collect();
            (from, events)
        };
        let page = Page {
            stream: key(),
            from: Position::from(from.to_string()),
            to: Position::from((from + events.len() as u64).to_string()),
            top: false,
            events,
            rejected: Vec::new(),
            gap: None,
            fetched_at: OffsetDateTime::UNIX_EPOCH,
        };
        let room = self.capacity.reserve(page.events.len(), page.size() as u64).await;
        let (settled, answer) = oneshot::channel();
        self.pages.send(Submission { page, room, settled }).await.unwrap();
        let outcome = tokio::time::timeout(SOON, answer).await.expect("in time").expect("the recorder runs");
        assert_eq!(outcome, standpipe::event::ports::PageOutcome::Recorded);
    }

    pub fn run(&self, name: &str, config: WebhookConfig) -> Running {
        self.run_with_channel(name, config, 10_000)
    }

    pub fn run_with_channel(&self, name: &str, config: WebhookConfig, events: usize) -> Running {
        let name = SinkName::from(name);
        let stop = CancellationToken::new();
        let sink = WebhookSink {
            feed: self.fanout.feed(&name, Capacity::new(events, 64 << 20), self.ledger.clone()),
            route: Arc::new(Everything(name.clone())),
            enricher: None,
            name,
            ownership: self.ownership(),
            config,
            start: SinkStart::Oldest,
            dead_letter_retention: Duration::from_hours(720),
            book: self.ledger.clone(),
            deliveries: self.ledger.clone(),
            clock: Clock::system(),
            stop: stop.clone(),
        };
        Running { stop, task: tokio::spawn(webhook::run(sink)) }
    }

    /// One number.
    pub async fn count(&self, sql: &'static str) -> i64 {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let (count,): (i64,) = sqlx::query_as(sql).fetch_one(&mut connection).await.unwrap();
        count
    }

    pub async fn text(&self, sql: &'static str) -> String {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let (text,): (Option<String>,) = sqlx::query_as(sql).fetch_one(&mut connection).await.unwrap();
        text.unwrap_or_default()
    }

    pub async fn execute(&self, sql: &'static str) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }

    pub async fn cursor(&self, sink: &str) -> i64 {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let row: Option<(Option<i64>,)> = sqlx::query_as("SELECT cursor FROM sinks WHERE sink = $1")
            .bind(sink)
            .fetch_optional(&mut connection)
            .await
            .unwrap();
        row.and_then(|(cursor,)| cursor).unwrap_or(-1)
    }

    pub async fn wait_cursor(&self, sink: &str, at: i64) {
        wait_until(format!("{sink} has taken {at}"), SOON, async || self.cursor(sink).await == at).await;
    }
}

fn key() -> StreamKey {
    StreamKey { account: AccountName::from("acme"), stream: StreamName::from("deals") }
}

fn event(number: u64, event_type: &str, record: &str) -> Event {
    let id = format!("e_{number}");
    let body =
        format!(r#"{{"id":"{id}","type":"{event_type}","data":{{"deal":{{"id":"{record}","note":"ä\u2028"}}}}}}"#);
    Event {
        account: AccountName::from("acme"),
        stream: StreamName::from("deals"),
        event_type: EventType::from(event_type),
        dedupe_key: DedupeKey::by_id("acme", &id),
        id: id.into(),
        record_id: record.into(),
        occurred_at: Some(OffsetDateTime::UNIX_EPOCH),
        sequence: None,
        content_hash: ContentHash::of(event_type, "", body.as_bytes(), b""),
        body: Bytes::from(body),
    }
}
