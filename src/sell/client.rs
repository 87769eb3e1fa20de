use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::auth::{Authorizer, Bearer};
use super::budget::{Budget, Limits, Priority, Slot};
use super::error::{SellDisposition, SellError, excerpt};
use super::grant;
use crate::clock::Clock;
use crate::config::{AccountConfig, DialectChoice};
use crate::event::AccountName;
use crate::event::grant::GrantBook;
use crate::event::ports::Dialect;
use crate::http::{self, Transport};
use crate::mask::Mask;
use crate::telemetry::metrics::VENDOR_REQUESTS_TOTAL;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound on a whole request, its body included, beside what the request itself waits for.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// How much is read of an answer that is not a page.
pub(super) const SMALL_ANSWER: u64 = 1024 * 1024;
/// The longest wait that is taken from a `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(15);

/// One account's way to the vendor. Cheap to clone; all clones share connections, token and budget.
#[derive(Clone)]
pub struct Vendor(pub(super) Arc<Inner>);

pub(super) struct Inner {
    account: AccountName,
    origin: Url,
    pub(super) http: Transport,
    pub(super) authorizer: Authorizer,
    budget: Budget,
    dialect: Mutex<Option<Dialect>>,
    requests_per_minute: Option<u32>,
    requests_per_hour: Option<u32>,
    max_page_bytes: u64,
    clock: Clock,
}

/// One request.
#[derive(Debug)]
pub struct Call<'a> {
    /// Which of the vendor's APIs, for the metric.
    pub api: &'static str,
    /// Its place in the budget's queue.
    pub priority: Priority,
    /// The method.
    pub method: Method,
    /// The path below `base_url`, in segments that are encoded here.
    pub path: &'a [&'a str],
    /// The query, encoded here.
    pub query: &'a [(&'a str, &'a str)],
    /// A JSON body.
    pub body: Option<Vec<u8>>,
    /// Bound on the whole request.
    pub timeout: Duration,
    /// How many bytes of the answer are read, at most.
    pub most: u64,
}

/// A good answer.
#[derive(Debug)]
pub struct Answer {
    /// 2xx.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
    /// What the vendor's clock says.
    pub date: Option<OffsetDateTime>,
}

impl fmt::Debug for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vendor({} at {})", self.0.account, self.0.origin)
    }
}

impl Vendor {
    /// Makes the client of an account; nothing is asked yet.
    pub fn new(account: &AccountName, config: &AccountConfig, clock: Clock) -> Result<Self, SellError> {
        let http = crate::http::client_builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(50))
            .tcp_keepalive(Duration::from_secs(30))
            .build()
            .map_err(|error| SellError::Client { base_url: config.base_url.clone(), why: error.to_string() })?;
        Self::over(account, config, clock, Transport::Network(http))
    }

    /// As [`Vendor::new`], over a transport of one's own.
    pub fn over(
        account: &AccountName,
        config: &AccountConfig,
        clock: Clock,
        http: Transport,
    ) -> Result<Self, SellError> {
        let unusable = |why: String| SellError::Client { base_url: config.base_url.clone(), why };
        let origin = Url::parse(&config.base_url).map_err(|error| unusable(error.to_string()))?;
        if origin.cannot_be_a_base() || origin.host().is_none() {
            return Err(unusable("it names no host".to_owned()));
        }
        // Until the dialect is known the narrower limits hold.
        let limits = Limits::of(Dialect::Reference, config.requests_per_minute, config.requests_per_hour);
        Ok(Self(Arc::new(Inner {
            account: account.clone(),
            origin,
            http,
            authorizer: Authorizer::new(config.auth.clone()),
            budget: Budget::new(account.as_str(), limits),
            dialect: Mutex::new(match config.dialect {
                DialectChoice::Fixed(dialect) => Some(dialect),
                DialectChoice::Auto => None,
            }),
            requests_per_minute: config.requests_per_minute,
            requests_per_hour: config.requests_per_hour,
            max_page_bytes: config.max_page_bytes,
            clock,
        })))
    }

    /// The account that it belongs to.
    #[must_use]
    pub fn account(&self) -> &AccountName {
        &self.0.account
    }

    /// The budget that every request passes.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.0.budget
    }

    pub(super) fn max_page_bytes(&self) -> u64 {
        self.0.max_page_bytes
    }

    /// The limits under a dialect, as configured or as the vendor sets them.
    #[must_use]
    pub fn limits(&self, dialect: Dialect) -> Limits {
        Limits::of(dialect, self.0.requests_per_minute, self.0.requests_per_hour)
    }

    /// Sets the budget to the limits of the dialect that the account speaks.
    pub fn speaks(&self, dialect: Dialect) {
        *self.0.dialect.lock().unwrap_or_else(PoisonError::into_inner) = Some(dialect);
        self.0.budget.set_limits(self.limits(dialect));
    }

    /// The dialect that it speaks, where that is configured or was found out.
    #[must_use]
    pub fn dialect(&self) -> Option<Dialect> {
        *self.0.dialect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where everything goes; nothing below it but the configured path.
    #[must_use]
    pub fn origin(&self) -> &Url {
        &self.0.origin
    }

    /// Whether the configured credential was changed since the vendor last refused it.
    #[must_use]
    pub fn credential_changed(&self) -> bool {
        self.0.authorizer.changed_since_refused()
    }

    /// Whether the account is authorized by OAuth.
    #[must_use]
    pub fn is_oauth(&self) -> bool {
        self.0.authorizer.grant().is_some()
    }

    /// Keeps the access token of an account that is authorized by OAuth good until `stop`, shared with all who use the same
    /// book; nothing else renews it. `told` hears what is wrong with it, and when it is good again. An exchange that is under
    /// way at the stop is brought to its end. Ends at once for an account with a token.
    pub async fn keep_grant(
        &self,
        book: &impl GrantBook,
        told: &(impl Fn(Option<&str>) + Sync),
        stop: &CancellationToken,
    ) {
        if let Some(grant) = self.0.authorizer.grant() {
            grant::keep(grant, self, book, told, stop).await;
        }
    }

    /// What is left of the access token's life, where one of OAuth is known and good.
    #[must_use]
    pub fn token_valid_for(&self) -> Option<Duration> {
        self.0.authorizer.grant().and_then(grant::Grant::valid_for)
    }

    pub(super) fn grant(&self) -> Option<&grant::Grant> {
        self.0.authorizer.grant()
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        self.0.http.client()
    }

    /// Asks the vendor, within the budget. A 401 is answered by one new token, where one is to be had; the token goes
    /// to the account's own origin only.
    pub async fn call(&self, call: &Call<'_>) -> Result<Answer, SellError> {
        let slot = self.0.budget.take(call.priority).await;
        self.call_with(call, slot).await
    }

    /// As [`Vendor::call`], with a slot of the budget that was taken before.
    pub async fn call_with(&self, call: &Call<'_>, slot: Slot) -> Result<Answer, SellError> {
        let told = async {
            let bearer = self.0.authorizer.bearer().await?;
            match self.send(call, &bearer, slot).await {
                Err(SellError::Unauthorized { excerpt }) => {
                    let Some(other) = self.0.authorizer.after_refusal(&bearer).await? else {
                        return Err(SellError::Unauthorized { excerpt });
                    };
                    let slot = self.0.budget.take(call.priority).await;
                    self.send(call, &other, slot).await
                }
                told => told,
            }
        };
        let told = told.await;
        if told.as_ref().is_err_and(|error| error.disposition() == SellDisposition::Unauthorized) {
            self.0.authorizer.note_refused();
        }
        told
    }

    async fn send(&self, call: &Call<'_>, bearer: &Bearer, slot: Slot) -> Result<Answer, SellError> {
        let mut url = self.0.origin.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(call.path);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        let mut request = self.0.http.client().request(call.method.clone(), url).timeout(call.timeout);
        request = request.bearer_auth(bearer.token()).header(ACCEPT, "application/json");
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let told = self.exchange(call.api, slot, call.most, request).await;
        // Any other answer came from behind the door that a token opens.
        if !matches!(&told, Err(SellError::Unauthorized { .. } | SellError::Unreachable { .. })) {
            self.0.authorizer.note_accepted(bearer);
        }
        told
    }

    async fn exchange(
        &self,
        api: &'static str,
        slot: Slot,
        most: u64,
        request: reqwest::RequestBuilder,
    ) -> Result<Answer, SellError> {
        let request = request.build().map_err(|source| SellError::Unreachable { source: source.without_url() })?;
        let mask = Mask::of(&request);
        let told = match self.execute(api, slot, request).await {
            Ok(response) => self.read(response, most, &mask).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &told {
            tracing::debug!(account = %self.0.account, api, %error, "the vendor gave no usable answer");
        }
        told
    }

    /// Sends a request and gives the head of the answer.
    pub(super) async fn execute(
        &self,
        api: &'static str,
        slot: Slot,
        request: reqwest::Request,
    ) -> Result<Response, SellError> {
        // From here on it counts, whatever comes of it.
        drop(slot);
        let sent = self.0.http.execute(request).await;
        let class = match &sent {
            Ok(response) => class(response.status()),
            Err(error) if error.is_timeout() => "timeout",
            Err(_) => "error",
        };
        self.count(api, class);
        sent.map_err(|source| SellError::Unreachable { source: source.without_url() })
    }

    fn count(&self, api: &'static str, class: &'static str) {
        metrics::counter!(
            VENDOR_REQUESTS_TOTAL,
            "account" => self.0.account.to_string(),
            "api" => api,
            "status_class" => class
        )
        .increment(1);
    }

    async fn read(&self, mut response: Response, most: u64, mask: &Mask) -> Result<Answer, SellError> {
        let status = response.status();
        let date = response.headers().get(DATE).and_then(|date| http::date(date.to_str().ok()?));
        let retry_after = self.retry_after(response.headers(), date);
        let most = if status.is_success() { most } else { most.min(SMALL_ANSWER) };
        let known = response.content_length().unwrap_or(0).min(most);
        let mut body = BytesMut::with_capacity(usize::try_from(known).unwrap_or(0));
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    if (body.len() + chunk.len()) as u64 > most && status.is_success() {
                        body.extend_from_slice(&chunk[..chunk.len().min(512)]);
                        mask.cover(&mut body);
                        return Err(SellError::Oversize { most, excerpt: excerpt(&body) });
                    }
                    body.extend_from_slice(&chunk);
                    if body.len() as u64 > most {
                        break;
                    }
                }
                Ok(None) => break,
                // Of an answer that is an error anyhow, a part will do.
                Err(_) if !status.is_success() => break,
                Err(source) => return Err(SellError::Unreachable { source: source.without_url() }),
            }
        }
        if status.is_success() {
            return Ok(Answer { status: status.as_u16(), body: body.freeze(), date });
        }
        mask.cover(&mut body);
        Err(failure(status, retry_after, excerpt(&body)))
    }

    /// `Retry-After` in either of its forms, bounded.
    fn retry_after(&self, headers: &HeaderMap, date: Option<OffsetDateTime>) -> Option<Duration> {
        // Measured by the vendor's own clock, so that ours may be wrong.
        let now = date.unwrap_or_else(|| self.0.clock.now());
        let wait = http::retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, now);
        wait.map(|wait| wait.min(LONGEST_RETRY_AFTER))
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

fn failure(status: StatusCode, retry_after: Option<Duration>, excerpt: String) -> SellError {
    match status.as_u16() {
        401 => SellError::Unauthorized { excerpt },
        403 => SellError::Forbidden { excerpt },
        404 => SellError::Missing { excerpt },
        410 => SellError::Gone { excerpt },
        429 => SellError::Throttled { retry_after, excerpt },
        status @ (408 | 500..) => SellError::Failed { status, retry_after, excerpt },
        status @ 300..=399 => SellError::Redirected { status },
        status => SellError::Refused { status, excerpt },
    }
}
