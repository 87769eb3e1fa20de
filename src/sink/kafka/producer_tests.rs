//! A client against librdkafka's mock cluster: what comes before a commit.

use indexmap::IndexMap;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::config::{KafkaConfig, NewProducer};
use crate::embedded::MockKafka;
use crate::event::{LedgerId, Shard, SinkName};

const TOPIC: &str = "deals";

/// Messages wait for a while in the client, so that their reports cannot be in by chance.
fn client(bootstrap: &str) -> Client {
    let config = KafkaConfig {
        brokers: bootstrap.to_owned(),
        topic: TOPIC.into(),
        key: String::new(),
        new_producer: NewProducer::OnDoubt,
        create_topics: true,
        partitions: None,
        replication: None,
        properties: IndexMap::from([("linger.ms".into(), "1000".into())]),
        secret_properties: IndexMap::new(),
    };
    let ledger = LedgerId(uuid::Uuid::new_v4());
    let settings = Settings::new("unit", &SinkName::from("crm"), ledger, 1, Shard(0), config);
    let producer = settings.producer(usize::MAX).unwrap();
    let (asked, _asking) = oneshot::channel();
    Client::fence(Arc::new(settings), &producer, Landed::default(), &asked).unwrap()
}

fn send_some(client: &Client) -> (Instant, Instant) {
    let begun = Instant::now();
    let deadline = begun + TRANSACTION_TIMEOUT;
    client.producer.begin_transaction().unwrap();
    let messages = ["one", "two", "three"];
    client.reports.outstanding.fetch_add(messages.len(), Ordering::AcqRel);
    for at in messages {
        let record = BaseRecord::with_opaque_to(TOPIC, COUNTED).partition(0).key("1").payload(at.as_bytes());
        client.send(record, deadline, begun).unwrap();
    }
    (deadline, begun)
}

/// INV-9: before the commit is asked for, every message of the transaction has its report.
#[test]
fn a_commit_waits_for_every_report() {
    let mock = MockKafka::start(&[(TOPIC.to_owned(), 1)]).unwrap();
    let client = client(mock.bootstrap());
    let (deadline, begun) = send_some(&client);
    assert!(client.reports.outstanding.load(Ordering::Acquire) > 0, "they wait in the client");
    client.settle(deadline, begun).unwrap();
    assert_eq!(client.reports.outstanding.load(Ordering::Acquire), 0, "reports that are not in");
    client.producer.commit_transaction(TRANSACTION_TIMEOUT).unwrap();
}

/// INV-9: one message that was not delivered is the end of the transaction and of its producer.
#[test]
fn a_report_of_a_failure_is_no_definite_yes() {
    let mock = MockKafka::start(&[(TOPIC.to_owned(), 1)]).unwrap();
    let client = client(mock.bootstrap());
    let (deadline, begun) = send_some(&client);
    let failure = KafkaError::MessageProduction(RDKafkaErrorCode::InvalidRecord);
    client.reports.told().failure = Some(failure.clone());
    let settled = client.settle(deadline, begun);
    let Err(KafkaSinkError::Doubt { source: Some(source), .. }) = settled else { panic!("{settled:?}") };
    assert_eq!(source, failure);
}

/// INV-9: a broker that is lost may have been sent something twice; nobody else listens to what the client says of it.
#[test]
fn a_lost_broker_is_heard_of() {
    let mock = MockKafka::start(&[(TOPIC.to_owned(), 1)]).unwrap();
    let client = client(mock.bootstrap());
    let before = client.reports.troubles();
    assert_eq!(client.reports.trouble_since(before), None);
    drop(mock);
    let deadline = Instant::now() + COMMIT_LIMIT;
    while client.reports.trouble_since(before).is_none() {
        assert!(Instant::now() < deadline, "nothing was heard");
        hear_out(&client.producer);
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// INV-9: a message that a broker refuses while others are still handed over is the cause of what follows from it.
#[test]
fn what_a_broker_refused_meanwhile_is_heard_before_a_transaction_is_judged() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 1, 1).unwrap();
    let client = client(&mock.bootstrap_servers());
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 9]);
    let (deadline, begun) = send_some(&client);
    let refused = loop {
        let record = BaseRecord::with_opaque_to(TOPIC, COUNTED).partition(0).key("1").payload(&b"more"[..]);
        if let Err(error) = client.send(record, deadline, begun) {
            break error;
        }
        assert!(Instant::now() < deadline, "nothing was refused");
        std::thread::park_timeout(LOOK_EVERY);
    };
    assert!(matches!(refused, KafkaSinkError::TooLarge { .. }), "{refused:?}");
}
