//! What a webhook sink keeps in the ledger beyond its cursor: a row for every delivery that is not simply done.

use std::future::Future;
use std::time::Duration;

use time::OffsetDateTime;

use super::ports::{LedgerError, Ownership};
use super::{AccountName, Chain, EventType, Recorded, Seq, Shard, SinkName};

/// A delivery that becomes a row: its attempt failed or takes long, or it waits behind one of its record that did.
#[derive(Clone, Debug)]
pub struct KeepDelivery {
    /// The event.
    pub seq: Seq,
    /// The chain at the event.
    pub chain: Chain,
    /// Attempts that failed until now.
    pub attempts: u32,
    /// When the next attempt is due, once it is the first of its record.
    pub due_at: OffsetDateTime,
}

/// A kept delivery without its event: what a sink holds in memory while it waits.
#[derive(Clone, Debug)]
pub struct KeptDelivery {
    /// The event.
    pub seq: Seq,
    /// Its account.
    pub account: AccountName,
    /// Its type.
    pub event_type: EventType,
    /// Its record; empty where absent.
    pub record_id: Box<str>,
    /// Whether the event repeats an earlier one: then it is outside the order promise.
    pub replay: bool,
    /// When its event was recorded.
    pub recorded_at: OffsetDateTime,
    /// Attempts that failed until now.
    pub attempts: u32,
    /// When the next attempt is due.
    pub due_at: OffsetDateTime,
    /// Counts the changes of the row; every change names the one that it saw.
    pub version: i64,
}

/// A row as it was last seen: a change is made only while it is still so (compare-and-set).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenDelivery {
    /// The event.
    pub seq: Seq,
    /// The version that was seen.
    pub version: i64,
}

/// A failed delivery that is tried again.
#[derive(Clone, Copy, Debug)]
pub struct RetryDelivery {
    /// The row.
    pub seen: SeenDelivery,
    /// Attempts that failed until now.
    pub attempts: u32,
    /// When the next attempt is due.
    pub due_at: OffsetDateTime,
}

/// A delivery that is given up.
#[derive(Clone, Debug)]
pub struct ExhaustedDelivery {
    /// The row.
    pub seen: SeenDelivery,
    /// Attempts that failed.
    pub attempts: u32,
    /// Why, in words; at most 1 KiB.
    pub reason: String,
}

/// One attempt that failed, as `dead-letters show` tells it. Kept once for each (delivery, number): a probe of an
/// endpoint that is known to be down overwrites the one before, so that their count is bounded by the schedule.
#[derive(Clone, Debug)]
pub struct AttemptNote {
    /// The event.
    pub seq: Seq,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// When it began.
    pub at: OffsetDateTime,
    /// How long it took.
    pub took: Duration,
    /// The status of the answer; none where there was no answer.
    pub status: Option<u16>,
    /// What went wrong, in words.
    pub error: String,
    /// The beginning of the answer's body; at most 4 KiB.
    pub answer: Vec<u8>,
}

/// What a sink changes in its rows, all in one transaction and in this order.
#[derive(Clone, Debug, Default)]
pub struct DeliveryChanges {
    /// New rows; each begins with version 1.
    pub keep: Vec<KeepDelivery>,
    /// Rows that are tried again; the version rises by one.
    pub retry: Vec<RetryDelivery>,
    /// Rows that become dead letters.
    pub exhausted: Vec<ExhaustedDelivery>,
    /// Rows that are delivered.
    pub done: Vec<SeenDelivery>,
    /// Attempts to note.
    pub attempts: Vec<AttemptNote>,
}

impl DeliveryChanges {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keep.is_empty()
            && self.retry.is_empty()
            && self.exhausted.is_empty()
            && self.done.is_empty()
            && self.attempts.is_empty()
    }
}

/// What an endpoint has given since its last success, when that was nothing but failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// When the first of them was.
    pub since: OffsetDateTime,
    /// For how long attempts have failed, one after the other; in the ledger to the millisecond.
    pub lasting: Duration,
}

/// What a webhook sink keeps in the ledger. Every write names the [`Ownership`] and fails as fenced when it is not held
/// (INV-6); a row that is not as it was seen fails it as unavailable, and the sink starts again from the rows.
pub trait DeliveryBook: Clone + Send + Sync + 'static {
    /// All rows of the sink in a shard, by seq.
    fn deliveries(
        &self,
        sink: &SinkName,
        shard: Shard,
    ) -> impl Future<Output = Result<Vec<KeptDelivery>, LedgerError>> + Send;

    /// Takes rows for an attempt: their version rises by one, and their events come with it, in any order.
    fn claim(
        &self,
        sink: &SinkName,
        owner: Ownership,
        rows: &[SeenDelivery],
    ) -> impl Future<Output = Result<Vec<Recorded>, LedgerError>> + Send;

    /// Writes changes, all or none. Dead letters are kept for `dead_letter_retention` from now.
    fn change(
        &self,
        sink: &SinkName,
        owner: Ownership,
        changes: &DeliveryChanges,
        dead_letter_retention: Duration,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// The failures since the endpoint's last success, as they were kept last.
    fn failures(
        &self,
        sink: &SinkName,
        shard: Shard,
    ) -> impl Future<Output = Result<Option<Failures>, LedgerError>> + Send;

    /// Keeps the failures since the endpoint's last success; none when it delivers again.
    fn keep_failures(
        &self,
        sink: &SinkName,
        owner: Ownership,
        failures: Option<Failures>,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Removes the rows after `seq`, whose events will be taken again.
    fn forget_after(
        &self,
        sink: &SinkName,
        owner: Ownership,
        seq: Seq,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Removes, some at a time, the notes of attempts whose delivery and dead letter are both gone.
    fn forget_attempts(
        &self,
        sink: &SinkName,
        owner: Ownership,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}
