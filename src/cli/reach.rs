//! What `standpipe check` asks of the world outside: everything that `run` would need, each within a deadline, all at
//! once. Nothing is changed and nothing is delivered.

use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;

use super::Ready;
use crate::clock::Clock;
use crate::config::AccountConfig;
use crate::event::AccountName;
use crate::sell;

/// No single question takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one of them answered.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// Who was asked: `account acme`.
    pub what: String,
    /// How it is.
    pub state: State,
    /// What it said of itself.
    pub facts: Vec<String>,
    /// What is wrong, with the way out.
    pub errors: Vec<String>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// How something outside is, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// As it is needed.
    Good,
    /// It answers, and refuses or does not fit the configuration.
    Wrong,
    /// It does not answer.
    OutOfReach,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Wrong => "wrong",
            Self::OutOfReach => "out of reach",
        }
    }
}

impl Finding {
    fn out_of_reach(what: String, error: String) -> Self {
        Self { what, state: State::OutOfReach, facts: Vec::new(), errors: vec![error], warnings: Vec::new() }
    }
}

/// Asks all of them.
pub(super) async fn look(ready: &Ready) -> Vec<Finding> {
    let config = &ready.loaded.config;
    let clock = Clock::system();
    join_all(config.accounts.iter().map(|(name, config)| account(name, config, &clock))).await
}

async fn account(name: &AccountName, config: &AccountConfig, clock: &Clock) -> Finding {
    let what = format!("account {name}");
    let Ok(report) = tokio::time::timeout(PATIENCE, sell::check(name, config, clock)).await else {
        return Finding::out_of_reach(what, format!("no answer within {} s", PATIENCE.as_secs()));
    };
    let state = match (report.reachable, report.good()) {
        (false, _) => State::OutOfReach,
        (true, false) => State::Wrong,
        (true, true) => State::Good,
    };
    let mut facts = Vec::new();
    facts.extend(report.dialect.map(|dialect| format!("speaks the {} dialect", dialect.as_str())));
    facts.extend(report.requests.map(|(minute, hour)| format!("{minute} requests a minute, {hour} an hour")));
    if state == State::Good {
        facts.push(format!("streams: {}", report.streams.join(" ")));
    }
    Finding { what, state, facts, errors: report.errors, warnings: report.warnings }
}
