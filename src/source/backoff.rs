use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// Never quicker than this, whatever the jitter gives: no tight loop.
const LEAST: Duration = Duration::from_millis(50);

/// Exponential backoff with full jitter: each wait is anywhere between (almost) nothing and a ceiling that doubles.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    base: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(base: Duration, most: Duration) -> Self {
        Self { base, most, failures: 0 }
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many failures there were in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The wait after one more failure; never shorter than what the vendor asks for.
    pub fn next(&mut self, asked: Option<Duration>, rng: &mut StdRng) -> Duration {
        let ceiling = self.base.saturating_mul(1 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        // A wait that the vendor asks for is stretched a little, so that its clients do not return as one.
        let asked = asked.map_or(LEAST, |asked| asked.mul_f64(rng.random_range(1.0..1.1)));
        ceiling.mul_f64(rng.random_range(0.0..1.0)).max(asked).max(LEAST)
    }
}

/// A wait of ±10 %.
pub(super) fn around(wait: Duration, rng: &mut StdRng) -> Duration {
    wait.mul_f64(rng.random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_honour_what_is_asked_for() {
        let mut rng = StdRng::seed_from_u64(1);
        let (base, most) = (Duration::from_millis(500), Duration::from_mins(1));
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            let mut backoff = Backoff::new(base, most);
            for failure in 0..40 {
                let wait = backoff.next(None, &mut rng);
                assert!(wait >= LEAST && wait <= base.saturating_mul(1 << failure.min(20)).min(most));
                longest = longest.max(wait);
            }
            assert!(backoff.next(Some(Duration::from_secs(90)), &mut rng) >= Duration::from_secs(90));
            backoff.reset();
            assert!(backoff.next(None, &mut rng) <= base);
        }
        assert!(longest > most / 2, "the whole range is used");
    }

    #[test]
    fn the_same_seed_gives_the_same_waits() {
        let waits = |seed| {
            let (mut rng, mut backoff) = (StdRng::seed_from_u64(seed), Backoff::new(LEAST * 4, LEAST * 400));
            (0..9).map(|_| backoff.next(None, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }
}
