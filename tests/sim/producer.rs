//! A producer over the broker in memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use standpipe::clock::Clock;
use standpipe::event::Seq;
use standpipe::ledger::model::Lost;
use standpipe::mutant::{Mutant, planted};
use standpipe::sink::kafka::{Committed, KafkaSinkError, Settings, Transaction, Transactions};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::broker::{Broker, Due, FencedOff, Message, Place, Record};
use crate::world::{Net, pause};

/// The broker's bound on an open transaction, and how long a reader waits for a decision.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
const COMMIT_LIMIT: Duration = Duration::from_secs(40);

pub struct TwinProducer(pub Client);

/// Marks come when they come.
pub fn mark_later(net: &Net, broker: &Broker, mut due: Due) {
    let places = std::mem::take(&mut due.places);
    let due = Arc::new(due);
    for place in places {
        let due = due.clone();
        let late = net.world.befalls(net.world.weather().late_marks);
        let wait = if late { net.world.up_to(Duration::from_secs(4)) } else { Duration::ZERO };
        let (net, broker) = (net.clone(), broker.clone());
        tokio::spawn(async move {
            pause(wait).await;
            broker.mark(&due, &place);
            net.judge();
        });
    }
}

impl Transactions for TwinProducer {
    /// The client's thread: it goes on whatever becomes of the one who waits, but not beyond its process.
    fn submit(
        &mut self,
        transaction: Transaction,
    ) -> impl Future<Output = Result<Committed, KafkaSinkError>> + Send + 'static {
        let begun = Instant::now();
        let (answer, answered) = oneshot::channel();
        let client = self.0.clone();
        self.0.net.spawn(async move {
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

#[derive(Clone)]
pub struct Client {
    pub net: Net,
    pub broker: Broker,
    pub clock: Clock,
    pub settings: Arc<Settings>,
    pub id: Arc<str>,
    pub epoch: u32,
    /// Behind what was seen in each partition: an end that falls is a topic that was cut.
    pub landed: Arc<Mutex<BTreeMap<Place, usize>>>,
}

impl Client {
    async fn commit(&self, transaction: Transaction) -> Result<(), KafkaSinkError> {
        let common = self.settings.common();
        let mut records: Vec<(Place, Record)> = transaction
            .messages
            .iter()
            .map(|out| {
                let mut message = Message {
                    id: String::new(),
                    shard: self.settings.shard,
                    seq: Seq::ZERO,
                    prev: Seq::ZERO,
                    chain: String::new(),
                    traceparent: String::new(),
                    replay: None,
                    is_repair: false,
                    sink: None,
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
                        "standpipe-replay" => message.replay = Some(Seq(text().parse().unwrap())),
                        "standpipe-repair" => message.is_repair = true,
                        "standpipe-sink" => message.sink = Some(text()),
                        _ => {}
                    }
                });
                ((out.topic.clone(), out.partition), Record::Event(message))
            })
            .collect();
        let cursor = Record::Cursor(transaction.cursor);
        let cursor = ((self.settings.cursor_topic.as_str().into(), i32::from(self.settings.shard.0)), cursor);
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
        while self.broker.is_concurrent(&self.id) {
            if Instant::now() >= deadline {
                return Err(doubt("the last transaction is still being ended"));
            }
            pause(Duration::from_millis(20)).await;
        }
        let Self { net, broker, clock, id, epoch, .. } = self.clone();
        let produced = self.net.ask("producing", move || {
            let (number, ends) = broker.produce(&id, epoch, records, clock.now())?;
            tokio::spawn(async move {
                pause(TRANSACTION_TIMEOUT).await;
                let due = broker.expire(&id, number);
                mark_later(&net, &broker, due);
            });
            Ok(ends)
        });
        match produced.await {
            Ok(Ok(ends)) => self.land(ends),
            Ok(Err(FencedOff)) => Err(self.fenced()),
            Err(Lost) if planted(Mutant::ReportsNotCounted) => Ok(()),
            Err(Lost) => Err(doubt("a message was not delivered")),
        }
    }

    /// As the program's own client does: offsets only rise.
    fn land(&self, ends: Vec<(Place, usize)>) -> Result<(), KafkaSinkError> {
        let mut landed = self.landed.lock().unwrap();
        for (place, end) in ends {
            if landed.insert(place, end).is_some_and(|known| end < known) {
                return Err(doubt("a message landed below another"));
            }
        }
        Ok(())
    }

    async fn end(&self) -> Result<(), KafkaSinkError> {
        let world = &self.net.world;
        if world.befalls(world.weather().doubt) {
            world.count("commits in doubt");
            // Now, later, or never; and maybe once more.
            let times = [world.up_to(Duration::from_millis(50)), world.up_to(Duration::from_secs(12))];
            let now = world.dice().random_ratio(1, 2);
            let later = world.dice().random_ratio(2, 3);
            for (time, _) in times.into_iter().zip([now, later]).filter(|(_, does)| *does) {
                let Self { net, broker, id, epoch, .. } = self.clone();
                tokio::spawn(async move {
                    pause(time).await;
                    net.world.tell("a delayed EndTxn");
                    if let Ok(due) = broker.commit(&id, epoch) {
                        mark_later(&net, &broker, due);
                    }
                    net.judge();
                });
            }
            pause(world.up_to(Duration::from_secs(2))).await;
            return Err(doubt("commit_transaction failed"));
        }
        let Self { net, broker, id, epoch, .. } = self.clone();
        let ended = self.net.ask("EndTxn", move || {
            let due = broker.commit(&id, epoch)?;
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
