//! Refusals of Core, Search and Sync in the words of each dialect (sell-api.md R3, L3).

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::options::Dialect;
use super::super::trouble::json_answer;

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Problem {
    /// The attribute as a JSON Pointer, or the parameter.
    pub field: Option<String>,
    pub code: &'static str,
    /// For people.
    pub details: String,
}

/// Why a request is not answered with what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Refusal {
    pub status: StatusCode,
    /// The resource that the problems are about.
    pub resource: Option<&'static str>,
    pub problems: Vec<Problem>,
}

impl Refusal {
    fn one(status: StatusCode, field: Option<String>, code: &'static str, details: impl Into<String>) -> Self {
        Self { status, resource: None, problems: vec![Problem { field, code, details: details.into() }] }
    }

    pub fn not_found() -> Self {
        Self::one(StatusCode::NOT_FOUND, None, "not_found", "There is no such resource.")
    }

    pub fn no_path() -> Self {
        Self::one(StatusCode::NOT_FOUND, None, "incorrect_path", "Requested path was not found.")
    }

    pub fn no_method() -> Self {
        Self::one(StatusCode::METHOD_NOT_ALLOWED, None, "not_allowed", "The resource does not have this method.")
    }

    pub fn parameter(name: &str, why: impl Into<String>) -> Self {
        Self::one(StatusCode::BAD_REQUEST, Some(name.to_owned()), "invalid_param", why)
    }

    pub fn header(name: &str, status: StatusCode, why: impl Into<String>) -> Self {
        Self::one(status, Some(name.to_owned()), "invalid_header", why)
    }

    pub fn payload(why: impl Into<String>) -> Self {
        Self::one(StatusCode::BAD_REQUEST, None, "invalid_payload", why)
    }

    pub fn conflict(why: impl Into<String>) -> Self {
        Self::one(StatusCode::CONFLICT, None, "conflict", why)
    }

    pub fn too_large() -> Self {
        Self::one(StatusCode::PAYLOAD_TOO_LARGE, None, "invalid_payload", "The body is too large.")
    }

    pub fn full() -> Self {
        Self::one(StatusCode::INSUFFICIENT_STORAGE, None, "full", "The simulator holds no more of what is written.")
    }

    /// A record that is not right.
    pub fn record(resource: &'static str, problems: Vec<Problem>) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, resource: Some(resource), problems }
    }

    fn message(status: StatusCode) -> &'static str {
        match status {
            StatusCode::NOT_FOUND => "Not Found",
            StatusCode::CONFLICT => "Conflict",
            StatusCode::METHOD_NOT_ALLOWED => "Method Not Allowed",
            StatusCode::NOT_ACCEPTABLE => "Not Acceptable",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "Unsupported Media Type",
            StatusCode::PAYLOAD_TOO_LARGE => "Payload Too Large",
            StatusCode::INSUFFICIENT_STORAGE => "Insufficient Storage",
            _ => "Invalid request parameters",
        }
    }

    pub fn answer(&self, dialect: Dialect, request: &str) -> Response {
        match dialect {
            Dialect::Reference => {
                // One status says that something about a request is not right.
                let status = match self.status {
                    StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
                    status => status,
                };
                let mut error = json!({ "code": status.as_u16(), "message": Self::message(status) });
                let named = self.problems.iter().filter_map(|problem| {
                    let field = problem.field.as_ref()?.trim_start_matches('/').replace('/', ".");
                    Some(json!({ "field": field, "message": problem.details }))
                });
                let details: Vec<Value> = named.collect();
                if !details.is_empty() {
                    error["details"] = json!(details);
                }
                json_answer(status, json!({ "error": error }).to_string())
            }
            Dialect::Live => {
                let errors: Vec<Value> = self
                    .problems
                    .iter()
                    .map(|problem| {
                        json!({
                            "error": {
                                "resource": self.resource, "field": problem.field, "code": problem.code,
                                "message": Self::message(self.status), "details": problem.details,
                            },
                            "meta": { "type": "error" },
                        })
                    })
                    .collect();
                let body = json!({
                    "errors": errors,
                    "meta": { "type": "errors", "http_status": self.status.to_string(), "logref": request },
                });
                json_answer(self.status, body.to_string())
            }
        }
    }
}
