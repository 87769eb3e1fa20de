//! A Kafka in memory, as far as transactions go: transactional ids, epochs, fencing, marks that come after the
//! decision, a last stable offset that lags behind the high watermark, and a delayed `EndTxn` that ends whatever
//! transaction of its id and epoch is open when it comes (transactions v1). Partitions can lose their ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use standpipe::event::{Seq, Shard};
use standpipe::sink::kafka::Cursor;
use time::OffsetDateTime;

/// A topic's name and a partition's number.
pub type Place = (Arc<str>, i32);

/// A message, as a consumer sees it.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: String,
    pub shard: Shard,
    pub seq: Seq,
    pub prev: Seq,
    pub chain: String,
    pub traceparent: String,
    pub replay: Option<Seq>,
    pub is_repair: bool,
    /// Of an announcement.
    pub sink: Option<String>,
    pub value: Vec<u8>,
}

#[derive(Clone, Debug)]
pub enum Record {
    Event(Message),
    Cursor(Vec<u8>),
}

#[derive(Debug)]
struct Entry {
    transaction: usize,
    written_at: OffsetDateTime,
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
    id: Arc<str>,
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

/// One transactional id.
#[derive(Debug, Default)]
struct Producer {
    epoch: u32,
    open: Option<usize>,
}

/// Marks of a transaction that are due in partitions.
#[derive(Debug, Default)]
pub struct Due {
    transaction: usize,
    pub places: Vec<Place>,
}

/// A transaction that was decided as committed.
#[derive(Debug)]
pub struct Decided {
    pub id: Arc<str>,
    pub records: Vec<(Place, Record)>,
}

#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<Place, Vec<Entry>>,
    transactions: Vec<Transaction>,
    producers: BTreeMap<Arc<str>, Producer>,
    cursor_topics: BTreeSet<Arc<str>>,
    /// Transactions decided as committed, in order; the oracle takes them from here.
    decided: Vec<usize>,
}

/// The broker. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Broker(Arc<Mutex<State>>);

impl Broker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Whether a cursor topic is there; makes it where `create` says so.
    pub fn cursor_topic(&self, name: &Arc<str>, create: bool) -> bool {
        let mut state = self.state();
        create && state.cursor_topics.insert(name.clone()) || state.cursor_topics.contains(name)
    }

    /// `InitProducerId`: what is open is aborted, and no older epoch does anything from here on. Gives the epoch.
    pub fn init(&self, id: &Arc<str>) -> (u32, Due) {
        let mut state = self.state();
        let due = state.end(id, Fate::Aborted);
        let producer = state.producers.entry(id.clone()).or_default();
        producer.epoch += 1;
        (producer.epoch, due)
    }

    /// The epoch that may write.
    pub fn epoch(&self, id: &Arc<str>) -> u32 {
        self.state().epoch(id)
    }

    /// Whether an older transaction has marks to come: nothing new may begin.
    pub fn is_concurrent(&self, id: &Arc<str>) -> bool {
        let state = self.state();
        state.transactions.iter().any(|it| it.id == *id && it.fate != Fate::Open && !it.is_marked())
    }

    /// Appends records; the first one of a transaction begins it. Gives its number, and the offset behind each.
    pub fn produce(
        &self,
        id: &Arc<str>,
        epoch: u32,
        records: Vec<(Place, Record)>,
        written_at: OffsetDateTime,
    ) -> Result<(usize, Vec<(Place, usize)>), FencedOff> {
        let mut state = self.state();
        if epoch != state.epoch(id) {
            return Err(FencedOff);
        }
        let next = state.transactions.len();
        let open = &mut state.producers.entry(id.clone()).or_default().open;
        let number = *open.get_or_insert(next);
        if number == next {
            let new =
                Transaction { id: id.clone(), fate: Fate::Open, places: BTreeSet::new(), marked: BTreeSet::new() };
            state.transactions.push(new);
        }
        let mut ends = Vec::new();
        for (place, record) in records {
            state.transactions[number].places.insert(place.clone());
            let log = state.partitions.entry(place.clone()).or_default();
            log.push(Entry { transaction: number, written_at, record });
            ends.push((place, log.len()));
        }
        Ok((number, ends))
    }

    /// `EndTxn` with a commit: ends whatever transaction of this id and epoch is open, as transactions v1 do.
    pub fn commit(&self, id: &Arc<str>, epoch: u32) -> Result<Due, FencedOff> {
        let mut state = self.state();
        if epoch != state.epoch(id) {
            return Err(FencedOff);
        }
        Ok(state.end(id, Fate::Committed))
    }

    /// The broker's own time-out: a transaction that is still open is aborted, and its producer fenced off.
    pub fn expire(&self, id: &Arc<str>, number: usize) -> Due {
        let mut state = self.state();
        let producer = state.producers.entry(id.clone()).or_default();
        if producer.open != Some(number) {
            return Due::default();
        }
        producer.epoch += 1;
        state.end(id, Fate::Aborted)
    }

    /// Writes the mark that is due in a partition.
    pub fn mark(&self, due: &Due, place: &Place) {
        self.state().transactions[due.transaction].marked.insert(place.clone());
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

    /// The last cursor below an offset, and when it was written.
    pub fn cursor_below(&self, place: &Place, to: usize) -> Option<(Vec<u8>, OffsetDateTime)> {
        let state = self.state();
        let log = state.partitions.get(place)?;
        log.iter().take(to).rev().filter(|entry| state.of(entry).fate == Fate::Committed).find_map(|entry| match &entry
            .record
        {
            Record::Cursor(value) => Some((value.clone(), entry.written_at)),
            Record::Event(_) => None,
        })
    }

    /// The transactions that were decided as committed since it was asked last.
    pub fn newly_decided(&self) -> Vec<Decided> {
        let mut state = self.state();
        let decided = std::mem::take(&mut state.decided);
        let of = |number: &usize| {
            let Transaction { id, places, .. } = &state.transactions[*number];
            let logs = places.iter().filter_map(|place| Some((place, state.partitions.get(place)?)));
            let ours = logs.flat_map(|(place, log)| {
                let ours = log.iter().filter(|entry| entry.transaction == *number);
                ours.map(|entry| (place.clone(), entry.record.clone()))
            });
            Decided { id: id.clone(), records: ours.collect() }
        };
        decided.iter().map(of).collect()
    }

    pub fn places(&self) -> Vec<Place> {
        self.state().partitions.keys().cloned().collect()
    }

    /// Whether everything that was produced is decided and marked.
    pub fn is_settled(&self) -> bool {
        self.state().transactions.iter().all(Transaction::is_marked)
    }

    /// A partition loses everything from an offset on, as after an unclean election; gives what that was.
    pub fn truncate(&self, place: &Place, to: usize) -> Vec<Record> {
        let mut state = self.state();
        let Some(log) = state.partitions.get_mut(place) else { return Vec::new() };
        let lost: Vec<Entry> = log.drain(to.min(log.len())..).collect();
        let committed = lost.into_iter().filter(|entry| state.of(entry).fate == Fate::Committed);
        committed.map(|entry| entry.record).collect()
    }
}

impl State {
    fn of(&self, entry: &Entry) -> &Transaction {
        &self.transactions[entry.transaction]
    }

    fn epoch(&self, id: &Arc<str>) -> u32 {
        self.producers.get(id).map_or(0, |producer| producer.epoch)
    }

    fn end(&mut self, id: &Arc<str>, fate: Fate) -> Due {
        let open = self.producers.get_mut(id).and_then(|producer| producer.open.take());
        let Some(number) = open else { return Due::default() };
        let transaction = &mut self.transactions[number];
        transaction.fate = fate;
        if fate == Fate::Committed {
            self.decided.push(number);
        }
        Due { transaction: number, places: transaction.places.iter().cloned().collect() }
    }
}

/// The cursor in a record, if it is one.
pub fn cursor(record: &Record) -> Option<Cursor> {
    match record {
        Record::Cursor(value) => Cursor::from_json(value).ok(),
        Record::Event(_) => None,
    }
}
