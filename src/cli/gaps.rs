//! `standpipe gaps`: what will not come, and why.

use clap::{Args, Subcommand};

use super::attach::attach;
use super::output::{Format, Table, timestamp};
use super::{Failure, Global};

/// `standpipe gaps`
#[derive(Clone, Debug, Subcommand)]
pub enum Options {
    /// List the gaps of streams and sinks, newest first
    List(List),
}

/// `standpipe gaps list`
#[derive(Clone, Debug, Args)]
pub struct List {
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    format: Format,
}

/// Runs the verb.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let Options::List(options) = options;
    let (_, ledger) = attach(global).await?;
    let rows = ledger.gap_rows(options.limit).await?;
    options.format.print(&rows, |rows| {
        let mut table = Table::new(&["GAP", "OF", "REASON", "FROM", "TO", "AT", "DETAIL"], "There are no gaps.");
        for row in rows {
            let of = match (&row.account, &row.stream, &row.sink) {
                (Some(account), Some(stream), _) => format!("{account}/{stream}"),
                (_, _, Some(sink)) => format!("sink {sink}"),
                _ => String::new(),
            };
            let short = |text: &str| text.chars().take(24).collect::<String>();
            table.row([
                row.gap.to_string(),
                of,
                row.reason.clone(),
                short(&row.from),
                short(&row.to),
                timestamp(row.at),
                row.detail.clone(),
            ]);
        }
        table
    })
}
