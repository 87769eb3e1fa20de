//! The pause before a sink tries again what failed as a whole.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use rand::RngExt as _;

use crate::chance;

/// Growing pauses with jitter: 250 ms, then double each time, never above 30 s; without end.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(250))
            .with_max_delay(Duration::from_secs(30))
            .with_factor(2.0)
            .with_jitter()
            .with_jitter_seed(chance::rng().random())
            .without_max_times();
        Self(builder.build())
    }
}

impl Backoff {
    /// The next pause: up to twice the step, so that replicas do not return all at once.
    pub fn pause(&mut self) -> Duration {
        self.0.next().unwrap_or(Duration::from_secs(30)).min(Duration::from_secs(30))
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_their_bound_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = std::iter::repeat_with(|| backoff.pause()).take(20).collect();
        assert!(pauses[0] >= Duration::from_millis(250) && pauses[0] <= Duration::from_millis(500));
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(30)));
        assert_eq!(pauses[19], Duration::from_secs(30));
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(500));
    }
}
