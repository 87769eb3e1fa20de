//! A webhook receiver that remembers every attempt in the order of arrival, and refuses some.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;

use crate::support::keeper;

/// One attempt that reached the receiver.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The `webhook-id`.
    pub id: String,
    pub body: Bytes,
    /// Whether the answer was 2xx.
    pub accepted: bool,
}

#[derive(Debug, Default)]
struct Inner {
    attempts: Vec<Attempt>,
    times: HashMap<String, u32>,
    accepted: usize,
}

/// The running receiver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Receiver {
    inner: Arc<Mutex<Inner>>,
    seed: u64,
    port: u16,
}

impl Receiver {
    /// Starts one on a free port. It refuses the first attempt of one event in a hundred.
    pub async fn start(seed: u64) -> Self {
        let port = keeper::free_port();
        let receiver = Self { inner: Arc::default(), seed, port };
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let router = Router::new().route("/hook", post(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// Everything until now, in order of arrival.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.lock().attempts.clone()
    }

    /// How many events it has accepted at least once.
    pub fn accepted(&self) -> usize {
        self.lock().accepted
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuses(&self, id: &str) -> bool {
        let mut hash = DefaultHasher::new();
        (self.seed, id).hash(&mut hash);
        hash.finish().is_multiple_of(100)
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let Some(id) = headers.get("webhook-id").and_then(|id| id.to_str().ok()) else { return StatusCode::BAD_REQUEST };
    let mut inner = receiver.lock();
    let times = inner.times.entry(id.to_owned()).or_default();
    *times += 1;
    let first = *times == 1;
    let accepted = !(first && receiver.refuses(id));
    let newly = accepted && (first || *times == 2 && receiver.refuses(id));
    inner.accepted += usize::from(newly);
    inner.attempts.push(Attempt { id: id.to_owned(), body, accepted });
    if accepted { StatusCode::NO_CONTENT } else { StatusCode::INTERNAL_SERVER_ERROR }
}
