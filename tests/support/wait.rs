//! Waiting on a state, with a deadline. Nothing else in the tests sleeps.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` gives a value, and panics with `what` when `within` has passed.
pub async fn wait_for<T, F>(what: impl Display, within: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
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
pub async fn wait_until<F>(what: impl Display, within: Duration, mut look: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    wait_for(what, within, || {
        let look = look();
        async { look.await.then_some(()) }
    })
    .await;
}
