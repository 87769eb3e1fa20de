//! `standpipe demo` as a person runs it: events are seen to arrive within a minute, and Ctrl-C leaves nothing behind.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::Mutex;

use crate::support::keeper::{self, Process};
use crate::support::program;
use crate::support::wait::{wait_for, wait_until};

/// Each demo looks for the usual ports to be free: two that begin in the same instant would both find them so.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A demo with a temporary directory of its own.
struct Demo {
    process: Process,
    temporary: PathBuf,
}

impl Demo {
    fn start(name: &str) -> Self {
        let dir = keeper::directory(name);
        let temporary = dir.join("tmp");
        std::fs::create_dir(&temporary).unwrap();
        let mut command = program::command();
        command.args(["demo", "--plain", "--rate", "50"]).env("TMPDIR", &temporary);
        Self { process: Process::start(name, &mut command, &dir.join("log")), temporary }
    }

    /// The last counts: `demo: after=5s recorded=604 kafka=600 …`.
    fn count(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(self.process.log_path()).unwrap_or_default();
        let counts = text.lines().rev().find(|line| line.starts_with("demo: after=")).unwrap_or_default();
        let value = counts.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    async fn flows(&mut self) {
        wait_until("events arrive in topics and at the webhook", Duration::from_mins(1), async || {
            assert!(self.process.ended().is_none(), "the demo ended");
            self.count("kafka") > 0 && self.count("webhook_verified") > 0
        })
        .await;
        assert_eq!(self.count("webhook_refused"), 0);
    }

    fn directory(&self) -> PathBuf {
        let mut entries = std::fs::read_dir(&self.temporary).unwrap();
        entries.next().expect("the demo's directory").unwrap().path()
    }

    fn server(&self) -> rustix::process::Pid {
        let file = std::fs::read_to_string(self.directory().join("state/postgres/data/postmaster.pid")).unwrap();
        rustix::process::Pid::from_raw(file.lines().next().unwrap().parse().unwrap()).unwrap()
    }
}

fn is_gone(pid: rustix::process::Pid) -> bool {
    rustix::process::test_kill_process(pid).is_err()
}

#[tokio::test]
async fn a_demo_shows_events_flow_and_leaves_nothing_behind() {
    let _alone = ALONE.lock().await;
    let mut demo = Demo::start("demo");
    demo.flows().await;
    let server = demo.server();
    let config = demo.directory().join("standpipe.toml");
    let status = program::run(&["status", "--json", "--config", config.to_str().unwrap()]).await;
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["deployment"], "demo");

    let text = std::fs::read_to_string(demo.process.log_path()).unwrap();
    let console = text.lines().find_map(|line| line.strip_prefix("demo: console").map(str::trim)).unwrap();
    let (_, page) = crate::support::http::get(console).await.unwrap();
    assert!(page.contains("Events recorded") && page.contains("topics"), "{page}");

    demo.process.signal(Signal::INT);
    let ended = demo.process.wait_ended(Duration::from_secs(10)).await;
    assert!(ended.success(), "{ended}");
    assert!(is_gone(server), "the database is left behind");
    assert_eq!(std::fs::read_dir(&demo.temporary).unwrap().count(), 0, "files are left behind");
}

#[tokio::test]
async fn a_killed_demo_leaves_no_process_behind() {
    let _alone = ALONE.lock().await;
    let mut demo = Demo::start("killed-demo");
    let server = wait_for("the database runs", Duration::from_mins(1), async || {
        if std::fs::read_dir(&demo.temporary).unwrap().count() == 0 {
            return None;
        }
        let file = demo.directory().join("state/postgres/data/postmaster.pid");
        std::fs::read_to_string(file).ok().filter(|text| text.contains("ready")).map(|_| demo.server())
    })
    .await;
    demo.process.kill();
    wait_until("the database has ended, too", Duration::from_secs(10), async || is_gone(server)).await;
}
