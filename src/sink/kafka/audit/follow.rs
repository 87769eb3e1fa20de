//! The audit's consumer. Each call of the client is made on a thread of its own, which takes the consumer along and gives
//! it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::super::client::{Looker, says_little};
use super::super::config::{ADMIN_TIMEOUT, Isolation, Settings, TRANSACTION_TIMEOUT};
use super::super::error::KafkaSinkError;
use super::super::look::Views;
use super::super::proof::{Seen, committed_cursor, content};
use super::super::thread;
use super::watch::{Light, Watch};

/// One look for messages takes so long at most, and brings so many.
const ROUND: Duration = Duration::from_secs(1);
const ROUND_MESSAGES: usize = 2_000;
/// Messages of each partition that are read before the first one that is judged: a repetition of them is known.
const WARM_UP: i64 = 1_000;

/// A consumer of every partition that the sink writes to, and the next offset of each.
pub(super) struct Follower {
    settings: Arc<Settings>,
    looker: Looker,
    next: BTreeMap<(Arc<str>, i32), i64>,
    lag: i64,
}

/// What one look brought.
pub(super) struct Round {
    pub(super) follower: Follower,
    pub(super) messages: Vec<Light>,
}

impl Follower {
    /// Begins at the present cursor; none while the sink has none.
    pub(super) async fn start(settings: &Arc<Settings>) -> Result<Option<(Self, Watch)>, KafkaSinkError> {
        let settings = settings.clone();
        thread::call("beginning an audit", 9 * TRANSACTION_TIMEOUT, move || {
            let Some(first) = committed_cursor(&settings)? else { return Ok(None) };
            let views = Views::new(&settings)?;
            // What was committed before this look lies below these offsets, so that the cursor that is read next counts
            // all of it.
            let mut from = BTreeMap::new();
            for (topic, tail) in &first.topics {
                for number in 0..tail.partitions() {
                    let decided = views.decided(topic, number, Instant::now() + 2 * TRANSACTION_TIMEOUT)?;
                    from.insert((topic.clone(), number), decided.low.max(decided.high - WARM_UP));
                }
            }
            let Some(cursor) = committed_cursor(&settings)? else { return Ok(None) };
            let mut watch = Watch::behind(cursor.seq);
            for (topic, number) in from.keys() {
                let last = cursor.topics.get(topic).and_then(|tail| tail.last.get(usize::try_from(*number).ok()?));
                // And what lies below these may be counted by it, or not: it is remembered, and the links go on from the
                // cursor. What came between is met with the next message's link.
                let end = views.decided(topic, *number, Instant::now() + 2 * TRANSACTION_TIMEOUT)?.high;
                watch.follow(topic.clone(), *number, last.copied().unwrap_or_default(), end);
            }
            let mut follower =
                Self { looker: Looker::new(&settings, Isolation::Committed)?, settings, next: from, lag: 0 };
            follower.assign()?;
            Ok(Some((follower, watch)))
        })
        .await
    }

    fn assign(&mut self) -> Result<(), KafkaSinkError> {
        let failed = |error: KafkaError| self.looker.failed("following a sink's topics".to_owned(), error);
        let mut list = TopicPartitionList::with_capacity(self.next.len());
        for ((topic, partition), next) in &self.next {
            list.add_partition_offset(topic, *partition, Offset::Offset(*next)).map_err(failed)?;
        }
        self.looker.consumer.assign(&list).map_err(failed)
    }

    /// The next messages.
    pub(super) async fn round(mut self) -> Result<Round, KafkaSinkError> {
        thread::call("following a sink's topics", 10 * ROUND, move || {
            let common = self.settings.common();
            let mut messages = Vec::new();
            let deadline = Instant::now() + ROUND;
            while messages.len() < ROUND_MESSAGES && Instant::now() < deadline {
                match self.looker.consumer.poll(Duration::from_millis(200)) {
                    None | Some(Err(KafkaError::PartitionEOF(_))) => {}
                    Some(Ok(message)) => {
                        let Some((place, next)) = self.next.iter_mut().find(|((topic, partition), _)| {
                            **topic == *message.topic() && *partition == message.partition()
                        }) else {
                            continue;
                        };
                        *next = message.offset() + 1;
                        let topic = place.0.clone();
                        if let Some(seen) = Seen::of(&message, &common) {
                            messages.push(Light {
                                topic,
                                partition: seen.partition,
                                offset: seen.offset,
                                seq: seen.seq,
                                prev: seen.prev,
                                is_repair: seen.is_repair,
                                content: (!seen.is_stub).then(|| content(seen.id, seen.chain, &seen.event())),
                            });
                        }
                    }
                    Some(Err(error)) if says_little(&error) => {}
                    Some(Err(error)) => return Err(self.looker.failed("following a sink's topics".to_owned(), error)),
                }
            }
            Ok(Round { follower: self, messages })
        })
        .await
    }

    /// Looks for topics that the sink has written to since, and how far behind the ends it is.
    pub(super) async fn look(mut self, watch: &mut Watch) -> Result<Self, KafkaSinkError> {
        let known: Vec<Arc<str>> = self.next.keys().map(|(topic, _)| topic.clone()).collect();
        let (follower, new) = thread::call("looking for new topics", 6 * TRANSACTION_TIMEOUT, move || {
            let mut new = Vec::new();
            let cursor = committed_cursor(&self.settings)?;
            for (topic, tail) in cursor.iter().flat_map(|cursor| &cursor.topics) {
                if known.contains(topic) {
                    continue;
                }
                for number in 0..tail.partitions() {
                    let (low, _) = self.watermarks(topic, number)?;
                    self.next.insert((topic.clone(), number), low);
                    new.push((topic.clone(), number, low));
                }
            }
            if !new.is_empty() {
                self.assign()?;
            }
            let mut lag = 0;
            for ((topic, number), next) in &self.next {
                lag += (self.watermarks(topic, *number)?.1 - next).max(0);
            }
            self.lag = lag;
            Ok((self, new))
        })
        .await?;
        for (topic, number, low) in new {
            watch.follow_new(topic, number, low);
        }
        Ok(follower)
    }

    fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), KafkaSinkError> {
        self.looker.consumer.fetch_watermarks(topic, partition, ADMIN_TIMEOUT).map_err(|error| {
            self.looker.failed(format!("asking for the watermarks of partition {partition} of `{topic}`"), error)
        })
    }

    /// Offsets between where it stands and the ends; the marks of transactions count among them.
    #[expect(clippy::cast_precision_loss, reason = "a lag of 2^53 messages is not told exactly")]
    pub(super) const fn lag(&self) -> f64 {
        self.lag as f64
    }
}
