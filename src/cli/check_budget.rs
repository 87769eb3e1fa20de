//! What `check` says of an account's budget of requests.

use std::time::Duration;

use crate::config::{AccountConfig, Config, DialectChoice};
use crate::event::ports::Dialect;
use crate::sell::{Limits, wire::LIVE_STREAMS};

/// The requests that all replicas together make, and whose they are.
pub(super) fn told(account: &AccountConfig) -> String {
    let dialects: &[Dialect] = match &account.dialect {
        DialectChoice::Fixed(dialect) => std::slice::from_ref(dialect),
        DialectChoice::Auto => &[Dialect::Reference, Dialect::Live],
    };
    let mut limits: Vec<String> = dialects
        .iter()
        .map(|dialect| {
            let limits = Limits::of(*dialect, account.requests_per_minute, account.requests_per_hour);
            format!("{} requests a minute, {} an hour", limits.per_minute, limits.per_hour)
        })
        .collect();
    limits.dedup();
    let limits = limits.join(", or by its dialect ");
    format!("{limits}; at least 30 % for the streams, the rest for lookups")
}

/// Accounts whose streams would take all of their requests. In the reference dialect a request may wait for an event, so that
/// its few streams never do.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let taken = |(name, account): (_, &AccountConfig)| {
        let streams =
            if account.streams.iter().any(|name| name == "*") { LIVE_STREAMS.len() } else { account.streams.len() };
        let limits = Limits::of(Dialect::Live, account.requests_per_minute, account.requests_per_hour);
        let windows = [("a minute", 60, limits.per_minute), ("an hour", 3600, limits.per_hour)];
        let per = |seconds: u64| {
            let asked = u128::from(seconds) * 1000 * streams as u128;
            asked / account.poll_interval.max(Duration::from_millis(1)).as_millis()
        };
        let (window, asked, allowed) = windows
            .into_iter()
            .map(|(window, seconds, allowed)| (window, per(seconds), u128::from(allowed)))
            .find(|(_, asked, allowed)| asked >= allowed)?;
        let each = humantime::format_duration(account.poll_interval);
        let within = if account.dialect == DialectChoice::Auto { "in the live dialect, " } else { "" };
        let message = format!(
            "{within}{streams} streams that are each asked every {each} make {asked} requests {window}, of {allowed} that are allowed: \
             nothing is left for lookups, and the streams are asked less often"
        );
        Some(config.problem(&format!("accounts.{name}.poll_interval"), message).to_string())
    };
    let live =
        config.accounts.iter().filter(|(_, account)| account.dialect != DialectChoice::Fixed(Dialect::Reference));
    live.filter_map(taken).collect()
}
