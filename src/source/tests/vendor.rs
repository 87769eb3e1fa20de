//! A vendor of one account that misbehaves by script, in both dialects.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::event::ports::Dialect;

/// What the next poll of `deals` meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    EmptyPage,
    ShortPage,
    Duplicate,
    Throttle,
    ThrottleWithHint,
    ServerError,
    Slow,
    Truncate,
    Reset,
    Html,
    Unauthorized,
    Forbidden,
    NotFound,
    Gone,
    Oversize,
    Malformed,
    BadUtf8,
    Nul,
    Standing,
    Redirect,
}

impl Fault {
    pub const ALL: [Self; 20] = [
        Self::EmptyPage,
        Self::ShortPage,
        Self::Duplicate,
        Self::Throttle,
        Self::ThrottleWithHint,
        Self::ServerError,
        Self::Slow,
        Self::Truncate,
        Self::Reset,
        Self::Html,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Gone,
        Self::Oversize,
        Self::Malformed,
        Self::BadUtf8,
        Self::Nul,
        Self::Standing,
        Self::Redirect,
    ];
}

#[derive(Clone)]
pub struct Vendor(Arc<Mutex<Sell>>);

pub struct Sell {
    pub dialect: Dialect,
    /// How many events each stream holds.
    pub streams: BTreeMap<String, usize>,
    /// What the next polls of `deals` meet.
    pub faults: VecDeque<Fault>,
    /// What every poll of `deals` meets.
    pub always: Option<Fault>,
    pub token: String,
    /// What every record holds beside its id and number, in bytes.
    pub padding: usize,
    /// How long a poll that waits is held, where there is nothing.
    pub hold: Duration,
    pub subscribed: BTreeMap<String, String>,
    /// Every poll: stream, limit, wait.
    pub polls: Vec<(String, usize, u64)>,
    /// The tokens that were shown.
    pub tokens: Vec<String>,
    pub user_agents: Vec<String>,
}

impl Vendor {
    /// Starts it on a free port of the loopback; it ends with the test's runtime.
    pub async fn start(dialect: Dialect, streams: &[(&str, usize)]) -> (Self, SocketAddr) {
        let sell = Sell {
            dialect,
            streams: streams.iter().map(|(name, events)| ((*name).to_owned(), *events)).collect(),
            faults: VecDeque::new(),
            always: None,
            token: "good".to_owned(),
            padding: 0,
            hold: Duration::from_millis(40),
            subscribed: BTreeMap::new(),
            polls: Vec::new(),
            tokens: Vec::new(),
            user_agents: Vec::new(),
        };
        let vendor = Self(Arc::new(Mutex::new(sell)));
        let routes = Router::new()
            .route("/v3/firehose", get(listing))
            .route("/v3/firehose/subscribe", post(subscribe))
            .route("/v3/firehose/{id}", get(reference_poll))
            .route("/v3/{stream}/stream", get(live_poll))
            .with_state(vendor.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (vendor, address)
    }

    pub fn sell(&self) -> MutexGuard<'_, Sell> {
        self.0.lock().unwrap()
    }

    fn admit(&self, headers: &HeaderMap) -> Option<Response> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let mut state = self.sell();
        let token = text(header::AUTHORIZATION).trim_start_matches("Bearer ").to_owned();
        state.tokens.push(token.clone());
        state.user_agents.push(text(header::USER_AGENT));
        (token != state.token).then(|| (StatusCode::UNAUTHORIZED, "who are you?").into_response())
    }
}

type Queried = Query<BTreeMap<String, String>>;

async fn listing(State(vendor): State<Vendor>, headers: HeaderMap) -> Response {
    if let Some(refusal) = vendor.admit(&headers) {
        return refusal;
    }
    let sell = vendor.sell();
    if sell.dialect == Dialect::Live {
        return StatusCode::NOT_FOUND.into_response();
    }
    let items: Vec<_> = sell
        .streams
        .keys()
        .map(|name| serde_json::json!({"id": name, "event_types": [format!("{}.created", name.trim_end_matches('s'))]}))
        .collect();
    axum::Json(serde_json::json!({"items": items, "meta": {"count": items.len()}})).into_response()
}

async fn subscribe(State(vendor): State<Vendor>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(refusal) = vendor.admit(&headers) {
        return refusal;
    }
    let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(asked["name"], "test-acme");
    let event_type = asked["event_types"][0].as_str().unwrap();
    let stream = format!("{}s", event_type.strip_suffix(".*").expect("always all types of the resource"));
    let id = format!("s_{stream}");
    vendor.sell().subscribed.insert(id.clone(), stream);
    let position = match asked["position"].as_str().unwrap() {
        "tail" => "at/0+=".to_owned(),
        "top" => unreachable!("no test starts at the top"),
        opaque => opaque.to_owned(),
    };
    let answer = serde_json::json!({"stream_id": id, "event_types": [event_type], "position": position});
    (StatusCode::CREATED, axum::Json(answer)).into_response()
}

async fn reference_poll(
    State(vendor): State<Vendor>,
    Path(id): Path<String>,
    query: Queried,
    headers: HeaderMap,
) -> Response {
    let stream = vendor.sell().subscribed.get(&id).cloned();
    match stream {
        Some(stream) => poll(vendor, stream, query, headers).await,
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn live_poll(
    State(vendor): State<Vendor>,
    Path(stream): Path<String>,
    query: Queried,
    headers: HeaderMap,
) -> Response {
    poll(vendor, stream, query, headers).await
}

async fn poll(vendor: Vendor, stream: String, Query(query): Queried, headers: HeaderMap) -> Response {
    if let Some(refusal) = vendor.admit(&headers) {
        return refusal;
    }
    let limit: usize = query["limit"].parse().unwrap();
    let wait: u64 = query.get("wait").map_or(0, |wait| wait.parse().unwrap());
    let (fault, events) = {
        let mut sell = vendor.sell();
        sell.polls.push((stream.clone(), limit, wait));
        let fault = if stream == "deals" { sell.faults.pop_front().or(sell.always) } else { None };
        let Some(events) = sell.streams.get(&stream).copied() else { return StatusCode::NOT_FOUND.into_response() };
        (fault, events)
    };
    let from: usize = match query["position"].as_str() {
        "tail" => 0,
        opaque => {
            let inner = opaque.strip_prefix("at/").and_then(|rest| rest.strip_suffix("+=")).unwrap();
            inner.split('~').next().unwrap().parse().unwrap()
        }
    };
    if let Some(answer) = refusal(&vendor, fault, &stream) {
        return answer;
    }
    let hold = vendor.sell().hold;
    if fault == Some(Fault::Slow) || (from >= events && wait > 0) {
        tokio::time::sleep(hold).await;
    }
    page(&vendor.sell(), &stream, (from, limit), events, fault)
}

/// Faults that are not pages at all.
fn refusal(vendor: &Vendor, fault: Option<Fault>, stream: &str) -> Option<Response> {
    let html = "<html><body>Bad gateway</body></html>";
    Some(match fault? {
        Fault::Throttle => (StatusCode::TOO_MANY_REQUESTS, "Slow down").into_response(),
        Fault::ThrottleWithHint => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "0")], "x").into_response(),
        Fault::ServerError => (StatusCode::BAD_GATEWAY, html).into_response(),
        Fault::Html => html.into_response(),
        Fault::Unauthorized => StatusCode::UNAUTHORIZED.into_response(),
        Fault::Forbidden => (StatusCode::FORBIDDEN, "no plan").into_response(),
        Fault::NotFound => {
            vendor.sell().subscribed.remove(&format!("s_{stream}"));
            StatusCode::NOT_FOUND.into_response()
        }
        Fault::Gone => (StatusCode::GONE, "too old").into_response(),
        Fault::Oversize => "x".repeat(200_000).into_response(),
        Fault::Redirect => {
            (StatusCode::FOUND, [(header::LOCATION, "/v3/elsewhere/stream?position=tail&limit=1")]).into_response()
        }
        Fault::Reset => {
            let broken = futures_util::stream::iter([
                Ok(Bytes::from_static(b"{\"items\":[")),
                Err(std::io::Error::other("reset")),
            ]);
            Body::from_stream(broken).into_response()
        }
        _ => return None,
    })
}

fn page(sell: &Sell, stream: &str, (from, limit): (usize, usize), events: usize, fault: Option<Fault>) -> Response {
    let resource = stream.trim_end_matches('s');
    let mut until = events.min(from + limit);
    let mut first = from;
    match fault {
        Some(Fault::EmptyPage | Fault::Standing) => until = from,
        Some(Fault::ShortPage) => until = until.min(from + 1),
        Some(Fault::Duplicate) => first = from.saturating_sub(3),
        _ => {}
    }
    let mut items: Vec<Vec<u8>> = (first..until).map(|at| item(sell, resource, at).into_bytes()).collect();
    match fault {
        Some(Fault::Malformed) => items.insert(0, b"{\"id\":\"bad\",\"type\":}".to_vec()),
        Some(Fault::BadUtf8) => items.insert(0, b"{\"id\":\"\xff\xfe\"}".to_vec()),
        Some(Fault::Nul) => {
            items.insert(0, item(sell, resource, 0).replace("id\":\"", "id\":\"\\u0000").into_bytes());
        }
        _ => {}
    }
    let top = until >= events && !matches!(fault, Some(Fault::EmptyPage | Fault::Standing));
    let moved = if fault == Some(Fault::EmptyPage) { format!("~{}", sell.polls.len()) } else { String::new() };
    let meta = format!(r#"],"meta":{{"position":"at/{until}{moved}+=","top":{top}}}}}"#);
    let mut body = [&b"{\"items\":["[..], &items.join(&b","[..]), meta.as_bytes()].concat();
    if fault == Some(Fault::Truncate) {
        body.truncate(body.len() / 2);
    }
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Event number `at` of a stream; three records take turns.
fn item(sell: &Sell, resource: &str, at: usize) -> String {
    let (record, padding) = (at % 3, "x".repeat(sell.padding));
    match sell.dialect {
        Dialect::Reference => format!(
            r#"{{"id":"{resource}-{at}","type":"{resource}.updated","timestamp":"2024-02-14T10:30:00Z","data":{{"{resource}":{{"id":{record},"n":{at},"p":"{padding}"}}}},"meta":{{"sequence":{at}}}}}"#
        ),
        Dialect::Live => format!(
            r#"{{"data":{{"id":{record},"n":{at},"p":"{padding}"}},"meta":{{"event_id":"{resource}-{at}","event_type":"updated","event_time":"2024-02-14T10:30:00Z","sequence":{at},"type":"{resource}"}}}}"#
        ),
    }
}
