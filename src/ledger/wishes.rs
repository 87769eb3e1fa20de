//! What operators wished: the owner's next commit carries it out, so that positions, seqs and the chain have one writer.

use time::OffsetDateTime;

use super::control;
use super::database::{Session, failed, seq_from_db};
use super::dictionary::StreamNumbers;
use super::open::Ledger;
use super::plan::{Element, Kind, Step};
use super::streams::position;
use crate::event::ports::LedgerError;
use crate::event::{
    AccountName, ContentHash, DedupeKey, Event, Gap, GapReason, Replay, Shard, SinkName, StreamKey, StreamName,
};

/// Replays taken into one commit; the rest wait for the next.
const REPLAYS: i64 = 200;
const GAPS: i64 = 500;

#[derive(Debug, Default)]
pub struct Wishes {
    /// Streams to be moved, as steps that no page stands behind.
    pub(crate) seeks: Vec<Step>,
    /// Rows to be made: gaps of sinks to be announced, events to be repeated.
    pub(crate) elements: Vec<Element>,
}

impl Wishes {
    pub(crate) const fn is_empty(&self) -> bool {
        self.seeks.is_empty() && self.elements.is_empty()
    }
}

impl Ledger {
    /// Reads the wishes of a shard.
    pub(crate) async fn wishes(&self, session: &mut Session, shard: Shard) -> Result<Wishes, LedgerError> {
        let doing = "reading the operators' wishes";
        let number = self.known_shard(shard)?;
        let there = sqlx::query!(
            r#"SELECT EXISTS (SELECT FROM streams s JOIN accounts a USING (account_id)
                              WHERE a.shard = $1 AND s.seek_to IS NOT NULL) AS "seeks!",
                      EXISTS (SELECT FROM gaps WHERE shard = $1 AND seq IS NULL) AS "gaps!",
                      EXISTS (SELECT FROM replays WHERE shard = $1 AND seq IS NULL) AS "replays!""#,
            number
        )
        .fetch_one(&mut **session)
        .await
        .map_err(failed(doing))?;
        let mut wishes = Wishes::default();
        if there.seeks {
            wishes.seeks = seeks(session, number).await.map_err(failed(doing))?;
        }
        if there.gaps {
            wishes.elements.append(&mut self.unannounced(session, shard, number).await?);
        }
        if there.replays {
            wishes.elements.append(&mut self.replays(session, number).await?);
        }
        Ok(wishes)
    }

    async fn unannounced(&self, session: &mut Session, shard: Shard, number: i16) -> Result<Vec<Element>, LedgerError> {
        let doing = "reading the gaps to be announced";
        let (account, account_id) = self.our_account().await?;
        let rows = sqlx::query!(
            r#"SELECT gap_id, sink AS "sink!", from_seq AS "from_seq!", to_seq AS "to_seq!", reason, at
               FROM gaps WHERE shard = $1 AND seq IS NULL AND sink IS NOT NULL ORDER BY gap_id LIMIT $2"#,
            number,
            GAPS
        )
        .fetch_all(&mut **session)
        .await
        .map_err(failed(doing))?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let hole = (seq_from_db(row.from_seq), seq_from_db(row.to_seq));
                let event =
                    control::sink_gap(&account, &SinkName::from(row.sink), shard, hole, reason(&row.reason), row.at);
                Element { kind: Kind::SinkGap(row.gap_id), step: None, account_id, type_id: None, replay: None, event }
            })
            .collect())
    }

    async fn replays(&self, session: &mut Session, number: i16) -> Result<Vec<Element>, LedgerError> {
        let doing = "reading the replays wished for";
        let rows = sqlx::query!(
            r#"SELECT replay_id, of_seq, sink, account_id, type_id, occurred_at, content_hash, event_id, record_id,
                   body AS "body!"
               FROM replays WHERE shard = $1 AND seq IS NULL ORDER BY replay_id LIMIT $2"#,
            number,
            REPLAYS
        )
        .fetch_all(&mut **session)
        .await
        .map_err(failed(doing))?;
        let mut elements = Vec::with_capacity(rows.len());
        for row in rows {
            let account = self.account_name(row.account_id).await?;
            let event = Event {
                stream: StreamName::from(""),
                event_type: self.type_name(row.type_id).await?,
                dedupe_key: DedupeKey::by_id(account.as_str(), &row.event_id),
                account,
                id: row.event_id.into_boxed_str(),
                record_id: row.record_id.into_boxed_str(),
                occurred_at: row.occurred_at,
                sequence: None,
                content_hash: ContentHash(row.content_hash.into_bytes()),
                body: row.body.into(),
            };
            let replay = Replay { sink: SinkName::from(row.sink), of: seq_from_db(row.of_seq) };
            elements.push(Element {
                kind: Kind::Replay(row.replay_id),
                step: None,
                account_id: row.account_id,
                type_id: Some(row.type_id),
                replay: Some(Box::new(replay)),
                event,
            });
        }
        Ok(elements)
    }
}

async fn seeks(session: &mut Session, shard: i16) -> Result<Vec<Step>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT s.stream_id, s.account_id, a.name AS account, s.name, s.position, s.seek_to AS "seek_to!",
               s.seek_at AS "seek_at!"
           FROM streams s JOIN accounts a USING (account_id) WHERE a.shard = $1 AND s.seek_to IS NOT NULL"#,
        shard
    )
    .fetch_all(&mut **session)
    .await?;
    let step = |key: StreamKey, numbers, from, to, at: OffsetDateTime| {
        let gap = Gap { reason: GapReason::Sought, detail: "ordered by an operator".to_owned() };
        Step::seek(key, numbers, from, to, gap, at)
    };
    Ok(rows
        .into_iter()
        .map(|row| {
            let key = StreamKey { account: AccountName::from(row.account), stream: StreamName::from(row.name) };
            let numbers = StreamNumbers { stream: row.stream_id, account: row.account_id };
            step(key, numbers, position(row.position), position(row.seek_to), row.seek_at)
        })
        .collect())
}

/// The reason that a row of `gaps` names; the schema knows the same words.
pub(crate) fn reason(word: &str) -> GapReason {
    [GapReason::PositionExpired, GapReason::Sought, GapReason::BacklogHold, GapReason::Retention]
        .into_iter()
        .find(|reason| reason.as_str() == word)
        .unwrap_or(GapReason::Sought)
}
