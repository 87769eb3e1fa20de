//! Reading the configuration again: `SIGHUP`, and the verb that sends it.

use std::sync::Arc;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use super::output::line;
use super::{Failure, Global};
use crate::app::{Settings, instance, signals};
use crate::clock::Clock;
use crate::config::Config;
use crate::telemetry::logging::Logging;
use crate::telemetry::series;

/// `standpipe reload`
#[derive(Clone, Copy, Debug, Args)]
pub struct Options {}

/// Proves the configuration here first, so that a mistake is told to the person who made it.
pub fn run(global: &Global, _: Options) -> Result<(), Failure> {
    let config = super::load(global)?.loaded.config;
    let holder = instance::holder(&config.state_dir).map_err(Failure::environment)?;
    let Some(pid) = holder.and_then(Pid::from_raw) else {
        return Err(Failure::environment(format!(
            "no standpipe runs with the state_dir {} on this machine",
            config.state_dir.display()
        )));
    };
    kill_process(pid, Signal::HUP).map_err(Failure::environment)?;
    line("The configuration is right, and the running standpipe was told to read it; its log says what came of it.")
}

/// Answers every `SIGHUP`: applies what has changed, or keeps the old configuration and says why.
pub(super) async fn answer(
    global: Global,
    clock: Clock,
    settings: watch::Sender<Arc<Settings>>,
    logging: &Logging,
) -> std::io::Result<()> {
    let mut requests = signals::reload_requests()?;
    while requests.recv().await.is_some() {
        // Not inside the match: the borrow would outlive it, and what is borrowed cannot be replaced.
        let old = settings.borrow().config.clone();
        match reload(&global, &clock, &old) {
            Ok(new) => {
                if let Err(error) = logging.set_filter(&new.config.telemetry.log) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the log filter is kept");
                }
                series::configured(&new.config);
                tracing::info!("the configuration was read again and is applied");
                settings.send_replace(Arc::new(new));
            }
            Err(why) => {
                tracing::error!(error = %why, "the configuration was read again and is not applied: the old one stays");
            }
        }
    }
    Ok(())
}

fn reload(global: &Global, clock: &Clock, old: &Config) -> Result<Settings, Failure> {
    let ready = super::load(global)?;
    let config = ready.loaded.config;
    if fixed(old) != fixed(&config) {
        return Err(Failure::configuration(
            "deployment, state_dir, [ledger], [server] and telemetry.log_format take effect at a restart only",
        ));
    }
    Settings::new(Arc::new(config), Arc::new(ready.rules), clock).map_err(Failure::configuration)
}

/// What a running program cannot change; secrets compare as equal, and are read from their files anyway.
fn fixed(config: &Config) -> String {
    let Config { deployment, state_dir, ledger, server, telemetry, .. } = config;
    format!(
        "{deployment:?} {} {ledger:?} {server:?} {:?} {:?}",
        state_dir.display(),
        telemetry.log_format,
        telemetry.otlp_endpoint
    )
}
