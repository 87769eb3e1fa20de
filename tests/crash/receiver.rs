//! A webhook receiver that remembers every attempt in the order of arrival, and refuses some.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;

use crate::canonical::Said;
use crate::support::keeper;
use crate::timeline;

/// One attempt that reached the receiver.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The `webhook-id`.
    pub id: String,
    /// What its bytes say, or why they say nothing.
    pub said: Result<Said, String>,
    pub at: SystemTime,
    /// Whether the answer was 2xx.
    pub accepted: bool,
}

#[derive(Debug, Default)]
struct Inner {
    attempts: Vec<Attempt>,
    times: HashMap<String, u32>,
    accepted: usize,
    /// Deliveries that were accepted, by shard.
    by_shard: HashMap<String, u64>,
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

    /// Looks at everything until now, in order of arrival.
    pub fn with_attempts<T>(&self, look: impl FnOnce(&[Attempt]) -> T) -> T {
        look(&self.lock().attempts)
    }

    /// How many deliveries of a shard it has accepted.
    pub fn accepted_of(&self, shard: u16) -> u64 {
        self.lock().by_shard.get(&shard.to_string()).copied().unwrap_or_default()
    }

    pub fn port(&self) -> u16 {
        self.port
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
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(id) = text("webhook-id") else { return StatusCode::BAD_REQUEST };
    let said = Said::read(&body).map_err(|why| format!("{why}: {}", String::from_utf8_lossy(&body)));
    let mut inner = receiver.lock();
    let times = inner.times.entry(id.to_owned()).or_default();
    *times += 1;
    let first = *times == 1;
    let accepted = !(first && receiver.refuses(id));
    let newly = accepted && (first || *times == 2 && receiver.refuses(id));
    inner.accepted += usize::from(newly);
    inner.attempts.push(Attempt { id: id.to_owned(), said, at: timeline::now(), accepted });
    if !accepted {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    if let Some(shard) = text("standpipe-shard") {
        *inner.by_shard.entry(shard.to_owned()).or_default() += 1;
    }
    StatusCode::NO_CONTENT
}
