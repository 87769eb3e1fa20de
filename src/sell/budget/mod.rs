//! One budget of requests per account, for everything that calls the vendor (sell-api.md R2, L2).
//!
//! Exact over *any* window, not over calendar minutes: requests are counted in small buckets, and a window counts
//! every bucket that it touches. What is not a poll of the Firehose may use 70 % of each window at most, so that
//! lookups never stop the events.
//!
//! Where replicas share the account ([`Budget::share`]), each pays its requests from slices that the ledger gives it
//! beside that. Without the ledger a replica has what it holds, for 20 s at most, and then nothing: nobody can know what
//! the others do. The streams lose nothing by it, for without the ledger nothing is polled; when it is back they are
//! given their part within a second.

mod slices;
mod window;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::slices::Slices;
use self::window::Window;
use crate::event::AccountName;
use crate::event::budget::{self, BudgetBook, Limit, Requests};
use crate::event::ports::Dialect;
use crate::telemetry::causes;
use crate::telemetry::metrics::{VENDOR_BUDGET_LEASES_TOTAL, VENDOR_BUDGET_REMAINING};

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
/// An ask for a slice is given up after this.
const LEASE_WITHIN: Duration = Duration::from_secs(2);
/// The last ask, which gives back what is held, may take this long.
const LAST_WITHIN: Duration = Duration::from_millis(500);
/// Whoever can only wait for another looks again after this.
const LATER: Duration = Duration::from_mins(1);

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

    /// With the part of each that is not the streams' alone.
    fn shares(self) -> budget::Limits {
        let share = |all: u32| {
            let others = u32::try_from(u64::from(all) * u64::from(OTHERS_PERCENT) / 100).unwrap_or(u32::MAX);
            Limit { all, others: others.max(1) }
        };
        budget::Limits {
            second: self.per_second.map(share),
            minute: share(self.per_minute),
            hour: share(self.per_hour),
        }
    }
}

/// The budget of one account. Cheap to clone; all clones are one budget.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Rings where a slice is needed.
    need: Notify,
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
    limits: budget::Limits,
    /// Where the account is shared with other replicas.
    slices: Option<Slices>,
}

impl Budget {
    /// A budget that nothing has been taken from.
    #[must_use]
    pub fn new(account: &str, limits: Limits) -> Self {
        let gauge = |window: &'static str| metrics::gauge!(VENDOR_BUDGET_REMAINING, "account" => account.to_owned(), "window" => window);
        let shares = limits.shares();
        let state = State {
            since: Instant::now(),
            second: None,
            minute: Window::new(shares.minute, Duration::from_mins(1), 60),
            hour: Window::new(shares.hour, Duration::from_hours(1), 120),
            waiting: BTreeMap::new(),
            next_ticket: 0,
            limits: shares,
            slices: None,
        };
        let (minute, hour) = (gauge("minute"), gauge("hour"));
        let budget = Self(Arc::new(Inner { state: Mutex::new(state), need: Notify::new(), minute, hour }));
        budget.set_limits(limits);
        budget
    }

    /// Changes the limits; what was taken stays taken.
    pub fn set_limits(&self, limits: Limits) {
        let shares = limits.shares();
        let mut state = self.lock();
        if state.limits != shares || state.second.is_some() != shares.second.is_some() {
            state.limits = shares;
            state.minute.limit = shares.minute;
            state.hour.limit = shares.hour;
            // Where it is shared nothing is known of its seconds yet.
            let most = |limit: Limit| if state.slices.is_some() { Limit { all: 0, others: 0 } } else { limit };
            state.second = shares.second.map(|limit| Window::new(most(limit), Duration::from_secs(1), 20));
        }
        state.wake_first();
        drop(state);
        self.0.need.notify_one();
        self.observe();
    }

    /// From now on every request is paid from a slice that [`Budget::keep`] gets.
    pub fn share(&self) {
        let mut state = self.lock();
        if state.slices.is_none() {
            state.slices = Some(Slices::new(Instant::now()));
            if let Some(second) = &mut state.second {
                second.limit = Limit { all: 0, others: 0 };
            }
        }
    }

    /// Keeps a shared budget in slices until `stop`, and gives back what is held then.
    pub async fn keep(&self, account: &AccountName, book: &dyn BudgetBook, stop: &CancellationToken) {
        self.share();
        loop {
            let due = self.lock().due(Instant::now());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(due.unwrap_or_else(|| Instant::now() + LATER)) => {}
                () = self.0.need.notified() => continue,
            }
            if due.is_some() {
                self.lease(account, book, LEASE_WITHIN).await;
            }
        }
        let held = self.lock().end(Instant::now());
        if held {
            self.lease(account, book, LAST_WITHIN).await;
        }
    }

    async fn lease(&self, account: &AccountName, book: &dyn BudgetBook, within: Duration) {
        let Some(ask) = self.lock().ask(account, Instant::now()) else { return };
        let told = tokio::time::timeout(within, book.lease(ask.clone())).await;
        let outcome = match &told {
            Ok(Ok(slice)) => {
                let all = self.lock().answered(&ask, slice, Instant::now());
                if all { "given" } else { "short" }
            }
            Ok(Err(_)) | Err(_) => "failed",
        };
        metrics::counter!(VENDOR_BUDGET_LEASES_TOTAL, "account" => account.to_string(), "outcome" => outcome)
            .increment(1);
        if outcome == "failed" && self.lock().failed(Instant::now()) {
            let why = match &told {
                Ok(Err(error)) => causes(error),
                _ => "no answer in time".to_owned(),
            };
            tracing::warn!(%account, error = why, "the account's budget is out of reach: requests wait until it is back");
        }
        self.observe();
    }

    /// Takes one request, waiting until the limits and everyone of a higher priority let it. Safe to cancel.
    pub async fn take(&self, priority: Priority) -> Slot {
        let turn = Turn::new(self, priority);
        let slot = loop {
            let until = {
                let mut state = self.lock();
                if state.waiting.keys().next() == Some(&turn.key) {
                    match state.take(Instant::now(), priority, &self.0.need) {
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
        let taken = state.take(Instant::now(), priority, &self.0.need).ok();
        drop(state);
        self.observe();
        taken.map(|elapsed| self.slot(elapsed, priority))
    }

    /// How long until the limits alone would let another request pass; those who wait before it are not counted.
    #[must_use]
    pub fn full_for(&self, priority: Priority) -> Duration {
        let mut state = self.lock();
        let (elapsed, others) = (state.since.elapsed(), priority > Priority::Firehose);
        let own = state.full_until(elapsed, others).map_or(Duration::ZERO, |until| until.saturating_sub(elapsed));
        let of_all = state
            .slices
            .as_ref()
            .map_or(Duration::ZERO, |slices| slices.full_until(others).saturating_duration_since(Instant::now()));
        own.max(of_all)
    }

    fn slot(&self, elapsed: Duration, priority: Priority) -> Slot {
        Slot { budget: self.clone(), elapsed, others: priority > Priority::Firehose }
    }

    /// How many requests are left in the current minute and hour.
    #[must_use]
    pub fn remaining(&self) -> (u32, u32) {
        let mut state = self.lock();
        let elapsed = state.since.elapsed();
        let own = (state.minute.remaining(elapsed), state.hour.remaining(elapsed));
        let of_all = state.slices.as_ref().and_then(|slices| slices.left(Instant::now()));
        of_all.map_or(own, |(minute, hour)| (own.0.min(minute), own.1.min(hour)))
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
    /// Takes one and says when, or when to look again; rings where slices are needed.
    fn take(&mut self, now: Instant, priority: Priority, need: &Notify) -> Result<Duration, Instant> {
        let elapsed = now.duration_since(self.since);
        let others = priority > Priority::Firehose;
        let full = self.full_until(elapsed, others);
        if let Some(slices) = &mut self.slices {
            let mut stands = false;
            if let (Some(second), Some(most)) = (&mut self.second, self.limits.second) {
                let (pace, made) = (second.limit, second.counted(elapsed));
                stands = pace.all == 0 || (others && pace.others == 0);
                // More of the second would help, and there may be more.
                let of_all = made.0 + made.1 >= pace.all && pace.all < most.all;
                let of_others = others && made.1 >= pace.others && pace.others < most.others;
                if of_all || of_others {
                    slices.hurry();
                    need.notify_one();
                }
            }
            if full.is_none() && (stands || !slices.spend(now, others)) {
                need.notify_one();
                return Err(now + LATER);
            }
            if slices.is_low(now) {
                need.notify_one();
            }
        }
        if let Some(wait) = full {
            return Err(self.since + wait);
        }
        for window in self.windows() {
            window.add(elapsed, others);
        }
        Ok(elapsed)
    }

    fn waiting(&self) -> Requests {
        let others = self.waiting.keys().filter(|(priority, _)| *priority > Priority::Firehose).count();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Requests { streams: count(self.waiting.len() - others), others: count(others) }
    }

    fn due(&self, now: Instant) -> Option<Instant> {
        self.slices.as_ref()?.due(now, self.waiting())
    }

    fn ask(&mut self, account: &AccountName, now: Instant) -> Option<budget::BudgetAsk> {
        let (waiting, elapsed) = (self.waiting(), now.duration_since(self.since));
        let recent = self.second.as_mut().map_or((0, 0), |second| second.counted(elapsed));
        let recent = Requests { streams: recent.0, others: recent.1 };
        Some(self.slices.as_mut()?.ask(account, self.limits, waiting, recent, now))
    }

    fn answered(&mut self, ask: &budget::BudgetAsk, slice: &budget::BudgetSlice, now: Instant) -> bool {
        if let Some(second) = &mut self.second {
            // Asked before its limit was known: nothing may be made in seconds yet.
            second.limit = slice.pace.unwrap_or(Limit { all: 0, others: 0 });
        }
        let given = self.slices.as_mut().is_some_and(|slices| slices.answered(ask, slice, now));
        self.wake_first();
        given
    }

    fn failed(&mut self, now: Instant) -> bool {
        self.slices.as_mut().is_some_and(|slices| slices.failed(now))
    }

    /// Nothing more is taken; says whether something is left to be told or given back.
    fn end(&mut self, now: Instant) -> bool {
        self.slices.as_mut().is_some_and(|slices| slices.end(now))
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
        let at = state.since + self.elapsed;
        for window in state.windows() {
            window.take_back(self.elapsed, self.others);
        }
        if let Some(slices) = &mut state.slices {
            slices.give_back(at, self.others);
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

#[cfg(test)]
mod tests;
