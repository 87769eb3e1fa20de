//! What a sink looks up to complete its events: which records, by CEL over the event, and how the answers stand in it.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cel::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::{Problem, RuleError};
use super::filter::{Expression, type_of};
use super::members;
use crate::config::EnrichConfig;
use crate::event::ports::RouteError;
use crate::event::{Found, LookUps, OnMiss, RecordKey, Recorded, SinkName, Wanted};

/// Records of one lookup and event, at most.
const MAX_RECORDS: usize = 100;
/// Longest id that is looked up, in bytes.
const MAX_ID_BYTES: usize = 64;
/// What an answer takes in an event, about, where it is some fields.
const ABOUT: usize = 256;

/// One `[[sinks.NAME.enrich]]`.
#[derive(Debug)]
pub(super) struct Enrich {
    pub(super) name: Arc<str>,
    collection: Arc<str>,
    id: Expression,
    fields: Option<Vec<String>>,
    max_age: Duration,
    on_miss: OnMiss,
}

impl Enrich {
    /// Compiles those of a sink. All errors at once.
    pub(super) fn compile(sink: &SinkName, configs: &[EnrichConfig]) -> Result<Vec<Self>, Vec<RuleError>> {
        let mut errors = Vec::new();
        let mut compiled = Vec::with_capacity(configs.len());
        for (index, config) in configs.iter().enumerate() {
            match Expression::compile(&config.id, &[], None) {
                Ok(id) => compiled.push(Self {
                    name: config.name.as_str().into(),
                    collection: config.lookup.as_str().into(),
                    id,
                    fields: config.fields.clone(),
                    max_age: config.max_age,
                    on_miss: config.on_miss,
                }),
                Err(problems) => {
                    let key = format!("enrich[{index}].id");
                    errors.extend(problems.into_iter().map(|problem: Problem| problem.of(sink, &key, &config.id)));
                }
            }
        }
        if errors.is_empty() { Ok(compiled) } else { Err(errors) }
    }

    /// What is to be looked up for an event; none where its `id` gives nothing.
    pub(super) fn wanted(&self, event: &Recorded) -> Result<Option<Wanted>, RouteError> {
        let failed = |why: String| RouteError { what: format!("the id of enrich.{}", self.name), why };
        let value = match self.id.evaluate(event) {
            Ok(value) => value,
            // An event of another resource, or one that does not have the member: nothing to look up.
            Err(no_value) if no_value.is_absent => return Ok(None),
            Err(no_value) => return Err(failed(no_value.why)),
        };
        let is_list = matches!(value, Value::List(_));
        let mut ids = Vec::new();
        match &value {
            Value::List(list) => {
                for item in list.iter() {
                    ids.extend(id_of(item).map_err(failed)?);
                }
            }
            value => ids.extend(id_of(value).map_err(failed)?),
        }
        let mut keys: Vec<RecordKey> = Vec::with_capacity(ids.len());
        for id in ids {
            if keys.iter().all(|key| key.id != id) {
                keys.push(RecordKey { account: event.account.clone(), collection: Arc::clone(&self.collection), id });
            }
        }
        if keys.len() > MAX_RECORDS {
            return Err(failed(format!("it names {} records; {MAX_RECORDS} are looked up at most", keys.len())));
        }
        Ok((!keys.is_empty()).then(|| Wanted {
            name: Arc::clone(&self.name),
            keys,
            is_list,
            max_age: self.max_age,
            on_miss: self.on_miss,
        }))
    }
}

/// An id as it is spelled; none for null.
fn id_of(value: &Value) -> Result<Option<Box<str>>, String> {
    let id = match value {
        Value::Null => return Ok(None),
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        Value::String(text) => text.as_str().to_owned(),
        other => return Err(format!("it gives {}, which is no id", type_of(other))),
    };
    // It becomes a part of a path: nothing that could mean another one.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(is_plain) {
        let shown: String = id.chars().take(MAX_ID_BYTES).collect();
        return Err(format!("it gives {shown:?}, which is no id: 1 to {MAX_ID_BYTES} letters, digits, - and _"));
    }
    Ok(Some(id.into_boxed_str()))
}

/// The event with what was found as its last member; the event itself where that is nothing.
pub(super) fn complete(
    rules: &[Enrich],
    event: &Recorded,
    lookups: &LookUps,
    found: &dyn Fn(&RecordKey) -> Option<Found>,
    now: OffsetDateTime,
) -> Recorded {
    const BEFORE: &[u8] = b",\"enrichment\":{";
    // A canonical event is an object that is never empty.
    let own = event.body.len().saturating_sub(1);
    let mut body = Vec::with_capacity(event.body.len() + BEFORE.len() + ABOUT * lookups.wanted.len());
    body.extend_from_slice(&event.body[..own]);
    body.extend_from_slice(BEFORE);
    let begin = body.len();
    for wanted in &lookups.wanted {
        let fields = rules.iter().find(|rule| rule.name == wanted.name).and_then(|rule| rule.fields.as_deref());
        member(&mut body, begin, wanted, fields, found, now);
    }
    if body.len() == begin {
        return event.clone();
    }
    body.extend_from_slice(b"}}");
    Recorded { body: Bytes::from(body), ..event.clone() }
}

/// Writes what one lookup found, where that is anything.
fn member(
    into: &mut Vec<u8>,
    begin: usize,
    wanted: &Wanted,
    fields: Option<&[String]>,
    found: &dyn Fn(&RecordKey) -> Option<Found>,
    now: OffsetDateTime,
) {
    let before = into.len();
    into.extend_from_slice(if before == begin { "\"" } else { ",\"" }.as_bytes());
    into.extend_from_slice(wanted.name.as_bytes());
    into.extend_from_slice(if wanted.is_list { "\":[" } else { "\":" }.as_bytes());
    let mut answers = 0;
    for key in &wanted.keys {
        let found = found(key);
        if found.is_none() && wanted.on_miss != OnMiss::Null {
            continue;
        }
        if answers > 0 {
            into.push(b',');
        }
        match found {
            Some(found) => answer(into, key, &found, fields, now),
            None => into.extend_from_slice(b"null"),
        }
        answers += 1;
    }
    match (wanted.is_list, answers) {
        (true, _) => into.push(b']'),
        (false, 0) => into.truncate(before),
        (false, _) => {}
    }
}

fn answer(into: &mut Vec<u8>, key: &RecordKey, found: &Found, fields: Option<&[String]>, now: OffsetDateTime) {
    let as_of = found.as_of.replace_nanosecond(0).unwrap_or(found.as_of);
    let age = (now - found.as_of).whole_seconds().max(0);
    for part in ["{\"id\":\"", &key.id, "\",\"source\":\"", found.answerer.as_str(), "\",\"as_of\":\""] {
        into.extend_from_slice(part.as_bytes());
    }
    // Writing to memory cannot fail; a year of five digits leaves nothing.
    as_of.format_into(into, &Rfc3339).unwrap_or_default();
    write!(into, "\",\"age_seconds\":{age},\"data\":").unwrap_or_default();
    match (&found.record, fields) {
        (None, _) => into.extend_from_slice(b"null"),
        (Some(record), None) => into.extend_from_slice(record),
        (Some(record), Some(fields)) => pick(into, record, fields),
    }
    into.push(b'}');
}

/// Writes the wanted members of a record as they are spelled, in the order in which they are wanted; those that it does not
/// have are left out.
fn pick(into: &mut Vec<u8>, record: &[u8], fields: &[String]) {
    into.push(b'{');
    let mut separator: &[u8] = b"";
    for (field, value) in fields.iter().zip(members::picked(record, fields)) {
        let Some(value) = value else { continue };
        into.extend_from_slice(separator);
        serde_json::to_writer(&mut *into, field).unwrap_or_default();
        into.push(b':');
        into.extend_from_slice(value.get().as_bytes());
        separator = b",";
    }
    into.push(b'}');
}
