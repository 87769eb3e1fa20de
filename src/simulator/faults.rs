//! What can go wrong, and how often.

use std::fmt;
use std::str::FromStr;

/// The ways in which a simulator misbehaves (sell-api.md, "The simulator's faults").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Fault {
    /// A page without events whose position has moved, though there are some.
    EmptyPage,
    /// A page that holds fewer events than it could.
    ShortPage,
    /// A page that repeats events of earlier pages.
    Duplicate,
    /// A page that repeats an earlier event's id with other content.
    Conflict,
    /// An event again under another id, with the same sequence. Of events.
    Resequence,
    /// A page whose events are out of order; those of one record are not.
    Disorder,
    /// The history ends behind the position that is asked for: 410, and what lay between is lost.
    Gone,
    /// 429, with and without `Retry-After`, as text that is not JSON.
    Throttle,
    /// 500 or 502, as HTML.
    ServerError,
    /// An answer that takes its time.
    Slow,
    /// An answer that ends before its end.
    Truncate,
    /// The connection is reset instead of an answer.
    Reset,
    /// The token is refused from now on, until it is refreshed.
    Unauthorized,
    /// 403.
    Forbidden,
    /// An event of more than a mebibyte. Of events.
    Oversize,
    /// An element that is no event among good ones. Of events.
    Malformed,
    /// An element that is not UTF-8 among good ones. Of events.
    BadUtf8,
    /// An event whose text holds a NUL. Of events.
    Nul,
    /// Hundreds of events at once after an event. Of events, while the company lives.
    Burst,
    /// An event whose time is off by up to a day, and an answer whose `Date` is. Of events and of requests.
    Skew,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 20] = [
        Self::EmptyPage,
        Self::ShortPage,
        Self::Duplicate,
        Self::Conflict,
        Self::Resequence,
        Self::Disorder,
        Self::Gone,
        Self::Throttle,
        Self::ServerError,
        Self::Slow,
        Self::Truncate,
        Self::Reset,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Oversize,
        Self::Malformed,
        Self::BadUtf8,
        Self::Nul,
        Self::Burst,
        Self::Skew,
    ];

    /// Its name on the command line and over HTTP.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EmptyPage => "empty-page",
            Self::ShortPage => "short-page",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Resequence => "resequence",
            Self::Disorder => "disorder",
            Self::Gone => "gone",
            Self::Throttle => "throttle",
            Self::ServerError => "server-error",
            Self::Slow => "slow",
            Self::Truncate => "truncate",
            Self::Reset => "reset",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Oversize => "oversize",
            Self::Malformed => "malformed",
            Self::BadUtf8 => "bad-utf8",
            Self::Nul => "nul",
            Self::Burst => "burst",
            Self::Skew => "skew",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|fault| fault.as_str()).collect();
            format!("no fault is called `{name}`; there are {}", known.join(", "))
        })
    }
}

/// A probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate(f64);

impl Rate {
    pub fn new(rate: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&rate) { Ok(Self(rate)) } else { Err("a rate lies between 0 and 1".to_owned()) }
    }

    pub const fn get(self) -> f64 {
        self.0
    }
}

/// How often each fault happens, and how often it did.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    rates: [Rate; Fault::ALL.len()],
    happened: [u64; Fault::ALL.len()],
}

impl Faults {
    pub fn rate(&self, fault: Fault) -> f64 {
        self.rates[fault as usize].get()
    }

    pub fn set(&mut self, fault: Fault, rate: Rate) {
        self.rates[fault as usize] = rate;
    }

    pub fn note(&mut self, fault: Fault) {
        self.happened[fault as usize] += 1;
    }

    pub fn happened(&self, fault: Fault) -> u64 {
        self.happened[fault as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_name_and_its_place() {
        for (at, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, at);
            assert_eq!(Fault::from_str(fault.as_str()), Ok(fault));
        }
        assert!(Fault::from_str("tired").unwrap_err().contains("bad-utf8"));
    }
}
