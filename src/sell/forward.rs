use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};

use super::auth::Bearer;
use super::budget::{Priority, Slot};
use super::client::Vendor;
use super::error::SellError;
use crate::mask::Mask;

/// A request of somebody else, to be passed on as it is.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Which of the vendor's APIs, for the metric.
    pub api: &'static str,
    /// The method.
    pub method: Method,
    /// The path below `base_url`, in segments that are encoded here.
    pub segments: Vec<String>,
    /// Whether the path ends with a slash.
    pub slash: bool,
    /// The query, encoded.
    pub query: Option<String>,
    /// Without credentials: the account's token is added here.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Vendor {
    /// Passes a request on with the account's token, and gives the answer's head, whatever its status; the body is still to
    /// be read. A 401 is answered by one new token, where one is to be had, under the budget again. Waits as long as the
    /// vendor takes: the caller sets the deadline. Asks for an answer that is not compressed.
    pub async fn forward(&self, forward: &Forward, priority: Priority, slot: Slot) -> Result<Response, SellError> {
        let bearer = self.0.authorizer.bearer().await?;
        let answer = self.pass(forward, &bearer, slot).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            self.0.authorizer.note_accepted(&bearer);
            return Ok(answer);
        }
        match self.0.authorizer.after_refusal(&bearer).await? {
            Some(other) => {
                let slot = self.budget().take(priority).await;
                self.pass(forward, &other, slot).await
            }
            None => Ok(answer),
        }
    }

    async fn pass(&self, forward: &Forward, bearer: &Bearer, slot: Slot) -> Result<Response, SellError> {
        let mut url = self.origin().clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(&forward.segments);
            if forward.slash {
                segments.push("");
            }
        }
        url.set_query(forward.query.as_deref());
        let mut request = self.0.http.client().request(forward.method.clone(), url).headers(forward.headers.clone());
        request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity")).bearer_auth(bearer.token());
        if !forward.body.is_empty() || matches!(forward.method, Method::POST | Method::PUT | Method::PATCH) {
            request = request.body(forward.body.clone());
        }
        let request = request.build().map_err(|source| SellError::Unreachable { source: source.without_url() })?;
        // The vendor's answer is the caller's; the token is not, whoever tells it back.
        let mask = Mask::of(&request);
        Ok(mask.over(self.execute(forward.api, slot, request).await?))
    }
}
