//! What the recorder asks of the database: PostgreSQL answers it, and [`Model`](super::model::Model) in a simulation.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;

use time::OffsetDateTime;

use super::database::{Session, failed, is_data_exception, seq_from_db, seq_to_db, shard_to_db, within};
use super::dictionary::StreamNumbers;
use super::open::Ledger;
use super::plan::{Answer, Draft, Element, Plan, accepts};
use super::wishes::Wishes;
use crate::event::ports::{LedgerError, Ownership};
use crate::event::{Chain, ContentHash, Epoch, EventType, Seq, Shard, StreamKey};
use crate::mutant::{Mutant, planted};

/// Where a shard stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub(crate) epoch: Epoch,
    pub(crate) head: Seq,
    pub(crate) chain: Chain,
}

/// An event that is there, as far as a commit in doubt is told by it.
#[derive(Clone, Debug)]
pub struct Settled {
    pub(crate) event_id: String,
    pub(crate) content_hash: ContentHash,
    pub(crate) replay_of: Option<Seq>,
    pub(crate) recorded_at: OffsetDateTime,
}

/// Why a recording call gave no answer.
#[derive(Debug)]
pub enum Doubt {
    /// The ledger lives in another database than its owner began on: nothing was written.
    Elsewhere(LedgerError),
    /// It is known to have written nothing.
    Nothing(sqlx::Error),
    /// It may have committed.
    Unknown(sqlx::Error),
}

/// The recorder's database.
pub trait Store: Clone + Send + Sync + 'static {
    /// What is kept between calls.
    type Kept: Default + fmt::Debug + Send + Sync + 'static;

    /// Where the shard stands.
    fn standing(&self, shard: Shard) -> impl Future<Output = Result<Standing, LedgerError>> + Send;
    /// What operators wished.
    fn wished(&self, shard: Shard) -> impl Future<Output = Result<Wishes, LedgerError>> + Send;
    /// The numbers of a stream, where it was opened.
    fn stream(&self, key: &StreamKey) -> impl Future<Output = Result<Option<StreamNumbers>, LedgerError>> + Send;
    /// The numbers of the elements' types; new ones are given one.
    fn types(&self, elements: &[Element]) -> impl Future<Output = Result<HashMap<EventType, i32>, LedgerError>> + Send;
    /// The one recording call, for an owner who holds `head` and its chain to be true.
    fn record(
        &self,
        kept: &mut Self::Kept,
        draft: &Draft,
        owner: Ownership,
        head: (Seq, Chain),
    ) -> impl Future<Output = Result<Answer, Doubt>> + Send;
    /// The first element whose content is refused, after a call that failed for it; with the reason.
    fn refused(
        &self,
        elements: &[Element],
        error: &sqlx::Error,
    ) -> impl Future<Output = Result<(usize, String), LedgerError>> + Send;
    /// Where the shard stands, once whatever call is under way has ended, and its events after `head`, in order.
    fn settled(
        &self,
        shard: Shard,
        head: Seq,
    ) -> impl Future<Output = Result<(Standing, Vec<Settled>), LedgerError>> + Send;
    /// Gives back what was kept.
    fn close(&self, kept: Self::Kept) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

impl Store for Ledger {
    // A pool would test it each time, which is another round trip.
    type Kept = Option<Session>;

    async fn standing(&self, shard: Shard) -> Result<Standing, LedgerError> {
        let doing = "starting to record";
        let shard = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let row = sqlx::query!("SELECT epoch, head, chain FROM shards WHERE shard = $1", shard)
                .fetch_one(&mut *session)
                .await
                .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let chain = super::read::chain(&row.chain, doing)?;
            Ok(Standing { epoch: Epoch(row.epoch), head: seq_from_db(row.head), chain })
        })
        .await
    }

    async fn wished(&self, shard: Shard) -> Result<Wishes, LedgerError> {
        let doing = "reading the operators' wishes";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let wishes = self.wishes(&mut session, shard).await?;
            session.done().await.map_err(failed(doing))?;
            Ok(wishes)
        })
        .await
    }

    async fn stream(&self, key: &StreamKey) -> Result<Option<StreamNumbers>, LedgerError> {
        self.stream_numbers(key).await
    }

    async fn types(&self, elements: &[Element]) -> Result<HashMap<EventType, i32>, LedgerError> {
        self.type_numbers(elements.iter().map(|element| &element.event.event_type)).await
    }

    async fn record(
        &self,
        kept: &mut Option<Session>,
        draft: &Draft,
        owner: Ownership,
        (head, chain): (Seq, Chain),
    ) -> Result<Answer, Doubt> {
        let (mut session, is_known) = match kept.take() {
            Some(session) => (session, true),
            None => (self.0.db.connection().await.map_err(Doubt::Nothing)?, false),
        };
        let mut plan = Plan::of(draft, head, chain);
        if planted(Mutant::PositionFirst) {
            let moves = plan.take_moves(chain);
            let answer = moves.call(&mut session, owner, head, chain).await.map_err(doubt)?;
            if answer.outcome != "recorded" {
                *kept = Some(session);
                return Ok(answer);
            }
        }
        // What is rare is written beside the call, in its transaction; the usual call is a transaction by itself.
        let beside = draft.has_more();
        if beside || self.0.db.pooler() {
            self.0.db.begin_on(&mut session).await.map_err(Doubt::Nothing)?;
        }
        // Behind a pooler every transaction may have another server.
        if !is_known || self.0.db.pooler() {
            self.look_home(&mut session, owner.shard).await?;
        }
        let answer = plan.call(&mut session, owner, head, chain).await.map_err(doubt)?;
        if answer.outcome != "recorded" {
            session.roll_back().await.map_err(Doubt::Nothing)?;
        } else if beside {
            draft.write_more(&mut session, shard_to_db(owner.shard), &plan, &answer).await.map_err(Doubt::Nothing)?;
        }
        session.commit().await.map_err(doubt)?;
        if self.0.shards <= super::database::SHARDS_THAT_KEEP {
            *kept = Some(session);
        } else {
            session.done().await.map_err(doubt)?;
        }
        Ok(answer)
    }

    /// By halves.
    async fn refused(&self, elements: &[Element], error: &sqlx::Error) -> Result<(usize, String), LedgerError> {
        let doing = "looking for what PostgreSQL refuses";
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let (mut from, mut to) = (0, elements.len());
            let mut words = error.to_string();
            while from < to {
                let middle = from + (to - from).div_ceil(2);
                match accepts(&mut session, &elements[from..middle]).await {
                    Ok(()) => from = middle,
                    Err(refused) if is_data_exception(&refused) => {
                        words = refused.to_string();
                        to = middle;
                        if to - from == 1 {
                            return Ok((from, words));
                        }
                        // A transaction that failed takes nothing more.
                        session = self.0.db.session().await.map_err(failed(doing))?;
                    }
                    Err(other) => return Err(failed(doing)(other)),
                }
            }
            Err(LedgerError::Refused { doing, why: format!("it takes every element by itself, but: {words}") })
        })
        .await
    }

    /// The row's lock waits for the old backend.
    async fn settled(&self, shard: Shard, after: Seq) -> Result<(Standing, Vec<Settled>), LedgerError> {
        let doing = "settling a commit in doubt";
        let shard = shard_to_db(shard);
        let mut session = self.0.db.begin().await.map_err(failed(doing))?;
        let row = sqlx::query!("SELECT epoch, head, chain FROM shards WHERE shard = $1 FOR NO KEY UPDATE", shard)
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?;
        let rows = sqlx::query!(
            "SELECT seq, event_id, content_hash, replay_of, recorded_at FROM events
             WHERE shard = $1 AND seq > $2 AND seq <= $3 ORDER BY seq",
            shard,
            seq_to_db(after),
            row.head
        )
        .fetch_all(&mut *session)
        .await
        .map_err(failed(doing))?;
        session.done().await.map_err(failed(doing))?;
        let chain = super::read::chain(&row.chain, doing)?;
        let standing = Standing { epoch: Epoch(row.epoch), head: seq_from_db(row.head), chain };
        let rows = rows.into_iter().map(|row| Settled {
            event_id: row.event_id,
            content_hash: ContentHash(row.content_hash.into_bytes()),
            replay_of: row.replay_of.map(seq_from_db),
            recorded_at: row.recorded_at,
        });
        Ok((standing, rows.collect()))
    }

    async fn close(&self, kept: Option<Session>) -> Result<(), LedgerError> {
        match kept {
            Some(session) => session.done().await.map_err(failed("closing the recorder")),
            None => Ok(()),
        }
    }
}

/// Whether a failed call may have committed: not when the server itself refused it, unless it did so while going down.
fn doubt(error: sqlx::Error) -> Doubt {
    match &error {
        sqlx::Error::Database(database)
            if !database.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P")) =>
        {
            Doubt::Nothing(error)
        }
        _ => Doubt::Unknown(error),
    }
}
