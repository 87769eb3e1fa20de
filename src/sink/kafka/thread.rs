//! librdkafka's calls block, so each client lives and dies on an operating-system thread of its own. A thread that
//! does not answer within twice its own limit is given up: all that is left for it to do is to drop its client.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::error::KafkaSinkError;

/// How many threads this process has given up.
static ABANDONED: AtomicUsize = AtomicUsize::new(0);

/// Starts a thread; it is not joined, because joining blocks: its end shows in what it drops.
pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), KafkaSinkError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop).map_err(|error| KafkaSinkError::Doubt {
        why: format!("the thread `{name}` cannot be started: {error}"),
        source: None,
    })
}

/// Runs a call that blocks for at most about `limit`, on a thread of its own.
pub(super) async fn call<T: Send + 'static>(
    doing: &str,
    limit: Duration,
    body: impl FnOnce() -> Result<T, KafkaSinkError> + Send + 'static,
) -> Result<T, KafkaSinkError> {
    let (answer, answered) = oneshot::channel();
    spawn("kafka-call", move || {
        // Nobody waits any more when the sink was stopped meanwhile.
        drop(answer.send(body()));
    })?;
    within(doing, limit, answered).await?
}

/// Waits for a thread's answer for twice its limit, then gives the thread up.
pub(super) async fn within<T>(
    doing: &str,
    limit: Duration,
    answered: oneshot::Receiver<T>,
) -> Result<T, KafkaSinkError> {
    match tokio::time::timeout(2 * limit, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => {
            Err(KafkaSinkError::Doubt { why: format!("the client's thread ended while {doing}"), source: None })
        }
        Err(_) => {
            let abandoned = ABANDONED.fetch_add(1, Ordering::SeqCst) + 1;
            Err(KafkaSinkError::Hangs { doing: doing.to_owned(), abandoned })
        }
    }
}
