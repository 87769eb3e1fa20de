//! Who runs a sink, and how careful it must be with what others may be doing.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::oneshot;
use uuid::Uuid;

/// Who runs a sink.
#[derive(Debug)]
pub struct Runner {
    /// The instance, which its cursors name; none where nobody needs to tell it from another.
    pub instance: Option<Uuid>,
    /// Whether an operator has said that nothing else uses this ledger and its topics (`run --adopt`).
    pub adopt: bool,
    /// Whether the ledger lives in another database than before, and this sink's cluster was not asked who writes for that
    /// one: then the sink asks before it fences, behind or not.
    pub moved: bool,
    /// How long a lease of a shard lasts.
    pub lease_ttl: Duration,
    /// Dropped when the sink has compared itself with the ledger for the first time, or has failed to: the shard records
    /// nothing new before, so that no seq is given that Kafka has used.
    pub compared: Option<oneshot::Sender<()>>,
    /// Set before the shard begins to record: from then on it does not look again where the ledger ends.
    pub recording: Arc<AtomicBool>,
    old: bool,
}

impl Runner {
    /// Of an instance.
    #[must_use]
    pub fn new(instance: Option<Uuid>, adopt: bool, lease_ttl: Duration) -> Self {
        let recording = Arc::default();
        Self { instance, adopt, moved: false, lease_ttl, compared: None, recording, old: false }
    }

    /// Whether the sink has not found its place since it began.
    pub(super) const fn is_new(&self) -> bool {
        !self.old
    }

    /// It has: whoever waits for it may go on.
    pub(super) fn found(&mut self) {
        self.old = true;
        self.compared = None;
    }

    /// Another instance that wrote within the last two lease times, and how many seconds ago; none where an operator has
    /// said that it may be ignored.
    pub(super) fn another_writer(
        &self,
        instance: Option<Uuid>,
        owner: Option<Uuid>,
        written_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Option<(Uuid, i64)> {
        another_writer(instance, owner, written_at, now, self.lease_ttl).filter(|_| !self.adopt)
    }
}

/// Another instance than `instance` that wrote within the last two lease times, and how many seconds ago.
pub(super) fn another_writer(
    instance: Option<Uuid>,
    owner: Option<Uuid>,
    written_at: Option<OffsetDateTime>,
    now: OffsetDateTime,
    lease_ttl: Duration,
) -> Option<(Uuid, i64)> {
    let owner = owner.filter(|owner| Some(*owner) != instance)?;
    let age = now - written_at?;
    (age < 2 * lease_ttl).then(|| (owner, age.whole_seconds().max(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_instance_counts_for_two_lease_times() {
        let (us, them) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let runner = Runner::new(Some(us), false, Duration::from_secs(15));
        let ago = |seconds| Some(now - Duration::from_secs(seconds));
        let another = |owner, at| runner.another_writer(runner.instance, owner, at, now);
        assert_eq!(another(Some(them), ago(29)), Some((them, 29)));
        assert_eq!(another(Some(them), ago(30)), None, "silent for long enough");
        assert_eq!(another(Some(us), ago(1)), None, "our own");
        assert_eq!(another(None, ago(1)), None, "an older program's");
        assert_eq!(another(Some(them), None), None, "undated");
        let adopting = Runner::new(Some(us), true, Duration::from_secs(15));
        assert_eq!(adopting.another_writer(Some(us), Some(them), ago(1), now), None);
    }
}
