//! The demo's own reader of the topics: an ordinary `read_committed` consumer, apart from the daemon.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::seen::{Arrival, Seen};

/// How long the list of topics may take.
const METADATA_WITHIN: Duration = Duration::from_secs(5);
/// How often new topics are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Reads every topic that begins with `prefix`, from its beginning, until `stop`.
///
/// Partitions are assigned by hand: there is one reader, and a group would cost seconds at the start.
pub(super) async fn read_topics(
    brokers: String,
    prefix: String,
    seen: Arc<Seen>,
    stop: CancellationToken,
) -> Result<(), KafkaError> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("group.id", "standpipe-demo-reader")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        // The counts are looked at every second: an answer with nothing new must not hold back the next one.
        .set("fetch.wait.max.ms", "20")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false");
    let consumer: Arc<StreamConsumer> = Arc::new(config.create()?);
    let mut assigned = 0;
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = look.tick() => {
                let (asked, prefix, found) = (Arc::clone(&consumer), prefix.clone(), assigned);
                // The call blocks.
                let listed = tokio::task::spawn_blocking(move || follow(&asked, &prefix, found)).await;
                match listed {
                    Ok(Ok(count)) => assigned = count,
                    Ok(Err(error)) => tracing::debug!(%error, "the demo's reader cannot list topics"),
                    Err(error) => tracing::warn!(%error, "the demo's reader cannot list topics"),
                }
            }
            message = consumer.recv(), if assigned > 0 => match message {
                Ok(message) => seen.arrived(arrival(&message)),
                Err(error) => {
                    tracing::debug!(%error, "the demo's reader");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// Adds partitions that are new since `assigned` were found; gives how many there are now.
fn follow(consumer: &StreamConsumer, prefix: &str, assigned: usize) -> Result<usize, KafkaError> {
    let metadata = consumer.fetch_metadata(None, METADATA_WITHIN)?;
    let known = consumer.assignment()?;
    let mut new = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix)) {
        for partition in topic.partitions() {
            if known.find_partition(topic.name(), partition.id()).is_none() {
                new.add_partition_offset(topic.name(), partition.id(), Offset::Beginning)?;
            }
        }
    }
    if new.count() > 0 {
        consumer.incremental_assign(&new)?;
    }
    Ok(assigned + new.count())
}

fn arrival(message: &BorrowedMessage<'_>) -> Arrival {
    #[derive(serde::Deserialize)]
    struct Typed<'t> {
        #[serde(borrow, rename = "type")]
        event_type: std::borrow::Cow<'t, str>,
    }
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let typed = serde_json::from_slice::<Typed<'_>>(message.payload().unwrap_or_default());
    Arrival {
        event_type: typed.map_or_else(|_| "?".to_owned(), |typed| typed.event_type.into_owned()),
        key: text(message.key()),
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::embedded::MockKafka;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_message_of_the_topics_is_counted_and_the_last_are_kept() {
        let topics = [("sell.deal".to_owned(), 3), ("sell.contact".to_owned(), 1), ("other".to_owned(), 1)];
        let kafka = MockKafka::start(&topics).unwrap();
        let mut config = ClientConfig::new();
        let producer: ThreadedProducer<_> = config.set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
        for at in 0..20 {
            let key = format!("acme/deal/{at}");
            producer.send(BaseRecord::to("sell.deal").key(&key).payload(r#"{"type":"deal.updated"}"#)).unwrap();
        }
        producer.send(BaseRecord::to("sell.contact").key("k").payload("{}")).unwrap();
        producer.send(BaseRecord::to("other").key("k").payload("{}")).unwrap();
        producer.flush(Duration::from_secs(10)).unwrap();

        let (seen, stop) = (Arc::new(Seen::default()), CancellationToken::new());
        let mut reader = tokio::task::JoinSet::new();
        reader.spawn(read_topics(kafka.bootstrap().to_owned(), "sell.".to_owned(), seen.clone(), stop.clone()));
        let deadline = Instant::now() + Duration::from_secs(30);
        while seen.look().in_kafka() < 21 {
            assert!(Instant::now() < deadline, "{:?}", seen.look());
            sleep(Duration::from_millis(20)).await;
        }
        let counts = seen.look();
        assert_eq!(counts.topics, [("sell.contact".to_owned(), 1), ("sell.deal".to_owned(), 20)].into());
        assert_eq!(counts.last.len(), 8);
        stop.cancel();
        reader.join_all().await.pop().unwrap().unwrap();
    }
}
