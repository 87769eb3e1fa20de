//! What every sink keeps in the ledger: its row, its dead letters, its gaps.
//!
//! Every write names its owner's epoch and checks it under `KEY SHARE` of the shard row (INV-6): beside a recording call,
//! never beside the taking of a lease. The check is part of the same statement, so it costs no round trip.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::control::sink_gap_id;
use super::database::{Session, failed, seq_from_db, seq_to_db, within};
use super::open::Ledger;
use super::streams::printable;
use crate::event::ports::{
    ChainAt, Excuses, LedgerError, NewDeadLetter, Ownership, Reconcile, ShardBounds, SinkBook, SinkRow, SinkState,
};
use crate::event::{GapReason, Seq, Shard, SinkName};
use crate::mutant::{Mutant, planted};

const REASON_BYTES: usize = 1024;

pub(crate) fn fenced(owner: Ownership) -> LedgerError {
    LedgerError::Fenced { shard: owner.shard, why: format!("epoch {} is over", owner.epoch) }
}

impl Ledger {
    /// Checks the epoch for the rest of a transaction (INV-6), and that the database is the one that the owner began on:
    /// one that lacks the last commits has the same epoch, and lacks rows that a sink believes to be there.
    pub(crate) async fn own(
        &self,
        session: &mut Session,
        owner: Ownership,
        doing: &'static str,
    ) -> Result<(), LedgerError> {
        let shard = super::database::shard_to_db(owner.shard);
        let ours = sqlx::query!(
            r#"SELECT standpipe_home() AS "home!" FROM shards WHERE shard = $1 AND epoch = $2 FOR KEY SHARE"#,
            shard,
            owner.epoch.0
        )
        .fetch_optional(&mut **session)
        .await
        .map_err(failed(doing))?;
        match ours {
            Some(ours) => self.at_home(owner.shard, &ours.home),
            None if planted(Mutant::EpochUnchecked) => Ok(()),
            None => Err(fenced(owner)),
        }
    }

    /// Changes a sink's row, which must be there, under its owner's epoch (INV-6).
    async fn change_row(
        &self,
        owner: Ownership,
        doing: &'static str,
        change: Query<'_, Postgres, PgArguments>,
    ) -> Result<(), LedgerError> {
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            let changed = change.execute(&mut *session).await.map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            if changed.rows_affected() == 1 { Ok(()) } else { Err(fenced(owner)) }
        })
        .await
    }
}

/// Writes a sink's gap; the owner's next commit announces it (INV-14). Doing it again changes nothing.
pub(crate) async fn write_gap(
    session: &mut Session,
    sink: &SinkName,
    shard: i16,
    (from, to): (Seq, Seq),
    reason: GapReason,
    doing: &'static str,
) -> Result<(), LedgerError> {
    if from > to {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO gaps (event_id, shard, sink, from_seq, to_seq, reason, at)
         VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp())
         ON CONFLICT ON CONSTRAINT gaps_event_id_key DO NOTHING",
        sink_gap_id(sink, Shard(u16::try_from(shard).unwrap_or(0)), from, to, reason),
        shard,
        sink.as_str(),
        seq_to_db(from),
        seq_to_db(to),
        reason.as_str()
    )
    .execute(&mut **session)
    .await
    .map_err(failed(doing))?;
    metrics::counter!(crate::telemetry::metrics::GAPS_TOTAL, "reason" => reason.as_str()).increment(1);
    Ok(())
}

impl SinkBook for Ledger {
    async fn row(&self, sink: &SinkName, owner: Ownership) -> Result<SinkRow, LedgerError> {
        let doing = "reading a sink's row";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            sqlx::query!(
                "INSERT INTO sinks (sink, shard) VALUES ($1, $2) ON CONFLICT ON CONSTRAINT sinks_pkey DO NOTHING",
                sink.as_str(),
                shard
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            let row = sqlx::query!(
                "SELECT cursor, opening, seek_to, reconcile_at, rules, rules_after, paused, disabled,
                    state = 'halted' AS \"halted!\"
                 FROM sinks WHERE sink = $1 AND shard = $2",
                sink.as_str(),
                shard
            )
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(SinkRow {
                cursor: row.cursor.map(seq_from_db),
                opening: seq_from_db(row.opening),
                seek: row.seek_to.map(seq_from_db),
                reconcile: row
                    .reconcile_at
                    .map(|_| Reconcile { rules: row.rules, after: row.rules_after.map_or(Seq::ZERO, seq_from_db) }),
                paused: row.paused,
                halted: row.halted,
                disabled: row.disabled,
            })
        })
        .await
    }

    async fn keep_cursor(&self, sink: &SinkName, owner: Ownership, cursor: Seq) -> Result<(), LedgerError> {
        let doing = "keeping a sink's cursor";
        // Never beyond the head: a sink that does not know yet that the ledger was rewound must leave the trace of where
        // they still agreed.
        let shard = self.known_shard(owner.shard)?;
        let change = sqlx::query!(
            "UPDATE sinks s SET cursor = greatest(s.cursor, least($3, h.head)), cursor_at = clock_timestamp()
             FROM shards h WHERE s.sink = $1 AND s.shard = $2 AND h.shard = $2",
            sink.as_str(),
            shard,
            seq_to_db(cursor)
        );
        self.change_row(owner, doing, change).await
    }

    async fn opens(&self, sink: &SinkName, owner: Ownership, to: Seq) -> Result<(), LedgerError> {
        let doing = "noting that a sink opens a partition";
        let shard = self.known_shard(owner.shard)?;
        let change = sqlx::query!(
            "UPDATE sinks SET opening = $3 WHERE sink = $1 AND shard = $2",
            sink.as_str(),
            shard,
            seq_to_db(to)
        );
        self.change_row(owner, doing, change).await
    }

    async fn sought(&self, sink: &SinkName, owner: Ownership, cursor: Seq) -> Result<(), LedgerError> {
        let doing = "carrying out a sink's seek";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            let before = sqlx::query!(
                "SELECT cursor, seek_to, seek_reason FROM sinks WHERE sink = $1 AND shard = $2 FOR UPDATE",
                sink.as_str(),
                shard
            )
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?;
            // The gap of a cut-off was written with the order.
            let written = before.seek_reason.as_deref() == Some(GapReason::BacklogHold.as_str());
            if let (Some(last), false) = (before.cursor, written) {
                let skipped = (seq_from_db(last).next(), cursor);
                write_gap(&mut session, sink, shard, skipped, GapReason::Sought, doing).await?;
            }
            sqlx::query!(
                "UPDATE sinks SET cursor = $3, cursor_at = clock_timestamp(), opening = 0, reconcile_at = NULL,
                    seek_to = CASE WHEN seek_to = $3 THEN NULL ELSE seek_to END,
                    seek_reason = CASE WHEN seek_to = $3 THEN NULL ELSE seek_reason END
                 WHERE sink = $1 AND shard = $2",
                sink.as_str(),
                shard,
                seq_to_db(cursor)
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }

    async fn dead_letters(
        &self,
        sink: &SinkName,
        owner: Ownership,
        letters: &[NewDeadLetter],
        retention: Duration,
    ) -> Result<(), LedgerError> {
        let doing = "writing dead letters";
        let shard = self.known_shard(owner.shard)?;
        let seqs: Vec<i64> = letters.iter().map(|letter| seq_to_db(letter.seq)).collect();
        let reasons: Vec<String> = letters.iter().map(|letter| printable(&letter.reason, REASON_BYTES)).collect();
        let attempts: Vec<i32> =
            letters.iter().map(|letter| i32::try_from(letter.attempts).unwrap_or(i32::MAX)).collect();
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            sqlx::query!(
                "INSERT INTO dead_letters (sink, shard, seq, attempts, reason, expires_at,
                    account_id, type_id, occurred_at, content_hash, event_id, record_id, body)
                 SELECT $1, $2, e.seq, l.attempts, l.reason, clock_timestamp() + make_interval(secs => $6),
                    e.account_id, e.type_id, e.occurred_at, e.content_hash, e.event_id, e.record_id, e.body
                 FROM unnest($3::bigint[], $4::text[], $5::integer[]) AS l (seq, reason, attempts)
                 JOIN events e ON e.shard = $2 AND e.seq = l.seq
                 ON CONFLICT ON CONSTRAINT dead_letters_pkey DO NOTHING",
                sink.as_str(),
                shard,
                &seqs,
                &reasons,
                &attempts,
                retention.as_secs_f64()
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(())
        })
        .await
    }

    async fn report(
        &self,
        sink: &SinkName,
        owner: Ownership,
        state: SinkState,
        error: Option<&str>,
    ) -> Result<(), LedgerError> {
        let doing = "noting a sink's state";
        let shard = self.known_shard(owner.shard)?;
        let error = error.map(|error| printable(error, REASON_BYTES));
        // Disabled stays until an operator enables it, whatever is reported after.
        let change = sqlx::query!(
            "UPDATE sinks SET state = $3, error = $4,
                state_at = CASE WHEN state = $3 THEN state_at ELSE clock_timestamp() END,
                disabled = CASE WHEN $3 = 'disabled' THEN coalesce(disabled, $4, '') ELSE disabled END,
                disabled_at = CASE WHEN $3 = 'disabled' THEN coalesce(disabled_at, clock_timestamp())
                    ELSE disabled_at END
             WHERE sink = $1 AND shard = $2",
            sink.as_str(),
            shard,
            state.as_str(),
            error
        );
        self.change_row(owner, doing, change).await
    }

    async fn keep_rules(
        &self,
        sink: &SinkName,
        owner: Ownership,
        fingerprint: &str,
        after: Seq,
    ) -> Result<(), LedgerError> {
        let doing = "noting a sink's rules";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            // Who is not the owner any more changes nothing, and is told so by its next write.
            sqlx::query!(
                "WITH owner AS (SELECT shard FROM shards WHERE shard = $2 AND epoch = $3 FOR KEY SHARE)
                 UPDATE sinks s SET rules = $4, rules_after = $5
                 FROM owner WHERE s.sink = $1 AND s.shard = owner.shard AND s.rules IS DISTINCT FROM $4",
                sink.as_str(),
                shard,
                owner.epoch.0,
                fingerprint,
                seq_to_db(after)
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }

    async fn excuses(&self, sink: &SinkName, shard: Shard, from: Seq, to: Seq) -> Result<Excuses, LedgerError> {
        self.excuses_of(sink, shard, from, to).await
    }

    async fn reconciled(&self, sink: &SinkName, owner: Ownership, cursor: Seq) -> Result<(), LedgerError> {
        let doing = "noting that a sink is reconciled";
        let shard = self.known_shard(owner.shard)?;
        let change = sqlx::query!(
            "UPDATE sinks SET cursor = greatest(cursor, $3), cursor_at = clock_timestamp(), reconcile_at = NULL
             WHERE sink = $1 AND shard = $2",
            sink.as_str(),
            shard,
            seq_to_db(cursor)
        );
        self.change_row(owner, doing, change).await
    }

    async fn bounds(&self, shard: Shard) -> Result<ShardBounds, LedgerError> {
        let doing = "reading a shard's bounds";
        let number = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let row = sqlx::query!("SELECT oldest, head, chain FROM shards WHERE shard = $1", number)
                .fetch_one(&mut *session)
                .await
                .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(ShardBounds {
                ledger: self.id(),
                oldest: seq_from_db(row.oldest),
                head: seq_from_db(row.head),
                chain: super::read::chain(&row.chain, doing)?,
            })
        })
        .await
    }

    async fn chain_at(&self, shard: Shard, seq: Seq) -> Result<ChainAt, LedgerError> {
        self.chain_at_seq(shard, seq).await
    }

    async fn gap(
        &self,
        sink: &SinkName,
        owner: Ownership,
        from: Seq,
        to: Seq,
        reason: GapReason,
    ) -> Result<(), LedgerError> {
        let doing = "recording a sink's gap";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            write_gap(&mut session, sink, shard, (from, to), reason, doing).await?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }
}
