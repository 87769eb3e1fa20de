//! The ledger's own bound: past `max_backlog` the sources pause, loudly; when Sell's history is about to run out, the
//! sink that holds the backlog is cut off instead, so that it costs the others nothing (INV-14, INV-15).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::ground::Ground;
use super::shard::Shared;
use super::stages::StageError;
use crate::event::SinkName;
use crate::event::ports::{LedgerDisposition, LedgerError, Ownership};
use crate::ledger::{Backlog, OwnerBook as _};

const EVERY: Duration = Duration::from_secs(1);
/// The sources go on when the backlog has shrunk to this part of its bound: they must not stop and start at each page.
const GO_ON_AT: f64 = 0.9;
/// For so long a sink is watched before it is cut off: one that takes what it holds in good time is not.
const WATCHED: Duration = Duration::from_secs(10);
/// How often a pause that lasts is told again.
const REMIND: Duration = Duration::from_mins(1);

/// Watches the backlog of a shard and tells its sources through `full`.
pub(super) async fn run<G: Ground>(
    of: Shared<G>,
    owner: Ownership,
    full: watch::Sender<bool>,
    stop: CancellationToken,
) -> Result<(), StageError> {
    let sinks: Vec<SinkName> = of.config().sinks.keys().cloned().collect();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Instant> = None;
    let mut watch = Watch::default();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(backlog) = looked(of.ledger().backlog(owner.shard, &sinks).await)? else { continue };
        let is_full = is_full(*full.borrow(), backlog.bytes, of.config().ledger.max_backlog);
        if full.send_replace(is_full) && !is_full {
            tracing::info!(shard = %owner.shard, bytes = backlog.bytes, "the backlog has shrunk: the sources go on");
            told = None;
        }
        if !is_full {
            watch = Watch::default();
            continue;
        }
        let headroom = headroom(&of, owner).await;
        if told.is_none_or(|at| at.elapsed() >= REMIND) {
            told = Some(Instant::now());
            tell(&of, owner, &backlog, headroom);
        }
        let ledger = &of.config().ledger;
        if let Some(left) = headroom.filter(|left| *left < ledger.backlog_hold)
            && let Some(holder) = &backlog.holder
            && watch.gives_up(holder, backlog.bytes, ledger.max_backlog, left)
            && let Some(Some((from, to))) = looked(of.ledger().cut_off(owner, holder).await)?
        {
            tracing::error!(
                shard = %owner.shard, sink = %holder, %from, %to,
                "the sink held the backlog while the source's history ran out: it is cut off, and its gap is recorded; \
                 `standpipe events replay` can send what the ledger still keeps"
            );
        }
    }
    Ok(())
}

fn is_full(was: bool, bytes: u64, most: u64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let part = bytes as f64 / most as f64;
    part > if was { GO_ON_AT } else { 1.0 }
}

/// Watches the sink that holds a full backlog: who it is, since when, and how much there was then.
#[derive(Debug, Default)]
struct Watch(Option<(SinkName, Instant, u64)>);

impl Watch {
    /// Whether the holder was watched for long enough, and will not have drained in good time.
    fn gives_up(&mut self, holder: &SinkName, bytes: u64, most: u64, headroom: Duration) -> bool {
        let same = self.0.take().filter(|(sink, ..)| sink == holder);
        let (sink, since, before) = same.unwrap_or_else(|| (holder.clone(), Instant::now(), bytes));
        if since.elapsed() < WATCHED {
            self.0 = Some((sink, since, before));
            return false;
        }
        !drains(before, bytes, since.elapsed(), most, headroom)
    }
}

/// Whether a backlog that was `before` bytes will have shrunk far enough in half of the headroom, at the pace of the time
/// that it was watched for.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn drains(before: u64, now: u64, watched: Duration, most: u64, headroom: Duration) -> bool {
    let (taken, left) = (before.saturating_sub(now) as f64, now as f64 - most as f64 * GO_ON_AT);
    left * watched.as_secs_f64() < taken * headroom.as_secs_f64() / 2.0
}

fn tell<G: Ground>(of: &Shared<G>, owner: Ownership, backlog: &Backlog, headroom: Option<Duration>) {
    let left = headroom.map(|left| humantime::format_duration(Duration::from_secs(left.as_secs())).to_string());
    tracing::error!(
        shard = %owner.shard,
        bytes = backlog.bytes,
        max_backlog = of.config().ledger.max_backlog,
        sink = backlog.holder.as_ref().map(SinkName::as_str),
        headroom = left,
        "the backlog is full: the sources pause until the sink that holds it has taken some"
    );
}

/// A lost lease ends the watch; a ledger that is out of reach is told by those who cannot work without it.
fn looked<T>(answer: Result<T, LedgerError>) -> Result<Option<T>, StageError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.disposition() == LedgerDisposition::StandDown => Err(error.into()),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot look at the backlog");
            Ok(None)
        }
    }
}

/// The time until the first stream of this shard falls out of its source's history; none where nothing is known.
async fn headroom<G: Ground>(of: &Shared<G>, owner: Ownership) -> Option<Duration> {
    let mut least: Option<Duration> = None;
    for (account, config) in &of.config().accounts {
        if of.ledger().shard_of(account).await.ok()? != owner.shard {
            continue;
        }
        let Some(status) = of.sources.account(account) else { continue };
        for stream in status.streams.values() {
            let left = stream.headroom.min(config.history);
            least = Some(least.map_or(left, |least| least.min(left)));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::{Watch, drains, is_full};

    #[test]
    fn a_backlog_drains_in_half_of_the_headroom_or_not() {
        let drained = |before, now, headroom| drains(before, now, Duration::from_secs(10), 1_000, headroom);
        // 10 bytes a second of the 80 that are too many: 8 s.
        assert!(drained(1_080, 980, Duration::from_secs(17)));
        assert!(!drained(1_080, 980, Duration::from_secs(15)));
        assert!(!drained(980, 980, Duration::from_hours(1)), "nothing is taken");
        assert!(!drained(980, 990, Duration::from_hours(1)), "it grows");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_is_watched_before_it_is_given_up_and_each_for_itself() {
        let (dead, slow) = ("dead".into(), "slow".into());
        let hour = Duration::from_hours(1);
        let mut watch = Watch::default();
        assert!(!watch.gives_up(&dead, 1_100, 1_000, hour));
        advance(Duration::from_secs(10)).await;
        assert!(watch.gives_up(&dead, 1_100, 1_000, hour));
        for bytes in [1_090, 1_080, 1_070, 1_060] {
            assert!(!watch.gives_up(&slow, bytes, 1_000, hour), "it drains");
            advance(Duration::from_secs(10)).await;
        }
    }

    #[test]
    fn a_full_backlog_must_shrink_before_the_sources_go_on() {
        assert!(!is_full(false, 100, 100));
        assert!(is_full(false, 101, 100));
        assert!(is_full(true, 95, 100));
        assert!(!is_full(true, 90, 100));
    }
}
