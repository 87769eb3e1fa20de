use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{LedgerId, Seq};

/// The hash chain of a shard at a seq: two ledgers that agree on it agree on every event up to there.
///
/// `chain_0 = SHA-256(ledger id)`, `chain_n = SHA-256(chain_{n-1} ‖ seq ‖ len(event id) ‖ event id ‖ content hash)`,
/// the ledger id as its 16 bytes, numbers as 8 bytes big-endian (design.md section 4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chain(pub [u8; 32]);

impl Chain {
    /// The chain of an empty shard.
    #[must_use]
    pub fn start(ledger: LedgerId) -> Self {
        Self(Sha256::digest(ledger.0.as_bytes()).into())
    }

    /// The chain after one more event.
    #[must_use]
    pub fn link(&self, seq: Seq, event_id: &str, content: &ContentHash) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(seq.0.to_be_bytes());
        hash.update((event_id.len() as u64).to_be_bytes());
        hash.update(event_id);
        hash.update(content.0);
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({self})")
    }
}

impl Serialize for Chain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Chain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Chain {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = "a chain is 64 lower-case hex digits";
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(malformed);
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| malformed)?;
        }
        Ok(Self(bytes))
    }
}

/// The first 16 bytes of SHA-256 over an event's type, timestamp, record and previous as raw bytes, each with its
/// length (8 bytes, big-endian) before it; an absent `previous` counts as empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 16]);

impl ContentHash {
    /// Hashes the parts of an event that make its content.
    #[must_use]
    pub fn of(event_type: &str, timestamp: &str, record: &[u8], previous: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for part in [event_type.as_bytes(), timestamp.as_bytes(), record, previous] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(first_half(&hash.finalize().into()))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

/// What makes an event unique in the ledger: the first 16 bytes of SHA-256(account ‖ 0 ‖ event id), or of
/// SHA-256(account ‖ 0 ‖ resource ‖ 0 ‖ record id ‖ 0 ‖ sequence) where the account dedupes by sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DedupeKey(pub uuid::Uuid);

impl DedupeKey {
    /// `dedupe_by = "id"`.
    #[must_use]
    pub fn by_id(account: &str, event_id: &str) -> Self {
        Self::of(&[account, event_id])
    }

    /// `dedupe_by = "sequence"`.
    #[must_use]
    pub fn by_sequence(account: &str, resource: &str, record_id: &str, sequence: &str) -> Self {
        Self::of(&[account, resource, record_id, sequence])
    }

    fn of(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for (at, part) in parts.iter().enumerate() {
            if at > 0 {
                hash.update([0]);
            }
            hash.update(part);
        }
        Self(uuid::Uuid::from_bytes(first_half(&hash.finalize().into())))
    }
}

fn first_half(digest: &[u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}
