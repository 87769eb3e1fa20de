//! What stands around the program: a vendor, one that tells every request back, a webhook that does so too, a collector of
//! traces. Each keeps what it got, as text.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Response, StatusCode, header};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::hunt::{ACCESS, ROTATED};
use crate::support::http;
use crate::support::program::Simulator;

/// Who got a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The simulator, behind a front that looks on.
    Vendor,
    /// A vendor that tells every request back: with a 200 where it takes a token, with a 401 or a 400 where not.
    Echo,
    /// A webhook that takes every other event, and tells the rest back with a 500.
    Hook,
    /// Where traces go.
    Collector,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<(Who, String)>>,
    refuses: AtomicBool,
}

pub struct Outside {
    pub vendor: String,
    pub echo: String,
    /// `127.0.0.1:port`
    pub hook: String,
    pub collector: String,
    seen: Arc<Seen>,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Means {
    who: Who,
    simulator: String,
    seen: Arc<Seen>,
}

impl Outside {
    pub async fn around(simulator: &Simulator) -> Self {
        let seen = Arc::new(Seen::default());
        let mut serving = JoinSet::new();
        let mut serve = async |who| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let means = Means { who, simulator: simulator.url(), seen: seen.clone() };
            let router = Router::new().fallback(answer).with_state(means);
            serving.spawn(async move { axum::serve(listener, router).await.expect("it serves until it is aborted") });
            address
        };
        let vendor = format!("http://{}", serve(Who::Vendor).await);
        let echo = format!("http://{}", serve(Who::Echo).await);
        let hook = serve(Who::Hook).await;
        let collector = format!("http://{}", serve(Who::Collector).await);
        Self { vendor, echo, hook, collector, seen, _serving: serving }
    }

    /// From now on the echo takes no token and gives none.
    pub fn refuse(&self) {
        self.seen.refuses.store(true, Ordering::Relaxed);
    }

    /// What somebody got until now.
    pub fn got(&self, who: Who) -> Vec<String> {
        let requests = self.seen.requests.lock().unwrap();
        requests.iter().filter(|(by, _)| *by == who).map(|(_, text)| text.clone()).collect()
    }
}

async fn answer(State(means): State<Means>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 16 << 20).await.unwrap_or_default();
    let text = told(&parts, &body);
    means.seen.requests.lock().unwrap().push((means.who, text.clone()));
    match means.who {
        Who::Vendor => pass(&means.simulator, parts, body.into()).await,
        Who::Echo => echo(&parts, &text, means.seen.refuses.load(Ordering::Relaxed)),
        Who::Hook => {
            let seq = parts.headers.get("standpipe-seq").and_then(|seq| seq.to_str().ok()?.parse::<u64>().ok());
            if seq.is_some_and(|seq| seq % 2 == 0) {
                plain(StatusCode::NO_CONTENT, String::new())
            } else {
                plain(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        }
        Who::Collector => plain(StatusCode::OK, String::new()),
    }
}

/// A request as a server sees it.
fn told(parts: &Parts, body: &[u8]) -> String {
    let mut text = format!("{} {}\n", parts.method, parts.uri);
    for (name, value) in &parts.headers {
        text.extend([name.as_str(), ": ", &String::from_utf8_lossy(value.as_bytes()), "\n"]);
    }
    text + "\n" + &String::from_utf8_lossy(body)
}

fn plain(status: StatusCode, body: String) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body)).unwrap()
}

fn echo(parts: &Parts, text: &str, refuses: bool) -> Response<Body> {
    let of_tokens = parts.uri.path() == "/oauth2/token";
    let (status, body) = match (of_tokens, refuses) {
        (true, false) => {
            let granted = json!({ "access_token": ACCESS.text, "refresh_token": ROTATED.text, "expires_in": 3600 });
            (StatusCode::OK, granted.to_string())
        }
        (true, true) => (StatusCode::BAD_REQUEST, text.to_owned()),
        (false, true) => (StatusCode::UNAUTHORIZED, text.to_owned()),
        (false, false) if parts.uri.path().ends_with("/stream") => (StatusCode::UNAUTHORIZED, text.to_owned()),
        (false, false) => (StatusCode::OK, json!({ "you": { "said": text } }).to_string()),
    };
    let mut answer = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    if let Some(authorization) = parts.headers.get(header::AUTHORIZATION) {
        answer = answer.header("x-request-id", authorization).header(header::ETAG, authorization);
    }
    answer.body(Body::from(body)).unwrap()
}

async fn pass(simulator: &str, parts: Parts, body: reqwest::Body) -> Response<Body> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let request = http::client().request(parts.method, simulator.to_owned() + target).headers(parts.headers);
    match request.body(body).send().await {
        Ok(answer) => {
            let mut passed = Response::builder().status(answer.status());
            for name in [header::CONTENT_TYPE, header::DATE] {
                if let Some(value) = answer.headers().get(&name) {
                    passed = passed.header(name, value);
                }
            }
            passed.body(Body::from(answer.bytes().await.unwrap_or_default())).unwrap()
        }
        Err(_) => plain(StatusCode::BAD_GATEWAY, String::new()),
    }
}
