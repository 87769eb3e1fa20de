//! When a failed delivery is tried again.

use std::time::Duration;

use rand::{Rng, RngExt};

/// A `Retry-After` is honoured from one second to one day: longer than the longest wait of the default schedule helps
/// nobody, and a receiver's mistake must not silence it for a year.
pub const RETRY_AFTER_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));
/// For so long, at most, does a `Retry-After` hold back the whole endpoint.
pub const PAUSE_BOUND: Duration = Duration::from_hours(1);

/// The waits between attempts.
#[derive(Clone, Debug)]
pub struct Schedule(Vec<Duration>);

impl Schedule {
    /// One wait before each further attempt.
    #[must_use]
    pub const fn new(waits: Vec<Duration>) -> Self {
        Self(waits)
    }

    /// The wait after `failed` attempts, 20 % more or less so that what failed together does not return together, and
    /// never less than the endpoint asked for; none when the attempts are used up.
    pub fn wait(&self, failed: u32, retry_after: Option<Duration>, random: &mut impl Rng) -> Option<Duration> {
        let wait = *self.0.get(usize::try_from(failed.checked_sub(1)?).ok()?)?;
        let wait = wait.mul_f64(random.random_range(0.8..=1.2));
        Some(retry_after.map_or(wait, |asked| wait.max(asked.clamp(RETRY_AFTER_BOUNDS.0, RETRY_AFTER_BOUNDS.1))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn attempts_are_used_up_after_the_last_wait() {
        let schedule = Schedule::new(vec![Duration::from_secs(5), Duration::from_mins(5)]);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        assert!(schedule.wait(1, None, &mut random).is_some());
        assert!(schedule.wait(2, None, &mut random).is_some());
        assert_eq!(schedule.wait(3, None, &mut random), None);
        assert_eq!(schedule.wait(u32::MAX, Some(Duration::from_secs(1)), &mut random), None);
    }

    proptest! {
        #[test]
        fn a_wait_lies_within_a_fifth_of_its_schedule_and_never_below_what_was_asked_for(
            wait in 0u64..200_000, asked in proptest::option::of(0u64..10_000_000), seed: u64
        ) {
            let schedule = Schedule::new(vec![Duration::from_secs(wait)]);
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let got = schedule.wait(1, asked.map(Duration::from_secs), &mut random).unwrap();
            let (low, high) = (Duration::from_secs(wait).mul_f64(0.8), Duration::from_secs(wait).mul_f64(1.2));
            let asked = asked.map(|asked| Duration::from_secs(asked).clamp(RETRY_AFTER_BOUNDS.0, RETRY_AFTER_BOUNDS.1));
            prop_assert!(got >= low && got >= asked.unwrap_or_default());
            prop_assert!(got <= high.max(asked.unwrap_or_default()));
        }
    }
}
