use std::fmt;
use std::ops::Range;

use crate::event::SinkName;

/// A rule that cannot be used, with a pointer into its text. Its `Display` is several lines: the message, the line of
/// the text that is wrong, and a caret under the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The sink that it belongs to.
    pub sink: SinkName,
    /// The key below `sinks.NAME`: `filter`, `topic`, `key` or `headers.NAME`.
    pub key: String,
    /// What is wrong, and where possible what was meant.
    pub message: String,
    /// The rule's whole text.
    pub text: String,
    /// The wrong part of the text, in bytes.
    pub at: Range<usize>,
}

impl RuleError {
    /// The line and the column of the wrong part, both from 1; the column in characters.
    #[must_use]
    pub fn position(&self) -> (usize, usize) {
        let before = &self.text[..self.at.start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl RuleError {
    /// The message with the pointer into the text, without the key, for who names that already.
    #[must_use]
    pub fn pointing(&self) -> String {
        Pointing(self).to_string()
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sinks.{}.{}: {}", self.sink, self.key, Pointing(self))
    }
}

struct Pointing<'a>(&'a RuleError);

impl fmt::Display for Pointing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error) = self;
        let (line, column) = error.position();
        write!(f, "{} (line {line}, column {column})", error.message)?;
        let Some(shown) = error.text.lines().nth(line - 1) else { return Ok(()) };
        let width = error.text[error.at.clone()].lines().next().map_or(1, |part| part.chars().count()).max(1);
        write!(f, "\n  | {shown}\n  | {:skip$}{}", "", "^".repeat(width), skip = column - 1)
    }
}

impl std::error::Error for RuleError {}

/// What is wrong with one rule, before it is known whose rule it is.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) at: Range<usize>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>, at: Range<usize>) -> Self {
        Self { message: message.into(), at }
    }

    /// `at` is cut to the text and to character boundaries, because it comes from parsers that are not ours.
    pub(super) fn of(self, sink: &SinkName, key: &str, text: &str) -> RuleError {
        let floor = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let start = floor(self.at.start);
        let at = start..floor(self.at.end).max(start);
        RuleError { sink: sink.clone(), key: key.to_owned(), message: self.message, text: text.to_owned(), at }
    }
}
