//! The stages of one shard under one lease, from the first page to the last cursor.
//!
//! They end in the data's order: the sources first, then the recorder when nothing more comes, then the sinks. When
//! the lease is lost, or the ledger, they all end at once: what they held in memory is read again by the next owner.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ground::Ground;
use super::lookups::{self, Lookups};
use super::recent::{Recent, Tap};
use super::run::Settings;
use super::shard::Shared;
use super::tasks::{Ended, Tasks};
use super::{backlog, copies, looks};
use crate::chance;
use crate::config::SinkKind;
use crate::event::ports::{LedgerDisposition, LedgerError, Ownership, SinkBook as _};
use crate::event::{AccountName, Capacity, LookUp, SinkName};
use crate::ledger::{Held, OwnerBook as _, Recorder};
use crate::route::Fanout;
use crate::sink::enrich::Enricher;
use crate::sink::{kafka, webhook};
use crate::source::{self, Pace, SourceConfig};

/// Why a shard's stages ended.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The ledger said so.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A source's.
    #[error(transparent)]
    Source(#[from] source::SourceError),
    /// A Kafka sink's.
    #[error(transparent)]
    Kafka(#[from] kafka::KafkaSinkError),
    /// A webhook sink's.
    #[error(transparent)]
    Webhook(#[from] webhook::WebhookSinkError),
    /// The ledger has moved, and somebody still writes for the one before.
    #[error(
        "the ledger lives in another database than before, and the instance {owner} wrote to `{topic}` {seconds} s ago: \
         this is a copy beside its original, or the other one still runs. Nothing is polled, recorded or delivered. Stop \
         one of them: this one goes on by itself when the other has been silent for two lease times, or at once with \
         `standpipe run --adopt`"
    )]
    Copy {
        /// The cursor topic.
        topic: String,
        /// The other instance.
        owner: uuid::Uuid,
        /// How long ago it wrote.
        seconds: i64,
    },
    /// A stage ended that should not have.
    #[error("{task} ended on its own: {why}")]
    Ended {
        /// Which.
        task: String,
        /// How.
        why: String,
    },
}

/// What the shard's supervisor does about a [`StageError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageDisposition {
    /// Start the stages anew, soon.
    Restart,
    /// Give the shard up and stand back.
    StandDown,
    /// End the process with 1.
    Exit,
}

impl StageError {
    /// What to do about it.
    #[must_use]
    pub const fn disposition(&self) -> StageDisposition {
        match self {
            Self::Ledger(error) => Self::of_ledger(error.disposition()),
            Self::Source(error) => Self::of_ledger(error.disposition()),
            Self::Webhook(error) => Self::of_ledger(error.disposition()),
            Self::Kafka(error) => match error.disposition() {
                kafka::Disposition::Exit => StageDisposition::Exit,
                kafka::Disposition::StandDown => StageDisposition::StandDown,
                kafka::Disposition::Renew
                | kafka::Disposition::Retry
                | kafka::Disposition::Halt
                | kafka::Disposition::Contend
                | kafka::Disposition::Restart => StageDisposition::Restart,
            },
            Self::Copy { .. } | Self::Ended { .. } => StageDisposition::Restart,
        }
    }

    const fn of_ledger(disposition: LedgerDisposition) -> StageDisposition {
        match disposition {
            LedgerDisposition::StandDown => StageDisposition::StandDown,
            // A refusal is tried again too: the reason may be removed while the program runs, and is logged till then.
            LedgerDisposition::Restart | LedgerDisposition::Halt => StageDisposition::Restart,
        }
    }
}

/// How the stages ended where nothing was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As asked.
    Stopped,
    /// To begin again with another configuration.
    Reload,
}

/// Pages on their way to the recorder, at most; the [`Capacity`] bounds what they hold.
const MAX_PAGES: usize = 1_024;
/// What an audit's channel holds at most.
const AUDIT_EVENTS: usize = 2_000;
const AUDIT_BYTES: u64 = 4 << 20;
/// When an owner ends, its stages get this long: what is cut off is done again from the ledger.
const ABRUPT: Duration = Duration::from_secs(3);
/// How long recording waits for the Kafka sinks to compare themselves with the ledger. One that is out of reach stops
/// neither the source nor another sink (INV-15).
const COMPARED_WITHIN: Duration = Duration::from_secs(10);

/// The stages, and the handles by which they are ended in order.
struct Stages {
    sources: Tasks<StageError>,
    recorder: Tasks<StageError>,
    sinks: Tasks<StageError>,
    stop_sources: CancellationToken,
    stop_rest: CancellationToken,
    /// Kafka sinks that have not compared themselves with the ledger yet.
    comparing: Vec<oneshot::Receiver<()>>,
    /// Whether the recorder may know where the ledger ends.
    recording: Arc<AtomicBool>,
    /// Whether the ledger has moved and not every cluster could be asked who else runs.
    moved: bool,
}

/// Runs the stages until `stop`, or until one of them ends on its own.
pub(super) async fn run<G: Ground>(
    shared: &Shared<G>,
    held: &mut Held<G::Ledger>,
    stop: &CancellationToken,
) -> Result<End, StageError> {
    let (mut stages, mine) = start(shared, held.ownership()).await?;
    // Every event of these accounts is recorded here and nowhere else now.
    let era = shared.lookups.begin(mine, held.tenure());
    // What ended the ones before is over.
    shared.health.forget(&format!("shard/{}", held.ownership().shard));
    let mut reloads = shared.reloads.clone();
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(End::Stopped),
        () = reloaded(&mut reloads) => Ok(End::Reload),
        lost = held.hold() => Err(lost.into()),
        ended = stages.ended() => Err(ended),
    };
    match ended {
        Ok(end) => {
            // The lease is held while everything drains: nobody else may write before we are done.
            tokio::select! {
                biased;
                () = stages.drain(shared.config().drain_timeout) => Ok(end),
                lost = held.hold() => Err(lost.into()),
            }
        }
        Err(error) => {
            drop(era);
            stages.cut().await;
            Err(error)
        }
    }
}

/// Waits for another configuration than the one that the stages were started with.
async fn reloaded(reloads: &mut Option<watch::Receiver<Arc<Settings>>>) {
    let changed = match reloads {
        Some(reloads) => reloads.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

/// Starts them; tells the accounts whose sources run.
async fn start<G: Ground>(shared: &Shared<G>, owner: Ownership) -> Result<(Stages, Vec<AccountName>), StageError> {
    let config = &shared.settings.config;
    let moved = copies::refuse(shared, owner).await?;
    fail::fail_point!("app::before_stages");
    let bounds = shared.ledger().bounds(owner.shard).await?;
    let fanout = Fanout::new(owner.shard, bounds.head);
    let room = Capacity::new(config.channels.events, config.channels.bytes);
    let (pages, incoming) = mpsc::channel(MAX_PAGES);
    let (backlog_full, backlog_watch) = watch::channel(false);
    let mut stages = Stages {
        sources: Tasks::default(),
        recorder: Tasks::default(),
        sinks: Tasks::default(),
        stop_sources: CancellationToken::new(),
        stop_rest: CancellationToken::new(),
        comparing: Vec::new(),
        recording: Arc::default(),
        moved,
    };
    let recent = lookups::looked_up(config).map(|(resources, max_age)| Recent::new(resources, max_age));
    if let Some(recent) = &recent {
        recent.read_back(shared.ledger(), owner.shard, bounds, shared.clock.now()).await;
    }
    let lookups: Option<Arc<dyn LookUp>> = recent.clone().map(|recent| -> Arc<dyn LookUp> {
        let vendors = shared.settings.vendors().clone();
        Arc::new(Lookups::new(recent, shared.lookups.clone(), vendors, shared.clock.clone()))
    });
    for name in config.sinks.keys() {
        spawn_sink(&mut stages, shared, owner, name, (&fanout, lookups.as_ref()));
    }

    stages.recorder.spawn("recorder", {
        let (ledger, fanout, stop) = (shared.ledger().clone(), fanout.clone(), stages.stop_rest.clone());
        let (comparing, recording) = (std::mem::take(&mut stages.comparing), stages.recording.clone());
        async move {
            compared(comparing, &stop).await;
            recording.store(true, Ordering::SeqCst);
            // Only now: a sink may have found that the ledger was rewound, and have moved its head.
            let recorder = Recorder::open(&ledger, owner).await?;
            fanout.raise(recorder.head().0);
            Ok(recorder.run(incoming, Tap { fanout, recent }, stop).await?)
        }
    });
    stages.sinks.spawn("looks", looks::run(shared.clone(), owner.shard, stages.stop_rest.clone()));
    stages.sinks.spawn("backlog", backlog::run(shared.clone(), owner, backlog_full, stages.stop_rest.clone()));
    stages.sinks.spawn("house", {
        let (ledger, config, stop) = (shared.ledger().clone(), config.clone(), stages.stop_rest.clone());
        let sinks: Vec<SinkName> = config.sinks.keys().cloned().collect();
        async move { Ok(ledger.keep_house(owner, &config.ledger, &sinks, stop).await?) }
    });
    let mut mine = Vec::new();
    for (account, vendor) in shared.settings.vendors() {
        if shared.ledger().shard_of(account).await? != owner.shard {
            continue;
        }
        mine.push(account.clone());
        let source = SourceConfig {
            deployment: config.deployment.clone(),
            account: account.clone(),
            config: config.accounts[account].clone(),
            vendor: vendor.clone(),
            book: shared.ledger().clone(),
            pages: pages.clone(),
            witness: Some(Arc::new(shared.lookups.clone())),
            room: room.clone(),
            backlog_full: backlog_watch.clone(),
            clock: shared.clock.clone(),
            status: shared.sources.clone(),
            pace: Pace::default(),
            seed: chance::rng().random(),
            stop: stages.stop_sources.clone(),
        };
        stages.sources.spawn(format!("source/{account}"), async move { Ok(source::run(source).await?) });
    }
    Ok((stages, mine))
}

/// Waits until every Kafka sink has compared itself with the ledger, or could not, for a while: what is recorded before a
/// sink has found the ledger rewound gets seqs that Kafka has used, and must reach that sink as replays.
async fn compared(comparing: Vec<oneshot::Receiver<()>>, stop: &CancellationToken) {
    let all = async {
        for one in comparing {
            // Nothing is sent: it is dropped.
            one.await.unwrap_or_default();
        }
    };
    if let Some(Err(_)) = stop.run_until_cancelled(tokio::time::timeout(COMPARED_WITHIN, all)).await {
        tracing::warn!("a Kafka sink could not compare itself with the ledger yet: recording goes on without it");
    }
}

fn spawn_sink<G: Ground>(
    stages: &mut Stages,
    shared: &Shared<G>,
    owner: Ownership,
    name: &SinkName,
    (fanout, lookups): (&Fanout, Option<&Arc<dyn LookUp>>),
) {
    let config = &shared.config().sinks[name];
    let channels = shared.config().channels;
    let feed = fanout.feed(name, Capacity::new(channels.events, channels.bytes), shared.ledger().clone());
    let route: Arc<dyn crate::event::ports::Route> = shared.settings.rules[name].clone();
    let (book, clock, stop) = (shared.ledger().clone(), shared.clock.clone(), stages.stop_rest.clone());
    let enricher = lookups.and_then(|lookups| Enricher::of(&*route, lookups, name, owner.shard, &clock));
    let task = format!("sink/{name}");
    match &config.kind {
        SinkKind::Kafka(kafka) => {
            let (compared, comparing) = oneshot::channel();
            stages.comparing.push(comparing);
            let ttl = shared.config().ledger.lease_ttl;
            let mut runner = kafka::Runner::new(Some(shared.instance), shared.adopt, ttl);
            runner.compared = Some(compared);
            runner.recording = stages.recording.clone();
            runner.moved = stages.moved;
            let sink = kafka::KafkaSink {
                name: name.clone(),
                deployment: shared.config().deployment.clone(),
                ledger: shared.ledger().id(),
                shards: shared.config().ledger.shards,
                owner,
                config: kafka.clone(),
                start: config.start,
                dead_letter_retention: config.dead_letter_retention,
                route,
                enricher,
                feed,
                book,
                runner,
                clock,
                stop,
            };
            let settings = Arc::new(sink.settings());
            if shared.config().audit.enabled {
                spawn_audit(stages, shared, owner, name, fanout, settings.clone());
            }
            let cluster = shared.ground.cluster(settings.clone());
            stages.sinks.spawn(task, async move { Ok(kafka::run_on(sink, settings, cluster).await?) });
        }
        SinkKind::Webhook(webhook) => {
            let sink = webhook::WebhookSink {
                name: name.clone(),
                ownership: owner,
                config: webhook.clone(),
                start: config.start,
                dead_letter_retention: config.dead_letter_retention,
                route,
                enricher,
                feed,
                deliveries: book.clone(),
                book,
                clock,
                stop,
            };
            let transport = shared.ground.transport();
            stages.sinks.spawn(task, async move { Ok(webhook::run_on(sink, transport).await?) });
        }
    }
}

/// The audit of a Kafka sink takes events as a sink does, and less of them at once: it may be slower.
fn spawn_audit<G: Ground>(
    stages: &mut Stages,
    shared: &Shared<G>,
    owner: Ownership,
    name: &SinkName,
    fanout: &Fanout,
    settings: Arc<kafka::Settings>,
) {
    let channel = SinkName::from(format!("{name}/audit"));
    let feed = fanout.feed(&channel, Capacity::new(AUDIT_EVENTS, AUDIT_BYTES), shared.ledger().clone());
    let audit = kafka::Audit { settings, owner, feed, book: shared.ledger().clone(), stop: stages.stop_rest.clone() };
    stages.sinks.spawn(format!("audit/{name}"), async move {
        kafka::audit(audit).await;
        Ok(())
    });
}

impl Stages {
    /// Waits for a stage to end, which none does by itself.
    async fn ended(&mut self) -> StageError {
        let ended = tokio::select! {
            biased;
            Some(ended) = self.sources.next_ended() => ended,
            Some(ended) = self.recorder.next_ended() => ended,
            Some(ended) = self.sinks.next_ended() => ended,
            else => (None, Ended::Abnormally("there is no stage left".to_owned())),
        };
        match ended {
            (_, Ended::With(Err(error))) => error,
            (name, Ended::With(Ok(()))) => unasked(name.as_deref(), "without being asked"),
            (name, Ended::Abnormally(why)) => unasked(name.as_deref(), why),
        }
    }

    /// Ends them in the data's order, within `drain_timeout` in all.
    async fn drain(self, drain_timeout: Duration) {
        let deadline = Instant::now() + drain_timeout;
        self.stop_sources.cancel();
        drained("sources", &self.sources.drain(deadline, told).await);
        fail::fail_point!("app::after_sources");
        // The sources held the channel open: now it closes, and the recorder ends when it has recorded what is in it.
        drained("recorder", &self.recorder.drain(deadline, told).await);
        fail::fail_point!("app::after_recorder");
        self.stop_rest.cancel();
        drained("sinks", &self.sinks.drain(deadline, told).await);
        fail::fail_point!("app::after_sinks");
    }

    /// Ends them all at once.
    async fn cut(self) {
        self.stop_sources.cancel();
        self.stop_rest.cancel();
        let deadline = Instant::now() + ABRUPT;
        tokio::join!(
            self.sources.drain(deadline, told),
            self.recorder.drain(deadline, told),
            self.sinks.drain(deadline, told),
        );
    }
}

fn unasked(task: Option<&str>, why: impl Display) -> StageError {
    StageError::Ended { task: task.unwrap_or("a stage").to_owned(), why: why.to_string() }
}

fn told(task: Option<&str>, ended: Ended<StageError>) {
    match ended {
        Ended::With(Ok(())) => {}
        Ended::With(Err(error)) => {
            tracing::warn!(task, error = &error as &dyn std::error::Error, "a stage failed while it ended");
        }
        Ended::Abnormally(why) => tracing::error!(task, why, "a stage ended abnormally"),
    }
}

fn drained(what: &'static str, late: &[Arc<str>]) {
    if !late.is_empty() {
        tracing::warn!(what, stragglers = late.join(", "), "cut off by the drain's deadline");
    }
}
