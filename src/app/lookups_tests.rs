//! Who answers a lookup, and what follows when the vendor does not: in memory, in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use time::OffsetDateTime;

use super::*;
use crate::event::ports::Witness as _;
use crate::event::{Chain, ContentHash, Page, Position, Recorded, Seq, StreamKey, Tenure};
use crate::http::{Server, Transport};
use crate::lookup::Era;

const BEGIN: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const MAX_AGE: Duration = Duration::from_mins(10);
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers every lookup with this status, and with a record of so many bytes more.
struct Company {
    status: AtomicU16,
    padding: AtomicUsize,
    asked: AtomicUsize,
}

#[derive(Clone)]
struct Served(Arc<Company>);

impl Server for Served {
    fn answer(&self, request: reqwest::Request) -> BoxFuture<'static, Result<reqwest::Response, reqwest::Error>> {
        let company = self.0.clone();
        async move {
            company.asked.fetch_add(1, Ordering::Relaxed);
            let id = request.url().path().rsplit('/').next().unwrap_or_default().to_owned();
            let more = "x".repeat(company.padding.load(Ordering::Relaxed));
            let body = format!(r#"{{"data":{{"id":{id},"name":"vendor{more}"}},"meta":{{"type":"contact"}}}}"#);
            let status = company.status.load(Ordering::Relaxed);
            Ok(axum::http::Response::builder().status(status).body(reqwest::Body::from(body)).unwrap().into())
        }
        .boxed()
    }
}

struct Scene {
    company: Arc<Company>,
    recent: Recent,
    kept: lookup::Lookups,
    lookups: Lookups,
    _era: Era,
}

impl Scene {
    fn new(dialect: &str) -> Self {
        let company =
            Arc::new(Company { status: AtomicU16::new(200), padding: AtomicUsize::new(0), asked: AtomicUsize::new(0) });
        let text = format!(
            "deployment = \"d\"\n[ledger]\nurl = \"embedded\"\n[accounts.acme]\nbase_url = \"http://localhost\"\n\
             token = \"t\"\ndialect = \"{dialect}\"\nrequests_per_minute = 6000000\nrequests_per_hour = 60000000\n"
        );
        let config = crate::config::parse("lookups.toml", &text).unwrap().config;
        let client = crate::http::client_builder().build().unwrap();
        let transport = Transport::Memory(client, Arc::new(Served(company.clone())));
        let clock = Clock::following(BEGIN);
        let vendor = Vendor::over(&"acme".into(), &config.accounts["acme"], clock.clone(), transport).unwrap();
        let recent = Recent::new(["contact"], MAX_AGE);
        let kept = lookup::Lookups::new(&config.passthrough);
        let tenure = Tenure::default();
        tenure.prolong(Instant::now() + Duration::from_hours(100));
        let era = kept.begin(["acme".into()], &tenure);
        let vendors = IndexMap::from_iter([("acme".into(), vendor)]);
        let lookups = Lookups::new(recent.clone(), kept.clone(), vendors, clock);
        Self { company, recent, kept, lookups, _era: era }
    }

    async fn look(&self, id: &str) -> Result<Found, LookUpError> {
        self.look_at(&key("acme", id)).await
    }

    async fn look_at(&self, key: &RecordKey) -> Result<Found, LookUpError> {
        self.lookups.look_up(key, MAX_AGE, PATIENCE).await
    }

    /// Who answers.
    async fn answerer(&self, id: &str) -> Answerer {
        self.look(id).await.expect("somebody answers").answerer
    }

    /// How long nobody is to be asked again.
    async fn not_now(&self, id: &str) -> Duration {
        match self.look(id).await {
            Err(LookUpError::NotNow { again_after, .. }) => again_after,
            other => panic!("{other:?}"),
        }
    }

    fn answers(&self, status: u16) {
        self.company.status.store(status, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.company.asked.swap(0, Ordering::Relaxed)
    }
}

fn key(account: &str, id: &str) -> RecordKey {
    RecordKey { account: account.into(), collection: "contacts".into(), id: id.into() }
}

fn event(id: &str) -> Recorded {
    Recorded {
        seq: Seq(1),
        chain: Chain([0; 32]),
        account: "acme".into(),
        event_type: "contact.updated".into(),
        id: "e".into(),
        record_id: id.into(),
        occurred_at: None,
        recorded_at: BEGIN,
        content_hash: ContentHash([0; 16]),
        body: format!(r#"{{"data":{{"contact":{{"id":{id},"name":"stream"}}}}}}"#).into(),
        replay: None,
    }
}

#[tokio::test(start_paused = true)]
async fn the_stream_answers_before_the_cache_and_the_cache_before_the_vendor() {
    let scene = Scene::new("live");
    assert_eq!((scene.answerer("7").await, scene.asked()), (Answerer::Vendor, 1));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let found = scene.look("7").await.unwrap();
    assert_eq!((found.answerer, scene.asked()), (Answerer::Cache, 0));
    assert_eq!(found.as_of, BEGIN, "as old as it is");
    scene.recent.learn(&[event("7")]);
    let found = scene.look("7").await.unwrap();
    assert_eq!((found.answerer, scene.asked()), (Answerer::Stream, 0));
    assert_eq!(found.record.unwrap(), r#"{"id":7,"name":"stream"}"#);
    tokio::time::sleep(MAX_AGE).await;
    assert_eq!((scene.answerer("7").await, scene.asked()), (Answerer::Vendor, 1), "neither is young enough");
    scene.answers(404);
    let found = scene.look("8").await.unwrap();
    assert!(found.record.is_none() && found.answerer == Answerer::Vendor, "there is none");
}

#[tokio::test(start_paused = true)]
async fn what_is_at_hand_is_what_the_stream_and_the_cache_know_and_asks_nobody() {
    let scene = Scene::new("live");
    let at_hand = |max_age| scene.lookups.at_hand(&key("acme", "7"), max_age).map(|found| found.answerer);
    assert_eq!((at_hand(MAX_AGE), scene.asked()), (None, 0));
    scene.answerer("7").await;
    tokio::time::sleep(MAX_AGE / 2).await;
    assert_eq!((at_hand(MAX_AGE), at_hand(MAX_AGE / 2)), (Some(Answerer::Cache), None));
    scene.recent.learn(&[event("7")]);
    assert_eq!((at_hand(MAX_AGE), at_hand(MAX_AGE / 2)), (Some(Answerer::Stream), Some(Answerer::Stream)));
    assert!(scene.lookups.at_hand(&key("nobody", "7"), MAX_AGE).is_none());
    assert_eq!(scene.asked(), 1);
}

/// INV-15: one lookup waits for a vendor that is down, and not each of them.
#[tokio::test(start_paused = true)]
async fn a_vendor_that_gives_no_answer_is_left_alone_and_what_is_known_is_told_meanwhile() {
    let scene = Scene::new("live");
    scene.answerer("7").await;
    scene.recent.learn(&[event("6")]);
    scene.asked();
    scene.answers(500);
    let second = Duration::from_secs(1);
    assert_eq!(scene.not_now("1").await, second);
    assert_eq!(scene.asked(), 1);
    for id in 102..150 {
        assert!(scene.not_now(&id.to_string()).await <= second, "the others need not ask");
    }
    assert_eq!((scene.answerer("7").await, scene.answerer("6").await), (Answerer::Cache, Answerer::Stream));
    assert_eq!(scene.asked(), 0);
    // Twice as long each time, and no longer than half a minute.
    for wait in [2, 4, 8, 16, 30, 30] {
        let before = scene.not_now("1").await;
        tokio::time::sleep(before).await;
        assert_eq!((scene.not_now("1").await, scene.asked()), (Duration::from_secs(wait), 1));
    }
    // What an event has overtaken is not told, whatever the vendor does.
    scene.kept.seen(&page("7"));
    assert!(scene.look("7").await.is_err());
    tokio::time::sleep(Duration::from_secs(30)).await;
    scene.answers(200);
    assert_eq!((scene.answerer("1").await, scene.answerer("2").await), (Answerer::Vendor, Answerer::Vendor));
    scene.answers(500);
    assert_eq!(scene.not_now("3").await, second, "an answer ends it");
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_told_apart_from_what_will_not() {
    let scene = Scene::new("live");
    let never = async |key: &RecordKey, why: &str| match scene.look_at(key).await {
        Err(LookUpError::Never { why: told }) => assert!(told.contains(why), "{told}"),
        other => panic!("{why}: {other:?}"),
    };
    for status in [400, 422] {
        scene.answers(status);
        never(&key("acme", "1"), &format!("contacts 1: the vendor refused the lookup with {status}")).await;
    }
    scene.answers(200);
    scene.company.padding.store(MAX_RECORD_BYTES, Ordering::Relaxed);
    never(&key("acme", "2"), "larger than 256 KiB").await;
    never(&key("gone", "3"), "not configured any more").await;
    // With another token or plan it may be answered.
    for status in [401, 403, 429, 500] {
        let scene = Scene::new("live");
        scene.answers(status);
        assert!(scene.not_now("1").await >= Duration::from_secs(1), "{status}");
    }
    let unknown = Scene::new("auto");
    unknown.not_now("1").await;
    assert_eq!(unknown.asked(), 0, "nobody knows yet where to ask");
}

fn page(id: &str) -> Page {
    let body = event(id).body;
    Page {
        stream: StreamKey { account: "acme".into(), stream: "contacts".into() },
        from: Position::tail(),
        to: Position::top(),
        top: true,
        events: vec![crate::event::Event {
            account: "acme".into(),
            stream: "contacts".into(),
            event_type: "contact.updated".into(),
            id: "e".into(),
            record_id: id.into(),
            occurred_at: None,
            sequence: None,
            dedupe_key: crate::event::DedupeKey::by_id("acme", "e"),
            content_hash: ContentHash([0; 16]),
            body,
        }],
        rejected: Vec::new(),
        gap: None,
        fetched_at: BEGIN,
    }
}
