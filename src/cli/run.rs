//! `standpipe run`: the daemon.

use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Failure, Global};
use crate::app::{self, Program, RunDisposition, RunError, Settings, signals};
use crate::clock::Clock;
use crate::telemetry::logging::Logging;
use crate::telemetry::recorder::Recorder;

/// `standpipe run`
#[derive(Clone, Copy, Debug, Args)]
pub struct Options {
    /// Take over a ledger that was restored, failed over or copied, and the Kafka topics of another ledger, without a look
    /// at who else runs: only when nothing else does
    #[arg(long)]
    adopt: bool,
}

/// What waits to be sent to the trace collector gets this long at the end.
const TRACES: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    // Before anything else: a stop in the middle of the start must be heard.
    let mut listener = JoinSet::new();
    listener.spawn(signals::stop_on_signal(stop.clone()));
    let ready = super::load(global)?;
    let config = Arc::new(ready.loaded.config);
    let logging = Logging::install(&config.telemetry, &config.deployment).map_err(Failure::configuration)?;
    for warning in &ready.loaded.warnings {
        tracing::warn!(%warning, "configuration");
    }
    let metrics = Recorder::install().map_err(Failure::runtime)?;
    let (clock, rules) = (Clock::system(), Arc::new(ready.rules));
    let settings = Settings::new(config.clone(), rules.clone(), &clock).map_err(Failure::configuration)?;
    let (settings, reloads) = watch::channel(Arc::new(settings));
    let program = Program {
        config,
        rules,
        metrics,
        clock: clock.clone(),
        adopt: options.adopt,
        reloads: Some(reloads),
        notice: None,
    };
    let result = tokio::select! {
        result = app::run(program, stop) => result,
        // Ends only where signals cannot be heard, which is told before anything runs.
        Err(error) = super::reload::answer(global.clone(), clock, settings, &logging) => return Err(Failure::runtime(error)),
    };
    if let Err(error) = &result {
        tracing::error!(error = error as &dyn std::error::Error, "standpipe ends");
    }
    listener.abort_all();
    logging.shutdown(TRACES).await;
    // Told in the log, in the form that was asked for.
    result.map_err(|error| Failure::from(error).silent())
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error.disposition() {
            RunDisposition::Runtime => Self::runtime(error),
            RunDisposition::Configuration => Self::configuration(error),
            RunDisposition::Environment => Self::environment(error),
        }
    }
}
