//! What `standpipe check` asks of the world outside: everything that `run` would need, each within a deadline, all at
//! once. Nothing is changed and nothing is delivered.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::fs::Access;
use serde::Serialize;

use super::Ready;
use crate::clock::Clock;
use crate::config::{AccountConfig, Auth, Config, KafkaConfig, LedgerUrl, SinkKind, WebhookConfig};
use crate::event::{AccountName, SinkName};
use crate::ledger::{Database, Ledger, OpenDisposition, OpenError, newest_schema};
use crate::sell;
use crate::sink;
use crate::sink::kafka::KafkaSinkError;
use crate::sink::webhook::CheckError;
use crate::telemetry::causes;

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
    fn good(what: String, facts: Vec<String>) -> Self {
        Self { what, state: State::Good, facts, errors: Vec::new(), warnings: Vec::new() }
    }

    fn out_of_reach(what: String, error: String) -> Self {
        Self { what, state: State::OutOfReach, facts: Vec::new(), errors: vec![error], warnings: Vec::new() }
    }
}

/// Asks all of them.
pub(super) async fn look(ready: &Ready) -> Vec<Finding> {
    let config = &ready.loaded.config;
    let clock = Clock::system();
    let sinks = join_all(config.sinks.iter().map(async |(name, sink)| match &sink.kind {
        SinkKind::Kafka(kafka) => kafka_sink(config, name, kafka).await,
        SinkKind::Webhook(webhook) => webhook_sink(name, webhook).await,
    }));
    let ledger_and_accounts = async {
        let (finding, ledger) = ledger(config).await;
        // What an account is authorized by may stand in the ledger.
        let asked = config.accounts.iter().map(|(name, config)| account(name, config, &clock, ledger.as_ref()));
        (finding, join_all(asked).await)
    };
    let ((ledger, accounts), sinks) = tokio::join!(ledger_and_accounts, sinks);
    let mut findings = vec![state_dir(&config.state_dir), ledger];
    findings.extend(accounts);
    findings.extend(sinks);
    findings
}

/// Whether `run` could keep its instance id and its lock there.
fn state_dir(path: &Path) -> Finding {
    // It is made at start when it is not there.
    let existing = path.ancestors().find(|path| path.as_os_str().is_empty() || path.exists());
    let existing = existing.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let what = format!("state_dir {}", path.display());
    match rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::good(what, Vec::new()),
        Err(error) => {
            let who = existing.display();
            Finding::out_of_reach(what, format!("{who} cannot be written to by this user: {error}"))
        }
    }
}

/// Whether the database answers and what is in it fits; and the ledger, where it does.
async fn ledger(config: &Config) -> (Finding, Option<Ledger>) {
    let what = "ledger".to_owned();
    let url = match &config.ledger.url {
        LedgerUrl::Postgres(url) => url.clone(),
        LedgerUrl::Embedded => {
            let fact = format!("a private PostgreSQL under {}, started by `run`", config.state_dir.display());
            return (Finding::good(what, vec![fact]), running(config).await);
        }
    };
    let asked = tokio::time::timeout(PATIENCE, async {
        let url = url.read().map_err(|error| (State::Wrong, causes(&error)))?;
        let told = |error: OpenError| match error.disposition() {
            OpenDisposition::Retry => (State::OutOfReach, causes(&error)),
            OpenDisposition::Configuration | OpenDisposition::Environment => (State::Wrong, causes(&error)),
        };
        let database = Database::connect(&config.ledger, &url, &config.deployment).await.map_err(told)?;
        let schema = database.schema().await.map_err(told)?;
        let newest = newest_schema();
        if schema < newest && config.ledger.migrate {
            return Ok((vec![format!("the schema is at version {schema}, `run` will bring it to {newest}")], None));
        }
        match Ledger::attach(&config.ledger, &url, &config.deployment).await {
            Ok(ledger) => Ok((vec![format!("ledger {}, schema at version {schema}", ledger.id())], Some(ledger))),
            Err(OpenError::Absent) => {
                Ok((vec![format!("schema at version {schema}, the first `run` makes the ledger")], None))
            }
            Err(error) => Err(told(error)),
        }
    });
    match asked.await {
        Ok(Ok((facts, ledger))) => (Finding::good(what, facts), ledger),
        Ok(Err((state, error))) => (Finding { state, ..Finding::out_of_reach(what, error) }, None),
        Err(_) => (Finding::out_of_reach(what, format!("no answer within {} s", PATIENCE.as_secs())), None),
    }
}

/// The embedded ledger of a daemon that runs now, where an account needs it.
async fn running(config: &Config) -> Option<Ledger> {
    config.accounts.values().find(|account| matches!(account.auth, Auth::OAuth { .. }))?;
    let url = super::attach::ledger_url(config).read().ok()?;
    let attached = Ledger::attach(&config.ledger, &url, &config.deployment);
    tokio::time::timeout(PATIENCE, attached).await.ok()?.ok()
}

/// Whether the brokers answer, let it initialise transactions, and keep what is written to them.
async fn kafka_sink(config: &Config, name: &SinkName, kafka: &KafkaConfig) -> Finding {
    let what = format!("sink {name}");
    // A topic that is a template is made, or looked at, when the first event names it.
    let topics: Vec<String> = Some(kafka.topic.clone()).filter(|topic| !topic.contains('{')).into_iter().collect();
    let asked = sink::kafka::check(name, &config.deployment, None, config.ledger.shards, kafka, &topics);
    match tokio::time::timeout(2 * PATIENCE, asked).await {
        Ok(Ok(checked)) => {
            Finding { warnings: checked.warnings, ..Finding::good(what, vec![checked.guarantee, checked.settings]) }
        }
        Ok(Err(error)) => {
            let state = match error {
                KafkaSinkError::Kafka { .. } | KafkaSinkError::Hangs { .. } => State::OutOfReach,
                _ => State::Wrong,
            };
            Finding { state, ..Finding::out_of_reach(what, causes(&error)) }
        }
        Err(_) => Finding::out_of_reach(what, format!("no answer within {} s", 2 * PATIENCE.as_secs())),
    }
}

/// Whether the endpoint's host answers at an address that the guard lets through. No request is made: a receiver would
/// take it for an event.
async fn webhook_sink(name: &SinkName, webhook: &WebhookConfig) -> Finding {
    let what = format!("sink {name}");
    match tokio::time::timeout(PATIENCE, sink::webhook::check(webhook)).await {
        Ok(Ok(checked)) => {
            let mut facts = vec![format!("{} answers at {}", checked.host, checked.address)];
            facts.extend(checked.public_key.map(|key| format!("public key for receivers: {key}")));
            Finding::good(what, facts)
        }
        Ok(Err(error)) => {
            let state = match error {
                CheckError::Unreachable { .. } => State::OutOfReach,
                CheckError::Endpoint(_) | CheckError::Refused(_) => State::Wrong,
            };
            Finding { state, ..Finding::out_of_reach(what, causes(&error)) }
        }
        Err(_) => Finding::out_of_reach(what, format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn account(name: &AccountName, config: &AccountConfig, clock: &Clock, ledger: Option<&Ledger>) -> Finding {
    let what = format!("account {name}");
    let Ok(report) = tokio::time::timeout(PATIENCE, sell::check(name, config, clock, ledger)).await else {
        return Finding::out_of_reach(what, format!("no answer within {} s", PATIENCE.as_secs()));
    };
    let state = match (report.reachable, report.good()) {
        (false, _) => State::OutOfReach,
        (true, false) => State::Wrong,
        (true, true) => State::Good,
    };
    let mut facts = vec![format!("authorized {}", report.authorization)];
    facts.extend(report.dialect.map(|dialect| format!("speaks the {} dialect", dialect.as_str())));
    facts.extend(report.requests.map(|(minute, hour)| format!("{minute} requests a minute, {hour} an hour")));
    facts.extend(may(&report));
    if state == State::Good && report.firehose == Some(true) {
        facts.push(format!("streams: {}", report.streams.join(" ")));
    }
    Finding { what, state, facts, errors: report.errors, warnings: report.warnings }
}

/// What the account's plan has, what its credential may, and what time it is there.
fn may(report: &sell::CheckReport) -> Vec<String> {
    let mut facts = Vec::new();
    facts.extend(report.firehose.map(|has| {
        if has {
            "plan: with the Firehose".to_owned()
        } else {
            "plan: without the Firehose, or not for this user".to_owned()
        }
    }));
    let word = |allowed: Option<bool>| allowed.map_or("not known", |allowed| if allowed { "read" } else { "refused" });
    if report.firehose.is_some() || report.core.is_some() {
        let user = report.user.as_ref().map(|user| format!(", as {user}")).unwrap_or_default();
        facts.push(format!("rights: Firehose {}, Core {}{user}", word(report.firehose), word(report.core)));
    }
    facts.extend(report.clock_skew_seconds.map(|skew| match skew.abs() {
        // It says whole seconds, and takes a moment to say it.
        ..2.0 => "clock: as ours".to_owned(),
        seconds => format!("clock: {seconds:.0} s {} ours", if skew < 0.0 { "behind" } else { "ahead of" }),
    }));
    facts
}
