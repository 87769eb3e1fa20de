//! The newest events of the records that sinks look up, of those that were recorded lately: what the stream itself knows.
//!
//! In memory, because in the ledger an index by record would cost every recording call for the sake of lookups (a B-tree
//! over account, record and seq made inserting events 1.4 times as dear, a hash index too). What was recorded before the
//! start is read from the ledger's end once.
//!
//! Nothing here is older than the newest recorded event of its record: of a record the newest event alone is held, and what
//! is given up, for want of room, never comes back older. That holds where all events of an account pass: in the stages of
//! its shard.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};

use super::held::Held;
use crate::event::ports::{Publish, ReadLedger, ShardBounds};
use crate::event::{AccountName, Answerer, Batch, Found, RecordKey, Recorded, Seq, Shard};
use crate::route::Fanout;
use crate::sell::wire;

/// What is held at most, in bytes, about.
const MAX_BYTES: usize = 16 << 20;
/// A larger event is not held.
const MAX_EVENT_BYTES: usize = 256 << 10;
/// What an entry takes beside its content, about.
const ENTRY_BYTES: usize = 256;
/// Events that are read from the ledger's end at the start, at most, and how many at once.
const READ_BACK: u64 = 20_000;
const READ_EVENTS: usize = 2_000;
const READ_BYTES: usize = 4 << 20;
/// It may delay the start by so much.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct Recent(Arc<Shared>);

struct Shared {
    /// The resources that are looked up, as they stand in event types.
    resources: HashSet<&'static str>,
    /// No lookup takes an older answer.
    max_age: Duration,
    known: Mutex<Known>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    account: AccountName,
    resource: Box<str>,
    record_id: Box<str>,
}

impl Key {
    fn of(key: &RecordKey) -> Self {
        let resource = wire::event_resource(&key.collection).unwrap_or(&key.collection);
        Self { account: key.account.clone(), resource: resource.into(), record_id: key.id.clone() }
    }
}

struct Newest {
    seq: Seq,
    as_of: OffsetDateTime,
    is_deleted: bool,
    /// A copy: the event's own bytes would keep those of its whole page.
    body: Bytes,
}

struct Known {
    events: Held<Key, Newest>,
    /// Events up to here may have been given up.
    floor: Seq,
}

impl Recent {
    /// Of these resources.
    pub(super) fn new(resources: impl IntoIterator<Item = &'static str>, max_age: Duration) -> Self {
        let known = Known { events: Held::new(MAX_BYTES), floor: Seq::ZERO };
        Self(Arc::new(Shared { resources: resources.into_iter().collect(), max_age, known: Mutex::new(known) }))
    }

    /// Takes events in.
    pub(super) fn learn(&self, events: &[Recorded]) {
        let wanted = |event: &&Recorded| {
            // A replay says what was, not what is.
            self.0.resources.contains(event.event_type.resource())
                && event.replay.is_none()
                && !event.record_id.is_empty()
        };
        let mut known = None;
        for event in events.iter().filter(wanted) {
            known.get_or_insert_with(|| self.known()).learn(event);
        }
    }

    /// What the newest event of a record says of it, where that is held and was so at `not_before` or later.
    pub(super) fn find(&self, key: &RecordKey, not_before: OffsetDateTime) -> Option<Found> {
        let key = Key::of(key);
        let (as_of, is_deleted, body) = {
            let known = self.known();
            let newest = known.events.get(&key).filter(|newest| newest.as_of >= not_before)?;
            (newest.as_of, newest.is_deleted, newest.body.clone())
        };
        let record = if is_deleted { None } else { Some(record(&body, &key.resource)?) };
        Some(Found { answerer: Answerer::Stream, as_of, record })
    }

    /// Reads what was recorded before the start, as far back as anybody may ask, within its bounds. Nothing hangs on it: what
    /// is not known here is asked of the vendor.
    pub(super) async fn read_back<L: ReadLedger>(
        &self,
        ledger: &L,
        shard: Shard,
        bounds: ShardBounds,
        now: OffsetDateTime,
    ) {
        let head = bounds.head;
        let mut at = Seq(head.0.saturating_sub(READ_BACK).max(bounds.oldest.0.saturating_sub(1)));
        let deadline = Instant::now() + READ_WITHIN;
        while at < head {
            let read = timeout_at(deadline, ledger.read(shard, at, head, READ_EVENTS, READ_BYTES)).await;
            let batch = match read {
                Ok(Ok(batch)) if batch.to() > at => batch,
                Ok(Ok(_)) => return,
                Ok(Err(error)) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "recent events are not read back");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%shard, to = %at, "recent events are not read back any further: it takes too long");
                    return;
                }
            };
            at = batch.to();
            if batch.events.last().is_some_and(|last| now - last.recorded_at <= self.0.max_age) {
                self.learn(&batch.events);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("resources", &self.0.resources).finish_non_exhaustive()
    }
}

impl Known {
    fn learn(&mut self, event: &Recorded) {
        let key = Key {
            account: event.account.clone(),
            resource: event.event_type.resource().into(),
            record_id: event.record_id.clone(),
        };
        if event.seq <= self.floor || self.events.get(&key).is_some_and(|newest| newest.seq >= event.seq) {
            return;
        }
        if event.body.len() > MAX_EVENT_BYTES {
            self.events.remove(&key);
            self.floor = self.floor.max(event.seq);
            return;
        }
        let newest = Newest {
            seq: event.seq,
            as_of: event.occurred_at.unwrap_or(event.recorded_at),
            is_deleted: event.event_type.action() == "deleted",
            body: Bytes::copy_from_slice(&event.body),
        };
        let floor = &mut self.floor;
        self.events.put(key, newest, event.body.len() + ENTRY_BYTES, |gone| *floor = (*floor).max(gone.seq));
    }
}

/// The record in an event's body.
fn record(body: &Bytes, resource: &str) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Body<'e> {
        #[serde(borrow)]
        data: HashMap<Cow<'e, str>, &'e RawValue>,
    }
    let mut event: Body<'_> = serde_json::from_slice(body).ok()?;
    event.data.remove(resource).map(|record| body.slice_ref(record.get().as_bytes()))
}

/// Hands committed batches over as the fan-out does, and lets what is looked up know of them before.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) fanout: Fanout,
    pub(super) recent: Option<Recent>,
}

impl Publish for Tap {
    fn publish(&self, batch: Arc<Batch>) -> impl Future<Output = ()> + Send {
        if let Some(recent) = &self.recent {
            recent.learn(&batch.events);
        }
        self.fanout.publish(batch)
    }
}

#[cfg(test)]
#[path = "recent_tests.rs"]
mod tests;
