//! How verbs that list things print them: a table for people, JSON for programs.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Failure;

/// `--json`, on every verb that lists something.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Format {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

impl Format {
    /// Prints a value as JSON, or what `table` makes of it. A closed pipe is not an error.
    pub fn print<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> Table) -> Result<(), Failure> {
        let text = if self.json {
            serde_json::to_string_pretty(value).map_err(Failure::runtime)?
        } else {
            table(value).to_string()
        };
        line(&text)
    }
}

/// Prints one line (or block) to standard output. A closed pipe is not an error.
pub fn line(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::runtime(error)),
        _ => Ok(()),
    }
}

/// A time as RFC 3339, to the second.
#[must_use]
pub fn timestamp(at: OffsetDateTime) -> String {
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_else(|_| whole.to_string())
}

/// How long ago it was, in the two largest units: `2h 5m`.
#[must_use]
pub fn ago(now: OffsetDateTime, then: OffsetDateTime) -> String {
    let seconds = u64::try_from((now - then).whole_seconds()).unwrap_or(0);
    span(Duration::from_secs(seconds))
}

/// A duration in its two largest units.
#[must_use]
pub fn span(duration: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Columns of text, aligned.
#[derive(Debug)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    empty: &'static str,
}

impl Table {
    /// A table with these column names, and the sentence that stands there when it has no rows.
    #[must_use]
    pub fn new(head: &[&'static str], empty: &'static str) -> Self {
        Self { head: head.to_vec(), rows: Vec::new(), empty }
    }

    /// Adds a row. Control characters, which data from outside may hold, are shown as `\u{..}`, never sent to a
    /// terminal.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }
}

/// The text with its control characters escaped.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.rows.is_empty() {
            return f.write_str(self.empty);
        }
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([self.head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let bold = io::stdout().is_terminal();
        let line = |cells: Vec<&str>| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let head = line(self.head.clone());
        if bold {
            write!(f, "\x1b[1m{head}\x1b[0m")?;
        } else {
            f.write_str(&head)?;
        }
        for row in &self.rows {
            write!(f, "\n{}", line(row.iter().map(String::as_str).collect()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_aligns_its_columns_and_shows_control_characters() {
        let mut table = Table::new(&["NAME", "N"], "nothing");
        assert_eq!(table.to_string(), "nothing");
        table.row(["a\x1b[31m".to_owned(), "1".to_owned()]);
        table.row(["longer-name".to_owned(), "2".to_owned()]);
        let text = table.to_string();
        assert!(text.contains("\\u{1b}[31m"), "{text}");
        assert!(text.contains("longer-name  2"), "{text}");
    }
}
