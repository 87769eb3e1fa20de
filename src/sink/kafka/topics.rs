//! Topics are made, or verified, before anything is produced to them. Blocks; the caller stands on a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminOptions, ConfigResourceResult, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::client::Admin;
use super::cluster::{TopicInfo, TopicKind};
use super::config::{ADMIN_TIMEOUT, Settings};
use super::error::{KafkaSinkError, code_of};
use super::look::Views;

/// The limit of a message where the topic's own may not be asked for, in bytes: a little under Kafka's default.
const USUAL_LIMIT: usize = 1_000_000;

/// Whether the cursor topic exists; makes it when told to.
pub(super) fn cursor_topic(
    settings: &Settings,
    handle: &Handle,
    views: &Views,
    create: bool,
) -> Result<bool, KafkaSinkError> {
    let topic = settings.cursor_topic.as_str();
    let deadline = Instant::now() + ADMIN_TIMEOUT;
    let count = match views.committed.partitions(topic, deadline)? {
        Some(count) => count,
        None if !create => return Ok(false),
        None => {
            let config = [("cleanup.policy", "compact"), ("segment.ms", "3600000"), ("segment.bytes", "16777216")];
            make(settings, handle, views, topic, i32::from(settings.shards), &config)?
        }
    };
    if count <= settings.cursor_partition() {
        return Err(KafkaSinkError::Topic {
            topic: topic.to_owned(),
            why: format!(
                "it has {count} partitions, but a ledger of {} shards needs one for each: add partitions with \
                 `kafka-topics.sh --alter --topic {topic} --partitions {}`",
                settings.shards, settings.shards
            ),
        });
    }
    Ok(true)
}

/// A topic for messages; makes it when it may be.
pub(super) fn output_topic(
    settings: &Settings,
    handle: &Handle,
    views: &Views,
    topic: &str,
    kind: TopicKind,
) -> Result<TopicInfo, KafkaSinkError> {
    let partitions = if let Some(partitions) = views.committed.partitions(topic, Instant::now() + ADMIN_TIMEOUT)? {
        partitions
    } else {
        let wanted = match (kind, settings.config.partitions) {
            (TopicKind::Control, _) => 1,
            (TopicKind::Data, Some(partitions)) => i32::try_from(partitions).unwrap_or(i32::MAX),
            (TopicKind::Data, None) => -1,
        };
        make(settings, handle, views, topic, wanted, &[])?
    };
    let config = describe(handle, views, topic)?;
    Ok(TopicInfo { partitions, max_bytes: limit_of(settings, config.as_ref()) })
}

/// The topics that are there, as [`output_topic`] tells of them, and none for one that is not. Their limits are asked for
/// all at once.
pub(super) fn output_topics(
    settings: &Settings,
    handle: &Handle,
    views: &Views,
    topics: &[Arc<str>],
) -> Result<Vec<Option<TopicInfo>>, KafkaSinkError> {
    let deadline = Instant::now() + ADMIN_TIMEOUT;
    let counts = topics.iter().map(|topic| views.committed.partitions(topic, deadline));
    let counts = counts.collect::<Result<Vec<_>, _>>()?;
    let there = topics.iter().zip(&counts).filter(|(_, count)| count.is_some()).map(|(topic, _)| &**topic);
    let mut configs = describe_all(handle, views, &there.collect::<Vec<_>>())?.into_iter();
    let mut info = |partitions| {
        let config = configs.next().expect("one for each that is there");
        TopicInfo { partitions, max_bytes: limit_of(settings, config.as_ref()) }
    };
    Ok(counts.into_iter().map(|count| count.map(&mut info)).collect())
}

/// The largest message that goes to a topic, in bytes: what it takes, or less where the user says so.
fn limit_of(settings: &Settings, config: Option<&TopicConfig>) -> usize {
    let users = settings.max_message_bytes();
    let own = config.and_then(|config| config.max_message_bytes).or(users).unwrap_or(USUAL_LIMIT);
    users.map_or(own, |users| users.min(own))
}

fn make(
    settings: &Settings,
    handle: &Handle,
    views: &Views,
    topic: &str,
    partitions: i32,
    config: &[(&str, &str)],
) -> Result<i32, KafkaSinkError> {
    if !settings.config.create_topics {
        return Err(KafkaSinkError::Topic {
            topic: topic.to_owned(),
            why: "it does not exist, and `create_topics` is off: create it, or allow the sink to".to_owned(),
        });
    }
    let replication = settings.config.replication.map_or(-1, i32::from);
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
    for (key, value) in config {
        new = new.set(key, value);
    }
    let Admin { client, listener } = views.admin()?;
    let create = |broker: Option<i32>| {
        let asked = client.create_topics([&new], &options(broker));
        handle.block_on(asked).map(|mut results| results.pop())
    };
    let outcome = match create(views.committed.some_broker(topic)?) {
        // Without KRaft only the controller makes topics; the client finds it.
        Ok(Some(Err((_, RDKafkaErrorCode::NotController)))) => create(None),
        outcome => outcome,
    };
    match outcome {
        Ok(None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)))) => {}
        Ok(Some(Err((_, code)))) if unsupported(code) => ask_for_it(settings, topic)?,
        Err(error) if code_of(&error).is_some_and(unsupported) => ask_for_it(settings, topic)?,
        Ok(Some(Err((_, code)))) => {
            return Err(KafkaSinkError::Kafka {
                doing: format!("creating the topic `{topic}`"),
                source: KafkaError::AdminOp(code),
            });
        }
        Err(error) => {
            return Err(listener.failed(format!("creating the topic `{topic}`"), error));
        }
    }
    let deadline = Instant::now() + ADMIN_TIMEOUT;
    loop {
        if let Some(count) = views.committed.partitions(topic, deadline)? {
            tracing::info!(sink = %settings.sink, topic, partitions = count, "a topic was created");
            return Ok(count);
        }
        if Instant::now() >= deadline {
            return Err(KafkaSinkError::Topic {
                topic: topic.to_owned(),
                why: "it was created, but no broker knows it yet".to_owned(),
            });
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// librdkafka's mock cluster cannot be told to make a topic, but does so for a producer that asks for it.
fn ask_for_it(settings: &Settings, topic: &str) -> Result<(), KafkaSinkError> {
    let producer: BaseProducer =
        settings.admin()?.create().map_err(KafkaSinkError::kafka("making an administrative client"))?;
    producer
        .client()
        .fetch_metadata(Some(topic), ADMIN_TIMEOUT)
        .map(drop)
        .map_err(KafkaSinkError::kafka(format!("asking for the topic `{topic}`")))
}

const fn unsupported(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion)
}

fn options(broker: Option<i32>) -> AdminOptions {
    let options = AdminOptions::new().request_timeout(Some(ADMIN_TIMEOUT));
    match broker {
        Some(broker) => options.broker_id(broker),
        None => options,
    }
}

/// The configuration of a topic, as far as it matters here; what the broker does not tell is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicConfig {
    pub(super) max_message_bytes: Option<usize>,
    pub(super) min_insync: Option<u32>,
    pub(super) cleanup: Option<String>,
    /// In milliseconds; -1 = for ever.
    pub(super) retention: Option<i64>,
    /// Of a partition, in bytes; -1 = without a bound.
    pub(super) retention_bytes: Option<i64>,
}

impl TopicConfig {
    /// Whether an older message may be removed because a newer one has its key.
    pub(super) fn is_compacted(&self) -> bool {
        self.cleanup.as_deref().is_some_and(|policy| policy.contains("compact"))
    }

    /// Whether the topic's own retention cannot have removed a message of this age yet.
    pub(super) fn still_keeps(&self, age: Duration) -> bool {
        let by_age = self
            .retention
            .is_some_and(|limit| u64::try_from(limit).map_or(true, |limit| age < Duration::from_millis(limit)));
        by_age && self.retention_bytes.is_some_and(|limit| limit < 0) && !self.is_compacted()
    }
}

/// Asks for a topic's configuration; none where the user may not, or the broker cannot tell.
pub(super) fn describe(handle: &Handle, views: &Views, topic: &str) -> Result<Option<TopicConfig>, KafkaSinkError> {
    Ok(describe_all(handle, views, &[topic])?.pop().flatten())
}

/// The same of many, in their order, in one request.
fn describe_all(handle: &Handle, views: &Views, topics: &[&str]) -> Result<Vec<Option<TopicConfig>>, KafkaSinkError> {
    let Some(first) = topics.first() else { return Ok(Vec::new()) };
    let Admin { client, listener } = views.admin()?;
    let resources: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let asked = client.describe_configs(&resources, &options(views.committed.some_broker(first)?));
    let told = match handle.block_on(asked) {
        Ok(told) => told,
        Err(error) => match code_of(&error) {
            Some(code) if unsupported(code) => topics.iter().map(|_| Err(code)).collect(),
            _ => {
                let doing = match topics.len() {
                    1 => format!("describing the topic `{first}`"),
                    count => format!("describing {count} topics, of which `{first}` is one"),
                };
                return Err(listener.failed(doing, error));
            }
        },
    };
    if told.len() != topics.len() {
        let why = format!("a broker described {} of {} topics", told.len(), topics.len());
        return Err(KafkaSinkError::Topic { topic: (*first).to_owned(), why });
    }
    topics.iter().zip(told).map(|(topic, told)| TopicConfig::told(topic, told)).collect()
}

impl TopicConfig {
    fn told(topic: &str, told: ConfigResourceResult) -> Result<Option<Self>, KafkaSinkError> {
        use RDKafkaErrorCode as Code;
        match told {
            Ok(found) => {
                let value = |name: &str| found.get(name).and_then(|entry| entry.value.clone());
                Ok(Some(Self {
                    max_message_bytes: value("max.message.bytes").and_then(|text| text.parse().ok()),
                    min_insync: value("min.insync.replicas").and_then(|text| text.parse().ok()),
                    cleanup: value("cleanup.policy"),
                    retention: value("retention.ms").and_then(|text| text.parse().ok()),
                    retention_bytes: value("retention.bytes").and_then(|text| text.parse().ok()),
                }))
            }
            Err(code)
                if unsupported(code)
                    || matches!(code, Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) =>
            {
                tracing::debug!(topic, ?code, "the topic's configuration is not told");
                Ok(None)
            }
            Err(code) => Err(KafkaSinkError::Kafka {
                doing: format!("describing the topic `{topic}`"),
                source: KafkaError::AdminOp(code),
            }),
        }
    }
}
