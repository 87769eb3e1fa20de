//! The company, what it emitted, and what goes wrong: the state behind all of a simulator's answers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use time::OffsetDateTime;

use super::company::{Action, Change, Company, Kind, Record};
use super::crm::Deleted;
use super::dice::{Dice, MISCHIEF};
use super::encode::{self, Extra, Happening};
use super::faults::{Fault, Faults, Rate};
use super::journal::{Entry, Journal, Piece, Role};
use super::options::{Dialect, Options, Served};

/// Elements share allocations of this size.
const CHUNK: usize = 1 << 20;
/// An oracle can ask for what is no longer served for so long.
const REMEMBERED: i64 = 3_600_000;
/// The longest time that a backlog covers.
const LONGEST_BACKLOG: i64 = 86_400_000;
/// More than this does not wait for its time: the oldest is told early.
const MOST_UNTOLD: usize = 10_000;
const DIALECTS: [Dialect; 2] = [Dialect::Reference, Dialect::Live];

/// Milliseconds since 1970.
pub(super) fn milliseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or_default()
}

fn length(of: Duration) -> i64 {
    i64::try_from(of.as_millis()).unwrap_or(i64::MAX / 4)
}

/// What is no longer kept, though the clock would still keep it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Horizon {
    /// Entries before this index are gone.
    pub index: u64,
    /// Positions of an earlier time are gone.
    pub time: i64,
}

impl Horizon {
    pub fn or(self, other: Self) -> Self {
        Self { index: self.index.max(other.index), time: self.time.max(other.time) }
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub served: Served,
    pub journal: Journal,
    pub faults: Faults,
    pub company: Company,
    pub deleted: Deleted,
    history: i64,
    /// How long what comes through Core is not told yet, in milliseconds.
    lag: i64,
    /// What is not told yet, in order: when it will be.
    untold: VecDeque<(i64, Happening, Role)>,
    mischief: Dice,
    story: Story,
    /// How many events there are: bogus elements are none.
    pub events: u64,
    horizon: Horizon,
    horizons: HashMap<u32, Horizon>,
    scratch: Vec<u8>,
    chunk: BytesMut,
}

/// What events say about their time.
#[derive(Debug)]
struct Story {
    /// When the backlog begins, by the clock.
    begins: i64,
    /// How long it is.
    backlog: i64,
    /// When it begins, by what its events say, and how far apart later ones are; none = by the clock.
    told: Option<(i64, i64)>,
    lived: i64,
}

impl World {
    /// A world whose company has lived through its backlog. The backlog fills the last whole stretch of time before
    /// `now` (a day, or a third of a shorter history), so that simulators that start in the same stretch with the
    /// same seed tell the same story to the millisecond, and none of it is about to expire.
    pub fn new(options: &Options, now: OffsetDateTime) -> Self {
        let history = length(options.history);
        let backlog = (history / 3).clamp(1, LONGEST_BACKLOG);
        let now = milliseconds(now);
        let begins = now - now.rem_euclid(backlog) - backlog;
        #[expect(clippy::cast_possible_truncation, reason = "a rate of at least one event a million seconds")]
        let apart = if options.rate > 0.0 { (1_000.0 / options.rate.max(1e-6)) as i64 } else { 1_000 };
        let told = options.epoch.map(|epoch| (milliseconds(epoch), apart));
        let story = Story { begins, backlog, told, lived: 0 };
        let mut world = Self {
            served: options.dialect,
            journal: Journal::default(),
            faults: Faults::default(),
            deleted: Deleted::default(),
            history,
            lag: length(options.lag),
            untold: VecDeque::new(),
            company: Company::found(options.seed, story.told.map_or(begins, |(epoch, _)| epoch)),
            mischief: Dice::new(options.seed, MISCHIEF),
            story,
            events: 0,
            horizon: Horizon::default(),
            horizons: HashMap::new(),
            scratch: Vec::new(),
            chunk: BytesMut::new(),
        };
        for (fault, rate) in &options.faults {
            world.faults.set(*fault, Rate::new(*rate).unwrap_or_default());
        }
        world.live_through(options.backlog);
        world
    }

    fn live_through(&mut self, backlog: u64) {
        let of = i128::from(backlog.max(1));
        for n in 0..i128::from(backlog) {
            // Not at even steps, and never out of order.
            let jitter = i128::from(self.company.below(1_000));
            let into = i128::from(self.story.backlog) * (n * 1_000 + jitter) / (of * 1_000);
            let into = i64::try_from(into).unwrap_or_default();
            let told = self.story.told.map_or(self.story.begins, |(epoch, _)| epoch);
            self.emit_one(self.story.begins + into, told + into);
        }
    }

    /// Emits `count` events now.
    pub fn emit(&mut self, count: u64, now: OffsetDateTime) {
        let at = self.at(milliseconds(now));
        for _ in 0..count {
            self.story.lived += 1;
            let told = match self.story.told {
                Some((epoch, apart)) => epoch + self.story.backlog + apart * self.story.lived,
                None => at,
            };
            // As in the backlog: the same story whether it is told or lived.
            self.company.below(1_000);
            self.emit_one(at, told);
        }
        self.journal.forget(at - self.history - REMEMBERED);
    }

    /// A clock that is set back makes no history that goes back.
    fn at(&self, now: i64) -> i64 {
        let last = self.journal.end().checked_sub(1).and_then(|last| self.journal.get(last));
        last.map_or(now, |last| now.max(last.at))
    }

    /// What happened through Core: told after the lag. Gives the record as it is now.
    pub fn happened(&mut self, change: Change, now: i64) -> Record {
        let record = change.record.clone();
        let id = self.company.written_event_id();
        let happening = Happening { id, time: now, change, extra: Extra::Nothing };
        if self.lag == 0 && self.untold.is_empty() {
            self.push(self.at(now), &happening, Role::Event);
        } else {
            self.untold.push_back((now + self.lag, happening, Role::Event));
        }
        record
    }

    /// Tells what is due; what stands behind it waits for its turn. Gives whether anything was.
    pub fn tell(&mut self, now: i64) -> bool {
        let mut told = false;
        while self.untold.front().is_some_and(|(due, ..)| *due <= now) || self.untold.len() > MOST_UNTOLD {
            let Some((_, happening, role)) = self.untold.pop_front() else { break };
            self.push(self.at(now), &happening, role);
            told = true;
        }
        told
    }

    /// The records of a kind as Search and Sync know them: without what is not told yet.
    pub fn told(&self, kind: Kind) -> Vec<&Record> {
        let mut records = self.company.records(kind);
        let mut before: BTreeMap<u64, Option<&Record>> = BTreeMap::new();
        let untold = self.untold.iter().map(|(_, untold, _)| untold).filter(|untold| untold.kind() == kind);
        for Happening { change, .. } in untold {
            before.entry(change.record.id).or_insert(match change.action {
                Action::Created => None,
                Action::Updated => change.before.as_ref(),
                Action::Deleted => Some(&change.record),
            });
        }
        if !before.is_empty() {
            records.retain(|record| !before.contains_key(&record.id));
            records.extend(before.into_values().flatten());
            records.sort_unstable_by_key(|record| record.id);
        }
        records
    }

    /// One record as Search and Sync know it.
    pub fn told_one(&self, kind: Kind, id: u64) -> Option<&Record> {
        let of_it = |happening: &Happening| happening.kind() == kind && happening.change.record.id == id;
        match self.untold.iter().map(|(_, untold, _)| untold).find(|untold| of_it(untold)) {
            None => self.company.find(kind, id),
            Some(Happening { change, .. }) => match change.action {
                Action::Created => None,
                Action::Updated => change.before.as_ref(),
                Action::Deleted => Some(&change.record),
            },
        }
    }

    /// How many events a burst has, where one comes now.
    pub fn burst(&mut self, after: u64) -> u64 {
        let bursts = (0..after).filter(|_| self.strikes(Fault::Burst)).count() as u64;
        (0..bursts).map(|_| self.mischief.between(100, 500)).sum()
    }

    fn strikes(&mut self, fault: Fault) -> bool {
        let rate = self.faults.rate(fault);
        let strikes = rate > 0.0 && self.mischief.chance(rate);
        if strikes {
            self.faults.note(fault);
        }
        strikes
    }

    fn emit_one(&mut self, at: i64, told: i64) {
        let change = self.company.step(told);
        let id = self.company.event_id();
        let mut time = told;
        if self.strikes(Fault::Skew) {
            time += i64::try_from(self.mischief.below(2 * 86_400_000)).unwrap_or_default() - 86_400_000;
        }
        let extra = if self.strikes(Fault::Oversize) {
            // More than a Kafka broker takes by default.
            Extra::Filler(u32::try_from(self.mischief.between(1_100_000, 1_900_000)).unwrap_or_default())
        } else if self.strikes(Fault::Nul) {
            Extra::Nul
        } else {
            Extra::Nothing
        };
        let happening = Happening { id, time, change, extra };
        self.push_in_turn(at, &happening, Role::Event);
        if self.strikes(Fault::Resequence) {
            let id = u128::from(self.mischief.number()) << 64 | u128::from(self.mischief.number());
            self.push_in_turn(at, &Happening { id, ..happening.clone() }, Role::Resequenced);
        }
        if self.strikes(Fault::Malformed) {
            let way = self.mischief.number();
            let stranger = self.stranger(&happening);
            self.push_bogus(at, &happening.change, |dialect, users| encode::malformed(&stranger, dialect, users, way));
        }
        if self.strikes(Fault::BadUtf8) {
            let stranger = self.stranger(&happening);
            self.push_bogus(at, &happening.change, |dialect, users| encode::bad_utf8(&stranger, dialect, users));
        }
    }

    /// The same event under an id that no event has.
    fn stranger(&mut self, happening: &Happening) -> Happening {
        let id = u128::from(self.mischief.number()) << 64 | u128::from(self.mischief.number());
        Happening { id, time: happening.time, change: happening.change.clone(), extra: Extra::Nothing }
    }

    /// The events of one record are told in order: behind what is not told yet.
    fn push_in_turn(&mut self, at: i64, happening: &Happening, role: Role) {
        if self.untold.is_empty() {
            self.push(at, happening, role);
        } else {
            self.untold.push_back((at, happening.clone(), role));
        }
    }

    fn push(&mut self, at: i64, happening: &Happening, role: Role) {
        if happening.change.action == Action::Deleted {
            self.deleted.note(&happening.change.record);
        }
        let has_stream = |dialect| !encode::stream(dialect, happening.kind()).is_empty();
        let mut tellable = DIALECTS.into_iter().filter(|dialect| self.served.serves(*dialect));
        if !tellable.any(has_stream) {
            return;
        }
        let mut entry = entry(at, &happening.change, role);
        for dialect in DIALECTS.into_iter().filter(|dialect| self.served.serves(*dialect) && has_stream(*dialect)) {
            self.scratch.clear();
            let place = happening.write(dialect, self.company.users(), &mut self.scratch);
            let filler = match happening.extra {
                Extra::Filler(length) => Some((u32::try_from(place).unwrap_or_default(), length)),
                Extra::Nothing | Extra::Nul => None,
            };
            let bytes = keep(&mut self.chunk, &self.scratch);
            entry.set(dialect, Piece { bytes, filler });
        }
        self.journal.push(entry);
        self.events += 1;
    }

    fn push_bogus(&mut self, at: i64, change: &Change, write: impl Fn(Dialect, &[super::company::User]) -> Vec<u8>) {
        let mut entry = entry(at, change, Role::Bogus);
        for dialect in DIALECTS.into_iter().filter(|dialect| self.served.serves(*dialect)) {
            let element = write(dialect, self.company.users());
            entry.set(dialect, Piece { bytes: keep(&mut self.chunk, &element), filler: None });
        }
        self.journal.push(entry);
    }

    /// What a reader can no longer have at `now`.
    pub fn horizon(&self, reader: u32, now: i64) -> Horizon {
        let kept_since = now - self.history;
        let clock = Horizon { index: self.journal.since(kept_since), time: kept_since };
        let own = self.horizons.get(&reader).copied().unwrap_or_default();
        clock.or(self.horizon).or(own)
    }

    /// Takes history away from one reader.
    pub fn take_from(&mut self, reader: u32, horizon: Horizon) {
        let own = self.horizons.entry(reader).or_default();
        *own = own.or(horizon);
    }

    /// Takes everything that is older than `oldest` away from everyone.
    pub fn expire(&mut self, oldest: i64) {
        let index = self.journal.since(oldest);
        self.horizon = self.horizon.or(Horizon { index, time: oldest });
    }

    /// The furthest that any reader's history was taken away by more than the clock: before it events may be lost.
    pub fn taken(&self) -> u64 {
        self.horizons.values().fold(self.horizon, |all, own| all.or(*own)).index
    }
}

fn entry(at: i64, change: &Change, role: Role) -> Entry {
    Entry::new(at, change.record.id, change.record.kind(), change.action, role)
}

/// Copies bytes into the chunk, which is as long-lived as the youngest of them.
fn keep(chunk: &mut BytesMut, bytes: &[u8]) -> bytes::Bytes {
    if chunk.capacity() - chunk.len() < bytes.len() {
        *chunk = BytesMut::with_capacity(CHUNK.max(bytes.len()));
    }
    chunk.extend_from_slice(bytes);
    chunk.split().freeze()
}
