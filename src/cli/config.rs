use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::output::line;
use super::{Failure, Global};
use crate::config::{self, Reference};

/// `standpipe config`
#[derive(Clone, Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// Print the effective configuration as TOML, secrets redacted, each line with where its value came from
    Show {
        /// Print JSON instead: key → value and origin
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON schema of the configuration, for editors and other tools
    Schema,
    /// Print every key with its type, default and meaning, as Markdown
    Reference {
        /// Print JSON instead
        #[arg(long, conflicts_with = "toml")]
        json: bool,
        /// Print the built-in defaults instead: a file that documents every key
        #[arg(long)]
        toml: bool,
    },
}

/// Runs it.
pub fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    match options.verb {
        Verb::Show { json } => {
            let loaded = super::load(global)?.loaded;
            if json { print_json(&shown_as_json(&loaded.shown)?) } else { line(loaded.shown.trim_end()) }
        }
        Verb::Schema => print_json(config::schema()),
        Verb::Reference { json: true, .. } => print_json(&config::reference().iter().map(row).collect()),
        Verb::Reference { toml: true, .. } => line(config::DEFAULT_TOML.trim_end()),
        Verb::Reference { .. } => line(markdown(&config::reference()).trim_end()),
    }
}

fn print_json(value: &Value) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(Failure::runtime)?)
}

fn row(row: &Reference) -> Value {
    json!({
        "section": row.section, "key": row.key, "type": row.kind, "default": row.default, "meaning": row.meaning,
    })
}

/// What `show` prints is TOML with an origin behind each value.
fn shown_as_json(shown: &str) -> Result<Value, Failure> {
    fn object(table: &dyn toml_edit::TableLike) -> Value {
        let mut out = Map::new();
        for (key, item) in table.iter() {
            let value = match (item.as_table_like(), item.as_value()) {
                (Some(table), _) => object(table),
                (None, Some(value)) => {
                    let origin = value.decor().suffix().and_then(|suffix| suffix.as_str()).unwrap_or_default();
                    json!({ "value": plain(value), "origin": origin.trim().trim_start_matches("# ") })
                }
                (None, None) => continue,
            };
            out.insert(key.to_owned(), value);
        }
        Value::Object(out)
    }
    let document: toml_edit::DocumentMut = shown.parse().map_err(Failure::runtime)?;
    Ok(object(document.as_table()))
}

fn plain(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::Integer(number) => json!(number.value()),
        toml_edit::Value::Float(number) => json!(number.value()),
        toml_edit::Value::Boolean(flag) => json!(flag.value()),
        toml_edit::Value::Array(items) => items.iter().map(plain).collect(),
        other => json!(other.as_str()),
    }
}

fn markdown(rows: &[Reference]) -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let mut out = String::from("# Configuration of standpipe\n");
    let mut section = None;
    for row in rows {
        if section != Some(&row.section) {
            section = Some(&row.section);
            let title = if row.section.is_empty() { "At the top".to_owned() } else { format!("`{}`", row.section) };
            out.extend(["\n## ", &title, "\n\n| key | type | default | meaning |\n|---|---|---|---|\n"]);
        }
        let default = row.default.as_deref().map_or_else(|| "–".to_owned(), |default| format!("`{default}`"));
        let cells = [format!("`{}`", row.key), cell(&row.kind), cell(&default), cell(&row.meaning)];
        out.extend(["| ", &cells.join(" | "), " |\n"]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_a_row_for_every_key_under_its_table() {
        let text = markdown(&config::reference());
        assert!(text.contains("\n## `[ledger]`\n"), "{text}");
        assert!(text.contains("\n## `[sinks.NAME] type = \"webhook\"`\n"), "{text}");
        assert!(text.contains("| `lease_ttl` | duration | `\"15s\"` | How long an owner's lease lives"), "{text}");
        assert!(text.contains("| `page_limit` | integer 1..=1000 | `100` |"), "{text}");
    }

    #[test]
    fn show_as_json_tells_value_and_origin() {
        let text = "deployment = \"a#b\"  # f.toml:1\n\n[ledger]\nshards = 2  # default\n";
        let shown = shown_as_json(text).unwrap();
        assert_eq!(shown["deployment"], json!({ "value": "a#b", "origin": "f.toml:1" }));
        assert_eq!(shown["ledger"]["shards"], json!({ "value": 2, "origin": "default" }));
    }
}
