//! Everything that was emitted, in order, as the bytes that are served.

use std::collections::VecDeque;

use bytes::Bytes;

use super::company::{Action, Kind};
use super::options::Dialect;

/// Which events a stream or a subscription carries: a bit for each kind of record and action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter(u128);

impl Filter {
    pub fn with(self, kind: Kind, action: Action) -> Self {
        Self(self.0 | Self::bit(kind, action))
    }

    pub fn takes(self, entry: &Entry) -> bool {
        self.0 & Self::bit(entry.kind, entry.action) != 0
    }

    fn bit(kind: Kind, action: Action) -> u128 {
        1 << (u32::from(kind as u8) * 3 + u32::from(action as u8))
    }
}

/// What an entry is to an oracle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// An event.
    Event,
    /// An event that repeats another's content and sequence under an id of its own.
    Resequenced,
    /// An element that is no event.
    Bogus,
}

/// One element of the Firehose.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// When it was emitted, in milliseconds since 1970 by the simulator's clock: what its age is counted from.
    pub at: i64,
    pub record: u64,
    pub kind: Kind,
    pub action: Action,
    pub role: Role,
    /// The element in each dialect; empty where that is not served.
    reference: Piece,
    live: Piece,
}

/// An element's bytes, with the place at which a long text goes when it is served.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    pub bytes: Bytes,
    /// Where the text goes, and how long it is.
    pub filler: Option<(u32, u32)>,
}

const FILLER: &[u8; 64] = b"The minutes of this meeting are long; they go on, and on, and on";

impl Piece {
    /// Writes the element as it is served.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Some((at, length)) = self.filler else {
            out.extend_from_slice(&self.bytes);
            return;
        };
        let (at, length) = (at as usize, length as usize);
        out.extend_from_slice(&self.bytes[..at]);
        let end = out.len() + length;
        while out.len() < end {
            let rest = end - out.len();
            out.extend_from_slice(&FILLER[..rest.min(FILLER.len())]);
        }
        out.extend_from_slice(&self.bytes[at..]);
    }

    /// How many bytes it is as it is served.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.filler.map_or(0, |(_, length)| length as usize)
    }
}

impl Entry {
    pub fn new(at: i64, record: u64, kind: Kind, action: Action, role: Role) -> Self {
        Self { at, record, kind, action, role, reference: Piece::default(), live: Piece::default() }
    }

    pub fn set(&mut self, dialect: Dialect, piece: Piece) {
        match dialect {
            Dialect::Reference => self.reference = piece,
            Dialect::Live => self.live = piece,
        }
    }

    pub fn piece(&self, dialect: Dialect) -> &Piece {
        match dialect {
            Dialect::Reference => &self.reference,
            Dialect::Live => &self.live,
        }
    }
}

/// The entries that are still held, each with its index since the beginning.
#[derive(Debug, Default)]
pub(super) struct Journal {
    first: u64,
    entries: VecDeque<Entry>,
}

impl Journal {
    pub fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// The index of the oldest entry that is held.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The index of the next entry.
    pub fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    pub fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// The entries from an index on, each with its own.
    pub fn from(&self, index: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let index = index.clamp(self.first, self.end());
        let skip = usize::try_from(index - self.first).unwrap_or(usize::MAX);
        (index..).zip(self.entries.range(skip..))
    }

    /// The entries before an index, the nearest first.
    pub fn before(&self, index: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let index = index.clamp(self.first, self.end());
        let count = usize::try_from(index - self.first).unwrap_or_default();
        (self.first..index).rev().zip(self.entries.range(..count).rev())
    }

    /// The index of the first entry that is not older than `oldest`.
    pub fn since(&self, oldest: i64) -> u64 {
        self.first + self.entries.partition_point(|entry| entry.at < oldest) as u64
    }

    /// Lets go of what is older than `oldest`.
    pub fn forget(&mut self, oldest: i64) {
        while self.entries.front().is_some_and(|entry| entry.at < oldest) {
            self.entries.pop_front();
            self.first += 1;
        }
    }
}
