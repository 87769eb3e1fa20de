//! A private, real Apache Kafka (one combined node), and reading from it with `kcat`, which is not ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::keeper::{self, Process};
use super::wait::wait_until;

const STARTS_WITHIN: Duration = Duration::from_secs(90);
/// One compiler tier: a broker lives for minutes here.
const JVM: &[&str] = &["-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// A running broker.
#[derive(Debug)]
pub struct Kafka {
    dir: PathBuf,
    port: u16,
    jvm: &'static [&'static str],
    process: Process,
}

/// A message as `kcat -J` prints it.
#[derive(Clone, Debug)]
pub struct Message {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Its timestamp, in milliseconds.
    pub at: i64,
    pub key: Option<String>,
    pub headers: Vec<(String, String)>,
    pub payload: Option<String>,
}

impl Message {
    /// The value of a header that must be there once.
    pub fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        let (_, value) = found.next().unwrap_or_else(|| panic!("no header {name} in {self:?}"));
        assert!(found.next().is_none(), "header {name} twice in {self:?}");
        value
    }

    pub fn has_header(&self, name: &str) -> bool {
        self.headers.iter().any(|(key, _)| key == name)
    }

    /// The value, which must be there.
    pub fn body(&self) -> &str {
        self.payload.as_deref().unwrap_or_else(|| panic!("no value in {self:?}"))
    }
}

/// What a reader is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    ReadCommitted,
    ReadUncommitted,
}

/// What a broker has beside its plain listener.
#[derive(Clone, Debug, Default)]
pub struct More {
    /// Listeners: name, protocol and port, at `localhost`.
    pub listeners: Vec<(&'static str, &'static str, u16)>,
    /// Lines of its properties.
    pub properties: String,
    /// A user who logs in by SCRAM-SHA-256, with the password.
    pub user: Option<(&'static str, &'static str)>,
    /// Options of its virtual machine, instead of those that suit a test.
    pub jvm: Option<&'static [&'static str]>,
}

impl Kafka {
    /// The broker that all tests of this binary share.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// A broker of one's own, to kill and start again.
    pub async fn start() -> Self {
        Self::start_with(&More::default()).await
    }

    /// The same with more.
    pub async fn start_with(more: &More) -> Self {
        let dir = keeper::directory("kafka");
        let (port, controller) = (keeper::free_port(), keeper::free_port());
        let settings = dir.join("server.properties");
        std::fs::write(&settings, properties(port, controller, &dir.join("data"), more)).expect("own directory");
        let user = more.user.map(|(name, password)| format!("SCRAM-SHA-256=[name={name},password={password}]"));
        let format = java()
            .args(["kafka.tools.StorageTool", "format", "-t", "c3RhbmRwaXBlLXRlc3RzMQ", "-c"])
            .arg(&settings)
            .args(user.iter().flat_map(|user| ["--add-scram", user]))
            .output()
            .expect("java (run tests/prepare)");
        assert!(format.status.success(), "cannot format Kafka's log: {}", String::from_utf8_lossy(&format.stderr));
        let jvm = more.jvm.unwrap_or(JVM);
        let process = launch(&dir, jvm);
        let kafka = Self { dir, port, jvm, process };
        kafka.wait_ready().await;
        kafka
    }

    /// `host:port`
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> rustix::process::Pid {
        self.process.pid()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after [`Kafka::kill`], on the same port and the same log.
    pub async fn start_again(&mut self) {
        self.process = launch(&self.dir, self.jvm);
        self.wait_ready().await;
    }

    /// Stops the broker's process in its tracks, or lets it go on.
    pub fn signal(&self, signal: rustix::process::Signal) {
        self.process.signal(signal);
    }

    /// The names of all topics that are not Kafka's own.
    pub async fn topics(&self) -> Vec<String> {
        #[derive(Deserialize)]
        struct Listing {
            topics: Vec<Topic>,
        }
        #[derive(Deserialize)]
        struct Topic {
            topic: String,
        }
        let listing = self.kcat(&["-L", "-J"]).await.expect("kcat lists the topics");
        let listing: Listing = serde_json::from_slice(&listing).expect("kcat -L -J prints JSON");
        let names = listing.topics.into_iter().map(|topic| topic.topic);
        names.filter(|name| !name.starts_with("__")).collect()
    }

    /// Deletes a topic and waits until it is gone.
    pub async fn delete_topic(&self, topic: &str) {
        let admin = ClientConfig::new().set("bootstrap.servers", self.brokers()).create::<AdminClient<_>>();
        let deleted = admin.expect("a client").delete_topics(&[topic], &AdminOptions::new()).await;
        let deleted = deleted.expect("the broker answers");
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
        let gone = async || !self.topics().await.iter().any(|known| known == topic);
        wait_until(format!("{topic} is gone"), STARTS_WITHIN, gone).await;
    }

    /// Everything in a topic, partition by partition in offset order, as a `read_committed` consumer sees it.
    pub async fn read_committed(&self, topic: &str) -> Vec<Message> {
        self.read(topic, "beginning", Isolation::ReadCommitted).await
    }

    /// The messages of a topic from an offset on (`beginning`, `-5` for the last five of each partition, …).
    pub async fn read(&self, topic: &str, from: &str, isolation: Isolation) -> Vec<Message> {
        self.try_read(topic, from, isolation).await.unwrap_or_else(|error| panic!("cannot read {topic}: {error}"))
    }

    /// As [`Kafka::read`], where the topic may not exist yet or the broker be away.
    pub async fn try_read(&self, topic: &str, from: &str, isolation: Isolation) -> Result<Vec<Message>, String> {
        let isolation = match isolation {
            Isolation::ReadCommitted => "isolation.level=read_committed",
            Isolation::ReadUncommitted => "isolation.level=read_uncommitted",
        };
        let out = self.kcat(&["-C", "-q", "-e", "-J", "-X", isolation, "-o", from, "-t", topic]).await?;
        let mut messages = out
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| message(line).map_err(|error| format!("{error}: {}", String::from_utf8_lossy(line))))
            .collect::<Result<Vec<_>, _>>()?;
        messages.sort_by_key(|message| (message.partition, message.offset));
        Ok(messages)
    }

    /// What one of Kafka's own command-line tools prints.
    pub async fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let mut command = tokio::process::Command::from(java());
        command.arg(class).args(["--bootstrap-server", &self.brokers()]).args(arguments);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let out = tokio::time::timeout(Duration::from_mins(1), command.output()).await.expect("the tool ends");
        let out = out.expect("java (run tests/prepare)");
        assert!(out.status.success(), "{class}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("text")
    }

    async fn kcat(&self, arguments: &[&str]) -> Result<Vec<u8>, String> {
        kcat(&self.brokers(), arguments).await
    }

    async fn wait_ready(&self) {
        let what = format!("Kafka answers; its output is in {}", self.process.log_path().display());
        wait_until(what, STARTS_WITHIN, async || self.kcat(&["-L", "-m", "2"]).await.is_ok()).await;
    }
}

/// What kcat prints.
pub(super) async fn kcat(brokers: &str, arguments: &[&str]) -> Result<Vec<u8>, String> {
    let out = tokio::time::timeout(Duration::from_mins(1), kcat_command(brokers, arguments).output());
    let out = out.await.map_err(|_| "kcat did not end in 60 s")?.map_err(|error| format!("kcat: {error}"))?;
    if out.status.success() { Ok(out.stdout) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

pub(super) fn kcat_command(brokers: &str, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("kcat");
    command.args(["-b", brokers, "-X", "socket.timeout.ms=10000", "-m", "10"]);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A line of `kcat -J`.
pub(super) fn message(line: &[u8]) -> Result<Message, serde_json::Error> {
    #[derive(Deserialize)]
    struct Printed {
        topic: String,
        partition: i32,
        offset: i64,
        #[serde(default)]
        headers: Vec<String>,
        key: Option<String>,
        payload: Option<String>,
        #[serde(default)]
        ts: i64,
    }
    let printed: Printed = serde_json::from_slice(line)?;
    let mut parts = printed.headers.into_iter();
    let mut headers = Vec::new();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        headers.push((name, value));
    }
    let Printed { topic, partition, offset, key, payload, ts: at, .. } = printed;
    Ok(Message { topic, partition, offset, at, key, headers, payload })
}

pub(super) fn launch(dir: &Path, jvm: &[&str]) -> Process {
    let mut command = java_with(jvm);
    command.arg("kafka.Kafka").arg(dir.join("server.properties")).current_dir(dir);
    Process::start("Kafka", &mut command, &dir.join("log"))
}

fn java() -> Command {
    java_with(JVM)
}

pub(super) fn java_with(jvm: &[&str]) -> Command {
    let jars = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/kafka/lib");
    assert!(jars.is_dir(), "Kafka's jars are not in {}; run tests/prepare", jars.display());
    let mut command = Command::new("java");
    // The JVM expands the star; no shell comes between.
    command.args(jvm);
    command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn").arg("-cp").arg(jars.join("*"));
    command
}

fn properties(port: u16, controller: u16, data: &Path, more: &More) -> String {
    let each = |text: &dyn Fn(&(&str, &str, u16)) -> String| more.listeners.iter().map(text).collect::<String>();
    let listeners = each(&|(name, _, port)| format!(",{name}://127.0.0.1:{port}"));
    let advertised = each(&|(name, _, port)| format!(",{name}://localhost:{port}"));
    let protocols = each(&|(name, protocol, _)| format!(",{name}:{protocol}"));
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertised}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT{protocols}
log.dirs={data}
num.partitions=3
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
{more}",
        data = data.display(),
        more = more.properties
    )
}
