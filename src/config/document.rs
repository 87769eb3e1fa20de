//! TOML with the place of every value: the spanned parse behind errors that name file and line.

use std::path::Path;
use std::sync::Arc;

use toml_edit::{Document, Item, Key, TableLike};

use super::problem::{Origin, Problem};
use super::tree::{Node, Table, Value};

/// Parses a file's text. A broken one is an error with line and column, without an excerpt: it may hold secrets.
pub(super) fn parse(path: &Path, text: &str) -> Result<Table, Problem> {
    let places = Places { path: path.into(), line_starts: line_starts(text), text };
    let document = Document::parse(text).map_err(|error| {
        let (line, column) = places.position(error.span().map_or(0, |span| span.start));
        Problem {
            origin: Some(places.origin_at(line, column)),
            key: String::new(),
            message: format!("not valid TOML (column {column}): {}", without_content(error.message())),
        }
    })?;
    Ok(places.table(document.as_table()))
}

/// The parser's messages name what it expected; anything it quotes beyond punctuation is the file's own content.
fn without_content(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let mut parts = first.split('`');
    let mut clean = parts.next().unwrap_or_default().to_owned();
    while let (Some(quoted), Some(after)) = (parts.next(), parts.next()) {
        let shown = if quoted.chars().any(char::is_alphanumeric) { "…" } else { quoted };
        clean.push('`');
        clean.push_str(shown);
        clean.push('`');
        clean.push_str(after);
    }
    clean
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

struct Places<'a> {
    path: Arc<Path>,
    line_starts: Vec<usize>,
    text: &'a str,
}

impl Places<'_> {
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        let column = self.text.get(start..offset).map_or(1, |before| before.chars().count() + 1);
        (line, column)
    }

    fn origin_at(&self, line: usize, column: usize) -> Origin {
        Origin::File { path: self.path.clone(), line, column }
    }

    fn origin(&self, span: Option<std::ops::Range<usize>>) -> Origin {
        let (line, column) = self.position(span.map_or(0, |span| span.start));
        self.origin_at(line, column)
    }

    fn table(&self, table: &dyn TableLike) -> Table {
        table
            .iter()
            .filter_map(|(key, _)| table.get_key_value(key))
            .map(|(key, item)| (key.get().to_owned(), self.item(key, item)))
            .collect()
    }

    fn item(&self, key: &Key, item: &Item) -> Node {
        let key_origin = self.origin(key.span());
        let value = match item {
            Item::None => Value::Time,
            Item::Value(value) => return self.value(key_origin, value),
            Item::Table(table) => Value::Table(self.table(table)),
            Item::ArrayOfTables(tables) => Value::Array(
                tables
                    .iter()
                    .map(|table| {
                        let origin = self.origin(table.span());
                        Node {
                            origin: origin.clone(),
                            key_origin: origin,
                            opaque: false,
                            value: Value::Table(self.table(table)),
                        }
                    })
                    .collect(),
            ),
        };
        let origin = item.span().map_or_else(|| key_origin.clone(), |span| self.origin(Some(span)));
        Node { origin, key_origin, opaque: false, value }
    }

    fn value(&self, key_origin: Origin, value: &toml_edit::Value) -> Node {
        let origin = value.span().map_or_else(|| key_origin.clone(), |span| self.origin(Some(span)));
        let value = match value {
            toml_edit::Value::String(text) => Value::Text(text.value().clone()),
            toml_edit::Value::Integer(number) => Value::Integer(*number.value()),
            toml_edit::Value::Float(number) => Value::Float(*number.value()),
            toml_edit::Value::Boolean(flag) => Value::Boolean(*flag.value()),
            toml_edit::Value::Datetime(_) => Value::Time,
            toml_edit::Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.value(origin.clone(), item)).collect())
            }
            toml_edit::Value::InlineTable(table) => Value::Table(self.table(table)),
        };
        Node { origin, key_origin, opaque: false, value }
    }
}
