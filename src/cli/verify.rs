//! `standpipe verify`: checks by reading the topics what the guarantee of a Kafka sink promises.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;

use super::attach::attach;
use super::output::{line, printable, timestamp};
use super::{Failure, Global};
use crate::clock::Clock;
use crate::config::{Config, KafkaConfig, SinkKind};
use crate::event::SinkName;
use crate::sink::kafka::{Disposition, KafkaSinkError, MAX_FINDINGS, Proof, Question, Settings, prove};

/// Findings that the text shows, for each sink and shard.
const SHOWN: usize = 20;

/// `standpipe verify`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Only what was recorded in this time: 24h, 30m [default: all that the ledger keeps]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only this sink [default: every configured Kafka sink]
    #[arg(long, value_name = "SINK", value_parser = |name: &str| Ok::<_, String>(SinkName::from(name)))]
    sink: Option<SinkName>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    deployment: String,
    ledger: String,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    since: Option<OffsetDateTime>,
    holds: bool,
    sinks: Vec<Proof>,
}

/// Judges every asked sink in every shard. Ends with 1 where anything was found.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let (ready, ledger) = attach(global).await?;
    let config = &ready.loaded.config;
    let clock = Clock::system();
    let now = clock.now();
    let since = options.since.map(|since| now - since);
    let mut report = Report {
        deployment: config.deployment.clone(),
        ledger: ledger.id().to_string(),
        at: now,
        since,
        holds: true,
        sinks: Vec::new(),
    };
    for (name, kafka) in kafka_sinks(config, options.sink.as_ref())? {
        for shard in ledger.shards() {
            let shards = u16::try_from(ledger.shards().count()).unwrap_or(u16::MAX);
            let settings = Settings::new(&config.deployment, name, ledger.id(), shards, shard, kafka.clone());
            let rules = ready.rules[name].clone();
            let question =
                Question { settings: Arc::new(settings), rules: &*rules, book: &ledger, since, clock: &clock };
            let proof = prove(&question).await.map_err(|error| failure(name, error))?;
            report.holds &= proof.holds;
            report.sinks.push(proof);
        }
    }
    if options.json {
        line(&serde_json::to_string_pretty(&report).map_err(Failure::runtime)?)?;
    } else {
        line(&text(&report))?;
    }
    if report.holds { Ok(()) } else { Err(Failure::told(1)) }
}

/// The Kafka sinks that are meant.
pub(super) fn kafka_sinks<'c>(
    config: &'c Config,
    only: Option<&SinkName>,
) -> Result<Vec<(&'c SinkName, &'c KafkaConfig)>, Failure> {
    if let Some(name) = only {
        return match config.sinks.get_key_value(name) {
            Some((name, sink)) => match &sink.kind {
                SinkKind::Kafka(kafka) => Ok(vec![(name, kafka)]),
                SinkKind::Webhook(_) => Err(Failure::configuration(format!(
                    "{name} is a webhook: what it delivered lies with its receiver, so there is nothing to read"
                ))),
            },
            None => Err(Failure::configuration(format!("no sink {name} is configured"))),
        };
    }
    let kafka = config.sinks.iter().filter_map(|(name, sink)| match &sink.kind {
        SinkKind::Kafka(kafka) => Some((name, kafka)),
        SinkKind::Webhook(_) => None,
    });
    let kafka: Vec<_> = kafka.collect();
    if kafka.is_empty() {
        return Err(Failure::configuration("no Kafka sink is configured: there is nothing to read"));
    }
    Ok(kafka)
}

/// The exit code of a sink that could not be looked at.
pub(super) fn failure(sink: &SinkName, error: KafkaSinkError) -> Failure {
    let text = format!("sink {sink}: {}", crate::telemetry::causes(&error));
    match error {
        KafkaSinkError::Ledger(error) => error.into(),
        KafkaSinkError::Property { .. } | KafkaSinkError::Secret { .. } => Failure::configuration(text),
        error if error.disposition() == Disposition::Halt => Failure::runtime(text),
        _ => Failure::environment(text),
    }
}

fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    for proof in &report.sinks {
        let Proof { sink, shard, from, to, .. } = proof;
        lines.push(if from > to {
            format!("sink {sink}, shard {shard}: nothing to judge")
        } else {
            format!("sink {sink}, shard {shard}: events {from} to {to}")
        });
        lines.push(format!(
            "  {} delivered as the ledger says ({} replays, {} repairs, {} stubs)",
            proof.delivered, proof.replays, proof.repairs, proof.stubs
        ));
        for (count, what) in [
            (proof.filtered, "left out by the filter"),
            (proof.dead_letters, "dead letters, or were"),
            (proof.skipped, "in recorded gaps of the sink, or delivered before the ledger was rewound"),
            (proof.expired, "no longer kept by the topic or the ledger: not judged"),
            (proof.unknown, "messages of events that the ledger does not keep: only their links are judged"),
            (proof.others, "messages that other sinks or other rules put there"),
        ] {
            if count > 0 {
                lines.push(format!("  {count} {what}"));
            }
        }
        lines.extend(proof.notes.iter().map(|note| format!("  note: {note}")));
        for finding in proof.findings.iter().take(SHOWN) {
            let place = match (finding.partition, finding.offset) {
                (Some(partition), Some(offset)) => format!("partition {partition} offset {offset}"),
                (Some(partition), None) => format!("partition {partition}"),
                _ => "no partition".to_owned(),
            };
            lines.push(format!(
                "  {}: seq {} in {}, {place}: {}",
                finding.fault.as_str(),
                finding.seq,
                printable(&finding.topic),
                printable(&finding.why)
            ));
        }
        if proof.findings.len() > SHOWN {
            lines.push(format!("  … --json shows up to {MAX_FINDINGS} of them"));
        }
        lines.push(format!(
            "  {} missing, {} duplicate, {} reordered, {} altered, {} unlinked\n",
            proof.missing, proof.duplicate, proof.reordered, proof.altered, proof.unlinked
        ));
    }
    lines.push(match (report.holds, report.since) {
        (true, None) => "Everything that was judged is as the ledger says.".to_owned(),
        (true, Some(since)) => format!("Everything judged since {} is as the ledger says.", timestamp(since)),
        (false, _) => "Not everything is as the ledger says. A sink that lost messages is made whole by `standpipe \
                       reconcile`."
            .to_owned(),
    });
    lines.join("\n")
}
