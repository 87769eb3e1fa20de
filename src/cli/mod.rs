//! The command line: design.md section 9. Each verb has its file; this one lists them.

mod accounts;
mod attach;
mod authorize;
mod check;
mod check_budget;
mod completions;
mod config;
mod dead_letters;
mod demo;
mod events;
mod evidence;
mod failure;
mod gaps;
mod healthcheck;
mod init;
mod migrate;
mod output;
mod reach;
mod reconcile;
mod reload;
mod run;
mod simulate;
mod sinks;
mod status;
mod streams;
mod tail;
mod verify;
mod version;
mod webhook;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use indexmap::IndexMap;

pub use failure::Failure;

use crate::app;
use crate::config::{Config, Loaded, Override, Problem};
use crate::event::SinkName;
use crate::route::Rules;

/// Delivers the event streams of Zendesk Sell to Kafka, exactly once, and to webhooks, at least once.
#[derive(Debug, Parser)]
#[command(name = "standpipe", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Configuration file; repeat it to lay one over another [default: `STANDPIPE_CONFIG`, else ./standpipe.toml, else
    /// /etc/standpipe/standpipe.toml]
    #[arg(long = "config", short = 'c', global = true, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Set one key over files and environment: --set server.listen=127.0.0.1:9000. Not for secrets: arguments can be
    /// seen by every user of the machine
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// A configuration with its rules compiled: everything that can be known to be right without leaving this machine.
#[derive(Debug)]
pub struct Ready {
    /// The configuration.
    pub loaded: Loaded,
    /// The rules of its sinks.
    pub rules: IndexMap<SinkName, Arc<Rules>>,
}

/// Loads the configuration that the arguments name. All errors at once, as a [`Failure`] of exit code 2.
pub fn load(global: &Global) -> Result<Ready, Failure> {
    let mut rules = IndexMap::new();
    let loaded = load_and(global, |config| match app::rules::compile(config) {
        Ok(compiled) => {
            rules = compiled;
            Vec::new()
        }
        Err(errors) => errors.0,
    })?;
    Ok(Ready { loaded, rules })
}

fn load_and(global: &Global, further: impl FnOnce(&Config) -> Vec<Problem>) -> Result<Loaded, Failure> {
    let environment = crate::config::process_environment();
    let files = crate::config::discover(&global.config, &environment);
    crate::config::load_and(&files, environment, &overrides(global), further).map_err(Failure::configuration)
}

/// As [`load`], but the refresh token of an account may be missing. Gives the file that is named for it, if one is.
fn load_to_authorize(global: &Global, account: &str) -> Result<(Loaded, Option<PathBuf>), Failure> {
    let environment = crate::config::process_environment();
    let files = crate::config::discover(&global.config, &environment);
    crate::config::load_to_authorize(&files, environment, &overrides(global), account).map_err(Failure::configuration)
}

fn overrides(global: &Global) -> Vec<Override> {
    let given = global.set.iter();
    given.map(|(key, value)| Override { flag: "--set".to_owned(), key: key.clone(), value: value.clone() }).collect()
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the service
    Run(run::Options),
    /// Be a Sell of one's own, with a living company and every fault that is asked for
    Simulate(Box<crate::simulator::Options>),
    /// Make the running service read its configuration again
    Reload(reload::Options),
    /// See events flow: a simulated Sell, a database, a broker and a webhook receiver around the service
    Demo(demo::Options),
    /// Write a first configuration, and authorize its account where that is by OAuth 2.0
    Init(init::Options),
    /// Say what a configuration means and promises, and whether everything that it needs answers
    Check(check::Options),
    /// Accounts: authorize one by OAuth 2.0
    #[command(subcommand)]
    Accounts(accounts::Options),
    /// Show how everything stands: shards, streams, sinks, lag
    Status(status::Options),
    /// Show events as they are recorded
    Tail(tail::Options),
    /// Source streams: list, pause, resume, seek
    #[command(subcommand)]
    Streams(streams::Options),
    /// Sinks: list, pause, resume, enable, seek, forget
    #[command(subcommand)]
    Sinks(sinks::Options),
    /// Events in the ledger: get, replay, rejected, conflicts
    #[command(subcommand)]
    Events(events::Options),
    /// What sinks gave up on: list, show, redrive, discard
    #[command(subcommand)]
    DeadLetters(dead_letters::Options),
    /// What will not come, and why
    #[command(subcommand)]
    Gaps(gaps::Options),
    /// Check by reading a Kafka sink's topics that nothing in them is missing, duplicate, reordered or altered
    Verify(verify::Options),
    /// Make the topics of a Kafka sink whole again: emit what is missing of what it had delivered, and nothing else
    Reconcile(reconcile::Options),
    /// Webhooks: send a ping, sign and verify by hand, make a new secret
    #[command(subcommand)]
    Webhook(webhook::Options),
    /// Bring the ledger's schema to this program's version
    Migrate(migrate::Options),
    /// Show the effective configuration, its schema, or what every key means
    Config(config::Options),
    /// Ask a running standpipe whether it is ready; for container health checks
    Healthcheck(healthcheck::Options),
    /// Print a completion script for a shell
    Completions(completions::Options),
    /// Print the version, and those of what it is made of
    Version(version::Options),
}

/// The program: parses the arguments, runs the verb, and turns what went wrong into an exit code
/// (0 ok, 1 runtime, 2 configuration, 3 environment).
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::environment(error).exit(),
    };
    let result = runtime.block_on(dispatch(cli));
    // What still blocks in a librdkafka call or a name lookup must not hold the process back.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    let Cli { global, verb } = cli;
    match verb {
        Verb::Run(options) => run::run(&global, &options).await,
        Verb::Demo(options) => demo::run(&options).await,
        Verb::Accounts(options) => accounts::run(&global, &options).await,
        Verb::Status(options) => status::run(&global, &options).await,
        Verb::Tail(options) => tail::run(&global, &options).await,
        Verb::Streams(options) => streams::run(&global, &options).await,
        Verb::Sinks(options) => sinks::run(&global, &options).await,
        Verb::Events(options) => events::run(&global, &options).await,
        Verb::DeadLetters(options) => dead_letters::run(&global, &options).await,
        Verb::Gaps(options) => gaps::run(&global, &options).await,
        Verb::Verify(options) => verify::run(&global, &options).await,
        Verb::Reconcile(options) => reconcile::run(&global, &options).await,
        Verb::Webhook(options) => webhook::run(&global, &options).await,
        Verb::Migrate(options) => migrate::run(&global, &options).await,
        Verb::Simulate(options) => simulate::run(*options).await,
        Verb::Reload(options) => reload::run(&global, options),
        Verb::Init(options) => init::run(&global, &options).await,
        Verb::Check(options) => check::run(&global, &options).await,
        Verb::Config(options) => config::run(&global, &options),
        Verb::Healthcheck(options) => healthcheck::run(&global, &options).await,
        Verb::Completions(options) => completions::run(&options),
        Verb::Version(options) => version::run(&options),
    }
}
