//! The canonical event: its bytes, its names, and what makes an element unfit to be one (sell-api.md section 0).

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::PageOf;
use super::element::Member;
use crate::config::DedupeBy;
use crate::event::{
    ContentHash, DedupeKey, Event, EventType, MAX_EVENT_ID_BYTES, MAX_EVENT_TYPE_BYTES, MAX_RECORD_ID_BYTES,
};

/// Longest sequence that takes part in deduplication, in bytes; a longer one is only passed through.
const MAX_SEQUENCE_BYTES: usize = 128;

/// Why an element is not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Its bytes are not the JSON that an element must be.
    #[error("not a JSON element: {0}")]
    Json(String),
    /// It does not say what it is.
    #[error("it has no type")]
    NoType,
    /// What it is about is not in it.
    #[error("it has no record")]
    NoRecord,
    /// A name that must be text is not.
    #[error("its {0} is not valid text")]
    NotText(&'static str),
    /// A name that must be kept in the ledger contains a NUL.
    #[error("its {0} contains a NUL")]
    Nul(&'static str),
    /// A name is beyond its bound.
    #[error("its {0} is longer than {1} bytes")]
    TooLong(&'static str, usize),
}

/// The parts of an event, found by a dialect; values are slices of the page as they were spelled.
#[derive(Debug)]
pub(super) struct Canonical<'a> {
    /// The event's own id, where it has one.
    pub id: Option<&'a str>,
    /// `<resource>.<action>`, as text.
    pub event_type: Cow<'a, str>,
    /// The type as it was spelled, with its quotes; none where the source does not spell it in one piece.
    pub type_spelled: Option<&'a str>,
    /// The record's name in `data` as it was spelled, with its quotes; likewise.
    pub resource_spelled: Option<&'a str>,
    pub timestamp: Option<&'a str>,
    /// The record, an object.
    pub record: &'a str,
    /// What stands beside the record in `data`.
    pub beside: Vec<Member<'a>>,
    pub previous: Option<&'a str>,
    pub sequence: Option<&'a str>,
    pub cause: Option<&'a str>,
    /// Members that nobody here knows: of the element, then of its meta.
    pub unknown: Vec<Member<'a>>,
}

/// The types that a page has shown so far, so that each is allocated once.
#[derive(Debug, Default)]
pub(super) struct Types(Vec<EventType>);

impl Types {
    fn shared(&mut self, text: &str) -> EventType {
        if let Some(known) = self.0.iter().find(|known| known.as_str() == text) {
            return known.clone();
        }
        let new = EventType::from(text);
        if self.0.len() < 32 {
            self.0.push(new.clone());
        }
        new
    }
}

impl Canonical<'_> {
    /// Writes the event behind `buffer` and takes its bytes off; none where the account does not want its type.
    pub fn event(&self, of: PageOf<'_>, types: &mut Types, buffer: &mut BytesMut) -> Result<Option<Event>, Unfit> {
        let event_type = bounded("type", &self.event_type, MAX_EVENT_TYPE_BYTES)?;
        let resource = event_type.split_once('.').map_or(event_type, |(resource, _)| resource);
        if resource.is_empty() {
            return Err(Unfit::NoType);
        }
        if !of.wanted.takes(event_type) {
            return Ok(None);
        }
        let record_id = super::split::id_of(self.record).map(|raw| text("record id", raw)).transpose()?.flatten();
        let record_id = record_id.unwrap_or_default();
        let record_id = bounded("record id", &record_id, MAX_RECORD_ID_BYTES)?;
        let timestamp = self.timestamp.map_or("", unquoted);
        let content_hash = ContentHash::of(
            event_type,
            timestamp,
            self.record.as_bytes(),
            self.previous.unwrap_or_default().as_bytes(),
        );
        let sequence = self.sequence.and_then(usable_sequence);
        let own_id = self.id.map(|raw| text("event id", raw)).transpose()?.flatten().filter(|id| !id.is_empty());
        let id = match own_id {
            Some(id) => id,
            None => derived_id(event_type, record_id, sequence.as_deref(), timestamp, content_hash).into(),
        };
        let id = bounded("event id", &id, MAX_EVENT_ID_BYTES)?;
        let account = of.account.as_str();
        let dedupe_key = match (of.dedupe_by, sequence.as_deref()) {
            (DedupeBy::Sequence, Some(sequence)) => DedupeKey::by_sequence(account, resource, record_id, sequence),
            _ => DedupeKey::by_id(account, id),
        };
        Ok(Some(Event {
            account: of.account.clone(),
            stream: of.stream.clone(),
            event_type: types.shared(event_type),
            id: id.into(),
            record_id: record_id.into(),
            occurred_at: OffsetDateTime::parse(timestamp, &Rfc3339).ok(),
            dedupe_key,
            content_hash,
            body: self.body(id, event_type, resource, of, buffer),
            sequence: sequence.map(Into::into),
        }))
    }

    /// The canonical bytes, in the order of sell-api.md section 0 and without white space of ours.
    fn body(&self, id: &str, event_type: &str, resource: &str, of: PageOf<'_>, buffer: &mut BytesMut) -> Bytes {
        put(buffer, &[r#"{"id":"#]);
        let id_spelled = self.id.filter(|raw| raw.starts_with('"') && raw.len() > 2);
        put_spelled(buffer, id_spelled, id);
        put(buffer, &[r#","type":"#]);
        put_spelled(buffer, self.type_spelled, event_type);
        put(buffer, &[r#","timestamp":"#, self.timestamp.unwrap_or("null"), r#","data":{"#]);
        put_spelled(buffer, self.resource_spelled, resource);
        put(buffer, &[":", self.record]);
        for member in &self.beside {
            put(buffer, &[",", member.name, ":", member.value]);
        }
        put(buffer, &["}"]);
        if let Some(previous) = self.previous {
            put(buffer, &[r#","previous":"#, previous]);
        }
        put(buffer, &[r#","meta":{"account":"#]);
        put_text(buffer, of.account.as_str());
        put(buffer, &[r#","stream":"#]);
        put_text(buffer, of.stream.as_str());
        if let Some(sequence) = self.sequence {
            put(buffer, &[r#","sequence":"#, sequence]);
        }
        if let Some(cause) = self.cause {
            put(buffer, &[r#","cause":"#, cause]);
        }
        self.put_unknown(buffer);
        put(buffer, &["}}"]);
        buffer.split().freeze()
    }

    fn put_unknown(&self, buffer: &mut BytesMut) {
        for (at, member) in self.unknown.iter().enumerate() {
            let name = member.name();
            let ours = match name.as_ref() {
                "account" | "stream" => true,
                "sequence" => self.sequence.is_some(),
                "cause" => self.cause.is_some(),
                _ => false,
            };
            if !ours && !self.unknown[..at].iter().any(|earlier| earlier.name() == name) {
                put(buffer, &[",", member.name, ":", member.value]);
            }
        }
    }
}

fn put(buffer: &mut BytesMut, parts: &[&str]) {
    for part in parts {
        buffer.put_slice(part.as_bytes());
    }
}

/// Writes a name as the source spelled it, else its text as a JSON string.
fn put_spelled(buffer: &mut BytesMut, spelled: Option<&str>, text: &str) {
    match spelled {
        Some(spelled) => buffer.put_slice(spelled.as_bytes()),
        None => put_text(buffer, text),
    }
}

/// Writes text as a JSON string.
fn put_text(buffer: &mut BytesMut, text: &str) {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        let escaped = serde_json::to_string(text).expect("text is always a JSON string");
        buffer.put_slice(escaped.as_bytes());
    } else {
        put(buffer, &["\"", text, "\""]);
    }
}

/// A JSON string without its quotes, escapes as they are; any other value as it is spelled.
fn unquoted(raw: &str) -> &str {
    raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(raw)
}

/// A value as text: a string decoded, any other value as it is spelled, `null` as none.
pub(super) fn text<'a>(what: &'static str, raw: &'a str) -> Result<Option<Cow<'a, str>>, Unfit> {
    if raw == "null" {
        return Ok(None);
    }
    let inner = unquoted(raw);
    if inner.len() == raw.len() || !inner.contains('\\') {
        return Ok(Some(Cow::Borrowed(inner)));
    }
    // The grammar was checked before: what cannot be decoded now is half of a surrogate pair.
    serde_json::from_str(raw).map(|text| Some(Cow::Owned(text))).map_err(|_| Unfit::NotText(what))
}

fn bounded<'t>(what: &'static str, text: &'t str, most: usize) -> Result<&'t str, Unfit> {
    if text.len() > most {
        return Err(Unfit::TooLong(what, most));
    }
    if text.contains('\0') {
        return Err(Unfit::Nul(what));
    }
    Ok(text)
}

/// A sequence that can be compared: a number or a text. Anything else is only passed through.
fn usable_sequence(raw: &str) -> Option<Cow<'_, str>> {
    if raw.starts_with(['{', '[']) {
        return None;
    }
    let sequence = text("sequence", raw).ok().flatten()?;
    (!sequence.is_empty() && sequence.len() <= MAX_SEQUENCE_BYTES && !sequence.contains('\0')).then_some(sequence)
}

/// The id of an event that came without one.
fn derived_id(
    event_type: &str,
    record_id: &str,
    sequence: Option<&str>,
    timestamp: &str,
    content_hash: ContentHash,
) -> String {
    match sequence {
        Some(sequence) => format!("{event_type}:{record_id}:{sequence}"),
        None => format!("{event_type}:{record_id}:{timestamp}:{}", &content_hash.to_string()[..16]),
    }
}
