use std::time::Duration;

use super::wire::WireError;
use crate::config::SecretError;

/// How many bytes of an unexpected answer an error shows.
const EXCERPT_BYTES: usize = 200;

/// What the Firehose needs besides a valid token (sell-api.md L4).
pub(super) const FIREHOSE_HINT: &str =
    "the Firehose needs a Growth plan or better, and the token of a root user (account owner)";

/// A call to the vendor that gave no usable answer. Shows neither a token nor a position.
#[derive(Debug, thiserror::Error)]
pub enum SellError {
    /// `base_url` or the TLS set-up cannot be used at all.
    #[error("cannot make a client for {base_url}: {why}")]
    Client {
        /// What is configured.
        base_url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The configured credential cannot be read.
    #[error("cannot read the account's credential")]
    Credential {
        /// Which file, and why.
        #[source]
        source: SecretError,
    },
    /// The configured token cannot be sent at all.
    #[error("the account's token cannot stand in a header: it must be visible ASCII without white space")]
    UnusableToken,
    /// OAuth: the vendor does not take the refresh token any more. It is not asked again with it.
    #[error("reauth_required: the vendor does not accept the account's authorization any more ({why})")]
    ReauthRequired {
        /// What it said, without a secret.
        why: String,
    },
    /// OAuth: what is configured, or kept in the ledger, gives no access token.
    #[error("the account's authorization cannot be used: {why}")]
    UnusableGrant {
        /// Why, without a secret.
        why: String,
    },
    /// OAuth: there is no access token now.
    #[error("there is no access token for the account now: {why}")]
    NoAccessToken {
        /// Why, without a secret.
        why: String,
    },
    /// No answer, or only a part of one.
    #[error("the vendor is out of reach")]
    Unreachable {
        /// What the HTTP client said.
        #[source]
        source: reqwest::Error,
    },
    /// 429.
    #[error("the vendor throttles this account (429){}", shown(.excerpt))]
    Throttled {
        /// How long the vendor asks to wait.
        retry_after: Option<Duration>,
        /// The first bytes of the answer.
        excerpt: String,
    },
    /// 5xx, or 408.
    #[error("the vendor failed with {status}{}", shown(.excerpt))]
    Failed {
        /// The status.
        status: u16,
        /// How long the vendor asks to wait.
        retry_after: Option<Duration>,
        /// The first bytes of the answer.
        excerpt: String,
    },
    /// 401, also after one refresh.
    #[error("the vendor does not accept the account's token{}", shown(.excerpt))]
    Unauthorized {
        /// The first bytes of the answer.
        excerpt: String,
    },
    /// 403.
    #[error("the vendor forbids it (403): {FIREHOSE_HINT}{}", shown(.excerpt))]
    Forbidden {
        /// The first bytes of the answer.
        excerpt: String,
    },
    /// 404.
    #[error("the vendor knows nothing there (404){}", shown(.excerpt))]
    Missing {
        /// The first bytes of the answer.
        excerpt: String,
    },
    /// 410: the position is older than what the source keeps.
    #[error("the position is older than what the vendor keeps (410){}", shown(.excerpt))]
    Gone {
        /// The first bytes of the answer.
        excerpt: String,
    },
    /// 3xx: never followed, because the token belongs to one origin.
    #[error("the vendor answered {status}, a redirect, which is not followed: check base_url")]
    Redirected {
        /// The status.
        status: u16,
    },
    /// Any other status.
    #[error("the vendor refused the request with {status}{}", shown(.excerpt))]
    Refused {
        /// The status.
        status: u16,
        /// The first bytes of the answer.
        excerpt: String,
    },
    /// The answer is longer than is read.
    #[error("the answer is longer than {most} bytes; it begins with {excerpt:?}")]
    Oversize {
        /// The bound.
        most: u64,
        /// The first bytes of the answer.
        excerpt: String,
    },
    /// The answer is not what was promised.
    #[error("{source}; it begins with {excerpt:?}")]
    Wire {
        /// What is wrong.
        source: WireError,
        /// The first bytes of the answer.
        excerpt: String,
        /// The answer, to be kept where nothing else helps.
        body: bytes::Bytes,
    },
}

/// What a poll does about a [`SellError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SellDisposition {
    /// Again, with backoff, and not before this wait.
    Retry(Option<Duration>),
    /// Nothing of this account works until its credential is accepted again.
    Unauthorized,
    /// Not without another plan or token: slowly again.
    Forbidden,
    /// Not there: subscribe again, or look again in an hour.
    Missing,
    /// History was lost: a gap.
    Gap,
    /// Ask for less at once.
    Shrink,
}

impl SellError {
    pub(super) fn wire(source: WireError, body: bytes::Bytes) -> Self {
        Self::Wire { source, excerpt: excerpt(&body), body }
    }

    /// What to do about it.
    #[must_use]
    pub const fn disposition(&self) -> SellDisposition {
        match self {
            Self::Throttled { retry_after, .. } | Self::Failed { retry_after, .. } => {
                SellDisposition::Retry(*retry_after)
            }
            Self::Client { .. }
            | Self::Unreachable { .. }
            | Self::Redirected { .. }
            | Self::Refused { .. }
            | Self::NoAccessToken { .. } => SellDisposition::Retry(None),
            Self::Credential { .. }
            | Self::UnusableToken
            | Self::Unauthorized { .. }
            | Self::ReauthRequired { .. }
            | Self::UnusableGrant { .. } => SellDisposition::Unauthorized,
            Self::Forbidden { .. } => SellDisposition::Forbidden,
            Self::Missing { .. } => SellDisposition::Missing,
            Self::Gone { .. } => SellDisposition::Gap,
            Self::Oversize { .. } | Self::Wire { .. } => SellDisposition::Shrink,
        }
    }
}

/// The beginning of an answer, fit for a line of a log.
pub(super) fn excerpt(body: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT_BYTES)]).into_owned();
    text.retain(|letter| !letter.is_control() || letter == ' ');
    text
}

fn shown(excerpt: &str) -> String {
    if excerpt.is_empty() { String::new() } else { format!("; it says {excerpt:?}") }
}
