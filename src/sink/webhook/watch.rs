//! What the loop looks at beside its attempts: the operator's wishes, the secret files, the state that it reports.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::breaker::BreakerState;
use super::config::{Endpoint, EndpointError, Texts};
use super::driver::Driver;
use super::guard::Guard;
use super::pace::Pace;
use crate::config::WebhookConfig;
use crate::event::ports::{LedgerError, SinkBook, SinkState};
use crate::event::{DeliveryBook, Seq};

/// The cursor is kept and the sink's row is read this often.
const ROW_EVERY: Duration = Duration::from_secs(1);
/// Secret files and the ledger's head are looked at this often.
const FILES_EVERY: Duration = Duration::from_secs(5);
/// Notes of attempts that belong to nothing any more are removed this often.
const FORGET_EVERY: Duration = Duration::from_hours(1);

/// The configured texts as they were read last, and when what is looked at next.
#[derive(Debug)]
pub(super) struct Reading {
    texts: Texts,
    complained: bool,
    next_row: Instant,
    next_files: Instant,
    next_forget: Instant,
}

impl Reading {
    /// Reads the files for the first time.
    pub(super) async fn first(config: &WebhookConfig, guard: &Guard) -> Result<(Self, Endpoint), EndpointError> {
        let texts = read(config).await?;
        let endpoint = Endpoint::new(&texts, guard)?;
        let now = Instant::now();
        let reading = Self { texts, complained: false, next_row: now, next_files: now + FILES_EVERY, next_forget: now };
        Ok((reading, endpoint))
    }
}

async fn read(config: &WebhookConfig) -> Result<Texts, EndpointError> {
    if !Texts::in_files(config) {
        return Ok(Texts::read(config)?);
    }
    let config = config.clone();
    match tokio::task::spawn_blocking(move || Texts::read(&config)).await {
        Ok(texts) => Ok(texts?),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// What the sink's row says, so that only changes are written.
#[derive(Debug, Default)]
pub(super) struct Reported {
    said: Option<(SinkState, Option<String>)>,
    /// What went wrong last.
    pub error: Option<String>,
}

impl<F, B: SinkBook, D: DeliveryBook> Driver<'_, F, B, D> {
    /// Gives where an operator wants the sink to stand.
    pub(super) async fn look(&mut self) -> Result<Option<Seq>, LedgerError> {
        let now = self.now();
        self.pending.keep_slow(now);
        self.meters.breaker.set(self.breaker.state(now.at).gauge());
        if now.at < self.reading.next_row {
            return Ok(None);
        }
        self.reading.next_row = now.at + ROW_EVERY;
        self.write().await?;
        self.keep_cursor().await?;
        if now.at >= self.reading.next_files {
            self.reading.next_files = now.at + FILES_EVERY;
            self.read_again().await;
            let bounds = self.sink.book.bounds(self.sink.ownership.shard).await?;
            self.head = self.head.max(bounds.head);
        }
        if now.at >= self.reading.next_forget {
            self.reading.next_forget = now.at + FORGET_EVERY;
            self.sink.deliveries.forget_attempts(&self.sink.name, self.sink.ownership).await?;
        }
        // Read before it is reported: an operator may have enabled the sink meanwhile.
        let seek = self.read_row(now.at).await?;
        self.keep_failing().await?;
        self.measure(now.wall);
        self.report().await?;
        Ok(seek)
    }

    async fn read_row(&mut self, now: Instant) -> Result<Option<Seq>, LedgerError> {
        let row = self.sink.book.row(&self.sink.name, self.sink.ownership).await?;
        if self.row.disabled.is_some() && row.disabled.is_none() {
            tracing::info!(sink = %self.sink.name, "enabled by an operator");
            self.breaker.close();
            self.pace = Pace::new(self.sink.config.max_in_flight);
            self.failing.delivered();
            self.reported.error = None;
            self.pending.hasten(now);
        }
        self.row = row;
        if self.held().is_some() {
            self.failing.stands_still();
        }
        Ok(self.row.seek)
    }

    /// A changed file takes effect for every attempt that begins later. One that cannot be read, or not be used, leaves
    /// what was read before.
    async fn read_again(&mut self) {
        let endpoint = match read(&self.sink.config).await {
            Ok(texts) if texts.same(&self.reading.texts) => {
                self.reading.complained = false;
                return;
            }
            Ok(texts) => Endpoint::new(&texts, &self.guard).map(|endpoint| (texts, endpoint)),
            Err(error) => Err(error),
        };
        match endpoint {
            Ok((texts, endpoint)) => {
                tracing::info!(sink = %self.sink.name, "a secret file has changed");
                self.reading.texts = texts;
                self.endpoint = endpoint.into();
                self.reading.complained = false;
            }
            Err(error) if !self.reading.complained => {
                self.reading.complained = true;
                let error = crate::telemetry::causes(&error);
                tracing::error!(sink = %self.sink.name, error, "the sink goes on with the secrets that it has");
            }
            Err(_) => {}
        }
    }

    /// Disables an endpoint that wants no more or has failed for too long, and lets a restart know for how long it fails.
    async fn keep_failing(&mut self) -> Result<(), LedgerError> {
        let failures = self.failing.to_keep();
        if failures != self.failing.kept() {
            self.sink.deliveries.keep_failures(&self.sink.name, self.sink.ownership, failures).await?;
            self.failing.keep(failures);
        }
        if self.held() != Some(SinkState::Disabled) {
            let error = self.reported.error.as_deref().unwrap_or_default();
            self.failing.disabling = self.failing.verdict(self.sink.config.disable_after, error);
        }
        if let Some(why) = &self.failing.disabling {
            tracing::error!(sink = %self.sink.name, why, "the endpoint is disabled; its events are kept until it is enabled");
        }
        Ok(())
    }

    fn measure(&self, now: OffsetDateTime) {
        let cursor = self.pending.cursor();
        #[expect(clippy::cast_precision_loss, reason = "a count of events, far below 2^52")]
        self.meters.lag_events.set(self.head.since(cursor) as f64);
        let in_hand =
            || self.batch.as_ref().and_then(|(batch, at)| batch.events.get(*at)).map(|event| event.recorded_at);
        let oldest = self.pending.holding_since().or_else(in_hand);
        self.meters.lag_seconds.set(oldest.map_or(0.0, |since| (now - since).as_seconds_f64().max(0.0)));
    }

    async fn report(&mut self) -> Result<(), LedgerError> {
        let breaker = self.breaker.state(Instant::now());
        let (state, error) = match self.held() {
            Some(SinkState::Disabled) => {
                (SinkState::Disabled, self.failing.disabling.clone().or_else(|| self.row.disabled.clone()))
            }
            Some(state) => (state, None),
            None if breaker == BreakerState::Closed => {
                match self.sink.enricher.as_ref().and_then(|enricher| enricher.waits()) {
                    Some(why) => (SinkState::Retrying, Some(why)),
                    None => (SinkState::Running, None),
                }
            }
            None => (SinkState::Retrying, self.reported.error.clone()),
        };
        let now = Some((state, error));
        if self.reported.said != now {
            let error = now.as_ref().and_then(|(_, error)| error.as_deref());
            self.sink.book.report(&self.sink.name, self.sink.ownership, state, error).await?;
            self.meters.state(state);
            self.reported.said = now;
        }
        // Now the row says so, until an operator takes it back.
        if let Some(why) = self.failing.disabling.take() {
            self.row.disabled = Some(why);
        }
        Ok(())
    }
}
