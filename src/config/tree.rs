//! A configuration as given, before it is typed: values with their places. Not `Debug`: it holds secrets.

use indexmap::IndexMap;

use super::problem::Origin;

pub(super) type Table = IndexMap<String, Node>;

/// A value and its place.
#[derive(Clone)]
pub(super) struct Node {
    /// Where the value stands.
    pub origin: Origin,
    /// Where its key stands.
    pub key_origin: Origin,
    /// Whether it is text that stands for any type (environment, `${VAR}`) and is never shown in an error.
    pub opaque: bool,
    pub value: Value,
}

#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Table),
    /// A TOML date or time: no key takes one.
    Time,
}

impl Value {
    pub(super) const fn what(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
            Self::Time => "a date or time",
        }
    }
}

impl Node {
    /// As the crate `config` takes it.
    pub(super) fn into_config(self) -> config::Value {
        let origin = self.origin.to_string();
        let kind = match self.value {
            Value::Text(text) => text.into(),
            Value::Integer(number) => number.into(),
            Value::Float(number) => number.into(),
            Value::Boolean(flag) => flag.into(),
            Value::Array(items) => config::ValueKind::Array(items.into_iter().map(Self::into_config).collect()),
            Value::Table(table) => config::ValueKind::Table(into_config(table)),
            Value::Time => config::ValueKind::Nil,
        };
        config::Value::new(Some(&origin), kind)
    }
}

pub(super) fn into_config(table: Table) -> config::Map<String, config::Value> {
    table.into_iter().map(|(key, node)| (key, node.into_config())).collect()
}

/// A dotted path; a key that is not bare is quoted.
pub(super) fn join(parent: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if parent.is_empty() { key } else { format!("{parent}.{key}") }
}
