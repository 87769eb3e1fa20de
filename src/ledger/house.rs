//! Keeping house: partitions are made ahead, what is too old goes, nothing that a configured sink still needs.
//!
//! Events go by whole partitions, which costs the same for ten events as for ten million. A partition is as wide as
//! about an eighth of the retention at the rate of the one before it, at least a million seqs; where a ledger is so slow
//! that its oldest partition does not fill in time, its old rows are deleted in batches instead, which is cheap there.
//!
//! Before events go, a chain mark is written at the last of them, so that the chain of everything kept can be told.
//! Every step checks the epoch under the shard row's lock (INV-6), and none holds it long: a partition that cannot be
//! locked at once stays until the next look.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::database::{Session, failed, seq_from_db, seq_to_db, within};
use super::open::Ledger;
use super::voids::void_after;
use crate::config::LedgerConfig;
use crate::event::ports::{LedgerError, Ownership};
use crate::event::{Seq, SinkName};
use crate::mutant::{Mutant, planted};

const LOOK_AHEAD_EVERY: Duration = Duration::from_secs(1);
const CLEAN_EVERY: Duration = Duration::from_mins(1);
/// A walk through all event ids takes a while, and a day is what they are dated by.
const EXPIRE_IDS_EVERY: Duration = Duration::from_hours(6);
/// Rows that one statement deletes, at most.
const BATCH: i64 = 5_000;
/// Batches that one look deletes, at most: the rest waits for the next.
const BATCHES: usize = 20;
/// Pages of the event ids' table that one statement walks: about [`BATCH`] rows.
const ID_PAGES: i64 = 64;
/// The narrowest and the widest partition, in seqs.
const WIDTHS: (f64, f64) = (1e6, 2e7);
/// A partition is made to be filled in this part of the retention.
const PARTITIONS_PER_RETENTION: f64 = 8.0;
/// Rows are deleted one by one only when they are older than the retention by this factor.
const PATIENCE: f64 = 1.25;

impl Ledger {
    /// Keeps the house of a shard until `stop`. Trouble with the database is told and tried again; only a lost epoch
    /// ends it.
    pub async fn keep_house(
        &self,
        owner: Ownership,
        config: &LedgerConfig,
        sinks: &[SinkName],
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        let mut clean_at = Instant::now() + CLEAN_EVERY;
        let mut expire_at = Instant::now() + CLEAN_EVERY;
        let mut look = tokio::time::interval(LOOK_AHEAD_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(look.tick()).await.is_some() {
            tell(owner, self.look_ahead(owner, config.retention).await)?;
            if Instant::now() >= clean_at {
                clean_at = Instant::now() + CLEAN_EVERY;
                tell(owner, self.retain(owner, config.retention, sinks).await)?;
                tell(owner, self.forget_evidence(owner, config).await)?;
            }
            // The ids of all shards stand in one table: the first shard's owner walks it.
            if owner.shard.0 == 0 && Instant::now() >= expire_at {
                expire_at = Instant::now() + EXPIRE_IDS_EVERY;
                let expired = stop.run_until_cancelled(self.expire_ids(owner, config.dedupe_window)).await;
                tell(owner, expired.unwrap_or(Ok(0)).map(drop))?;
            }
        }
        Ok(())
    }

    /// Makes the next partition when less than half of one is left.
    pub async fn look_ahead(&self, owner: Ownership, retention: Duration) -> Result<(), LedgerError> {
        let doing = "looking ahead for partitions";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let row = sqlx::query!(
                r#"SELECT s.head, s.partitioned_to, p.from_seq AS "from_seq?", p.to_seq AS "to_seq?",
                       extract(epoch FROM clock_timestamp() - (SELECT e.recorded_at FROM events e
                           WHERE e.shard = s.shard AND e.seq >= p.from_seq ORDER BY e.seq LIMIT 1))::float8 AS age
                   FROM shards s LEFT JOIN event_partitions p
                       ON p.shard = s.shard AND s.head >= p.from_seq AND s.head < p.to_seq
                   WHERE s.shard = $1"#,
                shard
            )
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let used = row.from_seq.map_or(0, |from| row.head - from + 1);
            let width = width(used, row.age, retention);
            let narrow = row.from_seq.zip(row.to_seq).map_or(width, |(from, to)| to - from);
            if row.partitioned_to - row.head > narrow.min(width) / 2 {
                return Ok(());
            }
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            sqlx::query!("SELECT standpipe_add_partition($1, $2)", shard, width)
                .fetch_one(&mut *session)
                .await
                .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            debug!(shard, width, "a partition is made ahead");
            Ok(())
        })
        .await
    }

    /// Drops what is older than the retention and taken by every configured sink. Returns the oldest seq kept.
    pub async fn retain(&self, owner: Ownership, retention: Duration, sinks: &[SinkName]) -> Result<Seq, LedgerError> {
        fail::fail_point!("ledger::before_retention");
        let mut oldest = Seq::ZERO;
        for _ in 0..BATCHES {
            let Some(kept) = within("retaining events", self.retain_once(owner, retention, sinks)).await? else {
                break;
            };
            oldest = kept;
            fail::fail_point!("ledger::after_retention");
        }
        let shard = self.known_shard(owner.shard)?;
        for _ in 0..BATCHES {
            let doing = "forgetting old chain marks";
            let gone = within(doing, async {
                let mut session = self.0.db.begin().await.map_err(failed(doing))?;
                self.own(&mut session, owner, doing).await?;
                let gone = sqlx::query!(
                    "DELETE FROM chain_marks WHERE ctid = ANY (ARRAY(
                        SELECT m.ctid FROM chain_marks m JOIN shards s USING (shard)
                        WHERE m.shard = $1 AND m.seq < s.oldest - 1 LIMIT $2))",
                    shard,
                    BATCH
                )
                .execute(&mut *session)
                .await
                .map_err(failed(doing))?;
                session.done().await.map_err(failed(doing))?;
                Ok(gone.rows_affected())
            });
            if gone.await? < BATCH.unsigned_abs() {
                break;
            }
        }
        Ok(oldest)
    }

    /// One partition, or one batch of rows; none when there is nothing to do.
    async fn retain_once(
        &self,
        owner: Ownership,
        retention: Duration,
        sinks: &[SinkName],
    ) -> Result<Option<Seq>, LedgerError> {
        let doing = "retaining events";
        let shard = self.known_shard(owner.shard)?;
        let floor = self.floor(owner.shard, sinks).await?;
        let mut session = self.0.db.session().await.map_err(failed(doing))?;
        // All looks are index look-ups: recorded_at rises with seq. A partition may end in a void, or be nothing else.
        let row = sqlx::query!(
            r#"SELECT s.oldest, p.name AS "name?", p.to_seq AS "to_seq?",
                   p.to_seq - 1 <= s.head AND coalesce((SELECT e.recorded_at < clock_timestamp() - make_interval(secs => $3)
                    FROM events e WHERE e.shard = s.shard AND e.seq >= p.from_seq AND e.seq < p.to_seq
                    ORDER BY e.seq DESC LIMIT 1), true) AS whole,
                   (SELECT e.recorded_at < clock_timestamp() - make_interval(secs => $4) FROM events e
                    WHERE e.shard = s.shard AND e.seq = s.oldest) AS overdue,
                   (SELECT max(e.seq) FROM events e
                    WHERE e.shard = s.shard AND e.seq >= s.oldest AND e.seq < s.oldest + $5 AND e.seq <= $2
                        AND e.recorded_at < clock_timestamp() - make_interval(secs => $3)) AS last
               FROM shards s LEFT JOIN event_partitions p ON p.shard = s.shard
               WHERE s.shard = $1 ORDER BY p.from_seq LIMIT 1"#,
            shard,
            seq_to_db(floor),
            retention.as_secs_f64(),
            retention.as_secs_f64() * PATIENCE,
            BATCH
        )
        .fetch_one(&mut *session)
        .await
        .map_err(failed(doing))?;
        let before_oldest = Seq(seq_from_db(row.oldest).0.saturating_sub(1));
        let oldest_void = void_after(&mut session, shard, before_oldest).await?;
        if let (Some(name), Some(to), Some(true)) = (row.name, row.to_seq, row.whole) {
            // The chain within a void cannot be told: what goes, goes up to its end.
            let last = Seq(seq_from_db(to).0.saturating_sub(1));
            let last = void_after(&mut session, shard, last).await?.map_or(last, |void| void.to).max(before_oldest);
            if last <= floor {
                session.done().await.map_err(failed(doing))?;
                return self.drop_partition(owner, shard, &name, last).await;
            }
        }
        session.done().await.map_err(failed(doing))?;
        if let Some(void) = oldest_void.filter(|void| void.to <= floor) {
            return self.delete_rows(owner, shard, void.to).await;
        }
        match (row.overdue, row.last) {
            (Some(true), Some(last)) => self.delete_rows(owner, shard, seq_from_db(last)).await,
            _ => Ok(None),
        }
    }

    async fn drop_partition(
        &self,
        owner: Ownership,
        shard: i16,
        name: &str,
        last: Seq,
    ) -> Result<Option<Seq>, LedgerError> {
        let doing = "dropping a partition";
        let mut session = self.0.db.begin().await.map_err(failed(doing))?;
        self.pass(&mut session, owner, shard, last).await?;
        sqlx::query!("DELETE FROM event_partitions WHERE shard = $1 AND name = $2", shard, name)
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
        // Waits for whoever reads events, and everybody waits behind it: not for long.
        for statement in ["SET LOCAL lock_timeout = '500ms'".to_owned(), format!("DROP TABLE \"{name}\"")] {
            match sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut *session).await {
                Err(sqlx::Error::Database(busy)) if busy.code().as_deref() == Some("55P03") => {
                    debug!(shard, name, "the partition is in use; it is dropped later");
                    return Ok(None);
                }
                other => other.map_err(failed(doing))?,
            };
        }
        session.done().await.map_err(failed(doing))?;
        info!(shard, name, oldest = %last.next(), "events older than the retention are dropped");
        Ok(Some(last.next()))
    }

    async fn delete_rows(&self, owner: Ownership, shard: i16, last: Seq) -> Result<Option<Seq>, LedgerError> {
        let doing = "deleting old events";
        let mut session = self.0.db.begin().await.map_err(failed(doing))?;
        self.pass(&mut session, owner, shard, last).await?;
        sqlx::query!("DELETE FROM events WHERE shard = $1 AND seq <= $2", shard, seq_to_db(last))
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
        session.done().await.map_err(failed(doing))?;
        Ok(Some(last.next()))
    }

    /// Marks the chain at the last event that goes, and says that what follows is the oldest.
    async fn pass(&self, session: &mut Session, owner: Ownership, shard: i16, last: Seq) -> Result<(), LedgerError> {
        let doing = "passing old events";
        let ours = sqlx::query!(
            "SELECT epoch FROM shards WHERE shard = $1 AND epoch = $2 FOR NO KEY UPDATE",
            shard,
            owner.epoch.0
        )
        .fetch_optional(&mut **session)
        .await
        .map_err(failed(doing))?;
        if ours.is_none() {
            return Err(LedgerError::Fenced { shard: owner.shard, why: format!("epoch {} is over", owner.epoch) });
        }
        let chain = self
            .recompute(session, shard, last)
            .await?
            .ok_or_else(|| LedgerError::Refused { doing, why: format!("the chain at seq {last} cannot be told") })?;
        sqlx::query!(
            "INSERT INTO chain_marks (shard, seq, chain, bytes)
             SELECT $1, $2, $3, m.bytes + coalesce((SELECT sum(octet_length(e.body)) FROM events e
                 WHERE e.shard = $1 AND e.seq > m.seq AND e.seq <= $2), 0)
             FROM chain_marks m WHERE m.shard = $1 AND m.seq <= $2 ORDER BY m.seq DESC LIMIT 1
             ON CONFLICT ON CONSTRAINT chain_marks_pkey DO NOTHING",
            shard,
            seq_to_db(last),
            &chain.0[..]
        )
        .execute(&mut **session)
        .await
        .map_err(failed(doing))?;
        sqlx::query!("UPDATE shards SET oldest = $2 WHERE shard = $1", shard, seq_to_db(last.next()))
            .execute(&mut **session)
            .await
            .map_err(failed(doing))?;
        Ok(())
    }

    /// Forgets the event ids that are older than the dedupe window, by walking the table in slices: it needs no index by
    /// age, which every recording would pay for. Returns how many.
    pub async fn expire_ids(&self, owner: Ownership, dedupe_window: Duration) -> Result<u64, LedgerError> {
        let doing = "expiring event ids";
        let dedupe_window = if planted(Mutant::DedupeTooShort) { dedupe_window / 2 } else { dedupe_window };
        let mut expired = 0;
        let mut page = 0;
        loop {
            let slice = within(doing, async {
                let mut session = self.0.db.begin().await.map_err(failed(doing))?;
                self.own(&mut session, owner, doing).await?;
                // The day stands in a SELECT: the clock is volatile, and would be asked for every row.
                let gone = sqlx::query!(
                    "DELETE FROM event_ids WHERE ctid >= format('(%s,0)', $1::bigint)::tid
                         AND ctid < format('(%s,0)', $2::bigint)::tid
                         AND day < (SELECT ((clock_timestamp() - make_interval(secs => $3)) AT TIME ZONE 'UTC')::date)",
                    page,
                    page + ID_PAGES,
                    dedupe_window.as_secs_f64()
                )
                .execute(&mut *session)
                .await
                .map_err(failed(doing))?
                .rows_affected();
                let left = sqlx::query!(
                    r#"SELECT pg_relation_size('event_ids') / current_setting('block_size')::bigint > $1 AS "left!""#,
                    page + ID_PAGES
                )
                .fetch_one(&mut *session)
                .await
                .map_err(failed(doing))?
                .left;
                session.done().await.map_err(failed(doing))?;
                Ok((gone, left))
            });
            let (gone, left) = slice.await?;
            expired += gone;
            page += ID_PAGES;
            if !left {
                return Ok(expired);
            }
            // Recording comes first.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Forgets what was kept to be looked at, and has been for long enough.
    async fn forget_evidence(&self, owner: Ownership, config: &LedgerConfig) -> Result<(), LedgerError> {
        let doing = "forgetting old evidence";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            let window = config.dedupe_window.as_secs_f64();
            sqlx::query!(
                "DELETE FROM rejected WHERE ctid = ANY (ARRAY(SELECT ctid FROM rejected
                    WHERE shard = $1 AND seen_at < clock_timestamp() - make_interval(secs => $2) LIMIT $3))",
                shard,
                window,
                BATCH
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            sqlx::query!(
                "DELETE FROM conflicts WHERE ctid = ANY (ARRAY(SELECT ctid FROM conflicts
                    WHERE shard = $1 AND seen_at < clock_timestamp() - make_interval(secs => $2) LIMIT $3))",
                shard,
                window,
                BATCH
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            sqlx::query!(
                "DELETE FROM replays WHERE ctid = ANY (ARRAY(SELECT ctid FROM replays
                    WHERE shard = $1 AND seq IS NOT NULL
                        AND requested_at < clock_timestamp() - make_interval(secs => $2) LIMIT $3))",
                shard,
                window,
                BATCH
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            sqlx::query!(
                "DELETE FROM skips WHERE ctid = ANY (ARRAY(SELECT ctid FROM skips
                    WHERE shard = $1 AND day < ((clock_timestamp() - make_interval(secs => $2)) AT TIME ZONE 'UTC')::date
                    LIMIT $3))",
                shard,
                window,
                BATCH
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            let letters = sqlx::query!(
                "DELETE FROM dead_letters WHERE ctid = ANY (ARRAY(SELECT ctid FROM dead_letters
                    WHERE shard = $1 AND expires_at < clock_timestamp() LIMIT $2))",
                shard,
                BATCH
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?
            .rows_affected();
            session.done().await.map_err(failed(doing))?;
            if letters > 0 {
                warn!(shard, letters, "dead letters that nobody redrove are forgotten");
            }
            Ok(())
        })
        .await
    }
}

/// How wide the next partition is to be, from how fast the present one fills.
fn width(used: i64, age: Option<f64>, retention: Duration) -> i64 {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a width within its bounds")]
    match age {
        Some(age) if age > 0.0 => {
            let part = retention.as_secs_f64() / PARTITIONS_PER_RETENTION;
            (used as f64 / age.max(60.0) * part).clamp(WIDTHS.0, WIDTHS.1) as i64
        }
        _ => WIDTHS.0 as i64,
    }
}

/// House-keeping goes on whatever the database says, unless the shard is another's.
fn tell<T>(owner: Ownership, outcome: Result<T, LedgerError>) -> Result<(), LedgerError> {
    match outcome {
        Ok(_) => Ok(()),
        Err(error @ LedgerError::Fenced { .. }) => Err(error),
        Err(error) => {
            warn!(shard = %owner.shard, error = &error as &dyn std::error::Error, "house-keeping is put off");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_as_wide_as_its_time_and_within_bounds() {
        let week = Duration::from_hours(168);
        assert_eq!(width(0, None, week), 1_000_000);
        assert_eq!(width(1_000, Some(86_400.0), week), 1_000_000);
        assert_eq!(width(8_640_000, Some(86_400.0), week), 7_560_000);
        assert_eq!(width(i64::from(i32::MAX), Some(1.0), week), 20_000_000);
    }
}
