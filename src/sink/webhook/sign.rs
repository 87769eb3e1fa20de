//! Standard Webhooks 1.0.0: ids, keys, signatures.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, BytesMut};
use ed25519_dalek::{Signature, Signer as _, SigningKey, Verifier as _, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::event::Recorded;
use crate::mutant::{Mutant, planted};

/// How far a `webhook-timestamp` may lie from now, in seconds, for a receiver (the specification's recommendation).
pub const TOLERANCE_SECONDS: i64 = 300;
/// A longer id is replaced by a hash of it: receivers keep ids in indexed columns.
const MAX_ID_BYTES: usize = 200;

/// A key that cannot be used. Says nothing of the key itself (INV-16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a `whsec_` secret.
    #[error("not a Standard Webhooks secret: `whsec_` followed by base64 of 24 to 64 bytes")]
    Secret,
    /// Not a `whsk_` key.
    #[error("not an ed25519 signing key: `whsk_` followed by base64 of 32 or 64 bytes")]
    SigningKey,
    /// Not a `whpk_` key.
    #[error("not an ed25519 public key: `whpk_` followed by base64 of 32 bytes")]
    PublicKey,
    /// Neither a secret nor a key was given.
    #[error("no secret and no signing key: nothing could be signed")]
    Nothing,
}

/// The `webhook-id` of an event: a pure function of it, the same at every attempt, restart, restore and replay (INV-13).
#[must_use]
pub fn webhook_id(event: &Recorded) -> String {
    if planted(Mutant::RandomWebhookId) {
        return format!("evt_{}", uuid::Uuid::new_v4());
    }
    id_of(event.account.as_str(), &event.id)
}

/// `evt_<account>_` and the event id with each byte outside `[A-Za-z0-9-]` as `_` and two lower-case hex digits; over
/// 200 bytes `evt_<account>_x_<SHA-256 of the event id, hex>`.
#[must_use]
pub fn id_of(account: &str, event_id: &str) -> String {
    let mut id = String::with_capacity(5 + account.len() + event_id.len() + 16);
    id.push_str("evt_");
    id.push_str(account);
    id.push('_');
    let prefix = id.len();
    for byte in event_id.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            id.push(char::from(byte));
        } else {
            id.push('_');
            push_hex(&mut id, byte);
        }
        if id.len() > MAX_ID_BYTES {
            id.truncate(prefix);
            id.push_str("x_");
            Sha256::digest(event_id).iter().for_each(|byte| push_hex(&mut id, *byte));
            break;
        }
    }
    id
}

fn push_hex(text: &mut String, byte: u8) {
    text.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
}

/// The keys of an endpoint, prepared: the HMAC's first block is computed once for each secret, not for each event.
#[derive(Clone)]
pub struct Keys {
    shared: Vec<Hmac<Sha256>>,
    signing: Option<SigningKey>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Keys({} secrets, {})",
            self.shared.len(),
            if self.signing.is_some() { "ed25519" } else { "no ed25519" }
        )
    }
}

impl Keys {
    /// From `whsec_…` secrets and maybe a `whsk_…` key, as they stand in the configuration.
    pub fn new(secrets: &[SecretString], signing_key: Option<&SecretString>) -> Result<Self, KeyError> {
        let shared = secrets.iter().map(shared_key).collect::<Result<Vec<_>, _>>()?;
        let signing = signing_key.map(parse_signing_key).transpose()?;
        if shared.is_empty() && signing.is_none() {
            return Err(KeyError::Nothing);
        }
        Ok(Self { shared, signing })
    }

    /// The value of `webhook-signature` over `id.timestamp.body`: a `v1,` for each secret, the first first, then `v1a,`.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let mut value = BytesMut::new();
        self.sign_into(id, timestamp, body, &mut value);
        String::from_utf8_lossy(&value).into_owned()
    }

    /// The same, into a buffer that is empty.
    pub fn sign_into(&self, id: &str, timestamp: &str, body: &[u8], value: &mut BytesMut) {
        for key in &self.shared {
            let mut mac = key.clone();
            feed(&mut mac, id, timestamp, body);
            put(value, "v1,", &mac.finalize().into_bytes());
        }
        if let Some(key) = &self.signing {
            put(value, "v1a,", &key.sign(&signed_bytes(id, timestamp, body)).to_bytes());
        }
    }

    /// The public key (`whpk_…`) that receivers check `v1a` signatures with.
    #[must_use]
    pub fn public_key(&self) -> Option<String> {
        self.signing.as_ref().map(|key| format!("whpk_{}", STANDARD.encode(key.verifying_key().as_bytes())))
    }
}

/// One more signature, in base64.
fn put(value: &mut BytesMut, version: &str, signature: &[u8]) {
    if !value.is_empty() {
        value.put_u8(b' ');
    }
    value.put_slice(version.as_bytes());
    let mut text = [0; 88];
    let length = STANDARD.encode_slice(signature, &mut text).expect("a signature has 64 bytes at most");
    value.put_slice(&text[..length]);
}

/// What a receiver knows: checks signatures in constant time.
#[derive(Clone, Debug)]
pub enum Verifying {
    /// Any of an endpoint's own keys will do.
    Keys(Box<Keys>),
    /// A `whpk_…` key.
    Public(Box<VerifyingKey>),
}

impl Verifying {
    /// From a `whpk_…` key.
    pub fn public(text: &str) -> Result<Self, KeyError> {
        let bytes = text.trim().strip_prefix("whpk_").and_then(|text| STANDARD.decode(text).ok());
        let bytes: [u8; 32] = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(KeyError::PublicKey)?;
        VerifyingKey::from_bytes(&bytes).map(|key| Self::Public(Box::new(key))).map_err(|_| KeyError::PublicKey)
    }

    /// Whether any of the signatures in `webhook-signature` is right.
    #[must_use]
    pub fn verify(&self, id: &str, timestamp: &str, body: &[u8], signatures: &str) -> bool {
        signatures.split_ascii_whitespace().filter_map(|signature| signature.split_once(',')).any(
            |(version, signature)| {
                let Ok(signature) = STANDARD.decode(signature) else { return false };
                match self {
                    Self::Keys(keys) => match version {
                        "v1" => keys.shared.iter().any(|key| {
                            let mut mac = key.clone();
                            feed(&mut mac, id, timestamp, body);
                            mac.verify_slice(&signature).is_ok()
                        }),
                        "v1a" => keys.signing.as_ref().is_some_and(|key| {
                            checks(&key.verifying_key(), &signature, &signed_bytes(id, timestamp, body))
                        }),
                        _ => false,
                    },
                    Self::Public(key) => {
                        version == "v1a" && checks(key, &signature, &signed_bytes(id, timestamp, body))
                    }
                }
            },
        )
    }
}

fn checks(key: &VerifyingKey, signature: &[u8], signed: &[u8]) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| key.verify(signed, &signature).is_ok())
}

fn feed(mac: &mut Hmac<Sha256>, id: &str, timestamp: &str, body: &[u8]) {
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
}

/// ed25519 reads its message twice, so that it must be one piece.
fn signed_bytes(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

fn decoded(text: &SecretString, prefix: &str) -> Option<Zeroizing<Vec<u8>>> {
    STANDARD.decode(text.expose_secret().trim().strip_prefix(prefix)?).ok().map(Zeroizing::new)
}

fn shared_key(text: &SecretString) -> Result<Hmac<Sha256>, KeyError> {
    let bytes = decoded(text, "whsec_").filter(|bytes| (24..=64).contains(&bytes.len())).ok_or(KeyError::Secret)?;
    Hmac::new_from_slice(&bytes).map_err(|_| KeyError::Secret)
}

/// 32 bytes are the seed; 64 are the seed and the public key, which must belong together.
fn parse_signing_key(text: &SecretString) -> Result<SigningKey, KeyError> {
    let bytes = decoded(text, "whsk_").ok_or(KeyError::SigningKey)?;
    if let Ok(seed) = <&[u8; 32]>::try_from(bytes.as_slice()) {
        return Ok(SigningKey::from_bytes(seed));
    }
    let pair = <&[u8; 64]>::try_from(bytes.as_slice()).map_err(|_| KeyError::SigningKey)?;
    SigningKey::from_keypair_bytes(pair).map_err(|_| KeyError::SigningKey)
}

/// A new `whsec_…` secret of 32 random bytes.
#[must_use]
pub fn new_secret() -> SecretString {
    let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
    SecretString::from(format!("whsec_{}", STANDARD.encode(*bytes)))
}

/// A new `whsk_…` key, and the `whpk_…` that belongs to it.
#[must_use]
pub fn new_signing_key() -> (SecretString, String) {
    let seed = Zeroizing::new(rand::random::<[u8; 32]>());
    let key = SigningKey::from_bytes(&seed);
    let public = format!("whpk_{}", STANDARD.encode(key.verifying_key().as_bytes()));
    (SecretString::from(format!("whsk_{}", STANDARD.encode(*seed))), public)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn keys(secrets: &[&str], signing: Option<&str>) -> Result<Keys, KeyError> {
        let secrets: Vec<SecretString> = secrets.iter().map(|text| SecretString::from(*text)).collect();
        Keys::new(&secrets, signing.map(SecretString::from).as_ref())
    }

    #[test]
    fn the_specifications_known_answer() {
        let keys = keys(&[SECRET], None).unwrap();
        assert_eq!(keys.sign(ID, "1614265330", BODY), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_secret_signs_the_first_first_and_each_verifies() {
        let (other, signing) = (new_secret(), new_signing_key());
        let both = keys(&[SECRET, other.expose_secret()], Some(signing.0.expose_secret())).unwrap();
        let value = both.sign(ID, "1614265330", BODY);
        let versions: Vec<&str> =
            value.split(' ').filter_map(|s| s.split_once(',')).map(|(version, _)| version).collect();
        assert_eq!(versions, ["v1", "v1", "v1a"]);
        assert!(value.starts_with("v1,g0hM9SsE"));
        let receivers = [
            Verifying::Keys(Box::new(keys(&[SECRET], None).unwrap())),
            Verifying::Keys(Box::new(keys(&[other.expose_secret()], None).unwrap())),
            Verifying::public(&signing.1).unwrap(),
        ];
        for receiver in &receivers {
            assert!(receiver.verify(ID, "1614265330", BODY, &value));
            assert!(!receiver.verify(ID, "1614265331", BODY, &value));
            assert!(!receiver.verify("msg_2", "1614265330", BODY, &value));
            assert!(!receiver.verify(ID, "1614265330", b"{}", &value));
            assert!(!receiver.verify(ID, "1614265330", BODY, "v1,AAAA v1a,AAAA v2,x junk"));
        }
        assert_eq!(both.public_key().unwrap(), signing.1);
    }

    /// RFC 8032 section 7.1, test 2: seed, public key, and the signature of the one byte 0x72.
    #[test]
    fn ed25519_known_answer_and_both_spellings_of_a_key() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let seed = hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let public = hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let short = format!("whsk_{}", STANDARD.encode(&seed));
        let long = format!("whsk_{}", STANDARD.encode([seed.clone(), public.clone()].concat()));
        for text in [&short, &long] {
            let key = parse_signing_key(&SecretString::from(text.as_str())).unwrap();
            let signature = hex(
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            );
            assert_eq!(key.sign(b"\x72").to_bytes().to_vec(), signature);
        }
        let torn = format!("whsk_{}", STANDARD.encode([seed, vec![7; 32]].concat()));
        assert_eq!(keys(&[], Some(&torn)).unwrap_err(), KeyError::SigningKey);
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_being_shown() {
        for wrong in ["", "whsec_", "whsec_AAAA", "whsec_!!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            let error = keys(&[wrong], None).unwrap_err();
            assert_eq!(error, KeyError::Secret);
            assert!(wrong.len() < 8 || !error.to_string().contains(wrong));
        }
        assert_eq!(keys(&[], None).unwrap_err(), KeyError::Nothing);
        assert_eq!(format!("{:?}", keys(&[SECRET], None).unwrap()), "Keys(1 secrets, no ed25519)");
    }

    /// INV-13: a function of account and event id alone, safe in a header, and different for different ids.
    #[test]
    fn an_id_is_spelled_as_the_contract_says() {
        assert_eq!(id_of("acme", "0b6aB-1"), "evt_acme_0b6aB-1");
        assert_eq!(id_of("acme", "a_b.c/ä"), "evt_acme_a_5fb_2ec_2f_c3_a4");
        let longest = "a".repeat(MAX_ID_BYTES - "evt_acme_".len());
        assert_eq!(id_of("acme", &longest), format!("evt_acme_{longest}"));
        let too_long = format!("{longest}a");
        let hashed = id_of("acme", &too_long);
        assert_eq!(hashed, format!("evt_acme_x_{:x}", HexOf(&Sha256::digest(&too_long))));
        assert_ne!(id_of("acme", "a_5f"), id_of("acme", "a_"));
        assert_eq!(id_of("acme", ""), "evt_acme_");
    }

    struct HexOf<'a>(&'a [u8]);

    impl fmt::LowerHex for HexOf<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        }
    }
}
