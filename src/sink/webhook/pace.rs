//! How hard an endpoint is pressed: fewer attempts at once when it says that it is overloaded, more as it delivers.

use std::time::Duration;

use tokio::time::Instant;

use super::schedule::{PAUSE_BOUND, RETRY_AFTER_BOUNDS};

/// Attempts at once, between one and `max_in_flight`: halved by a throttling answer, grown by one for each round that
/// was delivered.
#[derive(Debug)]
pub struct Pace {
    max: f64,
    limit: f64,
    lowered: Option<Instant>,
    until: Option<Instant>,
}

impl Pace {
    /// At full speed.
    #[must_use]
    pub fn new(max_in_flight: usize) -> Self {
        let max = f64::from(u32::try_from(max_in_flight.max(1)).unwrap_or(u32::MAX));
        Self { max, limit: max, lowered: None, until: None }
    }

    /// Attempts at once, now.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and a u32")]
    pub const fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Until when nothing is sent at all, because the endpoint asked for it.
    #[must_use]
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// An attempt was delivered.
    pub fn delivered(&mut self) {
        if self.limit < self.max {
            self.limit = (self.limit + 1.0 / self.limit).min(self.max);
        }
    }

    /// An attempt that began `began` was told to go slower. What was under way when the limit fell says nothing new.
    pub fn throttled(&mut self, began: Instant, now: Instant, retry_after: Option<Duration>) {
        if self.lowered.is_none_or(|lowered| began >= lowered) {
            self.limit = (self.limit / 2.0).max(1.0);
            self.lowered = Some(now);
        }
        if let Some(wait) = retry_after {
            let until = now + wait.clamp(RETRY_AFTER_BOUNDS.0, PAUSE_BOUND);
            self.until = Some(self.until.map_or(until, |before| before.max(until)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_of_throttling_answers_halves_once_and_deliveries_bring_the_speed_back() {
        let mut pace = Pace::new(64);
        let began = Instant::now();
        let now = began + Duration::from_millis(10);
        for _ in 0..64 {
            pace.throttled(began, now, None);
        }
        assert_eq!(pace.limit(), 32);
        for _ in 0..20 {
            pace.throttled(now, now, None);
        }
        assert_eq!(pace.limit(), 1, "never none");
        for _ in 0..5_000 {
            pace.delivered();
        }
        assert_eq!(pace.limit(), 64);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_endpoint_asks_for_holds_everything_back_within_bounds() {
        let mut pace = Pace::new(64);
        let now = Instant::now();
        pace.throttled(now, now, Some(Duration::from_secs(u64::MAX)));
        assert_eq!(pace.paused_until(now), Some(now + PAUSE_BOUND));
        assert_eq!(pace.paused_until(now + PAUSE_BOUND), None);
    }
}
