//! The source against the simulator and a real ledger: every fault by name, in both dialects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use standpipe::clock::Clock;
use standpipe::config::{AccountConfig, Auth, DedupeBy, DialectChoice, OnGap, Secret, StreamStart};
use standpipe::event::ports::{Dialect, Publish};
use standpipe::event::{AccountName, Batch, Capacity, Recorded, Shard};
use standpipe::ledger::{Lease, Ledger, Recorder};
use standpipe::sell::Vendor;
use standpipe::simulator::{self, Emitted, Fault, Options, Served, Simulator};
use standpipe::source::{Pace, SourceConfig, SourceStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::postgres::Postgres;
use crate::support::wait::{wait_for, wait_until};

const EVENTS: u64 = 400;
const DEADLINE: Duration = Duration::from_secs(90);

/// Keeps what was recorded, by account.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<BTreeMap<AccountName, Vec<Recorded>>>>);

impl Publish for Shelf {
    fn publish(&self, batch: Arc<Batch>) -> impl Future<Output = ()> + Send {
        let mut kept = self.0.lock().unwrap();
        for event in &batch.events {
            kept.entry(event.account.clone()).or_default().push(event.clone());
        }
        std::future::ready(())
    }
}

impl Shelf {
    fn of(&self, account: &AccountName) -> Vec<Recorded> {
        self.0.lock().unwrap().get(account).cloned().unwrap_or_default()
    }
}

/// An account of its own for each fault.
struct Case {
    fault: Fault,
    account: AccountName,
    simulator: Simulator,
}

impl Case {
    /// What must be there: everything but what the simulator itself took away.
    fn expected(&self, dialect: simulator::Dialect) -> Vec<Emitted> {
        let all = self.simulator.emitted(dialect, 0, usize::MAX);
        all.into_iter().filter(|event| self.fault != Fault::Gone || !event.gone).collect()
    }
}

fn rate(fault: Fault) -> f64 {
    match fault {
        // Of events, or dear in time.
        Fault::Oversize => 0.005,
        Fault::Slow | Fault::Unauthorized => 0.1,
        // Made to happen, below; comes with a living company alone.
        Fault::Gone | Fault::Burst => 0.0,
        _ => 0.25,
    }
}

fn account_config(url: String, dialect: Dialect, refresh_token: Secret) -> AccountConfig {
    AccountConfig {
        base_url: url,
        dialect: DialectChoice::Fixed(dialect),
        auth: Auth::OAuth {
            client_id: "test".to_owned(),
            client_secret: Secret::value("secret"),
            refresh_token,
            key: Secret::value("0f".repeat(32)),
        },
        streams: vec!["*".to_owned()],
        events: vec!["*".to_owned()],
        dedupe_by: DedupeBy::Id,
        start: StreamStart::Tail,
        history: Duration::from_hours(72),
        on_gap: OnGap::Continue,
        poll_interval: Duration::from_millis(800),
        page_limit: 25,
        max_page_bytes: 8 << 20,
        requests_per_minute: Some(60_000),
        requests_per_hour: Some(1_000_000),
    }
}

fn pace() -> Pace {
    let short = (Duration::from_millis(20), Duration::from_millis(200));
    Pace { backoff: short, unauthorized: short, forbidden: short, missing: short.1, ..Pace::default() }
}

async fn no_fault_loses_an_event(dialect: Dialect) {
    let (served, told) = match dialect {
        Dialect::Reference => (Served::Reference, simulator::Dialect::Reference),
        Dialect::Live => (Served::Live, simulator::Dialect::Live),
    };
    let url = Postgres::shared().await.database().await;
    let ledger = Ledger::connect(&crate::ledger::world::config(&url), &url.as_str().into(), "test").await.unwrap();
    let held = Lease::new(&ledger, Shard(0), Uuid::new_v4()).try_acquire().await.unwrap().unwrap();
    let recorder = Recorder::open(&ledger, held.ownership()).await.unwrap();
    let (shelf, stop) = (Shelf::default(), CancellationToken::new());
    let (pages, submitted) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    let (published, stopped) = (shelf.clone(), stop.clone());
    tasks.spawn(async move { recorder.run(submitted, published, stopped).await.map_err(|error| error.to_string()) });

    let room = Capacity::new(10_000, 64 << 20);
    let (_backlog, backlog_full) = watch::channel(false);
    let files = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for (seed, fault) in (1..).zip(Fault::ALL) {
        let options = Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            seed,
            rate: 0.0,
            backlog: EVENTS,
            dialect: served,
            faults: vec![(fault, rate(fault))],
            ..Options::default()
        };
        let simulator = simulator::start(options, Clock::system()).await.unwrap();
        let account = AccountName::from(fault.as_str());
        let refresh_token = files.path().join(fault.as_str());
        std::fs::write(&refresh_token, format!("refresh-{seed}")).unwrap();
        let config = account_config(simulator.url(), dialect, Secret::file(refresh_token));
        let source = SourceConfig {
            deployment: "test".to_owned(),
            vendor: Vendor::new(&account, &config, Clock::system()).unwrap(),
            account: account.clone(),
            config,
            book: ledger.clone(),
            pages: pages.clone(),
            witness: None,
            room: room.clone(),
            backlog_full: backlog_full.clone(),
            clock: Clock::system(),
            status: SourceStatus::default(),
            pace: pace(),
            seed,
            stop: stop.clone(),
        };
        let (vendor, grants, done) = (source.vendor.clone(), ledger.clone(), stop.clone());
        tasks.spawn(async move {
            vendor.keep_grant(&grants, &|_: Option<&str>| {}, &done).await;
            Ok(())
        });
        tasks.spawn(async move { standpipe::source::run(source).await.map_err(|error| error.to_string()) });
        cases.push(Case { fault, account, simulator });
    }

    for case in &cases {
        all_arrive(case, told, &shelf, &mut tasks).await;
        if case.fault == Fault::Gone {
            case.simulator.expire_all();
            let is_told = || shelf.of(&case.account).iter().any(Recorded::is_control);
            wait_until("the hole is announced (INV-14)", DEADLINE, async || {
                // What comes wakes who waits in a long poll.
                case.simulator.emit(1);
                is_told()
            })
            .await;
            case.simulator.emit(50);
            all_arrive(case, told, &shelf, &mut tasks).await;
        }
    }
    stop.cancel();
    drop(pages);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap().unwrap();
    }
}

/// Waits for all that must come, and looks at it closely.
async fn all_arrive(case: &Case, told: simulator::Dialect, shelf: &Shelf, tasks: &mut JoinSet<Result<(), String>>) {
    let name = case.fault.as_str();
    let (expected, recorded) = wait_for(format!("all of {name} has come"), DEADLINE, async || {
        assert!(tasks.try_join_next().is_none(), "{name}: a part ended");
        let (expected, recorded) = (case.expected(told), shelf.of(&case.account));
        let ids: BTreeSet<&str> = recorded.iter().map(|event| &*event.id).collect();
        let all = expected.iter().all(|event| ids.contains(event.id.as_str()));
        all.then_some((expected, recorded))
    })
    .await;
    assert!(!expected.is_empty(), "{name}: there is something to lose");
    assert!(rate(case.fault) == 0.0 || case.simulator.happened(case.fault) > 0, "{name} never happened");
    let data = recorded.iter().filter(|event| !event.is_control());
    let by_id: BTreeMap<&str, &Recorded> = data.clone().map(|event| (&*event.id, event)).collect();
    assert_eq!(by_id.len(), data.count(), "{name}: every id once");
    let mut last = BTreeMap::new();
    for event in &expected {
        let found = by_id[event.id.as_str()];
        assert_eq!((found.event_type.as_str(), &*found.record_id), (&*event.event_type, &*event.record_id), "{name}");
        let resource = found.event_type.resource();
        let body = std::str::from_utf8(&found.body).unwrap();
        let data = format!(r#""data":{{"{resource}":{}}}"#, event.record.get());
        assert!(body.contains(&data), "{name}: byte for byte: {data} in {body}");
        if let Some(previous) = &event.previous {
            assert!(body.contains(&format!(r#""previous":{}"#, previous.get())), "{name}: {body}");
        }
        let before = last.insert((resource.to_owned(), event.record_id.clone()), found.seq);
        assert!(before.is_none_or(|before| before < found.seq), "{name}: the order of record {}", event.record_id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_the_reference_dialect_loses_an_event() {
    no_fault_loses_an_event(Dialect::Reference).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_the_live_dialect_loses_an_event() {
    no_fault_loses_an_event(Dialect::Live).await;
}
