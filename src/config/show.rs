//! The effective configuration for a person: TOML, secrets redacted by type, each line with where it came from.

use toml_edit::{Item, Value};

use super::check_sink::{is_secret_header, is_secret_property};
use super::problem::Origins;
use super::raw::{RawConfig, RawSink};
use super::scalar::REDACTED;
use super::tree::join;

/// Renders it.
pub(super) fn show(raw: &RawConfig, origins: &Origins) -> String {
    let mut document = toml_edit::ser::to_document(raw).expect("every type of a key can be written as TOML");
    reveal(raw, &mut document);
    let mut out = String::new();
    table(document.as_table(), "", origins, &mut out);
    out
}

/// The types of properties and headers redact every value; those that are no secret are put back.
fn reveal(raw: &RawConfig, document: &mut toml_edit::DocumentMut) {
    for (name, sink) in &raw.sinks {
        let (common, properties) = match sink {
            RawSink::Kafka(sink) => (&sink.common, Some(&sink.own.properties)),
            RawSink::Webhook(sink) => (&sink.common, None),
        };
        let Some(shown) = document.get_mut("sinks").and_then(|sinks| sinks.get_mut(&name.0)) else { continue };
        for (property, value) in properties.into_iter().flatten().filter(|(name, _)| !is_secret_property(&name.0)) {
            if let Some(shown) = shown.get_mut("properties").and_then(|table| table.get_mut(&property.0)) {
                *shown = Item::Value(Value::from(value.0.as_str()));
            }
        }
        for (header, value) in &common.headers {
            if is_secret_header(&header.0) {
                continue;
            }
            if let Some(shown) = shown.get_mut("headers").and_then(|table| table.get_mut(&header.0)) {
                *shown = Item::Value(Value::from(value.0.as_str()));
            }
        }
    }
}

fn table(table: &dyn toml_edit::TableLike, path: &str, origins: &Origins, out: &mut String) {
    let mut inner = Vec::new();
    for (key, item) in table.iter() {
        let below = join(path, key);
        if let Some(table) = item.as_table_like() {
            inner.push((below, table));
            continue;
        }
        let Some(value) = item.as_value() else { continue };
        let given = origins.get(&below).map_or_else(|| "default".to_owned(), ToString::to_string);
        let key = join("", key);
        out.extend([key.as_str(), " = ", &text(value), "  # ", &given, "\n"]);
    }
    for (path, inner) in inner {
        let has_values = inner.iter().any(|(_, item)| item.as_table_like().is_none());
        if has_values {
            out.extend(["\n[", &path, "]\n"]);
        }
        self::table(inner, &path, origins, out);
    }
}

fn text(value: &Value) -> String {
    let mut value = value.clone();
    value.decor_mut().clear();
    match value.as_str() {
        Some(REDACTED) => format!("\"{REDACTED}\""),
        // One line for each, so that its origin can stand behind it.
        Some(text) if text.contains('\n') => format!("{text:?}"),
        _ => value.to_string(),
    }
}
