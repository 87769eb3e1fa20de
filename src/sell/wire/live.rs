//! The vendor's service as it answers today (sell-api.md L4).

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};

use super::canonical::{Canonical, Unfit, text};
use super::element::{self, get};

pub(super) const STREAMS: [&str; 19] = [
    "appointments",
    "associated_contacts",
    "calls",
    "collaborations",
    "contacts",
    "custom_fields",
    "deals",
    "documents",
    "leads",
    "line_items",
    "notes",
    "orders",
    "products",
    "sources",
    "stages",
    "tags",
    "tasks",
    "users",
    "visits",
];

/// `{"data":{…},"meta":{"event_id","event_type","event_cause","event_time","sequence","type","previous"}}`
pub(super) struct Item<'a>(element::Item<'a, false>);

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        element::Item::deserialize(deserializer).map(Self)
    }
}

const KNOWN: [&str; 7] = ["event_id", "event_type", "event_cause", "event_time", "sequence", "type", "previous"];

impl<'a> super::Element<'a> for Item<'a> {
    fn canonical(&self) -> Result<Canonical<'a>, Unfit> {
        let meta = self.0.meta.as_ref().ok_or(Unfit::NoType)?;
        let named = |name| match meta.get(name) {
            Some(raw) if raw.starts_with('"') => {
                text("type", raw)?.filter(|text| !text.is_empty()).ok_or(Unfit::NoType)
            }
            _ => Err(Unfit::NoType),
        };
        let (resource, action) = (named("type")?, named("event_type")?);
        let record = get(&self.0.members, "data").filter(|raw| raw.starts_with('{')).ok_or(Unfit::NoRecord)?;
        let others = self.0.members.iter().filter(|member| !member.is("data"));
        let unknown = meta.0.iter().filter(|member| !KNOWN.iter().any(|known| member.is(known)));
        Ok(Canonical {
            id: meta.get("event_id"),
            event_type: Cow::Owned(format!("{}.{action}", snake_case(&resource))),
            type_spelled: None,
            resource_spelled: None,
            timestamp: meta.get("event_time"),
            record,
            beside: Vec::new(),
            previous: meta.get("previous"),
            sequence: meta.get("sequence"),
            cause: meta.get("event_cause"),
            unknown: others.chain(unknown).copied().collect(),
        })
    }
}

/// `LineItem` and `line_item` are the same resource: the vendor's Sync spells the first, its Firehose the second.
fn snake_case(resource: &str) -> Cow<'_, str> {
    if !resource.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Borrowed(resource);
    }
    let mut snake = String::with_capacity(resource.len() + 4);
    for letter in resource.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    Cow::Owned(snake)
}
