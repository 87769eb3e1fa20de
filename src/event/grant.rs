//! An account's OAuth grant as all replicas share it: the refresh token that is good now and the access token that came
//! with it, sealed, so that the book that keeps them cannot read them.
//!
//! A refresh token is good for one exchange. So an exchange is *claimed* first, under the lock of the grant's row, by one
//! replica; what it brought is *kept* before anybody uses it; and one that was refused is never tried again.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use time::OffsetDateTime;
use uuid::Uuid;

use super::AccountName;
use super::ports::LedgerError;

/// Configured refresh tokens that are remembered, so that a replica that still has an earlier one is known for what it is.
pub const FORMER_GRANTS: usize = 16;

/// Which key sealed a grant: says nothing of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Which refresh token is configured, without telling it: a part of its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 16]);

/// Tokens that only the holder of the key can read.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Whose.
    pub key: KeyId,
    /// Version, nonce, and what was sealed.
    pub bytes: Box<[u8]>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes under {})", self.bytes.len(), self.key)
    }
}

/// A grant as it is kept. Times are the book's, so that clocks of replicas need not agree.
#[derive(Clone, Debug)]
pub struct GrantRow {
    /// Rises with every grant that is kept; 0 before the first.
    pub generation: i64,
    /// The tokens; none until the configured refresh token was exchanged.
    pub sealed: Option<Sealed>,
    /// The configured refresh token that it began with.
    pub configured: Fingerprint,
    /// Those that were configured before it, oldest first; [`FORMER_GRANTS`] at most.
    pub former: Vec<Fingerprint>,
    /// Until the access token shall be renewed; zero when that is due.
    pub renew_in: Duration,
    /// What is left of the access token's life.
    pub valid_for: Duration,
    /// Set once the vendor has refused the refresh token: `reauth_required`.
    pub refused: Option<GrantRefused>,
    /// An exchange that was begun then, and of which nothing is known: the refresh token may be spent.
    pub doubt: Option<OffsetDateTime>,
    /// Another replica exchanges it; for so long nobody else does.
    pub claimed_for: Option<Duration>,
}

/// Why a grant is good for nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRefused {
    /// In words, without a secret.
    pub why: String,
    /// Since when.
    pub at: OffsetDateTime,
}

/// A replica that wants to exchange an account's refresh token.
#[derive(Clone, Debug)]
pub struct GrantClaim {
    /// The account.
    pub account: AccountName,
    /// The claim, of this exchange alone.
    pub claim: Uuid,
    /// The refresh token that is configured there.
    pub configured: Fingerprint,
    /// The generation whose access token the vendor has refused; else it must be due.
    pub refused: Option<i64>,
    /// How long nobody else shall exchange it, unless the claim is released before.
    pub lasts: Duration,
}

/// What became of a claim.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// The exchange is the caller's.
    Ours(GrantRow),
    /// It is not: another one has it, or it is not due, or was refused, as the row tells.
    No(GrantRow),
}

/// What an exchange brought.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// The account.
    pub account: AccountName,
    /// The generation that was exchanged.
    pub generation: i64,
    /// The refresh token that was configured then.
    pub configured: Fingerprint,
    /// The new tokens.
    pub sealed: Sealed,
    /// The access token's life.
    pub life: Duration,
    /// When of it the access token shall be renewed.
    pub renew_after: Duration,
    /// How much of its life has passed, at most.
    pub passed: Duration,
}

/// How an exchange ended that brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantFailure {
    /// The vendor answered, and did not use the refresh token: another time.
    Answered,
    /// There was no answer: whether the refresh token is spent cannot be told.
    Unanswered,
    /// The vendor does not accept the refresh token. Why, in words, without a secret.
    Refused(String),
}

/// Keeps the grants of accounts for all replicas.
pub trait GrantBook: Send + Sync + 'static {
    /// The grant as it is; none where there was never one.
    fn grant(&self, account: &AccountName) -> BoxFuture<'_, Result<Option<GrantRow>, LedgerError>>;

    /// Claims the next exchange, under the row's lock. One that names a refresh token that was never configured before
    /// replaces what is there.
    fn claim_grant(&self, claim: GrantClaim) -> BoxFuture<'_, Result<Claimed, LedgerError>>;

    /// Keeps what an exchange brought, whoever holds the claim by now, as long as what it was made of is still there. Says
    /// whether it was; asked again after a lost answer it is true, too.
    fn keep_grant(&self, new: NewGrant) -> BoxFuture<'_, Result<bool, LedgerError>>;

    /// Notes how an exchange failed, and gives the claim back. Does nothing where the claim is another one's by now; says
    /// whether it was ours.
    fn fail_grant(
        &self,
        account: &AccountName,
        claim: Uuid,
        how: GrantFailure,
    ) -> BoxFuture<'_, Result<bool, LedgerError>>;
}
