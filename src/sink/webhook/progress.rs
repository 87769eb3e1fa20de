//! How far the cursor may move: over everything that is settled without a hole (INV-10).

use std::collections::VecDeque;

use crate::event::Seq;

/// The events after the cursor, and which of them are settled: delivered, filtered, or kept as a row.
#[derive(Debug)]
pub struct Progress {
    cursor: Seq,
    settled: VecDeque<bool>,
}

impl Progress {
    /// Nothing is taken after `cursor`.
    #[must_use]
    pub const fn new(cursor: Seq) -> Self {
        Self { cursor, settled: VecDeque::new() }
    }

    /// Takes the next event, which must be the one after the last taken.
    pub fn take(&mut self, seq: Seq) {
        debug_assert_eq!(seq, self.taken().next(), "a feed is contiguous");
        self.settled.push_back(false);
    }

    /// Marks a taken event as settled. What lies behind the cursor is settled already.
    pub fn settle(&mut self, seq: Seq) {
        let Some(place) = seq.since(self.cursor).checked_sub(1).and_then(|place| usize::try_from(place).ok()) else {
            return;
        };
        if let Some(settled) = self.settled.get_mut(place) {
            *settled = true;
        }
        while self.settled.front() == Some(&true) {
            self.settled.pop_front();
            self.cursor = self.cursor.next();
        }
    }

    /// Passes seqs without an event, once everything before them is settled; says whether it has.
    pub fn pass(&mut self, to: Seq) -> bool {
        if self.taken() < to && self.settled.is_empty() {
            self.cursor = to;
        }
        self.taken() >= to
    }

    /// Everything up to here is settled.
    #[must_use]
    pub const fn cursor(&self) -> Seq {
        self.cursor
    }

    /// The last event that was taken.
    #[must_use]
    pub fn taken(&self) -> Seq {
        Seq(self.cursor.0 + self.settled.len() as u64)
    }

    /// How many events lie between.
    #[must_use]
    pub fn window(&self) -> usize {
        self.settled.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_never_passes_what_is_not_settled() {
        let mut progress = Progress::new(Seq(10));
        for seq in 11..=14 {
            progress.take(Seq(seq));
        }
        progress.settle(Seq(12));
        progress.settle(Seq(14));
        assert_eq!(progress.cursor(), Seq(10));
        progress.settle(Seq(11));
        assert_eq!(progress.cursor(), Seq(12));
        progress.settle(Seq(5));
        progress.settle(Seq(13));
        assert_eq!((progress.cursor(), progress.window(), progress.taken()), (Seq(14), 0, Seq(14)));
    }

    #[test]
    fn a_void_is_passed_when_everything_before_it_is_settled() {
        let mut progress = Progress::new(Seq(10));
        progress.take(Seq(11));
        assert!(!progress.pass(Seq(20)));
        assert_eq!(progress.cursor(), Seq(10));
        progress.settle(Seq(11));
        assert!(progress.pass(Seq(20)) && progress.pass(Seq(20)));
        assert_eq!((progress.cursor(), progress.taken()), (Seq(20), Seq(20)));
        progress.take(Seq(21));
        progress.settle(Seq(21));
        assert_eq!(progress.cursor(), Seq(21));
    }
}
