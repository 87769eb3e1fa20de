//! The words that every stage speaks, and the ports at which stages meet. Imports nothing of ours.
//!
//! A [`Page`] comes from the source with [`Event`]s that are already in their canonical bytes; the ledger makes
//! [`Recorded`] events of them, in [`Batch`]es of dense `seq`; a [`Route`](ports::Route) addresses each of them for
//! a sink; a sink delivers and moves its cursor. The canonical event is sell-api.md section 0.

mod batch;
pub mod budget;
mod chain;
mod delivery;
pub mod grant;
mod lookup;
mod names;
mod page;
pub mod ports;
mod rehydrate;
mod room;
mod tenure;

pub use batch::{Batch, Recorded, Replay, Void};
pub use chain::{Chain, ContentHash, DedupeKey};
pub use delivery::{
    AttemptNote, DeliveryBook, DeliveryChanges, ExhaustedDelivery, Failures, KeepDelivery, KeptDelivery, RetryDelivery,
    SeenDelivery,
};
pub use lookup::{Answerer, Found, LookUp, LookUpError, LookUps, LookingUp, OnMiss, RecordKey, Wanted};
pub use names::{AccountName, Epoch, EventType, LedgerId, Seq, Shard, SinkName, StreamKey, StreamName};
pub use page::{Event, Gap, GapReason, Page, Position, Rejected};
pub use room::{Capacity, Room, Sharer};
pub use tenure::Tenure;

/// The type of the event that announces a gap (design.md section 7). It passes filters, goes to every webhook and to
/// the control topic of every Kafka sink, never to a data topic.
pub const GAP_EVENT_TYPE: &str = "standpipe.gap";

/// Longest event id that is recorded, in bytes; an element beyond a bound is set aside as *rejected*.
pub const MAX_EVENT_ID_BYTES: usize = 512;
/// Longest event type that is recorded, in bytes.
pub const MAX_EVENT_TYPE_BYTES: usize = 128;
/// Longest record id that is recorded, in bytes.
pub const MAX_RECORD_ID_BYTES: usize = 256;
/// Longest position that a source may give, in bytes.
pub const MAX_POSITION_BYTES: usize = 4096;
