use bytes::Bytes;
use sha2::{Digest, Sha256};
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

    /// The W3C `traceparent` of its deliveries: trace and span are the first 24 bytes of SHA-256(account ‖ 0 ‖ event
    /// id), so that every sink, attempt and replay of an event joins one trace without anything being kept.
    #[must_use]
    pub fn traceparent(&self) -> [u8; 55] {
        let mut hash = Sha256::new();
        hash.update(self.account.as_str());
        hash.update([0]);
        hash.update(&*self.id);
        let digest = hash.finalize();
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        hex(&digest[..16], &mut text[3..35]);
        hex(&digest[16..24], &mut text[36..52]);
        text
    }

    /// The memory that it holds, in bytes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len() + self.id.len() + self.record_id.len() + 160
    }
}

/// Writes bytes as lower-case hex digits into a place of twice their length.
fn hex(bytes: &[u8], into: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in into.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Seqs without an event, for good: Kafka holds messages under them whose rows the ledger lost in a restore or a
/// fail-over. What they were comes again under new seqs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Void {
    /// The last of them; the first is the one after [`Batch::after`].
    pub to: Seq,
    /// The chain at `to`.
    pub chain: Chain,
}

/// Contiguous events of one shard: `after + 1 ..= to`, none missing but for a void at the beginning.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The shard.
    pub shard: Shard,
    /// The seq before the first event.
    pub after: Seq,
    /// The chain at `after`: a sink whose cursor has another one must stop (INV-8).
    pub chain_before: Chain,
    /// Set when the events begin behind a void.
    pub void: Option<Void>,
    /// The events, in order; none only behind a void.
    pub events: Vec<Recorded>,
}

impl Batch {
    /// The seq before the first event: the end of the void where there is one, else `after`.
    #[must_use]
    pub fn start(&self) -> Seq {
        self.void.map_or(self.after, |void| void.to)
    }

    /// The seq of the last event; [`Batch::start`] where there is none.
    #[must_use]
    pub fn to(&self) -> Seq {
        self.events.last().map_or_else(|| self.start(), |last| last.seq)
    }

    /// The chain at [`Batch::to`].
    #[must_use]
    pub fn chain(&self) -> Chain {
        let before = self.void.map_or(self.chain_before, |void| void.chain);
        self.events.last().map_or(before, |last| last.chain)
    }

    /// The memory that it holds, in bytes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        self.events.iter().map(Recorded::size).sum()
    }
}
