//! The rows of the start-up verification, each brought about in a real Kafka, and the way out that it names.

use std::sync::Arc;

use standpipe::sink::kafka::{Cluster as _, KafkaCluster, TopicKind};

use super::*;

impl Stage {
    /// Delivers 20 events, so that C and W are 20, and stops.
    async fn delivered_20(name: &str) -> Self {
        let stage = Self::new(name).await;
        stage.ledger.record_some(20);
        let running = stage.start();
        stage.wait_copy(20).await;
        running.stop().await.unwrap();
        stage
    }

    async fn topics(&self, arguments: &[&str]) {
        self.kafka.tool("org.apache.kafka.tools.TopicCommand", arguments).await;
    }

    async fn delete(&self, topic: &str) {
        self.topics(&["--delete", "--topic", topic]).await;
        let gone = async || !self.kafka.topics().await.iter().any(|known| known == topic);
        wait_until(format!("{topic} is gone"), LIMIT, gone).await;
    }

    /// Starts, sees it halt with `why` in the reason, lets the operator seek, and sees it go on.
    async fn halts_until_sought(&self, why: &str, seek: u64, then: u64) {
        let running = self.start();
        let error = self.wait_halted().await;
        assert!(error.contains(why) && error.contains("standpipe sinks seek"), "{error}");
        self.ledger.state().row.seek = Some(Seq(seek));
        self.wait_copy(then).await;
        assert_eq!(self.ledger.state().sought, [Seq(seek)]);
        running.stop().await.unwrap();
        assert_eq!(self.cursor().await.unwrap()["seq"], then);
        // What was sought is settled: the next start asks nothing.
        self.ledger.record_some(1);
        let running = self.start();
        self.wait_copy(then + 1).await;
        running.stop().await.unwrap();
    }
}

/// What a start asks for all at once is what each topic says for itself, in the order of the question.
#[tokio::test]
async fn topics_that_are_looked_at_together_are_as_each_alone_and_one_that_is_absent_is_none() {
    let stage = Stage::new("together").await;
    let names: Vec<Arc<str>> = ["c", "absent", "a", "b"].map(|name| format!("together.{name}").into()).into();
    for (at, partitions, limit) in [(0, "3", 30_000), (2, "1", 10_000), (3, "2", 20_000)] {
        let limit = format!("max.message.bytes={limit}");
        let topic = ["--create", "--topic", &*names[at], "--partitions", partitions, "--config", &limit];
        stage.topics(&topic).await;
    }
    let settings = Arc::new(sink(&stage.ledger, &stage.deployment, stage.config()).settings());
    let mut cluster = KafkaCluster::new(settings);
    let together = cluster.topics(&names).await.unwrap();
    let told: Vec<_> = together.iter().map(|info| info.map(|info| (info.partitions, info.max_bytes))).collect();
    assert_eq!(told, [Some((3, 30_000)), None, Some((1, 10_000)), Some((2, 20_000))]);
    assert!(cluster.outgrown(), "the smallest of them counts for the producer");
    for at in [0, 2, 3] {
        assert_eq!(Some(cluster.topic(&names[at], TopicKind::Data).await.unwrap()), together[at]);
    }
    assert_eq!(cluster.topics(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_lost_cursor_topic_stops_the_sink_until_an_operator_seeks() {
    let stage = Stage::delivered_20("cursorlost").await;
    stage.delete(&stage.cursor_topic()).await;
    stage.ledger.record_some(5);
    stage.halts_until_sought("there is no cursor in", 20, 25).await;
    let found: Vec<u64> = stage.delivered_in_any_chain().await;
    assert_eq!(found, (1..=26).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cursor_of_another_ledger_stops_the_sink() {
    let mut stage = Stage::delivered_20("otherledger").await;
    stage.ledger = FakeLedger::new();
    stage.ledger.record_some(5);
    let running = stage.start();
    let error = stage.wait_halted().await;
    assert!(error.contains("belongs to the ledger"), "{error}");
    stage.ledger.state().row.seek = Some(Seq(0));
    let look =
        async || stage.ledger.state().reports.iter().filter(|(state, _)| *state == SinkState::Halted).count() > 1;
    wait_until("a seek does not adopt it", LIMIT, look).await;
    running.stop().await.unwrap();
    assert_eq!(stage.delivered_in_any_chain().await, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_sink_that_was_away_for_longer_than_retention_stops_until_an_operator_seeks() {
    let stage = Stage::delivered_20("expired").await;
    stage.ledger.record_some(20);
    stage.ledger.state().oldest = Seq(31);
    stage.halts_until_sought("longer than the ledger keeps", 30, 40).await;
    stage.assert_delivered((1..=20).chain(31..=41)).await;
}

#[tokio::test]
async fn a_sink_that_stands_still_looks_again_when_it_is_resumed() {
    let stage = Stage::delivered_20("resumed").await;
    stage.ledger.record_some(10);
    stage.ledger.state().row.cursor = Some(Seq(25));
    let running = stage.start();
    let halts = || stage.ledger.state().reports.iter().filter(|(state, _)| *state == SinkState::Halted).count();
    stage.wait_halted().await;
    stage.ledger.state().row.halted = false;
    wait_until("it finds the same again", LIMIT, async || halts() == 2).await;
    // What was wrong is removed now.
    stage.ledger.state().row.cursor = Some(Seq(20));
    stage.ledger.state().row.halted = false;
    stage.wait_copy(30).await;
    running.stop().await.unwrap();
    assert_eq!(halts(), 2);
    stage.assert_delivered(1..=30).await;
}

impl Stage {
    /// The cursor of a sink that has started and taken nothing yet.
    async fn first_cursor(&self) -> String {
        let running = self.start();
        self.wait_cursor(0).await;
        wait_until("it runs", LIMIT, async || self.ledger.reported().0 == SinkState::Running).await;
        running.stop().await.unwrap();
        let cursors = self.kafka.read_committed(&self.cursor_topic()).await;
        cursors.last().unwrap().body().to_owned()
    }

    /// Kafka loses the end of the cursor topic, before W has followed.
    async fn set_back(&self, cursor: &str) {
        let mut config = rdkafka::ClientConfig::new();
        let producer: rdkafka::producer::FutureProducer =
            config.set("bootstrap.servers", self.kafka.brokers()).create().unwrap();
        let topic = self.cursor_topic();
        let record = rdkafka::producer::FutureRecord::<str, str>::to(&topic).partition(0).key("0").payload(cursor);
        producer.send(record, LIMIT).await.map_err(|(error, _)| error).unwrap();
        self.ledger.state().row.cursor = Some(Seq::ZERO);
    }
}

/// Neither W nor what the cursor says of a partition tells of it: only the note that the sink was about to open it.
#[tokio::test]
async fn a_partition_whose_first_message_outlived_the_cursor_stops_the_sink() {
    let stage = Stage::new("outlived").await;
    let cursor = stage.first_cursor().await;
    assert!(cursor.contains(r#""topics":{}"#), "{cursor}");
    stage.ledger.record_some(20);
    let running = stage.start();
    stage.wait_copy(20).await;
    running.stop().await.unwrap();
    assert!(stage.ledger.state().row.opening > Seq::ZERO);
    stage.set_back(&cursor).await;
    stage.ledger.state().reports.clear();
    stage.ledger.record_some(5);
    stage.halts_until_sought("should be 0, but it holds 1", 20, 25).await;
    assert_eq!(stage.delivered_in_any_chain().await, (1..=26).collect::<Vec<_>>(), "nothing twice");
}

#[tokio::test]
async fn a_cursor_of_which_nothing_is_left_is_no_first_start() {
    let stage = Stage::delivered_20("nothingleft").await;
    stage.delete(&stage.cursor_topic()).await;
    stage.ledger.state().row.cursor = Some(Seq::ZERO);
    stage.ledger.record_some(5);
    stage.halts_until_sought("there is no cursor in", 20, 25).await;
    assert_eq!(stage.delivered_in_any_chain().await, (1..=26).collect::<Vec<_>>());
}

/// The program died between the note and the commit.
#[tokio::test]
async fn a_partition_that_was_to_be_opened_and_holds_nothing_is_opened() {
    let stage = Stage::new("unopened").await;
    stage.first_cursor().await;
    stage.ledger.state().row.opening = Seq(15);
    stage.ledger.record_some(20);
    let running = stage.start();
    stage.wait_copy(20).await;
    running.stop().await.unwrap();
    stage.assert_delivered(1..=20).await;
}

#[tokio::test]
async fn a_copy_ahead_of_the_cursor_stops_the_sink() {
    let stage = Stage::delivered_20("behind").await;
    stage.ledger.record_some(10);
    stage.ledger.state().row.cursor = Some(Seq(25));
    stage.halts_until_sought("Kafka was rewound", 20, 30).await;
    stage.assert_delivered(1..=31).await;
}

#[tokio::test]
async fn a_crash_in_the_first_start_is_not_taken_for_a_lost_copy() {
    let stage = Stage::delivered_20("nocopy").await;
    stage.ledger.state().row.cursor = None;
    stage.ledger.record_some(5);
    let running = stage.start();
    stage.wait_copy(25).await;
    running.stop().await.unwrap();
    stage.assert_delivered(1..=25).await;
}

#[tokio::test]
async fn a_topic_that_was_recreated_stops_the_sink_until_an_operator_seeks() {
    let stage = Stage::delivered_20("recreated").await;
    stage.delete(&stage.topic).await;
    let running = stage.start();
    assert!(stage.wait_halted().await.contains("is gone"));
    running.stop().await.unwrap();
    stage.ledger.state().reports.clear();
    stage.topics(&["--create", "--topic", &stage.topic, "--partitions", "3", "--replication-factor", "1"]).await;
    stage.ledger.record_some(5);
    stage.halts_until_sought("disagrees with the cursor", 0, 25).await;
    stage.assert_delivered(1..=26).await;
}

#[tokio::test]
async fn a_changed_partition_count_stops_the_sink_until_an_operator_seeks() {
    let stage = Stage::delivered_20("partitions").await;
    stage.topics(&["--alter", "--topic", &stage.topic, "--partitions", "5"]).await;
    stage.ledger.record_some(20);
    stage.halts_until_sought("now has 5 partitions and had 3", 20, 40).await;
    stage.assert_delivered(1..=41).await;
    let found = stage.delivered().await;
    for message in found.iter().filter(|message| seq(message) > 20) {
        let key = message.key.as_ref().unwrap();
        assert_eq!(message.partition, standpipe::sink::kafka::partition_of(key.as_bytes(), 5));
    }
}

#[tokio::test]
async fn a_new_sink_may_start_with_what_comes_next() {
    let stage = Stage::new("now").await;
    stage.ledger.record_some(20);
    let mut sink = sink(&stage.ledger, &stage.deployment, stage.config());
    sink.start = SinkStart::Now;
    let running = start(sink);
    stage.wait_cursor(20).await;
    stage.ledger.record_some(5);
    stage.wait_cursor(25).await;
    running.stop().await.unwrap();
    stage.assert_delivered(21..=25).await;
}

#[tokio::test]
async fn an_operator_pauses_resumes_and_seeks_a_sink_that_runs() {
    let stage = Stage::new("wishes").await;
    stage.ledger.record_some(10);
    let running = stage.start();
    stage.wait_copy(10).await;
    stage.ledger.state().row.paused = true;
    let paused = async || stage.ledger.reported().0 == SinkState::Paused;
    wait_until("it is paused", LIMIT, paused).await;
    stage.ledger.record_some(10);
    hold("nothing is delivered", Duration::from_secs(2), async || stage.ledger.state().row.cursor == Some(Seq(10)))
        .await;
    stage.ledger.state().row.paused = false;
    stage.wait_copy(20).await;
    stage.ledger.state().row.seek = Some(Seq(15));
    let sought = async || !stage.ledger.state().sought.is_empty();
    wait_until("the seek is carried out", LIMIT, sought).await;
    stage.wait_copy(20).await;
    running.stop().await.unwrap();
    let mut expected: Vec<u64> = (1..=20).chain(16..=20).collect();
    expected.sort_unstable();
    assert_eq!(stage.delivered_in_any_chain().await, expected);
}
