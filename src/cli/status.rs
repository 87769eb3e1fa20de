//! `standpipe status`: how everything stands, at one look.

use std::time::Duration;

use clap::Args;

use super::attach::attach;
use super::output::{Format, Table, line, printable, span};
use super::{Failure, Global};
use crate::app::overview;
use crate::clock::Clock;

/// `standpipe status`
#[derive(Clone, Copy, Debug, Args)]
pub struct Options {
    #[command(flatten)]
    format: Format,
}

/// Runs the verb.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let (ready, ledger) = attach(global).await?;
    let status = overview::look(&ready.loaded.config, &ledger, &Clock::system()).await?;
    if options.format.json {
        return line(&serde_json::to_string_pretty(&status).map_err(Failure::runtime)?);
    }
    let seconds = |seconds: Option<f64>| {
        seconds.map_or_else(|| "-".to_owned(), |seconds| span(Duration::from_secs_f64(seconds.clamp(0.0, 1e9))))
    };
    line(&format!("{}  ledger {}  schema {}", status.deployment, status.ledger.id, status.ledger.schema))?;
    let mut shards = Table::new(&["SHARD", "OWNER", "EPOCH", "HEAD"], "no shards");
    for row in &status.shards {
        let owner = row.owner.clone().unwrap_or_else(|| "nobody: is standpipe running?".to_owned());
        shards.row([row.shard.to_string(), owner, row.epoch.to_string(), row.head.to_string()]);
    }
    let mut streams = Table::new(&["STREAM", "STATE", "LAG", "HEADROOM"], "no streams yet");
    for row in &status.streams {
        let lag = if row.top { "at top".to_owned() } else { seconds(row.lag_seconds) };
        streams.row([format!("{}/{}", row.account, row.stream), row.state.clone(), lag, seconds(row.headroom_seconds)]);
    }
    let mut sinks =
        Table::new(&["SINK", "SHARD", "TYPE", "STATE", "CURSOR", "LAG", "BEHIND", "DEAD", "ERROR"], "no sinks yet");
    for row in &status.sinks {
        sinks.row([
            row.sink.clone(),
            row.shard.to_string(),
            row.kind.clone(),
            row.state.clone(),
            row.cursor.map_or_else(|| "-".to_owned(), |seq| seq.to_string()),
            row.lag_events.to_string(),
            seconds(row.lag_seconds),
            row.dead_letters.to_string(),
            row.error.clone().unwrap_or_default(),
        ]);
    }
    line(&format!("\n{shards}\n\n{streams}\n\n{sinks}"))?;
    for void in status.shards.iter().flat_map(|shard| &shard.voids) {
        line(&format!(
            "\nseqs {} to {} are void: the ledger was rewound behind Kafka on {}",
            void.from, void.to, void.at
        ))?;
    }
    let mut ways = Table::new(&["REHYDRATED", "SHARD", "FOUND AT", "GOES ON AT", "SKIPS", "REPLAYS", "WHEN"], "");
    for row in &status.rehydrations {
        let when = row.done_at.map_or_else(|| "not ready: see its error".to_owned(), |at| at.to_string());
        let (found, goes_on) = (row.found.to_string(), row.goes_on.to_string());
        let (skips, reclaimed) = (row.skips.to_string(), row.reclaimed.to_string());
        ways.row([row.sink.clone(), row.shard.to_string(), found, goes_on, skips, reclaimed, when]);
    }
    if !status.rehydrations.is_empty() {
        line(&format!("\n{ways}"))?;
    }
    for row in &status.sinks {
        let Some(audit) = &row.audit else { continue };
        let tail = match (&audit.error, &audit.finding) {
            (Some(error), _) => format!("; it does not follow now: {error}"),
            (None, Some(finding)) => format!("; the last one {finding}"),
            (None, None) => String::new(),
        };
        line(&printable(&format!(
            "audit of {}/{}: {} messages judged, {} not as they should be{tail}",
            row.sink, row.shard, audit.judged, audit.found
        )))?;
    }
    if !status.gaps.is_empty() {
        line(&format!("\n{} gap(s): see `standpipe gaps list`", status.gaps.len()))?;
    }
    Ok(())
}
