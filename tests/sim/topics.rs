//! What must hold of the Kafka sinks: of each transaction as the broker decides it, and of what a `read_committed`
//! consumer sees.

use std::collections::{BTreeMap, BTreeSet};

use standpipe::event::ports::{ChainAt, SinkState};
use standpipe::event::{Chain, Seq, Shard};
use standpipe::ledger::model::State;

use crate::broker::{Broker, Message, Place, Record, cursor};
use crate::operator::Cut;
use crate::oracle::{At, FAR, History, KAFKA, Sink, Verdict, hold};

/// A sink in a shard.
#[derive(Default)]
struct Delivered {
    /// As decided.
    cursor: Option<At>,
    /// The events that its topics hold.
    ids: BTreeSet<String>,
}

/// A sink's topics, as a consumer reads them.
#[derive(Default)]
struct Read {
    ids: BTreeSet<String>,
    /// What came again, or will: it is outside the order promise.
    exempt: BTreeSet<String>,
    /// Seqs whose messages Kafka has lost: links may name them.
    lost: BTreeSet<(Shard, Seq)>,
    /// Kafka has lost something, and an operator has not had it mended yet: up to where nothing was lost, by shard.
    cut: BTreeMap<Shard, Seq>,
    /// The shards in which an operator has ordered it.
    ordered: BTreeSet<Shard>,
}

pub struct Topics {
    sinks: Vec<(&'static Sink, Read)>,
    delivered: BTreeMap<(&'static str, Shard), Delivered>,
    /// How far each partition was read, and the last seq of each shard there.
    partitions: BTreeMap<Place, (usize, BTreeMap<Shard, Seq>)>,
}

impl Topics {
    pub fn new(far: bool) -> Self {
        let sinks = [&KAFKA, &FAR].into_iter().filter(|sink| far || sink.name != FAR.name);
        Self {
            sinks: sinks.map(|sink| (sink, Read::default())).collect(),
            delivered: BTreeMap::new(),
            partitions: BTreeMap::new(),
        }
    }

    pub fn is_cut_in(&self, name: &str, shard: Shard) -> bool {
        self.sinks.iter().any(|(sink, read)| sink.name == name && read.cut.contains_key(&shard))
    }

    pub fn is_cut(&self, name: &str) -> bool {
        self.sinks.iter().any(|(sink, read)| sink.name == name && !read.cut.is_empty())
    }

    pub fn is_any_cut(&self) -> bool {
        self.sinks.iter().any(|(_, read)| !read.cut.is_empty())
    }

    /// An operator has ordered that what was lost be mended.
    pub fn ordered(&mut self, name: &str, shard: Shard) {
        for (_, read) in self.sinks.iter_mut().filter(|(sink, _)| sink.name == name) {
            read.ordered.insert(shard);
        }
    }

    /// Replays that a sink wished for on its way back.
    pub fn exempt(&mut self, ledger: &State) {
        for (replay, event, _) in &ledger.replays {
            for (_, read) in self.sinks.iter_mut().filter(|(sink, _)| sink.name == replay.sink.as_str()) {
                read.exempt.insert(event.id.to_string());
            }
        }
    }

    /// Transactions, as the broker decides them: each holds a cursor and exactly what the cursor passes that the sink has
    /// not delivered before (INV-7, INV-18); and what mends a topic nothing that is there.
    pub fn decided(&mut self, broker: &Broker, histories: &mut [History]) -> Verdict {
        for decided in broker.newly_decided() {
            let (rest, shard) = decided.id.rsplit_once('-').expect("a transactional id");
            let shard = Shard(shard.parse().expect("a shard"));
            let (sink, read) = self.sinks.iter().find(|(sink, _)| rest.ends_with(sink.name)).expect("a sink");
            let history = &mut histories[usize::from(shard.0)];
            let known = self.delivered.entry((sink.name, shard)).or_default();
            let cursors: Vec<_> = decided.records.iter().filter_map(|(_, record)| cursor(record)).collect();
            let mut messages: Vec<&Message> =
                decided.records.iter().filter_map(|(_, record)| event_of(record)).collect();
            messages.sort_unstable_by_key(|message| message.seq);
            let seqs: Vec<Seq> = messages.iter().map(|message| message.seq).collect();
            let [cursor] = &cursors[..] else {
                return Err(format!("INV-7: {} cursors in one transaction, with {seqs:?}", cursors.len()));
            };
            let (before, to) = (known.cursor.map_or(Seq::ZERO, |(seq, _)| seq), (cursor.seq, cursor.chain));
            for message in &messages {
                let event = history.event((message.seq, message.chain.parse().expect("a chain")));
                let event = event.ok_or_else(|| format!("{} was delivered and is not recorded", message.seq))?;
                let same = *event.id == message.id && event.body == message.value && sink.takes(event);
                hold(same, || format!("{} is not what {} takes", message.seq, sink.name))?;
            }
            if read.cut.is_empty() {
                hold(to.0 >= before, || format!("the cursor of {} went back from {before} to {}", sink.name, to.0))?;
                let ids: Vec<&str> = messages.iter().map(|message| &*message.id).collect();
                let wanted = history.ways(before, to).into_iter().map(|way| {
                    let new = way.into_iter().filter(|event| sink.takes(event) && !known.ids.contains(&*event.id));
                    new.map(|event| &*event.id).collect::<Vec<_>>()
                });
                let wanted: Vec<_> = wanted.collect();
                hold(wanted.contains(&ids), || {
                    format!("INV-7: {} from {before} to {} holds {ids:?}, not {wanted:?}", sink.name, to.0)
                })?;
            }
            for message in messages {
                history.used.insert((message.seq, message.chain.parse::<Chain>().expect("a chain").0));
                let is_new = known.ids.insert(message.id.clone());
                hold(is_new, || format!("{} was delivered to {} before", message.id, sink.name))?;
            }
            known.cursor = Some(to);
            history.used.insert((to.0, to.1.0));
        }
        Ok(())
    }

    /// What a `read_committed` consumer sees: once each, as it was recorded, in order, each naming the one before it.
    pub fn consumed(&mut self, broker: &Broker, histories: &[History]) -> Verdict {
        for place in broker.places() {
            let Some((sink, read)) = self.sinks.iter_mut().find(|(sink, _)| holds(sink, &place.0)) else { continue };
            let (from, lasts) = self.partitions.entry(place.clone()).or_default();
            let stable = broker.shown(&place).stable;
            for (offset, record) in broker.committed(&place, *from, stable) {
                let Record::Event(message) = record else { continue };
                let Message { id, shard, seq, prev, chain, value, replay, is_repair, .. } = message;
                let at = (seq, chain.parse::<Chain>().expect("a chain"));
                let event = histories[usize::from(shard.0)].event(at);
                let same = event.is_some_and(|event| *event.id == id && event.body == value);
                hold(same, || format!("{seq} is not what was recorded"))?;
                if !is_repair {
                    let last = lasts.insert(shard, seq).unwrap_or(Seq::ZERO);
                    let links = prev == last || read.lost.contains(&(shard, prev));
                    hold(links && seq > last, || {
                        format!("{}/{} offset {offset}: {seq} names {prev} and follows {last}", place.0, place.1)
                    })?;
                }
                if replay.is_none() && !is_repair {
                    sink.in_order(&id, |before| read.ids.contains(before), &read.exempt)?;
                }
                hold(read.ids.insert(id), || format!("{seq} was delivered before"))?;
            }
            *from = stable;
        }
        Ok(())
    }

    /// An order to reconcile that was carried out leaves nothing missing of what its cursor passes.
    pub fn reconciled(&mut self, shard: Shard, ledger: &State) -> Verdict {
        for (sink, read) in &mut self.sinks {
            let is_open = sink.row(ledger).is_none_or(|sink| sink.row.reconcile.is_some());
            let is_done = !is_open && read.ordered.contains(&shard);
            let Some(floor) = read.cut.get(&shard).copied().filter(|_| is_done) else { continue };
            let Some(known) = self.delivered.get(&(sink.name, shard)) else { continue };
            let passed = known.cursor.map_or(Seq::ZERO, |(seq, _)| seq);
            let comes_again = |seq| {
                let mut replays = ledger.replays.iter();
                replays.any(|(replay, ..)| replay.sink.as_str() == sink.name && replay.of == seq)
            };
            let passed_by = ledger.events.iter().filter(|event| event.seq > floor && event.seq <= passed);
            let owed = passed_by.filter(|event| sink.takes(event) && !comes_again(event.seq));
            let missing = owed.map(|event| &event.id).find(|id| !known.ids.contains(&***id));
            hold(missing.is_none(), || format!("{} is reconciled up to {passed} without {missing:?}", sink.name))?;
            read.cut.remove(&shard);
            read.ordered.remove(&shard);
        }
        Ok(())
    }

    /// Whether nothing is under way in a shard that a loss in Kafka would be more than. PostgreSQL may have been rewound a
    /// moment ago, so that both have lost something.
    pub fn agrees(&self, shard: Shard, ledger: &State) -> bool {
        self.sinks.iter().all(|(sink, _)| {
            let (row, known) =
                (sink.row(ledger), self.delivered.get(&(sink.name, shard)).and_then(|known| known.cursor));
            let (Some(row), Some((seq, _))) = (row, known) else { return false };
            let is_running = row.reported.as_ref().is_some_and(|(state, _)| *state == SinkState::Running);
            let replayed = ledger.replays.iter().all(|(.., recorded)| recorded.is_some_and(|recorded| recorded <= seq));
            let is_back = ledger.ways.iter().all(|(.., done)| *done);
            is_running && replayed && is_back && row.rules.is_some()
        })
    }

    /// Whether a sink's cursor is not on the ledger's chain.
    pub fn is_ahead(&self, shard: Shard, ledger: &State) -> bool {
        self.delivered
            .iter()
            .filter(|((_, of), _)| *of == shard)
            .filter_map(|(_, known)| known.cursor)
            .any(|(seq, chain)| !matches!(ledger.chain_at(seq), ChainAt::Known(known) if known == chain))
    }

    /// Kafka has lost the ends of partitions: what was there is not delivered any more.
    pub fn cut(&mut self, broker: &Broker, cut: &Cut) {
        let (sink, read) = self.sinks.iter_mut().find(|(sink, _)| sink.name == cut.sink).expect("a sink");
        read.cut.clone_from(&cut.floors);
        for (place, to) in &cut.places {
            for record in broker.truncate(place, *to) {
                let Record::Event(message) = record else { continue };
                for (_, known) in self.delivered.iter_mut().filter(|((name, _), _)| *name == sink.name) {
                    known.ids.remove(&message.id);
                }
                read.ids.remove(&message.id);
                read.lost.insert((message.shard, message.seq));
                read.exempt.insert(message.id);
            }
            if let Some((from, lasts)) = self.partitions.get_mut(place) {
                *from = (*from).min(*to);
                lasts.clear();
                for (_, record) in broker.committed(place, 0, *to) {
                    if let Record::Event(message) = record
                        && !message.is_repair
                    {
                        lasts.insert(message.shard, message.seq);
                    }
                }
            }
        }
        for (place, _) in cut.places.iter().filter(|(place, _)| place.0.ends_with(".cursor")) {
            let shard = Shard(u16::try_from(place.1).expect("a shard"));
            let last = broker.cursor_below(place, usize::MAX).and_then(|(value, _)| cursor(&Record::Cursor(value)));
            if let Some(known) = self.delivered.get_mut(&(sink.name, shard)) {
                known.cursor = last.map(|cursor| (cursor.seq, cursor.chain));
            }
        }
    }

    /// What a shard's sinks have not come to.
    pub fn missing(&self, shard: Shard, ledger: &State) -> Option<String> {
        for (sink, read) in &self.sinks {
            let Some(known) = self.delivered.get(&(sink.name, shard)) else {
                return Some(format!("{} has not begun in shard {shard}", sink.name));
            };
            let at = known.cursor.map_or(Seq::ZERO, |(seq, _)| seq);
            if at < ledger.head() || !read.cut.is_empty() {
                return Some(format!("{} stands at {at} of {} in shard {shard}", sink.name, ledger.head()));
            }
            let mut control = ledger.events.iter().filter(|event| event.is_control());
            if let Some(event) = control.find(|event| !known.ids.contains(&*event.id)) {
                return Some(format!("{} did not get the announcement {}", sink.name, event.seq));
            }
        }
        None
    }

    /// A sink in whose topics an event is missing that it takes.
    pub fn lacks(&self, id: &str, number: usize) -> Option<&'static str> {
        let mut takers = self.sinks.iter().filter(|(sink, _)| sink.takes_number(number));
        takers.find(|(_, read)| !read.ids.contains(id)).map(|(sink, _)| sink.name)
    }

    /// What may be lost of a sink: its partitions, and from which message on.
    pub fn floor(&self, sink: &str, ledger: &State) -> Seq {
        let (sink, _) = self.sinks.iter().find(|(known, _)| known.name == sink).expect("a sink");
        let row = sink.row(ledger);
        let rules = row.and_then(|row| row.rules.as_ref()).map_or(Seq::ZERO, |(_, after)| *after);
        let voids = ledger.voids.iter().map(|(_, void)| void.to);
        let ways = ledger.ways.iter().map(|(_, way, _)| way.found.max(way.goes_on));
        let kept = Seq(ledger.oldest.0.saturating_sub(1));
        voids.chain(ways).chain([rules, kept]).max().unwrap_or(Seq::ZERO)
    }
}

/// Whether a topic is a sink's, and holds its events.
pub fn holds(sink: &Sink, topic: &str) -> bool {
    if sink.name == FAR.name { topic == "far" } else { topic.starts_with("sell.") }
}

fn event_of(record: &Record) -> Option<&Message> {
    match record {
        Record::Event(message) => Some(message),
        Record::Cursor(_) => None,
    }
}
