//! A vendor whose Firehose is the simulator's and whose Core can be turned off, and the hooks that events are posted to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::{get, post};
use bytes::Bytes;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::http;
use crate::support::program::Simulator;

/// What a hook was given.
#[derive(Clone, Debug)]
pub struct Posted {
    pub webhook_id: String,
    pub seq: u64,
    pub is_replay: bool,
    pub body: Bytes,
}

impl Posted {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

#[derive(Default)]
struct Seen {
    is_down: bool,
    asked: Vec<(String, Instant)>,
    posted: HashMap<String, Vec<Posted>>,
}

/// The server; it lives as long as the test's runtime.
pub struct Front {
    url: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Clone)]
struct Means {
    simulator: String,
    seen: Arc<Mutex<Seen>>,
}

impl Front {
    pub async fn before(simulator: &Simulator) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let core = |collection: &'static str| {
            get(move |State(means): State<Means>, Path(id): Path<String>| async move { core(&means, collection, &id) })
        };
        let router = Router::new()
            .route("/v3/stages/{id}", core("stages"))
            .route("/v3/contacts/{id}", core("contacts"))
            .route("/hook/{name}", post(hook))
            .fallback(pass)
            .with_state(Means { simulator: simulator.url(), seen: seen.clone() });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, seen }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether Core answers 503.
    pub fn set_down(&self, is_down: bool) {
        self.seen.lock().unwrap().is_down = is_down;
    }

    /// What Core was asked for until now, and when.
    pub fn asked(&self) -> Vec<(String, Instant)> {
        self.seen.lock().unwrap().asked.clone()
    }

    /// What a hook was given until now, in order.
    pub fn posted(&self, hook: &str) -> Vec<Posted> {
        self.seen.lock().unwrap().posted.get(hook).cloned().unwrap_or_default()
    }
}

fn core(means: &Means, collection: &str, id: &str) -> Response<String> {
    let mut seen = means.seen.lock().unwrap();
    seen.asked.push((format!("{collection}/{id}"), Instant::now()));
    let (status, body) = if seen.is_down {
        (StatusCode::SERVICE_UNAVAILABLE, "<html>down</html>".to_owned())
    } else {
        (StatusCode::OK, format!(r#"{{"id":{id},"name":"{collection} {id}","n\u0061me2":1.50,"more":[1,2]}}"#))
    };
    Response::builder().status(status).body(body).expect("a plain answer")
}

async fn hook(State(means): State<Means>, Path(name): Path<String>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let posted = Posted {
        webhook_id: text("webhook-id"),
        seq: text("standpipe-seq").parse().expect("a seq"),
        is_replay: headers.contains_key("standpipe-replay"),
        body,
    };
    means.seen.lock().unwrap().posted.entry(name).or_default().push(posted);
    StatusCode::NO_CONTENT
}

/// Everything else is the simulator's.
async fn pass(State(means): State<Means>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a small body");
    let request = http::client().request(parts.method, means.simulator + target).headers(parts.headers).body(body);
    match request.send().await {
        Ok(answer) => {
            let status = answer.status();
            let body = answer.bytes().await.unwrap_or_default();
            Response::builder().status(status).body(Body::from(body)).expect("a plain answer")
        }
        Err(_) => Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::empty()).expect("a plain answer"),
    }
}
