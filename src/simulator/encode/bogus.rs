//! Elements that are no events, or not the ones that they claim to be.

use super::{Dialect, Happening};
use crate::simulator::company::User;

/// Ways of not being an event.
const WAYS: u64 = 8;

/// An element that is no event; `way` chooses how. Brackets and quotes match, so that it harms none of its
/// neighbours.
pub(in super::super) fn malformed(happening: &Happening, dialect: Dialect, users: &[User], way: u64) -> Vec<u8> {
    let mut whole = Vec::new();
    happening.write(dialect, users, &mut whole);
    let whole = String::from_utf8(whole).unwrap_or_default();
    let (id, event_type) = match dialect {
        Dialect::Reference => (r#""id":""#, r#""type":""#),
        Dialect::Live => (r#""event_id":""#, r#""event_type":""#),
    };
    let element = match way % WAYS {
        0 => r#""an element that is no object""#.to_owned(),
        1 => "null".to_owned(),
        // An id that no ledger keeps: too long, or with a NUL.
        2 => whole.replacen(id, &format!("{id}{}", "x".repeat(600)), 1),
        3 => whole.replacen(id, &format!(r"{id}\u0000"), 1),
        // No type, and one that is too long.
        4 => whole.replacen(event_type, r#""kind":""#, 1),
        5 => whole.replacen(event_type, &format!("{event_type}{}", "y".repeat(200)), 1),
        // Nothing that it is about.
        6 => whole.replacen(r#""data":{"#, r#""data":null,"lost":{"#, 1),
        // Brackets match, and still it is not JSON.
        _ => whole.replacen(id, &format!("\"n\":01,{id}"), 1),
    };
    element.into_bytes()
}

/// An element with bytes in its text that are not UTF-8.
pub(in super::super) fn bad_utf8(happening: &Happening, dialect: Dialect, users: &[User]) -> Vec<u8> {
    let mut element = Vec::new();
    happening.write(dialect, users, &mut element);
    let at = in_record(&element, dialect);
    element.splice(at..at, *b"\"broken\":\"\xff\xfe\xc3(\",");
    element
}

/// The same event with other content.
pub(in super::super) fn conflicting(element: &[u8], dialect: Dialect) -> Vec<u8> {
    let mut other = element.to_vec();
    let at = in_record(element, dialect);
    other.splice(at..at, *br#""conflicting":true,"#);
    other
}

/// Where the first member of the record begins.
fn in_record(element: &[u8], dialect: Dialect) -> usize {
    let record = br#""data":{"#;
    let data = element.windows(record.len()).position(|window| window == record).unwrap_or_default() + record.len();
    match dialect {
        Dialect::Live => data,
        Dialect::Reference => data + element[data..].iter().position(|byte| *byte == b'{').unwrap_or_default() + 1,
    }
}
