//! `standpipe events rejected` and `standpipe events conflicts`: what the source sent that is no event, or contradicts
//! one.

use clap::Args;

use super::attach::attach;
use super::output::{Format, Table, timestamp};
use super::{Failure, Global};

/// What both verbs take.
#[derive(Clone, Copy, Debug, Args)]
pub struct List {
    /// At most so many, newest first
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    format: Format,
}

/// How much of a document a table shows, in characters.
const SHOWN: usize = 60;

fn short(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

pub(super) async fn rejected(global: &Global, options: &List) -> Result<(), Failure> {
    let (_, ledger) = attach(global).await?;
    let rows = ledger.rejected_rows(options.limit).await?;
    options.format.print(&rows, |rows| {
        let head = ["NUMBER", "STREAM", "SEEN", "REASON", "ELEMENT"];
        let mut table = Table::new(&head, "Nothing was rejected within the dedupe window.");
        for row in rows {
            table.row([
                row.rejected.to_string(),
                format!("{}/{}", row.account, row.stream),
                timestamp(row.seen_at),
                row.reason.clone(),
                short(&row.raw),
            ]);
        }
        table
    })
}

pub(super) async fn conflicts(global: &Global, options: &List) -> Result<(), Failure> {
    let (_, ledger) = attach(global).await?;
    let rows = ledger.conflict_rows(options.limit).await?;
    options.format.print(&rows, |rows| {
        let head = ["NUMBER", "ACCOUNT", "EVENT", "KEPT AT", "KEPT", "OTHER", "TIMES", "SEEN", "WHAT THE OTHER SAID"];
        let mut table = Table::new(&head, "No event came again with other content within the dedupe window.");
        for row in rows {
            table.row([
                row.conflict.to_string(),
                row.account.clone(),
                short(&row.event_id),
                format!("{}:{}", row.shard, row.kept_seq),
                row.kept_hash.clone(),
                row.other_hash.clone(),
                row.times.to_string(),
                timestamp(row.seen_at),
                short(&row.other),
            ]);
        }
        table
    })
}
