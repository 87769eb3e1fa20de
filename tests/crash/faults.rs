//! What goes wrong, and in which order.

use std::time::Duration;

use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng, RngExt as _};

/// The places at which the daemon is killed by its own hand, at the n-th pass.
pub const FAILPOINTS: [&str; 8] = [
    "ledger::before_commit",
    "ledger::after_commit",
    "kafka::before_begin",
    "kafka::before_commit",
    "kafka::after_commit",
    "kafka::before_note",
    "webhook::after_send",
    "webhook::before_cursor",
];

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 at a moment that nobody chose.
    Kill,
    /// kill -9 at a named place.
    KillAt(&'static str),
    /// PostgreSQL is frozen, Kafka commits, the daemon is killed, PostgreSQL goes on: the commit has no note.
    KillUnnoted,
    /// PostgreSQL restarts, in the ordinary way.
    RestartPostgres,
    /// PostgreSQL ends as in a crash, and recovers.
    CrashPostgres,
    /// The broker is killed and starts again.
    KillBroker,
    /// The owner is stopped by SIGSTOP for longer than its lease, a second replica takes over, the first goes on.
    StopOwner,
    /// The owner is killed while a second replica stands by.
    KillOwner,
}

impl Fault {
    /// Its name in the summary.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 at random",
            Self::KillAt(place) => place,
            Self::KillUnnoted => "kill -9 with PostgreSQL frozen after a Kafka commit",
            Self::RestartPostgres => "PostgreSQL restart",
            Self::CrashPostgres => "PostgreSQL crash",
            Self::KillBroker => "broker kill -9",
            Self::StopOwner => "SIGSTOP of the owner beyond its lease",
            Self::KillOwner => "kill -9 of the owner with a standby",
        }
    }

    /// About how long it takes, aftermath included.
    fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Kill | Self::KillAt(_) => 5,
            Self::KillUnnoted | Self::RestartPostgres | Self::CrashPostgres => 8,
            Self::KillBroker => 15,
            Self::StopOwner | Self::KillOwner => 20,
        })
    }
}

/// The faults of one run, in order.
#[derive(Debug)]
pub struct Plan(Vec<Fault>);

impl Plan {
    /// Every kind at least once when there is room, the cheap ones more often; then shuffled.
    pub fn draw(count: usize, random: &mut impl Rng) -> Self {
        let mut faults = vec![Fault::KillUnnoted, Fault::KillUnnoted, Fault::StopOwner, Fault::CrashPostgres];
        faults.extend([Fault::KillBroker, Fault::Kill, Fault::RestartPostgres, Fault::KillOwner]);
        faults.extend(FAILPOINTS.map(Fault::KillAt));
        faults.truncate(count);
        let often =
            [Fault::Kill, Fault::Kill, Fault::Kill, Fault::KillUnnoted, Fault::CrashPostgres, Fault::KillBroker];
        while faults.len() < count {
            let more = *often.choose(random).expect("not empty");
            let place = *FAILPOINTS.choose(random).expect("not empty");
            faults.push(if random.random_bool(0.4) { Fault::KillAt(place) } else { more });
        }
        faults.shuffle(random);
        Self(faults)
    }

    pub fn faults(&self) -> &[Fault] {
        &self.0
    }

    pub fn expected_duration(&self) -> Duration {
        self.0.iter().map(|fault| fault.duration()).sum()
    }
}
