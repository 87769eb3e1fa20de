//! Who waits for whom: the deliveries of one record stand in a lane, and only the first of a lane is attempted (INV-12).

use std::collections::{HashMap, VecDeque, hash_map};
use std::hash::{BuildHasher, RandomState};

use crate::event::Seq;
use crate::mutant::{Mutant, planted};

/// Names a lane. A hash: two records that share one wait for each other needlessly and lose nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneKey(u64);

/// The place that a delivery was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It stands alone or first: attempt it.
    First,
    /// It waits behind this one, the first of its lane.
    Behind(Seq),
    /// A later one of its record has been attempted before, so this one's first delivery is history: it is repeated
    /// after a crash, outside of the lane.
    Repeated,
}

/// All lanes that hold anything.
#[derive(Debug, Default)]
pub struct Lanes {
    hasher: RandomState,
    lanes: HashMap<LaneKey, Lane>,
}

/// Nearly every lane holds one delivery: that one takes no memory of its own.
#[derive(Debug)]
struct Lane {
    first: Seq,
    behind: VecDeque<Seq>,
}

impl Lanes {
    /// The lane of a record.
    #[must_use]
    pub fn key(&self, account: &str, resource: &str, record_id: &str) -> LaneKey {
        LaneKey(self.hasher.hash_one((account, resource, record_id)))
    }

    /// Puts a delivery at the end of its lane.
    pub fn enter(&mut self, key: LaneKey, seq: Seq) -> Entry {
        let lane = match self.lanes.entry(key) {
            hash_map::Entry::Occupied(lane) => lane.into_mut(),
            hash_map::Entry::Vacant(place) => {
                place.insert(Lane { first: seq, behind: VecDeque::new() });
                return Entry::First;
            }
        };
        if *lane.behind.back().unwrap_or(&lane.first) > seq {
            return Entry::Repeated;
        }
        lane.behind.push_back(seq);
        if planted(Mutant::LaneOvertaken) { Entry::First } else { Entry::Behind(lane.first) }
    }

    /// Takes the first of a lane out, whatever became of it; gives the next, which is now first.
    pub fn leave(&mut self, key: LaneKey, seq: Seq) -> Option<Seq> {
        let hash_map::Entry::Occupied(mut lane) = self.lanes.entry(key) else { return None };
        debug_assert_eq!(lane.get().first, seq, "only the first of a lane is attempted");
        let Some(next) = lane.get_mut().behind.pop_front() else {
            lane.remove();
            return None;
        };
        lane.get_mut().first = next;
        Some(next)
    }

    /// Those that wait behind the first, in order.
    pub fn behind(&self, key: LaneKey) -> impl Iterator<Item = Seq> {
        self.lanes.get(&key).into_iter().flat_map(|lane| lane.behind.iter().copied())
    }
}
