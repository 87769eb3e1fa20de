//! One Kafka sink in one shard, for as long as the shard is owned: starts, delivers, and starts again.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::client::KafkaCluster;
use super::cluster::Cluster;
use super::config::Settings;
use super::deliver::{End, MAX_EVENTS, deliver, within};
use super::draft::Known;
use super::error::{Disposition, KafkaSinkError};
use super::meters::Meters;
use super::place::{Start, place};
use super::runner::{Runner, another_writer};
use crate::clock::Clock;
use crate::config::{KafkaConfig, SinkStart};
use crate::event::ports::{Feed, LedgerError, Ownership, RehydrateBook, Route, SinkBook, SinkRow, SinkState};
use crate::event::{LedgerId, Seq, SinkName};
use crate::sink::enrich::Enricher;
use crate::sink::retry::Backoff;
use crate::telemetry::causes;

/// How often an operator's wish is looked for while the sink stands still.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A lease's usual time to live.
const LEASE: Duration = Duration::from_secs(15);
/// Being fenced off twice within this time is no accident.
const FENCED_AGAIN: Duration = Duration::from_mins(5);

/// Everything that one Kafka sink needs in one shard.
pub struct KafkaSink<F, B> {
    /// Its configured name.
    pub name: SinkName,
    /// The deployment: part of the transactional id and of the topics of ours.
    pub deployment: String,
    /// Which ledger it reads.
    pub ledger: LedgerId,
    /// How many shards the ledger has.
    pub shards: u16,
    /// The shard, and the epoch under which it is owned.
    pub owner: Ownership,
    /// The sink's own keys.
    pub config: KafkaConfig,
    /// Where it begins when it is new.
    pub start: SinkStart,
    /// How long its dead letters are kept.
    pub dead_letter_retention: Duration,
    /// Its compiled rules.
    pub route: Arc<dyn Route>,
    /// Who looks up what they want to know; none where that is nothing.
    pub enricher: Option<Arc<Enricher>>,
    /// The events.
    pub feed: F,
    /// Its rows in the ledger.
    pub book: B,
    /// Who runs it.
    pub runner: Runner,
    /// The wall clock.
    pub clock: Clock,
    /// Ends it: the transaction in flight is finished first.
    pub stop: CancellationToken,
}

/// Runs a sink against its cluster until it is stopped. What a person must remove first is reported and waited for
/// here; an error is one that the shard or the process must answer: see [`KafkaSinkError::disposition`].
pub async fn run<F: Feed, B: SinkBook + RehydrateBook>(sink: KafkaSink<F, B>) -> Result<(), KafkaSinkError> {
    let settings = Arc::new(sink.settings());
    run_on(sink, settings.clone(), KafkaCluster::new(settings)).await
}

/// As [`run`], against any cluster.
pub async fn run_on<F: Feed, B: SinkBook + RehydrateBook, C: Cluster>(
    sink: KafkaSink<F, B>,
    settings: Arc<Settings>,
    mut cluster: C,
) -> Result<(), KafkaSinkError> {
    let meters = Meters::new(&sink.name, sink.owner.shard);
    let KafkaSink {
        name, owner, start, dead_letter_retention, route, enricher, feed, book, runner, clock, stop, ..
    } = sink;
    let mut session = Session {
        sink: name,
        owner,
        start,
        dead_letter_retention,
        settings,
        rules: route,
        enricher,
        feed,
        book,
        runner,
        skipping: false,
        opening: Seq::ZERO,
        clock,
        stop,
        meters,
        known: Known::default(),
        limit: MAX_EVENTS,
        backoff: Backoff::default(),
        fenced: None,
        place: Seq::ZERO,
        oldest: None,
        told: String::new(),
    };
    let stop = session.stop.clone();
    while !stop.is_cancelled() {
        match session.once(&mut cluster).await {
            Ok(End::Stopped) => break,
            Ok(End::Wished | End::Renew) => {}
            Err(error) => session.answer(error).await?,
        }
    }
    Ok(())
}

impl<F, B> std::fmt::Debug for KafkaSink<F, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, deployment, owner, .. } = self;
        f.debug_struct("KafkaSink")
            .field("name", name)
            .field("deployment", deployment)
            .field("owner", owner)
            .finish_non_exhaustive()
    }
}

impl<F, B> KafkaSink<F, B> {
    /// The names that follow from who it is.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let Self { name, deployment, ledger, shards, owner, config, .. } = self;
        let settings = Settings::new(deployment, name, *ledger, *shards, owner.shard, config.clone());
        Settings { instance: self.runner.instance, ..settings }
    }
}

/// The other instance that wrote to the sink's cursor within the last two lease times, if any, and how many seconds ago.
/// Fences nobody.
pub async fn last_writer<C: Cluster>(
    cluster: &mut C,
    instance: Uuid,
    lease_ttl: Duration,
    now: OffsetDateTime,
) -> Result<Option<(Uuid, i64)>, KafkaSinkError> {
    let found = cluster.last_cursor().await?;
    let owner = found.cursor.and_then(Result::ok).and_then(|cursor| cursor.owner);
    Ok(another_writer(Some(instance), owner, found.written_at, now, lease_ttl))
}

/// What outlives a producer.
pub(super) struct Session<F, B> {
    pub(super) sink: SinkName,
    pub(super) owner: Ownership,
    pub(super) start: SinkStart,
    pub(super) dead_letter_retention: Duration,
    pub(super) settings: Arc<Settings>,
    pub(super) rules: Arc<dyn Route>,
    pub(super) enricher: Option<Arc<Enricher>>,
    pub(super) feed: F,
    pub(super) book: B,
    runner: Runner,
    /// Whether the ledger holds anything that the sink is to skip.
    pub(super) skipping: bool,
    /// Up to where it was about to write to new partitions before this start; 0 once an operator has chosen its place.
    pub(super) opening: Seq,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
    pub(super) meters: Meters,
    pub(super) known: Known,
    /// Events of the next transaction, at most.
    pub(super) limit: usize,
    backoff: Backoff,
    /// When another producer last took the transactional id.
    fenced: Option<Instant>,
    /// Where the sink stood last.
    place: Seq,
    /// When the oldest event of what failed last was recorded.
    oldest: Option<OffsetDateTime>,
    /// The error that was logged last: the same one again is not news.
    told: String,
}

impl<F: Feed, B: SinkBook + RehydrateBook> Session<F, B> {
    /// From the fence to whatever ends the producer.
    async fn once<C: Cluster>(&mut self, cluster: &mut C) -> Result<End, KafkaSinkError> {
        let Some(row) = self.wanted().await? else { return Ok(End::Stopped) };
        self.report(SinkState::Starting, None).await?;
        let start = Start {
            settings: &self.settings,
            sink: &self.sink,
            owner: self.owner,
            begin: self.start,
            rules: &*self.rules,
            enricher: self.enricher.as_deref(),
            runner: &self.runner,
            now: self.clock.now(),
            book: &self.book,
        };
        let placing = async {
            let placed = place(&start, cluster, &mut self.feed, &row).await?;
            // Topics may have changed while no producer was there.
            self.known.meet(cluster, placed.topics()).await?;
            Ok::<_, KafkaSinkError>(placed)
        };
        let placed = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(End::Stopped),
            placed = placing => placed?,
        };
        self.runner.found();
        self.place = placed.seq();
        self.opening = if row.seek.is_some() { Seq::ZERO } else { row.opening };
        if let Some(rules) = self.rules.fingerprint() {
            within("noting a sink's rules", self.book.keep_rules(&self.sink, self.owner, rules, self.place)).await?;
        }
        self.skipping = within("looking for skips", self.book.has_skips(&self.sink, self.owner.shard)).await?;
        self.report(SinkState::Running, None).await?;
        tracing::info!(sink = %self.sink, shard = %self.owner.shard, cursor = %self.place, "the sink delivers");
        deliver(self, cluster, placed).await
    }

    /// The sink's row, once it is not paused; none when the sink is stopped first.
    async fn wanted(&mut self) -> Result<Option<SinkRow>, KafkaSinkError> {
        let mut paused = false;
        loop {
            let row = self.row().await?;
            if !row.paused {
                return Ok(Some(row));
            }
            if !paused {
                self.report(SinkState::Paused, None).await?;
                paused = true;
            }
            if !self.wait(Instant::now() + LOOK_EVERY).await {
                return Ok(None);
            }
        }
    }

    /// Answers an error as its disposition says; gives it back where that is not the sink's own to do.
    async fn answer(&mut self, error: KafkaSinkError) -> Result<(), KafkaSinkError> {
        // Nobody waits for a sink that fails; where it does not know that the ledger was rewound, it finds out later.
        self.runner.compared = None;
        let text = causes(&error);
        let (sink, shard) = (self.sink.clone(), self.owner.shard);
        match error.disposition() {
            Disposition::Renew => tracing::info!(%sink, %shard, reason = text, "the sink starts with a new producer"),
            disposition @ (Disposition::Retry | Disposition::Contend) => {
                let pause = match disposition {
                    Disposition::Contend => self.stand_back(),
                    _ => self.backoff.pause(),
                };
                if self.told == text {
                    tracing::debug!(%sink, %shard, error = text, ?pause, "the sink still fails");
                } else {
                    tracing::warn!(%sink, %shard, error = text, ?pause, "the sink failed and tries again");
                }
                // Fails where the ledger says that the shard is another owner's.
                self.report(SinkState::Retrying, Some(&text)).await?;
                self.told = text;
                self.wait(Instant::now() + pause).await;
            }
            Disposition::Halt => {
                tracing::error!(%sink, %shard, error = text, "the sink stands still until an operator acts");
                self.report(SinkState::Halted, Some(&text)).await?;
                self.told = text;
                self.wait_for_a_wish().await?;
            }
            Disposition::Restart | Disposition::StandDown | Disposition::Exit => return Err(error),
        }
        Ok(())
    }

    /// The pause after another producer took the transactional id. Once can be an older owner that did not know yet; again
    /// soon means that something goes on doing it.
    fn stand_back(&mut self) -> Duration {
        let again = self.fenced.is_some_and(|before| before.elapsed() < FENCED_AGAIN);
        self.fenced = Some(Instant::now());
        let pause = self.backoff.pause();
        if again { pause + LEASE } else { pause }
    }

    /// Waits until an operator acts: seeks, pauses, has it reconciled, or resumes it, now that the reason is gone.
    async fn wait_for_a_wish(&mut self) -> Result<(), KafkaSinkError> {
        while self.wait(Instant::now() + LOOK_EVERY).await {
            let row = self.row().await?;
            if row.is_wished_otherwise() || !row.halted {
                break;
            }
        }
        Ok(())
    }

    /// Waits until `deadline`, telling the lag meanwhile; whether the sink goes on.
    async fn wait(&self, deadline: Instant) -> bool {
        loop {
            self.tell_lag(self.place, self.oldest);
            let step = deadline.min(Instant::now() + LOOK_EVERY);
            if timeout_at(step, self.stop.cancelled()).await.is_ok() {
                return false;
            }
            if Instant::now() >= deadline {
                return true;
            }
        }
    }

    async fn row(&self) -> Result<SinkRow, LedgerError> {
        within("looking at a sink", self.book.row(&self.sink, self.owner)).await
    }

    pub(super) async fn report(&self, state: SinkState, error: Option<&str>) -> Result<(), LedgerError> {
        self.meters.state(state);
        within("reporting a sink", self.book.report(&self.sink, self.owner, state, error)).await
    }

    /// Fewer events next time, so that what cannot be delivered shows itself; alone, it is known.
    pub(super) fn shrink(&mut self, error: &KafkaSinkError, sent: &[Seq], oldest: Option<OffsetDateTime>) {
        self.oldest = oldest;
        self.limit = (sent.len() / 2).max(1);
        if let (KafkaSinkError::TooLarge { .. }, [seq]) = (error, sent)
            && !self.known.oversize.insert(*seq)
        {
            self.known.hopeless.insert(*seq);
        }
    }

    /// After a success: twice as many events next time, and no more pauses.
    pub(super) fn grow(&mut self, cursor: Seq) {
        self.place = cursor;
        self.oldest = None;
        self.limit = (self.limit * 2).min(MAX_EVENTS);
        self.known.oversize.retain(|seq| *seq > cursor);
        self.known.hopeless.retain(|seq| *seq > cursor);
        self.backoff.reset();
        self.told.clear();
    }

    pub(super) fn tell_lag(&self, cursor: Seq, oldest: Option<OffsetDateTime>) {
        let age =
            oldest.map_or(Duration::ZERO, |oldest| (self.clock.now() - oldest).try_into().unwrap_or(Duration::ZERO));
        self.meters.lag(self.feed.head().since(cursor), age);
    }
}
