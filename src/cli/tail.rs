//! `standpipe tail`: events as they are recorded.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indexmap::IndexMap;

use super::attach::{attach, shards};
use super::output::{line, printable, timestamp};
use super::{Failure, Global};
use crate::event::ports::{Decision, ReadLedger, Route, SinkBook};
use crate::event::{Recorded, Seq, SinkName};
use crate::route::Rules;

/// `standpipe tail`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Only what this sink takes, by its own rules
    #[arg(long, value_name = "SINK", conflicts_with = "filter")]
    sink: Option<String>,
    /// Only events for which this is true: CEL, as in a sink's `filter`
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
    /// Begin with the last so many events
    #[arg(long, short = 'n', default_value_t = 10, value_name = "N")]
    last: u64,
    /// End after so many events, instead of going on for ever
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print the canonical events, one JSON document a line
    #[arg(long)]
    json: bool,
    /// Only this shard
    #[arg(long)]
    shard: Option<u16>,
}

/// How often the ledger is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// How much is read at once.
const CHUNK_EVENTS: usize = 1_000;
const CHUNK_BYTES: usize = 4 << 20;

/// Runs until it is interrupted, or `--count` events were shown.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    // What is wrong with the question itself is said first.
    let rules = rules(&super::load(global)?.rules, options)?;
    let (_, ledger) = attach(global).await?;
    let shards = shards(&ledger, options.shard)?;
    let mut cursors = Vec::new();
    for shard in shards {
        let bounds = ledger.bounds(shard).await?;
        let oldest = bounds.oldest.0.saturating_sub(1);
        cursors.push((shard, Seq(bounds.head.0.saturating_sub(options.last).max(oldest))));
    }
    let mut left = options.count.unwrap_or(u64::MAX);
    loop {
        let mut more = false;
        for (shard, cursor) in &mut cursors {
            let head = ledger.bounds(*shard).await?.head;
            if head <= *cursor {
                continue;
            }
            let batch = ledger.read(*shard, *cursor, head, CHUNK_EVENTS, CHUNK_BYTES).await?;
            *cursor = batch.to();
            more |= *cursor < head;
            for event in &batch.events {
                if !shown(rules.as_deref(), event) {
                    continue;
                }
                line(&render(event, options.json))?;
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
            }
        }
        if !more {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }
}

fn rules(of: &IndexMap<SinkName, Arc<Rules>>, options: &Options) -> Result<Option<Arc<Rules>>, Failure> {
    if let Some(sink) = &options.sink {
        let rules = of.get(sink.as_str()).cloned();
        return rules.map(Some).ok_or_else(|| Failure::runtime(format!("no sink {sink} is configured")));
    }
    let Some(filter) = &options.filter else { return Ok(None) };
    match Rules::of_filter(&SinkName::from("tail"), filter) {
        Ok(rules) => Ok(Some(Arc::new(rules))),
        Err(errors) => {
            let texts: Vec<String> = errors.iter().map(|error| format!("--filter: {}", error.pointing())).collect();
            Err(Failure::configuration(texts.join("\n")))
        }
    }
}

/// An event on which the rules fail is shown: a person who looks should see it.
fn shown(rules: Option<&Rules>, event: &Recorded) -> bool {
    rules.is_none_or(|rules| !matches!(rules.decide(event), Ok(Decision::Filtered)))
}

fn render(event: &Recorded, json: bool) -> String {
    let body = String::from_utf8_lossy(&event.body);
    if json {
        return body.into_owned();
    }
    printable(&format!(
        "{} {:>8}  {}  {}/{}  {}",
        timestamp(event.recorded_at),
        event.seq,
        event.event_type,
        event.account,
        event.record_id,
        body.chars().take(160).collect::<String>(),
    ))
}
