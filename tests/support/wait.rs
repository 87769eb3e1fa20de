//! Waiting on a state, with a deadline. Nothing else in the tests sleeps.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` gives a value, and panics with `what` when `within` has passed.
pub async fn wait_for<T>(what: impl Display, within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain until {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks until `look` says yes, and panics with `what` when `within` has passed.
pub async fn wait_until(what: impl Display, within: Duration, mut look: impl AsyncFnMut() -> bool) {
    wait_for(what, within, async || look().await.then_some(())).await;
}

/// Sees that `look` says yes for the whole of `time`, and panics with `what` when it does not.
pub async fn hold(what: impl Display, time: Duration, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(look().await, "does not hold: {what}");
        tokio::time::sleep_until(end.min(Instant::now() + LOOK_EVERY)).await;
    }
}
