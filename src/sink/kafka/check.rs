//! What `standpipe check` asks of a Kafka sink, and what `run` waits for before it begins: nothing here produces, and
//! nothing fences a sink that runs.

use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::producer::{BaseProducer, Producer as _};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::client::Looker;
use super::config::{ADMIN_TIMEOUT, Isolation, Settings, check_properties};
use super::error::KafkaSinkError;
use super::look::Views;
use super::{thread, topics};
use crate::config::KafkaConfig;
use crate::event::{LedgerId, Shard, SinkName};

/// Brokers that refuse a check for so long will not take it: another one of them may still.
const REFUSED_FOR: Duration = Duration::from_secs(2);

/// How long a start waits for brokers with one client, before it makes another of what the secret files hold then.
const EACH_TRY: Duration = Duration::from_secs(5);

/// What a check of a sink found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The producer's effective settings in one line, without secrets.
    pub settings: String,
    /// The guarantee that the sink really has.
    pub guarantee: String,
    /// What weakens it, or will stop the sink, with the remedy.
    pub warnings: Vec<String>,
}

/// Connects, initialises transactions under an id of its own (`…-check`), and looks at the cursor topic and at those of
/// `topics` that exist. `ledger` may be unknown to one who has no database at hand.
pub async fn check(
    name: &SinkName,
    deployment: &str,
    ledger: Option<LedgerId>,
    shards: u16,
    config: &KafkaConfig,
    topics: &[String],
) -> Result<Checked, KafkaSinkError> {
    if let Some(error) = check_properties(config).pop() {
        return Err(error);
    }
    let ledger = ledger.unwrap_or(LedgerId(uuid::Uuid::nil()));
    let mut settings = Settings::new(deployment, name, ledger, shards, Shard(0), config.clone());
    let described = settings.describe(usize::MAX)?;
    settings.transactional_id = format!("{deployment}-{}-{name}-check", ledger.short());
    let topics = topics.to_vec();
    let handle = Handle::current();
    let findings = thread::call("checking a sink", 6 * ADMIN_TIMEOUT, move || {
        let views = Views::new(&settings)?;
        look_for_brokers(&views.committed, &settings, ADMIN_TIMEOUT, REFUSED_FOR)?;
        try_transactions(&settings)?;
        let mut findings = Findings::default();
        findings.look(&settings, &handle, &views, &settings.cursor_topic, true)?;
        for topic in topics.iter().filter(|topic| **topic != settings.cursor_topic) {
            findings.look(&settings, &handle, &views, topic, false)?;
        }
        Ok(findings)
    })
    .await?;
    Ok(Checked { settings: described, guarantee: findings.guarantee(), warnings: findings.warnings })
}

/// Waits until a broker answers, at most `limit`; the error then says why none does. Secret files are read anew every few
/// seconds, so that one that is mended meanwhile is taken up.
pub async fn reach(
    deployment: &str,
    name: &SinkName,
    config: &KafkaConfig,
    limit: Duration,
) -> Result<(), KafkaSinkError> {
    let nil = LedgerId(uuid::Uuid::nil());
    let deadline = Instant::now() + limit;
    let mut each = limit.min(EACH_TRY);
    loop {
        let settings = Settings::new(deployment, name, nil, 1, Shard(0), config.clone());
        let asked = thread::call("looking for a broker", each, move || {
            let looker = Looker::new(&settings, Isolation::Committed)?;
            // The brokers may learn of our credentials while the start waits.
            look_for_brokers(&looker, &settings, each, each)
        });
        let Err(error) = asked.await else { return Ok(()) };
        each = deadline.saturating_duration_since(Instant::now()).min(EACH_TRY);
        // What is left must be enough to learn more than that there was no time.
        if each < Duration::from_secs(1) || matches!(error, KafkaSinkError::Property { .. }) {
            return Err(error);
        }
        tracing::warn!(sink = %name, error = &error as &dyn std::error::Error, "no broker is within reach yet");
    }
}

/// Waits until a broker answers, at most `limit`, or at most `refused` while all that is heard is that they refuse us.
fn look_for_brokers(
    looker: &Looker,
    settings: &Settings,
    limit: Duration,
    refused: Duration,
) -> Result<(), KafkaSinkError> {
    let began = Instant::now();
    let deadline = began + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = left.clamp(Duration::from_millis(100), Duration::from_secs(5));
        match looker.consumer.fetch_metadata(Some(&settings.cursor_topic), patience) {
            Ok(_) => return Ok(()),
            Err(error) => {
                let error = looker.failed(format!("looking for a broker at {}", settings.config.brokers), error);
                let patience = if error.is_refusal() { limit.min(refused) } else { limit };
                if began.elapsed() >= patience {
                    return Err(error);
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
        }
    }
}

fn try_transactions(settings: &Settings) -> Result<(), KafkaSinkError> {
    let producer: BaseProducer =
        settings.producer(usize::MAX)?.create().map_err(KafkaSinkError::kafka("making a producer"))?;
    let doing = format!("calling init_transactions as `{}`", settings.transactional_id);
    producer.init_transactions(ADMIN_TIMEOUT).map_err(KafkaSinkError::kafka(doing))
}

#[derive(Debug, Default)]
struct Findings {
    warnings: Vec<String>,
    /// What weakens the guarantee itself.
    weak: Vec<String>,
}

impl Findings {
    fn look(
        &mut self,
        settings: &Settings,
        handle: &Handle,
        views: &Views,
        topic: &str,
        is_cursor: bool,
    ) -> Result<(), KafkaSinkError> {
        let deadline = Instant::now() + ADMIN_TIMEOUT;
        let looker = &views.committed;
        let Some(partitions) = looker.partitions(topic, deadline)? else {
            if !settings.config.create_topics {
                self.warnings.push(format!(
                    "`{topic}` does not exist, and `create_topics` is off: the sink will wait until it is created"
                ));
            }
            return Ok(());
        };
        if is_cursor && partitions < i32::from(settings.shards) {
            self.warnings.push(format!(
                "`{topic}` has {partitions} partitions, but the ledger has {} shards: the sink will not start until it \
                 has one for each",
                settings.shards
            ));
        }
        let metadata = looker
            .consumer
            .fetch_metadata(Some(topic), ADMIN_TIMEOUT)
            .map_err(|error| looker.failed(format!("asking for the topic `{topic}`"), error))?;
        let replicas = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
        let replication = replicas.map(|partition| partition.replicas().len()).min().unwrap_or(0);
        if replication < 2 {
            self.warnings.push(format!("`{topic}` has replication 1: what it holds is lost with its broker's disk"));
            self.weakened("no broker of a topic with replication 1 loses its disk");
        }
        let Some(config) = topics::describe(handle, views, topic)? else { return Ok(()) };
        if replication > 1 && config.min_insync.is_some_and(|min| min < 2) {
            self.warnings.push(format!(
                "`{topic}` has min.insync.replicas 1: a broker may acknowledge what it alone holds, and then be lost"
            ));
            self.weakened("no broker is lost that alone has acknowledged (min.insync.replicas 1)");
        }
        if is_cursor && config.cleanup.as_deref().is_some_and(|policy| policy.contains("delete")) {
            self.warnings.push(format!(
                "`{topic}` deletes by age or size (cleanup.policy): an idle sink would lose its cursor and stop; set \
                 cleanup.policy=compact"
            ));
            self.weakened("the cursor topic does not delete the cursor");
        }
        Ok(())
    }

    fn weakened(&mut self, unless: &str) {
        if !self.weak.iter().any(|known| known == unless) {
            self.weak.push(unless.to_owned());
        }
    }

    fn guarantee(&self) -> String {
        let promise = "exactly once for read_committed consumers";
        if self.weak.is_empty() {
            promise.to_owned()
        } else {
            format!("{promise}, as long as {}", self.weak.join(", and "))
        }
    }
}
