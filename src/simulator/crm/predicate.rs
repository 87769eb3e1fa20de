//! Conditions on records, as Search of either dialect and GraphQL spell them, and sums over what meets them.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::super::catalog::Resource;
use super::super::company::Record;
use super::super::encode;
use super::super::options::Dialect;
use super::super::world::World;
use super::list::order;

/// Conditions are nested no deeper.
const DEEPEST: usize = 32;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    Is(String, How),
}

/// How an attribute is tested.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum How {
    Equal(Value),
    /// Less, equal or greater than a value: which of the three pass.
    Compare(Value, &'static [Ordering]),
    In(Vec<Value>),
    /// Whether there is a value.
    Exists(bool),
    Begins(String),
    Contains(String),
}

const LESS: &[Ordering] = &[Ordering::Less];
const LESS_OR_EQUAL: &[Ordering] = &[Ordering::Less, Ordering::Equal];
const GREATER: &[Ordering] = &[Ordering::Greater];
const GREATER_OR_EQUAL: &[Ordering] = &[Ordering::Greater, Ordering::Equal];

/// What is wrong with a query, for people.
pub(super) type Wrong = String;

/// The records that a search looks at, and how their attributes are called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub dialect: Dialect,
    pub resource: &'static Resource,
    pub world: &'a World,
}

impl<'a> Field<'a> {
    /// An attribute that there is, or a custom field after a dot.
    pub fn knows(&self, name: &str) -> Result<(), Wrong> {
        let (first, rest) = name.split_once('.').unwrap_or((name, ""));
        let attribute = self.resource.attribute(first).filter(|attribute| !attribute.hidden);
        match attribute {
            Some(attribute) if rest.is_empty() || !attribute.compares() => Ok(()),
            _ => Err(format!("`{name}` is not an attribute of {}", self.resource.path)),
        }
    }

    pub fn value(&self, record: &Record, name: &str) -> Value {
        let (first, rest) = name.split_once('.').unwrap_or((name, ""));
        let value = encode::attribute(self.dialect, first, record, self.world.company.users());
        if rest.is_empty() { value } else { value.get(rest).cloned().unwrap_or_default() }
    }

    /// The records that meet a test, in the order of ids.
    pub fn meeting(&self, test: &Test) -> Vec<&'a Record> {
        let kinds = self.resource.kinds.iter();
        let mut records: Vec<&'a Record> = kinds.flat_map(|kind| self.world.told(*kind)).collect();
        if self.resource.kinds.len() > 1 {
            records.sort_unstable_by_key(|record| record.id);
        }
        records.retain(|record| self.meets(record, test));
        records
    }

    fn meets(&self, record: &Record, test: &Test) -> bool {
        match test {
            Test::All(tests) => tests.iter().all(|test| self.meets(record, test)),
            Test::Any(tests) => tests.iter().any(|test| self.meets(record, test)),
            Test::Not(test) => !self.meets(record, test),
            Test::Is(name, how) => how.holds(&self.value(record, name)),
        }
    }

    /// Whether a text stands anywhere in a record.
    pub fn mentions(&self, record: &Record, text: &str) -> bool {
        let names =
            self.resource.attributes.iter().filter(|attribute| !attribute.hidden).map(|attribute| attribute.name);
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        let all = names.map(|name| flat(&self.value(record, name))).collect::<Vec<_>>().join("\n").to_lowercase();
        words.iter().all(|word| all.contains(word))
    }

    /// Sorts by attributes, each up or down.
    pub fn sort(&self, records: &[&Record], by: &[(String, bool)]) -> Vec<u64> {
        let keys = |record: &Record| by.iter().map(|(name, _)| self.value(record, name)).collect::<Vec<_>>();
        let mut keyed: Vec<(Vec<Value>, u64)> = records.iter().map(|record| (keys(record), record.id)).collect();
        keyed.sort_by(|(a, _), (b, _)| {
            let each = a.iter().zip(b).zip(by).map(|((a, b), (_, down))| if *down { order(b, a) } else { order(a, b) });
            each.fold(Ordering::Equal, Ordering::then)
        });
        keyed.into_iter().map(|(_, id)| id).collect()
    }

    /// What an attribute comes to over records.
    pub fn sum(&self, records: &[&Record], name: &str, of: &str) -> Result<Value, Wrong> {
        let values = || records.iter().map(|record| self.value(record, name)).filter(|value| !value.is_null());
        let numbers = || values().filter_map(|value| number(&value));
        Ok(match of {
            "count" => json!(values().count()),
            "sum" => round(numbers().sum()),
            "avg" => {
                let count = numbers().count();
                #[expect(clippy::cast_precision_loss, reason = "some thousands of records")]
                let mean = || numbers().sum::<f64>() / count as f64;
                if count == 0 { Value::Null } else { round(mean()) }
            }
            "min" => values().min_by(order).unwrap_or_default(),
            "max" => values().max_by(order).unwrap_or_default(),
            other => return Err(format!("there is no aggregation `{other}`: count, sum, avg, min and max are")),
        })
    }

    /// Records by what they have under a name, in the order of it.
    pub fn groups<'r>(&self, records: &[&'r Record], name: &str) -> Vec<(Value, Vec<&'r Record>)> {
        let mut groups: Vec<(Value, Vec<&Record>)> = Vec::new();
        for record in records {
            let value = self.value(record, name);
            match groups.iter_mut().find(|(known, _)| *known == value) {
                Some((_, of_it)) => of_it.push(record),
                None => groups.push((value, vec![record])),
            }
        }
        groups.sort_by(|(a, _), (b, _)| order(a, b));
        groups
    }
}

impl How {
    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Equal(wanted) => same(value, wanted),
            Self::Compare(wanted, pass) => {
                let comparable = match (number(value), number(wanted)) {
                    (Some(_), Some(_)) => true,
                    (None, None) => value.is_string() && wanted.is_string(),
                    _ => false,
                };
                comparable && pass.contains(&compare(value, wanted))
            }
            Self::In(wanted) => wanted.iter().any(|wanted| same(value, wanted)),
            Self::Exists(exists) => value.is_null() != *exists,
            Self::Begins(wanted) => flat(value).to_lowercase().starts_with(&wanted.to_lowercase()),
            Self::Contains(wanted) => flat(value).to_lowercase().contains(&wanted.to_lowercase()),
        }
    }
}

/// A number, also where it is spelled as a text.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => order(a, b),
    }
}

fn same(value: &Value, wanted: &Value) -> bool {
    match value {
        // One of a list is enough.
        Value::Array(values) if !wanted.is_array() => values.iter().any(|value| same(value, wanted)),
        Value::Number(_) => number(value).is_some() && number(value) == number(wanted),
        value => value == wanted,
    }
}

fn flat(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A whole number where it is one; else to the hundredth, as money is.
fn round(number: f64) -> Value {
    let rounded = (number * 100.0).round() / 100.0;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
    let whole = || json!(rounded as i64);
    if rounded.fract() == 0.0 && rounded.abs() < 9e15 { whole() } else { json!(rounded) }
}

/// A filter of the reference dialect: `{"value":{"$gt":10000},"$or":[…]}`.
pub(super) fn reference(filter: &Value, field: &Field<'_>, depth: usize) -> Result<Test, Wrong> {
    let members = object(filter, "filter", depth)?;
    let mut tests = Vec::new();
    for (name, value) in members {
        let nested = || -> Result<Vec<Test>, Wrong> {
            let parts = value.as_array().ok_or_else(|| format!("`{name}` must be an array"))?;
            parts.iter().map(|part| reference(part, field, depth + 1)).collect()
        };
        tests.push(match name.as_str() {
            "$and" => Test::All(nested()?),
            "$or" => Test::Any(nested()?),
            "$not" => Test::Not(Box::new(reference(value, field, depth + 1)?)),
            operator if operator.starts_with('$') => return Err(format!("there is no operator `{operator}`")),
            name => attribute(name, value, field, depth + 1)?,
        });
    }
    Ok(Test::All(tests))
}

/// What is asked of one attribute: a value, or operators.
fn attribute(name: &str, asked: &Value, field: &Field<'_>, depth: usize) -> Result<Test, Wrong> {
    field.knows(name)?;
    let is = |how| Test::Is(name.to_owned(), how);
    let Some(operators) = asked.as_object() else { return Ok(is(How::Equal(asked.clone()))) };
    object(asked, name, depth)?;
    let mut tests = Vec::new();
    for (operator, value) in operators {
        let list = || value.as_array().cloned().ok_or_else(|| format!("`{operator}` needs an array"));
        tests.push(match operator.as_str() {
            "$eq" => is(How::Equal(value.clone())),
            "$ne" => Test::Not(Box::new(is(How::Equal(value.clone())))),
            "$gt" => is(How::Compare(value.clone(), GREATER)),
            "$gte" => is(How::Compare(value.clone(), GREATER_OR_EQUAL)),
            "$lt" => is(How::Compare(value.clone(), LESS)),
            "$lte" => is(How::Compare(value.clone(), LESS_OR_EQUAL)),
            "$in" => is(How::In(list()?)),
            "$nin" => Test::Not(Box::new(is(How::In(list()?)))),
            "$exists" => is(How::Exists(value.as_bool().ok_or_else(|| "`$exists` needs true or false".to_owned())?)),
            "$not" => Test::Not(Box::new(attribute(name, value, field, depth + 1)?)),
            other => return Err(format!("there is no operator `{other}`")),
        });
    }
    Ok(Test::All(tests))
}

/// A filter of the live dialect: `{"and":[{"filter":{"attribute":{"name":"value"},"parameter":{"eq":1}}}]}`.
pub(super) fn live(filter: &Value, field: &Field<'_>, depth: usize) -> Result<Test, Wrong> {
    let members = object(filter, "filter", depth)?;
    let nested = |parts: &Value| -> Result<Vec<Test>, Wrong> {
        let parts = parts.as_array().ok_or_else(|| "`and` and `or` must be arrays".to_owned())?;
        parts.iter().map(|part| live(part, field, depth + 1)).collect()
    };
    let mut tests = Vec::new();
    if members.contains_key("attribute") {
        return of_attribute(members, field);
    }
    for (name, value) in members {
        tests.push(match name.as_str() {
            "and" => Test::All(nested(value)?),
            "or" => Test::Any(nested(value)?),
            "not" => Test::Not(Box::new(live(value, field, depth + 1)?)),
            "filter" => live(value, field, depth + 1)?,
            other => return Err(format!("`{other}` is no part of a filter")),
        });
    }
    Ok(Test::All(tests))
}

fn of_attribute(members: &Map<String, Value>, field: &Field<'_>) -> Result<Test, Wrong> {
    let name = members.get("attribute").and_then(|attribute| attribute.get("name")).and_then(Value::as_str);
    let name = name.ok_or("`attribute` must have a name")?;
    field.knows(name)?;
    let parameter = members.get("parameter").and_then(Value::as_object).ok_or("`parameter` must be an object")?;
    let is = |how| Test::Is(name.to_owned(), how);
    let mut tests = Vec::new();
    for (operator, value) in parameter {
        let list = || value.as_array().cloned().ok_or_else(|| format!("`{operator}` needs an array"));
        let text = || value.as_str().map(ToOwned::to_owned).ok_or_else(|| format!("`{operator}` needs a string"));
        tests.push(match operator.as_str() {
            "eq" => is(How::Equal(value.clone())),
            "any" => is(How::In(list()?)),
            "all" => Test::All(list()?.into_iter().map(|value| is(How::Equal(value))).collect()),
            "gt" => is(How::Compare(value.clone(), GREATER)),
            "gte" => is(How::Compare(value.clone(), GREATER_OR_EQUAL)),
            "lt" => is(How::Compare(value.clone(), LESS)),
            "lte" => is(How::Compare(value.clone(), LESS_OR_EQUAL)),
            "range" => {
                let range = json!({ "attribute": { "name": name }, "parameter": value });
                of_attribute(range.as_object().ok_or("`range` must be an object")?, field)?
            }
            "starts_with" => is(How::Begins(text()?)),
            "contains" => is(How::Contains(text()?)),
            "is_null" => is(How::Exists(!value.as_bool().ok_or("`is_null` needs true or false")?)),
            other => return Err(format!("there is no parameter `{other}`")),
        });
    }
    Ok(Test::All(tests))
}

fn object<'a>(value: &'a Value, what: &str, depth: usize) -> Result<&'a Map<String, Value>, Wrong> {
    if depth > DEEPEST {
        return Err(format!("conditions are nested deeper than {DEEPEST}"));
    }
    value.as_object().ok_or_else(|| format!("`{what}` must be an object"))
}
