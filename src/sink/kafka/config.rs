//! The properties of a sink's clients: ours, which the guarantee rests on, and the user's, which may be any other.

use std::time::Duration;

use rdkafka::ClientConfig;
use secrecy::ExposeSecret;

use super::cursor::{control_topic, cursor_topic};
use super::error::KafkaSinkError;
use super::message::Common;
use crate::config::{KafkaConfig, OWNED_PROPERTIES};
use crate::event::{LedgerId, Shard, SinkName};
use crate::mutant::{Mutant, planted};

/// How long the broker lets a transaction stay open.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one request may take; a commit that took half of it may have been sent twice.
pub const SOCKET_TIMEOUT: Duration = Duration::from_secs(8);
/// The bound of one administrative call.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one batch of messages, at most, where no topic takes less; librdkafka's own default.
const BATCH_BYTES: usize = 1_000_000;
/// The least that librdkafka accepts is 1; below this a batch is not worth the name.
const MIN_BATCH_BYTES: usize = 1_000;

/// What a user may set instead of these defaults, under any of its names.
const DEFAULTS: &[(&[&str], &str)] = &[
    (&["compression.type", "compression.codec"], "lz4"),
    (&["linger.ms", "queue.buffering.max.ms"], "0"),
    (&["reconnect.backoff.max.ms"], "2000"),
    (&["socket.keepalive.enable"], "true"),
    // The limit of each topic is kept by us, with a stub; the client's own would only come before it.
    (&["message.max.bytes"], "1000000000"),
];

/// What identifies one sink in one shard, and how its clients are configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sink.
    pub sink: SinkName,
    /// The shard.
    pub shard: Shard,
    /// How many shards the ledger has: partitions of the cursor topic.
    pub shards: u16,
    /// The ledger.
    pub ledger: LedgerId,
    /// The instance that runs it, which its cursors name.
    pub instance: Option<uuid::Uuid>,
    /// `<deployment>-<ledger id, 8 hex>-<sink>-<shard>`
    pub transactional_id: String,
    /// The sink's cursor topic.
    pub cursor_topic: String,
    /// The deployment's control topic.
    pub control_topic: String,
    /// The sink's own keys.
    pub config: KafkaConfig,
}

impl Settings {
    /// Derives the names.
    #[must_use]
    pub fn new(
        deployment: &str,
        sink: &SinkName,
        ledger: LedgerId,
        shards: u16,
        shard: Shard,
        config: KafkaConfig,
    ) -> Self {
        Self {
            sink: sink.clone(),
            shard,
            shards,
            ledger,
            instance: None,
            transactional_id: format!("{deployment}-{}-{sink}-{shard}", ledger.short()),
            cursor_topic: cursor_topic(deployment, sink.as_str()),
            control_topic: control_topic(deployment),
            config,
        }
    }

    /// What all messages of the sink in its shard have in common.
    #[must_use]
    pub fn common(&self) -> Common {
        Common::new(self.ledger, self.shard, &self.sink)
    }

    /// The shard's own partition of the cursor topic: the open transaction of another producer hides what is committed
    /// behind it, and would hide this shard's cursors (INV-8).
    pub(super) fn cursor_partition(&self) -> i32 {
        if planted(Mutant::SharedCursorPartition) { 0 } else { i32::from(self.shard.0) }
    }

    /// What every client has: brokers, the user's properties, secrets read anew.
    fn client(&self) -> Result<ClientConfig, KafkaSinkError> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.config.brokers);
        client.set("client.id", format!("standpipe-{}", self.transactional_id));
        for (property, value) in &self.config.properties {
            refuse_owned(property)?;
            client.set(property, value);
        }
        for (property, secret) in &self.config.secret_properties {
            refuse_owned(property)?;
            let value =
                secret.read().map_err(|source| KafkaSinkError::Secret { property: property.clone(), source })?;
            client.set(property, value.expose_secret());
        }
        client.set("socket.timeout.ms", millis(SOCKET_TIMEOUT));
        native(&client)?;
        Ok(client)
    }

    /// A transactional producer whose batches every topic takes that takes `smallest_limit` bytes.
    pub(super) fn producer(&self, smallest_limit: usize) -> Result<ClientConfig, KafkaSinkError> {
        let mut producer = self.client()?;
        for (names, value) in DEFAULTS {
            if !names.iter().any(|name| self.is_set(name)) {
                producer.set(names[0], *value);
            }
        }
        producer.set("batch.size", self.batch_bytes(smallest_limit).to_string());
        producer.set("transactional.id", &self.transactional_id);
        producer.set("enable.idempotence", "true");
        producer.set("acks", "all");
        // As librdkafka would choose itself, without saying so.
        producer.set("max.in.flight", "5");
        producer.set("transaction.timeout.ms", millis(TRANSACTION_TIMEOUT));
        producer.set("message.timeout.ms", millis(TRANSACTION_TIMEOUT));
        assert_effective(&producer)?;
        Ok(producer)
    }

    /// A client that administers, and creates no topic by asking for it.
    pub(super) fn admin(&self) -> Result<ClientConfig, KafkaSinkError> {
        self.client()
    }

    /// A consumer for one look: it never commits, and never joins its group.
    pub(super) fn consumer(&self, isolation: Isolation) -> Result<ClientConfig, KafkaSinkError> {
        let mut consumer = self.client()?;
        consumer.set("group.id", format!("{}-reader", self.transactional_id));
        consumer.set("isolation.level", isolation.as_str());
        consumer.set("enable.auto.commit", "false");
        consumer.set("enable.partition.eof", "true");
        consumer.set("auto.offset.reset", "error");
        consumer.set("allow.auto.create.topics", "false");
        // Answers at the end of a partition come at once: a start waits for them.
        consumer.set("fetch.wait.max.ms", "10");
        consumer.set("fetch.error.backoff.ms", "50");
        Ok(consumer)
    }

    /// The size of a batch for topics of which the smallest takes `smallest_limit` bytes.
    pub(super) fn batch_bytes(&self, smallest_limit: usize) -> usize {
        let wanted = self.config.properties.get("batch.size").and_then(|text| text.parse().ok()).unwrap_or(BATCH_BYTES);
        wanted.min(smallest_limit).max(MIN_BATCH_BYTES)
    }

    /// The limit of messages that the user has set for the client; none where the topics' own shall count alone.
    pub(super) fn max_message_bytes(&self) -> Option<usize> {
        self.config.properties.get("message.max.bytes").and_then(|text| text.parse().ok())
    }

    fn is_set(&self, property: &str) -> bool {
        self.config.properties.contains_key(property) || self.config.secret_properties.contains_key(property)
    }

    /// The producer's effective settings in one line, without secrets.
    pub(super) fn describe(&self, smallest_limit: usize) -> Result<String, KafkaSinkError> {
        const SHOWN: [&str; 14] = [
            "bootstrap.servers",
            "transactional.id",
            "acks",
            "enable.idempotence",
            "max.in.flight",
            "transaction.timeout.ms",
            "message.timeout.ms",
            "socket.timeout.ms",
            "compression.codec",
            "linger.ms",
            "batch.size",
            "message.max.bytes",
            "security.protocol",
            "sasl.mechanism",
        ];
        let native = native(&self.producer(smallest_limit)?)?;
        // The client names a mechanism whether one is used or not.
        let sasl = native.get("security.protocol").is_ok_and(|protocol| protocol.starts_with("sasl"));
        let mut line: Vec<String> = SHOWN
            .iter()
            .filter(|property| sasl || **property != "sasl.mechanism")
            .filter_map(|property| native.get(property).ok().map(|value| format!("{property}={value}")))
            .collect();
        for (property, value) in &self.config.properties {
            if !SHOWN.contains(&property.as_str()) {
                line.push(if is_secret(property) { format!("{property}=***") } else { format!("{property}={value}") });
            }
        }
        line.extend(self.config.secret_properties.keys().map(|property| format!("{property}=***")));
        Ok(line.join(" "))
    }
}

/// Checks the user's properties without a cluster: owned ones, unknown ones, values that librdkafka refuses.
#[must_use]
pub fn check_properties(config: &KafkaConfig) -> Vec<KafkaSinkError> {
    let mut errors: Vec<KafkaSinkError> = config
        .properties
        .keys()
        .chain(config.secret_properties.keys())
        .filter_map(|property| refuse_owned(property).err())
        .collect();
    for (property, value) in &config.properties {
        let mut alone = ClientConfig::new();
        alone.set(property, value);
        errors.extend(native(&alone).err());
    }
    errors
}

/// Which transactions a consumer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isolation {
    Committed,
    Uncommitted,
}

impl Isolation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

fn refuse_owned(property: &str) -> Result<(), KafkaSinkError> {
    match OWNED_PROPERTIES.iter().find(|(owned, _)| *owned == property) {
        Some((_, why)) => {
            Err(KafkaSinkError::Property { property: property.to_owned(), why: format!("standpipe sets it: {why}") })
        }
        None => Ok(()),
    }
}

/// A client's default can be weaker than what was asked for, so the settings that the guarantee rests on are read back.
fn assert_effective(producer: &ClientConfig) -> Result<(), KafkaSinkError> {
    let native = native(producer)?;
    for (property, allowed) in [("acks", ["-1", "all"]), ("enable.idempotence", ["true", "true"])] {
        let value = native.get(property).map_err(KafkaSinkError::kafka("reading a setting back"))?;
        if !allowed.contains(&value.as_str()) {
            let why = format!("it would be `{value}`, but exactly once needs `{}`", allowed[1]);
            return Err(KafkaSinkError::Property { property: property.to_owned(), why });
        }
    }
    Ok(())
}

fn native(config: &ClientConfig) -> Result<rdkafka::config::NativeClientConfig, KafkaSinkError> {
    use rdkafka::error::KafkaError;
    config.create_native_config().map_err(|error| match error {
        // The value stays out: it may be a secret.
        KafkaError::ClientConfig(_, why, property, value) => {
            let why = if value.is_empty() { why } else { why.replace(&value, "***") };
            KafkaSinkError::Property { property, why: why.trim().to_owned() }
        }
        source => KafkaSinkError::Kafka { doing: "reading the client's properties".to_owned(), source },
    })
}

fn is_secret(property: &str) -> bool {
    ["password", "secret", "token", "pem", "key", "oauthbearer.config", "sasl.username", "jaas"]
        .iter()
        .any(|part| property.contains(part))
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;
    use crate::config::{NewProducer, Secret};

    fn settings(properties: &[(&str, &str)], secrets: &[(&str, &str)]) -> Settings {
        let config = KafkaConfig {
            brokers: "kafka-1:9092".into(),
            topic: String::new(),
            key: String::new(),
            new_producer: NewProducer::OnDoubt,
            create_topics: true,
            partitions: None,
            replication: None,
            properties: properties.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            secret_properties: secrets
                .iter()
                .map(|(key, value)| ((*key).to_owned(), Secret::value(*value)))
                .collect::<IndexMap<_, _>>(),
        };
        let ledger = LedgerId(uuid::Uuid::from_u128(0x1234_5678 << 96));
        Settings::new("acme-prod", &SinkName::from("crm"), ledger, 4, Shard(3), config)
    }

    #[test]
    fn names_follow_from_deployment_ledger_sink_and_shard() {
        let settings = settings(&[], &[]);
        assert_eq!(settings.transactional_id, "acme-prod-12345678-crm-3");
        assert_eq!(settings.cursor_topic, "standpipe.acme-prod.crm.cursor");
        assert_eq!(settings.control_topic, "standpipe.acme-prod.control");
    }

    #[test]
    fn a_property_that_the_guarantee_rests_on_cannot_be_set() {
        for property in ["acks", "request.required.acks", "enable.idempotence", "transactional.id", "partitioner"] {
            for settings in [settings(&[(property, "0")], &[]), settings(&[], &[(property, "0")])] {
                let errors = check_properties(&settings.config);
                assert!(
                    matches!(&errors[..], [KafkaSinkError::Property { property: named, .. }, ..] if named == property)
                );
                assert!(settings.producer(usize::MAX).is_err());
                assert!(settings.consumer(Isolation::Committed).is_err());
            }
        }
        assert!(check_properties(&settings(&[("security.protocol", "SASL_SSL")], &[]).config).is_empty());
    }

    #[test]
    fn a_property_that_the_client_does_not_know_is_named_and_a_secret_value_is_not_printed() {
        let error = settings(&[("no.such.property", "x")], &[]).producer(usize::MAX).unwrap_err();
        assert!(error.to_string().contains("no.such.property"), "{error}");
        let error = settings(&[], &[("sasl.mechanism", "hunter2"), ("ssl.key.pem", "hunter3")]).producer(usize::MAX);
        if let Err(error) = error {
            let text = crate::telemetry::causes(&error);
            assert!(!text.contains("hunter"), "{text}");
        }
        let error = settings(&[], &[("security.protocol", "hunter2")]).producer(usize::MAX).unwrap_err();
        let text = format!("{} {error:?}", crate::telemetry::causes(&error));
        assert!(text.contains("security.protocol") && !text.contains("hunter2"), "{text}");
    }

    /// INV-16.
    /// Field 12: what the client really does is read back, asserted and told.
    #[test]
    fn the_effective_settings_are_told_without_secrets() {
        let properties = [("linger.ms", "1"), ("sasl.username", "anna"), ("client.rack", "r1")];
        let line = settings(&properties, &[("sasl.password", "hunter2")]).describe(50_000).unwrap();
        let shown = ["acks=-1", "enable.idempotence=true", "compression.codec=lz4", "linger.ms=1", "batch.size=50000"];
        for part in shown.into_iter().chain(["transactional.id=acme-prod-12345678-crm-3", "client.rack=r1"]) {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(line.contains("sasl.password=***") && line.contains("sasl.username=***"), "{line}");
        assert!(!line.contains("hunter2") && !line.contains("anna"), "{line}");
    }

    #[test]
    fn batches_are_no_larger_than_the_smallest_topic_takes() {
        let own = settings(&[], &[]);
        assert_eq!(own.batch_bytes(usize::MAX), 1_000_000);
        assert_eq!(own.batch_bytes(20_000), 20_000);
        assert_eq!(settings(&[("batch.size", "5000")], &[]).batch_bytes(20_000), 5_000);
    }
}
