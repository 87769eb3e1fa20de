//! The one seeded scheduler: virtual time, dice, and a network on which every call can be late, lost or half done.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use standpipe::ledger::model::Lost;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// How often what happens, out of a thousand calls. Each seed has its own, and many of them are nought: a storm of
/// everything at once hides what a single fault does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// The call takes up to half a second.
    pub slow: u32,
    /// The request is lost.
    pub request_lost: u32,
    /// It is carried out, the answer is lost.
    pub answer_lost: u32,
    /// It is carried out up to 25 s later: its caller has given up, and another may own the shard by then.
    pub late: u32,
    /// The caller's process dies: before the call, during it or after it.
    pub crash: u32,
    /// The caller's process stands still for up to 40 s.
    pub freeze: u32,
    /// What vendor and receiver do wrong.
    pub misbehaves: u32,
    /// A transaction's end is in doubt.
    pub doubt: u32,
    /// A transaction's marks come late.
    pub late_marks: u32,
    /// PostgreSQL is put back to what it was, out of a thousand bursts.
    pub rewinds: u32,
    /// Partitions of Kafka lose their ends, out of a thousand bursts.
    pub cuts: u32,
}

/// What there is, drawn by the seed.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Shards, and as many accounts.
    pub shards: u16,
    /// Whether there is a second Kafka sink, with other rules.
    pub far: bool,
}

pub struct World {
    dice: Mutex<StdRng>,
    weather: Weather,
    pub layout: Layout,
    calm: AtomicBool,
    broken: Mutex<Option<String>>,
    pub failed: Notify,
    pub trace: bool,
    began: Instant,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl World {
    pub fn new(seed: u64, trace: bool) -> Arc<Self> {
        let mut dice = StdRng::seed_from_u64(seed);
        // A mutant needs a storm to show itself soon; now and then there is one without.
        let storm = dice.random_ratio(1, 8) || std::env::var_os("STANDPIPE_MUTANT").is_some();
        let mut some = |most: u32| match dice.random_ratio(1, 2) {
            _ if storm => most,
            true => dice.random_range(1..=most),
            false => 0,
        };
        let weather = Weather {
            slow: some(60),
            request_lost: some(15),
            answer_lost: some(15),
            late: some(8),
            crash: some(4),
            freeze: some(3),
            misbehaves: some(150),
            doubt: some(200),
            late_marks: some(300),
            rewinds: some(250),
            cuts: some(250),
        };
        let layout = Layout { shards: 1 + u16::from(dice.random_ratio(1, 3)), far: dice.random_ratio(1, 2) };
        Arc::new(Self {
            dice: Mutex::new(dice),
            weather,
            layout,
            calm: AtomicBool::new(false),
            broken: Mutex::new(None),
            failed: Notify::new(),
            trace,
            began: Instant::now(),
            counts: Mutex::default(),
        })
    }

    pub fn dice(&self) -> MutexGuard<'_, StdRng> {
        self.dice.lock().unwrap()
    }

    /// The weather now.
    pub fn weather(&self) -> Weather {
        if self.calm.load(Ordering::Relaxed) { Weather::default() } else { self.weather }
    }

    /// From now on nothing goes wrong any more.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
        self.tell("calm");
    }

    /// Whether something befalls, so many times in a thousand.
    pub fn befalls(&self, permille: u32) -> bool {
        permille > 0 && self.dice().random_ratio(permille, 1000)
    }

    pub fn up_to(&self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_millis()).unwrap();
        Duration::from_millis(self.dice().random_range(0..=most))
    }

    /// An invariant does not hold: the seed has failed.
    pub fn breaks(&self, why: impl Display) {
        self.tell(format!("BROKEN: {why}"));
        self.broken.lock().unwrap().get_or_insert_with(|| why.to_string());
        self.failed.notify_one();
    }

    pub fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap().clone()
    }

    pub fn tell(&self, what: impl Display) {
        if self.trace {
            println!("{:>9.3} {what}", self.began.elapsed().as_secs_f64());
        }
    }

    /// Counts what happened, so that a run can show that it was no idyll.
    pub fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().unwrap().clone()
    }
}

/// What is checked after every step.
pub trait Judge: Send + Sync {
    fn judge(&self);
}

/// One process's way to everything outside of it.
#[derive(Clone)]
pub struct Net {
    pub world: Arc<World>,
    judge: Arc<dyn Judge>,
    process: Arc<Process>,
}

#[derive(Default)]
pub struct Process {
    pub name: &'static str,
    pub crash: Notify,
    frozen_until: Mutex<Option<Instant>>,
    threads: Mutex<JoinSet<()>>,
}

impl Process {
    pub fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, ..Self::default() })
    }

    /// Everything of it ends, wherever it is.
    pub fn kill(&self) {
        *self.threads.lock().unwrap() = JoinSet::new();
        *self.frozen_until.lock().unwrap() = None;
    }
}

pub async fn pause(length: Duration) {
    if !length.is_zero() {
        sleep_until(Instant::now() + length).await;
    }
}

impl Net {
    pub fn new(world: Arc<World>, judge: Arc<dyn Judge>, process: Arc<Process>) -> Self {
        Self { world, judge, process }
    }

    /// Begins something of the process that nobody waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.process.threads.lock().unwrap().spawn(task);
    }

    pub fn judge(&self) {
        self.judge.judge();
    }

    /// Waits while the process stands still.
    async fn awake(&self) {
        loop {
            let until = *self.process.frozen_until.lock().unwrap();
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => return,
            }
        }
    }

    /// The process dies here, where the dice say so: whatever it was doing is never finished.
    async fn may_crash(&self, permille: u32) {
        if self.world.befalls(permille) {
            self.world.tell(format!("{} crashes", self.process.name));
            self.world.count("crashes");
            self.process.crash.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// Asks a server to do something: it is done on the server's side, whatever becomes of the one who asks.
    pub async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        self.awake().await;
        let weather = self.world.weather();
        // What is rare and dear is sought: a process that stands still in a transaction and wakes when another one begins.
        let (freeze, slow, slowly) = match what {
            "producing" | "EndTxn" => (12 * weather.freeze, weather.slow, Duration::from_millis(500)),
            "init_transactions" => (weather.freeze, 8 * weather.slow, Duration::from_secs(4)),
            _ => (weather.freeze, weather.slow, Duration::from_millis(500)),
        };
        if self.world.befalls(freeze) {
            let about_a_lease = self.world.befalls(700);
            let length = if about_a_lease { Duration::from_secs(9) } else { Duration::ZERO };
            let length = length + self.world.up_to(Duration::from_secs(if about_a_lease { 9 } else { 40 }));
            self.world.tell(format!("{} stands still for {length:?}", self.process.name));
            self.world.count("freezes");
            *self.process.frozen_until.lock().unwrap() = Some(Instant::now() + length);
            self.awake().await;
        }
        self.may_crash(weather.crash).await;
        if self.world.befalls(weather.request_lost) {
            self.world.tell(format!("{}: request lost: {what}", self.process.name));
            self.world.count("requests lost");
            return self.lost().await;
        }
        let (mut there, mut back) = (self.moment(), self.moment());
        if self.world.befalls(slow) {
            there += self.world.up_to(slowly);
            back += self.world.up_to(slowly);
        }
        if self.world.befalls(weather.late) {
            there += self.world.up_to(Duration::from_secs(25));
            self.world.count("late calls");
        }
        let (answer, answered) = oneshot::channel();
        let (world, judge, name) = (self.world.clone(), self.judge.clone(), self.process.name);
        tokio::spawn(async move {
            pause(there).await;
            world.tell(format!("{name}: {what}"));
            let done = work();
            world.count("steps");
            judge.judge();
            pause(back).await;
            drop(answer.send(done));
        });
        self.may_crash(weather.crash).await;
        if self.world.befalls(weather.answer_lost) {
            self.world.tell(format!("{}: answer lost: {what}", self.process.name));
            self.world.count("answers lost");
            return self.lost().await;
        }
        let done = answered.await.map_err(|_| Lost);
        self.awake().await;
        self.may_crash(weather.crash).await;
        done
    }

    /// A broken connection is known soon, a silent one late.
    async fn lost<T>(&self) -> Result<T, Lost> {
        let silent = self.world.dice().random_ratio(1, 4);
        let most = if silent { Duration::from_secs(20) } else { Duration::from_millis(20) };
        pause(self.world.up_to(most)).await;
        self.awake().await;
        Err(Lost)
    }

    /// Most steps take no time at all, so that their order alone is what the dice decide.
    fn moment(&self) -> Duration {
        let mut dice = self.world.dice();
        if dice.random_ratio(1, 2) { Duration::ZERO } else { Duration::from_millis(dice.random_range(1..=4)) }
    }
}
