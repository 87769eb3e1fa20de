//! Who owns a shard. The lease serves liveness only: two owners are slow, never wrong, because every write checks the
//! epoch (INV-6).

use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::database::{failed, within};
use super::open::Ledger;
use crate::event::ports::{LedgerError, Ownership};
use crate::event::{Epoch, Shard, Tenure};

/// The holder stops this long before the server could give the lease to another: by then its last write is over.
const SAFETY: Duration = Duration::from_secs(2);

/// How often a standby looks at most: a part of what a hand-over costs its consumers, and one look-up by key.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A lease that seems to last so many times longer than one can is of a clock that was set back since: it is over. A few
/// times, because another replica's may be configured longer. Who holds it all the same is fenced, and harms nothing.
const FAR: u32 = 10;

/// Who owns which shard: PostgreSQL keeps it, and [`Model`](super::model::Model) in a simulation.
pub trait LeaseBook: Clone + Send + Sync + 'static {
    /// How long a lease lasts.
    fn lease_ttl(&self) -> Duration;
    /// Gives the shard to `instance`, under a new epoch, when nobody holds it, when the holder's time is over (also by a
    /// clock that was set back by more than ten lease times since), or when it is its own from before.
    fn take_lease(
        &self,
        shard: Shard,
        instance: Uuid,
    ) -> impl Future<Output = Result<Option<Epoch>, LedgerError>> + Send;
    /// Prolongs the owner's lease, or fails as fenced.
    fn renew_lease(&self, owner: Ownership) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// Ends the owner's lease now; an epoch that is over ends nothing.
    fn release_lease(&self, owner: Ownership) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// A wish to own a shard.
#[derive(Clone, Debug)]
pub struct Lease<L = Ledger> {
    ledger: L,
    shard: Shard,
    instance: Uuid,
    ttl: Duration,
    /// How long before the lease's end the holder stops.
    safety: Duration,
}

/// An owned shard, for as long as [`Held::hold`] runs.
#[derive(Debug)]
pub struct Held<L = Ledger> {
    lease: Lease<L>,
    ownership: Ownership,
    until: Instant,
    tenure: Tenure,
}

impl<L: LeaseBook> Lease<L> {
    /// For `instance`, which survives a restart: it takes its own lease back at once.
    #[must_use]
    pub fn new(ledger: &L, shard: Shard, instance: Uuid) -> Self {
        let ttl = ledger.lease_ttl();
        // A short lease leaves time for a renewal before that.
        Self { ledger: ledger.clone(), shard, instance, ttl, safety: SAFETY.min(ttl / 3) }
    }

    /// Waits until the shard is ours. Never gives up; safe to cancel (a lease that was taken and not told about runs
    /// out, or is taken back).
    pub async fn acquire(&self) -> Held<L> {
        let pause = (self.ttl / 10).min(LOOK_EVERY);
        let mut said = false;
        loop {
            match self.try_acquire().await {
                Ok(Some(held)) => return held,
                Ok(None) => {
                    if !std::mem::replace(&mut said, true) {
                        info!(shard = %self.shard, "another instance owns the shard; standing by");
                    }
                }
                Err(error) => {
                    warn!(shard = %self.shard, error = &error as &dyn std::error::Error, "cannot take the lease");
                }
            }
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    /// Takes the shard when nobody holds it, when the holder's time is over, or when it is ours from before.
    pub async fn try_acquire(&self) -> Result<Option<Held<L>>, LedgerError> {
        let sent = Instant::now();
        let taken = self.ledger.take_lease(self.shard, self.instance).await?;
        Ok(taken.map(|epoch| {
            fail::fail_point!("ledger::after_lease");
            info!(shard = %self.shard, %epoch, "the shard is ours");
            let ownership = Ownership { shard: self.shard, epoch };
            let until = sent + self.ttl.saturating_sub(self.safety);
            let tenure = Tenure::default();
            tenure.prolong(until);
            Held { lease: self.clone(), ownership, until, tenure }
        }))
    }

    /// Waits as one who was fenced: at least one TTL, with jitter, so that the other owner gets to work.
    pub async fn back_off(&self) {
        let spread = self.ttl.as_secs_f64() / 2.0;
        let jitter = Duration::from_secs_f64(crate::chance::rng().random_range(0.0..=spread));
        tokio::time::sleep(self.ttl + jitter).await;
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(crate::chance::rng().random_range(0.8..=1.2))
}

impl<L: LeaseBook> Held<L> {
    /// The right to write.
    #[must_use]
    pub const fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// For how long nobody else records in the shard.
    #[must_use]
    pub const fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// Renews the lease and returns only when it is lost, with the reason: fenced, or not renewed until 2 s before its
    /// end by our monotonic clock. Safe to cancel and call again; keep it running while the shard drains.
    pub async fn hold(&mut self) -> LedgerError {
        let lost = self.renew_until_lost().await;
        self.tenure.end();
        lost
    }

    async fn renew_until_lost(&mut self) -> LedgerError {
        let every = self.lease.ttl / 3;
        let mut next =
            (self.until + self.lease.safety).checked_sub(self.lease.ttl).map_or_else(Instant::now, |sent| sent + every);
        loop {
            tokio::time::sleep_until(next.min(self.until)).await;
            let sent = Instant::now();
            let renewed = match tokio::time::timeout_at(self.until, self.renew()).await {
                Ok(renewed) => renewed,
                Err(elapsed) => {
                    return LedgerError::Unavailable { doing: "renewing the lease in time", source: elapsed.into() };
                }
            };
            match renewed {
                Ok(()) => {
                    self.until = sent + self.lease.ttl.saturating_sub(self.lease.safety);
                    self.tenure.prolong(self.until);
                    next = sent + every;
                }
                Err(error @ LedgerError::Unavailable { .. }) if Instant::now() < self.until => {
                    debug!(error = &error as &dyn std::error::Error, "the lease is not renewed yet");
                    next = Instant::now() + jittered(every / 10);
                }
                Err(error) => return error,
            }
        }
    }

    async fn renew(&self) -> Result<(), LedgerError> {
        fail::fail_point!("ledger::before_renew");
        self.lease.ledger.renew_lease(self.ownership).await
    }

    /// Hands the shard over at once: the stages have stopped, nothing more is written under this epoch.
    pub async fn release(self) -> Result<(), LedgerError> {
        self.tenure.end();
        fail::fail_point!("ledger::before_release");
        self.lease.ledger.release_lease(self.ownership).await?;
        fail::fail_point!("ledger::after_release");
        Ok(())
    }
}

impl LeaseBook for Ledger {
    fn lease_ttl(&self) -> Duration {
        self.0.lease_ttl
    }

    async fn take_lease(&self, shard: Shard, instance: Uuid) -> Result<Option<Epoch>, LedgerError> {
        let doing = "taking a lease";
        let shard = self.known_shard(shard)?;
        let far = (self.0.lease_ttl * FAR).as_secs_f64();
        within(doing, async {
            // Looked at without a lock first: a standby that locked the row each second would hold up its owner.
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let free = sqlx::query!(
                r#"SELECT coalesce(lease_owner = $2 OR lease_until NOT BETWEEN clock_timestamp()
                       AND clock_timestamp() + make_interval(secs => $3), true) AS "free!"
                   FROM shards WHERE shard = $1"#,
                shard,
                instance,
                far
            )
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?
            .free;
            session.done().await.map_err(failed(doing))?;
            if !free {
                return Ok(None);
            }
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            // FOR UPDATE waits for every write of the old epoch, the sinks' (KEY SHARE) too, and none of it comes after.
            sqlx::query!("SELECT epoch FROM shards WHERE shard = $1 FOR UPDATE", shard)
                .fetch_one(&mut *session)
                .await
                .map_err(failed(doing))?;
            let taken = sqlx::query!(
                "UPDATE shards
                 SET epoch = epoch + 1, lease_owner = $2, lease_until = clock_timestamp() + make_interval(secs => $3)
                 WHERE shard = $1 AND coalesce(lease_owner = $2 OR lease_until NOT BETWEEN clock_timestamp()
                     AND clock_timestamp() + make_interval(secs => $4), true)
                 RETURNING epoch",
                shard,
                instance,
                self.0.lease_ttl.as_secs_f64(),
                far
            )
            .fetch_optional(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(taken.map(|row| Epoch(row.epoch)))
        })
        .await
    }

    async fn renew_lease(&self, owner: Ownership) -> Result<(), LedgerError> {
        let doing = "renewing a lease";
        let shard = self.known_shard(owner.shard)?;
        let mut session = self.0.db.session().await.map_err(failed(doing))?;
        let renewed = sqlx::query!(
            "UPDATE shards SET lease_until = clock_timestamp() + make_interval(secs => $3)
             WHERE shard = $1 AND epoch = $2 AND lease_until IS NOT NULL",
            shard,
            owner.epoch.0,
            self.0.lease_ttl.as_secs_f64()
        )
        .execute(&mut *session)
        .await
        .map_err(failed(doing))?;
        session.done().await.map_err(failed(doing))?;
        if renewed.rows_affected() == 1 {
            return Ok(());
        }
        Err(LedgerError::Fenced { shard: owner.shard, why: "another instance has taken the lease".to_owned() })
    }

    async fn release_lease(&self, owner: Ownership) -> Result<(), LedgerError> {
        let doing = "releasing a lease";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            sqlx::query!(
                "UPDATE shards SET lease_owner = NULL, lease_until = NULL WHERE shard = $1 AND epoch = $2",
                shard,
                owner.epoch.0
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }
}
