//! Core, Search, Sync, GraphQL and Apps: what is asked of the company, and not told by it (sell-api.md R5–R7, L5–L7).
//!
//! Nothing here knows a resource: the [`catalog`](super::catalog) does. A write changes the company at once; that it
//! happened is told by the Firehose, Search and Sync after the simulator's lag.

mod call;
mod devices;
mod graphql;
mod list;
mod predicate;
mod refusal;
mod search;
mod sync;
mod target;
mod validate;
mod write;

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::dice::Dice;
use super::options::Dialect;
use super::shared::{RequestId, Shared};
use call::Call;
use refusal::Refusal;
pub(super) use sync::{Book, Deleted};

/// The largest body that is read, in bytes.
const MOST_BODY: usize = 1 << 20;

/// Answers what no route of the Firehose takes.
pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(dice): Extension<Dice>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let dialect = dialect(&shared, &path);
    let Ok(body) = axum::body::to_bytes(body, MOST_BODY).await else {
        return Refusal::too_large().answer(dialect, &id);
    };
    let query = parts.uri.query().unwrap_or_default();
    let query = reqwest::Url::parse(&format!("http://simulator/?{query}"))
        .map(|url| url.query_pairs().into_owned().collect())
        .unwrap_or_default();
    let mut segments: Vec<String> = path.split('/').skip(1).map(ToOwned::to_owned).collect();
    // `/sync/` is spelled with a slash at its end.
    if segments.last().is_some_and(String::is_empty) {
        segments.pop();
    }
    let version = if segments.is_empty() { String::new() } else { segments.remove(0) };
    let call = Call {
        shared: &shared,
        dialect,
        method: parts.method,
        path,
        segments,
        query,
        headers: parts.headers,
        body,
        dice,
    };
    let answered = match version.as_str() {
        "v2" | "v3" if shared.served.serves(dialect) => route(&call),
        _ => Err(Refusal::no_path()),
    };
    answered.unwrap_or_else(|refusal| refusal.answer(dialect, &id))
}

/// The dialect in which a path that the Firehose does not have is answered.
pub(super) fn dialect(shared: &Shared, path: &str) -> Dialect {
    let is_live = path.starts_with("/v2/") || path.starts_with("/v3/") && path.ends_with("/search");
    if is_live { Dialect::Live } else { shared.served.found() }
}

fn route(call: &Call<'_>) -> Result<Response, Refusal> {
    call.speaks_json()?;
    let is_v2 = call.path.starts_with("/v2/");
    let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    if let ["sync", path @ ..] = segments.as_slice() {
        return match call.dialect {
            Dialect::Live if is_v2 => devices::live(call, path),
            Dialect::Live => Err(Refusal::no_path()),
            Dialect::Reference => devices::reference(call, path),
        };
    }
    match (call.dialect, segments.as_slice()) {
        (Dialect::Live, [path, "search"]) if !is_v2 => return search::live(call, path),
        (_, ["graphql"]) if !is_v2 => return graphql::answer(call),
        (Dialect::Reference, ["search", path]) => return search::reference(call, path),
        // Core v2 is the live one: v3 has none there.
        (Dialect::Live, _) if !is_v2 => return Err(Refusal::no_path()),
        _ => {}
    }
    target::Target::find(call)?.answer(call)
}

/// A record as Core answers with it.
fn one(call: &Call<'_>, status: StatusCode, name: &str, record: &[u8]) -> Response {
    let mut body = Vec::with_capacity(record.len() + 64);
    match call.dialect {
        Dialect::Reference => body.extend_from_slice(record),
        Dialect::Live => envelope(name, record, &mut body),
    }
    call::ok(status, body)
}

/// A record in its envelope.
fn envelope(name: &str, record: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"data":"#);
    out.extend_from_slice(record);
    out.extend_from_slice(br#","meta":{"type":""#);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(br#""}}"#);
}
