//! What operators ask and order. Verbs work on the ledger's tables alone: the daemon looks at their orders every second,
//! so that no verb needs to find the replica that owns a shard.

mod evidence;
mod look;
mod order;
mod replay;

pub use evidence::{ConflictRow, RejectedRow};
pub use look::{AuditStatus, EventRow, GapRow, SchemaRow, ShardRow, SinkStatus, StreamStatus};
pub use order::{OrderError, SeekTo};
pub use replay::{MAX_REPLAYS, MAX_SEQ, Replayed, Seqs};
