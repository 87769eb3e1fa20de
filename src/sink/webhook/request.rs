//! The one way to a request: signed, of the bytes that are sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};

use super::config::Endpoint;
use super::connection::Connections;
use super::guard::Guard;
use super::response::{Answer, Beginning, Failure, Reply, Unanswered, Verdict, asked_to_wait, verdict};
use super::sign::webhook_id;
use crate::clock::Clock;
use crate::config::{WebhookConfig, is_secret_header};
use crate::event::{Recorded, Shard};
use crate::http::Transport;
use crate::mutant::{Mutant, planted};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const STANDPIPE_SHARD: HeaderName = HeaderName::from_static("standpipe-shard");
const STANDPIPE_SEQ: HeaderName = HeaderName::from_static("standpipe-seq");
const STANDPIPE_REPLAY: HeaderName = HeaderName::from_static("standpipe-replay");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const OURSELVES: HeaderValue = HeaderValue::from_static(crate::http::USER_AGENT);

/// What every attempt of one event has in common. The body is shared, never copied.
#[derive(Clone)]
pub struct Message {
    id: String,
    headers: HeaderMap,
    /// Those of the rendered headers that hold a secret, by their names.
    secrets: Vec<HeaderValue>,
    body: Bytes,
}

// By hand: a header may hold a secret (INV-16).
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Message").field(&self.id).finish()
    }
}

/// A header that a template rendered, and that no HTTP message can carry.
#[derive(Debug, thiserror::Error)]
#[error("the header {name} is rendered to something that is no header value")]
pub struct HeaderError {
    name: String,
}

impl Message {
    /// The message of an event, with the headers that the sink's rules rendered for it.
    pub fn new(event: &Recorded, shard: Shard, rendered: &[(Arc<str>, String)]) -> Result<Self, HeaderError> {
        let mut headers = HeaderMap::with_capacity(12 + rendered.len());
        let mut secrets = Vec::new();
        for (name, value) in rendered {
            let refused = || HeaderError { name: name.to_string() };
            let value = HeaderValue::from_str(value).map_err(|_| refused())?;
            if is_secret_header(name) {
                secrets.push(value.clone());
            }
            headers.append(HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?, value);
        }
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(STANDPIPE_SHARD, HeaderValue::from(shard.0));
        headers.insert(STANDPIPE_SEQ, HeaderValue::from(event.seq.0));
        if let Some(replay) = &event.replay {
            headers.insert(STANDPIPE_REPLAY, HeaderValue::from(replay.of.0));
        }
        headers.insert(TRACEPARENT, HeaderValue::from_bytes(&event.traceparent()).expect("hex digits"));
        Ok(Self { id: webhook_id(event), headers, secrets, body: event.body.clone() })
    }

    /// A message that is no event of the ledger: `webhook test`.
    #[must_use]
    pub fn ping(id: &str, body: Bytes) -> Self {
        Self { id: id.into(), headers: HeaderMap::from_iter([(CONTENT_TYPE, JSON)]), secrets: Vec::new(), body }
    }

    /// The trace that the receiver sees; empty for a message that is no event.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        self.headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Its `webhook-id`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// A request as it will be sent; only [`SignedRequest::new`] makes one.
pub struct SignedRequest {
    headers: HeaderMap,
    body: Bytes,
}

impl SignedRequest {
    /// Signs a message for an attempt that begins `at`.
    #[must_use]
    pub fn new(endpoint: &Endpoint, message: Message, at: OffsetDateTime) -> Self {
        let Message { id, mut headers, body, .. } = message;
        let timestamp = at.unix_timestamp().to_string();
        let signature = endpoint.keys().sign(&id, &timestamp, &body);
        insert(&mut headers, WEBHOOK_ID, id);
        insert(&mut headers, WEBHOOK_TIMESTAMP, timestamp);
        insert(&mut headers, WEBHOOK_SIGNATURE, signature);
        if let Some(authorization) = endpoint.authorization() {
            headers.entry(AUTHORIZATION).or_insert_with(|| authorization.clone());
        }
        headers.insert(HOST, endpoint.host().clone());
        headers.entry(USER_AGENT).or_insert(OURSELVES);
        Self { headers, body }
    }

    /// As a connection takes it. A body of known length has a content-length and no chunks.
    fn on_a_connection(self, endpoint: &Endpoint) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = endpoint.target().clone();
        *request.headers_mut() = self.headers;
        request
    }

    fn of_a_client(self, endpoint: &Endpoint) -> reqwest::Request {
        let mut request = reqwest::Request::new(Method::POST, endpoint.url().clone());
        *request.headers_mut() = self.headers;
        *request.body_mut() = Some(self.body.into());
        request
    }
}

impl fmt::Debug for SignedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SignedRequest").field(&self.headers.get(WEBHOOK_ID)).finish()
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    headers.insert(name, HeaderValue::try_from(value).expect("ids, times and signatures are made of plain ASCII"));
}

/// Sends requests, through the guard, within their bounds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sender {
    way: Way,
    clock: Clock,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum Way {
    /// Over connections that are kept.
    Kept(Arc<Connections>),
    /// As somebody else sends it.
    Given(Transport),
}

impl Sender {
    /// For one sink. Fails where the machine's roots cannot be had.
    pub fn new(config: &WebhookConfig, guard: &Guard, clock: Clock) -> std::io::Result<Self> {
        if planted(Mutant::RedirectFollowed) {
            let follows = crate::http::client_builder().build().map_err(std::io::Error::other)?;
            return Ok(Self::over(Transport::Network(follows), config, clock));
        }
        let connections = Connections::new(guard, config.connect_timeout)?;
        Ok(Self { way: Way::Kept(Arc::new(connections)), clock, timeout: config.timeout })
    }

    /// Over a transport of one's own, which the guard does not watch.
    #[must_use]
    pub const fn over(transport: Transport, config: &WebhookConfig, clock: Clock) -> Self {
        Self { way: Way::Given(transport), clock, timeout: config.timeout }
    }

    /// One attempt.
    pub async fn attempt(&self, endpoint: &Endpoint, message: Message) -> Answer {
        let (at, began) = (self.clock.now(), Instant::now());
        let unanswered = |verdict, error: String| Answer {
            verdict: Verdict::Failed(verdict),
            status: None,
            retry_after: None,
            body: Vec::new(),
            error,
            at,
            took: began.elapsed(),
        };
        if let Some(refused) = endpoint.refused() {
            return unanswered(Failure::Refused, refused.to_string());
        }
        let secrets = message.secrets.clone();
        let request = SignedRequest::new(endpoint, message, at);
        let deadline = began + self.timeout;
        let reply = match &self.way {
            Way::Kept(connections) => {
                connections.exchange(endpoint.origin(), request.on_a_connection(endpoint), deadline).await
            }
            Way::Given(transport) => Box::pin(given(transport, request.of_a_client(endpoint), deadline)).await,
        };
        let Reply { status, headers, mut body } = match reply {
            Ok(reply) => reply,
            Err(why) => {
                let (kind, error) = why.failure(self.timeout);
                return unanswered(kind, error);
            }
        };
        let verdict = verdict(status);
        let delivered = verdict == Verdict::Delivered;
        if !delivered {
            // What is kept and shown of it: an endpoint may tell back what it was told.
            endpoint.mask(&secrets).cover(&mut body);
        }
        Answer {
            verdict,
            status: Some(status.as_u16()),
            retry_after: if delivered { None } else { asked_to_wait(&headers, self.clock.now()) },
            body: if delivered { Vec::new() } else { body },
            error: if delivered { String::new() } else { format!("the endpoint answered {status}") },
            at,
            took: began.elapsed(),
        }
    }

    /// Closes connections that nobody used for a while.
    pub fn sweep(&self) {
        if let Way::Kept(connections) = &self.way {
            connections.sweep();
        }
    }
}

async fn given(transport: &Transport, request: reqwest::Request, deadline: Instant) -> Result<Reply, Unanswered> {
    let mut response = match timeout_at(deadline, transport.execute(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(Unanswered::Broken(error.without_url().into())),
        Err(_) => return Err(Unanswered::Late),
    };
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let mut beginning = Beginning::default();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await
            && beginning.take(&chunk)
        {}
    };
    // As on a connection: the status has said what matters.
    drop(timeout_at(deadline, read).await);
    Ok(Reply { status, headers, body: beginning.kept })
}
