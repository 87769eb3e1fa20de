//! The API as the project's user describes it (sell-api.md R4).

use serde::{Deserialize, Deserializer};

use super::WireError;
use super::canonical::{Canonical, Unfit, text};
use super::element::{self, get};
use crate::event::{Position, StreamName};
use crate::sell::StreamListed;

/// `{"id","type","timestamp","data":{"<resource>":{…}},"previous":{…},"meta":{"stream","sequence","cause"}}`
pub(super) struct Item<'a>(element::Item<'a, true>);

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        element::Item::deserialize(deserializer).map(Self)
    }
}

const KNOWN: [&str; 4] = ["id", "type", "timestamp", "previous"];
const KNOWN_META: [&str; 2] = ["sequence", "cause"];

impl<'a> super::Element<'a> for Item<'a> {
    fn canonical(&self) -> Result<Canonical<'a>, Unfit> {
        let members = &self.0.members;
        let type_spelled = get(members, "type");
        let event_type = match type_spelled {
            Some(raw) if raw.starts_with('"') => text("type", raw)?.filter(|text| !text.is_empty()),
            _ => None,
        };
        let event_type = event_type.ok_or(Unfit::NoType)?;
        let resource = event_type.split_once('.').map_or(event_type.as_ref(), |(resource, _)| resource);
        let data = self.0.data.as_ref().ok_or(Unfit::NoRecord)?;
        let at = data.0.iter().position(|member| member.is(resource)).ok_or(Unfit::NoRecord)?;
        let record = data.0[at].value;
        if !record.starts_with('{') {
            return Err(Unfit::NoRecord);
        }
        let meta = self.0.meta.as_ref();
        let of_meta = |name| meta.and_then(|meta| meta.get(name));
        let others = members.iter().filter(|member| !KNOWN.iter().any(|known| member.is(known)));
        let unknown = meta.iter().flat_map(|meta| &meta.0);
        let unknown = unknown.filter(|member| !KNOWN_META.iter().any(|known| member.is(known)));
        Ok(Canonical {
            id: get(members, "id"),
            type_spelled,
            resource_spelled: Some(data.0[at].name),
            timestamp: get(members, "timestamp"),
            record,
            beside: data.0.iter().filter(|member| !member.is(resource)).copied().collect(),
            previous: get(members, "previous"),
            sequence: of_meta("sequence"),
            cause: of_meta("cause"),
            unknown: others.chain(unknown).copied().collect(),
            event_type,
        })
    }
}

/// The streams of a listing, with the resources whose events each carries.
pub fn listing(body: &[u8]) -> Result<Vec<StreamListed>, WireError> {
    #[derive(Deserialize)]
    struct Answer {
        items: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        id: String,
        #[serde(default)]
        event_types: Vec<String>,
    }
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|error| WireError::Shape { expected: "a list of streams", why: error.to_string() })?;
    let listed = answer.items.into_iter().filter(|listed| fits_a_name(&listed.id)).map(|listed| {
        let mut resources: Vec<String> =
            listed.event_types.iter().filter_map(|event_type| Some(event_type.split_once('.')?.0.to_owned())).collect();
        resources.dedup();
        StreamListed { stream: StreamName::from(listed.id), resources }
    });
    Ok(listed.collect())
}

/// Whether a stream's name can be kept and stand in a path.
fn fits_a_name(name: &str) -> bool {
    (1..=128).contains(&name.len()) && !name.contains('\0') && name != "." && name != ".."
}

/// The body of `POST /firehose/subscribe`: all events of the resources.
#[must_use]
pub fn subscription(name: &str, resources: &[String], position: &Position) -> Vec<u8> {
    let event_types: Vec<String> = resources.iter().map(|resource| format!("{resource}.*")).collect();
    serde_json::json!({ "name": name, "event_types": event_types, "position": position.as_str() })
        .to_string()
        .into_bytes()
}

/// What a subscription gave.
#[derive(Debug)]
pub struct Subscribed {
    /// Names the subscription in the polls' path.
    pub stream_id: String,
    /// Where the position that was asked for lies.
    pub position: Position,
}

/// Reads the answer to a subscription.
pub fn subscribed(body: &[u8]) -> Result<Subscribed, WireError> {
    #[derive(Deserialize)]
    struct Answer {
        stream_id: String,
        position: String,
    }
    let shape = |why: String| WireError::Shape { expected: "a subscription", why };
    let answer: Answer = serde_json::from_slice(body).map_err(|error| shape(error.to_string()))?;
    if !fits_a_name(&answer.stream_id) {
        return Err(shape("its stream_id cannot stand in a path".to_owned()));
    }
    Ok(Subscribed { stream_id: answer.stream_id, position: super::held_position(&answer.position)? })
}
