use crate::event::Seq;

/// A set of seqs within a range, one bit each: what a topic of millions of messages holds fits in a few megabytes.
#[derive(Clone, Debug, Default)]
pub struct SeqSet {
    from: Seq,
    bits: Vec<u64>,
}

impl SeqSet {
    /// An empty set that can hold `from ..= to`; what lies outside is never in it.
    #[must_use]
    pub fn new(from: Seq, to: Seq) -> Self {
        let count = (to.0 + 1).saturating_sub(from.0);
        Self { from, bits: vec![0; usize::try_from(count.div_ceil(64)).unwrap_or(0)] }
    }

    fn place(&self, seq: Seq) -> Option<(usize, u64)> {
        let at = seq.0.checked_sub(self.from.0)?;
        let word = usize::try_from(at / 64).ok().filter(|word| *word < self.bits.len())?;
        Some((word, 1 << (at % 64)))
    }

    /// Takes a seq in; whether it was not there before.
    pub fn insert(&mut self, seq: Seq) -> bool {
        let Some((word, bit)) = self.place(seq) else { return false };
        let is_new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        is_new
    }

    /// Whether it is in.
    #[must_use]
    pub fn contains(&self, seq: Seq) -> bool {
        self.place(seq).is_some_and(|(word, bit)| self.bits[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_lies_in_its_range_once() {
        let mut set = SeqSet::new(Seq(10), Seq(75));
        for seq in [10, 63, 64, 73, 75] {
            assert!(set.insert(Seq(seq)) && set.contains(Seq(seq)));
        }
        assert!(!set.insert(Seq(10)), "a second time");
        assert!(!set.insert(Seq(9)) && !set.contains(Seq(9)), "below the range");
        assert!(!set.insert(Seq(1_000)), "far above the range");
        assert!((11..63).all(|seq| !set.contains(Seq(seq))));
        assert!(!SeqSet::new(Seq(5), Seq(4)).insert(Seq(5)), "an empty range");
    }
}
