//! `GET /v3/firehose`, `POST /v3/firehose/subscribe`, `GET /v3/firehose/{stream_id}` (sell-api.md R4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::company::{Action, Kind};
use super::super::dice::Dice;
use super::super::encode::reference_resource;
use super::super::journal::Filter;
use super::super::options::Dialect;
use super::super::position::Position;
use super::super::shared::{RequestId, Shared, fnv};
use super::super::trouble::{Trouble, json_answer};
use super::super::world::milliseconds;
use super::page::{Ask, Start};

/// The streams, their resources and their names for people.
pub(in super::super) const STREAMS: [(&str, &str, &str); 5] = [
    ("leads", "lead", "Leads"),
    ("deals", "deal", "Deals"),
    ("contacts", "contact", "Contacts"),
    ("activities", "activity", "Activities"),
    ("organizations", "organization", "Organizations"),
];

/// The most events of a page, and how many there are where nothing is asked for.
const MOST: u64 = 1_000;
const USUAL: u64 = 100;
/// The longest wait for events, in seconds.
const LONGEST_WAIT: u64 = 30;
const MAX_SUBSCRIPTIONS: usize = 1_000;
/// Subscriptions are numbered apart from the live streams.
const FIRST_READER: u32 = 1_000;
/// All subscriptions share one order, so that a position is good for every one of them.
const ANY_STREAM: u32 = 0;

/// What was subscribed to, by stream id. Lives as long as the simulator.
#[derive(Debug, Default)]
pub(in super::super) struct Subscriptions(BTreeMap<String, Subscription>);

#[derive(Clone, Copy, Debug)]
struct Subscription {
    reader: u32,
    filter: Filter,
    position: Position,
}

#[derive(Deserialize)]
struct Subscribe {
    name: String,
    event_types: Vec<String>,
    position: Option<String>,
}

pub(in super::super) async fn listing(
    State(shared): State<Arc<Shared>>,
    Extension(RequestId(request)): Extension<RequestId>,
) -> Response {
    if !shared.served.serves(Dialect::Reference) {
        return Trouble::NotFound.answer(Dialect::Live, &request);
    }
    let items: Vec<Value> = STREAMS
        .iter()
        .map(|(id, resource, name)| {
            let types = Action::ALL.map(|action| format!("{resource}.{}", action.as_str()));
            json!({ "id": id, "name": name, "event_types": types })
        })
        .collect();
    let count = items.len();
    json_answer(StatusCode::OK, json!({ "items": items, "meta": { "count": count } }).to_string())
}

pub(in super::super) async fn subscribe(
    State(shared): State<Arc<Shared>>,
    Extension(RequestId(request)): Extension<RequestId>,
    body: Bytes,
) -> Response {
    subscribed(&shared, &body).unwrap_or_else(|trouble| trouble.answer(spoken(&shared), &request))
}

/// The dialect in which a path of the reference dialect is refused.
fn spoken(shared: &Shared) -> Dialect {
    shared.served.found()
}

fn subscribed(shared: &Shared, body: &[u8]) -> Result<Response, Trouble> {
    if !shared.served.serves(Dialect::Reference) {
        return Err(Trouble::NotFound);
    }
    let Subscribe { name, mut event_types, position } = serde_json::from_slice(body)
        .map_err(|_| Trouble::Parameter("body", "must be an object with `name` and `event_types`"))?;
    if name.is_empty() || name.len() > 256 {
        return Err(Trouble::Parameter("name", "must have 1 to 256 characters"));
    }
    event_types.sort();
    event_types.dedup();
    let filter = filter(&event_types).ok_or(Trouble::Parameter("event_types", "must be types that are listed"))?;
    let stream_id = format!("s_{:012x}", fnv(format!("{name}\0{}", event_types.join("\0")).as_bytes()) >> 16);
    let mut subscriptions = shared.subscriptions();
    let count = subscriptions.0.len();
    let reader = match subscriptions.0.get(&stream_id) {
        Some(known) => known.reader,
        None if count >= MAX_SUBSCRIPTIONS => return Err(Trouble::Parameter("name", "there are too many already")),
        None => FIRST_READER + u32::try_from(count).unwrap_or_default(),
    };
    let from = super::start(shared, position.as_deref().unwrap_or("tail"), ANY_STREAM)?;
    let ask = ask(reader, filter, from, USUAL);
    let position = shared.world().resolve(&ask, milliseconds(shared.clock.now())).map_err(|_| Trouble::Gone)?;
    subscriptions.0.insert(stream_id.clone(), Subscription { reader, filter, position });
    let position = position.encode(shared.seed);
    let body = json!({ "stream_id": stream_id, "event_types": event_types, "position": position });
    Ok(json_answer(StatusCode::CREATED, body.to_string()))
}

/// The events of patterns like `deal.*`; none where one of them names nothing.
fn filter(patterns: &[String]) -> Option<Filter> {
    let mut filter = Filter::default();
    for pattern in patterns {
        let (of, action) = pattern.split_once('.').unwrap_or((pattern, "*"));
        let before = filter;
        let told = Kind::ALL.into_iter().filter(|kind| !reference_resource(*kind).0.is_empty());
        for kind in told.filter(|kind| of == "*" || of == reference_resource(*kind).0) {
            for known in Action::ALL.into_iter().filter(|known| action == "*" || action == known.as_str()) {
                filter = filter.with(kind, known);
            }
        }
        // A pattern within an earlier one adds nothing, and is right.
        let names = of == "*" || STREAMS.iter().any(|(_, resource, _)| of == *resource);
        if filter == before && !names {
            return None;
        }
    }
    (!patterns.is_empty()).then_some(filter)
}

fn ask(reader: u32, filter: Filter, from: Start, limit: u64) -> Ask {
    let limit = usize::try_from(limit).unwrap_or(1);
    Ask { dialect: Dialect::Reference, reader, stream: ANY_STREAM, filter, from, limit }
}

pub(in super::super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Extension(mut dice): Extension<Dice>,
    Extension(RequestId(request)): Extension<RequestId>,
    Path(stream_id): Path<String>,
    Query(query): Query<super::Query>,
) -> Response {
    match page(&shared, &stream_id, &query, &mut dice).await {
        Ok(response) => response,
        Err(trouble) => trouble.answer(spoken(&shared), &request),
    }
}

async fn page(shared: &Shared, stream_id: &str, query: &super::Query, dice: &mut Dice) -> Result<Response, Trouble> {
    let known = shared.subscriptions().0.get(stream_id).copied();
    let Subscription { reader, filter, position } = known.ok_or(Trouble::NotFound)?;
    let limit = super::number(query, "limit", (1, MOST), USUAL)?;
    let wait = super::number(query, "wait", (0, LONGEST_WAIT), 0)?;
    let from = match query.get("position") {
        Some(text) => super::start(shared, text, ANY_STREAM)?,
        None => Start::Held(position),
    };
    let ask = ask(reader, filter, from, limit);
    let (page, position) = super::poll(shared, ask, Duration::from_secs(wait), dice).await?;
    Ok(super::answer(shared, &ask, &page, &position, ""))
}
