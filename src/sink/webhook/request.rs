//! The one way to a request: signed, of the bytes that are sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::config::Endpoint;
use super::guard::Guard;
use super::response::{Answer, Failure, Verdict, asked_to_wait, failure, read_body, verdict};
use super::sign::webhook_id;
use crate::clock::Clock;
use crate::config::WebhookConfig;
use crate::event::{Recorded, Shard};
use crate::http::Transport;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const STANDPIPE_SHARD: HeaderName = HeaderName::from_static("standpipe-shard");
const STANDPIPE_SEQ: HeaderName = HeaderName::from_static("standpipe-seq");
const STANDPIPE_REPLAY: HeaderName = HeaderName::from_static("standpipe-replay");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// An idle connection is given up before common servers do so (5 s in Node.js): a request that crosses with a close is a
/// failure that was none.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);

/// What every attempt of one event has in common. The body is shared, never copied.
#[derive(Clone)]
pub struct Message {
    id: Arc<str>,
    headers: HeaderMap,
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
        for (name, value) in rendered {
            let refused = || HeaderError { name: name.to_string() };
            let value = HeaderValue::from_str(value).map_err(|_| refused())?;
            headers.append(HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?, value);
        }
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(STANDPIPE_SHARD, HeaderValue::from(shard.0));
        headers.insert(STANDPIPE_SEQ, HeaderValue::from(event.seq.0));
        if let Some(replay) = &event.replay {
            headers.insert(STANDPIPE_REPLAY, HeaderValue::from(replay.of.0));
        }
        headers.insert(TRACEPARENT, HeaderValue::from_bytes(&event.traceparent()).expect("hex digits"));
        Ok(Self { id: webhook_id(event).into(), headers, body: event.body.clone() })
    }

    /// A message that is no event of the ledger: `webhook test`.
    #[must_use]
    pub fn ping(id: &str, body: Bytes) -> Self {
        Self { id: id.into(), headers: HeaderMap::from_iter([(CONTENT_TYPE, JSON)]), body }
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
pub struct SignedRequest(Request);

impl SignedRequest {
    /// Signs a message for an attempt that begins `at`.
    #[must_use]
    pub fn new(endpoint: &Endpoint, message: Message, at: OffsetDateTime) -> Self {
        let Message { id, mut headers, body } = message;
        let timestamp = at.unix_timestamp().to_string();
        let signature = endpoint.keys().sign(&id, &timestamp, &body);
        insert(&mut headers, WEBHOOK_ID, &id);
        insert(&mut headers, WEBHOOK_TIMESTAMP, &timestamp);
        insert(&mut headers, WEBHOOK_SIGNATURE, &signature);
        if let Some(authorization) = endpoint.authorization() {
            headers.entry(AUTHORIZATION).or_insert_with(|| authorization.clone());
        }
        let mut request = Request::new(Method::POST, endpoint.url().clone());
        *request.headers_mut() = headers;
        // Bytes have a length: content-length, no chunking.
        *request.body_mut() = Some(body.into());
        Self(request)
    }
}

impl fmt::Debug for SignedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SignedRequest").field(&self.0.headers().get(WEBHOOK_ID)).finish()
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    headers.insert(name, HeaderValue::from_str(value).expect("ids, times and signatures are made of plain ASCII"));
}

/// Sends requests over kept connections, through the guard, within their bounds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sender {
    transport: Transport,
    clock: Clock,
    timeout: Duration,
}

impl Sender {
    /// For one sink.
    pub fn new(config: &WebhookConfig, guard: &Guard, clock: Clock) -> Result<Self, reqwest::Error> {
        let client = crate::http::client_builder()
            .dns_resolver(guard.clone())
            .connect_timeout(config.connect_timeout)
            .pool_max_idle_per_host(config.max_in_flight)
            .pool_idle_timeout(IDLE_CONNECTION)
            .build()?;
        Ok(Self::over(Transport::Network(client), config, clock))
    }

    /// Over a transport of one's own, which the guard does not watch.
    #[must_use]
    pub const fn over(transport: Transport, config: &WebhookConfig, clock: Clock) -> Self {
        Self { transport, clock, timeout: config.timeout }
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
        let request = SignedRequest::new(endpoint, message, at);
        let deadline = began + self.timeout;
        let mut response = match tokio::time::timeout_at(deadline, self.transport.execute(request.0)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let (kind, error) = failure(error);
                return unanswered(kind, error);
            }
            Err(_) => return unanswered(Failure::Timeout, format!("no answer within {:?}", self.timeout)),
        };
        let status = response.status();
        let verdict = verdict(status);
        // The status decides; who drags the body out gets its connection closed.
        let body = tokio::time::timeout_at(deadline, read_body(&mut response)).await.unwrap_or_default();
        let delivered = verdict == Verdict::Delivered;
        Answer {
            verdict,
            status: Some(status.as_u16()),
            retry_after: if delivered { None } else { asked_to_wait(response.headers(), self.clock.now()) },
            body: if delivered { Vec::new() } else { body },
            error: if delivered { String::new() } else { format!("the endpoint answered {status}") },
            at,
            took: began.elapsed(),
        }
    }
}
