//! What an attempt came to.

use std::error::Error;
use std::io;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderMap, RETRY_AFTER};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::guard::Refused;

/// Of an answer's body, so much is read: enough to use the connection again after a sane answer, and an end to an
/// endless one.
pub const READ_BYTES: usize = 64 * 1024;
/// Of a failure's body, so much is kept.
pub const KEPT_BYTES: usize = 4 * 1024;

/// What an attempt came to.
#[derive(Debug)]
pub struct Answer {
    /// What it means.
    pub verdict: Verdict,
    /// The status; none without an answer.
    pub status: Option<u16>,
    /// What the endpoint asked us to wait.
    pub retry_after: Option<Duration>,
    /// The beginning of the body, of a failure only.
    pub body: Vec<u8>,
    /// What went wrong, in words.
    pub error: String,
    /// When the attempt began.
    pub at: OffsetDateTime,
    /// The same by the monotonic clock.
    pub began: Instant,
    /// How long it took.
    pub took: Duration,
}

/// What an attempt means for its delivery and its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 2xx.
    Delivered,
    /// Anything else that says nothing more: try again by the schedule.
    Failed(Failure),
    /// 429, 502, 503, 504: try again by the schedule, and go easy on the endpoint.
    Throttled,
    /// 410: the endpoint wants no more.
    Gone,
}

/// The kinds of failure, as the metric tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A status.
    Status(u16),
    /// No answer in time.
    Timeout,
    /// The guard refused the address: nothing was sent.
    Refused,
    /// The connection could not be made or broke.
    Connection,
}

impl Answer {
    /// `status_class` of `webhook_attempts_total`.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match (self.verdict, self.status) {
            (Verdict::Failed(Failure::Timeout), _) => "timeout",
            (Verdict::Failed(Failure::Refused), _) => "refused",
            (_, Some(200..=299)) => "2xx",
            (_, Some(300..=399)) => "3xx",
            (_, Some(400..=499)) => "4xx",
            (_, Some(500..=599)) => "5xx",
            _ => "error",
        }
    }
}

/// What a status means.
#[must_use]
pub fn verdict(status: StatusCode) -> Verdict {
    match status.as_u16() {
        200..=299 => Verdict::Delivered,
        410 => Verdict::Gone,
        429 | 502..=504 => Verdict::Throttled,
        other => Verdict::Failed(Failure::Status(other)),
    }
}

/// What the endpoint asked us to wait.
#[must_use]
pub fn asked_to_wait(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    crate::http::retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}

/// What an endpoint answered.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The beginning of the body, at most [`KEPT_BYTES`].
    pub body: Vec<u8>,
}

/// A body while it is read.
#[derive(Debug, Default)]
pub struct Beginning {
    /// What is kept of it.
    pub kept: Vec<u8>,
    read: usize,
}

impl Beginning {
    /// Takes what came. Says whether more is wanted.
    pub fn take(&mut self, chunk: &[u8]) -> bool {
        let room = KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        self.read += chunk.len();
        self.read < READ_BYTES
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// It did not come in time.
    Late,
    /// There was no connection within `connect_timeout`.
    Unreached,
    /// There is no connection.
    Unconnected(Box<dyn Error + Send + Sync>),
    /// The connection broke.
    Broken(Box<dyn Error + Send + Sync>),
}

impl Unanswered {
    /// What it means, and its words. None of them holds the URL, which may be a secret (INV-16).
    #[must_use]
    pub fn failure(&self, timeout: Duration) -> (Failure, String) {
        let (what, error) = match self {
            Self::Late => return (Failure::Timeout, format!("no answer within {timeout:?}")),
            Self::Unreached => return (Failure::Timeout, "no connection within `connect_timeout`".to_owned()),
            Self::Unconnected(error) => ("cannot connect", error),
            Self::Broken(error) => ("the connection broke", error),
        };
        let mut cause: Option<&(dyn Error + 'static)> = Some(&**error);
        let mut last = String::new();
        while let Some(one) = cause {
            if let Some(refused) = one.downcast_ref::<Refused>() {
                return (Failure::Refused, refused.to_string());
            }
            let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
            if matches!(self, Self::Unconnected(_)) && one.downcast_ref().is_some_and(timed_out) {
                return Self::Unreached.failure(timeout);
            }
            last = one.to_string();
            cause = one.source();
        }
        (Failure::Connection, format!("{what}: {last}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_means_what_the_contract_says() {
        let status = |code| verdict(StatusCode::from_u16(code).unwrap());
        for code in [200, 201, 202, 204, 299] {
            assert_eq!(status(code), Verdict::Delivered, "{code}");
        }
        for code in [301, 302, 307, 308, 400, 401, 404, 409, 413, 500, 501, 505] {
            assert_eq!(status(code), Verdict::Failed(Failure::Status(code)), "{code}");
        }
        for code in [429, 502, 503, 504] {
            assert_eq!(status(code), Verdict::Throttled, "{code}");
        }
        assert_eq!(status(410), Verdict::Gone);
    }
}
