//! `standpipe streams`: where the source stands, and moving it.

use clap::{Args, Subcommand};

use super::attach::{attach, when};
use super::output::{Format, Table, ago, line};
use super::{Failure, Global};
use crate::event::{AccountName, Position, StreamKey, StreamName};

/// `standpipe streams`
#[derive(Clone, Debug, Subcommand)]
pub enum Options {
    /// List every stream with its position, state and age
    List(Format),
    /// Stop polling a stream; its position is kept, and ages
    Pause(Target),
    /// Poll a paused stream again
    Resume(Target),
    /// Go on at another position; what is skipped is recorded and announced as a gap
    Seek {
        #[command(flatten)]
        target: Target,
        /// `tail` (the oldest event that the source keeps), `top` (now), or a position that the source gave
        #[arg(value_name = "POSITION")]
        to: String,
    },
}

/// Which stream is meant.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The stream as `account/stream`: acme/deals
    #[arg(value_name = "ACCOUNT/STREAM", value_parser = key)]
    stream: StreamKey,
}

fn key(text: &str) -> Result<StreamKey, String> {
    match text.split_once('/') {
        Some((account, stream)) if !account.is_empty() && !stream.is_empty() => {
            Ok(StreamKey { account: AccountName::from(account), stream: StreamName::from(stream) })
        }
        _ => Err("expected ACCOUNT/STREAM, as in acme/deals".to_owned()),
    }
}

/// Runs the verb.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let (_, ledger) = attach(global).await?;
    match options {
        Options::List(format) => {
            let rows = ledger.stream_rows().await?;
            let now = crate::clock::Clock::system().now();
            format.print(&rows, |rows| {
                let mut table = Table::new(
                    &["STREAM", "STATE", "AT TOP", "MOVED", "POSITION", "DETAIL"],
                    "No stream has been opened yet: streams appear when `standpipe run` has reached the account.",
                );
                for row in rows {
                    table.row([
                        format!("{}/{}", row.account, row.stream),
                        if row.seeking { format!("{} (seeking)", row.state) } else { row.state.clone() },
                        if row.top { "yes" } else { "no" }.to_owned(),
                        ago(now, row.position_at),
                        row.position.chars().take(40).collect(),
                        row.detail.clone(),
                    ]);
                }
                table
            })
        }
        Options::Pause(Target { stream }) => {
            ledger.pause_stream(stream, true).await?;
            line(&format!(
                "{stream} is paused. Its position ages: past the source's history (72 h by default) a gap follows. {}",
                when(&ledger).await?
            ))
        }
        Options::Resume(Target { stream }) => {
            ledger.pause_stream(stream, false).await?;
            line(&format!("{stream} is resumed. {}", when(&ledger).await?))
        }
        Options::Seek { target: Target { stream }, to } => {
            ledger.seek_stream(stream, &Position::from(to.as_str())).await?;
            line(&format!(
                "{stream} goes on at the new position, and the step is recorded as a gap. {}",
                when(&ledger).await?
            ))
        }
    }
}
