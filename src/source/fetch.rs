use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{Instrument as _, info_span};

use super::Shared;
use super::gate::Pass;
use crate::event::ports::{Dialect, StreamBook};
use crate::event::{Position, Room, Sharer, StreamKey};
use crate::sell::wire::{PageContent, PageOf, Subscribed};
use crate::sell::{Poll, Priority, SellDisposition, SellError, Slot};
use crate::telemetry::causes;

/// How long the vendor may hold an answer back, where it can.
const LONG_POLL: Duration = Duration::from_secs(20);
/// A poll that waits keeps room for no more events than this, nor than its share: it comes back with the first one.
const WAITING_LIMIT: u32 = 100;
/// The size that events are expected to have before any was seen, in bytes.
const EVENT_BYTES: u64 = 2_048;
/// Room for a page is never less than this, in bytes.
const LEAST_BYTES: u64 = 64 * 1024;
/// So many good pages in a row let a lowered limit double.
const GOOD_PAGES: u32 = 8;
/// So many equal failures at limit 1 make a stream stuck.
pub(super) const STUCK_AFTER: u32 = 5;

/// Fetches the pages of one stream.
pub(super) struct Fetcher<B> {
    shared: Arc<Shared<B>>,
    key: StreamKey,
    resources: Vec<String>,
    subscription: Option<Subscription>,
    pub limit: Limit,
    event_bytes: u64,
    /// Where polls wait, and hold room meanwhile.
    _sharer: Option<Sharer>,
}

/// A subscription in the reference dialect.
struct Subscription {
    /// The position that was asked for.
    asked: Position,
    got: Subscribed,
}

/// A page with the room that it takes.
pub(super) struct Fetched {
    pub content: PageContent,
    pub room: Room,
    pub at: OffsetDateTime,
    /// Whether the vendor was asked to hold the answer back, and took its time.
    pub waited: bool,
}

/// Why there is no page.
pub(super) enum NoPage {
    /// The vendor gave none.
    Sell(SellError),
    /// It is larger than the room that was taken for it: fetch it again with more.
    Crowded,
}

impl<B: StreamBook> Fetcher<B> {
    pub fn new(shared: Arc<Shared<B>>, key: StreamKey, resources: Vec<String>) -> Self {
        let limit = Limit::new(crate::sell::page_limit(shared.dialect, shared.config.page_limit));
        let waits = (shared.dialect == Dialect::Reference).then(|| shared.room.sharer());
        Self { shared, key, resources, subscription: None, limit, event_bytes: EVENT_BYTES, _sharer: waits }
    }

    /// The next page will come by a new subscription.
    pub fn forget_subscription(&mut self) -> bool {
        self.subscription.take().is_some()
    }

    /// The page after `position`. Room for it is taken before the vendor is asked, and no more is read than there is
    /// room for (INV-11). With `wait` the vendor may hold the answer back until there is something.
    pub async fn fetch(&mut self, position: &Position, wait: bool) -> Result<Fetched, NoPage> {
        let shared = self.shared.clone();
        let pass = shared.gate.pass().await;
        let wait = wait && !pass.is_trial() && shared.dialect == Dialect::Reference;
        let (limit, least) = if wait { self.waiting() } else { (self.limit.now, LEAST_BYTES) };
        if let Err(error) = self.subscribe(position).await {
            shared.judge(pass, Some(&error));
            return Err(NoPage::Sell(error));
        }
        let most = (u64::from(limit) * self.event_bytes).max(least).min(shared.config.max_page_bytes);
        let (mut room, slot) = shared.room_and_slot(limit.into(), most).await;
        let asked = Instant::now();
        let told = self.ask(position, (limit, most), if wait { LONG_POLL } else { Duration::ZERO }, slot).await;
        shared.judge(pass, told.as_ref().err());
        let content = match told {
            Err(SellError::Oversize { .. }) if most < shared.config.max_page_bytes => {
                self.event_bytes = most.saturating_mul(4) / u64::from(limit);
                return Err(NoPage::Crowded);
            }
            told => told.map_err(NoPage::Sell)?,
        };
        let bytes = content.bytes();
        if !content.events.is_empty() {
            // The dearest page of late counts, so that growth stays the exception.
            let mean = bytes / content.events.len() as u64 + 1;
            self.event_bytes = mean.max(self.event_bytes - self.event_bytes / 16).max(256);
        }
        if !room.grow(&shared.room, content.events.len(), bytes) {
            return Err(NoPage::Crowded);
        }
        room.shrink(content.events.len(), bytes);
        let waited = wait && asked.elapsed() >= LONG_POLL / 2;
        Ok(Fetched { content, room, at: shared.clock.now(), waited })
    }

    /// The events that a poll asks for which waits, and the least bytes that it keeps room for: streams without news must not
    /// hold the room that one with news needs, however many they are.
    fn waiting(&self) -> (u16, u64) {
        let (events, bytes) = self.shared.room.share();
        let of_bytes = u32::try_from(bytes / self.event_bytes).unwrap_or(u32::MAX).max(1);
        let limit = u16::try_from(WAITING_LIMIT.min(events).min(of_bytes)).unwrap_or(u16::MAX);
        (limit.min(self.limit.now), LEAST_BYTES.min(bytes))
    }

    async fn ask(
        &self,
        position: &Position,
        (limit, most): (u16, u64),
        wait: Duration,
        slot: Slot,
    ) -> Result<PageContent, SellError> {
        let shared = &self.shared;
        let (path, position) = match &self.subscription {
            Some(held) if is_word(position) => (held.got.stream_id.as_str(), &held.got.position),
            Some(held) => (held.got.stream_id.as_str(), position),
            None => (self.key.stream.as_str(), position),
        };
        let poll = Poll { dialect: shared.dialect, path, position, limit, most, wait };
        let span = info_span!(parent: None, "poll", account = %self.key.account, stream = %self.key.stream, limit);
        let body = shared.vendor.poll(poll, slot).instrument(span).await?;
        let of = PageOf {
            account: &self.key.account,
            stream: &self.key.stream,
            dedupe_by: shared.config.dedupe_by,
            wanted: &shared.wanted,
        };
        crate::sell::page(shared.dialect, &body, of)
    }

    /// Makes sure of a subscription under which `position` can be polled, where the dialect has such.
    async fn subscribe(&mut self, position: &Position) -> Result<(), SellError> {
        let usable = |held: &Subscription| !is_word(position) || held.asked == *position;
        if self.shared.dialect == Dialect::Live || self.subscription.as_ref().is_some_and(usable) {
            return Ok(());
        }
        let name = format!("{}-{}", self.shared.deployment, self.key.account);
        let got = self.shared.vendor.subscribe(&name, &self.resources, position).await?;
        self.subscription = Some(Subscription { asked: position.clone(), got });
        Ok(())
    }
}

/// Whether a position is a word of ours and the vendor's, and not a place yet.
fn is_word(position: &Position) -> bool {
    *position == Position::tail() || *position == Position::top()
}

impl<B: StreamBook> Shared<B> {
    /// Room for a page and a slot of the budget, holding neither while waiting for the other: an account that has
    /// used its budget must not keep room from the others of its shard, nor a full ledger the budget from lookups.
    async fn room_and_slot(&self, events: usize, bytes: u64) -> (Room, Slot) {
        loop {
            let slot = self.vendor.budget().take(Priority::Firehose).await;
            if let Some(room) = self.room.try_reserve(events, bytes) {
                return (room, slot);
            }
            slot.give_back();
            let asked = Instant::now();
            let room = self.room.reserve(events, bytes).await;
            self.blocked.add(asked.elapsed());
            if let Some(slot) = self.vendor.budget().try_take(Priority::Firehose) {
                return (room, slot);
            }
        }
    }

    /// What an answer says about the account as a whole.
    fn judge(&self, pass: Pass<'_>, error: Option<&SellError>) {
        match error.map(SellError::disposition) {
            Some(SellDisposition::Unauthorized) => {
                let was_open = self.gate.is_open();
                let wait = pass.refused();
                let why = error.map(|error| causes(error)).unwrap_or_default();
                if was_open || wait > self.pace.unauthorized.0 {
                    tracing::error!(
                        account = %self.account, error = why, wait_seconds = wait.as_secs(),
                        "the account is unauthorized: nothing of it is read until its credential is accepted"
                    );
                }
                self.status.note(&self.account, |account| account.trouble = Some(format!("unauthorized: {why}")));
            }
            // Says nothing about the credential.
            Some(SellDisposition::Retry(_)) => drop(pass),
            _ => {
                if pass.accepted() {
                    tracing::info!(account = %self.account, "the account's credential is accepted again");
                    self.status.note(&self.account, |account| account.trouble = None);
                }
            }
        }
    }
}

/// How many events a poll asks for: halved where a page cannot be read, grown again after good ones.
#[derive(Debug)]
pub(super) struct Limit {
    most: u16,
    pub now: u16,
    good: u32,
    failures: u32,
    last: String,
}

impl Limit {
    fn new(most: u16) -> Self {
        let most = most.max(1);
        Self { most, now: most, good: 0, failures: 0, last: String::new() }
    }

    /// A page was read.
    pub fn good(&mut self) {
        self.failures = 0;
        self.good += 1;
        if self.good >= GOOD_PAGES {
            self.good = 0;
            self.now = self.now.saturating_mul(2).min(self.most);
        }
    }

    /// A page could not be read. The limit is halved at once where the page was too long, else when the same happens
    /// twice: an answer that was cut on its way says nothing about its length. At limit 1 gives how many equal
    /// failures there were, else 0.
    pub fn shrink(&mut self, why: String, too_long: bool) -> u32 {
        self.failures = if self.last == why { self.failures + 1 } else { 1 };
        self.last = why;
        if self.now == 1 {
            return self.failures;
        }
        if too_long || self.failures > 1 {
            self.good = 0;
            self.failures = 0;
            self.now /= 2;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_halved_down_to_one_and_comes_back_gradually() {
        let mut limit = Limit::new(100);
        let halves: Vec<u16> = (0..8)
            .map(|_| {
                limit.shrink("too long".into(), true);
                limit.now
            })
            .collect();
        assert_eq!(halves, [50, 25, 12, 6, 3, 1, 1, 1]);
        assert_eq!(limit.shrink("too long".into(), true), 3);
        assert_eq!(limit.shrink("something else".into(), false), 1, "only equal failures count");
        for _ in 0..GOOD_PAGES {
            assert_eq!(limit.now, 1);
            limit.good();
        }
        assert_eq!(limit.now, 2);
        (0..GOOD_PAGES * 10).for_each(|_| limit.good());
        assert_eq!(limit.now, 100);
        limit.shrink("cut short".into(), false);
        assert_eq!(limit.now, 100, "once may be chance");
        limit.shrink("cut short".into(), false);
        assert_eq!(limit.now, 50);
    }
}
