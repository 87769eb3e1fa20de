//! Keys of 32 random bytes, as `openssl rand -hex 32` and `openssl rand -base64 32` write them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Length of a key, in bytes.
pub const KEY_BYTES: usize = 32;

/// Reads a key of 32 bytes, in hex or base64; none for anything else.
#[must_use]
pub fn read_key(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let text = text.trim();
    let bytes = Zeroizing::new(if text.len() == 2 * KEY_BYTES {
        let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        (0..KEY_BYTES).map(|at| digits(2 * at).filter(|_| hex)).collect::<Option<Vec<u8>>>()?
    } else {
        STANDARD.decode(text).ok()?
    });
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if bytes.len() != KEY_BYTES {
        return None;
    }
    key.copy_from_slice(&bytes);
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_in_hex_or_base64_and_nothing_else() {
        let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
        let key: [u8; KEY_BYTES] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        assert_eq!(*read_key(hex).unwrap(), key);
        assert_eq!(*read_key(&format!(" {hex}\n")).unwrap(), key);
        assert_eq!(*read_key(&STANDARD.encode(key)).unwrap(), key);
        for wrong in
            ["", "00", &hex[2..], &format!("{hex}00"), &STANDARD.encode([1; 31]), &"+1".repeat(32), &"ä".repeat(32)]
        {
            assert!(read_key(wrong).is_none(), "{wrong}");
        }
    }
}
