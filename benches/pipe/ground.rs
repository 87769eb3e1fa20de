//! What the runs stand on: the servers, and what processes cost.

use std::collections::BTreeMap;

use rustix::process::Pid;
use standpipe::ledger::Ledger;

use crate::options::Options;
use crate::support::kafka::{Kafka, More};
use crate::support::keeper::children_of;
use crate::support::postgres::{Postgres, ledger_config};

/// Kernel ticks a second, as `/proc` tells them to everybody.
const TICKS: f64 = 100.0;

/// The commit's wait for the disk is left out: on a machine that others use it would be the disk's figure, the same for
/// the pipe and its ceiling. `--durable` puts it back. The buffers hold the index of `event_ids`, whose keys have no
/// order, at 20 million events, as the README asks for.
const QUICK: &[&str] =
    &["fsync=off", "full_page_writes=off", "max_connections=300", "max_wal_size=8GB", "shared_buffers=2GB"];
const DURABLE: &[&str] = &["max_connections=300", "max_wal_size=8GB", "shared_buffers=2GB"];
const JVM: &[&str] = &["-Xms768m", "-Xmx768m", "-XX:+UseParallelGC"];

/// The servers of a bench.
pub struct Ground {
    pub postgres: Postgres,
    pub kafka: Kafka,
    /// Properties of the pipe's Kafka sinks, as TOML.
    pub properties: String,
}

impl Ground {
    pub async fn start(options: &Options) -> Self {
        let settings = if options.durable { DURABLE } else { QUICK };
        let kafka = More { jvm: Some(JVM), ..More::default() };
        let (postgres, kafka) = tokio::join!(Postgres::start_with(settings), Kafka::start_with(&kafka));
        let quoted = options.properties.iter().filter_map(|property| property.split_once('='));
        let quoted: Vec<String> = quoted.map(|(name, value)| format!("\"{name}\" = \"{value}\"")).collect();
        Self { postgres, kafka, properties: format!("properties = {{ {} }}\n", quoted.join(", ")) }
    }

    /// Seconds of CPU that each group of processes has used: the pipe's process, the servers, and what is outside.
    pub fn cpu(&self, pipe: Pid) -> BTreeMap<&'static str, f64> {
        BTreeMap::from([
            ("pipe", cpu_seconds(pipe)),
            ("postgres", cpu_seconds(self.postgres.pid())),
            ("kafka", cpu_seconds(self.kafka.pid())),
            ("outside", cpu_seconds(rustix::process::getpid())),
        ])
    }
}

/// A ledger, made where there is none.
pub async fn open(url: &str, deployment: &str) -> Ledger {
    let config = ledger_config(url);
    Ledger::connect(&config, &url.into(), deployment).await.expect("a ledger")
}

/// Seconds of CPU of a process and of its children, those that have ended included.
pub fn cpu_seconds(pid: Pid) -> f64 {
    let own: f64 = ticks(pid).iter().sum();
    let of_children: f64 = if pid == rustix::process::getpid() {
        // What it started is counted by itself.
        return ticks(pid)[..2].iter().sum::<f64>() / TICKS;
    } else {
        children_of(pid).into_iter().map(|child| ticks(child)[..2].iter().sum::<f64>()).sum()
    };
    (own + of_children) / TICKS
}

/// User and system time of a process, and of its children that were waited for.
fn ticks(pid: Pid) -> [f64; 4] {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_whitespace().skip(11).map(|field| field.parse().unwrap_or(0.0));
    std::array::from_fn(|_| fields.next().unwrap_or(0.0))
}

/// The most memory that a process ever had, in MB.
pub fn peak_rss(pid: Pid) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kibibytes: f64 = line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0);
    kibibytes * 1024.0 / 1e6
}

/// The machine in a line.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo");
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)).unwrap_or("0");
    let gigabytes = memory.parse::<f64>().unwrap_or(0.0) * 1024.0 / 1e9;
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    format!(
        "{count} × {}, {gigabytes:.0} GB, Linux {}, load before {}",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim(),
        load.split(' ').next().unwrap_or_default()
    )
}
