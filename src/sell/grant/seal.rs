//! Tokens as they stand in the ledger: under `ChaCha20-Poly1305`, with a random nonce, bound to their account.
//!
//! A sealed text is a version byte, the nonce of 12 bytes, and the cipher text with its tag. Nonces are random: a key seals
//! about 9,000 texts a year for an account, and 2^32 would be too many.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::config::{KEY_BYTES, read_key};
use crate::event::AccountName;
use crate::event::grant::{Fingerprint, KeyId, Sealed};

/// The form of what is sealed.
const VERSION: u8 = 1;

/// The tokens of a grant.
#[derive(Clone)]
pub(super) struct Tokens {
    pub refresh: SecretString,
    pub access: SecretString,
}

#[derive(Serialize, Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    refresh: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    access: std::borrow::Cow<'a, str>,
}

/// The key of an account's grant.
pub(super) struct Key {
    key: LessSafeKey,
    id: KeyId,
}

/// Why tokens cannot be sealed or read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum SealError {
    #[error("the key is not 32 bytes in hex or base64")]
    NoKey,
    #[error(
        "the ledger's tokens were encrypted under the key {sealed}, and {configured} is configured: name the former key \
         file again, or authorize the account anew"
    )]
    OtherKey { sealed: KeyId, configured: KeyId },
    #[error("the ledger's tokens are of a newer form ({0}): run a newer standpipe")]
    Newer(u8),
    #[error("the ledger's tokens are damaged, or another account's: authorize the account anew")]
    Damaged,
    #[error("the machine gives no random bytes")]
    NoRandomness,
}

impl Key {
    /// Of the text of a key file.
    pub fn read(text: &SecretString) -> Result<Self, SealError> {
        let bytes = read_key(text.expose_secret()).ok_or(SealError::NoKey)?;
        let id = hash::<8>(b"standpipe key id", &[&bytes[..KEY_BYTES]]);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes[..]).map_err(|_| SealError::NoKey)?;
        Ok(Self { key: LessSafeKey::new(key), id: KeyId(id) })
    }

    /// Seals the tokens of an account.
    pub fn seal(&self, account: &AccountName, tokens: &Tokens) -> Result<Sealed, SealError> {
        let written =
            Written { refresh: tokens.refresh.expose_secret().into(), access: tokens.access.expose_secret().into() };
        let clear = Zeroizing::new(serde_json::to_vec(&written).map_err(|_| SealError::Damaged)?);
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let mut bytes = Vec::with_capacity(1 + NONCE_LEN + clear.len() + CHACHA20_POLY1305.tag_len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&nonce);
        // Encrypted where it lies, so that no copy of the clear text is left.
        bytes.extend_from_slice(&clear);
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                bound_to(account),
                &mut bytes[1 + NONCE_LEN..],
            )
            .map_err(|_| SealError::Damaged)?;
        bytes.extend_from_slice(tag.as_ref());
        Ok(Sealed { key: self.id, bytes: bytes.into() })
    }

    /// Reads what was sealed.
    pub fn open(&self, account: &AccountName, sealed: &Sealed) -> Result<Tokens, SealError> {
        if sealed.key != self.id {
            return Err(SealError::OtherKey { sealed: sealed.key, configured: self.id });
        }
        let (version, rest) = sealed.bytes.split_first().ok_or(SealError::Damaged)?;
        if *version != VERSION {
            return Err(SealError::Newer(*version));
        }
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Damaged)?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let clear = self.key.open_in_place(nonce, bound_to(account), &mut text).map_err(|_| SealError::Damaged)?;
        let written: Written<'_> = serde_json::from_slice(clear).map_err(|_| SealError::Damaged)?;
        Ok(Tokens {
            refresh: SecretString::from(written.refresh.into_owned()),
            access: SecretString::from(written.access.into_owned()),
        })
    }
}

/// Which refresh token it is, without telling it: a part of a hash, from which a random token cannot be found.
pub(super) fn fingerprint(account: &AccountName, token: &SecretString) -> Fingerprint {
    Fingerprint(hash(b"standpipe refresh token", &[account.as_str().as_bytes(), token.expose_secret().as_bytes()]))
}

/// A grant is good for its own account alone: its row cannot be put in the place of another's.
fn bound_to(account: &AccountName) -> Aad<Vec<u8>> {
    let mut text = b"standpipe grant ".to_vec();
    text.push(VERSION);
    text.extend_from_slice(account.as_str().as_bytes());
    Aad::from(text)
}

/// The first bytes of SHA-256 over parts, each ended by a zero that no part holds before the last.
fn hash<const N: usize>(of: &[u8], parts: &[&[u8]]) -> [u8; N] {
    let mut hash = Sha256::new();
    hash.update(of);
    for part in parts {
        hash.update([0]);
        hash.update(part);
    }
    let whole = hash.finalize();
    std::array::from_fn(|at| whole[at])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> Key {
        let text = format!("{byte:02x}").repeat(32);
        Key::read(&SecretString::from(text)).unwrap()
    }

    fn tokens(refresh: &str, access: &str) -> Tokens {
        Tokens { refresh: refresh.into(), access: access.into() }
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_read_again_by_its_key_for_its_account_and_by_nobody_else(
            refresh in "\\PC{1,80}", access in "\\PC{1,80}", flip in any::<proptest::sample::Index>(), bit in 0..8_u8,
        ) {
            let (acme, tokens) = (AccountName::from("acme"), tokens(&refresh, &access));
            let sealed = key(1).seal(&acme, &tokens).unwrap();
            let opened = key(1).open(&acme, &sealed).unwrap();
            prop_assert_eq!(opened.refresh.expose_secret(), &refresh);
            prop_assert_eq!(opened.access.expose_secret(), &access);
            prop_assert_eq!(key(1).open(&"acme2".into(), &sealed).err(), Some(SealError::Damaged));
            let other = key(2).open(&acme, &sealed).err();
            let is_other = matches!(other, Some(SealError::OtherKey { .. }));
            prop_assert!(is_other);
            // Every bit counts: version, nonce, text and tag.
            let mut bytes = sealed.bytes.clone();
            bytes[flip.index(sealed.bytes.len())] ^= 1 << bit;
            let opens = |key_id, bytes| key(1).open(&acme, &Sealed { key: key_id, bytes }).is_ok();
            prop_assert!(!opens(sealed.key, bytes));
            prop_assert!(!opens(key(2).id, sealed.bytes.clone()));
            let short = flip.index(sealed.bytes.len());
            prop_assert!(!opens(sealed.key, sealed.bytes[..short].into()));
        }
    }

    #[test]
    fn nothing_of_the_tokens_shows_and_no_sealing_is_like_another() {
        let (acme, tokens) = (AccountName::from("acme"), tokens("refresh-token", "access-token"));
        let (one, two) = (key(1).seal(&acme, &tokens).unwrap(), key(1).seal(&acme, &tokens).unwrap());
        assert_ne!(one, two);
        for secret in ["refresh", "access", "token"] {
            assert!(!one.bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
        }
        // INV-16
        assert!(!format!("{one:?}").contains("token"));
    }

    #[test]
    fn a_fingerprint_tells_tokens_and_accounts_apart() {
        let of = |account: &str, token: &str| fingerprint(&account.into(), &SecretString::from(token));
        assert_eq!(of("acme", "a"), of("acme", "a"));
        assert_ne!(of("acme", "a"), of("acme", "b"));
        assert_ne!(of("acme", "a"), of("acm", "ea"));
    }

    #[test]
    fn a_newer_form_says_so() {
        let acme = AccountName::from("acme");
        let mut sealed = key(1).seal(&acme, &tokens("r", "a")).unwrap();
        sealed.bytes[0] = 2;
        assert_eq!(key(1).open(&acme, &sealed).err(), Some(SealError::Newer(2)));
    }
}
