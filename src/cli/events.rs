//! `standpipe events`: one event in the ledger, and sending it again.

use clap::{Args, Subcommand};
use serde_json::value::RawValue;

use super::attach::{attach, when};
use super::evidence::{self, List};
use super::output::{Format, line, printable, timestamp};
use super::{Failure, Global};
use crate::event::{Seq, Shard, SinkName};
use crate::ledger::operator::EventRow;

/// `standpipe events`
#[derive(Clone, Debug, Subcommand)]
pub enum Options {
    /// Show what the ledger has under an event id
    Get(Get),
    /// Send an event to one sink again, under its own id and a new seq
    Replay(Replay),
    /// List elements of pages that cannot be events, with the reason
    Rejected(List),
    /// List events that came again under a known id with other content; the first one stays
    Conflicts(List),
}

/// `standpipe events get`
#[derive(Clone, Debug, Args)]
pub struct Get {
    /// The event id
    id: String,
    /// Print the canonical bytes alone, as they are delivered
    #[arg(long, conflicts_with = "json")]
    body: bool,
    #[command(flatten)]
    format: Format,
}

/// `standpipe events replay`
#[derive(Clone, Debug, Args)]
pub struct Replay {
    /// The event id; its first recording is sent again
    #[arg(required_unless_present = "seq")]
    id: Option<String>,
    /// The sink that gets it
    #[arg(long, value_parser = |name: &str| Ok::<_, String>(SinkName::from(name)))]
    sink: SinkName,
    /// Instead of an id: the seq of one event, or a range FROM..TO (both sent)
    #[arg(long, conflicts_with = "id", value_parser = seqs)]
    seq: Option<(u64, u64)>,
    /// The shard of the seqs
    #[arg(long, default_value_t = 0)]
    shard: u16,
}

/// More than this is not replayed at once.
const MAX_REPLAYS: u64 = 100_000;

fn seqs(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let number = |part: &str| part.trim().parse::<u64>().map_err(|_| "expected SEQ or FROM..TO".to_owned());
    let (from, to) = (number(from)?, number(to)?);
    if from == 0 || to < from || to - from >= MAX_REPLAYS {
        return Err(format!("expected 1 <= FROM <= TO, at most {MAX_REPLAYS} events"));
    }
    Ok((from, to))
}

/// Runs the verb.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    match options {
        Options::Get(options) => get(global, options).await,
        Options::Replay(options) => replay(global, options).await,
        Options::Rejected(options) => evidence::rejected(global, options).await,
        Options::Conflicts(options) => evidence::conflicts(global, options).await,
    }
}

async fn get(global: &Global, options: &Get) -> Result<(), Failure> {
    let (_, ledger) = attach(global).await?;
    let rows = ledger.events_by_id(&options.id).await?;
    let Some(first) = rows.first() else {
        return Err(Failure::runtime(format!(
            "the ledger keeps no event with the id {}; it keeps events for ledger.retention",
            printable(&options.id)
        )));
    };
    if options.body {
        return line(&String::from_utf8_lossy(&first.body));
    }
    if options.format.json {
        let rows: Vec<_> = rows.iter().map(json).collect();
        return line(&serde_json::to_string_pretty(&rows).map_err(Failure::runtime)?);
    }
    for row in &rows {
        let occurred = row.occurred_at.map_or_else(|| "unknown".to_owned(), timestamp);
        let replay = match &row.replay {
            Some((of, sink)) => format!("\n  replay    of seq {of} for sink {sink}"),
            None => String::new(),
        };
        line(&printable_lines(&format!(
            "{} {}/{}\n  id        {}\n  place     shard {}, seq {}\n  occurred  {occurred}\n  recorded  {}{replay}\n  body      {}",
            row.event_type,
            row.account,
            row.record_id,
            row.event_id,
            row.shard,
            row.seq,
            timestamp(row.recorded_at),
            String::from_utf8_lossy(&row.body),
        )))?;
    }
    Ok(())
}

fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

fn json(row: &EventRow) -> serde_json::Value {
    let body = std::str::from_utf8(&row.body).ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    serde_json::json!({
        "id": row.event_id,
        "type": row.event_type,
        "account": row.account,
        "record_id": row.record_id,
        "shard": row.shard,
        "seq": row.seq,
        "occurred_at": row.occurred_at.map(timestamp),
        "recorded_at": timestamp(row.recorded_at),
        "replay_of": row.replay.as_ref().map(|(of, _)| of),
        "replay_sink": row.replay.as_ref().map(|(_, sink)| sink),
        "event": body,
    })
}

async fn replay(global: &Global, options: &Replay) -> Result<(), Failure> {
    let (ready, ledger) = attach(global).await?;
    let sink = &options.sink;
    if !ready.loaded.config.sinks.contains_key(sink) {
        return Err(Failure::runtime(format!("no sink {sink} is configured")));
    }
    let wishes = match (&options.id, options.seq) {
        (Some(id), _) => {
            let rows = ledger.events_by_id(id).await?;
            let first = rows.iter().find(|row| row.replay.is_none()).or_else(|| rows.first());
            let Some(first) = first else {
                return Err(Failure::runtime(format!("the ledger keeps no event with the id {}", printable(id))));
            };
            vec![(first.shard, first.seq)]
        }
        (None, Some((from, to))) => (from..=to).map(|seq| (Shard(options.shard), Seq(seq))).collect(),
        (None, None) => Vec::new(),
    };
    for (shard, seq) in &wishes {
        ledger.wish_replay(sink, *shard, *seq).await?;
    }
    line(&format!(
        "{} event(s) go to {sink} again, marked standpipe-replay and outside the order promise. {}",
        wishes.len(),
        when(&ledger).await?
    ))
}
