//! What must hold, after every step and at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use standpipe::event::ports::{Decision, Route, RouteError, SinkState};
use standpipe::event::{Chain, Recorded, Seq, Shard, SinkName};
use standpipe::ledger::model::{Model, State};
use standpipe::sink::webhook::id_of;

use crate::broker::{Broker, Message, Place, Record, cursor};
use crate::servers::{STREAMS, Vendor, index_of};
use crate::world::{Judge, World};

pub const KAFKA: &str = "crm";
pub const WEBHOOK: &str = "ops";
pub const TOPIC: &str = "sell";

/// Rules that leave out an event now and then: by `mod` and `rest` of its number.
pub struct Rules(pub usize, pub usize);

impl Rules {
    pub fn takes(&self, event: &Recorded) -> bool {
        event.is_control() || number(event).is_none_or(|(_, number)| number % self.0 != self.1)
    }
}

impl Route for Rules {
    fn decide(&self, event: &Recorded) -> Result<Decision, RouteError> {
        if !self.takes(event) {
            return Ok(Decision::Filtered);
        }
        let key = format!("{}/{}/{}", event.account, event.event_type.resource(), event.record_id);
        Ok(Decision::Deliver(standpipe::event::ports::Address { topic: TOPIC.into(), key, headers: Vec::new() }))
    }
}

pub const KAFKA_RULES: Rules = Rules(7, 3);
pub const WEBHOOK_RULES: Rules = Rules(5, 2);

/// The stream of an event of the vendor's, and its number there.
fn number(event: &Recorded) -> Option<(&str, usize)> {
    let (resource, number) = event.id.rsplit_once('-')?;
    let stream = STREAMS.into_iter().find(|stream| stream.trim_end_matches('s') == resource)?;
    Some((stream, number.parse().ok()?))
}

#[derive(Default)]
struct Seen {
    /// The ledger.
    head: Seq,
    chain: Option<Chain>,
    ids: BTreeSet<String>,
    next: BTreeMap<String, usize>,
    /// The cursor of the Kafka sink, as decided.
    cursor: Seq,
    /// What a `read_committed` consumer has read of each partition, and the last seq there.
    read: BTreeMap<Place, (usize, Seq)>,
    consumed: BTreeMap<String, Seq>,
    /// First deliveries at the receiver, and the last one of each record.
    received: HashMap<String, Seq>,
    received_seqs: BTreeSet<Seq>,
    lanes: BTreeMap<(String, String), Seq>,
    /// Behind the webhook's cursor, and not received: rows or dead letters.
    passed: Seq,
    owed: BTreeSet<Seq>,
}

pub struct Oracle {
    world: Arc<World>,
    ledger: Model,
    broker: Broker,
    vendor: Arc<Vendor>,
    seen: Mutex<Seen>,
}

type Verdict = Result<(), String>;

fn hold(holds: bool, why: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(why()) }
}

impl Judge for Oracle {
    fn judge(&self) {
        let mut seen = self.seen.lock().unwrap();
        let verdict = {
            let ledger = self.ledger.look(Shard(0));
            Self::recorded(&mut seen, &ledger)
                .and_then(|()| self.decided(&mut seen, &ledger))
                .and_then(|()| self.consumed(&mut seen, &ledger))
                .and_then(|()| Self::owed(&mut seen, &ledger))
        };
        if let Err(why) = verdict {
            self.world.breaks(why);
        }
    }
}

impl Oracle {
    pub fn new(world: Arc<World>, ledger: Model, broker: Broker, vendor: Arc<Vendor>) -> Arc<Self> {
        Arc::new(Self { world, ledger, broker, vendor, seen: Mutex::default() })
    }

    /// The ledger: seqs are dense (INV-2), the chain links, ids are unique and none is left out (INV-1), positions are
    /// never ahead of what is recorded (INV-1), a page goes on where its stream is (INV-3), and who writes names the epoch
    /// that holds (INV-6).
    fn recorded(seen: &mut Seen, ledger: &State) -> Verdict {
        let from = usize::try_from(seen.head.0).unwrap();
        for event in ledger.events.iter().skip(from) {
            hold(event.seq == seen.head.next(), || format!("INV-2: {} follows {}", event.seq, seen.head))?;
            let before = *seen.chain.get_or_insert_with(|| Chain::start(ledger.id));
            let link = before.link(event.seq, &event.id, &event.content_hash);
            hold(event.chain == link, || format!("the chain does not link at {}", event.seq))?;
            hold(seen.ids.insert(event.id.to_string()), || format!("INV-1: {} is recorded twice", event.id))?;
            if let Some((stream, at)) = number(event) {
                let next = seen.next.entry(stream.to_owned()).or_default();
                hold(at == *next, || format!("INV-1: {} is recorded where {stream} number {next} was due", event.id))?;
                *next += 1;
            }
            (seen.head, seen.chain) = (event.seq, Some(link));
        }
        for (key, stream) in &ledger.streams {
            let position = index_of(stream.row.position.as_str()).unwrap_or(0);
            let recorded = seen.next.get(key.stream.as_str()).copied().unwrap_or(0);
            hold(position <= recorded, || format!("INV-1: {key} stands at {position}, only {recorded} are recorded"))?;
        }
        let misstep = &ledger.misstep;
        hold(misstep.is_none(), || format!("INV-3: a page was recorded from elsewhere: {misstep:?}"))?;
        let epochs = ledger.written.filter(|(named, held)| named != held);
        hold(epochs.is_none(), || format!("INV-6: an owner of another epoch wrote: {epochs:?}"))?;
        for (name, sink) in &ledger.sinks {
            if let Some((SinkState::Halted, why)) = &sink.reported {
                return Err(format!("the sink {name} stands still: {why:?}"));
            }
        }
        let letter = ledger.dead_letters.first_key_value();
        hold(letter.is_none(), || format!("a dead letter: {letter:?}"))
    }

    /// The Kafka sink's transactions, as the broker decides them: each holds a cursor and exactly what the cursor passes
    /// (INV-7), and the ledger's copy is never ahead.
    fn decided(&self, seen: &mut Seen, ledger: &State) -> Verdict {
        for records in self.broker.newly_decided() {
            let mut seqs: Vec<Seq> = records.iter().filter_map(event_of).map(|message| message.seq).collect();
            seqs.sort_unstable();
            let cursors: Vec<_> = records.iter().filter_map(cursor).collect();
            let [cursor] = &cursors[..] else {
                return Err(format!("INV-7: {} cursors in one transaction, with {seqs:?}", cursors.len()));
            };
            hold(cursor.seq >= seen.cursor, || format!("the cursor went back from {} to {}", seen.cursor, cursor.seq))?;
            let passed = (seen.cursor.0 + 1..=cursor.seq.0).map(Seq);
            let wanted = passed.filter(|seq| ledger.event(*seq).is_some_and(|event| KAFKA_RULES.takes(event)));
            let wanted: Vec<Seq> = wanted.collect();
            hold(seqs == wanted, || {
                format!("INV-7: a transaction up to {} holds {seqs:?}, not {wanted:?}", cursor.seq)
            })?;
            let chain = ledger.event(cursor.seq).map_or(Chain::start(ledger.id), |event| event.chain);
            hold(cursor.chain == chain, || format!("the cursor's chain at {} is another", cursor.seq))?;
            seen.cursor = cursor.seq;
        }
        let copy = ledger.sinks.get(KAFKA).and_then(|sink| sink.row.cursor).unwrap_or(Seq::ZERO);
        hold(copy <= seen.cursor, || format!("the copy W is {copy}, the cursor {}", seen.cursor))
    }

    /// What a `read_committed` consumer sees: once each, in order, each naming the one before it, as it was recorded.
    fn consumed(&self, seen: &mut Seen, ledger: &State) -> Verdict {
        for place in self.broker.places() {
            let (from, mut last) = seen.read.get(&place).copied().unwrap_or_default();
            let stable = self.broker.shown(&place).stable;
            for (offset, record) in self.broker.committed(&place, from, stable) {
                let Record::Event(message) = record else { continue };
                let Message { id, seq, prev, chain, value, .. } = message;
                let event = ledger.event(seq).ok_or_else(|| format!("{seq} was delivered and is not recorded"))?;
                let same = *event.id == id && event.body == value && event.chain.to_string() == chain;
                hold(same, || format!("{seq} is not what was recorded"))?;
                hold(prev == last && seq > last, || {
                    format!("{}/{} offset {offset}: {seq} names {prev} and follows {last}", place.0, place.1)
                })?;
                let before = seen.consumed.insert(id, seq);
                hold(before.is_none(), || format!("{seq} was delivered before, as {before:?}"))?;
                last = seq;
            }
            seen.read.insert(place, (stable, last));
        }
        Ok(())
    }

    /// INV-10: what the webhook's cursor has passed was received, or is a row.
    fn owed(seen: &mut Seen, ledger: &State) -> Verdict {
        let cursor = ledger.sinks.get(WEBHOOK).and_then(|sink| sink.row.cursor).unwrap_or(Seq::ZERO);
        while seen.passed < cursor {
            seen.passed = seen.passed.next();
            if ledger.event(seen.passed).is_some_and(|event| WEBHOOK_RULES.takes(event)) {
                seen.owed.insert(seen.passed);
            }
        }
        let Seen { owed, received_seqs, .. } = seen;
        owed.retain(|seq| !received_seqs.contains(seq));
        let lost = owed.iter().find(|seq| !ledger.deliveries.contains_key(&(SinkName::from(WEBHOOK), **seq)));
        hold(lost.is_none(), || format!("INV-10: {lost:?} is behind the cursor {cursor}, not received and no row"))
    }

    /// The receiver takes an event: under the event's own id (INV-13), as it was recorded, and the first deliveries of a
    /// record's events in order (INV-12).
    pub fn received(&self, id: &str, seq: Seq, body: &[u8]) {
        let mut seen = self.seen.lock().unwrap();
        let ledger = self.ledger.look(Shard(0));
        let verdict = (|| {
            let event = ledger.event(seq).ok_or_else(|| format!("{seq} was posted and is not recorded"))?;
            let own = id_of(event.account.as_str(), &event.id);
            hold(own == id, || format!("INV-13: {seq} came as {id}, its id is {own}"))?;
            hold(event.body == body, || format!("{seq} is not what was recorded"))?;
            if seen.received.insert(id.to_owned(), seq).is_some() {
                self.world.count("repeated posts");
                return Ok(());
            }
            seen.received_seqs.insert(seq);
            if event.is_control() {
                return Ok(());
            }
            let lane = (event.event_type.resource().to_owned(), event.record_id.to_string());
            let last = seen.lanes.insert(lane, seq).unwrap_or(Seq::ZERO);
            let same = |other: &&Recorded| {
                other.record_id == event.record_id && other.event_type == event.event_type && WEBHOOK_RULES.takes(other)
            };
            let missed = ledger.events.iter().filter(|other| other.seq > last && other.seq < seq).find(same);
            hold(missed.is_none() && last < seq, || {
                format!("INV-12: {seq} came after {last}, and {:?} has not come yet", missed.map(|other| other.seq))
            })
        })();
        drop(ledger);
        if let Err(why) = verdict {
            self.world.breaks(why);
        }
    }

    /// What is still missing somewhere; none when everything that was emitted is everywhere.
    pub fn missing(&self) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        let ledger = self.ledger.look(Shard(0));
        for stream in STREAMS {
            let (emitted, recorded) = (self.vendor.emitted(stream), seen.next.get(stream).copied().unwrap_or(0));
            if recorded < emitted {
                return Some(format!("{recorded} of {emitted} {stream} are recorded"));
            }
        }
        let head = ledger.head();
        if seen.cursor < head || !self.broker.is_settled() {
            return Some(format!("the Kafka sink stands at {} of {head}", seen.cursor));
        }
        let wanted = ledger.events.iter().filter(|event| KAFKA_RULES.takes(event)).count();
        if seen.consumed.len() < wanted {
            return Some(format!("{} of {wanted} are consumed", seen.consumed.len()));
        }
        let cursor = ledger.sinks.get(WEBHOOK).and_then(|sink| sink.row.cursor).unwrap_or(Seq::ZERO);
        if cursor < head || !ledger.deliveries.is_empty() {
            return Some(format!("the webhook stands at {cursor} of {head}, with {} rows", ledger.deliveries.len()));
        }
        let wanted = ledger.events.iter().filter(|event| WEBHOOK_RULES.takes(event));
        let missing = wanted.map(|event| event.seq).find(|seq| !seen.received_seqs.contains(seq));
        missing.map(|seq| format!("{seq} was never received"))
    }
}

fn event_of(record: &Record) -> Option<&Message> {
    match record {
        Record::Event(message) => Some(message),
        Record::Cursor(_) => None,
    }
}
