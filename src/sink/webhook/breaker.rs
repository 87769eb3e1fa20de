//! The circuit breaker: an endpoint that mostly fails is left alone, but for a probe now and then.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::BreakerConfig;

/// The pause after a probe that was not made.
const NOT_PROBED: Duration = Duration::from_secs(1);
/// The window is kept in so many parts.
const PARTS: u32 = 30;

/// What the breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Everything.
    Open,
    /// One attempt, whose outcome decides.
    Probe,
    /// Nothing before then (none: not before the probe under way has ended).
    Shut(Option<Instant>),
}

/// The state, as `webhook_breaker_state` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// All attempts pass.
    Closed,
    /// One attempt may pass.
    HalfOpen,
    /// No attempt passes.
    Open,
}

impl BreakerState {
    /// Its value in the metric.
    #[must_use]
    pub const fn gauge(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::HalfOpen => 1.0,
            Self::Open => 2.0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Inner {
    Closed,
    Open { until: Instant },
    Probing,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    begin: Instant,
    attempts: u32,
    failures: u32,
}

/// Counts outcomes over a window and opens when too many are failures.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    inner: Inner,
    /// At most [`PARTS`] + 1, oldest first.
    parts: VecDeque<Part>,
}

impl Breaker {
    /// Closed, with an empty window.
    #[must_use]
    pub const fn new(config: BreakerConfig) -> Self {
        Self { config, inner: Inner::Closed, parts: VecDeque::new() }
    }

    /// What may pass now.
    #[must_use]
    pub fn passage(&self, now: Instant) -> Passage {
        match self.inner {
            Inner::Closed => Passage::Open,
            Inner::Open { until } if now >= until => Passage::Probe,
            Inner::Open { until } => Passage::Shut(Some(until)),
            Inner::Probing => Passage::Shut(None),
        }
    }

    /// The state now.
    #[must_use]
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.passage(now) {
            Passage::Open => BreakerState::Closed,
            Passage::Probe | Passage::Shut(None) => BreakerState::HalfOpen,
            Passage::Shut(Some(_)) => BreakerState::Open,
        }
    }

    /// The probe begins. Its outcome must come to [`Breaker::probed`].
    pub fn begin_probe(&mut self) {
        self.inner = Inner::Probing;
    }

    /// The probe's outcome closes the breaker with an empty window, or keeps it open for another `probe_after`.
    pub fn probed(&mut self, success: bool, now: Instant) {
        if success {
            self.close();
        } else {
            self.inner = Inner::Open { until: now + self.config.probe_after };
        }
    }

    /// The probe was not made after all: another one may be, soon.
    pub fn not_probed(&mut self, now: Instant) {
        self.inner = Inner::Open { until: now + NOT_PROBED };
    }

    /// Closes with an empty window.
    pub fn close(&mut self) {
        self.inner = Inner::Closed;
        self.parts.clear();
    }

    /// An ordinary attempt's outcome. Says whether it opened the breaker.
    pub fn record(&mut self, success: bool, now: Instant) -> bool {
        let length = (self.config.window / PARTS).max(Duration::from_millis(1));
        while self.parts.front().is_some_and(|part| now.duration_since(part.begin) > self.config.window) {
            self.parts.pop_front();
        }
        match self.parts.back_mut() {
            Some(part) if now.duration_since(part.begin) < length => {
                part.attempts += 1;
                part.failures += u32::from(!success);
            }
            _ => self.parts.push_back(Part { begin: now, attempts: 1, failures: u32::from(!success) }),
        }
        // Attempts that were under way when it opened change nothing.
        if success || !matches!(self.inner, Inner::Closed) {
            return false;
        }
        let (attempts, failures) =
            self.parts.iter().fold((0_u32, 0_u32), |sum, part| (sum.0 + part.attempts, sum.1 + part.failures));
        if attempts < self.config.min_attempts || f64::from(failures) < self.config.failure_ratio * f64::from(attempts)
        {
            return false;
        }
        self.inner = Inner::Open { until: now + self.config.probe_after };
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: BreakerConfig = BreakerConfig {
        failure_ratio: 0.7,
        min_attempts: 10,
        window: Duration::from_mins(5),
        probe_after: Duration::from_secs(30),
    };

    #[tokio::test(start_paused = true)]
    async fn seventy_percent_of_ten_opens_and_a_good_probe_closes() {
        let mut breaker = Breaker::new(CONFIG);
        let now = Instant::now();
        for _ in 0..3 {
            assert!(!breaker.record(true, now));
        }
        for _ in 0..6 {
            assert!(!breaker.record(false, now), "nine attempts are too few");
        }
        assert!(breaker.record(false, now), "seven of ten");
        assert_eq!(breaker.passage(now), Passage::Shut(Some(now + CONFIG.probe_after)));
        let later = now + CONFIG.probe_after;
        assert_eq!(breaker.passage(later), Passage::Probe);
        breaker.begin_probe();
        assert_eq!(breaker.passage(later), Passage::Shut(None), "one probe at a time");
        breaker.probed(false, later);
        assert_eq!(breaker.state(later), BreakerState::Open);
        let again = later + CONFIG.probe_after;
        breaker.begin_probe();
        breaker.probed(true, again);
        assert_eq!(breaker.passage(again), Passage::Open);
        assert!(!breaker.record(false, again), "the window begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_before_the_window_is_forgotten() {
        let mut breaker = Breaker::new(CONFIG);
        let now = Instant::now();
        for _ in 0..9 {
            breaker.record(false, now);
        }
        assert!(!breaker.record(false, now + CONFIG.window + Duration::from_secs(1)));
        assert!(breaker.parts.len() <= PARTS as usize + 1);
    }

    proptest! {
        /// It opens exactly when the window holds enough attempts and enough of them failed.
        #[test]
        fn it_opens_by_its_ratio_and_never_below_its_least(outcomes in proptest::collection::vec(any::<bool>(), 1..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let mut breaker = Breaker::new(CONFIG);
                let now = Instant::now();
                let (mut attempts, mut failures) = (0_u32, 0_u32);
                for success in outcomes {
                    attempts += 1;
                    failures += u32::from(!success);
                    let due = !success && attempts >= 10 && f64::from(failures) >= 0.7 * f64::from(attempts);
                    assert_eq!(breaker.record(success, now), due);
                    if due {
                        break;
                    }
                }
            });
        }
    }
}
