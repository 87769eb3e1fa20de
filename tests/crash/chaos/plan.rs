//! What goes wrong in a chaos run, and in which order.

use std::time::Duration;

use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng, RngExt as _};

use crate::support::cluster::NODES;
use crate::support::toxiproxy::{Toxic, Way};

pub const REPLICAS: usize = 2;
pub const ACCOUNTS: [(&str, &str); 2] = [("acme", "reference"), ("globex", "live")];

/// What has to happen so that a process comes by a failpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Events flow.
    Flow,
    /// The database is empty: at the very beginning of a run.
    Birth,
    /// A shard changes hands.
    Start,
    /// A replica is told to end.
    End,
    /// A minute passes.
    Minute,
    /// The ledger's answers are cut off.
    Doubt,
    /// Connections to Kafka are reset.
    Discard,
    /// The ledger falls behind Kafka.
    Rewind,
}

/// The failpoints at which a replica is killed, and what leads there. The two of `reconcile` are met by
/// tests/it/proof/reconcile.rs.
pub const PLACES: [(&str, Calls); 39] = [
    ("source::before_fetch", Calls::Flow),
    ("source::after_fetch", Calls::Flow),
    ("source::after_submit", Calls::Flow),
    ("ledger::before_commit", Calls::Flow),
    ("ledger::after_commit", Calls::Flow),
    ("kafka::before_begin", Calls::Flow),
    ("kafka::after_begin", Calls::Flow),
    ("kafka::after_produce", Calls::Flow),
    ("kafka::before_commit", Calls::Flow),
    ("kafka::after_commit", Calls::Flow),
    ("kafka::before_note", Calls::Flow),
    ("kafka::after_note", Calls::Flow),
    ("webhook::before_send", Calls::Flow),
    ("webhook::after_send", Calls::Flow),
    ("webhook::before_rows", Calls::Flow),
    ("webhook::after_rows", Calls::Flow),
    ("webhook::before_cursor", Calls::Flow),
    ("webhook::after_cursor", Calls::Flow),
    ("ledger::before_renew", Calls::Flow),
    ("ledger::before_migrated", Calls::Birth),
    ("ledger::after_migrated", Calls::Birth),
    ("kafka::first_start", Calls::Birth),
    ("kafka::after_place", Calls::Birth),
    ("ledger::after_lease", Calls::Start),
    ("app::before_stages", Calls::Start),
    ("kafka::after_init", Calls::Start),
    ("kafka::after_cursor", Calls::Start),
    ("app::after_sources", Calls::End),
    ("app::after_recorder", Calls::End),
    ("app::after_sinks", Calls::End),
    ("ledger::before_release", Calls::End),
    ("ledger::after_release", Calls::End),
    ("ledger::before_retention", Calls::Minute),
    ("ledger::after_retention", Calls::Minute),
    ("ledger::in_doubt", Calls::Doubt),
    ("kafka::after_discard", Calls::Discard),
    ("kafka::rehydrate_void", Calls::Rewind),
    ("kafka::rehydrate_skips", Calls::Rewind),
    ("kafka::rehydrate_cursor", Calls::Rewind),
];

/// A link through Toxiproxy. In a plan replica 0 is an owner, whichever that will be, and 1 the other: see [`Fault::aim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// A replica to the ledger.
    Ledger(usize),
    /// A replica to a node of Kafka.
    Kafka(usize, usize),
    /// The nodes of Kafka to one of them.
    Inner(usize),
    /// The quorum of Kafka to one of its nodes.
    Quorum(usize),
    /// The standby to the primary.
    Replication,
    /// A replica to an account's vendor.
    Sell(usize, usize),
    /// A replica to the receiver of webhooks.
    Hook(usize),
}

impl Link {
    pub fn name(self) -> String {
        match self {
            Self::Ledger(replica) => format!("ledger-{replica}"),
            Self::Kafka(replica, node) => format!("kafka-{replica}-{node}"),
            Self::Inner(node) => format!("inner-{node}"),
            Self::Quorum(node) => format!("quorum-{node}"),
            Self::Replication => "replication".to_owned(),
            Self::Sell(replica, account) => format!("sell-{replica}-{}", ACCOUNTS[account].0),
            Self::Hook(replica) => format!("hook-{replica}"),
        }
    }

    /// Links of replicas more often than those of the servers among each other, and an owner's more often.
    fn any(random: &mut impl Rng) -> Self {
        let (replica, node) = (usize::from(random.random_bool(0.25)), random.random_range(0..NODES));
        match random.random_range(0..12) {
            0..3 => Self::Ledger(replica),
            3..6 => Self::Kafka(replica, node),
            6 => Self::Inner(node),
            7 => Self::Quorum(node),
            8 => Self::Replication,
            9 => Self::Sell(replica, random.random_range(0..ACCOUNTS.len())),
            _ => Self::Hook(replica),
        }
    }
}

/// Whose wall clock is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Replica(usize),
    Postgres,
}

/// One thing that goes wrong. Times are how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// kill -9 of an owner, which starts again at once.
    Kill,
    /// kill -9 of an owner, which stays away until the other replica delivers.
    KillAway,
    /// kill -9 at a named place, of whoever comes by first.
    KillAt(&'static str, Calls),
    /// SIGTERM of an owner.
    HandOver,
    /// SIGSTOP of an owner, beyond its lease.
    Freeze,
    /// SIGSTOP of an owner, within its lease.
    Doze(Duration),
    KillNode(usize),
    KillTwoNodes(usize),
    FreezeNode(usize, Duration),
    KillPostgres,
    RestartPostgres,
    FreezePostgres(Duration),
    KillStandby,
    /// The standby takes over, after it has heard nothing for so long.
    FailOver(Duration),
    /// A link is poisoned, one way.
    Poison(Link, Way, Toxic, Duration),
    /// A link refuses connections, and cuts those that are there.
    Refuse(Link, Duration),
    /// A replica loses all its links to Kafka at once.
    CutOffKafka(usize, Duration),
    PostgresDiskFull,
    NodeDiskFull,
    ClockStep(Whose, i64),
    /// An `EndTxn` of an epoch that is over, sent by hand.
    LateEndTxn,
}

impl Fault {
    /// Its name in the closing table.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of an owner",
            Self::KillAway => "kill -9 of an owner that stays away",
            Self::KillAt(..) => "kill -9 at a failpoint",
            Self::HandOver => "hand-over (SIGTERM)",
            Self::Freeze => "SIGSTOP of an owner beyond its lease",
            Self::Doze(_) => "SIGSTOP of an owner for a moment",
            Self::KillNode(_) => "kill -9 of a Kafka node",
            Self::KillTwoNodes(_) => "kill -9 of two Kafka nodes",
            Self::FreezeNode(..) => "SIGSTOP of a Kafka node",
            Self::KillPostgres => "kill -9 of PostgreSQL",
            Self::RestartPostgres => "restart of PostgreSQL",
            Self::FreezePostgres(_) => "SIGSTOP of PostgreSQL",
            Self::KillStandby => "kill -9 of the standby",
            Self::FailOver(_) => "fail-over to the standby",
            Self::Poison(_, _, Toxic::Reset(_), _) => "connections reset",
            Self::Poison(_, _, Toxic::Cut(_), _) => "answers cut",
            Self::Poison(_, _, Toxic::BlackHole, _) => "black hole",
            Self::Poison(..) => "slow link",
            Self::Refuse(..) => "link refused",
            Self::CutOffKafka(..) => "replica cut off from Kafka",
            Self::PostgresDiskFull => "disk full under PostgreSQL",
            Self::NodeDiskFull => "disk full under a Kafka node",
            Self::ClockStep(Whose::Replica(_), _) => "clock step of a replica",
            Self::ClockStep(Whose::Postgres, _) => "clock step of PostgreSQL",
            Self::LateEndTxn => "late EndTxn",
        }
    }

    /// The same where `owner` owns something: now replicas are called by their numbers.
    pub fn aim(self, owner: usize) -> Self {
        let replica = |planned: usize| if planned == 0 { owner } else { REPLICAS - 1 - owner };
        let link = |planned: Link| match planned {
            Link::Ledger(planned) => Link::Ledger(replica(planned)),
            Link::Kafka(planned, node) => Link::Kafka(replica(planned), node),
            Link::Sell(planned, account) => Link::Sell(replica(planned), account),
            Link::Hook(planned) => Link::Hook(replica(planned)),
            other => other,
        };
        match self {
            Self::Poison(planned, way, toxic, time) => Self::Poison(link(planned), way, toxic, time),
            Self::Refuse(planned, time) => Self::Refuse(link(planned), time),
            Self::CutOffKafka(planned, time) => Self::CutOffKafka(replica(planned), time),
            Self::ClockStep(Whose::Replica(planned), by) => Self::ClockStep(Whose::Replica(replica(planned)), by),
            other => other,
        }
    }

    /// About how long it takes, aftermath included.
    fn duration(&self) -> Duration {
        Duration::from_secs(match self {
            Self::KillAt(_, Calls::Rewind) | Self::FailOver(_) => 30,
            Self::KillAt(_, Calls::Minute) => 40,
            Self::KillAway | Self::Freeze | Self::KillTwoNodes(_) => 20,
            Self::KillNode(_) | Self::FreezeNode(..) | Self::NodeDiskFull | Self::PostgresDiskFull => 15,
            Self::KillAt(..) | Self::KillPostgres | Self::RestartPostgres | Self::LateEndTxn => 10,
            Self::FreezePostgres(time) | Self::Poison(_, _, _, time) | Self::Refuse(_, time) => time.as_secs() + 6,
            _ => 8,
        })
    }

    /// One of the kinds that a run mostly consists of.
    fn any(random: &mut impl Rng) -> Self {
        let node = random.random_range(0..NODES);
        match random.random_range(0..100) {
            0..8 => Self::Kill,
            8..11 => Self::KillAway,
            11..17 => Self::HandOver,
            17..20 => Self::Freeze,
            20..25 => Self::Doze(moment(random)),
            25..29 => Self::KillNode(node),
            29..31 => Self::KillTwoNodes(node),
            31..34 => Self::FreezeNode(node, 2 * moment(random)),
            34..37 => Self::KillPostgres,
            37..39 => Self::RestartPostgres,
            39..42 => Self::FreezePostgres(2 * moment(random)),
            42..43 => Self::KillStandby,
            43..47 => Self::FailOver(moment(random)),
            47..49 => Self::PostgresDiskFull,
            49..51 => Self::NodeDiskFull,
            51..54 => Self::ClockStep(Whose::Replica(random.random_range(0..REPLICAS)), step(random)),
            54..56 => Self::ClockStep(Whose::Postgres, step(random)),
            56..59 => Self::LateEndTxn,
            59..62 => Self::CutOffKafka(0, moment(random)),
            62..66 => Self::Refuse(Link::any(random), moment(random)),
            66..72 => Self::poison(Toxic::Reset(random.random_range(0..200)), random),
            72..79 => Self::poison(Toxic::Cut(random.random_range(1..20_000)), random),
            79..85 => Self::poison(Toxic::BlackHole, random),
            85..87 => Self::poison(Toxic::Latency(random.random_range(50..800), 50), random),
            87..88 => Self::poison(Toxic::Slow(random.random_range(5..50)), random),
            88..89 => Self::poison(Toxic::Sliced(random.random_range(20..200)), random),
            _ => {
                let often: Vec<_> = PLACES.iter().filter(|(_, calls)| *calls == Calls::Flow).collect();
                let (place, calls) = often.choose(random).expect("not empty");
                Self::KillAt(place, *calls)
            }
        }
    }

    fn poison(toxic: Toxic, random: &mut impl Rng) -> Self {
        let way = if random.random_bool(0.5) { Way::Up } else { Way::Down };
        // What cuts or resets does so at once; a black hole is to outlast a time-out now and then.
        let longest = if toxic == Toxic::BlackHole { 12_000 } else { 4_000 };
        Self::Poison(Link::any(random), way, toxic, Duration::from_millis(random.random_range(500..longest)))
    }
}

fn moment(random: &mut impl Rng) -> Duration {
    Duration::from_millis(random.random_range(500..5_500))
}

fn step(random: &mut impl Rng) -> i64 {
    let size = random.random_range(5..90);
    if random.random_bool(0.5) { size } else { -size }
}

/// The faults of one run, in order.
#[derive(Debug)]
pub struct Plan(Vec<Fault>);

impl Plan {
    /// So many faults beside those of the birth: every kind and every place at least once when there is room; then
    /// shuffled. Without small disks none is filled.
    pub fn draw(count: usize, disks: bool, random: &mut impl Rng) -> Self {
        let places = PLACES.iter().filter(|(_, calls)| *calls != Calls::Birth);
        let mut places: Vec<Fault> = places.map(|(place, calls)| Fault::KillAt(place, *calls)).collect();
        places.shuffle(random);
        let moment = Duration::from_secs(3);
        let mut faults = vec![
            Fault::FailOver(moment),
            Fault::LateEndTxn,
            Fault::Kill,
            Fault::HandOver,
            Fault::KillNode(1),
            Fault::KillPostgres,
            Fault::Poison(Link::Ledger(0), Way::Down, Toxic::BlackHole, moment),
            Fault::Poison(Link::Kafka(0, 1), Way::Down, Toxic::Cut(700), moment),
            Fault::Poison(Link::Ledger(0), Way::Up, Toxic::Reset(0), moment),
            Fault::PostgresDiskFull,
            Fault::NodeDiskFull,
            Fault::ClockStep(Whose::Postgres, 45),
            Fault::ClockStep(Whose::Replica(0), -45),
            Fault::Freeze,
            Fault::KillAway,
            Fault::CutOffKafka(0, moment),
            Fault::KillTwoNodes(0),
            Fault::FreezeNode(2, moment),
            Fault::FreezePostgres(moment),
            Fault::RestartPostgres,
            Fault::KillStandby,
        ];
        if count < faults.len() + places.len() {
            // A short run has no minutes to wait for.
            places.retain(|fault| !matches!(fault, Fault::KillAt(_, Calls::Minute)));
        }
        faults.extend(places);
        faults.truncate(count);
        while faults.len() < count {
            faults.push(Fault::any(random));
        }
        if !disks {
            let is_full = |fault: &Fault| matches!(fault, Fault::PostgresDiskFull | Fault::NodeDiskFull);
            faults.iter_mut().filter(|fault| is_full(fault)).for_each(|fault| *fault = Fault::Kill);
        }
        faults.shuffle(random);
        Self(faults)
    }

    /// Only those whose name contains some text, for a look at them alone.
    pub fn only(mut self, text: &str) -> Self {
        self.0.retain(|fault| format!("{fault:?}").contains(text));
        self
    }

    pub fn faults(&self) -> &[Fault] {
        &self.0
    }

    pub fn expected_duration(&self) -> Duration {
        self.0.iter().map(Fault::duration).sum()
    }
}
