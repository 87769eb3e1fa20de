//! The ceilings: the pipe's structure with no product around it, in a process of its own as the pipe is.
//!
//! A bare pipe fetches a page, records it by one call of the same function over the same tables, and delivers it by one
//! transaction (or one POST an event). It shares nothing else with the program: no canonical bytes, no headers, no
//! routes, no retries, no metrics; it ends by being killed. The bare statement, producer and POSTs are its parts alone.

mod deliver;
mod fetch;
mod post;
mod record;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::fetch::{Event, Fetcher};
use self::record::Ledger;
use crate::events::Pages;

/// Events of one call and of one transaction, at most; as the pipe's.
const GROUP: usize = 5_000;

/// What a bare process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub work: Work,
    /// The ledger's URL.
    pub ledger: String,
    /// The vendor's port.
    pub vendor: u16,
    /// Events of a page, a call and a transaction.
    pub page: u64,
    pub brokers: String,
    /// The topic; none where nothing goes to Kafka.
    pub topic: Option<String>,
    /// The receiver's port; none where nothing is posted.
    pub receiver: Option<u16>,
    /// How many events the parts alone work through.
    pub events: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Work {
    /// All of it.
    Pipe,
    /// The recording statement alone, fresh ids and then the same ones again.
    Statement,
    /// The transactional producer alone.
    Producer,
    /// The POSTs alone.
    Posts,
}

/// What the parts alone tell, on standard output.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Told {
    /// Events a second.
    pub rate: f64,
    /// The same with ids that are all known; of the statement.
    pub known: Option<f64>,
}

/// Carries an order out.
pub async fn run(order: Order) {
    match order.work {
        Work::Pipe => pipe(order).await,
        Work::Statement => tell(statement(&order).await),
        Work::Producer => tell(producer(&order).await),
        Work::Posts => tell(posts(&order).await),
    }
}

fn tell(told: Told) {
    println!("{}", serde_json::to_string(&told).expect("two numbers"));
}

async fn pipe(order: Order) {
    let mut ledger = Ledger::open(&order.ledger).await;
    let (pages, mut fetched) = mpsc::channel(2);
    let mut source = Fetcher::connect(order.vendor, order.page).await;
    let fetching = tokio::spawn(async move { while pages.send(source.next().await).await.is_ok() {} });
    let transactions = order.topic.clone().map(|topic| deliver::start(&order.brokers, &topic));
    let posts = match order.receiver {
        Some(port) => Some(post::start(port).await),
        None => None,
    };
    while let Some(first) = fetched.recv().await {
        let (mut events, from, mut to) = (first.events, first.from, first.to);
        while events.len() < GROUP
            && let Ok(next) = fetched.try_recv()
        {
            events.extend(next.events);
            to = next.to;
        }
        ledger.record(&from, &to, &events).await;
        if let Some(transactions) = &transactions {
            transactions.events.send(events.clone()).await.expect("the producer's thread runs");
        }
        for event in events.into_iter().filter(|_| posts.is_some()) {
            let Some(posts) = &posts else { break };
            posts.send(event.body).await.expect("the connections are open");
        }
    }
    fetching.await.expect("the vendor answers");
}

/// The events of pages, made here.
fn made(events: u64, page: u64) -> VecDeque<Vec<Event>> {
    let pages = Pages::new();
    let made = (0..events.div_ceil(page)).map(|at| {
        let mut body = Vec::new();
        pages.write(at * page..(at + 1) * page, (at + 1) * page, false, &mut body);
        fetch::parse(&Bytes::from(body)).0
    });
    made.collect()
}

fn rate(events: u64, began: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of events")]
    let events = events as f64;
    events / began.elapsed().as_secs_f64()
}

async fn statement(order: &Order) -> Told {
    let mut ledger = Ledger::open(&order.ledger).await;
    let batches = made(order.events, order.page);
    let mut position = "tail".to_owned();
    let mut rates = [0.0; 2];
    for (round, measured) in rates.iter_mut().enumerate() {
        let began = Instant::now();
        for (at, events) in batches.iter().enumerate() {
            let to = format!("{round}-{at}");
            ledger.record(&position, &to, events).await;
            position = to;
        }
        *measured = rate(order.events, began);
    }
    Told { rate: rates[0], known: Some(rates[1]) }
}

async fn producer(order: &Order) -> Told {
    let transactions = deliver::start(&order.brokers, order.topic.as_deref().expect("a topic"));
    let batches = made(order.events, order.page);
    let began = Instant::now();
    for events in batches {
        transactions.events.send(events).await.expect("the producer's thread runs");
    }
    transactions.finish().await;
    Told { rate: rate(order.events, began), known: None }
}

async fn posts(order: &Order) -> Told {
    let posts = post::start(order.receiver.expect("a receiver")).await;
    let bodies: Vec<Bytes> = made(order.events, order.page).into_iter().flatten().map(|event| event.body).collect();
    let began = Instant::now();
    for body in bodies {
        posts.send(body).await.expect("the connections are open");
    }
    // The last ones are on their way still, a hundredth of them at most.
    while posts.capacity() < posts.max_capacity() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Told { rate: rate(order.events, began), known: None }
}
