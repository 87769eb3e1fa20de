//! The Firehose's calls in both dialects (sell-api.md R4, L4).

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;

use super::budget::{Priority, Slot};
use super::client::{Call, REQUEST_TIMEOUT, SMALL_ANSWER, Vendor};
use super::error::SellError;
use super::wire::{self, PageContent, PageOf, Subscribed};
use crate::event::ports::Dialect;
use crate::event::{Position, StreamName};

/// The most events that the live dialect gives at once.
const LIVE_LIMIT: u16 = 100;
/// The most events that the reference dialect gives at once.
const REFERENCE_LIMIT: u16 = 1_000;

/// A stream that the vendor lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamListed {
    /// Its name.
    pub stream: StreamName,
    /// The resources whose events it carries; empty where the listing does not say.
    pub resources: Vec<String>,
}

/// One poll of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Poll<'a> {
    /// The dialect that the account speaks.
    pub dialect: Dialect,
    /// What stands in the path: the subscription's id in the reference dialect, the stream's name in the live one.
    pub path: &'a str,
    /// Where to go on.
    pub position: &'a Position,
    /// How many events at most.
    pub limit: u16,
    /// How many bytes of the answer are read, at most; never more than `max_page_bytes`.
    pub most: u64,
    /// How long the vendor may hold the answer back until there is something; the reference dialect alone does.
    pub wait: Duration,
}

impl Vendor {
    /// Finds out which dialect the account speaks: a listing means reference, a 404 live, anything else is an error.
    pub async fn find_dialect(&self) -> Result<Dialect, SellError> {
        match self.listing().await {
            Ok(_) => Ok(Dialect::Reference),
            Err(SellError::Missing { .. }) => Ok(Dialect::Live),
            Err(error) => Err(error),
        }
    }

    /// The streams that the reference dialect lists.
    pub async fn listing(&self) -> Result<Vec<StreamListed>, SellError> {
        let answer = self.call(&small(Method::GET, &["v3", "firehose"], None)).await?;
        wire::listing(&answer.body).map_err(|error| SellError::wire(error, answer.body))
    }

    /// Subscribes in the reference dialect. The same name and types give the same subscription again.
    pub async fn subscribe(
        &self,
        name: &str,
        resources: &[String],
        position: &Position,
    ) -> Result<Subscribed, SellError> {
        let body = wire::subscription(name, resources, position);
        let answer = self.call(&small(Method::POST, &["v3", "firehose", "subscribe"], Some(body))).await?;
        wire::subscribed(&answer.body).map_err(|error| SellError::wire(error, answer.body))
    }

    /// The answer to a poll, as bytes.
    pub async fn poll(&self, poll: Poll<'_>, slot: Slot) -> Result<Bytes, SellError> {
        let limit = page_limit(poll.dialect, poll.limit);
        let (limit, wait) = (limit.to_string(), poll.wait.as_secs().to_string());
        let mut query = vec![("position", poll.position.as_str()), ("limit", &limit)];
        let path: &[&str] = match poll.dialect {
            Dialect::Reference => &["v3", "firehose", poll.path],
            Dialect::Live => &["v3", poll.path, "stream"],
        };
        if poll.dialect == Dialect::Reference && !poll.wait.is_zero() {
            query.push(("wait", &wait));
        }
        let call = Call {
            api: "firehose",
            priority: Priority::Firehose,
            method: Method::GET,
            path,
            query: &query,
            body: None,
            timeout: REQUEST_TIMEOUT + poll.wait,
            most: poll.most.min(self.max_page_bytes()),
        };
        Ok(self.call_with(&call, slot).await?.body)
    }
}

/// How many events a page may hold: what is wished, within what the dialect gives.
#[must_use]
pub fn page_limit(dialect: Dialect, wished: u16) -> u16 {
    let most = match dialect {
        Dialect::Reference => REFERENCE_LIMIT,
        Dialect::Live => LIVE_LIMIT,
    };
    wished.clamp(1, most)
}

/// Reads the answer to a poll; one that is no page becomes an error that shows how it begins.
pub fn page(dialect: Dialect, body: &Bytes, of: PageOf<'_>) -> Result<PageContent, SellError> {
    wire::page(dialect, body, of).map_err(|error| SellError::wire(error, body.clone()))
}

pub(super) fn small<'a>(method: Method, path: &'a [&'a str], body: Option<Vec<u8>>) -> Call<'a> {
    Call {
        api: "firehose",
        priority: Priority::Firehose,
        method,
        path,
        query: &[],
        body,
        timeout: REQUEST_TIMEOUT,
        most: SMALL_ANSWER,
    }
}
