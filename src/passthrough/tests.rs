//! The door between callers who try things and a vendor that does too.

use std::collections::HashMap;
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::ServiceExt as _;
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request as Seen, ResponseTemplate};

use super::*;
use crate::clock::Clock;
use crate::config::{AccountConfig, KeyConfig, PassthroughConfig, Secret};
use crate::event::Tenure;
use crate::lookup::Era;
use crate::telemetry::captured::Captured;

/// Nothing that a caller gets or the vendor gets may hold the other's.
const TOKEN: &str = "vendor-token-canary-7d1f";
const KEY: &str = "caller-key-canary-93ab";

struct One(HashMap<AccountName, Vendor>);

impl Vendors for One {
    fn vendor(&self, account: &AccountName) -> Option<Vendor> {
        self.0.get(account).cloned()
    }
}

fn config(base_url: &str, dialect: Dialect) -> AccountConfig {
    let text = format!(
        "deployment = \"door\"\n[ledger]\nurl = \"embedded\"\n[accounts.acme]\nbase_url = \"{base_url}\"\ntoken = \"{TOKEN}\"\n\
         dialect = \"{}\"\nrequests_per_minute = 60\nrequests_per_hour = 3600\n",
        dialect.as_str()
    );
    crate::config::parse("door.toml", &text).unwrap().config.accounts["acme"].clone()
}

fn vendor(base_url: &str, dialect: Dialect) -> Vendor {
    Vendor::new(&"acme".into(), &config(base_url, dialect), Clock::system()).unwrap()
}

fn lookups() -> Lookups {
    let (cache_ttl, stale_if_error) = (Duration::from_mins(1), Duration::from_mins(10));
    Lookups::new(&PassthroughConfig { cache: 1 << 20, cache_ttl, stale_if_error })
}

fn door(vendor: Vendor, allow: &[Scope]) -> Router {
    door_over(lookups(), vendor, allow)
}

/// A door whose replica records the account's events.
fn owner(server: &MockServer, dialect: Dialect) -> (Router, Lookups, Era) {
    let (lookups, tenure) = (lookups(), Tenure::default());
    tenure.prolong(Instant::now() + Duration::from_hours(1));
    let era = lookups.begin(["acme".into()], &tenure);
    (door_over(lookups.clone(), vendor(&server.uri(), dialect), &[Scope::Admin]), lookups, era)
}

fn door_over(lookups: Lookups, vendor: Vendor, allow: &[Scope]) -> Router {
    let key =
        KeyConfig { token: Secret::value(KEY), allow: allow.to_vec(), accounts: vec!["acme".into(), "gone".into()] };
    let keys = Keys::new([(&"ci".to_owned(), &key)]).unwrap();
    let vendors = [("acme".into(), vendor.clone()), ("other".into(), vendor)];
    router(Arc::new(One(vendors.into())), lookups, keys)
}

fn live(server: &MockServer) -> Router {
    door(vendor(&server.uri(), Dialect::Live), &[Scope::PassthroughRead, Scope::PassthroughWrite])
}

fn request(method: &str, target: &str, body: impl Into<Body>) -> Request {
    let request = axum::http::Request::builder()
        .method(method)
        .uri(target)
        .header("host", "door.example:8080")
        .header("authorization", format!("Bearer {KEY}"));
    request.body(body.into()).unwrap()
}

async fn ask(door: &Router, mut request: Request) -> (StatusCode, HeaderMap, Result<String, String>) {
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 4))));
    let response = door.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 64 * 1024 * 1024).await;
    let body = body.map(|body| String::from_utf8_lossy(&body).into_owned()).map_err(|error| error.to_string());
    let all = format!("{:?} {body:?}", head.headers);
    assert!(!all.contains(TOKEN) && !all.contains(KEY), "{all}");
    (head.status, head.headers, body)
}

async fn get(door: &Router, target: &str) -> (StatusCode, HeaderMap, Result<String, String>) {
    ask(door, request("GET", target, Body::empty())).await
}

#[tokio::test]
async fn requests_and_answers_pass_as_they_are_and_credentials_do_not() {
    let server = MockServer::start().await;
    let links = format!(r#"{{"items":[],"meta":{{"links":{{"next_page":"{}/v2/deals?page=2"}}}}}}"#, server.uri());
    let answer = ResponseTemplate::new(201)
        .set_body_raw(links, "application/json; charset=utf-8")
        .insert_header("set-cookie", "session=1")
        .insert_header("x-request-id", "logref");
    Mock::given(method("POST")).and(path("/v2/deals/a%20b/")).respond_with(answer).mount(&server).await;
    let mut asked =
        request("POST", "/sell/acme/v2/deals/a%20b/?sort_by=name:desc&ids=1%2C2", r#"{"data":{"name":"é"}}"#);
    for (name, value) in [
        ("content-type", "application/json"),
        ("cookie", "a=b"),
        ("x-api-key", KEY),
        ("user-agent", "basecrm/1.2"),
        ("connection", "close, x-basecrm-device-uuid"),
        ("x-basecrm-device-uuid", "d"),
        ("x-forwarded-for", "10.0.0.1"),
    ] {
        asked.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let (status, headers, body) = ask(&live(&server), asked).await;
    assert_eq!(status, 201);
    assert_eq!(
        body.unwrap(),
        r#"{"items":[],"meta":{"links":{"next_page":"http://door.example:8080/sell/acme/v2/deals?page=2"}}}"#
    );
    assert!(!headers.contains_key("set-cookie") && !headers.contains_key("standpipe-error"));
    assert_eq!(headers["x-request-id"], "logref");

    let seen = &server.received_requests().await.unwrap()[0];
    assert_eq!(seen.url.query(), Some("sort_by=name:desc&ids=1%2C2"));
    assert_eq!(seen.body, r#"{"data":{"name":"é"}}"#.as_bytes());
    assert_eq!(seen.headers["authorization"], format!("Bearer {TOKEN}"));
    assert_eq!(seen.headers["user-agent"], "basecrm/1.2");
    assert_eq!(seen.headers["accept-encoding"], "identity");
    for gone in ["cookie", "x-api-key", "x-basecrm-device-uuid", "x-forwarded-for"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    assert!(!format!("{seen:?}").contains(KEY));
}

#[tokio::test]
async fn a_key_does_what_it_is_allowed_to_where_it_is_allowed_to() {
    let server = MockServer::start().await;
    Mock::given(|_: &Seen| true).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let vendor = vendor(&server.uri(), Dialect::Live);
    let reader = door(vendor.clone(), &[Scope::PassthroughRead]);
    let writer = door(vendor.clone(), &[Scope::PassthroughWrite]);
    let watcher = door(vendor, &[Scope::EventsRead]);
    let told =
        async |door: &Router, method: &str, target: &str| ask(door, request(method, target, Body::empty())).await.0;
    assert_eq!(told(&reader, "GET", "/sell/acme/v2/deals").await, 200);
    assert_eq!(told(&reader, "POST", "/sell/acme/v3/deals/search").await, 200);
    assert_eq!(told(&reader, "POST", "/sell/acme/v2/deals").await, 403);
    assert_eq!(told(&reader, "POST", "/sell/acme/v2/sync/start").await, 403);
    assert_eq!(told(&writer, "POST", "/sell/acme/v2/deals").await, 200);
    assert_eq!(told(&writer, "GET", "/sell/acme/v2/deals").await, 403);
    assert_eq!(told(&watcher, "GET", "/sell/acme/v2/deals").await, 403);
    assert_eq!(told(&reader, "GET", "/sell/other/v2/deals").await, 403, "not its account");
    assert_eq!(told(&reader, "GET", "/sell/unknown/v2/deals").await, 403, "whether there is one is not told either");
    assert_eq!(told(&reader, "GET", "/sell/gone/v2/deals").await, 404);
    assert_eq!(told(&writer, "TRACE", "/sell/acme/v2/deals").await, 405);
    let mut stranger = request("GET", "/sell/acme/v2/deals", Body::empty());
    stranger.headers_mut().insert("authorization", HeaderValue::from_static("Bearer guessed"));
    let (status, headers, body) = ask(&reader, stranger).await;
    assert_eq!((status, headers["standpipe-error"].to_str().unwrap()), (StatusCode::UNAUTHORIZED, "unauthenticated"));
    let body: serde_json::Value = serde_json::from_str(&body.unwrap()).unwrap();
    assert_eq!(body["errors"][0]["error"]["code"], "unauthenticated");
    assert_eq!(body["meta"]["http_status"], "401 Unauthorized");
    assert_eq!(server.received_requests().await.unwrap().len(), 3, "what is refused never reaches the vendor");
}

#[tokio::test]
async fn a_graphql_request_that_is_no_query_is_a_write() {
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(200).set_body_raw("{}", "application/json");
    Mock::given(path("/v3/graphql")).respond_with(answer).mount(&server).await;
    let (query, mutation) = (r#"{"query":"{ deals { id } }"}"#, r#"{"query":"mutation { deleteDeal(id: 1) }"}"#);
    let door = |allow| door(vendor(&server.uri(), Dialect::Live), &[allow]);
    let (reader, writer) = (door(Scope::PassthroughRead), door(Scope::PassthroughWrite));
    let told =
        async |door: &Router, body: &'static str| ask(door, request("POST", "/sell/acme/v3/graphql", body)).await;
    let (lines, _guard) = logged();
    assert_eq!(told(&reader, query).await.0, 200);
    assert_eq!(
        (told(&reader, mutation).await.0, told(&writer, query).await.0),
        (StatusCode::FORBIDDEN, StatusCode::FORBIDDEN)
    );
    let (status, headers, _) = told(&writer, mutation).await;
    assert_eq!((status, headers.get("standpipe-cache")), (StatusCode::OK, None));
    assert_eq!(server.received_requests().await.unwrap().len(), 2);
    let lines = lines.text();
    assert_eq!(lines.matches("a write passed the door").count(), 1, "{lines}");
    let (owner, _lookups, _era) = owner(&server, Dialect::Live);
    for label in ["miss", "hit"] {
        assert_eq!(told(&owner, query).await.1["standpipe-cache"], label);
    }
    for _ in 0..2 {
        assert_eq!(told(&owner, mutation).await.0, 200);
    }
    assert_eq!(told(&owner, query).await.1["standpipe-cache"], "miss", "it may have changed anything");
    assert_eq!(server.received_requests().await.unwrap().len(), 6);
}

#[tokio::test]
async fn what_is_ambiguous_or_leads_elsewhere_is_refused_in_the_form_of_the_dialect() {
    let server = MockServer::start().await;
    let door = door(vendor(&server.uri(), Dialect::Reference), &[Scope::Admin]);
    for target in [
        "/sell/acme/v3/../oauth2/token",
        "/sell/acme/v3/%2e%2e/oauth2/token",
        "/sell/acme/oauth2/token",
        "/sell",
        "/sell/",
        "http://vendor.example/sell/acme/v3/deals",
    ] {
        let (status, _, body) = get(&door, target).await;
        assert_eq!(status, 400, "{target}");
        let body: serde_json::Value = serde_json::from_str(&body.unwrap()).unwrap();
        assert_eq!(body["error"]["code"], 400, "{target}: {body}");
    }
    let (_, _, body) = get(&live(&server), "/sell/acme/v3/%2e%2e/oauth2/token").await;
    let body: serde_json::Value = serde_json::from_str(&body.unwrap()).unwrap();
    assert_eq!(body["errors"][0]["error"]["code"], "bad_request", "in the form of the account's dialect: {body}");
    let mut underscored = request("GET", "/sell/acme/v3/deals", Body::empty());
    underscored.headers_mut().insert("x_forwarded_for", HeaderValue::from_static("1"));
    assert_eq!(ask(&door, underscored).await.0, 400);
    let mut packed = request("POST", "/sell/acme/v3/deals", "bomb");
    packed.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
    assert_eq!(ask(&door, packed).await.0, 415);
    let long = request("POST", "/sell/acme/v3/deals", vec![b' '; body::MOST_UP + 1]);
    assert_eq!(ask(&door, long).await.0, 413);
    assert_eq!(server.received_requests().await.unwrap().len(), 0);
}

/// What is logged on this thread from now on, until the guard is dropped.
fn logged() -> (Captured, tracing::subscriber::DefaultGuard) {
    // While a process has had one subscriber, tracing decides for good whether a line is wanted by the thread that comes
    // by it first, which is another test's as likely as this one. With one for all threads it asks them all.
    static EVERYBODY: std::sync::Once = std::sync::Once::new();
    EVERYBODY.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry()).expect("no test sets another one");
    });
    let lines = Captured::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn every_write_leaves_a_line_also_where_its_caller_does_not_wait_for_the_answer() {
    let server = MockServer::start().await;
    Mock::given(method("PUT")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let slow = ResponseTemplate::new(204).set_delay(Duration::from_mins(1));
    Mock::given(method("DELETE")).respond_with(slow).mount(&server).await;
    let (door, (lines, _guard)) = (live(&server), logged());
    let audited = || {
        let lines = lines.text();
        lines.lines().filter(|line| line.contains("a write passed the door")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(get(&door, "/sell/acme/v2/deals/1").await.0, 404);
    assert_eq!(ask(&door, request("PUT", "/sell/acme/v2/deals/1?secret=x", "{}")).await.0, 200);
    let one = audited();
    assert!(
        matches!(one.as_slice(), [line] if line.contains("key=\"ci\" account=acme method=PUT path=\"/v2/deals/1\" status=200")),
        "{one:?}"
    );
    let asked = ask(&door, request("DELETE", "/sell/acme/v2/deals/7", ""));
    let reached = async {
        while !server.received_requests().await.unwrap().iter().any(|seen| seen.method.as_str() == "DELETE") {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        told = asked => panic!("{told:?}"),
        () = reached => {}
    }
    let two = audited();
    assert!(
        two.len() == 2 && two[1].contains("method=DELETE path=\"/v2/deals/7\"") && two[1].contains("went away"),
        "{two:?}"
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_place_elsewhere_is_not_told() {
    let (server, elsewhere) = (MockServer::start().await, MockServer::start().await);
    let away = ResponseTemplate::new(302).insert_header("location", format!("{}/v2/deals", elsewhere.uri()));
    Mock::given(path("/v2/away")).respond_with(away).mount(&server).await;
    let within = ResponseTemplate::new(301).insert_header("location", "/v2/deals/7");
    Mock::given(path("/v2/within")).respond_with(within).mount(&server).await;
    let door = live(&server);
    let (status, headers, _) = get(&door, "/sell/acme/v2/away").await;
    assert_eq!((status, headers.get("location")), (StatusCode::FOUND, None));
    let (status, headers, _) = get(&door, "/sell/acme/v2/within").await;
    assert_eq!(status, 301);
    assert_eq!(headers["location"], "http://door.example:8080/sell/acme/v2/deals/7");
    assert_eq!(elsewhere.received_requests().await.unwrap().len(), 0);
}

#[tokio::test]
async fn what_may_be_repeated_is_tried_again_and_nothing_else() {
    let server = MockServer::start().await;
    let bad = Mock::given(path("/v2/deals")).respond_with(ResponseTemplate::new(503));
    bad.up_to_n_times(2).mount(&server).await;
    Mock::given(path("/v2/deals")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let door = live(&server);
    assert_eq!(get(&door, "/sell/acme/v2/deals").await.0, 200);
    assert_eq!(server.received_requests().await.unwrap().len(), 3);
    server.reset().await;
    Mock::given(path("/v2/deals"))
        .respond_with(ResponseTemplate::new(503).set_body_string("busy"))
        .mount(&server)
        .await;
    let (status, headers, body) = ask(&door, request("POST", "/sell/acme/v2/deals", "{}")).await;
    assert_eq!((status, body.unwrap().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "busy"));
    assert!(!headers.contains_key("standpipe-error"), "it is the vendor's own");
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
}

#[tokio::test]
async fn over_its_share_of_the_budget_a_caller_waits_two_seconds_and_hears_when() {
    let server = MockServer::start().await;
    Mock::given(|_: &Seen| true).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let vendor = vendor(&server.uri(), Dialect::Reference);
    let door = door(vendor.clone(), &[Scope::Admin]);
    let asked = (0..50).map(|_| get(&door, "/sell/acme/v3/deals"));
    let begun = Instant::now();
    let told = futures_util::future::join_all(asked).await;
    let good = told.iter().filter(|told| told.0 == 200).count();
    assert_eq!(good, 42, "70 % of 60 a minute");
    assert_eq!(server.received_requests().await.unwrap().len(), good);
    assert!(begun.elapsed() >= BUDGET_WAIT);
    for (status, headers, body) in told.into_iter().filter(|told| told.0 != 200) {
        assert_eq!(status, 429);
        let wait: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((55..=62).contains(&wait), "{wait}");
        assert!(body.unwrap().contains(r#""code":429"#));
    }
    assert!(vendor.budget().try_take(Priority::Firehose).is_some(), "the streams' share is theirs");
}

#[tokio::test]
async fn an_answer_that_is_kept_says_so_and_how_old_it_is_and_leads_each_caller_back_to_where_it_came_from() {
    let server = MockServer::start().await;
    let links = format!(r#"{{"items":[],"meta":{{"links":{{"self":"{}/v2/deals"}}}}}}"#, server.uri());
    let answer = ResponseTemplate::new(200)
        .set_body_raw(links, "application/json")
        .insert_header("age", "7")
        .insert_header("x-request-id", "1")
        .insert_header("etag", "\"1\"");
    Mock::given(path("/v2/deals")).respond_with(answer).mount(&server).await;
    let (door, _lookups, _era) = owner(&server, Dialect::Live);
    let (status, headers, _) = get(&door, "/sell/acme/v2/deals").await;
    assert_eq!(
        (status, headers["standpipe-cache"].to_str().unwrap(), &headers["x-request-id"]),
        (StatusCode::OK, "miss", &HeaderValue::from_static("1"))
    );
    assert_eq!(headers["age"], "7", "as it came");
    let mut again = request("GET", "/sell/acme/v2/deals", Body::empty());
    again.headers_mut().insert("host", HeaderValue::from_static("elsewhere.example"));
    let (status, headers, body) = ask(&door, again).await;
    assert_eq!(
        (status, headers["standpipe-cache"].to_str().unwrap(), &headers["etag"]),
        (StatusCode::OK, "hit", &HeaderValue::from_static("\"1\""))
    );
    assert!(headers["age"].to_str().unwrap().parse::<u64>().unwrap() >= 7 && !headers.contains_key("x-request-id"));
    assert!(body.unwrap().contains("http://elsewhere.example/sell/acme/v2/deals"));
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
    for (directive, asks) in [("no-cache", 2), ("max-age=0", 3), ("no-store", 4), ("max-age=30", 4), ("max-stale", 4)] {
        let mut asked = request("GET", "/sell/acme/v2/deals", Body::empty());
        asked.headers_mut().insert("cache-control", HeaderValue::from_static(directive));
        assert_eq!(ask(&door, asked).await.0, 200);
        assert_eq!(server.received_requests().await.unwrap().len(), asks, "{directive}");
    }
    let write = ask(&door, request("POST", "/sell/acme/v2/deals", "{}")).await;
    assert!(!write.1.contains_key("standpipe-cache"));
    assert_eq!(get(&door, "/sell/acme/v2/deals").await.0, 200);
    assert_eq!(server.received_requests().await.unwrap().len(), 6, "a write drops the lists of its resource");
}

#[tokio::test]
async fn while_the_vendor_fails_an_older_answer_is_given_with_its_label() {
    let server = MockServer::start().await;
    let good = Mock::given(path("/v2/deals/7")).respond_with(ResponseTemplate::new(200).set_body_string("one"));
    good.up_to_n_times(1).mount(&server).await;
    Mock::given(path("/v2/deals/7")).respond_with(ResponseTemplate::new(500)).mount(&server).await;
    let (door, lookups, _era) = owner(&server, Dialect::Live);
    assert_eq!(get(&door, "/sell/acme/v2/deals/7").await.0, 200);
    let forward = Forward {
        api: "core",
        method: Method::PUT,
        segments: vec!["v2".to_owned(), "deals".to_owned(), "7".to_owned()],
        slash: false,
        query: None,
        headers: HeaderMap::new(),
        body: axum::body::Bytes::new(),
    };
    drop(lookups.writing(&vendor(&server.uri(), Dialect::Live), &forward));
    let (status, headers, body) = get(&door, "/sell/acme/v2/deals/7").await;
    assert_eq!((status, body.unwrap().as_str()), (StatusCode::OK, "one"));
    assert_eq!((headers["standpipe-cache"].to_str().unwrap(), headers.contains_key("age")), ("stale", true));
    let (status, headers, _) = get(&door, "/sell/acme/v2/deals/8").await;
    assert_eq!((status, headers["standpipe-cache"].to_str().unwrap()), (StatusCode::NOT_FOUND, "miss"));
}

/// A vendor of raw bytes: each connection gets `answer`; then it stays open.
async fn raw(answer: Vec<Vec<u8>>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let kept = Mutex::new(Vec::new());
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap_or_default();
            for piece in answer.iter().filter(|_| read > 0) {
                if stream.write_all(piece).await.is_err() {
                    break;
                }
            }
            kept.lock().unwrap().push(stream);
        }
    });
    (uri, tasks)
}

async fn ask_raw(answer: Vec<Vec<u8>>) -> (StatusCode, HeaderMap, Result<String, String>) {
    let (uri, _tasks) = raw(answer).await;
    let door = door(vendor(&uri, Dialect::Live), &[Scope::Admin]);
    ask(&door, request("POST", "/sell/acme/v2/deals", "{}")).await
}

#[tokio::test]
async fn an_answer_that_nobody_asked_to_be_compressed_is_refused() {
    let bomb = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00";
    let (status, _, body) = ask_raw(vec![bomb.to_vec()]).await;
    assert_eq!(status, 502);
    assert!(body.unwrap().contains("compressed"));
}

#[tokio::test]
async fn an_answer_beyond_the_bound_is_refused_or_cut() {
    let told = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body::MOST_DOWN + 1);
    assert_eq!(ask_raw(vec![told.into_bytes()]).await.0, 502);
    let mebibyte = [b"100000\r\n".to_vec(), vec![b'x'; 1 << 20], b"\r\n".to_vec()].concat();
    let mut long = vec![b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()];
    long.extend(std::iter::repeat_n(mebibyte, 40));
    long.push(b"0\r\n\r\n".to_vec());
    let (status, _, body) = ask_raw(long).await;
    assert_eq!(status, 200);
    assert!(body.is_err(), "it ends early, and says so");
}

/// A vendor in memory that takes forever, with the head of its answer or with the rest of it: real sockets and paused time do
/// not go together.
struct Stalled {
    in_head: bool,
}

impl crate::http::Server for Stalled {
    fn answer(&self, _: reqwest::Request) -> BoxFuture<'static, Result<reqwest::Response, reqwest::Error>> {
        if self.in_head {
            return std::future::pending().boxed();
        }
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>("abc")]);
        let body = reqwest::Body::wrap_stream(first.chain(futures_util::stream::pending()));
        std::future::ready(Ok(Response::new(body).into())).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_vendor_that_stands_still_is_given_up() {
    for (in_head, expected, seconds) in [(true, StatusCode::GATEWAY_TIMEOUT, 27), (false, StatusCode::OK, 20)] {
        let client = crate::http::client_builder().build().unwrap();
        let config = config("http://localhost", Dialect::Live);
        let transport = crate::http::Transport::Memory(client, Arc::new(Stalled { in_head }));
        let vendor = Vendor::over(&"acme".into(), &config, Clock::system(), transport).unwrap();
        let begun = Instant::now();
        let (status, _, body) = get(&door(vendor, &[Scope::Admin]), "/sell/acme/v2/deals").await;
        assert_eq!((status, begun.elapsed().as_secs()), (expected, seconds));
        assert_eq!(body.is_ok(), in_head, "a body that ends early says so");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_stands_still_is_given_up() {
    let server = MockServer::start().await;
    let slow = Body::from_stream(futures_util::stream::pending::<std::io::Result<axum::body::Bytes>>());
    let begun = Instant::now();
    assert_eq!(ask(&live(&server), request("POST", "/sell/acme/v2/deals", slow)).await.0, 408);
    assert_eq!(begun.elapsed().as_secs(), 15);
}

#[tokio::test]
async fn a_token_that_is_refused_is_the_vendors_answer() {
    let server = MockServer::start().await;
    Mock::given(|_: &Seen| true).respond_with(ResponseTemplate::new(401).set_body_string("no")).mount(&server).await;
    let (status, headers, body) = get(&live(&server), "/sell/acme/v2/deals").await;
    assert_eq!((status, body.unwrap().as_str()), (StatusCode::UNAUTHORIZED, "no"));
    assert!(!headers.contains_key("standpipe-error"));
}
