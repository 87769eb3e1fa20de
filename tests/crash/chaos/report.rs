//! What a chaos run comes to: what struck, how fast all recovered, and what that must not exceed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::plan::{Fault, PLACES};

/// Recovery after a kill -9, 99 of 100 times.
const RECOVERS_WITHIN: Duration = Duration::from_secs(20);
/// And after a hand-over.
const HANDS_OVER_WITHIN: Duration = Duration::from_secs(3);
/// So many times of one kind say how long it takes.
const ENOUGH: usize = 10;
/// A replica's memory, at any time.
const MEMORY: u64 = 256 << 20;

/// The figures of a run.
#[derive(Debug, Default)]
pub struct Report {
    faults: BTreeMap<&'static str, usize>,
    recoveries: BTreeMap<&'static str, Vec<Duration>>,
    met: BTreeMap<&'static str, usize>,
    /// Late `EndTxn`s that a coordinator refused.
    pub refused: usize,
    pub memory: u64,
    pub took: Duration,
    pub emitted: usize,
    pub without_disks: bool,
}

impl Report {
    pub fn inflicted(&mut self, fault: &Fault) {
        *self.faults.entry(fault.kind()).or_default() += 1;
    }

    pub fn recovered(&mut self, how: &'static str, took: Duration) {
        self.recoveries.entry(how).or_default().push(took);
    }

    /// A process was killed at a failpoint.
    pub fn met(&mut self, place: &'static str) {
        *self.met.entry(place).or_default() += 1;
    }

    pub fn faults(&self) -> usize {
        self.faults.values().sum()
    }

    /// A run that inflicted less than was planned, or after which something took too long or too much, proves nothing.
    pub fn assert_holds(&self, planned: &[Fault], done: usize) {
        let mut wrong = Vec::new();
        for (place, _) in PLACES {
            let wanted = planned[..done].iter().any(|fault| matches!(fault, Fault::KillAt(at, _) if *at == place));
            if wanted && !self.met.contains_key(place) {
                wrong.push(format!("nobody was killed at {place}"));
            }
        }
        for (how, times) in &self.recoveries {
            let limit = match *how {
                "hand-over" => HANDS_OVER_WITHIN,
                how if how.starts_with("kill -9,") => RECOVERS_WITHIN,
                _ => continue,
            };
            // One or two on a busy machine say nothing.
            let enough = times.len() >= ENOUGH;
            if let Some(slow) = percentile(times, 99).filter(|slow| enough && *slow > limit) {
                wrong.push(format!("{how}: {slow:.1?} (p99), where {limit:?} is promised"));
            }
        }
        if self.memory > MEMORY {
            wrong.push(format!("a replica took {} MB", self.memory >> 20));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// Failpoints that any process came by, armed or not.
    pub fn passed(places: &Path) -> BTreeSet<String> {
        std::fs::read_to_string(places.join("passed")).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

/// The value that so many of a hundred do not exceed.
fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "── faults: {} in {:.0} s ──", self.faults(), self.took.as_secs_f64())?;
        for (kind, times) in &self.faults {
            writeln!(f, "{times:>5} × {kind}")?;
        }
        if self.without_disks {
            writeln!(f, "    0 × disk full: this user may not mount a small filesystem here")?;
        }
        writeln!(f, "── until all flows again, in seconds: p50, p99, max ──")?;
        for (how, times) in &self.recoveries {
            let of = |percent| percentile(times, percent).unwrap_or_default().as_secs_f64();
            writeln!(f, "{:>6.1} {:>6.1} {:>6.1}  {how} ({})", of(50), of(99), of(100), times.len())?;
        }
        writeln!(f, "── failpoints at which a replica was killed ──")?;
        let missed = PLACES.iter().filter(|(place, _)| !self.met.contains_key(place)).map(|(place, _)| *place);
        let missed: Vec<&str> = missed.collect();
        let met = self.met.iter().map(|(place, times)| format!("{place} {times}"));
        writeln!(f, "{}", met.collect::<Vec<_>>().join(", "))?;
        writeln!(f, "{} of {}; not: {}", self.met.len(), PLACES.len(), missed.join(", "))?;
        writeln!(
            f,
            "{} late EndTxn refused; {} events; a replica took {} MB at most",
            self.refused,
            self.emitted,
            self.memory >> 20
        )
    }
}
