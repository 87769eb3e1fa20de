//! What a sink looks up to complete its events: which records, by CEL over the event, and how the answers stand in it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use cel::Value;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::{Problem, RuleError};
use super::filter::{Expression, type_of};
use crate::config::EnrichConfig;
use crate::event::ports::RouteError;
use crate::event::{Found, LookUps, OnMiss, RecordKey, Recorded, SinkName, Wanted};

/// Records of one lookup and event, at most.
const MAX_RECORDS: usize = 100;
/// Longest id that is looked up, in bytes.
const MAX_ID_BYTES: usize = 64;

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
    let mut members = String::new();
    for wanted in &lookups.wanted {
        let fields = rules.iter().find(|rule| rule.name == wanted.name).and_then(|rule| rule.fields.as_deref());
        let mut answers = wanted.keys.iter().filter_map(|key| match (found(key), wanted.on_miss) {
            (Some(found), _) => Some(answer(key, &found, fields, now)),
            (None, OnMiss::Null) => Some("null".to_owned()),
            (None, OnMiss::Skip | OnMiss::Wait) => None,
        });
        let value = if wanted.is_list {
            format!("[{}]", answers.collect::<Vec<_>>().join(","))
        } else {
            let Some(answer) = answers.next() else { continue };
            answer
        };
        let separator = if members.is_empty() { "" } else { "," };
        // Writing to a String cannot fail; names hold nothing that JSON escapes.
        write!(members, "{separator}\"{}\":{value}", wanted.name).unwrap_or_default();
    }
    if members.is_empty() {
        return event.clone();
    }
    Recorded { body: with_member(&event.body, &members), ..event.clone() }
}

/// A canonical event is an object that is never empty.
fn with_member(body: &Bytes, members: &str) -> Bytes {
    const BEFORE: &[u8] = b",\"enrichment\":{";
    let kept = body.len().saturating_sub(1);
    let mut bytes = BytesMut::with_capacity(kept + BEFORE.len() + members.len() + 2);
    bytes.put_slice(&body[..kept]);
    bytes.put_slice(BEFORE);
    bytes.put_slice(members.as_bytes());
    bytes.put_slice(b"}}");
    bytes.freeze()
}

fn answer(key: &RecordKey, found: &Found, fields: Option<&[String]>, now: OffsetDateTime) -> String {
    let as_of = found.as_of.replace_nanosecond(0).unwrap_or(found.as_of);
    let age = (now - found.as_of).whole_seconds().max(0);
    let data = match (&found.record, fields) {
        (None, _) => "null".to_owned(),
        (Some(record), None) => record.get().to_owned(),
        (Some(record), Some(fields)) => picked(record, fields),
    };
    format!(
        r#"{{"id":"{}","source":"{}","as_of":"{}","age_seconds":{age},"data":{data}}}"#,
        key.id,
        found.answerer.as_str(),
        as_of.format(&Rfc3339).unwrap_or_default(),
    )
}

/// The wanted members of a record as they are spelled, in the order in which they are wanted; those that it does not have
/// are left out.
fn picked(record: &RawValue, fields: &[String]) -> String {
    #[derive(Deserialize)]
    struct Members<'r>(#[serde(borrow)] std::collections::HashMap<std::borrow::Cow<'r, str>, &'r RawValue>);

    // What is no object has none.
    let Ok(Members(members)) = serde_json::from_str::<Members<'_>>(record.get()) else { return "{}".to_owned() };
    let mut picked = String::from("{");
    for field in fields {
        let Some(value) = members.get(field.as_str()) else { continue };
        let separator = if picked.len() == 1 { "" } else { "," };
        let name = serde_json::to_string(field).unwrap_or_default();
        write!(picked, "{separator}{name}:{}", value.get()).unwrap_or_default();
    }
    picked.push('}');
    picked
}
