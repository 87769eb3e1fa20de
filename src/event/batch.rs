use bytes::Bytes;
use time::OffsetDateTime;

use super::{AccountName, Chain, ContentHash, EventType, Seq, Shard, SinkName};

/// An event that the ledger has committed, with its place.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its place in the shard.
    pub seq: Seq,
    /// The chain *at* this event.
    pub chain: Chain,
    /// The account that it happened in.
    pub account: AccountName,
    /// The canonical type.
    pub event_type: EventType,
    /// The event id.
    pub id: Box<str>,
    /// The record's id; empty where absent.
    pub record_id: Box<str>,
    /// When it happened; none where the source's time cannot be parsed.
    pub occurred_at: Option<OffsetDateTime>,
    /// When its page was committed.
    pub recorded_at: OffsetDateTime,
    /// The hash of its content.
    pub content_hash: ContentHash,
    /// The canonical bytes.
    pub body: Bytes,
    /// Set when this row repeats an earlier one for one sink alone.
    pub replay: Option<Box<Replay>>,
}

/// A row that an operator's redrive or replay made: the same event again, for one sink, outside the order promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The only sink that takes it.
    pub sink: SinkName,
    /// The seq that it repeats.
    pub of: Seq,
}

impl Recorded {
    /// Whether it is an announcement of ours and not a change in the CRM.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.event_type.as_str() == super::GAP_EVENT_TYPE
    }

    /// The memory that it holds, in bytes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len() + self.id.len() + self.record_id.len() + 160
    }
}

/// Contiguous events of one shard: `after + 1 ..= to`, none missing.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The shard.
    pub shard: Shard,
    /// The seq before the first event.
    pub after: Seq,
    /// The chain at `after`: a sink whose cursor has another one must stop (INV-8).
    pub chain_before: Chain,
    /// The events, in order.
    pub events: Vec<Recorded>,
}

impl Batch {
    /// The seq of the last event; `after` when empty.
    #[must_use]
    pub fn to(&self) -> Seq {
        self.events.last().map_or(self.after, |last| last.seq)
    }

    /// The chain at [`Batch::to`].
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.events.last().map_or(self.chain_before, |last| last.chain)
    }

    /// The memory that it holds, in bytes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        self.events.iter().map(Recorded::size).sum()
    }
}
