//! `STANDPIPE__SECTION__KEY=…` and flags as a layer like a file.

use std::sync::Arc;

use super::problem::{Origin, Problem};
use super::scalar::{NAME_PATTERN, PROPERTY_PATTERN};
use super::schema::{Shape, schema, shape};
use super::tree::{Node, Table, Value, join};

const PREFIX: &str = "STANDPIPE__";

/// The layer of the environment. Levels are parted by two underscores; where a name of an account, sink, key or
/// header stands, an underscore means `-`, in a property's name `.`: no such name has an underscore of its own.
pub(super) fn environment(variables: &[(String, String)], problems: &mut Vec<Problem>) -> Table {
    let mut ours: Vec<_> = variables.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    ours.sort();
    let mut table = Table::new();
    for (name, text) in ours {
        let keys = keys(&name[PREFIX.len()..]);
        let origin = Origin::Environment(Arc::from(name.as_str()));
        insert(&mut table, &keys, &origin, text, problems);
    }
    table
}

/// A key that a flag sets, over everything else.
#[derive(Clone, Debug)]
pub struct Override {
    /// The flag, for errors: `--listen`.
    pub flag: String,
    /// The dotted key: `server.listen`.
    pub key: String,
    /// The value as text.
    pub value: String,
}

/// The layer of the flags.
pub(super) fn flags(overrides: &[Override], problems: &mut Vec<Problem>) -> Table {
    let mut table = Table::new();
    for given in overrides {
        let keys: Vec<String> = given.key.split('.').map(str::to_owned).collect();
        let origin = Origin::Flag(Arc::from(given.flag.as_str()));
        insert(&mut table, &keys, &origin, &given.value, problems);
    }
    table
}

fn keys(text: &str) -> Vec<String> {
    let mut at = Some(schema());
    let mut keys = Vec::new();
    for part in text.split("__") {
        let part = part.to_ascii_lowercase();
        let (key, next) = match at.map(shape) {
            Some(Shape::Table(properties)) => {
                let next = properties.get(&part);
                (part, next)
            }
            Some(Shape::Named { pattern: PROPERTY_PATTERN, value }) => (part.replace('_', "."), Some(value)),
            Some(Shape::Named { pattern, value }) if pattern == NAME_PATTERN => (part.replace('_', "-"), Some(value)),
            Some(Shape::Named { value, .. }) => (part.replace('_', "-"), Some(value)),
            // Any of the types will do to find the tables inside.
            Some(Shape::ByType(options)) => {
                let next = options.iter().find_map(|option| option.get("properties")?.get(&part));
                (part, next)
            }
            _ => (part, None),
        };
        keys.push(key);
        at = next;
    }
    keys
}

fn insert(table: &mut Table, keys: &[String], origin: &Origin, text: &str, problems: &mut Vec<Problem>) {
    let node = |value| Node { origin: origin.clone(), key_origin: origin.clone(), opaque: true, value };
    let (Some((last, parents)), mut table, mut path) = (keys.split_last(), table, String::new()) else { return };
    for key in parents {
        path = join(&path, key);
        let entry = table.entry(key.clone()).or_insert_with(|| node(Value::Table(Table::new())));
        let Value::Table(inner) = &mut entry.value else {
            let message = format!("the whole table is set by the {}; set one of both", entry.origin);
            problems.push(Problem { origin: Some(origin.clone()), key: path, message });
            return;
        };
        table = inner;
    }
    table.insert(last.clone(), node(Value::Text(text.to_owned())));
}

#[cfg(test)]
mod tests {
    use super::keys;

    #[test]
    fn names_in_variables_follow_what_stands_there() {
        assert_eq!(keys("ACCOUNTS__ACME_EU__POLL_INTERVAL"), ["accounts", "acme-eu", "poll_interval"]);
        assert_eq!(keys("SINKS__CRM__PROPERTIES__SASL_PASSWORD"), ["sinks", "crm", "properties", "sasl.password"]);
        assert_eq!(keys("SINKS__OPS__BREAKER__MIN_ATTEMPTS"), ["sinks", "ops", "breaker", "min_attempts"]);
        assert_eq!(keys("SINKS__OPS__HEADERS__X_TEAM"), ["sinks", "ops", "headers", "x-team"]);
        assert_eq!(keys("SERVER__KEYS__MY_KEY__TOKEN"), ["server", "keys", "my-key", "token"]);
        assert_eq!(keys("LEDGER__URLX__"), ["ledger", "urlx", ""]);
    }
}
