//! `standpipe demo`: everything that the pipe needs, in one process and one temporary directory that is gone at the
//! end.
//!
//! A simulated Sell, an embedded PostgreSQL, librdkafka's mock cluster (unless brokers are given), a webhook receiver
//! that verifies signatures and a consumer that reads the topics stand around the daemon, which runs by the same code
//! path as `standpipe run`, from an ordinary configuration file.

mod consumer;
mod gauges;
mod receiver;
mod screen;
mod seen;
mod setup;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt;
use rand::distr::Alphanumeric;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::receiver::Receiver;
use self::screen::{Hints, Scene, Screen};
use self::seen::Seen;
use self::setup::{Place, Settings, address, mock_topics};
use super::tasks::{Ended, Tasks};
use super::{Program, RunDisposition, RunError, rules};
use crate::clock::Clock;
use crate::config::{self, ConfigErrors};
use crate::embedded::{EmbeddedError, EmbeddedPostgres, MockKafka};
use crate::simulator::{self, Simulator, SimulatorError};
use crate::telemetry::causes;
use crate::telemetry::logging::Logging;
use crate::telemetry::recorder::Recorder;

/// What the demo can be asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Real brokers instead of the mock cluster.
    pub brokers: Option<String>,
    /// The simulator's seed: the same seed tells the same story.
    pub seed: u64,
    /// Events a second.
    pub rate: f64,
    /// Lines instead of a block that is redrawn.
    pub plain: bool,
    /// How this program was called, for the commands to try.
    pub program: String,
}

/// Why the demo ended.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Its directory, a port or the terminal cannot be used.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The simulator does not start.
    #[error(transparent)]
    Simulator(#[from] SimulatorError),
    /// The mock cluster does not start.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The configuration that it wrote does not hold: an error of ours.
    #[error("the demo's configuration does not hold: {0}")]
    Configuration(#[from] ConfigErrors),
    /// The daemon ended.
    #[error(transparent)]
    Daemon(Box<RunError>),
    /// Another part ended.
    #[error("the demo's {part} ended: {why}")]
    Part {
        /// Which.
        part: String,
        /// Why.
        why: String,
    },
}

/// What kind of trouble a [`DemoError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemoDisposition {
    /// The program's own.
    Runtime,
    /// The surroundings'.
    Environment,
}

impl DemoError {
    /// What kind of trouble it is. There is no configuration of a person's that could be wrong.
    #[must_use]
    pub const fn disposition(&self) -> DemoDisposition {
        match self {
            Self::Configuration(_) | Self::Part { .. } => DemoDisposition::Runtime,
            Self::Io { .. } | Self::Embedded(_) | Self::Simulator(_) => DemoDisposition::Environment,
            Self::Daemon(error) => match error.disposition() {
                RunDisposition::Environment => DemoDisposition::Environment,
                RunDisposition::Runtime | RunDisposition::Configuration => DemoDisposition::Runtime,
            },
        }
    }
}

impl From<RunError> for DemoError {
    fn from(error: RunError) -> Self {
        Self::Daemon(Box::new(error))
    }
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> DemoError {
    move |source| DemoError::Io { doing, source }
}

/// How long the end of everything may take: a person who pressed Ctrl-C waits for it.
const END_WITHIN: Duration = Duration::from_secs(8);
/// How long a database that was cut off may take to end.
const DATABASE_WITHIN: Duration = Duration::from_secs(2);
/// Events that happened before the demo.
const BACKLOG: u64 = 500;
const TICK: Duration = Duration::from_secs(1);
const TOPICS: &str = "topics";
const DEALS: &str = "deals";
/// What the mock cluster is not.
const BROKER_CAVEAT: &str = "The broker is a demo broker in this process: it does not hide aborted transactions.";

/// Everything that stands around the daemon.
struct Stage {
    // Fields are dropped in this order: the directory goes last.
    kafka: Option<MockKafka>,
    brokers: String,
    topic_prefix: String,
    config_file: PathBuf,
    state_dir: PathBuf,
    program: Program,
    place: Place,
}

/// Runs until `stop`, or until a part of it ends on its own.
pub async fn run(options: Options, metrics: Recorder, stop: CancellationToken) -> Result<(), DemoError> {
    let mut screen = Screen::new(options.plain);
    let seen = Arc::new(Seen::default());
    let around = CancellationToken::new();
    let mut tasks = Tasks::<String>::default();
    let stage = Stage::build(&options, &screen, &seen, &mut tasks, metrics, &around).await?;
    let (brokers, prefix) = (stage.brokers.clone(), stage.topic_prefix.clone());
    let reader = consumer::read_topics(brokers, prefix, Arc::clone(&seen), around.clone());
    tasks.spawn("consumer", async move { reader.await.map_err(|error| causes(&error)) });

    let daemon_stop = CancellationToken::new();
    let mut daemon = Box::pin(super::run(stage.program.clone(), daemon_stop.clone()));
    let unseen = |error| Watched::Failed(io_error("write to the terminal")(error));
    let watched = if let Err(error) = screen.begin(stage.hints(&options)) {
        unseen(error)
    } else {
        tokio::select! {
            () = stop.cancelled() => Watched::Stopped,
            result = &mut daemon => Watched::Ended(result),
            Some((name, ended)) = tasks.next_ended() => Watched::Failed(part_ended(name.as_deref(), ended)),
            error = show(&mut screen, &stage, &seen) => unseen(error),
        }
    };
    // A terminal that is gone must not keep the rest from ending.
    drop(screen.end());

    // The daemon first, while everything that it drains to is still there.
    let deadline = Instant::now() + END_WITHIN;
    daemon_stop.cancel();
    let result = match watched {
        Watched::Ended(result) => result.map_err(DemoError::from),
        Watched::Failed(error) => {
            drop(tokio::time::timeout_at(deadline, &mut daemon).await);
            Err(error)
        }
        Watched::Stopped => tokio::time::timeout_at(deadline, &mut daemon).await.unwrap_or(Ok(())).map_err(Into::into),
    };
    drop(daemon);
    around.cancel();
    let late = tasks.drain(deadline, |name, ended| tracing::warn!(task = name, ?ended, "failed at the end")).await;
    if !late.is_empty() {
        tracing::warn!(stragglers = late.join(", "), "cut off");
    }
    stage.end(deadline + DATABASE_WITHIN).await?;
    result
}

/// How the demo came to its end.
enum Watched {
    Stopped,
    Ended(Result<(), RunError>),
    Failed(DemoError),
}

/// Shows how things stand, again and again; ends only when it cannot.
async fn show(screen: &mut Screen, stage: &Stage, seen: &Seen) -> io::Error {
    let began = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        let mut scene = Scene { running_for: began.elapsed(), counts: seen.look(), ..Scene::default() };
        let sinks = [(TOPICS, "kafka"), (DEALS, "webhook")];
        gauges::read(&stage.program.metrics.render(), &sinks, &mut scene);
        if let Err(error) = screen.show(&scene) {
            return error;
        }
    }
}

/// Keeps the simulator until it is asked to end.
async fn live(mut sell: Simulator, around: CancellationToken) -> Result<(), String> {
    tokio::select! {
        () = around.cancelled() => {}
        part = sell.ended() => return Err(format!("its {part} ended")),
    }
    sell.stop(Duration::from_secs(1)).await;
    Ok(())
}

fn part_ended(name: Option<&str>, ended: Ended<String>) -> DemoError {
    let why = match ended {
        Ended::With(Ok(())) => "without being asked".to_owned(),
        Ended::With(Err(why)) | Ended::Abnormally(why) => why,
    };
    DemoError::Part { part: name.unwrap_or("task").to_owned(), why }
}

impl Stage {
    async fn build(
        options: &Options,
        screen: &Screen,
        seen: &Arc<Seen>,
        tasks: &mut Tasks<String>,
        metrics: Recorder,
        around: &CancellationToken,
    ) -> Result<Self, DemoError> {
        let step = |text: String| screen.step(&text).map_err(io_error("write to the terminal"));
        let clock = Clock::system();
        let name = random(8);
        let place = Place::make(&format!("standpipe-demo-{name}")).map_err(io_error("make the demo's directory"))?;
        let logs = if screen.is_terminal() {
            let file = std::fs::File::create(place.file("log")).map_err(io_error("make the demo's directory"))?;
            Logging::install_into("info,sqlx=warn", file)
        } else {
            Logging::install_plain("warn,sqlx=error")
        };
        drop(logs.inspect_err(|error| tracing::debug!(%error, "logs go where they went before")));
        let state_dir = place.state_dir().map_err(io_error("make the demo's directory"))?;

        let listen = address(8088).map_err(io_error("find a free port"))?;
        let asked = simulator::Options {
            listen,
            seed: options.seed,
            rate: options.rate,
            backlog: BACKLOG,
            ..simulator::Options::default()
        };
        let sell = simulator::start(asked, clock.clone()).await?;
        let sell_url = sell.url();
        tasks.spawn("simulator", live(sell, around.clone()));
        step(format!("a simulated Sell at {sell_url}: seed {}, {} events a second", options.seed, options.rate))?;

        // On brokers that others use, nothing of the demo may look like theirs.
        let (deployment, topic_prefix) = match options.brokers {
            None => ("demo".to_owned(), "sell.".to_owned()),
            Some(_) => (format!("demo-{}", name.to_lowercase()), format!("demo-{}.", name.to_lowercase())),
        };
        let kafka = match options.brokers {
            None => Some(MockKafka::start(&mock_topics(&deployment, &topic_prefix))?),
            Some(_) => None,
        };
        let brokers = options.brokers.clone().or_else(|| kafka.as_ref().map(|kafka| kafka.bootstrap().to_owned()));
        let brokers = brokers.unwrap_or_default();
        step(format!("{} at {brokers}", if kafka.is_some() { "a demo Kafka broker" } else { "Kafka" }))?;

        let key: [u8; 32] = rand::rng().random();
        let receiver = Receiver::bind(key.to_vec(), clock.clone(), Arc::clone(seen));
        let receiver = receiver.await.map_err(io_error("open the webhook receiver"))?;
        step(format!("a webhook receiver, for events of deals, that verifies signatures at {}", receiver.url()))?;

        let write = |name: &str, text: &str| place.write(name, text).map_err(io_error("write the configuration"));
        let settings = Settings {
            deployment: &deployment,
            state_dir: &state_dir,
            listen: address(8080).map_err(io_error("find a free port"))?,
            metrics_listen: address(9464).map_err(io_error("find a free port"))?,
            sell: sell_url,
            token_file: &write("sell-token", &random(64))?,
            brokers: &brokers,
            topic_prefix: &topic_prefix,
            webhook: receiver.url(),
            secret_file: &write("webhook-secret", &format!("whsec_{}", STANDARD.encode(key)))?,
        };
        let config_file = write("standpipe.toml", &settings.to_toml())?;
        let loaded = config::load(std::slice::from_ref(&config_file), [], &[])?;
        let rules = rules::compile(&loaded.config)?;
        let serving = receiver.serve(around.clone());
        tasks.spawn("webhook receiver", async move { serving.await.map_err(|error| error.to_string()) });
        step("the daemon, with a PostgreSQL of its own".to_owned())?;
        let (config, rules) = (Arc::new(loaded.config), Arc::new(rules));
        let notice = kafka.as_ref().map(|_| BROKER_CAVEAT);
        let program = Program { config, rules, metrics, clock, adopt: false, reloads: None, notice };
        Ok(Self { kafka, brokers, topic_prefix, config_file, state_dir, program, place })
    }

    fn hints(&self, options: &Options) -> Hints {
        let server = &self.program.config.server;
        let (program, config) = (&options.program, self.config_file.display());
        Hints {
            broker: if self.kafka.is_some() {
                vec![BROKER_CAVEAT.to_owned(), "--brokers HOST:PORT takes a real one.".to_owned()]
            } else {
                vec![format!("The topics {}* are new, and stay on the brokers.", self.topic_prefix)]
            },
            console: format!("http://{}/console", server.listen),
            commands: vec![
                format!("{program} status --config {config}"),
                format!("{program} tail --config {config}"),
                format!("kcat -b {} -C -t {}deal -o beginning -e", self.brokers, self.topic_prefix),
                format!("curl http://{}/metrics", server.metrics_listen),
            ],
        }
    }

    /// Leaves nothing behind.
    async fn end(self, deadline: Instant) -> Result<(), DemoError> {
        // Where the daemon was cut off its database may still be ending.
        if tokio::time::timeout_at(deadline, EmbeddedPostgres::end_at(&self.state_dir)).await.is_err() {
            tracing::warn!("the database does not end in time");
        }
        drop(self.kafka);
        self.place.remove().map_err(io_error("remove the demo's directory"))
    }
}

fn random(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}
