//! One run: a pipe, ours or the bare one, between a vendor and the far ends, from its first event to its last.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Pid;
use serde::Serialize;
use standpipe::event::ports::Dialect;
use tokio::time::{Instant, timeout};

use crate::bare::{Order, Told, Work};
use crate::events::CONTACTS;
use crate::ground::{Ground, peak_rss};
use crate::outside::{Consumer, Receiver, make_topics};
use crate::support::keeper::{self, Process};
use crate::support::program::Daemon;
use crate::tally::Tally;
use crate::vendor::{Story, Vendor};

/// A run that takes longer is broken.
const LIMIT: Duration = Duration::from_mins(10);
const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// Whose pipe it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    Ours,
    Bare,
}

/// What one run is.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub story: Story,
    /// Events of a page.
    pub page: u64,
    /// Kafka sinks.
    pub kafka: u64,
    pub webhooks: bool,
    /// The sinks begin behind what the ledger has already.
    pub from_now: bool,
    /// What the vendor speaks; streams of the live one are named.
    pub dialect: Dialect,
    /// The sinks look a contact up for every event.
    pub looks_up: bool,
}

/// What they look up.
const LOOKUP: &str = "lookup = \"contacts\"\nid = \"data.deal.contact_id\"\nas = \"contact\"\n\
                      fields = [\"id\", \"name\", \"email\"]\nmax_age = \"1h\"\n";

impl Scene {
    /// One stream into what is chosen.
    pub const fn new(story: Story, page: u64, kafka: u64, webhooks: bool) -> Self {
        Self { story, page, kafka, webhooks, from_now: false, dialect: Dialect::Reference, looks_up: false }
    }
}

/// What a run costs and brings.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// Events a second, from a tenth of them to all.
    pub rate: f64,
    /// Microseconds of CPU for each event, by group of processes.
    pub cpu: BTreeMap<&'static str, f64>,
    /// The pipe's process, MB.
    pub peak_rss: f64,
    /// Milliseconds from "page answered": p50 and p99; of timed runs.
    pub latency: Option<[f64; 2]>,
}

impl Measured {
    /// Says it while the bench goes on.
    pub fn tell(&self, who: &str) {
        eprintln!("  {who}: {:.0} events/s, {:.0} MB, {:.1?}", self.rate, self.peak_rss, self.cpu);
    }
}

/// A pipe that runs.
pub enum Pipe {
    Ours(Daemon),
    Bare(Process),
}

impl Pipe {
    pub fn pid(&self) -> Pid {
        match self {
            Self::Ours(daemon) => daemon.process.pid(),
            Self::Bare(process) => process.pid(),
        }
    }

    fn log(&self) -> String {
        match self {
            Self::Ours(daemon) => daemon.process.log_tail(),
            Self::Bare(process) => process.log_tail(),
        }
    }
}

/// Everything of a run that is there before the pipe starts.
pub struct Stage {
    pub database: String,
    pub name: String,
    pub topics: Vec<String>,
    pub vendor: Vendor,
    pub in_kafka: Arc<Tally>,
    pub posted: Arc<Tally>,
    receiver: Receiver,
    _consumer: Option<Consumer>,
    epoch: Instant,
}

impl Stage {
    pub async fn new(ground: &Ground, scene: &Scene) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let epoch = Instant::now();
        let vendor = Vendor::start(scene.story, epoch).await;
        let events = scene.story.streams * scene.story.distinct;
        let timed = scene.story.pace.is_some();
        let topics: Vec<String> = (0..scene.kafka).map(|sink| format!("{name}.{sink}.deal")).collect();
        let in_kafka = Arc::new(Tally::new(events, scene.kafka.max(1), timed, epoch));
        let posted = Arc::new(Tally::new(events, 1, timed, epoch));
        let consumer = if topics.is_empty() {
            None
        } else {
            make_topics(&ground.kafka.brokers(), &topics).await;
            Some(Consumer::start(&ground.kafka.brokers(), &topics, in_kafka.clone()))
        };
        let receiver = Receiver::start(posted.clone()).await;
        let database = ground.postgres.database().await;
        Self { database, name, topics, vendor, in_kafka, posted, receiver, _consumer: consumer, epoch }
    }

    /// Starts a pipe.
    pub fn start(&self, ground: &Ground, scene: &Scene, whose: Whose) -> Pipe {
        match whose {
            Whose::Ours => Pipe::Ours(Daemon::start(&self.name, &self.configuration(ground, scene))),
            Whose::Bare => Pipe::Bare(start_bare(&Order {
                work: Work::Pipe,
                ledger: self.database.clone(),
                vendor: self.vendor.port(),
                page: scene.page,
                brokers: ground.kafka.brokers(),
                topic: self.topics.first().cloned(),
                receiver: scene.webhooks.then(|| self.receiver.port()),
                events: 0,
            })),
        }
    }

    fn configuration(&self, ground: &Ground, scene: &Scene) -> String {
        let mut text = format!(
            "deployment = \"{}\"\n[ledger]\nurl = \"{}\"\n[accounts.acme]\nbase_url = \"http://127.0.0.1:{}\"\n\
             token = \"t\"\npage_limit = {}\nrequests_per_minute = 10000000\nrequests_per_hour = 600000000\n",
            self.name,
            self.database,
            self.vendor.port(),
            scene.page
        );
        writeln!(text, "dialect = \"{}\"", scene.dialect.as_str()).expect("text");
        if scene.dialect == Dialect::Live {
            let streams: Vec<String> = (0..scene.story.streams).map(|stream| format!("\"s{stream}\"")).collect();
            writeln!(text, "streams = [{}]", streams.join(", ")).expect("text");
        }
        for (sink, topic) in self.topics.iter().take(usize::try_from(scene.kafka).expect("a few")).enumerate() {
            let (brokers, start) = (ground.kafka.brokers(), if scene.from_now { "now" } else { "oldest" });
            write!(text, "[sinks.kafka{sink}]\ntype = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"{topic}\"\nstart = \"{start}\"\n")
                .expect("text");
            text += &ground.properties;
            if scene.looks_up {
                write!(text, "[[sinks.kafka{sink}.enrich]]\n{LOOKUP}").expect("text");
            }
        }
        if scene.webhooks {
            write!(
                text,
                "[sinks.ops]\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{}/hook\"\nsecret = \"{SECRET}\"\n\
                 allow_http = true\nallow_networks = [\"127.0.0.0/8\"]\n",
                self.receiver.port()
            )
            .expect("text");
            if scene.looks_up {
                write!(text, "[[sinks.ops.enrich]]\n{LOOKUP}").expect("text");
            }
        }
        text
    }

    /// Gives the disk back.
    pub async fn end(self, ground: &Ground) {
        ground.postgres.drop_database(&self.database).await;
    }

    /// The places where events are awaited.
    fn awaited(&self, scene: &Scene) -> Vec<&Arc<Tally>> {
        let kafka = (scene.kafka > 0).then_some(&self.in_kafka);
        kafka.into_iter().chain(scene.webhooks.then_some(&self.posted)).collect()
    }

    /// Follows a pipe to its last event.
    pub async fn follow(&self, ground: &Ground, scene: &Scene, pipe: &Pipe) -> Measured {
        let awaited = self.awaited(scene);
        let mut began = self.epoch;
        for tally in &awaited {
            began = began.max(within(tally.warm(), tally, pipe).await);
        }
        let before = ground.cpu(pipe.pid());
        let mut ended = began;
        for tally in &awaited {
            ended = ended.max(within(tally.done(), tally, pipe).await);
        }
        let after = ground.cpu(pipe.pid());
        let events = awaited.first().map_or(0, |tally| tally.measured()) / scene.kafka.max(1);
        assert!(self.in_kafka.twice() == 0, "{} events came twice to Kafka", self.in_kafka.twice());
        #[expect(clippy::cast_precision_loss, reason = "a count of events")]
        let events = events as f64;
        Measured {
            rate: events / (ended - began).as_secs_f64(),
            cpu: after.into_iter().map(|(group, seconds)| (group, (seconds - before[group]) * 1e6 / events)).collect(),
            peak_rss: peak_rss(pipe.pid()),
            latency: awaited.first().filter(|_| scene.story.pace.is_some()).map(|tally| self.latency(scene, tally)),
        }
    }

    /// p50 and p99 of what came after the first quarter, in milliseconds.
    fn latency(&self, scene: &Scene, tally: &Tally) -> [f64; 2] {
        let events = scene.story.streams * scene.story.events;
        let took = (events / 4..events).map(|number| tally.time(number).saturating_sub(self.vendor.answered(number)));
        let mut took: Vec<u64> = took.collect();
        took.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "a time in nanoseconds")]
        [50, 99].map(|percent| took[took.len() * percent / 100] as f64 / 1e6)
    }
}

async fn within<T>(what: impl Future<Output = T>, tally: &Tally, pipe: &Pipe) -> T {
    let done = timeout(LIMIT, what).await;
    let late = || panic!("a run did not end in {LIMIT:?}: {} events arrived\n{}", tally.count(), pipe.log());
    done.unwrap_or_else(|_| late())
}

/// A whole run.
pub async fn run(ground: &Ground, scene: &Scene, whose: Whose) -> Measured {
    let stage = Stage::new(ground, scene).await;
    let pipe = stage.start(ground, scene, whose);
    let measured = stage.follow(ground, scene, &pipe).await;
    drop(pipe);
    stage.end(ground).await;
    measured.tell(&format!("{whose:?}"));
    measured
}

/// The same with a lookup for every event, of which the vendor hears of each record once.
pub async fn looked_up(ground: &Ground, scene: &Scene) -> Measured {
    let scene = Scene { looks_up: true, ..*scene };
    let stage = Stage::new(ground, &scene).await;
    let pipe = stage.start(ground, &scene, Whose::Ours);
    let measured = stage.follow(ground, &scene, &pipe).await;
    drop(pipe);
    let asked = stage.vendor.lookups();
    assert!((1..=CONTACTS).contains(&asked), "{asked} lookups went to the vendor, for {CONTACTS} contacts");
    stage.end(ground).await;
    measured.tell("with lookups");
    measured
}

/// How fast pages pass whose ids are all known: events a second.
pub async fn known(ground: &Ground, scene: &Scene, whose: Whose) -> f64 {
    let stage = Stage::new(ground, scene).await;
    let pipe = stage.start(ground, scene, whose);
    within(stage.vendor.asked(scene.story.distinct), &stage.in_kafka, &pipe).await;
    let began = Instant::now();
    within(stage.vendor.asked(scene.story.events), &stage.in_kafka, &pipe).await;
    #[expect(clippy::cast_precision_loss, reason = "a count of events")]
    let events = (scene.story.events - scene.story.distinct) as f64;
    let rate = events / began.elapsed().as_secs_f64();
    drop(pipe);
    stage.end(ground).await;
    eprintln!("  {whose:?}: {rate:.0} known events/s");
    rate
}

/// One of the parts of a bare pipe, alone.
pub async fn part(ground: &Ground, work: Work, page: u64, events: u64) -> Told {
    let story = Story::flood(events);
    let stage = Stage::new(ground, &Scene::new(story, page, 0, true)).await;
    let topic = format!("{}.bare", stage.name);
    make_topics(&ground.kafka.brokers(), std::slice::from_ref(&topic)).await;
    let mut process = start_bare(&Order {
        work,
        ledger: stage.database.clone(),
        vendor: stage.vendor.port(),
        page,
        brokers: ground.kafka.brokers(),
        topic: Some(topic),
        receiver: Some(stage.receiver.port()),
        events,
    });
    process.wait_ended(LIMIT).await;
    stage.end(ground).await;
    let told = std::fs::read_to_string(process.log_path()).expect("own file");
    let told: Told = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {}", process.log_tail()));
    eprintln!("  bare {work:?}: {:.0} events/s, known {:.0?}", told.rate, told.known);
    told
}

fn start_bare(order: &Order) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("bare").arg(serde_json::to_string(order).expect("plain values"));
    Process::start("the bare pipe", &mut command, &keeper::directory("bare").join("log"))
}
