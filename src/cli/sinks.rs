//! `standpipe sinks`: where the sinks stand, and moving them.

use clap::{Args, Subcommand};

use super::attach::{attach, shards, when};
use super::output::{Format, Table, ago, line};
use super::{Failure, Global};
use crate::event::{Seq, SinkName};
use crate::ledger::operator::SeekTo;

/// `standpipe sinks`
#[derive(Clone, Debug, Subcommand)]
pub enum Options {
    /// List every sink with its cursor, lag and state
    List(Format),
    /// Stop delivering to a sink; its events are kept
    Pause(Target),
    /// Deliver to a paused or halted sink again
    Resume(Target),
    /// Turn a disabled webhook endpoint on again; the kept events go out
    Enable(Target),
    /// Go on at another event; what is skipped is recorded and announced as a gap, what is gone back over is sent again
    Seek {
        #[command(flatten)]
        target: Target,
        /// `oldest` (kept), `now`, or the seq to go on with
        #[arg(value_parser = place)]
        to: SeekTo,
        /// Only this shard; needed with a seq where there are several
        #[arg(long)]
        shard: Option<u16>,
    },
    /// Forget a sink that is no longer configured, with its dead letters: it holds nothing back any more
    Forget(Target),
}

/// Which sink is meant.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The sink's name
    #[arg(value_name = "SINK", value_parser = |name: &str| Ok::<_, String>(SinkName::from(name)))]
    sink: SinkName,
}

fn place(text: &str) -> Result<SeekTo, String> {
    match text {
        "oldest" => Ok(SeekTo::Oldest),
        "now" => Ok(SeekTo::Now),
        number => {
            number.parse().map(|seq| SeekTo::Seq(Seq(seq))).map_err(|_| "expected oldest, now or a seq".to_owned())
        }
    }
}

/// Runs the verb.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let (ready, ledger) = attach(global).await?;
    match options {
        Options::List(format) => {
            let rows = ledger.sink_rows().await?;
            let now = crate::clock::Clock::system().now();
            let configured = |sink: &str| ready.loaded.config.sinks.contains_key(sink);
            format.print(&rows, |rows| {
                let mut table = Table::new(
                    &["SINK", "SHARD", "STATE", "CURSOR", "LAG", "WAITING", "DEAD LETTERS", "ERROR"],
                    "No sink has started yet: `standpipe run` starts those that are configured.",
                );
                for row in rows {
                    table.row([
                        row.sink.clone(),
                        row.shard.to_string(),
                        if configured(&row.sink) { row.state.clone() } else { "not configured".to_owned() },
                        row.cursor.map_or_else(|| "-".to_owned(), |seq| seq.to_string()),
                        row.lag_events.to_string(),
                        row.waiting_since.map_or_else(|| "-".to_owned(), |since| ago(now, since)),
                        row.dead_letters.to_string(),
                        row.error.clone().unwrap_or_default(),
                    ]);
                }
                table
            })
        }
        Options::Pause(Target { sink }) => {
            ledger.pause_sink(sink, true).await?;
            line(&format!("{sink} is paused; its events are kept. {}", when(&ledger).await?))
        }
        Options::Resume(Target { sink }) => {
            ledger.pause_sink(sink, false).await?;
            line(&format!("{sink} is resumed. {}", when(&ledger).await?))
        }
        Options::Enable(Target { sink }) => {
            ledger.enable_sink(sink).await?;
            line(&format!("{sink} is enabled; what was kept goes out. {}", when(&ledger).await?))
        }
        Options::Seek { target: Target { sink }, to, shard } => {
            let meant = shards(&ledger, *shard)?;
            if meant.len() > 1 && matches!(to, SeekTo::Seq(_)) {
                return Err(Failure::runtime("a seq belongs to one shard: name it with --shard"));
            }
            for shard in meant {
                let cursor = ledger.seek_sink(sink, shard, *to).await?;
                line(&format!("{sink} goes on after seq {cursor} of shard {shard}."))?;
            }
            line(when(&ledger).await?)
        }
        Options::Forget(Target { sink }) => {
            if ready.loaded.config.sinks.contains_key(sink) {
                return Err(Failure::runtime(format!(
                    "the sink {sink} is configured: take it out of the configuration before it is forgotten"
                )));
            }
            ledger.forget_sink(sink).await?;
            line(&format!("{sink} is forgotten, with its dead letters."))
        }
    }
}
