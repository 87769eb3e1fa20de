//! The Kafka sink's ports over the broker in memory, and the faults that its own types rule out.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use standpipe::event::ports::Delivered;
use standpipe::event::{DedupeKey, Seq};
use standpipe::ledger::model::Lost;
use standpipe::mutant::{Mutant, planted};
use standpipe::sink::kafka::{
    Cluster, Committed, Common, CursorFound, KafkaSinkError, PartitionEnd, Settings, Tails, TopicEnd, TopicHeld,
    TopicInfo, TopicKind, Transaction, Transactions,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::broker::{Broker, FencedOff, Message, Place, Record};
use crate::world::{Net, pause};

pub const PARTITIONS: i32 = 3;
/// The broker's bound on an open transaction, and how long a reader waits for a decision.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
const COMMIT_LIMIT: Duration = Duration::from_secs(40);

/// One process's client.
pub struct Twin {
    net: Net,
    broker: Broker,
    settings: Arc<Settings>,
    /// The epoch of the last start ([`Mutant::InitSkipped`]).
    kept: Option<u32>,
}

pub struct TwinProducer {
    net: Net,
    broker: Broker,
    settings: Arc<Settings>,
    epoch: u32,
}

impl Twin {
    pub fn new(net: Net, broker: Broker, settings: Arc<Settings>) -> Self {
        Self { net, broker, settings, kept: None }
    }

    fn cursor_place(&self) -> Place {
        (self.settings.cursor_topic.as_str().into(), 0)
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

    async fn decided_cursor(&self) -> Result<Option<Vec<u8>>, KafkaSinkError> {
        let place = self.cursor_place();
        let high = self.decided(place.clone()).await?;
        self.ask("reading the cursor", move |broker| {
            let all = broker.committed(&place, 0, high);
            all.into_iter().next_back().map(|(_, record)| match record {
                Record::Cursor(value) => value,
                Record::Event(_) => unreachable!("the cursor topic holds cursors"),
            })
        })
        .await
    }
}

fn found(last: Option<Vec<u8>>) -> CursorFound {
    let cursor = last.map(|value| standpipe::sink::kafka::Cursor::from_json(&value));
    CursorFound { low: 0, cursor, written_at: None }
}

fn silent(doing: &'static str) -> KafkaSinkError {
    let source = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
    KafkaSinkError::Kafka { doing: doing.to_owned(), source }
}

/// Marks come when they come.
fn mark_later(net: &Net, broker: &Broker, places: Vec<Place>) {
    for place in places {
        let late = net.world.befalls(net.world.weather().late_marks);
        let wait = if late { net.world.up_to(Duration::from_secs(4)) } else { Duration::ZERO };
        let (net, broker) = (net.clone(), broker.clone());
        tokio::spawn(async move {
            pause(wait).await;
            broker.mark(&place);
            net.judge();
        });
    }
}

impl Cluster for Twin {
    type Producer = TwinProducer;

    async fn cursor_topic(&mut self, create: bool) -> Result<bool, KafkaSinkError> {
        self.ask("looking for the cursor topic", move |broker| broker.cursor_topic(create)).await
    }

    async fn fence(&mut self) -> Result<TwinProducer, KafkaSinkError> {
        let kept = self.kept.filter(|_| planted(Mutant::InitSkipped));
        let epoch = match kept {
            Some(kept) if kept == self.broker.epoch() => kept,
            _ => {
                let net = self.net.clone();
                self.ask("init_transactions", move |broker| {
                    let (epoch, due) = broker.init();
                    mark_later(&net, broker, due);
                    epoch
                })
                .await?
            }
        };
        self.kept = Some(epoch);
        let (net, broker, settings) = (self.net.clone(), self.broker.clone(), self.settings.clone());
        Ok(TwinProducer { net, broker, settings, epoch })
    }

    async fn read_cursor(&mut self, _: &TwinProducer) -> Result<CursorFound, KafkaSinkError> {
        Ok(found(self.decided_cursor().await?))
    }

    async fn last_cursor(&mut self) -> Result<CursorFound, KafkaSinkError> {
        let place = self.cursor_place();
        let last = self.ask("looking at the cursor", move |broker| {
            let all = broker.committed(&place, 0, broker.shown(&place).stable);
            all.into_iter().rev().find_map(|(_, record)| match record {
                Record::Cursor(value) => Some(value),
                Record::Event(_) => None,
            })
        });
        Ok(found(last.await?))
    }

    async fn delivered(
        &mut self,
        tails: &Tails,
        after: Seq,
        upto: Seq,
        parts: mpsc::Sender<Vec<Delivered>>,
    ) -> Result<(), KafkaSinkError> {
        for (topic, tail) in tails {
            for number in (0..).take(tail.last.len()) {
                let place: Place = (topic.clone(), number);
                let high = self.decided(place.clone()).await?;
                let all = self.ask("reading back", move |broker| broker.committed(&place, 0, high)).await?;
                let ours = all.iter().filter_map(|(_, record)| match record {
                    Record::Event(message) if message.seq > after && message.seq <= upto => {
                        let key = DedupeKey(message.traceparent.split('-').nth(1)?.parse().ok()?);
                        Some(Delivered { key, replay_of: Seq::ZERO })
                    }
                    _ => None,
                });
                // Nobody takes them any more where the sink was stopped.
                drop(parts.send(ours.collect()).await);
            }
        }
        Ok(())
    }

    async fn ends(&mut self, expected: &Tails) -> Result<Vec<TopicEnd>, KafkaSinkError> {
        let mut ends = Vec::new();
        for (topic, tail) in expected {
            let mut partitions = Vec::new();
            for (number, last) in tail.last.iter().enumerate() {
                if *last == Seq::ZERO {
                    partitions.push(PartitionEnd::default());
                    continue;
                }
                let place: Place = (topic.clone(), i32::try_from(number).unwrap());
                let high = self.decided(place.clone()).await?;
                let all = self.ask("reading an end", move |broker| broker.committed(&place, 0, high)).await?;
                let ours = all.iter().filter_map(|(_, record)| match record {
                    Record::Event(message) => Some((message.seq, message.prev)),
                    Record::Cursor(_) => None,
                });
                let high = i64::try_from(high).unwrap();
                partitions.push(PartitionEnd { low: 0, from: 0, high, ours: ours.collect() });
            }
            ends.push(TopicEnd { topic: topic.clone(), partitions: Some(partitions) });
        }
        Ok(ends)
    }

    async fn held(&mut self, _: &[Arc<str>], _: (Seq, Seq)) -> Result<Vec<TopicHeld>, KafkaSinkError> {
        unreachable!("nothing that Kafka holds is lost here")
    }

    async fn topic(&mut self, _: &str, kind: TopicKind) -> Result<TopicInfo, KafkaSinkError> {
        let partitions = if kind == TopicKind::Control { 1 } else { PARTITIONS };
        self.ask("describing a topic", move |_| TopicInfo { partitions, max_bytes: 1 << 20 }).await
    }

    async fn partitions(&mut self, topics: &[Arc<str>]) -> Result<Vec<Option<i32>>, KafkaSinkError> {
        let control = self.settings.control_topic.clone();
        let count = |topic: &Arc<str>| Some(if **topic == *control { 1 } else { PARTITIONS });
        let counts = topics.iter().map(count).collect();
        self.ask("counting partitions", move |_| counts).await
    }

    fn outgrown(&self) -> bool {
        false
    }
}

impl Transactions for TwinProducer {
    /// The client's thread: it goes on whatever becomes of the one who waits, but not beyond its process.
    fn submit(
        &mut self,
        transaction: Transaction,
    ) -> impl Future<Output = Result<Committed, KafkaSinkError>> + Send + 'static {
        let begun = Instant::now();
        let (net, broker, settings, epoch) = (self.net.clone(), self.broker.clone(), self.settings.clone(), self.epoch);
        let (answer, answered) = oneshot::channel();
        let scope = net.clone();
        scope.spawn(async move {
            let client = Client { net, broker, settings, epoch };
            let committed = client.commit(transaction).await.map(|()| Committed { took: begun.elapsed() });
            drop(answer.send(committed));
        });
        async move {
            match timeout(COMMIT_LIMIT, answered).await {
                Ok(Ok(committed)) => committed,
                Ok(Err(_)) | Err(_) => Err(doubt("the client does not answer")),
            }
        }
    }

    async fn discard(self) -> Result<(), KafkaSinkError> {
        Ok(())
    }
}

struct Client {
    net: Net,
    broker: Broker,
    settings: Arc<Settings>,
    epoch: u32,
}

impl Client {
    async fn commit(&self, transaction: Transaction) -> Result<(), KafkaSinkError> {
        let common = Common::new(self.settings.ledger, self.settings.shard);
        let mut records: Vec<(Place, Record)> = transaction
            .messages
            .iter()
            .map(|out| {
                let mut message = Message {
                    id: String::new(),
                    seq: Seq::ZERO,
                    prev: Seq::ZERO,
                    chain: String::new(),
                    traceparent: String::new(),
                    value: out.value().to_vec(),
                };
                out.headers(&common, |name, value| {
                    let text = || String::from_utf8(value.to_vec()).unwrap();
                    match name {
                        "standpipe-id" => message.id = text(),
                        "standpipe-seq" => message.seq = Seq(text().parse().unwrap()),
                        "standpipe-prev" => message.prev = Seq(text().parse().unwrap()),
                        "standpipe-chain" => message.chain = text(),
                        "traceparent" => message.traceparent = text(),
                        _ => {}
                    }
                });
                ((out.topic.clone(), out.partition), Record::Event(message))
            })
            .collect();
        let cursor = ((self.settings.cursor_topic.as_str().into(), 0), Record::Cursor(transaction.cursor));
        if planted(Mutant::CursorApart) && !records.is_empty() {
            self.produce(records).await?;
            self.end().await?;
            records = Vec::new();
        }
        // Two requests, so that something can come between them.
        let at = self.net.world.dice().random_range(0..=records.len());
        let rest = records.split_off(at);
        if !records.is_empty() {
            self.produce(records).await?;
        }
        self.produce(rest.into_iter().chain([cursor]).collect()).await?;
        self.end().await
    }

    async fn produce(&self, records: Vec<(Place, Record)>) -> Result<(), KafkaSinkError> {
        let deadline = Instant::now() + TRANSACTION_TIMEOUT;
        while self.broker.is_concurrent() {
            if Instant::now() >= deadline {
                return Err(doubt("the last transaction is still being ended"));
            }
            pause(Duration::from_millis(20)).await;
        }
        let (broker, epoch, net) = (self.broker.clone(), self.epoch, self.net.clone());
        let produced = self.net.ask("producing", move || {
            let number = broker.produce(epoch, records)?;
            tokio::spawn(async move {
                pause(TRANSACTION_TIMEOUT).await;
                let due = broker.expire(number);
                mark_later(&net, &broker, due);
            });
            Ok(())
        });
        match produced.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(FencedOff)) => Err(self.fenced()),
            Err(Lost) if planted(Mutant::ReportsNotCounted) => Ok(()),
            Err(Lost) => Err(doubt("a message was not delivered")),
        }
    }

    async fn end(&self) -> Result<(), KafkaSinkError> {
        let world = &self.net.world;
        if world.befalls(world.weather().doubt) {
            world.count("commits in doubt");
            let told_after = world.up_to(Duration::from_secs(2));
            // Now, later, or never; and maybe once more. Late is any time, or about when the next start produces.
            let any_time = world.dice().random_ratio(1, 2);
            let late = if any_time { Duration::from_secs(12) } else { Duration::from_secs(1) };
            let late = world.up_to(late) + if any_time { Duration::ZERO } else { told_after };
            let times = [world.up_to(Duration::from_millis(50)), late];
            let now = world.dice().random_ratio(1, 2);
            let later = world.dice().random_ratio(2, 3);
            for (time, _) in times.into_iter().zip([now, later]).filter(|(_, does)| *does) {
                let (broker, epoch, net) = (self.broker.clone(), self.epoch, self.net.clone());
                tokio::spawn(async move {
                    pause(time).await;
                    net.world.tell("a delayed EndTxn");
                    if let Ok(due) = broker.commit(epoch) {
                        mark_later(&net, &broker, due);
                    }
                    net.judge();
                });
            }
            pause(told_after).await;
            return Err(doubt("commit_transaction failed"));
        }
        let (broker, epoch, net) = (self.broker.clone(), self.epoch, self.net.clone());
        let ended = self.net.ask("EndTxn", move || {
            let due = broker.commit(epoch)?;
            mark_later(&net, &broker, due);
            Ok(())
        });
        match ended.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(FencedOff)) => Err(self.fenced()),
            Err(Lost) => Err(doubt("commit_transaction failed")),
        }
    }

    fn fenced(&self) -> KafkaSinkError {
        let source = KafkaError::Global(RDKafkaErrorCode::ProducerFenced);
        KafkaSinkError::Fenced { id: self.settings.transactional_id.clone(), source }
    }
}

fn doubt(why: &str) -> KafkaSinkError {
    KafkaSinkError::Doubt { why: why.to_owned(), source: None }
}
