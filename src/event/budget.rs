//! One budget of requests per account over all replicas: what a replica asks of the book that keeps it, and what it is
//! given. A replica pays its requests from *slices*, so that no request waits for the book; a slice ends with its time.

use std::time::Duration;

use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::AccountName;
use super::ports::LedgerError;

/// Requests in any window of one length, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In all.
    pub all: u32,
    /// By everything but the streams together.
    pub others: u32,
}

/// How many requests an account may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In any second; none where the vendor knows no such limit.
    pub second: Option<Limit>,
    /// In any minute.
    pub minute: Limit,
    /// In any hour.
    pub hour: Limit,
}

/// Requests, by who makes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Polls of the streams, and what polls need. They may use all of a limit.
    pub streams: u32,
    /// Everything else.
    pub others: u32,
}

/// What a replica tells and asks of an account's budget. Its asks follow one another.
#[derive(Clone, Debug)]
pub struct BudgetAsk {
    /// The account.
    pub account: AccountName,
    /// Who asks: another one after each start.
    pub replica: Uuid,
    /// Rises with every ask of the replica; one that arrives late is refused.
    pub turn: u64,
    /// The limits, as the replica knows them.
    pub limits: Limits,
    /// What it had spent in all by its last ask that was answered: streams and others.
    pub told: (u64, u64),
    /// What it has spent since then, in order: at least how long ago, and how many.
    pub spent: Vec<(Duration, Requests)>,
    /// What it still holds; of what was given and not told it nothing is held.
    pub holds: Requests,
    /// What it wants beside that.
    pub wants: Requests,
    /// How many of either kind it would make in a second, where that is limited.
    pub pace: Requests,
    /// How long the slice shall last.
    pub lasts: Duration,
}

/// What a replica is given of a budget, from when it asked on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetSlice {
    /// Beside what it held.
    pub given: Requests,
    /// What it may make in any second while the slice lasts; none where seconds are not limited.
    pub pace: Option<Limit>,
    /// When more may be there, where the streams were given less than they wanted, and the others.
    pub wait: (Option<Duration>, Option<Duration>),
    /// What is left in the current minute and hour, what it holds included.
    pub left: (u32, u32),
}

impl Default for Limit {
    fn default() -> Self {
        Self { all: 1, others: 1 }
    }
}

/// Keeps the budgets of accounts for all replicas.
pub trait BudgetBook: Send + Sync + 'static {
    /// Takes down what was spent and gives a slice.
    fn lease(&self, ask: BudgetAsk) -> BoxFuture<'_, Result<BudgetSlice, LedgerError>>;
}
