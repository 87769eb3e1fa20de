//! The paths of Sync in both dialects.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::super::catalog;
use super::super::company::Record;
use super::super::encode;
use super::super::faults::Fault;
use super::super::options::Dialect;
use super::super::world::World;
use super::call::{Call, nothing, ok};
use super::refusal::Refusal;
use super::sync::{Book, Item};
use super::target::Target;
use super::write;

/// The most records of one answer.
const PAGE: usize = 100;
/// A device's name is no longer than this.
const LONGEST_DEVICE: usize = 128;
const DEVICE: &str = "X-Basecrm-Device-UUID";

/// Answers a path behind `/v2/sync`.
pub(super) fn live(call: &Call<'_>, path: &[&str]) -> Result<Response, Refusal> {
    let device = call.headers.get(DEVICE).and_then(|device| device.to_str().ok()).filter(|device| is_device(device));
    let device = device
        .ok_or_else(|| Refusal::header(DEVICE, StatusCode::BAD_REQUEST, "must name the device that is synchronized"))?;
    call.only(&[])?;
    let mut world = call.shared.world();
    let mut book = call.shared.book();
    match (&call.method, path) {
        (&Method::POST, ["start"]) => {
            let Some(session) = book.start(&world, Dialect::Live, device, true) else {
                return Ok(nothing(StatusCode::NO_CONTENT));
            };
            let total = session.queue.len();
            let queue = json!({
                "data": { "name": "main", "pages": total.div_ceil(PAGE), "total_count": total },
                "meta": { "type": "sync_queue" },
            });
            let body = json!({
                "data": { "id": session.id, "queues": [queue] }, "meta": { "type": "sync_session" },
            });
            Ok(ok(StatusCode::CREATED, body.to_string()))
        }
        (&Method::GET, [session, "queues", "main"]) => {
            book.device(session).filter(|of| *of == device).ok_or_else(Refusal::not_found)?;
            // Only 204 ends a queue: an answer without items can come before it.
            let empty = call.dice.clone().unit() < world.faults.rate(Fault::EmptyPage);
            let (items, left) = if empty {
                world.faults.note(Fault::EmptyPage);
                (Vec::new(), 1)
            } else {
                book.next(&world, Dialect::Live, session, PAGE).ok_or_else(Refusal::not_found)?
            };
            if items.is_empty() && !empty {
                return Ok(nothing(StatusCode::NO_CONTENT));
            }
            let mut body = br#"{"items":["#.to_vec();
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    body.push(b',');
                }
                body.extend_from_slice(br#"{"data":"#);
                body.extend_from_slice(&item.data);
                let sync =
                    json!({ "event_type": item.event.as_str(), "ack_key": item.ack_key, "revision": item.revision });
                let meta = format!(r#","meta":{{"type":"{}","sync":{sync}}}}}"#, item.resource);
                body.extend_from_slice(meta.as_bytes());
            }
            let count = items.len();
            let meta = format!(r#"],"meta":{{"type":"collection","count":{count},"count_left":{left}}}}}"#);
            body.extend_from_slice(meta.as_bytes());
            Ok(ok(StatusCode::OK, body))
        }
        (&Method::POST, ["ack"]) => {
            let given = call.attributes()?;
            book.acknowledge(&world, Dialect::Live, device, &keys(&given)?);
            Ok(nothing(StatusCode::ACCEPTED))
        }
        (_, ["start" | "ack"] | [_, "queues", "main"]) => Err(Refusal::no_method()),
        _ => Err(Refusal::no_path()),
    }
}

fn is_device(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_DEVICE
}

fn keys(given: &Map<String, Value>) -> Result<Vec<String>, Refusal> {
    let wrong = || Refusal::parameter("ack_keys", "must be an array of strings");
    let keys = given.get("ack_keys").and_then(Value::as_array).ok_or_else(wrong)?;
    keys.iter().map(|key| key.as_str().map(ToOwned::to_owned).ok_or_else(wrong)).collect()
}

/// Answers a path behind `/v3/sync` in the reference dialect.
pub(super) fn reference(call: &Call<'_>, path: &[&str]) -> Result<Response, Refusal> {
    if call.method != Method::POST {
        return Err(Refusal::no_method());
    }
    call.only(&[])?;
    let given = call.object()?;
    let text = |name: &'static str| {
        let text = given.get(name).and_then(Value::as_str).filter(|text| is_device(text));
        text.ok_or_else(|| Refusal::parameter(name, "is required"))
    };
    match path {
        ["init"] => {
            let device = text("device_id")?;
            let world = call.shared.world();
            let mut book = call.shared.book();
            let session = book.start(&world, Dialect::Reference, device, false).ok_or_else(Refusal::not_found)?;
            let body = json!({ "session_id": session.id, "checkpoint": null, "total": session.queue.len() });
            Ok(ok(StatusCode::OK, body.to_string()))
        }
        ["ack"] => {
            let (session, keys) = (text("session_id")?, keys(&given)?);
            let world = call.shared.world();
            let mut book = call.shared.book();
            let device = book.device(session).ok_or_else(Refusal::not_found)?.to_owned();
            book.acknowledge(&world, Dialect::Reference, &device, &keys);
            Ok(nothing(StatusCode::ACCEPTED))
        }
        [] => exchange(call, text("session_id")?, &given),
        _ => Err(Refusal::no_path()),
    }
}

/// Takes the changes of a device, and gives it what it has not.
fn exchange(call: &Call<'_>, session: &str, given: &Map<String, Value>) -> Result<Response, Refusal> {
    call.shared.book().device(session).ok_or_else(Refusal::not_found)?;
    let changes = match given.get("changes") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(changes)) => changes.as_slice(),
        Some(_) => return Err(Refusal::parameter("changes", "must be an array")),
    };
    let conflicts = call.shared.write(|world, now| {
        let mut conflicts = Vec::new();
        for change in changes {
            conflicts.extend(take(world, change, now)?);
        }
        Ok(conflicts)
    })?;
    if let ([conflict], [_]) = (conflicts.as_slice(), changes) {
        let of = (&conflict["resource"], &conflict["id"]);
        return Err(Refusal::conflict(format!("{} {} was changed since.", of.0, of.1)));
    }
    let world = call.shared.world();
    let mut book = call.shared.book();
    let (items, left) = given_out(&world, &mut book, session)?;
    let mut body = br#"{"items":["#.to_vec();
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        let (event, key) = (item.event.as_str(), &item.ack_key);
        let head = format!(
            r#"{{"resource":"{}","event_type":"{event}","ack_key":"{key}","revision":{},"data":"#,
            item.resource, item.revision
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&item.data);
        body.push(b'}');
    }
    // How far it came: nothing is read from it, what was acknowledged counts.
    let checkpoint =
        items.last().map_or_else(|| given.get("checkpoint").cloned().unwrap_or_default(), |last| json!(last.ack_key));
    let tail = format!(r#"],"checkpoint":{checkpoint},"has_more":{},"conflicts":{}}}"#, left > 0, json!(conflicts));
    body.extend_from_slice(tail.as_bytes());
    Ok(ok(StatusCode::OK, body))
}

fn given_out(world: &World, book: &mut Book, session: &str) -> Result<(Vec<Item>, usize), Refusal> {
    let page = book.next(world, Dialect::Reference, session, PAGE).ok_or_else(Refusal::not_found)?;
    if !page.0.is_empty() {
        return Ok(page);
    }
    // A queue that was read to its end begins again with what is not acknowledged.
    book.refill(world, Dialect::Reference, session);
    book.next(world, Dialect::Reference, session, PAGE).ok_or_else(Refusal::not_found)
}

/// Takes one change of a device; gives the conflict where the record was changed since.
fn take(world: &mut World, change: &Value, now: i64) -> Result<Option<Value>, Refusal> {
    let wrong = |why: &str| Refusal::parameter("changes", why);
    let name = change.get("resource").and_then(Value::as_str).ok_or_else(|| wrong("each must name its resource"))?;
    let resource = catalog::resources(Dialect::Reference).find(|of| of.name == name && of.under.is_none());
    let target = Target::of(
        resource.filter(|of| of.can(catalog::Verb::Update)).ok_or_else(|| wrong("there is no such resource"))?,
    );
    let data = match change.get("data") {
        None | Some(Value::Null) => None,
        Some(Value::Object(data)) => Some(data.clone()),
        Some(_) => return Err(wrong("`data` must be an object")),
    };
    let Some(id) = change.get("id").filter(|id| !id.is_null()) else {
        let data = data.ok_or_else(|| wrong("each must have `id` or `data`"))?;
        write::create(world, Dialect::Reference, &target, data, now)?;
        return Ok(None);
    };
    let id = id.as_u64().ok_or_else(|| wrong("`id` must be an id"))?;
    let record = target.record(world, Dialect::Reference, id).ok_or_else(Refusal::not_found)?;
    let server = shown(world, &target, record);
    if server.get("updated_at") != change.get("base_updated_at") {
        let client = data.map(Value::Object).unwrap_or_default();
        return Ok(Some(json!({ "resource": name, "id": id, "server": server, "client": client })));
    }
    let kind = record.kind();
    match data {
        Some(data) => drop(write::update(world, Dialect::Reference, &target, id, data, now)?),
        None => write::delete(world, kind, id, now)?,
    }
    Ok(None)
}

fn shown(world: &World, target: &Target, record: &Record) -> Value {
    let mut out = Vec::new();
    encode::core(Dialect::Reference, target.resource, record, world.company.users(), &mut out);
    serde_json::from_slice(&out).unwrap_or_default()
}
