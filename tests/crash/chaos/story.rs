//! Inflicting the faults of a chaos run, one after another; each must be over, and all flow again, before the next.

use std::time::Duration;

use rand::{Rng, RngExt as _};
use rustix::process::Signal;
use tokio::time::Instant;

use super::plan::{Calls, Fault, Link, PLACES, REPLICAS, Whose};
use super::report::Report;
use super::world::{DEPLOYMENT, LEASE_TTL, SHARDS, World};
use crate::support::cluster::NODES;
use crate::support::postgres::Stop;
use crate::support::raw::{self, ProducerEpoch};
use crate::support::toxiproxy::{Toxic, Way};
use crate::support::wait::{hold, wait_for, wait_until};
use crate::timeline::Timeline;

/// A replica that was told to end does so within its drain time-out.
const ENDS_WITHIN: Duration = Duration::from_secs(40);
/// A failpoint is met within this time by what leads there.
const MET_WITHIN: Duration = Duration::from_mins(3);
/// What a broker answers to an `EndTxn` whose epoch is over.
const REFUSALS: [i16; 3] = [47, 49, 90];
const COORDINATOR_MOVES: [i16; 3] = [14, 15, 16];

/// What happened until now.
#[derive(Debug, Default)]
pub struct Story {
    pub timeline: Timeline,
    pub report: Report,
}

impl Story {
    /// The birth of a world: its replicas are killed wherever only a first start comes by.
    pub async fn begin(&mut self, world: &mut World, configurations: &[String]) {
        for (place, _) in PLACES.iter().filter(|(_, calls)| *calls == Calls::Birth) {
            arm(world, place);
            self.timeline.strike(format!("kill -9 at {place}"));
            match world.replicas.first() {
                None => world.launch(&configurations[0]),
                Some(_) => world.start_again(0),
            }
            wait_for(format!("it ends at {place}"), MET_WITHIN, async || world.killed()).await;
            self.report.met(place);
            self.report.inflicted(&Fault::KillAt(place, Calls::Birth));
        }
        world.start_again(0);
        for configuration in &configurations[1..] {
            world.launch(configuration);
        }
        for replica in &mut world.replicas {
            replica.wait_ready(MET_WITHIN).await;
        }
        world.watch().await;
        let since = world.flow();
        world.wait_flow(&since, "the start").await;
    }

    pub async fn inflict(&mut self, world: &mut World, planned: &Fault, random: &mut impl Rng) {
        let began = Instant::now();
        let fault = &planned.aim(world.owner().await.0);
        let what = format!("{fault:?}");
        let calm = Duration::from_millis(random.random_range(0..800));
        hold("the replicas run", calm, async || {
            world.assert_running();
            true
        })
        .await;
        self.timeline.strike(what.clone());
        println!("chaos: fault {} {what} …", self.timeline.len());
        match *fault {
            Fault::Kill => self.kill(world).await,
            Fault::KillAway => self.kill_away(world).await,
            Fault::KillAt(place, calls) => self.kill_at(world, place, calls).await,
            Fault::HandOver => self.hand_over(world).await,
            Fault::Freeze => self.freeze(world, LEASE_TTL + Duration::from_secs(2), fault).await,
            Fault::Doze(time) => self.freeze(world, time, fault).await,
            _ => {
                let healed = self.disturb(world, fault).await;
                let since = world.flow();
                let flows = world.wait_flow(&since, &what).await;
                self.report.recovered(fault.kind(), flows - healed);
                // Over only then: what comes next is not to be told of this.
                world.cluster.wait_in_sync().await;
            }
        }
        self.report.inflicted(fault);
        println!("chaos:     over after {:.1} s", began.elapsed().as_secs_f64());
    }

    async fn kill(&mut self, world: &mut World) {
        let (owner, _) = world.owner().await;
        world.replicas[owner].process.kill();
        let killed = Instant::now();
        world.start_again(owner);
        self.recover(world, killed, "kill -9, starts again").await;
    }

    async fn kill_away(&mut self, world: &mut World) {
        let (owner, other) = world.owner().await;
        world.replicas[owner].process.kill();
        let killed = Instant::now();
        world.wait_owns_all(other).await;
        let since = world.flow();
        // Started only when the other one delivers, which is what is measured.
        wait_until("the other one delivers", MET_WITHIN, async || world.flow().is_beyond(&since)).await;
        self.report.recovered("kill -9, the other takes over", killed.elapsed());
        world.start_again(owner);
        self.ready(world, owner).await;
    }

    /// Everything must flow again after a kill.
    async fn recover(&mut self, world: &mut World, killed: Instant, how: &'static str) {
        let since = world.flow();
        let flows = world.wait_flow(&since, how).await;
        self.report.recovered(how, flows - killed);
    }

    async fn ready(&mut self, world: &mut World, replica: usize) {
        world.replicas[replica].wait_ready(MET_WITHIN).await;
    }

    async fn kill_at(&mut self, world: &mut World, place: &'static str, calls: Calls) {
        let (owner, other) = world.owner().await;
        arm(world, place);
        let mut lagged = false;
        match calls {
            Calls::Flow | Calls::Minute | Calls::Birth => {}
            Calls::Start => {
                world.replicas[owner].process.kill();
                world.start_again(owner);
            }
            Calls::End => world.replicas[owner].process.signal(Signal::TERM),
            Calls::Doubt => {
                for link in [Link::Ledger(owner), Link::Ledger(other)] {
                    world.links.poison(&link.name(), Way::Down, Toxic::Cut(900)).await;
                }
            }
            Calls::Discard => {
                for node in 0..NODES {
                    world.links.poison(&Link::Kafka(owner, node).name(), Way::Down, Toxic::Reset(0)).await;
                }
            }
            Calls::Rewind => {
                lagged = true;
                fail_over(world, Duration::from_secs(4)).await;
            }
        }
        let killed = wait_for(format!("a replica ends at {place}"), MET_WITHIN, async || world.killed()).await;
        let at = Instant::now();
        self.report.met(place);
        if matches!(calls, Calls::Doubt | Calls::Discard) {
            world.links.heal().await;
        }
        world.start_again(killed);
        let how = if lagged || calls == Calls::Doubt { "kill -9 in trouble" } else { "kill -9, starts again" };
        self.recover(world, at, how).await;
        if lagged {
            world.follow_primary().await;
        }
    }

    async fn hand_over(&mut self, world: &mut World) {
        let (owner, other) = world.owner().await;
        world.replicas[owner].process.signal(Signal::TERM);
        let told = Instant::now();
        world.wait_owns_all(other).await;
        let since = world.flow();
        wait_until("the other one delivers", MET_WITHIN, async || world.flow().is_beyond(&since)).await;
        self.report.recovered("hand-over", told.elapsed());
        let status = world.replicas[owner].process.wait_ended(ENDS_WITHIN).await;
        assert!(status.success(), "SIGTERM ended with {status}\n{}", world.replicas[owner].process.log_tail());
        world.start_again(owner);
        self.ready(world, owner).await;
    }

    async fn freeze(&mut self, world: &mut World, time: Duration, fault: &Fault) {
        let (owner, _) = world.owner().await;
        world.replicas[owner].process.signal(Signal::STOP);
        lasts(world, time).await;
        world.replicas[owner].process.signal(Signal::CONT);
        let thawed = Instant::now();
        let since = world.flow();
        let flows = world.wait_flow(&since, fault.kind()).await;
        self.report.recovered(fault.kind(), flows - thawed);
    }

    /// Everything that strikes what the replicas stand on. Gives when it was over.
    async fn disturb(&mut self, world: &mut World, fault: &Fault) -> Instant {
        match *fault {
            Fault::KillNode(node) => {
                world.cluster.kill(node);
                let killed = Instant::now();
                // Two of three are enough.
                let since = world.flow();
                world.wait_flow(&since, fault.kind()).await;
                self.report.recovered("two of three Kafka nodes deliver", killed.elapsed());
                world.cluster.start_again(node);
            }
            Fault::KillTwoNodes(node) => {
                let both = [node, (node + 1) % NODES];
                for node in both {
                    world.cluster.kill(node);
                }
                lasts(world, Duration::from_secs(2)).await;
                for node in both {
                    world.cluster.start_again(node);
                }
            }
            Fault::FreezeNode(node, time) => {
                world.cluster.signal(node, Signal::STOP);
                lasts(world, time).await;
                world.cluster.signal(node, Signal::CONT);
            }
            Fault::NodeDiskFull => node_disk_full(world).await,
            Fault::KillPostgres => {
                world.primary.postgres.kill().await;
                lasts(world, Duration::from_secs(1)).await;
                world.primary.postgres.start_again().await;
            }
            Fault::RestartPostgres => {
                world.primary.postgres.stop(Stop::Fast).await;
                world.primary.postgres.start_again().await;
            }
            Fault::FreezePostgres(time) => {
                let frozen = world.primary.postgres.freeze();
                lasts(world, time).await;
                frozen.thaw();
            }
            Fault::KillStandby => {
                let standby = world.standby.as_mut().expect("one follows");
                standby.postgres.kill().await;
                standby.postgres.start_again().await;
            }
            Fault::FailOver(lag) => {
                fail_over(world, lag).await;
                let over = Instant::now();
                let since = world.flow();
                world.wait_flow(&since, fault.kind()).await;
                self.report.recovered("a standby behind Kafka delivers", over.elapsed());
                world.follow_primary().await;
            }
            Fault::PostgresDiskFull => postgres_disk_full(world).await,
            Fault::Poison(link, way, toxic, time) => {
                world.links.poison(&link.name(), way, toxic).await;
                lasts(world, time).await;
            }
            Fault::Refuse(link, time) => {
                world.links.enable(&link.name(), false).await;
                lasts(world, time).await;
            }
            Fault::CutOffKafka(replica, time) => {
                for node in 0..NODES {
                    world.links.enable(&Link::Kafka(replica, node).name(), false).await;
                }
                lasts(world, time).await;
            }
            Fault::ClockStep(whose, seconds) => {
                let name = match whose {
                    Whose::Replica(replica) => replica.to_string(),
                    Whose::Postgres => "postgres".to_owned(),
                };
                world.step_clock(&name, seconds);
                lasts(world, Duration::from_secs(4)).await;
                world.step_clock(&name, 0);
            }
            Fault::LateEndTxn => self.late_end_txn(world).await,
            Fault::Kill | Fault::KillAway | Fault::KillAt(..) | Fault::HandOver | Fault::Freeze | Fault::Doze(_) => {
                unreachable!("{fault:?} strikes a replica")
            }
        }
        world.links.heal().await;
        Instant::now()
    }

    /// What a producer in doubt has sent may reach the coordinator long after: by hand, under the epoch that is over.
    async fn late_end_txn(&mut self, world: &mut World) {
        let ledger = world.ledger.expect("known since the start").to_string();
        let ledger: String = ledger.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        let ids: Vec<String> = (0..SHARDS).map(|shard| format!("{DEPLOYMENT}-{ledger}-crm-{shard}")).collect();
        let mut before = Vec::new();
        for id in &ids {
            before.push(wait_for(format!("{id} is known"), MET_WITHIN, async || describe(world, id).await).await);
        }
        let over = replaced(world, &ids, &before).await;
        // Over the next transactions, of which each would be ended by it.
        for round in 0..6 {
            for (id, of) in &over {
                let code = wait_for("a coordinator answers", MET_WITHIN, async || {
                    for port in world.cluster.direct_ports() {
                        let code = raw::end_transaction(port, id, *of, round % 2 == 0).await;
                        if let Some(code) = code.filter(|code| !COORDINATOR_MOVES.contains(code)) {
                            return Some(code);
                        }
                    }
                    None
                })
                .await;
                assert!(REFUSALS.contains(&code), "a late EndTxn of {id} is answered with {code}");
                self.report.refused += 1;
            }
            lasts(world, Duration::from_millis(100)).await;
        }
    }
}

/// Cuts answers until a producer is in doubt and replaced; gives what is over of the epochs that were there before.
async fn replaced(world: &mut World, ids: &[String], before: &[ProducerEpoch]) -> Vec<(String, ProducerEpoch)> {
    let deadline = Instant::now() + MET_WITHIN;
    while Instant::now() < deadline {
        for node in 0..NODES {
            for replica in 0..REPLICAS {
                world.links.poison(&Link::Kafka(replica, node).name(), Way::Down, Toxic::Cut(500)).await;
            }
        }
        lasts(world, Duration::from_millis(1_500)).await;
        world.links.heal().await;
        let patience = Instant::now() + Duration::from_secs(8);
        while Instant::now() < patience {
            let mut over = Vec::new();
            for (id, before) in ids.iter().zip(before) {
                if describe(world, id).await.is_some_and(|now| now != *before) {
                    over.push((id.clone(), *before));
                }
            }
            if !over.is_empty() {
                return over;
            }
            lasts(world, Duration::from_millis(200)).await;
        }
    }
    panic!("no producer was ever in doubt");
}

fn arm(world: &World, place: &str) {
    std::fs::write(world.places.join(place), "").expect("own directory");
}

async fn lasts(world: &mut World, time: Duration) {
    hold("the replicas run", time, async || {
        world.assert_running();
        true
    })
    .await;
}

async fn describe(world: &World, transactional_id: &str) -> Option<ProducerEpoch> {
    for port in world.cluster.direct_ports() {
        if let Some(found) = raw::describe(port, transactional_id).await {
            return Some(found);
        }
    }
    None
}

/// The primary is lost, and the standby takes its place without what it has not heard.
async fn fail_over(world: &mut World, lag: Duration) {
    world.links.poison(&Link::Replication.name(), Way::Down, Toxic::BlackHole).await;
    lasts(world, lag).await;
    world.primary.postgres.kill().await;
    let standby = world.standby.take().expect("one follows");
    standby.postgres.administer("SELECT pg_promote()").await;
    for replica in 0..REPLICAS {
        world.links.turn(&Link::Ledger(replica).name(), standby.postgres.port()).await;
    }
    world.primary = standby;
    world.links.heal().await;
}

async fn postgres_disk_full(world: &mut World) {
    let disk = world.primary.disk.as_ref().expect("planned only with disks");
    let said = world.primary.postgres.said("No space left");
    disk.fill();
    let mut next = Instant::now() + Duration::from_secs(3);
    wait_until("PostgreSQL notices that its disk is full", Duration::from_mins(2), async || {
        if Instant::now() > next {
            // What retention has freed in its tables is written again; another segment of its log needs room.
            world.primary.postgres.try_administer("SELECT pg_switch_wal()").await;
            next = Instant::now() + Duration::from_secs(1);
        }
        world.primary.postgres.said("No space left") > said
    })
    .await;
    lasts(world, Duration::from_secs(2)).await;
    world.primary.disk.as_ref().expect("planned only with disks").free();
    // It may have to recover, and may have given that up.
    let postgres = &mut world.primary.postgres;
    wait_until("PostgreSQL is back", Duration::from_mins(2), async || {
        if postgres.has_ended() {
            postgres.start_again().await;
        }
        postgres.try_administer("SELECT 1").await
    })
    .await;
}

async fn node_disk_full(world: &mut World) {
    world.node_disk.as_ref().expect("planned only with disks").fill();
    let cluster = &mut world.cluster;
    wait_until("a node without room ends", Duration::from_mins(1), async || cluster.has_ended(0)).await;
    world.node_disk.as_ref().expect("planned only with disks").free();
    lasts(world, Duration::from_secs(1)).await;
    world.cluster.start_again(0);
}
