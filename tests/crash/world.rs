//! Everything that runs during the test.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use standpipe::event::LedgerId;

use crate::receiver::Receiver;
use crate::support::emitted::Emitted;
use crate::support::kafka::{Isolation, Kafka, Message, More};
use crate::support::postgres::Postgres;
use crate::support::program::{Daemon, Simulator};
use crate::support::wait::{wait_for, wait_until};

pub const DEPLOYMENT: &str = "crash";
pub const SHARDS: u16 = 2;
/// The lease's life: what a standby waits at most before it takes over, but for 5 s.
pub const LEASE_TTL: Duration = Duration::from_secs(8);
/// What Sell itself does wrong all the while. Not `gone`: it takes history away from whoever reads, so that what has to
/// arrive would depend on what had been recorded at that moment, which the oracle must not ask the program for.
pub const FAULTS: [&str; 19] = [
    "empty-page=0.05",
    "short-page=0.1",
    "duplicate=0.05",
    "disorder=0.05",
    "conflict=0.02",
    "resequence=0.005",
    "malformed=0.002",
    "bad-utf8=0.002",
    "nul=0.002",
    "throttle=0.005",
    "server-error=0.01",
    "truncate=0.005",
    "reset=0.005",
    "oversize=0.0004",
    "burst=0.001",
    "slow=0.005",
    "unauthorized=0.001",
    "forbidden=0.0005",
    "skew=0.02",
];
/// Less than two oversize events: a page with both is asked for again, by halves.
pub const MAX_PAGE_BYTES: &str = "3MiB";
/// Every event arrives whole: stubs are proven elsewhere.
pub const BROKER: &str = "message.max.bytes=8388608\n";
const DELIVERS_WITHIN: Duration = Duration::from_mins(1);

/// A simulated company: events of one account in one dialect.
#[derive(Debug)]
pub struct Account {
    pub name: &'static str,
    pub simulator: Simulator,
}

#[derive(Debug)]
pub struct World {
    pub postgres: Postgres,
    pub kafka: Kafka,
    pub accounts: Vec<Account>,
    pub receiver: Receiver,
    pub daemon: Daemon,
    configuration: String,
}

impl World {
    /// Starts all of it; the companies live for as long as the faults are expected to take.
    pub async fn start(seed: u64, events: usize, time: Duration) -> Self {
        let backlog = events / 4;
        let rate = ((events - 2 * backlog) as u64 / 2).div_ceil(time.as_secs().max(1)).max(10);
        let more = More { properties: BROKER.to_owned(), ..More::default() };
        let (postgres, kafka) = tokio::join!(Postgres::start(), Kafka::start_with(&more));
        let mut accounts = Vec::new();
        for (name, dialect) in [("acme", "reference"), ("globex", "live")] {
            let seed = (seed + accounts.len() as u64).to_string();
            let (rate, backlog) = (rate.to_string(), backlog.to_string());
            let mut arguments = vec!["--seed", &seed, "--rate", &rate, "--backlog", &backlog, "--dialect", dialect];
            for fault in FAULTS {
                arguments.extend(["--fault", fault]);
            }
            accounts.push(Account { name, simulator: Simulator::start(&arguments).await });
        }
        let receiver = Receiver::start(seed).await;
        let database = postgres.database().await;
        let configuration = configuration(&database, &accounts, &kafka, &receiver);
        let daemon = Daemon::start("daemon", &configuration);
        let mut world = Self { postgres, kafka, accounts, receiver, daemon, configuration };
        world.daemon.wait_ready(Duration::from_mins(1)).await;
        world.wait_delivering().await;
        world
    }

    /// A second replica of the same deployment, ready to take over.
    pub async fn standby(&self) -> Daemon {
        let mut standby = Daemon::start("standby", &self.configuration);
        standby.wait_ready(Duration::from_secs(30)).await;
        standby
    }

    /// Waits until the running process has delivered something to both sinks since it started.
    pub async fn wait_delivering(&mut self) {
        self.wait_delivered_more_than([0.0; 2]).await;
    }

    /// What the running process has delivered since it started, by sink.
    pub async fn delivered(&self) -> [f64; 2] {
        let Some(metrics) = self.daemon.metrics().await else { return [0.0; 2] };
        ["crm", "ops"].map(|sink| {
            let labels = [format!("sink=\"{sink}\""), "outcome=\"delivered\"".to_owned()];
            metric(&metrics, "standpipe_sink_events_total", &labels)
        })
    }

    /// Waits until both sinks have delivered more than `before`; the daemon must not end meanwhile.
    pub async fn wait_delivered_more_than(&mut self, before: [f64; 2]) {
        wait_until("both sinks deliver again", DELIVERS_WITHIN, async || {
            let ended = self.daemon.process.ended();
            assert!(ended.is_none(), "the daemon ended: {ended:?}\n{}", self.daemon.process.log_tail());
            let now = self.delivered().await;
            now[0] > before[0] && now[1] > before[1]
        })
        .await;
    }

    /// The committed cursors of the Kafka sink, by partition; empty while the broker cannot tell.
    pub async fn kafka_cursors(&self) -> Vec<(i32, String)> {
        let topic = format!("standpipe.{DEPLOYMENT}.crm.cursor");
        // Transaction markers take offsets too, so that the last message is a few offsets before the end.
        let last = self.kafka.try_read(&topic, "-40", Isolation::ReadCommitted).await.unwrap_or_default();
        let mut cursors: Vec<(i32, String)> = Vec::new();
        for message in last {
            cursors.retain(|(partition, _)| *partition != message.partition);
            cursors.push((message.partition, message.payload.unwrap_or_default()));
        }
        cursors
    }

    /// Waits until at least `events` were emitted, and lets the companies stand still; gives all that were. From then
    /// on counts are exact: an event of the last second that was refused once must not look like a lost one, nor a
    /// lost one be made up for by a later one.
    pub async fn wait_emitted(&self, events: usize) -> Vec<(&'static str, Emitted)> {
        wait_until("enough events are emitted", Duration::from_mins(10), async || {
            emitted(&self.accounts).await.len() >= events
        })
        .await;
        for account in &self.accounts {
            account.simulator.set_rate(0).await;
        }
        let mut before = 0;
        wait_for("the companies stand still", Duration::from_secs(30), async || {
            let emitted = emitted(&self.accounts).await;
            let still = std::mem::replace(&mut before, emitted.len()) == emitted.len();
            still.then_some(emitted)
        })
        .await
    }

    /// Waits until everything of `emitted` has arrived everywhere, or `within` has passed: then the oracle will tell.
    pub async fn wait_delivered(&mut self, emitted: &[(&'static str, Emitted)], within: Duration) {
        // The waits themselves never panic: it is the oracle that tells what is missing.
        let longer = 2 * within;
        let all = async {
            wait_until("the receiver has all", longer, async || self.receiver.accepted() >= emitted.len()).await;
            wait_until("Kafka has all", longer, async || self.kafka_messages().await.len() >= emitted.len()).await;
        };
        if tokio::time::timeout(within, all).await.is_err() {
            println!("crash: not everything has arrived in {within:?}");
        }
    }

    /// How often each of Sell's faults happened, over all companies.
    pub async fn mishaps(&self) -> BTreeMap<String, u64> {
        #[derive(Deserialize)]
        struct Told {
            happened: u64,
        }
        let mut all: BTreeMap<String, u64> = FAULTS.map(|fault| (name_of(fault).to_owned(), 0)).into();
        for account in &self.accounts {
            let told = account.simulator.admin("faults").await;
            let told: BTreeMap<String, Told> = serde_json::from_str(&told).expect("the simulator prints JSON");
            for (name, times) in &mut all {
                *times += told[name].happened;
            }
        }
        all
    }

    /// SIGTERM; the daemon must end with 0 within its drain timeout.
    pub async fn stop_gracefully(&mut self) {
        self.daemon.process.signal(Signal::TERM);
        let status = self.daemon.process.wait_ended(Duration::from_secs(35)).await;
        assert!(status.success(), "SIGTERM ended with {status}\n{}", self.daemon.process.log_tail());
    }

    /// The ledger that the Kafka sink's cursor names.
    pub async fn ledger_id(&self) -> LedgerId {
        #[derive(Deserialize)]
        struct Cursor {
            ledger: LedgerId,
        }
        let cursors = self.kafka.read_committed(&format!("standpipe.{DEPLOYMENT}.crm.cursor")).await;
        let last = cursors.last().expect("a cursor was committed");
        serde_json::from_str::<Cursor>(last.body()).expect("a cursor is JSON and names its ledger").ledger
    }

    /// Everything in the data topics, as a `read_committed` consumer sees it.
    pub async fn kafka_messages(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        for topic in self.kafka.topics().await.iter().filter(|topic| topic.starts_with("sell.")) {
            messages.extend(self.kafka.read_committed(topic).await);
        }
        messages
    }
}

/// Everything that all accounts' simulators have emitted until now.
async fn emitted(accounts: &[Account]) -> Vec<(&'static str, Emitted)> {
    let mut all = Vec::new();
    for account in accounts {
        all.extend(account.simulator.emitted().await.into_iter().map(|event| (account.name, event)));
    }
    all
}

pub fn name_of(fault: &str) -> &str {
    fault.split('=').next().unwrap_or_default()
}

/// The sum of a metric's samples that carry all of `labels`.
pub fn metric(text: &str, name: &str, labels: &[String]) -> f64 {
    text.lines()
        .filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label.as_str())))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn configuration(database: &str, accounts: &[Account], kafka: &Kafka, receiver: &Receiver) -> String {
    let mut text = format!(
        r#"deployment = "{DEPLOYMENT}"
[ledger]
url = "{database}"
shards = {SHARDS}
lease_ttl = "{}s"
[sinks.crm]
type = "kafka"
brokers = "{}"
topic = "sell.{{{{ resource }}}}"
[sinks.ops]
type = "webhook"
url = "{}"
secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
allow_http = true
allow_networks = ["127.0.0.0/8"]
retry_schedule = ["1s", "1s", "2s", "5s", "5s", "5s"]
"#,
        LEASE_TTL.as_secs(),
        kafka.brokers(),
        receiver.url(),
    );
    let accounts = accounts.iter().map(|account| {
        format!(
            r#"[accounts.{}]
base_url = "{}"
token = "a-token-of-the-tests"
poll_interval = "200ms"
requests_per_minute = 60000
requests_per_hour = 3600000
max_page_bytes = "{MAX_PAGE_BYTES}"
"#,
            account.name,
            account.simulator.url()
        )
    });
    text.extend(accounts);
    text
}
