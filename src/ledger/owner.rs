use tokio_util::sync::CancellationToken;

use super::backlog::Backlog;
use super::home::Home;
use super::open::Ledger;
use super::operator::SinkStatus;
use crate::config::LedgerConfig;
use crate::event::ports::{LedgerError, Ownership};
use crate::event::{AccountName, LedgerId, Seq, Shard, SinkName};

/// What the owner of a shard asks of the ledger beside what its stages do: PostgreSQL answers it, and
/// [`Model`](super::model::Model) in a simulation.
pub trait OwnerBook: Clone + Send + Sync + 'static {
    /// Which ledger it is.
    fn id(&self) -> LedgerId;
    /// Its shards.
    fn shards(&self) -> Vec<Shard>;
    /// See [`Ledger::home`].
    fn home(&self, shard: Shard) -> impl Future<Output = Result<Home, LedgerError>> + Send;
    /// See [`Ledger::settle`].
    fn settle(&self, owner: Ownership, home: &Home) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// See [`Ledger::shard_of`].
    fn shard_of(&self, account: &AccountName) -> impl Future<Output = Result<Shard, LedgerError>> + Send;
    /// See [`Ledger::backlog`].
    fn backlog(&self, shard: Shard, sinks: &[SinkName]) -> impl Future<Output = Result<Backlog, LedgerError>> + Send;
    /// See [`Ledger::cut_off`].
    fn cut_off(
        &self,
        owner: Ownership,
        sink: &SinkName,
    ) -> impl Future<Output = Result<Option<(Seq, Seq)>, LedgerError>> + Send;
    /// See [`Ledger::sink_rows`].
    fn sink_rows(&self) -> impl Future<Output = Result<Vec<SinkStatus>, LedgerError>> + Send;
    /// See [`Ledger::keep_house`].
    fn keep_house(
        &self,
        owner: Ownership,
        config: &LedgerConfig,
        sinks: &[SinkName],
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

impl OwnerBook for Ledger {
    fn id(&self) -> LedgerId {
        Self::id(self)
    }

    fn shards(&self) -> Vec<Shard> {
        Self::shards(self).collect()
    }

    async fn home(&self, shard: Shard) -> Result<Home, LedgerError> {
        Self::home(self, shard).await
    }

    async fn settle(&self, owner: Ownership, home: &Home) -> Result<(), LedgerError> {
        Self::settle(self, owner, home).await
    }

    async fn shard_of(&self, account: &AccountName) -> Result<Shard, LedgerError> {
        Self::shard_of(self, account).await
    }

    async fn backlog(&self, shard: Shard, sinks: &[SinkName]) -> Result<Backlog, LedgerError> {
        Self::backlog(self, shard, sinks).await
    }

    async fn cut_off(&self, owner: Ownership, sink: &SinkName) -> Result<Option<(Seq, Seq)>, LedgerError> {
        Self::cut_off(self, owner, sink).await
    }

    async fn sink_rows(&self) -> Result<Vec<SinkStatus>, LedgerError> {
        Self::sink_rows(self).await
    }

    async fn keep_house(
        &self,
        owner: Ownership,
        config: &LedgerConfig,
        sinks: &[SinkName],
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        Self::keep_house(self, owner, config, sinks, stop).await
    }
}
