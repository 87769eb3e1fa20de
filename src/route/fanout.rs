//! The way of committed batches to the sinks of a shard.
//!
//! Two paths lead to the same events. The *memory path* is a channel for each sink, bounded in events and bytes; a
//! committed batch is put there while there is room. Where there is none it is in the end not put there, so that a sink
//! that cannot keep up stops neither the recorder nor another sink (INV-15) and holds no memory beyond its bound
//! (INV-11). Such a sink takes the *ledger path*: it reads from its cursor up to the first batch that waits for it in
//! memory.
//!
//! The ledger path costs PostgreSQL half of what recording does once more, so a sink that took the last batch from memory
//! and is a little late is waited for: [`PATIENCE`] for each event. What takes nothing is waited for once.
//!
//! What a feed gives out is contiguous whatever was dropped, because only the caller's `after` says where to go on,
//! never the channel. A dropped batch cannot leave a sink asleep: it sleeps on the head alone, and the head is raised
//! after the attempt to hand the batch over.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::event::ports::{Feed, LedgerError, Publish, ReadLedger};
use crate::event::{Batch, Capacity, Room, Seq, Shard, SinkName};
use crate::mutant::{Mutant, planted};
use crate::telemetry::metrics::{BLOCKED_SECONDS_TOTAL, CHANNEL_CAPACITY, CHANNEL_DEPTH, add_seconds};

/// How much is read from the ledger at once.
const READ_EVENTS: usize = 5_000;
const READ_BYTES: usize = 8 << 20;
/// Batches in a channel, at most; its [`Capacity`] bounds what they hold.
const MAX_BATCHES: usize = 1_024;
/// How long the recorder waits for the room of an event, at most. With what recording takes itself, sinks leave it some
/// 8,000 events/s: several times what the vendor's limits let an account ask for (1,667 events/s in the reference dialect,
/// 1,000 in the live one).
const PATIENCE: Duration = Duration::from_micros(100);

/// Hands committed batches of one shard to its sinks. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Fanout(Arc<Shared>);

struct Shared {
    shard: Shard,
    blocked: Counter,
    sinks: Mutex<Sinks>,
}

struct Sinks {
    head: Seq,
    outlets: Vec<Outlet>,
}

/// The end of a sink's channel at which batches are put in.
struct Outlet {
    capacity: Capacity,
    depth: Gauge,
    channel: mpsc::Sender<Waiting>,
    /// Whether the last batch found room: then the next one is worth a wait.
    follows: bool,
    /// One for each sink: who listens together to one is woken in an order that no seed decides.
    head: watch::Sender<Seq>,
}

/// A batch in a channel, with what it takes there.
struct Waiting {
    batch: Arc<Batch>,
    depth: Gauge,
    _room: Room,
}

impl Fanout {
    /// For a shard whose newest committed event is `head`.
    #[must_use]
    pub fn new(shard: Shard, head: Seq) -> Self {
        let blocked = metrics::counter!(BLOCKED_SECONDS_TOTAL, "stage" => "ledger");
        Self(Arc::new(Shared { shard, blocked, sinks: Mutex::new(Sinks { head, outlets: Vec::new() }) }))
    }

    /// A new feed for a sink. Dropping it takes the sink out again, at any time.
    pub fn feed<R: ReadLedger>(&self, sink: &SinkName, capacity: Capacity, ledger: R) -> SinkFeed<R> {
        let (sender, receiver) = mpsc::channel(MAX_BATCHES);
        let name = format!("sink/{sink}");
        let size = metrics::gauge!(CHANNEL_CAPACITY, "channel" => name.clone());
        #[expect(clippy::cast_precision_loss, reason = "a count of events, far below 2^52")]
        let max_events = capacity.max_events() as f64;
        size.increment(max_events);
        let depth = metrics::gauge!(CHANNEL_DEPTH, "channel" => name);
        let mut sinks = self.sinks();
        let (raise, head) = watch::channel(sinks.head);
        sinks.outlets.push(Outlet { capacity, depth, channel: sender, follows: false, head: raise });
        drop(sinks);
        SinkFeed { shard: self.0.shard, head, channel: receiver, first: None, ledger, size, max_events }
    }

    /// The newest committed event.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.sinks().head
    }

    /// Tells the sinks of a head that came without a batch: seqs up to it were found to be void.
    pub fn raise(&self, head: Seq) {
        let mut sinks = self.sinks();
        sinks.head = sinks.head.max(head);
        for outlet in &sinks.outlets {
            outlet.head.send_if_modified(|known| head > std::mem::replace(known, head.max(*known)));
        }
    }

    fn sinks(&self) -> std::sync::MutexGuard<'_, Sinks> {
        self.0.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publish for Fanout {
    fn publish(&self, batch: Arc<Batch>) -> impl Future<Output = ()> + Send {
        let (events, bytes) = (batch.events.len(), batch.size() as u64);
        let mut late = Vec::new();
        let mut sinks = self.sinks();
        sinks.head = batch.to();
        sinks.outlets.retain_mut(|outlet| {
            match outlet.capacity.try_reserve(events, bytes) {
                None if outlet.follows => late.push((outlet.channel.clone(), outlet.capacity.clone())),
                room => outlet.hand_over(&batch, room),
            }
            !outlet.channel.is_closed()
        });
        drop(sinks);
        async move {
            let began = Instant::now();
            let until = began + PATIENCE * u32::try_from(events).unwrap_or(u32::MAX);
            for (channel, capacity) in late {
                let room = tokio::select! {
                    biased;
                    room = capacity.reserve(events, bytes) => Some(room),
                    () = channel.closed() => None,
                    () = sleep_until(until) => None,
                };
                let mut sinks = self.sinks();
                if let Some(outlet) = sinks.outlets.iter_mut().find(|outlet| outlet.channel.same_channel(&channel)) {
                    outlet.hand_over(&batch, room);
                }
            }
            add_seconds(&self.0.blocked, began.elapsed());
        }
    }
}

impl Outlet {
    /// Puts a batch into the channel, where it has room there, and tells the sink of it in any case.
    fn hand_over(&mut self, batch: &Arc<Batch>, room: Option<Room>) {
        let place = room.and_then(|room| Some((room, self.channel.try_reserve().ok()?)));
        self.follows = place.is_some();
        if let Some((room, place)) = place {
            place.send(Waiting::new(Arc::clone(batch), self.depth.clone(), room));
        }
        // Last: who wakes by the head finds the batch in its channel, or knows that it must read the ledger.
        self.head.send_replace(batch.to());
    }
}

impl fmt::Debug for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fanout").field("shard", &self.0.shard).field("head", &self.head()).finish_non_exhaustive()
    }
}

impl Waiting {
    fn new(batch: Arc<Batch>, depth: Gauge, room: Room) -> Self {
        depth.increment(events(&batch));
        Self { batch, depth, _room: room }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.depth.decrement(events(&self.batch));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of events, far below 2^52")]
fn events(batch: &Batch) -> f64 {
    batch.events.len() as f64
}

/// A sink's [`Feed`] of one shard.
pub struct SinkFeed<R> {
    shard: Shard,
    head: watch::Receiver<Seq>,
    channel: mpsc::Receiver<Waiting>,
    /// The first batch of the channel, when it has been looked at and is still ahead of the sink.
    first: Option<Waiting>,
    ledger: R,
    size: Gauge,
    max_events: f64,
}

impl<R> SinkFeed<R> {
    /// The first batch in memory that has anything after `after`. Those before it are dropped.
    fn first_in_memory(&mut self, after: Seq) -> Option<&Arc<Batch>> {
        while self.first.as_ref().is_none_or(|waiting| waiting.batch.to() <= after) {
            self.first = None;
            self.first = Some(self.channel.try_recv().ok()?);
        }
        self.first.as_ref().map(|waiting| &waiting.batch)
    }
}

impl<R: ReadLedger> Feed for SinkFeed<R> {
    async fn next(&mut self, after: Seq) -> Result<Arc<Batch>, LedgerError> {
        loop {
            // The head is read first: all that has been published up to it is either in the channel by now or dropped.
            let head = *self.head.borrow_and_update();
            let until = match self.first_in_memory(after) {
                Some(batch) if batch.after <= after || planted(Mutant::ChannelDrops) => {
                    let batch = rest_of(batch, after);
                    self.first = None;
                    return Ok(batch);
                }
                Some(batch) => batch.after,
                None => head,
            };
            if until > after {
                let batch = self.ledger.read(self.shard, after, until, READ_EVENTS, READ_BYTES).await?;
                if batch.after != after || batch.to() <= after {
                    return Err(unavailable(format!(
                        "events {}..={until} of shard {} were committed and are not there",
                        after.next(),
                        self.shard
                    )));
                }
                return Ok(Arc::new(batch));
            }
            if self.head.changed().await.is_err() {
                // The recorder has ended, so there is nothing more to come. Who ended it ends the sink, too.
                return std::future::pending().await;
            }
        }
    }

    fn head(&self) -> Seq {
        *self.head.borrow()
    }
}

impl<R> Drop for SinkFeed<R> {
    fn drop(&mut self) {
        self.size.decrement(self.max_events);
        // What is still inside gives its room and its part of the depth back.
        self.channel.close();
        while self.channel.try_recv().is_ok() {}
    }
}

impl<R> fmt::Debug for SinkFeed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkFeed")
            .field("shard", &self.shard)
            .field("head", &*self.head.borrow())
            .finish_non_exhaustive()
    }
}

/// The part of a batch after `after`, which lies in it.
fn rest_of(batch: &Arc<Batch>, after: Seq) -> Arc<Batch> {
    let Some(taken) = usize::try_from(after.since(batch.start())).ok().filter(|taken| *taken > 0) else {
        return Arc::clone(batch);
    };
    Arc::new(Batch {
        shard: batch.shard,
        after,
        chain_before: batch.events[taken - 1].chain,
        void: None,
        events: batch.events[taken..].to_vec(),
    })
}

fn unavailable(why: String) -> LedgerError {
    LedgerError::Unavailable { doing: "reading what a sink needs", source: why.into() }
}

#[cfg(test)]
#[path = "fanout_tests.rs"]
mod tests;
