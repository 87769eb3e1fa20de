//! What was emitted, as an oracle reads it: canonical names and the raw bytes that were served.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::encode::{live_resource, reference_resource, stream};
use super::journal::{Entry, Role};
use super::options::Dialect;
use super::world::World;

/// An event as it was emitted first. What a fault repeats is not listed again, and an element that is no event not at
/// all: the list is what a consumer must have, once each.
#[derive(Debug, Serialize)]
pub struct Emitted {
    /// The event id.
    pub id: String,
    /// The canonical type: `deal.updated`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Its time, as it was spelled.
    pub timestamp: String,
    /// The id of its record, as it was spelled.
    pub record_id: String,
    /// The record's bytes.
    pub record: Box<RawValue>,
    /// The bytes of what it was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Box<RawValue>>,
    /// Its place among everything that was emitted, from 1, with gaps.
    pub place: u64,
    /// The stream that it came by.
    pub stream: &'static str,
    /// The sequence, as it was spelled.
    pub sequence: Box<RawValue>,
    /// Whether it repeats the content and sequence of the event before it under an id of its own.
    pub resequenced: bool,
    /// Whether it may be lost: the history was taken away from a reader that may not have had it.
    pub gone: bool,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
}

#[derive(Deserialize)]
struct Reference<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    timestamp: &'a str,
    #[serde(borrow)]
    data: std::collections::BTreeMap<&'a str, &'a RawValue>,
    previous: Option<&'a RawValue>,
    meta: ReferenceMeta<'a>,
}

#[derive(Deserialize)]
struct ReferenceMeta<'a> {
    #[serde(borrow)]
    sequence: &'a RawValue,
}

#[derive(Deserialize)]
struct Live<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    meta: LiveMeta<'a>,
}

#[derive(Deserialize)]
struct LiveMeta<'a> {
    event_id: &'a str,
    event_type: &'a str,
    event_time: &'a str,
    #[serde(borrow)]
    sequence: &'a RawValue,
    #[serde(rename = "type")]
    resource: &'a str,
    #[serde(borrow)]
    previous: Option<&'a RawValue>,
}

/// A copy of what is asked for, so that the world goes on while it is written.
#[derive(Debug)]
pub(super) struct Excerpt {
    entries: Vec<(u64, Entry)>,
    taken: u64,
    dialect: Dialect,
}

impl World {
    /// Up to `limit` events after a place.
    pub fn excerpt(&self, dialect: Dialect, after: u64, limit: usize) -> Excerpt {
        let told = |entry: &Entry| entry.role != Role::Bogus && !stream(dialect, entry.kind).is_empty();
        let events = self.journal.from(after).filter(|(_, entry)| told(entry));
        let entries = events.take(limit).map(|(index, entry)| (index, entry.clone())).collect();
        Excerpt { entries, taken: self.taken(), dialect }
    }
}

impl Excerpt {
    pub fn events(self) -> impl Iterator<Item = Emitted> {
        let Self { entries, taken, dialect } = self;
        entries.into_iter().filter_map(move |(index, entry)| {
            let mut element = Vec::new();
            entry.piece(dialect).write(&mut element);
            let emitted = match dialect {
                Dialect::Reference => reference(&element, &entry),
                Dialect::Live => live(&element, &entry),
            };
            emitted.map(|emitted| Emitted { place: index + 1, gone: index < taken, ..emitted })
        })
    }
}

fn reference(element: &[u8], entry: &Entry) -> Option<Emitted> {
    let parts: Reference<'_> = serde_json::from_slice(element).ok()?;
    let (resource, stream) = reference_resource(entry.kind);
    let record = *parts.data.get(resource)?;
    Some(Emitted {
        id: parts.id.to_owned(),
        event_type: parts.event_type.to_owned(),
        timestamp: parts.timestamp.to_owned(),
        record_id: record_id(record)?,
        record: record.to_owned(),
        previous: parts.previous.map(ToOwned::to_owned),
        place: 0,
        stream,
        sequence: parts.meta.sequence.to_owned(),
        resequenced: entry.role == Role::Resequenced,
        gone: false,
    })
}

fn live(element: &[u8], entry: &Entry) -> Option<Emitted> {
    let Live { data, meta } = serde_json::from_slice(element).ok()?;
    Some(Emitted {
        id: meta.event_id.to_owned(),
        event_type: format!("{}.{}", meta.resource, meta.event_type),
        timestamp: meta.event_time.to_owned(),
        record_id: record_id(data)?,
        record: data.to_owned(),
        previous: meta.previous.map(ToOwned::to_owned),
        place: 0,
        stream: live_resource(entry.kind).1,
        sequence: meta.sequence.to_owned(),
        resequenced: entry.role == Role::Resequenced,
        gone: false,
    })
}

fn record_id(record: &RawValue) -> Option<String> {
    let record: Record<'_> = serde_json::from_str(record.get()).ok()?;
    Some(record.id.get().trim_matches('"').to_owned())
}
