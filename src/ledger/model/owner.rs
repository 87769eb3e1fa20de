//! What a shard's owner asks beside its stages.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Model, State};
use crate::config::LedgerConfig;
use crate::event::budget::{BudgetAsk, BudgetBook, BudgetSlice};
use crate::event::grant::{Claimed, GrantBook, GrantClaim, GrantFailure, GrantRow, NewGrant};
use crate::event::ports::{AuditBook, AuditNote, LedgerError, Ownership, SinkState};
use crate::event::{AccountName, LedgerId, Seq, Shard, SinkName};
use crate::ledger::budgets::late;
use crate::ledger::grants::Kept;
use crate::ledger::operator::SinkStatus;
use crate::ledger::{Backlog, Home, OwnerBook};

impl State {
    /// The last seq that each of these sinks has taken, and the one that is furthest behind.
    fn furthest_behind(&self, sinks: &[SinkName]) -> (Option<SinkName>, Seq) {
        let before = Seq(self.oldest.0.saturating_sub(1));
        let taken =
            |name: &SinkName| self.sinks.get(name).and_then(|sink| sink.row.cursor).map_or(before, |at| at.max(before));
        let behind = sinks.iter().map(|name| (taken(name), name)).min();
        behind.map_or((None, self.head()), |(taken, name)| (Some(name.clone()).filter(|_| taken < self.head()), taken))
    }
}

impl OwnerBook for Model {
    fn id(&self) -> LedgerId {
        self.id
    }

    fn shards(&self) -> Vec<Shard> {
        (0..).map(Shard).take(self.shards.len()).collect()
    }

    async fn home(&self, shard: Shard) -> Result<Home, LedgerError> {
        let number = self.database().number;
        let now = format!("database {number}");
        let home = self.call("looking which database the ledger lives in", shard, |state| {
            Ok(Home { noted: state.home.clone(), now })
        });
        let home = home.await?;
        self.homes().insert(shard, number);
        Ok(home)
    }

    async fn settle(&self, owner: Ownership, home: &Home) -> Result<(), LedgerError> {
        let now = home.now.clone();
        self.write("noting which database the ledger lives in", owner, move |state| {
            state.home = Some(now);
            Ok(())
        })
        .await
    }

    async fn shard_of(&self, account: &AccountName) -> Result<Shard, LedgerError> {
        let shard = self.home_of(account);
        self.call("assigning an account to a shard", shard, move |_| Ok(shard)).await
    }

    async fn backlog(&self, shard: Shard, sinks: &[SinkName]) -> Result<Backlog, LedgerError> {
        let sinks = sinks.to_vec();
        self.call("reading the backlog", shard, move |state| {
            let (holder, taken) = state.furthest_behind(&sinks);
            let waiting = state.events.iter().rev().take_while(|event| event.seq > taken);
            let bytes = waiting.map(|event| event.body.len() as u64).sum();
            Ok(Backlog { bytes, holder, taken, head: state.head() })
        })
        .await
    }

    async fn cut_off(&self, owner: Ownership, sink: &SinkName) -> Result<Option<(Seq, Seq)>, LedgerError> {
        let sink = sink.clone();
        self.write("cutting a sink off", owner, move |state| {
            let (_, taken) = state.furthest_behind(std::slice::from_ref(&sink));
            let gap = (taken.next(), state.head());
            if gap.0 > gap.1 {
                return Ok(None);
            }
            state.gap(&sink, gap.0, gap.1);
            if let Some(known) = state.sinks.get_mut(&sink) {
                known.row.seek = Some(gap.1);
            }
            Ok(Some(gap))
        })
        .await
    }

    async fn sink_rows(&self) -> Result<Vec<SinkStatus>, LedgerError> {
        let mut rows = Vec::new();
        for shard in self.shards() {
            let of_shard = self.call("listing sinks", shard, move |state| {
                let head = state.head();
                let row = |(name, sink): (&SinkName, &super::Sink)| {
                    let (reported, error) = sink.reported.clone().unwrap_or((SinkState::Starting, None));
                    let letters = state.dead_letters.keys().filter(|(of, _)| of == name).count();
                    SinkStatus {
                        sink: name.to_string(),
                        shard,
                        state: reported.as_str().to_owned(),
                        error,
                        cursor: sink.row.cursor,
                        lag_events: head.since(sink.row.cursor.unwrap_or(Seq::ZERO)),
                        waiting_since: None,
                        dead_letters: letters as u64,
                        audit: None,
                    }
                };
                Ok(state.sinks.iter().map(row).collect::<Vec<_>>())
            });
            rows.extend(of_shard.await?);
        }
        Ok(rows)
    }

    /// Keeps everything until somebody takes it.
    async fn keep_house(
        &self,
        _: Ownership,
        _: &LedgerConfig,
        _: &[SinkName],
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        stop.cancelled().await;
        Ok(())
    }
}

impl AuditBook for Model {
    async fn audited(&self, sink: &SinkName, owner: Ownership, note: &AuditNote) -> Result<(), LedgerError> {
        let (sink, note) = (sink.clone(), note.clone());
        self.write("noting what the audit found", owner, move |state| {
            state.audits.push((sink, note));
            Ok(())
        })
        .await
    }
}

impl BudgetBook for Model {
    fn lease(&self, ask: BudgetAsk) -> BoxFuture<'_, Result<BudgetSlice, LedgerError>> {
        async move {
            let (shard, clock) = (self.home_of(&ask.account), self.clock.clone());
            self.call("leasing a part of an account's budget", shard, move |state| {
                let now = i64::try_from(clock.now().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
                state.budgets.entry(ask.account.clone()).or_default().lease(&ask, now).map_err(late)
            })
            .await
        }
        .boxed()
    }
}

impl GrantBook for Model {
    fn grant(&self, account: &AccountName) -> BoxFuture<'_, Result<Option<GrantRow>, LedgerError>> {
        let (shard, clock, account) = (self.home_of(account), self.clock.clone(), account.clone());
        let read = move |state: &mut State| Ok(state.grants.get(&account).map(|kept| kept.row(clock.now())));
        self.call("reading an account's grant", shard, read).boxed()
    }

    fn claim_grant(&self, claim: GrantClaim) -> BoxFuture<'_, Result<Claimed, LedgerError>> {
        let (shard, clock) = (self.home_of(&claim.account), self.clock.clone());
        self.call("claiming the exchange of an account's refresh token", shard, move |state| {
            let kept = state.grants.entry(claim.account.clone()).or_insert_with(|| Kept::new(claim.configured));
            Ok(kept.claim(&claim, clock.now()))
        })
        .boxed()
    }

    fn keep_grant(&self, new: NewGrant) -> BoxFuture<'_, Result<bool, LedgerError>> {
        let (shard, clock) = (self.home_of(&new.account), self.clock.clone());
        self.call("keeping an account's new grant", shard, move |state| {
            Ok(state.grants.get_mut(&new.account).is_some_and(|kept| kept.keep(&new, clock.now())))
        })
        .boxed()
    }

    fn fail_grant(
        &self,
        account: &AccountName,
        claim: Uuid,
        how: GrantFailure,
    ) -> BoxFuture<'_, Result<bool, LedgerError>> {
        let (shard, clock, account) = (self.home_of(account), self.clock.clone(), account.clone());
        self.call("noting how the exchange of an account's refresh token failed", shard, move |state| {
            Ok(state.grants.get_mut(&account).is_some_and(|kept| kept.fail(claim, &how, clock.now())))
        })
        .boxed()
    }
}
