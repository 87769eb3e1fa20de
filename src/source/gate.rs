//! An account whose credential is refused asks seldom, and with one request at a time, not with one of every stream.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Open while the vendor accepts the account; else lets one request through now and then.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Notify,
    first: Duration,
    most: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Open,
    /// Closed until then; the next wait is `after`.
    Closed {
        until: Instant,
        after: Duration,
    },
    /// One request is on its way to find out.
    Trying {
        after: Duration,
    },
}

/// The right to make a request; says how it went, or gives it to the next when dropped.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    trying: bool,
}

impl Gate {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { state: Mutex::new(State::Open), changed: Notify::new(), first, most }
    }

    /// Waits until a request may be made.
    pub async fn pass(&self) -> Pass<'_> {
        loop {
            let changed = self.changed.notified();
            let until = {
                let mut state = self.lock();
                match *state {
                    State::Open => return Pass { gate: self, trying: false },
                    State::Closed { until, after } if until <= Instant::now() => {
                        *state = State::Trying { after };
                        return Pass { gate: self, trying: true };
                    }
                    State::Closed { until, .. } => Some(until),
                    State::Trying { .. } => None,
                }
            };
            match until {
                Some(until) => {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(until) => {}
                        () = changed => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    /// Whether the vendor accepts the account, as far as is known.
    pub fn is_open(&self) -> bool {
        matches!(*self.lock(), State::Open)
    }

    /// Lets a request through now: something changed.
    pub fn try_now(&self) {
        let mut state = self.lock();
        if matches!(*state, State::Closed { .. }) {
            *state = State::Closed { until: Instant::now(), after: self.first };
            self.changed.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The vendor accepts the account. Says whether that is news.
    pub fn accepted(mut self) -> bool {
        // A request that began while the gate was open says nothing about one that was refused since.
        let news = std::mem::take(&mut self.trying);
        if news {
            *self.gate.lock() = State::Open;
            self.gate.changed.notify_waiters();
        }
        news
    }

    /// Whether this is the one request that finds out.
    pub fn is_trial(&self) -> bool {
        self.trying
    }

    /// The vendor refuses the account. Gives the wait until the next request.
    pub fn refused(mut self) -> Duration {
        let mut state = self.gate.lock();
        let wait = match *state {
            State::Open => self.gate.first,
            State::Trying { after } | State::Closed { after, .. } => after,
        };
        if self.trying || matches!(*state, State::Open) {
            let after = (wait * 2).min(self.gate.most);
            *state = State::Closed { until: Instant::now() + wait, after };
            self.gate.changed.notify_waiters();
        }
        self.trying = false;
        wait
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.trying {
            let mut state = self.gate.lock();
            if let State::Trying { after } = *state {
                *state = State::Closed { until: Instant::now(), after };
                self.gate.changed.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate::new(Duration::from_secs(30), Duration::from_mins(5))
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_account_lets_one_through_at_a_time_and_ever_more_seldom() {
        let gate = gate();
        let start = Instant::now();
        let (first, second) = (gate.pass().await, gate.pass().await);
        assert_eq!(first.refused(), Duration::from_secs(30));
        second.refused();
        let mut at = Vec::new();
        for _ in 0..5 {
            let pass = gate.pass().await;
            let other = tokio::time::timeout(Duration::from_millis(1), gate.pass()).await;
            assert!(other.is_err(), "one at a time");
            at.push(start.elapsed().as_secs());
            pass.refused();
        }
        assert_eq!(at, [30, 90, 210, 450, 750]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_accepted_request_opens_it_for_all_and_a_dropped_one_gives_its_turn_away() {
        let gate = gate();
        gate.pass().await.refused();
        assert!(!gate.is_open());
        gate.try_now();
        drop(gate.pass().await);
        assert!(gate.pass().await.accepted(), "news");
        assert!(gate.is_open() && !gate.pass().await.accepted());
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_good_answer_does_not_open_what_was_closed_since() {
        let gate = gate();
        let (slow, quick) = (gate.pass().await, gate.pass().await);
        quick.refused();
        slow.accepted();
        assert!(!gate.is_open());
    }
}
