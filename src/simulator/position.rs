//! Positions: opaque to everyone else, and full of the characters that a careless client breaks (`+`, `/`, `=`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// In base64 `+/+/`.
const MARK: [u8; 3] = [0xfb, 0xff, 0xbf];
const PAYLOAD: usize = 30;

/// A place in the history, as a reader of one stream holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Which streams it is good for: 0 for the reference dialect's, the stream's own number for the live ones.
    pub stream: u32,
    /// The index of the next entry.
    pub index: u64,
    /// Where this reader came in: what lies before, it has not seen.
    pub origin: u64,
    /// The time up to which the reader has everything, in milliseconds since 1970: what its age is counted from.
    pub time: i64,
    /// Makes a position of one that moved without an event.
    pub step: u16,
}

impl Position {
    pub fn encode(&self, seed: u64) -> String {
        let mut payload = [0; PAYLOAD];
        payload[..4].copy_from_slice(&self.stream.to_be_bytes());
        payload[4..12].copy_from_slice(&self.index.to_be_bytes());
        payload[12..20].copy_from_slice(&self.origin.to_be_bytes());
        payload[20..28].copy_from_slice(&self.time.to_be_bytes());
        payload[28..].copy_from_slice(&self.step.to_be_bytes());
        let check = checksum(&payload);
        let mut bytes = MARK.to_vec();
        bytes.extend(payload.iter().zip(mask(seed)).map(|(byte, mask)| byte ^ mask));
        bytes.push(check);
        STANDARD.encode(bytes)
    }

    /// None where this simulator, or one of the same seed, never gave it.
    pub fn decode(text: &str, seed: u64) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        let (&check, rest) = bytes.strip_prefix(&MARK)?.split_last()?;
        let mut payload: [u8; PAYLOAD] = rest.try_into().ok()?;
        for (byte, mask) in payload.iter_mut().zip(mask(seed)) {
            *byte ^= mask;
        }
        let eight = |from: usize| payload[from..from + 8].try_into().ok();
        (checksum(&payload) == check).then_some(Self {
            stream: u32::from_be_bytes(payload[..4].try_into().ok()?),
            index: u64::from_be_bytes(eight(4)?),
            origin: u64::from_be_bytes(eight(12)?),
            time: i64::from_be_bytes(eight(20)?),
            step: u16::from_be_bytes(payload[28..].try_into().ok()?),
        })
    }
}

fn checksum(payload: &[u8]) -> u8 {
    payload.iter().fold(0x5a, |sum: u8, byte| sum.rotate_left(3) ^ byte)
}

/// The numbers of a `SplitMix64` generator, as bytes.
fn mask(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
    .flat_map(u64::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_holds_what_it_says_and_every_character_that_must_be_escaped() {
        let position = Position { stream: 3, index: 41, origin: 7, time: 1_790_000_000_123, step: 2 };
        let text = position.encode(9);
        assert!(text.contains('+') && text.contains('/') && text.ends_with('='), "{text}");
        assert_eq!(Position::decode(&text, 9), Some(position));
        assert_eq!(Position::decode(&text, 10), None, "of another seed");
        assert_eq!(Position::decode(&text.replace('+', " "), 9), None, "a plus that became a space");
        assert_eq!(Position::decode("tail", 9), None);
    }
}
