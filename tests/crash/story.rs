//! Inflicting faults, and what is remembered of them.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use rand::{Rng, RngExt as _};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::faults::Fault;
use crate::support::postgres::Stop;
use crate::support::program::Daemon;
use crate::support::wait::{hold, wait_for, wait_until};
use crate::timeline::Timeline;
use crate::world::{LEASE_TTL, SHARDS, World, metric};

/// The promise is about 5 s; here everything else runs on the same machine, unoptimised.
const RECOVERS_WITHIN: Duration = Duration::from_secs(6);

/// What happened.
#[derive(Debug, Default)]
pub struct Story {
    pub timeline: Timeline,
    faults: BTreeMap<&'static str, usize>,
    /// From a kill -9 to the first delivery of the same instance to both sinks.
    recoveries: Vec<Duration>,
    /// From the owner's end to the first delivery of the standby.
    takeovers: Vec<Duration>,
}

impl Story {
    pub async fn inflict(&mut self, world: &mut World, fault: Fault, random: &mut impl Rng) {
        let began = Instant::now();
        println!("crash: {} …", fault.kind());
        let moment = Duration::from_millis(random.random_range(0..1500));
        still_running(world, moment).await;
        self.timeline.strike(fault.kind().to_owned());
        match fault {
            Fault::Kill => self.kill(world, Vec::new()).await,
            Fault::KillAt(place) => self.kill_at(world, place, random.random_range(1..20)).await,
            Fault::KillUnnoted => self.kill_unnoted(world).await,
            Fault::RestartPostgres => restart_postgres(world, Stop::Fast, moment).await,
            Fault::CrashPostgres => restart_postgres(world, Stop::Immediate, moment).await,
            Fault::KillBroker => kill_broker(world).await,
            Fault::StopOwner => self.stop_owner(world).await,
            Fault::KillOwner => self.kill_owner(world).await,
        }
        *self.faults.entry(fault.kind()).or_default() += 1;
        println!("crash:     took {:.1} s", began.elapsed().as_secs_f64());
    }

    /// kill -9, the same instance again with `environment`, and deliveries.
    async fn kill(&mut self, world: &mut World, environment: Vec<(String, String)>) {
        world.daemon.process.kill();
        let killed = Instant::now();
        world.daemon.start_again_with(environment);
        world.wait_delivering().await;
        self.recoveries.push(killed.elapsed());
    }

    async fn kill_at(&mut self, world: &mut World, place: &str, time: u32) {
        world.daemon.process.kill();
        world.daemon.start_again_with(vec![("FAILPOINTS_KILL".to_owned(), format!("{place}={time}"))]);
        let status = world.daemon.process.wait_ended(Duration::from_secs(45)).await;
        assert_eq!(
            status.signal(),
            Some(9),
            "the daemon did not end at {place} but by itself\n{}",
            world.daemon.process.log_tail()
        );
        self.kill(world, Vec::new()).await;
    }

    /// Between a Kafka commit and its note in PostgreSQL: random timing alone misses it.
    async fn kill_unnoted(&mut self, world: &mut World) {
        // Transactions that take their time, so that one is open at nearly every moment.
        let slow = vec![("FAILPOINTS".to_owned(), "kafka::before_commit=sleep(300)".to_owned())];
        self.kill(world, slow).await;
        wait_for("a Kafka commit while PostgreSQL is frozen", Duration::from_mins(1), async || {
            let frozen = world.postgres.freeze();
            let before = world.kafka_cursors().await;
            let deadline = Instant::now() + Duration::from_secs(2);
            while Instant::now() < deadline {
                if !before.is_empty() && world.kafka_cursors().await != before {
                    world.daemon.process.kill();
                    frozen.thaw();
                    return Some(());
                }
            }
            // Nothing was in flight at this moment: another one.
            frozen.thaw();
            let delivered = world.delivered().await;
            world.wait_delivered_more_than(delivered).await;
            None
        })
        .await;
        self.kill(world, Vec::new()).await;
    }

    async fn stop_owner(&mut self, world: &mut World) {
        let standby = world.standby().await;
        world.daemon.process.signal(Signal::STOP);
        let stopped = Instant::now();
        let mut first = std::mem::replace(&mut world.daemon, standby);
        self.take_over(world, stopped).await;
        first.process.signal(Signal::CONT);
        // The revived one finds out that it lost its shards; it does no harm and stays a replica.
        wait_until("the revived replica owns nothing", Duration::from_secs(30), async || {
            assert!(first.process.ended().is_none(), "the revived replica ended\n{}", first.process.log_tail());
            owned(&first).await == Some(0)
        })
        .await;
        first.process.signal(Signal::TERM);
        let status = first.process.wait_ended(Duration::from_secs(35)).await;
        assert!(status.success(), "a standby's SIGTERM ended with {status}\n{}", first.process.log_tail());
    }

    async fn kill_owner(&mut self, world: &mut World) {
        let standby = world.standby().await;
        let mut first = std::mem::replace(&mut world.daemon, standby);
        first.process.kill();
        self.take_over(world, Instant::now()).await;
    }

    async fn take_over(&mut self, world: &mut World, since: Instant) {
        let within = LEASE_TTL + Duration::from_secs(5);
        wait_until("the standby owns all shards", within, async || owned(&world.daemon).await == Some(SHARDS)).await;
        world.wait_delivering().await;
        self.takeovers.push(since.elapsed());
    }

    /// A run that inflicted too little, or recovered too slowly, proves nothing.
    pub fn assert_worthwhile(&self, faults: usize) {
        assert_eq!(self.faults.values().sum::<usize>(), faults);
        if let Some(typical) = percentile(&self.recoveries, 50) {
            assert!(typical <= RECOVERS_WITHIN, "recovery after kill -9 takes {typical:?} (p50)\n{self}");
        }
    }
}

/// The number of shards that a replica says it owns.
async fn owned(daemon: &Daemon) -> Option<u16> {
    let metrics = daemon.metrics().await?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    Some(metric(&metrics, "standpipe_shard_owned", &[]) as u16)
}

async fn still_running(world: &mut World, time: Duration) {
    hold("the daemon runs", time, async || world.daemon.process.ended().is_none()).await;
}

/// After start no outage ends the program: it waits, and delivers when the database is back.
async fn restart_postgres(world: &mut World, how: Stop, pause: Duration) {
    world.postgres.stop(how).await;
    still_running(world, pause).await;
    let delivered = world.delivered().await;
    world.postgres.start_again().await;
    world.wait_delivered_more_than(delivered).await;
}

async fn kill_broker(world: &mut World) {
    world.kafka.kill();
    let delivered = world.delivered().await;
    world.kafka.start_again().await;
    world.wait_delivered_more_than(delivered).await;
}

fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort();
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied()
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "── faults ──")?;
        for (kind, times) in &self.faults {
            writeln!(f, "{times:>5} × {kind}")?;
        }
        for (what, times) in [("recovery after kill -9", &self.recoveries), ("takeover", &self.takeovers)] {
            if let (Some(typical), Some(worst)) = (percentile(times, 50), times.iter().max()) {
                let (typical, worst) = (typical.as_secs_f64(), worst.as_secs_f64());
                writeln!(f, "{what}: p50 {typical:.1} s, max {worst:.1} s, {} times", times.len())?;
            }
        }
        Ok(())
    }
}
