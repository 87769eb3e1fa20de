//! Chaos: three nodes of Kafka, PostgreSQL with a streaming standby, two replicas of the program, and Toxiproxy between
//! all of them; judged by the same oracle as the crash test.
//!
//! `CHAOS_FAULTS` (which starts it), `CHAOS_EVENTS` (2,000 for each fault), `CHAOS_MINUTES` (a bound on the faults'
//! time; none) and `CHAOS_SEED` (random, printed). The seed gives the same faults in the same order; `CHAOS_ONLY=KillAt`
//! takes those of them alone whose name contains it.

mod plan;
mod report;
mod story;
mod watch;
mod world;

use std::collections::HashMap;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustix::process::Signal;
use tokio::time::Instant;

use self::plan::Plan;
use self::report::Report;
use self::story::Story;
use self::world::{SHARDS, World};
use crate::asked;
use crate::canonical::Fact;
use crate::oracle::{Known, Oracle, Verdict};
use crate::support::wait::wait_until;

/// Events that each company has when it starts, at most.
const BACKLOG: usize = 10_000;
/// Events a second when the companies have fallen behind the faults.
const CATCH_UP: u32 = 400;
/// How long what was emitted may take to arrive once nothing goes wrong any more.
const ARRIVES_WITHIN: Duration = Duration::from_mins(5);

/// Longer than a cursor waits that goes alone.
const REST: Duration = Duration::from_secs(12);

/// Runs as the environment asks for it.
pub async fn run(faults: usize) {
    let seed = asked("CHAOS_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let events = usize::try_from(asked("CHAOS_EVENTS").unwrap_or(2_000 * faults as u64)).expect("a count");
    let minutes = asked("CHAOS_MINUTES");
    let again = format!("CHAOS_SEED={seed} just chaos {faults} {events}");
    println!("chaos: {again}");
    let mut random = StdRng::seed_from_u64(seed);
    let disks = World::has_disks();
    let plan = Plan::draw(faults, disks, &mut random).only(&std::env::var("CHAOS_ONLY").unwrap_or_default());
    let expected = plan.expected_duration();
    let time = minutes.map_or(expected, |minutes| expected.min(Duration::from_mins(minutes)));
    // Some were there before; the rest comes while things go wrong.
    let backlog = (events / 20).min(BACKLOG);
    let rate = ((events - 2 * backlog) as u64 / 2).div_ceil(time.as_secs().max(1)).max(15);
    let began = Instant::now();
    let (mut world, configurations) = World::start(seed, backlog, rate).await;
    println!("chaos: all servers run after {:.0} s", began.elapsed().as_secs_f64());
    let mut story = Story::default();
    story.report.without_disks = !disks;
    story.begin(&mut world, &configurations).await;
    let deadline = minutes.map(|minutes| began + Duration::from_mins(minutes));
    let mut done = 0;
    for fault in plan.faults() {
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            println!("chaos: its time is over after {done} of {} faults", plan.faults().len());
            break;
        }
        story.inflict(&mut world, fault, &mut random).await;
        done += 1;
        if done % 20 == 0 {
            let (emitted, memory) = (world.emitted().await, watched(&world) >> 20);
            println!(
                "chaos: {done} of {} faults, {emitted} events, {memory} MB, {:.0?}",
                plan.faults().len(),
                began.elapsed()
            );
        }
    }
    story.report.took = began.elapsed();
    let known = stand_still(&world, events).await;
    story.report.emitted = known.len();
    wait_arrived(&mut world, known.len()).await;
    story.report.memory = watched(&world);
    let verdict = judge(&world, &known).await;
    let passed = Report::passed(&world.places);
    println!("{}{} failpoints passed\n{verdict}", story.report, passed.len());
    verdict.assert_clean(&story.timeline, &again);
    story.report.assert_holds(plan.faults(), done);
    for replica in &mut world.replicas {
        replica.process.signal(Signal::TERM);
        let status = replica.process.wait_ended(Duration::from_secs(40)).await;
        assert!(status.success(), "SIGTERM ended with {status}\n{}", replica.process.log_tail());
    }
}

fn watched(world: &World) -> u64 {
    world.watch.as_ref().expect("watched since the start").most_memory()
}

/// Waits for what is left to be emitted, then lets the companies stand still; gives all that they emitted.
async fn stand_still(world: &World, events: usize) -> Known {
    if world.emitted().await < events {
        for account in &world.accounts {
            account.simulator.set_rate(CATCH_UP).await;
        }
        wait_until("enough is emitted", Duration::from_hours(2), async || world.emitted().await >= events).await;
    }
    for account in &world.accounts {
        account.simulator.set_rate(0).await;
    }
    let (mut before, mut since) = (0, Instant::now());
    wait_until("the companies stand still", Duration::from_mins(1), async || {
        let emitted = world.emitted().await;
        if std::mem::replace(&mut before, emitted) != emitted {
            since = Instant::now();
        }
        since.elapsed() > Duration::from_secs(2)
    })
    .await;
    let mut known: Known = HashMap::new();
    for account in &world.accounts {
        let take = |event| {
            let fact = Fact::of(account.name, &event);
            known.insert((account.name.to_owned(), event.id), fact);
        };
        account.simulator.each_emitted(take).await;
    }
    known
}

/// Waits until all of it has arrived, or time is over: then the oracle will tell.
async fn wait_arrived(world: &mut World, count: usize) {
    let all = async {
        wait_until("the receiver has all", 2 * ARRIVES_WITHIN, async || world.receiver.accepted() >= count).await;
        // Kafka has all when no cursor moves any more.
        let (mut before, mut since) = (world.flow(), Instant::now());
        wait_until("the cursors rest", 2 * ARRIVES_WITHIN, async || {
            let flow = world.flow();
            if flow != before {
                (before, since) = (flow, Instant::now());
            }
            since.elapsed() > REST
        })
        .await;
    };
    if tokio::time::timeout(ARRIVES_WITHIN, all).await.is_err() {
        println!("chaos: not everything has arrived in {ARRIVES_WITHIN:?}");
    }
    world.assert_running();
}

async fn judge(world: &World, known: &Known) -> Verdict {
    let mut oracle = Oracle::new(known);
    for topic in world.cluster.topics().await.iter().filter(|topic| topic.starts_with("sell.")) {
        world.cluster.each_committed(topic, |message| oracle.message(&message)).await;
    }
    world.receiver.with_attempts(|attempts| oracle.attempts(attempts));
    // A standby that was promoted may have lacked commits.
    oracle.verdict(&world.ledger.expect("known since the start"), SHARDS, true)
}
