//! Everything that a sink has taken and not finished, as a state without clocks, network or database.
//!
//! What this upholds: **INV-10** the cursor passes an event only when it is delivered, filtered, or kept as a row;
//! **INV-12** of one record only the first is attempted, whether it is in memory or a row, and a failure makes rows of
//! what waits behind it in the same write; **INV-11** events in memory, rows and the window after the cursor have bounds,
//! and nothing is taken beyond them.
//!
//! On the good path an event is taken, attempted and delivered here and leaves no trace but the cursor.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::lanes::{self, LaneKey, Lanes};
use super::load::Load;
use super::progress::Progress;
use crate::config::Order;
use crate::event::{
    Chain, DeliveryChanges, ExhaustedDelivery, KeepDelivery, KeptDelivery, Recorded, RetryDelivery, SeenDelivery, Seq,
};

/// Rows of one sink in one shard. At the bound nothing more is taken: the events wait in the ledger.
pub const MAX_ROWS: usize = 10_000;
/// Events that wait in memory behind another one of their record.
const MAX_WAITING: usize = 1_024;
const MAX_WAITING_BYTES: usize = 8 << 20;
/// Events after the cursor: at tens of thousands a second, what passes while one slow attempt becomes a row.
const MAX_WINDOW: usize = 65_536;
/// An attempt that takes longer becomes a row, so that the cursor can pass it.
const SLOW: Duration = Duration::from_secs(1);

/// A moment, by both clocks: the program waits by the one, the row tells the other.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// By the monotonic clock.
    pub at: Instant,
    /// By the wall clock.
    pub wall: OffsetDateTime,
}

/// An event on its way into an attempt.
#[derive(Debug)]
pub struct Start {
    /// The event.
    pub seq: Seq,
    /// When it was recorded.
    pub recorded_at: OffsetDateTime,
    /// What is sent.
    pub load: Load,
}

/// What becomes of a delivery after an attempt.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It is delivered, or no longer wanted.
    Done,
    /// It is tried again.
    Again {
        /// When.
        due: Due,
        /// Whether the attempt counts against the schedule.
        counted: bool,
    },
    /// It becomes a dead letter.
    GivenUp {
        /// Why.
        reason: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Behind another one of its record.
    Waiting,
    /// In memory, first of its record.
    Ready,
    /// A row, first of its record.
    Scheduled(Instant),
    /// Under way since then.
    Attempting(Instant),
}

#[derive(Debug)]
struct Entry {
    lane: Option<LaneKey>,
    stage: Stage,
    /// The version of its row; none while there is no row.
    version: Option<i64>,
    failed: u32,
    chain: Option<Chain>,
    recorded_at: OffsetDateTime,
    load: Option<(Load, usize)>,
}

/// The state; see the module.
#[derive(Debug)]
pub struct Pending {
    order: Order,
    lanes: Lanes,
    entries: HashMap<Seq, Entry>,
    /// Rows of an earlier session after its cursor: their events come again from the feed and are passed over, even where
    /// the row is done by then.
    ahead: HashSet<Seq>,
    ready: VecDeque<Seq>,
    scheduled: BTreeSet<(Instant, Seq)>,
    attempting: BTreeMap<Seq, Instant>,
    progress: Progress,
    waiting: usize,
    waiting_bytes: usize,
    rows: usize,
    changes: DeliveryChanges,
}

impl Pending {
    /// Rebuilds the lanes from the rows that the ledger holds, which come by seq.
    #[must_use]
    pub fn new(order: Order, cursor: Seq, rows: Vec<KeptDelivery>, due: impl Fn(OffsetDateTime) -> Instant) -> Self {
        let mut pending = Self {
            order,
            lanes: Lanes::default(),
            entries: HashMap::with_capacity(rows.len()),
            ahead: rows.iter().map(|row| row.seq).filter(|seq| *seq > cursor).collect(),
            ready: VecDeque::new(),
            scheduled: BTreeSet::new(),
            attempting: BTreeMap::new(),
            progress: Progress::new(cursor),
            waiting: 0,
            waiting_bytes: 0,
            rows: 0,
            changes: DeliveryChanges::default(),
        };
        for row in rows {
            let lane = pending.lane(row.account.as_str(), row.event_type.resource(), &row.record_id, row.replay);
            let (lane, first) = pending.enter(lane, row.seq);
            let stage = if first.is_none() { Stage::Scheduled(due(row.due_at)) } else { Stage::Waiting };
            if let Stage::Scheduled(at) = stage {
                pending.scheduled.insert((at, row.seq));
            }
            pending.rows += 1;
            pending.entries.insert(
                row.seq,
                Entry {
                    lane,
                    stage,
                    version: Some(row.version),
                    failed: row.attempts,
                    chain: None,
                    recorded_at: row.recorded_at,
                    load: None,
                },
            );
        }
        pending
    }

    fn lane(&self, account: &str, resource: &str, record_id: &str, replay: bool) -> Option<LaneKey> {
        (self.order == Order::Record && !record_id.is_empty() && !replay)
            .then(|| self.lanes.key(account, resource, record_id))
    }

    /// Gives the lane that it stands in, and the first of it when that is another.
    fn enter(&mut self, lane: Option<LaneKey>, seq: Seq) -> (Option<LaneKey>, Option<Seq>) {
        match lane.map(|key| (key, self.lanes.enter(key, seq))) {
            Some((key, lanes::Entry::First)) => (Some(key), None),
            Some((key, lanes::Entry::Behind(first))) => (Some(key), Some(first)),
            Some((_, lanes::Entry::Repeated)) | None => (None, None),
        }
    }

    /// Whether one more event may be taken.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.progress.window() < MAX_WINDOW
            && self.rows < MAX_ROWS
            && self.waiting < MAX_WAITING
            && self.waiting_bytes < MAX_WAITING_BYTES
    }

    /// Takes an event that needs no delivery of its own.
    pub fn skip(&mut self, seq: Seq) {
        self.progress.take(seq);
        self.progress.settle(seq);
    }

    /// Passes seqs without an event. Not before what lies before them is settled: says whether it has.
    pub fn pass_void(&mut self, to: Seq) -> bool {
        self.progress.pass(to)
    }

    /// Whether the event was a row already when the session began: then the row says what becomes of it.
    pub fn was_row(&mut self, seq: Seq) -> bool {
        self.ahead.remove(&seq)
    }

    /// Takes an event to deliver.
    pub fn take(&mut self, event: &Recorded, load: Load, now: Due) {
        let seq = event.seq;
        self.progress.take(seq);
        let lane = self.lane(
            event.account.as_str(),
            event.event_type.resource(),
            &event.record_id,
            event.replay.is_some() || event.is_control(),
        );
        let (lane, first) = self.enter(lane, seq);
        let size = event.size();
        let stage = if first.is_none() { Stage::Ready } else { Stage::Waiting };
        self.entries.insert(
            seq,
            Entry {
                lane,
                stage,
                version: None,
                failed: 0,
                chain: Some(event.chain),
                recorded_at: event.recorded_at,
                load: Some((load, size)),
            },
        );
        self.waiting += 1;
        self.waiting_bytes += size;
        match first {
            None => self.ready.push_back(seq),
            Some(first) if self.entries.get(&first).is_some_and(|first| first.version.is_some()) => {
                self.keep(seq, now.wall);
            }
            Some(_) => {}
        }
    }

    /// The next event in memory that may be attempted; it is under way from now on.
    pub fn start_ready(&mut self, now: Instant) -> Option<Start> {
        let seq = self.ready.pop_front()?;
        let entry = self.entries.get_mut(&seq)?;
        entry.stage = Stage::Attempting(now);
        let (load, size) = entry.load.take()?;
        self.waiting -= 1;
        self.waiting_bytes -= size;
        self.attempting.insert(seq, now);
        Some(Start { seq, recorded_at: entry.recorded_at, load })
    }

    /// Whether an event in memory may be attempted.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Rows that are due, longest first, at most `most`; they are under way from now on, and must be claimed.
    pub fn start_due(&mut self, now: Instant, most: usize) -> Vec<SeenDelivery> {
        let due: Vec<(Instant, Seq)> = self.scheduled.range(..=(now, Seq(u64::MAX))).take(most).copied().collect();
        due.into_iter()
            .filter_map(|place| {
                self.scheduled.remove(&place);
                let entry = self.entries.get_mut(&place.1)?;
                let version = entry.version?;
                entry.version = Some(version + 1);
                entry.stage = Stage::Attempting(now);
                self.attempting.insert(place.1, now);
                Some(SeenDelivery { seq: place.1, version })
            })
            .collect()
    }

    /// When the next row is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.scheduled.first().map(|(at, _)| *at)
    }

    /// How many rows are due.
    #[must_use]
    pub fn count_due(&self, now: Instant) -> usize {
        self.scheduled.range(..=(now, Seq(u64::MAX))).count()
    }

    /// Attempts of a delivery that failed and count.
    #[must_use]
    pub fn failed_attempts(&self, seq: Seq) -> u32 {
        self.entries.get(&seq).map_or(0, |entry| entry.failed)
    }

    /// Settles an attempt.
    pub fn settle(&mut self, seq: Seq, fate: Fate, now: Due) {
        self.attempting.remove(&seq);
        match fate {
            Fate::Done => self.finish(seq, now),
            Fate::Again { due, counted } => self.again(seq, due, counted, now),
            Fate::GivenUp { reason } => {
                let Some(entry) = self.entries.get_mut(&seq) else { return };
                entry.failed += 1;
                let attempts = entry.failed;
                self.keep(seq, now.wall);
                if let Some(version) = self.entries.get(&seq).and_then(|entry| entry.version) {
                    let seen = SeenDelivery { seq, version };
                    self.changes.exhausted.push(ExhaustedDelivery { seen, attempts, reason });
                }
                self.leave(seq, now);
            }
        }
    }

    fn finish(&mut self, seq: Seq, now: Due) {
        if let Some(version) = self.entries.get(&seq).and_then(|entry| entry.version) {
            self.changes.done.push(SeenDelivery { seq, version });
        }
        self.leave(seq, now);
    }

    fn again(&mut self, seq: Seq, due: Due, counted: bool, now: Due) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        entry.failed += u32::from(counted);
        entry.stage = Stage::Scheduled(due.at);
        self.scheduled.insert((due.at, seq));
        match entry.version {
            Some(version) => {
                entry.version = Some(version + 1);
                let attempts = entry.failed;
                let seen = SeenDelivery { seq, version };
                self.changes.retry.push(RetryDelivery { seen, attempts, due_at: due.wall });
            }
            None => self.keep(seq, due.wall),
        }
        self.keep_behind(seq, now);
    }

    /// The delivery is out of here; the next of its record is first.
    fn leave(&mut self, seq: Seq, now: Due) {
        let Some(entry) = self.entries.remove(&seq) else { return };
        self.rows -= usize::from(entry.version.is_some());
        self.progress.settle(seq);
        let Some(next) = entry.lane.and_then(|lane| self.lanes.leave(lane, seq)) else { return };
        let Some(next_entry) = self.entries.get_mut(&next) else { return };
        if next_entry.version.is_some() {
            next_entry.stage = Stage::Scheduled(now.at);
            self.scheduled.insert((now.at, next));
        } else {
            next_entry.stage = Stage::Ready;
            self.ready.push_back(next);
        }
    }

    /// Makes a row of it, if it is none. Its event is given out of memory: an attempt comes back for the row.
    fn keep(&mut self, seq: Seq, due_at: OffsetDateTime) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        let (None, Some(chain)) = (entry.version, entry.chain) else { return };
        entry.version = Some(1);
        self.rows += 1;
        if let Some((_, size)) = entry.load.take() {
            self.waiting -= 1;
            self.waiting_bytes -= size;
        }
        self.changes.keep.push(KeepDelivery { seq, chain, attempts: entry.failed, due_at });
        self.progress.settle(seq);
    }

    /// Makes rows of what waits behind the first of its record.
    fn keep_behind(&mut self, first: Seq, now: Due) {
        let Some(lane) = self.entries.get(&first).and_then(|entry| entry.lane) else { return };
        let behind: Vec<Seq> = self.lanes.behind(lane).collect();
        for seq in behind {
            self.keep(seq, now.wall);
        }
    }

    /// Makes rows of attempts that take long, and of what waits behind them.
    pub fn keep_slow(&mut self, now: Due) {
        let slow = |since: Instant| now.at.duration_since(since) >= SLOW;
        let kept = |seq: &Seq| self.entries.get(seq).is_none_or(|entry| entry.version.is_some());
        let under_way = self.attempting.iter().filter(|(seq, since)| slow(**since) && !kept(seq));
        for seq in under_way.map(|(seq, _)| *seq).collect::<Vec<_>>() {
            self.keep(seq, now.wall);
            self.keep_behind(seq, now);
        }
    }

    /// Makes every row due now: the endpoint is known to be well again.
    pub fn hasten(&mut self, now: Instant) {
        for (_, seq) in std::mem::take(&mut self.scheduled) {
            self.scheduled.insert((now, seq));
            if let Some(entry) = self.entries.get_mut(&seq) {
                entry.stage = Stage::Scheduled(now);
            }
        }
    }

    /// What must be written before the cursor is.
    pub fn changes(&mut self) -> &mut DeliveryChanges {
        &mut self.changes
    }

    /// Everything up to here is delivered, filtered or a row, once [`Pending::changes`] is written.
    #[must_use]
    pub const fn cursor(&self) -> Seq {
        self.progress.cursor()
    }

    /// When the event that holds the cursor was recorded; none when nothing does.
    #[must_use]
    pub fn holding_since(&self) -> Option<OffsetDateTime> {
        self.entries.get(&self.progress.cursor().next()).map(|entry| entry.recorded_at)
    }
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
