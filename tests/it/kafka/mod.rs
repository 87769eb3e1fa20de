//! The Kafka sink against a real Kafka, seen by `kcat`; the ledger is one in memory that a test can rewind and freeze.

mod fakes;

use std::collections::BTreeMap;
use std::time::Duration;

use standpipe::event::Seq;
use standpipe::event::ports::SinkState;

use standpipe::config::KafkaConfig;

use self::fakes::{FakeLedger, Running, SINK, config, sink, start};
use crate::support::kafka::{Isolation, Kafka, Message};
use crate::support::wait::{wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

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
