//! Compares one layer with the schema: unknown keys, wrong types, values out of range, each named with its place.
//! What is wrong leaves the tree, so that the rest can be checked too and all errors come at once.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::document;
use super::problem::{Origin, Problem};
use super::scalar::{NAME_PATTERN, check, check_key};
use super::schema::{Shape, all_types, by_type, kind, present, schema, shape, types, words};
use super::tree::{Node, Table, Value, join};

/// The `type` of each sink, over all layers: the last one given.
pub(super) fn sink_types<'a>(layers: impl Iterator<Item = &'a Table>) -> IndexMap<String, String> {
    let mut types = IndexMap::new();
    for layer in layers {
        let Some(Value::Table(sinks)) = layer.get("sinks").map(|node| &node.value) else { continue };
        for (name, sink) in sinks {
            if let Value::Table(sink) = &sink.value
                && let Some(Value::Text(kind)) = sink.get("type").map(|node| &node.value)
            {
                types.insert(name.clone(), kind.clone());
            }
        }
    }
    types
}

/// What a walk finds.
pub(super) struct Walk<'a> {
    /// See [`sink_types`].
    pub sink_types: &'a IndexMap<String, String>,
    pub problems: Vec<Problem>,
    /// The keys that were taken out.
    pub bad: Vec<String>,
}

impl Walk<'_> {
    /// Checks a whole layer, and gives back what is right of it.
    pub(super) fn layer(&mut self, table: Table) -> Table {
        self.table(table, schema(), "")
    }

    fn refuse(&mut self, node: &Node, path: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            origin: Some(node.origin.clone()),
            key: path.to_owned(),
            message: message.into(),
        });
        self.bad.push(path.to_owned());
    }

    fn refuse_key(&mut self, node: &Node, path: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            origin: Some(node.key_origin.clone()),
            key: path.to_owned(),
            message: message.into(),
        });
        self.bad.push(path.to_owned());
    }

    fn table(&mut self, table: Table, schema: &Json, path: &str) -> Table {
        let mut kept = Table::new();
        for (key, node) in table {
            let inner = join(path, &key);
            let value_schema = match shape(schema) {
                Shape::Table(properties) => {
                    let Some(value_schema) = properties.get(&key) else {
                        self.refuse_key(&node, &inner, unknown(path, &key, properties.keys().map(String::as_str)));
                        continue;
                    };
                    value_schema
                }
                Shape::Named { pattern, value } => {
                    if let Err(wrong) = check_key(pattern, &key) {
                        self.refuse_key(&node, &inner, wrong);
                        continue;
                    }
                    value
                }
                _ => continue,
            };
            if let Some(node) = self.node(node, value_schema, &inner) {
                kept.insert(key, node);
            }
        }
        kept
    }

    fn node(&mut self, mut node: Node, schema: &Json, path: &str) -> Option<Node> {
        if node.opaque && !matches!(shape(schema), Shape::Scalar) {
            self.expand(&mut node, schema, path)?;
        }
        match shape(schema) {
            Shape::Scalar => self.scalar(node, schema, path),
            Shape::List(items) => self.list(node, items, path),
            Shape::Table(_) | Shape::Named { .. } | Shape::ByType(_) => {
                let Node { origin, key_origin, opaque, value } = node;
                let table = match value {
                    Value::Table(table) => table,
                    other => {
                        let found = other.what();
                        self.refuse(
                            &Node { origin, key_origin, opaque, value: other },
                            path,
                            format!("expected a table, found {found}"),
                        );
                        return None;
                    }
                };
                let table = match shape(schema) {
                    Shape::ByType(options) => {
                        let schema = self.choose(&origin, &table, options, path)?;
                        self.table(table, schema, path)
                    }
                    Shape::Named { pattern, .. } if pattern != NAME_PATTERN => self.table(flat(table), schema, path),
                    _ => self.table(table, schema, path),
                };
                Some(Node { origin, key_origin, opaque, value: Value::Table(table) })
            }
        }
    }

    /// The schema of a sink by its type; a missing one is told once, whatever number of layers speak of the sink.
    fn choose<'s>(&mut self, origin: &Origin, table: &Table, options: &'s [Json], path: &str) -> Option<&'s Json> {
        let name = path.rsplit_once('.').map_or(path, |(_, name)| name);
        let found = self.sink_types.get(name).and_then(|kind| by_type(options, kind));
        if found.is_some() {
            return found;
        }
        match table.get("type").map(|given| (given, &given.value)) {
            Some((given, Value::Text(text))) => {
                let message = not_a_word(text, given.opaque, &all_types(options));
                self.refuse(given, &join(path, "type"), message);
            }
            Some((given, other)) => {
                let message = format!("expected a string, found {}", other.what());
                self.refuse(given, &join(path, "type"), message);
            }
            None if self.sink_types.contains_key(name) || self.bad.iter().any(|bad| bad == path) => {}
            None => self.problems.push(Problem {
                origin: Some(origin.clone()),
                key: path.to_owned(),
                message: "`type` is missing: \"kafka\" or \"webhook\"".to_owned(),
            }),
        }
        self.bad.push(path.to_owned());
        None
    }

    fn list(&mut self, node: Node, items: &Json, path: &str) -> Option<Node> {
        let Value::Array(values) = node.value else {
            let found = node.value.what();
            self.refuse(&node, path, format!("expected a list, found {found}"));
            return None;
        };
        let before = self.bad.len();
        let kept = values
            .into_iter()
            .enumerate()
            .filter_map(|(index, item)| self.node(item, items, &format!("{path}[{index}]")))
            .collect();
        if self.bad.len() > before {
            self.bad.push(path.to_owned());
            return None;
        }
        Some(Node { value: Value::Array(kept), ..node })
    }

    /// Text of the environment where a list or a table is wanted: TOML, or for a list words between commas.
    fn expand(&mut self, node: &mut Node, schema: &Json, path: &str) -> Option<()> {
        let Value::Text(text) = &node.value else { return Some(()) };
        let is_list = matches!(shape(schema), Shape::List(_));
        let opening = if is_list { '[' } else { '{' };
        let value = if text.trim_start().starts_with(opening) {
            let parsed = document::parse(Path::new(""), &format!("value = {text}"));
            parsed.ok().and_then(|mut table| table.shift_remove("value")).map(|parsed| parsed.value)
        } else if is_list {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            Some(Value::Array(words.map(|word| Node { value: Value::Text(word.to_owned()), ..node.clone() }).collect()))
        } else {
            None
        };
        if let Some(value) = value {
            node.value = value;
            place(node);
            return Some(());
        }
        let wanted = if is_list { "a list: one,two or [\"one\", \"two\"]" } else { "a table: { key = \"value\" }" };
        self.refuse(node, path, format!("expected {wanted}"));
        None
    }

    fn scalar(&mut self, mut node: Node, schema: &Json, path: &str) -> Option<Node> {
        if node.opaque {
            coerce(&mut node, schema);
        }
        let schema = present(schema);
        let types = types(schema);
        let wrong = match &node.value {
            Value::Text(text) if types.contains(&"string") => wrong_text(text, schema, path, node.opaque),
            Value::Integer(number) if types.contains(&"integer") => wrong_number(*number, schema),
            Value::Integer(number) if types.contains(&"number") => {
                #[expect(clippy::cast_precision_loss, reason = "ratios are small")]
                let number = *number as f64;
                node.value = Value::Float(number);
                None
            }
            Value::Float(_) if types.contains(&"number") => None,
            Value::Boolean(_) if types.contains(&"boolean") => None,
            other => Some(expected(schema, &types, other, node.opaque)),
        };
        match wrong {
            None => Some(node),
            Some(wrong) => {
                self.refuse(&node, path, wrong);
                None
            }
        }
    }
}

/// `properties = { security.protocol = "x" }` means the property `security.protocol`.
fn flat(table: Table) -> Table {
    let mut out = Table::new();
    for (key, node) in table {
        match node.value {
            Value::Table(inner) => {
                out.extend(flat(inner).into_iter().map(|(rest, node)| (format!("{key}.{rest}"), node)));
            }
            _ => {
                out.insert(key, node);
            }
        }
    }
    out
}

/// Gives what was parsed out of an environment variable's text the variable's place.
fn place(node: &mut Node) {
    let origin = node.origin.clone();
    let children: Box<dyn Iterator<Item = &mut Node>> = match &mut node.value {
        Value::Array(items) => Box::new(items.iter_mut()),
        Value::Table(table) => Box::new(table.values_mut()),
        _ => return,
    };
    for child in children {
        child.origin = origin.clone();
        child.key_origin = origin.clone();
        child.opaque = true;
        place(child);
    }
}

fn coerce(node: &mut Node, schema: &Json) {
    let Value::Text(text) = &node.value else { return };
    let text = text.trim();
    let types = types(schema);
    if types.contains(&"string") {
        return;
    }
    if types.contains(&"integer") {
        if let Ok(number) = text.replace('_', "").parse() {
            node.value = Value::Integer(number);
        }
    } else if types.contains(&"number") {
        if let Ok(number) = text.parse() {
            node.value = Value::Float(number);
        }
    } else if types.contains(&"boolean")
        && let Ok(flag) = text.parse()
    {
        node.value = Value::Boolean(flag);
    }
}

fn wrong_text(text: &str, schema: &Json, path: &str, opaque: bool) -> Option<String> {
    let words = words(schema);
    if !words.is_empty() {
        if words.contains(&text) {
            return None;
        }
        let later = later(path, text);
        return Some(later.unwrap_or_else(|| not_a_word(text, opaque, &words)));
    }
    let kind = kind(schema);
    let wrong = check(kind, text).err()?;
    let hidden = opaque || matches!(kind, "secret" | "property" | "header");
    Some(if hidden || text.trim().is_empty() { wrong } else { format!("{}: {wrong}", shown(text)) })
}

fn wrong_number(number: i64, schema: &Json) -> Option<String> {
    let bound = |name: &str| schema.get(name).and_then(Json::as_i64);
    let (low, high) = (bound("minimum").unwrap_or(0), bound("maximum").unwrap_or_else(|| width(schema)));
    (number < low || number > high).then(|| format!("{number} is out of range: {low} to {high}"))
}

fn width(schema: &Json) -> i64 {
    match schema.get("format").and_then(Json::as_str) {
        Some("uint16") => i64::from(u16::MAX),
        Some("uint32") => i64::from(u32::MAX),
        _ => i64::MAX,
    }
}

fn expected(schema: &Json, types: &[&str], found: &Value, opaque: bool) -> String {
    let wanted = match (kind(schema), types.first().copied().unwrap_or("string")) {
        ("duration", _) => "a duration as a string, like \"30s\"",
        ("size", _) => "a size as a string, like \"64MiB\"",
        ("property", _) => "a string, a number or a boolean",
        (_, "integer") => "an integer",
        (_, "number") => "a number",
        (_, "boolean") => "true or false",
        _ => "a string",
    };
    if opaque { format!("expected {wanted}") } else { format!("expected {wanted}, found {}", found.what()) }
}

fn not_a_word(text: &str, opaque: bool, words: &[&str]) -> String {
    let list = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    if opaque { format!("expected one of {list}") } else { format!("{} is not one of {list}", shown(text)) }
}

/// A value of the file, for an error: quoted, and cut when long.
pub(super) fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// What later versions take and this one refuses, clearly, instead of doing something else in silence.
fn later(path: &str, text: &str) -> Option<String> {
    let key = path.rsplit_once('.').map_or(path, |(_, key)| key);
    let instead = match (key, text) {
        ("on_gap", "repair") => "use \"continue\" (gaps are recorded and announced) or \"halt\"",
        ("start", "snapshot") if path.starts_with("accounts.") => "use \"tail\" or \"top\"",
        ("format", "cloudevents" | "debezium") => "use \"event\"",
        _ => return None,
    };
    Some(format!("\"{text}\" is not in this version of standpipe yet; {instead}"))
}

fn unknown<'a>(parent: &str, key: &str, known: impl Iterator<Item = &'a str>) -> String {
    if parent.starts_with("sinks.") && matches!(key, "after" | "coalesce") {
        return format!("`{key}` is not in this version of standpipe yet; leave it out");
    }
    let near = known
        .map(|known| (strsim::normalized_damerau_levenshtein(key, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let (likeness, near) = near.unwrap_or_default();
    if likeness >= 0.75 {
        return format!("unknown key; did you mean `{near}`?");
    }
    match elsewhere(schema(), "", key) {
        Some(table) => format!("unknown key here; `{key}` belongs in {table} (nearest key here: `{near}`)"),
        None if likeness >= 0.5 => format!("unknown key; did you mean `{near}`?"),
        None => format!("unknown key; the nearest known key is `{near}`"),
    }
}

/// The table that a misplaced key belongs in.
fn elsewhere(schema: &Json, path: &str, key: &str) -> Option<String> {
    match shape(schema) {
        Shape::Table(properties) => {
            if properties.contains_key(key) {
                let table = if path.is_empty() {
                    "the top of the file, before any [table]".to_owned()
                } else {
                    format!("[{path}]")
                };
                return Some(table);
            }
            properties.iter().find_map(|(name, value)| {
                elsewhere(value, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, key)
            })
        }
        Shape::Named { pattern: NAME_PATTERN, value } => elsewhere(value, &format!("{path}.NAME"), key),
        Shape::ByType(options) => options.iter().find_map(|option| elsewhere(option, path, key)),
        _ => None,
    }
}
