//! A process: the program's own loops over the twins, put together as `app` does, that dies and comes back.

use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use rand::RngExt as _;
use standpipe::chance;
use standpipe::clock::Clock;
use standpipe::config::{
    AccountConfig, Auth, BreakerConfig, DedupeBy, DialectChoice, KafkaConfig, NewProducer, OnGap, Order, Secret,
    SinkStart, StreamStart, WebhookConfig,
};
use standpipe::event::ports::{Dialect, LedgerDisposition, LedgerError, Ownership};
use standpipe::event::{Capacity, Shard, SinkName};
use standpipe::http::Transport;
use standpipe::ledger::model::{Lost, Model, Wire, Work};
use standpipe::ledger::{Held, Lease, OwnerBook, Recorder};
use standpipe::route::Fanout;
use standpipe::sell::Vendor as SellClient;
use standpipe::sink::kafka::{self, KafkaSink, KafkaSinkError, Runner};
use standpipe::sink::webhook::{self, WebhookSink, WebhookSinkError};
use standpipe::source::{self, Pace, SourceConfig, SourceError, SourceStatus};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::Broker;
use crate::cluster::{PARTITIONS, Twin};
use crate::oracle::{KAFKA, KAFKA_RULES, Oracle, TOPIC, WEBHOOK, WEBHOOK_RULES};
use crate::servers::{STREAMS, Servers, Vendor};
use crate::world::{Net, Process, World, pause};

const SHARD: Shard = Shard(0);
const ACCOUNT: &str = "acme";

/// What a process is made of, and finds again after a crash.
pub struct Replica {
    pub name: &'static str,
    pub instance: Uuid,
    pub world: Arc<World>,
    pub ledger: Model,
    pub broker: Broker,
    pub vendor: Arc<Vendor>,
    pub oracle: Arc<Oracle>,
    pub start: OffsetDateTime,
}

/// Why the stages ended.
enum Ended {
    /// The process was asked to stop.
    Stopped,
    /// Start them anew from the ledger.
    Restart,
    /// Another owner has the shard.
    StandDown,
}

impl From<LedgerDisposition> for Ended {
    fn from(disposition: LedgerDisposition) -> Self {
        match disposition {
            LedgerDisposition::StandDown => Self::StandDown,
            LedgerDisposition::Restart | LedgerDisposition::Halt => Self::Restart,
        }
    }
}

impl Wire for Net {
    fn carry(&self, doing: &'static str, work: Work) -> futures_util::future::BoxFuture<'static, Result<(), Lost>> {
        let net = self.clone();
        Box::pin(async move { net.ask(doing, work).await })
    }
}

impl Replica {
    /// Lives, dies and lives again for as long as it is polled.
    pub async fn live(self) {
        loop {
            let process = Process::new(self.name);
            let net = Net::new(self.world.clone(), self.oracle.clone(), process.clone());
            let stop = CancellationToken::new();
            let life = Life { of: &self, ledger: self.ledger.over(net.clone()), net, stop: stop.clone() };
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
                () = life.run() => {}
                () = asked => {}
            }
            process.kill();
            let away = if self.world.dice().random_ratio(1, 2) { 300 } else { 20_000 };
            pause(self.world.up_to(Duration::from_millis(away))).await;
            self.world.tell(format!("{} starts", self.name));
        }
    }
}

/// One life of it.
struct Life<'r> {
    of: &'r Replica,
    net: Net,
    ledger: Model,
    stop: CancellationToken,
}

impl Life<'_> {
    /// As `app::shard` does.
    async fn run(&self) {
        let lease = Lease::new(&self.ledger, SHARD, self.of.instance);
        let transport = Servers::transport(&self.net, &self.of.vendor, &self.of.oracle);
        let clock = Clock::following(self.of.start);
        let client = SellClient::over(&ACCOUNT.into(), &account(), clock.clone(), transport.clone()).unwrap();
        while let Some(mut held) = self.stop.run_until_cancelled(lease.acquire()).await {
            self.of.world.tell(format!("{} owns the shard: {}", self.of.name, held.ownership().epoch));
            let ended = self.stages(&mut held, &transport, &client, &clock).await;
            let released = held.release().await;
            self.of.world.tell(format!("{} releases: {released:?}", self.of.name));
            match ended {
                Ended::Stopped => break,
                Ended::StandDown => lease.back_off().await,
                Ended::Restart => pause(Duration::from_millis(200)).await,
            }
        }
    }

    /// As `app::stages` does.
    async fn stages(&self, held: &mut Held<Model>, transport: &Transport, client: &SellClient, clock: &Clock) -> Ended {
        let owner = held.ownership();
        let recorder = match Recorder::open(&self.ledger, owner).await {
            Ok(recorder) => recorder,
            Err(error) => return error.disposition().into(),
        };
        let fanout = Fanout::new(SHARD, recorder.head().0);
        let (stop_source, stop_rest) = (CancellationToken::new(), CancellationToken::new());
        let (pages, incoming) = mpsc::channel(8);
        let (_full, backlog_full) = watch::channel(false);
        let mut tasks: JoinSet<Ended> = JoinSet::new();
        let (mut sources, mut recorders) = (JoinSet::new(), JoinSet::new());
        let source = SourceConfig {
            deployment: "sim".to_owned(),
            account: ACCOUNT.into(),
            config: account(),
            vendor: client.clone(),
            book: self.ledger.clone(),
            pages,
            room: Capacity::new(100, 1 << 20),
            backlog_full,
            clock: clock.clone(),
            status: SourceStatus::default(),
            pace: Pace::default(),
            seed: chance::rng().random(),
            stop: stop_source.clone(),
        };
        let world = self.of.world.clone();
        sources.spawn(async move { of_source(&world, source::run(source).await) });
        let (world, publish, stop) = (self.of.world.clone(), fanout.clone(), stop_rest.clone());
        recorders.spawn(async move { of_ledger(&world, recorder.run(incoming, publish, stop).await) });
        self.spawn_kafka(&mut tasks, owner, &fanout, &stop_rest, clock);
        self.spawn_webhook(&mut tasks, owner, &fanout, &stop_rest, clock, transport.clone());
        let ended = tokio::select! {
            biased;
            () = self.stop.cancelled() => Ended::Stopped,
            lost = held.hold() => lost.disposition().into(),
            Some(ended) = sources.join_next() => self.joined(ended),
            Some(ended) = recorders.join_next() => self.joined(ended),
            Some(ended) = tasks.join_next() => self.joined(ended),
        };
        stop_source.cancel();
        let deadline = Instant::now() + Duration::from_secs(3);
        if matches!(ended, Ended::Stopped) {
            let drained = async {
                while sources.join_next().await.is_some() {}
                while recorders.join_next().await.is_some() {}
                stop_rest.cancel();
                while tasks.join_next().await.is_some() {}
            };
            let deadline = Instant::now() + Duration::from_secs(30);
            tokio::select! {
                biased;
                drained = timeout_at(deadline, drained) => drop(drained),
                lost = held.hold() => self.of.world.tell(format!("lost while draining: {lost}")),
            }
            return ended;
        }
        stop_rest.cancel();
        for set in [&mut sources, &mut recorders, &mut tasks] {
            while let Ok(Some(_)) = timeout_at(deadline, set.join_next()).await {}
            set.shutdown().await;
        }
        ended
    }

    fn joined(&self, ended: Result<Ended, tokio::task::JoinError>) -> Ended {
        ended.unwrap_or_else(|panicked| {
            self.of.world.breaks(format!("a stage panicked: {panicked}"));
            Ended::Stopped
        })
    }

    fn spawn_kafka(
        &self,
        tasks: &mut JoinSet<Ended>,
        owner: Ownership,
        fanout: &Fanout,
        stop: &CancellationToken,
        clock: &Clock,
    ) {
        let name = SinkName::from(KAFKA);
        let sink = KafkaSink {
            name: name.clone(),
            deployment: "sim".to_owned(),
            ledger: OwnerBook::id(&self.ledger),
            shards: 1,
            owner,
            config: KafkaConfig {
                brokers: "kafka.example:9092".to_owned(),
                topic: TOPIC.to_owned(),
                key: String::new(),
                new_producer: NewProducer::OnDoubt,
                create_topics: true,
                partitions: Some(PARTITIONS.cast_unsigned()),
                replication: None,
                properties: IndexMap::new(),
                secret_properties: IndexMap::new(),
            },
            start: SinkStart::Oldest,
            dead_letter_retention: Duration::from_hours(720),
            route: Arc::new(KAFKA_RULES),
            feed: fanout.feed(&name, Capacity::new(12, 1 << 20), self.ledger.clone()),
            book: self.ledger.clone(),
            runner: Runner::new(Some(self.of.instance), false, Duration::from_secs(15)),
            clock: clock.clone(),
            stop: stop.clone(),
        };
        let settings = Arc::new(sink.settings());
        let twin = Twin::new(self.net.clone(), self.of.broker.clone(), settings.clone());
        let world = self.of.world.clone();
        tasks.spawn(async move { of_kafka(&world, kafka::run_on(sink, settings, twin).await) });
    }

    fn spawn_webhook(
        &self,
        tasks: &mut JoinSet<Ended>,
        ownership: Ownership,
        fanout: &Fanout,
        stop: &CancellationToken,
        clock: &Clock,
        transport: Transport,
    ) {
        let name = SinkName::from(WEBHOOK);
        let sink = WebhookSink {
            name: name.clone(),
            ownership,
            config: hook(),
            start: SinkStart::Oldest,
            dead_letter_retention: Duration::from_hours(720),
            route: Arc::new(WEBHOOK_RULES),
            feed: fanout.feed(&name, Capacity::new(12, 1 << 20), self.ledger.clone()),
            book: self.ledger.clone(),
            deliveries: self.ledger.clone(),
            clock: clock.clone(),
            stop: stop.clone(),
        };
        let world = self.of.world.clone();
        tasks.spawn(async move { of_webhook(&world, webhook::run_on(sink, Some(transport)).await) });
    }
}

fn of_ledger(world: &World, ended: Result<(), LedgerError>) -> Ended {
    match ended {
        Ok(()) => Ended::Stopped,
        Err(error) => {
            world.tell(format!("a stage ends: {error}"));
            if matches!(error, LedgerError::Refused { .. }) {
                world.breaks(format!("the ledger refuses: {error}"));
            }
            error.disposition().into()
        }
    }
}

fn of_source(world: &World, ended: Result<(), SourceError>) -> Ended {
    match ended {
        Err(SourceError::Ledger(error)) => of_ledger(world, Err(error)),
        Err(SourceError::RecorderGone) => Ended::Restart,
        Err(error @ SourceError::Task { .. }) => {
            world.breaks(format!("the source broke: {error}"));
            Ended::Restart
        }
        Ok(()) => Ended::Stopped,
    }
}

fn of_kafka(world: &World, ended: Result<(), KafkaSinkError>) -> Ended {
    match ended {
        Ok(()) => Ended::Stopped,
        Err(KafkaSinkError::Ledger(error)) => of_ledger(world, Err(error)),
        Err(error) => {
            world.breaks(format!("the Kafka sink gave up: {error}"));
            Ended::Restart
        }
    }
}

fn of_webhook(world: &World, ended: Result<(), WebhookSinkError>) -> Ended {
    match ended {
        Ok(()) => Ended::Stopped,
        Err(WebhookSinkError::Ledger(error)) => of_ledger(world, Err(error)),
        Err(error) => {
            world.breaks(format!("the webhook sink gave up: {error}"));
            Ended::Restart
        }
    }
}

fn account() -> AccountConfig {
    AccountConfig {
        base_url: "https://vendor.example".to_owned(),
        dialect: DialectChoice::Fixed(Dialect::Live),
        auth: Auth::Token(Secret::value("token")),
        streams: STREAMS.map(str::to_owned).to_vec(),
        events: vec!["*".to_owned()],
        dedupe_by: DedupeBy::Id,
        start: StreamStart::Tail,
        history: Duration::from_hours(72),
        on_gap: OnGap::Continue,
        poll_interval: Duration::from_secs(1),
        page_limit: 10,
        max_page_bytes: 1 << 20,
        requests_per_minute: None,
        requests_per_hour: None,
    }
}

fn hook() -> WebhookConfig {
    WebhookConfig {
        url: Secret::value("https://receiver.example/hook"),
        secrets: vec![Secret::value("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
        signing_key: None,
        allow_http: false,
        allow_networks: Vec::new(),
        retry_schedule: vec![Duration::from_secs(2); 200],
        max_in_flight: 6,
        order: Order::Record,
        breaker: BreakerConfig {
            failure_ratio: 0.7,
            min_attempts: 10,
            window: Duration::from_mins(5),
            probe_after: Duration::from_secs(5),
        },
        disable_after: Duration::from_hours(120),
        connect_timeout: Duration::from_secs(2),
        timeout: Duration::from_secs(5),
    }
}
