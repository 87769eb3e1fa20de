//! How a sink that is ahead of a ledger that was rewound finds its way back.

use std::collections::HashSet;
use std::future::Future;

use super::ports::{LedgerError, Ownership};
use super::{Chain, DedupeKey, Recorded, Seq, Shard, SinkName};

/// What tells a message that a sink has delivered from every other: its event, and what it repeats where it is a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Delivered {
    /// By account and event id, whatever the account dedupes by.
    pub key: DedupeKey,
    /// The seq that it repeats; 0 for a first recording.
    pub replay_of: Seq,
}

impl Delivered {
    /// Of an event on its way.
    #[must_use]
    pub fn of(event: &Recorded) -> Self {
        Self {
            key: DedupeKey::by_id(event.account.as_str(), &event.id),
            replay_of: event.replay.as_ref().map_or(Seq::ZERO, |replay| replay.of),
        }
    }
}

/// Where a shard's history leads across a void. Voids that adjoin, because one sink had come further than another, are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Crossing {
    /// The last seq before it.
    pub after: Seq,
    /// The chain there.
    pub chain: Chain,
    /// Its last seq.
    pub to: Seq,
}

impl Crossing {
    /// How who stands at a seq, after `before`, comes across a void that begins there and ends at `to`.
    #[must_use]
    pub fn from((seq, chain): (Seq, Chain), before: Option<Self>, to: Seq) -> Self {
        match before.filter(|before| before.to == seq) {
            Some(before) => Self { to, ..before },
            None => Self { after: seq, chain, to },
        }
    }
}

/// The way back of a sink that has delivered what the ledger has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rehydration {
    /// Where its cursor was found.
    pub found: Seq,
    /// The chain that it had there.
    pub chain: Chain,
    /// Up to here sink and ledger agree for certain.
    pub base: Seq,
    /// Up to here the ledger may hold events that the sink has never seen under a seq that it has used.
    pub until: Seq,
    /// Up to here those have been reclaimed.
    pub reclaimed_to: Seq,
    /// Where the sink goes on.
    pub goes_on: Seq,
    /// The ledger's chain there.
    pub goes_on_chain: Chain,
}

/// What the ledger does for a sink that is ahead of it (design.md section 5, *rehydrate*). Writes name the owner as
/// those of [`SinkBook`] do, and each may be done again after a crash.
pub trait RehydrateBook: Clone + Send + Sync + 'static {
    /// Marks as void what the sink has used beyond the ledger's head, and puts the head there with the sink's chain; the
    /// shard's recorder notices and starts anew. `base` is where the ledger's own copy of the cursor stands.
    fn rewound(
        &self,
        sink: &SinkName,
        owner: Ownership,
        found: Seq,
        chain: Chain,
        base: Seq,
    ) -> impl Future<Output = Result<Rehydration, LedgerError>> + Send;
    /// The last void that ends at `at` or before it; none where there is none.
    fn crossing(&self, shard: Shard, at: Seq) -> impl Future<Output = Result<Option<Crossing>, LedgerError>> + Send;
    /// Whether the ledger has noted, by [`RehydrateBook::rehydrated`], that the sink found its way back from there.
    fn is_rehydrated(
        &self,
        sink: &SinkName,
        shard: Shard,
        found: Seq,
        chain: Chain,
    ) -> impl Future<Output = Result<bool, LedgerError>> + Send;
    /// Keeps what the sink has delivered, each with the seq under which it was, at most some thousands at once.
    fn keep_skips(
        &self,
        sink: &SinkName,
        owner: Ownership,
        delivered: &[(Seq, Delivered)],
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// Which of these the sink has delivered before the ledger lost them. Of what comes as a first recording any message
    /// tells, a replay too: where seqs had been used, the sink got the event as a replay alone.
    fn skips(
        &self,
        sink: &SinkName,
        shard: Shard,
        of: &[Delivered],
    ) -> impl Future<Output = Result<HashSet<Delivered>, LedgerError>> + Send;
    /// Whether anything is kept for [`RehydrateBook::skips`] at all.
    fn has_skips(&self, sink: &SinkName, shard: Shard) -> impl Future<Output = Result<bool, LedgerError>> + Send;
    /// Forgets what the sink is to skip of the events `after + 1 ..= upto`, which it has passed: an operator sends it back on
    /// purpose, and what lies there is delivered again.
    fn forget_skips(
        &self,
        sink: &SinkName,
        owner: Ownership,
        after: Seq,
        upto: Seq,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// Wishes for a replay of each of `events`, which lie in `reclaimed_to + 1 ..= to`, and notes that up to `to`
    /// everything is reclaimed. Fails as moved where `reclaimed_to` is not what the ledger holds.
    fn reclaim(
        &self,
        sink: &SinkName,
        owner: Ownership,
        way: &Rehydration,
        to: Seq,
        events: &[Seq],
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// Notes that everything is ready for the sink to go on, and how many events it will skip.
    fn rehydrated(
        &self,
        sink: &SinkName,
        owner: Ownership,
        way: &Rehydration,
        skips: u64,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}
