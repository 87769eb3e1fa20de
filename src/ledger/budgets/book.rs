//! The arithmetic of one account's budget.
//!
//! What was spent is known to the second, as the end of that second; what a replica holds counts as spent when its slice
//! ends. A slice is given only while everything that may lie in one window with it is within the limit: all that ends
//! no earlier than one window before now. Take any window and the slice in it that was given last: everything else in the
//! window was counted then. So no window ever holds more than the limit, whatever replicas do with their slices, and
//! whether they come back or not.
//!
//! Seconds are shorter than a slice lasts, so there a replica gets a *pace*: what it may make in any second. The paces that
//! hold at one time, and those that ended less than a second ago, are within the limit together.
//!
//! The server's clock may be set back, or another server, whose clock is behind, may take over. What was written before
//! then seems to end too late, and nobody would be given what it holds until then ([`Book::rein_in`]).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::budget::{BudgetAsk, BudgetSlice, Limit, Limits, Requests};
use crate::mutant::{Mutant, planted};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
/// So long after its slice has ended a replica may still come and say what it spent of it.
const SETTLES_WITHIN: i64 = MINUTE;
/// Streams that were given nothing come before all others for so long.
const STREAMS_FIRST: i64 = 2 * SECOND;

/// An account's requests of the last hour, and who holds what. Times are the server's, in milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Book {
    spent: Vec<Spent>,
    holders: Vec<Holder>,
    /// Until when the streams come first, because they got nothing.
    short: i64,
}

/// Requests that were made at `by` at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Spent {
    by: i64,
    #[serde(rename = "s")]
    streams: u32,
    #[serde(rename = "o")]
    others: u32,
}

/// A replica with a slice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Holder {
    replica: Uuid,
    turn: u64,
    /// What it holds is made by then.
    by: i64,
    /// How long the slice that ends then lasts.
    #[serde(default = "longest")]
    lasts: i64,
    streams: u32,
    others: u32,
    /// What it has told of in all.
    told: (u64, u64),
    /// Whether it has use for seconds: of the streams, of others.
    paced: (bool, bool),
    paces: Vec<Pace>,
}

/// What a replica may make in any second, up to `by`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Pace {
    by: i64,
    /// How long it holds in all.
    #[serde(default = "longest")]
    lasts: i64,
    all: u32,
    others: u32,
}

/// An ask that arrived after a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    turn: u64,
    last: u64,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "turn {} after {}", self.turn, self.last)
    }
}

impl Book {
    /// What is written; what cannot be read is begun anew.
    pub fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|error| {
            tracing::error!(%error, "an account's budget cannot be read; it begins anew");
            Self::default()
        })
    }

    /// As it is kept.
    pub fn written(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Takes down what a replica spent and gives it a slice.
    pub fn lease(&mut self, ask: &BudgetAsk, now: i64) -> Result<BudgetSlice, Late> {
        self.rein_in(now);
        let lasts = millis(ask.lasts);
        let by = now.saturating_add(lasts);
        let mut own = match self.holders.iter().position(|holder| holder.replica == ask.replica) {
            Some(at) if self.holders[at].turn >= ask.turn => {
                return Err(Late { turn: ask.turn, last: self.holders[at].turn });
            }
            Some(at) => self.holders.swap_remove(at),
            None => Holder {
                replica: ask.replica,
                turn: 0,
                by,
                lasts,
                streams: 0,
                others: 0,
                told: ask.told,
                paced: (false, false),
                paces: Vec::new(),
            },
        };
        own.turn = ask.turn;
        self.take_down(&mut own, ask, now);
        (own.streams, own.others) = (ask.holds.streams, ask.holds.others);
        // One whose answer is lost goes by its last slice.
        if own.by <= by {
            (own.by, own.lasts) = (by, lasts);
        }
        own.paced = (ask.pace.streams > 0, ask.pace.others > 0);
        self.tidy(now);
        let mut slice = BudgetSlice { left: self.left(&ask.limits, now), ..BudgetSlice::default() };
        (slice.given, slice.wait) = self.give(&own, ask, now);
        slice.pace = ask.limits.second.map(|limit| self.pace(&own, ask.pace, limit, now));
        own.streams += slice.given.streams;
        own.others += slice.given.others;
        own.paces.retain(|pace| pace.by >= now - SECOND);
        if let Some(pace) = slice.pace {
            own.paces.push(Pace { by, lasts, all: pace.all, others: pace.others });
        }
        self.holders.push(own);
        Ok(slice)
    }

    /// Nothing ends later than it would if it began now: what says so was written by a clock that was ahead. It was written
    /// before now all the same, so that it is over by then.
    fn rein_in(&mut self, now: i64) {
        let second = now.div_euclid(SECOND) * SECOND + SECOND;
        for spent in &mut self.spent {
            spent.by = spent.by.min(second);
        }
        for holder in &mut self.holders {
            holder.by = holder.by.min(now.saturating_add(holder.lasts));
            for pace in &mut holder.paces {
                pace.by = pace.by.min(now.saturating_add(pace.lasts));
            }
        }
        self.short = self.short.min(now + STREAMS_FIRST);
    }

    fn take_down(&mut self, own: &mut Holder, ask: &BudgetAsk, now: i64) {
        // An ask whose answer was lost has told some of it.
        let known = |told: u64, now: u64| u32::try_from(told.saturating_sub(now)).unwrap_or(u32::MAX);
        let (mut streams_known, mut others_known) = (known(own.told.0, ask.told.0), known(own.told.1, ask.told.1));
        let mut total = ask.told;
        for (ago, spent) in &ask.spent {
            total = (total.0 + u64::from(spent.streams), total.1 + u64::from(spent.others));
            let streams = spent.streams.saturating_sub(streams_known);
            let others = spent.others.saturating_sub(others_known);
            streams_known = streams_known.saturating_sub(spent.streams);
            others_known = others_known.saturating_sub(spent.others);
            let by = (now - millis(*ago)).div_euclid(SECOND) * SECOND + SECOND;
            self.add(Spent { by, streams, others });
        }
        own.told = (own.told.0.max(total.0), own.told.1.max(total.1));
    }

    fn add(&mut self, new: Spent) {
        if new.streams == 0 && new.others == 0 {
            return;
        }
        match self.spent.iter_mut().find(|spent| spent.by == new.by) {
            Some(spent) => {
                spent.streams = spent.streams.saturating_add(new.streams);
                spent.others = spent.others.saturating_add(new.others);
            }
            None => self.spent.push(new),
        }
    }

    /// Forgets what is older than an hour, keeps the rest by the minute where no minute counts it any more, and takes what
    /// those held who did not come back for spent.
    fn tidy(&mut self, now: i64) {
        let gone = |holder: &Holder| holder.by < now - SETTLES_WITHIN;
        let left: Vec<Spent> = self.holders.iter().filter(|holder| gone(holder)).map(Holder::spent).collect();
        self.holders.retain(|holder| !gone(holder));
        let mut all = std::mem::take(&mut self.spent);
        if !planted(Mutant::SliceForgotten) {
            all.extend(left);
        }
        all.retain(|spent| spent.by >= now - HOUR);
        for spent in all {
            let minute = spent.by.div_euclid(MINUTE) * MINUTE + MINUTE - 1;
            self.add(Spent { by: if minute < now - MINUTE { minute } else { spent.by }, ..spent });
        }
    }

    /// Everything that may lie in one window with a request of now: what was spent, and what others hold.
    fn counted(&self, window: i64, now: i64) -> impl Iterator<Item = Spent> {
        let held = self.holders.iter().map(Holder::spent);
        self.spent.iter().copied().chain(held).filter(move |spent| spent.by >= now - window)
    }

    fn sums(&self, window: i64, now: i64) -> (u32, u32) {
        self.counted(window, now).fold((0_u32, 0_u32), |(all, others), spent| {
            (all.saturating_add(spent.streams).saturating_add(spent.others), others.saturating_add(spent.others))
        })
    }

    fn left(&self, limits: &Limits, now: i64) -> (u32, u32) {
        let left = |limit: Limit, window| limit.all.saturating_sub(self.sums(window, now).0);
        (left(limits.minute, MINUTE), left(limits.hour, HOUR))
    }

    fn give(&mut self, own: &Holder, ask: &BudgetAsk, now: i64) -> (Requests, (Option<Duration>, Option<Duration>)) {
        let (mut all, mut others) = (u32::MAX, u32::MAX);
        let mut falls_out = (None, None);
        for (limit, window) in [(ask.limits.minute, MINUTE), (ask.limits.hour, HOUR)] {
            let (all_spent, others_spent) = self.sums(window, now);
            let room_all = limit.all.saturating_sub(all_spent.saturating_add(own.streams).saturating_add(own.others));
            let room_others = limit.others.saturating_sub(others_spent.saturating_add(own.others)).min(room_all);
            let first = |of: fn(&Spent) -> u32| {
                let ends = self.counted(window, now).filter(|spent| of(spent) > 0).map(|spent| spent.by).min();
                // Just after it does not count any more.
                ends.map(|by| by + window - now + 1)
            };
            if room_all < ask.wants.streams {
                falls_out.0 = falls_out.0.max(first(|spent| spent.streams.max(spent.others)));
            }
            if room_others < ask.wants.others {
                let binds = if room_others < room_all {
                    |spent: &Spent| spent.others
                } else {
                    |spent: &Spent| spent.streams.max(spent.others)
                };
                falls_out.1 = falls_out.1.max(first(binds));
            }
            (all, others) = (all.min(room_all), others.min(room_others));
        }
        let streams = ask.wants.streams.min(all);
        if ask.wants.streams > 0 {
            self.short = if streams == 0 { now + STREAMS_FIRST } else { 0 };
        }
        let others = if self.short > now { 0 } else { ask.wants.others.min(others).min(all - streams) };
        let wait = |given: u32, wanted: u32, falls_out: Option<i64>| {
            let wait = u64::try_from(falls_out.unwrap_or(SECOND)).unwrap_or(0);
            (given < wanted).then(|| Duration::from_millis(wait))
        };
        let waits = (wait(streams, ask.wants.streams, falls_out.0), wait(others, ask.wants.others, falls_out.1));
        (Requests { streams, others }, waits)
    }

    /// Doors share what is theirs evenly; whoever polls gets the rest, but for the share of doors that wait for it.
    fn pace(&self, own: &Holder, wants: Requests, limit: Limit, now: i64) -> Limit {
        let others_held = |holder: &Holder| holder.paced(now).others;
        let live = |holder: &&Holder| holder.by >= now;
        let doors = self.holders.iter().filter(live).filter(|holder| holder.paced.1).count();
        let share = limit.others.div_ceil(u32::try_from(doors).unwrap_or(u32::MAX).saturating_add(1)).max(1);
        let taken: u32 = self.holders.iter().map(others_held).sum();
        let others = wants.others.min(share).min(limit.others.saturating_sub(taken));
        // A door that has nothing yet is left its share.
        let reserved: u32 = self
            .holders
            .iter()
            .map(|holder| {
                let least = if holder.by >= now && holder.paced.1 && own.paced.0 { share } else { 0 };
                holder.paced(now).all.max(least)
            })
            .sum();
        let free = limit.all.saturating_sub(reserved);
        let others = others.min(free);
        Limit { all: wants.streams.saturating_add(others).min(free), others }
    }
}

impl Holder {
    /// What it holds, as spent when its slice ends.
    const fn spent(&self) -> Spent {
        Spent { by: self.by, streams: self.streams, others: self.others }
    }

    /// The most that it may make in a second that now belongs to.
    fn paced(&self, now: i64) -> Limit {
        let counts = self.paces.iter().filter(|pace| pace.by >= now - SECOND);
        counts.fold(Limit { all: 0, others: 0 }, |most, pace| Limit {
            all: most.all.max(pace.all),
            others: most.others.max(pace.others),
        })
    }
}

/// What an older program wrote does not say how long its slice lasts: longer than any.
const fn longest() -> i64 {
    MINUTE
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(10);

    fn ask(replica: u128, turn: u64, streams: u32) -> BudgetAsk {
        let of = |all, others| Limit { all, others };
        BudgetAsk {
            account: "acme".into(),
            replica: Uuid::from_u128(replica),
            turn,
            limits: Limits { second: Some(of(10, 7)), minute: of(20, 14), hour: of(100, 70) },
            told: (0, 0),
            spent: Vec::new(),
            holds: Requests::default(),
            wants: Requests { streams, others: 0 },
            pace: Requests { streams, others: 0 },
            lasts: LASTS,
        }
    }

    /// A slice of before lasts as long as it can last, and no longer.
    #[test]
    fn a_clock_that_is_set_back_neither_shortens_a_slice_nor_prolongs_it() {
        let mut book = Book::default();
        let before = 1_000 * HOUR;
        let first = book.lease(&ask(1, 1, 4), before).unwrap();
        assert_eq!((first.given.streams, first.pace.unwrap().all), (4, 4));
        // Now the clock says so, and the slice goes on for ten seconds.
        let now = before - 10 * MINUTE;
        let mut second = |turn, after| book.lease(&ask(2, turn, 20), now + after).unwrap();
        let told = second(1, 0);
        assert_eq!((told.given.streams, told.pace.unwrap().all), (16, 6), "what the first does not hold");
        assert_eq!(second(2, 10 * SECOND).pace.unwrap().all, 6, "it may just have made them");
        assert_eq!(second(3, 11 * SECOND + 1).pace.unwrap().all, 10, "it is over");
        assert_eq!(second(4, 70 * SECOND).given.streams, 16, "what it held may lie in this minute");
        assert_eq!(second(5, 70 * SECOND + 1).given.streams, 20);
    }
}
