//! Time is injected: wall-clock time comes from a [`Clock`], monotonic time and sleeping from `tokio::time`
//! (which a test can pause). `clippy.toml` refuses the direct clocks everywhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use time::OffsetDateTime;
use tokio::time::Instant;

/// The wall clock of this process, or one that a test holds in its hand. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicI64>),
    Following {
        start: OffsetDateTime,
        since: Instant,
    },
}

impl Clock {
    /// The machine's own clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until [`Clock::advance`] moves it.
    ///
    /// # Panics
    /// When `start` is outside the years 1678 to 2262.
    #[must_use]
    pub fn manual(start: OffsetDateTime) -> Self {
        let nanos = i64::try_from(start.unix_timestamp_nanos()).expect("a test's time lies in 1678..2262");
        Self(Source::Manual(Arc::new(AtomicI64::new(nanos))))
    }

    /// A clock that stands at `start` now and goes on as `tokio::time` does, which a test can pause.
    #[must_use]
    pub fn following(start: OffsetDateTime) -> Self {
        Self(Source::Following { start, since: Instant::now() })
    }

    /// The time now, UTC.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn now(&self) -> OffsetDateTime {
        match &self.0 {
            #[cfg(feature = "failpoints")]
            Source::System => OffsetDateTime::now_utc() + crate::failpoints::clock_step(),
            #[cfg(not(feature = "failpoints"))]
            Source::System => OffsetDateTime::now_utc(),
            Source::Manual(nanos) => {
                OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos.load(Ordering::SeqCst)))
                    .unwrap_or(OffsetDateTime::UNIX_EPOCH)
            }
            Source::Following { start, since } => *start + since.elapsed(),
        }
    }

    /// Moves a manual clock by `by`; does nothing to another.
    pub fn advance(&self, by: time::Duration) {
        if let Source::Manual(nanos) = &self.0 {
            let step = i64::try_from(by.whole_nanoseconds()).unwrap_or(i64::MAX);
            nanos.fetch_add(step, Ordering::SeqCst);
        }
    }
}
