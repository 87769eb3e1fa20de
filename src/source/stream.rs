use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::backoff::{Backoff, around};
use super::fetch::{Fetched, Fetcher, NoPage, STUCK_AFTER};
use super::track::{Inflight, Interrupt, Track};
use super::{Shared, SourceError};
use crate::config::OnGap;
use crate::event::ports::{Dialect, StreamBook, StreamState, Submission};
use crate::event::{Gap, GapReason, Page, Position, Rejected, Room};
use crate::sell::{SellDisposition, SellError};
use crate::telemetry::causes;

/// Pages on their way to the ledger, at most: one commits while the next one is fetched and lined up behind it.
const DEPTH: usize = 2;
/// So many failures in a row are worth the eye of a person.
const FAILING_AFTER: u32 = 5;
/// How much of a page that cannot be read is kept.
const KEPT_BYTES: usize = 1024 * 1024;
/// How much of the vendor's words a gap keeps.
const DETAIL_BYTES: usize = 200;

/// Polls one stream for ever.
pub(super) struct Stream<B> {
    pub shared: Arc<Shared<B>>,
    pub fetcher: Fetcher<B>,
    pub track: Track<B>,
    pub backoff: Backoff,
    pub rng: StdRng,
    /// Whether the last page said `top`.
    pub at_top: bool,
    /// Whether the vendor answered 404 to the subscription that was just made.
    pub missed: bool,
}

impl<B: StreamBook> Stream<B> {
    /// Ends when it is asked to, or with what its owner must know.
    pub async fn run(mut self) -> Result<(), SourceError> {
        loop {
            match self.turn().await {
                Ok(()) | Err(Interrupt::BacklogFull) => {}
                Err(Interrupt::Stop) => return Ok(()),
                Err(Interrupt::Failed(error)) => return Err(error),
                Err(Interrupt::Moved(row)) => {
                    tracing::info!(stream = %self.track.key, state = row.state.as_str(), "an operator moved the stream");
                    let sought = row.state == StreamState::Halted && row.position != self.track.row.position;
                    self.adopt(row);
                    if sought {
                        // The seek is the decision that the halt waited for.
                        self.track.set_state(StreamState::Active, "").await;
                    }
                }
                Err(Interrupt::Superseded) => {
                    let row = self.shared.open(&self.track.key).await?;
                    tracing::info!(stream = %self.track.key, "a page was left out: the ledger holds the stream elsewhere");
                    self.adopt(row);
                }
            }
        }
    }

    fn adopt(&mut self, row: crate::event::ports::StreamRow) {
        self.fetcher.forget_subscription();
        self.at_top = false;
        self.track.adopt(row);
    }

    /// One poll, and what follows from it.
    async fn turn(&mut self) -> Result<(), Interrupt> {
        self.track.may_poll().await?;
        self.track.settle_down_to(DEPTH - 1).await?;
        let position = self.track.next.clone();
        fail::fail_point!("source::before_fetch");
        match self.track.watch(self.fetcher.fetch(&position, self.at_top)).await? {
            Ok(fetched) => self.take(position, fetched).await,
            Err(NoPage::Crowded) => Ok(()),
            Err(NoPage::Sell(error)) => self.fail(position, error).await,
        }
    }

    async fn take(&mut self, from: Position, fetched: Fetched) -> Result<(), Interrupt> {
        fail::fail_point!("source::after_fetch");
        let Fetched { content, room, at, waited } = fetched;
        let (held, top) = (content.held(), content.top);
        let meter = &self.track.meter;
        if held == 0 {
            meter.polls.empty.increment(1);
        } else {
            meter.polls.page.increment(1);
        }
        meter.events.increment(held as u64);
        meter.unwanted.increment(content.unwanted as u64);
        if self.backoff.failures() >= FAILING_AFTER {
            tracing::info!(stream = %self.track.key, failures = self.backoff.failures(), "polling works again");
            self.track.note_failing(None);
        }
        self.backoff.reset();
        self.fetcher.limit.good();
        self.missed = false;
        self.track.set_state(StreamState::Active, "").await;
        let stands = content.position == from;
        let page = Page {
            stream: self.track.key.clone(),
            from,
            to: content.position,
            top,
            events: content.events,
            rejected: content.rejected,
            gap: None,
            fetched_at: at,
        };
        // INV-4: a moved position is committed, whether or not there are events.
        let empty = page.events.is_empty() && page.rejected.is_empty();
        if !(stands && empty && top == self.at_top) {
            self.submit(page, room).await?;
        }
        self.at_top = top;
        let wait = if top {
            self.rest(held, waited)
        } else if stands {
            // Neither moved nor at the top: asking again at once would only turn in a circle.
            Some(self.shared.config.poll_interval.min(Duration::from_secs(1)))
        } else {
            None
        };
        match wait {
            Some(wait) => {
                let wait = around(wait, &mut self.rng);
                self.track.pause(wait).await
            }
            None => Ok(()),
        }
    }

    /// The pause before the next poll of a stream that is at its top.
    fn rest(&self, held: usize, waited: bool) -> Option<Duration> {
        let interval = self.shared.config.poll_interval;
        let long_poll = self.shared.dialect == Dialect::Reference;
        if long_poll && waited {
            // The wait was the pause.
            None
        } else if long_poll && held > 0 {
            // Streams in steady motion leave a part of the budget to others.
            Some(self.shared.fair_share().min(interval))
        } else {
            Some(interval)
        }
    }

    async fn submit(&mut self, page: Page, room: Room) -> Result<(), Interrupt> {
        let (settled, outcome) = oneshot::channel();
        let newest = page.events.iter().filter_map(|event| event.occurred_at).max();
        let inflight = Inflight {
            settled: outcome,
            from: page.from.clone(),
            to: page.to.clone(),
            top: page.top,
            anchor: if page.top { Some(page.fetched_at) } else { newest.map(|newest| newest.min(page.fetched_at)) },
        };
        let blocked = Instant::now();
        let pages = self.shared.pages.clone();
        if let Some(witness) = &self.shared.witness {
            witness.seen(&page);
        }
        let sent = self.track.watch(pages.send(Submission { page, room, settled })).await?;
        self.shared.blocked.add(blocked.elapsed());
        sent.map_err(|_| Interrupt::Failed(SourceError::RecorderGone))?;
        self.track.next = inflight.to.clone();
        self.track.inflight.push_back(inflight);
        fail::fail_point!("source::after_submit");
        Ok(())
    }

    async fn fail(&mut self, position: Position, error: SellError) -> Result<(), Interrupt> {
        let polls = &self.track.meter.polls;
        match error.disposition() {
            SellDisposition::Gap => polls.gone.increment(1),
            SellDisposition::Retry(_) if matches!(error, SellError::Throttled { .. }) => polls.throttled.increment(1),
            _ => polls.error.increment(1),
        }
        let pace = self.shared.pace;
        match error.disposition() {
            SellDisposition::Retry(asked) => self.back_off(error, asked).await,
            // The account's gate makes everyone wait and says so.
            SellDisposition::Unauthorized => Ok(()),
            SellDisposition::Forbidden => {
                self.note_failure(&error);
                self.track.set_state(StreamState::Forbidden, &causes(&error)).await;
                let wait = pace.forbidden.0.saturating_mul(1 << self.backoff.failures().min(10)).min(pace.forbidden.1);
                self.backoff.next(None, &mut self.rng);
                let wait = around(wait, &mut self.rng);
                self.track.pause(wait).await
            }
            SellDisposition::Missing => self.subscribe_again_or_wait(&error).await,
            SellDisposition::Gap => self.gap(position, error).await,
            SellDisposition::Shrink => self.shrink(position, error).await,
        }
    }

    async fn back_off(&mut self, error: SellError, asked: Option<Duration>) -> Result<(), Interrupt> {
        self.note_failure(&error);
        // It may hold a whole answer, which must not outlive the room that it was fetched into by a wait.
        drop(error);
        let wait = self.backoff.next(asked, &mut self.rng);
        self.track.pause(wait).await
    }

    /// Loud at first and then ever more seldom: an outage of hours must not fill the log.
    fn note_failure(&self, error: &SellError) {
        let failures = self.backoff.failures() + 1;
        if failures.is_power_of_two() {
            tracing::warn!(stream = %self.track.key, failures, error = causes(error), "polling failed");
        }
        if failures >= FAILING_AFTER {
            self.track.note_failing(Some(causes(error)));
        }
    }

    /// 404: in the reference dialect the subscription is gone, and a new one goes on at the position held. Otherwise
    /// there is no such stream, as yet.
    async fn subscribe_again_or_wait(&mut self, error: &SellError) -> Result<(), Interrupt> {
        if self.fetcher.forget_subscription() && !std::mem::replace(&mut self.missed, true) {
            tracing::info!(stream = %self.track.key, "the subscription is gone: subscribing again at the position held");
            return Ok(());
        }
        self.note_failure(error);
        self.track.set_state(StreamState::Missing, &causes(error)).await;
        let wait = around(self.shared.pace.missing, &mut self.rng);
        self.track.pause(wait).await
    }

    /// 410: the step to the oldest event kept is recorded as a gap before anything goes on past it (INV-14).
    async fn gap(&mut self, position: Position, error: SellError) -> Result<(), Interrupt> {
        self.track.settle_down_to(0).await?;
        if position == Position::tail() {
            self.fetcher.forget_subscription();
            return self.back_off(error, None).await;
        }
        let mut detail = causes(&error);
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES));
        tracing::error!(stream = %self.track.key, detail, "history was lost: the position fell out of what the vendor keeps");
        let halt = self.shared.config.on_gap == OnGap::Halt;
        if halt {
            // Before the gap: a crash in between leaves a halted stream at its old position, where going on finds
            // the gap again.
            self.track.set_state(StreamState::Halted, &detail).await;
        }
        let at = self.shared.clock.now();
        let page = Page {
            stream: self.track.key.clone(),
            from: position,
            to: Position::tail(),
            top: false,
            events: Vec::new(),
            rejected: Vec::new(),
            gap: Some(Gap { reason: GapReason::PositionExpired, detail }),
            fetched_at: at,
        };
        let room = self.shared.room.reserve(1, 1024);
        let room = self.track.watch(room).await?;
        self.fetcher.forget_subscription();
        self.at_top = false;
        self.submit(page, room).await?;
        self.track.settle_down_to(0).await
    }

    /// A page that cannot be read: less is asked for. Where even one event cannot be read the stream is stuck, goes
    /// on trying, and keeps what it saw.
    async fn shrink(&mut self, position: Position, error: SellError) -> Result<(), Interrupt> {
        let oversize = matches!(error, SellError::Oversize { .. });
        let before = self.fetcher.limit.now;
        let failures = self.fetcher.limit.shrink(error.to_string(), oversize);
        let now = self.fetcher.limit.now;
        if now < before {
            let stream = &self.track.key;
            tracing::warn!(%stream, before, now, error = causes(&error), "a page cannot be read: asking for less");
            if oversize {
                return Ok(());
            }
        }
        if failures >= STUCK_AFTER && self.track.row.state != StreamState::Stuck {
            tracing::error!(stream = %self.track.key, error = causes(&error), "the stream is stuck: a page of one event cannot be read");
            self.track.set_state(StreamState::Stuck, &causes(&error)).await;
            self.keep(position, &error).await?;
        }
        self.back_off(error, None).await
    }

    /// Keeps the bytes of a page that cannot be read among what was rejected; the position stays.
    async fn keep(&mut self, position: Position, error: &SellError) -> Result<(), Interrupt> {
        let SellError::Wire { body, .. } = error else { return Ok(()) };
        self.track.settle_down_to(0).await?;
        let raw = body.slice(..body.len().min(KEPT_BYTES));
        let page = Page {
            stream: self.track.key.clone(),
            from: position.clone(),
            to: position,
            top: false,
            events: Vec::new(),
            rejected: vec![Rejected { raw, reason: causes(error) }],
            gap: None,
            fetched_at: self.shared.clock.now(),
        };
        let room = self.shared.room.reserve(1, page.size() as u64);
        let room = self.track.watch(room).await?;
        self.submit(page, room).await
    }
}
