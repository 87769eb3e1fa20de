mod twin;
mod vendor;

use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::{Auth, DedupeBy, DialectChoice, OnGap, Secret};
use crate::event::GapReason;
use crate::event::ports::StreamState;
use twin::Twin;
use vendor::{Fault, Vendor as FakeVendor};

const BOTH: [Dialect; 2] = [Dialect::Reference, Dialect::Live];
const PAGE: u16 = 10;

/// A source that runs against a fake vendor and a ledger in memory.
struct Scene {
    vendor: FakeVendor,
    twin: Twin,
    status: SourceStatus,
    backlog_full: watch::Sender<bool>,
    /// Whether the recorder takes anything.
    recording: watch::Sender<bool>,
    room: Capacity,
    stop: CancellationToken,
    running: JoinHandle<Result<(), SourceError>>,
    recorder: JoinHandle<()>,
    files: TempDir,
}

struct Setting {
    dialect: Dialect,
    choice: DialectChoice,
    streams: Vec<(&'static str, usize)>,
    wanted: Vec<&'static str>,
    on_gap: OnGap,
    room: Capacity,
    twin: Twin,
    faults: Vec<Fault>,
    recording: bool,
}

impl Setting {
    fn of(dialect: Dialect) -> Self {
        Self {
            dialect,
            choice: DialectChoice::Auto,
            streams: vec![("deals", 95), ("leads", 7)],
            wanted: vec!["deals", "leads"],
            on_gap: OnGap::Continue,
            room: Capacity::new(1_000, 1 << 20),
            twin: Twin::default(),
            faults: Vec::new(),
            recording: true,
        }
    }

    async fn start(self) -> Scene {
        let (vendor, address) = FakeVendor::start(self.dialect, &self.streams).await;
        vendor.sell().faults.extend(self.faults);
        let files = tempfile::tempdir().unwrap();
        let token = files.path().join("token");
        std::fs::write(&token, "good\n").unwrap();
        let config = AccountConfig {
            base_url: format!("http://{address}"),
            dialect: self.choice,
            auth: Auth::Token(Secret::file(token)),
            streams: self.wanted.iter().map(|name| (*name).to_owned()).collect(),
            events: vec!["*".to_owned()],
            dedupe_by: DedupeBy::Id,
            start: StreamStart::Tail,
            history: Duration::from_hours(72),
            on_gap: self.on_gap,
            poll_interval: Duration::from_millis(20),
            page_limit: PAGE,
            max_page_bytes: 150_000,
            requests_per_minute: Some(60_000),
            requests_per_hour: Some(1_000_000),
        };
        let account = AccountName::from("acme");
        let (pages, submitted) = mpsc::channel(16);
        let (backlog_full, is_full) = watch::channel(false);
        let (recording, is_recording) = watch::channel(self.recording);
        let (stop, status) = (CancellationToken::new(), SourceStatus::default());
        let short = (Duration::from_millis(5), Duration::from_millis(40));
        let source = SourceConfig {
            deployment: "test".to_owned(),
            vendor: Vendor::new(&account, &config, Clock::system()).unwrap(),
            account,
            config,
            book: self.twin.clone(),
            pages,
            witness: None,
            room: self.room.clone(),
            backlog_full: is_full,
            clock: Clock::system(),
            status: status.clone(),
            pace: Pace {
                look: Duration::from_millis(10),
                backoff: short,
                unauthorized: short,
                forbidden: short,
                missing: short.1,
                listing: short.1,
            },
            seed: 7,
            stop: stop.clone(),
        };
        Scene {
            recorder: tokio::spawn(self.twin.clone().record(submitted, is_recording)),
            running: tokio::spawn(run(source)),
            vendor,
            twin: self.twin,
            status,
            backlog_full,
            recording,
            room: self.room,
            stop,
            files,
        }
    }
}

impl Scene {
    /// Waits for a state, with a deadline.
    async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !reached(self) {
            assert!(tokio::time::Instant::now() < deadline, "never: {what}; {:?}", self.twin.look());
            assert!(!self.running.is_finished(), "the source ended before: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn recorded(&self, resource: &str) -> Vec<String> {
        let ledger = self.twin.look();
        let of = ledger.events.iter().filter(|event| event.event_type.resource() == resource);
        of.map(|event| event.id.to_string()).collect()
    }

    /// How many elements were rejected, and how many gaps there are.
    fn set_aside(&self) -> (usize, usize) {
        let ledger = self.twin.look();
        (ledger.rejected.len(), ledger.gaps.len())
    }

    fn state(&self, stream: &str) -> Option<StreamState> {
        self.twin.look().rows.get(&key(stream)).map(|row| row.state)
    }

    fn position(&self, stream: &str) -> String {
        self.twin.look().rows.get(&key(stream)).map(|row| row.position.to_string()).unwrap_or_default()
    }

    async fn all_of(&self, resource: &str, events: usize) {
        self.until(&format!("{events} of {resource}"), |scene| scene.recorded(resource).len() == events).await;
        assert_eq!(self.recorded(resource), expected(resource, 0..events), "in order, each once");
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().expect("a stopped source ends well");
        drop(self.recording);
        self.recorder.abort();
    }
}

fn key(stream: &str) -> StreamKey {
    StreamKey { account: "acme".into(), stream: stream.into() }
}

fn expected(resource: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|at| format!("{resource}-{at}")).collect()
}

#[tokio::test]
async fn every_event_of_every_stream_is_recorded_once_and_in_order() {
    for dialect in BOTH {
        let scene = Setting::of(dialect).start().await;
        scene.all_of("deal", 95).await;
        scene.all_of("lead", 7).await;
        assert_eq!(scene.twin.look().dialect, Some(dialect), "found and kept");
        scene.vendor.sell().streams.insert("deals".to_owned(), 130);
        scene.all_of("deal", 130).await;
        scene.until("the position after the last event", |scene| scene.position("deals") == "at/130+=").await;
        assert!(scene.vendor.sell().user_agents.iter().all(|agent| agent.starts_with("standpipe/")));
        let waits = scene.vendor.sell().polls.iter().any(|(_, _, wait)| *wait > 0);
        assert_eq!(waits, dialect == Dialect::Reference, "only the reference dialect has a long poll");
        scene.end().await;
    }
}

#[tokio::test]
async fn no_fault_loses_an_event() {
    for dialect in BOTH {
        for fault in Fault::ALL {
            let mut setting = Setting::of(dialect);
            setting.faults = vec![fault; 3];
            let scene = setting.start().await;
            scene.all_of("deal", 95).await;
            scene.all_of("lead", 7).await;
            let (rejected, gaps) = scene.set_aside();
            let hostile = matches!(fault, Fault::Malformed | Fault::BadUtf8 | Fault::Nul);
            assert_eq!(rejected, if hostile { 3 } else { 0 }, "{dialect:?} {fault:?}");
            // The first poll is from the oldest event kept: nothing can be lost there.
            assert_eq!(gaps, 0, "{dialect:?} {fault:?}");
            scene.until("active again", |scene| scene.state("deals") == Some(StreamState::Active)).await;
            scene.end().await;
        }
    }
}

#[tokio::test]
async fn the_moved_position_of_an_empty_page_is_committed() {
    // INV-4
    for dialect in BOTH {
        let mut setting = Setting::of(dialect);
        setting.faults = vec![Fault::EmptyPage; 12];
        let scene = setting.start().await;
        scene.all_of("deal", 95).await;
        let is_moved = |(_, position): &&(StreamKey, Position)| position.as_str().contains('~');
        assert_eq!(scene.twin.look().committed.iter().filter(is_moved).count(), 12, "every one of them");
        scene.end().await;
    }
}

#[tokio::test]
async fn a_position_that_stands_is_not_committed_again_and_again() {
    for dialect in BOTH {
        let mut setting = Setting::of(dialect);
        setting.streams = vec![("deals", 0)];
        setting.wanted = vec!["deals"];
        let scene = setting.start().await;
        scene.until("a committed position", |scene| scene.position("deals") == "at/0+=").await;
        scene.until("more polls", |scene| scene.vendor.sell().polls.len() > 5).await;
        assert_eq!(scene.twin.look().committed.len(), 1);
        scene.end().await;
    }
}

#[tokio::test]
async fn an_expired_position_becomes_a_gap_before_anything_goes_on() {
    // INV-14
    for dialect in BOTH {
        let mut setting = Setting::of(dialect);
        setting.faults = vec![Fault::ShortPage, Fault::Gone];
        let scene = setting.start().await;
        scene.all_of("deal", 95).await;
        {
            let ledger = scene.twin.look();
            assert_eq!(ledger.gaps.len(), 1);
            assert_eq!(ledger.gaps[0].reason, GapReason::PositionExpired);
            assert!(ledger.gaps[0].detail.contains("too old") && ledger.gaps[0].detail.len() <= 200);
            let positions: Vec<_> =
                ledger.committed.iter().filter(|(of, _)| *of == key("deals")).map(|(_, at)| at.as_str()).collect();
            assert_eq!(positions[..2], ["at/1+=", "tail"], "from the old position to the oldest event kept");
        }
        scene.end().await;
    }
}

#[tokio::test]
async fn a_gap_with_on_gap_halt_is_recorded_and_waits_for_a_seek() {
    for dialect in BOTH {
        let mut setting = Setting::of(dialect);
        setting.on_gap = OnGap::Halt;
        setting.faults = vec![Fault::ShortPage, Fault::Gone];
        let scene = setting.start().await;
        scene
            .until("halted at the tail", |scene| {
                scene.state("deals") == Some(StreamState::Halted) && scene.position("deals") == "tail"
            })
            .await;
        scene.all_of("lead", 7).await;
        assert_eq!((scene.set_aside().1, scene.recorded("deal").len()), (1, 1));
        scene
            .until("it is told", |scene| scene.status.troubles().iter().any(|t| t.part.ends_with("stream/deals")))
            .await;
        scene.twin.seek(&key("deals"), &Position::from("at/90+="));
        scene.until("the rest", |scene| scene.recorded("deal").len() == 6).await;
        scene.until("active", |scene| scene.state("deals") == Some(StreamState::Active)).await;
        scene.end().await;
    }
}

#[tokio::test]
async fn what_an_operator_changes_is_followed_within_a_look() {
    for dialect in BOTH {
        let scene = Setting::of(dialect).start().await;
        scene.all_of("deal", 95).await;
        scene.twin.put(&key("deals"), StreamState::Paused);
        scene
            .until("told as paused", |scene| {
                let account = scene.status.account(&"acme".into());
                account
                    .is_some_and(|account| account.streams.get("deals").is_some_and(|s| s.state == StreamState::Paused))
            })
            .await;
        scene.vendor.sell().streams.insert("deals".to_owned(), 100);
        let polls = |scene: &Scene| scene.vendor.sell().polls.iter().filter(|(stream, ..)| stream == "deals").count();
        let before = polls(&scene);
        let leads = scene.vendor.sell().polls.len();
        scene.until("others go on", |scene| scene.vendor.sell().polls.len() > leads + 5).await;
        assert!(polls(&scene) <= before + 1, "a paused stream is not polled");
        assert_eq!(scene.recorded("deal").len(), 95);
        // The ledger fails just when the stream is looked at because it was resumed.
        scene.twin.look().failing_opens = 2;
        scene.twin.put(&key("deals"), StreamState::Active);
        scene.all_of("deal", 100).await;
        assert_eq!(scene.twin.look().failing_opens, 0);
        scene.twin.look().ids.clear();
        scene.twin.look().events.clear();
        scene.twin.seek(&key("deals"), &Position::from("at/97+="));
        scene.until("what was sought", |scene| scene.recorded("deal") == expected("deal", 97..100)).await;
        scene.end().await;
    }
}

#[tokio::test]
async fn a_page_whose_stream_was_moved_is_dropped_and_polled_again() {
    // INV-3
    let mut setting = Setting::of(Dialect::Live);
    setting.recording = false;
    let scene = setting.start().await;
    scene
        .until("two pages ahead", |scene| scene.vendor.sell().polls.iter().filter(|p| p.0 == "deals").count() >= 2)
        .await;
    scene.twin.seek(&key("deals"), &Position::from("at/50+="));
    scene.recording.send_replace(true);
    scene.until("the rest", |scene| scene.recorded("deal").len() == 45).await;
    assert_eq!(scene.recorded("deal"), expected("deal", 50..95));
    assert!(scene.twin.look().superseded >= 1);
    scene.end().await;
}

/// Field 7: polling ahead of what is recorded repeats nothing.
#[tokio::test]
async fn one_page_is_fetched_ahead_and_no_more() {
    let mut setting = Setting::of(Dialect::Live);
    setting.recording = false;
    setting.wanted = vec!["deals"];
    let scene = setting.start().await;
    scene.until("a page ahead", |scene| scene.vendor.sell().polls.len() == 2).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    scene.backlog_full.send_replace(true);
    scene.recording.send_replace(true);
    scene.until("both are recorded", |scene| scene.recorded("deal").len() == 20).await;
    assert_eq!(scene.vendor.sell().polls.len(), 2);
    scene.backlog_full.send_replace(false);
    scene.all_of("deal", 95).await;
    assert!(scene.twin.look().most_waiting <= 2);
    scene.end().await;
}

/// Field 4: what has no room is not fetched.
#[tokio::test]
async fn nothing_is_polled_without_room() {
    // INV-11
    let mut setting = Setting::of(Dialect::Live);
    setting.recording = false;
    setting.room = Capacity::new(usize::from(PAGE), 1 << 20);
    let scene = setting.start().await;
    scene.until("the room is taken", |scene| scene.room.depth() > 0).await;
    scene.until("a first page", |scene| !scene.vendor.sell().polls.is_empty()).await;
    let held = scene.room.clone().try_reserve(usize::from(PAGE), 1);
    assert!(held.is_none());
    assert!(scene.vendor.sell().polls.len() <= 3, "what has no room is not fetched");
    scene.recording.send_replace(true);
    scene.all_of("deal", 95).await;
    scene.all_of("lead", 7).await;
    scene.end().await;
}

/// Field 4: streams without news hold no room that one with news needs, however many wait.
#[tokio::test]
async fn streams_that_wait_leave_room_for_one_that_has_something_to_tell() {
    // INV-11
    let quiet =
        ["calls", "collaborations", "contacts", "leads", "loss_reasons", "notes", "orders", "products", "tasks"];
    let mut setting = Setting::of(Dialect::Reference);
    setting.room = Capacity::new(4 * usize::from(PAGE), 1 << 20);
    setting.streams = quiet.iter().map(|name| (*name, 0)).chain([("deals", 0)]).collect();
    setting.wanted = setting.streams.iter().map(|(name, _)| *name).collect();
    let scene = setting.start().await;
    scene.vendor.sell().hold = Duration::from_secs(20);
    let waits = |scene: &Scene| {
        let polls = &scene.vendor.sell().polls;
        quiet.iter().filter(|name| polls.iter().any(|(stream, _, wait)| stream == *name && *wait > 0)).count()
    };
    scene.until("all of them wait", |scene| waits(scene) == quiet.len()).await;
    assert!(scene.room.depth() <= 2 * usize::from(PAGE), "{} of the room are held", scene.room.depth());
    scene.end().await;
}

#[tokio::test]
async fn a_page_larger_than_its_room_is_fetched_again_with_more() {
    // INV-11
    let setting = Setting::of(Dialect::Live);
    let scene = setting.start().await;
    scene.vendor.sell().padding = 12_000;
    scene.all_of("deal", 95).await;
    assert!(scene.vendor.sell().polls.iter().all(|(_, limit, _)| *limit == 10), "that is no failure");
    scene.end().await;
}

#[tokio::test]
async fn a_full_backlog_stops_polling_and_says_so() {
    let scene = Setting::of(Dialect::Live).start().await;
    scene.all_of("deal", 95).await;
    scene.backlog_full.send_replace(true);
    scene.until("it is told", |scene| scene.status.troubles().iter().any(|t| t.why.contains("backlog is full"))).await;
    scene.vendor.sell().streams.insert("deals".to_owned(), 120);
    let before = scene.vendor.sell().polls.len();
    scene.until("another look", |scene| scene.twin.look().rows.len() == 2).await;
    assert!(scene.vendor.sell().polls.len() <= before + 2);
    scene.backlog_full.send_replace(false);
    scene.all_of("deal", 120).await;
    scene.until("nothing to tell", |scene| scene.status.troubles().is_empty()).await;
    scene.end().await;
}

#[tokio::test]
async fn a_refused_token_is_told_and_a_replaced_one_is_taken_up() {
    for dialect in BOTH {
        let scene = Setting::of(dialect).start().await;
        scene.all_of("deal", 95).await;
        scene.vendor.sell().token = "better".to_owned();
        scene
            .until("unauthorized", |scene| {
                scene.status.troubles().iter().any(|trouble| trouble.why.starts_with("unauthorized"))
            })
            .await;
        scene.vendor.sell().streams.insert("deals".to_owned(), 120);
        std::fs::write(scene.files.path().join("token"), "better\n").unwrap();
        scene.all_of("deal", 120).await;
        assert!(scene.status.troubles().is_empty(), "{:?}", scene.status.troubles());
        scene.end().await;
    }
}

#[tokio::test]
async fn a_page_that_cannot_be_read_at_all_makes_the_stream_stuck_until_it_can() {
    for (dialect, fault) in [(Dialect::Reference, Fault::Truncate), (Dialect::Live, Fault::Oversize)] {
        let scene = Setting::of(dialect).start().await;
        scene.all_of("deal", 95).await;
        scene.vendor.sell().always = Some(fault);
        scene.vendor.sell().streams.insert("deals".to_owned(), 120);
        scene.until("stuck", |scene| scene.state("deals") == Some(StreamState::Stuck)).await;
        scene.until("it is told", |scene| scene.status.troubles().iter().any(|t| t.why.starts_with("stuck"))).await;
        if fault == Fault::Truncate {
            scene.until("its bytes are kept", |scene| scene.twin.look().rejected.len() == 1).await;
        }
        assert!(scene.vendor.sell().polls.iter().any(|(stream, limit, _)| stream == "deals" && *limit == 1));
        assert_eq!(scene.position("deals"), "at/95+=", "the position stays");
        scene.vendor.sell().always = None;
        scene.all_of("deal", 120).await;
        scene.until("active", |scene| scene.state("deals") == Some(StreamState::Active)).await;
        scene.end().await;
    }
}

#[tokio::test]
async fn an_outage_of_the_vendor_is_told_until_it_is_over() {
    for dialect in BOTH {
        let scene = Setting::of(dialect).start().await;
        scene.all_of("deal", 95).await;
        scene.vendor.sell().always = Some(Fault::ServerError);
        let told = |scene: &Scene| {
            scene.status.troubles().iter().any(|t| t.why.contains("failing: the vendor failed with 502"))
        };
        scene.until("it is told", told).await;
        scene.vendor.sell().always = None;
        scene.until("it is taken back", |scene| scene.status.troubles().is_empty()).await;
        scene.end().await;
    }
}

#[tokio::test]
async fn a_new_stream_appears_without_a_restart() {
    for (dialect, wanted) in [(Dialect::Reference, "*"), (Dialect::Live, "gadgets")] {
        let mut setting = Setting::of(dialect);
        setting.wanted = vec!["deals", wanted];
        let scene = setting.start().await;
        scene.all_of("deal", 95).await;
        scene.vendor.sell().streams.insert("gadgets".to_owned(), 12);
        scene.all_of("gadget", 12).await;
        if dialect == Dialect::Live {
            assert!(scene.twin.look().states.contains(&StreamState::Missing), "it was looked for before it was there");
        }
        scene.end().await;
    }
}

#[tokio::test]
async fn a_restart_goes_on_from_the_ledger_alone() {
    for dialect in BOTH {
        let mut setting = Setting::of(dialect);
        setting.streams = vec![("deals", 40)];
        let scene = setting.start().await;
        scene.all_of("deal", 40).await;
        scene.until("the last position", |scene| scene.position("deals") == "at/40+=").await;
        let twin = scene.twin.clone();
        scene.end().await;
        let mut setting = Setting::of(dialect);
        setting.twin = twin;
        let scene = setting.start().await;
        scene.all_of("deal", 95).await;
        assert_eq!(scene.twin.look().superseded, 0);
        scene.end().await;
    }
}

#[tokio::test]
async fn a_source_without_a_recorder_ends_and_says_so() {
    // INV-17
    let scene = Setting::of(Dialect::Live).start().await;
    scene.recorder.abort();
    let ended = tokio::time::timeout(Duration::from_secs(10), scene.running).await.expect("it ends").unwrap();
    assert!(matches!(ended, Err(SourceError::RecorderGone)), "{ended:?}");
}
