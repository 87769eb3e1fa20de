//! The company's records as Core sees them: those of its story, and beside them a shelf for everything else.

use std::collections::{BTreeMap, VecDeque};

use super::super::dice::Dice;
use super::{Action, Change, Company, Kind, Record};

/// The dice's purpose.
const WRITES: u64 = 3;
/// Ids that are given here lie beyond those of the story.
const FIRST_ID: u64 = 2_000_000_000;
/// What was created through Core: beyond so many records or bytes the oldest of it goes. Where nothing of it is left,
/// nothing more is written.
const MOST: usize = 20_000;
const MOST_BYTES: usize = 64 << 20;
/// A record without anything written on it, about.
const BLANK: usize = 256;

/// Records that no story touches.
#[derive(Debug)]
pub(super) struct Shelf {
    records: BTreeMap<(Kind, u64), Record>,
    /// What was created here, the oldest first; some of it may be gone.
    order: VecDeque<(Kind, u64)>,
    /// What everything that was written weighs, on the shelf and on records of the story.
    weight: usize,
    dice: Dice,
    next_id: u64,
}

impl Shelf {
    pub fn new(seed: u64) -> Self {
        let dice = Dice::new(seed, WRITES);
        Self { records: BTreeMap::new(), order: VecDeque::new(), weight: 0, dice, next_id: FIRST_ID }
    }

    fn put(&mut self, record: Record) {
        self.records.insert((record.kind(), record.id), record);
    }
}

impl Record {
    /// About how many bytes of it were written.
    fn weight(&self) -> usize {
        let written = self.written.as_deref();
        written.map_or(0, |written| BLANK + serde_json::to_vec(written).map_or(0, |written| written.len()))
    }
}

impl Company {
    /// Every record of a kind that is in mind, in the order of ids.
    pub fn records(&self, kind: Kind) -> Vec<&Record> {
        let own = self.own(kind).iter().filter(|record| record.kind() == kind);
        let mut records: Vec<&Record> = own.collect();
        records.sort_unstable_by_key(|record| record.id);
        // What is on the shelf is mostly newer.
        let split = records.len();
        records.extend(self.shelf.records.range((kind, 0)..=(kind, u64::MAX)).map(|(_, record)| record));
        if split > 0 && records.get(split).is_some_and(|first| first.id < records[split - 1].id) {
            records.sort_by_key(|record| record.id);
        }
        records
    }

    /// About how many records of a kind there are: the activities are counted together.
    pub fn count(&self, kind: Kind) -> usize {
        self.own(kind).len() + self.shelf.records.range((kind, 0)..=(kind, u64::MAX)).count()
    }

    pub fn find(&self, kind: Kind, id: u64) -> Option<&Record> {
        let own = self.own(kind).iter().find(|record| record.id == id && record.kind() == kind);
        own.or_else(|| self.shelf.records.get(&(kind, id)))
    }

    fn own(&self, kind: Kind) -> &[Record] {
        match kind {
            Kind::Lead => &self.leads,
            Kind::Contact => &self.contacts,
            Kind::Organization => &self.organizations,
            Kind::Deal => &self.deals,
            Kind::Call | Kind::Email | Kind::Note | Kind::Meeting => &self.activities,
            _ => &[],
        }
    }

    /// An id and a sequence for a record that comes through Core.
    pub fn number_of_written(&mut self) -> (u64, u64) {
        let dice = &mut self.shelf.dice;
        self.shelf.next_id += dice.between(1, 9);
        (self.shelf.next_id, dice.between(2, 40))
    }

    /// An event id for what happens through Core: the story's ids stay what they are.
    pub fn written_event_id(&mut self) -> u128 {
        let dice = &mut self.shelf.dice;
        u128::from(dice.number()) << 64 | u128::from(dice.number())
    }

    /// Lets a record stand there without an event.
    pub(super) fn stand(&mut self, record: Record) {
        self.shelf.put(record);
    }

    /// A record that came through Core.
    pub fn created_by(&mut self, record: Record) -> Change {
        self.shelf.weight += record.weight();
        self.shelf.order.push_back((record.kind(), record.id));
        self.shelf.put(record.clone());
        self.make_room();
        Change { action: Action::Created, cause: "interaction", record, before: None }
    }

    fn make_room(&mut self) {
        while self.shelf.order.len() > MOST || self.shelf.weight > MOST_BYTES {
            let Some(oldest) = self.shelf.order.pop_front() else { break };
            let gone = self.shelf.records.remove(&oldest).map_or(0, |record| record.weight());
            self.shelf.weight = self.shelf.weight.saturating_sub(gone);
        }
    }

    /// Whether anything more may be written.
    pub fn has_room(&self) -> bool {
        self.shelf.weight <= MOST_BYTES
    }

    /// A record that was changed through Core: `record` is the one that is there, changed.
    pub fn changed_by(&mut self, mut record: Record, at: i64) -> Option<Change> {
        let (kind, id) = (record.kind(), record.id);
        record.sequence += self.shelf.dice.between(1, 3);
        record.updated = at;
        let kept = match self.kept_of(kind).and_then(|kept| kept.iter_mut().find(|known| known.id == id)) {
            Some(kept) => kept,
            None => self.shelf.records.get_mut(&(kind, id))?,
        };
        let before = std::mem::replace(kept, record.clone());
        self.shelf.weight = (self.shelf.weight + record.weight()).saturating_sub(before.weight());
        self.make_room();
        Some(Change { action: Action::Updated, cause: "interaction", record, before: Some(before) })
    }

    /// A record that is deleted through Core.
    pub fn deleted_by(&mut self, kind: Kind, id: u64, at: i64) -> Option<Change> {
        let own = self.kept_of(kind).and_then(|kept| {
            let index = kept.iter().position(|known| known.id == id && known.kind() == kind)?;
            Some(kept.remove(index))
        });
        let mut record = own.or_else(|| self.shelf.records.remove(&(kind, id)))?;
        self.shelf.weight = self.shelf.weight.saturating_sub(record.weight());
        record.sequence += self.shelf.dice.between(1, 3);
        record.updated = at;
        Some(Change { action: Action::Deleted, cause: "interaction", record, before: None })
    }

    fn kept_of(&mut self, kind: Kind) -> Option<&mut Vec<Record>> {
        (kind <= Kind::Meeting).then(|| self.kept(kind))
    }
}
