/// Bytes as a list of choices. At its end every choice is the first one, so that each input is a finite one.
pub struct Recipe<'i> {
    bytes: &'i [u8],
}

impl<'i> Recipe<'i> {
    pub const fn new(bytes: &'i [u8]) -> Self {
        Self { bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Less than `most`, which is at most 256.
    pub fn below(&mut self, most: usize) -> usize {
        usize::from(self.byte()) % most
    }

    pub fn pick<'t, T: ?Sized>(&mut self, of: &'t [&'t T]) -> &'t T {
        of[self.below(of.len())]
    }

    /// So many of the bytes as they are, or as many as there are left.
    pub fn raw(&mut self, most: usize) -> &'i [u8] {
        let (taken, rest) = self.bytes.split_at(most.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    pub fn rest(&mut self) -> &'i [u8] {
        self.raw(usize::MAX)
    }
}

/// A long input that follows from a short one.
pub fn stretched(input: &[u8]) -> Vec<u8> {
    let seed = input.iter().fold(input.len() as u64, |seed, byte| mixed(seed ^ u64::from(*byte)));
    (0..128).flat_map(|at| mixed(seed.wrapping_add(at)).to_le_bytes()).collect()
}

/// One step of splitmix64.
const fn mixed(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
