//! A ledger that falls behind Kafka: restored from a backup, failed over to a standby that lacked commits, or a copy
//! beside its original. Whatever happens, each event that was emitted is in Kafka once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::emitted::Emitted;
use crate::support::kafka::{Kafka, Message};
use crate::support::postgres::{Postgres, Stop};
use crate::support::program::{Daemon, Simulator};
use crate::support::receiver::VerifyingReceiver;
use crate::support::switch::Switch;
use crate::support::wait::{hold, wait_for, wait_until};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const LONG: Duration = Duration::from_secs(90);

/// Kafka sinks of all kinds: `crm` takes everything, `deals` filters, `slow` and `tardy` are made to lag.
const SINKS: [&str; 4] = ["crm", "deals", "slow", "tardy"];

struct Pipe {
    kafka: &'static Kafka,
    simulator: Simulator,
    deployment: &'static str,
    text: String,
}

impl Pipe {
    async fn new(deployment: &'static str, database: &str, webhook: Option<&VerifyingReceiver>) -> Self {
        let simulator = Simulator::start(&["--seed", "11", "--rate", "40", "--backlog", "300"]).await;
        let kafka = Kafka::shared().await;
        let mut text = format!(
            r#"deployment = "{deployment}"
[ledger]
url = "{database}"
lease_ttl = "4s"
[accounts.acme]
base_url = "{}"
token = "t"
poll_interval = "200ms"
requests_per_minute = 60000
requests_per_hour = 3600000
"#,
            simulator.url()
        );
        for sink in SINKS {
            let filter = if sink == "deals" { "filter = \"resource == 'deal'\"\n" } else { "" };
            write!(
                text,
                "[sinks.{sink}]\ntype = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{deployment}.{sink}.{{{{ resource }}}}\"\n\
                 {filter}",
                kafka.brokers()
            )
            .unwrap();
        }
        if let Some(webhook) = webhook {
            write!(
                text,
                "[sinks.ops]\ntype = \"webhook\"\nurl = \"{}\"\nsecret = \"{SECRET}\"\nallow_http = true\n\
                 allow_networks = [\"127.0.0.0/8\"]\n",
                webhook.url()
            )
            .unwrap();
        }
        Self { kafka, simulator, deployment, text }
    }

    fn start(&self, name: &str, database: &str, other: &str) -> Daemon {
        Daemon::start(name, &self.text.replace(database, other))
    }

    /// What a `read_committed` consumer sees of a sink.
    async fn messages(&self, sink: &str) -> Vec<Message> {
        let prefix = format!("{}.{sink}.", self.deployment);
        let mut messages = Vec::new();
        for topic in self.kafka.topics().await.iter().filter(|topic| topic.starts_with(&prefix)) {
            messages.extend(self.kafka.read_committed(topic).await);
        }
        messages
    }

    /// Waits until a sink has delivered so many, and gives how many they are.
    async fn wait_delivered(&self, sink: &str, count: usize) -> usize {
        let look = async || Some(self.messages(sink).await.len()).filter(|found| *found >= count);
        wait_for(format!("{sink} has delivered {count}"), LONG, look).await
    }

    /// The company stands still; every sink must come to hold each of its events, once.
    async fn judge(&self, daemon: &Daemon) {
        self.simulator.set_rate(0).await;
        let emitted = self.simulator.emitted().await;
        for sink in SINKS {
            let expected: HashMap<&str, &Emitted> = emitted
                .iter()
                .filter(|event| sink != "deals" || event.resource() == "deal")
                .map(|event| (event.id.as_str(), event))
                .collect();
            let found =
                wait_for(format!("all is in Kafka by {sink}\n{}", daemon.process.log_tail()), LONG, async || {
                    let messages = self.messages(sink).await;
                    let ids: HashSet<&str> = messages.iter().map(|message| message.header("standpipe-id")).collect();
                    expected.keys().all(|id| ids.contains(id)).then_some(messages)
                })
                .await;
            let mut seen = HashSet::new();
            let mut links: BTreeMap<(&str, i32), &str> = BTreeMap::new();
            let mut places: HashMap<&str, usize> = HashMap::new();
            for message in &found {
                let id = message.header("standpipe-id");
                assert!(seen.insert(id), "{sink}: {id} is there twice");
                let event = expected.get(id).unwrap_or_else(|| panic!("{sink}: {id} was never emitted"));
                let partition = (message.topic.as_str(), message.partition);
                let before = links.insert(partition, message.header("standpipe-seq")).unwrap_or("0");
                assert_eq!(message.header("standpipe-prev"), before, "{sink}: {partition:?} at {}", message.offset);
                let record = message.key.as_deref().unwrap();
                let earlier = places.insert(record, event.place);
                assert!(earlier.is_none_or(|earlier| earlier < event.place), "{sink}: {record} is out of order");
            }
        }
    }
}

async fn verb(daemon: &Daemon, verb: &[&str]) -> String {
    let output = daemon.run_verb(verb).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "standpipe {verb:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn paused(daemon: &Daemon, sink: &str) {
    verb(daemon, &["sinks", "pause", sink]).await;
    wait_until(format!("{sink} is paused"), LONG, async || {
        let status: Value = serde_json::from_str(&verb(daemon, &["status", "--json"]).await).unwrap();
        status["sinks"].as_array().unwrap().iter().any(|row| row["sink"] == sink && row["state"] == "paused")
    })
    .await;
}

async fn metric(daemon: &Daemon, series: &str) -> Option<u64> {
    let metrics = daemon.metrics().await.unwrap_or_default();
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)).map(str::trim);
    value.and_then(|value| value.parse().ok())
}

async fn stop(daemon: &mut Daemon) {
    daemon.process.signal(Signal::TERM);
    let status = daemon.process.wait_ended(Duration::from_secs(35)).await;
    assert_eq!(status.code(), Some(0), "{}", daemon.process.log_tail());
}

/// On another machine, with another state directory: `--adopt` says that the one before is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_restored_behind_kafka_loses_and_repeats_nothing() {
    let postgres = Postgres::shared().await;
    let receiver = VerifyingReceiver::start(SECRET, None).await;
    let database = postgres.database().await;
    let pipe = Pipe::new("restored", &database, Some(&receiver)).await;
    let mut before = pipe.start("before", &database, &database);
    before.wait_ready(LONG).await;
    pipe.wait_delivered("slow", 100).await;
    paused(&before, "slow").await;
    pipe.wait_delivered("crm", 350).await;
    let backup = postgres.dump(&database);
    let at_backup = pipe.messages("crm").await.len();
    pipe.wait_delivered("tardy", at_backup + 60).await;
    paused(&before, "tardy").await;
    pipe.wait_delivered("crm", at_backup + 150).await;
    before.process.kill();

    let restored = postgres.restore(&backup).await;
    let mut after = pipe.start("after", &database, &restored);
    after.process.kill();
    after.start_again_as(&["--adopt"]);
    after.wait_ready(LONG).await;
    verb(&after, &["sinks", "resume", "slow"]).await;
    pipe.judge(&after).await;
    for (sink, times) in [("crm", 1), ("deals", 1), ("tardy", 1), ("slow", 0)] {
        let series = format!("standpipe_kafka_rehydrations_total{{sink=\"{sink}\"}}");
        assert_eq!(metric(&after, &series).await, Some(times), "{sink}\n{}", after.process.log_tail());
    }
    let skipped = metric(&after, "standpipe_sink_events_total{sink=\"crm\",outcome=\"skipped\"}").await;
    assert!(skipped >= Some(100), "crm has skipped {skipped:?}");
    let emitted = pipe.simulator.emitted().await;
    wait_until("the webhook has all", LONG, async || {
        let requests = receiver.received();
        let ids: HashSet<&str> = requests.iter().map(|one| one.header("webhook-id")).collect();
        emitted.iter().all(|event| ids.contains(standpipe::sink::webhook::id_of("acme", &event.id).as_str()))
    })
    .await;
    // Nor does the program's own look find anything wrong.
    verb(&after, &["verify"]).await;
    let status: Value = serde_json::from_str(&verb(&after, &["status", "--json"]).await).unwrap();
    let void = &status["shards"][0]["voids"][0];
    assert!(void["from"].as_u64().unwrap() <= void["to"].as_u64().unwrap(), "{status}");
    let rehydrated = status["rehydrations"].as_array().unwrap();
    assert!(rehydrated.iter().any(|row| row["sink"] == "tardy" && row["done_at"].is_string()), "{status}");
    a_topic_is_lost_too(&pipe, &mut after).await;
    stop(&mut after).await;
}

/// Kafka loses what a rehydrated sink had delivered: what stood in its own place, and what the sink has skipped since.
async fn a_topic_is_lost_too(pipe: &Pipe, daemon: &mut Daemon) {
    stop(daemon).await;
    let deals = |sink: &str| format!("{}.{sink}.deal", pipe.deployment);
    let count = pipe.kafka.read_committed(&deals("crm")).await.len();
    for sink in ["crm", "tardy"] {
        pipe.kafka.delete_topic(&deals(sink)).await;
    }
    daemon.start_again_as(&["--adopt"]);
    wait_until("both say so", LONG, async || {
        let status: Value = serde_json::from_str(&verb(daemon, &["status", "--json"]).await).unwrap();
        let halted = |row: &&Value| row["state"] == "halted";
        status["sinks"].as_array().unwrap().iter().filter(halted).count() == 2
    })
    .await;
    let output = daemon.run_verb(&["verify", "--sink", "crm", "--json"]).await;
    let proof: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(proof["sinks"][0]["missing"], count, "{}", proof["sinks"][0]["notes"]);
    for sink in ["crm", "tardy"] {
        verb(daemon, &["reconcile", "--sink", sink]).await;
    }
    pipe.judge(daemon).await;
    verb(daemon, &["verify"]).await;
}

/// Also while it is in the middle of finding its way back: wherever it is killed, the next start goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_anywhere_on_the_way_back_repeats_nothing() {
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    let pipe = Pipe::new("wayback", &database, None).await;
    let mut daemon = pipe.start("wayback", &database, &database);
    daemon.wait_ready(LONG).await;
    let mut database = database;
    for point in ["kafka::rehydrate_void", "kafka::rehydrate_skips", "kafka::rehydrate_cursor"] {
        let delivered = pipe.messages("crm").await.len();
        pipe.wait_delivered("crm", delivered + 60).await;
        let backup = postgres.dump(&database);
        pipe.wait_delivered("crm", delivered + 150).await;
        stop(&mut daemon).await;
        let restored = postgres.restore(&backup).await;
        daemon.reconfigure(&database, &restored);
        database = restored;
        daemon.start_again_with(vec![("FAILPOINTS_KILL".to_owned(), format!("{point}=1"))]);
        daemon.process.wait_ended(LONG).await;
        daemon.start_again_with(Vec::new());
        daemon.wait_ready(LONG).await;
    }
    pipe.judge(&daemon).await;
    stop(&mut daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lacked_commits_is_promoted_under_a_running_daemon() {
    let mut primary = Postgres::start().await;
    let database = primary.database().await;
    let standby = primary.standby().await;
    let switch = Switch::to(primary.port()).await;
    let behind = database.replace(&primary.port().to_string(), &switch.port().to_string());
    let pipe = Pipe::new("failover", &behind, None).await;
    let mut daemon = pipe.start("failover", &behind, &behind);
    daemon.wait_ready(LONG).await;
    pipe.wait_delivered("crm", 350).await;
    standby.administer("ALTER SYSTEM SET primary_conninfo = ''").await;
    standby.administer("SELECT pg_reload_conf()").await;
    let cut = pipe.messages("crm").await.len();
    pipe.wait_delivered("crm", cut + 150).await;
    primary.stop(Stop::Immediate).await;
    standby.administer("SELECT pg_promote()").await;
    switch.turn_to(standby.port());
    pipe.wait_delivered("crm", cut + 250).await;
    pipe.judge(&daemon).await;
    assert!(daemon.process.ended().is_none());
    let series = "standpipe_kafka_rehydrations_total{sink=\"crm\"}";
    assert_eq!(metric(&daemon, series).await, Some(1), "{}", daemon.process.log_tail());
    stop(&mut daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_beside_its_original_refuses_and_leaves_it_alone() {
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    let pipe = Pipe::new("copied", &database, None).await;
    let mut original = pipe.start("original", &database, &database);
    original.wait_ready(LONG).await;
    pipe.wait_delivered("crm", 350).await;
    let copied = postgres.restore(&postgres.dump(&database)).await;
    let mut copy = pipe.start("copy", &database, &copied);
    wait_until("the copy says that it is one", LONG, async || {
        copy.readyz().await.is_some_and(|(status, body)| status == 503 && body.contains("this is a copy"))
    })
    .await;
    let delivered = pipe.messages("crm").await.len();
    hold("the copy refuses", Duration::from_secs(10), async || copy.readyz().await.is_none_or(|(s, _)| s == 503)).await;
    pipe.wait_delivered("crm", delivered + 100).await;
    for sink in SINKS {
        let series = format!("standpipe_kafka_transactions_total{{sink=\"{sink}\",outcome=\"discarded\"}}");
        assert_eq!(metric(&original, &series).await, Some(0), "{sink} of the original was disturbed");
    }
    // When the original has been silent for long enough, the copy is the ledger.
    stop(&mut original).await;
    copy.wait_ready(LONG).await;
    pipe.judge(&copy).await;
    stop(&mut copy).await;
}
