//! One exchange: claimed, made, and kept before anybody uses what it brought.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Keeper, LOOK, LOOK_FOR_HELP, Need, Turn, read};
use crate::event::grant::{Claimed, Fingerprint, GrantBook, GrantClaim, GrantFailure, GrantRow, NewGrant};
use crate::mutant::{Mutant, planted};
use crate::sell::budget::Priority;
use crate::sell::grant::ask::{EXCHANGE, Granted, Refusal, ask};
use crate::sell::grant::seal::{Key, Tokens};
use crate::sell::grant::{Access, Trouble};
use crate::telemetry::causes;
use crate::telemetry::metrics::OAUTH_REFRESHES_TOTAL;

/// When of its life an access token is renewed, in hundredths.
const RENEW_AT: u32 = 80;
/// A claim that is neither kept nor given back lasts so long: an exchange, and a slow ledger.
pub(super) const CLAIM: Duration = Duration::from_secs(45);
/// An answer to a claim that took longer than this is not acted upon: what is left of the claim might not do.
const CLAIM_ANSWER: Duration = Duration::from_secs(10);
/// Between tries to keep what the vendor gave.
const KEEP_AGAIN: Duration = Duration::from_millis(500);
/// After the vendor turned the request itself away, which uses nothing up.
const CLIENT_AGAIN: Duration = Duration::from_mins(5);
/// The first and the longest wait before a token that was never accepted is replaced once more.
const FRUITLESS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));

impl<B: GrantBook> Keeper<'_, B> {
    pub(super) async fn exchange(
        &mut self,
        token: &SecretString,
        configured: Fingerprint,
        key: &Key,
        refused: Option<i64>,
    ) -> Turn<Duration> {
        let client_secret =
            read(&self.grant.client.secret).map_err(|error| (Trouble::Unusable(causes(&error)), LOOK))?;
        let slot = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(Duration::ZERO),
            slot = self.vendor.budget().take(Priority::Firehose) => slot,
        };
        let claim = Uuid::new_v4();
        let asked = Instant::now();
        let (account, lasts) = (self.account.clone(), CLAIM);
        let claimed = self.book.claim_grant(GrantClaim { account, claim, configured, refused, lasts }).await;
        let row = match claimed.map_err(|error| self.away(&error))? {
            Claimed::Ours(row) if asked.elapsed() < CLAIM_ANSWER => row,
            Claimed::Ours(_) => {
                self.note(claim, GrantFailure::Answered).await;
                return Ok(Duration::ZERO);
            }
            Claimed::No(row) => {
                return match self.judge(&row, configured, key, refused)? {
                    Need::Rest(wait) => Ok(wait),
                    Need::Exchange => {
                        self.pending = true;
                        Ok(self.until_other())
                    }
                };
            }
        };
        let used = match &row.sealed {
            None => token.clone(),
            Some(sealed) => match key.open(&self.account, sealed) {
                Ok(tokens) => tokens.refresh,
                Err(error) => {
                    self.note(claim, GrantFailure::Answered).await;
                    return Err(self.unusable(&error));
                }
            },
        };
        let sent = Instant::now();
        let form = [("grant_type", "refresh_token"), ("refresh_token", used.expose_secret())];
        let client = (self.grant.client.id.as_str(), &client_secret);
        // Bounded twice: an answer whose body trickles counts as none.
        let told = tokio::time::timeout(EXCHANGE, ask(self.vendor, slot, client, &form)).await;
        let told = told.unwrap_or_else(|_| Err(Refusal::Unanswered(format!("no answer in {} s", EXCHANGE.as_secs()))));
        fail::fail_point!("sell::before_grant_kept");
        match told {
            Ok(granted) => {
                let replaces_refused = refused == Some(row.generation);
                self.take((granted, used), sent, (row.generation, configured), key, replaces_refused).await
            }
            Err(refusal) => Err(self.refused(refusal, claim, &row, configured).await),
        }
    }

    /// Keeps what the vendor gave, and only then lets it be used.
    async fn take(
        &mut self,
        (granted, used): (Granted, SecretString),
        sent: Instant,
        (generation, configured): (i64, Fingerprint),
        key: &Key,
        replaces_refused: bool,
    ) -> Turn<Duration> {
        let tokens = Tokens { refresh: granted.refresh.unwrap_or(used), access: granted.access };
        let sealed = key.seal(&self.account, &tokens).map_err(|error| self.unusable(&error))?;
        let (life, renew_after) = (granted.life, granted.life * RENEW_AT / 100);
        if planted(Mutant::GrantUnkept) {
            let access = Access { token: tokens.access.clone(), generation: generation + 1, until: sent + life };
            self.grant.view.send_modify(|view| view.access = Some(access));
        }
        let mut said = false;
        let kept = loop {
            let new = NewGrant {
                account: self.account.clone(),
                generation,
                configured,
                sealed: sealed.clone(),
                life,
                renew_after,
                passed: sent.elapsed(),
            };
            match self.book.keep_grant(new).await {
                Ok(kept) => break kept,
                Err(error) if !said => {
                    said = true;
                    tracing::error!(
                        account = %self.account,
                        error = &error as &dyn std::error::Error,
                        "the new refresh token cannot be kept yet: it lives in memory alone until the ledger answers"
                    );
                }
                Err(_) => {}
            }
            tokio::time::sleep(KEEP_AGAIN).await;
        };
        fail::fail_point!("sell::after_grant_kept");
        if !kept {
            // Another refresh token was configured meanwhile: that one counts.
            return Ok(Duration::ZERO);
        }
        self.count("done");
        let until = sent + life;
        if replaces_refused {
            self.replace_from =
                Instant::now() + FRUITLESS.0.saturating_mul(1 << self.fruitless.min(10)).min(FRUITLESS.1);
            self.fruitless = self.fruitless.saturating_add(1);
        }
        (self.failures, self.refused) = (0, None);
        self.access = Some(Access { token: tokens.access, generation: generation + 1, until });
        tracing::info!(account = %self.account, life_seconds = life.as_secs(), "the access token was renewed");
        Ok(renew_after.saturating_sub(sent.elapsed()))
    }

    /// What follows from an exchange that brought nothing.
    async fn refused(
        &mut self,
        refusal: Refusal,
        claim: Uuid,
        row: &GrantRow,
        configured: Fingerprint,
    ) -> (Trouble, Duration) {
        match refusal {
            Refusal::Grant(why) => {
                self.count("refused");
                let why = match row.doubt {
                    Some(at) => format!(
                        "{why}; an exchange of {} has had no known end, so it may have been used up then",
                        at.replace_nanosecond(0).unwrap_or(at)
                    ),
                    None => why,
                };
                self.refused = Some((row.generation, configured, why.clone()));
                self.note(claim, GrantFailure::Refused(why.clone())).await;
                (Trouble::Reauth(why), LOOK_FOR_HELP)
            }
            Refusal::Client(why) => {
                self.count("failed");
                self.note(claim, GrantFailure::Answered).await;
                self.not_before = Instant::now() + CLIENT_AGAIN;
                let why = format!("the vendor turns the request away, check client_id and client_secret: {why}");
                (Trouble::Unusable(why), CLIENT_AGAIN)
            }
            Refusal::Answered(why) => {
                self.count("failed");
                self.note(claim, GrantFailure::Answered).await;
                self.passing(format!("the access token cannot be renewed: {why}"))
            }
            Refusal::Unanswered(why) => {
                self.count("failed");
                self.note(claim, GrantFailure::Unanswered).await;
                self.passing(format!("the access token cannot be renewed: {why}"))
            }
        }
    }

    /// Tells the row how an exchange ended. Where it cannot be told, the claim runs out by itself.
    async fn note(&self, claim: Uuid, how: GrantFailure) {
        if let Err(error) = self.book.fail_grant(&self.account, claim, how).await {
            tracing::warn!(
                account = %self.account,
                error = &error as &dyn std::error::Error,
                "how a refresh ended cannot be noted in the ledger"
            );
        }
    }

    fn count(&self, outcome: &'static str) {
        metrics::counter!(OAUTH_REFRESHES_TOTAL, "account" => self.account.to_string(), "outcome" => outcome)
            .increment(1);
    }
}
