//! The bytes that the bench feeds: pages of the reference dialect, the same in every run.
//!
//! An element has about 330 bytes, so that 3,300 a second are the vendor's 1 MB/s for one stream. Its number stands in
//! its id; everything else about it follows from that number.

/// Digits of an event's number in its id.
const DIGITS: usize = 13;
/// What every canonical event and every element begins with, up to the number.
const START: &[u8] = b"{\"id\":\"evt-";
/// Records that the events are spread over.
const RECORDS: u64 = 100_000;
/// Contacts that they belong to: of a page each event has another one.
pub const CONTACTS: u64 = 1_000;

const ELEMENT: &str = concat!(
    r#"{"id":"evt-0000000000000","type":"deal.updated","timestamp":"2026-01-05T10:30:00.123Z","data":{"deal":{"#,
    r#""id":1000000,"name":"Enterprise renewal","value":50000.00,"currency":"EUR","stage":"Negotiation","#,
    r#""token":"0000000000000000","contact_id":1000}},"previous":{"value":40000.00},"#,
    r#""meta":{"stream":"deals","sequence":1000000000,"cause":"interaction"}}"#
);

/// Where an element's digits stand.
#[derive(Clone, Copy, Debug)]
struct Places {
    record: usize,
    token: usize,
    contact: usize,
    sequence: usize,
}

/// Writes pages.
#[derive(Clone, Copy, Debug)]
pub struct Pages(Places);

impl Pages {
    pub fn new() -> Self {
        let after = |mark: &str| ELEMENT.find(mark).expect("part of the element") + mark.len();
        Self(Places {
            record: after(r#""deal":{"id":"#),
            token: after(r#""token":""#),
            contact: after(r#""contact_id":"#),
            sequence: after(r#""sequence":"#),
        })
    }

    /// Bytes of one element.
    pub const fn element() -> usize {
        ELEMENT.len()
    }

    /// Appends the page of these events to `into`.
    pub fn write(self, numbers: impl Iterator<Item = u64>, position: u64, top: bool, into: &mut Vec<u8>) {
        into.extend_from_slice(b"{\"items\":[");
        for (at, number) in numbers.enumerate() {
            if at > 0 {
                into.push(b',');
            }
            let start = into.len();
            into.extend_from_slice(ELEMENT.as_bytes());
            let element = &mut into[start..];
            digits(number, &mut element[START.len()..START.len() + DIGITS]);
            digits(1_000_000 + number % RECORDS, &mut element[self.0.record..self.0.record + 7]);
            digits(1_000 + number % CONTACTS, &mut element[self.0.contact..self.0.contact + 4]);
            hex(scatter(number), &mut element[self.0.token..self.0.token + 16]);
            digits(1_000_000_000 + number, &mut element[self.0.sequence..self.0.sequence + 10]);
        }
        into.extend_from_slice(format!("],\"meta\":{{\"position\":\"{position:013}\",\"top\":{top}}}}}").as_bytes());
    }
}

/// The number of an event, read from its body; none for what is none of ours.
pub fn number_of(body: &[u8]) -> Option<u64> {
    let digits = body.strip_prefix(START)?.get(..DIGITS)?;
    digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

fn digits(mut number: u64, into: &mut [u8]) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("one digit");
        number /= 10;
    }
}

fn hex(mut number: u64, into: &mut [u8]) {
    for digit in into.iter_mut().rev() {
        *digit = b"0123456789abcdef"[usize::try_from(number & 15).expect("four bits")];
        number >>= 4;
    }
}

/// `SplitMix64`: bytes that do not compress, the same every time.
const fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
