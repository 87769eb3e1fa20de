//! The Kafka sink against a real Kafka, seen by `kcat`; the ledger is one in memory that a test can rewind and freeze.

mod checks;
mod doubt;
mod fakes;
mod rewound;
mod secured;
mod simulated;
mod starts;
mod undecided;

use std::collections::BTreeMap;
use std::time::Duration;

use standpipe::event::ports::SinkState;
use standpipe::event::{Replay, Seq, SinkName};
use standpipe::sink::kafka::Disposition;
use tokio_util::sync::CancellationToken;

use rdkafka::producer::{BaseRecord, Producer as _};
use standpipe::config::{KafkaConfig, SinkStart};

use self::fakes::{FakeLedger, Running, SINK, config, sink, start};
use crate::support::kafka::{Isolation, Kafka, Message};
use crate::support::wait::{hold, wait_for, wait_until};

const LIMIT: Duration = Duration::from_mins(1);

/// Names of a test's own in the shared Kafka, and its ledger.
struct Stage {
    kafka: &'static Kafka,
    deployment: String,
    topic: String,
    ledger: FakeLedger,
}

impl Stage {
    async fn new(name: &str) -> Self {
        let kafka = Kafka::shared().await;
        Self { kafka, deployment: format!("it-{name}"), topic: format!("{name}.deals"), ledger: FakeLedger::new() }
    }

    fn config(&self) -> KafkaConfig {
        config(&self.kafka.brokers(), &self.topic)
    }

    fn start(&self) -> Running {
        start(sink(&self.ledger, &self.deployment, self.config()))
    }

    fn cursor_topic(&self) -> String {
        format!("standpipe.{}.{SINK}.cursor", self.deployment)
    }

    /// The last cursor that a `read_committed` consumer sees.
    async fn cursor(&self) -> Option<serde_json::Value> {
        let messages = self.kafka.try_read(&self.cursor_topic(), "beginning", Isolation::ReadCommitted).await.ok()?;
        messages.last().map(|message| serde_json::from_str(message.body()).unwrap())
    }

    async fn wait_cursor(&self, seq: u64) {
        let what = format!("the cursor stands at {seq}; the sink reports {:?}", self.ledger.state().reports);
        wait_until(what, LIMIT, async || self.cursor().await.is_some_and(|cursor| cursor["seq"] == seq)).await;
    }

    async fn wait_copy(&self, seq: u64) {
        let copied = async || self.ledger.state().row.cursor == Some(Seq(seq));
        wait_until(format!("W is {seq}"), LIMIT, copied).await;
    }

    async fn wait_halted(&self) -> String {
        let look = async || Some(self.ledger.reported()).filter(|(state, _)| *state == SinkState::Halted);
        wait_for("the sink halts", LIMIT, look).await.1
    }

    /// What `read_committed` consumers see, in the order of seq: each once, none missing, chained per partition.
    async fn delivered(&self) -> Vec<Message> {
        let mut messages = self.kafka.read_committed(&self.topic).await;
        let mut last: BTreeMap<i32, u64> = BTreeMap::new();
        for message in &messages {
            let prev: u64 = message.header("standpipe-prev").parse().unwrap();
            assert_eq!(last.insert(message.partition, seq(message)).unwrap_or(0), prev, "{message:?}");
        }
        messages.sort_by_key(seq);
        messages
    }

    /// The same where an operator's seek, or a lost cursor, broke the chain on purpose.
    async fn delivered_in_any_chain(&self) -> Vec<u64> {
        let mut found: Vec<u64> = self.kafka.read_committed(&self.topic).await.iter().map(seq).collect();
        found.sort_unstable();
        found
    }

    async fn assert_delivered(&self, seqs: impl IntoIterator<Item = u64>) {
        let found: Vec<u64> = self.delivered().await.iter().map(seq).collect();
        assert_eq!(found, seqs.into_iter().collect::<Vec<_>>());
    }
}

fn seq(message: &Message) -> u64 {
    message.header("standpipe-seq").parse().unwrap()
}

#[tokio::test]
async fn what_is_recorded_arrives_once_in_order_byte_for_byte_with_its_headers() {
    let stage = Stage::new("once").await;
    stage.ledger.record_some(500);
    let running = stage.start();
    stage.wait_cursor(500).await;
    stage.ledger.record_some(3);
    stage.wait_cursor(503).await;
    stage.wait_copy(503).await;
    running.stop().await.unwrap();
    let delivered = stage.delivered().await;
    assert_eq!(delivered.iter().map(seq).collect::<Vec<_>>(), (1..=503).collect::<Vec<_>>());
    let first = &delivered[0];
    assert_eq!(first.body(), r#"{"id":"e1","n":0}"#);
    assert_eq!(first.key.as_deref(), Some("acme/deal/0"));
    assert_eq!(first.header("standpipe-id"), "e1");
    assert_eq!(first.header("standpipe-ledger"), stage.ledger.id().short());
    assert_eq!(first.header("standpipe-shard"), "0");
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.header("team"), "blue");
    assert_eq!(first.header("standpipe-chain").len(), 64);
    for message in &delivered {
        let key = message.key.as_ref().unwrap();
        assert_eq!(message.partition, standpipe::sink::kafka::partition_of(key.as_bytes(), 3));
    }
    assert_eq!(stage.ledger.reported().0, SinkState::Running);
}

/// INV-7, INV-8: W never caught up, so only the cursor in Kafka can tell.
#[tokio::test]
async fn a_crash_between_the_two_commits_repeats_nothing_and_loses_nothing() {
    let stage = Stage::new("crash").await;
    stage.ledger.record_some(50);
    let running = stage.start();
    stage.wait_copy(50).await;
    stage.ledger.state().frozen = true;
    for round in 1..=3 {
        stage.ledger.record_some(50);
        stage.wait_cursor(50 + round * 50).await;
    }
    running.crash().await;
    assert_eq!(stage.ledger.state().row.cursor, Some(Seq(50)));
    stage.ledger.state().frozen = false;
    stage.ledger.record_some(50);
    let running = stage.start();
    stage.wait_cursor(250).await;
    running.stop().await.unwrap();
    assert_eq!(stage.ledger.state().row.cursor, Some(Seq(250)), "W follows before a stop");
    stage.assert_delivered(1..=250).await;
}

#[tokio::test]
async fn filtered_events_count_as_taken_and_failing_ones_are_dead_letters_before_the_cursor_passes_them() {
    let stage = Stage::new("letters").await;
    stage.ledger.record_some(1);
    stage.ledger.record([("1".into(), "FILTERED".into()), ("1".into(), "FAILING".into())]);
    stage.ledger.record([("1".into(), "NOWHERE".into()), ("1".into(), "FILTERED".into())]);
    let running = stage.start();
    // The last one is passed by a transaction of the cursor alone, after 5 s.
    stage.wait_cursor(5).await;
    running.stop().await.unwrap();
    stage.assert_delivered([1]).await;
    let letters = stage.ledger.state().letters.clone();
    let reasons: Vec<(u64, &str)> = letters.iter().map(|letter| (letter.seq.0, letter.reason.as_str())).collect();
    assert_eq!(reasons, [(3, "filter failed on this event: no such field"), (4, "`a/b` is not a legal topic name")]);
}

#[tokio::test]
async fn an_announcement_goes_to_the_control_topic_and_a_replay_says_what_it_repeats() {
    let stage = Stage::new("control").await;
    stage.ledger.add("standpipe.gap", "", "{}".into(), None);
    let replay = Replay { sink: SinkName::from(SINK), of: Seq(1) };
    stage.ledger.add("deal.updated", "7", "{}".into(), Some(replay));
    stage.ledger.publish();
    let running = stage.start();
    stage.wait_cursor(2).await;
    running.stop().await.unwrap();
    stage.assert_delivered([2]).await;
    assert_eq!(stage.delivered().await[0].header("standpipe-replay"), "1");
    let control = stage.kafka.read_committed("standpipe.it-control.control").await;
    assert_eq!(control.iter().map(seq).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn an_event_that_is_larger_than_the_broker_takes_becomes_a_stub_in_its_place() {
    let stage = Stage::new("large").await;
    // Random enough that no compression saves it.
    let body = |n: u32| {
        let text: String = (0..40_000_u32).map(|at| sha2_word(at ^ (n << 20))).collect();
        format!(r#"{{"id":"x","meta":{{"account":"acme"}},"data":"{text}"}}"#)
    };
    stage.ledger.record_some(2);
    stage.ledger.record([("1".into(), body(1)), ("2".into(), r#"{"small":1}"#.into()), ("3".into(), body(2))]);
    let running = stage.start();
    stage.wait_cursor(5).await;
    running.stop().await.unwrap();
    stage.assert_delivered(1..=5).await;
    let delivered = stage.delivered().await;
    for at in [2, 4] {
        let whole = stage.ledger.body(at);
        assert_eq!(delivered[at].header("standpipe-truncated"), whole.len().to_string());
        let stub: serde_json::Value = serde_json::from_str(delivered[at].body()).unwrap();
        assert_eq!(stub["id"], format!("e{}", at + 1));
        assert_eq!(stub["meta"]["account"], "acme");
        assert_eq!(stub["truncated"]["bytes"], whole.len());
    }
    assert_eq!(delivered[3].body(), r#"{"small":1}"#);
}

fn sha2_word(at: u32) -> String {
    use sha2::Digest as _;
    standpipe::event::Chain(sha2::Sha256::digest(at.to_be_bytes()).into()).to_string()
}

/// Field 2: a flag that is not wired passes every happy test.
/// Field 2: that transactions are on is asked of the broker, and seen by what it hides.
#[tokio::test]
async fn the_broker_knows_the_transactional_id_and_hides_what_was_not_committed() {
    let stage = Stage::new("hidden").await;
    stage.ledger.record_some(10);
    let running = stage.start();
    stage.wait_cursor(10).await;
    running.stop().await.unwrap();
    let id = format!("it-hidden-{}-{SINK}-0", stage.ledger.id().short());
    let tools = stage.kafka.tool("org.apache.kafka.tools.TransactionsCommand", &["list"]).await;
    assert!(tools.contains(&id), "{tools}");

    // A producer that is fenced off in the middle of a transaction, by the next start of the sink.
    let mut client = rdkafka::ClientConfig::new();
    client.set("bootstrap.servers", stage.kafka.brokers()).set("transactional.id", &id);
    let older: rdkafka::producer::BaseProducer = client.create().unwrap();
    let record = BaseRecord::to(&stage.topic).partition(0).key("acme/deal/0").payload("of an older owner");
    let cursor = stage.cursor().await.unwrap().to_string().replace(r#""seq":10"#, r#""seq":8"#);
    let (cursors, shard) = (stage.cursor_topic(), "0");
    let cursor = BaseRecord::to(&cursors).partition(0).key(shard).payload(&cursor);
    older.init_transactions(LIMIT).unwrap();
    older.begin_transaction().unwrap();
    older.send(record).unwrap();
    older.send(cursor).unwrap();
    older.flush(LIMIT).unwrap();
    stage.ledger.record_some(10);
    let running = stage.start();
    stage.wait_cursor(20).await;
    assert!(older.commit_transaction(LIMIT).is_err(), "an older producer can still commit");
    running.stop().await.unwrap();
    stage.assert_delivered(1..=20).await;
    let all = stage.kafka.read(&stage.topic, "beginning", Isolation::ReadUncommitted).await;
    assert!(all.iter().any(|message| message.body() == "of an older owner"), "there was something to hide");
}

/// INV-6, INV-15: the ledger says whose the shard is; what goes on fencing cannot stop the shard's other sinks.
#[tokio::test]
async fn a_sink_whose_transactional_id_is_taken_stands_down_where_the_ledger_says_so_and_else_takes_it_back() {
    let stage = Stage::new("fenced").await;
    stage.ledger.record_some(10);
    let running = stage.start();
    stage.wait_cursor(10).await;
    let id = format!("it-fenced-{}-{SINK}-0", stage.ledger.id().short());
    let mut client = rdkafka::ClientConfig::new();
    client.set("bootstrap.servers", stage.kafka.brokers()).set("transactional.id", &id);
    let newer: rdkafka::producer::BaseProducer = client.create().unwrap();
    newer.init_transactions(LIMIT).unwrap();
    stage.ledger.record_some(10);
    stage.wait_cursor(20).await;
    let fenced = |report: &(SinkState, Option<String>)| {
        report.0 == SinkState::Retrying && report.1.as_ref().is_some_and(|error| error.contains("took over"))
    };
    assert!(stage.ledger.state().reports.iter().any(fenced), "{:?}", stage.ledger.state().reports);

    let newer: rdkafka::producer::BaseProducer = client.create().unwrap();
    newer.init_transactions(LIMIT).unwrap();
    stage.ledger.state().lost = true;
    stage.ledger.record_some(10);
    let error = running.end().await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::StandDown, "{error}");
    stage.ledger.state().lost = false;
    let running = stage.start();
    stage.wait_cursor(30).await;
    running.stop().await.unwrap();
    stage.assert_delivered(1..=30).await;
}

/// The demo's broker: it knows no administration, and topics come by being asked for.
#[tokio::test]
async fn a_sink_works_against_the_mock_cluster_too() {
    let mock = standpipe::embedded::MockKafka::start(&[]).unwrap();
    let ledger = FakeLedger::new();
    ledger.record_some(50);
    for round in 1..=2 {
        let running = start(sink(&ledger, "it-mock", config(mock.bootstrap(), "mock.deals")));
        let copied = async || ledger.state().row.cursor == Some(Seq(round * 50));
        wait_until(format!("W is {}", round * 50), LIMIT, copied).await;
        running.stop().await.unwrap();
        ledger.record_some(50);
    }
}
