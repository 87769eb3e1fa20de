//! Looking: every query is bounded, by what there is of streams and sinks or by a limit.

use bytes::Bytes;
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::super::database::{failed, seq_from_db, seq_to_db, shard_from_db, within};
use super::super::open::Ledger;
use crate::event::ports::LedgerError;
use crate::event::{DedupeKey, Seq, Shard};

/// A shard as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ShardRow {
    /// Its number.
    pub shard: Shard,
    /// The instance that owns it; none while nobody does.
    pub owner: Option<Uuid>,
    /// How many owners it has had.
    pub epoch: i64,
    /// The newest committed seq.
    pub head: Seq,
    /// The oldest one that is kept.
    pub oldest: Seq,
}

/// A stream as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct StreamStatus {
    /// The account.
    pub account: String,
    /// The stream.
    pub stream: String,
    /// Its state: a word of `StreamState`.
    pub state: String,
    /// Why, in words; empty where there is nothing to say.
    pub detail: String,
    /// The position; text of the source.
    pub position: String,
    /// When it last moved.
    #[serde(with = "time::serde::rfc3339")]
    pub position_at: OffsetDateTime,
    /// Whether the last committed page said that nothing newer is there.
    pub top: bool,
    /// Whether a seek waits to be carried out.
    pub seeking: bool,
}

/// A sink in one shard as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct SinkStatus {
    /// The sink.
    pub sink: String,
    /// The shard.
    pub shard: Shard,
    /// Its state: a word of `SinkState`.
    pub state: String,
    /// Why it does not deliver; none when it does.
    pub error: Option<String>,
    /// The last seq that it took; none before its first start.
    pub cursor: Option<Seq>,
    /// Recorded events that it has not taken.
    pub lag_events: u64,
    /// When the oldest of them was recorded.
    #[serde(with = "time::serde::rfc3339::option")]
    pub waiting_since: Option<OffsetDateTime>,
    /// Dead letters that wait for an operator.
    pub dead_letters: u64,
    /// What the continuous audit has found; none where the sink was never audited.
    pub audit: Option<AuditStatus>,
}

/// What the audit of a sink has found, as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct AuditStatus {
    /// When it was audited first.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// When it was audited last.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Messages that were judged.
    pub judged: u64,
    /// Those of them that were not as they should be.
    pub found: u64,
    /// The last of them, in words.
    pub finding: Option<String>,
    /// When it was found.
    #[serde(with = "time::serde::rfc3339::option")]
    pub found_at: Option<OffsetDateTime>,
    /// Why the audit does not follow now.
    pub error: Option<String>,
}

/// A gap as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct GapRow {
    /// Its number.
    pub gap: i64,
    /// The id of the event that announces it.
    pub event_id: String,
    /// The shard.
    pub shard: Shard,
    /// The account of the stream; none for a sink's gap.
    pub account: Option<String>,
    /// The stream; none for a sink's gap.
    pub stream: Option<String>,
    /// The sink; none for a stream's gap.
    pub sink: Option<String>,
    /// The position or seq from which it reaches.
    pub from: String,
    /// The position or seq to which it reaches.
    pub to: String,
    /// Why: a word of `GapReason`.
    pub reason: String,
    /// What the source said, or who ordered it.
    pub detail: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Where it is announced; none until the owner's next commit.
    pub seq: Option<Seq>,
}

/// A recorded event as an operator sees it.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// The shard.
    pub shard: Shard,
    /// Its place there.
    pub seq: Seq,
    /// The account.
    pub account: String,
    /// Its type.
    pub event_type: String,
    /// The event id.
    pub event_id: String,
    /// The record's id.
    pub record_id: String,
    /// When it happened, where that can be told.
    pub occurred_at: Option<OffsetDateTime>,
    /// When it was recorded.
    pub recorded_at: OffsetDateTime,
    /// The seq that it repeats and the only sink that takes it, where it is a replay.
    pub replay: Option<(Seq, String)>,
    /// The canonical bytes.
    pub body: Bytes,
}

/// What the ledger is.
#[derive(Clone, Debug, Serialize)]
pub struct SchemaRow {
    /// Its id.
    pub id: Uuid,
    /// The newest migration that was applied to it.
    pub schema: i64,
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl Ledger {
    /// The ledger's id and schema.
    pub async fn schema_row(&self) -> Result<SchemaRow, LedgerError> {
        let doing = "reading the ledger's schema";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            // Not checked at build: the table belongs to sqlx, not to our migrations.
            let schema: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
                .fetch_one(&mut *session)
                .await
                .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(SchemaRow { id: self.id().0, schema })
        })
        .await
    }

    /// Every shard, with its owner while the lease lasts.
    pub async fn shard_rows(&self) -> Result<Vec<ShardRow>, LedgerError> {
        let doing = "listing shards";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!(
                "SELECT shard, CASE WHEN lease_until >= clock_timestamp() THEN lease_owner END AS owner, epoch, head, oldest
                 FROM shards ORDER BY shard"
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let rows = rows.into_iter().map(|row| ShardRow {
                shard: shard_from_db(row.shard),
                owner: row.owner,
                epoch: row.epoch,
                head: seq_from_db(row.head),
                oldest: seq_from_db(row.oldest),
            });
            Ok(rows.collect())
        })
        .await
    }

    /// Every stream that was ever opened.
    pub async fn stream_rows(&self) -> Result<Vec<StreamStatus>, LedgerError> {
        let doing = "listing streams";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!(
                r#"SELECT a.name AS account, s.name AS stream, CASE WHEN s.paused THEN 'paused' ELSE s.state END AS "state!",
                       s.detail, s.position, s.position_at, s.at_top, s.seek_to IS NOT NULL AS "seeking!"
                   FROM streams s JOIN accounts a USING (account_id) ORDER BY a.name, s.name"#
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let rows = rows.into_iter().map(|row| StreamStatus {
                account: row.account,
                stream: row.stream,
                state: row.state,
                detail: row.detail,
                position: String::from_utf8_lossy(&row.position).into_owned(),
                position_at: row.position_at,
                top: row.at_top,
                seeking: row.seeking,
            });
            Ok(rows.collect())
        })
        .await
    }

    /// Every sink that ever started, in every shard; those that are no longer configured too.
    pub async fn sink_rows(&self) -> Result<Vec<SinkStatus>, LedgerError> {
        let doing = "listing sinks";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!(
                r#"SELECT k.sink, k.shard, k.state, k.error, k.cursor,
                       greatest(h.head - coalesce(k.cursor, 0), 0) AS "lag!",
                       (SELECT e.recorded_at FROM events e WHERE e.shard = k.shard AND e.seq = k.cursor + 1) AS waiting_since,
                       (SELECT count(*) FROM dead_letters d WHERE d.sink = k.sink AND d.shard = k.shard) AS "letters!",
                       a.since AS "since?", a.at AS "at?", a.judged AS "judged?", a.found AS "found?", a.finding,
                       a.found_at, a.error AS audit_error
                   FROM sinks k JOIN shards h USING (shard) LEFT JOIN audits a USING (sink, shard) ORDER BY k.sink, k.shard"#
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let rows = rows.into_iter().map(|row| SinkStatus {
                sink: row.sink,
                shard: shard_from_db(row.shard),
                state: row.state,
                error: row.error,
                cursor: row.cursor.map(seq_from_db),
                lag_events: count(row.lag),
                waiting_since: row.waiting_since,
                dead_letters: count(row.letters),
                audit: row.since.zip(row.at).map(|(since, at)| AuditStatus {
                    since,
                    at,
                    judged: count(row.judged.unwrap_or(0)),
                    found: count(row.found.unwrap_or(0)),
                    finding: row.finding,
                    found_at: row.found_at,
                    error: row.audit_error,
                }),
            });
            Ok(rows.collect())
        })
        .await
    }

    /// The newest gaps, newest first.
    pub async fn gap_rows(&self, limit: u32) -> Result<Vec<GapRow>, LedgerError> {
        let doing = "listing gaps";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!(
                r#"SELECT g.gap_id, g.event_id, g.shard, a.name AS "account?", s.name AS "stream?", g.from_position,
                       g.to_position, g.sink, g.from_seq, g.to_seq, g.reason, g.detail, g.at, g.seq
                   FROM gaps g LEFT JOIN streams s USING (stream_id) LEFT JOIN accounts a USING (account_id)
                   ORDER BY g.gap_id DESC LIMIT $1"#,
                i64::from(limit)
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let end = |position: Option<Vec<u8>>, seq: Option<i64>| match (position, seq) {
                (Some(position), _) => String::from_utf8_lossy(&position).into_owned(),
                (None, Some(seq)) => seq.to_string(),
                (None, None) => String::new(),
            };
            let rows = rows.into_iter().map(|row| GapRow {
                gap: row.gap_id,
                event_id: row.event_id,
                shard: shard_from_db(row.shard),
                account: row.account,
                stream: row.stream,
                sink: row.sink,
                from: end(row.from_position, row.from_seq),
                to: end(row.to_position, row.to_seq),
                reason: row.reason,
                detail: row.detail,
                at: row.at,
                seq: row.seq.map(seq_from_db),
            });
            Ok(rows.collect())
        })
        .await
    }

    /// Every kept row of an event id, in whatever account, first recordings before replays, at most 1,000.
    ///
    /// Found by the dedupe key; where an account dedupes by sequence, or the id has left the dedupe window, by a scan of
    /// the kept events (an operator's question, never the pipe's).
    pub async fn events_by_id(&self, event_id: &str) -> Result<Vec<EventRow>, LedgerError> {
        let doing = "looking an event up";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let accounts = sqlx::query_scalar!("SELECT name FROM accounts")
                .fetch_all(&mut *session)
                .await
                .map_err(failed(doing))?;
            let keys: Vec<Uuid> = accounts.iter().map(|account| DedupeKey::by_id(account, event_id).0).collect();
            let mut rows = sqlx::query_as!(
                RawEvent,
                r#"WITH first AS (SELECT shard, seq FROM event_ids WHERE key = ANY ($1)),
                       wanted AS (
                           SELECT shard, seq FROM first
                           UNION SELECT r.shard, r.seq FROM replays r JOIN first f ON f.shard = r.shard AND f.seq = r.of_seq)
                   SELECT e.shard, e.seq, a.name AS account, t.name AS event_type, e.event_id, e.record_id, e.occurred_at,
                       e.recorded_at, e.replay_of, e.replay_sink, e.body
                   FROM wanted w JOIN events e ON e.shard = w.shard AND e.seq = w.seq
                       JOIN accounts a USING (account_id) JOIN event_types t USING (type_id)
                   WHERE e.event_id = $2 ORDER BY e.shard, e.seq LIMIT 1000"#,
                &keys,
                event_id
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            if rows.is_empty() {
                rows = sqlx::query_as!(
                    RawEvent,
                    r#"SELECT e.shard, e.seq, a.name AS account, t.name AS event_type, e.event_id, e.record_id, e.occurred_at,
                           e.recorded_at, e.replay_of, e.replay_sink, e.body
                       FROM events e JOIN accounts a USING (account_id) JOIN event_types t USING (type_id)
                       WHERE e.event_id = $1 ORDER BY e.shard, e.seq LIMIT 1000"#,
                    event_id
                )
                .fetch_all(&mut *session)
                .await
                .map_err(failed(doing))?;
            }
            session.done().await.map_err(failed(doing))?;
            Ok(rows.into_iter().map(EventRow::from).collect())
        })
        .await
    }

    /// The events after `after` in one shard, oldest first, at most `limit`: what `tail` shows.
    pub async fn event_rows(&self, shard: Shard, after: Seq, limit: u32) -> Result<Vec<EventRow>, LedgerError> {
        let doing = "listing events";
        let shard = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query_as!(
                RawEvent,
                r#"SELECT e.shard, e.seq, a.name AS account, t.name AS event_type, e.event_id, e.record_id, e.occurred_at,
                       e.recorded_at, e.replay_of, e.replay_sink, e.body
                   FROM events e JOIN accounts a USING (account_id) JOIN event_types t USING (type_id)
                   WHERE e.shard = $1 AND e.seq > $2 ORDER BY e.seq LIMIT $3"#,
                shard,
                seq_to_db(after),
                i64::from(limit)
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(rows.into_iter().map(EventRow::from).collect())
        })
        .await
    }
}

struct RawEvent {
    shard: i16,
    seq: i64,
    account: String,
    event_type: String,
    event_id: String,
    record_id: String,
    occurred_at: Option<OffsetDateTime>,
    recorded_at: OffsetDateTime,
    replay_of: Option<i64>,
    replay_sink: Option<String>,
    body: Vec<u8>,
}

impl From<RawEvent> for EventRow {
    fn from(row: RawEvent) -> Self {
        Self {
            shard: shard_from_db(row.shard),
            seq: seq_from_db(row.seq),
            account: row.account,
            event_type: row.event_type,
            event_id: row.event_id,
            record_id: row.record_id,
            occurred_at: row.occurred_at,
            recorded_at: row.recorded_at,
            replay: row.replay_of.map(seq_from_db).zip(row.replay_sink),
            body: row.body.into(),
        }
    }
}
