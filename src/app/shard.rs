//! One shard of one replica: waits for the lease, runs the shard's stages under it, and starts them anew from the
//! ledger whenever one of them ends on its own (INV-17).

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ground::{Ground, Real};
use super::health::{Health, Readiness};
use super::run::Settings;
use super::stages::{self, End, StageDisposition, StageError};
use crate::clock::Clock;
use crate::config::Config;
use crate::event::Shard;
use crate::event::ports::LedgerError;
use crate::ledger::Lease;
use crate::lookup::Lookups;
use crate::source::SourceStatus;
use crate::telemetry::metrics::SHARD_OWNED;

/// What the shards of one run share.
#[derive(Clone, Debug)]
pub struct Shared<G = Real> {
    /// What the stages are started with.
    pub settings: Arc<Settings>,
    /// What replaces it while they run; none where nothing does.
    pub reloads: Option<watch::Receiver<Arc<Settings>>>,
    /// What they stand on.
    pub ground: G,
    /// Who runs them.
    pub instance: Uuid,
    /// Whether an operator has said that nothing else uses the ledger and its topics.
    pub adopt: bool,
    /// What is kept of the vendor's answers: sources and door meet there.
    pub lookups: Lookups,
    /// What the sources say of themselves.
    pub sources: SourceStatus,
    /// What keeps the parts from working.
    pub health: Health,
    /// The wall clock.
    pub clock: Clock,
}

impl<G: Ground> Shared<G> {
    /// Takes the newest configuration.
    fn renew(&mut self) {
        if let Some(reloads) = &mut self.reloads {
            self.settings = reloads.borrow_and_update().clone();
        }
    }

    pub(super) fn ledger(&self) -> &G::Ledger {
        self.ground.ledger()
    }

    /// The configuration that the stages were started with.
    pub(super) fn config(&self) -> &Config {
        &self.settings.config
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Stages that ran this long before one failed begin with the first wait again.
const SETTLED: Duration = Duration::from_secs(30);

/// Owns the shard whenever it can, until `stop`. Ends early only where the process itself must end.
pub(super) async fn supervise<G: Ground>(
    mut of: Shared<G>,
    shard: Shard,
    stop: CancellationToken,
) -> Result<(), StageError> {
    let part = format!("shard/{shard}");
    let owned = metrics::gauge!(SHARD_OWNED, "shard" => shard.to_string());
    owned.set(0.0);
    let lease = Lease::new(of.ledger(), shard, of.instance);
    let mut wait = FIRST_WAIT;
    while let Some(mut held) = stop.run_until_cancelled(lease.acquire()).await {
        let began = Instant::now();
        owned.set(1.0);
        // A reload starts the stages anew under the same lease.
        let end = loop {
            of.renew();
            match stages::run(&of, &mut held, &stop).await {
                Ok(End::Reload) => tracing::info!(%shard, "the stages start anew with the new configuration"),
                Ok(End::Stopped) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        owned.set(0.0);
        // Before the lease is given back, which may take a while: what fails again and again must not look well in between.
        match &end {
            Err(error) if error.disposition() != StageDisposition::Exit => {
                of.health.note_instead(&part, readiness(error), error.to_string());
            }
            _ => of.health.forget(&part),
        }
        // At once, so that a standby need not wait for the lease to run out.
        if let Err(error) = held.release().await {
            tracing::debug!(%shard, error = &error as &dyn std::error::Error, "the lease runs out by itself");
        }
        let Err(error) = end else { break };
        if error.disposition() == StageDisposition::Exit {
            return Err(error);
        }
        tracing::warn!(
            %shard,
            error = &error as &dyn std::error::Error,
            "the shard's stages ended; they start anew from the ledger"
        );
        if began.elapsed() > SETTLED {
            wait = FIRST_WAIT;
        }
        let pause = async {
            if error.disposition() == StageDisposition::StandDown {
                lease.back_off().await;
            } else {
                let jitter = crate::chance::rng().random_range(0.5..=1.0);
                tokio::time::sleep(wait.mul_f64(jitter)).await;
            }
        };
        if stop.run_until_cancelled(pause).await.is_none() {
            break;
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    of.health.forget(&part);
    Ok(())
}

fn readiness(error: &StageError) -> Readiness {
    match error {
        StageError::Ledger(LedgerError::Unavailable { .. } | LedgerError::Refused { .. }) | StageError::Copy { .. } => {
            Readiness::Unready
        }
        _ => Readiness::Degraded,
    }
}
