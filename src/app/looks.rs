use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::ground::Ground;
use super::health::Readiness;
use super::shard::Shared;
use super::stages::StageError;
use crate::clock::Clock;
use crate::event::Shard;
use crate::event::ports::SinkState;
use crate::ledger::OwnerBook as _;
use crate::ledger::operator::AuditStatus;
use crate::telemetry::metrics::DEAD_LETTERS;

/// How often the sinks' rows are looked at: that is how old `/readyz` may be.
const EVERY: Duration = Duration::from_secs(2);

/// So long a finding of the audit is a reason not to be simply ready.
const REMEMBERED: time::Duration = time::Duration::hours(24);

/// What the audit of a sink says of it.
fn audited(audit: Option<&AuditStatus>, clock: &Clock) -> (Readiness, String) {
    let Some(audit) = audit else { return (Readiness::Ready, String::new()) };
    match (&audit.error, &audit.finding, audit.found_at) {
        (Some(error), _, _) => (Readiness::Degraded, format!("the audit does not follow: {error}")),
        (None, Some(finding), Some(at)) if clock.now() - at < REMEMBERED => {
            (Readiness::Degraded, format!("the audit has found {} in all, the last one {finding}", audit.found))
        }
        _ => (Readiness::Ready, String::new()),
    }
}

/// Keeps `/readyz` and the gauge of dead letters up to date with what the sinks of a shard report in the ledger.
///
/// A look that fails changes nothing: the ledger being out of reach is told by those who cannot work without it.
pub(super) async fn run<G: Ground>(of: Shared<G>, shard: Shard, stop: CancellationToken) -> Result<(), StageError> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let rows = match of.ledger().sink_rows().await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "cannot look at the sinks");
                continue;
            }
        };
        for name in of.config().sinks.keys() {
            let letters: u64 = rows.iter().filter(|row| row.sink == name.as_str()).map(|row| row.dead_letters).sum();
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!(DEAD_LETTERS, "sink" => name.to_string()).set(letters as f64);
            let Some(row) = rows.iter().find(|row| row.sink == name.as_str() && row.shard == shard) else { continue };
            let running = [SinkState::Starting.as_str(), SinkState::Running.as_str()].contains(&row.state.as_str());
            let readiness = if running { Readiness::Ready } else { Readiness::Degraded };
            let why = row.error.as_deref().map_or_else(|| row.state.clone(), |why| format!("{}: {why}", row.state));
            of.health.note(&format!("shard/{shard}/sink/{name}"), readiness, why);
            let (readiness, why) = audited(row.audit.as_ref().filter(|_| of.config().audit.enabled), &of.clock);
            of.health.note(&format!("shard/{shard}/audit/{name}"), readiness, why);
        }
    }
    Ok(())
}
