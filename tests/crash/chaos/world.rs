//! Everything that runs during a chaos run. No two of the processes talk to each other but through Toxiproxy.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use standpipe::event::LedgerId;
use tokio::time::Instant;

use super::plan::{ACCOUNTS, Link, REPLICAS};
use super::watch::Watch;
use crate::receiver::Receiver;
use crate::support::cluster::Cluster;
use crate::support::disk::Disk;
use crate::support::keeper;
use crate::support::postgres::Postgres;
use crate::support::program::{Daemon, Simulator};
use crate::support::toxiproxy::Toxiproxy;
use crate::support::wait::{wait_for, wait_until};
use crate::world::{Account, BROKER, FAULTS, MAX_PAGE_BYTES, metric, name_of};

pub const DEPLOYMENT: &str = "chaos";
pub const SHARDS: u16 = 2;
pub const LEASE_TTL: Duration = Duration::from_secs(8);
/// After every fault all is well again within this time; a run on a busy machine waits for brokers to start.
const FLOWS_WITHIN: Duration = Duration::from_mins(3);
const FAKETIME: &str = "/usr/lib/*/faketime/libfaketimeMT.so.1";
const POSTGRES: &[&str] = &["fsync=off", "max_connections=300", "wal_keep_size=256MB", "max_wal_size=512MB"];
const DISK: u64 = 6 << 30;

/// Those of Sell's faults after which the program waits as it is told to: how long all takes to flow again would be Sell's.
const PAUSES: [&str; 5] = ["throttle", "server-error", "slow", "unauthorized", "forbidden"];

/// A PostgreSQL, and the small disk that it stands on.
#[derive(Debug)]
pub struct Server {
    pub postgres: Postgres,
    pub disk: Option<Disk>,
}

/// How far each shard has come at both sinks: grows with each delivery, whoever makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow(Vec<u64>);

impl Flow {
    /// Whether every shard has come further at both sinks.
    pub fn is_beyond(&self, before: &Self) -> bool {
        self.0.iter().zip(&before.0).all(|(now, before)| now > before)
    }
}

#[derive(Debug)]
pub struct World {
    // In the order in which they are to end: a consumer of Kafka before Kafka, a server before its disk.
    pub watch: Option<Watch>,
    pub replicas: Vec<Daemon>,
    pub accounts: Vec<Account>,
    pub receiver: Receiver,
    pub cluster: Cluster,
    pub primary: Server,
    pub standby: Option<Server>,
    pub node_disk: Option<Disk>,
    pub links: Toxiproxy,
    /// Where failpoints are armed.
    pub places: PathBuf,
    /// The replicas' clocks and PostgreSQL's: by how much they are wrong.
    clocks: PathBuf,
    replication: u16,
    /// Known since the first cursor.
    pub ledger: Option<LedgerId>,
}

impl World {
    /// Whether small disks can be had here.
    pub fn has_disks() -> bool {
        Disk::mount("probe", 1 << 20).is_some()
    }

    /// Starts all of it but the replicas, and gives their configurations.
    pub async fn start(seed: u64, backlog: usize, rate: u64) -> (Self, Vec<String>) {
        let links = Toxiproxy::start(seed).await;
        let clocks = keeper::directory("clocks");
        for name in ["0", "1", "postgres"] {
            let zero = if name == "postgres" { "+0" } else { "0" };
            std::fs::write(clocks.join(name), zero).expect("own directory");
        }
        let node_disk = Disk::mount("node", DISK);
        let (cluster, primary) =
            tokio::join!(Cluster::start(&links, REPLICAS, node_disk.as_ref(), BROKER), primary(&clocks));
        let replication = links.link(&Link::Replication.name(), primary.postgres.port()).await;
        let mut accounts = Vec::new();
        for (name, dialect) in ACCOUNTS {
            let seed = (seed + accounts.len() as u64).to_string();
            let (rate, backlog) = (rate.to_string(), backlog.to_string());
            let mut arguments = vec!["--seed", &seed, "--rate", &rate, "--backlog", &backlog, "--dialect", dialect];
            for fault in FAULTS.iter().filter(|fault| !PAUSES.contains(&name_of(fault))) {
                arguments.extend(["--fault", fault]);
            }
            accounts.push(Account { name, simulator: Simulator::start(&arguments).await });
        }
        let receiver = Receiver::start(seed).await;
        let database = primary.postgres.database().await;
        let mut configurations = Vec::new();
        for replica in 0..REPLICAS {
            let ledger = links.link(&Link::Ledger(replica).name(), primary.postgres.port()).await;
            let hook = links.link(&Link::Hook(replica).name(), receiver.port()).await;
            let mut vendors = Vec::new();
            for (number, account) in accounts.iter().enumerate() {
                vendors.push(links.link(&Link::Sell(replica, number).name(), account.simulator.port()).await);
            }
            let database = database.replace(&primary.postgres.port().to_string(), &ledger.to_string());
            configurations.push(configuration(&database, cluster.brokers(replica), hook, &vendors));
        }
        let places = keeper::directory("places");
        let mut world = Self {
            watch: None,
            replicas: Vec::new(),
            accounts,
            receiver,
            cluster,
            primary,
            standby: None,
            node_disk,
            links,
            places,
            clocks,
            replication,
            ledger: None,
        };
        world.follow_primary().await;
        (world, configurations)
    }

    /// Starts a replica for the first time.
    pub fn launch(&mut self, configuration: &str) {
        let replica = self.replicas.len();
        let places = self.places.display().to_string();
        let clock = self.clocks.join(replica.to_string()).display().to_string();
        let environment = [("FAILPOINTS_DIR", places.as_str()), ("FAILPOINTS_CLOCK", clock.as_str())];
        self.replicas.push(Daemon::start_with(&format!("replica-{replica}"), configuration, &environment));
    }

    /// Looks at everything from now on.
    pub async fn watch(&mut self) {
        let topic = format!("standpipe.{DEPLOYMENT}.crm.cursor");
        let watch = Watch::start(&self.cluster.direct(), &topic, SHARDS);
        for (number, replica) in self.replicas.iter().enumerate() {
            watch.replica(number, replica.process.pid());
        }
        self.watch = Some(watch);
        self.ledger = Some(self.ledger_id().await);
    }

    /// Starts the same replica again.
    pub fn start_again(&mut self, replica: usize) {
        self.replicas[replica].start_again();
        if let Some(watch) = &self.watch {
            watch.replica(replica, self.replicas[replica].process.pid());
        }
    }

    /// A replica that owns something, and the other one.
    pub async fn owner(&mut self) -> (usize, usize) {
        let owner = wait_for("somebody owns a shard", FLOWS_WITHIN, async || {
            self.assert_running();
            for (number, replica) in self.replicas.iter().enumerate() {
                if owned(replica).await > 0 {
                    return Some(number);
                }
            }
            None
        })
        .await;
        (owner, 1 - owner)
    }

    /// Waits until a replica owns everything.
    pub async fn wait_owns_all(&self, replica: usize) {
        wait_until(format!("replica {replica} owns all shards"), FLOWS_WITHIN, async || {
            owned(&self.replicas[replica]).await == SHARDS
        })
        .await;
    }

    pub fn flow(&self) -> Flow {
        let mut flow = self.watch.as_ref().expect("watched since the start").moves();
        flow.extend((0..SHARDS).map(|shard| self.receiver.accepted_of(shard)));
        Flow(flow)
    }

    /// Waits until every shard has come further than `since` at both sinks. No replica may end meanwhile.
    pub async fn wait_flow(&mut self, since: &Flow, after: &str) -> Instant {
        let deadline = Instant::now() + FLOWS_WITHIN;
        wait_until(format!("all flows again after {after}"), 2 * FLOWS_WITHIN, async || {
            self.assert_running();
            let flow = self.flow();
            let in_time = Instant::now() < deadline;
            assert!(in_time, "does not flow after {after}: {since:?}, {flow:?}\n{}", self.logs());
            flow.is_beyond(since)
        })
        .await;
        Instant::now()
    }

    /// After the start no outage ends the program.
    pub fn assert_running(&mut self) {
        for (number, replica) in self.replicas.iter_mut().enumerate() {
            if let Some(status) = replica.process.ended() {
                panic!("replica {number} ended on its own: {status}\n{}", replica.process.log_tail());
            }
        }
    }

    fn logs(&self) -> String {
        self.replicas.iter().map(|replica| replica.process.log_tail() + "\n").collect()
    }

    /// The replica that was killed at a failpoint, when one was.
    pub fn killed(&mut self) -> Option<usize> {
        let ended = |replica: &mut Daemon| replica.process.ended();
        let (number, status) =
            self.replicas.iter_mut().enumerate().find_map(|(number, replica)| Some((number, ended(replica)?)))?;
        let log = self.replicas[number].process.log_tail();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "replica {number} ended on its own: {status}\n{log}");
        Some(number)
    }

    /// Sets a clock wrong by so many seconds.
    pub fn step_clock(&self, name: &str, seconds: i64) {
        let text = if name == "postgres" { format!("{seconds:+}") } else { seconds.to_string() };
        std::fs::write(self.clocks.join(name), text).expect("own directory");
    }

    /// A new standby streams from the primary, through its link.
    pub async fn follow_primary(&mut self) {
        self.standby = None;
        self.links.turn(&Link::Replication.name(), self.primary.postgres.port()).await;
        let disk = Disk::mount("standby", DISK);
        let dir = disk.as_ref().map_or_else(|| keeper::directory("standby"), |disk| disk.dir().to_owned());
        let postgres = self.primary.postgres.standby_at(dir, self.replication).await;
        self.standby = Some(Server { postgres, disk });
    }

    /// The ledger that the Kafka sink's cursor names.
    async fn ledger_id(&self) -> LedgerId {
        #[derive(Deserialize)]
        struct Cursor {
            ledger: LedgerId,
        }
        let mut last = None;
        self.cluster
            .each_committed(&format!("standpipe.{DEPLOYMENT}.crm.cursor"), |message| last = Some(message))
            .await;
        let last = last.expect("a cursor was committed");
        serde_json::from_str::<Cursor>(last.body()).expect("a cursor is JSON and names its ledger").ledger
    }

    /// How many events all companies have emitted.
    pub async fn emitted(&self) -> usize {
        let mut count = 0;
        for account in &self.accounts {
            count += account.simulator.count().await;
        }
        count
    }
}

async fn primary(clocks: &std::path::Path) -> Server {
    let disk = Disk::mount("primary", DISK);
    let dir = disk.as_ref().map_or_else(|| keeper::directory("primary"), |disk| disk.dir().to_owned());
    // Looked at on every call, because a server's children inherit what was looked at before.
    let environment = [
        ("LD_PRELOAD", faketime()),
        ("FAKETIME_TIMESTAMP_FILE", clocks.join("postgres").display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
    Server { postgres: Postgres::start_at(dir, POSTGRES, environment).await, disk }
}

fn faketime() -> String {
    let (before, after) = FAKETIME.split_once('*').expect("one star");
    let folders = std::fs::read_dir(before).into_iter().flatten().flatten();
    let found = folders.map(|folder| format!("{}{after}", folder.path().display()));
    let mut found = found.filter(|file| std::path::Path::new(file).is_file());
    found.next().expect("faketime (run tests/prepare)")
}

/// The number of shards that a replica says it owns.
async fn owned(replica: &Daemon) -> u16 {
    let metrics = replica.metrics().await.unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let count = metric(&metrics, "standpipe_shard_owned", &[]) as u16;
    count
}

fn configuration(database: &str, brokers: &str, hook: u16, vendors: &[u16]) -> String {
    let mut text = format!(
        r#"deployment = "{DEPLOYMENT}"
startup_timeout = "3m"
[ledger]
url = "{database}"
shards = {SHARDS}
lease_ttl = "{}s"
retention = "3m"
[sinks.crm]
type = "kafka"
brokers = "{brokers}"
topic = "sell.{{{{ resource }}}}"
[sinks.ops]
type = "webhook"
url = "http://127.0.0.1:{hook}/hook"
secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
allow_http = true
allow_networks = ["127.0.0.0/8"]
retry_schedule = ["1s", "1s", "2s", "5s", "5s", "5s", "10s", "20s", "60s"]
"#,
        LEASE_TTL.as_secs(),
    );
    for ((name, _), vendor) in ACCOUNTS.iter().zip(vendors) {
        let account = format!(
            r#"[accounts.{name}]
base_url = "http://127.0.0.1:{vendor}"
token = "a-token-of-the-tests"
poll_interval = "200ms"
requests_per_minute = 60000
requests_per_hour = 3600000
max_page_bytes = "{MAX_PAGE_BYTES}"
"#
        );
        text += &account;
    }
    text
}
