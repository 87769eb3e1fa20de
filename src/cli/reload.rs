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
    let changed = fixed(old, &config);
    if !changed.is_empty() {
        return Err(Failure::configuration(format!(
            "{} changed, which takes effect at a restart only",
            changed.join(", ")
        )));
    }
    Settings::new(Arc::new(config), Arc::new(ready.rules), clock).map_err(Failure::configuration)
}

/// What differs and cannot be changed in a running program.
fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    let (logs, new_logs) = (&old.telemetry, &new.telemetry);
    [
        ("deployment", old.deployment != new.deployment),
        ("state_dir", old.state_dir != new.state_dir),
        ("drain_timeout", old.drain_timeout != new.drain_timeout),
        ("[ledger]", old.ledger != new.ledger),
        ("[server]", old.server != new.server),
        ("[passthrough]", old.passthrough != new.passthrough),
        ("telemetry.log_format", logs.log_format != new_logs.log_format),
        ("telemetry.otlp_endpoint", logs.otlp_endpoint != new_logs.otlp_endpoint),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config;

    fn parsed(text: &str) -> Config {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        config::load(&[file.path().to_owned()], [], &[]).unwrap().config
    }

    #[test]
    fn what_takes_a_restart_is_named_and_the_rest_is_not() {
        let text = r#"
            deployment = "acme"
            [ledger]
            url = "postgres://standpipe:one@db/standpipe"
            [accounts.acme]
            token = "t"
            [server.keys.ci]
            token = "a-token-that-is-long-enough-for-a-key"
            allow = ["events:read"]
        "#;
        let old = parsed(text);
        assert_eq!(fixed(&old, &parsed(text)), Vec::<&str>::new());
        // An account's keys are applied at once.
        assert_eq!(fixed(&old, &parsed(&text.replace("\"t\"", "\"u\""))), Vec::<&str>::new());
        // A secret counts too.
        assert_eq!(fixed(&old, &parsed(&text.replace(":one@", ":two@"))), ["[ledger]"]);
        let two = text.replace("\"acme\"", "\"other\"").replace("events:read", "admin");
        assert_eq!(fixed(&old, &parsed(&two)), ["deployment", "[server]"]);
    }
}
