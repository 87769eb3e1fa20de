//! What a replica holds of a budget that it shares with others: slices, renewed ahead of need by one task, so that a
//! request waits for the book only where nothing was used for a while.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::event::AccountName;
use crate::event::budget::{BudgetAsk, BudgetSlice, Limits, Requests};

/// A slice of minutes and hours lasts this long,
const LONG: Duration = Duration::from_secs(20);
/// one that holds a part of each second this long,
const PACED: Duration = Duration::from_secs(10);
/// and one that holds most of it this long: others wait for it.
const FAST: Duration = Duration::from_secs(1);
/// Between two asks.
const GAP: Duration = Duration::from_millis(20);
/// Between two asks for more of a second.
const REPACE: Duration = Duration::from_millis(250);
/// Nothing given is asked for again after this, at the earliest and at the latest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The book is out of reach: as above.
const AWAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// What is spent within this is told as one.
const LUMP: Duration = Duration::from_millis(250);
/// Of a minute's limit, the part that one slice holds at most.
const PART: u32 = 10;

/// Requests of one kind that wait here: of the streams, of others.
pub(super) type Waiting = Requests;

#[derive(Debug)]
pub(super) struct Slices {
    replica: Uuid,
    turn: u64,
    holds: Requests,
    /// What is held may be spent until then.
    until: Instant,
    lasts: Duration,
    /// What the present slice was meant to hold.
    target: Requests,
    told: (u64, u64),
    /// What was spent since the last ask that was answered: when first, when last, how many.
    spent: VecDeque<(Instant, Instant, Requests)>,
    /// How many of `spent` were told in an ask that is under way.
    telling: usize,
    asked: Option<Instant>,
    answered: Instant,
    /// Before then asking for the streams, or for others, is of no use.
    not_before: (Instant, Instant),
    /// When the book said that there may be more of either.
    full_until: (Instant, Instant),
    /// Whether somebody waited for a second that this replica has no more of.
    hasty: bool,
    /// Before then asking for more seconds is of no use.
    paced_after: Instant,
    /// What is left in minute and hour, as of the last answer.
    left: Option<(Instant, (u32, u32))>,
    failures: u32,
}

impl Slices {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            replica: Uuid::new_v4(),
            turn: 0,
            holds: Requests::default(),
            until: now,
            lasts: LONG,
            target: Requests::default(),
            told: (0, 0),
            spent: VecDeque::new(),
            telling: 0,
            asked: None,
            answered: now,
            not_before: (now, now),
            full_until: (now, now),
            hasty: false,
            paced_after: now,
            left: None,
            failures: 0,
        }
    }

    /// Pays one request, where something is held.
    pub(super) fn spend(&mut self, now: Instant, others: bool) -> bool {
        if now >= self.until {
            return false;
        }
        // The streams may use what was given for others: then there is less for those.
        let paid = match (others, self.holds) {
            (false, Requests { streams: 1.., .. }) => &mut self.holds.streams,
            (_, Requests { others: 1.., .. }) => &mut self.holds.others,
            _ => return false,
        };
        *paid -= 1;
        let fresh = self.spent.len() > self.telling;
        let lump = self.spent.back_mut().filter(|(first, ..)| fresh && now.duration_since(*first) < LUMP);
        if let Some((_, last, sum)) = lump {
            *last = now;
            *one(sum, others) += 1;
        } else {
            let mut sum = Requests::default();
            *one(&mut sum, others) += 1;
            self.spent.push_back((now, now, sum));
        }
        true
    }

    /// One that was paid at `at` is not made after all.
    pub(super) fn give_back(&mut self, at: Instant, others: bool) {
        // What was told stays told.
        let untold = self.spent.iter_mut().skip(self.telling);
        let mut lumps = untold.filter(|(first, last, _)| *first <= at && at <= *last);
        if let Some((_, _, sum)) = lumps.find(|(_, _, sum)| count(*sum, others) > 0) {
            *one(sum, others) -= 1;
            *one(&mut self.holds, others) += 1;
        }
    }

    /// Somebody could make more in this second.
    pub(super) const fn hurry(&mut self) {
        self.hasty = true;
    }

    /// Whether what is held runs low.
    pub(super) fn is_low(&self, now: Instant) -> bool {
        let low = |holds: u32, target: u32| target > 0 && holds <= target / 4;
        now >= self.until || low(self.holds.streams, self.target.streams) || low(self.holds.others, self.target.others)
    }

    fn used(&self) -> Requests {
        self.spent.iter().fold(Requests::default(), |sum, (_, _, spent)| plus(sum, *spent))
    }

    /// When to ask next; none while nothing is wanted and nothing is held.
    pub(super) fn due(&self, now: Instant, waiting: Waiting) -> Option<Instant> {
        let used = self.used();
        let over = now >= self.until;
        let lacks = |waiting: u32, holds: u32, target: u32, used: u32| {
            (waiting > 0 && (over || holds == 0)) || (!over && used > 0 && holds <= target / 4)
        };
        let mut due = Vec::with_capacity(5);
        // The streams can pay with what others hold.
        let for_streams = self.holds.streams + self.holds.others;
        if lacks(waiting.streams, for_streams, 0, 0) || lacks(0, self.holds.streams, self.target.streams, used.streams)
        {
            due.push(self.not_before.0);
        }
        if lacks(waiting.others, self.holds.others, self.target.others, used.others) {
            due.push(self.not_before.1);
        }
        if self.hasty {
            due.push(self.paced_after);
        }
        if used != Requests::default() {
            due.push(self.answered + self.lasts.mul_f64(0.7));
        }
        if self.holds != Requests::default() || !self.spent.is_empty() {
            due.push(self.until);
        }
        let earliest = self.asked.map_or(now, |asked| asked + GAP);
        let earliest = if self.failures > 0 { earliest.max(self.not_before.0) } else { earliest };
        due.into_iter().min().map(|due| due.max(earliest))
    }

    /// The next ask. `recent` is what was made in the last second.
    pub(super) fn ask(
        &mut self,
        account: &AccountName,
        limits: Limits,
        waiting: Waiting,
        recent: Requests,
        now: Instant,
    ) -> BudgetAsk {
        if now >= self.until {
            self.holds = Requests::default();
        }
        let used = self.used();
        let mut pace = Requests::default();
        self.lasts = LONG;
        if let Some(second) = limits.second {
            let of = |used: u32, waiting: u32, recent: u32, most: u32| match (used, waiting) {
                (0, 0) => 0,
                _ if self.hasty && waiting > 0 => most,
                _ => (2 * recent.max(waiting) + 2).min(most),
            };
            pace = Requests {
                streams: of(used.streams, waiting.streams, recent.streams, second.all),
                others: of(used.others, waiting.others, recent.others, second.others),
            };
            self.lasts = if 2 * (pace.streams + pace.others) <= second.all { PACED } else { FAST };
        }
        // As much as was used, and a quarter more; when that was quick, five times as much.
        let period = now.duration_since(self.answered).max(self.lasts / 4);
        let target = |used: u32, waiting: u32, limit: u32, pace: u32| {
            let expected = f64::from(used) * 1.25 * self.lasts.as_secs_f64() / period.as_secs_f64();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it saturates, and is not negative"
            )]
            let expected = (expected.ceil() as u32).max(waiting).min((limit / PART).max(1));
            // Not more than it can make.
            let seconds = u32::try_from(self.lasts.as_secs()).unwrap_or(1) + 1;
            if limits.second.is_some() { expected.min(pace.saturating_mul(seconds)) } else { expected }
        };
        self.target = Requests {
            streams: target(used.streams, waiting.streams, limits.minute.all, pace.streams),
            others: target(used.others, waiting.others, limits.minute.others, pace.others),
        };
        self.turn += 1;
        self.asked = Some(now);
        self.telling = self.spent.len();
        self.hasty = false;
        BudgetAsk {
            account: account.clone(),
            replica: self.replica,
            turn: self.turn,
            limits,
            told: self.told,
            spent: self.spent.iter().map(|(_, last, sum)| (now.duration_since(*last), *sum)).collect(),
            holds: self.holds,
            wants: Requests {
                streams: self.target.streams.saturating_sub(self.holds.streams),
                others: self.target.others.saturating_sub(self.holds.others),
            },
            pace,
            lasts: self.lasts,
        }
    }

    /// What an ask was answered with. Gives whether all that was wanted was given.
    pub(super) fn answered(&mut self, ask: &BudgetAsk, slice: &BudgetSlice, now: Instant) -> bool {
        let sent = self.asked.unwrap_or(now);
        for (_, _, sum) in self.spent.drain(..self.telling.min(self.spent.len())) {
            self.told = (self.told.0 + u64::from(sum.streams), self.told.1 + u64::from(sum.others));
        }
        self.telling = 0;
        self.holds = plus(self.holds, slice.given);
        self.until = sent + ask.lasts;
        self.answered = now;
        self.left = Some((now, slice.left));
        self.failures = 0;
        let again = |given: u32, wanted: u32, wait: Option<Duration>| {
            if given < wanted { now + wait.unwrap_or(AGAIN.0).clamp(AGAIN.0, AGAIN.1) } else { now }
        };
        self.not_before = (
            again(slice.given.streams, ask.wants.streams, slice.wait.0),
            again(slice.given.others, ask.wants.others, slice.wait.1),
        );
        self.full_until = (now + slice.wait.0.unwrap_or_default(), now + slice.wait.1.unwrap_or_default());
        self.paced_after = now + REPACE;
        slice.given == ask.wants
    }

    /// An ask that was not answered: what it told is told again. Says whether it is the first in a row.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.telling = 0;
        let wait = AWAY.0 * 2_u32.pow(self.failures.min(8));
        self.failures += 1;
        self.not_before = (now + wait.min(AWAY.1), now + wait.min(AWAY.1));
        self.full_until = self.not_before;
        self.failures == 1
    }

    /// Nothing more is spent. Says whether something was held or is still to be told.
    pub(super) fn end(&mut self, now: Instant) -> bool {
        self.until = now;
        self.holds != Requests::default() || !self.spent.is_empty()
    }

    /// When a kind may be given something, as far as is known.
    pub(super) const fn full_until(&self, others: bool) -> Instant {
        if others { self.full_until.1 } else { self.full_until.0 }
    }

    /// What is left in minute and hour by the last answer of the last minute, less what was spent since.
    pub(super) fn left(&self, now: Instant) -> Option<(u32, u32)> {
        let (at, (minute, hour)) = self.left?;
        let used = self.used();
        let used = used.streams.saturating_add(used.others);
        let minute = if now.duration_since(at) < Duration::from_mins(1) { minute } else { u32::MAX };
        Some((minute.saturating_sub(used), hour.saturating_sub(used)))
    }
}

const fn count(of: Requests, others: bool) -> u32 {
    if others { of.others } else { of.streams }
}

const fn one(of: &mut Requests, others: bool) -> &mut u32 {
    if others { &mut of.others } else { &mut of.streams }
}

const fn plus(a: Requests, b: Requests) -> Requests {
    Requests { streams: a.streams.saturating_add(b.streams), others: a.others.saturating_add(b.others) }
}
