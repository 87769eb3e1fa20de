//! Lookups against a vendor in memory, in virtual time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::clock::Clock;
use crate::event::{ContentHash, DedupeKey, Event, Position, StreamKey};
use crate::http::{Server, Transport};
use crate::sell::Priority;

const TTL: Duration = Duration::from_mins(1);

/// The vendor's records, and how it behaves.
#[derive(Default)]
struct Company {
    versions: Mutex<BTreeMap<(String, String), u64>>,
    /// Before and after it looks, in milliseconds; the last one for all that follow.
    delays: Mutex<Vec<(u64, u64)>>,
    asked: AtomicUsize,
    status: Mutex<Option<u16>>,
    header: Mutex<Option<(&'static str, &'static str)>>,
    padding: AtomicUsize,
}

impl Company {
    fn change(&self, resource: &str, id: &str) -> u64 {
        let mut versions = self.versions.lock().unwrap();
        let version = versions.entry((resource.to_owned(), id.to_owned())).or_default();
        *version += 1;
        *version
    }
}

#[derive(Clone)]
struct Served(Arc<Company>);

impl Server for Served {
    fn answer(&self, request: reqwest::Request) -> BoxFuture<'static, Result<reqwest::Response, reqwest::Error>> {
        let company = self.0.clone();
        company.asked.fetch_add(1, Ordering::Relaxed);
        let mut delays = company.delays.lock().unwrap();
        let (before, after) =
            if delays.len() > 1 { delays.remove(0) } else { delays.first().copied().unwrap_or((1, 1)) };
        drop(delays);
        async move {
            tokio::time::sleep(Duration::from_millis(before)).await;
            let path = request.url().path().to_owned();
            let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            let shown: Vec<(String, u64)> = {
                let versions = company.versions.lock().unwrap();
                let wanted = |id: &str| parts.get(2).is_none_or(|part| *part == id || *part == "search");
                let all = versions.iter().filter(|((resource, id), _)| resource == parts[1] && wanted(id));
                all.map(|((_, id), version)| (id.clone(), *version)).collect()
            };
            let body = serde_json::json!({ "data": shown.into_iter().collect::<BTreeMap<_, _>>() }).to_string();
            let body = body + &" ".repeat(company.padding.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_millis(after)).await;
            let status = company.status.lock().unwrap().unwrap_or(200);
            let mut response = axum::http::Response::builder().status(status);
            if let Some((name, value)) = *company.header.lock().unwrap() {
                response = response.header(name, value);
            }
            Ok(response.body(reqwest::Body::from(body)).unwrap().into())
        }
        .boxed()
    }
}

struct Scene {
    company: Arc<Company>,
    lookups: Lookups,
    vendor: Vendor,
    tenure: Tenure,
}

impl Scene {
    fn new(stale_if_error: Duration) -> Self {
        let company = Arc::new(Company::default());
        let text = "deployment = \"door\"\n[ledger]\nurl = \"embedded\"\n[accounts.acme]\nbase_url = \"http://localhost\"\n\
                    token = \"t\"\ndialect = \"live\"\nrequests_per_minute = 6000000\nrequests_per_hour = 60000000\n";
        let config = crate::config::parse("lookups.toml", text).unwrap().config;
        let client = crate::http::client_builder().build().unwrap();
        let transport = Transport::Memory(client, Arc::new(Served(company.clone())));
        let vendor = Vendor::over(&"acme".into(), &config.accounts["acme"], Clock::system(), transport).unwrap();
        let lookups = Lookups::new(&PassthroughConfig { cache: 16 << 20, cache_ttl: TTL, stale_if_error });
        let tenure = Tenure::default();
        tenure.prolong(Instant::now() + Duration::from_hours(100));
        Self { company, lookups, vendor, tenure }
    }

    fn begin(&self) -> Era {
        self.lookups.begin(["acme".into()], &self.tenure)
    }

    fn asked(&self) -> usize {
        self.company.asked.load(Ordering::Relaxed)
    }

    async fn get(&self, target: &str) -> (Outcome, u64) {
        let answer = self.lookups.ask(&self.vendor, &forward(target), &how()).await.expect("an answer");
        (answer.outcome, versions(&answer).values().sum())
    }

    fn event(&self, resource: &str, id: &str) {
        self.lookups.seen(&page(vec![event(resource, id)]));
    }
}

fn forward(target: &str) -> Forward {
    let search = target.ends_with("search") || target.ends_with("graphql");
    Forward {
        api: if search { "search" } else { "core" },
        method: if search { Method::POST } else { Method::GET },
        segments: target.split('/').map(str::to_owned).collect(),
        slash: false,
        query: None,
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }
}

fn how() -> How {
    How {
        priority: Priority::Passthrough,
        budget_wait: Duration::from_secs(2),
        max_age: None,
        past: false,
        keep: true,
        deadline: Instant::now() + Duration::from_secs(27),
    }
}

fn versions(answer: &Answer) -> BTreeMap<String, u64> {
    let Body::Whole(body) = &answer.body else { panic!("it is short") };
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    serde_json::from_value(body["data"].clone()).unwrap()
}

fn page(events: Vec<Event>) -> Page {
    Page {
        stream: StreamKey { account: "acme".into(), stream: "deals".into() },
        from: Position::tail(),
        to: Position::top(),
        top: true,
        events,
        rejected: Vec::new(),
        gap: None,
        fetched_at: OffsetDateTime::UNIX_EPOCH,
    }
}

fn event(resource: &str, id: &str) -> Event {
    Event {
        account: "acme".into(),
        stream: "deals".into(),
        event_type: format!("{resource}.updated").into(),
        id: "e".into(),
        record_id: id.into(),
        occurred_at: None,
        sequence: None,
        dedupe_key: DedupeKey::by_id("acme", "e"),
        content_hash: ContentHash::of("t", "", b"", b""),
        body: Bytes::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_drops_the_answers_of_its_record_and_the_lists_of_its_resource_and_no_others() {
    let scene = Scene::new(Duration::ZERO);
    let _era = scene.begin();
    for (resource, id) in [("deals", "7"), ("deals", "8"), ("contacts", "7"), ("deal_sources", "7")] {
        scene.company.change(resource, id);
    }
    let all = ["v2/deals/7", "v2/deals/8", "v2/deals", "v3/deals/search", "v2/contacts/7", "v2/contacts", "v3/graphql"];
    let told = async || {
        let mut hits = Vec::new();
        for target in all {
            hits.push(scene.get(target).await.0 == Outcome::Hit);
        }
        hits
    };
    assert_eq!(told().await, [false; 7]);
    assert_eq!(told().await, [true; 7]);
    scene.event("deal", "7");
    assert_eq!(told().await, [false, true, false, false, true, true, false]);
    assert_eq!(told().await, [true; 7]);
    // Of which record is not said.
    scene.event("contact", "");
    assert_eq!(told().await, [true, true, true, true, false, false, false]);
    told().await;
    drop(scene.lookups.writing(&scene.vendor, &Forward { method: Method::PUT, ..forward("v2/deals/8") }));
    assert_eq!(told().await, [true, false, false, false, true, true, false]);
    told().await;
    drop(scene.lookups.writing(&scene.vendor, &Forward { method: Method::POST, ..forward("v2/lead_conversions") }));
    assert_eq!(told().await, [false; 7], "nobody knows what else it changed");
    told().await;
    let gap = crate::event::Gap { reason: crate::event::GapReason::PositionExpired, detail: String::new() };
    scene.lookups.seen(&Page { gap: Some(gap), ..page(Vec::new()) });
    assert_eq!(told().await, [false; 7], "nobody knows what was lost");
    scene.get("v2/deal_sources/7").await;
    scene.event("source", "7");
    assert_eq!(scene.get("v2/deal_sources/7").await.0, Outcome::Miss, "Core's name for it");
    tokio::time::sleep(TTL).await;
    assert_eq!(told().await, [false; 7], "no answer is fresh for longer than that");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_an_event_overtakes_is_given_once_and_not_kept_as_fresh() {
    let scene = Scene::new(Duration::ZERO);
    let _era = scene.begin();
    scene.company.change("deals", "7");
    scene.company.delays.lock().unwrap().push((1, 500));
    let (told, ()) = tokio::join!(scene.get("v2/deals/7"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        scene.company.change("deals", "7");
        scene.event("deal", "7");
        // It does not join the one that began before.
        assert_eq!(scene.get("v2/deals/7").await, (Outcome::Miss, 2));
    });
    assert_eq!(told, (Outcome::Miss, 1));
    assert_eq!(scene.get("v2/deals/7").await, (Outcome::Hit, 2), "the older answer has not replaced it");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_old_when_it_comes_is_not_kept_as_fresh() {
    let scene = Scene::new(Duration::ZERO);
    let _era = scene.begin();
    scene.company.change("deals", "7");
    scene.company.delays.lock().unwrap().push((1, 500));
    let (told, ()) = tokio::join!(scene.get("v2/deals/7"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        scene.company.change("deals", "7");
        scene.event("deal", "7");
    });
    assert_eq!(told, (Outcome::Miss, 1));
    assert_eq!(scene.get("v2/deals/7").await, (Outcome::Miss, 2), "it was old when it came");
}

#[tokio::test(start_paused = true)]
async fn identical_lookups_are_one_call_and_go_on_when_the_one_who_asked_goes_away() {
    let scene = Scene::new(Duration::ZERO);
    let _era = scene.begin();
    scene.company.change("deals", "7");
    scene.company.delays.lock().unwrap().push((20, 20));
    let told = futures_util::future::join_all((0..30).map(|_| scene.get("v2/deals/7"))).await;
    assert_eq!(scene.asked(), 1);
    assert_eq!(told.iter().filter(|(outcome, _)| *outcome == Outcome::Shared).count(), 29);
    let impatient = tokio::time::timeout(Duration::from_millis(10), scene.get("v2/deals"));
    let (gone, told) = tokio::join!(impatient, async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        futures_util::future::join_all((0..30).map(|_| scene.get("v2/deals"))).await
    });
    assert!(gone.is_err());
    assert!(told.iter().all(|(_, version)| *version == 1));
    assert_eq!(scene.asked(), 3, "one asks anew");
    // What asks for another thing, or goes past, is another call.
    let mut other = forward("v2/deals/7");
    other.headers.insert("accept", "text/csv".parse().unwrap());
    let past = How { past: true, ..how() };
    scene.lookups.ask(&scene.vendor, &other, &how()).await.unwrap();
    scene.lookups.ask(&scene.vendor, &forward("v2/deals/7"), &past).await.unwrap();
    let unkept = How { keep: false, ..how() };
    let passed = scene.lookups.ask(&scene.vendor, &forward("v2/deals/7"), &unkept).await.unwrap();
    assert_eq!((passed.outcome, scene.asked()), (Outcome::Passed, 6));
}

#[tokio::test(start_paused = true)]
async fn where_another_replica_may_record_nothing_is_shared_nor_fresh() {
    let scene = Scene::new(Duration::ZERO);
    scene.company.change("deals", "7");
    let both = futures_util::future::join_all((0..2).map(|_| scene.get("v2/deals/7"))).await;
    assert_eq!((both, scene.asked()), (vec![(Outcome::Miss, 1); 2], 2));
    let era = scene.begin();
    assert_eq!(scene.get("v2/deals/7").await.0, Outcome::Miss, "that was of no era");
    assert_eq!(scene.get("v2/deals/7").await.0, Outcome::Hit);
    scene.tenure.prolong(Instant::now() + Duration::from_secs(5));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.get("v2/deals/7").await.0, Outcome::Miss, "the lease may have run out");
    scene.tenure.prolong(Instant::now() + Duration::from_hours(1));
    scene.get("v2/deals/7").await;
    drop(era);
    assert_eq!(scene.get("v2/deals/7").await.0, Outcome::Miss);
    let _era = scene.begin();
    assert_eq!(scene.get("v2/deals/7").await.0, Outcome::Miss, "of the era before");
}

#[tokio::test(start_paused = true)]
async fn while_the_vendor_gives_none_an_older_answer_is_given_and_labelled() {
    let scene = Scene::new(Duration::from_mins(10));
    let _era = scene.begin();
    scene.company.change("deals", "7");
    assert_eq!(scene.get("v2/deals/7").await, (Outcome::Miss, 1));
    scene.company.change("deals", "7");
    scene.event("deal", "7");
    *scene.company.status.lock().unwrap() = Some(503);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let answer = scene.lookups.ask(&scene.vendor, &forward("v2/deals/7"), &how()).await.unwrap();
    assert_eq!((answer.outcome, answer.status, versions(&answer)["7"]), (Outcome::Stale, StatusCode::OK, 1));
    assert!(answer.age >= Duration::from_secs(30));
    let past = How { past: true, ..how() };
    let answer = scene.lookups.ask(&scene.vendor, &forward("v2/deals/7"), &past).await.unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(scene.get("v2/deals/8").await.0, Outcome::Miss, "there is none of it");
    tokio::time::sleep(Duration::from_mins(11)).await;
    assert_eq!(scene.get("v2/deals/7").await.0, Outcome::Miss, "not for ever");
    let never = Scene::new(Duration::ZERO);
    let _era = never.begin();
    never.get("v2/deals/7").await;
    never.event("deal", "7");
    *never.company.status.lock().unwrap() = Some(503);
    assert_eq!(never.get("v2/deals/7").await.0, Outcome::Miss);
}

#[tokio::test(start_paused = true)]
async fn what_is_one_callers_own_or_too_long_is_neither_kept_nor_shared() {
    for header in [("set-cookie", "a=b"), ("cache-control", "private, no-store"), ("vary", "accept, x-whim")] {
        let scene = Scene::new(Duration::ZERO);
        let _era = scene.begin();
        *scene.company.header.lock().unwrap() = Some(header);
        for _ in 0..2 {
            let answer = scene.lookups.ask(&scene.vendor, &forward("v2/deals/7"), &how()).await.unwrap();
            assert_eq!(answer.outcome, Outcome::Passed, "{header:?}");
        }
        assert_eq!(scene.asked(), 2, "{header:?}");
    }
    let scene = Scene::new(Duration::ZERO);
    let _era = scene.begin();
    // All callers are one user of the vendor's: its words to caches before it are not about us.
    *scene.company.header.lock().unwrap() = Some(("cache-control", "max-age=0, private, must-revalidate"));
    scene.get("v2/deals/7").await;
    assert_eq!(scene.get("v2/deals/7").await.0, Outcome::Hit);
    scene.company.padding.store(2 << 20, Ordering::Relaxed);
    let answer = scene.lookups.ask(&scene.vendor, &forward("v2/deals"), &how()).await.unwrap();
    assert!(matches!((answer.outcome, answer.body), (Outcome::Passed, Body::Passing { .. })));
    scene.company.padding.store(1 << 19, Ordering::Relaxed);
    for id in 0..100 {
        scene.get(&format!("v2/notes/{id}")).await;
    }
    let kept = scene.lookups.0.store.bytes();
    assert!((8 << 20..=16 << 20).contains(&kept), "{kept}: within its bound");
}

#[tokio::test(start_paused = true)]
async fn a_record_is_told_as_old_as_is_allowed() {
    let scene = Scene::new(Duration::ZERO);
    let _era = scene.begin();
    scene.company.change("contacts", "7");
    let record = async |max_age: Duration| {
        let deadline = Instant::now() + Duration::from_secs(5);
        scene.lookups.record(&scene.vendor, "contacts", "7", max_age, deadline).await
    };
    let found = record(Duration::from_mins(10)).await.unwrap().expect("it is there");
    assert_eq!((&found.record[..], found.cached), (&br#"{"7":1}"#[..], false));
    tokio::time::sleep(Duration::from_mins(5)).await;
    let found = record(Duration::from_mins(10)).await.unwrap().expect("it is there");
    assert!(found.cached && found.age >= Duration::from_mins(5), "longer than at the door");
    assert!(!record(Duration::from_mins(4)).await.unwrap().expect("it is there").cached);
    assert!(!record(Duration::ZERO).await.unwrap().expect("it is there").cached);
    scene.event("contact", "7");
    assert!(!record(Duration::from_mins(10)).await.unwrap().expect("it is there").cached);
    for (status, expected) in [
        (404, Ok(None)),
        (429, Err(LookupError::Throttled { wait: Duration::from_secs(1) })),
        (500, Err(LookupError::Unreachable)),
        (403, Err(LookupError::Refused { status: 403 })),
    ] {
        *scene.company.status.lock().unwrap() = Some(status);
        assert_eq!(record(Duration::ZERO).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_of_a_record_is_told_while_nobody_may_be_asked() {
    let scene = Scene::new(Duration::from_mins(10));
    let era = scene.begin();
    scene.company.change("contacts", "7");
    let max_age = Duration::from_mins(10);
    let kept = |id: &str| scene.lookups.kept_record(&scene.vendor, "contacts", id, max_age);
    assert_eq!(kept("7"), None);
    let deadline = Instant::now() + Duration::from_secs(5);
    scene.lookups.record(&scene.vendor, "contacts", "7", max_age, deadline).await.unwrap().expect("it is there");
    tokio::time::sleep(Duration::from_mins(2)).await;
    let found = kept("7").expect("it is kept");
    assert_eq!((&found.record[..], found.cached), (&br#"{"7":1}"#[..], true));
    assert!(found.age >= Duration::from_mins(2), "{:?}", found.age);
    assert_eq!((kept("8"), scene.asked()), (None, 1), "nobody is asked");
    tokio::time::sleep(Duration::from_mins(8)).await;
    assert_eq!(kept("7"), None, "it is older than it may be");
    let fresh = async || {
        let deadline = Instant::now() + Duration::from_secs(5);
        scene.lookups.record(&scene.vendor, "contacts", "7", Duration::ZERO, deadline).await.unwrap();
    };
    fresh().await;
    assert!(kept("7").is_some());
    scene.event("contact", "7");
    assert_eq!(kept("7"), None, "an event has overtaken it, and stale_if_error is no word on events");
    fresh().await;
    assert!(kept("7").is_some());
    drop(era);
    assert_eq!(kept("7"), None, "another replica may record what overtakes it");
}

/// What may happen at a time, in milliseconds.
#[derive(Clone, Debug)]
enum Act {
    /// A record changes at the vendor; its event is here after, and is recorded after.
    Change { id: u8, here: u64, recorded: u64 },
    /// A write through the door takes so long.
    Write { id: u8, takes: u64 },
    /// A lookup of a record, of a list, of a query.
    Look { what: u8 },
    /// Another replica takes over, and gives back after so long.
    Handover { lasts: u64 },
    /// The vendor fails for so long.
    Fails { lasts: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..3_u8, 0..400_u64, 0..400_u64).prop_map(|(id, here, recorded)| Act::Change { id, here, recorded }),
        1 => (0..3_u8, 0..400_u64).prop_map(|(id, takes)| Act::Write { id, takes }),
        10 => (0..5_u8).prop_map(|what| Act::Look { what }),
        1 => (0..2_000_u64).prop_map(|lasts| Act::Handover { lasts }),
        1 => (0..1_000_u64).prop_map(|lasts| Act::Fails { lasts }),
    ]
}

const WHAT: [&str; 5] = ["v2/deals/0", "v2/deals/1", "v2/deals/2", "v2/deals", "v3/deals/search"];

/// What an observer knows to be recorded, or written: no lookup that begins now may show less.
type Floor = Arc<Mutex<BTreeMap<String, u64>>>;

fn raise(floor: &Floor, id: &str, version: u64) {
    let mut floor = floor.lock().unwrap();
    let known = floor.entry(id.to_owned()).or_default();
    *known = version.max(*known);
}

async fn one(scene: Arc<Scene>, floor: Floor, era: Arc<Mutex<Option<Era>>>, act: Act) -> Option<Outcome> {
    let ms = Duration::from_millis;
    match act {
        Act::Change { id, here, recorded } => {
            let id = id.to_string();
            let version = scene.company.change("deals", &id);
            tokio::time::sleep(ms(here)).await;
            let seen = era.lock().unwrap().is_some();
            if seen {
                scene.event("deal", &id);
            }
            tokio::time::sleep(ms(recorded)).await;
            // An owner that is fenced records nothing: the next one polls the page again.
            if era.lock().unwrap().is_some() {
                scene.event("deal", &id);
            }
            raise(&floor, &id, version);
            None
        }
        Act::Write { id, takes } => {
            let id = id.to_string();
            let target = format!("v2/deals/{id}");
            let write = Forward { method: Method::PUT, ..forward(&target) };
            let writing = scene.lookups.writing(&scene.vendor, &write);
            tokio::time::sleep(ms(takes)).await;
            let version = scene.company.change("deals", &id);
            drop(writing);
            raise(&floor, &id, version);
            None
        }
        Act::Look { what } => {
            let floor = floor.lock().unwrap().clone();
            let Ok(answer) = scene.lookups.ask(&scene.vendor, &forward(WHAT[usize::from(what)]), &how()).await else {
                return None;
            };
            if answer.status == StatusCode::OK && answer.outcome != Outcome::Stale {
                let shown = versions(&answer);
                for (id, least) in floor.iter().filter(|(id, _)| what > 2 || **id == what.to_string()) {
                    let shown = shown.get(id).copied().unwrap_or(0);
                    assert!(shown >= *least, "{}: {id} is {shown}, {least} was recorded", WHAT[usize::from(what)]);
                }
            }
            Some(answer.outcome)
        }
        Act::Handover { lasts } => {
            drop(era.lock().unwrap().take());
            tokio::time::sleep(ms(lasts)).await;
            era.lock().unwrap().get_or_insert_with(|| scene.begin());
            None
        }
        Act::Fails { lasts } => {
            *scene.company.status.lock().unwrap() = Some(503);
            tokio::time::sleep(ms(lasts)).await;
            *scene.company.status.lock().unwrap() = None;
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn no_answer_is_older_than_the_newest_recorded_event_of_what_it_shows_unless_it_says_so(
        acts in proptest::collection::vec((0..3_000_u64, act()), 10..80),
        delays in proptest::collection::vec((0..300_u64, 0..300_u64), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let scene = Arc::new(Scene::new(Duration::from_mins(5)));
            scene.company.delays.lock().unwrap().extend(delays);
            let era = Arc::new(Mutex::new(Some(scene.begin())));
            let (start, floor) = (Instant::now(), Floor::default());
            let mut tasks = JoinSet::new();
            for (at, act) in acts {
                let done = one(scene.clone(), floor.clone(), era.clone(), act);
                tasks.spawn(async move {
                    tokio::time::sleep_until(start + Duration::from_millis(at)).await;
                    done.await
                });
            }
            while let Some(done) = tasks.join_next().await {
                if let Err(failed) = done {
                    std::panic::resume_unwind(failed.into_panic());
                }
            }
        });
    }
}
