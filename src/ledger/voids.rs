//! Seqs that stay without an event: who reads across them asks here. They are as rare as a restored backup, so nobody asks
//! before an event is missing.

use time::OffsetDateTime;

use super::database::{Session, failed, seq_from_db, seq_to_db, shard_from_db, within};
use super::open::Ledger;
use crate::event::ports::LedgerError;
use crate::event::{Seq, Shard, Void};

/// A range of seqs that was lost, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoidRow {
    /// The shard.
    pub shard: Shard,
    /// The first seq.
    pub from: Seq,
    /// The last one.
    pub to: Seq,
    /// When it was marked.
    pub at: OffsetDateTime,
}

/// A sink that found its way back, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RehydrationRow {
    /// The sink.
    pub sink: String,
    /// The shard.
    pub shard: Shard,
    /// Where its cursor was found.
    pub found: Seq,
    /// Where it went on.
    pub goes_on: Seq,
    /// How many delivered events its topics told of: those that come again are skipped.
    pub skips: u64,
    /// How many events came to it as replays, because they had seqs that it had used.
    pub reclaimed: u64,
    /// When it was found.
    pub at: OffsetDateTime,
    /// When it was ready to go on; none while it is not.
    pub done_at: Option<OffsetDateTime>,
}

/// The void that begins after `seq` or has begun before it and reaches beyond it.
pub(crate) async fn void_after(session: &mut Session, shard: i16, seq: Seq) -> Result<Option<Void>, LedgerError> {
    let doing = "looking for a void";
    let row = sqlx::query!(
        "SELECT to_seq, chain FROM voids WHERE shard = $1 AND after_seq <= $2 AND to_seq > $2
         ORDER BY after_seq DESC LIMIT 1",
        shard,
        seq_to_db(seq)
    )
    .fetch_optional(&mut **session)
    .await
    .map_err(failed(doing))?;
    row.map(|row| Ok(Void { to: seq_from_db(row.to_seq), chain: super::read::chain(&row.chain, doing)? })).transpose()
}

impl Ledger {
    /// Every range of seqs that was lost, in every shard, oldest first.
    pub async fn void_rows(&self) -> Result<Vec<VoidRow>, LedgerError> {
        let doing = "listing voids";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!("SELECT shard, after_seq, to_seq, at FROM voids ORDER BY shard, after_seq")
                .fetch_all(&mut *session)
                .await
                .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let rows = rows.into_iter().map(|row| VoidRow {
                shard: shard_from_db(row.shard),
                from: seq_from_db(row.after_seq).next(),
                to: seq_from_db(row.to_seq),
                at: row.at,
            });
            Ok(rows.collect())
        })
        .await
    }

    /// The newest ways back of sinks, newest first.
    pub async fn rehydration_rows(&self, limit: u32) -> Result<Vec<RehydrationRow>, LedgerError> {
        let doing = "listing rehydrations";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!(
                "SELECT sink, shard, seq, goes_on, skips, reclaimed, at, done_at FROM rehydrations
                 ORDER BY at DESC, sink LIMIT $1",
                i64::from(limit)
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let rows = rows.into_iter().map(|row| RehydrationRow {
                sink: row.sink,
                shard: shard_from_db(row.shard),
                found: seq_from_db(row.seq),
                goes_on: seq_from_db(row.goes_on),
                skips: u64::try_from(row.skips).unwrap_or(0),
                reclaimed: u64::try_from(row.reclaimed).unwrap_or(0),
                at: row.at,
                done_at: row.done_at,
            });
            Ok(rows.collect())
        })
        .await
    }
}
