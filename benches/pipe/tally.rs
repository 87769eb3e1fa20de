//! What has arrived at the far end, and when.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::events::number_of;

/// Counts events at one place outside: each once, and twice is told.
pub struct Tally {
    epoch: Instant,
    /// One bit an event.
    seen: Vec<AtomicU64>,
    twice: AtomicU64,
    count: AtomicU64,
    /// When each arrived, in nanoseconds since the epoch; empty where nobody asks.
    times: Vec<AtomicU64>,
    progress: watch::Sender<Progress>,
    warm: u64,
    total: u64,
}

/// When a tenth was there, and when all of it was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub warm: Option<Instant>,
    pub done: Option<Instant>,
}

impl Tally {
    /// For `events` of which each is awaited `copies` times.
    pub fn new(events: u64, copies: u64, timed: bool, epoch: Instant) -> Self {
        let zeros = |count: u64| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            epoch,
            seen: if copies == 1 { zeros(events.div_ceil(64)) } else { Vec::new() },
            twice: AtomicU64::new(0),
            count: AtomicU64::new(0),
            times: if timed { zeros(events) } else { Vec::new() },
            progress: watch::Sender::new(Progress::default()),
            warm: events * copies / 10,
            total: events * copies,
        }
    }

    /// An event arrived.
    pub fn arrived(&self, body: &[u8]) {
        let Some(number) = number_of(body) else { return };
        let at = usize::try_from(number).expect("a count");
        if let Some(word) = self.seen.get(at / 64) {
            let bit = 1 << (number % 64);
            if word.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
                self.twice.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        if let Some(time) = self.times.get(at) {
            let now = u64::try_from(self.epoch.elapsed().as_nanos()).expect("centuries");
            time.store(now, Ordering::Relaxed);
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count == self.warm.max(1) {
            self.progress.send_modify(|progress| progress.warm = Some(Instant::now()));
        }
        if count == self.total {
            self.progress.send_modify(|progress| progress.done = Some(Instant::now()));
        }
    }

    /// Waits until a tenth is there.
    pub async fn warm(&self) -> Instant {
        let mut progress = self.progress.subscribe();
        progress.wait_for(|progress| progress.warm.is_some()).await.expect("kept by us").warm.expect("waited for")
    }

    /// Waits until all of it is there.
    pub async fn done(&self) -> Instant {
        let mut progress = self.progress.subscribe();
        progress.wait_for(|progress| progress.done.is_some()).await.expect("kept by us").done.expect("waited for")
    }

    /// How many are there.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many were there before they arrived again.
    pub fn twice(&self) -> u64 {
        self.twice.load(Ordering::Relaxed)
    }

    /// Events between the two moments.
    pub const fn measured(&self) -> u64 {
        self.total - self.warm
    }

    /// When an event arrived, in nanoseconds since the epoch; 0 where it did not.
    pub fn time(&self, number: u64) -> u64 {
        self.times[usize::try_from(number).expect("a count")].load(Ordering::Relaxed)
    }
}
