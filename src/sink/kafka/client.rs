//! The real cluster: looks and administration, each on a thread. A client that has looked is kept for the next look, so
//! that a start, which looks four times, connects once. Producing is [`producer`](super::producer)'s.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cluster::{Cluster, CursorFound, Extent, TopicEnd, TopicInfo, TopicKind};
use super::config::{ADMIN_TIMEOUT, Isolation, Settings, TRANSACTION_TIMEOUT};
use super::cursor::Tails;
use super::error::{KafkaSinkError, code_of};
use super::landed::Landed;
use super::look::{Partition, Views};
use super::producer::Producer;
use super::proof::TopicHeld;
use super::{look, proof, tail, thread, topics};
use crate::event::Seq;
use crate::event::ports::Delivered;

/// Events of a client that are looked through for the reason of a failure.
const SERVED: usize = 10_000;

/// The bound of reading all topics of a sink through.
const READ_LIMIT: Duration = Duration::from_hours(12);

/// A Kafka cluster over the network.
pub struct KafkaCluster {
    settings: Arc<Settings>,
    /// The smallest limit of a topic that was met; never rises, so that a new producer suits all of them.
    smallest_limit: usize,
    /// The limit that the present producer was made for.
    made_for: usize,
    /// Where the messages of the present producer land.
    landed: Landed,
    /// What the last look was made with. Counting the partitions gives it up, so that no client stays idle for long.
    views: Option<Views>,
}

impl KafkaCluster {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings, smallest_limit: usize::MAX, made_for: usize::MAX, landed: Landed::default(), views: None }
    }

    /// Looks with what was kept, or with new clients; keeps them where the look was good.
    async fn look<T: Send + 'static>(
        &mut self,
        doing: &str,
        limit: Duration,
        look: impl FnOnce(&Views) -> Result<T, KafkaSinkError> + Send + 'static,
    ) -> Result<T, KafkaSinkError> {
        let (kept, settings) = (self.views.take(), self.settings.clone());
        let (views, told) = thread::call(doing, limit, move || {
            let views = kept.map_or_else(|| Views::new(&settings), Ok)?;
            let told = look(&views)?;
            Ok((views, told))
        })
        .await?;
        self.views = Some(views);
        Ok(told)
    }

    /// Gives up what was kept, where blocking is allowed.
    fn forget_views(&mut self) {
        if let Some(views) = self.views.take()
            && let Err(error) = thread::spawn("kafka-drop", move || drop(views))
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "a client is dropped where it blocks");
        }
    }
}

impl Drop for KafkaCluster {
    fn drop(&mut self) {
        self.forget_views();
    }
}

impl std::fmt::Debug for KafkaCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaCluster").field("sink", &self.settings.sink).finish_non_exhaustive()
    }
}

impl Cluster for KafkaCluster {
    type Producer = Producer;

    async fn cursor_topic(&mut self, create: bool) -> Result<bool, KafkaSinkError> {
        let settings = self.settings.clone();
        let handle = tokio::runtime::Handle::current();
        self.look("looking at the cursor topic", 3 * ADMIN_TIMEOUT, move |views| {
            topics::cursor_topic(&settings, &handle, views, create)
        })
        .await
    }

    async fn fence(&mut self) -> Result<Producer, KafkaSinkError> {
        let config = self.settings.producer(self.smallest_limit)?;
        self.landed = Landed::default();
        let producer = Producer::fence(self.settings.clone(), config, self.landed.clone()).await?;
        self.made_for = self.smallest_limit;
        tracing::info!(
            sink = %self.settings.sink,
            shard = %self.settings.shard,
            settings = %self.settings.describe(self.made_for)?,
            "a transactional producer is initialised"
        );
        Ok(producer)
    }

    async fn read_cursor(&mut self, _fenced: &Producer) -> Result<CursorFound, KafkaSinkError> {
        let settings = self.settings.clone();
        self.look("reading the cursor", 3 * TRANSACTION_TIMEOUT, move |views| look::cursor(views, &settings)).await
    }

    async fn last_cursor(&mut self) -> Result<CursorFound, KafkaSinkError> {
        let settings = self.settings.clone();
        let look = move |views: &Views| look::cursor_now(&views.committed, &settings);
        self.look("looking at the cursor", 3 * ADMIN_TIMEOUT, look).await
    }

    async fn delivered(
        &mut self,
        tails: &Tails,
        range: (Seq, Seq),
        extent: Extent,
        found: mpsc::Sender<Vec<(Seq, Delivered)>>,
    ) -> Result<(), KafkaSinkError> {
        let (settings, tails) = (self.settings.clone(), tails.clone());
        thread::call("reading back what was delivered", tail::LIMIT, move || {
            tail::delivered(&settings, &tails, range, extent, &found)
        })
        .await
    }

    async fn ends(&mut self, expected: &Tails) -> Result<Vec<TopicEnd>, KafkaSinkError> {
        let settings = self.settings.clone();
        let expected = expected.clone();
        let look = move |views: &Views| look::ends(views, &settings, &expected);
        let ends = self.look("reading the ends of topics", 6 * TRANSACTION_TIMEOUT, look).await?;
        for end in &ends {
            for (partition, found) in (0..).zip(end.partitions.iter().flatten()) {
                self.landed.saw(&end.topic, partition, found.high);
            }
        }
        Ok(ends)
    }

    async fn held(&mut self, topics: &[Arc<str>], range: (Seq, Seq)) -> Result<Vec<TopicHeld>, KafkaSinkError> {
        let (settings, topics) = (self.settings.clone(), topics.to_vec());
        let handle = tokio::runtime::Handle::current();
        // What stands still is given up long before.
        thread::call("reading a sink's topics through", READ_LIMIT, move || {
            proof::held(&settings, &handle, &topics, range)
        })
        .await
    }

    async fn topic(&mut self, name: &str, kind: TopicKind) -> Result<TopicInfo, KafkaSinkError> {
        let settings = self.settings.clone();
        let name = name.to_owned();
        let handle = tokio::runtime::Handle::current();
        let look = move |views: &Views| topics::output_topic(&settings, &handle, views, &name, kind);
        let info = self.look("looking at a topic", 3 * ADMIN_TIMEOUT, look).await?;
        self.smallest_limit = self.smallest_limit.min(info.max_bytes);
        Ok(info)
    }

    async fn topics(&mut self, names: &[Arc<str>]) -> Result<Vec<Option<TopicInfo>>, KafkaSinkError> {
        let (settings, names) = (self.settings.clone(), names.to_vec());
        let handle = tokio::runtime::Handle::current();
        let look = move |views: &Views| topics::output_topics(&settings, &handle, views, &names);
        let told = self.look("looking at topics", 3 * ADMIN_TIMEOUT, look).await?;
        let limits = told.iter().flatten().map(|info| info.max_bytes);
        self.smallest_limit = limits.fold(self.smallest_limit, usize::min);
        Ok(told)
    }

    async fn partitions(&mut self, topics: &[Arc<str>]) -> Result<Vec<Option<i32>>, KafkaSinkError> {
        let topics = topics.to_vec();
        let counted = self.look("counting partitions", 3 * ADMIN_TIMEOUT, move |views| {
            let deadline = Instant::now() + 2 * ADMIN_TIMEOUT;
            topics.iter().map(|topic| views.committed.partitions(topic, deadline)).collect()
        });
        let counted = counted.await;
        self.forget_views();
        counted
    }

    fn outgrown(&self) -> bool {
        self.settings.batch_bytes(self.smallest_limit) < self.settings.batch_bytes(self.made_for)
    }
}

/// A consumer that looks and never joins.
pub(super) struct Looker {
    pub(super) consumer: BaseConsumer<Listener>,
    listener: Listener,
}

impl Looker {
    pub(super) fn new(settings: &Settings, isolation: Isolation) -> Result<Self, KafkaSinkError> {
        Self::of(&settings.consumer(isolation)?)
    }

    pub(super) fn of(config: &ClientConfig) -> Result<Self, KafkaSinkError> {
        let listener = Listener::default();
        let consumer =
            config.create_with_context(listener.clone()).map_err(KafkaSinkError::kafka("making a consumer"))?;
        Ok(Self { consumer, listener })
    }

    /// How many partitions a topic has; none where it does not exist. Waits out a leader election.
    pub(super) fn partitions(&self, topic: &str, deadline: Instant) -> Result<Option<i32>, KafkaSinkError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(ADMIN_TIMEOUT);
            let metadata = self
                .consumer
                .fetch_metadata(Some(topic), left.max(Duration::from_millis(100)))
                .map_err(|error| self.failed(format!("asking for the topic `{topic}`"), error))?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let code = found.and_then(rdkafka::metadata::MetadataTopic::error).map(RDKafkaErrorCode::from);
            let led = |partition: &rdkafka::metadata::MetadataPartition| partition.leader() >= 0;
            match (found, code) {
                (Some(found), None) if !found.partitions().is_empty() && found.partitions().iter().all(led) => {
                    return Ok(i32::try_from(found.partitions().len()).ok());
                }
                (None, _) | (_, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {
                    return Ok(None);
                }
                (_, None | Some(RDKafkaErrorCode::LeaderNotAvailable)) if Instant::now() < deadline => {
                    std::thread::park_timeout(Duration::from_millis(50));
                }
                (_, None) => {
                    return Err(KafkaSinkError::Topic {
                        topic: topic.to_owned(),
                        why: "a partition has no leader; a broker may be down".to_owned(),
                    });
                }
                (_, Some(code)) => {
                    let error = KafkaError::MetadataFetch(code);
                    return Err(self.failed(format!("asking for the topic `{topic}`"), error));
                }
            }
        }
    }

    /// Of each partition its first offset or the one behind its last, as this client sees it: all of them in one request
    /// to each leader. [`Offset::Beginning`] and [`Offset::End`] are what a `ListOffsets` request calls the times -2 and -1.
    ///
    /// Waits out a leader election, at most `ADMIN_TIMEOUT`.
    pub(super) fn offsets(&self, partitions: &[Partition], which: Offset) -> Result<Vec<i64>, KafkaSinkError> {
        let deadline = Instant::now() + ADMIN_TIMEOUT;
        loop {
            match self.offsets_now(partitions, which) {
                Ok(offsets) => return Ok(offsets),
                Err((_, error)) if is_election(&error) && Instant::now() < deadline => {
                    std::thread::park_timeout(Duration::from_millis(50));
                }
                Err((topic, error)) => {
                    return Err(self.failed(format!("asking for the watermarks of `{topic}`"), error));
                }
            }
        }
    }

    fn offsets_now(&self, partitions: &[Partition], which: Offset) -> Result<Vec<i64>, (Arc<str>, KafkaError)> {
        let Some((first, _)) = partitions.first() else { return Ok(Vec::new()) };
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (topic, partition) in partitions {
            list.add_partition_offset(topic, *partition, which).map_err(|error| (topic.clone(), error))?;
        }
        let told = self.consumer.offsets_for_times(list, ADMIN_TIMEOUT).map_err(|error| (first.clone(), error))?;
        let offset = |(topic, partition): &Partition| {
            let unknown = KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition);
            let found = told.find_partition(topic, *partition).ok_or(unknown);
            match found.and_then(|found| found.error().map(|()| found.offset())) {
                Ok(Offset::Offset(offset)) => Ok(offset),
                Ok(_) => Err((topic.clone(), KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset))),
                Err(error) => Err((topic.clone(), error)),
            }
        };
        partitions.iter().map(offset).collect()
    }

    /// A broker that answers now: administrative calls go straight to it, because one that does not know them, as
    /// librdkafka's mock cluster, then says so at once instead of never naming a controller.
    pub(super) fn some_broker(&self, topic: &str) -> Result<Option<i32>, KafkaSinkError> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), ADMIN_TIMEOUT)
            .map_err(|error| self.failed("looking for a broker".to_owned(), error))?;
        let answering = Some(metadata.orig_broker_id()).filter(|id| *id >= 0);
        Ok(answering.or_else(|| metadata.brokers().first().map(rdkafka::metadata::MetadataBroker::id)))
    }

    /// A failure of this client, after which it reads nothing more.
    pub(super) fn failed(&self, doing: String, error: KafkaError) -> KafkaSinkError {
        // What a consumer complains of waits in its queue, among lines of its log, until it is polled; a poll says nothing
        // of what it served, and costs nothing when there is no more.
        for _ in 0..SERVED {
            drop(self.consumer.poll(Duration::ZERO));
        }
        self.listener.failed(doing, error)
    }
}

/// A client that administers.
pub(super) struct Admin {
    pub(super) client: AdminClient<Listener>,
    pub(super) listener: Listener,
}

impl Admin {
    pub(super) fn of(config: &ClientConfig) -> Result<Self, KafkaSinkError> {
        use rdkafka::config::FromClientConfigAndContext as _;
        let listener = Listener::default();
        let client = AdminClient::from_config_and_context(config, listener.clone())
            .map_err(KafkaSinkError::kafka("making an administrative client"))?;
        Ok(Self { client, listener })
    }
}

/// Remembers what a client last complained of, in its words: the reason behind a time-out.
#[derive(Clone, Debug, Default)]
pub(super) struct Listener(Arc<Mutex<Option<(KafkaError, String)>>>);

impl Listener {
    /// A failure of the client, with the cause of a time-out where the client named one.
    pub(super) fn failed(&self, doing: String, error: KafkaError) -> KafkaSinkError {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((cause, reason)) if says_little(&error) => {
                KafkaSinkError::Kafka { doing: format!("{doing}; {reason}"), source: cause.clone() }
            }
            _ => KafkaSinkError::Kafka { doing, source: error },
        }
    }
}

/// Whether a partition is about to have another leader.
fn is_election(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code_of(error),
        Some(
            Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::ReplicaNotAvailable
                | Code::OffsetNotAvailable
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
        )
    )
}

/// Whether an error only says that time ran out, or that nobody could be reached.
pub(super) fn says_little(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code_of(error),
        Some(Code::OperationTimedOut | Code::RequestTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown)
    )
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the Kafka client reports an error");
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers down" follows the reason and would hide it.
        if last.is_none() || !says_little(&error) {
            // How long it took is another time each time.
            let reason = reason.split(" (after ").next().unwrap_or_default();
            *last = Some((error, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Listener {}

/// librdkafka's own lines, one level lower: what matters of them comes back as an error, and is logged where handled.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::info!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
    }
}
