use bytes::Bytes;
use time::OffsetDateTime;

use super::names::text;
use super::{AccountName, ContentHash, DedupeKey, EventType, StreamKey, StreamName};

text! {
    /// A place in a source stream: the words `tail` (the oldest event kept) and `top` (now), or opaque text of the
    /// source, at most [`MAX_POSITION_BYTES`](super::MAX_POSITION_BYTES), never parsed.
    Position
}

impl Position {
    /// The oldest event that the source keeps.
    #[must_use]
    pub fn tail() -> Self {
        Self::from("tail")
    }

    /// Now: only what comes later.
    #[must_use]
    pub fn top() -> Self {
        Self::from("top")
    }
}

/// One change in the CRM, in its canonical form.
#[derive(Clone, Debug)]
pub struct Event {
    /// The account that it happened in.
    pub account: AccountName,
    /// The stream that it came by.
    pub stream: StreamName,
    /// The canonical type: `deal.updated`.
    pub event_type: EventType,
    /// The event id, as the source spells it (or as sell-api.md section 0 derives it).
    pub id: Box<str>,
    /// `data.<resource>.id` as spelled, strings unquoted; empty where absent.
    pub record_id: Box<str>,
    /// The `timestamp` as an instant; none where it cannot be parsed.
    pub occurred_at: Option<OffsetDateTime>,
    /// `meta.sequence` as spelled, where the source gives one.
    pub sequence: Option<Box<str>>,
    /// What makes it unique.
    pub dedupe_key: DedupeKey,
    /// What tells an honest duplicate from a conflicting one.
    pub content_hash: ContentHash,
    /// The canonical bytes: the Kafka value and the webhook body, and what the ledger keeps.
    pub body: Bytes,
}

impl Event {
    /// The memory that it holds, in bytes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len() + self.id.len() + self.record_id.len() + 128
    }
}

/// An element of a page that cannot be an event: kept whole with the reason, and counted; it stops nothing.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The element's bytes as they came.
    pub raw: Bytes,
    /// What is wrong with it, in words.
    pub reason: String,
}

/// Why a part of a source's history, or of a sink's backlog, will not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The source answered 410: the position is older than what it keeps.
    PositionExpired,
    /// An operator moved a stream or a sink past events.
    Sought,
    /// A sink held the backlog while the source's history ran out (`backlog_hold`).
    BacklogHold,
    /// Events were removed by retention before the sink took them.
    Retention,
}

impl GapReason {
    /// The word for it in the ledger, the announcement and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PositionExpired => "position_expired",
            Self::Sought => "sought",
            Self::BacklogHold => "backlog_hold",
            Self::Retention => "retention",
        }
    }
}

/// A hole in a stream: what lay between two positions will not come by it.
#[derive(Clone, Debug)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// What the source said, or the operator gave as the cause; at most 200 bytes.
    pub detail: String,
}

/// What a source answered for one stream, ready to be recorded.
///
/// It is recorded only while the ledger still holds the stream at `from` (INV-3).
#[derive(Clone, Debug)]
pub struct Page {
    /// The stream that it belongs to.
    pub stream: StreamKey,
    /// The position that was asked for.
    pub from: Position,
    /// The position that was answered; it is committed even where `events` is empty.
    pub to: Position,
    /// Whether the source says that nothing newer is there.
    pub top: bool,
    /// The events, in page order.
    pub events: Vec<Event>,
    /// Elements that are not events.
    pub rejected: Vec<Rejected>,
    /// Set when the step from `from` to `to` skips history; the ledger then records and announces the gap.
    pub gap: Option<Gap>,
    /// When the answer was complete.
    pub fetched_at: OffsetDateTime,
}

impl Page {
    /// The memory that it holds, in bytes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        self.events.iter().map(Event::size).sum::<usize>() + self.rejected.iter().map(|r| r.raw.len()).sum::<usize>()
    }
}
