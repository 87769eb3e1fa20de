//! One budget of requests per account, for everything that calls the vendor (sell-api.md R2, L2).
//!
//! Exact over *any* window, not over calendar minutes: requests are counted in small buckets, and a window counts
//! every bucket that it touches. What is not a poll of the Firehose may use 70 % of each window at most, so that
//! lookups never stop the events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::event::ports::Dialect;
use crate::telemetry::metrics::VENDOR_BUDGET_REMAINING;

/// Who goes first when the budget is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Polls, and what polls need: tokens, listings, subscriptions.
    Firehose,
    /// Reading again what a gap lost.
    Repair,
    /// Lookups that complete an event.
    Enrichment,
    /// Snapshots.
    Snapshot,
    /// Requests of others.
    Passthrough,
}

/// Of a window's requests, what may go to all priorities below [`Priority::Firehose`] together, in percent.
const OTHERS_PERCENT: u32 = 70;

/// How many requests an account may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In any second; none where the dialect knows no such limit.
    pub per_second: Option<u32>,
    /// In any minute.
    pub per_minute: u32,
    /// In any hour.
    pub per_hour: u32,
}

impl Limits {
    /// The dialect's own limits, or what is configured instead.
    #[must_use]
    pub fn of(dialect: Dialect, per_minute: Option<u32>, per_hour: Option<u32>) -> Self {
        let (minute, hour) = match dialect {
            Dialect::Reference => (100, 6_000),
            Dialect::Live => (600, 36_000),
        };
        let per_minute = per_minute.unwrap_or(minute).max(1);
        // The live limit is one of seconds: 600 a minute means 10 a second there.
        let per_second = (dialect == Dialect::Live).then(|| per_minute.div_ceil(60));
        Self { per_second, per_minute, per_hour: per_hour.unwrap_or(hour).max(1) }
    }
}

/// The budget of one account. Cheap to clone; all clones are one budget.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    minute: metrics::Gauge,
    hour: metrics::Gauge,
}

#[derive(Debug)]
struct State {
    since: Instant,
    second: Option<Window>,
    minute: Window,
    hour: Window,
    waiting: BTreeMap<(Priority, u64), Arc<Notify>>,
    next_ticket: u64,
}

impl Budget {
    /// A budget that nothing has been taken from.
    #[must_use]
    pub fn new(account: &str, limits: Limits) -> Self {
        let gauge = |window: &'static str| metrics::gauge!(VENDOR_BUDGET_REMAINING, "account" => account.to_owned(), "window" => window);
        let state = State {
            since: Instant::now(),
            second: None,
            minute: Window::new(limits.per_minute, Duration::from_mins(1), 60),
            hour: Window::new(limits.per_hour, Duration::from_hours(1), 120),
            waiting: BTreeMap::new(),
            next_ticket: 0,
        };
        let budget = Self(Arc::new(Inner { state: Mutex::new(state), minute: gauge("minute"), hour: gauge("hour") }));
        budget.set_limits(limits);
        budget
    }

    /// Changes the limits; what was taken stays taken.
    pub fn set_limits(&self, limits: Limits) {
        let mut state = self.lock();
        state.minute.limit = limits.per_minute;
        state.hour.limit = limits.per_hour;
        state.second = limits.per_second.map(|limit| Window::new(limit, Duration::from_secs(1), 20));
        state.wake_first();
        drop(state);
        self.observe();
    }

    /// Takes one request, waiting until the limits and everyone of a higher priority let it. Safe to cancel.
    pub async fn take(&self, priority: Priority) -> Slot {
        let turn = Turn::new(self, priority);
        let slot = loop {
            let until = {
                let mut state = self.lock();
                if state.waiting.keys().next() == Some(&turn.key) {
                    match state.take(Instant::now(), priority) {
                        Ok(elapsed) => break self.slot(elapsed, priority),
                        Err(until) => Some(until),
                    }
                } else {
                    None
                }
            };
            match until {
                Some(until) => {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(until) => {}
                        () = turn.called.notified() => {}
                    }
                }
                None => turn.called.notified().await,
            }
        };
        drop(turn);
        self.observe();
        slot
    }

    /// Takes one request where that needs no waiting.
    #[must_use]
    pub fn try_take(&self, priority: Priority) -> Option<Slot> {
        let mut state = self.lock();
        if !state.waiting.is_empty() {
            return None;
        }
        let taken = state.take(Instant::now(), priority).ok();
        drop(state);
        self.observe();
        taken.map(|elapsed| self.slot(elapsed, priority))
    }

    /// How long until the limits alone would let another request pass; those who wait before it are not counted.
    #[must_use]
    pub fn full_for(&self, priority: Priority) -> Duration {
        let mut state = self.lock();
        let elapsed = state.since.elapsed();
        state
            .full_until(elapsed, priority > Priority::Firehose)
            .map_or(Duration::ZERO, |until| until.saturating_sub(elapsed))
    }

    fn slot(&self, elapsed: Duration, priority: Priority) -> Slot {
        Slot { budget: self.clone(), elapsed, others: priority > Priority::Firehose }
    }

    /// How many requests are left in the current minute and hour.
    #[must_use]
    pub fn remaining(&self) -> (u32, u32) {
        let mut state = self.lock();
        let elapsed = state.since.elapsed();
        (state.minute.remaining(elapsed), state.hour.remaining(elapsed))
    }

    /// Brings the gauges up to date.
    pub fn observe(&self) {
        let (minute, hour) = self.remaining();
        self.0.minute.set(f64::from(minute));
        self.0.hour.set(f64::from(hour));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes one and says when, or when to look again.
    fn take(&mut self, now: Instant, priority: Priority) -> Result<Duration, Instant> {
        let elapsed = now.duration_since(self.since);
        let others = priority > Priority::Firehose;
        if let Some(wait) = self.full_until(elapsed, others) {
            return Err(self.since + wait);
        }
        for window in self.windows() {
            window.add(elapsed, others);
        }
        Ok(elapsed)
    }

    /// When there may be room again, where there is none now.
    fn full_until(&mut self, elapsed: Duration, others: bool) -> Option<Duration> {
        self.windows().filter_map(|window| window.full_until(elapsed, others)).max()
    }

    fn windows(&mut self) -> impl Iterator<Item = &mut Window> {
        [&mut self.minute, &mut self.hour].into_iter().chain(self.second.as_mut())
    }

    fn wake_first(&self) {
        if let Some(first) = self.waiting.values().next() {
            first.notify_one();
        }
    }
}

/// The right to one request; dropped, it counts as used.
#[derive(Debug)]
#[must_use = "a slot that is not used should be given back"]
pub struct Slot {
    budget: Budget,
    elapsed: Duration,
    others: bool,
}

impl Slot {
    /// The request is not made after all.
    pub fn give_back(self) {
        let mut state = self.budget.lock();
        for window in state.windows() {
            window.take_back(self.elapsed, self.others);
        }
        state.wake_first();
    }
}

/// A place in the queue, given up when dropped.
struct Turn<'a> {
    budget: &'a Budget,
    key: (Priority, u64),
    called: Arc<Notify>,
}

impl<'a> Turn<'a> {
    fn new(budget: &'a Budget, priority: Priority) -> Self {
        let called = Arc::new(Notify::new());
        let mut state = budget.lock();
        let key = (priority, state.next_ticket);
        state.next_ticket += 1;
        state.waiting.insert(key, called.clone());
        Self { budget, key, called }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.waiting.remove(&self.key);
        state.wake_first();
    }
}

/// Counts requests of the last `buckets + 1` buckets, which is never less than any window of `buckets` buckets.
#[derive(Debug)]
struct Window {
    limit: u32,
    bucket: Duration,
    buckets: u64,
    counts: VecDeque<Bucket>,
    all: u32,
    others: u32,
}

#[derive(Debug)]
struct Bucket {
    index: u64,
    all: u32,
    others: u32,
}

impl Window {
    fn new(limit: u32, span: Duration, buckets: u32) -> Self {
        Self { limit, bucket: span / buckets, buckets: u64::from(buckets), counts: VecDeque::new(), all: 0, others: 0 }
    }

    fn index(&self, elapsed: Duration) -> u64 {
        u64::try_from(elapsed.as_nanos() / self.bucket.as_nanos()).unwrap_or(u64::MAX)
    }

    fn forget_old(&mut self, elapsed: Duration) {
        let now = self.index(elapsed);
        while let Some(front) = self.counts.front()
            && front.index + self.buckets < now
        {
            self.all -= front.all;
            self.others -= front.others;
            self.counts.pop_front();
        }
    }

    /// When the oldest bucket is forgotten, where there is no room now.
    fn full_until(&mut self, elapsed: Duration, others: bool) -> Option<Duration> {
        self.forget_old(elapsed);
        let full = self.all >= self.limit || (others && self.others >= self.others_limit());
        let oldest = self.counts.front()?;
        full.then(|| {
            let past = u32::try_from(oldest.index + self.buckets + 1).unwrap_or(u32::MAX);
            self.bucket.saturating_mul(past)
        })
    }

    fn others_limit(&self) -> u32 {
        u32::try_from(u64::from(self.limit) * u64::from(OTHERS_PERCENT) / 100).unwrap_or(u32::MAX).max(1)
    }

    fn add(&mut self, elapsed: Duration, others: bool) {
        let index = self.index(elapsed);
        if self.counts.back().is_none_or(|last| last.index != index) {
            self.counts.push_back(Bucket { index, all: 0, others: 0 });
        }
        let last = self.counts.back_mut().expect("it was just made sure");
        last.all += 1;
        last.others += u32::from(others);
        self.all += 1;
        self.others += u32::from(others);
    }

    fn take_back(&mut self, elapsed: Duration, others: bool) {
        let index = self.index(elapsed);
        // One that was forgotten, or counted before the limits were changed, is not there any more.
        if let Some(bucket) = self.counts.iter_mut().rfind(|bucket| bucket.index == index && bucket.all > 0) {
            bucket.all -= 1;
            self.all -= 1;
            if others && bucket.others > 0 {
                bucket.others -= 1;
                self.others -= 1;
            }
        }
    }

    fn remaining(&mut self, elapsed: Duration) -> u32 {
        self.forget_old(elapsed);
        self.limit.saturating_sub(self.all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIGHT: Limits = Limits { per_second: Some(3), per_minute: 20, per_hour: 100 };

    /// Runs requests that come at given times through a budget, in paused time; gives when each was let through.
    fn run(limits: Limits, wishes: Vec<(u64, Priority)>) -> Vec<(Duration, Priority)> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let budget = Budget::new("acme", limits);
            let start = Instant::now();
            let mut tasks = tokio::task::JoinSet::new();
            for (at, priority) in wishes {
                let budget = budget.clone();
                tasks.spawn(async move {
                    tokio::time::sleep_until(start + Duration::from_millis(at)).await;
                    drop(budget.take(priority).await);
                    (start.elapsed(), priority)
                });
            }
            let mut taken = tasks.join_all().await;
            taken.sort();
            taken
        })
    }

    fn most_in(taken: &[Duration], window: Duration) -> usize {
        let within = |from: Duration| taken.iter().filter(|at| **at >= from && **at < from + window).count();
        taken.iter().map(|from| within(*from)).max().unwrap_or(0)
    }

    fn priority() -> impl Strategy<Value = Priority> {
        prop_oneof![
            Just(Priority::Firehose),
            Just(Priority::Repair),
            Just(Priority::Enrichment),
            Just(Priority::Snapshot),
            Just(Priority::Passthrough)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn no_window_ever_holds_more_than_its_limit_and_the_firehose_keeps_its_share(
            wishes in proptest::collection::vec((0..90_000_u64, priority()), 1..120),
        ) {
            let taken = run(TIGHT, wishes.clone());
            prop_assert_eq!(taken.len(), wishes.len(), "everyone comes through in the end");
            let all: Vec<Duration> = taken.iter().map(|(at, _)| *at).collect();
            prop_assert!(most_in(&all, Duration::from_secs(1)) <= 3);
            prop_assert!(most_in(&all, Duration::from_mins(1)) <= 20);
            prop_assert!(most_in(&all, Duration::from_hours(1)) <= 100);
            let others: Vec<Duration> =
                taken.iter().filter(|(_, priority)| *priority != Priority::Firehose).map(|(at, _)| *at).collect();
            prop_assert!(most_in(&others, Duration::from_mins(1)) <= 14);
            prop_assert!(most_in(&others, Duration::from_hours(1)) <= 70);
        }
    }

    #[test]
    fn the_firehose_goes_before_everyone_who_waits() {
        let mut wishes = vec![(0, Priority::Passthrough); 40];
        wishes.extend(vec![(10, Priority::Firehose); 6]);
        let taken = run(Limits { per_second: None, per_minute: 20, per_hour: 1_000 }, wishes);
        let at_once = taken.iter().filter(|(at, _)| *at < Duration::from_secs(1));
        let (firehose, others): (Vec<_>, Vec<_>) = at_once.map(|taken| taken.1).partition(|p| *p == Priority::Firehose);
        assert_eq!((firehose.len(), others.len()), (6, 14));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_given_up_holds_nobody_back() {
        let budget = Budget::new("acme", Limits { per_second: None, per_minute: 1, per_hour: 100 });
        drop(budget.take(Priority::Firehose).await);
        let impatient = tokio::time::timeout(Duration::from_secs(1), budget.take(Priority::Firehose)).await;
        assert!(impatient.is_err());
        let patient = tokio::time::timeout(Duration::from_secs(62), budget.take(Priority::Passthrough)).await;
        assert!(patient.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_told_and_comes_back() {
        let budget = Budget::new("acme", TIGHT);
        drop(budget.take(Priority::Firehose).await);
        assert_eq!(budget.remaining(), (19, 99));
        budget.try_take(Priority::Passthrough).expect("there is room").give_back();
        assert_eq!(budget.remaining(), (19, 99), "what is given back was never taken");
        tokio::time::advance(Duration::from_secs(62)).await;
        assert_eq!(budget.remaining(), (20, 99));
    }
}
