//! The loop against a Kafka in memory, in virtual time: how transactions grow and shrink, and what is not waited for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use standpipe::event::ports::{Decision, Delivered, LedgerError, Route, RouteError};
use standpipe::event::{Found, LookUp, LookUpError, LookUps, LookingUp, OnMiss, RecordKey, Recorded, Wanted};
use standpipe::sink::enrich::Enricher;
use standpipe::sink::kafka::{
    Cluster, Committed, Cursor, CursorFound, Extent, KafkaSinkError, MAX_ABANDONED, Tails, TopicEnd, TopicHeld,
    TopicInfo, TopicKind, Transaction, Transactions, run_on,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;

const COMMIT_TAKES: Duration = Duration::from_millis(10);

/// A Kafka in memory that commits what it is given, unless it was told to fail.
#[derive(Clone, Default)]
struct Simulated(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    commits: Vec<Commit>,
    /// Every message: its seq, and which event it is.
    sent: Vec<(Seq, Delivered)>,
    cursor: Option<Vec<u8>>,
    /// Outcomes of the next transactions; then all succeed.
    fates: VecDeque<Fate>,
    largest: usize,
    partitions: i32,
    fenced: usize,
    /// Topics that were looked at alone.
    alone: usize,
}

#[derive(Clone, Debug)]
struct Commit {
    at: Instant,
    seqs: Vec<u64>,
    stubs: usize,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Commits,
    Fails,
    NeverAnswers,
    Hangs(usize),
}

struct SimulatedProducer(Simulated);

impl Simulated {
    fn new() -> Self {
        let this = Self::default();
        this.inside().largest = usize::MAX;
        this.inside().partitions = 1;
        this
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }

    fn sizes(&self) -> Vec<usize> {
        self.inside().commits.iter().map(|commit| commit.seqs.len()).collect()
    }

    fn cursor_seq(&self) -> u64 {
        let cursor = self.inside().cursor.clone();
        cursor.map_or(0, |value| Cursor::from_json(&value).unwrap().seq.0)
    }

    async fn wait_cursor(&self, seq: u64) {
        wait_until(format!("the cursor stands at {seq}"), LIMIT, async || self.cursor_seq() == seq).await;
    }

    fn start(&self, ledger: &FakeLedger) -> (CancellationToken, JoinHandle<Result<(), KafkaSinkError>>) {
        let sink = sink(ledger, "simulated", config("nowhere", "deals"));
        let (stop, settings) = (sink.stop.clone(), Arc::new(sink.settings()));
        (stop, tokio::spawn(run_on(sink, settings, self.clone())))
    }

    /// Runs until the cursor stands there.
    async fn run_to(&self, seq: u64, ledger: &FakeLedger) {
        let (stop, task) = self.start(ledger);
        self.wait_cursor(seq).await;
        stop.cancel();
        ended(task).await.unwrap();
    }
}

impl Transactions for SimulatedProducer {
    fn submit(
        &mut self,
        transaction: Transaction,
    ) -> impl Future<Output = Result<Committed, KafkaSinkError>> + Send + 'static {
        let kafka = self.0.clone();
        async move {
            tokio::time::sleep_until(Instant::now() + COMMIT_TAKES).await;
            let fate = kafka.inside().fates.pop_front();
            if matches!(fate, Some(Fate::NeverAnswers)) {
                std::future::pending::<()>().await;
            }
            let mut inside = kafka.inside();
            match fate {
                Some(Fate::Fails) => return Err(KafkaSinkError::Doubt { why: "simulated".into(), source: None }),
                Some(Fate::Hangs(abandoned)) => {
                    return Err(KafkaSinkError::Hangs { doing: "simulating".into(), abandoned });
                }
                Some(Fate::Commits | Fate::NeverAnswers) | None => {}
            }
            if transaction.messages.iter().any(|message| message.value().len() > inside.largest) {
                let source = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
                return Err(KafkaSinkError::TooLarge { source });
            }
            let sent = transaction.messages.iter().map(|message| (message.event().seq, Delivered::of(message.event())));
            inside.sent.extend(sent);
            let seqs = transaction.messages.iter().map(|message| message.event().seq.0).collect();
            let stubs = transaction.messages.iter().filter(|message| message.is_stub()).count();
            inside.commits.push(Commit { at: Instant::now(), seqs, stubs });
            inside.cursor = Some(transaction.cursor);
            Ok(Committed { took: COMMIT_TAKES })
        }
    }

    async fn discard(self) -> Result<(), KafkaSinkError> {
        Ok(())
    }
}

impl Cluster for Simulated {
    type Producer = SimulatedProducer;

    async fn cursor_topic(&mut self, _: bool) -> Result<bool, KafkaSinkError> {
        Ok(true)
    }

    async fn fence(&mut self) -> Result<SimulatedProducer, KafkaSinkError> {
        self.inside().fenced += 1;
        Ok(SimulatedProducer(self.clone()))
    }

    async fn read_cursor(&mut self, _: &SimulatedProducer) -> Result<CursorFound, KafkaSinkError> {
        let cursor = self.inside().cursor.as_deref().map(Cursor::from_json);
        Ok(CursorFound { low: 0, cursor, written_at: None })
    }

    async fn last_cursor(&mut self) -> Result<CursorFound, KafkaSinkError> {
        let cursor = self.inside().cursor.as_deref().map(Cursor::from_json);
        Ok(CursorFound { low: 0, cursor, written_at: None })
    }

    async fn delivered(
        &mut self,
        _: &Tails,
        (after, upto): (Seq, Seq),
        _: Extent,
        found: mpsc::Sender<Vec<(Seq, Delivered)>>,
    ) -> Result<(), KafkaSinkError> {
        let sent = self.inside().sent.clone();
        let sent = sent.into_iter().filter(|(seq, _)| *seq > after && *seq <= upto);
        // Nobody takes it any more where the sink was stopped.
        found.send(sent.collect()).await.ok();
        Ok(())
    }

    async fn ends(&mut self, _: &Tails) -> Result<Vec<TopicEnd>, KafkaSinkError> {
        Ok(Vec::new())
    }

    async fn held(&mut self, _: &[Arc<str>], _: (Seq, Seq)) -> Result<Vec<TopicHeld>, KafkaSinkError> {
        unreachable!("reconciling is tested on the real Kafka")
    }

    async fn topic(&mut self, _: &str, _: TopicKind) -> Result<TopicInfo, KafkaSinkError> {
        self.inside().alone += 1;
        Ok(TopicInfo { partitions: self.inside().partitions, max_bytes: 1_000_000 })
    }

    async fn topics(&mut self, names: &[Arc<str>]) -> Result<Vec<Option<TopicInfo>>, KafkaSinkError> {
        let info = TopicInfo { partitions: self.inside().partitions, max_bytes: 1_000_000 };
        Ok(names.iter().map(|_| Some(info)).collect())
    }

    async fn partitions(&mut self, topics: &[Arc<str>]) -> Result<Vec<Option<i32>>, KafkaSinkError> {
        let now = self.inside().partitions;
        Ok(topics.iter().map(|_| Some(now)).collect())
    }

    fn outgrown(&self) -> bool {
        false
    }
}

/// How the sink ended, which it must.
async fn ended(task: JoinHandle<Result<(), KafkaSinkError>>) -> Result<(), KafkaSinkError> {
    tokio::time::timeout(LIMIT, task).await.expect("it ends").unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_event_goes_out_at_once_when_nothing_is_behind_it() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    let (stop, task) = kafka.start(&ledger);
    wait_until("it runs", LIMIT, async || ledger.reported().0 == SinkState::Running).await;
    let recorded = Instant::now();
    ledger.record_some(1);
    kafka.wait_cursor(1).await;
    let commit = kafka.inside().commits.last().cloned().unwrap();
    assert_eq!(commit.at - recorded, COMMIT_TAKES);
    stop.cancel();
    ended(task).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn transactions_grow_with_the_backlog_up_to_their_bound() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    ledger.record_some(12_345);
    let (stop, task) = kafka.start(&ledger);
    kafka.wait_cursor(12_345).await;
    assert_eq!(kafka.sizes(), [0, 5_000, 5_000, 2_345]);
    stop.cancel();
    ended(task).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_half_as_many_are_tried_and_after_a_success_twice_as_many() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    let (stop, task) = kafka.start(&ledger);
    wait_until("it runs", LIMIT, async || ledger.reported().0 == SinkState::Running).await;
    kafka.inside().fates = [Fate::Fails, Fate::Fails].into();
    ledger.record_some(1_000);
    kafka.wait_cursor(1_000).await;
    assert_eq!(kafka.sizes(), [0, 250, 500, 250]);
    assert_eq!(kafka.inside().fenced, 3, "each failure costs its producer");
    stop.cancel();
    ended(task).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn at_full_rate_pages_share_a_transaction_and_a_full_one_or_a_small_page_does_not_wait() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    let (stop, task) = kafka.start(&ledger);
    wait_until("it runs", LIMIT, async || ledger.reported().0 == SinkState::Running).await;
    let page = Duration::from_millis(20);
    for at in 1..=10 {
        ledger.record_some(1_000);
        tokio::time::sleep_until(Instant::now() + page).await;
        assert!(at > 1 || kafka.cursor_seq() == 1_000, "the first one goes at once");
    }
    kafka.wait_cursor(10_000).await;
    let sizes = kafka.sizes().split_off(1);
    assert!(sizes.len() <= 4 && sizes.iter().sum::<usize>() == 10_000, "{sizes:?}");
    let began = Instant::now();
    ledger.record_some(20_000);
    kafka.wait_cursor(30_000).await;
    let took = kafka.inside().commits.last().unwrap().at - began;
    assert!(took < 6 * COMMIT_TAKES + Duration::from_millis(75), "full ones follow each other: {took:?}");
    tokio::time::sleep_until(Instant::now() + Duration::from_secs(1)).await;
    for _ in 0..5 {
        tokio::time::sleep_until(Instant::now() + page).await;
        let (began, before) = (Instant::now(), kafka.cursor_seq());
        ledger.record_some(99);
        kafka.wait_cursor(before + 99).await;
        let took = kafka.inside().commits.last().unwrap().at - began;
        assert!(took <= COMMIT_TAKES + Duration::from_millis(2), "{took:?}");
    }
    stop.cancel();
    ended(task).await.unwrap();
}

/// Field 5: a batch of which a part was refused comes again whole and in its order.
#[tokio::test(start_paused = true)]
async fn an_event_that_the_broker_refuses_for_its_size_is_found_and_becomes_a_stub() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    kafka.inside().largest = 3_000;
    ledger.record_some(20);
    ledger.record([("1".into(), format!(r#"{{"long":"{}"}}"#, "x".repeat(5_000)))]);
    ledger.record_some(20);
    let (stop, task) = kafka.start(&ledger);
    kafka.wait_cursor(41).await;
    let commits = kafka.inside().commits.clone();
    let delivered: Vec<u64> = commits.iter().flat_map(|commit| commit.seqs.clone()).collect();
    assert_eq!(delivered, (1..=41).collect::<Vec<_>>());
    assert_eq!(commits.iter().map(|commit| commit.stubs).sum::<usize>(), 1);
    assert!(ledger.state().letters.is_empty());
    stop.cancel();
    ended(task).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_stub_is_refused_too_is_a_dead_letter_and_stalls_nothing() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    kafka.inside().largest = 100;
    ledger.record_some(5);
    ledger.record([("1".into(), "x".repeat(200))]);
    ledger.record_some(5);
    let (stop, task) = kafka.start(&ledger);
    kafka.wait_cursor(11).await;
    let delivered: Vec<u64> = kafka.inside().commits.iter().flat_map(|commit| commit.seqs.clone()).collect();
    assert_eq!(delivered, (1..=5).chain(7..=11).collect::<Vec<_>>());
    let letters: Vec<u64> = ledger.state().letters.iter().map(|letter| letter.seq.0).collect();
    assert_eq!(letters, [6]);
    stop.cancel();
    ended(task).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_filtered_is_passed_by_the_cursor_alone_after_5_s_or_50_000_events() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    let (stop, task) = kafka.start(&ledger);
    wait_until("it runs", LIMIT, async || ledger.reported().0 == SinkState::Running).await;
    let first = kafka.inside().commits[0].at;
    ledger.record([("1".into(), "FILTERED".into())]);
    kafka.wait_cursor(1).await;
    let waited = kafka.inside().commits[1].at - first;
    assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(7), "{waited:?}");
    let before = Instant::now();
    ledger.record((0..50_000).map(|_| ("1".into(), "FILTERED".into())));
    kafka.wait_cursor(50_001).await;
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    assert_eq!(kafka.sizes(), [0, 0, 0]);
    stop.cancel();
    ended(task).await.unwrap();
}

/// A hand-over waits for a sink's end: a call of its own that nobody polls any more held the row that its last word wants.
#[tokio::test(start_paused = true)]
async fn a_stop_while_the_copy_is_under_way_waits_for_that_alone_and_leaves_the_copy_where_the_sink_stands() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    let (stop, task) = kafka.start(&ledger);
    wait_until("it runs", LIMIT, async || ledger.reported().0 == SinkState::Running).await;
    let writing_takes = Duration::from_millis(300);
    ledger.state().writing_takes = writing_takes;
    ledger.record_some(10);
    wait_until("the copy is under way", LIMIT, async || ledger.is_writing()).await;
    ledger.record_some(10);
    kafka.wait_cursor(20).await;
    assert!(ledger.is_writing() && ledger.state().row.cursor == Some(Seq::ZERO));
    let told = Instant::now();
    stop.cancel();
    ended(task).await.unwrap();
    assert!(told.elapsed() <= 2 * writing_takes, "{:?}", told.elapsed());
    assert_eq!(ledger.state().row.cursor, Some(Seq(20)));
}

/// The rules want to know a record, and nobody can say anything of it now.
#[derive(Debug)]
struct NotNow;

impl Route for NotNow {
    fn decide(&self, event: &Recorded) -> Result<Decision, RouteError> {
        if !event.record_id.starts_with("asks") {
            return fakes::FakeRoute("deals".into()).decide(event);
        }
        let key = RecordKey { account: "acme".into(), collection: "contacts".into(), id: "1".into() };
        let (name, max_age) = ("contact".into(), Duration::from_mins(10));
        let wanted = Wanted { name, keys: vec![key], is_list: false, max_age, on_miss: OnMiss::Wait };
        Ok(Decision::LookUp(Box::new(LookUps { wanted: vec![wanted], address: None })))
    }

    fn looks_up(&self) -> bool {
        true
    }
}

impl LookUp for NotNow {
    fn at_hand(&self, _: &RecordKey, _: Duration) -> Option<Found> {
        None
    }

    fn look_up<'l>(&'l self, _: &'l RecordKey, _: Duration, _: Duration) -> LookingUp<'l> {
        let again_after = Duration::from_secs(2);
        Box::pin(async move { Err(LookUpError::NotNow { why: "503".to_owned(), again_after }) })
    }
}

/// Who writes to the sink's row while the copy of its cursor is under way lets that end: nobody polls it meanwhile.
#[tokio::test(start_paused = true)]
async fn a_sink_whose_events_wait_says_so_while_the_copy_of_its_cursor_is_under_way() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    let mut sink = sink(&ledger, "simulated", config("nowhere", "deals"));
    let lookups: Arc<dyn LookUp> = Arc::new(NotNow);
    sink.enricher = Enricher::of(&NotNow, &lookups, &sink.name, sink.owner.shard, &sink.clock);
    sink.route = Arc::new(NotNow);
    let (stop, settings) = (sink.stop.clone(), Arc::new(sink.settings()));
    let task = tokio::spawn(run_on(sink, settings, kafka.clone()));
    wait_until("it runs", LIMIT, async || ledger.reported().0 == SinkState::Running).await;
    // Longer than a second, so that the look of every second comes while the copy holds the row.
    let writing_takes = Duration::from_millis(1_500);
    ledger.state().writing_takes = writing_takes;
    ledger.record_some(10);
    wait_until("the copy is under way", LIMIT, async || ledger.is_writing()).await;
    let recorded = Instant::now();
    ledger.record([("asks".into(), "{}".into())]);
    wait_until("it says that it waits", LIMIT, async || ledger.reported().0 == SinkState::Retrying).await;
    let told = recorded.elapsed();
    assert!(told <= 2 * writing_takes + Duration::from_secs(2), "{told:?}");
    assert_eq!((ledger.reported().1.as_str(), kafka.cursor_seq()), ("enrich.contact waits: 503", 10));
    stop.cancel();
    ended(task).await.unwrap();
}

/// Where it has delivered before is known from its cursor; one by one they made a hand-over longer.
#[tokio::test(start_paused = true)]
async fn a_start_looks_at_the_topics_of_its_cursor_all_at_once_and_at_a_new_one_when_it_comes() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    for start in 1..=3 {
        let (stop, task) = kafka.start(&ledger);
        ledger.record_some(10);
        kafka.wait_cursor(start * 10).await;
        stop.cancel();
        ended(task).await.unwrap();
        assert_eq!(kafka.inside().alone, 1, "start {start}");
    }
}

/// Found by the simulation: rewound once more, to before it noted the rehydration, a ledger knows the chain on which the sink
/// was put, and neither what it was to skip nor what it was to get.
#[tokio::test(start_paused = true)]
async fn a_rehydration_that_the_ledger_has_forgotten_is_gone_through_again_where_the_cursor_is_on_its_chain() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    ledger.record_some(40);
    kafka.run_to(40, &ledger).await;
    ledger.rewind(25);
    for at in 0..15 {
        ledger.add_as(&format!("n{at}"), "deal.updated", "9", format!(r#"{{"new":{at}}}"#), None);
    }
    ledger.publish();
    // It is put on the ledger's chain, and delivers nothing there.
    kafka.inside().fates = std::iter::once(Fate::Commits).chain(std::iter::repeat_n(Fate::Fails, 100)).collect();
    let (stop, task) = kafka.start(&ledger);
    let is_back = async || {
        let cursor = kafka.inside().cursor.clone().unwrap();
        Cursor::from_json(&cursor).unwrap().rehydrated.is_some()
    };
    wait_until("it is put back", LIMIT, is_back).await;
    stop.cancel();
    ended(task).await.unwrap();
    assert_eq!((kafka.cursor_seq(), kafka.inside().sent.len()), (40, 40));
    ledger.rewind(40);
    ledger.forget_rehydrations();
    ledger.state().row.cursor = Some(Seq(25));
    ledger.record_again(26..=40);
    kafka.inside().fates.clear();
    let (stop, task) = kafka.start(&ledger);
    wait_until("it has all", LIMIT, async || kafka.cursor_seq() == ledger.head().0).await;
    stop.cancel();
    ended(task).await.unwrap();
    let sent: Vec<Delivered> = kafka.inside().sent.iter().map(|(_, delivered)| *delivered).collect();
    let different: std::collections::HashSet<Delivered> = sent.iter().copied().collect();
    assert_eq!((sent.len(), different.len()), (55, 55), "forty and fifteen, none of them twice");
}

/// Found by the simulation: a void that is marked while the shard records is news to the recorder and the feeds, which look
/// where the ledger ends only when they begin.
#[tokio::test(start_paused = true)]
async fn a_void_that_is_marked_while_the_shard_records_starts_its_stages_anew() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    ledger.record_some(40);
    kafka.run_to(40, &ledger).await;
    ledger.rewind(25);
    let recording = sink(&ledger, "simulated", config("nowhere", "deals"));
    recording.runner.recording.store(true, std::sync::atomic::Ordering::SeqCst);
    let settings = Arc::new(recording.settings());
    let moved = ended(tokio::spawn(run_on(recording, settings, kafka.clone()))).await;
    assert!(matches!(moved, Err(KafkaSinkError::Ledger(LedgerError::Moved { .. }))), "{moved:?}");
    assert_eq!((ledger.head(), kafka.cursor_seq()), (Seq(40), 40));
    // The next stages find it marked.
    ledger.record_again(26..=40);
    kafka.run_to(55, &ledger).await;
    assert_eq!(kafka.inside().sent.len(), 40, "none of them twice");
}

/// INV-7: W is a copy; nothing waits for it.
#[tokio::test(start_paused = true)]
async fn delivery_goes_on_while_the_ledger_does_not_keep_the_copy() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    let (stop, task) = kafka.start(&ledger);
    wait_until("it runs", LIMIT, async || ledger.reported().0 == SinkState::Running).await;
    ledger.state().frozen = true;
    for round in 1..=20 {
        ledger.record_some(10);
        kafka.wait_cursor(round * 10).await;
    }
    assert_eq!(ledger.state().row.cursor, Some(Seq::ZERO));
    // A ledger that never answers is lost in the end, so that the shard starts anew and verifies again (INV-8).
    let error = ended(task).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Restart, "{error}");
    drop(stop);
}

#[tokio::test(start_paused = true)]
async fn the_copy_follows_what_is_committed_and_never_what_is_in_flight() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    let (_stop, _task) = kafka.start(&ledger);
    let copied = async |seq: u64| ledger.state().row.cursor == Some(Seq(seq));
    ledger.record_some(10);
    wait_until("W is 10", LIMIT, async || copied(10).await).await;
    kafka.inside().fates = [Fate::Commits, Fate::NeverAnswers].into();
    ledger.record_some(10);
    kafka.wait_cursor(20).await;
    ledger.record_some(10);
    wait_until("W is 20", LIMIT, async || copied(20).await).await;
    hold("W is 20", Duration::from_secs(2), async || copied(20).await).await;
}

/// INV-8: a fail-over can rewind a ledger that runs.
#[tokio::test(start_paused = true)]
async fn events_that_do_not_link_to_the_cursor_end_the_shard() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    ledger.record_some(10);
    let (_stop, task) = kafka.start(&ledger);
    kafka.wait_cursor(10).await;
    ledger.rewind(5);
    for at in 0..10 {
        ledger.add("deal.updated", "1", format!(r#"{{"another":{at}}}"#), None);
    }
    ledger.publish();
    let error = ended(task).await.unwrap_err();
    assert!(matches!(error, KafkaSinkError::Ledger(LedgerError::Moved { .. })), "{error}");
    assert_eq!(kafka.cursor_seq(), 10);
}

#[tokio::test(start_paused = true)]
async fn partitions_that_change_while_it_runs_stop_the_sink() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    ledger.record_some(10);
    let (stop, task) = kafka.start(&ledger);
    kafka.wait_cursor(10).await;
    kafka.inside().partitions = 2;
    wait_until("it halts", 2 * LIMIT, async || ledger.reported().0 == SinkState::Halted).await;
    assert!(ledger.reported().1.contains("now has 2 partitions and had 1"));
    stop.cancel();
    ended(task).await.unwrap();
}

/// Field 6: a call that hangs all the same is given up, and ends the process in the end.
#[tokio::test(start_paused = true)]
async fn the_third_thread_that_hangs_ends_the_process_and_those_before_do_not() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    kafka.inside().fates = (1..=MAX_ABANDONED).map(Fate::Hangs).collect();
    ledger.record_some(10);
    let (_stop, task) = kafka.start(&ledger);
    let error = ended(task).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Exit, "{error}");
    assert_eq!(kafka.inside().fenced, MAX_ABANDONED);
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_was_idle_for_a_day_is_made_anew() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    ledger.record_some(1);
    let (stop, task) = kafka.start(&ledger);
    kafka.wait_cursor(1).await;
    tokio::time::advance(Duration::from_hours(24)).await;
    wait_until("it is fenced again", LIMIT, async || kafka.inside().fenced == 2).await;
    stop.cancel();
    ended(task).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_the_transaction_in_flight_and_keeps_the_copy() {
    let (kafka, ledger) = (Simulated::new(), FakeLedger::new());
    ledger.record_some(7);
    let (stop, task) = kafka.start(&ledger);
    wait_until("it runs", LIMIT, async || ledger.reported().0 == SinkState::Running).await;
    stop.cancel();
    ended(task).await.unwrap();
    assert_eq!(Some(Seq(kafka.cursor_seq())), ledger.state().row.cursor);
}
