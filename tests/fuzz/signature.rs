//! Signatures and webhook ids (INV-13), beside the specification's own formula and over headers that anybody sends.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use standpipe::sink::webhook::{Keys, Verifying, id_of};

use crate::fuzz;
use crate::recipe::Recipe;

/// What Standard Webhooks 1.0.0 says a `v1` signature is.
fn by_the_book(key: &[u8], id: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(&[id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

fn key_texts(recipe: &mut Recipe<'_>) {
    let length = recipe.below(80);
    let bytes = recipe.raw(length);
    let prefix = recipe.pick(&["whsec_", "whsk_", "whpk_", "WHSEC_", ""]);
    let text = if recipe.flag() {
        format!("{prefix}{}", STANDARD.encode(bytes))
    } else {
        format!("{prefix}{}", String::from_utf8_lossy(bytes))
    };
    let secret = SecretString::from(text.clone());
    // What chance makes may spell a prefix of its own.
    let length =
        |prefix: &str| text.trim().strip_prefix(prefix).and_then(|text| Some(STANDARD.decode(text).ok()?.len()));
    let told = [Keys::new(std::slice::from_ref(&secret), None), Keys::new(&[], Some(&secret))];
    assert_eq!(told[0].is_ok(), length("whsec_").is_some_and(|length| (24..=64).contains(&length)), "{text}");
    assert!(told[1].is_err() || matches!(length("whsk_"), Some(32 | 64)), "{text}");
    // What is said of a key that cannot be used is the same for every other one (INV-16).
    let other = SecretString::from("another");
    let of_another = [Keys::new(std::slice::from_ref(&other), None), Keys::new(&[], Some(&other))];
    for (error, of_another) in told.into_iter().zip(of_another) {
        if let (Err(error), Err(of_another)) = (error, of_another) {
            assert_eq!(error.to_string(), of_another.to_string());
        }
    }
    drop(Verifying::public(&text));
}

fn ids(recipe: &mut Recipe<'_>) {
    let length = recipe.below(256);
    let event_id = String::from_utf8_lossy(recipe.raw(length)).into_owned();
    let id = id_of("acme", &event_id);
    assert!(id.len() <= 200 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{id}");
    let spelled = id.strip_prefix("evt_acme_").expect("whose it is");
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    let length: usize = event_id.bytes().map(|byte| if plain(&byte) { 1 } else { 3 }).sum();
    if "evt_acme_".len() + length > 200 {
        assert_eq!(spelled, format!("x_{}", hex(&Sha256::digest(&event_id))));
        return;
    }
    // Read back, it is the event's id: no two events share one.
    let (mut bytes, mut letters) = (Vec::new(), spelled.bytes());
    while let Some(letter) = letters.next() {
        bytes.push(if letter == b'_' {
            let digits = [letters.next().unwrap(), letters.next().unwrap()];
            u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
        } else {
            letter
        });
    }
    assert_eq!(bytes, event_id.as_bytes());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn property(input: &[u8]) {
    let mut recipe = Recipe::new(input);
    match recipe.below(4) {
        0 => return key_texts(&mut recipe),
        1 => return ids(&mut recipe),
        _ => {}
    }
    let keys: Vec<Vec<u8>> = (0..=recipe.below(2)).map(|_| recipe.array::<24>().to_vec()).collect();
    let seed = (recipe.below(16) == 1).then(|| recipe.array::<32>());
    let secrets: Vec<SecretString> = keys.iter().map(|key| format!("whsec_{}", STANDARD.encode(key)).into()).collect();
    let signing = seed.map(|seed| SecretString::from(format!("whsk_{}", STANDARD.encode(seed))));
    let signer = Keys::new(&secrets, signing.as_ref()).unwrap();
    let id = id_of("acme", &String::from_utf8_lossy(recipe.raw(8)));
    let timestamp = u32::from_be_bytes(recipe.array()).to_string();
    let (flip, header_length) = (recipe.array::<2>(), recipe.below(64));
    let header = String::from_utf8_lossy(recipe.raw(header_length)).into_owned();
    let body = recipe.rest();

    let value = signer.sign(&id, &timestamp, body);
    let mut signatures = value.split(' ');
    for key in &keys {
        assert_eq!(signatures.next(), Some(&*by_the_book(key, &id, &timestamp, body)));
    }
    assert_eq!(signatures.next().is_some_and(|signature| signature.starts_with("v1a,")), seed.is_some());
    assert!(signatures.next().is_none());

    let mut receivers: Vec<Verifying> = secrets
        .iter()
        .map(|secret| Verifying::Keys(Box::new(Keys::new(std::slice::from_ref(secret), None).unwrap())))
        .collect();
    receivers.extend(signer.public_key().map(|key| Verifying::public(&key).unwrap()));
    let other = flipped(body, flip);
    for receiver in &receivers {
        assert!(receiver.verify(&id, &timestamp, body, &value));
        assert!(receiver.verify(&id, &timestamp, body, &format!("v1,AAAA  {value} v2,x")), "beside others");
        assert!(!receiver.verify(&id, &timestamp, &other, &value), "another body");
        assert!(!receiver.verify(&id, &format!("{timestamp}0"), body, &value), "another time");
        assert!(!receiver.verify(&format!("{id}0"), &timestamp, body, &value), "another id");
        // Nothing that somebody makes up passes, but what was signed.
        let known = header.split_ascii_whitespace().any(|word| value.split(' ').any(|signature| signature == word));
        assert!(known || !receiver.verify(&id, &timestamp, body, &header), "{header}");
        let cut = &value[..value.len() - 1 - usize::from(flip[0]) % 8];
        assert!(receivers.len() > 1 || !receiver.verify(&id, &timestamp, body, cut), "a signature cut short");
    }
}

/// The body with one bit changed, or one byte more.
fn flipped(body: &[u8], [place, bit]: [u8; 2]) -> Vec<u8> {
    let mut other = body.to_vec();
    match other.len() {
        0 => other.push(bit),
        length => other[usize::from(place) % length] ^= 1 << (bit % 8),
    }
    other
}

#[test]
fn what_is_signed_verifies_and_nothing_else_does() {
    fuzz!("signature", property);
}
