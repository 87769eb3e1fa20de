//! The command line: design.md section 9. Each verb has its file; this one lists them.

mod failure;
mod healthcheck;
mod init;
mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use failure::Failure;

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
    /// Configuration file; repeat it to lay one over another [default: ./standpipe.toml, /etc/standpipe/standpipe.toml]
    #[arg(long = "config", short = 'c', global = true, value_name = "FILE", env = "STANDPIPE_CONFIG")]
    pub config: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a first configuration
    Init(init::Options),
    /// Ask a running standpipe whether it is ready; for container health checks
    Healthcheck(healthcheck::Options),
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
    let result = runtime.block_on(run(cli));
    // What still blocks in a librdkafka call or a name lookup must not hold the process back.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, verb } = cli;
    match verb {
        Verb::Init(options) => init::run(&global, &options),
        Verb::Healthcheck(options) => healthcheck::run(&global, &options).await,
    }
}
