use std::time::Duration;

use reqwest::Method;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::budget::{Limits, Priority};
use super::client::{Call, Vendor};
use super::error::SellError;
use super::firehose::small;
use super::{Poll, wire};
use crate::clock::Clock;
use crate::config::{AccountConfig, DialectChoice};
use crate::event::grant::GrantBook;
use crate::event::ports::Dialect;
use crate::event::{AccountName, Position};
use crate::telemetry::causes;

/// How long a check waits for one answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// A clock that is further off than this is worth a word.
const SKEW: Duration = Duration::from_secs(30);

/// What `standpipe check` finds out about an account.
#[derive(Debug, serde::Serialize)]
pub struct CheckReport {
    /// The account.
    pub account: AccountName,
    /// Whether the vendor answered at all.
    pub reachable: bool,
    /// The dialect that it speaks, as far as it could be told.
    pub dialect: Option<Dialect>,
    /// Whether it accepted the token; none where it could not be asked.
    pub token_accepted: Option<bool>,
    /// Whether the Firehose could be read; none where it could not be asked.
    pub firehose: Option<bool>,
    /// Whether Core may be read, by which lookups are answered; none where it could not be asked.
    pub core: Option<bool>,
    /// Whom the credential stands for, where the dialect tells.
    pub user: Option<String>,
    /// The streams that it offers.
    pub streams: Vec<String>,
    /// The vendor's clock less ours, in seconds; none where it does not say.
    pub clock_skew_seconds: Option<f64>,
    /// How it is authorized, in words.
    pub authorization: String,
    /// Requests a minute and an hour.
    pub requests: Option<(u32, u32)>,
    /// What is wrong, with the way out.
    pub errors: Vec<String>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

impl CheckReport {
    /// Whether everything that a poll needs is there.
    #[must_use]
    pub fn good(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Asks the vendor what `run` would ask first: who speaks there, whether the token is good, whether the Firehose can
/// be read, whether Core can, and what time it is. Makes three requests at most (four where a token is refreshed).
///
/// A refresh token is used as `run` uses it, by the row of `grants` that replicas share: without one the vendor is not asked.
pub async fn check<B: GrantBook>(
    account: &AccountName,
    config: &AccountConfig,
    clock: &Clock,
    grants: Option<&B>,
) -> CheckReport {
    let mut report = CheckReport {
        account: account.clone(),
        reachable: false,
        dialect: None,
        token_accepted: None,
        firehose: None,
        core: None,
        user: None,
        streams: Vec::new(),
        clock_skew_seconds: None,
        authorization: "by a token".to_owned(),
        requests: None,
        errors: Vec::new(),
        warnings: Vec::new(),
    };
    if let Err(error) = authorize_and_look(config, clock, grants, &mut report).await {
        report.judge(&error);
    }
    report
}

async fn authorize_and_look<B: GrantBook>(
    config: &AccountConfig,
    clock: &Clock,
    grants: Option<&B>,
    report: &mut CheckReport,
) -> Result<(), SellError> {
    let vendor = Vendor::new(&report.account, config, clock.clone())?;
    if !vendor.is_oauth() {
        return look(&vendor, config, clock, report).await;
    }
    "by OAuth 2.0".clone_into(&mut report.authorization);
    let Some(grants) = grants else {
        report.reachable = true;
        report.warnings.push(
            "the vendor was not asked: access tokens are kept in the ledger, and there is none yet; the first `run` uses \
             the configured refresh token"
                .to_owned(),
        );
        return Ok(());
    };
    let done = CancellationToken::new();
    let asked = async {
        let told = look(&vendor, config, clock, report).await;
        if let Some(left) = vendor.token_valid_for() {
            let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
            report.authorization = format!("by OAuth 2.0; its access token is good for {left}, then it is renewed");
        }
        done.cancel();
        told
    };
    tokio::join!(asked, vendor.keep_grant(grants, &|_: Option<&str>| {}, &done)).0
}

async fn look(
    vendor: &Vendor,
    config: &AccountConfig,
    clock: &Clock,
    report: &mut CheckReport,
) -> Result<(), SellError> {
    let mut call = small(Method::GET, &["v3", "firehose"], None);
    call.timeout = PATIENCE;
    let listing = vendor.call(&call).await;
    let asked_at = clock.now();
    let found = match listing {
        Ok(answer) => {
            report.note_clock(answer.date, asked_at);
            let listed = wire::listing(&answer.body).map_err(|error| SellError::wire(error, answer.body))?;
            report.streams = listed.iter().map(|listed| listed.stream.to_string()).collect();
            Dialect::Reference
        }
        Err(SellError::Missing { .. }) => Dialect::Live,
        Err(error) => return Err(error),
    };
    report.reachable = true;
    report.dialect = Some(found);
    let limits = Limits::of(found, config.requests_per_minute, config.requests_per_hour);
    report.requests = Some((limits.per_minute, limits.per_hour));
    if let DialectChoice::Fixed(configured) = config.dialect
        && configured != found
    {
        let (configured, found) = (configured.as_str(), found.as_str());
        report.errors.push(format!("dialect = {configured:?} is configured, but the vendor speaks {found}"));
    }
    check_core(vendor, found, clock, report).await;
    match found {
        Dialect::Reference => {
            (report.token_accepted, report.firehose) = (Some(true), Some(true));
            for configured in config.streams.iter().filter(|name| *name != "*" && !report.streams.contains(*name)) {
                report.warnings.push(format!("the stream {configured:?} is configured, but not listed by the vendor"));
            }
        }
        Dialect::Live => check_live(vendor, config, report).await?,
    }
    Ok(())
}

/// Core is asked for the least that it has: what the door lends and enrichment needs. Its answer has the vendor's clock, which
/// the 404 by which the live dialect is known need not have.
async fn check_core(vendor: &Vendor, dialect: Dialect, clock: &Clock, report: &mut CheckReport) {
    let mut call = match dialect {
        Dialect::Reference => Call { query: &[("limit", "1")], ..small(Method::GET, &["v3", "deals"], None) },
        Dialect::Live => small(Method::GET, &["v2", "users", "self"], None),
    };
    (call.api, call.priority, call.timeout) = ("core", Priority::Passthrough, PATIENCE);
    match vendor.call(&call).await {
        Ok(answer) => {
            report.note_clock(answer.date, clock.now());
            report.core = Some(true);
            report.user = if dialect == Dialect::Live { wire::user(&answer.body) } else { None };
        }
        // The Firehose says so, too.
        Err(SellError::Unauthorized { .. }) => {}
        Err(error) => {
            report.core = matches!(error, SellError::Forbidden { .. }).then_some(false);
            let causes = causes(&error);
            report
                .warnings
                .push(format!("Core does not answer, so that lookups and enrichment will not, either: {causes}"));
        }
    }
}

/// The live dialect lists nothing: the first configured stream is asked for its newest end.
async fn check_live(vendor: &Vendor, config: &AccountConfig, report: &mut CheckReport) -> Result<(), SellError> {
    report.streams = wire::LIVE_STREAMS.map(str::to_owned).to_vec();
    let first = config.streams.iter().find(|name| *name != "*").map_or("deals", String::as_str);
    let poll = Poll {
        dialect: Dialect::Live,
        path: first,
        position: &Position::top(),
        limit: 1,
        most: u64::MAX,
        wait: Duration::ZERO,
    };
    let slot = vendor.budget().take(Priority::Firehose).await;
    if let Ok(told) = tokio::time::timeout(PATIENCE, vendor.poll(poll, slot)).await {
        drop(told?);
    } else {
        report.errors.push(format!("no answer from the stream {first:?} within {} s", PATIENCE.as_secs()));
        return Ok(());
    }
    (report.token_accepted, report.firehose) = (Some(true), Some(true));
    Ok(())
}

impl CheckReport {
    fn judge(&mut self, error: &SellError) {
        self.reachable |= !matches!(
            error,
            SellError::Client { .. }
                | SellError::Credential { .. }
                | SellError::Unreachable { .. }
                | SellError::NoAccessToken { .. }
        );
        let authorize = format!("; authorize it anew: `standpipe accounts authorize {}`", self.account);
        let advice = match error {
            SellError::ReauthRequired { .. } => {
                self.token_accepted = Some(false);
                authorize.as_str()
            }
            SellError::Unauthorized { .. } => {
                self.token_accepted = Some(false);
                "; check the token, and that it belongs to this account"
            }
            SellError::Forbidden { .. } => {
                (self.token_accepted, self.firehose) = (Some(true), Some(false));
                ""
            }
            SellError::Missing { .. } => "; check base_url and the stream's name",
            SellError::Unreachable { .. } => "; check base_url, the network and the machine's roots of trust",
            _ => "",
        };
        self.errors.push(format!("{}{advice}", causes(error)));
    }

    fn note_clock(&mut self, theirs: Option<OffsetDateTime>, ours: OffsetDateTime) {
        let Some(theirs) = theirs else { return };
        let skew = theirs - ours;
        let known = self.clock_skew_seconds.replace(skew.as_seconds_f64()).is_some();
        if !known && skew.unsigned_abs() > SKEW {
            let seconds = skew.whole_seconds();
            self.warnings.push(format!("the vendor's clock is {seconds} s off ours: lag and headroom will be wrong"));
        }
    }
}
