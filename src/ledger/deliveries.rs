//! The rows of webhook sinks: what failed, what waits behind a failure, what takes long.
//!
//! Every change names the epoch (INV-6) and the version of the row that it saw; what does not fit changes nothing at all,
//! and the sink starts again from the rows. A row holds the whole event, so that it outlives the retention of events
//! (INV-10).

use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

use super::database::{Session, failed, seq_from_db, seq_to_db, within};
use super::open::Ledger;
use super::streams::printable;
use crate::event::ports::{LedgerError, Ownership};
use crate::event::{
    AccountName, Chain, ContentHash, DeliveryBook, DeliveryChanges, EventType, Failures, KeptDelivery, Recorded,
    Replay, SeenDelivery, Seq, Shard, SinkName,
};

const REASON_BYTES: usize = 1024;
const ANSWER_BYTES: usize = 4096;
/// Notes of attempts removed in one call.
const FORGOTTEN_AT_ONCE: i64 = 5_000;

/// A row is not as the sink saw it last: the sink reads the rows again.
fn moved(doing: &'static str, expected: usize, found: u64) -> LedgerError {
    let why = format!("{found} of {expected} rows are as they were seen");
    LedgerError::Unavailable { doing, source: why.into() }
}

fn all(doing: &'static str, expected: usize, found: u64) -> Result<(), LedgerError> {
    if found == expected as u64 { Ok(()) } else { Err(moved(doing, expected, found)) }
}

fn split(rows: &[SeenDelivery]) -> (Vec<i64>, Vec<i64>) {
    rows.iter().map(|row| (seq_to_db(row.seq), row.version)).unzip()
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl DeliveryBook for Ledger {
    async fn deliveries(&self, sink: &SinkName, shard: Shard) -> Result<Vec<KeptDelivery>, LedgerError> {
        let doing = "reading a sink's deliveries";
        let shard = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!(
                r#"SELECT d.seq, d.version, d.attempts, d.due_at, d.recorded_at, d.record_id,
                       d.replay_of IS NOT NULL AS "replay!", a.name AS account, t.name AS event_type
                   FROM deliveries d JOIN accounts a USING (account_id) JOIN event_types t USING (type_id)
                   WHERE d.sink = $1 AND d.shard = $2 ORDER BY d.seq"#,
                sink.as_str(),
                shard
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(rows
                .into_iter()
                .map(|row| KeptDelivery {
                    seq: seq_from_db(row.seq),
                    account: AccountName::from(row.account),
                    event_type: EventType::from(row.event_type),
                    record_id: row.record_id.into(),
                    replay: row.replay,
                    recorded_at: row.recorded_at,
                    attempts: u32::try_from(row.attempts).unwrap_or(0),
                    due_at: row.due_at,
                    version: row.version,
                })
                .collect())
        })
        .await
    }

    async fn claim(
        &self,
        sink: &SinkName,
        owner: Ownership,
        rows: &[SeenDelivery],
    ) -> Result<Vec<Recorded>, LedgerError> {
        let doing = "claiming deliveries";
        let shard = self.known_shard(owner.shard)?;
        let (seqs, versions) = split(rows);
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            let claimed = sqlx::query!(
                r#"UPDATE deliveries d SET version = d.version + 1
                   FROM unnest($3::bigint[], $4::bigint[]) AS s (seq, version), accounts a, event_types t
                   WHERE d.sink = $1 AND d.shard = $2 AND d.seq = s.seq AND d.version = s.version
                     AND a.account_id = d.account_id AND t.type_id = d.type_id
                   RETURNING d.seq, d.occurred_at, d.recorded_at, d.content_hash, d.chain, d.event_id, d.record_id,
                       d.replay_of, d.body, a.name AS account, t.name AS event_type"#,
                sink.as_str(),
                shard,
                &seqs,
                &versions
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            all(doing, rows.len(), claimed.len() as u64)?;
            session.done().await.map_err(failed(doing))?;
            claimed
                .into_iter()
                .map(|row| {
                    Ok(Recorded {
                        seq: seq_from_db(row.seq),
                        chain: Chain(super::read::chain(&row.chain, doing)?.0),
                        account: AccountName::from(row.account),
                        event_type: EventType::from(row.event_type),
                        id: row.event_id.into(),
                        record_id: row.record_id.into(),
                        occurred_at: row.occurred_at,
                        recorded_at: row.recorded_at,
                        content_hash: ContentHash(row.content_hash.into_bytes()),
                        body: Bytes::from(row.body),
                        replay: row.replay_of.map(|of| Box::new(Replay { sink: sink.clone(), of: seq_from_db(of) })),
                    })
                })
                .collect()
        })
        .await
    }

    async fn change(
        &self,
        sink: &SinkName,
        owner: Ownership,
        changes: &DeliveryChanges,
        dead_letter_retention: Duration,
    ) -> Result<(), LedgerError> {
        let doing = "keeping deliveries";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            let row = Row { sink, shard };
            row.keep(&mut session, changes).await?;
            row.retry(&mut session, changes).await?;
            row.note_attempts(&mut session, changes).await?;
            row.give_up(&mut session, changes, dead_letter_retention).await?;
            row.done(&mut session, changes).await?;
            session.done().await.map_err(failed(doing))?;
            Ok(())
        })
        .await
    }

    async fn failures(&self, sink: &SinkName, shard: Shard) -> Result<Option<Failures>, LedgerError> {
        let doing = "reading for how long an endpoint fails";
        let shard = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let row = sqlx::query!(
                "SELECT failing_since, failing_ms FROM endpoints WHERE sink = $1 AND shard = $2",
                sink.as_str(),
                shard
            )
            .fetch_optional(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(row.map(|row| Failures {
                since: row.failing_since,
                lasting: Duration::from_millis(u64::try_from(row.failing_ms).unwrap_or(0)),
            }))
        })
        .await
    }

    async fn keep_failures(
        &self,
        sink: &SinkName,
        owner: Ownership,
        failures: Option<Failures>,
    ) -> Result<(), LedgerError> {
        let doing = "keeping for how long an endpoint fails";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            match failures {
                Some(Failures { since, lasting }) => {
                    sqlx::query!(
                        "INSERT INTO endpoints (sink, shard, failing_since, failing_ms) VALUES ($1, $2, $3, $4)
                         ON CONFLICT ON CONSTRAINT endpoints_pkey
                         DO UPDATE SET failing_since = excluded.failing_since, failing_ms = excluded.failing_ms",
                        sink.as_str(),
                        shard,
                        since,
                        i64::try_from(lasting.as_millis()).unwrap_or(i64::MAX)
                    )
                    .execute(&mut *session)
                    .await
                }
                None => {
                    sqlx::query!("DELETE FROM endpoints WHERE sink = $1 AND shard = $2", sink.as_str(), shard)
                        .execute(&mut *session)
                        .await
                }
            }
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }

    async fn forget_after(&self, sink: &SinkName, owner: Ownership, seq: Seq) -> Result<(), LedgerError> {
        let doing = "forgetting deliveries that come again";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            sqlx::query!(
                "DELETE FROM deliveries WHERE sink = $1 AND shard = $2 AND seq > $3",
                sink.as_str(),
                shard,
                seq_to_db(seq)
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }

    async fn forget_attempts(&self, sink: &SinkName, owner: Ownership) -> Result<(), LedgerError> {
        let doing = "forgetting attempts";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            sqlx::query!(
                "DELETE FROM attempts WHERE (sink, shard, seq, number) IN (
                     SELECT a.sink, a.shard, a.seq, a.number FROM attempts a
                     WHERE a.sink = $1 AND a.shard = $2
                       AND NOT EXISTS (SELECT FROM deliveries d WHERE (d.sink, d.shard, d.seq) = (a.sink, a.shard, a.seq))
                       AND NOT EXISTS (SELECT FROM dead_letters l WHERE (l.sink, l.shard, l.seq) = (a.sink, a.shard, a.seq))
                     LIMIT $3)",
                sink.as_str(),
                shard,
                FORGOTTEN_AT_ONCE
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }
}

/// The parts of one change.
struct Row<'s> {
    sink: &'s SinkName,
    shard: i16,
}

impl Row<'_> {
    /// Events are copied within the database: no body goes over the network.
    async fn keep(&self, session: &mut Session, changes: &DeliveryChanges) -> Result<(), LedgerError> {
        let doing = "keeping deliveries";
        if changes.keep.is_empty() {
            return Ok(());
        }
        let rows = &changes.keep;
        let seqs: Vec<i64> = rows.iter().map(|row| seq_to_db(row.seq)).collect();
        let chains: Vec<Vec<u8>> = rows.iter().map(|row| row.chain.0.to_vec()).collect();
        let attempts: Vec<i32> = rows.iter().map(|row| count(row.attempts)).collect();
        let due: Vec<OffsetDateTime> = rows.iter().map(|row| row.due_at).collect();
        let kept = sqlx::query!(
            "INSERT INTO deliveries (sink, shard, seq, attempts, due_at, account_id, type_id, occurred_at, recorded_at,
                content_hash, chain, event_id, record_id, replay_of, body)
             SELECT $1, $2, e.seq, k.attempts, k.due_at, e.account_id, e.type_id, e.occurred_at, e.recorded_at,
                e.content_hash, k.chain, e.event_id, e.record_id, e.replay_of, e.body
             FROM unnest($3::bigint[], $4::bytea[], $5::integer[], $6::timestamptz[]) AS k (seq, chain, attempts, due_at)
             JOIN events e ON e.shard = $2 AND e.seq = k.seq",
            self.sink.as_str(),
            self.shard,
            &seqs,
            &chains,
            &attempts,
            &due
        )
        .execute(&mut **session)
        .await
        .map_err(failed(doing))?;
        all(doing, rows.len(), kept.rows_affected())
    }

    async fn retry(&self, session: &mut Session, changes: &DeliveryChanges) -> Result<(), LedgerError> {
        let doing = "scheduling attempts";
        if changes.retry.is_empty() {
            return Ok(());
        }
        let (seqs, versions) = split(&changes.retry.iter().map(|row| row.seen).collect::<Vec<_>>());
        let attempts: Vec<i32> = changes.retry.iter().map(|row| count(row.attempts)).collect();
        let due: Vec<OffsetDateTime> = changes.retry.iter().map(|row| row.due_at).collect();
        let scheduled = sqlx::query!(
            "UPDATE deliveries d SET version = d.version + 1, attempts = r.attempts, due_at = r.due_at
             FROM unnest($3::bigint[], $4::bigint[], $5::integer[], $6::timestamptz[]) AS r (seq, version, attempts, due_at)
             WHERE d.sink = $1 AND d.shard = $2 AND d.seq = r.seq AND d.version = r.version",
            self.sink.as_str(),
            self.shard,
            &seqs,
            &versions,
            &attempts,
            &due
        )
        .execute(&mut **session)
        .await
        .map_err(failed(doing))?;
        all(doing, changes.retry.len(), scheduled.rows_affected())
    }

    async fn note_attempts(&self, session: &mut Session, changes: &DeliveryChanges) -> Result<(), LedgerError> {
        let doing = "noting attempts";
        for note in &changes.attempts {
            sqlx::query!(
                "INSERT INTO attempts (sink, shard, seq, number, at, took_ms, status, error, answer)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                 ON CONFLICT ON CONSTRAINT attempts_pkey DO UPDATE SET at = excluded.at, took_ms = excluded.took_ms,
                    status = excluded.status, error = excluded.error, answer = excluded.answer",
                self.sink.as_str(),
                self.shard,
                seq_to_db(note.seq),
                count(note.number),
                note.at,
                i32::try_from(note.took.as_millis()).unwrap_or(i32::MAX),
                note.status.and_then(|status| i16::try_from(status).ok()),
                printable(&note.error, REASON_BYTES),
                &note.answer[..note.answer.len().min(ANSWER_BYTES)]
            )
            .execute(&mut **session)
            .await
            .map_err(failed(doing))?;
        }
        Ok(())
    }

    /// A dead letter takes the event over from its row.
    async fn give_up(
        &self,
        session: &mut Session,
        changes: &DeliveryChanges,
        retention: Duration,
    ) -> Result<(), LedgerError> {
        let doing = "giving deliveries up";
        if changes.exhausted.is_empty() {
            return Ok(());
        }
        let rows = &changes.exhausted;
        let (seqs, versions) = split(&rows.iter().map(|row| row.seen).collect::<Vec<_>>());
        let attempts: Vec<i32> = rows.iter().map(|row| count(row.attempts)).collect();
        let reasons: Vec<String> = rows.iter().map(|row| printable(&row.reason, REASON_BYTES)).collect();
        sqlx::query!(
            "INSERT INTO dead_letters (sink, shard, seq, attempts, reason, expires_at,
                account_id, type_id, occurred_at, content_hash, event_id, record_id, body)
             SELECT $1, $2, d.seq, g.attempts, g.reason, clock_timestamp() + make_interval(secs => $6),
                d.account_id, d.type_id, d.occurred_at, d.content_hash, d.event_id, d.record_id, d.body
             FROM unnest($3::bigint[], $4::text[], $5::integer[]) AS g (seq, reason, attempts)
             JOIN deliveries d ON d.sink = $1 AND d.shard = $2 AND d.seq = g.seq
             ON CONFLICT ON CONSTRAINT dead_letters_pkey DO NOTHING",
            self.sink.as_str(),
            self.shard,
            &seqs,
            &reasons,
            &attempts,
            retention.as_secs_f64()
        )
        .execute(&mut **session)
        .await
        .map_err(failed(doing))?;
        let given_up = self.remove(session, &seqs, &versions, doing).await?;
        all(doing, rows.len(), given_up)
    }

    async fn done(&self, session: &mut Session, changes: &DeliveryChanges) -> Result<(), LedgerError> {
        let doing = "removing deliveries that are done";
        if changes.done.is_empty() {
            return Ok(());
        }
        let (seqs, versions) = split(&changes.done);
        let removed = self.remove(session, &seqs, &versions, doing).await?;
        all(doing, changes.done.len(), removed)?;
        sqlx::query!(
            "DELETE FROM attempts WHERE sink = $1 AND shard = $2 AND seq = ANY ($3)",
            self.sink.as_str(),
            self.shard,
            &seqs
        )
        .execute(&mut **session)
        .await
        .map_err(failed(doing))?;
        Ok(())
    }

    async fn remove(
        &self,
        session: &mut Session,
        seqs: &[i64],
        versions: &[i64],
        doing: &'static str,
    ) -> Result<u64, LedgerError> {
        let removed = sqlx::query!(
            "DELETE FROM deliveries d USING unnest($3::bigint[], $4::bigint[]) AS s (seq, version)
             WHERE d.sink = $1 AND d.shard = $2 AND d.seq = s.seq AND d.version = s.version",
            self.sink.as_str(),
            self.shard,
            seqs,
            versions
        )
        .execute(&mut **session)
        .await
        .map_err(failed(doing))?;
        Ok(removed.rows_affected())
    }
}
