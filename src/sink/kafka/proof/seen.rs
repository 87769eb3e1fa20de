//! A message as anyone can read it.

use std::borrow::Cow;
use std::time::Duration;

use rdkafka::message::{BorrowedMessage, Message as _};

use super::super::message::{Common, own_bytes};
use super::super::read::header;
use crate::event::Seq;

/// A look that has not come further for so long is given up.
pub(super) const STALLED: Duration = Duration::from_secs(30);

/// A message that this ledger's shard wrote, by its headers.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'m> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// `standpipe-seq`
    pub seq: Seq,
    /// `standpipe-prev`
    pub prev: Seq,
    /// `standpipe-id`
    pub id: &'m str,
    /// `standpipe-chain`
    pub chain: &'m str,
    /// Whether it is a replay (`standpipe-replay`).
    pub is_replay: bool,
    /// Whether `standpipe reconcile` put it behind later ones (`standpipe-repair`).
    pub is_repair: bool,
    /// Whether a stub stands in for the event (`standpipe-truncated`).
    pub is_stub: bool,
    /// How many bytes its event has, where what was looked up stands behind them (`standpipe-enriched`).
    pub own_bytes: Option<usize>,
    /// The key.
    pub key: &'m [u8],
    /// The value.
    pub value: &'m [u8],
}

impl<'m> Seen<'m> {
    /// What it says of the event, without what was looked up for it: of that the ledger knows nothing.
    #[must_use]
    pub fn event(&self) -> Cow<'m, [u8]> {
        own_bytes(self.value, self.own_bytes)
    }

    /// None where it is of another ledger, shard or sink, or of nobody's.
    pub(in super::super) fn of(message: &'m BorrowedMessage<'_>, common: &Common) -> Option<Self> {
        let value = |name: &str| header(message, name);
        if !common.are_of(value) {
            return None;
        }
        Some(Self {
            partition: message.partition(),
            offset: message.offset(),
            seq: Seq(value("standpipe-seq")?.parse().ok()?),
            prev: Seq(value("standpipe-prev")?.parse().ok()?),
            id: value("standpipe-id").unwrap_or_default(),
            chain: value("standpipe-chain").unwrap_or_default(),
            is_replay: value("standpipe-replay").is_some(),
            is_repair: value("standpipe-repair").is_some(),
            is_stub: value("standpipe-truncated").is_some(),
            own_bytes: value("standpipe-enriched").and_then(|bytes| bytes.parse().ok()),
            key: message.key().unwrap_or_default(),
            value: message.payload().unwrap_or_default(),
        })
    }
}
