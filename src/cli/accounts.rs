//! `standpipe accounts`: what a person does for an account.

use clap::Subcommand;

use super::{Failure, Global, authorize};
use crate::config::Auth;
use crate::event::AccountName;

/// `standpipe accounts`
#[derive(Clone, Debug, Subcommand)]
pub enum Options {
    /// Ask a person, in a browser, to let standpipe read an account, and keep the refresh token that comes of it
    Authorize(Authorize),
}

/// `standpipe accounts authorize`
#[derive(Clone, Debug, clap::Args)]
pub struct Authorize {
    /// The account, as the configuration names it; it needs a table `[accounts.NAME.oauth]`
    account: String,
    #[command(flatten)]
    way: authorize::Way,
}

/// Runs the verb.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let Options::Authorize(Authorize { account, way }) = options;
    let account = account.as_str();
    // A refresh token need not be there yet.
    let (loaded, file) = super::load_to_authorize(global, account)?;
    let Some(config) = loaded.config.accounts.get(account) else {
        let known: Vec<&str> = loaded.config.accounts.keys().map(AccountName::as_str).collect();
        let known = known.join(", ");
        return Err(Failure::runtime(format!("no account {account} is configured; there are: {known}")));
    };
    if matches!(config.auth, Auth::Token(_)) {
        return Err(Failure::configuration(format!(
            "the account {account} has a token; for OAuth 2.0 give it a table [accounts.{account}.oauth] instead"
        )));
    }
    let Some(file) = file else {
        return Err(Failure::configuration(format!(
            "the new refresh token needs a place: name a file by accounts.{account}.oauth.refresh_token_file"
        )));
    };
    authorize::walk(&AccountName::from(account), config, &file, way).await
}
