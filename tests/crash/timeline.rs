//! When which fault struck, so that what the oracle finds can be told together with what came before it.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long after a fault something wrong is told together with it.
const AFTERMATH: Duration = Duration::from_mins(2);
/// Faults that are named beside one finding.
const NAMED: usize = 3;

/// The faults of a run in the order in which they struck.
#[derive(Debug, Default)]
pub struct Timeline(Vec<(SystemTime, String)>);

impl Timeline {
    /// A fault strikes now.
    pub fn strike(&mut self, what: String) {
        self.0.push((now(), what));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What struck shortly before a moment, the last first.
    pub fn before(&self, at: SystemTime) -> String {
        let mut text = String::new();
        let near = self.0.iter().enumerate().rev();
        let near = near.filter_map(|(number, (began, what))| {
            let since = at.duration_since(*began).ok().filter(|since| *since <= AFTERMATH)?;
            Some((number, since, what))
        });
        for (number, since, what) in near.take(NAMED) {
            write!(text, "\n        {:.1} s after fault {}: {what}", since.as_secs_f64(), number + 1)
                .expect("a string");
        }
        if text.is_empty() { "\n        after no fault".to_owned() } else { text }
    }
}

/// A timestamp of Kafka as a moment.
pub fn moment(milliseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default())
}

/// Of the machine, as Kafka's timestamps are.
#[expect(clippy::disallowed_methods, reason = "what happened is told beside what other processes noted")]
pub fn now() -> SystemTime {
    SystemTime::now()
}
