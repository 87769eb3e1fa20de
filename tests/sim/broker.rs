//! A Kafka in memory, as far as transactions go: one transactional id, epochs, fencing, marks that come after the
//! decision, a last stable offset that lags behind the high watermark, and a delayed `EndTxn` that ends whatever
//! transaction of its epoch is open when it comes (transactions v1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use standpipe::event::Seq;
use standpipe::sink::kafka::Cursor;

/// A topic's name and a partition's number.
pub type Place = (Arc<str>, i32);

/// A message, as a consumer sees it.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: String,
    pub seq: Seq,
    pub prev: Seq,
    pub chain: String,
    pub traceparent: String,
    pub value: Vec<u8>,
}

#[derive(Clone, Debug)]
pub enum Record {
    Event(Message),
    Cursor(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Entry {
    transaction: u64,
    record: Record,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    /// Decided, but not marked in these partitions yet.
    Committed,
    Aborted,
}

#[derive(Debug)]
struct Transaction {
    epoch: u32,
    fate: Fate,
    places: BTreeSet<Place>,
    marked: BTreeSet<Place>,
}

impl Transaction {
    fn is_marked(&self) -> bool {
        self.fate != Fate::Open && self.places.is_subset(&self.marked)
    }
}

/// The answer to a request of an older epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FencedOff;

/// What one partition shows.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Behind the last message.
    pub high: usize,
    /// Up to where everything is decided and marked.
    pub stable: usize,
}

#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<Place, Vec<Entry>>,
    transactions: Vec<Transaction>,
    epoch: u32,
    open: Option<u64>,
    cursor_topic: bool,
    /// Transactions decided as committed, in order; the oracle takes them from here.
    decided: Vec<u64>,
}

/// The broker. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Broker(Arc<Mutex<State>>);

impl Broker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Whether the cursor topic is there; makes it where `create` says so.
    pub fn cursor_topic(&self, create: bool) -> bool {
        let mut state = self.state();
        state.cursor_topic |= create;
        state.cursor_topic
    }

    /// `InitProducerId`: what is open is aborted, and no older epoch does anything from here on. Gives the epoch, and
    /// the partitions whose marks are due.
    pub fn init(&self) -> (u32, Vec<Place>) {
        let mut state = self.state();
        let due = state.end(Fate::Aborted);
        state.epoch += 1;
        (state.epoch, due)
    }

    /// The epoch that may write.
    pub fn epoch(&self) -> u32 {
        self.state().epoch
    }

    /// Whether an older transaction has marks to come: nothing new may begin.
    pub fn is_concurrent(&self) -> bool {
        let state = self.state();
        state.transactions.iter().any(|it| it.fate != Fate::Open && !it.is_marked())
    }

    /// Appends records; the first one of a transaction begins it.
    pub fn produce(&self, epoch: u32, records: Vec<(Place, Record)>) -> Result<u64, FencedOff> {
        let mut state = self.state();
        if epoch != state.epoch {
            return Err(FencedOff);
        }
        let number = state.open.unwrap_or(state.transactions.len() as u64);
        if state.open.replace(number).is_none() {
            let new = Transaction { epoch, fate: Fate::Open, places: BTreeSet::new(), marked: BTreeSet::new() };
            state.transactions.push(new);
        }
        for (place, record) in records {
            state.transactions[usize::try_from(number).unwrap()].places.insert(place.clone());
            state.partitions.entry(place).or_default().push(Entry { transaction: number, record });
        }
        Ok(number)
    }

    /// `EndTxn` with a commit: ends whatever transaction of this epoch is open, as transactions v1 do. Gives the
    /// partitions whose marks are due.
    pub fn commit(&self, epoch: u32) -> Result<Vec<Place>, FencedOff> {
        let mut state = self.state();
        if epoch != state.epoch {
            return Err(FencedOff);
        }
        Ok(state.end(Fate::Committed))
    }

    /// The broker's own time-out: a transaction that is still open is aborted, and its producer fenced off.
    pub fn expire(&self, number: u64) -> Vec<Place> {
        let mut state = self.state();
        if state.open != Some(number) {
            return Vec::new();
        }
        state.epoch += 1;
        state.end(Fate::Aborted)
    }

    /// Writes the marks that are due in a partition.
    pub fn mark(&self, place: &Place) {
        let mut state = self.state();
        for transaction in state.transactions.iter_mut().filter(|it| it.fate != Fate::Open) {
            if transaction.places.contains(place) {
                transaction.marked.insert(place.clone());
            }
        }
    }

    /// High watermark and last stable offset.
    pub fn shown(&self, place: &Place) -> Shown {
        let state = self.state();
        let log = state.partitions.get(place).map_or(&[][..], Vec::as_slice);
        let undecided = |entry: &Entry| !state.of(entry).marked.contains(place);
        Shown { high: log.len(), stable: log.iter().position(undecided).unwrap_or(log.len()) }
    }

    /// What a `read_committed` consumer reads from an offset on, up to another.
    pub fn committed(&self, place: &Place, from: usize, to: usize) -> Vec<(usize, Record)> {
        let state = self.state();
        let log = state.partitions.get(place).map_or(&[][..], Vec::as_slice);
        let all = log.iter().enumerate().take(to).skip(from);
        all.filter(|(_, entry)| state.of(entry).fate == Fate::Committed)
            .map(|(offset, entry)| (offset, entry.record.clone()))
            .collect()
    }

    /// The records of the transactions that were decided as committed since it was asked last.
    pub fn newly_decided(&self) -> Vec<Vec<Record>> {
        let mut state = self.state();
        let decided = std::mem::take(&mut state.decided);
        let records = |number: &u64| {
            let all = state.partitions.values().flatten().filter(|entry| entry.transaction == *number);
            all.map(|entry| entry.record.clone()).collect()
        };
        decided.iter().map(records).collect()
    }

    pub fn places(&self) -> Vec<Place> {
        self.state().partitions.keys().cloned().collect()
    }

    /// Whether everything that was produced is decided and marked.
    pub fn is_settled(&self) -> bool {
        self.state().transactions.iter().all(Transaction::is_marked)
    }
}

impl State {
    fn of(&self, entry: &Entry) -> &Transaction {
        &self.transactions[usize::try_from(entry.transaction).unwrap()]
    }

    fn end(&mut self, fate: Fate) -> Vec<Place> {
        let Some(number) = self.open.take() else { return Vec::new() };
        let transaction = &mut self.transactions[usize::try_from(number).unwrap()];
        debug_assert!(transaction.epoch <= self.epoch, "a transaction of the future");
        transaction.fate = fate;
        let places = transaction.places.iter().cloned().collect();
        if fate == Fate::Committed {
            self.decided.push(number);
        }
        places
    }
}

/// The cursor in a record, if it is one.
pub fn cursor(record: &Record) -> Option<Cursor> {
    match record {
        Record::Cursor(value) => Cursor::from_json(value).ok(),
        Record::Event(_) => None,
    }
}
