use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// The two bounds of a channel: events and bytes. Room is taken before work is fetched and comes back when the
/// [`Room`] is dropped, so that nothing is ever held that was not paid for (INV-11).
#[derive(Clone, Debug)]
pub struct Capacity {
    events: Arc<Semaphore>,
    kibibytes: Arc<Semaphore>,
    max_events: u32,
    max_kibibytes: u32,
    sharers: Arc<AtomicUsize>,
}

/// One of those who may hold a part of a [`Capacity`] while they wait for something to happen.
#[derive(Debug)]
pub struct Sharer(Arc<AtomicUsize>);

impl Drop for Sharer {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A taken part of a [`Capacity`].
#[derive(Debug)]
#[must_use = "room that is dropped is free again"]
pub struct Room {
    events: OwnedSemaphorePermit,
    kibibytes: OwnedSemaphorePermit,
}

impl Room {
    /// Gives back what is beyond `events` and `bytes`: a fetched page mostly needs less than was taken for it.
    pub fn shrink(&mut self, events: usize, bytes: u64) {
        let excess = self.events.num_permits().saturating_sub(events);
        drop(self.events.split(excess));
        let excess = self.kibibytes.num_permits().saturating_sub(in_kibibytes(bytes) as usize);
        drop(self.kibibytes.split(excess));
    }

    /// Takes what `events` and `bytes` need beyond what is held, at once or not at all: waiting for more while
    /// holding some could wait for ever. Says whether the room is now large enough, or as large as can be.
    #[must_use]
    pub fn grow(&mut self, capacity: &Capacity, events: usize, bytes: u64) -> bool {
        let (events, kibibytes) = capacity.cut(events, bytes);
        let events = events.saturating_sub(u32::try_from(self.events.num_permits()).unwrap_or(u32::MAX));
        let kibibytes = kibibytes.saturating_sub(u32::try_from(self.kibibytes.num_permits()).unwrap_or(u32::MAX));
        let Some(more) = capacity.try_reserve(events as usize, u64::from(kibibytes) * 1024) else { return false };
        self.events.merge(more.events);
        self.kibibytes.merge(more.kibibytes);
        true
    }
}

impl Capacity {
    /// At least 1 event and 1 KiB.
    #[must_use]
    pub fn new(events: usize, bytes: u64) -> Self {
        let max_events = u32::try_from(events).unwrap_or(u32::MAX).max(1);
        let max_kibibytes = in_kibibytes(bytes).max(1);
        Self {
            events: Arc::new(Semaphore::new(max_events as usize)),
            kibibytes: Arc::new(Semaphore::new(max_kibibytes as usize)),
            max_events,
            max_kibibytes,
            sharers: Arc::default(),
        }
    }

    /// One more who may hold a share of it.
    #[must_use]
    pub fn sharer(&self) -> Sharer {
        self.sharers.fetch_add(1, Ordering::Relaxed);
        Sharer(Arc::clone(&self.sharers))
    }

    /// The events and bytes that each sharer may hold while it waits for something to happen: together they leave half of
    /// it to those where something does. At least 1 event and 1 KiB.
    #[must_use]
    pub fn share(&self) -> (u32, u64) {
        let parts = u32::try_from(self.sharers.load(Ordering::Relaxed)).unwrap_or(u32::MAX).max(1).saturating_mul(2);
        ((self.max_events / parts).max(1), u64::from((self.max_kibibytes / parts).max(1)) * 1024)
    }

    /// Waits for room, first come first served. A wish larger than the whole capacity is cut to it, so that it is
    /// granted when everything else is gone and never waits for ever.
    pub async fn reserve(&self, events: usize, bytes: u64) -> Room {
        let (events, kibibytes) = self.cut(events, bytes);
        // Always in this order, so that two waiters cannot each hold what the other needs.
        let events = self.events.clone().acquire_many_owned(events).await.expect("never closed");
        let kibibytes = self.kibibytes.clone().acquire_many_owned(kibibytes).await.expect("never closed");
        Room { events, kibibytes }
    }

    /// Takes room at once, or none.
    #[must_use]
    pub fn try_reserve(&self, events: usize, bytes: u64) -> Option<Room> {
        let (events, kibibytes) = self.cut(events, bytes);
        let granted = |permit: Result<OwnedSemaphorePermit, TryAcquireError>| permit.ok();
        let events = granted(self.events.clone().try_acquire_many_owned(events))?;
        let kibibytes = granted(self.kibibytes.clone().try_acquire_many_owned(kibibytes))?;
        Some(Room { events, kibibytes })
    }

    /// How many events are inside now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.max_events as usize - self.events.available_permits()
    }

    /// How many events fit at most.
    #[must_use]
    pub const fn max_events(&self) -> usize {
        self.max_events as usize
    }

    fn cut(&self, events: usize, bytes: u64) -> (u32, u32) {
        (u32::try_from(events).unwrap_or(u32::MAX).min(self.max_events), in_kibibytes(bytes).min(self.max_kibibytes))
    }
}

fn in_kibibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX >> 3).min(u32::MAX >> 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shares_leave_half_of_it() {
        let capacity = Capacity::new(100, 64 * 1024);
        assert_eq!(capacity.share(), (50, 32 * 1024));
        let sharers: Vec<Sharer> = (0..10).map(|_| capacity.clone().sharer()).collect();
        assert_eq!(capacity.share(), (5, 3 * 1024));
        let more: Vec<Sharer> = (0..1_000).map(|_| capacity.sharer()).collect();
        assert_eq!(capacity.share(), (1, 1024), "never nothing");
        drop(more);
        assert_eq!(capacity.share(), (5, 3 * 1024));
        drop(sharers);
        assert_eq!(capacity.share(), (50, 32 * 1024));
    }

    #[tokio::test]
    async fn room_that_shrinks_is_free_for_others_and_grows_only_into_what_is_free() {
        let capacity = Capacity::new(10, 10 * 1024);
        let mut room = capacity.reserve(10, 10 * 1024).await;
        assert!(capacity.try_reserve(1, 1).is_none());
        room.shrink(4, 4 * 1024);
        assert_eq!(capacity.depth(), 4);
        let other = capacity.try_reserve(6, 6 * 1024).expect("six are free");
        assert!(!room.grow(&capacity, 5, 5 * 1024), "nothing is free");
        assert_eq!(capacity.depth(), 10, "a failed growth takes nothing");
        drop(other);
        assert!(room.grow(&capacity, 99, 99 * 1024), "a wish beyond the whole is cut to the whole");
        assert_eq!(capacity.depth(), 10);
        drop(room);
        assert_eq!(capacity.depth(), 0);
    }
}
