use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// For how long a shard is surely ours, by our monotonic clock: told by who holds its lease, asked by whoever relies on
/// nobody else recording meanwhile. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Tenure(Arc<Mutex<Option<Instant>>>);

impl Tenure {
    /// Held until then, unless it ends before.
    pub fn prolong(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Over.
    pub fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether it is held now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }
}
