//! A process: the program's own supervisors, over twins of what they stand on, that dies and comes back.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use rand::RngExt as _;
use standpipe::app::ground::Ground;
use standpipe::app::health::Health;
use standpipe::app::shard::Shared;
use standpipe::app::{Settings, rules, shards};
use standpipe::clock::Clock;
use standpipe::config::{self, Config};
use standpipe::event::SinkName;
use standpipe::http::Transport;
use standpipe::ledger::model::{Lost, Model, Wire, Work};
use standpipe::lookup::Lookups;
use standpipe::route::Rules;
use standpipe::sell::Vendor as SellClient;
use standpipe::sink::kafka;
use standpipe::source::SourceStatus;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::Broker;
use crate::cluster::Twin;
use crate::oracle::{FAR, KAFKA, Oracle, WEBHOOK};
use crate::servers::{ACCOUNTS, STREAMS, Servers, Vendor};
use crate::world::{Layout, Net, Process, World, pause};

/// The configuration of every process, and its rules, compiled.
#[derive(Clone)]
pub struct Configured {
    config: Arc<Config>,
    rules: Arc<IndexMap<SinkName, Arc<Rules>>>,
}

impl Configured {
    pub fn new(layout: Layout) -> Self {
        let mut text = format!(
            "deployment = \"sim\"\nstate_dir = \"/nowhere\"\n[ledger]\nurl = \"postgres://model.example/model\"\n\
             shards = {}\n[channels]\nevents = 20\nbytes = \"1MiB\"\n",
            layout.shards
        );
        let streams: Vec<String> = STREAMS.iter().map(|stream| format!("{stream:?}")).collect();
        for account in ACCOUNTS.iter().take(usize::from(layout.shards)) {
            let streams = streams.join(", ");
            write!(
                text,
                "[accounts.{account}]\nbase_url = \"https://{account}.vendor.example\"\ndialect = \"live\"\n\
                 token = \"token\"\nstreams = [{streams}]\non_gap = \"continue\"\npoll_interval = \"1s\"\npage_limit = 10\n"
            )
            .unwrap();
        }
        let mut kafka = |name: &str, topic: &str, filter: &str| {
            write!(
                text,
                "[sinks.{name}]\ntype = \"kafka\"\nbrokers = \"kafka.example:9092\"\ntopic = \"{topic}\"\nfilter = \"{filter}\"\n"
            )
            .unwrap();
        };
        kafka(KAFKA.name, "sell.{{ resource }}", KAFKA.filter);
        if layout.far {
            kafka(FAR.name, "far", FAR.filter);
        }
        let waits = ["\"2s\""; 100].join(", ");
        write!(
            text,
            "[sinks.{}]\ntype = \"webhook\"\nurl = \"https://receiver.example/hook\"\n\
             secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\nfilter = \"{}\"\nretry_schedule = [{waits}]\n\
             max_in_flight = 6\nconnect_timeout = \"2s\"\ntimeout = \"5s\"\nbreaker = {{ probe_after = \"5s\" }}\n",
            WEBHOOK.name, WEBHOOK.filter
        )
        .unwrap();
        let config = match config::parse("sim.toml", &text) {
            Ok(loaded) => loaded.config,
            Err(errors) => panic!("the simulation's configuration: {errors}"),
        };
        let rules = rules::compile(&config).unwrap_or_else(|errors| panic!("the simulation's rules: {errors}"));
        Self { config: Arc::new(config), rules: Arc::new(rules) }
    }
}

/// What a process is made of, and finds again after a crash.
pub struct Replica {
    pub name: &'static str,
    pub instance: Uuid,
    pub world: Arc<World>,
    pub configured: Configured,
    pub ledger: Model,
    pub broker: Broker,
    pub vendor: Arc<Vendor>,
    pub oracle: Arc<Oracle>,
    pub start: OffsetDateTime,
}

impl Wire for Net {
    fn carry(&self, doing: &'static str, work: Work) -> futures_util::future::BoxFuture<'static, Result<(), Lost>> {
        let net = self.clone();
        Box::pin(async move { net.ask(doing, work).await })
    }
}

/// What a process's shards stand on.
#[derive(Clone)]
struct Twins {
    net: Net,
    ledger: Model,
    broker: Broker,
    clock: Clock,
    transport: Transport,
}

impl std::fmt::Debug for Twins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Twins").finish_non_exhaustive()
    }
}

impl Ground for Twins {
    type Ledger = Model;
    type Cluster = Twin;

    fn ledger(&self) -> &Model {
        &self.ledger
    }

    fn cluster(&self, settings: Arc<kafka::Settings>) -> Twin {
        let Self { net, broker, clock, .. } = self.clone();
        Twin::new(net, broker, clock, settings)
    }

    fn transport(&self) -> Option<Transport> {
        Some(self.transport.clone())
    }
}

impl Replica {
    /// Lives, dies and lives again for as long as it is polled.
    pub async fn live(self) {
        loop {
            let process = Process::new(self.name);
            let net = Net::new(self.world.clone(), self.oracle.clone(), process.clone());
            let stop = CancellationToken::new();
            let asked = async {
                // Once in a while somebody stops it, as an update does.
                pause(self.world.up_to(Duration::from_mins(3))).await;
                if self.world.befalls(300 * self.world.weather().crash.min(1)) {
                    self.world.tell(format!("{} is stopped", self.name));
                    self.world.count("stops");
                    stop.cancel();
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                () = process.crash.notified() => {}
                () = self.run(net, stop.clone()) => {}
                () = asked => {}
            }
            process.kill();
            let away = if self.world.dice().random_ratio(1, 2) { 300 } else { 20_000 };
            pause(self.world.up_to(Duration::from_millis(away))).await;
            self.world.tell(format!("{} starts", self.name));
        }
    }

    /// One life of it: as `app::run`, without its listeners and its lock.
    async fn run(&self, net: Net, stop: CancellationToken) {
        let clock = Clock::following(self.start);
        let transport = Servers::transport(&net, &self.vendor, &self.oracle);
        let Configured { config, rules } = self.configured.clone();
        let client = |(name, account): (&_, &_)| {
            let client = SellClient::over(name, account, clock.clone(), transport.clone()).unwrap();
            (standpipe::event::AccountName::clone(name), client)
        };
        let vendors = config.accounts.iter().map(client).collect();
        let drain_timeout = config.drain_timeout;
        let ground = Twins {
            ledger: self.ledger.over(net.clone()),
            net,
            broker: self.broker.clone(),
            clock: clock.clone(),
            transport,
        };
        let lookups = Lookups::new(&config.passthrough);
        let shared = Shared {
            settings: Arc::new(Settings::over(config, rules, vendors)),
            reloads: None,
            ground,
            instance: self.instance,
            adopt: false,
            lookups,
            sources: SourceStatus::default(),
            health: Health::default(),
            clock,
        };
        if let Err(error) = shards(shared, drain_timeout, std::future::pending(), stop).await {
            self.world.breaks(format!("{} ends by itself: {error}", self.name));
        }
    }
}
