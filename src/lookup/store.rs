//! Answers that are kept, bounded in bytes and in time.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use reqwest::StatusCode;
use reqwest::header::{
    ACCEPT, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, SET_COOKIE, VARY,
};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::marks::{Account, Standing};
use crate::event::AccountName;
use crate::event::ports::Dialect;
use crate::sell::{Forward, wire};
use crate::telemetry::metrics::{PASSTHROUGH_CACHE_BYTES, PASSTHROUGH_CACHE_ENTRIES};

/// An answer is kept for lookups of records for so long, and longer where the configuration says so.
const KEPT: Duration = Duration::from_hours(1);
/// What an answer takes beside its body, about.
const BESIDE: usize = 1024;
/// Of the store, what one answer may take at most.
const PART: u64 = 8;
/// The longest answer that is kept or shared.
pub(super) const MOST: usize = 1024 * 1024;
/// Of a request's headers those that an answer may depend on.
const TELLING: [reqwest::header::HeaderName; 3] = [ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE];
/// What an answer may vary by: what is in the key, and what no request of ours has or all of them have alike.
const VARIES: [&str; 7] =
    ["accept", "accept-language", "content-type", "accept-encoding", "authorization", "origin", "cookie"];

/// Names a request: everything that its answer may depend on.
pub(super) type Key = [u8; 32];

/// A whole answer.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) status: StatusCode,
    pub(super) headers: Arc<HeaderMap>,
    pub(super) body: Bytes,
    /// When the vendor was asked, and when it had answered.
    pub(super) asked: Instant,
    pub(super) answered: Instant,
    era: Option<u64>,
    standing: Standing,
    record: OnceLock<Option<Bytes>>,
}

#[derive(Debug)]
pub(super) struct Store {
    cache: Cache<Key, Arc<Kept>>,
    /// The longest body that is kept.
    most: usize,
    bytes: metrics::Gauge,
    entries: metrics::Gauge,
}

impl Kept {
    pub(super) fn new(
        (status, headers, body): (StatusCode, HeaderMap, Bytes),
        (asked, answered): (Instant, Instant),
        era: Option<u64>,
        standing: Standing,
    ) -> Self {
        let headers = Arc::new(headers);
        Self { status, headers, body, asked, answered, era, standing, record: OnceLock::new() }
    }

    /// The record that it is, where it is one; read once. Always in the same dialect: a request's path names it.
    pub(super) fn record(&self, dialect: Dialect) -> Option<Bytes> {
        self.record.get_or_init(|| wire::record(dialect, &self.body)).clone()
    }

    pub(super) fn age(&self) -> Duration {
        self.answered.elapsed()
    }

    /// Whether nothing that it shows has changed by a recorded event, and this replica would know.
    pub(super) fn is_fresh(&self, account: &Account) -> bool {
        self.era.is_some() && self.era == account.era() && self.standing.holds()
    }

    /// Whether it may be given to others than the one who asked. All of them are the same to the vendor, which knows the
    /// account's token alone: `private` and `max-age` speak of caches before it, `no-store` and cookies of this answer.
    pub(super) fn may_be_shared(headers: &HeaderMap) -> bool {
        let words = |name| {
            let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("*"));
            values.flat_map(|value| value.split(',')).map(|word| word.trim().to_ascii_lowercase())
        };
        !headers.contains_key(SET_COOKIE)
            && words(CACHE_CONTROL).all(|word| word != "no-store")
            && words(VARY).all(|word| VARIES.contains(&word.as_str()))
            && words(CONTENT_ENCODING).all(|word| word == "identity")
    }
}

impl Store {
    /// Of so many bytes; 0 keeps nothing.
    pub(super) fn new(bytes: u64, at_least: Duration) -> Self {
        let weigh = |_: &Key, kept: &Arc<Kept>| u32::try_from(kept.body.len() + BESIDE).unwrap_or(u32::MAX);
        let cache = Cache::builder().max_capacity(bytes).weigher(weigh).time_to_live(at_least.max(KEPT)).build();
        let most = usize::try_from(bytes / PART).unwrap_or(usize::MAX).saturating_sub(BESIDE).min(MOST);
        let (bytes, entries) = (metrics::gauge!(PASSTHROUGH_CACHE_BYTES), metrics::gauge!(PASSTHROUGH_CACHE_ENTRIES));
        Self { cache, most, bytes, entries }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.cache.run_pending_tasks();
        self.cache.weighted_size()
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Kept>> {
        self.cache.get(key)
    }

    /// Keeps an answer, unless one that was asked for later is there.
    pub(super) fn keep(&self, key: Key, kept: Arc<Kept>) {
        if kept.body.len() > self.most || kept.status != StatusCode::OK {
            return;
        }
        if self.cache.get(&key).is_none_or(|known| known.asked <= kept.asked) {
            self.cache.insert(key, kept);
        }
        self.cache.run_pending_tasks();
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        let set = |gauge: &metrics::Gauge, value: u64| gauge.set(value as f64);
        set(&self.bytes, self.cache.weighted_size());
        set(&self.entries, self.cache.entry_count());
    }
}

/// The key of a request.
pub(super) fn key(account: &AccountName, forward: &Forward) -> Key {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(account.as_str().as_bytes());
    part(forward.method.as_str().as_bytes());
    part(&forward.segments.len().to_be_bytes());
    for segment in &forward.segments {
        part(segment.as_bytes());
    }
    part(&[u8::from(forward.slash), u8::from(forward.query.is_some())]);
    part(forward.query.as_deref().unwrap_or_default().as_bytes());
    for name in &TELLING {
        let values = forward.headers.get_all(name);
        part(&values.iter().count().to_be_bytes());
        for value in values {
            part(value.as_bytes());
        }
    }
    part(&forward.body);
    hash.finalize().into()
}
