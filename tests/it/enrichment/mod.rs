//! Lookups in the pipe of the real daemon: a vendor that is down, what is asked of it and how often, and what arrives.

mod front;
mod vendor;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use self::front::{Front, Posted};
use crate::support::emitted::Emitted;
use crate::support::kafka::{Isolation, Kafka, Message};
use crate::support::postgres::Postgres;
use crate::support::program::{Daemon, Simulator};
use crate::support::wait::{hold, wait_for, wait_until};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const SOON: Duration = Duration::from_secs(30);
const LATER: Duration = Duration::from_mins(1);

const STAGE: &str =
    "lookup = \"stages\"\nid = \"data.deal.stage_id\"\nas = \"stage\"\nfields = [\"name\", \"name2\"]\n";

struct Setup {
    deployment: &'static str,
    simulator: Simulator,
    front: Front,
    text: String,
}

impl Setup {
    async fn new(deployment: &'static str, backlog: u32, account: &str) -> Self {
        let backlog = backlog.to_string();
        let arguments = ["--seed", "7", "--dialect", "reference", "--rate", "0", "--backlog", &backlog];
        let simulator = Simulator::start(&arguments).await;
        let front = Front::before(&simulator).await;
        let text = format!(
            "deployment = \"{deployment}\"\n[ledger]\nurl = \"{}\"\n[accounts.acme]\nbase_url = \"{}\"\n\
             dialect = \"reference\"\ntoken = \"t\"\npoll_interval = \"200ms\"\n{account}\n",
            Postgres::shared().await.database().await,
            front.url()
        );
        Self { deployment, simulator, front, text }
    }

    fn kafka(mut self, kafka: &Kafka, more: &str) -> Self {
        let (brokers, topic) = (kafka.brokers(), self.deployment);
        write!(
            self.text,
            "[sinks.crm]\ntype = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"{topic}.deals\"\n{more}\n"
        )
        .unwrap();
        self
    }

    fn webhook(mut self, name: &str, more: &str) -> Self {
        write!(
            self.text,
            "[sinks.{name}]\ntype = \"webhook\"\nurl = \"{}/hook/{name}\"\nsecret = \"{SECRET}\"\nallow_http = true\n\
             allow_networks = [\"127.0.0.0/8\"]\nfilter = \"resource == 'deal'\"\n{more}\n",
            self.front.url()
        )
        .unwrap();
        self
    }

    async fn start(&self) -> Daemon {
        let mut daemon = Daemon::start(self.deployment, &self.text);
        daemon.wait_ready(SOON).await;
        daemon
    }

    async fn deals(&self) -> Vec<Emitted> {
        let mut emitted = self.simulator.emitted().await;
        emitted.retain(|event| event.resource() == "deal");
        emitted
    }
}

const UNLIMITED: &str = "requests_per_minute = 60000\nrequests_per_hour = 3600000";
const DEALS: &str = "filter = \"resource == 'deal'\"\n";

fn ids(posted: &[Posted]) -> BTreeSet<&str> {
    posted.iter().map(|posted| posted.webhook_id.as_str()).collect()
}

/// State and error of a sink, as `status` tells them.
async fn status(daemon: &Daemon, sink: &str) -> (String, String) {
    let told = daemon.run_verb(&["status", "--json"]).await;
    let status: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let all = status["sinks"].as_array().expect("sinks");
    let row = all.iter().find(|row| row["sink"] == sink).expect("configured");
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("error"))
}

/// What a topic holds, if there is one yet.
async fn committed(kafka: &Kafka, topic: &str) -> Vec<Message> {
    kafka.try_read(topic, "beginning", Isolation::ReadCommitted).await.unwrap_or_default()
}

fn json(message: &Message) -> Value {
    serde_json::from_str(message.body()).expect("JSON")
}

/// Whether there is something to look up: a deal that was deleted has its id alone.
fn has_stage(event: &Value) -> bool {
    !event["data"]["deal"]["stage_id"].is_null()
}

/// The event's own bytes in a message.
fn own(message: &Message) -> String {
    let bytes: usize = message.header("standpipe-enriched").parse().expect("a number");
    message.body()[..bytes - 1].to_owned() + "}"
}

/// INV-15 and INV-10: the sinks that wait stand still, the others do not, and what waited arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_is_down_stalls_only_the_sinks_that_wait_for_it_and_nothing_is_lost() {
    let kafka = Kafka::shared().await;
    let enrich = format!("[[sinks.crm.enrich]]\n{STAGE}");
    let setup = Setup::new("enrich-down", 400, UNLIMITED)
        .await
        .kafka(kafka, &format!("{DEALS}{enrich}"))
        .webhook("ops", &enrich.replace("crm", "ops"))
        .webhook("skips", &(enrich.replace("crm", "skips") + "on_miss = \"skip\"\n"))
        .webhook("plain", "");
    setup.front.set_down(true);
    let mut daemon = setup.start().await;
    let deals = setup.deals().await;
    assert!(deals.len() > 20, "the story has deals: {}", deals.len());

    for name in ["plain", "skips"] {
        wait_until(format!("{name} has all"), LATER, async || ids(&setup.front.posted(name)).len() == deals.len())
            .await;
    }
    for sink in ["crm", "ops"] {
        let told = wait_for(format!("{sink} says what it waits for"), SOON, async || {
            Some(status(&daemon, sink).await).filter(|(_, error)| !error.is_empty())
        })
        .await;
        assert_eq!(told.0, "retrying", "{told:?}");
        assert!(
            told.1.starts_with("enrich.stage waits: stages ") && told.1.contains("the vendor gave no answer"),
            "{told:?}"
        );
    }
    hold("nothing goes without its answer", Duration::from_secs(2), async || {
        setup.front.posted("ops").iter().all(|posted| !has_stage(&posted.json()))
    })
    .await;
    let early = committed(kafka, "enrich-down.deals").await;
    assert!(early.iter().all(|message| !has_stage(&json(message))), "nor here");
    let metrics = daemon.metrics().await.unwrap();
    assert!(metrics.contains("standpipe_enrichment_waiting{sink=\"crm\",shard=\"0\"} 1"), "{metrics}");

    setup.front.set_down(false);
    let messages = wait_for("all is in Kafka", LATER, async || {
        let messages = committed(kafka, "enrich-down.deals").await;
        (messages.len() >= deals.len()).then_some(messages)
    })
    .await;
    wait_until("ops has all", LATER, async || ids(&setup.front.posted("ops")).len() == deals.len()).await;
    for sink in ["crm", "ops"] {
        wait_until(format!("{sink} runs"), SOON, async || status(&daemon, sink).await.0 == "running").await;
    }

    let plain: HashMap<String, String> = setup
        .front
        .posted("plain")
        .iter()
        .map(|posted| {
            let body = String::from_utf8(posted.body.to_vec()).unwrap();
            (posted.json()["id"].as_str().unwrap().to_owned(), body)
        })
        .collect();
    assert_eq!(messages.len(), deals.len(), "each once");
    assert!(messages.iter().filter(|message| has_stage(&json(message))).count() > 20, "most have a stage");
    for message in &messages {
        let event = json(message);
        if !has_stage(&event) {
            assert_eq!(message.body(), plain[message.header("standpipe-id")], "nothing to look up");
            continue;
        }
        let id = event["data"]["deal"]["stage_id"].as_u64().expect("an id");
        let stage = &event["enrichment"]["stage"];
        assert_eq!(stage["data"]["name"], format!("stages {id}"));
        assert!(message.body().contains(r#""name2":1.50}"#), "as the vendor spells it: {}", message.body());
        assert!(stage["age_seconds"].as_u64().is_some() && stage["as_of"].as_str().is_some(), "{stage}");
        assert!(["vendor", "cache"].contains(&stage["source"].as_str().unwrap()), "{stage}");
        assert_eq!(own(message), plain[message.header("standpipe-id")], "the event's own bytes");
    }
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut met = BTreeSet::new();
    for posted in setup.front.posted("ops") {
        let event = posted.json();
        assert_eq!(event["enrichment"]["stage"]["data"]["name"].is_string(), has_stage(&event), "{event}");
        if met.insert(posted.webhook_id.clone()) {
            let before = last.insert(event["data"]["deal"]["id"].to_string(), posted.seq).unwrap_or_default();
            assert!(before < posted.seq, "first deliveries of a record come in order");
        }
    }
    let skipped = setup.front.posted("skips");
    assert!(skipped.iter().all(|posted| posted.json().get("enrichment").is_none()), "they went without");

    let verified = daemon.run_verb(&["verify", "--sink", "crm"]).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let metrics = daemon.metrics().await.unwrap();
    for line in ["waiting{sink=\"crm\",shard=\"0\"} 0", "seconds_count{sink=\"crm\"}", "outcome=\"missed\"}"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    daemon.process.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.process.wait_ended(Duration::from_secs(35)).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_of_many_events_are_one_request_and_stay_within_their_share_of_the_budget() {
    // Of 40 requests a minute 28 are for others than the streams.
    let contact = "[[sinks.ops.enrich]]\nlookup = \"contacts\"\nid = \"data.deal.contact_id\"\nas = \"contact\"\n";
    let setup = Setup::new("enrich-budget", 600, "streams = [\"deals\"]\nrequests_per_minute = 40\n")
        .await
        .webhook("ops", &format!("{contact}on_miss = \"skip\"\n"))
        .webhook("plain", "");
    let daemon = setup.start().await;
    let deals = setup.deals().await;
    for name in ["plain", "ops"] {
        wait_until(format!("{name} has all"), LATER, async || ids(&setup.front.posted(name)).len() == deals.len())
            .await;
    }
    let asked = setup.front.asked();
    let first = asked.first().expect("something was asked").1;
    let within_a_minute = asked.iter().filter(|(_, at)| at.duration_since(first) < Duration::from_mins(1)).count();
    assert!(within_a_minute <= 28, "{within_a_minute} lookups in a minute");
    let contacts: BTreeSet<&String> = asked.iter().map(|(path, _)| path).collect();
    assert_eq!(contacts.len(), asked.len(), "each record once: {asked:?}");
    let with = setup.front.posted("ops").iter().filter(|posted| posted.json().get("enrichment").is_some()).count();
    assert!(with >= asked.len() && with < deals.len(), "{with} of {} carry an answer", deals.len());
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_stream_says_of_a_record_is_asked_of_nobody_and_is_its_newest_event() {
    let contact = "[[sinks.ops.enrich]]\nlookup = \"contacts\"\nid = \"data.deal.contact_id\"\nas = \"contact\"\n\
                   max_age = \"365d\"\n";
    let setup = Setup::new("enrich-stream", 300, UNLIMITED).await.webhook("ops", contact);
    let mut daemon = setup.start().await;
    let deals = setup.deals().await;
    wait_until("ops has all", LATER, async || ids(&setup.front.posted("ops")).len() == deals.len()).await;
    // By now the newest event of each contact is recorded; a start reads it back.
    daemon.process.kill();
    daemon.start_again();
    daemon.wait_ready(SOON).await;
    let newest: HashMap<String, Emitted> = setup
        .simulator
        .emitted()
        .await
        .into_iter()
        .filter(|event| event.resource() == "contact")
        .map(|event| (event.record_id.clone(), event))
        .collect();
    let contact_of = |deal: &Emitted| {
        let record: Value = serde_json::from_str(&deal.record).unwrap();
        record["contact_id"].as_u64().map(|id| id.to_string())
    };
    let known = |deal: &&Emitted| contact_of(deal).is_some_and(|contact| newest.contains_key(&contact));
    let deal = deals.iter().rev().find(known).expect("a deal of a contact that changed");
    let contact = &newest[&contact_of(deal).unwrap()];
    // Those that a crash repeats may ask for others.
    let path = format!("contacts/{}", contact.record_id);
    let times = || setup.front.asked().iter().filter(|(asked, _)| *asked == path).count();
    let before = times();
    let replayed = daemon.run_verb(&["events", "replay", &deal.id, "--sink", "ops"]).await;
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let again =
        wait_for("the replay", SOON, async || setup.front.posted("ops").into_iter().find(|posted| posted.is_replay))
            .await;
    let found = &again.json()["enrichment"]["contact"];
    assert_eq!(
        (found["source"].as_str(), found["id"].as_str()),
        (Some("stream"), Some(&*contact.record_id)),
        "{found}"
    );
    if contact.event_type == "contact.deleted" {
        assert_eq!(found["data"], Value::Null);
    } else {
        let body = String::from_utf8(again.body.to_vec()).unwrap();
        assert!(body.contains(&format!("\"data\":{}}}", contact.record)), "{body}\nwithout\n{}", contact.record);
    }
    assert_eq!(times(), before, "nobody was asked");
}
