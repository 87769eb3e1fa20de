//! A record, for what the pipe itself wants to know.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use tokio::time::Instant;

use super::ask::{Body, How, Outcome, Unanswered};
use super::{Lookups, store};
use crate::event::ports::Dialect;
use crate::sell::{Forward, Priority, Vendor, wire};

/// A record as the vendor has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The record alone, in the vendor's own bytes.
    pub record: Bytes,
    /// How long ago the vendor told it.
    pub age: Duration,
    /// Whether it was kept; else the vendor was asked for it.
    pub cached: bool,
}

/// Why a record cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The budget has nothing left for it.
    #[error("the account's budget of requests is used up but for what its streams need")]
    Throttled {
        /// How long.
        wait: Duration,
    },
    /// The vendor is out of reach, fails, or took too long: a later try may help.
    #[error("the vendor gave no answer")]
    Unreachable,
    /// The vendor refuses, or the account's credential cannot be used.
    #[error("the vendor refused the lookup with {status}")]
    Refused {
        /// The status; 401 where the credential cannot be used.
        status: u16,
    },
    /// The answer is no record, or longer than is read.
    #[error("the vendor's answer is no record")]
    Unreadable,
}

impl Lookups {
    /// As [`Lookups::record`] where nobody need be asked for that: what is kept.
    #[must_use]
    pub fn kept_record(&self, vendor: &Vendor, resource: &str, id: &str, max_age: Duration) -> Option<Found> {
        let dialect = vendor.dialect().unwrap_or(Dialect::Reference);
        let kept = self.0.store.get(&store::key(vendor.account(), &forward(dialect, resource, id)))?;
        let (account, age) = (self.0.accounts.of(vendor.account()), kept.age());
        if age >= max_age || !kept.is_fresh(&account) {
            return None;
        }
        let record = kept.record(dialect)?;
        account.asked(Some(Outcome::Hit));
        Some(Found { record, age, cached: true })
    }

    /// A record of `resource` (Core's path segment: `contacts`), at most `max_age` old, and in no case older than its newest
    /// event that this replica has recorded; none where the vendor knows none. Asks for its part of the budget as
    /// enrichment, and gives up at `deadline`. With a `max_age` of zero the vendor is asked in any case.
    pub async fn record(
        &self,
        vendor: &Vendor,
        resource: &str,
        id: &str,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Option<Found>, LookupError> {
        let dialect = vendor.dialect().unwrap_or(Dialect::Reference);
        let forward = forward(dialect, resource, id);
        let how = How {
            priority: Priority::Enrichment,
            budget_wait: deadline.saturating_duration_since(Instant::now()),
            max_age: Some(max_age),
            past: max_age.is_zero(),
            keep: true,
            deadline,
        };
        let answer = self.ask(vendor, &forward, &how).await.map_err(|why| match why {
            Unanswered::Throttled { wait } => LookupError::Throttled { wait },
            Unanswered::Unreachable | Unanswered::Late => LookupError::Unreachable,
            Unanswered::Credential => LookupError::Refused { status: 401 },
        })?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            StatusCode::TOO_MANY_REQUESTS => return Err(LookupError::Throttled { wait: Duration::from_secs(1) }),
            status if status.is_server_error() => return Err(LookupError::Unreachable),
            status if !status.is_success() => return Err(LookupError::Refused { status: status.as_u16() }),
            _ => {}
        }
        // What is longer than is kept, or comes too slowly, is no record.
        let Body::Whole(body) = answer.body else { return Err(LookupError::Unreadable) };
        debug_assert!(body.len() <= store::MOST, "longer ones are passed on");
        let record = wire::record(dialect, &body).ok_or(LookupError::Unreadable)?;
        let cached = answer.outcome == Outcome::Hit;
        Ok(Some(Found { record, age: answer.age, cached }))
    }
}

fn forward(dialect: Dialect, resource: &str, id: &str) -> Forward {
    let version = match dialect {
        Dialect::Reference => "v3",
        Dialect::Live => "v2",
    };
    let accept = (ACCEPT, HeaderValue::from_static("application/json"));
    Forward {
        api: "core",
        method: Method::GET,
        segments: vec![version.to_owned(), resource.to_owned(), id.to_owned()],
        slash: false,
        query: None,
        headers: HeaderMap::from_iter([accept]),
        body: Bytes::new(),
    }
}
