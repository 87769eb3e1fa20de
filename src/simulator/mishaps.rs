//! What goes wrong with a request before and after it is answered, and what every request must have.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dice::{Dice, REQUESTS};
use super::faults::Fault;
use super::limits::{TokenDigest, digest};
use super::options::Dialect;
use super::shared::{RequestId, Shared, fnv};
use super::trouble::{REQUEST_ID, Trouble};

/// An answer that is cut is cut so long after its first half.
const CUT_AFTER: Duration = Duration::from_millis(20);

/// Resets the connection that a request came by.
#[derive(Clone, Debug)]
pub(super) struct Reset(pub CancellationToken);

/// What kind of path it is, for counters.
fn class(path: &str) -> &'static str {
    match path {
        "/v3/firehose" => "listing",
        "/v3/firehose/subscribe" => "subscribe",
        "/oauth2/token" | "/oauth2/authorize" | "/oauth2/revoke" => "token",
        path if path.starts_with("/v3/firehose/") || path.starts_with("/v3/") && path.ends_with("/stream") => "poll",
        path if path.ends_with("/search") || path.starts_with("/v3/search/") || path == "/v3/graphql" => "search",
        path if path.starts_with("/v2/sync/") || path.starts_with("/v3/sync/") => "sync",
        path if path.starts_with("/v2/") || path.starts_with("/v3/") => "core",
        _ => "other",
    }
}

/// The dialect in which a path is answered.
fn spoken(shared: &Shared, path: &str) -> Dialect {
    let live = path.starts_with("/v3/") && path.ends_with("/stream") && !path.starts_with("/v3/firehose/");
    if live { Dialect::Live } else { super::crm::dialect(shared, path) }
}

/// Goes around every request but those of the admin endpoint.
pub(super) async fn around(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let class = class(&path);
    let token = bearer(&request);
    let (number, within) = shared.traffic().ask(class, &path, token, Instant::now());
    let dice = Dice::new(shared.seed, REQUESTS.wrapping_add(fnv(format!("{path} {number}").as_bytes())));
    let id: Arc<str> = format!("{:016x}", dice.clone().number()).into();
    let mut mishaps = Mishaps { shared: &shared, dice: dice.clone() };
    let dialect = spoken(&shared, &path);

    let reset = request.extensions().get::<Reset>().cloned();
    let is_token = class == "token";
    let resets = mishaps.befalls(Fault::Reset, !is_token && reset.is_some());
    if let Some(Reset(reset)) = reset.filter(|_| resets) {
        shared.traffic().answered(class, 0);
        reset.cancel();
        // The connection ends under it.
        std::future::pending::<()>().await;
    }
    if mishaps.befalls(Fault::Slow, true) {
        tokio::time::sleep(Duration::from_millis(mishaps.dice.between(300, 3_000))).await;
    }
    let refused = match mishaps.admit(&request, dialect, token, within, is_token) {
        Err(trouble) => Some(trouble.answer(dialect, &id)),
        Ok(()) => mishaps.failure(),
    };
    let mut response = if let Some(response) = refused {
        response
    } else {
        let truncates = mishaps.befalls(Fault::Truncate, !is_token);
        let skews = mishaps.befalls(Fault::Skew, true);
        request.extensions_mut().insert(Dice::new(shared.seed, dice.clone().number()));
        request.extensions_mut().insert(RequestId(id.clone()));
        let mut response = next.run(request).await;
        if skews {
            mishaps.skew(&mut response);
        }
        if truncates { mishaps.truncate(response).await } else { response }
    };
    shared.traffic().answered(class, response.status().as_u16());
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The digest of the token of a request.
fn bearer(request: &Request) -> Option<TokenDigest> {
    let authorization = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = authorization.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| digest(token))
}

struct Mishaps<'a> {
    shared: &'a Shared,
    dice: Dice,
}

impl Mishaps<'_> {
    /// Whether a fault happens now, where it can.
    fn befalls(&mut self, fault: Fault, can: bool) -> bool {
        let thrown = self.dice.unit();
        let mut world = self.shared.world();
        let befalls = can && thrown < world.faults.rate(fault);
        if befalls {
            world.faults.note(fault);
        }
        befalls
    }

    /// What every request must have; the token endpoint asks for no token.
    fn admit(
        &mut self,
        request: &Request,
        dialect: Dialect,
        token: Option<TokenDigest>,
        within: bool,
        is_token: bool,
    ) -> Result<(), Trouble> {
        let (unauthorized, forbidden) =
            (self.befalls(Fault::Unauthorized, !is_token), self.befalls(Fault::Forbidden, !is_token));
        if dialect == Dialect::Live && !request.headers().contains_key(header::USER_AGENT) {
            return Err(Trouble::NoUserAgent);
        }
        if is_token {
            return Ok(());
        }
        let token = token.ok_or(Trouble::Unauthorized)?;
        let now = Instant::now();
        let mut tokens = self.shared.tokens();
        if unauthorized {
            tokens.revoke(token, now);
        }
        if !tokens.takes(&token, now) {
            return Err(Trouble::Unauthorized);
        }
        if !within {
            return Err(Trouble::OverLimit);
        }
        if forbidden { Err(Trouble::Forbidden) } else { Ok(()) }
    }

    /// An answer that is none.
    fn failure(&mut self) -> Option<Response> {
        if self.befalls(Fault::Throttle, true) {
            let mut response =
                (StatusCode::TOO_MANY_REQUESTS, [(header::CONTENT_TYPE, "text/plain")], "slow down\n").into_response();
            if self.dice.chance(0.5) {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            return Some(response);
        }
        if self.befalls(Fault::ServerError, true) {
            let status =
                if self.dice.chance(0.5) { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::BAD_GATEWAY };
            let page =
                format!("<html>\n<head><title>{status}</title></head>\n<body><h1>{status}</h1></body>\n</html>\n");
            return Some((status, [(header::CONTENT_TYPE, "text/html")], page).into_response());
        }
        None
    }

    /// A `Date` that is off by up to a day.
    fn skew(&mut self, response: &mut Response) {
        let off = i64::try_from(self.dice.below(2 * 86_400)).unwrap_or_default() - 86_400;
        let at: OffsetDateTime = self.shared.clock.now() + time::Duration::seconds(off);
        let date = at.format(&Rfc2822).unwrap_or_default().replace("+0000", "GMT");
        if let Ok(date) = HeaderValue::from_str(&date) {
            response.headers_mut().insert(header::DATE, date);
        }
    }

    /// Half of the answer: as if it were all, or with the connection cut off.
    async fn truncate(&mut self, response: Response) -> Response {
        let (mut parts, body) = response.into_parts();
        let whole = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
        let half = whole.slice(..whole.len() / 2);
        let body = if self.dice.chance(0.5) {
            Body::from(half)
        } else {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
            let half = futures_util::stream::once(async { Ok(half) });
            // The first half goes out while the second is waited for.
            let cut = futures_util::stream::once(async {
                tokio::time::sleep(CUT_AFTER).await;
                Err::<Bytes, _>(std::io::Error::from(std::io::ErrorKind::ConnectionAborted))
            });
            Body::from_stream(half.chain(cut))
        };
        Response::from_parts(parts, body)
    }
}
