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

/// Waits for a thread's answer for twice its limit, then gives the thread up. In two parts: where the whole process was
/// stopped meanwhile (a signal, a machine that was paused), time is over although the thread has had none, and that must
/// cost one part at most.
pub(super) async fn within<T>(
    doing: &str,
    limit: Duration,
    mut answered: oneshot::Receiver<T>,
) -> Result<T, KafkaSinkError> {
    for _ in 0..2 {
        match tokio::time::timeout(limit, &mut answered).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(_)) => {
                let why = format!("the client's thread ended while {doing}");
                return Err(KafkaSinkError::Doubt { why, source: None });
            }
            Err(_) => {}
        }
    }
    let abandoned = ABANDONED.fetch_add(1, Ordering::SeqCst) + 1;
    Err(KafkaSinkError::Hangs { doing: doing.to_owned(), abandoned })
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_does_not_answer_is_given_up() {
        let began = Instant::now();
        let (_answer, answered) = oneshot::channel::<()>();
        let error = within("testing", LIMIT, answered).await.unwrap_err();
        assert!(matches!(error, KafkaSinkError::Hangs { abandoned: 1.., .. }), "{error}");
        assert_eq!(began.elapsed(), 2 * LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_is_not_given_up_because_the_whole_process_was_stopped() {
        let (answer, answered) = oneshot::channel();
        let waiting = tokio::spawn(within("testing", LIMIT, answered));
        tokio::task::yield_now().await;
        // Time has gone on, and nothing else has.
        tokio::time::advance(10 * LIMIT).await;
        tokio::task::yield_now().await;
        answer.send("here").unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), "here");
    }
}
