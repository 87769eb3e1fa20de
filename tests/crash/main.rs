//! kill -9, frozen processes, restarts of everything around: the real binary against a real PostgreSQL, a real Kafka,
//! two simulated accounts (one of each dialect) and a webhook receiver, judged by an oracle that joins what the
//! simulators say they emitted with what a `read_committed` consumer and the receiver saw.
//!
//! `CRASH_FAULTS` (24), `CRASH_EVENTS` (20000) and `CRASH_SEED` (random, printed) make it longer or the same again.
//! The seed gives the same faults in the same order; the moments at which they strike are the machine's. `CHAOS_FAULTS`
//! asks for the larger world of `chaos` instead.

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod support;

mod canonical;
mod chaos;
mod faults;
mod oracle;
mod receiver;
mod story;
mod timeline;
mod world;

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use canonical::Fact;
use faults::Plan;
use oracle::{Known, Oracle};
use story::Story;
use world::{SHARDS, World};

fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// INV-1, INV-2, INV-3, INV-6, INV-7, INV-8, INV-9, INV-10, INV-12, INV-13, INV-17.
/// Field 1: kill -9 at every place at which something has been done and not noted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_doubled_or_reordered_however_it_ends() {
    if let Some(faults) = asked("CHAOS_FAULTS") {
        return chaos::run(usize::try_from(faults).expect("a count")).await;
    }
    let seed = asked("CRASH_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let faults = usize::try_from(asked("CRASH_FAULTS").unwrap_or(24)).expect("a count");
    let events = usize::try_from(asked("CRASH_EVENTS").unwrap_or(20_000)).expect("a count");
    println!("crash: CRASH_SEED={seed} CRASH_FAULTS={faults} CRASH_EVENTS={events}");
    let mut random = StdRng::seed_from_u64(seed);
    let plan = Plan::draw(faults, &mut random);
    let mut world = World::start(seed, events, plan.expected_duration()).await;
    let mut story = Story::default();
    for fault in plan.faults() {
        story.inflict(&mut world, *fault, &mut random).await;
    }
    let emitted = world.wait_emitted(events).await;
    world.wait_delivered(&emitted, Duration::from_mins(3)).await;
    world.stop_gracefully().await;

    let known: Known = emitted
        .iter()
        .map(|(account, event)| (((*account).to_owned(), event.id.clone()), Fact::of(account, event)))
        .collect();
    let mut oracle = Oracle::new(&known);
    world.kafka_messages().await.iter().for_each(|message| oracle.message(message));
    world.receiver.with_attempts(|attempts| oracle.attempts(attempts));
    let verdict = oracle.verdict(&world.ledger_id().await, SHARDS, false);
    let mishaps = world.mishaps().await;
    println!("{story}── Sell ──\n{mishaps:?}\n{verdict}");
    let again = format!("CRASH_SEED={seed} just crash {faults} {events}");
    verdict.assert_clean(&story.timeline, &again);
    story.assert_worthwhile(faults);
}
