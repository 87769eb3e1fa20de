//! What must hold, after every step and at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use standpipe::event::ports::SinkState;
use standpipe::event::{Chain, Recorded, Seq, Shard, SinkName};
use standpipe::ledger::model::{Model, State};
use standpipe::sink::webhook::webhook_id;

use crate::broker::Broker;
use crate::operator::Cut;
use crate::servers::{ACCOUNTS, RECORDS, STREAMS, Source, Vendor, id, index_of, number};
use crate::topics::Topics;
use crate::world::{Judge, World};

/// A sink, and the rule by which it leaves out an event now and then.
#[derive(Debug)]
pub struct Sink {
    pub name: &'static str,
    pub filter: &'static str,
    leaves_out: (usize, usize),
}

pub const KAFKA: Sink = Sink { name: "crm", filter: "int(sequence) % 7 != 3", leaves_out: (7, 3) };
pub const FAR: Sink = Sink { name: "far", filter: "int(sequence) % 3 != 1", leaves_out: (3, 1) };
pub const WEBHOOK: Sink = Sink { name: "ops", filter: "int(sequence) % 5 != 2", leaves_out: (5, 2) };

impl Sink {
    /// As the filter says, and not by it.
    pub fn takes(&self, event: &Recorded) -> bool {
        let is_meant = event.replay.as_ref().is_none_or(|replay| replay.sink.as_str() == self.name);
        is_meant && (event.is_control() || number(&event.id).is_none_or(|(_, number)| self.takes_number(number)))
    }

    pub fn takes_number(&self, number: usize) -> bool {
        number % self.leaves_out.0 != self.leaves_out.1
    }

    pub fn row<'s>(&self, ledger: &'s State) -> Option<&'s standpipe::ledger::model::Sink> {
        ledger.sinks.get(&SinkName::from(self.name))
    }

    /// The first deliveries of one record's events keep their order: what came before it is there.
    pub fn in_order(&self, event: &str, is_there: impl Fn(&str) -> bool, exempt: &BTreeSet<String>) -> Verdict {
        let Some((source, number)) = number(event) else { return Ok(()) };
        let before = (0..number).rev().filter(|at| (number - at).is_multiple_of(RECORDS) && self.takes_number(*at));
        let last = before.map(|at| id(source, at)).find(|id| !exempt.contains(id));
        let missed = last.filter(|last| !is_there(last));
        hold(missed.is_none(), || format!("INV-12: {event} came to {}, and {missed:?} has not come yet", self.name))
    }
}

/// A place in a shard's history. The same seq may have stood for different events, before and after the ledger was lost.
pub type At = (Seq, Chain);

/// What was ever recorded in a shard, whatever became of it.
#[derive(Default)]
pub struct History {
    /// The present head, and what the ledger holds.
    head: Seq,
    chain: Option<Chain>,
    ids: BTreeSet<String>,
    next: BTreeMap<Source, usize>,
    events: HashMap<At, (Recorded, At)>,
    chains: HashMap<Seq, Vec<Chain>>,
    /// The ends of voids, and what stands before them.
    voids: HashMap<At, At>,
    /// Where a sink ever was: by its cursors, and by its messages.
    pub used: BTreeSet<(Seq, [u8; 32])>,
}

impl History {
    pub fn event(&self, at: At) -> Option<&Recorded> {
        self.events.get(&at).map(|(event, _)| event)
    }

    /// The ways from a place behind `after` to `to`, and the events on them: one that crosses voids, and one that had
    /// come through before they were.
    pub fn ways(&self, after: Seq, to: At) -> Vec<Vec<&Recorded>> {
        let (mut open, mut whole) = (vec![(to, Vec::new())], Vec::new());
        while let Some((at, mut way)) = open.pop() {
            if at.0 <= after {
                way.reverse();
                whole.push(way);
                continue;
            }
            if let Some(before) = self.voids.get(&at) {
                open.push((*before, way.clone()));
            }
            if let Some((event, before)) = self.events.get(&at) {
                way.push(event);
                open.push((*before, way));
            }
        }
        whole
    }

    /// The ledger is not what it was.
    fn rewound(&mut self) {
        (self.head, self.chain) = (Seq::ZERO, None);
        self.ids.clear();
        self.next.clear();
    }

    /// The ledger: seqs are dense (INV-2) but for voids, which end where a sink was (INV-18); the chain links,
    /// ids are unique and none is left out (INV-1), positions are never ahead of what is recorded (INV-1), a page goes on
    /// where its stream is (INV-3), and who writes names the epoch that holds (INV-6).
    fn recorded(&mut self, ledger: &State) -> Verdict {
        let from = ledger.events.partition_point(|event| event.seq <= self.head);
        for event in &ledger.events[from..] {
            self.cross(ledger, event.seq)?;
            hold(event.seq == self.head.next(), || format!("INV-2: {} follows {}", event.seq, self.head))?;
            let before = *self.chain.get_or_insert_with(|| Chain::start(ledger.id));
            let link = before.link(event.seq, &event.id, &event.content_hash);
            hold(event.chain == link, || format!("the chain does not link at {}", event.seq))?;
            let is_new = self.ids.insert(event.id.to_string());
            hold(is_new != event.replay.is_some(), || format!("INV-1: {} is recorded twice", event.id))?;
            if let Some((source, at)) = number(&event.id).filter(|_| event.replay.is_none()) {
                let next = self.next.entry(source).or_default();
                hold(at == *next, || {
                    format!("INV-1: {} is recorded where {source:?} number {next} was due", event.id)
                })?;
                *next += 1;
            }
            let place = (event.seq, link);
            if self.events.insert(place, (event.clone(), (self.head, before))).is_none() {
                self.chains.entry(event.seq).or_default().push(link);
            }
            (self.head, self.chain) = (event.seq, Some(link));
        }
        self.cross(ledger, Seq(u64::MAX))?;
        for (key, stream) in &ledger.streams {
            let source = source(key.account.as_str(), key.stream.as_str());
            let position = index_of(stream.row.position.as_str()).unwrap_or(0);
            let recorded = self.next.get(&source).copied().unwrap_or(0);
            hold(position <= recorded, || format!("INV-1: {key} stands at {position}, only {recorded} are recorded"))?;
        }
        let misstep = &ledger.misstep;
        hold(misstep.is_none(), || format!("INV-3: a page was recorded from elsewhere: {misstep:?}"))?;
        let epochs = ledger.written.filter(|(named, held)| named != held);
        hold(epochs.is_none(), || format!("INV-6: an owner of another epoch wrote: {epochs:?}"))?;
        let letter = ledger.dead_letters.first_key_value();
        hold(letter.is_none(), || format!("a dead letter: {letter:?}"))
    }

    /// Crosses the voids that begin at the head, before `next`.
    fn cross(&mut self, ledger: &State, next: Seq) -> Verdict {
        while let Some((before, void)) =
            ledger.voids.iter().find(|(before, void)| *before == self.head && void.to < next)
        {
            let end = (void.to, void.chain);
            hold(self.used.contains(&(void.to, void.chain.0)), || {
                format!("INV-18: the void from {before} to {} ends where no sink stood", void.to)
            })?;
            self.voids.insert(end, (self.head, self.chain.unwrap_or(Chain::start(ledger.id))));
            (self.head, self.chain) = (end.0, Some(end.1));
        }
        Ok(())
    }
}

fn source(account: &str, stream: &str) -> Source {
    let known = |all: &[&'static str], name: &str| *all.iter().find(|known| **known == name).unwrap();
    (known(&ACCOUNTS, account), known(&STREAMS, stream))
}

/// What the receiver has.
#[derive(Default)]
struct Receiver {
    received: BTreeSet<String>,
    /// By shard, what is behind the webhook's cursor and was not received: rows.
    owed: Vec<(Seq, BTreeMap<Seq, String>)>,
}

impl Receiver {
    /// INV-10: what the webhook's cursor has passed was received, or is a row.
    fn owed(&mut self, shard: usize, ledger: &State) -> Verdict {
        let cursor = WEBHOOK.row(ledger).and_then(|sink| sink.row.cursor).unwrap_or(Seq::ZERO);
        let (passed, owed) = &mut self.owed[shard];
        let from = ledger.events.partition_point(|event| event.seq <= *passed);
        for event in ledger.events[from..].iter().take_while(|event| event.seq <= cursor) {
            if WEBHOOK.takes(event) {
                owed.insert(event.seq, event.id.to_string());
            }
        }
        *passed = cursor.max(*passed);
        owed.retain(|_, id| !self.received.contains(id));
        let kept = |seq: &Seq| ledger.deliveries.contains_key(&(SinkName::from(WEBHOOK.name), *seq));
        let lost = owed.iter().find(|(seq, _)| !kept(seq));
        hold(lost.is_none(), || format!("INV-10: {lost:?} is behind the cursor {cursor}, not received and no row"))
    }
}

pub struct Oracle {
    pub world: Arc<World>,
    pub ledger: Model,
    pub broker: Broker,
    vendor: Arc<Vendor>,
    shards: Vec<Shard>,
    seen: Mutex<Seen>,
}

struct Seen {
    histories: Vec<History>,
    topics: Topics,
    receiver: Receiver,
    rewound: bool,
}

pub type Verdict = Result<(), String>;

pub fn hold(holds: bool, why: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(why()) }
}

impl Judge for Oracle {
    fn judge(&self) {
        if let Err(why) = self.judged(&mut self.seen.lock().unwrap()) {
            self.world.breaks(why);
        }
    }
}

impl Oracle {
    pub fn new(world: Arc<World>, ledger: Model, broker: Broker, vendor: Arc<Vendor>) -> Arc<Self> {
        let shards: Vec<Shard> = (0..world.layout.shards).map(Shard).collect();
        let seen = Seen {
            histories: shards.iter().map(|_| History::default()).collect(),
            topics: Topics::new(world.layout.far),
            receiver: Receiver { received: BTreeSet::new(), owed: vec![Default::default(); shards.len()] },
            rewound: false,
        };
        Arc::new(Self { world, ledger, broker, vendor, shards, seen: Mutex::new(seen) })
    }

    fn judged(&self, seen: &mut Seen) -> Verdict {
        let Seen { histories, topics, receiver, rewound } = seen;
        for (at, shard) in self.shards.iter().enumerate() {
            let ledger = self.ledger.look(*shard);
            histories[at].recorded(&ledger)?;
            receiver.owed(at, &ledger)?;
            topics.exempt(&ledger);
            let refused = ledger.refused.as_ref().filter(|_| !*rewound);
            hold(refused.is_none(), || format!("the ledger refuses: {refused:?}"))?;
            for (name, sink) in &ledger.sinks {
                if let Some((SinkState::Halted, why)) = &sink.reported
                    && !topics.is_cut(name.as_str())
                {
                    return Err(format!("the sink {name} stands still: {why:?}"));
                }
            }
        }
        topics.decided(&self.broker, histories)?;
        topics.consumed(&self.broker, histories)?;
        for shard in &self.shards {
            topics.reconciled(*shard, &self.ledger.look(*shard))?;
        }
        Ok(())
    }

    /// The ledger was put back to what it was.
    pub fn rewound(&self) {
        let mut seen = self.seen.lock().unwrap();
        seen.rewound = true;
        seen.histories.iter_mut().for_each(History::rewound);
        seen.receiver.owed.iter_mut().for_each(|owed| *owed = Default::default());
    }

    /// What of Kafka may be lost now, of what was not lost before; none while something else is being mended.
    pub fn may_cut(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        let agrees = |shard: &Shard| seen.topics.agrees(*shard, &self.ledger.look(*shard));
        self.broker.is_settled() && !seen.topics.is_any_cut() && self.shards.iter().all(agrees)
    }

    /// Whether a sink has come further than PostgreSQL, or elsewhere, since it was rewound.
    pub fn is_rewound(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        self.shards.iter().any(|shard| seen.topics.is_ahead(*shard, &self.ledger.look(*shard)))
    }

    pub fn is_cut(&self) -> bool {
        self.seen.lock().unwrap().topics.is_any_cut()
    }

    pub fn is_sink_cut(&self, sink: &str, shard: Shard) -> bool {
        self.seen.lock().unwrap().topics.is_cut_in(sink, shard)
    }

    pub fn ordered(&self, sink: &str, shard: Shard) {
        self.seen.lock().unwrap().topics.ordered(sink, shard);
    }

    pub fn floor(&self, sink: &str, shard: Shard) -> Seq {
        self.seen.lock().unwrap().topics.floor(sink, &self.ledger.look(shard))
    }

    /// Kafka loses the ends of partitions.
    pub fn cut(&self, cut: &Cut) {
        self.seen.lock().unwrap().topics.cut(&self.broker, cut);
    }

    /// The receiver takes an event: under the event's own id (INV-13), as it was recorded, and the first deliveries of a
    /// record's events in order (INV-12).
    pub fn received(&self, id: &str, (shard, seq): (Shard, Seq), body: &[u8]) {
        let mut seen = self.seen.lock().unwrap();
        let verdict = (|| {
            let Seen { histories, receiver, .. } = &mut *seen;
            let history = &histories[usize::from(shard.0)];
            let chains = history.chains.get(&seq).into_iter().flatten();
            let mut events = chains.filter_map(|chain| history.event((seq, *chain)));
            let event = events.find(|event| webhook_id(event) == id && event.body == body);
            let event = event.ok_or_else(|| format!("INV-13: {seq} came as {id}, and is no such event"))?;
            if !receiver.received.insert(event.id.to_string()) {
                self.world.count("repeated posts");
                return Ok(());
            }
            WEBHOOK.in_order(&event.id, |before| receiver.received.contains(before), &BTreeSet::new())
        })();
        if let Err(why) = verdict {
            self.world.breaks(why);
        }
    }

    /// What is still missing somewhere; none when everything that was emitted is everywhere.
    pub fn missing(&self) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        if !self.broker.is_settled() {
            return Some("a transaction is open".to_owned());
        }
        for (history, shard) in seen.histories.iter().zip(&self.shards) {
            let ledger = self.ledger.look(*shard);
            let cursor = WEBHOOK.row(&ledger).and_then(|sink| sink.row.cursor).unwrap_or(Seq::ZERO);
            if cursor < history.head || !ledger.deliveries.is_empty() {
                let rows = ledger.deliveries.len();
                return Some(format!(
                    "the webhook stands at {cursor} of {} in shard {shard}, with {rows} rows",
                    history.head
                ));
            }
            let mut control = ledger.events.iter().filter(|event| event.is_control());
            if let Some(event) = control.find(|event| !seen.receiver.received.contains(&*event.id)) {
                return Some(format!("the announcement {} was never received", event.seq));
            }
            if let Some(missing) = seen.topics.missing(*shard, &ledger) {
                return Some(missing);
            }
        }
        for account in ACCOUNTS.iter().take(self.shards.len()) {
            for stream in STREAMS {
                let source = (*account, stream);
                let emitted = self.vendor.emitted(source);
                let recorded: usize = seen.histories.iter().filter_map(|history| history.next.get(&source)).sum();
                if recorded < emitted {
                    return Some(format!("{recorded} of {emitted} {source:?} are recorded"));
                }
                for at in 0..emitted {
                    let id = id(source, at);
                    if WEBHOOK.takes_number(at) && !seen.receiver.received.contains(&id) {
                        return Some(format!("{id} was never received"));
                    }
                    if let Some(sink) = seen.topics.lacks(&id, at) {
                        return Some(format!("{id} is not in the topics of {sink}"));
                    }
                }
            }
        }
        None
    }
}
