//! `standpipe check`: what a configuration means and promises, before it runs.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::check_budget;
use super::output::{line, printable};
use super::reach::{self, Finding, State};
use super::{Failure, Global, Ready};
use crate::config::{
    Auth, Config, DialectChoice, EnrichConfig, KeyConfig, LedgerUrl, Order, PassthroughConfig, SinkConfig, SinkKind,
};
use crate::event::OnMiss;
use crate::event::ports::Dialect;
use crate::route::never_emitted;
use crate::sell::wire::never_looked_up;

/// `standpipe check`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Look at nothing but the configuration: no database, broker or vendor is asked
    #[arg(long)]
    offline: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What a configuration means.
#[derive(Debug, Serialize)]
struct Report {
    deployment: String,
    ledger: &'static str,
    shards: u16,
    accounts: Vec<AccountReport>,
    sinks: Vec<SinkReport>,
    /// What the passthrough keeps of the vendor's answers.
    passthrough: String,
    /// Who may use console and passthrough; none = programs on this machine alone.
    keys: Vec<KeyReport>,
    warnings: Vec<String>,
    /// What was asked outside; none with `--offline`.
    outside: Option<Vec<Finding>>,
}

#[derive(Debug, Serialize)]
struct AccountReport {
    account: String,
    base_url: String,
    dialect: &'static str,
    streams: Vec<String>,
    events: Vec<String>,
    /// By what requests are authorized.
    authorization: &'static str,
    guarantee: &'static str,
    /// What its requests may be, and what is left over for lookups.
    budget: String,
}

#[derive(Debug, Serialize)]
struct KeyReport {
    key: String,
    allow: Vec<&'static str>,
    /// None = every account.
    accounts: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SinkReport {
    sink: String,
    #[serde(rename = "type")]
    kind: &'static str,
    guarantee: &'static str,
    order: &'static str,
    /// What is looked up for its events.
    enrichment: Vec<String>,
    /// Whether what it delivers is read back and judged; none where that cannot be.
    audit: Option<&'static str>,
}

/// Loads and checks everything that can be known on this machine, then asks everything that `run` would need. Ends
/// with 3 when anything is out of reach, else with 2 when anything refuses.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let ready = super::load(global)?;
    let mut report = report(&ready);
    if !options.offline {
        report.outside = Some(reach::look(&ready).await);
    }
    if options.json {
        line(&serde_json::to_string_pretty(&report).map_err(Failure::runtime)?)?;
    } else {
        line(text(&report).trim_end())?;
    }
    match report.outside.iter().flatten().map(|finding| finding.state).max() {
        None | Some(State::Good) => Ok(()),
        Some(State::Wrong) => Err(Failure::told(2)),
        Some(State::OutOfReach) => Err(Failure::told(3)),
    }
}

fn report(ready: &Ready) -> Report {
    let config = &ready.loaded.config;
    let mut warnings: Vec<String> = ready.loaded.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(dialect_warnings(ready));
    warnings.extend(key_warnings(config));
    warnings.extend(check_budget::warnings(config));
    Report {
        deployment: config.deployment.clone(),
        ledger: match config.ledger.url {
            LedgerUrl::Postgres(_) => "postgres",
            LedgerUrl::Embedded => "embedded",
        },
        shards: config.ledger.shards,
        accounts: config
            .accounts
            .iter()
            .map(|(name, account)| AccountReport {
                account: name.to_string(),
                base_url: account.base_url.clone(),
                dialect: match account.dialect {
                    DialectChoice::Auto => "auto",
                    DialectChoice::Fixed(dialect) => dialect.as_str(),
                },
                streams: account.streams.clone(),
                events: account.events.clone(),
                authorization: match account.auth {
                    Auth::Token(_) => "a token",
                    Auth::OAuth { .. } => "OAuth 2.0",
                },
                guarantee: "recorded exactly once",
                budget: check_budget::told(account),
            })
            .collect(),
        sinks: config.sinks.iter().map(|(name, sink)| sink_report(name.as_str(), sink, config.audit.enabled)).collect(),
        passthrough: passthrough(&config.passthrough),
        keys: config.server.keys.iter().map(|(name, key)| key_report(name, key)).collect(),
        warnings,
        outside: None,
    }
}

/// What is kept of the vendor's answers.
fn passthrough(config: &PassthroughConfig) -> String {
    let time = humantime::format_duration;
    let size = bytesize::ByteSize(config.cache).display().iec();
    match (config.cache, config.stale_if_error) {
        (0, _) => "keeps no answers".to_owned(),
        (_, Duration::ZERO) => format!("keeps {size} of answers, each fresh for {} at most", time(config.cache_ttl)),
        (_, stale) => format!(
            "keeps {size} of answers, each fresh for {} at most, and given as stale for {} while the vendor fails",
            time(config.cache_ttl),
            time(stale)
        ),
    }
}

fn key_report(name: &str, key: &KeyConfig) -> KeyReport {
    KeyReport {
        key: name.to_owned(),
        allow: key.allow.iter().map(|scope| scope.as_str()).collect(),
        accounts: key.accounts.iter().map(ToString::to_string).collect(),
    }
}

/// The guarantee that a sink really has, in the words of the guarantee table.
fn sink_report(name: &str, sink: &SinkConfig, audited: bool) -> SinkReport {
    let in_order = "first deliveries of one record's events arrive in source order";
    let (guarantee, order) = match &sink.kind {
        SinkKind::Kafka(kafka) if keeps_records_together(&kafka.key) => {
            ("exactly once for read_committed consumers", in_order)
        }
        SinkKind::Kafka(_) => (
            "exactly once for read_committed consumers",
            "in source order within a partition; this key may spread one record over several",
        ),
        SinkKind::Webhook(webhook) => (
            "at least once, with the same webhook-id on every attempt",
            match webhook.order {
                Order::Record => in_order,
                Order::None => "none: events of one record do not wait for each other",
            },
        ),
    };
    let audit = matches!(sink.kind, SinkKind::Kafka(_)).then_some(if audited {
        "on: what it delivers is read back and judged while it runs"
    } else {
        "off ([audit] enabled); `standpipe verify` judges when asked"
    });
    let enrichment = sink.enrich.iter().map(enrichment).collect();
    SinkReport { sink: name.to_owned(), kind: sink.kind.as_str(), guarantee, order, enrichment, audit }
}

fn enrichment(enrich: &EnrichConfig) -> String {
    let EnrichConfig { name, lookup, max_age, on_miss, .. } = enrich;
    let without = match on_miss {
        OnMiss::Wait => "waits for an answer",
        OnMiss::Skip => "goes without one",
        OnMiss::Null => "goes with a null instead of one",
    };
    format!("{name} from {lookup}, at most {} old, {without}", humantime::format_duration(*max_age))
}

/// Whether events of one record always get one key: the template names the record and nothing that changes with the
/// event.
fn keeps_records_together(key: &str) -> bool {
    let changing = ["id", "timestamp", "sequence", "action", "type", "cause", "data", "previous", "meta", "enrichment"];
    let words = || key.split(|c: char| !c.is_alphanumeric() && c != '_');
    words().any(|word| word == "record_id") && !words().any(|word| changing.contains(&word))
}

fn key_warnings(config: &Config) -> Vec<String> {
    let kafka = config.sinks.iter().filter_map(|(name, sink)| match &sink.kind {
        SinkKind::Kafka(kafka) if !keeps_records_together(&kafka.key) => Some(name),
        _ => None,
    });
    kafka
        .map(|name| {
            let message = "events of one record may get different keys and so lose their order among each other; the \
                           default key keeps it";
            config.problem(&format!("sinks.{name}.key"), message).to_string()
        })
        .collect()
}

/// Filters and `events` that name a type which the account's dialect never emits. While the dialect is not known
/// (`auto`), only what neither emits is named.
fn dialect_warnings(ready: &Ready) -> Vec<String> {
    let config = &ready.loaded.config;
    let mut dialects = Vec::new();
    let mut warnings = Vec::new();
    for (name, account) in &config.accounts {
        let possible: &[Dialect] = match &account.dialect {
            DialectChoice::Fixed(dialect) => std::slice::from_ref(dialect),
            DialectChoice::Auto => &[Dialect::Reference, Dialect::Live],
        };
        dialects.extend(possible.iter().map(|dialect| (name.clone(), *dialect)));
        for (index, pattern) in account.events.iter().enumerate() {
            let hints: Option<Vec<String>> = possible.iter().map(|dialect| never_emitted(*dialect, pattern)).collect();
            if let Some(hint) = hints.and_then(|hints| hints.into_iter().next()) {
                let message = format!("the account never emits `{pattern}`: {hint}");
                warnings.push(config.problem(&format!("accounts.{name}.events[{index}]"), message).to_string());
            }
        }
    }
    for (sink, index, enrich) in config
        .sinks
        .iter()
        .flat_map(|(name, sink)| sink.enrich.iter().enumerate().map(move |(index, enrich)| (name, index, enrich)))
    {
        let hints: Option<Vec<String>> = dialects
            .iter()
            .map(|(account, dialect)| {
                never_looked_up(*dialect, &enrich.lookup).map(|hint| format!("{account}: {hint}"))
            })
            .collect();
        if let Some(hints) = hints.filter(|hints| !hints.is_empty()) {
            let message = format!("no account has `{}` to look up ({})", enrich.lookup, hints.join("; "));
            warnings.push(config.problem(&format!("sinks.{sink}.enrich[{index}].lookup"), message).to_string());
        }
    }
    warnings.extend(ready.rules.values().flat_map(|rules| rules.warnings(&dialects)));
    warnings
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    let mut say = |text: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        out.write_fmt(text).and_then(|()| out.write_char('\n')).unwrap_or_default();
    };
    let shards = if report.shards == 1 { "1 shard".to_owned() } else { format!("{} shards", report.shards) };
    say(format_args!("deployment {} ({} ledger, {shards})", report.deployment, report.ledger));
    for account in &report.accounts {
        let (streams, events) = (account.streams.join(" "), account.events.join(" "));
        say(format_args!("\naccount {}: {}", account.account, account.guarantee));
        say(format_args!("  {}, dialect {}, streams {streams}, events {events}", account.base_url, account.dialect));
        say(format_args!("  authorized by {}", account.authorization));
        say(format_args!("  budget: {}", account.budget));
    }
    for sink in &report.sinks {
        say(format_args!("\nsink {} ({}): {}", sink.sink, sink.kind, sink.guarantee));
        say(format_args!("  order: {}", sink.order));
        for enrichment in &sink.enrichment {
            say(format_args!("  looks up: {enrichment}"));
        }
        if let Some(audit) = sink.audit {
            say(format_args!("  audit: {audit}"));
        }
    }
    say(format_args!("\npassthrough: {}", report.passthrough));
    if report.keys.is_empty() {
        say(format_args!(
            "\nconsole and passthrough: open to programs on this machine, to nobody else (no [server.keys])"
        ));
    }
    for key in &report.keys {
        let accounts = match key.accounts.as_slice() {
            [] => "every account".to_owned(),
            accounts => format!("accounts {}", accounts.join(" ")),
        };
        say(format_args!("\nkey {}: {}, {accounts}", key.key, key.allow.join(" ")));
    }
    for warning in &report.warnings {
        let lines: Vec<String> = warning.lines().map(printable).collect();
        say(format_args!("\nwarning: {}", lines.join("\n  ")));
    }
    let Some(outside) = &report.outside else {
        say(format_args!("\nThe configuration is right. Nothing outside of it was asked."));
        return out;
    };
    for finding in outside {
        say(format_args!("\n{}: {}", finding.what, finding.state.as_str()));
        for fact in &finding.facts {
            say(format_args!("  {}", printable(fact)));
        }
        for error in &finding.errors {
            say(format_args!("  error: {}", printable(error)));
        }
        for warning in &finding.warnings {
            say(format_args!("  warning: {}", printable(warning)));
        }
    }
    let bad = outside.iter().filter(|finding| finding.state != State::Good).count();
    if bad == 0 {
        say(format_args!("\nThe configuration is right, and everything that it needs answers."));
    } else {
        say(format_args!(
            "\nThe configuration is right, but {bad} of {} things that it needs do not answer or do not fit.",
            outside.len()
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(text: &str) -> Ready {
        let loaded = crate::config::parse("f.toml", text).unwrap();
        let rules = crate::app::rules::compile(&loaded.config).unwrap();
        Ready { loaded, rules }
    }

    const CONFIG: &str = r#"deployment = "t"
[ledger]
url = "embedded"
[accounts.acme]
token = "t"
dialect = "live"
events = ["deal.*", "organization.created"]
[sinks.crm]
type = "kafka"
brokers = "b:1"
topic = "t"
key = "{{ account }}/{{ id }}"
filter = "type == 'activity.created'"
[sinks.whole]
type = "kafka"
brokers = "b:1"
topic = "t"
[sinks.ops]
type = "webhook"
url = "https://h/"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
order = "none"
"#;

    #[test]
    fn check_prints_the_guarantee_that_each_sink_really_has() {
        let report = report(&ready(CONFIG));
        let told: Vec<_> = report.sinks.iter().map(|sink| (sink.sink.as_str(), sink.guarantee, sink.order)).collect();
        assert_eq!(told[0].1, "exactly once for read_committed consumers");
        assert!(told[0].2.contains("may spread one record"), "{told:?}");
        assert_eq!(told[1].2, "first deliveries of one record's events arrive in source order");
        assert!(told[2].1.starts_with("at least once, with the same webhook-id"), "{told:?}");
        assert!(told[2].2.starts_with("none"), "{told:?}");
    }

    #[test]
    fn check_tells_the_budget_of_an_account_and_whose_it_is() {
        let told = |config: &str| text(&report(&ready(config)));
        let share = "at least 30 % for the streams, the rest for lookups";
        assert!(told(CONFIG).contains(&format!("  budget: 600 requests a minute, 36000 an hour; {share}\n")));
        let unknown = told(&CONFIG.replace("dialect = \"live\"", "requests_per_minute = 50"));
        let either = "50 requests a minute, 6000 an hour, or by its dialect 50 requests a minute, 36000 an hour";
        assert!(unknown.contains(either), "{unknown}");
    }

    #[test]
    fn check_warns_where_the_streams_leave_nothing_for_lookups() {
        let shown = |more: &str| {
            let config = CONFIG.replace("dialect = \"live\"\n", &format!("dialect = \"live\"\n{more}\n"));
            text(&report(&ready(&config)))
        };
        assert!(!shown("poll_interval = \"2s\"").contains("poll_interval"), "19 streams, 570 of 600 a minute");
        let warning = "accounts.acme.poll_interval: 19 streams that are each asked every 1s make 1140 requests a \
                       minute, of 600 that are allowed: nothing is left for lookups";
        let told = shown("poll_interval = \"1s\"");
        assert!(told.contains(warning), "{told}");
        assert!(!shown("poll_interval = \"1s\"\nstreams = [\"deals\", \"contacts\"]").contains("poll_interval"));
        let hour = shown("poll_interval = \"5s\"\nrequests_per_hour = 13680");
        assert!(hour.contains("make 13680 requests an hour, of 13680"), "{hour}");
        let other = |dialect: &str| {
            let account = format!("dialect = \"{dialect}\"\npoll_interval = \"1s\"\n");
            text(&report(&ready(&CONFIG.replace("dialect = \"live\"\n", &account))))
        };
        assert!(other("auto").contains("accounts.acme.poll_interval: in the live dialect, 19 streams"));
        assert!(!other("reference").contains("poll_interval"));
    }

    #[test]
    fn check_tells_what_is_looked_up_and_warns_where_no_account_has_it() {
        let enrich = |lookup: &str| {
            format!(
                "[[sinks.ops.enrich]]\nlookup = \"{lookup}\"\nid = \"record_id\"\nas = \"it\"\nmax_age = \"90s\"\n\
                 on_miss = \"skip\"\n"
            )
        };
        let shown = |lookup: &str| text(&report(&ready(&format!("{CONFIG}{}", enrich(lookup)))));
        let contacts = shown("contacts");
        assert!(
            contacts.contains("  looks up: it from contacts, at most 1m 30s old, goes without one\n"),
            "{contacts}"
        );
        assert!(!contacts.contains("to look up"), "{contacts}");
        let organizations = shown("organizations");
        let warning = "f.toml:24: sinks.ops.enrich[0].lookup: no account has `organizations` to look up (acme: the live \
                       dialect has organizations as contacts";
        assert!(organizations.contains(warning), "{organizations}");
    }

    #[test]
    fn check_warns_of_types_that_the_dialect_never_emits_and_of_keys_that_lose_the_order() {
        let report = report(&ready(CONFIG));
        let warned = |text: &str| report.warnings.iter().any(|warning| warning.contains(text));
        assert!(
            warned("f.toml:7: accounts.acme.events[1]: the account never emits `organization.created`"),
            "{report:?}"
        );
        assert!(warned("f.toml:12: sinks.crm.key"), "{report:?}");
        assert!(warned("activity.created"), "{report:?}");
        let shown = text(&report);
        assert!(shown.contains("sink ops (webhook): at least once"), "{shown}");
        assert_eq!(shown.matches("  audit: off").count(), 2, "{shown}");
        let audited = self::report(&ready(&format!("{CONFIG}[audit]\nenabled = true\n")));
        assert_eq!(text(&audited).matches("  audit: on").count(), 2, "of the Kafka sinks alone");
    }
}
