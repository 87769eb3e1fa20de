//! Reading what is recorded, with its chain.

use bytes::Bytes;
use time::OffsetDateTime;
use uuid::Uuid;

use super::database::{Session, failed, seq_from_db, seq_to_db, within};
use super::open::Ledger;
use super::voids::void_after;
use crate::event::ports::{ChainAt, LedgerError, ReadLedger};
use crate::event::{Batch, Chain, ContentHash, Recorded, Replay, Seq, Shard, SinkName};

/// Parses a stored chain; the schema holds it to 32 bytes.
pub(crate) fn chain(bytes: &[u8], doing: &'static str) -> Result<Chain, LedgerError> {
    let chain =
        bytes.try_into().map_err(|_| LedgerError::Refused { doing, why: "a chain is not 32 bytes".to_owned() })?;
    Ok(Chain(chain))
}

/// A row of `events`, before it is words.
struct Row {
    seq: i64,
    account_id: i32,
    type_id: i32,
    occurred_at: Option<OffsetDateTime>,
    recorded_at: OffsetDateTime,
    content_hash: Uuid,
    event_id: String,
    record_id: String,
    replay_of: Option<i64>,
    replay_sink: Option<String>,
    body: Vec<u8>,
}

impl Ledger {
    /// The chain at `seq`, recomputed from the mark before it; none where what lies between is not kept.
    pub(crate) async fn recompute(
        &self,
        session: &mut Session,
        shard: i16,
        seq: Seq,
    ) -> Result<Option<Chain>, LedgerError> {
        let doing = "recomputing the chain";
        let Some(mark) = sqlx::query!(
            "SELECT seq, chain FROM chain_marks WHERE shard = $1 AND seq <= $2 ORDER BY seq DESC LIMIT 1",
            shard,
            seq_to_db(seq)
        )
        .fetch_optional(&mut **session)
        .await
        .map_err(failed(doing))?
        else {
            return Ok(None);
        };
        let mut link = chain(&mark.chain, doing)?;
        let mut last = seq_from_db(mark.seq);
        if last == seq {
            return Ok(Some(link));
        }
        let events = sqlx::query!(
            "SELECT seq, event_id, content_hash FROM events WHERE shard = $1 AND seq > $2 AND seq <= $3 ORDER BY seq",
            shard,
            mark.seq,
            seq_to_db(seq)
        )
        .fetch_all(&mut **session)
        .await
        .map_err(failed(doing))?;
        for event in events {
            if seq_from_db(event.seq) != last.next() {
                return Ok(None);
            }
            last = last.next();
            link = link.link(last, &event.event_id, &ContentHash(event.content_hash.into_bytes()));
        }
        Ok((last == seq).then_some(link))
    }

    pub(crate) async fn chain_at_seq(&self, shard: Shard, seq: Seq) -> Result<ChainAt, LedgerError> {
        let doing = "reading the chain";
        let number = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let head = sqlx::query!("SELECT head FROM shards WHERE shard = $1", number)
                .fetch_one(&mut *session)
                .await
                .map_err(failed(doing))?
                .head;
            if seq > seq_from_db(head) {
                session.done().await.map_err(failed(doing))?;
                return Ok(ChainAt::Beyond);
            }
            let found = match self.recompute(&mut session, number, seq).await? {
                Some(chain) => ChainAt::Known(chain),
                None if void_after(&mut session, number, seq).await?.is_some() => ChainAt::Void,
                None => ChainAt::Expired,
            };
            session.done().await.map_err(failed(doing))?;
            Ok(found)
        })
        .await
    }

    async fn recorded(&self, row: Row, chain: Chain) -> Result<Recorded, LedgerError> {
        Ok(Recorded {
            seq: seq_from_db(row.seq),
            chain,
            account: self.account_name(row.account_id).await?,
            event_type: self.type_name(row.type_id).await?,
            id: row.event_id.into_boxed_str(),
            record_id: row.record_id.into_boxed_str(),
            occurred_at: row.occurred_at,
            recorded_at: row.recorded_at,
            content_hash: ContentHash(row.content_hash.into_bytes()),
            body: Bytes::from(row.body),
            replay: row
                .replay_of
                .zip(row.replay_sink)
                .map(|(of, sink)| Box::new(Replay { sink: SinkName::from(sink), of: seq_from_db(of) })),
        })
    }
}

/// Rows after `after`, at most `until`, at most so many events and about so many bytes.
async fn rows_between(
    session: &mut Session,
    shard: i16,
    after: Seq,
    until: Seq,
    (max_events, max_bytes): (usize, usize),
) -> Result<Vec<Row>, LedgerError> {
    let max_events = i64::try_from(max_events.max(1)).unwrap_or(i64::MAX);
    // The running total stops the server at the bound; at least one event comes, however large.
    sqlx::query_as!(
        Row,
        r#"SELECT seq AS "seq!", account_id AS "account_id!", type_id AS "type_id!", occurred_at,
                       recorded_at AS "recorded_at!", content_hash AS "content_hash!", event_id AS "event_id!",
                       record_id AS "record_id!", replay_of, replay_sink, body AS "body!"
                   FROM (SELECT e.*, sum(octet_length(e.body)) OVER (ORDER BY e.seq) - octet_length(e.body) AS already
                         FROM events e WHERE e.shard = $1 AND e.seq > $2 AND e.seq <= $3 ORDER BY e.seq LIMIT $4) w
                   WHERE w.already < $5 ORDER BY seq"#,
        shard,
        seq_to_db(after),
        seq_to_db(until),
        max_events,
        i64::try_from(max_bytes.max(1)).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut **session)
    .await
    .map_err(failed("reading events"))
}

impl ReadLedger for Ledger {
    async fn read(
        &self,
        shard: Shard,
        after: Seq,
        until: Seq,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Batch, LedgerError> {
        let doing = "reading events";
        let number = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let gone = || LedgerError::Refused { doing, why: format!("events after seq {after} are no longer kept") };
            let before = self.recompute(&mut session, number, after).await?.ok_or_else(gone)?;
            let most = (max_events, max_bytes);
            // No further than they can reach: where a partition has no statistics yet, the server would sort everything
            // up to the head for each piece of it.
            let reach = Seq(after.0.saturating_add(max_events.max(1) as u64)).min(until);
            let mut rows = rows_between(&mut session, number, after, reach, most).await?;
            if rows.is_empty() && reach < until {
                // A void that is wider, or nothing.
                rows = rows_between(&mut session, number, after, until, most).await?;
            }
            let mut batch =
                Batch { shard, after, chain_before: before, void: None, events: Vec::with_capacity(rows.len()) };
            let follows = rows.first().is_some_and(|row| seq_from_db(row.seq) == after.next());
            if !follows && after < until {
                batch.void = void_after(&mut session, number, after).await?;
            }
            session.done().await.map_err(failed(doing))?;
            for row in rows {
                let seq = seq_from_db(row.seq);
                if seq != batch.to().next() {
                    if batch.to() == after {
                        return Err(gone());
                    }
                    // A void begins here, be it right behind another one: the next batch leads across it.
                    break;
                }
                let chain = batch.chain().link(seq, &row.event_id, &ContentHash(row.content_hash.into_bytes()));
                batch.events.push(self.recorded(row, chain).await?);
            }
            Ok(batch)
        })
        .await
    }
}
