//! Ordering: each order is one transaction on rows that the owner looks at every second. None of them moves a position,
//! a cursor or a seq itself: those have one writer, which carries the order out and says so (INV-6).

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use uuid::Uuid;

use super::super::database::{Session, failed, seq_from_db, seq_to_db, shard_to_db, within};
use super::super::open::Ledger;
use super::super::voids::void_after;
use crate::event::ports::LedgerError;
use crate::event::{MAX_POSITION_BYTES, Position, Seq, Shard, SinkName, StreamKey};

/// An order that cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The ledger is out of reach or refuses.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There is no such stream.
    #[error("the ledger has no stream {0}; `standpipe streams list` shows what there is")]
    NoStream(StreamKey),
    /// There is no such sink.
    #[error("the ledger has no sink {0}; `standpipe sinks list` shows what there is")]
    NoSink(SinkName),
    /// The seq does not lie in what is kept.
    #[error("seq {wanted} of shard {shard} is not between {oldest} and {newest}, which is what the ledger keeps")]
    Outside {
        /// The shard.
        shard: Shard,
        /// What was asked for.
        wanted: Seq,
        /// The lowest cursor that can be taken.
        oldest: Seq,
        /// The highest one.
        newest: Seq,
    },
    /// The position is no text that a source could have given.
    #[error("a position is 1 to {MAX_POSITION_BYTES} bytes of text without control characters")]
    NoPosition,
    /// The sink is still configured.
    #[error(
        "the sink {0} had its place kept {1} s ago: take it out of the configuration and restart before it is forgotten"
    )]
    InUse(SinkName, i64),
}

/// Where a sink is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// At the oldest event that is kept.
    Oldest,
    /// After the newest one.
    Now,
    /// With this one.
    Seq(Seq),
}

/// A sink that moved its cursor this lately is taken for running, in seconds.
const IN_USE: i64 = 60;

impl Ledger {
    /// Pauses or resumes a stream.
    pub async fn pause_stream(&self, key: &StreamKey, paused: bool) -> Result<(), OrderError> {
        let order = sqlx::query!(
            "UPDATE streams s SET paused = $3, state_at = clock_timestamp() FROM accounts a
             WHERE a.account_id = s.account_id AND a.name = $1 AND s.name = $2",
            key.account.as_str(),
            key.stream.as_str(),
            paused
        );
        self.order("pausing a stream", order, || OrderError::NoStream(key.clone())).await
    }

    /// Orders a stream to another position; the owner records what it skips as a gap.
    pub async fn seek_stream(&self, key: &StreamKey, to: &Position) -> Result<(), OrderError> {
        let text = to.as_str();
        if text.is_empty() || text.len() > MAX_POSITION_BYTES || text.chars().any(char::is_control) {
            return Err(OrderError::NoPosition);
        }
        let order = sqlx::query!(
            "UPDATE streams s SET seek_to = $3, seek_at = clock_timestamp() FROM accounts a
             WHERE a.account_id = s.account_id AND a.name = $1 AND s.name = $2",
            key.account.as_str(),
            key.stream.as_str(),
            text.as_bytes()
        );
        self.order("ordering a stream to another position", order, || OrderError::NoStream(key.clone())).await
    }

    /// Pauses a sink, in all shards; or resumes it, which makes a halted one try again too.
    pub async fn pause_sink(&self, sink: &SinkName, paused: bool) -> Result<(), OrderError> {
        let order = sqlx::query!(
            "UPDATE sinks SET paused = $2, state_at = clock_timestamp(),
                state = CASE WHEN $2 THEN state ELSE 'starting' END, error = CASE WHEN $2 THEN error END
             WHERE sink = $1",
            sink.as_str(),
            paused
        );
        self.order("pausing a sink", order, || OrderError::NoSink(sink.clone())).await
    }

    /// Turns a disabled webhook endpoint on again, in all shards; the failures that disabled it count no more.
    pub async fn enable_sink(&self, sink: &SinkName) -> Result<(), OrderError> {
        let order = sqlx::query!(
            "WITH forgiven AS (DELETE FROM endpoints WHERE sink = $1)
             UPDATE sinks SET disabled = NULL, disabled_at = NULL, state_at = clock_timestamp(),
                state = CASE WHEN disabled IS NULL THEN state ELSE 'starting' END,
                error = CASE WHEN disabled IS NULL THEN error END
             WHERE sink = $1",
            sink.as_str()
        );
        self.order("enabling a sink", order, || OrderError::NoSink(sink.clone())).await
    }

    /// Gives an order of one statement; where it finds no row, there is `nobody` to be ordered.
    async fn order(
        &self,
        doing: &'static str,
        order: Query<'_, Postgres, PgArguments>,
        nobody: impl FnOnce() -> OrderError,
    ) -> Result<(), OrderError> {
        let done = within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let done = order.execute(&mut *session).await.map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(done)
        });
        if done.await?.rows_affected() == 0 { Err(nobody()) } else { Ok(()) }
    }

    /// Orders a sink to go on elsewhere in one shard; it records what it skips as a gap.
    pub async fn seek_sink(&self, sink: &SinkName, shard: Shard, to: SeekTo) -> Result<Seq, OrderError> {
        let doing = "ordering a sink to another seq";
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            let row = sqlx::query!("SELECT oldest, head FROM shards WHERE shard = $1 FOR SHARE", shard_to_db(shard))
                .fetch_optional(&mut *session)
                .await
                .map_err(failed(doing))?;
            let Some(row) = row else { return Ok(Err(OrderError::NoSink(sink.clone()))) };
            let (oldest, newest) = (seq_from_db(row.oldest - 1), seq_from_db(row.head));
            let cursor = match to {
                SeekTo::Oldest => oldest,
                SeekTo::Now => newest,
                SeekTo::Seq(seq) => Seq(seq.0.saturating_sub(1)),
            };
            if cursor < oldest || cursor > newest {
                let wanted = cursor.next();
                return Ok(Err(OrderError::Outside { shard, wanted, oldest: oldest.next(), newest: newest.next() }));
            }
            // Within a void there is no place: what comes next stands behind it.
            let cursor = match void_after(&mut session, shard_to_db(shard), cursor).await? {
                Some(void) => void.to,
                None => cursor,
            };
            let done = sqlx::query!(
                "UPDATE sinks SET seek_to = $3, seek_reason = 'sought', reconcile_at = NULL WHERE sink = $1 AND shard = $2",
                sink.as_str(),
                shard_to_db(shard),
                seq_to_db(cursor)
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(if done.rows_affected() == 1 { Ok(cursor) } else { Err(OrderError::NoSink(sink.clone())) })
        })
        .await?
    }

    /// Orders a Kafka sink to be reconciled with its topics, in one shard.
    pub async fn reconcile_sink(&self, sink: &SinkName, shard: Shard) -> Result<(), OrderError> {
        let doing = "ordering a sink to be reconciled";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let done = sqlx::query!(
                "UPDATE sinks SET reconcile_at = clock_timestamp(), seek_to = NULL, seek_reason = NULL
                 WHERE sink = $1 AND shard = $2",
                sink.as_str(),
                shard_to_db(shard)
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(done.rows_affected())
        })
        .await
        .map_err(OrderError::from)
        .and_then(|rows| if rows == 1 { Ok(()) } else { Err(OrderError::NoSink(sink.clone())) })
    }

    /// Forgets a sink that is no longer configured: from now on it holds nothing back, and a sink of its name would be
    /// new to this ledger.
    pub async fn forget_sink(&self, sink: &SinkName) -> Result<(), OrderError> {
        let doing = "forgetting a sink";
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            let row = sqlx::query!(
                r#"SELECT count(*) AS "rows!",
                       min(extract(epoch FROM clock_timestamp() - greatest(cursor_at, state_at)))::bigint AS idle
                   FROM sinks WHERE sink = $1"#,
                sink.as_str()
            )
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?;
            if row.rows == 0 {
                return Ok(Err(OrderError::NoSink(sink.clone())));
            }
            if let Some(idle) = row.idle.filter(|idle| *idle < IN_USE) {
                return Ok(Err(OrderError::InUse(sink.clone(), idle)));
            }
            forget(&mut session, sink).await.map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(Ok(()))
        })
        .await?
    }

    /// The instances that hold a lease now: what a verb tells when nobody is there to carry an order out.
    pub async fn owners(&self) -> Result<Vec<Uuid>, LedgerError> {
        Ok(self.shard_rows().await?.into_iter().filter_map(|row| row.owner).collect())
    }
}

async fn forget(session: &mut Session, sink: &SinkName) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM sinks WHERE sink = $1", sink.as_str()).execute(&mut **session).await?;
    sqlx::query!("DELETE FROM dead_letters WHERE sink = $1", sink.as_str()).execute(&mut **session).await?;
    sqlx::query!("DELETE FROM skips WHERE sink = $1", sink.as_str()).execute(&mut **session).await?;
    sqlx::query!("DELETE FROM rehydrations WHERE sink = $1", sink.as_str()).execute(&mut **session).await?;
    // Its deliveries went with its row.
    sqlx::query!("DELETE FROM attempts WHERE sink = $1", sink.as_str()).execute(&mut **session).await?;
    Ok(())
}
