//! The door: `/sell/{account}/{v2|v3}/…` lends the account's connection to other programs, for its Core, Search and Sync
//! APIs. Requests and answers pass unchanged but for credentials, what belongs to one hop, and links that would lead past
//! the door; the streams' share of the account's budget stays theirs.

mod audit;
mod body;
mod graphql;
mod headers;
mod links;
mod meters;
mod refusal;
mod target;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::routing::any;
use tokio::time::Instant;

use self::audit::Audit;
use self::headers::BadHeader;
use self::links::Door;
use self::meters::Meter;
use self::refusal::Refusal;
use self::target::Target;
use crate::admin::{Caller, Keys, Refused};
use crate::config::Scope;
use crate::event::AccountName;
use crate::event::ports::Dialect;
use crate::lookup::{ByAccount, How, Lookups, Unanswered};
use crate::sell::{Forward, Priority, Vendor};

/// A caller over its share of the budget waits so long for it (design.md section 8).
const BUDGET_WAIT: Duration = Duration::from_secs(2);
/// From the request's head to the answer's, all tries included. Below the listener's own bound.
const ANSWER_WITHIN: Duration = Duration::from_secs(27);

/// Where the door finds the accounts: `app` provides it.
pub trait Vendors: Send + Sync + 'static {
    /// An account's way to its vendor, as it is configured now.
    fn vendor(&self, account: &AccountName) -> Option<Vendor>;
}

struct Passthrough {
    vendors: Arc<dyn Vendors>,
    lookups: Lookups,
    keys: Keys,
    meters: ByAccount<Meter>,
}

/// The router of the door; it asks for keys itself, since what a key may do depends on the request.
pub fn router(vendors: Arc<dyn Vendors>, lookups: Lookups, keys: Keys) -> Router {
    let door = Arc::new(Passthrough { vendors, lookups, keys, meters: ByAccount::default() });
    let routes = ["/sell", "/sell/", "/sell/{*target}"];
    routes.iter().fold(Router::new(), |router, path| router.route(path, any(answer))).with_state(door)
}

async fn answer(
    State(door): State<Arc<Passthrough>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    let begun = Instant::now();
    let path = request.uri().path();
    let target = Target::parse(path);
    // Also where the rest of the path is bad: the answer is in the form of the account's dialect.
    let vendor = Target::account(path).and_then(|account| door.vendors.vendor(&account));
    let dialect = vendor.as_ref().and_then(Vendor::dialect).unwrap_or(if path.contains("/v2/") {
        Dialect::Live
    } else {
        Dialect::Reference
    });
    let told = async {
        let caller = door.keys.admit(peer.ip(), request.headers()).await.map_err(refused)?;
        if request.uri().authority().is_some() {
            let why = "the request names another place than the path on this server";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_request", why));
        }
        let target = target.map_err(|why| Refusal::new(StatusCode::BAD_REQUEST, "bad_request", why.to_string()))?;
        pass(caller, target, (vendor.clone(), &door.lookups), request, begun + ANSWER_WITHIN).await
    };
    let (outcome, response) = match told.await {
        Ok(response) => ("answered", response),
        Err(refusal) => {
            tracing::debug!(status = refusal.status.as_u16(), code = refusal.code, "the door answers by itself");
            (refusal.outcome(), refusal.answer(dialect))
        }
    };
    // Only of accounts that are configured: a label must not be what a stranger made up.
    if let Some(vendor) = &vendor {
        door.meters.of(vendor.account(), Meter::new).answered(outcome, begun.elapsed());
    }
    response
}

async fn pass(
    caller: Caller,
    target: Target,
    (vendor, lookups): (Option<Vendor>, &Lookups),
    request: Request,
    deadline: Instant,
) -> Result<Response<Body>, Refusal> {
    let method = request.method().clone();
    if matches!(method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this method does not pass"));
    }
    let may = |reads| caller.may(if reads { Scope::PassthroughRead } else { Scope::PassthroughWrite });
    let reads = target.is_read(&method);
    // What a GraphQL request does stands in its body, which is read only for those who may do something.
    let hangs_on_body = reads && method == Method::POST && target.is_graphql();
    if !(may(reads) || hangs_on_body && may(false)) || !caller.reaches(&target.account) {
        return Err(refused(Refused::Beyond));
    }
    let Some(vendor) = vendor else {
        let why = format!("no account is called {:?} here", target.account.as_str());
        return Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", why));
    };
    let headers = headers::up(request.headers()).map_err(|bad| match bad {
        BadHeader::Underscore => {
            Refusal::new(StatusCode::BAD_REQUEST, "bad_request", "a header's name holds `_`: write `-`")
        }
        BadHeader::Encoded => {
            let why = "the body is compressed, which the vendor does not promise to take: send it plain";
            Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", why)
        }
    })?;
    let door = Door::new(vendor.origin(), ours(request.headers(), &target.account));
    let api = target.api().as_str();
    let query = request.uri().query().map(str::to_owned);
    let mut how = how(request.headers(), deadline);
    let body = body::up(request.into_body()).await?;
    let reads = reads && (!hangs_on_body || graphql::is_query(&body));
    if !may(reads) {
        return Err(refused(Refused::Beyond));
    }
    // A write is neither kept nor shared, wherever it goes.
    how.keep &= reads;
    let forward = Forward { api, method, segments: target.segments, slash: target.slash, query, headers, body };
    let audit = (!reads).then(|| Audit::begins(caller.name(), vendor.account(), &forward.method, &forward.segments));
    let writing = (!reads).then(|| lookups.writing(&vendor, &forward));
    let told = lookups.ask(&vendor, &forward, &how).await.map_err(unanswered);
    drop(writing);
    if let Some(audit) = audit {
        audit.ends(told.as_ref().map_or_else(|refusal| refusal.status, |answer| answer.status));
    }
    let answer = told?;
    let mut down = headers::down(&answer.headers, vendor.origin(), &door);
    if reads {
        headers::label(&mut down, answer.outcome, answer.age);
    }
    body::down(answer, down, door, forward.method == Method::HEAD)
}

/// What a caller's `Cache-Control` asks for (RFC 9111, section 5.2.1).
fn how(headers: &HeaderMap, deadline: Instant) -> How {
    let words = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let words = words.flat_map(|value| value.split(',')).map(|word| word.trim().to_ascii_lowercase());
    let mut how = How {
        priority: Priority::Passthrough,
        budget_wait: BUDGET_WAIT,
        max_age: None,
        past: false,
        keep: true,
        deadline,
    };
    for word in words {
        match word.as_str() {
            "no-cache" => how.past = true,
            "no-store" => how.keep = false,
            word => {
                let age = word.strip_prefix("max-age=").and_then(|age| age.parse().ok()).map(Duration::from_secs);
                how.past |= age.is_some_and(|age| age.is_zero());
                how.max_age = age.or(how.max_age);
            }
        }
    }
    how
}

fn unanswered(why: Unanswered) -> Refusal {
    let refusal = |status, code| Refusal::new(status, code, why.to_string());
    match why {
        Unanswered::Throttled { wait } => refusal(StatusCode::TOO_MANY_REQUESTS, "rate_limit").retry_after(wait),
        Unanswered::Unreachable => refusal(StatusCode::BAD_GATEWAY, "bad_gateway"),
        Unanswered::Late => refusal(StatusCode::GATEWAY_TIMEOUT, "gateway_timeout"),
        Unanswered::Credential => refusal(StatusCode::BAD_GATEWAY, "unauthorized_account"),
    }
}

fn refused(why: Refused) -> Refusal {
    let code = match why {
        Refused::Unknown => "unauthenticated",
        Refused::Beyond | Refused::NotLocal => "not_authorized",
        Refused::TooMany => "rate_limit",
    };
    Refusal::new(why.status(), code, why.to_string())
}

/// What stands before `/v2/…` for this caller: the address by which it came to us.
fn ours(headers: &HeaderMap, account: &AccountName) -> String {
    let text = |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let host = text(headers.get(header::HOST)).unwrap_or_default();
    let scheme = text(headers.get("x-forwarded-proto")).filter(|scheme| scheme == "https");
    match host.parse::<axum::http::uri::Authority>() {
        Ok(host) => format!("{}://{host}/sell/{account}", scheme.as_deref().unwrap_or("http")),
        Err(_) => format!("/sell/{account}"),
    }
}
