//! What is looked at all the while: how far each shard has come at both sinks, and how much memory a replica takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use rustix::process::Pid;

const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct Seen {
    over: AtomicBool,
    /// Cursors that moved, by shard.
    moves: Vec<AtomicU64>,
    /// Each replica's process.
    replicas: Mutex<BTreeMap<usize, Pid>>,
    /// The most that one of them has taken, in bytes.
    most: AtomicU64,
}

/// Follows the cursor topic as a `read_committed` consumer does, past every proxy, and the replicas' memory.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    pub fn start(brokers: &str, topic: &str, shards: u16) -> Self {
        let moves = (0..shards).map(|_| AtomicU64::new(0)).collect();
        let seen = Arc::new(Seen { moves, ..Seen::default() });
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "watch")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        for shard in 0..shards {
            partitions.add_partition_offset(topic, i32::from(shard), Offset::Beginning).expect("an offset");
        }
        consumer.assign(&partitions).expect("partitions to read");
        let (following, sampling) = (seen.clone(), seen.clone());
        let threads = vec![
            std::thread::spawn(move || follow(&consumer, &following)),
            std::thread::spawn(move || {
                while !sampling.over.load(Ordering::Relaxed) {
                    sampling.sample();
                    std::thread::park_timeout(LOOK_EVERY);
                }
            }),
        ];
        Self { seen, threads }
    }

    /// How often the cursor of each shard has moved.
    pub fn moves(&self) -> Vec<u64> {
        self.seen.moves.iter().map(|moves| moves.load(Ordering::Relaxed)).collect()
    }

    /// From now on this is a replica's process.
    pub fn replica(&self, replica: usize, pid: Pid) {
        self.seen.replicas().insert(replica, pid);
    }

    /// The most memory that any replica was ever resident in, in bytes.
    pub fn most_memory(&self) -> u64 {
        self.seen.sample();
        self.seen.most.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            thread.join().ok();
        }
    }
}

impl Seen {
    fn replicas(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Pid>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel keeps the peak of each process.
    fn sample(&self) {
        for pid in self.replicas().values() {
            let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
            self.most.fetch_max(peak.unwrap_or_default() * 1024, Ordering::Relaxed);
        }
    }
}

fn follow(consumer: &BaseConsumer, seen: &Seen) {
    let mut last: BTreeMap<i32, Vec<u8>> = BTreeMap::new();
    while !seen.over.load(Ordering::Relaxed) {
        // Errors are of brokers that are down, which is the point of the run.
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let place = seq_of(message.payload().unwrap_or_default());
        if last.insert(message.partition(), place.clone()).is_some_and(|before| before == place) {
            continue;
        }
        if let Some(moves) = usize::try_from(message.partition()).ok().and_then(|shard| seen.moves.get(shard)) {
            moves.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The part of a cursor that names its seq.
fn seq_of(cursor: &[u8]) -> Vec<u8> {
    let cursor: serde_json::Value = serde_json::from_slice(cursor).unwrap_or_default();
    cursor["seq"].to_string().into_bytes()
}
