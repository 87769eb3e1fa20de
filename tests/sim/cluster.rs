//! The Kafka sink's ports over the broker in memory, and the faults that its own types rule out.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use standpipe::clock::Clock;
use standpipe::event::ports::Delivered;
use standpipe::event::{DedupeKey, Seq};
use standpipe::ledger::model::Lost;
use standpipe::mutant::{Mutant, planted};
use standpipe::sink::kafka::{
    Cluster, CursorFound, Extent, KafkaSinkError, PartitionEnd, PartitionHeld, SeqSet, Settings, Tails, TopicConfig,
    TopicEnd, TopicHeld, TopicInfo, TopicKind,
};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::broker::{Broker, Message, Place, Record};
use crate::producer::{Client, TRANSACTION_TIMEOUT, TwinProducer, mark_later};
use crate::world::{Net, pause};

pub const PARTITIONS: i32 = 3;

/// One process's client.
pub struct Twin {
    net: Net,
    broker: Broker,
    clock: Clock,
    settings: Arc<Settings>,
    /// The epoch of the last start ([`Mutant::InitSkipped`]).
    kept: Option<u32>,
}

type Written = Option<(Vec<u8>, OffsetDateTime)>;

impl Twin {
    pub fn new(net: Net, broker: Broker, clock: Clock, settings: Arc<Settings>) -> Self {
        Self { net, broker, clock, settings, kept: None }
    }

    fn cursor_place(&self) -> Place {
        (self.settings.cursor_topic.as_str().into(), i32::from(self.settings.shard.0))
    }

    async fn ask<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Broker) -> T + Send + 'static,
    ) -> Result<T, KafkaSinkError> {
        let broker = self.broker.clone();
        self.net.ask(doing, move || work(&broker)).await.map_err(|Lost| silent(doing))
    }

    /// Waits until everything below the present high watermark is decided; gives it.
    async fn decided(&self, place: Place) -> Result<usize, KafkaSinkError> {
        let (first, deadline) = (place.clone(), Instant::now() + 2 * TRANSACTION_TIMEOUT);
        let shown = self.ask("asking for watermarks", move |broker| broker.shown(&first)).await?;
        let high = if planted(Mutant::LastStableOffset) { shown.stable } else { shown.high };
        let mut stable = shown.stable;
        while stable < high {
            if Instant::now() >= deadline {
                let (topic, partition) = place;
                let stable = i64::try_from(stable).unwrap();
                return Err(KafkaSinkError::Hanging { topic: topic.to_string(), partition, stable });
            }
            pause(Duration::from_millis(20)).await;
            let again = place.clone();
            stable = self.ask("asking for watermarks", move |broker| broker.shown(&again).stable).await?;
        }
        Ok(high)
    }

    fn info(&self, topic: &str) -> TopicInfo {
        TopicInfo { partitions: partitions_of(&self.settings, topic), max_bytes: 1 << 20 }
    }

    async fn decided_cursor(&self) -> Result<Written, KafkaSinkError> {
        let place = self.cursor_place();
        let high = self.decided(place.clone()).await?;
        self.ask("reading the cursor", move |broker| broker.cursor_below(&place, high)).await
    }

    /// The messages of ours that a partition holds below its high watermark.
    async fn ours(&self, doing: &'static str, place: Place) -> Result<(usize, Vec<Message>), KafkaSinkError> {
        let (high, shard) = (self.decided(place.clone()).await?, self.settings.shard);
        let is_ours = |message: &Message| {
            let sink = message.sink.as_deref();
            message.shard == shard && sink.is_none_or(|sink| sink == self.settings.sink.as_str())
        };
        let all = self.ask(doing, move |broker| broker.committed(&place, 0, high)).await?;
        let ours = all.into_iter().filter_map(|(_, record)| match record {
            Record::Event(message) if is_ours(&message) => Some(message),
            _ => None,
        });
        Ok((high, ours.collect()))
    }
}

fn found(last: Written) -> CursorFound {
    let written_at = last.as_ref().map(|(_, at)| *at);
    let cursor = last.map(|(value, _)| standpipe::sink::kafka::Cursor::from_json(&value));
    CursorFound { low: 0, cursor, written_at }
}

fn silent(doing: &'static str) -> KafkaSinkError {
    let source = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
    KafkaSinkError::Kafka { doing: doing.to_owned(), source }
}

impl Cluster for Twin {
    type Producer = TwinProducer;

    async fn cursor_topic(&mut self, create: bool) -> Result<bool, KafkaSinkError> {
        let topic = self.cursor_place().0;
        self.ask("looking for the cursor topic", move |broker| broker.cursor_topic(&topic, create)).await
    }

    async fn fence(&mut self) -> Result<TwinProducer, KafkaSinkError> {
        let id: Arc<str> = self.settings.transactional_id.as_str().into();
        let kept = self.kept.filter(|_| planted(Mutant::InitSkipped));
        let epoch = match kept {
            Some(kept) if kept == self.broker.epoch(&id) => kept,
            _ => {
                let (net, id) = (self.net.clone(), id.clone());
                self.ask("init_transactions", move |broker| {
                    let (epoch, due) = broker.init(&id);
                    mark_later(&net, broker, due);
                    epoch
                })
                .await?
            }
        };
        self.kept = Some(epoch);
        let Self { net, broker, clock, settings, .. } = self;
        Ok(TwinProducer(Client {
            net: net.clone(),
            broker: broker.clone(),
            clock: clock.clone(),
            settings: settings.clone(),
            id,
            epoch,
            landed: Arc::default(),
        }))
    }

    async fn read_cursor(&mut self, _: &TwinProducer) -> Result<CursorFound, KafkaSinkError> {
        Ok(found(self.decided_cursor().await?))
    }

    async fn last_cursor(&mut self) -> Result<CursorFound, KafkaSinkError> {
        let place = self.cursor_place();
        let last =
            self.ask("looking at the cursor", move |broker| broker.cursor_below(&place, broker.shown(&place).stable));
        Ok(found(last.await?))
    }

    async fn delivered(
        &mut self,
        tails: &Tails,
        (after, upto): (Seq, Seq),
        _: Extent,
        parts: mpsc::Sender<Vec<(Seq, Delivered)>>,
    ) -> Result<(), KafkaSinkError> {
        for (topic, tail) in tails {
            for number in (0..).take(tail.last.len()) {
                if planted(Mutant::TailLeftOut) && number == 0 {
                    continue;
                }
                let (_, ours) = self.ours("reading back", (topic.clone(), number)).await?;
                let wanted = ours.iter().filter(|message| message.seq > after && message.seq <= upto);
                let found = wanted.filter_map(|message| {
                    let key = DedupeKey(message.traceparent.split('-').nth(1)?.parse().ok()?);
                    Some((message.seq, Delivered { key, replay_of: message.replay.unwrap_or(Seq::ZERO) }))
                });
                // Nobody takes them any more where the sink was stopped.
                drop(parts.send(found.collect()).await);
            }
        }
        Ok(())
    }

    async fn ends(&mut self, expected: &Tails) -> Result<Vec<TopicEnd>, KafkaSinkError> {
        let mut ends = Vec::new();
        for (topic, tail) in expected {
            let mut partitions = Vec::new();
            for (number, last) in (0..).zip(&tail.last) {
                if *last == Seq::ZERO {
                    partitions.push(PartitionEnd::default());
                    continue;
                }
                let (high, ours) = self.ours("reading an end", (topic.clone(), number)).await?;
                let links = ours.iter().filter(|message| !message.is_repair).map(|message| (message.seq, message.prev));
                let high = i64::try_from(high).unwrap();
                partitions.push(PartitionEnd { low: 0, from: 0, high, ours: links.collect() });
            }
            ends.push(TopicEnd { topic: topic.clone(), partitions: Some(partitions) });
        }
        Ok(ends)
    }

    async fn held(&mut self, topics: &[Arc<str>], (from, to): (Seq, Seq)) -> Result<Vec<TopicHeld>, KafkaSinkError> {
        let mut all = Vec::new();
        for topic in topics {
            let mut seqs = SeqSet::new(from, to);
            let mut partitions = Vec::new();
            for number in 0..partitions_of(&self.settings, topic) {
                let (_, ours) = self.ours("reading through", (topic.clone(), number)).await?;
                let mut held = PartitionHeld::default();
                for message in &ours {
                    held.meet(message.seq, &message.chain);
                }
                for message in ours.iter().filter(|message| message.seq <= to) {
                    if !planted(Mutant::HeldUnread) {
                        seqs.insert(message.seq);
                    }
                    if !message.is_repair {
                        held.last = held.last.max(message.seq);
                        held.before = if message.seq < from { held.before.max(message.seq) } else { held.before };
                        held.first = if held.first == Seq::ZERO { message.seq } else { held.first };
                    }
                }
                partitions.push(held);
            }
            let (topic, config) = (topic.clone(), TopicConfig::default());
            all.push(TopicHeld { topic, seqs, partitions: Some(partitions), config });
        }
        Ok(all)
    }

    async fn topic(&mut self, name: &str, _: TopicKind) -> Result<TopicInfo, KafkaSinkError> {
        let info = self.info(name);
        self.ask("describing a topic", move |_| info).await
    }

    async fn topics(&mut self, names: &[Arc<str>]) -> Result<Vec<Option<TopicInfo>>, KafkaSinkError> {
        let infos = names.iter().map(|name| Some(self.info(name))).collect();
        self.ask("describing topics", move |_| infos).await
    }

    async fn partitions(&mut self, topics: &[Arc<str>]) -> Result<Vec<Option<i32>>, KafkaSinkError> {
        let counts = topics.iter().map(|topic| Some(partitions_of(&self.settings, topic))).collect();
        self.ask("counting partitions", move |_| counts).await
    }

    fn outgrown(&self) -> bool {
        false
    }
}

fn partitions_of(settings: &Settings, topic: &str) -> i32 {
    if topic == settings.control_topic { 1 } else { PARTITIONS }
}
