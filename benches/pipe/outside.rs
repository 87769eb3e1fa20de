//! The far ends: a `read_committed` consumer and a receiver of webhooks, both as cheap as they can be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use memchr::memmem;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::tally::Tally;

/// Partitions of every topic of the bench.
const PARTITIONS: i32 = 3;

/// Makes topics.
pub async fn make_topics(brokers: &str, topics: &[String]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client");
    let new: Vec<_> = topics.iter().map(|topic| NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1))).collect();
    for result in admin.create_topics(&new, &AdminOptions::new()).await.expect("the broker answers") {
        result.expect("a new topic");
    }
}

/// A consumer on a thread of its own; ends when dropped.
pub struct Consumer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Consumer {
    pub fn start(brokers: &str, topics: &[String], tally: Arc<Tally>) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "bench")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "5")
            .set("queued.max.messages.kbytes", "65536")
            .create()
            .expect("a client");
        let mut list = TopicPartitionList::new();
        for topic in topics {
            for partition in 0..PARTITIONS {
                list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
            }
        }
        consumer.assign(&list).expect("an assignment");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match consumer.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => tally.arrived(message.payload().unwrap_or_default()),
                    Some(Err(error)) => eprintln!("the consumer: {error}"),
                    None => {}
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A receiver of webhooks that says yes to everything; ends when dropped.
pub struct Receiver {
    port: u16,
    _tasks: JoinSet<()>,
}

impl Receiver {
    pub async fn start(tally: Arc<Tally>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let tally = tally.clone();
                connections.spawn(async move { receive(stream, &tally).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, _tasks: tasks }
    }

    pub const fn port(&self) -> u16 {
        self.port
    }
}

async fn receive(mut stream: TcpStream, tally: &Tally) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut request = Vec::with_capacity(8192);
    loop {
        let (body, end) = loop {
            if let Some(found) = whole(&request) {
                break found;
            }
            if stream.read_buf(&mut request).await.ok()? == 0 {
                return None;
            }
        };
        tally.arrived(&request[body..end]);
        request.drain(..end);
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.ok()?;
    }
}

/// Where the body of a whole request begins and ends.
fn whole(request: &[u8]) -> Option<(usize, usize)> {
    let head = memmem::find(request, b"\r\n\r\n")? + 4;
    // As both pipes write it.
    let length = &request[memmem::find(&request[..head], b"\r\ncontent-length: ")? + 18..head];
    let length = std::str::from_utf8(&length[..memchr::memchr(b'\r', length)?]).ok()?;
    let end = head + length.parse::<usize>().ok()?;
    (request.len() >= end).then_some((head, end))
}
