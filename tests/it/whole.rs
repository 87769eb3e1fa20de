//! Promises of the whole program, kept by the real binary.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::process::Output;
use std::time::Duration;

use base64::Engine as _;
use ed25519_dalek::SigningKey;
use rustix::process::Signal;
use tokio::net::UnixDatagram;

use crate::support::emitted::Emitted;
use crate::support::kafka::{Kafka, Message};
use crate::support::keeper;
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::Postgres;
use crate::support::program::{Daemon, Simulator, run};
use crate::support::receiver::VerifyingReceiver;
use crate::support::wait::{hold, wait_for, wait_until};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const SOON: Duration = Duration::from_secs(30);
const LATER: Duration = Duration::from_mins(1);

/// A configuration: the deployment (its name also keeps tests apart in the shared Kafka), its ledger, accounts, sinks.
struct Setup {
    deployment: &'static str,
    text: String,
}

impl Setup {
    fn new(deployment: &'static str, database: &str) -> Self {
        let text = format!("deployment = \"{deployment}\"\n[ledger]\nurl = \"{database}\"\nlease_ttl = \"4s\"\n");
        Self { deployment, text }
    }

    fn account(mut self, name: &str, dialect: &str, simulator: &Simulator) -> Self {
        write!(
            self.text,
            "[accounts.{name}]\nbase_url = \"{}\"\ndialect = \"{dialect}\"\ntoken = \"t\"\npoll_interval = \"200ms\"\n\
             requests_per_minute = 60000\nrequests_per_hour = 3600000\n",
            simulator.url()
        )
        .unwrap();
        self
    }

    /// A Kafka sink `crm` into topics of this deployment.
    fn kafka(mut self, kafka: &Kafka) -> Self {
        write!(
            self.text,
            "[sinks.crm]\ntype = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{}.{{{{ resource }}}}\"\n",
            kafka.brokers(),
            self.deployment
        )
        .unwrap();
        self
    }

    /// A webhook sink `ops`.
    fn webhook(mut self, url: &str) -> Self {
        write!(
            self.text,
            "[sinks.ops]\ntype = \"webhook\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\nallow_http = true\n\
             allow_networks = [\"127.0.0.0/8\"]\n"
        )
        .unwrap();
        self
    }

    fn more(mut self, text: &str) -> Self {
        self.text += text;
        self
    }

    fn start(&self) -> Daemon {
        Daemon::start(self.deployment, &self.text)
    }
}

async fn company(dialect: &str, arguments: &[&str]) -> Simulator {
    let mut all = vec!["--seed", "7", "--dialect", dialect];
    all.extend(arguments);
    Simulator::start(&all).await
}

/// What a `read_committed` consumer sees in the data topics of a deployment, by account and event id.
async fn in_kafka(kafka: &Kafka, deployment: &str) -> Vec<Message> {
    let mut messages = Vec::new();
    for topic in kafka.topics().await.iter().filter(|topic| topic.starts_with(&format!("{deployment}."))) {
        messages.extend(kafka.read_committed(topic).await);
    }
    messages
}

fn account_of(message: &Message) -> &str {
    message.key.as_deref().unwrap().split('/').next().unwrap()
}

async fn wait_in_kafka(kafka: &Kafka, deployment: &str, account: &str, emitted: &[Emitted]) -> Vec<Message> {
    wait_for(format!("all of {account} is in Kafka"), LATER, async || {
        let messages = in_kafka(kafka, deployment).await;
        let ids: HashSet<&str> = messages
            .iter()
            .filter(|message| account_of(message) == account)
            .map(|message| message.header("standpipe-id"))
            .collect();
        emitted.iter().all(|event| ids.contains(event.id.as_str())).then_some(messages)
    })
    .await
}

async fn stop(daemon: &mut Daemon) {
    daemon.process.signal(Signal::TERM);
    let status = daemon.process.wait_ended(Duration::from_secs(35)).await;
    assert_eq!(status.code(), Some(0), "SIGTERM ends with 0\n{}", daemon.process.log_tail());
}

#[tokio::test]
async fn both_dialects_reach_kafka_and_a_webhook_that_verifies() {
    let (postgres, kafka) = tokio::join!(Postgres::shared(), Kafka::shared());
    let key = SigningKey::from_bytes(&[9; 32]);
    let base64 = base64::engine::general_purpose::STANDARD;
    let public = format!("whpk_{}", base64.encode(key.verifying_key().as_bytes()));
    let receiver = VerifyingReceiver::start(SECRET, Some(&public)).await;
    let reference = company("reference", &["--backlog", "150", "--rate", "5", "--fault", "duplicate=0.1"]).await;
    let live = company("live", &["--backlog", "150", "--rate", "5", "--fault", "empty-page=0.2"]).await;
    let setup = Setup::new("both", &postgres.database().await)
        .account("acme", "auto", &reference)
        .account("globex", "auto", &live)
        .kafka(kafka)
        .webhook(&receiver.url())
        .more(&format!("signing_key = \"whsk_{}\"\n", base64.encode(key.to_bytes())));
    let mut daemon = setup.start();
    daemon.wait_ready(SOON).await;

    // Nothing new while the daemon stops: what one sink has then got, the other need not have yet.
    reference.set_rate(0).await;
    live.set_rate(0).await;
    let accounts = [("acme", reference.emitted().await), ("globex", live.emitted().await)];
    for (account, emitted) in &accounts {
        assert!(emitted.len() >= 150, "the simulator's backlog");
        wait_in_kafka(kafka, "both", account, emitted).await;
    }
    let all = accounts.iter().map(|(_, emitted)| emitted.len()).sum::<usize>();
    wait_until("the receiver has all", LATER, async || {
        let requests = receiver.received();
        requests.iter().map(|received| received.header("webhook-id")).collect::<HashSet<_>>().len() == all
    })
    .await;
    stop(&mut daemon).await;

    let messages = in_kafka(kafka, "both").await;
    let bodies: HashMap<(&str, &str), &str> = messages
        .iter()
        .map(|message| ((account_of(message), message.header("standpipe-id")), message.body()))
        .collect();
    assert_eq!(bodies.len(), messages.len(), "each event once in Kafka");
    for (account, emitted) in &accounts {
        for event in emitted {
            let body = bodies[&(*account, event.id.as_str())];
            assert!(body.contains(&format!("\"data\":{{\"{}\":{}}}", event.resource(), event.record)), "{body}");
        }
    }
    let requests = receiver.received();
    let errors: Vec<_> = requests.iter().filter_map(|received| received.error.as_ref()).collect();
    assert!(errors.is_empty(), "outside libraries verify v1 and v1a: {errors:?}");
    let kafka_bodies: HashSet<&[u8]> = bodies.values().map(|body| body.as_bytes()).collect();
    for received in &requests {
        assert!(kafka_bodies.contains(received.body().as_slice()), "Kafka value and webhook body are the same bytes");
    }
}

/// Field 13: what must not be lost stands in PostgreSQL and Kafka, so that a container may come back without its disk.
#[tokio::test]
async fn a_start_without_the_state_of_the_last_one_loses_and_repeats_nothing() {
    let (postgres, kafka) = tokio::join!(Postgres::shared(), Kafka::shared());
    let company = company("reference", &["--backlog", "200", "--rate", "20"]).await;
    let setup = Setup::new("diskless", &postgres.database().await).account("acme", "reference", &company).kafka(kafka);
    let mut first = setup.start();
    first.wait_ready(SOON).await;
    wait_in_kafka(kafka, "diskless", "acme", &company.emitted().await).await;
    first.process.kill();
    // Another directory, so another instance: it has the configuration and nothing else.
    let mut second = setup.start();
    second.wait_ready(SOON).await;
    company.set_rate(0).await;
    let emitted = company.emitted().await;
    let messages = wait_in_kafka(kafka, "diskless", "acme", &emitted).await;
    let ids: HashSet<&str> = messages.iter().map(|message| message.header("standpipe-id")).collect();
    assert_eq!((ids.len(), messages.len()), (emitted.len(), emitted.len()), "each once");
    stop(&mut second).await;
}

#[tokio::test]
async fn of_two_replicas_one_works_and_hands_over_at_once_when_it_stops() {
    let (postgres, kafka) = tokio::join!(Postgres::shared(), Kafka::shared());
    let simulator = company("live", &["--backlog", "50", "--rate", "20"]).await;
    // A standby that had to wait for the lease to end would be late.
    let database = postgres.database().await;
    let setup = Setup::new("replicas", &database).account("acme", "live", &simulator).kafka(kafka);
    let text = setup.text.replace("lease_ttl = \"4s\"", "lease_ttl = \"60s\"");
    let mut first = Daemon::start("first", &text);
    first.wait_ready(SOON).await;
    wait_until("the first owns the shard", SOON, async || owned(&first).await == Some(1)).await;
    let mut second = Daemon::start("second", &text);
    second.wait_ready(SOON).await;
    hold("one owner", Duration::from_secs(1), async || owned(&second).await == Some(0)).await;
    stop(&mut first).await;
    wait_until("the second owns the shard", Duration::from_secs(10), async || owned(&second).await == Some(1)).await;
    let emitted = simulator.emitted().await;
    wait_in_kafka(kafka, "replicas", "acme", &emitted).await;
    stop(&mut second).await;
    let messages = in_kafka(kafka, "replicas").await;
    let ids: HashSet<&str> = messages.iter().map(|message| message.header("standpipe-id")).collect();
    assert_eq!(ids.len(), messages.len(), "each event once in Kafka");
}

async fn owned(daemon: &Daemon) -> Option<u16> {
    let metrics = daemon.metrics().await?;
    let lines = metrics.lines().filter(|line| line.starts_with("standpipe_shard_owned"));
    Some(lines.filter(|line| line.ends_with(" 1")).count().try_into().unwrap())
}

#[tokio::test]
async fn sigterm_ends_with_0_while_running_as_standby_and_in_start_up() {
    let postgres = Postgres::shared().await;
    let simulator = company("live", &["--backlog", "10", "--rate", "1"]).await;
    let setup = Setup::new("terms", &postgres.database().await).account("acme", "live", &simulator);
    let (mut running, mut standby) = (setup.start(), setup.start());
    running.wait_ready(SOON).await;
    standby.wait_ready(SOON).await;
    stop(&mut standby).await;
    stop(&mut running).await;

    // A database that never answers: the program is still waiting for it.
    let nobody = format!("postgres://postgres@127.0.0.1:{}/none", keeper::free_port());
    let mut starting = Setup::new("starting", &nobody).account("acme", "live", &simulator).start();
    wait_until("/livez answers in start-up", SOON, async || starting.livez().await == Some(200)).await;
    stop(&mut starting).await;
}

#[tokio::test]
async fn it_runs_behind_a_transaction_mode_pooler() {
    let (postgres, kafka) = tokio::join!(Postgres::shared(), Kafka::shared());
    let pooler = PgBouncer::start(postgres).await;
    let simulator = company("reference", &["--backlog", "200", "--rate", "20"]).await;
    let database = pooler.url(&postgres.database().await);
    let mut setup = Setup::new("pooled", &database).account("acme", "reference", &simulator).kafka(kafka);
    setup.text = setup.text.replace("[ledger]\n", "[ledger]\npooler = true\n");
    let mut daemon = setup.start();
    daemon.wait_ready(SOON).await;
    // Several rounds on whatever connection the pooler gives: prepared statements would be met again elsewhere.
    for _ in 0..3 {
        let emitted = simulator.emitted().await;
        wait_in_kafka(kafka, "pooled", "acme", &emitted).await;
    }
    stop(&mut daemon).await;
}

fn code(output: &Output, expected: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(expected), "stderr: {stderr}");
    stderr
}

async fn run_with(configuration: &str) -> Output {
    let file = keeper::directory("config").join("standpipe.toml");
    std::fs::write(&file, configuration).unwrap();
    run(&["run", "--config", file.to_str().unwrap()]).await
}

fn listeners() -> String {
    let state = keeper::directory("state");
    format!(
        "state_dir = \"{}\"\nstartup_timeout = \"2s\"\nserver.listen = \"127.0.0.1:{}\"\n\
         server.metrics_listen = \"127.0.0.1:{}\"\n",
        state.display(),
        keeper::free_port(),
        keeper::free_port()
    )
}

#[tokio::test]
async fn a_wrong_configuration_ends_run_with_2_and_names_every_error() {
    let account = "[accounts.acme]\nbase_url = \"https://api.getbase.com\"\ntoken_file = \"/nowhere/token\"\n";
    let top = format!("deployment = \"wrong\"\npol_interval = 1\n{}", listeners());
    let ledger = "[ledger]\nurl = \"postgres://postgres@127.0.0.1:1/x\"\nlease_ttl = \"1ms\"\n";
    let stderr = code(&run_with(&(top + ledger + account)).await, 2);
    for part in ["pol_interval", "lease_ttl", "/nowhere/token"] {
        assert!(stderr.contains(part), "{part} is not named in: {stderr}");
    }
}

#[tokio::test]
async fn a_database_or_a_broker_out_of_reach_at_start_ends_run_with_3() {
    let simulator = company("live", &[]).await;
    let nobody = keeper::free_port();
    let away = Setup::new("away", &format!("postgres://postgres@127.0.0.1:{nobody}/x"));
    let away = away.account("acme", "live", &simulator);
    code(&run_with(&(listeners() + &away.text)).await, 3);

    let database = Postgres::shared().await.database().await;
    let away = Setup::new("brokerless", &database).account("acme", "live", &simulator);
    let sink = format!("[sinks.crm]\ntype = \"kafka\"\nbrokers = \"127.0.0.1:{nobody}\"\ntopic = \"t\"\n");
    code(&run_with(&(listeners() + &away.more(&sink).text)).await, 3);
}

#[tokio::test]
async fn a_vendor_out_of_reach_never_ends_run() {
    let postgres = Postgres::shared().await;
    let account = format!(
        "[accounts.acme]\nbase_url = \"http://127.0.0.1:{}\"\ndialect = \"live\"\ntoken = \"t\"\n",
        keeper::free_port()
    );
    let mut daemon = Setup::new("vendorless", &postgres.database().await).more(&account).start();
    wait_until("/livez answers", SOON, async || daemon.livez().await == Some(200)).await;
    hold("it runs", Duration::from_secs(3), async || daemon.process.ended().is_none()).await;
    stop(&mut daemon).await;
}

#[tokio::test]
async fn a_service_manager_and_a_container_engine_are_told_how_it_is() {
    let postgres = Postgres::shared().await;
    let simulator = company("live", &["--backlog", "10", "--rate", "1"]).await;
    let path = keeper::directory("notify").join("socket");
    let manager = UnixDatagram::bind(&path).unwrap();
    let hears = async |wanted: &str| {
        let mut message = [0; 1024];
        let told = async {
            loop {
                let length = manager.recv(&mut message).await.unwrap();
                if String::from_utf8_lossy(&message[..length]).lines().any(|line| line == wanted) {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, told).await.unwrap_or_else(|_| panic!("{wanted} never came"));
    };
    let setup = Setup::new("served", &postgres.database().await).account("acme", "live", &simulator);
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "300000")];
    let mut daemon = Daemon::start_with("served", &setup.text, &environment);
    hears("READY=1").await;
    for _ in 0..3 {
        hears("WATCHDOG=1").await;
    }
    daemon.wait_ready(SOON).await;
    for question in ["/readyz", "/livez"] {
        code(&daemon.run_verb(&["healthcheck", "--path", question]).await, 0);
    }
    daemon.process.signal(Signal::TERM);
    hears("STOPPING=1").await;
    assert_eq!(daemon.process.wait_ended(SOON).await.code(), Some(0), "{}", daemon.process.log_tail());
    let gone = code(&daemon.run_verb(&["healthcheck"]).await, 1);
    assert!(gone.contains("cannot ask 127.0.0.1"), "{gone}");
}
