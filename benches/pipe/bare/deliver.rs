//! Transactions of what waits, on a thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext};
use tokio::sync::{mpsc, oneshot};

use super::GROUP;
use super::fetch::Event;

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Reports(Arc<(AtomicUsize, Mutex<()>, Condvar)>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, report: &DeliveryResult<'_>, (): ()) {
        assert!(report.is_ok(), "a message is not delivered");
        if self.0.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            drop(self.0.1.lock().unwrap_or_else(PoisonError::into_inner));
            self.0.2.notify_one();
        }
    }
}

/// Where events are handed over; the thread ends when this is closed and empty.
pub struct Thread {
    pub events: mpsc::Sender<Vec<Event>>,
    ended: oneshot::Receiver<()>,
}

impl Thread {
    /// Waits until everything is committed.
    pub async fn finish(self) {
        drop(self.events);
        // It says nothing, it only ends.
        drop(self.ended.await);
    }
}

/// Starts the thread.
pub fn start(brokers: &str, topic: &str) -> Thread {
    let reports = Reports::default();
    let producer: ThreadedProducer<Reports> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", format!("bare-{topic}"))
        .set("compression.type", "lz4")
        .set("linger.ms", "0")
        .create_with_context(reports.clone())
        .expect("a producer");
    let topic = topic.to_owned();
    let (events, mut batches) = mpsc::channel::<Vec<Event>>(4);
    let (ending, ended) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ending = ending;
        producer.init_transactions(LIMIT).expect("a transactional producer");
        while let Some(mut events) = batches.blocking_recv() {
            while events.len() < GROUP
                && let Ok(more) = batches.try_recv()
            {
                events.extend(more);
            }
            transaction(&producer, &reports, &topic, &events);
        }
    });
    Thread { events, ended }
}

fn transaction(producer: &ThreadedProducer<Reports>, reports: &Reports, topic: &str, events: &[Event]) {
    let (outstanding, lock, settled) = &*reports.0;
    producer.begin_transaction().expect("a transaction");
    outstanding.fetch_add(events.len() + 1, Ordering::AcqRel);
    for event in events {
        let key = format!("acme/deal/{}", event.record);
        producer
            .send(BaseRecord::to(topic).key(&key).payload(&event.body[..]))
            .map_err(|(error, _)| error)
            .expect("room");
    }
    producer
        .send(BaseRecord::to(topic).partition(0).key("cursor").payload(&b"cursor"[..]))
        .map_err(|(error, _)| error)
        .expect("room");
    let mut guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
    while outstanding.load(Ordering::Acquire) > 0 {
        guard = settled.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
    drop(guard);
    while producer.in_flight_count() > 0 {
        std::thread::yield_now();
    }
    producer.commit_transaction(LIMIT).expect("a commit");
}
