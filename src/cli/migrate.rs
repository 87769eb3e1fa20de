//! `standpipe migrate`: brings the ledger's schema to this program's version.

use clap::Args;

use super::attach::{ledger_url, open_failure};
use super::output::line;
use super::{Failure, Global};
use crate::ledger::Database;

/// `standpipe migrate`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Only say what would be done: exit code 1 when something would
    #[arg(long)]
    check: bool,
}

/// Runs the verb.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let ready = super::load(global)?;
    let config = &ready.loaded.config;
    let url = ledger_url(config).read().map_err(Failure::configuration)?;
    let database = Database::connect(&config.ledger, &url, &config.deployment).await.map_err(open_failure)?;
    if options.check {
        database.check_schema().await.map_err(Failure::runtime)?;
        return line("The ledger's schema is this program's.");
    }
    let (before, after) = database.migrate().await.map_err(open_failure)?;
    if before == after {
        line(&format!("The ledger's schema is at version {after} already."))
    } else {
        line(&format!("The ledger's schema went from version {before} to {after}."))
    }
}
