//! A page: what a reader gets from its position on, and what goes wrong with it.

use std::collections::HashMap;

use super::super::dice::Dice;
use super::super::encode;
use super::super::faults::Fault;
use super::super::journal::{Filter, Piece, Role};
use super::super::options::Dialect;
use super::super::position::Position;
use super::super::world::{Horizon, World};

/// A page looks no further than so many elements; a reader of a rare kind gets an empty page with a moved position
/// then, as the vendor cuts a request after a second.
const SCANNED: u64 = 200_000;
/// How far back repeated events are looked for.
const LOOKED_BACK: usize = 2_000;

/// Where a reader wants to go on.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Start {
    /// At the oldest event that is kept.
    Tail,
    /// Now.
    Top,
    Held(Position),
}

/// What a reader asks for.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Ask {
    pub dialect: Dialect,
    /// The stream or subscription: what is taken away from one is not taken from another.
    pub reader: u32,
    /// What stands in its positions.
    pub stream: u32,
    pub filter: Filter,
    pub from: Start,
    pub limit: usize,
}

#[derive(Debug)]
pub(in super::super) struct Page {
    pub pieces: Vec<Piece>,
    pub position: Position,
    pub top: bool,
}

/// The position is older than what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Gone;

impl World {
    /// The position that is meant.
    pub fn resolve(&self, ask: &Ask, now: i64) -> Result<Position, Gone> {
        let horizon = self.horizon(ask.reader, now);
        let end = self.journal.end();
        let fresh = |index: u64, time: i64| Position { stream: ask.stream, index, origin: index, time, step: 0 };
        match ask.from {
            Start::Top => Ok(fresh(end, now)),
            Start::Tail => {
                let oldest = horizon.index.max(self.journal.first());
                // Never older than the horizon itself: what is kept can be read.
                Ok(fresh(oldest, self.journal.get(oldest).map_or(now, |entry| entry.at).max(horizon.time)))
            }
            // One from beyond the end is of an earlier life of this simulator.
            Start::Held(held) if held.index > end || held.index < horizon.index || held.time < horizon.time => {
                Err(Gone)
            }
            Start::Held(held) => Ok(held),
        }
    }

    /// Whether an answer need not wait.
    pub fn has_more(&self, ask: &Ask, now: i64) -> bool {
        let Ok(position) = self.resolve(ask, now) else { return true };
        let ahead = self.journal.from(position.index);
        ahead.take(usize::try_from(SCANNED).unwrap_or(usize::MAX)).any(|(_, entry)| ask.filter.takes(entry))
    }

    /// The page that answers `ask`.
    pub fn page(&mut self, ask: &Ask, dice: &mut Dice, now: i64) -> Result<Page, Gone> {
        let from = self.resolve(ask, now)?;
        if matches!(ask.from, Start::Held(_)) && self.befalls(Fault::Gone, dice) {
            self.lose(ask, from.index, dice, now);
            return Err(Gone);
        }
        let mut limit = ask.limit;
        if self.befalls(Fault::ShortPage, dice) {
            limit = usize::try_from(dice.between(1, (limit as u64 / 4).max(1))).unwrap_or(1);
        }
        if self.befalls(Fault::EmptyPage, dice) && self.has_more(ask, now) {
            let upcoming = self.journal.get(from.index).map_or(now, |entry| entry.at);
            let time = from.time.max(upcoming.min(now));
            let position = Position { time, step: from.step.wrapping_add(1), ..from };
            return Ok(Page { pieces: Vec::new(), position, top: false });
        }
        let repeats = self.repeats(ask, from, limit, dice);
        let mut page = self.fresh(ask, from, limit - repeats.len().min(limit - 1), now, dice);
        for repeat in repeats {
            let at = dice.index(page.pieces.len() + 1);
            page.pieces.insert(at, repeat);
        }
        Ok(page)
    }

    fn befalls(&mut self, fault: Fault, dice: &mut Dice) -> bool {
        // Thrown whether it can happen or not: what one fault does must not change what another does.
        let befalls = dice.unit() < self.faults.rate(fault);
        if befalls {
            self.faults.note(fault);
        }
        befalls
    }

    /// Events from `from` on.
    fn fresh(&mut self, ask: &Ask, from: Position, limit: usize, now: i64, dice: &mut Dice) -> Page {
        let mut next = from.index;
        let mut found = Vec::new();
        for (index, entry) in self.journal.from(from.index) {
            if found.len() == limit || index - from.index == SCANNED {
                break;
            }
            next = index + 1;
            if ask.filter.takes(entry) {
                found.push((entry.record, entry.piece(ask.dialect).clone()));
            }
        }
        if self.befalls(Fault::Disorder, dice) {
            disorder(&mut found, dice);
        }
        let top = next == self.journal.end();
        let passed = next.checked_sub(1).and_then(|last| self.journal.get(last)).map_or(from.time, |entry| entry.at);
        let time = if top { now } else { passed }.max(from.time);
        let still = next == from.index && time == from.time;
        let step = if still { from.step.wrapping_add(1) } else { 0 };
        let position = Position { index: next, time, step, ..from };
        Page { pieces: found.into_iter().map(|(_, piece)| piece).collect(), position, top }
    }

    /// Events of earlier pages of this reader, again: as they were, or under their id with other content.
    fn repeats(&mut self, ask: &Ask, from: Position, limit: usize, dice: &mut Dice) -> Vec<Piece> {
        let (duplicate, conflict) = (dice.unit(), dice.unit());
        let duplicate = duplicate < self.faults.rate(Fault::Duplicate);
        let conflict = conflict < self.faults.rate(Fault::Conflict);
        if !duplicate && !conflict {
            return Vec::new();
        }
        // What lies before its origin it has not seen: that would be no repetition.
        let seen = self.journal.before(from.index).take(LOOKED_BACK).take_while(|(index, _)| *index >= from.origin);
        let seen = seen.filter(|(_, entry)| ask.filter.takes(entry) && entry.role != Role::Bogus);
        let seen: Vec<Piece> = seen.take(100).map(|(_, entry)| entry.piece(ask.dialect).clone()).collect();
        if seen.is_empty() || limit < 2 {
            return Vec::new();
        }
        let mut repeats = Vec::new();
        if duplicate {
            self.faults.note(Fault::Duplicate);
            let count = usize::try_from(dice.between(1, 3)).unwrap_or(1).min(limit - 1);
            repeats.extend((0..count).map(|_| seen[dice.index(seen.len())].clone()));
        }
        if conflict && repeats.len() < limit - 1 {
            self.faults.note(Fault::Conflict);
            let Piece { bytes, filler } = seen[dice.index(seen.len())].clone();
            let other = encode::conflicting(&bytes, ask.dialect);
            let moved = u32::try_from(other.len() - bytes.len()).unwrap_or_default();
            let filler = filler.map(|(at, length)| (at + moved, length));
            repeats.push(Piece { bytes: other.into(), filler });
        }
        repeats
    }

    /// Ends the history of a reader a little behind where it is.
    fn lose(&mut self, ask: &Ask, index: u64, dice: &mut Dice, now: i64) {
        let count = dice.index(20);
        let last_lost = self.journal.from(index).filter(|(_, entry)| ask.filter.takes(entry)).nth(count);
        let horizon = match last_lost {
            Some((lost, _)) => Horizon { index: lost + 1, time: 0 },
            None => Horizon { index: self.journal.end(), time: now },
        };
        self.take_from(ask.reader, horizon);
    }
}

/// Puts events out of order, those of one record among each other excepted.
fn disorder(found: &mut Vec<(u64, Piece)>, dice: &mut Dice) {
    let mut shuffled: Vec<usize> = (0..found.len()).collect();
    for at in (1..shuffled.len()).rev() {
        shuffled.swap(at, dice.index(at + 1));
    }
    let mut own: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, (record, _)) in found.iter().enumerate().rev() {
        own.entry(*record).or_default().push(at);
    }
    // Each record keeps the places that it was dealt, and fills them in its own order.
    let order = shuffled.iter().map(|at| own.get_mut(&found[*at].0).and_then(Vec::pop).unwrap_or(*at));
    *found = order.map(|at| found[at].clone()).collect::<Vec<_>>();
}

/// Writes the elements of a page between brackets.
pub(super) fn items(pieces: &[Piece]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pieces.iter().map(|piece| piece.len() + 1).sum::<usize>() + 256);
    out.extend_from_slice(br#"{"items":["#);
    for (at, piece) in pieces.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        piece.write(&mut out);
    }
    out.extend_from_slice(br#"],"meta":{"#);
    out
}
