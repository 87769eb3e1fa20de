//! A request, and what it may ask for.

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value};

use super::super::dice::Dice;
use super::super::options::Dialect;
use super::super::shared::Shared;
use super::super::trouble::json_answer;
use super::refusal::Refusal;

/// A request whose body is there.
#[derive(Debug)]
pub(in super::super) struct Call<'a> {
    pub shared: &'a Shared,
    pub dialect: Dialect,
    pub method: Method,
    /// The path as it was asked, for links.
    pub path: String,
    /// The path's segments behind the version, decoded.
    pub segments: Vec<String>,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub dice: Dice,
}

impl Call<'_> {
    /// A parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A number between bounds; `otherwise` where it is absent.
    pub fn number(&self, name: &str, bounds: (usize, usize), otherwise: usize) -> Result<usize, Refusal> {
        let Some(text) = self.parameter(name) else { return Ok(otherwise) };
        match text.parse() {
            Ok(number) if (bounds.0..=bounds.1).contains(&number) => Ok(number),
            _ => Err(Refusal::parameter(name, format!("must be a number from {} to {}", bounds.0, bounds.1))),
        }
    }

    /// Refuses parameters that are not among `known`.
    pub fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        match self.query.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(Refusal::parameter(name, "is not a parameter of this resource")),
            None => Ok(()),
        }
    }

    /// The headers that a request must have for JSON both ways.
    pub fn speaks_json(&self) -> Result<(), Refusal> {
        let of = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        let accepts = |kind: &str| {
            let kind = kind.split(';').next().unwrap_or_default().trim();
            ["*/*", "application/*", "application/json"].iter().any(|json| kind.eq_ignore_ascii_case(json))
        };
        if of(header::ACCEPT).is_some_and(|accept| !accept.split(',').any(accepts)) {
            return Err(Refusal::header("Accept", StatusCode::NOT_ACCEPTABLE, "must take application/json"));
        }
        let is_json = of(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.trim().to_ascii_lowercase().starts_with("application/json"));
        // The reference dialect does not ask for it.
        if self.dialect == Dialect::Live && !self.body.is_empty() && !is_json {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Refusal::header("Content-Type", status, "must be application/json"));
        }
        Ok(())
    }

    /// The body as an object.
    pub fn object(&self) -> Result<Map<String, Value>, Refusal> {
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(Refusal::payload("The body must be an object.")),
            Err(error) => Err(Refusal::payload(format!("The body is not JSON: {error}."))),
        }
    }

    /// The attributes in the body: within an envelope in the live dialect.
    pub fn attributes(&self) -> Result<Map<String, Value>, Refusal> {
        let mut object = self.object()?;
        if self.dialect == Dialect::Reference {
            return Ok(object);
        }
        match object.remove("data") {
            Some(Value::Object(data)) if object.keys().all(|name| name == "meta") => Ok(data),
            _ => Err(Refusal::payload("The body must be an envelope with `data`.")),
        }
    }

    /// Where links lead: to the host that was asked.
    pub fn origin(&self) -> String {
        match self.headers.get(header::HOST).and_then(|host| host.to_str().ok()) {
            Some(host) => format!("http://{host}"),
            None => self.shared.url(),
        }
    }
}

/// An answer of JSON that is written already.
pub(in super::super) fn ok(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    json_answer(status, body)
}

/// An answer without a body.
pub(in super::super) fn nothing(status: StatusCode) -> Response {
    status.into_response()
}
