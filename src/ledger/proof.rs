//! What those ask who check a sink from outside. Nothing here writes.

use time::OffsetDateTime;

use super::database::{Session, failed, seq_from_db, seq_to_db, within};
use super::open::Ledger;
use crate::event::ports::{Excuses, LedgerError, ProofBook, SinkBook, Standing};
use crate::event::{Seq, Shard, SinkName};

impl ProofBook for Ledger {
    async fn standing(
        &self,
        sink: &SinkName,
        shard: Shard,
        since: Option<OffsetDateTime>,
    ) -> Result<Standing, LedgerError> {
        let doing = "looking where a sink stands";
        let number = self.known_shard(shard)?;
        let bounds = self.bounds(shard).await?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let row = sqlx::query!(
                "SELECT cursor, rules, rules_after FROM sinks WHERE sink = $1 AND shard = $2",
                sink.as_str(),
                number
            )
            .fetch_optional(&mut *session)
            .await
            .map_err(failed(doing))?;
            let reused = sqlx::query!(
                "SELECT base, until FROM rehydrations WHERE sink = $1 AND shard = $2 AND until > base ORDER BY base, until",
                sink.as_str(),
                number
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            let first = match since {
                Some(since) => recorded_since(&mut session, number, (bounds.oldest, bounds.head.next()), since)
                    .await
                    .map_err(failed(doing))?,
                None => bounds.oldest,
            };
            session.done().await.map_err(failed(doing))?;
            let (copy, rules) = row.map_or((None, None), |row| {
                (row.cursor.map(seq_from_db), row.rules.zip(row.rules_after.map(seq_from_db)))
            });
            let reused = reused.into_iter().map(|way| (seq_from_db(way.base).next(), seq_from_db(way.until))).collect();
            Ok(Standing { bounds, first, copy, rules, reused })
        })
        .await
    }
}

impl Ledger {
    /// As [`SinkBook::excuses`].
    pub(super) async fn excuses_of(
        &self,
        sink: &SinkName,
        shard: Shard,
        from: Seq,
        to: Seq,
    ) -> Result<Excuses, LedgerError> {
        let doing = "looking for what a sink need not have delivered";
        let number = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let gaps = sqlx::query!(
                r#"SELECT from_seq AS "from_seq!", to_seq AS "to_seq!" FROM gaps
                   WHERE sink = $1 AND shard = $2 AND to_seq >= $3 AND from_seq <= $4 ORDER BY from_seq"#,
                sink.as_str(),
                number,
                seq_to_db(from),
                seq_to_db(to)
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            let letters = sqlx::query_scalar!(
                r#"SELECT seq AS "seq!" FROM dead_letters WHERE sink = $1 AND shard = $2 AND seq BETWEEN $3 AND $4
                   UNION SELECT of_seq FROM replays WHERE sink = $1 AND shard = $2 AND of_seq BETWEEN $3 AND $4
                   ORDER BY 1"#,
                sink.as_str(),
                number,
                seq_to_db(from),
                seq_to_db(to)
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            // The key by account and event id, whatever the account dedupes by. One look by the key for each event: without
            // statistics, as after a restore, a join of the two tables would hash each event once for each skip.
            let skips = sqlx::query!(
                r#"SELECT e.seq, s.at_seq FROM events e JOIN accounts a USING (account_id)
                   CROSS JOIN LATERAL (SELECT at_seq FROM skips s
                       WHERE s.sink = $1 AND s.shard = $2 AND coalesce(e.replay_of, 0) IN (s.replay_of, 0)
                           AND s.key = encode(substring(sha256(convert_to(a.name, 'UTF8') || '\x00'::bytea
                               || convert_to(e.event_id, 'UTF8')) FOR 16), 'hex')::uuid
                       ORDER BY s.replay_of LIMIT 1) s
                   WHERE e.shard = $2 AND e.seq BETWEEN $3 AND $4 AND s.at_seq <> e.seq
                       AND EXISTS (SELECT FROM skips WHERE sink = $1 AND shard = $2)
                   ORDER BY e.seq"#,
                sink.as_str(),
                number,
                seq_to_db(from),
                seq_to_db(to)
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(Excuses {
                gaps: gaps.into_iter().map(|gap| (seq_from_db(gap.from_seq), seq_from_db(gap.to_seq))).collect(),
                dead_letters: letters.into_iter().map(seq_from_db).collect(),
                skips: skips.into_iter().map(|skip| (seq_from_db(skip.seq), seq_from_db(skip.at_seq))).collect(),
            })
        })
        .await
    }
}

/// The first seq of `from .. end` that was recorded at a time or later; `end` where none was. Times rise with the seq,
/// as commits do, so that a few looks by the key find it.
async fn recorded_since(
    session: &mut Session,
    shard: i16,
    (from, end): (Seq, Seq),
    since: OffsetDateTime,
) -> Result<Seq, sqlx::Error> {
    let (mut low, mut high) = (from.0, end.0);
    while low < high {
        let middle = low + (high - low) / 2;
        let row = sqlx::query!(
            "SELECT recorded_at FROM events WHERE shard = $1 AND seq >= $2 ORDER BY seq LIMIT 1",
            shard,
            seq_to_db(Seq(middle))
        )
        .fetch_optional(&mut **session)
        .await?;
        if row.is_some_and(|row| row.recorded_at < since) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(Seq(low))
}
