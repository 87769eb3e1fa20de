//! What is taken away from one sink while it runs is that sink's own trouble: it says what and how to get out of it, and
//! the others go on (INV-15).

use std::collections::HashSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::support::kafka::{Isolation, Kafka, More};
use crate::support::postgres::Postgres;
use crate::support::program::{Daemon, Simulator};
use crate::support::receiver::VerifyingReceiver;
use crate::support::setup::{SECRET, Setup};
use crate::support::wait::{wait_for, wait_until};

const LONG: Duration = Duration::from_mins(2);
const ACLS: &str = "org.apache.kafka.tools.AclCommand";
const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";

/// A daemon with five sinks on a broker that knows access control lists.
struct Pipe {
    kafka: Kafka,
    simulator: Simulator,
    daemon: Daemon,
}

const SINKS: [&str; 5] = ["cursorless", "recreated", "widened", "forbidden", "well"];

impl Pipe {
    async fn start() -> Self {
        let kafka = Kafka::start_with(&More {
            properties: "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                         allow.everyone.if.no.acl.found=true\n"
                .to_owned(),
            ..More::default()
        })
        .await;
        let simulator = Simulator::start(&["--seed", "5", "--rate", "20", "--backlog", "100"]).await;
        let mut setup = Setup::new("taken", &Postgres::shared().await.database().await)
            .with("lease_ttl = \"4s\"")
            .account("acme", &simulator.url());
        for sink in SINKS {
            setup = setup.kafka(sink, &kafka.brokers(), &format!("taken.{sink}")).with("partitions = 3");
        }
        let mut daemon = Daemon::start("taken", setup.text());
        daemon.wait_ready(LONG).await;
        let pipe = Self { kafka, simulator, daemon };
        for sink in SINKS {
            wait_until(format!("{sink} delivers"), LONG, async || pipe.ids(sink).await.len() >= 100).await;
        }
        pipe
    }

    /// The ids that a sink has delivered, none of them twice.
    async fn ids(&self, sink: &str) -> HashSet<String> {
        let topic = format!("taken.{sink}");
        let messages = self.kafka.try_read(&topic, "beginning", Isolation::ReadCommitted).await.unwrap_or_default();
        let ids: HashSet<String> = messages.iter().map(|message| message.header("standpipe-id").to_owned()).collect();
        assert_eq!(ids.len(), messages.len(), "{sink} has delivered an event twice");
        ids
    }

    /// Waits until a sink is in a state with an error that says all of `parts`.
    async fn wait_error(&self, sink: &str, state: &str, parts: &[&str]) {
        let found = async || {
            let output = self.daemon.run_verb(&["status", "--json"]).await;
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let row = status["sinks"].as_array()?.iter().find(|row| row["sink"] == sink)?.clone();
            let error = row["error"].as_str().unwrap_or_default();
            (row["state"] == state && parts.iter().all(|part| error.contains(part))).then_some(())
        };
        wait_for(format!("{sink} is {state} and says {parts:?}"), LONG, found).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_from_one_sink_stops_that_sink_with_its_own_remedy_and_no_other() {
    let mut pipe = Pipe::start().await;
    let kafka = &pipe.kafka;
    let cursors = "standpipe.taken.cursorless.cursor";
    kafka.tool(TOPICS, &["--delete", "--topic", cursors]).await;
    // While nothing is sent: the client would otherwise meet the moment in which there is no topic.
    pipe.simulator.set_rate(0).await;
    let emitted = pipe.simulator.emitted().await.len();
    wait_until("nothing is left to send", LONG, async || pipe.ids("recreated").await.len() == emitted).await;
    kafka.tool(TOPICS, &["--delete", "--topic", "taken.recreated"]).await;
    let create = ["--create", "--topic", "taken.recreated", "--partitions", "3", "--replication-factor", "1"];
    wait_until("it is gone", LONG, async || !kafka.topics().await.contains(&"taken.recreated".to_owned())).await;
    kafka.tool(TOPICS, &create).await;
    pipe.simulator.set_rate(20).await;
    kafka.tool(TOPICS, &["--alter", "--topic", "taken.widened", "--partitions", "5"]).await;
    let read = ["--operation", "Read", "--operation", "Describe", "--operation", "DescribeConfigs"];
    let others = ["--add", "--allow-principal", "User:*", "--topic", "taken.forbidden"];
    kafka.tool(ACLS, &[&others[..], &read[..]].concat()).await;

    pipe.wait_error("cursorless", "halted", &["there is no cursor in", "standpipe sinks seek"]).await;
    pipe.wait_error("recreated", "halted", &["taken.recreated", "standpipe sinks seek"]).await;
    pipe.wait_error("widened", "halted", &["now has 5 partitions and had 3", "standpipe sinks seek"]).await;
    pipe.wait_error("forbidden", "retrying", &["grant the sink's user Write"]).await;
    let emitted = pipe.simulator.emitted().await;
    wait_until("the other sink goes on", LONG, async || {
        let ids = pipe.ids("well").await;
        emitted.iter().all(|event| ids.contains(&event.id))
    })
    .await;

    // A right that is given back needs no operator: nothing is lost, nothing repeated.
    let mut remove = vec!["--remove", "--force"];
    remove.extend(&others[1..]);
    remove.extend(read);
    pipe.kafka.tool(ACLS, &remove).await;
    pipe.simulator.set_rate(0).await;
    let emitted = pipe.simulator.emitted().await;
    wait_until("the forbidden sink has all", LONG, async || {
        let ids = pipe.ids("forbidden").await;
        emitted.iter().all(|event| ids.contains(&event.id))
    })
    .await;
    pipe.daemon.process.signal(Signal::TERM);
    assert_eq!(pipe.daemon.process.wait_ended(Duration::from_secs(35)).await.code(), Some(0));
}

/// A fail-over takes both at once: where the ledger has moved, a cluster is asked whether somebody else still runs. One
/// that cannot be asked keeps its own sinks waiting, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_has_moved_goes_on_while_a_cluster_cannot_be_asked_who_else_runs() {
    let mut kafka = Kafka::start().await;
    let simulator = Simulator::start(&["--seed", "6", "--rate", "0", "--backlog", "50"]).await;
    let receiver = VerifyingReceiver::start(SECRET, None).await;
    let database = Postgres::shared().await.database().await;
    let setup = Setup::new("moved", &database)
        .account("acme", &simulator.url())
        .kafka("crm", &kafka.brokers(), "moved.all")
        .webhook("ops", &receiver.url());
    let mut daemon = Daemon::start("moved", setup.text());
    daemon.wait_ready(LONG).await;
    wait_until("the sinks have the backlog", LONG, async || {
        let messages = kafka.try_read("moved.all", "beginning", Isolation::ReadCommitted).await.unwrap_or_default();
        messages.len() == 50 && receiver.received().len() == 50
    })
    .await;

    kafka.kill();
    let mut connection = PgConnection::connect(&database).await.expect("a database");
    connection.execute("UPDATE shards SET home = 'elsewhere'").await.expect("a ledger");
    let text = std::fs::read_to_string(daemon.config()).expect("own file");
    std::fs::write(daemon.config(), text.replace("\"200ms\"", "\"250ms\"")).expect("own file");
    daemon.process.signal(Signal::HUP);
    wait_until("it has looked", LONG, async || {
        std::fs::read_to_string(daemon.process.log_path()).expect("own file").contains("cannot be asked here")
    })
    .await;
    simulator.emit(30).await;
    wait_until("the source and the other sink go on", LONG, async || receiver.received().len() == 80).await;
    let home = async || -> String {
        let mut connection = PgConnection::connect(&database).await.expect("a database");
        sqlx::query_scalar("SELECT home FROM shards").fetch_one(&mut connection).await.expect("a shard")
    };
    assert_eq!(home().await, "elsewhere", "it is asked again at the next start");

    kafka.start_again().await;
    wait_until("the sink that waited has all of it", LONG, async || {
        let messages = kafka.try_read("moved.all", "beginning", Isolation::ReadCommitted).await.unwrap_or_default();
        let ids: HashSet<&str> = messages.iter().map(|message| message.header("standpipe-id")).collect();
        assert_eq!(ids.len(), messages.len(), "an event was delivered twice");
        ids.len() == 80
    })
    .await;
    std::fs::write(daemon.config(), &text).expect("own file");
    daemon.process.signal(Signal::HUP);
    wait_until("its new home is noted", LONG, async || home().await != "elsewhere").await;
    daemon.process.signal(Signal::TERM);
    assert_eq!(daemon.process.wait_ended(Duration::from_secs(35)).await.code(), Some(0));
}
