//! Bodies in both directions, within bounds of bytes and of time.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, StatusCode, header};
use futures_util::stream;
use tokio::time::Instant;

use super::links::{self, Door, Links};
use super::refusal::Refusal;
use crate::lookup::{self, Answer};

/// The longest request body.
pub(super) const MOST_UP: usize = 1024 * 1024;
/// The longest answer.
pub(super) const MOST_DOWN: u64 = 32 * 1024 * 1024;
/// A request body must be here by then.
const UP_WITHIN: Duration = Duration::from_secs(15);
/// An answer may stand still for so long,
const STALLED: Duration = Duration::from_secs(15);
/// and take so long in all.
const DOWN_WITHIN: Duration = Duration::from_mins(5);

/// The whole body of a request.
pub(super) async fn up(body: Body) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(UP_WITHIN, axum::body::to_bytes(body, MOST_UP)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            // It wraps what went wrong: the bound, or a caller that broke off.
            tracing::debug!(%error, "a request's body was not read");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body broke off, or is longer than 1 MiB"))
        }
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body was not here within 15 s")),
    }
}

/// The answer, passed on as it comes.
///
/// It is cut off where it is too long, stands still or takes too long: its status has been told by then, and a body that
/// ends early is the one way to say it.
pub(super) fn down(
    answer: Answer,
    mut headers: HeaderMap,
    door: Door,
    head_only: bool,
) -> Result<Response<Body>, Refusal> {
    let encoding = answer.headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        // Never decoded here, so that no answer grows; and a caller that did not ask for it need not decode it.
        let why = "the vendor's answer is compressed, although nobody asked for that";
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, "bad_gateway", why));
    }
    let length = match &answer.body {
        lookup::Body::Whole(body) => Some(body.len() as u64),
        lookup::Body::Passing { rest, .. } => rest.content_length(),
    };
    if length.is_some_and(|length| length > MOST_DOWN) {
        let why = "the vendor's answer is longer than 32 MiB";
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, "too_large", why));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_plain = |body: &lookup::Body| matches!(body, lookup::Body::Whole(body) if !links::may_have(body));
    let mut links = kind.is_some_and(|kind| kind.contains("json") && !is_plain(&answer.body)).then(|| Links::new(door));
    let body = if head_only {
        Body::empty()
    } else {
        if links.is_some() {
            headers.remove(header::CONTENT_LENGTH);
        }
        match answer.body {
            lookup::Body::Whole(body) => Body::from(match &mut links {
                Some(links) => Bytes::from([links.pass(&body), links.end()].concat()),
                None => body,
            }),
            lookup::Body::Passing { first, rest } => {
                let until = Instant::now() + DOWN_WITHIN;
                let passing = Passing { first: Some(first), rest, links, left: MOST_DOWN, until, ended: false };
                Body::from_stream(stream::try_unfold(passing, Passing::next))
            }
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// An answer on its way.
struct Passing {
    /// What has come already.
    first: Option<Bytes>,
    rest: reqwest::Response,
    links: Option<Links>,
    left: u64,
    until: Instant,
    ended: bool,
}

impl Passing {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        if self.ended {
            return Ok(None);
        }
        let by = self.until.min(Instant::now() + STALLED);
        let piece = match self.first.take().filter(|first| !first.is_empty()) {
            Some(first) => Some(first),
            None => match tokio::time::timeout_at(by, self.rest.chunk()).await {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => return Err(cut(&error.without_url())),
                Err(late) => return Err(cut(&late)),
            },
        };
        let Some(piece) = piece else {
            self.ended = true;
            let rest = self.links.as_mut().map(Links::end).unwrap_or_default();
            return Ok(Some((rest.into(), self)));
        };
        self.left = match self.left.checked_sub(piece.len() as u64) {
            Some(left) => left,
            None => return Err(cut(&"it is longer than 32 MiB")),
        };
        let piece = match &mut self.links {
            Some(links) => links.pass(&piece).into(),
            None => piece,
        };
        Ok(Some((piece, self)))
    }
}

fn cut(why: &dyn std::fmt::Display) -> io::Error {
    tracing::warn!(%why, "an answer of the vendor is cut off at the door");
    io::Error::other(why.to_string())
}
