//! The canonical event: its bytes say what it is, hold the vendor's own, and mean the same when they are read again.

use serde_json::Value;
use standpipe::config::DedupeBy;
use standpipe::event::Event;
use standpipe::event::ports::Dialect;
use standpipe::sell::wire::Wanted;

use crate::pages::{Members, judge, read};
use crate::recipe::Recipe;
use crate::{elements, fuzz};

/// What the canonical form may add to an element, in bytes: its frame, our names, an id that had to be derived (which
/// may stand there escaped).
const ADDED: usize = 192 + 6 * 512;

fn only(dialect: Dialect, element: &[u8], dedupe_by: DedupeBy) -> Option<Event> {
    let body = [&b"{\"items\":["[..], element, b"],\"meta\":{\"position\":\"p\"}}"].concat();
    let mut content = read(dialect, &body, dedupe_by, &Wanted::new(&["*".to_owned()])).ok()?;
    content.events.pop()
}

fn property(input: &[u8]) {
    let mut recipe = Recipe::new(input);
    let dialect = if recipe.flag() { Dialect::Live } else { Dialect::Reference };
    let dedupe_by = if recipe.flag() { DedupeBy::Sequence } else { DedupeBy::Id };
    let element = match (recipe.below(8), dialect) {
        (0, _) => String::from_utf8_lossy(recipe.rest()).into_owned(),
        (_, Dialect::Live) => elements::live(&mut recipe),
        (_, Dialect::Reference) => elements::reference(&mut recipe),
    };
    let Some(event) = only(dialect, element.as_bytes(), dedupe_by) else { return };
    judge(&event);
    assert!(event.body.len() <= element.len() + ADDED);

    let text = std::str::from_utf8(&event.body).unwrap();
    let members: Members<'_> = serde_json::from_str(text).unwrap();
    let names: Vec<&str> = members.0.iter().map(|(name, _)| name.as_str()).collect();
    let previous = names.contains(&"previous");
    let expected: &[&str] = if previous {
        &["id", "type", "timestamp", "data", "previous", "meta"]
    } else {
        &["id", "type", "timestamp", "data", "meta"]
    };
    assert_eq!(names, expected, "in this order, each once");
    let of = |name: &str| members.only(name).unwrap();
    assert_eq!(serde_json::from_str::<String>(of("id")).unwrap(), *event.id);
    assert_eq!(serde_json::from_str::<String>(of("type")).unwrap(), event.event_type.as_str());
    let meta: Members<'_> = serde_json::from_str(of("meta")).unwrap();
    assert_eq!(meta.only("account"), Some("\"acme\""));
    assert_eq!(meta.only("stream"), Some("\"deals\""));
    // The record, `previous` and `sequence` are the vendor's own bytes.
    let data: Members<'_> = serde_json::from_str(of("data")).unwrap();
    let record = data.0.iter().find(|(name, _)| name == event.event_type.resource()).expect("its record").1.get();
    for part in [record, members.only("previous").unwrap_or_default(), event_sequence(&event, &meta)] {
        assert!(element.contains(part), "{part} is not the vendor's");
    }
    record_id(&event, record);
    if !names_twice(dialect, &element) {
        again(&event, of("timestamp"), dedupe_by);
    }
}

fn event_sequence<'a>(event: &Event, meta: &Members<'a>) -> &'a str {
    event.sequence.as_ref().and_then(|_| meta.only("sequence")).unwrap_or_default()
}

/// The record's id is that of its first member `id`, as spelled, strings unquoted.
fn record_id(event: &Event, record: &str) {
    let record: Members<'_> = serde_json::from_str(record).unwrap();
    let spelled = record.0.iter().find(|(name, _)| name == "id").map_or("null", |(_, id)| id.get());
    match serde_json::from_str::<Value>(spelled) {
        Ok(Value::Null) => assert_eq!(&*event.record_id, ""),
        Ok(Value::String(id)) => assert_eq!(*event.record_id, *id),
        _ => assert_eq!(*event.record_id, *spelled),
    }
}

/// Whether the element has a member that the source does not give as its sequence or cause and that stands under that name
/// in the canonical form: it stays unknown, and would be known the second time.
fn names_twice(dialect: Dialect, element: &str) -> bool {
    let element: Members<'_> = serde_json::from_str(element).unwrap();
    let has = |members: &Members<'_>, names: &[&str]| members.0.iter().any(|(name, _)| names.contains(&name.as_str()));
    let meta = element.0.iter().filter(|(name, _)| name == "meta");
    let mut meta = meta.filter_map(|(_, meta)| serde_json::from_str::<Members<'_>>(meta.get()).ok());
    has(&element, &["sequence", "cause"]) || dialect == Dialect::Live && meta.any(|meta| has(&meta, &["cause"]))
}

/// The canonical form of a canonical event is itself.
fn again(event: &Event, timestamp: &str, dedupe_by: DedupeBy) {
    let again = only(Dialect::Reference, &event.body, dedupe_by).expect("a canonical event is an element");
    assert_eq!(again.body, event.body);
    assert_eq!((&again.id, &again.event_type, &again.record_id), (&event.id, &event.event_type, &event.record_id));
    assert_eq!((&again.sequence, again.occurred_at), (&event.sequence, event.occurred_at));
    assert_eq!(again.dedupe_key, event.dedupe_key);
    if timestamp != "null" {
        assert_eq!(again.content_hash, event.content_hash);
    }
}

#[test]
fn a_canonical_event_holds_the_vendors_bytes_and_is_its_own_canonical_form() {
    fuzz!("envelope", property);
}
