//! For how long an endpoint has given nothing but failures.
//!
//! Only time in which attempts were really failing counts: that from one failed attempt to the next. Our own downtime has
//! no attempt at its beginning, and over a long silence nobody knows how the endpoint was.

use std::time::Duration;

use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::pending::Due;
use crate::event::Failures;

/// Failures further apart have nothing between them: the longest wait of the default schedule is shorter.
const APART: Duration = Duration::from_hours(30);
/// A restart may forget so much.
const WORTH_KEEPING: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Failing {
    failures: Option<Failures>,
    /// The last failed attempt, unless the sink stood still since.
    last: Option<Instant>,
    kept: Option<Failures>,
    /// Why the endpoint is disabled, until its row says so.
    pub disabling: Option<String>,
}

impl Failing {
    /// Goes on from what the ledger has.
    pub(super) const fn new(kept: Option<Failures>) -> Self {
        Self { failures: kept, last: None, kept, disabling: None }
    }

    /// An attempt was successful.
    pub(super) fn delivered(&mut self) {
        self.failures = None;
        self.last = None;
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, now: Due) {
        let failures = self.failures.get_or_insert(Failures { since: now.wall, lasting: Duration::ZERO });
        let apart = self.last.map_or(Duration::ZERO, |last| now.at.saturating_duration_since(last));
        if apart <= APART {
            failures.lasting += apart;
        }
        self.last = Some(now.at);
    }

    /// From now on, until an attempt fails again, nothing is tried.
    pub(super) const fn stands_still(&mut self) {
        self.last = None;
    }

    /// What the ledger is to have: what it has, until enough has come to that.
    pub(super) fn to_keep(&self) -> Option<Failures> {
        let failures = self.failures?;
        let kept = self.kept.filter(|kept| kept.since == failures.since);
        let more = failures.lasting.saturating_sub(kept.map_or(Duration::ZERO, |kept| kept.lasting));
        if more >= WORTH_KEEPING { Some(failures) } else { kept }
    }

    /// What the ledger has.
    pub(super) const fn kept(&self) -> Option<Failures> {
        self.kept
    }

    /// The ledger has it.
    pub(super) const fn keep(&mut self, failures: Option<Failures>) {
        self.kept = failures;
    }

    /// Why the endpoint is to be disabled, if it has failed for too long.
    pub(super) fn verdict(&self, disable_after: Duration, error: &str) -> Option<String> {
        let failures = self.failures.filter(|failures| failures.lasting >= disable_after)?;
        let days = humantime::format_duration(Duration::from_secs(disable_after.as_secs()));
        let since = failures.since.replace_nanosecond(0).unwrap_or(failures.since);
        let since = since.format(&Rfc3339).unwrap_or_default();
        Some(format!("nothing but failures for {days} of attempts since {since}, the last: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    const FIVE_DAYS: Duration = Duration::from_hours(120);

    /// A time that passes as the test says.
    struct Time(Due);

    impl Time {
        fn new() -> Self {
            Self(Due { at: Instant::now(), wall: OffsetDateTime::UNIX_EPOCH })
        }

        fn pass(&mut self, time: Duration) -> Due {
            self.0.at += time;
            self.0.wall += time;
            self.0
        }
    }

    fn disabled(failing: &Failing) -> bool {
        failing.verdict(FIVE_DAYS, "503").is_some()
    }

    /// Fails every `pause` for `time`.
    fn fail(failing: &mut Failing, time: &mut Time, pause: Duration, lasting: Duration) {
        for _ in 0..lasting.as_secs() / pause.as_secs() {
            failing.failed(time.pass(pause));
        }
    }

    #[test]
    fn five_days_of_failed_attempts_disable_and_a_success_begins_anew() {
        let (mut failing, mut time) = (Failing::new(None), Time::new());
        failing.failed(time.0);
        for hours in [1, 24, 24, 24, 24, 22] {
            failing.failed(time.pass(Duration::from_hours(hours)));
            assert!(!disabled(&failing));
        }
        failing.failed(time.pass(Duration::from_hours(1)));
        let verdict = failing.verdict(FIVE_DAYS, "503").unwrap();
        assert_eq!(verdict, "nothing but failures for 5days of attempts since 1970-01-01T00:00:00Z, the last: 503");
        failing.delivered();
        assert!(!disabled(&failing));
        fail(&mut failing, &mut time, Duration::from_hours(1), FIVE_DAYS);
        assert!(!disabled(&failing), "the first failure has nothing before it");
        failing.failed(time.pass(Duration::from_hours(1)));
        assert!(disabled(&failing));
    }

    #[test]
    fn time_in_which_nothing_was_tried_does_not_count() {
        let (mut failing, mut time) = (Failing::new(None), Time::new());
        let (hour, hours) = (Duration::from_hours(1), Duration::from_hours(40));
        failing.failed(time.0);
        fail(&mut failing, &mut time, hour, hours);
        // Nothing came for a week.
        failing.failed(time.pass(Duration::from_hours(168)));
        assert!(!disabled(&failing));
        fail(&mut failing, &mut time, hour, hours);
        // The sink was paused for a day.
        failing.stands_still();
        failing.failed(time.pass(Duration::from_hours(24)));
        // Nothing ran for a day: only what was kept is known.
        let kept = failing.to_keep();
        assert_eq!(kept.unwrap().lasting, hours * 2);
        let mut failing = Failing::new(kept);
        failing.failed(time.pass(Duration::from_hours(24)));
        fail(&mut failing, &mut time, hour, hour * 39);
        assert!(!disabled(&failing), "an hour is missing");
        fail(&mut failing, &mut time, hour, hour);
        assert!(disabled(&failing));
    }

    #[test]
    fn the_ledger_is_told_minute_by_minute_and_of_the_success() {
        let (mut failing, mut time) = (Failing::new(None), Time::new());
        let second = Duration::from_secs(1);
        failing.failed(time.0);
        fail(&mut failing, &mut time, second, Duration::from_secs(59));
        assert_eq!(failing.to_keep(), None);
        failing.failed(time.pass(second));
        let minute = failing.to_keep();
        assert_eq!(minute, Some(Failures { since: OffsetDateTime::UNIX_EPOCH, lasting: WORTH_KEEPING }));
        failing.keep(minute);
        failing.failed(time.pass(second));
        assert_eq!(failing.to_keep(), minute);
        failing.delivered();
        assert_eq!(failing.to_keep(), None);
        // A failure right after the success, before the ledger was told of it.
        failing.failed(time.pass(second));
        assert_eq!(failing.to_keep(), None);
    }
}
