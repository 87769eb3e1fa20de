//! `/_simulator/`: what was emitted and asked, and switches. No fault, limit or token stands in its way.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::emitted::Emitted;
use super::encode::{live_resource, reference_resource};
use super::faults::{Fault, Rate};
use super::journal::Role;
use super::options::Dialect;
use super::shared::Shared;
use super::world::milliseconds;

/// The most events that one request emits: a million take seconds.
const MOST_AT_ONCE: u64 = 1_000_000;
/// Lines of `emitted` go out in blocks of so many events.
const BLOCK: usize = 5_000;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/_simulator", get(overview))
        .route("/_simulator/", get(overview))
        .route("/_simulator/emitted", get(emitted))
        .route("/_simulator/streams", get(streams))
        .route("/_simulator/requests", get(requests))
        .route("/_simulator/faults", get(faults).put(set_faults))
        .route("/_simulator/rate", put(set_rate))
        .route("/_simulator/emit", post(emit))
        .route("/_simulator/gone", post(gone))
}

/// What is refused here: the admin endpoint has one form of error.
struct Refused(String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({ "error": self.0 }))).into_response()
    }
}

/// A JSON body, whatever its content type says; none of it means the defaults.
fn body<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, Refused> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| Refused(error.to_string()))
}

async fn overview(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let rate = *shared.rate.borrow();
    let (events, end) = {
        let world = shared.world();
        (world.events, world.journal.end())
    };
    Json(json!({
        "seed": shared.seed, "dialect": shared.served.to_string(), "rate": rate, "events": events, "place": end,
        "paths": ["emitted?dialect=&after=&limit=", "streams", "requests", "faults", "rate", "emit", "gone"],
    }))
}

#[derive(Deserialize)]
struct Which {
    /// `reference` or `live`; where both are served, reference is meant, as `auto` finds.
    dialect: Option<String>,
    /// Events after this place.
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

/// A line of JSON for each event.
async fn emitted(State(shared): State<Arc<Shared>>, Query(which): Query<Which>) -> Result<Response, Refused> {
    let dialect = match which.dialect.as_deref() {
        None => shared.served.found(),
        Some("reference") => Dialect::Reference,
        Some("live") => Dialect::Live,
        Some(other) => return Err(Refused(format!("there is no dialect `{other}`"))),
    };
    if !shared.served.serves(dialect) {
        return Err(Refused(format!("the {} dialect is not served", dialect.as_str())));
    }
    // What comes later is not of this answer.
    let end = shared.world().journal.end();
    let state = (which.after, which.limit.unwrap_or(usize::MAX));
    let blocks = futures_util::stream::unfold(state, move |(after, left)| {
        let shared = shared.clone();
        async move {
            if after >= end || left == 0 {
                return None;
            }
            let excerpt = shared.world().excerpt(dialect, after, BLOCK.min(left));
            let mut text = Vec::new();
            let (mut last, mut count) = (end, 0);
            for event in excerpt.events().take_while(|event| event.place <= end) {
                (last, count) = (event.place, count + 1);
                text.extend(serde_json::to_vec(&event).unwrap_or_default());
                text.push(b'\n');
            }
            (count > 0).then(|| (Ok::<_, std::convert::Infallible>(Bytes::from(text)), (last, left - count)))
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(blocks)).into_response())
}

/// Events and bogus elements, by stream of each dialect.
async fn streams(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let mut counts: BTreeMap<&str, BTreeMap<&str, [u64; 2]>> = BTreeMap::new();
    let world = shared.world();
    for (_, entry) in world.journal.from(0) {
        let of = [("reference", reference_resource(entry.kind).1), ("live", live_resource(entry.kind).1)];
        for (dialect, stream) in of.into_iter().filter(|(_, stream)| !stream.is_empty()) {
            let count = counts.entry(dialect).or_default().entry(stream).or_default();
            count[usize::from(entry.role == Role::Bogus)] += 1;
        }
    }
    let serves = |dialect: &str| {
        let dialect = if dialect == "live" { Dialect::Live } else { Dialect::Reference };
        world.served.serves(dialect)
    };
    let counts: BTreeMap<_, BTreeMap<_, _>> = counts
        .into_iter()
        .filter(|(dialect, _)| serves(dialect))
        .map(|(dialect, streams)| {
            let of = streams
                .into_iter()
                .map(|(stream, [events, bogus])| (stream, json!({ "events": events, "bogus": bogus })));
            (dialect, of.collect())
        })
        .collect();
    Json(json!(counts))
}

async fn requests(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!(shared.traffic().report()))
}

async fn faults(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(told(&shared))
}

fn told(shared: &Shared) -> Value {
    let world = shared.world();
    let faults = Fault::ALL.map(|fault| {
        let (rate, happened) = (world.faults.rate(fault), world.faults.happened(fault));
        (fault.as_str().to_owned(), json!({ "rate": rate, "happened": happened }))
    });
    Value::Object(faults.into_iter().collect())
}

/// Sets the rates that are named, all or none.
async fn set_faults(State(shared): State<Arc<Shared>>, bytes: Bytes) -> Result<Json<Value>, Refused> {
    let asked: BTreeMap<String, f64> = body(&bytes)?;
    let mut rates = Vec::new();
    for (name, rate) in asked {
        rates.push((Fault::from_str(&name).map_err(Refused)?, Rate::new(rate).map_err(Refused)?));
    }
    for (fault, rate) in rates {
        shared.set_fault(fault, rate);
    }
    Ok(Json(told(&shared)))
}

#[derive(Deserialize)]
struct Pace {
    rate: f64,
}

async fn set_rate(State(shared): State<Arc<Shared>>, bytes: Bytes) -> Result<Json<Value>, Refused> {
    let Pace { rate } = body(&bytes)?;
    if !(0.0..=1_000_000.0).contains(&rate) {
        return Err(Refused("a rate lies between 0 and 1000000 events a second".to_owned()));
    }
    shared.rate.send_replace(rate);
    Ok(Json(json!({ "rate": rate })))
}

#[derive(Deserialize)]
struct Count {
    #[serde(default = "one")]
    count: u64,
}

const fn one() -> u64 {
    1
}

/// Emits events now.
async fn emit(State(shared): State<Arc<Shared>>, bytes: Bytes) -> Result<Json<Value>, Refused> {
    let Count { count } = body(&bytes)?;
    if count > MOST_AT_ONCE {
        return Err(Refused(format!("at most {MOST_AT_ONCE} at once")));
    }
    let emitter = shared.clone();
    let events = tokio::task::spawn_blocking(move || emitter.emit(count)).await;
    let events = events.map_err(|error| Refused(error.to_string()))?;
    Ok(Json(json!({ "emitted": count, "events": events })))
}

#[derive(Deserialize)]
struct Older {
    /// As `10s`; nothing of it means everything until now.
    older_than: Option<String>,
}

/// Lets what is older expire now: events, and positions.
async fn gone(State(shared): State<Arc<Shared>>, bytes: Bytes) -> Result<Json<Value>, Refused> {
    let Older { older_than } = body(&bytes)?;
    let age = older_than.map(|text| humantime::parse_duration(&text)).transpose();
    let age = age.map_err(|error| Refused(error.to_string()))?.unwrap_or_default();
    let oldest = shared.clock.now() - age;
    // What happened in this very millisecond is older than now, too.
    shared.world().expire(milliseconds(oldest) + i64::from(age.is_zero()));
    Ok(Json(json!({ "gone_before": oldest.to_string() })))
}

/// Everything that `shared` knows of what was emitted, for a caller in the same process.
pub(super) fn all_emitted(shared: &Shared, dialect: Dialect, after: u64, limit: usize) -> Vec<Emitted> {
    let excerpt = shared.world().excerpt(dialect, after, limit);
    excerpt.events().collect()
}
