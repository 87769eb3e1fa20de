//! Counts requests, remembers the busiest second, minute and hour, and refuses what is over a limit.
//!
//! Windows slide: a limit holds in any second or minute, wherever it begins.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::options::Enforced;

/// What a stream may carry in a second, in bytes.
const STREAM_BYTES: f64 = 1_000_000.0;
/// More tokens than this are not told apart.
const MAX_TOKENS: usize = 1_000;
/// More paths than this are not counted apart.
const MAX_PATHS: usize = 10_000;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// A token's digest: the token itself is not kept.
pub(super) type TokenDigest = [u8; 32];

pub(super) fn digest(token: &str) -> TokenDigest {
    Sha256::digest(token).into()
}

/// Requests in the last stretch of time.
#[derive(Debug)]
struct Window {
    length: Duration,
    /// Times in steps of this, with how many requests fell into each.
    step: Duration,
    times: VecDeque<(Instant, u64)>,
    now: u64,
    most: u64,
}

impl Window {
    fn new(length: Duration, step: Duration) -> Self {
        Self { length, step, times: VecDeque::new(), now: 0, most: 0 }
    }

    /// How many requests there were in the window that ends now.
    fn count(&mut self, now: Instant) -> u64 {
        while let Some((at, count)) = self.times.front().copied()
            && now.duration_since(at) >= self.length
        {
            self.times.pop_front();
            self.now -= count;
        }
        self.now
    }

    fn add(&mut self, now: Instant) {
        match self.times.back_mut() {
            Some((at, count)) if now.duration_since(*at) < self.step => *count += 1,
            _ => self.times.push_back((now, 1)),
        }
        self.now += 1;
        self.most = self.most.max(self.now);
    }
}

/// The requests of one token, or of all.
#[derive(Debug)]
struct Windows {
    second: Window,
    minute: Window,
    hour: Window,
}

impl Windows {
    fn new() -> Self {
        Self {
            second: Window::new(SECOND, Duration::from_millis(1)),
            minute: Window::new(MINUTE, Duration::from_millis(10)),
            hour: Window::new(HOUR, Duration::from_millis(500)),
        }
    }

    fn within(&mut self, limits: Enforced, now: Instant) -> bool {
        let (second, minute, hour) = (self.second.count(now), self.minute.count(now), self.hour.count(now));
        match limits {
            Enforced::Off => true,
            Enforced::Reference => minute < 100 && hour < 6_000,
            Enforced::Live => second < 10 && hour < 36_000,
        }
    }

    fn add(&mut self, now: Instant) {
        for window in [&mut self.second, &mut self.minute, &mut self.hour] {
            window.count(now);
            window.add(now);
        }
    }
}

/// What a stream may still carry.
#[derive(Debug)]
struct Flow {
    left: f64,
    at: Instant,
}

/// Everything that was asked.
#[derive(Debug)]
pub(super) struct Traffic {
    limits: Enforced,
    tokens: HashMap<TokenDigest, Windows>,
    all: Windows,
    flows: HashMap<u32, Flow>,
    classes: BTreeMap<&'static str, Class>,
    paths: HashMap<String, u64>,
    over: u64,
}

/// The requests of one kind.
#[derive(Clone, Debug, Default)]
struct Class {
    requests: u64,
    statuses: BTreeMap<u16, u64>,
    bytes: u64,
}

/// What was asked, for a test that proves a budget.
#[derive(Clone, Debug, Serialize)]
pub struct Requests {
    /// All of them, the admin endpoint's excepted.
    pub total: u64,
    /// How many were refused because of a limit.
    pub over_limit: u64,
    /// How many tokens were seen.
    pub tokens_seen: usize,
    /// The most in any second, of one token.
    pub most_in_a_second: u64,
    /// The most in any minute, of one token, to 10 ms.
    pub most_in_a_minute: u64,
    /// The most in any hour, of one token, to half a second.
    pub most_in_an_hour: u64,
    /// By kind of path.
    pub by_path: BTreeMap<&'static str, RequestsOf>,
}

/// What was asked of one kind of path.
#[derive(Clone, Debug, Serialize)]
pub struct RequestsOf {
    /// How many.
    pub requests: u64,
    /// The bytes of their answers.
    pub bytes: u64,
    /// By the answer's status; 0 where there was none.
    pub statuses: BTreeMap<u16, u64>,
}

impl Traffic {
    pub fn new(limits: Enforced) -> Self {
        Self {
            limits,
            tokens: HashMap::new(),
            all: Windows::new(),
            flows: HashMap::new(),
            classes: BTreeMap::new(),
            paths: HashMap::new(),
            over: 0,
        }
    }

    /// Counts a request, and says whether it is within the limits. The number that it has on its path comes with it.
    pub fn ask(&mut self, class: &'static str, path: &str, token: Option<TokenDigest>, now: Instant) -> (u64, bool) {
        self.all.add(now);
        self.classes.entry(class).or_default().requests += 1;
        if self.paths.len() >= MAX_PATHS && !self.paths.contains_key(path) {
            self.paths.clear();
        }
        let number = self.paths.entry(path.to_owned()).or_default();
        *number += 1;
        let number = *number;
        let within = match token {
            Some(token) if self.tokens.len() < MAX_TOKENS || self.tokens.contains_key(&token) => {
                let windows = self.tokens.entry(token).or_insert_with(Windows::new);
                let within = windows.within(self.limits, now);
                windows.add(now);
                within
            }
            _ => true,
        };
        self.over += u64::from(!within);
        (number, within)
    }

    pub fn answered(&mut self, class: &'static str, status: u16) {
        *self.classes.entry(class).or_default().statuses.entry(status).or_default() += 1;
    }

    /// Whether a stream may carry anything now.
    pub fn may_flow(&mut self, reader: u32, now: Instant) -> bool {
        if self.limits == Enforced::Off {
            return true;
        }
        let flow = self.flows.entry(reader).or_insert(Flow { left: STREAM_BYTES, at: now });
        let since = now.duration_since(flow.at).as_secs_f64();
        flow.left = (flow.left + since * STREAM_BYTES).min(STREAM_BYTES);
        flow.at = now;
        let may = flow.left > 0.0;
        self.over += u64::from(!may);
        may
    }

    pub fn flowed(&mut self, class: &'static str, reader: u32, bytes: usize) {
        self.classes.entry(class).or_default().bytes += bytes as u64;
        if let Some(flow) = self.flows.get_mut(&reader) {
            #[expect(clippy::cast_precision_loss, reason = "a page is not that large")]
            let bytes = bytes as f64;
            flow.left -= bytes;
        }
    }

    pub fn report(&self) -> Requests {
        let most = |of: fn(&Windows) -> u64| {
            let tokens = self.tokens.values().map(of).max();
            tokens.unwrap_or_else(|| of(&self.all))
        };
        let by_path = self.classes.iter().map(|(name, class)| {
            let Class { requests, statuses, bytes } = class.clone();
            (*name, RequestsOf { requests, bytes, statuses })
        });
        Requests {
            total: self.classes.values().map(|class| class.requests).sum(),
            over_limit: self.over,
            tokens_seen: self.tokens.len(),
            most_in_a_second: most(|windows| windows.second.most),
            most_in_a_minute: most(|windows| windows.minute.most),
            most_in_an_hour: most(|windows| windows.hour.most),
            by_path: by_path.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_holds_in_any_second_wherever_it_begins() {
        let mut traffic = Traffic::new(Enforced::Live);
        let token = Some(digest("t"));
        tokio::time::advance(Duration::from_millis(900)).await;
        for _ in 0..10 {
            assert!(traffic.ask("poll", "/p", token, Instant::now()).1);
        }
        tokio::time::advance(Duration::from_millis(300)).await;
        assert!(!traffic.ask("poll", "/p", token, Instant::now()).1, "the eleventh in a second that began in between");
        assert!(traffic.ask("poll", "/p", Some(digest("other")), Instant::now()).1, "the limit is a token's own");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(traffic.ask("poll", "/p", token, Instant::now()).1);
        let report = traffic.report();
        assert_eq!((report.most_in_a_second, report.tokens_seen, report.over_limit), (11, 2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_carries_a_megabyte_a_second() {
        let mut traffic = Traffic::new(Enforced::Reference);
        assert!(traffic.may_flow(7, Instant::now()));
        traffic.flowed("poll", 7, 2_500_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!traffic.may_flow(7, Instant::now()));
        assert!(traffic.may_flow(8, Instant::now()), "each stream has its own");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(traffic.may_flow(7, Instant::now()));
    }
}
