//! The demo's webhook endpoint: verifies every request as a receiver of Standard Webhooks does, from the
//! specification and not with the code that signs.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::seen::Seen;
use crate::clock::Clock;

/// How far a request's timestamp may be off, in seconds: the specification's five minutes.
const TOLERANCE: i64 = 300;

/// A bound endpoint that does not answer yet.
pub(super) struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
    endpoint: Arc<Endpoint>,
}

struct Endpoint {
    key: Vec<u8>,
    clock: Clock,
    seen: Arc<Seen>,
}

impl Receiver {
    pub(super) async fn bind(key: Vec<u8>, clock: Clock, seen: Arc<Seen>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, endpoint: Arc::new(Endpoint { key, clock, seen }) })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Answers until `stop`.
    pub(super) async fn serve(self, stop: CancellationToken) -> std::io::Result<()> {
        let router = Router::new().route("/", post(receive)).with_state(self.endpoint);
        axum::serve(self.listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

async fn receive(State(endpoint): State<Arc<Endpoint>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let verified = endpoint.verify(&headers, &body);
    endpoint.seen.webhook(verified.is_ok());
    match verified {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(why) => {
            tracing::warn!(why, "the demo's receiver refuses a request");
            StatusCode::UNAUTHORIZED
        }
    }
}

impl Endpoint {
    fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), &'static str> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let id = header("webhook-id").ok_or("no webhook-id")?;
        let timestamp = header("webhook-timestamp").ok_or("no webhook-timestamp")?;
        let sent: i64 = timestamp.parse().map_err(|_| "webhook-timestamp is not a number")?;
        if (self.clock.now().unix_timestamp() - sent).abs() > TOLERANCE {
            return Err("webhook-timestamp is too far off");
        }
        let signatures = header("webhook-signature").ok_or("no webhook-signature")?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).map_err(|_| "the key cannot be used")?;
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        let fits = |signature: &str| {
            let bytes = signature.strip_prefix("v1,").and_then(|encoded| STANDARD.decode(encoded).ok());
            bytes.is_some_and(|bytes| mac.clone().verify_slice(&bytes).is_ok())
        };
        if signatures.split(' ').any(fits) { Ok(()) } else { Err("no signature fits") }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use time::OffsetDateTime;

    use super::*;

    /// The key, id, time, body and signature of the specification's own reference libraries.
    #[test]
    fn the_specifications_example_is_taken_and_anything_else_refused() {
        let at = OffsetDateTime::from_unix_timestamp(1_614_265_330).unwrap();
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let endpoint = Endpoint { key, clock: Clock::manual(at), seen: Arc::default() };
        let headers = |signature: &str, timestamp: &str| {
            let pairs = [
                ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
                ("webhook-timestamp", timestamp),
                ("webhook-signature", signature),
            ];
            let header = |(name, value): (&'static str, &str)| {
                (axum::http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            };
            pairs.map(header).into_iter().collect::<HeaderMap>()
        };
        let good = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(endpoint.verify(&headers(good, "1614265330"), body), Ok(()));
        assert_eq!(endpoint.verify(&headers(&format!("v1a,AAAA v1,AAAA {good}"), "1614265330"), body), Ok(()));
        assert!(endpoint.verify(&headers(good, "1614265330"), b"{}").is_err());
        assert!(endpoint.verify(&headers(good, "1614265331"), body).is_err());
        assert!(endpoint.verify(&headers(good, "1614260000"), body).is_err());
        assert!(endpoint.verify(&headers("v1a,AAAA", "1614265330"), body).is_err());
        assert!(endpoint.verify(&HeaderMap::new(), body).is_err());
    }
}
