//! Renews an account's access token, alone in this process and one at a time over all replicas.
//!
//! An exchange goes so: a place in the account's budget; a *claim* in the grant's row, under its lock; the exchange itself, in
//! no transaction and with a deadline; the new tokens into the row. Only from then on anybody uses them. Who finds the row
//! claimed by another replica reads it again until that one is done. What can go wrong between:
//!
//! - The process ends before the vendor has answered, or before the answer is kept: the claim runs out, the next one tries the
//!   refresh token that the row still has. Has the vendor used it up, it says so, and that is `reauth_required`.
//! - The ledger is out of reach after the answer: the tokens are kept as soon as it is back, whoever has claimed what by then,
//!   and used by nobody before. Out of reach at any other time: the access token is used to its end.
//! - The vendor refuses the refresh token: that is written into the row, and no replica asks with it again.

mod exchange;

use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt as _;
use secrecy::SecretString;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::exchange::CLAIM;
use super::super::client::Vendor;
use super::seal::{Key, SealError, fingerprint};
use super::{Access, Grant, Trouble};
use crate::chance;
use crate::config::{Secret, SecretError};
use crate::event::AccountName;
use crate::event::grant::{Fingerprint, GrantBook, GrantRow};
use crate::event::ports::LedgerError;
use crate::telemetry::causes;
use crate::telemetry::metrics::OAUTH_REAUTH_REQUIRED;

/// Between looks whether another refresh token is configured.
const LOOK: Duration = Duration::from_secs(3);
/// Between looks into the row while nothing can be done but by a person.
const LOOK_FOR_HELP: Duration = Duration::from_secs(15);
/// Between looks into the row while another replica makes the exchange: without a token, and with one that is still good.
const LOOK_FOR_OTHER: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));
/// The first and the longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// How often `reauth_required` is said again.
const SAY_AGAIN: Duration = Duration::from_hours(1);

/// Keeps the account's access token good until `stop`; an exchange that is under way then is brought to its end.
pub(in super::super) async fn keep(
    grant: &Grant,
    vendor: &Vendor,
    book: &impl GrantBook,
    told: &(impl Fn(Option<&str>) + Sync),
    stop: &CancellationToken,
) {
    let mut keeper = Keeper {
        grant,
        vendor,
        account: vendor.account().clone(),
        book,
        stop,
        access: None,
        failures: 0,
        fruitless: 0,
        not_before: Instant::now(),
        replace_from: Instant::now(),
        refused: None,
        said: None,
        behind: false,
        pending: false,
    };
    while !stop.is_cancelled() {
        let demand = *grant.lock();
        let (trouble, wait) = match keeper.turn(demand.refused).await {
            // Not good again before there is a token.
            Ok(wait) if keeper.is_good() => (None, wait),
            Ok(wait) => (keeper.said.as_ref().map(|(trouble, _)| trouble.clone()), wait),
            Err((trouble, wait)) => (Some(trouble), wait),
        };
        keeper.say(trouble.as_ref(), told);
        grant.view.send_modify(|view| {
            view.access.clone_from(&keeper.access);
            view.trouble = trouble;
            // Who demands another token waits with us for the other replica.
            if !keeper.pending {
                view.answered = demand.number;
            }
        });
        if !keeper.pending {
            let mut latest = grant.lock();
            if latest.number == demand.number {
                latest.refused = None;
            }
        }
        keeper.rest(wait).await;
    }
}

struct Keeper<'a, B> {
    grant: &'a Grant,
    vendor: &'a Vendor,
    account: AccountName,
    book: &'a B,
    stop: &'a CancellationToken,
    access: Option<Access>,
    /// Failures that pass, in a row.
    failures: u32,
    /// Tokens in a row that were to replace a refused one.
    fruitless: u32,
    /// No exchange before then.
    not_before: Instant,
    /// A refused token that was never accepted is not replaced before then.
    replace_from: Instant,
    /// The refresh token that the vendor refused here, in case the row could not be told: generation, configured, why.
    refused: Option<(i64, Fingerprint, String)>,
    /// What is wrong, and when it was last said.
    said: Option<(Trouble, Instant)>,
    /// Whether it was said that an earlier refresh token is configured here.
    behind: bool,
    /// Whether another replica makes the exchange now.
    pending: bool,
}

/// What the row means for this replica.
enum Need {
    /// Nothing for so long.
    Rest(Duration),
    /// An exchange.
    Exchange,
}

type Turn<T> = Result<T, (Trouble, Duration)>;

impl<B: GrantBook> Keeper<'_, B> {
    /// Looks at the row and does what is due. Gives the time until the next look.
    async fn turn(&mut self, refused: Option<i64>) -> Turn<Duration> {
        self.pending = false;
        let (token, key) = self.configured().map_err(|trouble| (trouble, LOOK))?;
        let configured = fingerprint(&self.account, &token);
        let row = self.book.grant(&self.account).await.map_err(|error| self.away(&error))?;
        if let Some(row) = &row
            && let Need::Rest(wait) = self.judge(row, configured, &key, refused)?
        {
            return Ok(wait);
        }
        if self.not_before > Instant::now() {
            // After a failure the token that is left is used meanwhile.
            let wait = self.not_before.saturating_duration_since(Instant::now());
            return match &self.said {
                Some((trouble, _)) => Err((trouble.clone(), wait)),
                None => Ok(wait),
            };
        }
        self.exchange(&token, configured, &key, refused).await
    }

    fn configured(&self) -> Result<(SecretString, Key), Trouble> {
        let unreadable = |error: SecretError| Trouble::Unusable(causes(&error));
        let token = read(&self.grant.client.refresh_token).map_err(unreadable)?;
        let key = read(&self.grant.client.key).map_err(unreadable)?;
        let key = Key::read(&key).map_err(|error| Trouble::Unusable(error.to_string()))?;
        Ok((token, key))
    }

    /// Takes the access token of the row, and says whether another one is due.
    fn judge(&mut self, row: &GrantRow, configured: Fingerprint, key: &Key, refused: Option<i64>) -> Turn<Need> {
        let known = row.former.contains(&configured);
        if row.configured != configured && !known {
            // Another one was configured: what there is counts no more.
            return Ok(Need::Exchange);
        }
        self.note_behind(row.configured != configured);
        if let Some(sealed) = &row.sealed {
            let tokens = key.open(&self.account, sealed).map_err(|error| self.unusable(&error))?;
            let until = Instant::now() + row.valid_for;
            self.access = Some(Access { token: tokens.access, generation: row.generation, until });
        } else {
            self.access = None;
        }
        if let Some(refused) = &row.refused {
            return Err((Trouble::Reauth(refused.why.clone()), LOOK_FOR_HELP));
        }
        if let Some((generation, of, why)) = &self.refused
            && (*generation, *of) == (row.generation, row.configured)
        {
            return Err((Trouble::Reauth(why.clone()), LOOK_FOR_HELP));
        }
        let spoilt = refused == Some(row.generation) && self.replaces(row.generation);
        if row.sealed.is_some() && !row.renew_in.is_zero() && !spoilt {
            return Ok(Need::Rest(row.renew_in));
        }
        // One for longer is of a clock that was set back since: to ask for it anew lets it end in time.
        let claimed = row.claimed_for.is_some_and(|left| left <= CLAIM);
        if claimed || (row.sealed.is_none() && row.configured != configured) {
            self.pending = true;
            return Ok(Need::Rest(if spoilt { LOOK_FOR_OTHER.0 } else { self.until_other() }));
        }
        Ok(Need::Exchange)
    }

    /// Whether a refused access token is to be replaced now: one that was good at once, others ever more seldom.
    fn replaces(&mut self, generation: i64) -> bool {
        if self.grant.accepted.load(Ordering::Relaxed) >= generation {
            self.fruitless = 0;
            return true;
        }
        self.replace_from <= Instant::now()
    }

    fn is_good(&self) -> bool {
        self.access.as_ref().is_some_and(|access| access.until > Instant::now())
    }

    fn until_other(&self) -> Duration {
        if self.is_good() { LOOK_FOR_OTHER.1 } else { LOOK_FOR_OTHER.0 }
    }

    fn away(&mut self, error: &LedgerError) -> (Trouble, Duration) {
        self.passing(format!("the ledger, which keeps the tokens, gives none: {}", causes(error)))
    }

    fn passing(&mut self, why: String) -> (Trouble, Duration) {
        let ceiling = BACKOFF.0.saturating_mul(1 << self.failures.min(10)).min(BACKOFF.1);
        self.failures = self.failures.saturating_add(1);
        let wait = ceiling.mul_f64(chance::rng().random_range(0.5..1.0));
        self.not_before = Instant::now() + wait;
        (Trouble::Passing(why), wait)
    }

    fn unusable(&mut self, error: &SealError) -> (Trouble, Duration) {
        self.access = None;
        (Trouble::Unusable(error.to_string()), LOOK_FOR_HELP)
    }

    fn note_behind(&mut self, behind: bool) {
        if behind && !self.behind {
            tracing::warn!(
                account = %self.account,
                "the refresh token that is configured here was replaced by a later one at another replica, which counts: \
                 give this replica the same file"
            );
        }
        self.behind = behind;
    }

    /// Says what is wrong when it is news, and when a person was not heard of for long.
    fn say(&mut self, trouble: Option<&Trouble>, told: &impl Fn(Option<&str>)) {
        let reauth = matches!(trouble, Some(Trouble::Reauth(_)));
        metrics::gauge!(OAUTH_REAUTH_REQUIRED, "account" => self.account.to_string()).set(f64::from(u8::from(reauth)));
        let Some(trouble) = trouble else {
            if self.said.take().is_some() {
                tracing::info!(account = %self.account, "the account's authorization is good again");
                told(None);
            }
            return;
        };
        let (account, error) = (&self.account, trouble.error());
        let kind = |said: &Trouble| std::mem::discriminant(said) == std::mem::discriminant(trouble);
        let news = self.said.as_ref().is_none_or(|(said, at)| !kind(said) || at.elapsed() >= SAY_AGAIN);
        match trouble {
            Trouble::Reauth(_) if news => tracing::error!(
                %account, %error,
                "reauth_required: nothing of the account is read once its access token ends; authorize it with \
                 `standpipe accounts authorize {account}`"
            ),
            Trouble::Unusable(_) if news => {
                tracing::error!(%account, %error, "the account's authorization is of no use");
            }
            Trouble::Passing(_) if news => tracing::warn!(%account, %error, "tried again"),
            _ => {}
        }
        told(Some(&error.to_string()));
        let at = if news { Instant::now() } else { self.said.as_ref().map_or_else(Instant::now, |(_, at)| *at) };
        self.said = Some((trouble.clone(), at));
    }

    /// What the files hold, to see that it changes.
    fn files(&self) -> [Option<Fingerprint>; 3] {
        let client = &self.grant.client;
        let of = |secret: &Secret| read(secret).ok().map(|text| fingerprint(&self.account, &text));
        [of(&client.refresh_token), of(&client.secret), of(&client.key)]
    }

    /// Until the time has passed, somebody demands another token, or something else is configured.
    async fn rest(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        let before = self.files();
        while Instant::now() < until {
            let nap = LOOK.min(until - Instant::now());
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.grant.asked.notified() => return,
                () = tokio::time::sleep(nap) => {}
            }
            if self.files() != before {
                self.not_before = Instant::now();
                return;
            }
        }
    }
}

fn read(secret: &Secret) -> Result<SecretString, SecretError> {
    secret.read()
}
