//! What an operator can do to a running pipe, by the verbs alone: look, pause, seek, replay, reload.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::support::kafka::{Isolation, Kafka};
use crate::support::postgres::Postgres;
use crate::support::program::{Daemon, Simulator};
use crate::support::receiver::VerifyingReceiver;
use crate::support::setup::{SECRET, Setup};
use crate::support::wait::{hold, wait_for, wait_until};

const LONG: Duration = Duration::from_mins(1);

/// A running pipe with a Kafka sink `crm` and a webhook sink `ops`, on a backlog that stands still.
struct Pipe {
    daemon: Daemon,
    simulator: Simulator,
    receiver: VerifyingReceiver,
    deployment: String,
}

impl Pipe {
    async fn start(deployment: &str, backlog: usize) -> Self {
        let simulator = Simulator::start(&["--rate", "0", "--backlog", &backlog.to_string()]).await;
        let receiver = VerifyingReceiver::start(SECRET, None).await;
        let setup = Setup::new(deployment, &Postgres::shared().await.database().await)
            .account("acme", &simulator.url())
            .kafka("crm", &Kafka::shared().await.brokers(), &format!("{deployment}.all"))
            .webhook("ops", &receiver.url());
        let mut daemon = Daemon::start(deployment, setup.text());
        daemon.wait_ready(LONG).await;
        Self { daemon, simulator, receiver, deployment: deployment.to_owned() }
    }

    async fn verb(&self, verb: &[&str]) -> String {
        succeeded(verb, &self.daemon.run_verb(verb).await)
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.verb(&["status", "--json"]).await).expect("status prints JSON")
    }

    /// Waits until every sink has taken `events`, and nothing waits.
    async fn wait_taken(&self, events: usize) -> Value {
        wait_for(format!("{events} events at every sink"), LONG, async || {
            let status = self.status().await;
            let sinks = status["sinks"].as_array()?;
            let taken = |sink: &Value| sink["cursor"].as_u64() >= Some(events as u64) && sink["lag_events"] == 0;
            (sinks.len() == 2 && sinks.iter().all(taken)).then_some(status)
        })
        .await
    }

    async fn messages(&self) -> Vec<crate::support::kafka::Message> {
        Kafka::shared().await.read_committed(&format!("{}.all", self.deployment)).await
    }
}

fn succeeded(verb: &[&str], output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "standpipe {verb:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tail_and_events_tell_what_the_ledger_holds() {
    let pipe = Pipe::start("look", 200).await;
    let status = pipe.wait_taken(200).await;
    assert_eq!(status["deployment"], "look");
    assert!(status["ledger"]["id"].is_string() && status["ledger"]["schema"].is_u64(), "{status}");
    assert_eq!(status["shards"][0]["head"], 200);
    assert!(status["shards"][0]["owner"].is_string() && status["shards"][0]["epoch"].is_u64(), "{status}");
    let stream = &status["streams"][0];
    for key in ["account", "stream", "state", "position_at", "lag_seconds", "headroom_seconds", "top"] {
        assert!(!stream[key].is_null(), "{key} in {stream}");
    }
    let sink = &status["sinks"][0];
    for key in ["sink", "shard", "type", "state", "cursor", "lag_events", "lag_seconds", "dead_letters"] {
        assert!(!sink[key].is_null(), "{key} in {sink}");
    }
    assert_eq!(status["gaps"], serde_json::json!([]));

    let tail = pipe.verb(&["tail", "-n", "5", "--count", "5", "--json"]).await;
    let lines: Vec<Value> = tail.lines().map(|line| serde_json::from_str(line).expect("an event a line")).collect();
    assert_eq!(lines.len(), 5);
    let id = lines[4]["id"].as_str().expect("an id");
    let body = pipe.verb(&["events", "get", id, "--body"]).await;
    let messages = pipe.messages().await;
    let delivered = messages.iter().find(|message| message.header("standpipe-id") == id).expect("it was delivered");
    assert_eq!(body.trim_end(), delivered.body(), "the ledger shows the delivered bytes");
    let nowhere = pipe.daemon.run_verb(&["tail", "--shard", "1"]).await;
    assert_eq!(nowhere.status.code(), Some(1), "{nowhere:?}");
    let filtered = pipe.verb(&["tail", "-n", "200", "--count", "3", "--json", "--filter", "resource == 'deal'"]).await;
    assert!(filtered.lines().all(|line| line.contains("\"type\":\"deal.")), "{filtered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sink_keeps_its_events_and_a_replay_comes_again_with_its_mark() {
    let pipe = Pipe::start("pause", 100).await;
    pipe.wait_taken(100).await;
    pipe.verb(&["sinks", "pause", "crm"]).await;
    let state = async |sink: &str, wanted: &str| {
        let rows = pipe.status().await["sinks"].clone();
        rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["sink"] == sink && row["state"] == wanted))
    };
    wait_until("crm is paused", LONG, async || state("crm", "paused").await).await;
    pipe.simulator.emit(50).await;
    wait_until("ops has got what crm has not", LONG, async || pipe.receiver.received().len() == 150).await;
    hold("nothing reaches a paused sink", Duration::from_secs(2), async || pipe.messages().await.len() == 100).await;
    pipe.verb(&["sinks", "resume", "crm"]).await;
    pipe.wait_taken(150).await;
    assert_eq!(pipe.messages().await.len(), 150);

    let first = pipe.messages().await[7].clone();
    let (id, seq) = (first.header("standpipe-id").to_owned(), first.header("standpipe-seq").to_owned());
    pipe.verb(&["events", "replay", &id, "--sink", "crm"]).await;
    let again = wait_for("the replay", LONG, async || {
        let messages = pipe.messages().await;
        messages.into_iter().find(|message| message.headers.iter().any(|(name, _)| name == "standpipe-replay"))
    })
    .await;
    assert_eq!(again.header("standpipe-replay"), seq);
    assert_eq!(again.header("standpipe-id"), id);
    assert_eq!(again.payload, first.payload);
    pipe.wait_taken(151).await;
    assert_eq!(pipe.receiver.received().len(), 150, "a replay is for its sink alone");
    assert!(pipe.receiver.received().iter().all(|request| request.error.is_none()));

    // A range: what is not kept is named, what was for another sink alone is left out.
    let range = ["events", "replay", "--seq", "149..160", "--sink", "ops", "--json"];
    let told: Value = serde_json::from_str(&pipe.verb(&range).await).expect("JSON");
    let expected = serde_json::json!({ "sink": "ops", "shard": 0, "replayed": 2, "for_another_sink": 1,
        "not_kept": [{ "from": 152, "to": 160 }] });
    assert_eq!(told, expected);
    wait_until("ops gets them again", LONG, async || pipe.receiver.received().len() == 152).await;
    let nothing = pipe.daemon.run_verb(&["events", "replay", "--seq", "5000..6000", "--sink", "ops"]).await;
    assert_eq!(nothing.status.code(), Some(1));
    let (out, err) = (String::from_utf8_lossy(&nothing.stdout), String::from_utf8_lossy(&nothing.stderr));
    assert!(out.contains("Not kept: 5000..6000.") && err.contains("keeps no event of ops"), "{out}{err}");
}

/// INV-14: an operator's seek skips nothing in silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_sought_stream_leaves_a_gap_that_every_sink_is_told_of() {
    let pipe = Pipe::start("seek", 100).await;
    pipe.wait_taken(100).await;
    pipe.verb(&["streams", "pause", "acme/deals"]).await;
    pipe.simulator.emit(60).await;
    pipe.verb(&["streams", "seek", "acme/deals", "top"]).await;
    let gaps = wait_for("the gap", LONG, async || {
        let gaps: Value = serde_json::from_str(&pipe.verb(&["gaps", "list", "--json"]).await).expect("JSON");
        gaps.as_array().filter(|gaps| !gaps.is_empty()).cloned()
    })
    .await;
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0]["reason"], "sought");
    assert_eq!(gaps[0]["stream"], "deals");
    pipe.verb(&["streams", "resume", "acme/deals"]).await;
    let announced = wait_for("the announcement", LONG, async || {
        // The topic is made with its first message.
        let read =
            Kafka::shared().await.try_read("standpipe.seek.control", "beginning", Isolation::ReadCommitted).await;
        read.ok()?.into_iter().next()
    })
    .await;
    assert!(announced.body().contains("\"type\":\"standpipe.gap\""), "{announced:?}");
    wait_until("the webhook is told too", LONG, async || {
        let told = pipe.receiver.received();
        told.iter().any(|request| String::from_utf8_lossy(&request.body()).contains("\"type\":\"standpipe.gap\""))
    })
    .await;
    assert!(pipe.messages().await.iter().all(|message| !message.body().contains("standpipe.gap")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_configuration_is_applied_while_it_runs_and_a_broken_one_is_not() {
    let pipe = Pipe::start("reload", 40).await;
    pipe.wait_taken(40).await;
    let path = pipe.daemon.config();
    let text = std::fs::read_to_string(&path).expect("own file");
    std::fs::write(&path, text.replace("[sinks.crm]", "[sinks.crm]\nfilter = \"tyype == 'x'\"")).expect("own file");
    let refused = pipe.daemon.run_verb(&["reload"]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    pipe.daemon.process.signal(rustix::process::Signal::HUP);
    let log =
        async |text: &str| std::fs::read_to_string(pipe.daemon.process.log_path()).expect("own file").contains(text);
    wait_until("the log says why", LONG, async || log("is not applied: the old one stays").await).await;
    std::fs::write(&path, &text).expect("own file");
    pipe.simulator.emit(20).await;
    pipe.wait_taken(60).await;
    assert_eq!(pipe.messages().await.len(), 60, "the old configuration stays");

    std::fs::write(&path, text.replace("[sinks.crm]", "[sinks.crm]\nfilter = \"resource == 'nothing'\""))
        .expect("own file");
    pipe.verb(&["reload"]).await;
    wait_until("the log says that it is applied", LONG, async || log("start anew with the new configuration").await)
        .await;
    pipe.simulator.emit(20).await;
    pipe.wait_taken(80).await;
    assert_eq!(pipe.messages().await.len(), 60, "the new filter takes nothing");
    assert_eq!(pipe.receiver.received().len(), 80, "and the other sink goes on");

    // A sink that is new since the start is one to the page too.
    let late = text[text.find("[sinks.ops]").expect("it is there")..text.find("[server]").expect("it is there")]
        .replace("sinks.ops", "sinks.late");
    std::fs::write(&path, format!("{text}\n{late}")).expect("own file");
    pipe.verb(&["reload"]).await;
    wait_until("the page shows the new sink", LONG, async || {
        let page = pipe.daemon.console().await.unwrap_or_default();
        page.contains(r#"late <span class="quiet">webhook</span>"#) && !page.contains("not configured")
    })
    .await;
}
