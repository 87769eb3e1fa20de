//! One sink of one shard, kept going: started, paused and sought as an operator wishes, tried again after trouble,
//! left halted where only a person can help. It never takes another sink down with it (INV-15).

use std::future::Future;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::health::{Health, Readiness};
use crate::event::SinkName;
use crate::event::ports::{LedgerDisposition, LedgerError, Ownership, SinkBook, SinkState};

/// What an operator wishes for a sink; looked at every second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// To stand still.
    pub(super) paused: bool,
    /// To move to another seq: the sink is started anew and carries it out.
    pub(super) seek: Option<crate::event::Seq>,
    /// Counts `sinks resume` and `sinks enable`, so that a halted sink tries again.
    pub(super) nudges: i64,
}

/// How one run of a sink ended.
#[derive(Debug)]
pub(super) enum SinkEnd {
    /// As asked.
    Stopped,
    /// With trouble that may pass: tried again after a while.
    Retry(String),
    /// With trouble that only a person can remove.
    Halt(String),
    /// The ledger says that the shard's stages must end.
    Ledger(LedgerError),
    /// The process itself is no longer sound.
    Fatal(String),
}

/// What ends a sink's supervision early.
#[derive(Debug)]
pub(super) enum SinkFatal {
    /// The shard's stages must end.
    Ledger(LedgerError),
    /// The process must end, with 1.
    Process(String),
}

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A sink that ran this long before it failed begins with the first wait again.
const SETTLED: Duration = Duration::from_secs(60);

/// Runs `start` again and again until `stop`, as `wishes` say.
pub(super) async fn keep_going<F, B>(
    sink: &SinkName,
    owner: Ownership,
    book: &B,
    health: &Health,
    mut wishes: watch::Receiver<Wish>,
    stop: CancellationToken,
    mut start: impl FnMut(CancellationToken) -> F,
) -> Result<(), SinkFatal>
where
    F: Future<Output = SinkEnd>,
    B: SinkBook,
{
    let part = format!("shard/{}/sink/{sink}", owner.shard);
    let mut wait = FIRST_WAIT;
    while !stop.is_cancelled() {
        let wish = *wishes.borrow_and_update();
        if wish.paused {
            health.note(&part, Readiness::Degraded, "paused by an operator");
            report(book, sink, owner, SinkState::Paused, None).await?;
            if changed(&mut wishes, &stop).await { continue } else { break }
        }
        health.forget(&part);
        let token = stop.child_token();
        let began = Instant::now();
        let mut run = std::pin::pin!(start(token.clone()));
        let end = loop {
            tokio::select! {
                end = run.as_mut() => break end,
                moved = wishes.changed() => {
                    let now = *wishes.borrow_and_update();
                    if moved.is_err() || now.paused || (now.seek.is_some() && now.seek != wish.seek) {
                        token.cancel();
                        break run.as_mut().await;
                    }
                }
            }
        };
        match end {
            SinkEnd::Stopped => {}
            SinkEnd::Ledger(error) => return Err(SinkFatal::Ledger(error)),
            SinkEnd::Fatal(why) => return Err(SinkFatal::Process(why)),
            SinkEnd::Halt(why) => {
                tracing::error!(%sink, shard = %owner.shard, error = why, "the sink is halted until an operator acts");
                health.note(&part, Readiness::Degraded, format!("halted: {why}"));
                report(book, sink, owner, SinkState::Halted, Some(&why)).await?;
                if !changed(&mut wishes, &stop).await {
                    break;
                }
            }
            SinkEnd::Retry(why) => {
                if began.elapsed() > SETTLED {
                    wait = FIRST_WAIT;
                }
                // Half to the whole of the wait: replicas and shards must not come back in step.
                let pause = wait.mul_f64(rand::rng().random_range(0.5..=1.0));
                tracing::warn!(%sink, shard = %owner.shard, error = why, retry_in = ?pause, "the sink failed and starts anew");
                health.note(&part, Readiness::Degraded, format!("tries again: {why}"));
                report(book, sink, owner, SinkState::Retrying, Some(&why)).await?;
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
    health.forget(&part);
    Ok(())
}

/// Waits for another wish; false when it is time to stop.
async fn changed(wishes: &mut watch::Receiver<Wish>, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        changed = wishes.changed() => changed.is_ok(),
    }
}

/// Notes the state where `status` can see it. A ledger that refuses such a note is no reason to stop.
async fn report<B: SinkBook>(
    book: &B,
    sink: &SinkName,
    owner: Ownership,
    state: SinkState,
    error: Option<&str>,
) -> Result<(), SinkFatal> {
    match book.report(sink, owner, state, error).await {
        Ok(()) => Ok(()),
        Err(error) if error.disposition() == LedgerDisposition::Halt => {
            tracing::warn!(%sink, %error, "cannot note the sink's state");
            Ok(())
        }
        Err(error) => Err(SinkFatal::Ledger(error)),
    }
}
