use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::output::line;
use crate::app::signals;
use crate::clock::Clock;
use crate::simulator::{self, Options, SimulatorDisposition, SimulatorError};
use crate::telemetry::logging::Logging;

/// Open requests get no longer than this at the end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Runs a simulator until SIGTERM or SIGINT.
pub async fn run(options: Options) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let mut signals = JoinSet::new();
    signals.spawn(signals::stop_on_signal(stop.clone()));
    let logging = Logging::install_plain("info").map_err(Failure::runtime)?;
    let (seed, rate, dialect) = (options.seed, options.rate, options.dialect);
    let started = tokio::select! {
        started = simulator::start(options, Clock::system()) => started?,
        () = stop.cancelled() => return Ok(()),
    };
    line(&format!(
        "a simulated Sell at {}: seed {seed}, {} events, {rate} more a second",
        started.url(),
        started.events()
    ))?;
    line(&format!("  dialect {dialect}; what was emitted: curl {}/_simulator/emitted", started.url()))?;
    let mut started = started;
    let ended = tokio::select! {
        () = stop.cancelled() => None,
        part = started.ended() => Some(part),
    };
    started.stop(STOP_WITHIN).await;
    drop(signals);
    logging.shutdown(Duration::ZERO).await;
    match ended {
        None => Ok(()),
        Some(part) => Err(Failure::runtime(format!("the simulator's {part} ended on its own"))),
    }
}

impl From<SimulatorError> for Failure {
    fn from(error: SimulatorError) -> Self {
        match error.disposition() {
            SimulatorDisposition::Environment => Self::environment(error),
            SimulatorDisposition::Configuration => Self::configuration(error),
        }
    }
}
