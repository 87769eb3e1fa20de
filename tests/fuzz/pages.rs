//! Pages of both dialects: whatever the bytes, a page is read or refused as a whole, nothing in it is lost, and an
//! element costs itself alone (INV-5).

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use standpipe::config::DedupeBy;
use standpipe::event::ports::Dialect;
use standpipe::event::{
    AccountName, Event, MAX_EVENT_ID_BYTES, MAX_EVENT_TYPE_BYTES, MAX_POSITION_BYTES, MAX_RECORD_ID_BYTES, StreamName,
};
use standpipe::sell::wire::{PageContent, PageOf, Wanted, WireError, listing, page, subscribed};

use crate::recipe::Recipe;
use crate::{elements, fuzz};

pub fn read(dialect: Dialect, body: &[u8], dedupe_by: DedupeBy, wanted: &Wanted) -> Result<PageContent, WireError> {
    let (account, stream) = (AccountName::from("acme"), StreamName::from("deals"));
    page(dialect, &Bytes::copy_from_slice(body), PageOf { account: &account, stream: &stream, dedupe_by, wanted })
}

/// An object's members as they are spelled, in order.
pub struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    // Half of a surrogate pair is no text: such a name stays as it is spelled.
                    let text = serde_json::from_str(name.get()).unwrap_or_else(|_| name.get().to_owned());
                    members.push((text, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl<'a> Members<'a> {
    /// The value of a member that is there once.
    pub fn only(&self, name: &str) -> Option<&'a str> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        found.next().filter(|_| found.next().is_none()).map(|(_, value)| value.get())
    }
}

/// The bounds and the form of an event, whatever it was made of.
pub fn judge(event: &Event) {
    assert!((1..=MAX_EVENT_ID_BYTES).contains(&event.id.len()));
    assert!((1..=MAX_EVENT_TYPE_BYTES).contains(&event.event_type.as_str().len()));
    assert!(event.record_id.len() <= MAX_RECORD_ID_BYTES);
    assert!(!event.event_type.resource().is_empty());
    for text in [&event.id, event.event_type.as_str(), &event.record_id] as [&str; 3] {
        assert!(!text.contains('\0'));
    }
    serde_json::from_slice::<IgnoredAny>(&event.body).expect("the canonical bytes are JSON");
}

/// What must hold of any page that was read.
fn whole(body: &[u8], content: &PageContent) {
    assert!((1..=MAX_POSITION_BYTES).contains(&content.position.as_str().len()));
    assert!(!content.position.as_str().contains('\0'));
    content.events.iter().for_each(judge);
    for rejected in &content.rejected {
        assert!(!rejected.reason.is_empty());
        assert!(rejected.raw.is_empty() || body.windows(rejected.raw.len()).any(|bytes| bytes == rejected.raw));
    }
}

fn bodies(content: &PageContent) -> Vec<(&str, &Bytes)> {
    content.events.iter().map(|event| (&*event.id, &event.body)).collect()
}

/// Beside another JSON parser: of a page that is JSON every element is found, in its order and with its bytes.
fn beside_serde(dialect: Dialect, body: &[u8], read: &Result<PageContent, WireError>) {
    let Ok(page) = serde_json::from_slice::<Members<'_>>(body) else { return };
    let (Some(items), Some(meta)) = (page.only("items"), page.only("meta")) else { return };
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(items) else { return };
    let Ok(meta) = serde_json::from_str::<Members<'_>>(meta) else { return };
    let position = meta.only("position").and_then(|position| serde_json::from_str::<String>(position).ok());
    if meta.0.iter().any(|(name, value)| name == "top" && !matches!(value.get(), "true" | "false")) {
        return;
    }
    let Some(position) = position.filter(|p| (1..=MAX_POSITION_BYTES).contains(&p.len()) && !p.contains('\0')) else {
        return;
    };
    // A name in another spelling is found by one of the two ways through the reader and not by the other.
    if ["\"items\"", "\"meta\""].iter().any(|name| !body.windows(name.len()).any(|at| at == name.as_bytes())) {
        return;
    }
    let content = read.as_ref().unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(body)));
    assert_eq!(content.position.as_str(), position);
    assert_eq!(content.held(), items.len());
    let (mut events, mut rejected) = (content.events.iter().peekable(), content.rejected.iter().peekable());
    for item in &items {
        let of_this = |event: &&Event| record(dialect, item.get()).is_none_or(|record| holds(&event.body, record));
        if rejected.next_if(|rejected| rejected.raw == item.get().as_bytes()).is_some() {
            continue;
        }
        let found = events.next_if(of_this).is_some();
        assert!(found || content.unwanted > 0, "{} is nowhere", item.get());
    }
    assert!(rejected.next().is_none());
}

fn holds(body: &[u8], part: &str) -> bool {
    body.windows(part.len()).any(|bytes| bytes == part.as_bytes())
}

/// The record of an element, as its bytes; none where the element leaves any doubt which it is.
fn record(dialect: Dialect, item: &str) -> Option<&str> {
    let data = serde_json::from_str::<Members<'_>>(item).ok()?.only("data")?;
    match dialect {
        Dialect::Live => Some(data),
        Dialect::Reference => match &serde_json::from_str::<Members<'_>>(data).ok()?.0[..] {
            [(_, record)] => Some(record.get()),
            _ => None,
        },
    }
}

fn joined(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"{\"items\":["[..], &items.join(&b", "[..]), b"],\"meta\":{\"position\":\"p\",\"top\":true}}"].concat()
}

fn property(input: &[u8]) {
    let mut recipe = Recipe::new(input);
    let dialect = if recipe.flag() { Dialect::Live } else { Dialect::Reference };
    let dedupe_by = if recipe.flag() { DedupeBy::Sequence } else { DedupeBy::Id };
    let wanted = Wanted::new(&[recipe.pick(&["*", "*", "deal.*", "contact.deleted"]).to_owned()]);
    let element = |recipe: &mut Recipe<'_>| match dialect {
        Dialect::Live => elements::live(recipe),
        Dialect::Reference => elements::reference(recipe),
    };
    if recipe.below(4) == 0 {
        let body = recipe.rest();
        let read = read(dialect, body, dedupe_by, &wanted);
        if let Ok(content) = &read {
            whole(body, content);
        }
        beside_serde(dialect, body, &read);
        for stream in listing(body).unwrap_or_default() {
            assert!((1..=128).contains(&stream.stream.as_str().len()));
        }
        if let Ok(subscribed) = subscribed(body) {
            assert!((1..=MAX_POSITION_BYTES).contains(&subscribed.position.as_str().len()));
        }
        return;
    }
    let mut items: Vec<Vec<u8>> = Vec::new();
    for _ in 0..recipe.below(6) {
        items.push(element(&mut recipe).into_bytes());
    }
    let body = joined(&items);
    let good = read(dialect, &body, dedupe_by, &wanted);
    beside_serde(dialect, &body, &good);
    let good = good.expect("a page of elements that are JSON");
    whole(&body, &good);

    // A broken neighbour: the page is read on the slow way, and all the others come out as before.
    let (broken, at) = (elements::broken(&mut recipe), recipe.below(items.len() + 1));
    items.insert(at, broken.clone());
    let body = joined(&items);
    let beside = read(dialect, &body, dedupe_by, &wanted).expect("what is broken costs itself alone");
    whole(&body, &beside);
    assert_eq!(bodies(&good), bodies(&beside));
    assert_eq!((good.unwanted, good.rejected.len() + 1), (beside.unwanted, beside.rejected.len()));
    assert!(beside.rejected.iter().any(|rejected| rejected.raw == broken), "kept whole");
}

#[test]
fn a_page_is_read_whole_and_a_broken_element_costs_itself_alone() {
    fuzz!("pages", property);
}
