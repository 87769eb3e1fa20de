//! The JSON schema of the configuration, made of `raw`, and the views of it that the walk and the reference need.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::raw::RawConfig;
use super::scalar::{HEADER_PATTERN, NAME_PATTERN};

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    Value::from(settings.into_generator().into_root_schema_for::<RawConfig>())
});

/// The JSON schema (draft 2020-12), for editors and other tools.
#[must_use]
pub fn schema() -> &'static Value {
    &SCHEMA
}

/// What a schema asks for.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// A table of known keys.
    Table(&'a Map<String, Value>),
    /// A table whose keys a person chooses, by this pattern.
    Named { pattern: &'a str, value: &'a Value },
    /// One of several tables, by its `type`.
    ByType(&'a [Value]),
    /// A list of these.
    List(&'a Value),
    /// Anything else.
    Scalar,
}

/// Without the `null` that an optional key may be.
pub(super) fn present(schema: &Value) -> &Value {
    let Some(options) = schema.get("anyOf").and_then(Value::as_array) else { return schema };
    let mut present = options.iter().filter(|option| option.get("type").is_none_or(|kind| kind != "null"));
    match (present.next(), present.next()) {
        (Some(only), None) => only,
        _ => schema,
    }
}

pub(super) fn shape(schema: &Value) -> Shape<'_> {
    let schema = present(schema);
    if let Some(options) = schema.get("anyOf").and_then(Value::as_array) {
        return Shape::ByType(options);
    }
    if let Some((pattern, value)) =
        schema.get("patternProperties").and_then(Value::as_object).and_then(|patterns| patterns.iter().next())
    {
        return Shape::Named { pattern, value };
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        return Shape::Table(properties);
    }
    match schema.get("items") {
        Some(items) => Shape::List(items),
        None => Shape::Scalar,
    }
}

/// The `type`s of a scalar.
pub(super) fn types(schema: &Value) -> Vec<&str> {
    match present(schema).get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect(),
        _ => vec!["string"],
    }
}

/// The words that a scalar may be; none = any.
pub(super) fn words(schema: &Value) -> Vec<&str> {
    let schema = present(schema);
    if let Some(only) = schema.get("const").and_then(Value::as_str) {
        return vec![only];
    }
    let list = schema.get("enum").and_then(Value::as_array);
    list.map(|words| words.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// The `x-kind` of a scalar.
pub(super) fn kind(schema: &Value) -> &str {
    present(schema).get("x-kind").and_then(Value::as_str).unwrap_or_default()
}

/// The one of several tables whose `type` this is.
pub(super) fn by_type<'a>(options: &'a [Value], kind: &str) -> Option<&'a Value> {
    options.iter().find(|option| option.pointer("/properties/type").is_some_and(|tag| words(tag).contains(&kind)))
}

/// The `type`s of several tables.
pub(super) fn all_types(options: &[Value]) -> Vec<&str> {
    options.iter().filter_map(|option| option.pointer("/properties/type")).flat_map(words).collect()
}

/// One key of the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The table that it stands in, like `[sinks.NAME] type = "kafka"`; empty at the top.
    pub section: String,
    /// The key.
    pub key: String,
    /// What its value looks like.
    pub kind: String,
    /// Its default, as TOML; none where the key is left out by default.
    pub default: Option<String>,
    /// What it means.
    pub meaning: String,
}

/// Every key: its type, default and meaning, in the order of the alphabet, the keys of a table before its tables.
#[must_use]
pub fn reference() -> Vec<Reference> {
    let mut rows = Vec::new();
    collect(&SCHEMA, "", "", &mut rows);
    rows
}

fn collect(schema: &Value, path: &str, section: &str, rows: &mut Vec<Reference>) {
    let Shape::Table(properties) = shape(schema) else { return };
    let mut tables = Vec::new();
    for (key, value) in properties {
        let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match shape(value) {
            Shape::Table(_) => tables.push((value, inner.clone(), format!("[{inner}]"))),
            Shape::List(items) if matches!(shape(items), Shape::Table(_)) => {
                tables.push((items, inner.clone(), format!("[[{inner}]]")));
            }
            Shape::Named { pattern: NAME_PATTERN, value: entry } => {
                let inner = format!("{inner}.NAME");
                match shape(entry) {
                    Shape::ByType(options) => {
                        for option in options {
                            let kind = option.pointer("/properties/type").map(words).unwrap_or_default().join("");
                            tables.push((option, inner.clone(), format!("[{inner}] type = \"{kind}\"")));
                        }
                    }
                    _ => tables.push((entry, inner.clone(), format!("[{inner}]"))),
                }
            }
            _ => rows.push(Reference {
                section: section.to_owned(),
                key: key.clone(),
                kind: kind_text(value),
                default: value.get("default").filter(|default| !default.is_null()).map(toml_text),
                meaning: meaning(value),
            }),
        }
    }
    for (schema, path, section) in tables {
        // A table that several kinds of sinks have is told once.
        if rows.iter().any(|row| row.section == section) {
            continue;
        }
        collect(schema, &path, &section, rows);
    }
}

fn meaning(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn kind_text(schema: &Value) -> String {
    match shape(schema) {
        Shape::List(items) => return format!("list of {}", kind_text(items)),
        Shape::Named { pattern: HEADER_PATTERN, .. } => return "table: header → template".to_owned(),
        Shape::Named { value, .. } => {
            let value = if kind(value) == "path" { "path" } else { "value" };
            return format!("table: property → {value}");
        }
        _ => {}
    }
    let words = words(schema);
    if !words.is_empty() {
        return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
    }
    match kind(schema) {
        "" => {}
        kind => return kind.to_owned(),
    }
    let kind = types(schema).join(" or ");
    let bound = |name: &str| present(schema).get(name).and_then(Value::as_u64);
    match (bound("minimum"), bound("maximum")) {
        (Some(low), Some(high)) => format!("{kind} {low}..={high}"),
        (Some(low), None) if low > 0 => format!("{kind} from {low}"),
        _ => kind,
    }
}

fn toml_text(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        Value::Object(_) => "{}".to_owned(),
        other => other.to_string(),
    }
}
