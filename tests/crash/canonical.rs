//! An event's canonical bytes, taken apart (sell-api.md section 0) without a line of the program's own.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};

use serde::Deserialize;
use serde_json::value::RawValue;
use standpipe::event::ContentHash;

use crate::support::emitted::Emitted;

/// Account and event id.
pub type EventKey = (String, String);

/// What the bytes of a delivery say, kept small: a long run delivers a million.
#[derive(Clone, Debug)]
pub struct Said {
    pub key: EventKey,
    /// Over type, time, record and previous.
    pub content: ContentHash,
    /// Over all bytes.
    pub bytes: u64,
}

/// An event as its simulator says that it emitted it, kept small.
#[derive(Debug)]
pub struct Fact {
    /// Its place among the account's events.
    pub place: usize,
    /// Key of its record in Kafka: `account/resource/record id`.
    pub record: String,
    pub content: ContentHash,
}

impl Fact {
    pub fn of(account: &str, event: &Emitted) -> Self {
        let previous = event.previous.as_deref().unwrap_or_default();
        Self {
            place: event.place,
            record: format!("{account}/{}/{}", event.resource(), event.record_id),
            content: ContentHash::of(&event.event_type, &event.timestamp, event.record.as_bytes(), previous.as_bytes()),
        }
    }

    /// `deal` of `acme/deal/7`.
    pub fn resource(&self) -> &str {
        self.record.split('/').nth(1).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Canonical<'a> {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    timestamp: String,
    #[serde(borrow)]
    data: BTreeMap<String, &'a RawValue>,
    #[serde(borrow)]
    previous: Option<&'a RawValue>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    account: String,
}

impl Said {
    /// Reads a delivery's bytes, or says why they are no event.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let event: Canonical<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let resource = event.event_type.split('.').next().unwrap_or_default();
        let record = event.data.get(resource).ok_or("its record is not under its resource's name")?;
        let previous = event.previous.map_or("", RawValue::get);
        let content =
            ContentHash::of(&event.event_type, &event.timestamp, record.get().as_bytes(), previous.as_bytes());
        let mut bytes = DefaultHasher::new();
        bytes.write(body);
        Ok(Self { key: (event.meta.account, event.id), content, bytes: bytes.finish() })
    }
}
