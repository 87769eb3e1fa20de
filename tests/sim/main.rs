//! The whole protocol in virtual time: the program's own source, recorder, feeds and sinks of two replicas over a ledger,
//! a Kafka, a vendor and a receiver in memory, under one seed. A process may die, stand still or lose an answer at every
//! call; what must hold is asked after every step, and at the end everything must have arrived everywhere.
//!
//! `SIM_SEEDS=n` runs so many seeds, from `SIM_FROM` on, and tells which fail; `SIM_SEED=s` runs one (with `SIM_TRACE=1`
//! step by step). `STANDPIPE_MUTANT=name` plants a fault (`standpipe::mutant`) and makes the weather of every seed a storm.

#![allow(clippy::unwrap_used, reason = "a way to fail")]

mod broker;
mod cluster;
mod operator;
mod oracle;
mod producer;
mod replica;
mod servers;
mod topics;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::Duration;

use operator::Operator;
use oracle::Oracle;
use rand::RngExt as _;
use replica::{Configured, Replica};
use servers::{ACCOUNTS, STREAMS, Vendor};
use standpipe::chance;
use standpipe::clock::Clock;
use standpipe::event::LedgerId;
use standpipe::ledger::model::Model;
use time::macros::datetime;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;
use world::{World, pause};

/// Seeds that fail before a run gives up; of a mutant one is enough.
const FAILURES: usize = 20;
/// Seeds of an ordinary run.
const SEEDS: u64 = 1_000;
/// When nothing goes wrong any more, everything must have arrived after this.
const ARRIVES_WITHIN: Duration = Duration::from_mins(20);

/// What a seed did.
type Counts = BTreeMap<&'static str, u64>;

thread_local! {
    /// A panic in a task ends that task alone.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.with_borrow_mut(|panicked| *panicked = Some(panic.to_string()));
            before(panic);
        }));
    });
}

/// Runs one seed to its end.
fn run(seed: u64, trace: bool) -> Result<Counts, String> {
    note_panics();
    PANICKED.take();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    chance::seed(Some(seed));
    let ended = runtime.block_on(simulate(seed, trace));
    chance::seed(None);
    match PANICKED.take() {
        Some(panicked) => Err(format!("a stage panicked: {panicked}")),
        None => ended,
    }
}

async fn simulate(seed: u64, trace: bool) -> Result<Counts, String> {
    let start = datetime!(2024-02-14 10:30:00 UTC);
    let world = World::new(seed, trace);
    let id = LedgerId(Uuid::from_u128(world.dice().random()));
    let ledger = Model::with_shards(id, world.layout.shards, Clock::following(start), Duration::from_secs(15));
    let (broker, vendor) = (broker::Broker::default(), std::sync::Arc::new(Vendor::default()));
    let oracle = Oracle::new(world.clone(), ledger.clone(), broker.clone(), vendor.clone());
    let configured = Configured::new(world.layout);
    let mut processes = JoinSet::new();
    for name in ["one", "two"] {
        let replica = Replica {
            name,
            instance: Uuid::from_u128(world.dice().random()),
            world: world.clone(),
            configured: configured.clone(),
            ledger: ledger.clone(),
            broker: broker.clone(),
            vendor: vendor.clone(),
            oracle: oracle.clone(),
            start,
        };
        processes.spawn(replica.live());
    }
    let story = async {
        let mut operator = Operator::default();
        // Between bursts of events the world goes wrong for a while.
        let bursts = world.dice().random_range(4..=10);
        for _ in 0..bursts {
            let account = ACCOUNTS[world.dice().random_range(0..usize::from(world.layout.shards))];
            let stream = STREAMS[world.dice().random_range(0..STREAMS.len())];
            let count = world.dice().random_range(1..=25);
            world.tell(format!("{count} {stream} of {account} are emitted"));
            vendor.emit((account, stream), count);
            operator.meddle(&oracle).await;
            pause(world.up_to(Duration::from_secs(20))).await;
        }
        world.calm();
        Operator::let_all_go_on(&oracle);
        let calm = Instant::now();
        while let Some(missing) = oracle.missing() {
            if calm.elapsed() > ARRIVES_WITHIN {
                world.breaks(format!("not everything arrives: {missing}"));
                return;
            }
            pause(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        biased;
        () = world.failed.notified() => {}
        () = story => {}
    }
    // Whatever the last step did.
    world::Judge::judge(&*oracle);
    match world.broken() {
        Some(why) => Err(why),
        None => Ok(world.counts()),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs seeds on every core; gives what they did, and those that failed, by seed.
fn run_all(seeds: std::ops::Range<u64>) -> (Counts, BTreeMap<u64, String>) {
    let next = AtomicU64::new(seeds.start);
    let most = if std::env::var_os("STANDPIPE_MUTANT").is_some() { 1 } else { FAILURES };
    let done = Mutex::new((Counts::new(), BTreeMap::new()));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || done.lock().unwrap().1.len() >= most {
                        return;
                    }
                    let ended = run(seed, false);
                    let mut done = done.lock().unwrap();
                    match ended {
                        Ok(counts) => counts.iter().for_each(|(what, count)| *done.0.entry(what).or_default() += count),
                        Err(why) => drop(done.1.insert(seed, why)),
                    }
                }
            });
        }
    });
    done.into_inner().unwrap()
}

#[test]
fn everything_arrives_once_and_in_order_whatever_fails() {
    if let Some(seed) = number("SIM_SEED") {
        let trace = std::env::var("SIM_TRACE").is_ok();
        let counts = run(seed, trace).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        println!("seed {seed} holds: {counts:?}");
        return;
    }
    let (from, seeds) = (number("SIM_FROM").unwrap_or(0), number("SIM_SEEDS").unwrap_or(SEEDS));
    let (counts, failed) = run_all(from..from + seeds);
    if let Some(first) = failed.keys().next() {
        let told: String = failed.iter().fold(String::new(), |all, (seed, why)| all + &format!("seed {seed}: {why}\n"));
        panic!(
            "{told}  again, alone: SIM_SEED={first} SIM_TRACE=1 cargo test --features failpoints --test sim everything -- \
             --nocapture"
        );
    }
    println!("{seeds} seeds hold: {counts:?}");
    // A run in which nothing went wrong would show nothing.
    for what in
        ["crashes", "freezes", "answers lost", "requests lost", "late calls", "commits in doubt", "rewinds", "cuts"]
    {
        assert!(counts.get(what).is_some_and(|count| *count > 0) || seeds < 20, "there were no {what}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
