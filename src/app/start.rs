//! The start: what must be within reach before the pipe runs, each tried until `startup_timeout`, all of it given up
//! at once when a stop comes first.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;

/// Something was not within reach before the deadline.
#[derive(Debug, thiserror::Error)]
#[error("{what} is not within reach after {waited:?}")]
pub struct OutOfReach {
    /// What: `the ledger`, `the brokers of sink crm`.
    what: String,
    /// How long it was tried.
    waited: Duration,
    /// What the last try said.
    #[source]
    last: Box<dyn Error + Send + Sync>,
}

/// Calls `attempt` with growing pauses until it succeeds, fails for good, or `deadline` passes.
///
/// `passing` tells a trouble that may pass from one that will not, which is handed back as it is.
pub(super) async fn within_reach<T, E, F>(
    what: &str,
    deadline: Instant,
    passing: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Result<E, OutOfReach>>
where
    E: Error + Send + Sync + 'static,
    F: Future<Output = Result<T, E>>,
{
    let began = Instant::now();
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times()
        .build();
    let mut last: Box<dyn Error + Send + Sync> = "no answer yet".into();
    loop {
        match tokio::time::timeout_at(deadline, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if !passing(&error) => return Err(Ok(error)),
            Ok(Err(error)) => {
                tracing::warn!(what, error = &error as &dyn Error, "not within reach yet");
                last = error.into();
            }
            Err(_) => {}
        }
        let pause = pauses.next().unwrap_or(Duration::from_secs(2));
        if Instant::now() + pause >= deadline {
            let waited = began.elapsed();
            return Err(Err(OutOfReach { what: what.to_owned(), waited, last }));
        }
        tokio::time::sleep(pause).await;
    }
}
