//! Randomness is injected as time is: the jitter of waits comes from here, so that a simulated run can be run again.
//! `clippy.toml` refuses the direct way where a wait is drawn; secrets and names come from the machine itself.

use std::cell::RefCell;
use std::convert::Infallible;

use rand::rngs::StdRng;
use rand::{SeedableRng as _, TryRng};

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// The machine's randomness, or, on a thread that a test has seeded, the test's. Never for a secret.
#[derive(Clone, Copy, Debug)]
pub struct Chance;

/// What waits are drawn from.
#[must_use]
pub const fn rng() -> Chance {
    Chance
}

/// From now on this thread draws from `seed`; none gives the machine's randomness back.
pub fn seed(seed: Option<u64>) {
    SEEDED.set(seed.map(StdRng::seed_from_u64));
}

impl Chance {
    fn draw<T>(with: impl FnOnce(&mut dyn TryRng<Error = Infallible>) -> T) -> T {
        SEEDED.with_borrow_mut(|seeded| match seeded {
            Some(seeded) => with(seeded),
            None => with(&mut rand::rng()),
        })
    }
}

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Self::draw(|rng| rng.try_next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Self::draw(|rng| rng.try_next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        Self::draw(|rng| rng.try_fill_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;

    use super::*;

    #[test]
    fn a_seeded_thread_draws_the_same_again_and_no_other_thread_does() {
        let draws = || std::iter::repeat_with(|| rng().random::<u64>()).take(4).collect::<Vec<_>>();
        seed(Some(7));
        let first = draws();
        seed(Some(7));
        assert_eq!(first, draws());
        let elsewhere = std::thread::spawn(draws).join().unwrap();
        assert_ne!(first, elsewhere);
        seed(None);
        assert_ne!(first, draws());
    }
}
