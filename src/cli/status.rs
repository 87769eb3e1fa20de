//! `standpipe status`: how everything stands, at one look.

use std::time::Duration;

use clap::Args;

use super::attach::attach;
use super::output::{Format, Table, line, printable, span, timestamp};
use super::{Failure, Global, healthcheck};
use crate::app::{overview, replica};
use crate::clock::Clock;
use crate::console::Replica;

/// `standpipe status`
#[derive(Clone, Copy, Debug, Args)]
pub struct Options {
    #[command(flatten)]
    format: Format,
}

/// Runs the verb.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let (ready, ledger) = attach(global).await?;
    let config = &ready.loaded.config;
    let mut status = overview::look(config, &ledger, &Clock::system()).await?;
    // Of the replica that has this configuration; one that does not run says nothing.
    let told = healthcheck::get(config.server.metrics_listen, "/metrics").await;
    status.replica = told.as_deref().ok().map(replica::read);
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
    let mut grants = Table::new(&["ACCOUNT", "AUTHORIZATION", "RENEWED", "GOOD UNTIL", "ERROR"], "");
    for row in &status.grants {
        let time = |at: Option<time::OffsetDateTime>| at.map_or_else(|| "-".to_owned(), timestamp);
        let (renewed, until) = (time(row.renewed_at), time(row.expires_at));
        grants.row([row.account.clone(), row.state.to_owned(), renewed, until, row.error.clone().unwrap_or_default()]);
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
    line(&format!("\n{shards}"))?;
    if !status.grants.is_empty() {
        line(&format!("\n{grants}"))?;
    }
    line(&format!("\n{streams}\n\n{sinks}"))?;
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
    match (&status.replica, told) {
        (Some(replica), _) => line(&beside(replica, config.passthrough.cache))?,
        (None, Ok(_)) => {}
        (None, Err(why)) => line(&printable(&format!("\nof cache, budget and lookups nothing is known: {why}")))?,
    }
    if !status.gaps.is_empty() {
        line(&format!("\n{} gap(s): see `standpipe gaps list`", status.gaps.len()))?;
    }
    Ok(())
}

/// What this replica keeps, lends and looks up.
fn beside(replica: &Replica, room: u64) -> String {
    let mut accounts =
        Table::new(&["ACCOUNT", "LEFT/MIN", "LEFT/HOUR", "AT DOOR", "THROTTLED", "LOOKUPS", "HITS"], "no accounts");
    for row in &replica.accounts {
        accounts.row([
            row.account.clone(),
            row.minute_left.to_string(),
            row.hour_left.to_string(),
            row.requests.to_string(),
            row.throttled.to_string(),
            row.lookups.to_string(),
            row.hit_ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.0} %", 100.0 * ratio)),
        ]);
    }
    let size = |bytes| bytesize::ByteSize(bytes).display().iec();
    let cache = replica.cache;
    let mut told =
        format!("\n{accounts}\n\ncache: {} of {}, answers: {}", size(cache.bytes), size(room), cache.entries);
    let mut sinks = Table::new(&["LOOKS UP", "STREAM", "CACHE", "VENDOR", "MISSED", "NOW"], "");
    for row in &replica.enrichment {
        let now = if row.waiting { "waits" } else { "goes on" };
        let counts = [row.stream, row.cache, row.vendor, row.missed].map(|count| count.to_string());
        let [stream, cache, vendor, missed] = counts;
        sinks.row([row.sink.clone(), stream, cache, vendor, missed, now.to_owned()]);
    }
    if !replica.enrichment.is_empty() {
        told.extend(["\n\n", &sinks.to_string()]);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{CacheLine, EnrichmentLine, LendingLine};

    #[test]
    fn status_tells_what_is_kept_lent_and_looked_up() {
        let account = LendingLine {
            account: "acme".to_owned(),
            minute_left: 90,
            hour_left: 5990,
            requests: 14,
            throttled: 2,
            lookups: 8,
            hits: 6,
            hit_ratio: Some(0.75),
        };
        let mut replica =
            Replica { cache: CacheLine { entries: 3, bytes: 4096 }, accounts: vec![account], enrichment: Vec::new() };
        let told = beside(&replica, 32 << 20);
        let words = |told: &str| told.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert!(words(&told).contains("acme 90 5990 14 2 8 75 %"), "{told}");
        assert!(told.ends_with("cache: 4.0 KiB of 32.0 MiB, answers: 3"), "{told}");
        let sink = "crm".to_owned();
        replica.enrichment.push(EnrichmentLine { sink, stream: 4, cache: 3, vendor: 2, missed: 1, waiting: true });
        let told = beside(&replica, 32 << 20);
        assert!(words(&told).ends_with("LOOKS UP STREAM CACHE VENDOR MISSED NOW crm 4 3 2 1 waits"), "{told}");
    }
}
