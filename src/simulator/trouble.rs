//! Refusals, in the words of each dialect (sell-api.md R3, L3).

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::options::Dialect;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A parameter is missing or wrong: which, and why.
    Parameter(&'static str, &'static str),
    /// There is no `User-Agent`.
    NoUserAgent,
    Unauthorized,
    Forbidden,
    NotFound,
    /// The position is older than what is kept.
    Gone,
    OverLimit,
}

impl Trouble {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Parameter(..) | Self::NoUserAgent => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Gone => StatusCode::GONE,
            Self::OverLimit => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    fn message(&self) -> &'static str {
        match self {
            Self::Parameter(..) => "Invalid request parameters",
            Self::NoUserAgent => "The User-Agent header is required.",
            Self::Unauthorized => "The access token is invalid, expired or revoked.",
            Self::Forbidden => {
                "The Firehose API is not part of this account's plan, or needs the token of a root user."
            }
            Self::NotFound => "There is no such resource.",
            Self::Gone => "The position is older than the 72 hours of history that are kept.",
            Self::OverLimit => "Too many requests.",
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Parameter(..) => "invalid_param",
            Self::NoUserAgent => "missing_user_agent",
            Self::Unauthorized => "invalid_token",
            Self::Forbidden => "access_denied",
            Self::NotFound => "not_found",
            Self::Gone => "position_expired",
            Self::OverLimit => "too_many_requests",
        }
    }

    /// The refusal as the dialect spells it.
    pub fn answer(&self, dialect: Dialect, request: &str) -> Response {
        match dialect {
            Dialect::Reference => {
                let mut error = json!({ "code": self.status().as_u16(), "message": self.message() });
                if let Self::Parameter(field, why) = self {
                    error["details"] = json!([{ "field": field, "message": why }]);
                }
                json_answer(self.status(), json!({ "error": error }).to_string())
            }
            // Without a hint when to come back, and not as JSON: so it is.
            Dialect::Live if *self == Self::OverLimit => {
                (self.status(), [(header::CONTENT_TYPE, "text/plain")], "Too Many Requests\n").into_response()
            }
            Dialect::Live => {
                let (field, details) = match self {
                    Self::Parameter(field, why) => (Some(*field), *why),
                    _ => (None, self.message()),
                };
                let error = json!({
                    "resource": "event", "field": field, "code": self.code(), "message": self.message(),
                    "details": details,
                });
                let body = json!({
                    "errors": [{ "error": error, "meta": { "type": "error" } }],
                    "meta": { "type": "errors", "http_status": self.status().to_string(), "logref": request },
                });
                json_answer(self.status(), body.to_string())
            }
        }
    }
}

pub(super) fn json_answer(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = (status, body.into()).into_response();
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
