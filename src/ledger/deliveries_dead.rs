//! Dead letters, as operators see them and dispose of them. A dead letter has left its sink's hands, so that these need
//! no epoch.

use bytes::Bytes;
use time::OffsetDateTime;

use super::database::{failed, seq_from_db, seq_to_db, shard_from_db, shard_to_db, within};
use super::open::Ledger;
use crate::event::ports::LedgerError;
use crate::event::{Seq, Shard, SinkName};

/// A dead letter without its body.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DeadLetter {
    /// The sink that gave it up.
    pub sink: String,
    /// The shard.
    pub shard: Shard,
    /// The event.
    pub seq: Seq,
    /// Its id.
    pub event_id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Its account.
    pub account: String,
    /// Its record; empty where absent.
    pub record_id: String,
    /// Attempts that were made.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: String,
    /// When it was given up.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// When it is forgotten.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// One attempt that failed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct FailedAttempt {
    /// From 1.
    pub number: u32,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// How long it took, in milliseconds.
    pub took_ms: u32,
    /// The status of the answer; none where there was none.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: String,
    /// The beginning of the answer's body; what is no UTF-8 in it is replaced.
    pub answer: String,
}

/// A dead letter whole.
#[derive(Clone, Debug)]
pub struct WholeDeadLetter {
    /// What the list shows.
    pub letter: DeadLetter,
    /// The event's bytes.
    pub body: Bytes,
    /// Its attempts, the first first.
    pub attempts: Vec<FailedAttempt>,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default)]
pub struct DeadLetters {
    /// Of this sink.
    pub sink: Option<SinkName>,
    /// In this shard.
    pub shard: Option<Shard>,
    /// These; empty = all.
    pub seqs: Vec<Seq>,
}

impl DeadLetters {
    fn parts(&self) -> (Option<&str>, Option<i16>, Option<Vec<i64>>) {
        let seqs: Vec<i64> = self.seqs.iter().copied().map(seq_to_db).collect();
        (self.sink.as_ref().map(SinkName::as_str), self.shard.map(shard_to_db), (!seqs.is_empty()).then_some(seqs))
    }
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

impl Ledger {
    /// Dead letters, the oldest first, at most `limit`.
    pub async fn list_dead_letters(&self, which: &DeadLetters, limit: u32) -> Result<Vec<DeadLetter>, LedgerError> {
        let doing = "listing dead letters";
        let (sink, shard, seqs) = which.parts();
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!(
                "SELECT l.sink, l.shard, l.seq, l.event_id, t.name AS event_type, a.name AS account, l.record_id,
                    l.attempts, l.reason, l.at, l.expires_at
                 FROM dead_letters l JOIN accounts a USING (account_id) JOIN event_types t USING (type_id)
                 WHERE ($1::text IS NULL OR l.sink = $1) AND ($2::smallint IS NULL OR l.shard = $2)
                   AND ($3::bigint[] IS NULL OR l.seq = ANY ($3))
                 ORDER BY l.at, l.sink, l.shard, l.seq LIMIT $4",
                sink,
                shard,
                seqs.as_deref(),
                i64::from(limit)
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let letters = rows.into_iter().map(|row| DeadLetter {
                sink: row.sink,
                shard: shard_from_db(row.shard),
                seq: seq_from_db(row.seq),
                event_id: row.event_id,
                event_type: row.event_type,
                account: row.account,
                record_id: row.record_id,
                attempts: count(row.attempts),
                reason: row.reason,
                at: row.at,
                expires_at: row.expires_at,
            });
            Ok(letters.collect())
        })
        .await
    }

    /// One dead letter with its body and its attempts.
    pub async fn dead_letter(
        &self,
        sink: &SinkName,
        shard: Shard,
        seq: Seq,
    ) -> Result<Option<WholeDeadLetter>, LedgerError> {
        let doing = "reading a dead letter";
        let which = DeadLetters { sink: Some(sink.clone()), shard: Some(shard), seqs: vec![seq] };
        let Some(letter) = self.list_dead_letters(&which, 1).await?.pop() else { return Ok(None) };
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let body = sqlx::query_scalar!(
                "SELECT body FROM dead_letters WHERE sink = $1 AND shard = $2 AND seq = $3",
                sink.as_str(),
                shard_to_db(shard),
                seq_to_db(seq)
            )
            .fetch_optional(&mut *session)
            .await
            .map_err(failed(doing))?;
            let attempts = sqlx::query!(
                "SELECT number, at, took_ms, status, error, answer FROM attempts
                 WHERE sink = $1 AND shard = $2 AND seq = $3 ORDER BY number",
                sink.as_str(),
                shard_to_db(shard),
                seq_to_db(seq)
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let attempts = attempts.into_iter().map(|row| FailedAttempt {
                number: count(row.number),
                at: row.at,
                took_ms: count(row.took_ms),
                status: row.status.and_then(|status| u16::try_from(status).ok()),
                error: row.error,
                answer: String::from_utf8_lossy(&row.answer).into_owned(),
            });
            Ok(body.map(|body| WholeDeadLetter { letter, body: Bytes::from(body), attempts: attempts.collect() }))
        })
        .await
    }

    /// Makes wishes of dead letters: the owner's next commit records each event again for its sink, under a new seq. The
    /// dead letter goes in the same transaction. Gives their number.
    pub async fn redrive_dead_letters(&self, which: &DeadLetters) -> Result<u64, LedgerError> {
        let doing = "redriving dead letters";
        let (sink, shard, seqs) = which.parts();
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            let wished = sqlx::query!(
                "WITH gone AS (
                     DELETE FROM dead_letters l
                     WHERE ($1::text IS NULL OR l.sink = $1) AND ($2::smallint IS NULL OR l.shard = $2)
                       AND ($3::bigint[] IS NULL OR l.seq = ANY ($3))
                     RETURNING *)
                 INSERT INTO replays (shard, of_seq, sink, account_id, type_id, occurred_at, content_hash, event_id,
                    record_id, body)
                 SELECT shard, seq, sink, account_id, type_id, occurred_at, content_hash, event_id, record_id, body
                 FROM gone ORDER BY sink, shard, seq",
                sink,
                shard,
                seqs.as_deref()
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(wished.rows_affected())
        })
        .await
    }

    /// Removes dead letters for good, with the notes of their attempts. Gives their number.
    pub async fn discard_dead_letters(&self, which: &DeadLetters) -> Result<u64, LedgerError> {
        let doing = "discarding dead letters";
        let (sink, shard, seqs) = which.parts();
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            let discarded = sqlx::query!(
                "DELETE FROM dead_letters l
                 WHERE ($1::text IS NULL OR l.sink = $1) AND ($2::smallint IS NULL OR l.shard = $2)
                   AND ($3::bigint[] IS NULL OR l.seq = ANY ($3))",
                sink,
                shard,
                seqs.as_deref()
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(discarded.rows_affected())
        })
        .await
    }
}
