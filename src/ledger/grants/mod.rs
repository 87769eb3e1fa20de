//! One OAuth grant per account over all replicas: a row, under whose lock exchanges are claimed and kept. The exchange itself
//! is made outside of every transaction.

mod kept;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

pub(super) use kept::Kept;
use kept::Tokens;

use super::database::{Session, failed, within};
use super::open::Ledger;
use crate::event::AccountName;
use crate::event::grant::{
    Claimed, Fingerprint, GrantBook, GrantClaim, GrantFailure, GrantRefused, GrantRow, KeyId, NewGrant, Sealed,
};
use crate::event::ports::LedgerError;

/// An account's grant as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct GrantStatus {
    /// The account.
    pub account: String,
    /// When the tokens were last renewed; none before the first time.
    #[serde(with = "time::serde::rfc3339::option")]
    pub kept_at: Option<OffsetDateTime>,
    /// When the access token ends.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// Since when the refresh token is refused.
    #[serde(with = "time::serde::rfc3339::option")]
    pub refused_at: Option<OffsetDateTime>,
    /// What the vendor said to it.
    pub refused: Option<String>,
}

impl Ledger {
    /// The grants of all accounts.
    pub async fn grant_rows(&self) -> Result<Vec<GrantStatus>, LedgerError> {
        let doing = "looking at the accounts' grants";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query_as!(
                GrantStatus,
                "SELECT account, kept_at, expires_at, refused_at, refused FROM grants ORDER BY account"
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(rows)
        })
        .await
    }
}

impl GrantBook for Ledger {
    fn grant(&self, account: &AccountName) -> BoxFuture<'_, Result<Option<GrantRow>, LedgerError>> {
        const DOING: &str = "reading an account's grant";
        let account = account.clone();
        within(DOING, async move {
            let mut session = self.0.db.session().await.map_err(failed(DOING))?;
            let row = sqlx::query_as!(
                Row,
                r#"SELECT generation, key_id, sealed, configured, former, kept_at, renew_at, expires_at, refused_at,
                       refused, claim, claim_until, doubt_at, clock_timestamp() AS "now!"
                   FROM grants WHERE account = $1"#,
                account.as_str()
            )
            .fetch_optional(&mut *session)
            .await
            .map_err(failed(DOING))?;
            session.done().await.map_err(failed(DOING))?;
            row.map(|row| row.kept().map(|(kept, now)| kept.row(now))).transpose()
        })
        .boxed()
    }

    fn claim_grant(&self, claim: GrantClaim) -> BoxFuture<'_, Result<Claimed, LedgerError>> {
        const DOING: &str = "claiming the exchange of an account's refresh token";
        within(DOING, async move {
            let mut session = self.0.db.begin().await.map_err(failed(DOING))?;
            sqlx::query!(
                "INSERT INTO grants (account, configured) VALUES ($1, $2)
                 ON CONFLICT ON CONSTRAINT grants_pkey DO NOTHING",
                claim.account.as_str(),
                &claim.configured.0[..]
            )
            .execute(&mut *session)
            .await
            .map_err(failed(DOING))?;
            let Some((mut kept, now)) = lock(&mut session, &claim.account, DOING).await? else {
                return Err(LedgerError::Refused { doing: DOING, why: "its row is gone".to_owned() });
            };
            let claimed = kept.claim(&claim, now);
            write(&mut session, &claim.account, &kept, DOING).await?;
            session.done().await.map_err(failed(DOING))?;
            Ok(claimed)
        })
        .boxed()
    }

    fn keep_grant(&self, new: NewGrant) -> BoxFuture<'_, Result<bool, LedgerError>> {
        const DOING: &str = "keeping an account's new grant";
        within(DOING, async move {
            let mut session = self.0.db.begin().await.map_err(failed(DOING))?;
            let Some((mut kept, now)) = lock(&mut session, &new.account, DOING).await? else { return Ok(false) };
            let taken = kept.keep(&new, now);
            write(&mut session, &new.account, &kept, DOING).await?;
            session.done().await.map_err(failed(DOING))?;
            Ok(taken)
        })
        .boxed()
    }

    fn fail_grant(
        &self,
        account: &AccountName,
        claim: Uuid,
        how: GrantFailure,
    ) -> BoxFuture<'_, Result<bool, LedgerError>> {
        const DOING: &str = "noting how the exchange of an account's refresh token failed";
        let account = account.clone();
        within(DOING, async move {
            let mut session = self.0.db.begin().await.map_err(failed(DOING))?;
            let Some((mut kept, now)) = lock(&mut session, &account, DOING).await? else { return Ok(false) };
            let ours = kept.fail(claim, &how, now);
            write(&mut session, &account, &kept, DOING).await?;
            session.done().await.map_err(failed(DOING))?;
            Ok(ours)
        })
        .boxed()
    }
}

/// Locks a grant's row and reads it, and tells the time once the lock is held.
async fn lock(
    session: &mut Session,
    account: &AccountName,
    doing: &'static str,
) -> Result<Option<(Kept, OffsetDateTime)>, LedgerError> {
    let row = sqlx::query_as!(
        Row,
        r#"WITH locked AS MATERIALIZED (SELECT * FROM grants WHERE account = $1 FOR UPDATE)
           SELECT generation AS "generation!", key_id, sealed, configured AS "configured!", former AS "former!", kept_at,
               renew_at, expires_at, refused_at, refused, claim, claim_until, doubt_at, clock_timestamp() AS "now!"
           FROM locked"#,
        account.as_str()
    )
    .fetch_optional(&mut **session)
    .await
    .map_err(failed(doing))?;
    row.map(Row::kept).transpose()
}

async fn write(
    session: &mut Session,
    account: &AccountName,
    kept: &Kept,
    doing: &'static str,
) -> Result<(), LedgerError> {
    let tokens = kept.tokens.as_ref();
    let former: Vec<Vec<u8>> = kept.former.iter().map(|former| former.0.to_vec()).collect();
    sqlx::query!(
        "UPDATE grants SET generation = $2, key_id = $3, sealed = $4, configured = $5, former = $6, kept_at = $7,
             renew_at = $8, expires_at = $9, refused_at = $10, refused = $11, claim = $12, claim_until = $13,
             doubt_at = $14
         WHERE account = $1",
        account.as_str(),
        kept.generation,
        tokens.map(|tokens| &tokens.sealed.key.0[..]) as Option<&[u8]>,
        tokens.map(|tokens| &*tokens.sealed.bytes) as Option<&[u8]>,
        &kept.configured.0[..],
        &former[..],
        tokens.map(|tokens| tokens.kept_at),
        tokens.map(|tokens| tokens.renew_at),
        tokens.map(|tokens| tokens.expires_at),
        kept.refused.as_ref().map(|refused| refused.at),
        kept.refused.as_ref().map(|refused| refused.why.as_str()),
        kept.claim.map(|(claim, _)| claim),
        kept.claim.map(|(_, until)| until),
        kept.doubt
    )
    .execute(&mut **session)
    .await
    .map_err(failed(doing))?;
    Ok(())
}

/// As the table has it.
struct Row {
    generation: i64,
    key_id: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
    configured: Vec<u8>,
    former: Vec<Vec<u8>>,
    kept_at: Option<OffsetDateTime>,
    renew_at: Option<OffsetDateTime>,
    expires_at: Option<OffsetDateTime>,
    refused_at: Option<OffsetDateTime>,
    refused: Option<String>,
    claim: Option<Uuid>,
    claim_until: Option<OffsetDateTime>,
    doubt_at: Option<OffsetDateTime>,
    now: OffsetDateTime,
}

impl Row {
    fn kept(self) -> Result<(Kept, OffsetDateTime), LedgerError> {
        const DOING: &str = "reading an account's grant";
        let broken = |what: &str| LedgerError::Refused { doing: DOING, why: format!("its {what} has another length") };
        let fingerprint = |bytes: Vec<u8>| bytes.try_into().map(Fingerprint).map_err(|_| broken("fingerprint"));
        let tokens = match (self.key_id, self.sealed, self.kept_at, self.renew_at, self.expires_at) {
            (Some(key), Some(bytes), Some(kept_at), Some(renew_at), Some(expires_at)) => {
                let key = KeyId(key.try_into().map_err(|_| broken("key's id"))?);
                Some(Tokens { sealed: Sealed { key, bytes: bytes.into() }, kept_at, renew_at, expires_at })
            }
            _ => None,
        };
        let kept = Kept {
            generation: self.generation,
            tokens,
            configured: fingerprint(self.configured)?,
            former: self.former.into_iter().map(fingerprint).collect::<Result<_, _>>()?,
            refused: self.refused.zip(self.refused_at).map(|(why, at)| GrantRefused { why, at }),
            claim: self.claim.zip(self.claim_until),
            doubt: self.doubt_at,
        };
        Ok((kept, self.now))
    }
}
