//! The Kafka sink: exactly once for `read_committed` consumers.
//!
//! Truth about Kafka lives in Kafka. The cursor of a (sink, shard) is a message in a topic of its own, written in the
//! same transaction as the events that it counts (INV-7); PostgreSQL keeps a copy, W, for people and for retention. A
//! stand-in measured why: with the cursor in PostgreSQL, 60 duplicates from 5 kill -9; inside the transaction, none.
//!
//! Invariants that must hold in every line here:
//! - INV-7: messages and cursor commit in one Kafka transaction; nothing is produced outside of one.
//! - INV-8: delivery begins only after `init_transactions`, *then* the cursor partition's high watermark, *then* the
//!   last decided cursor below it, *then* its comparison with the ledger. [`place`] alone makes the type that the loop
//!   takes, and every producer goes that way, also after a lost ledger connection, because a fail-over can rewind a
//!   running ledger.
//! - INV-9: what is not a definite yes discards the producer. The next start reads what became of it.
//! - INV-18: a ledger that was rewound behind the sink is not followed back: [`rehydrate`] finds the way on.
//! - INV-15: whatever fails here is this sink's own trouble: it is reported, and tried again or waited out here.
//!   Only a lost ledger, a lost shard and a client that hangs for the third time go up.
//!
//! W ≤ C always: W is written after a definite yes, later, and never read to decide where to go on.

mod audit;
mod check;
mod client;
mod cluster;
mod config;
mod cursor;
mod deliver;
mod draft;
mod error;
mod landed;
mod look;
mod message;
mod meters;
mod opening;
mod partition;
mod place;
mod producer;
mod proof;
mod read;
mod reconcile;
mod rehydrate;
mod run;
mod runner;
mod stranger;
mod tail;
mod thread;
mod topics;
mod verify;

pub use audit::{Audit, audit};
pub use check::{Checked, check, reach};
pub use client::KafkaCluster;
pub use cluster::{
    Cluster, Committed, CursorFound, Extent, PartitionEnd, TopicEnd, TopicInfo, TopicKind, Transaction, Transactions,
};
pub use config::{Settings, check_properties};
pub use cursor::{Cursor, CursorError, Rehydrated, Tail, Tails, control_topic, cursor_topic};
pub use error::{Disposition, KafkaSinkError, MAX_ABANDONED};
pub use message::{Common, Outgoing};
pub use partition::partition_of;
pub use proof::{Fault, Finding, MAX_FINDINGS, PartitionHeld, Proof, Question, SeqSet, TopicHeld, prove};
pub use run::{KafkaSink, last_writer, run, run_on};
pub use runner::Runner;
pub use topics::TopicConfig;
pub use verify::Stop;
