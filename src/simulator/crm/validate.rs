//! Whether what is written is right, by the table of attributes.

use serde_json::{Map, Value};

use super::super::catalog::{Attribute, Of, Resource};
use super::super::company::{Company, Kind, Record, day, hundredths, instant};
use super::super::encode;
use super::super::options::Dialect;
use super::super::world::World;
use super::refusal::{Problem, Refusal};

/// Everything that is wrong with `given`; `present` is the record that is to be changed, where one is.
pub(in super::super) fn validate(
    resource: &'static Resource,
    kind: Kind,
    given: &Map<String, Value>,
    present: Option<(&Record, Dialect)>,
    world: &World,
) -> Result<(), Refusal> {
    let company = &world.company;
    let same = |name: &str, value: &Value| {
        present.is_some_and(|(record, dialect)| encode::attribute(dialect, name, record, company.users()) == *value)
    };
    let mut problems = Vec::new();
    let mut complain = |name: &str, code, details: String| {
        problems.push(Problem { field: Some(format!("/{name}")), code, details });
    };
    for (name, value) in given {
        let Some(attribute) = resource.attribute(name).filter(|attribute| !attribute.hidden || !attribute.read_only)
        else {
            complain(name, "unknown", format!("There is no attribute `{name}`."));
            continue;
        };
        if attribute.read_only || attribute.fixed && present.is_some() && !same(name, value) {
            complain(name, "incorrect_value", "The attribute cannot be written.".to_owned());
            continue;
        }
        // What is there already may stay: clients send whole records back.
        if same(name, value) {
            continue;
        }
        if let Err((code, details)) = fits(attribute, value, kind, company) {
            complain(name, code, details);
        }
    }
    if present.is_none() {
        let has = |name: &str| given.get(name).is_some_and(|value| !value.is_null());
        for attribute in resource.attributes.iter().filter(|attribute| attribute.required) {
            if !has(attribute.name) && !given.contains_key(attribute.name) {
                complain(attribute.name, "missing", "The attribute is required.".to_owned());
            }
        }
        let either: &[&str] = match (resource.name, kind) {
            ("contact", Kind::Organization) => &["name"],
            ("contact", _) => &["last_name"],
            _ => resource.either,
        };
        if let Some(first) = either.first().filter(|_| !either.iter().any(|name| has(name))) {
            complain(first, "missing", format!("One of these is required: {}.", either.join(", ")));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Refusal::record(resource.name, problems)) }
}

type Wrong = (&'static str, String);

/// Whether a value is one that the attribute can have.
fn fits(attribute: &Attribute, value: &Value, kind: Kind, company: &Company) -> Result<(), Wrong> {
    let blank = value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty());
    if attribute.required && blank {
        return Err(("blank", "The attribute must not be blank.".to_owned()));
    }
    if value.is_null() {
        return Ok(());
    }
    let wrong_type = |wanted: &str| Err(("invalid_type", format!("must be {wanted}")));
    let incorrect = |why: String| Err(("incorrect_value", why));
    match attribute.of {
        Of::Text(most) => match value.as_str() {
            None => wrong_type("a string"),
            Some(text) if text.chars().count() > most => incorrect(format!("must have at most {most} characters")),
            Some(_) => Ok(()),
        },
        Of::Choice(choices) => match value.as_str() {
            None => wrong_type("a string"),
            Some(text) if choices.contains(&text) => Ok(()),
            Some(_) => incorrect(format!("must be one of: {}", choices.join(", "))),
        },
        Of::Integer => match value.as_i64() {
            None => wrong_type("an integer"),
            Some(number) if number < 0 => incorrect("must not be negative".to_owned()),
            Some(_) => Ok(()),
        },
        Of::Amount => match value {
            _ if hundredths(value).is_some() => Ok(()),
            Value::Number(_) | Value::String(_) => incorrect("must be a positive number".to_owned()),
            _ => wrong_type("a number"),
        },
        Of::Decimal => match value {
            Value::Number(_) => Ok(()),
            Value::String(text) if text.parse::<f64>().is_ok_and(f64::is_finite) => Ok(()),
            _ => wrong_type("a number"),
        },
        Of::Boolean => {
            if value.is_boolean() {
                Ok(())
            } else {
                wrong_type("a boolean")
            }
        }
        Of::Date => match value.as_str() {
            None => wrong_type("a string"),
            Some(text) if day(text).is_some() => Ok(()),
            Some(_) => incorrect("must be a date, as 2026-11-24".to_owned()),
        },
        Of::Time => match value.as_str() {
            None => wrong_type("a string"),
            Some(text) if instant(text).is_some() => Ok(()),
            Some(_) => incorrect("must be a time of ISO 8601".to_owned()),
        },
        Of::Tags => match value.as_array() {
            Some(tags) if tags.iter().all(Value::is_string) => Ok(()),
            _ => wrong_type("an array of strings"),
        },
        Of::Address => match value.as_object() {
            Some(parts) if parts.values().all(|part| part.is_string() || part.is_null()) => Ok(()),
            _ => wrong_type("an object of strings"),
        },
        Of::Custom => custom(value, kind, company),
        Of::Json => Ok(()),
        Of::Id(kinds) => match value.as_u64() {
            None => wrong_type("an id"),
            Some(id) if kinds.iter().any(|kind| company.find(*kind, id).is_some()) => Ok(()),
            Some(id) => incorrect(format!("there is no record {id}")),
        },
    }
}

/// Values by the names of the account's custom fields.
fn custom(value: &Value, kind: Kind, company: &Company) -> Result<(), Wrong> {
    let Some(values) = value.as_object() else { return Err(("invalid_type", "must be an object".to_owned())) };
    let fields = company.records(Kind::CustomField);
    for name in values.keys() {
        let known =
            fields.iter().any(|field| field.wrote("name").and_then(Value::as_str) == Some(name) && field.is_for(kind));
        if !known {
            return Err(("unknown", format!("There is no custom field `{name}`.")));
        }
    }
    Ok(())
}
