//! From raw keys to the typed [`Config`]: what must be given is given, texts are what they should be, values fit
//! each other. Every problem is noted and the check goes on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;

use super::check_account::account;
use super::check_sink::sink;
use super::problem::{Origins, Problem};
use super::raw::{RawConfig, RawKey, RawLedger, RawLogFormat, RawPassthrough, RawScope, RawServer, RawTelemetry};
use super::scalar::{PathText, SecretText, format_duration, is_name};
use super::secret::{Secret, SecretError};
use super::types::{
    AccountConfig, AuditConfig, ChannelsConfig, Config, KeyConfig, LedgerConfig, LedgerUrl, LogFormat,
    PassthroughConfig, Scope, ServerConfig, TelemetryConfig,
};
use super::walk::shown;
use crate::event::AccountName;
use crate::mutant::{Mutant, planted};

/// Collects what is wrong.
pub(super) struct Checker<'a> {
    origins: &'a Origins,
    /// Keys that an earlier step has taken out with an error of their own; `""` = everything.
    bad: Vec<String>,
    problems: &'a mut Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Checker<'_> {
    /// Notes what is wrong with a key, unless the key has an error already.
    pub(super) fn refuse(&mut self, key: &str, message: impl Into<String>) {
        if !self.is_bad(key) {
            self.problems.push(self.origins.problem(key, message));
        }
    }

    pub(super) fn warn(&mut self, key: &str, message: impl Into<String>) {
        if !self.is_bad(key) {
            self.warnings.push(self.origins.problem(key, message));
        }
    }

    /// A value of the file, for an error; one that the environment gives is not shown.
    pub(super) fn shown(&self, key: &str, text: &str) -> String {
        if self.origins.hides(key) { "what the environment gives".to_owned() } else { shown(text) }
    }

    /// Whether a key, or a table around it, has an error already.
    pub(super) fn is_bad(&self, key: &str) -> bool {
        self.bad.iter().any(|bad| {
            bad.is_empty()
                || key.strip_prefix(bad.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Refuses a duration that is too short.
    pub(super) fn at_least(&mut self, key: &str, value: Duration, least: Duration) -> Duration {
        if value < least {
            let (value, least) = (format_duration(value), format_duration(least));
            self.refuse(key, format!("{value} is too short: at least {least}"));
        }
        value
    }

    /// A secret from `key` or its twin `key_file`: one of both, readable and not empty. `needed` = the error when
    /// there is none.
    pub(super) fn secret(
        &mut self,
        key: &str,
        value: Option<SecretText>,
        file: Option<PathText>,
        needed: Option<&str>,
    ) -> Option<(Secret, SecretString)> {
        let twin = format!("{key}_file");
        let secret = match (value, file) {
            (Some(_), Some(_)) => {
                let name = key.rsplit_once('.').map_or(key, |(_, name)| name);
                self.refuse(key, format!("both `{name}` and `{name}_file` are given; leave one out"));
                return None;
            }
            (Some(value), None) => return self.read(key, Secret::value(value.0)),
            (None, Some(path)) => Secret::file(path.0),
            (None, None) => {
                if let Some(needed) = needed
                    && !self.is_bad(&twin)
                {
                    self.refuse(key, needed);
                }
                return None;
            }
        };
        self.read(&twin, secret)
    }

    /// Reads a secret once, so that a file that is missing or empty is a configuration error.
    pub(super) fn read(&mut self, key: &str, secret: Secret) -> Option<(Secret, SecretString)> {
        match secret.read() {
            Ok(text) => Some((secret, text)),
            Err(error @ SecretError::Read { .. }) => {
                self.refuse(key, format!("{error}; create it, or correct the path or its permissions"));
                None
            }
            Err(error @ SecretError::Empty { .. }) => {
                self.refuse(key, error.to_string());
                None
            }
        }
    }
}

/// Gives a configuration even where something is wrong, so that further checks can look at the rest of it; what has a
/// problem is left out or stands empty.
pub(super) fn check(
    raw: RawConfig,
    origins: &Origins,
    bad: Vec<String>,
    problems: &mut Vec<Problem>,
) -> (Config, Vec<Problem>) {
    let mut to = Checker { origins, bad, problems, warnings: Vec::new() };
    let deployment = deployment(raw.deployment, &mut to);
    to.at_least("startup_timeout", raw.startup_timeout.0, Duration::from_secs(1));
    to.at_least("drain_timeout", raw.drain_timeout.0, Duration::from_secs(1));
    let state_dir = state_dir(raw.state_dir, &mut to);
    let names: Vec<&str> = raw.accounts.keys().map(|name| name.0.as_str()).collect();
    let server = server(raw.server, &names, &mut to);
    let telemetry = telemetry(raw.telemetry, &mut to);
    let passthrough = passthrough(&raw.passthrough, &mut to);
    if raw.channels.bytes.0 < 1024 {
        to.refuse("channels.bytes", "too small: at least 1KiB");
    }
    if raw.accounts.is_empty() {
        to.refuse("accounts", "no account is configured; add a table [accounts.NAME] with its token or token_file");
    }
    if raw.sinks.is_empty() {
        to.warn("sinks", "no sink is configured: events are recorded and delivered nowhere");
    }
    let mut accounts = IndexMap::new();
    for (name, raw) in raw.accounts {
        if let Some(account) = account(&name.0, raw, &mut to) {
            accounts.insert(AccountName::from(name.0), account);
        }
    }
    let ledger = ledger(raw.ledger, &accounts, &mut to);
    let sinks =
        raw.sinks.into_iter().map(|(name, raw)| (name.0.as_str().into(), sink(&name.0, raw, &mut to))).collect();
    let warnings = to.warnings;
    let config = Config {
        deployment,
        state_dir,
        startup_timeout: raw.startup_timeout.0,
        drain_timeout: raw.drain_timeout.0,
        ledger,
        channels: ChannelsConfig { events: raw.channels.events as usize, bytes: raw.channels.bytes.0 },
        server,
        accounts,
        sinks,
        passthrough,
        audit: AuditConfig { enabled: raw.audit.enabled },
        telemetry,
        origins: origins.clone(),
    };
    (config, warnings)
}

fn deployment(given: Option<String>, to: &mut Checker<'_>) -> String {
    match given {
        None => {
            to.refuse("deployment", "is missing; give this deployment a name of its own: deployment = \"acme-prod\"");
            String::new()
        }
        Some(name) if !is_name(&name) => {
            to.refuse(
                "deployment",
                "not a name: a name has lower-case letters, digits and `-`, begins with a letter, and is at most 32 long",
            );
            name
        }
        Some(name) => name,
    }
}
fn passthrough(raw: &RawPassthrough, to: &mut Checker<'_>) -> PassthroughConfig {
    let longest = Duration::from_hours(24);
    for (key, given) in
        [("passthrough.cache_ttl", raw.cache_ttl.0), ("passthrough.stale_if_error", raw.stale_if_error.0)]
    {
        if given > longest {
            to.refuse(key, format!("{} is too long: at most {}", format_duration(given), format_duration(longest)));
        }
    }
    if (1..1 << 20).contains(&raw.cache.0) {
        to.refuse("passthrough.cache", "too small: at least 1MiB, or 0B for none");
    }
    PassthroughConfig { cache: raw.cache.0, cache_ttl: raw.cache_ttl.0, stale_if_error: raw.stale_if_error.0 }
}

fn state_dir(given: PathText, to: &mut Checker<'_>) -> PathBuf {
    if given.0.exists() && !given.0.is_dir() {
        to.refuse("state_dir", format!("{} is not a directory", given.0.display()));
    }
    given.0
}

fn ledger(raw: RawLedger, accounts: &IndexMap<AccountName, AccountConfig>, to: &mut Checker<'_>) -> LedgerConfig {
    let needed = "is missing; give `url` (postgres://user@host/database, or \"embedded\") or `url_file`";
    let url = to.secret("ledger.url", raw.url, raw.url_file, Some(needed)).and_then(|(secret, text)| {
        let text = text.expose_secret();
        if text == "embedded" {
            return Some(LedgerUrl::Embedded);
        }
        if text.parse::<sqlx::postgres::PgConnectOptions>().is_err() || !is_postgres(text) {
            to.refuse(
                "ledger.url",
                "not a PostgreSQL URL; it looks like postgres://user@host/database, or is \"embedded\"",
            );
            return None;
        }
        Some(LedgerUrl::Postgres(secret))
    });
    to.at_least("ledger.lease_ttl", raw.lease_ttl.0, Duration::from_secs(3));
    to.at_least("ledger.retention", raw.retention.0, Duration::from_secs(1));
    if raw.max_backlog.0 < 1 << 20 {
        to.refuse("ledger.max_backlog", "too small: at least 1MiB");
    }
    if let Some((name, account)) = accounts.iter().max_by_key(|(_, account)| account.history) {
        // The longest outage that loses nothing is as long as the history itself.
        let least = account.history.saturating_mul(2);
        if raw.dedupe_window.0 < least && !planted(Mutant::DedupeTooShort) {
            to.refuse(
                "ledger.dedupe_window",
                format!(
                    "{} is too short: at least {}, twice the `history` of accounts.{name} ({}), or an event that the \
                     source repeats after an outage could be recorded twice",
                    format_duration(raw.dedupe_window.0),
                    format_duration(least),
                    format_duration(account.history),
                ),
            );
        }
        if raw.retention.0 > raw.dedupe_window.0 {
            to.warn(
                "ledger.retention",
                format!(
                    "{} is longer than `dedupe_window` ({}): an event is found by its id for that long only",
                    format_duration(raw.retention.0),
                    format_duration(raw.dedupe_window.0),
                ),
            );
        }
        if let Some((name, account)) = accounts.iter().min_by_key(|(_, account)| account.history)
            && raw.backlog_hold.0 >= account.history
        {
            to.warn(
                "ledger.backlog_hold",
                format!(
                    "{} is not shorter than the `history` of accounts.{name} ({}): every sink with a backlog would be \
                     cut off at once",
                    format_duration(raw.backlog_hold.0),
                    format_duration(account.history)
                ),
            );
        }
    }
    LedgerConfig {
        url: url.unwrap_or(LedgerUrl::Embedded),
        shards: raw.shards,
        lease_ttl: raw.lease_ttl.0,
        retention: raw.retention.0,
        dedupe_window: raw.dedupe_window.0,
        max_backlog: raw.max_backlog.0,
        backlog_hold: raw.backlog_hold.0,
        pooler: raw.pooler,
        migrate: raw.migrate,
    }
}

fn is_postgres(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

fn server(raw: RawServer, accounts: &[&str], to: &mut Checker<'_>) -> ServerConfig {
    let (listen, metrics_listen) = (raw.listen.0, raw.metrics_listen.0);
    if !listen.ip().to_canonical().is_loopback() && raw.keys.is_empty() {
        to.refuse(
            "server.listen",
            format!(
                "{} is not a loopback address, and without an API key only loopback is served; add a table \
                 [server.keys.NAME], or listen on 127.0.0.1",
                listen.ip()
            ),
        );
    }
    if overlap(listen, metrics_listen) {
        to.refuse("server.metrics_listen", format!("{metrics_listen} is what `listen` takes too; choose another port"));
    }
    let mut tokens: IndexMap<String, String> = IndexMap::new();
    let mut keys = IndexMap::new();
    for (name, raw) in raw.keys {
        let path = format!("server.keys.{}", name.0);
        if let Some((key, text)) = key(&path, raw, accounts, to) {
            if let Some(other) = tokens.get(text.expose_secret()) {
                to.refuse(
                    &format!("{path}.token"),
                    format!("the same token as server.keys.{other}; give each its own"),
                );
            }
            tokens.insert(text.expose_secret().to_owned(), name.0.clone());
            keys.insert(name.0, key);
        }
    }
    ServerConfig { listen, metrics_listen, keys }
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let all = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (all || one.ip() == other.ip())
}

fn key(path: &str, raw: RawKey, accounts: &[&str], to: &mut Checker<'_>) -> Option<(KeyConfig, SecretString)> {
    let needed = "is missing; give `token` or `token_file`";
    let token = to.secret(&format!("{path}.token"), raw.token, raw.token_file, Some(needed));
    if let Some((_, text)) = &token
        && text.expose_secret().len() < 16
    {
        to.warn(&format!("{path}.token"), "is shorter than 16 characters: it can be guessed");
    }
    if raw.allow.is_empty() {
        to.refuse(
            &format!("{path}.allow"),
            "is empty: the key may do nothing; list what it may do, like [\"events:read\"]",
        );
    }
    for (index, name) in raw.accounts.iter().enumerate() {
        if !accounts.contains(&name.as_str()) {
            let key = format!("{path}.accounts[{index}]");
            to.refuse(&key, format!("{} is not a configured account", to.shown(&key, name)));
        }
    }
    let allow = raw.allow.iter().map(|scope| match scope {
        RawScope::PassthroughRead => Scope::PassthroughRead,
        RawScope::PassthroughWrite => Scope::PassthroughWrite,
        RawScope::EventsRead => Scope::EventsRead,
        RawScope::Admin => Scope::Admin,
    });
    let allow = allow.collect();
    let accounts = raw.accounts.into_iter().map(AccountName::from).collect();
    token.map(|(token, text)| (KeyConfig { token, allow, accounts }, text))
}

fn telemetry(raw: RawTelemetry, to: &mut Checker<'_>) -> TelemetryConfig {
    if EnvFilter::builder().parse(&raw.log).is_err() {
        to.refuse(
            "telemetry.log",
            "not a log filter; it is a level (error, warn, info, debug, trace), or targets with levels, like \
             \"info,standpipe::source=debug\"",
        );
    }
    let endpoint = raw.otlp_endpoint.trim();
    if !endpoint.is_empty() {
        let fits = reqwest::Url::parse(endpoint).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
        });
        if !fits {
            to.refuse("telemetry.otlp_endpoint", "not an http(s) URL without credentials, like http://collector:4318");
        }
    }
    TelemetryConfig {
        log: raw.log,
        log_format: match raw.log_format {
            RawLogFormat::Auto => LogFormat::Auto,
            RawLogFormat::Json => LogFormat::Json,
            RawLogFormat::Text => LogFormat::Text,
        },
        otlp_endpoint: (!endpoint.is_empty()).then(|| endpoint.to_owned()),
    }
}
