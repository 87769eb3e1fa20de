//! The one way to a request: signed, of the bytes that are sent.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};

use super::config::Endpoint;
use super::connection::KeptConnection;
use super::guard::Guard;
use super::response::{Answer, Beginning, Failure, Reply, Unanswered, Verdict, asked_to_wait, verdict};
use super::sign::webhook_id;
use crate::clock::Clock;
use crate::config::{WebhookConfig, is_secret_header};
use crate::event::{Recorded, Seq, Shard};
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
/// The values that are written for each request, in bytes, about: an id, two numbers, a trace, a time, a signature.
const VALUES: usize = 512;

/// What every attempt of one event has in common. The body is shared, never copied.
#[derive(Clone)]
pub struct Message {
    id: String,
    /// None for a message that is no event of the ledger.
    event: Option<Event>,
    /// What the sink's rules rendered.
    rendered: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

#[derive(Clone, Copy)]
struct Event {
    shard: Shard,
    seq: Seq,
    replay: Option<Seq>,
    traceparent: [u8; 55],
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
        let header = |(name, value): &(Arc<str>, String)| {
            let refused = || HeaderError { name: name.to_string() };
            let value = HeaderValue::from_str(value).map_err(|_| refused())?;
            Ok((HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?, value))
        };
        let rendered = rendered.iter().map(header).collect::<Result<_, HeaderError>>()?;
        let replay = event.replay.as_ref().map(|replay| replay.of);
        let (seq, traceparent) = (event.seq, event.traceparent());
        let id = webhook_id(event);
        Ok(Self { id, event: Some(Event { shard, seq, replay, traceparent }), rendered, body: event.body.clone() })
    }

    /// A message that is no event of the ledger: `webhook test`.
    #[must_use]
    pub fn ping(id: &str, body: Bytes) -> Self {
        Self { id: id.into(), event: None, rendered: Vec::new(), body }
    }

    /// The trace that the receiver sees; empty for a message that is no event.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        self.event.as_ref().and_then(|event| std::str::from_utf8(&event.traceparent).ok()).unwrap_or_default()
    }

    /// Those of the rendered headers that hold a secret, by their names.
    fn secrets(&self) -> Vec<HeaderValue> {
        let secret = |(name, _): &&(HeaderName, HeaderValue)| is_secret_header(name.as_str());
        self.rendered.iter().filter(secret).map(|(_, value)| value.clone()).collect()
    }

    /// Its `webhook-id`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Memory of a request, for the next one: of its headers, and of their values.
#[derive(Clone, Debug, Default)]
pub struct Spare {
    headers: HeaderMap,
    text: BytesMut,
}

impl Spare {
    /// A value of what `write` writes. All of one request lie in one piece.
    fn value(&mut self, write: impl FnOnce(&mut BytesMut)) -> HeaderValue {
        write(&mut self.text);
        HeaderValue::from_maybe_shared(self.text.split().freeze()).expect("ids, times and signatures are plain ASCII")
    }

    fn number(&mut self, number: impl fmt::Display) -> HeaderValue {
        self.value(|text| write!(text, "{number}").expect("memory does not fail"))
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
    pub fn new(endpoint: &Endpoint, message: Message, at: OffsetDateTime, spare: &mut Spare) -> Self {
        let Message { id, event, rendered, body } = message;
        let mut headers = std::mem::take(&mut spare.headers);
        spare.text.reserve(VALUES);
        for (name, value) in rendered {
            headers.append(name, value);
        }
        headers.insert(CONTENT_TYPE, JSON);
        if let Some(Event { shard, seq, replay, traceparent }) = event {
            headers.insert(STANDPIPE_SHARD, HeaderValue::from(shard.0));
            headers.insert(STANDPIPE_SEQ, spare.number(seq));
            if let Some(replay) = replay {
                headers.insert(STANDPIPE_REPLAY, spare.number(replay));
            }
            headers.insert(TRACEPARENT, spare.value(|text| text.put_slice(&traceparent)));
        }
        let timestamp = spare.number(at.unix_timestamp());
        let signed = timestamp.to_str().expect("digits");
        headers.insert(WEBHOOK_SIGNATURE, spare.value(|text| endpoint.keys().sign_into(&id, signed, &body, text)));
        headers.insert(WEBHOOK_TIMESTAMP, timestamp);
        headers.insert(WEBHOOK_ID, spare.value(|text| text.put_slice(id.as_bytes())));
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

/// Sends one request after the other, through the guard, within their bounds. A clone has a connection of its own.
#[derive(Clone, Debug)]
pub struct Sender {
    way: Way,
    clock: Clock,
    timeout: Duration,
    spare: Spare,
}

#[derive(Clone, Debug)]
enum Way {
    /// Over a connection that is kept.
    Kept(KeptConnection),
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
        let kept = KeptConnection::new(guard, config.connect_timeout)?;
        Ok(Self { way: Way::Kept(kept), clock, timeout: config.timeout, spare: Spare::default() })
    }

    /// Over a transport of one's own, which the guard does not watch.
    #[must_use]
    pub fn over(transport: Transport, config: &WebhookConfig, clock: Clock) -> Self {
        Self { way: Way::Given(transport), clock, timeout: config.timeout, spare: Spare::default() }
    }

    /// One attempt.
    pub async fn attempt(&mut self, endpoint: &Endpoint, message: Message) -> Answer {
        let (at, began) = (self.clock.now(), Instant::now());
        let unanswered = |verdict, error: String| Answer {
            verdict: Verdict::Failed(verdict),
            status: None,
            retry_after: None,
            body: Vec::new(),
            error,
            at,
            began,
            took: began.elapsed(),
        };
        if let Some(refused) = endpoint.refused() {
            return unanswered(Failure::Refused, refused.to_string());
        }
        let secrets = message.secrets();
        let request = SignedRequest::new(endpoint, message, at, &mut self.spare);
        let deadline = began + self.timeout;
        let reply = match &mut self.way {
            Way::Kept(kept) => kept.exchange(endpoint.origin(), request.on_a_connection(endpoint), deadline).await,
            Way::Given(transport) => Box::pin(given(transport, request.of_a_client(endpoint), deadline)).await,
        };
        let Reply { status, mut headers, mut body } = match reply {
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
        let retry_after = if delivered { None } else { asked_to_wait(&headers, self.clock.now()) };
        // Now, since what the endpoint told would hold the memory that it was read into.
        headers.clear();
        self.spare.headers = headers;
        Answer {
            verdict,
            status: Some(status.as_u16()),
            retry_after,
            body: if delivered { Vec::new() } else { body },
            error: if delivered { String::new() } else { format!("the endpoint answered {status}") },
            at,
            began,
            took: began.elapsed(),
        }
    }

    /// Waits for something while there is nothing to send. It gives none where a connection would be idle for too long: it
    /// is closed then.
    pub async fn idle<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        match &mut self.way {
            Way::Kept(kept) => kept.idle(what).await,
            Way::Given(_) => Some(what.await),
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
