//! What comes from the side: an operator's orders, retention, and the loss of what a database or a cluster held.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt as _;
use standpipe::event::ports::{ChainAt, Reconcile, StreamState};
use standpipe::event::{Position, Seq, Shard};
use standpipe::ledger::model::{Model, State};

use crate::broker::{Place, Record, cursor};
use crate::oracle::{FAR, KAFKA, Oracle, Sink};
use crate::topics::holds;
use crate::world::{Judge as _, World, pause};

/// What Kafka loses.
#[derive(Debug)]
pub struct Cut {
    pub sink: &'static str,
    /// By shard, up to where nothing is lost.
    pub floors: BTreeMap<Shard, Seq>,
    /// The partitions, and the offsets from which on they are lost.
    pub places: Vec<(Place, usize)>,
}

/// The one who watches over it all.
#[derive(Default)]
pub struct Operator {
    backups: Vec<Vec<State>>,
}

impl Operator {
    /// Now and then something is paused, resumed, or sent back to where it began, what every sink has is forgotten, a
    /// backup is taken or put back, Kafka loses something, or a sink is reconciled.
    pub async fn meddle(&mut self, oracle: &Oracle) {
        let world = &*oracle.world;
        let (what, which, shard) = {
            let mut dice = world.dice();
            let shard = Shard(dice.random_range(0..world.layout.shards));
            (dice.random_range(0..12), dice.random_range(0..4_usize), shard)
        };
        match what {
            0..=2 => order(world, &oracle.ledger, shard, what, which),
            3..=5 if !oracle.is_cut() => expire(world, &mut oracle.ledger.look(shard)),
            6..=8 if !oracle.is_cut() => self.backups.push(oracle.ledger.backup()),
            _ => {}
        }
        if world.befalls(world.weather().rewinds) && !oracle.is_cut() {
            self.rewind(oracle).await;
        }
        if oracle.is_cut() && world.befalls(500) {
            reconcile(world, &oracle.ledger, oracle);
        }
        if world.befalls(world.weather().cuts) && oracle.may_cut() {
            cut(oracle);
        }
    }

    /// PostgreSQL is restored from a backup, or fails over to a standby that lacks the last commits.
    async fn rewind(&mut self, oracle: &Oracle) {
        let world = &*oracle.world;
        let old = world.befalls(400);
        let backup = if old && !self.backups.is_empty() {
            let at = world.dice().random_range(0..self.backups.len());
            self.backups[at].clone()
        } else {
            let standby = oracle.ledger.backup();
            pause(world.up_to(Duration::from_secs(4))).await;
            standby
        };
        if oracle.is_cut() {
            return;
        }
        for shard in (0..world.layout.shards).map(Shard) {
            let (now, then) = (oracle.ledger.look(shard).head(), backup[usize::from(shard.0)].head());
            world.tell(format!("shard {shard} is put back from {now} to {then}"));
        }
        world.count("rewinds");
        oracle.ledger.restore(&backup);
        oracle.rewound();
        // What was kept after it is gone too.
        self.backups.retain(|kept| kept[0].events.len() <= backup[0].events.len());
        oracle.judge();
    }

    /// Nothing is held up any more.
    pub fn let_all_go_on(oracle: &Oracle) {
        for shard in (0..oracle.world.layout.shards).map(Shard) {
            let mut state = oracle.ledger.look(shard);
            for stream in state.streams.values_mut().filter(|stream| stream.row.state == StreamState::Paused) {
                stream.row.state = StreamState::Active;
            }
            for sink in state.sinks.values_mut() {
                sink.row.paused = false;
            }
        }
        reconcile(&oracle.world, &oracle.ledger, oracle);
    }
}

fn order(world: &World, ledger: &Model, shard: Shard, what: u32, which: usize) {
    let mut state = ledger.look(shard);
    let (streams, sinks) = (state.streams.len().max(1), state.sinks.len().max(1));
    if what == 2 {
        for (name, sink) in state.sinks.iter_mut().skip(which % sinks).take(1) {
            world.tell(format!("an operator pauses or resumes {name}"));
            sink.row.paused ^= true;
        }
        return;
    }
    for stream in state.streams.values_mut().skip(which % streams).take(1) {
        if what == 0 {
            world.tell(format!("an operator sends {} back", stream.row.key));
            stream.row.position = Position::tail();
        } else {
            world.tell(format!("an operator pauses or resumes {}", stream.row.key));
            let paused = stream.row.state == StreamState::Paused;
            stream.row.state = if paused { StreamState::Active } else { StreamState::Paused };
        }
    }
}

/// Retention: what every sink has taken, by what the ledger knows of it, and what no row holds, may go.
fn expire(world: &World, state: &mut State) {
    let taken = state.sinks.values().map(|sink| sink.row.cursor.unwrap_or(Seq::ZERO)).min().unwrap_or(Seq::ZERO);
    if state.sinks.len() == 2 + usize::from(world.layout.far) && taken.next() > state.oldest {
        let oldest = Seq(world.dice().random_range(state.oldest.0..=taken.0 + 1));
        // A void goes whole or not at all.
        let within = state.voids.iter().find(|(before, void)| before.next() < oldest && oldest <= void.to);
        let oldest = within.map_or(oldest, |(before, _)| before.next());
        state.oldest = oldest.max(state.oldest);
        world.tell(format!("the ledger keeps events from {} on", state.oldest));
    }
}

/// An operator orders what `standpipe reconcile` orders, for every sink that Kafka has lost something of.
fn reconcile(world: &World, ledger: &Model, oracle: &Oracle) {
    for shard in (0..world.layout.shards).map(Shard) {
        for sink in sinks(world) {
            if !oracle.is_sink_cut(sink.name, shard) {
                continue;
            }
            oracle.ordered(sink.name, shard);
            let mut state = ledger.look(shard);
            if let Some(row) = state.sinks.get_mut(&standpipe::event::SinkName::from(sink.name)) {
                world.tell(format!("an operator has {} reconciled in shard {shard}", sink.name));
                let (rules, after) = row.rules.clone().unzip();
                row.row.reconcile = Some(Reconcile { rules, after: after.unwrap_or(Seq::ZERO) });
            }
        }
    }
}

fn sinks(world: &World) -> impl Iterator<Item = &'static Sink> {
    let far = world.layout.far;
    [&KAFKA, &FAR].into_iter().filter(move |sink| far || sink.name != FAR.name)
}

/// Partitions of one sink lose their ends: of its topics, its cursors, or both.
fn cut(oracle: &Oracle) {
    let world = &*oracle.world;
    let of: Vec<_> = sinks(world).collect();
    let sink = of[world.dice().random_range(0..of.len())];
    let floors: BTreeMap<Shard, Seq> =
        (0..world.layout.shards).map(Shard).map(|shard| (shard, oracle.floor(sink.name, shard))).collect();
    let both = oracle.is_rewound();
    let topics: BTreeSet<_> =
        oracle.broker.places().into_iter().map(|place| place.0).filter(|name| holds(sink, name)).collect();
    // What stays: messages up to the floor, and the first cursor of the present history that has come to it: it is not lost
    // what tells of a rehydration, nor, where PostgreSQL has lost it too, which topics there are.
    let is_firm = |place: &Place, record: &Record| match record {
        Record::Event(message) => message.seq <= floors[&message.shard],
        Record::Cursor(_) => {
            let shard = Shard(u16::try_from(place.1).unwrap());
            let ledger = oracle.ledger.look(shard);
            cursor(record).is_some_and(|cursor| {
                let is_back = ledger.ways.iter().all(|(name, way, _)| {
                    let is_it = cursor.rehydrated.is_some_and(|last| last.seq == way.found && last.chain == way.chain);
                    name.as_str() != sink.name || is_it || cursor.seq > way.found
                });
                let names_all = topics.iter().all(|topic| cursor.topics.contains_key(topic));
                (names_all || !both)
                    && cursor.seq >= floors[&shard]
                    && ledger.chain_at(cursor.seq) == ChainAt::Known(cursor.chain)
                    && is_back
            })
        }
    };
    let mut places = Vec::new();
    for place in oracle.broker.places() {
        let ours = holds(sink, &place.0) || *place.0 == *format!("standpipe.sim.{}.cursor", sink.name);
        if !ours || world.befalls(400) {
            continue;
        }
        let high = oracle.broker.shown(&place).high;
        let all = oracle.broker.committed(&place, 0, high);
        let mut firm = all.iter().filter(|(_, record)| is_firm(&place, record)).map(|(offset, _)| offset + 1);
        let least =
            if place.0.ends_with(".cursor") { firm.next().unwrap_or(high) } else { firm.next_back().unwrap_or(0) };
        if least < high {
            let to = world.dice().random_range(least..high);
            world.tell(format!("{}/{} is cut from {high} to {to}", place.0, place.1));
            places.push((place, to));
        }
    }
    if places.is_empty() {
        return;
    }
    world.count(if both { "losses of both" } else { "cuts" });
    oracle.cut(&Cut { sink: sink.name, floors, places });
    oracle.judge();
    // Who puts both back orders it before anything starts: neither need tell of the other.
    if both {
        reconcile(world, &oracle.ledger, oracle);
    }
}
