//! What the sources sent that is no event, or contradicts one: kept to be looked at.

use serde::Serialize;
use time::OffsetDateTime;

use super::super::database::{failed, seq_from_db, shard_from_db, within};
use super::super::open::Ledger;
use crate::event::ports::LedgerError;
use crate::event::{ContentHash, Seq, Shard};

/// An element of a page that cannot be an event.
#[derive(Clone, Debug, Serialize)]
pub struct RejectedRow {
    /// Its number.
    pub rejected: i64,
    /// The account.
    pub account: String,
    /// The stream that it came by.
    pub stream: String,
    /// What is wrong with it.
    pub reason: String,
    /// When it was set aside.
    #[serde(with = "time::serde::rfc3339")]
    pub seen_at: OffsetDateTime,
    /// Its bytes as text; what is no UTF-8 is shown as U+FFFD.
    pub raw: String,
    /// Its bytes, whole.
    pub raw_base64: String,
}

/// An event that came again under a known id with other content.
#[derive(Clone, Debug, Serialize)]
pub struct ConflictRow {
    /// Its number.
    pub conflict: i64,
    /// The account.
    pub account: String,
    /// The id that both have.
    pub event_id: String,
    /// The shard.
    pub shard: Shard,
    /// Where the first one stands, which was kept.
    pub kept_seq: Seq,
    /// The digest of its content, hex.
    pub kept_hash: String,
    /// The digest of the other's.
    pub other_hash: String,
    /// What the other one said: the canonical event as text.
    pub other: String,
    /// When it came first.
    #[serde(with = "time::serde::rfc3339")]
    pub seen_at: OffsetDateTime,
    /// How often it came.
    pub times: u64,
}

impl Ledger {
    /// The newest rejected elements, newest first.
    pub async fn rejected_rows(&self, limit: u32) -> Result<Vec<RejectedRow>, LedgerError> {
        let doing = "listing rejected elements";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!(
                "SELECT r.rejected_id, a.name AS account, s.name AS stream, r.reason, r.raw, r.seen_at
                 FROM rejected r JOIN streams s USING (stream_id) JOIN accounts a USING (account_id)
                 ORDER BY r.rejected_id DESC LIMIT $1",
                i64::from(limit)
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let rows = rows.into_iter().map(|row| RejectedRow {
                rejected: row.rejected_id,
                account: row.account,
                stream: row.stream,
                reason: row.reason,
                seen_at: row.seen_at,
                raw: String::from_utf8_lossy(&row.raw).into_owned(),
                raw_base64: base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &row.raw),
            });
            Ok(rows.collect())
        })
        .await
    }

    /// The newest conflicts, newest first.
    pub async fn conflict_rows(&self, limit: u32) -> Result<Vec<ConflictRow>, LedgerError> {
        let doing = "listing conflicts";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!(
                "SELECT c.conflict_id, a.name AS account, c.event_id, c.shard, c.kept_seq, c.kept_hash, c.other_hash,
                    c.other_body, c.seen_at, c.times
                 FROM conflicts c JOIN accounts a USING (account_id) ORDER BY c.conflict_id DESC LIMIT $1",
                i64::from(limit)
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let rows = rows.into_iter().map(|row| ConflictRow {
                conflict: row.conflict_id,
                account: row.account,
                event_id: row.event_id,
                shard: shard_from_db(row.shard),
                kept_seq: seq_from_db(row.kept_seq),
                kept_hash: ContentHash(row.kept_hash.into_bytes()).to_string(),
                other_hash: ContentHash(row.other_hash.into_bytes()).to_string(),
                other: String::from_utf8_lossy(&row.other_body).into_owned(),
                seen_at: row.seen_at,
                times: u64::try_from(row.times).unwrap_or(0),
            });
            Ok(rows.collect())
        })
        .await
    }
}
