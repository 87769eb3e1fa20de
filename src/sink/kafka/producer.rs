//! The transactional producer, on its own thread. Three things matter here and are easy to lose:
//!
//! - **INV-9**: what is not a definite yes is an error, and an error is the end of this producer. Nothing is aborted,
//!   nothing asked twice: librdkafka speaks transactions v1, where a delayed duplicate `EndTxn` commits the *next*
//!   transaction of the same epoch. Only a fresh `init_transactions` makes the broker refuse it.
//! - The delivery reports are awaited *before* `commit_transaction`: the binding's commit first polls in whole windows
//!   of 100 ms until nothing is in flight, which costs a factor of 17. The thread that produces also polls: what a message
//!   and its headers take of the heap goes back where it came from.
//! - Every wait has a limit, and the one who asks waits twice that before it gives the thread up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::cluster::{Committed, Transaction, Transactions};
use super::config::{SOCKET_TIMEOUT, Settings, TRANSACTION_TIMEOUT};
use super::error::{KafkaSinkError, code_of, is_fencing};
use super::landed::Landed;
use super::message::Common;
use super::thread;
use crate::event::Seq;
use crate::mutant::{Mutant, planted};

/// How long `init_transactions` is tried while an older transaction is being ended.
const INIT_LIMIT: Duration = Duration::from_mins(1);
/// One try of it.
const INIT_TRY: Duration = Duration::from_secs(10);
/// How long a transaction takes at most: all reports, then the commit.
const COMMIT_LIMIT: Duration = Duration::from_secs(20);
/// How long dropping a client takes at most.
const DROP_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks for reports that are not in yet; an answer of a broker takes milliseconds.
const LOOK_EVERY: Duration = Duration::from_micros(250);
/// Between two looks at what the client has to say when there is nothing to send.
const LISTEN_EVERY: Duration = Duration::from_millis(250);

/// What a message's report is for: to be counted, or to tell also where the message landed.
const COUNTED: usize = 0;
const TOLD: usize = 1;

/// A producer after `init_transactions`.
#[derive(Debug)]
pub struct Producer {
    orders: mpsc::SyncSender<Order>,
    gone: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct Order {
    transaction: Transaction,
    answer: oneshot::Sender<Result<Committed, KafkaSinkError>>,
}

impl Producer {
    /// Starts the thread, makes the client and calls `init_transactions`.
    pub(super) async fn fence(
        settings: Arc<Settings>,
        config: ClientConfig,
        landed: Landed,
    ) -> Result<Self, KafkaSinkError> {
        let (orders, inbox) = mpsc::sync_channel::<Order>(1);
        let (ready, is_ready) = oneshot::channel();
        let (going, gone) = oneshot::channel::<()>();
        let name = format!("kafka-{}-{}", settings.sink, settings.shard);
        thread::spawn(&name, move || {
            // Dropped last, when the client is gone.
            let _going = going;
            let mut client = match Client::fence(settings, &config, landed, &ready) {
                Ok(client) => client,
                Err(error) => return drop(ready.send(Err(error))),
            };
            if ready.send(Ok(())).is_err() {
                return;
            }
            loop {
                let order = match inbox.recv_timeout(LISTEN_EVERY) {
                    Ok(order) => order,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        hear_out(&client.producer);
                        continue;
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                };
                let outcome = client.commit(&order.transaction);
                let failed = outcome.is_err();
                drop(order.answer.send(outcome));
                if failed {
                    break;
                }
            }
        })?;
        thread::within("initialising the transactional producer", INIT_LIMIT + INIT_TRY, is_ready).await??;
        Ok(Self { orders, gone })
    }
}

impl Transactions for Producer {
    fn submit(
        &mut self,
        transaction: Transaction,
    ) -> impl Future<Output = Result<Committed, KafkaSinkError>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        // Refused only where the thread has ended; the dropped answer then says so.
        drop(self.orders.try_send(Order { transaction, answer }));
        async move { thread::within("committing a transaction", COMMIT_LIMIT, answered).await? }
    }

    async fn discard(self) -> Result<(), KafkaSinkError> {
        drop(self.orders);
        match thread::within("giving a producer up", DROP_LIMIT, self.gone).await {
            // Its end is what is waited for.
            Ok(()) | Err(KafkaSinkError::Doubt { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

struct Client {
    producer: BaseProducer<Reports>,
    reports: Reports,
    settings: Arc<Settings>,
    common: Common,
    shard_key: String,
    /// The last seq of the transaction before.
    before: Seq,
}

impl Client {
    fn fence(
        settings: Arc<Settings>,
        config: &ClientConfig,
        landed: Landed,
        asked: &oneshot::Sender<Result<(), KafkaSinkError>>,
    ) -> Result<Self, KafkaSinkError> {
        let reports = Reports(Arc::new(Shared { landed, ..Shared::default() }));
        let producer: BaseProducer<Reports> =
            config.create_with_context(reports.clone()).map_err(KafkaSinkError::kafka("making the producer"))?;
        let deadline = Instant::now() + INIT_LIMIT;
        loop {
            match producer.init_transactions(INIT_TRY) {
                Ok(()) => break,
                // While the transaction of an older producer is being ended, or a coordinator moves.
                Err(KafkaError::Transaction(error))
                    if error.is_retriable() && Instant::now() < deadline && !asked.is_closed() =>
                {
                    std::thread::park_timeout(Duration::from_millis(100));
                }
                Err(source) => {
                    hear_out(&producer);
                    return Err(KafkaSinkError::Kafka {
                        doing: format!("calling init_transactions as `{}`", settings.transactional_id),
                        source: reports.explain(source),
                    });
                }
            }
        }
        let common = settings.common();
        let shard_key = settings.shard.to_string();
        // Before the first transaction every message counts as the first of its partition.
        Ok(Self { producer, reports, settings, common, shard_key, before: Seq(u64::MAX) })
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<Committed, KafkaSinkError> {
        let begun = Instant::now();
        fail::fail_point!("kafka::before_begin");
        hear_out(&self.producer);
        let troubles = self.reports.troubles();
        self.producer.begin_transaction().map_err(|error| self.doubt("begin_transaction failed", error, begun))?;
        fail::fail_point!("kafka::after_begin");
        let deadline = begun + TRANSACTION_TIMEOUT;
        // All at once, and before the first one. A producer that stops in the middle is given up, and its count with it.
        self.reports.outstanding.fetch_add(transaction.messages.len() + 1, Ordering::AcqRel);
        for message in &transaction.messages {
            let mut headers = OwnedHeaders::new_with_capacity(10 + message.user.len());
            message.headers(&self.common, |key, value| {
                let built = std::mem::take(&mut headers);
                headers = built.insert(Header { key, value: Some(value) });
            });
            // One message of each partition is enough to tell that it fell short.
            let told = if message.prev <= self.before { TOLD } else { COUNTED };
            let record = BaseRecord::with_opaque_to(&message.topic, told)
                .partition(message.partition)
                .key(message.key.as_str())
                .payload(message.value())
                .headers(headers);
            self.send(record, deadline, begun)?;
        }
        let cursor = BaseRecord::with_opaque_to(self.settings.cursor_topic.as_str(), TOLD)
            .partition(self.settings.cursor_partition())
            .key(self.shard_key.as_str())
            .payload(&transaction.cursor[..]);
        self.send(cursor, deadline, begun)?;
        fail::fail_point!("kafka::after_produce");
        self.settle(deadline, begun)?;
        fail::fail_point!("kafka::before_commit");
        let asked = Instant::now();
        self.producer
            .commit_transaction(TRANSACTION_TIMEOUT)
            .map_err(|error| self.doubt("commit_transaction failed", error, begun))?;
        fail::fail_point!("kafka::after_commit", |why| {
            Err(KafkaSinkError::Doubt { why: why.unwrap_or_default(), source: None })
        });
        if asked.elapsed() > SOCKET_TIMEOUT / 2 {
            return Err(KafkaSinkError::Doubt {
                why: format!("the commit took {:?}, so that it may have been sent twice", asked.elapsed()),
                source: None,
            });
        }
        hear_out(&self.producer);
        if let Some(why) = self.reports.trouble_since(troubles) {
            return Err(KafkaSinkError::Doubt { why, source: None });
        }
        self.before = transaction.messages.last().map_or(self.before, |message| message.event().seq);
        Ok(Committed { took: begun.elapsed() })
    }

    /// Hands a message to the client; waits where its queue is full.
    fn send(
        &self,
        record: BaseRecord<'_, str, [u8], usize>,
        deadline: Instant,
        begun: Instant,
    ) -> Result<(), KafkaSinkError> {
        let mut record = record;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now() < deadline =>
                {
                    record = back;
                    hear(&self.producer);
                }
                Err((error, _)) => return Err(self.doubt("a message could not be produced", error, begun)),
            }
        }
    }

    /// Waits until every delivery report is in and none says that it failed.
    fn settle(&self, deadline: Instant, begun: Instant) -> Result<(), KafkaSinkError> {
        if planted(Mutant::ReportsNotCounted) {
            return Ok(());
        }
        // The client counts a message until its report is let go of; a commit that finds it in the count waits for 100 ms.
        while self.reports.outstanding.load(Ordering::Acquire) > 0 || self.producer.in_flight_count() > 0 {
            if Instant::now() >= deadline {
                let why = format!("the delivery reports were not in after {TRANSACTION_TIMEOUT:?}");
                return Err(KafkaSinkError::Doubt { why, source: None });
            }
            hear(&self.producer);
        }
        if let Some(error) = self.reports.take_failure() {
            return Err(self.doubt("a message was not delivered", error, begun));
        }
        if let Some(why) = self.reports.landed.take_fall() {
            return Err(KafkaSinkError::Doubt { why, source: None });
        }
        Ok(())
    }

    /// A transaction that the broker refuses purges its messages, whose reports say no more than that. What it said is told
    /// to the next transactional call that does not fit the state; this one sends nothing, and the producer ends anyway.
    fn behind_a_purge(&self, source: KafkaError) -> KafkaError {
        use RDKafkaErrorCode as Code;
        if !matches!(code_of(&source), Some(Code::PurgeQueue | Code::PurgeInflight)) {
            return source;
        }
        match self.producer.begin_transaction() {
            Err(error @ KafkaError::Transaction(_)) if code_of(&error) != Some(Code::State) => error,
            _ => source,
        }
    }

    fn doubt(&self, why: &str, source: KafkaError, begun: Instant) -> KafkaSinkError {
        // What the call says may follow from a message that was refused, whose report waits to be heard.
        hear_out(&self.producer);
        let source = self.reports.take_failure().unwrap_or(source);
        // A fatal error hides behind what it does to the messages.
        let source = self.producer.client().fatal_error().map_or(source, |(code, _)| KafkaError::Global(code));
        let source = self.behind_a_purge(source);
        if code_of(&source) == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
            return KafkaSinkError::TooLarge { source };
        }
        // After the transaction's own timeout it was the broker that fenced us, and not another owner.
        if is_fencing(&source) && begun.elapsed() < TRANSACTION_TIMEOUT {
            return KafkaSinkError::Fenced { id: self.settings.transactional_id.clone(), source };
        }
        KafkaSinkError::Doubt { why: why.to_owned(), source: Some(source) }
    }
}

/// Takes one thing that a client has to say, or waits a moment where that is nothing.
fn hear(producer: &BaseProducer<Reports>) {
    let before = producer.in_flight_count();
    producer.poll(Duration::ZERO);
    if producer.in_flight_count() == before {
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// Takes all that a client has to say, for a moment at most: it may say more while messages are in flight.
fn hear_out(producer: &BaseProducer<Reports>) {
    let deadline = Instant::now() + LISTEN_EVERY;
    while producer.in_flight_count() > 0 && Instant::now() < deadline {
        hear(producer);
    }
}

/// What the client tells.
#[derive(Clone, Debug, Default)]
struct Reports(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    outstanding: AtomicUsize,
    lock: Mutex<Told>,
    landed: Landed,
}

#[derive(Debug, Default)]
struct Told {
    failure: Option<KafkaError>,
    troubles: u64,
    last_trouble: Option<(KafkaError, String)>,
}

impl std::ops::Deref for Reports {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Shared {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_failure(&self) -> Option<KafkaError> {
        self.told().failure.take()
    }

    fn troubles(&self) -> u64 {
        self.told().troubles
    }

    fn trouble_since(&self, before: u64) -> Option<String> {
        let told = self.told();
        let (_, last) = told.last_trouble.as_ref()?;
        (told.troubles > before).then(|| format!("the client lost a broker since begin: {last}"))
    }

    /// A time-out says little; what the client complained of meanwhile says more.
    fn explain(&self, error: KafkaError) -> KafkaError {
        let told = self.told();
        match &told.last_trouble {
            Some((trouble, _)) if super::client::says_little(&error) => trouble.clone(),
            _ => error,
        }
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the Kafka client reports an error");
        let mut told = self.told();
        // A broker that was never reached had nothing of ours to send twice. Told apart by the client's text, for want
        // of anything better: where the text changes, a producer is discarded once too often.
        if !(reason.contains("Connect to ") && reason.contains(" failed")) {
            told.troubles += 1;
        }
        told.last_trouble = Some((error, reason.to_owned()));
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, told: usize) {
        match report {
            // The first failure is the cause, the others follow from it.
            Err((error, _)) => drop(self.told().failure.get_or_insert_with(|| error.clone())),
            Ok(message) if told == TOLD => {
                self.landed.saw(message.topic(), message.partition(), message.offset() + 1);
            }
            Ok(_) => {}
        }
        self.outstanding.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[path = "producer_tests.rs"]
mod tests;
