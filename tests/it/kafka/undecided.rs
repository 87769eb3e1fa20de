//! INV-8: what another producer has open in the cursor partition hides what was committed behind it.

use rdkafka::producer::BaseProducer;
use standpipe::event::Shard;

use super::*;

/// A producer of somebody else's with a transaction open in a partition of the sink's cursor topic.
fn open_transaction(stage: &Stage, partition: i32) -> BaseProducer {
    let mut client = rdkafka::ClientConfig::new();
    let id = format!("{}-of-somebody-else", stage.deployment);
    let producer: BaseProducer =
        client.set("bootstrap.servers", stage.kafka.brokers()).set("transactional.id", id).create().unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    let topic = stage.cursor_topic();
    let record: BaseRecord<'_, str, str> = BaseRecord::to(&topic).partition(partition).key("somebody").payload("{}");
    producer.send(record).unwrap();
    producer.flush(LIMIT).unwrap();
    producer
}

#[tokio::test]
async fn a_start_waits_until_everything_below_the_high_watermark_is_decided() {
    let stage = Stage::new("undecided").await;
    stage.ledger.record_some(10);
    let running = stage.start();
    stage.wait_copy(10).await;
    let other = open_transaction(&stage, 0);
    stage.ledger.record_some(10);
    // Its cursor at 20 is committed, and no reader of what is stable sees it.
    stage.wait_copy(20).await;
    running.stop().await.unwrap();
    assert_eq!(stage.cursor().await.unwrap()["seq"], 10, "nothing was hidden");
    stage.ledger.record_some(10);
    let reported = stage.ledger.state().reports.len();
    let running = stage.start();
    wait_until("it starts", LIMIT, async || stage.ledger.state().reports.len() > reported).await;
    hold("it waits", Duration::from_secs(2), async || stage.ledger.reported().0 == SinkState::Starting).await;
    other.abort_transaction(LIMIT).unwrap();
    stage.wait_copy(30).await;
    running.stop().await.unwrap();
    stage.assert_delivered(1..=30).await;
}

#[tokio::test]
async fn a_shard_starts_whatever_another_one_has_open_in_the_same_cursor_topic() {
    let stage = Stage::new("shards").await;
    stage.ledger.record_some(10);
    let start = || {
        let mut sink = sink(&stage.ledger, &stage.deployment, stage.config());
        (sink.shards, sink.owner.shard) = (2, Shard(1));
        start(sink)
    };
    let running = start();
    stage.wait_copy(10).await;
    running.stop().await.unwrap();
    let cursors = stage.kafka.read_committed(&stage.cursor_topic()).await;
    assert!(!cursors.is_empty() && cursors.iter().all(|cursor| cursor.partition == 1), "{cursors:?}");
    let _other = open_transaction(&stage, 0);
    stage.ledger.record_some(10);
    let running = start();
    stage.wait_copy(20).await;
    running.stop().await.unwrap();
    stage.assert_delivered(1..=20).await;
}
