//! The partition of a key, as the Java client's default partitioner chooses it. Ours and not librdkafka's, because
//! `standpipe-prev` must be known before a message is produced, and so that consumers can co-partition.

/// The partition of `key` in a topic of `partitions` (at least 1).
#[must_use]
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    let positive = i32::try_from(murmur2(key) & 0x7fff_ffff).expect("31 bits fit");
    positive % partitions.max(1)
}

/// Austin Appleby's `MurmurHash2`, with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // A key is far below 4 GiB; the hash is defined on the length's low 32 bits.
    #[expect(clippy::cast_possible_truncation, reason = "defined on the low 32 bits")]
    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("chunks of four")).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by `org.apache.kafka.common.utils.Utils` of kafka-clients 4.1.1: the hash, and
    /// `toPositive(murmur2(key)) % n` for n of 1, 3, 6, 12, 50.
    const JAVA: [(&str, i32, [i32; 5]); 10] = [
        ("", 275_646_681, [0, 0, 3, 9, 31]),
        ("a", -1_563_381_124, [0, 1, 4, 4, 24]),
        ("ab", 316_155_434, [0, 2, 2, 2, 34]),
        ("abc", 479_470_107, [0, 0, 3, 3, 7]),
        ("abcd", -1_323_649_548, [0, 2, 2, 8, 0]),
        ("acme/deal/456", 162_156_282, [0, 0, 0, 6, 32]),
        ("acme/contact/9007199254740993", -1_228_454_248, [0, 1, 4, 4, 0]),
        ("acme/activity/", -2_039_102_336, [0, 0, 0, 0, 12]),
        ("größe/☃/😀", 1_121_284_831, [0, 1, 1, 7, 31]),
        ("0123456789abcdef0123456789abcdef0123456789", 1_128_572_456, [0, 2, 2, 8, 6]),
    ];

    #[test]
    fn a_key_lands_where_the_java_client_puts_it() {
        for (key, hash, partitions) in JAVA {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key:?}");
            let ours = [1, 3, 6, 12, 50].map(|n| partition_of(key.as_bytes(), n));
            assert_eq!(ours, partitions, "{key:?}");
        }
    }
}
