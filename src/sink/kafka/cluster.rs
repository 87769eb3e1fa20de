//! What a Kafka sink needs of a cluster, as ports: the real client stands behind them, and a simulated Kafka can.
//!
//! They speak of whole batches and whole answers, so that nothing of librdkafka's threads and callbacks leaks into the
//! loop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::cursor::{Cursor, CursorError, Tails};
use super::error::KafkaSinkError;
use super::message::Outgoing;
use super::proof::TopicHeld;
use crate::event::Seq;
use crate::event::ports::Delivered;

/// Everything of one Kafka transaction: the messages, in order, and the cursor that passes them (INV-7).
#[derive(Debug)]
pub struct Transaction {
    /// In order; possibly none.
    pub messages: Vec<Outgoing>,
    /// The value of the cursor message.
    pub cursor: Vec<u8>,
}

/// A definite yes.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    /// From begin to the broker's answer.
    pub took: Duration,
}

/// A producer after `init_transactions`. Dropping it gives its client up.
pub trait Transactions: Send {
    /// Commits one transaction; one at a time. Whatever is not `Ok` leaves the producer unusable (INV-9).
    fn submit(
        &mut self,
        transaction: Transaction,
    ) -> impl Future<Output = Result<Committed, KafkaSinkError>> + Send + 'static;

    /// Gives the client up and waits until it is gone, within bounds.
    fn discard(self) -> impl Future<Output = Result<(), KafkaSinkError>> + Send;
}

/// What the cursor partition holds.
#[derive(Debug)]
pub struct CursorFound {
    /// The offset of the oldest message kept: above 0 when something was deleted.
    pub low: i64,
    /// The last committed cursor, if any.
    pub cursor: Option<Result<Cursor, CursorError>>,
    /// When it was written, by its writer's clock, where Kafka tells.
    pub written_at: Option<OffsetDateTime>,
}

/// A topic that can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// How many partitions it has; at least 1.
    pub partitions: i32,
    /// The largest message that it takes, in bytes.
    pub max_bytes: usize,
}

/// What a topic is for: decides how it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicKind {
    /// Events.
    Data,
    /// Announcements, in one partition.
    Control,
}

/// How much of what was delivered must still be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All: what is not known to be delivered would be delivered again.
    Whole,
    /// Whatever is left: what Kafka has lost is to be delivered again.
    Left,
}

/// The end of one partition, as a `read_committed` consumer sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionEnd {
    /// The offset of the oldest message kept.
    pub low: i64,
    /// The offset from which on it was read; `low` when all of it was.
    pub from: i64,
    /// The offset up to which it was read.
    pub high: i64,
    /// `standpipe-seq` and `standpipe-prev` of every message of this ledger and shard, in order.
    pub ours: Vec<(Seq, Seq)>,
}

/// The end of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicEnd {
    /// Its name.
    pub topic: Arc<str>,
    /// By partition; none when the topic does not exist.
    pub partitions: Option<Vec<PartitionEnd>>,
}

/// A cluster as one (sink, shard) needs it. Every call ends in bounded time.
pub trait Cluster: Send {
    /// Its producers.
    type Producer: Transactions;

    /// Whether the cursor topic exists (with a partition for this shard); made when it does not and `create` is set.
    fn cursor_topic(&mut self, create: bool) -> impl Future<Output = Result<bool, KafkaSinkError>> + Send;

    /// A new producer, after `init_transactions`: from here on no older one can commit anything.
    fn fence(&mut self) -> impl Future<Output = Result<Self::Producer, KafkaSinkError>> + Send;

    /// The last committed cursor below the high watermark, once everything below it is decided. Needs the producer as
    /// the proof that nothing of an older one can still come.
    fn read_cursor(
        &mut self,
        fenced: &Self::Producer,
    ) -> impl Future<Output = Result<CursorFound, KafkaSinkError>> + Send;

    /// The last committed cursor as anybody sees it, without a fence: whoever owned it may still be writing. Only good for
    /// looking before a fence whether somebody is; an absent topic is an absent cursor.
    fn last_cursor(&mut self) -> impl Future<Output = Result<CursorFound, KafkaSinkError>> + Send;

    /// Reads back what this shard has delivered to the partitions of `tails` in `after + 1 ..= upto`, and hands it over, each
    /// with its seq, in parts of some thousands. Fails as [`Stop::TailTooShort`](super::verify::Stop) where a partition does not
    /// hold what must be there; ends early when nobody takes the parts.
    fn delivered(
        &mut self,
        tails: &Tails,
        range: (Seq, Seq),
        extent: Extent,
        found: mpsc::Sender<Vec<(Seq, Delivered)>>,
    ) -> impl Future<Output = Result<(), KafkaSinkError>> + Send;

    /// The ends of topics, read back in each partition to the expected last seq, to its beginning, or to a bound.
    fn ends(&mut self, expected: &Tails) -> impl Future<Output = Result<Vec<TopicEnd>, KafkaSinkError>> + Send;

    /// What topics hold of the events `from ..= to`, read through.
    fn held(
        &mut self,
        topics: &[Arc<str>],
        range: (Seq, Seq),
    ) -> impl Future<Output = Result<Vec<TopicHeld>, KafkaSinkError>> + Send;

    /// A topic, made when it may be and is not there.
    fn topic(&mut self, name: &str, kind: TopicKind) -> impl Future<Output = Result<TopicInfo, KafkaSinkError>> + Send;

    /// The topics that are there, all at once, and none for each that is not.
    fn topics(
        &mut self,
        names: &[Arc<str>],
    ) -> impl Future<Output = Result<Vec<Option<TopicInfo>>, KafkaSinkError>> + Send;

    /// How many partitions each topic has now; none where it is gone.
    fn partitions(
        &mut self,
        topics: &[Arc<str>],
    ) -> impl Future<Output = Result<Vec<Option<i32>>, KafkaSinkError>> + Send;

    /// Whether a topic has been met that takes less than the present producer puts into one batch.
    fn outgrown(&self) -> bool;
}
