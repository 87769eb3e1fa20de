//! A pipe with one Kafka sink, and hands that can do to its topic what should never happen.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::support::kafka::{Kafka, Message};
use crate::support::postgres::Postgres;
use crate::support::program::{Daemon, Simulator};
use crate::support::setup::Setup;
use crate::support::wait::{wait_for, wait_until};

pub const LONG: Duration = Duration::from_mins(1);

/// A running pipe with a Kafka sink `crm` into `<deployment>.all`, on a backlog that stands still.
pub struct Pipe {
    pub daemon: Daemon,
    pub simulator: Simulator,
    pub kafka: &'static Kafka,
    pub topic: String,
    pub database: String,
}

impl Pipe {
    pub async fn start(deployment: &str, backlog: usize, more: &str) -> Self {
        let simulator = Simulator::start(&["--rate", "0", "--backlog", &backlog.to_string()]).await;
        let kafka = Kafka::shared().await;
        let topic = format!("{deployment}.all");
        let database = Postgres::shared().await.database().await;
        let setup = Setup::new(deployment, &database)
            .with("lease_ttl = \"4s\"")
            .account("acme", &simulator.url())
            .kafka("crm", &kafka.brokers(), &topic)
            .with(more);
        let mut daemon = Daemon::start(deployment, setup.text());
        daemon.wait_ready(LONG).await;
        let pipe = Self { daemon, simulator, kafka, topic, database };
        pipe.wait_taken(backlog).await;
        pipe
    }

    pub async fn status(&self) -> Value {
        serde_json::from_str(&self.verb(&["status", "--json"]).await).expect("status prints JSON")
    }

    pub async fn head(&self) -> usize {
        let head = self.status().await["shards"][0]["head"].as_u64().expect("a head");
        usize::try_from(head).expect("a small one")
    }

    pub async fn verb(&self, verb: &[&str]) -> String {
        let output = self.daemon.run_verb(verb).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "standpipe {verb:?}: {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    /// Waits until the sink has taken so many events.
    pub async fn wait_taken(&self, events: usize) {
        wait_until(format!("crm has taken {events} events"), LONG, async || {
            let status = self.status().await;
            let sink = &status["sinks"][0];
            sink["cursor"].as_u64() >= Some(events as u64) && sink["lag_events"] == 0
        })
        .await;
    }

    /// Waits until the sink is in a state; gives the error that it tells.
    pub async fn wait_state(&self, state: &str) -> String {
        wait_for(format!("crm is {state}"), LONG, async || {
            let status = self.status().await;
            let sink = &status["sinks"][0];
            (sink["state"] == state).then(|| sink["error"].as_str().unwrap_or_default().to_owned())
        })
        .await
    }

    /// Waits until the sink tells an error that says this.
    pub async fn wait_error(&self, says: &str) -> String {
        wait_for(format!("crm says {says}"), LONG, async || {
            let status = self.status().await;
            let error = status["sinks"][0]["error"].as_str().unwrap_or_default().to_owned();
            error.contains(says).then_some(error)
        })
        .await
    }

    /// What `verify` finds of the sink: its exit code is that of the report.
    pub async fn verify(&self, more: &[&str]) -> Value {
        let mut verb = vec!["verify", "--json"];
        verb.extend(more);
        let output = self.daemon.run_verb(&verb).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
        let code = i32::from(report["holds"] != true);
        assert_eq!(output.status.code(), Some(code), "{report}\n{err}");
        report["sinks"][0].clone()
    }

    pub async fn messages(&self) -> Vec<Message> {
        self.kafka.read_committed(&self.topic).await
    }

    pub async fn stop(&mut self) {
        self.daemon.process.signal(rustix::process::Signal::TERM);
        let status = self.daemon.process.wait_ended(Duration::from_secs(35)).await;
        assert_eq!(status.code(), Some(0), "SIGTERM ends with 0\n{}", self.daemon.process.log_tail());
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.kafka.brokers());
        client
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("a client")
    }

    /// Puts copies of messages into the topic, each into its partition, as anyone could; nothing is committed.
    pub fn produce(&self, messages: &[Message]) {
        let producer: rdkafka::producer::BaseProducer = self.client().create().expect("a producer");
        for message in messages {
            let headers = message
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
            let record = BaseRecord::to(&message.topic)
                .partition(message.partition)
                .key(message.key.as_deref().unwrap_or_default())
                .payload(message.body())
                .headers(headers);
            producer.send(record).map_err(|(error, _)| error).expect("room for a message");
        }
        producer.flush(LONG).expect("the broker takes them");
    }

    pub async fn create_topic(&self, config: &[(&str, &str)]) {
        let mut topic = NewTopic::new(&self.topic, 3, TopicReplication::Fixed(1));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let made = self.admin().create_topics(&[topic], &AdminOptions::new()).await.expect("the broker answers");
        assert!(made.iter().all(Result::is_ok), "{made:?}");
        let there = async || self.kafka.topics().await.contains(&self.topic);
        wait_until(format!("{} is there", self.topic), LONG, there).await;
    }

    /// The topic anew, with only these messages, as a mirror or a restored backup may hold it.
    pub async fn mirror(&self, messages: &[Message], config: &[(&str, &str)]) {
        self.kafka.delete_topic(&self.topic).await;
        self.create_topic(config).await;
        self.produce(messages);
        let there = async || self.messages().await.len() == messages.len();
        wait_until("the mirror is there", LONG, there).await;
    }

    /// Removes the messages of a partition before an offset.
    pub async fn delete_records(&self, partition: i32, before: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&self.topic, partition, Offset::Offset(before)).unwrap();
        self.admin().delete_records(&offsets, &AdminOptions::new()).await.expect("the broker removes them");
    }
}

pub fn seq(message: &Message) -> u64 {
    message.header("standpipe-seq").parse().unwrap()
}
