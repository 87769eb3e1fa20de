//! `standpipe run`: the daemon.

use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{Failure, Global};
use crate::app::{self, Program, RunDisposition, RunError, signals};
use crate::clock::Clock;
use crate::telemetry::logging::Logging;
use crate::telemetry::recorder::Recorder;

/// `standpipe run`
#[derive(Clone, Copy, Debug, Args)]
pub struct Options {}

/// What waits to be sent to the trace collector gets this long at the end.
const TRACES: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
pub async fn run(global: &Global, _: &Options) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    // Before anything else: a stop in the middle of the start must be heard.
    let signals = tokio::spawn(signals::stop_on_signal(stop.clone()));
    let ready = super::load(global)?;
    let config = Arc::new(ready.loaded.config);
    let logging = Logging::install(&config.telemetry, &config.deployment).map_err(Failure::configuration)?;
    for warning in &ready.loaded.warnings {
        tracing::warn!(%warning, "configuration");
    }
    let metrics = Recorder::install().map_err(Failure::runtime)?;
    let program = Program { config, rules: Arc::new(ready.rules), metrics, clock: Clock::system() };
    let result = app::run(program, stop).await;
    if let Err(error) = &result {
        tracing::error!(error = error as &dyn std::error::Error, "standpipe ends");
    }
    signals.abort();
    logging.shutdown(TRACES).await;
    result.map_err(Failure::from)
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
