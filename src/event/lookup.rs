//! What is looked up to complete an event, and what was found.
//!
//! The rules of a sink say what they want to know of an event before they decide it ([`LookUps`]); who holds the stream,
//! the cache and the vendor answers ([`LookUp`]); the rules put the answers into the event; the sink in between waits.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

use super::AccountName;
use super::ports::Address;

/// One record of an account, as the vendor's Core API names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordKey {
    /// Whose it is.
    pub account: AccountName,
    /// The resource as it stands in paths: `contacts`.
    pub collection: Arc<str>,
    /// Its id as spelled, strings unquoted.
    pub id: Box<str>,
}

/// What one lookup of a sink wants to know of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Under which name it stands in the event.
    pub name: Arc<str>,
    /// The records, each once, in the order in which they are named.
    pub keys: Vec<RecordKey>,
    /// Whether they stand there as a list.
    pub is_list: bool,
    /// How old an answer may be, at most.
    pub max_age: Duration,
    /// What happens without one.
    pub on_miss: OnMiss,
}

/// What happens to an event when nobody can answer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMiss {
    /// It waits, and what must come behind it too.
    Wait,
    /// It goes without.
    Skip,
    /// It goes with a null in place of the answer.
    Null,
}

/// Everything that must be known of an event before it can be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUps {
    /// In the order of the configuration; never empty.
    pub wanted: Vec<Wanted>,
    /// Where the event goes whatever is found, without its headers; none where that hangs on the answers.
    pub address: Option<Address>,
}

impl LookUps {
    /// Every record that is asked for, with the age that is allowed and what happens without it.
    pub fn keys(&self) -> impl Iterator<Item = (&RecordKey, &Wanted)> {
        self.wanted.iter().flat_map(|wanted| wanted.keys.iter().map(move |key| (key, wanted)))
    }
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answerer {
    /// The newest recorded event of the record.
    Stream,
    /// An earlier answer of the vendor, which no event has overtaken.
    Cache,
    /// The vendor, now.
    Vendor,
}

impl Answerer {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 3] = [Self::Stream, Self::Cache, Self::Vendor];

    /// The word for it, in events and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Cache => "cache",
            Self::Vendor => "vendor",
        }
    }
}

/// What is known of a record.
#[derive(Clone, Debug)]
pub struct Found {
    /// Who says so.
    pub answerer: Answerer,
    /// When it was so.
    pub as_of: OffsetDateTime,
    /// The record: JSON that was read once. None where there is none of this id, or not any more.
    pub record: Option<Bytes>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookUpError {
    /// Not now: the vendor is out of reach, throttles, or the account's budget is used up.
    #[error("{why}")]
    NotNow {
        /// What is in the way.
        why: String,
        /// It is of no use to ask again before.
        again_after: Duration,
    },
    /// There will be none: the vendor refuses, or says something that is no record.
    #[error("{why}")]
    Never {
        /// What was said instead.
        why: String,
    },
}

/// A lookup under way.
pub type LookingUp<'l> = Pin<Box<dyn Future<Output = Result<Found, LookUpError>> + Send + 'l>>;

/// Who answers lookups: the stream, the cache, the vendor, within the account's budget. Those of one record that are under
/// way at once are one. Safe to cancel.
pub trait LookUp: fmt::Debug + Send + Sync + 'static {
    /// What is known of a record, not older than `max_age`, without asking anybody.
    fn at_hand(&self, key: &RecordKey, max_age: Duration) -> Option<Found>;
    /// What is known of a record, not older than `max_age`; gives up after `patience`, with an error that may pass.
    fn look_up<'l>(&'l self, key: &'l RecordKey, max_age: Duration, patience: Duration) -> LookingUp<'l>;
}
