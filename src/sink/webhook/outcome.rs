//! What follows from an attempt.

use std::time::Duration;

use rand::RngExt as _;
use time::OffsetDateTime;

use super::driver::Driver;
use super::load::Unsent;
use super::pending::{Due, Fate};
use super::response::{Answer, Verdict};
use super::schedule::RETRY_AFTER_BOUNDS;
use crate::event::ports::SinkBook;
use crate::event::{AttemptNote, DeliveryBook, Seq};

/// An attempt that ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub seq: Seq,
    pub recorded_at: OffsetDateTime,
    pub answer: Answer,
    pub probe: bool,
}

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum Ended {
    /// It was made.
    Sent(Finished),
    /// It was not.
    Unsent(Nothing),
}

/// An attempt in which nothing was sent.
#[derive(Debug)]
pub(super) struct Nothing {
    pub seq: Seq,
    pub unsent: Unsent,
    pub probe: bool,
}

impl<F, B: SinkBook, D: DeliveryBook> Driver<'_, F, B, D> {
    /// Settles whatever came of attempts, in the state only; what must be written is written in the next turn.
    pub(super) fn ended(&mut self, ended: &[Ended]) {
        let now = self.now();
        for ended in ended {
            match ended {
                Ended::Sent(finished) => self.finished(finished, now),
                Ended::Unsent(nothing) => self.unsent(nothing, now),
            }
        }
    }

    /// Of the endpoint nothing was learned, and nothing counts against the event.
    fn unsent(&mut self, nothing: &Nothing, now: Due) {
        if nothing.probe {
            self.breaker.not_probed(now.at);
        }
        let seq = nothing.seq;
        let fate = match &nothing.unsent {
            Unsent::Filtered => {
                self.meters.filtered.increment(1);
                Fate::Done
            }
            Unsent::Refused(reason) => {
                tracing::warn!(sink = %self.sink.name, %seq, reason, "dead letter");
                self.meters.dead_letter.increment(1);
                Fate::GivenUp { reason: reason.clone() }
            }
            Unsent::Waits(wait) => {
                // Spread, so that those that wait do not all ask at once.
                let pause = wait.pause.mul_f64(crate::chance::rng().random_range(1.0..=1.5));
                Fate::Again { due: later(now, pause), counted: false }
            }
        };
        self.pending.settle(seq, fate, now);
    }

    fn finished(&mut self, finished: &Finished, now: Due) {
        let delivered = finished.answer.verdict == Verdict::Delivered;
        self.meters.attempt(finished.answer.class());
        if finished.probe {
            self.breaker.probed(delivered, now.at);
            if delivered {
                tracing::info!(sink = %self.sink.name, "the endpoint delivers again");
            }
        } else if self.breaker.record(delivered, now.at) {
            tracing::warn!(
                sink = %self.sink.name, error = finished.answer.error,
                "the endpoint fails: its events are kept, and one is tried every {:?}", self.sink.config.breaker.probe_after
            );
        }
        self.meters.breaker.set(self.breaker.state(now.at).gauge());
        if delivered {
            self.failing.delivered();
        } else {
            self.failing.failed(now);
        }
        match finished.answer.verdict {
            Verdict::Delivered => {
                self.pace.delivered();
                self.reported.error = None;
                self.meters.delivered.increment(1);
                self.meters.end_to_end.record((now.wall - finished.recorded_at).as_seconds_f64().max(0.0));
                self.pending.settle(finished.seq, Fate::Done, now);
            }
            Verdict::Gone => {
                self.failing.disabling = Some("the endpoint answered 410 Gone".to_owned());
                self.failed(finished, now, false);
            }
            Verdict::Throttled => {
                self.pace.throttled(finished.answer.began, now.at, finished.answer.retry_after);
                self.failed(finished, now, !finished.probe);
            }
            Verdict::Failed(_) => self.failed(finished, now, !finished.probe),
        }
    }

    /// Tries again later, or gives up. What only showed that the endpoint is still down, or wants nothing at all, does not
    /// count against the event.
    fn failed(&mut self, finished: &Finished, now: Due, counted: bool) {
        let Finished { seq, answer, .. } = finished;
        let failed = self.pending.failed_attempts(*seq) + 1;
        self.pending.changes().attempts.push(AttemptNote {
            seq: *seq,
            number: failed,
            at: answer.at,
            took: answer.took,
            status: answer.status,
            error: answer.error.clone(),
            answer: answer.body.clone(),
        });
        let wait = if counted {
            self.schedule.wait(failed, answer.retry_after, &mut crate::chance::rng())
        } else {
            let asked = answer.retry_after.unwrap_or_default().min(RETRY_AFTER_BOUNDS.1);
            Some(if finished.probe { asked.max(self.sink.config.breaker.probe_after) } else { asked })
        };
        tracing::debug!(sink = %self.sink.name, %seq, failed, error = answer.error, ?wait, "attempt failed");
        let fate = if let Some(wait) = wait {
            Fate::Again { due: later(now, wait), counted }
        } else {
            tracing::warn!(sink = %self.sink.name, %seq, attempts = failed, error = answer.error, "dead letter");
            self.meters.dead_letter.increment(1);
            Fate::GivenUp { reason: format!("{failed} attempts failed, the last: {}", answer.error) }
        };
        self.reported.error = Some(answer.error.clone());
        self.pending.settle(*seq, fate, now);
    }
}

fn later(now: Due, wait: Duration) -> Due {
    // Waits are bounded by the configuration's own bounds and a day; a date beyond the calendar never comes of them.
    Due {
        at: now.at + wait,
        wall: now.wall.checked_add(time::Duration::try_from(wait).unwrap_or_default()).unwrap_or(now.wall),
    }
}
