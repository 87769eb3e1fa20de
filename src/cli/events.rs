//! `standpipe events`: one event in the ledger, and sending it again.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::value::RawValue;

use super::attach::{attach, when};
use super::evidence::{self, List};
use super::output::{Format, line, printable, timestamp};
use super::{Failure, Global};
use crate::event::{Seq, Shard, SinkName};
use crate::ledger::operator::{EventRow, MAX_REPLAYS, MAX_SEQ, Replayed, Seqs};

/// `standpipe events`
#[derive(Clone, Debug, Subcommand)]
pub enum Options {
    /// Show what the ledger has under an event id
    Get(Get),
    /// Send an event, or a range, to one sink again: each under its own id and a new seq
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
    #[arg(long, value_name = "SEQ|FROM..TO", conflicts_with = "id", value_parser = seqs)]
    seq: Option<Seqs>,
    /// The shard of the seqs
    #[arg(long, default_value_t = 0)]
    shard: u16,
    #[command(flatten)]
    format: Format,
}

fn seqs(text: &str) -> Result<Seqs, String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let number = |part: &str| part.trim().parse::<u64>().map_err(|_| "expected SEQ or FROM..TO".to_owned());
    let (from, to) = (number(from)?, number(to)?);
    if from == 0 || to < from || to > MAX_SEQ || to - from >= MAX_REPLAYS {
        return Err(format!("expected 1 <= FROM <= TO, at most {MAX_REPLAYS} events"));
    }
    Ok(Seqs { from: Seq(from), to: Seq(to) })
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
    let (shard, seqs) = match (&options.id, options.seq) {
        (_, Some(seqs)) => (Shard(options.shard), seqs),
        (id, None) => {
            let id = id.as_deref().unwrap_or_default();
            let rows = ledger.events_by_id(id).await?;
            let first = rows.iter().find(|row| row.replay.is_none()).or_else(|| rows.first());
            let Some(first) = first else {
                return Err(Failure::runtime(format!("the ledger keeps no event with the id {}", printable(id))));
            };
            (first.shard, Seqs::one(first.seq))
        }
    };
    let mut replayed = Replayed::default();
    if let Err(error) = ledger.wish_replays(sink, shard, seqs, &mut replayed).await {
        if let Some(settled) = replayed.settled {
            told(options, shard, &replayed)?;
            line(&format!("Up to seq {settled} only; go on with --seq {}..{}.", settled.next(), seqs.to))?;
        }
        return Err(error.into());
    }
    told(options, shard, &replayed)?;
    if replayed.replayed == 0 {
        return Err(Failure::runtime(format!(
            "nothing is sent again: shard {shard} keeps no event of {sink} from seq {} to {}; `standpipe events get ID` \
             shows what is kept",
            seqs.from, seqs.to
        )));
    }
    if options.format.json { Ok(()) } else { line(when(&ledger).await?) }
}

fn told(options: &Replay, shard: Shard, replayed: &Replayed) -> Result<(), Failure> {
    /// What `--json` prints.
    #[derive(Serialize)]
    struct Told<'a> {
        sink: &'a SinkName,
        shard: Shard,
        #[serde(flatten)]
        replayed: &'a Replayed,
    }
    let sink = &options.sink;
    if options.format.json {
        let told = serde_json::to_string_pretty(&Told { sink, shard, replayed });
        return line(&told.map_err(Failure::runtime)?);
    }
    line(&format!(
        "{} event(s) go to {sink} again, marked standpipe-replay and outside the order promise.",
        replayed.replayed
    ))?;
    if replayed.for_another_sink > 0 {
        line(&format!("{} replay(s) for another sink are left out.", replayed.for_another_sink))?;
    }
    let missing = replayed.not_kept.iter();
    let missing: Vec<String> =
        missing.map(|Seqs { from, to }| if from == to { from.to_string() } else { format!("{from}..{to}") }).collect();
    if missing.is_empty() { Ok(()) } else { line(&format!("Not kept: {}.", missing.join(", "))) }
}
