//! Answers of our own, in the vendor's error form of the account's dialect, so that its SDKs understand them.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use uuid::Uuid;

use crate::event::ports::Dialect;

/// Why the door itself answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// One word for programs: the vendor's own where it has one.
    pub(super) code: &'static str,
    /// One sentence for people.
    pub(super) message: String,
    /// When another try makes sense.
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// As the metric's label says it.
    pub(super) fn outcome(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => "throttled",
            status if status.is_server_error() => "unanswered",
            _ => "refused",
        }
    }

    /// The answer. `standpipe-error` tells it apart from the vendor's own.
    pub(super) fn answer(&self, dialect: Dialect) -> Response<Body> {
        let id = Uuid::new_v4();
        let body = match dialect {
            Dialect::Reference => json!({
                "error": { "code": self.status.as_u16(), "message": self.message, "details": [] }
            }),
            Dialect::Live => json!({
                "errors": [{
                    "error": { "resource": null, "field": null, "code": self.code, "message": self.message, "details": self.message },
                    "meta": { "type": "error" }
                }],
                "meta": { "type": "errors", "http_status": self.status.to_string(), "logref": id }
            }),
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("standpipe-error", HeaderValue::from_static(self.code));
        if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
            headers.insert("x-request-id", id);
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().saturating_add(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
