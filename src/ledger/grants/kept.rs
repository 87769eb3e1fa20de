//! What a claim, a new grant and a failure make of an account's grant: decided here, once, for PostgreSQL and for the
//! ledger in memory. The caller holds the row's lock.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::event::grant::{
    Claimed, FORMER_GRANTS, Fingerprint, GrantClaim, GrantFailure, GrantRefused, GrantRow, NewGrant, Sealed,
};

/// A grant with everything that is kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub(super) generation: i64,
    pub(super) tokens: Option<Tokens>,
    pub(super) configured: Fingerprint,
    pub(super) former: Vec<Fingerprint>,
    pub(super) refused: Option<GrantRefused>,
    /// The exchange that is under way, and until when.
    pub(super) claim: Option<(Uuid, OffsetDateTime)>,
    pub(super) doubt: Option<OffsetDateTime>,
}

/// Tokens and their times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    pub sealed: Sealed,
    pub kept_at: OffsetDateTime,
    pub renew_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

impl Kept {
    /// Before the first exchange.
    pub const fn new(configured: Fingerprint) -> Self {
        Self { generation: 0, tokens: None, configured, former: Vec::new(), refused: None, claim: None, doubt: None }
    }

    /// As replicas see it.
    pub fn row(&self, now: OffsetDateTime) -> GrantRow {
        let left = |until: OffsetDateTime| Duration::try_from(until - now).unwrap_or_default();
        let tokens = self.tokens.as_ref();
        GrantRow {
            generation: self.generation,
            sealed: tokens.map(|tokens| tokens.sealed.clone()),
            configured: self.configured,
            former: self.former.clone(),
            renew_in: tokens.map_or(Duration::ZERO, |tokens| left(tokens.renew_at)),
            valid_for: tokens.map_or(Duration::ZERO, |tokens| left(tokens.expires_at)),
            refused: self.refused.clone(),
            doubt: self.doubt,
            claimed_for: self.claim.map(|(_, until)| left(until)).filter(|left| !left.is_zero()),
        }
    }

    /// One exchange at a time, of a refresh token that was not refused, when it is due.
    pub fn claim(&mut self, claim: &GrantClaim, now: OffsetDateTime) -> Claimed {
        if let Some((_, until)) = self.claim.as_mut().filter(|(_, until)| *until > now) {
            // By a clock that was set back since it seems to end later than one that begins now would.
            *until = (*until).min(now + claim.lasts);
            return Claimed::No(self.row(now));
        }
        if claim.configured != self.configured && !self.former.contains(&claim.configured) {
            self.begin_anew(claim.configured);
        }
        let due = self.tokens.as_ref().is_none_or(|tokens| tokens.renew_at <= now);
        let spoilt = claim.refused == Some(self.generation);
        // Nothing but what is configured there can be exchanged before there is a grant.
        let behind = self.tokens.is_none() && claim.configured != self.configured;
        if behind || self.refused.is_some() || !(due || spoilt) {
            return Claimed::No(self.row(now));
        }
        // As it was before: the doubt of this exchange is not one of those that came before it.
        let row = self.row(now);
        self.claim = Some((claim.claim, now + claim.lasts));
        self.doubt = self.doubt.or(Some(now));
        Claimed::Ours(row)
    }

    /// Another refresh token was configured: what there was counts no more.
    fn begin_anew(&mut self, configured: Fingerprint) {
        self.former.push(self.configured);
        let beyond = self.former.len().saturating_sub(FORMER_GRANTS);
        self.former.drain(..beyond);
        self.configured = configured;
        (self.tokens, self.refused, self.doubt) = (None, None, None);
    }

    /// Takes a new grant, unless what it was made of has been replaced.
    pub fn keep(&mut self, new: &NewGrant, now: OffsetDateTime) -> bool {
        let again = self.generation == new.generation + 1
            && self.tokens.as_ref().is_some_and(|tokens| tokens.sealed == new.sealed);
        if again {
            return true;
        }
        if self.generation != new.generation || self.configured != new.configured {
            return false;
        }
        self.generation += 1;
        let born = now - new.passed;
        self.tokens = Some(Tokens {
            sealed: new.sealed.clone(),
            kept_at: now,
            renew_at: born + new.renew_after,
            expires_at: born + new.life,
        });
        // Who came after the claim's time was refused for a token that had been exchanged already.
        (self.refused, self.claim, self.doubt) = (None, None, None);
        true
    }

    /// Takes note of an exchange that brought nothing.
    pub fn fail(&mut self, claim: Uuid, how: &GrantFailure, now: OffsetDateTime) -> bool {
        if self.claim.is_none_or(|(ours, _)| ours != claim) {
            return false;
        }
        self.claim = None;
        match how {
            GrantFailure::Answered => self.doubt = None,
            // It stands from the claim on.
            GrantFailure::Unanswered => {}
            GrantFailure::Refused(why) => {
                self.doubt = None;
                self.refused = Some(GrantRefused { why: why.clone(), at: now });
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::event::grant::KeyId;

    const NOW: OffsetDateTime = datetime!(2026-11-27 12:00 UTC);
    const LASTS: Duration = Duration::from_secs(45);

    fn token(byte: u8) -> Fingerprint {
        Fingerprint([byte; 16])
    }

    fn claim(by: u128, configured: Fingerprint) -> GrantClaim {
        GrantClaim { account: "acme".into(), claim: Uuid::from_u128(by), configured, refused: None, lasts: LASTS }
    }

    fn new(generation: i64, configured: Fingerprint) -> NewGrant {
        let life = Duration::from_secs(100);
        let sealed = Sealed { key: KeyId([1; 8]), bytes: generation.to_be_bytes().into() };
        let (account, passed) = ("acme".into(), Duration::from_secs(5));
        NewGrant { account, generation, configured, sealed, life, renew_after: life * 4 / 5, passed }
    }

    fn is_ours(claimed: &Claimed) -> bool {
        matches!(claimed, Claimed::Ours(_))
    }

    #[test]
    fn an_access_token_is_due_at_its_time_as_the_vendor_counts_it_and_not_before() {
        let mut kept = Kept::new(token(1));
        assert!(is_ours(&kept.claim(&claim(1, token(1)), NOW)));
        assert!(kept.keep(&new(0, token(1)), NOW));
        // It was born 5 s before it was kept.
        let at = |seconds: u64| NOW + Duration::from_secs(seconds);
        assert_eq!(kept.row(at(70)).renew_in, Duration::from_secs(5));
        assert!(!is_ours(&kept.claim(&claim(2, token(1)), at(74))));
        assert!(is_ours(&kept.claim(&claim(2, token(1)), at(75))));
        assert_eq!((kept.row(at(90)).valid_for, kept.row(at(96)).valid_for), (Duration::from_secs(5), Duration::ZERO));
    }

    #[test]
    fn a_claim_of_a_replica_that_is_gone_runs_out_and_its_answer_still_counts() {
        let mut kept = Kept::new(token(1));
        assert!(is_ours(&kept.claim(&claim(1, token(1)), NOW)));
        let later = NOW + LASTS;
        assert!(!is_ours(&kept.claim(&claim(2, token(1)), later - Duration::from_millis(1))));
        let Claimed::Ours(row) = kept.claim(&claim(2, token(1)), later) else { panic!("it ran out") };
        assert_eq!(row.doubt, Some(NOW), "nobody knows what became of it");
        // The vendor tells the second that the refresh token is spent; then the first finds the ledger again.
        assert!(kept.fail(Uuid::from_u128(2), &GrantFailure::Refused("spent".to_owned()), later));
        assert!(kept.row(later).refused.is_some());
        assert!(!is_ours(&kept.claim(&claim(3, token(1)), later)));
        assert!(kept.keep(&new(0, token(1)), later));
        let row = kept.row(later);
        assert!(row.refused.is_none() && row.generation == 1 && row.doubt.is_none(), "{row:?}");
    }

    #[test]
    fn a_clock_that_is_set_back_holds_no_claim_for_longer_than_one_lasts() {
        let mut kept = Kept::new(token(1));
        assert!(is_ours(&kept.claim(&claim(1, token(1)), NOW + Duration::from_hours(5))));
        let asks = |kept: &mut Kept, after| is_ours(&kept.claim(&claim(2, token(1)), NOW + after));
        assert!(!asks(&mut kept, Duration::ZERO), "the exchange may be under way");
        assert!(!asks(&mut kept, LASTS / 2));
        assert!(asks(&mut kept, LASTS));
    }

    #[test]
    fn a_configured_refresh_token_counts_once_and_whoever_has_an_earlier_one_is_behind() {
        let mut kept = Kept::new(token(0));
        let many = u8::try_from(FORMER_GRANTS + 4).unwrap();
        for byte in 0..many {
            let Claimed::Ours(row) = kept.claim(&claim(1, token(byte)), NOW) else { panic!("it is new") };
            assert!(row.sealed.is_none());
            // Somebody who still has the one before must not spend it in this one's name.
            kept.fail(Uuid::from_u128(1), &GrantFailure::Answered, NOW);
            if byte > 0 {
                let behind = kept.claim(&claim(2, token(byte - 1)), NOW);
                assert!(!is_ours(&behind) && kept.configured == token(byte), "{behind:?}");
            }
            assert!(is_ours(&kept.claim(&claim(1, token(byte)), NOW)));
            assert!(kept.keep(&new(i64::from(byte), token(byte)), NOW));
        }
        assert_eq!(kept.former.len(), FORMER_GRANTS);
        assert_eq!((kept.former[0], kept.former[FORMER_GRANTS - 1]), (token(3), token(many - 2)));
        // Once it has a grant, whoever is behind may renew it too.
        let due = NOW + Duration::from_secs(90);
        let Claimed::Ours(row) = kept.claim(&claim(3, token(many - 2)), due) else { panic!("it is due") };
        assert_eq!((row.configured, row.sealed.is_some()), (token(many - 1), true));
    }
}
