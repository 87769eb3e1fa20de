//! Who answers the lookups of a shard's sinks: the stream's newest events, then what is kept of the vendor's answers, then
//! the vendor, within the account's budget.
//!
//! An account whose vendor does not answer is left alone for a while, and everybody who wants something of it is told at
//! once, so that one lookup waits and not each of them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indexmap::IndexMap;
use tokio::time::Instant;

use super::recent::Recent;
use crate::clock::Clock;
use crate::config::Config;
use crate::event::{AccountName, Answerer, Found, LookUp, LookUpError, LookingUp, RecordKey};
use crate::lookup::{self, LookupError};
use crate::sell::{Vendor, wire};

/// A longer record is not delivered within another one's event.
const MAX_RECORD_BYTES: usize = 256 << 10;
/// For so long an account is left alone after a failure, twice as long after each further one.
const LEFT_ALONE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// See the module.
pub(super) struct Lookups {
    recent: Recent,
    told: lookup::Lookups,
    vendors: IndexMap<AccountName, Vendor>,
    clock: Clock,
    outages: Mutex<HashMap<AccountName, Outage>>,
}

/// An account whose vendor did not answer.
#[derive(Clone, Debug)]
struct Outage {
    until: Instant,
    /// The wait that led there.
    wait: Duration,
    why: String,
}

/// What the sinks look up, as events name it, and the greatest age that any of them allows; none where that is nothing.
pub(super) fn looked_up(config: &Config) -> Option<(Vec<&'static str>, Duration)> {
    let all = || config.sinks.values().flat_map(|sink| &sink.enrich);
    let max_age = all().map(|enrich| enrich.max_age).max()?;
    Some((all().filter_map(|enrich| wire::event_resource(&enrich.lookup)).collect(), max_age))
}

impl Lookups {
    pub(super) fn new(
        recent: Recent,
        told: lookup::Lookups,
        vendors: IndexMap<AccountName, Vendor>,
        clock: Clock,
    ) -> Self {
        Self { recent, told, vendors, clock, outages: Mutex::default() }
    }

    fn outages(&self) -> MutexGuard<'_, HashMap<AccountName, Outage>> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, key: &RecordKey, max_age: Duration, patience: Duration) -> Result<Found, LookUpError> {
        if let Some(found) = self.at_hand(key, max_age) {
            return Ok(found);
        }
        let Some(vendor) = self.vendors.get(&key.account) else {
            return Err(LookUpError::Never { why: format!("the account {} is not configured any more", key.account) });
        };
        if vendor.dialect().is_none() {
            let why = format!("nobody knows yet which dialect the account {} speaks", key.account);
            return Err(LookUpError::NotNow { why, again_after: LEFT_ALONE.0 });
        }
        if let Some(not_now) = self.is_left_alone(key) {
            return Err(not_now);
        }
        let deadline = Instant::now() + patience;
        let error = match self.told.record(vendor, &key.collection, &key.id, max_age, deadline).await {
            Ok(told) => {
                if told.as_ref().is_none_or(|told| !told.cached) {
                    self.outages().remove(&key.account);
                }
                return self.found(key, told);
            }
            Err(error) => error,
        };
        let why = format!("{} {}: {error}", key.collection, key.id);
        Err(match error {
            LookupError::Throttled { wait } => self.not_now(key, &why, wait),
            // With another token or plan it may be answered.
            LookupError::Unreachable | LookupError::Refused { status: 401 | 403 } => {
                self.not_now(key, &why, Duration::ZERO)
            }
            LookupError::Refused { .. } | LookupError::Unreadable => LookUpError::Never { why },
        })
    }

    fn found(&self, key: &RecordKey, told: Option<lookup::Found>) -> Result<Found, LookUpError> {
        let never = |why: &str| LookUpError::Never { why: format!("{} {}: {why}", key.collection, key.id) };
        let now = self.clock.now();
        let Some(told) = told else { return Ok(Found { answerer: Answerer::Vendor, as_of: now, record: None }) };
        if told.record.len() > MAX_RECORD_BYTES {
            return Err(never("the record is larger than 256 KiB"));
        }
        let answerer = if told.cached { Answerer::Cache } else { Answerer::Vendor };
        Ok(Found { answerer, as_of: now - told.age, record: Some(told.record) })
    }

    /// Why an account is not to be asked now, where that is so.
    fn is_left_alone(&self, key: &RecordKey) -> Option<LookUpError> {
        let Outage { until, why, .. } = self.outages().get(&key.account).cloned()?;
        let again_after = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some(LookUpError::NotNow { why, again_after })
    }

    /// Leaves the account alone for a while.
    fn not_now(&self, key: &RecordKey, why: &str, asked: Duration) -> LookUpError {
        let now = Instant::now();
        let mut outages = self.outages();
        let before = outages.get(&key.account).filter(|outage| outage.until + 2 * LEFT_ALONE.1 > now).cloned();
        let wait = match &before {
            // Another lookup, which was under way at the same time, has said so.
            Some(outage) if outage.until > now => outage.wait,
            Some(outage) => (outage.wait * 2).min(LEFT_ALONE.1),
            None => LEFT_ALONE.0,
        };
        let again_after = wait.max(asked);
        outages.insert(key.account.clone(), Outage { until: now + again_after, wait, why: why.to_owned() });
        LookUpError::NotNow { why: why.to_owned(), again_after }
    }
}

impl LookUp for Lookups {
    fn at_hand(&self, key: &RecordKey, max_age: Duration) -> Option<Found> {
        self.recent.find(key, self.clock.now() - max_age).or_else(|| {
            let vendor = self.vendors.get(&key.account)?;
            let kept = self.told.kept_record(vendor, &key.collection, &key.id, max_age)?;
            self.found(key, Some(kept)).ok()
        })
    }

    fn look_up<'l>(&'l self, key: &'l RecordKey, max_age: Duration, patience: Duration) -> LookingUp<'l> {
        Box::pin(self.answer(key, max_age, patience))
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").field("recent", &self.recent).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "lookups_tests.rs"]
mod tests;
