//! `standpipe run`, from the configuration to the last drained task.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ground::{Ground, Real};
use super::health::{Health, Readiness};
use super::instance::{Instance, InstanceError};
use super::open::{self, OpenLedgerError};
use super::shard::{self, Shared};
use super::stages::StageError;
use super::tasks::{Ended, Tasks};
use super::vitals::ProgramVitals;
use super::{budgets, grants, pages, signals};
use crate::admin::{self, Keys};
use crate::clock::Clock;
use crate::config::{Config, SecretError, SinkKind};
use crate::event::{AccountName, SinkName};
use crate::ledger::OwnerBook as _;
use crate::lookup::Lookups;
use crate::route::Rules;
use crate::sell::{SellError, Vendor};
use crate::sink::{self, kafka};
use crate::source::SourceStatus;
use crate::telemetry::recorder::Recorder;
use crate::telemetry::series;

/// Brokers get this long even when the ledger took all of `startup_timeout`.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// At the end, an exchange of a refresh token that is under way gets this long: cut off, it costs a new authorization.
const LAST_EXCHANGE: Duration = Duration::from_secs(5);

/// What `run` needs.
#[derive(Clone, Debug)]
pub struct Program {
    /// The validated configuration.
    pub config: Arc<Config>,
    /// The rules of its sinks.
    pub rules: Arc<IndexMap<SinkName, Arc<Rules>>>,
    /// The recorder behind `/metrics`.
    pub metrics: Recorder,
    /// Wall-clock time.
    pub clock: Clock,
    /// Whether an operator has said that nothing else uses the ledger and its topics: a copy is taken for the original.
    pub adopt: bool,
    /// Configurations that replace the first one while it runs; none where it is never reloaded.
    pub reloads: Option<watch::Receiver<Arc<Settings>>>,
    /// What the page at `/console` says before anything else.
    pub notice: Option<&'static str>,
}

impl Program {
    /// The configuration as it stands after the last reload.
    pub(super) fn config_now(&self) -> Arc<Config> {
        self.reloads.as_ref().map_or_else(|| self.config.clone(), |settings| settings.borrow().config.clone())
    }
}

/// What a reload may replace: the accounts and the sinks, with everything about them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The validated configuration.
    pub config: Arc<Config>,
    /// The rules of its sinks.
    pub rules: Arc<IndexMap<SinkName, Arc<Rules>>>,
    vendors: IndexMap<AccountName, Vendor>,
}

impl Settings {
    /// Makes the vendors' clients, whose budgets are shared with other replicas; fails when a credential cannot be read.
    pub fn new(
        config: Arc<Config>,
        rules: Arc<IndexMap<SinkName, Arc<Rules>>>,
        clock: &Clock,
    ) -> Result<Self, SellError> {
        let vendors = config
            .accounts
            .iter()
            .map(|(name, account)| {
                let vendor = Vendor::new(name, account, clock.clone())?;
                // From its first request on: there may be other replicas.
                vendor.budget().share();
                Ok((name.clone(), vendor))
            })
            .collect::<Result<_, SellError>>()?;
        Ok(Self::over(config, rules, vendors))
    }

    /// With vendors' clients of one's own.
    #[must_use]
    pub const fn over(
        config: Arc<Config>,
        rules: Arc<IndexMap<SinkName, Arc<Rules>>>,
        vendors: IndexMap<AccountName, Vendor>,
    ) -> Self {
        Self { config, rules, vendors }
    }

    /// Each account's way to its vendor.
    pub(super) const fn vendors(&self) -> &IndexMap<AccountName, Vendor> {
        &self.vendors
    }
}

/// Why `run` ended on its own.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// `state_dir` cannot be used.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// A listener cannot be opened.
    #[error("cannot listen on {address} (server.{key}): {source}")]
    Listen {
        /// The configuration key below `server`.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A key's secret file cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// An account's client cannot be made.
    #[error(transparent)]
    Vendor(#[from] SellError),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] OpenLedgerError),
    /// A sink's brokers are not there in time.
    #[error("the brokers of sink {sink} are not within reach: {source}")]
    Brokers {
        /// The sink.
        sink: SinkName,
        /// What the last try said.
        #[source]
        source: kafka::KafkaSinkError,
    },
    /// A part of the program that must not end did.
    #[error("{task} ended: {why}")]
    Ended {
        /// Which.
        task: String,
        /// How.
        why: String,
    },
}

/// What kind of trouble a [`RunError`] is: the exit code is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunDisposition {
    /// The program's own: 1.
    Runtime,
    /// The configuration's: 2.
    Configuration,
    /// The surroundings': 3.
    Environment,
}

impl RunError {
    /// What kind of trouble it is.
    #[must_use]
    pub const fn disposition(&self) -> RunDisposition {
        match self {
            Self::Secret(_) | Self::Vendor(_) => RunDisposition::Configuration,
            Self::Instance(_) | Self::Listen { .. } | Self::Brokers { .. } => RunDisposition::Environment,
            Self::Ledger(error) => error.disposition(),
            Self::Ended { .. } => RunDisposition::Runtime,
        }
    }
}

/// Runs until `stop` is cancelled, then drains within `drain_timeout`.
///
/// A stop during the start ends it with success: nothing was accepted that could be lost.
pub async fn run(program: Program, stop: CancellationToken) -> Result<(), RunError> {
    let config = program.config.clone();
    let instance = Instance::take(&config.state_dir)?;
    series::configured(&config);
    let health = Health::default();
    health.note("start", Readiness::Unready, "starting");
    let metrics_listener = listen("metrics_listen", config.server.metrics_listen).await?;
    let listener = listen("listen", config.server.listen).await?;
    let keys = Keys::new(&config.server.keys)?;
    let settings = Arc::new(Settings::new(config.clone(), program.rules.clone(), &program.clock)?);
    let sources = SourceStatus::default();

    // The side doors stay open until everything else has ended: a drain can be watched.
    let doors = CancellationToken::new();
    let mut servers = Tasks::<std::convert::Infallible>::default();
    let vitals =
        Arc::new(ProgramVitals { health: health.clone(), sources: sources.clone(), metrics: program.metrics.clone() });
    spawn_server(&mut servers, "metrics listener", metrics_listener, admin::vitals(vitals), &doors);
    let upkeep = program.metrics.clone().upkeep(doors.clone());
    servers.spawn("metrics upkeep", async move {
        upkeep.await;
        Ok(())
    });

    let opened = tokio::select! {
        () = stop.cancelled() => None,
        opened = open_all(&program, &health) => Some(opened?),
    };
    let result = match opened {
        None => Ok(()),
        Some(opened) => {
            // Of a program that is never reloaded only the first are ever seen.
            let current = program.reloads.clone().unwrap_or_else(|| watch::channel(settings.clone()).1);
            let lookups = Lookups::new(&config.passthrough);
            let pages = pages::router(&program, &opened.ledger, &health, (current.clone(), lookups.clone()), &keys);
            spawn_server(&mut servers, "listener", listener, pages, &doors);
            let spent = CancellationToken::new();
            let mut budgets = Tasks::<std::convert::Infallible>::default();
            let no_more = stop.child_token();
            let mut grants = Tasks::<std::convert::Infallible>::default();
            grants.spawn("grants", {
                // From the stop on none is begun: the tokens that there are last for a drain.
                let (ledger, health, stop) = (opened.ledger.clone(), health.clone(), no_more.clone());
                let current = current.clone();
                async move {
                    grants::run(ledger, current, health, stop).await;
                    Ok(())
                }
            });
            budgets.spawn("budgets", {
                let (ledger, spent) = (opened.ledger.clone(), spent.clone());
                async move {
                    budgets::run(ledger, current, spent).await;
                    Ok(())
                }
            });
            let watchdog = signals::feed_watchdog(|| Ok(()), doors.clone());
            servers.spawn("watchdog", async move {
                watchdog.await;
                Ok(())
            });
            let shared = Shared {
                settings: settings.clone(),
                reloads: program.reloads.clone(),
                ground: Real(opened.ledger.clone()),
                instance: instance.id,
                adopt: program.adopt,
                lookups,
                sources: sources.clone(),
                health: health.clone(),
                clock: program.clock.clone(),
            };
            health.forget("start");
            signals::notify(&NotifyState::Ready);
            tracing::info!(
                deployment = config.deployment,
                ledger = %opened.ledger.id(),
                listen = %config.server.listen,
                metrics_listen = %config.server.metrics_listen,
                "running"
            );
            let mut opened = opened;
            let result = shards(shared, config.drain_timeout, opened.database_ended(), stop).await;
            no_more.cancel();
            let late = grants.drain(Instant::now() + LAST_EXCHANGE, |_, _| {}).await;
            if !late.is_empty() {
                tracing::warn!("the exchange of a refresh token was cut off: the account may need a new authorization");
            }
            // What is held of the budgets is given back while there is a ledger.
            spent.cancel();
            budgets.drain(Instant::now() + Duration::from_secs(1), |_, _| {}).await;
            opened.close().await;
            result
        }
    };
    doors.cancel();
    servers.drain(Instant::now() + Duration::from_secs(3), |_, _| {}).await;
    drop(instance);
    result
}

fn spawn_server(
    servers: &mut Tasks<std::convert::Infallible>,
    name: &'static str,
    listener: TcpListener,
    router: axum::Router,
    doors: &CancellationToken,
) {
    let doors = doors.clone();
    servers.spawn(name, async move {
        admin::serve(listener, router, doors).await;
        Ok(())
    });
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { key, address, source })
}

/// Everything that must be within reach before the pipe runs.
async fn open_all(program: &Program, health: &Health) -> Result<open::Opened, RunError> {
    let config = &program.config;
    let deadline = Instant::now() + config.startup_timeout;
    health.note("start", Readiness::Unready, "waiting for the ledger");
    let opened = open::ledger(config, deadline).await?;
    for (name, sink) in &config.sinks {
        let SinkKind::Kafka(kafka) = &sink.kind else { continue };
        health.note("start", Readiness::Unready, format!("waiting for the brokers of sink {name}"));
        let left = deadline.saturating_duration_since(Instant::now()).max(LEAST_PATIENCE);
        sink::kafka::reach(&config.deployment, name, kafka, left)
            .await
            .map_err(|source| RunError::Brokers { sink: name.clone(), source })?;
    }
    Ok(opened)
}

/// One supervisor a shard, until `stop`, until one of them says that the process must end, or until `database_ended`.
pub async fn shards<G: Ground>(
    shared: Shared<G>,
    drain_timeout: Duration,
    database_ended: impl Future<Output = String>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let stop = stop.child_token();
    let mut tasks = Tasks::<StageError>::default();
    for shard in shared.ledger().shards() {
        tasks.spawn(format!("shard/{shard}"), shard::supervise(shared.clone(), shard, stop.clone()));
    }
    let ended = tokio::select! {
        // First: a supervisor that ends because it was asked to is not one that ends by itself.
        biased;
        () = stop.cancelled() => None,
        ended = tasks.next_ended() => ended,
        why = database_ended => Some((Some("the embedded PostgreSQL".into()), Ended::Abnormally(why))),
    };
    let deadline = Instant::now() + drain_timeout;
    signals::notify(&NotifyState::Stopping);
    shared.health.note("drain", Readiness::Unready, "draining");
    stop.cancel();
    let late =
        tasks.drain(deadline, |name, ended| tracing::error!(task = name, ?ended, "a task failed while draining")).await;
    if late.is_empty() {
        tracing::info!("drained");
    } else {
        tracing::warn!(
            stragglers = late.join(", "),
            ?drain_timeout,
            "not drained in time; what is cut off is done again from the ledger"
        );
    }
    match ended {
        Some((name, ended)) => Err(RunError::Ended {
            task: name.map_or_else(|| "a shard".to_owned(), |name| name.to_string()),
            why: match ended {
                Ended::With(Ok(())) => "without being asked".to_owned(),
                Ended::With(Err(error)) => error.to_string(),
                Ended::Abnormally(why) => why,
            },
        }),
        None => Ok(()),
    }
}
