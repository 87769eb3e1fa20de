//! The lazily decoded body of an event. Nothing is parsed before a rule asks for it, and then only the member that it
//! asks for; the delivered bytes are never touched.
//!
//! Numbers: integers that fit 64 bits stay exact (above `i64::MAX` they are CEL's `uint`), larger ones and fractions
//! become doubles, beyond a double's range its largest value. Lone surrogates become U+FFFD. Nesting deeper than 128
//! is refused, and with it the evaluation.

use std::borrow::Cow;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::shape::Variable;

/// Where the members of a canonical event lie in its body.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Members<'e> {
    #[serde(borrow)]
    timestamp: Option<&'e RawValue>,
    #[serde(borrow)]
    data: Option<&'e RawValue>,
    #[serde(borrow)]
    previous: Option<&'e RawValue>,
    #[serde(borrow)]
    meta: Option<&'e RawValue>,
    #[serde(borrow)]
    enrichment: Option<&'e RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Meta<'e> {
    #[serde(borrow)]
    stream: Option<&'e RawValue>,
    #[serde(borrow)]
    sequence: Option<&'e RawValue>,
    #[serde(borrow)]
    cause: Option<&'e RawValue>,
}

/// A body and what has been found in it so far.
#[derive(Debug)]
pub(super) struct Body<'e> {
    bytes: &'e [u8],
    members: OnceLock<Result<Members<'e>, String>>,
    meta: OnceLock<Result<Meta<'e>, String>>,
}

/// A part of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Timestamp,
    Data,
    Previous,
    Meta,
    Stream,
    Sequence,
    Cause,
    Enrichment,
}

impl Part {
    pub(super) const COUNT: usize = 8;

    /// The part that holds a variable which the ledger's row does not have.
    pub(super) const fn of(variable: Variable) -> Self {
        match variable {
            Variable::Timestamp => Self::Timestamp,
            Variable::Stream => Self::Stream,
            Variable::Sequence => Self::Sequence,
            Variable::Cause => Self::Cause,
            Variable::Previous => Self::Previous,
            Variable::Meta => Self::Meta,
            Variable::Enrichment => Self::Enrichment,
            Variable::Data
            | Variable::Id
            | Variable::Type
            | Variable::Account
            | Variable::Resource
            | Variable::Action
            | Variable::RecordId => Self::Data,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Timestamp => "timestamp",
            Self::Data => "data",
            Self::Previous => "previous",
            Self::Meta => "meta",
            Self::Stream => "meta.stream",
            Self::Sequence => "meta.sequence",
            Self::Cause => "meta.cause",
            Self::Enrichment => "enrichment",
        }
    }

    pub(super) const fn is_object(self) -> bool {
        matches!(self, Self::Data | Self::Previous | Self::Meta | Self::Enrichment)
    }
}

impl<'e> Body<'e> {
    pub(super) const fn new(bytes: &'e [u8]) -> Self {
        Self { bytes, members: OnceLock::new(), meta: OnceLock::new() }
    }

    /// The JSON text of a part; none where the event does not have it.
    pub(super) fn json(&self, part: Part) -> Result<Option<&'e str>, String> {
        let found = match part {
            Part::Timestamp => self.members()?.timestamp,
            Part::Data => self.members()?.data,
            Part::Previous => self.members()?.previous,
            Part::Meta => self.members()?.meta,
            Part::Stream => self.meta()?.stream,
            Part::Sequence => self.meta()?.sequence,
            Part::Cause => self.meta()?.cause,
            Part::Enrichment => self.members()?.enrichment,
        };
        Ok(found.map(RawValue::get))
    }

    fn members(&self) -> Result<&Members<'e>, String> {
        let members = self.members.get_or_init(|| serde_json::from_slice(self.bytes).map_err(|e| e.to_string()));
        members.as_ref().map_err(Clone::clone)
    }

    fn meta(&self) -> Result<&Meta<'e>, String> {
        let meta = self.meta.get_or_init(|| match self.members()?.meta {
            Some(meta) => serde_json::from_str(meta.get()).map_err(|e| e.to_string()),
            None => Ok(Meta::default()),
        });
        meta.as_ref().map_err(Clone::clone)
    }
}

/// The same JSON with every lone surrogate escape as U+FFFD and every number beyond a double's range as the largest
/// double: what a decoder that works with Rust strings can take.
pub(super) fn mend(json: &str) -> Cow<'_, str> {
    let mut mended = String::new();
    let mut kept = 0;
    let mut at = 0;
    let bytes = json.as_bytes();
    while at < bytes.len() {
        let (end, replacement) = match bytes[at] {
            b'"' => {
                at = mend_string(json, at + 1, &mut mended, &mut kept);
                continue;
            }
            b'-' | b'0'..=b'9' => {
                let len =
                    bytes[at..].iter().take_while(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
                let end = at + len.count();
                let infinite = json[at..end].parse::<f64>().is_ok_and(f64::is_infinite);
                let largest = if bytes[at] == b'-' { "-1.7976931348623157e308" } else { "1.7976931348623157e308" };
                (end, infinite.then_some(largest))
            }
            _ => (at + 1, None),
        };
        if let Some(replacement) = replacement {
            mended.push_str(&json[kept..at]);
            mended.push_str(replacement);
            kept = end;
        }
        at = end;
    }
    if kept == 0 {
        return Cow::Borrowed(json);
    }
    mended.push_str(&json[kept..]);
    Cow::Owned(mended)
}

/// Mends from inside a string; returns the place after its closing quote.
fn mend_string(json: &str, mut at: usize, mended: &mut String, kept: &mut usize) -> usize {
    let bytes = json.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' if bytes.get(at + 1) == Some(&b'u') => {
                let high = escape_at(bytes, at);
                let low = escape_at(bytes, at + 6);
                match (high, low) {
                    (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => at += 12,
                    (Some(0xD800..=0xDFFF), _) => {
                        mended.push_str(&json[*kept..at]);
                        mended.push('\u{FFFD}');
                        at += 6;
                        *kept = at;
                    }
                    _ => at += 6,
                }
            }
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn escape_at(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Decodes JSON of an event, mended where it must be.
pub(super) fn decode<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
    match serde_json::from_str(json) {
        Ok(value) => Ok(value),
        Err(error) => match mend(json) {
            Cow::Owned(mended) => serde_json::from_str(&mended).map_err(|e| e.to_string()),
            Cow::Borrowed(_) => Err(error.to_string()),
        },
    }
}
