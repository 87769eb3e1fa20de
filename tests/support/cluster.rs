//! A private Kafka of three nodes (`KRaft`, three replicas of everything, two must have it), each of whose links leads
//! through Toxiproxy: those of clients, of the nodes among each other, and of their quorum.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::disk::Disk;
use super::kafka::{self, Message};
use super::keeper::{self, Process};
use super::toxiproxy::Toxiproxy;
use super::wait::wait_until;

pub const NODES: usize = 3;
const CLUSTER: &str = "c3RhbmRwaXBlLXRlc3RzMw";
const STARTS_WITHIN: Duration = Duration::from_mins(3);
const READS_WITHIN: Duration = Duration::from_mins(20);
const JVM: &[&str] = &["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// The running cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    /// The brokers as each client finds them, through its own links.
    clients: Vec<String>,
}

#[derive(Debug)]
struct Node {
    dir: PathBuf,
    /// Where the tests themselves ask, past every proxy.
    direct: u16,
    process: Process,
}

/// The ports of one node.
struct Ports {
    direct: u16,
    inner: u16,
    inner_link: u16,
    controller: u16,
    controller_link: u16,
    /// Listener and link, for each client.
    clients: Vec<(u16, u16)>,
}

impl Cluster {
    /// Starts it for so many clients. The links are called `kafka-<client>-<node>`, `inner-<node>`, `quorum-<node>`.
    /// The first node's data stand on `disk`, where there is one.
    pub async fn start(links: &Toxiproxy, clients: usize, disk: Option<&Disk>, more: &str) -> Self {
        let mut ports = Vec::new();
        for node in 0..NODES {
            let (direct, inner, controller) = (keeper::free_port(), keeper::free_port(), keeper::free_port());
            let inner_link = links.link(&format!("inner-{node}"), inner).await;
            let controller_link = links.link(&format!("quorum-{node}"), controller).await;
            let mut of_clients = Vec::new();
            for client in 0..clients {
                let listener = keeper::free_port();
                of_clients.push((listener, links.link(&format!("kafka-{client}-{node}"), listener).await));
            }
            ports.push(Ports { direct, inner, inner_link, controller, controller_link, clients: of_clients });
        }
        let mut formats = tokio::task::JoinSet::new();
        let mut dirs = Vec::new();
        for node in 0..NODES {
            let dir = keeper::directory(&format!("kafka-{node}"));
            let data = disk.filter(|_| node == 0).map_or_else(|| dir.join("data"), |disk| disk.dir().join("data"));
            let settings = dir.join("server.properties");
            let text = properties(node, &ports, &data.display().to_string(), more);
            std::fs::write(&settings, text).expect("own directory");
            let mut format = tokio::process::Command::from(kafka::java_with(JVM));
            format.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"]).arg(settings).stdin(Stdio::null());
            formats.spawn(async move { format.output().await.expect("java (run tests/prepare)") });
            dirs.push(dir);
        }
        while let Some(format) = formats.join_next().await {
            let format = format.expect("no panic");
            assert!(format.status.success(), "cannot format: {}", String::from_utf8_lossy(&format.stderr));
        }
        let nodes = dirs.into_iter().zip(&ports);
        let nodes = nodes.map(|(dir, ports)| Node { direct: ports.direct, process: kafka::launch(&dir, JVM), dir });
        let brokers = |client: usize| {
            let each = ports.iter().map(|ports| format!("127.0.0.1:{}", ports.clients[client].1));
            each.collect::<Vec<_>>().join(",")
        };
        let this = Self { nodes: nodes.collect(), clients: (0..clients).map(brokers).collect() };
        this.wait_in_sync().await;
        this
    }

    /// `host:port,…` as a client is to find it.
    pub fn brokers(&self, client: usize) -> &str {
        &self.clients[client]
    }

    /// `host:port,…` past every proxy.
    pub fn direct(&self) -> String {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.direct)).collect::<Vec<_>>().join(",")
    }

    /// The ports past every proxy, by node.
    pub fn direct_ports(&self) -> impl Iterator<Item = u16> {
        self.nodes.iter().map(|node| node.direct)
    }

    /// kill -9.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].process.kill();
    }

    /// Whether a node has ended by itself.
    pub fn has_ended(&mut self, node: usize) -> bool {
        self.nodes[node].process.ended().is_some()
    }

    pub fn signal(&self, node: usize, signal: Signal) {
        self.nodes[node].process.signal(signal);
    }

    /// Starts a node again after its end, and does not wait for it.
    pub fn start_again(&mut self, node: usize) {
        let Node { dir, process, .. } = &mut self.nodes[node];
        *process = kafka::launch(dir, JVM);
    }

    /// Waits until every node is there and every replica of every partition up to date.
    pub async fn wait_in_sync(&self) {
        let logs = || self.nodes.iter().map(|node| node.process.log_tail()).collect::<String>();
        if tokio::time::timeout(
            STARTS_WITHIN,
            wait_until("in sync", 2 * STARTS_WITHIN, async || self.is_in_sync().await),
        )
        .await
        .is_err()
        {
            panic!("Kafka's replicas are not in sync after {STARTS_WITHIN:?}\n{}", logs());
        }
    }

    /// Whether all nodes are there, and all replicas in sync.
    pub async fn is_in_sync(&self) -> bool {
        let Ok(listing) = self.listing().await else { return false };
        let partitions = listing.topics.iter().flat_map(|topic| &topic.partitions);
        let in_sync = |partition: &Partition| partition.isrs.len() == partition.replicas.len() && partition.leader >= 0;
        listing.brokers.len() == NODES && partitions.into_iter().all(in_sync)
    }

    /// The names of all topics that are not Kafka's own.
    pub async fn topics(&self) -> Vec<String> {
        let listing = self.listing().await.expect("kcat lists the topics");
        let names = listing.topics.into_iter().map(|topic| topic.topic);
        names.filter(|name| !name.starts_with("__")).collect()
    }

    /// The node that leads a partition.
    pub async fn leader(&self, topic: &str, partition: i32) -> Option<usize> {
        let listing = self.listing().await.ok()?;
        let found = listing.topics.iter().find(|found| found.topic == topic)?;
        let leader = found.partitions.iter().find(|found| found.number == partition)?.leader;
        usize::try_from(leader - 1).ok()
    }

    async fn listing(&self) -> Result<Listing, String> {
        let listing = kafka::kcat(&self.direct(), &["-L", "-J", "-m", "3"]).await?;
        serde_json::from_slice(&listing).map_err(|error| error.to_string())
    }

    /// Every message of a topic, as a `read_committed` consumer sees it: those of one partition in offset order.
    pub async fn each_committed(&self, topic: &str, mut take: impl FnMut(Message)) {
        let isolation = "isolation.level=read_committed";
        let arguments = ["-C", "-q", "-e", "-J", "-X", isolation, "-o", "beginning", "-t", topic];
        let mut child =
            kafka::kcat_command(&self.direct(), &arguments).stdout(Stdio::piped()).spawn().expect("kcat starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).split(b'\n');
        let read = async {
            while let Some(line) = lines.next_segment().await.expect("kcat prints") {
                if !line.is_empty() {
                    take(kafka::message(&line).unwrap_or_else(|error| panic!("kcat -J: {error}")));
                }
            }
        };
        tokio::time::timeout(READS_WITHIN, read).await.unwrap_or_else(|_| panic!("{topic} is not read in time"));
        let status = child.wait().await.expect("kcat ends");
        assert!(status.success(), "kcat cannot read {topic}: {status}");
    }
}

#[derive(Deserialize)]
struct Listing {
    brokers: Vec<serde::de::IgnoredAny>,
    topics: Vec<Topic>,
}

#[derive(Deserialize)]
struct Topic {
    topic: String,
    partitions: Vec<Partition>,
}

#[derive(Deserialize)]
struct Partition {
    #[serde(rename = "partition")]
    number: i32,
    leader: i32,
    replicas: Vec<serde::de::IgnoredAny>,
    isrs: Vec<serde::de::IgnoredAny>,
}

fn properties(node: usize, all: &[Ports], data: &str, more: &str) -> String {
    let ports = &all[node];
    let each = |text: &dyn Fn(usize, &(u16, u16)) -> String| {
        ports.clients.iter().enumerate().map(|(client, ports)| text(client, ports)).collect::<String>()
    };
    let listeners = each(&|client, (own, _)| format!(",CLIENT{client}://127.0.0.1:{own}"));
    let advertised = each(&|client, (_, link)| format!(",CLIENT{client}://127.0.0.1:{link}"));
    let protocols = each(&|client, _| format!(",CLIENT{client}:PLAINTEXT"));
    let voters =
        all.iter().enumerate().map(|(node, ports)| format!("{}@127.0.0.1:{}", node + 1, ports.controller_link));
    // Sessions and quorum time-outs are short, so that what a test waits for is our program and not Kafka's patience.
    format!(
        "process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
listeners=DIRECT://127.0.0.1:{direct},INNER://127.0.0.1:{inner},CONTROLLER://127.0.0.1:{controller}{listeners}
advertised.listeners=DIRECT://127.0.0.1:{direct},INNER://127.0.0.1:{inner_link}{advertised}
inter.broker.listener.name=INNER
controller.listener.names=CONTROLLER
listener.security.protocol.map=DIRECT:PLAINTEXT,INNER:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
log.dirs={data}
num.partitions=3
default.replication.factor=3
min.insync.replicas=2
offsets.topic.num.partitions=3
offsets.topic.replication.factor=3
transaction.state.log.num.partitions=6
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
replica.lag.time.max.ms=5000
controller.quorum.fetch.timeout.ms=2000
controller.quorum.election.timeout.ms=1000
controlled.shutdown.enable=false
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
{more}",
        id = node + 1,
        voters = voters.collect::<Vec<_>>().join(","),
        direct = ports.direct,
        inner = ports.inner,
        controller = ports.controller,
        inner_link = ports.inner_link,
    )
}
