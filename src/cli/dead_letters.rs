//! `standpipe dead-letters`: what sinks gave up on.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::value::RawValue;

use super::attach::{attach, when};
use super::output::{Format, Table, line, printable, timestamp};
use super::{Failure, Global};
use crate::event::{Seq, Shard, SinkName};
use crate::ledger::{DeadLetter, DeadLetters, FailedAttempt};

/// `standpipe dead-letters`
#[derive(Clone, Debug, Subcommand)]
pub enum Options {
    /// List dead letters, the oldest first
    List(List),
    /// Show one dead letter: its event, why it was given up, and every attempt
    Show(Show),
    /// Send dead letters to their sink again, each under its own id and a new seq; outside the order of its record
    Redrive(Which),
    /// Remove dead letters for good
    Discard(Which),
}

/// `standpipe dead-letters list`
#[derive(Clone, Debug, Args)]
pub struct List {
    /// Only of this sink
    #[arg(long, value_parser = |name: &str| Ok::<_, String>(SinkName::from(name)))]
    sink: Option<SinkName>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    format: Format,
}

/// `standpipe dead-letters show`
#[derive(Clone, Debug, Args)]
pub struct Show {
    /// The sink
    #[arg(value_parser = |name: &str| Ok::<_, String>(SinkName::from(name)))]
    sink: SinkName,
    /// The event's seq
    seq: u64,
    /// The seq's shard
    #[arg(long, default_value_t = 0)]
    shard: u16,
    /// Print the event's bytes alone, as they are delivered
    #[arg(long, conflicts_with = "json")]
    body: bool,
    #[command(flatten)]
    format: Format,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// The sink
    #[arg(value_parser = |name: &str| Ok::<_, String>(SinkName::from(name)))]
    sink: SinkName,
    /// The seqs
    #[arg(required_unless_present = "all")]
    seqs: Vec<u64>,
    /// Every dead letter of the sink
    #[arg(long, conflicts_with = "seqs")]
    all: bool,
    /// Only this shard [default: 0 for seqs, every one for --all]
    #[arg(long)]
    shard: Option<u16>,
}

impl Which {
    fn letters(&self) -> DeadLetters {
        DeadLetters {
            sink: Some(self.sink.clone()),
            shard: self.shard.or((!self.all).then_some(0)).map(Shard),
            seqs: self.seqs.iter().copied().map(Seq).collect(),
        }
    }

    /// What is said when the number of letters found is not the number asked for.
    fn missing(&self, found: u64) -> Result<(), Failure> {
        if self.all || found == self.seqs.len() as u64 {
            return Ok(());
        }
        Err(Failure::runtime(format!(
            "{} of {} are no dead letters of {}; `standpipe dead-letters list` shows what there is",
            self.seqs.len() as u64 - found,
            self.seqs.len(),
            self.sink
        )))
    }
}

/// Runs the verb.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    match options {
        Options::List(options) => list(global, options).await,
        Options::Show(options) => show(global, options).await,
        Options::Redrive(which) => {
            let (ready, ledger) = attach(global).await?;
            if !ready.loaded.config.sinks.contains_key(&which.sink) {
                return Err(Failure::runtime(format!("no sink {} is configured that could take them", which.sink)));
            }
            let redriven = ledger.redrive_dead_letters(&which.letters()).await?;
            line(&format!("{redriven} dead letters of {} are sent again. {}", which.sink, when(&ledger).await?))?;
            which.missing(redriven)
        }
        Options::Discard(which) => {
            let (_, ledger) = attach(global).await?;
            let discarded = ledger.discard_dead_letters(&which.letters()).await?;
            line(&format!("{discarded} dead letters of {} are gone.", which.sink))?;
            which.missing(discarded)
        }
    }
}

async fn list(global: &Global, options: &List) -> Result<(), Failure> {
    let (_, ledger) = attach(global).await?;
    let which = DeadLetters { sink: options.sink.clone(), ..DeadLetters::default() };
    let letters = ledger.list_dead_letters(&which, options.limit).await?;
    options.format.print(&letters, |letters| {
        let mut table =
            Table::new(&["SINK", "SHARD", "SEQ", "TYPE", "RECORD", "ATTEMPTS", "SINCE", "REASON"], "No dead letters.");
        for letter in letters {
            table.row([
                letter.sink.clone(),
                letter.shard.to_string(),
                letter.seq.to_string(),
                letter.event_type.clone(),
                letter.record_id.clone(),
                letter.attempts.to_string(),
                timestamp(letter.at),
                letter.reason.clone(),
            ]);
        }
        table
    })
}

/// The event stands in the JSON as its own bytes.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    letter: &'a DeadLetter,
    failed_attempts: &'a [FailedAttempt],
    event: Option<&'a RawValue>,
}

async fn show(global: &Global, options: &Show) -> Result<(), Failure> {
    let (_, ledger) = attach(global).await?;
    let Some(whole) = ledger.dead_letter(&options.sink, Shard(options.shard), Seq(options.seq)).await? else {
        return Err(Failure::runtime(format!(
            "seq {} of shard {} is no dead letter of {}",
            options.seq, options.shard, options.sink
        )));
    };
    let body = String::from_utf8_lossy(&whole.body);
    if options.body {
        return line(&body);
    }
    if options.format.json {
        // A canonical event is JSON; were it not, it is left out rather than changed.
        let event = serde_json::from_str(&body).ok();
        let shown = Shown { letter: &whole.letter, failed_attempts: &whole.attempts, event };
        return line(&serde_json::to_string_pretty(&shown).map_err(Failure::runtime)?);
    }
    let letter = &whole.letter;
    let mut lines = Vec::new();
    let told = [
        ("sink", letter.sink.clone()),
        ("place", format!("shard {}, seq {}", letter.shard, letter.seq)),
        ("event", format!("{} ({}, account {})", letter.event_id, letter.event_type, letter.account)),
        ("record", letter.record_id.clone()),
        ("given up", format!("{} after {} attempts: {}", timestamp(letter.at), letter.attempts, letter.reason)),
        ("kept until", timestamp(letter.expires_at)),
    ];
    for (what, value) in told {
        lines.push(format!("{what:<11} {}", printable(&value)));
    }
    for attempt in &whole.attempts {
        let status = attempt.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        lines.push(format!(
            "attempt {:<3} {} {status} in {} ms: {}",
            attempt.number,
            timestamp(attempt.at),
            attempt.took_ms,
            printable(&attempt.error)
        ));
        if !attempt.answer.is_empty() {
            lines.push(format!("            {}", printable(&attempt.answer)));
        }
    }
    lines.push(printable(&body));
    line(&lines.join("\n"))
}
