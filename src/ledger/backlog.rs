//! What the sinks have not taken: how much it is, who holds it, and cutting that one off (design.md section 2).

use super::database::{failed, seq_from_db, seq_to_db, shard_to_db, within};
use super::open::Ledger;
use super::sinks::write_gap;
use crate::event::ports::{LedgerError, Ownership};
use crate::event::{GapReason, Seq, Shard, SinkName};
use crate::telemetry::metrics::LEDGER_BACKLOG_BYTES;

/// The events of a shard that at least one configured sink has not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Their bytes, to within one commit.
    pub bytes: u64,
    /// The sink that is furthest behind; none where nothing waits.
    pub holder: Option<SinkName>,
    /// The last seq that every configured sink has taken.
    pub taken: Seq,
    /// The newest event.
    pub head: Seq,
}

impl Ledger {
    /// The last seq that every one of these sinks has taken: retention goes no further. A sink that has not started yet
    /// holds everything; one that was cut off holds nothing before the place that it was cut off to.
    pub(crate) async fn floor(&self, shard: Shard, sinks: &[SinkName]) -> Result<Seq, LedgerError> {
        self.backlog(shard, sinks).await.map(|backlog| backlog.taken)
    }

    /// What these sinks have not taken: the difference of two running totals, never a scan.
    pub async fn backlog(&self, shard: Shard, sinks: &[SinkName]) -> Result<Backlog, LedgerError> {
        let doing = "reading the backlog";
        let number = self.known_shard(shard)?;
        let names: Vec<&str> = sinks.iter().map(SinkName::as_str).collect();
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let row = sqlx::query!(
                r#"SELECT s.head, s.bytes, k.sink AS "sink?", coalesce(k.taken, s.head) AS "taken!",
                       (SELECT m.bytes FROM chain_marks m WHERE m.shard = s.shard AND m.seq <= coalesce(k.taken, s.head)
                        ORDER BY m.seq DESC LIMIT 1) AS before
                   FROM shards s LEFT JOIN LATERAL (
                       SELECT n.name AS sink, greatest(s.oldest - 1, CASE WHEN r.seek_reason = 'backlog_hold'
                           THEN greatest(r.seek_to, r.cursor) ELSE r.cursor END) AS taken
                       FROM unnest($2::text[]) AS n (name) LEFT JOIN sinks r ON r.sink = n.name AND r.shard = s.shard
                       ORDER BY taken LIMIT 1) k ON true
                   WHERE s.shard = $1"#,
                number,
                &names as &[&str]
            )
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            // A mark stands before the oldest event kept, so there is one before every place that counts.
            let bytes = u64::try_from(row.bytes - row.before.unwrap_or(row.bytes)).unwrap_or(0);
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!(LEDGER_BACKLOG_BYTES, "shard" => shard.to_string()).set(bytes as f64);
            let (taken, head) = (seq_from_db(row.taken), seq_from_db(row.head));
            let holder = row.sink.filter(|_| taken < head).map(SinkName::from);
            Ok(Backlog { bytes, holder, taken, head })
        })
        .await
    }

    /// Cuts a sink off from what it has not taken: the gap is recorded now and announced by the next commit, and from
    /// now on the sink holds nothing back before it. It goes on after the gap when it comes back. Returns the gap; none
    /// when it has taken everything.
    pub async fn cut_off(&self, owner: Ownership, sink: &SinkName) -> Result<Option<(Seq, Seq)>, LedgerError> {
        let doing = "cutting a sink off";
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            let shard = shard_to_db(owner.shard);
            // One that never started holds everything, and has no row yet.
            sqlx::query!(
                "INSERT INTO sinks (sink, shard) VALUES ($1, $2) ON CONFLICT ON CONSTRAINT sinks_pkey DO NOTHING",
                sink.as_str(),
                shard
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            let row = sqlx::query!(
                r#"SELECT s.head, s.oldest, k.cursor AS "cursor?",
                       CASE WHEN k.seek_reason = 'backlog_hold' THEN k.seek_to END AS cut
                   FROM sinks k JOIN shards s USING (shard) WHERE k.sink = $1 AND k.shard = $2 FOR UPDATE OF k"#,
                sink.as_str(),
                shard
            )
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?;
            let taken = row.cursor.max(row.cut).unwrap_or(0).max(row.oldest - 1);
            let gap = (seq_from_db(taken).next(), seq_from_db(row.head));
            if gap.0 > gap.1 {
                session.done().await.map_err(failed(doing))?;
                return Ok(None);
            }
            write_gap(&mut session, sink, shard, gap, GapReason::BacklogHold, doing).await?;
            sqlx::query!(
                "UPDATE sinks SET seek_to = $3, seek_reason = 'backlog_hold' WHERE sink = $1 AND shard = $2",
                sink.as_str(),
                shard,
                seq_to_db(gap.1)
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(Some(gap))
        })
        .await
    }
}
