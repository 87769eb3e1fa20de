use std::collections::HashMap;

use crate::event::Seq;

/// Sinks that write to one partition, at most: each has a chain of `standpipe-prev` of its own.
const MAX_CHAINS: usize = 8;

/// The chains of `standpipe-prev` in one partition, followed message by message.
///
/// Several sinks may write to one topic, each with a chain of its own, so a message links when it names the last one of
/// any chain. 0 begins a chain: a sink's first message there.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// The last seq of each chain, the latest last.
    heads: Vec<Seq>,
    /// The first seq that was met.
    first: Option<Seq>,
    /// Predecessors that were named before they were met, with the place of the hop in [`Trail::hops`].
    awaited: HashMap<Seq, usize>,
    hops: Vec<Hop>,
}

/// A message whose `standpipe-prev` does not name the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The message.
    pub seq: Seq,
    /// What it names.
    pub prev: Seq,
    /// Where it stands.
    pub offset: i64,
    /// Whether what it names came after it.
    pub is_late: bool,
    /// Whether what it names was put behind it on purpose, as a repair.
    pub is_mended: bool,
}

/// Hops of one partition that are remembered, at most.
const MAX_HOPS: usize = 100_000;

impl Trail {
    /// A trail that goes on behind `last`, 0 where nothing came before.
    #[must_use]
    pub fn behind(last: Seq) -> Self {
        Self { heads: vec![last], ..Self::default() }
    }

    /// Follows one message that is neither a repetition nor a repair; whether it links.
    pub fn step(&mut self, seq: Seq, prev: Seq, offset: i64) -> bool {
        let chain = self.heads.iter().position(|head| *head == prev);
        if let Some(at) = chain {
            self.heads.remove(at);
        } else if self.heads.len() == MAX_CHAINS {
            self.heads.remove(0);
        }
        self.heads.push(seq);
        if let Some(at) = self.awaited.remove(&seq) {
            self.hops[at].is_late = true;
        }
        let links = chain.is_some() || prev == Seq::ZERO;
        if !links && self.hops.len() < MAX_HOPS {
            self.awaited.insert(prev, self.hops.len());
            self.hops.push(Hop { seq, prev, offset, is_late: false, is_mended: false });
        }
        self.first.get_or_insert(seq);
        links
    }

    /// Notes a repair: it is no part of the chain, and whoever names it has what it names.
    pub fn mend(&mut self, seq: Seq) {
        if let Some(at) = self.awaited.remove(&seq) {
            self.hops[at].is_mended = true;
        }
    }

    /// The first seq that was met.
    #[must_use]
    pub const fn first(&self) -> Option<Seq> {
        self.first
    }

    /// What did not link, in order; at most 100,000.
    #[must_use]
    pub fn hops(&self) -> &[Hop] {
        &self.hops
    }

    /// Forgets the hops: who follows for ever has told each of them.
    pub fn forget_hops(&mut self) {
        self.hops.clear();
        self.awaited.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(steps: &[(u64, u64)]) -> Trail {
        let mut trail = Trail::default();
        for (offset, (seq, prev)) in (0..).zip(steps) {
            trail.step(Seq(*seq), Seq(*prev), offset);
        }
        trail
    }

    fn hops(steps: &[(u64, u64)]) -> Vec<(u64, u64, bool)> {
        walk(steps).hops().iter().map(|hop| (hop.seq.0, hop.prev.0, hop.is_late)).collect()
    }

    #[test]
    fn a_chain_links_and_so_do_those_of_two_sinks_in_one_partition() {
        assert!(hops(&[(1, 0), (4, 1), (9, 4)]).is_empty());
        assert!(hops(&[(5, 0), (1, 0), (6, 5), (2, 1), (3, 2), (9, 6)]).is_empty());
        assert!(hops(&[(5, 0), (7, 5), (5, 7), (7, 5)]).is_empty(), "an operator's seek goes back over its end");
        assert_eq!(walk(&[(4, 0), (9, 4)]).first(), Some(Seq(4)));
    }

    #[test]
    fn what_is_missing_breaks_one_hop_and_what_changed_places_is_known_by_what_comes_late() {
        assert_eq!(hops(&[(1, 0), (9, 4), (12, 9)]), [(9, 4, false)]);
        assert_eq!(hops(&[(1, 0), (9, 4), (4, 1), (12, 9)]), [(9, 4, true)]);
        let mut mended = walk(&[(1, 0), (9, 4)]);
        mended.mend(Seq(4));
        assert!(mended.hops()[0].is_mended && mended.step(Seq(12), Seq(9), 3), "a repair is no part of the chain");
    }
}
