//! The ledger's own bound, by the real binary: the source pauses and goes on; when Sell's history runs out, the sink that
//! holds the backlog is cut off instead. INV-14, INV-15.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;

use super::receiver::{Receiver, Reply};
use crate::support::postgres::Postgres;
use crate::support::program::{Daemon, Simulator};
use crate::support::setup::Setup;
use crate::support::wait::{hold, wait_for, wait_until};

const LONG: Duration = Duration::from_mins(1);
/// Events a second: less than what a sink takes, and enough to fill the backlog in ten seconds.
const RATE: &str = "200";

/// A pipe of two webhooks, of which one takes nothing yet and the other is faster than the source.
struct Pipe {
    daemon: Daemon,
    good: Receiver,
    bad: Receiver,
    simulator: Simulator,
}

impl Pipe {
    async fn start(name: &'static str, hold: &str) -> Self {
        let simulator = Simulator::start(&["--rate", RATE, "--backlog", "10"]).await;
        let (good, bad) = (Receiver::good().await, Receiver::start(|_| Reply::Status(503)).await);
        let mut setup = Setup::new(name, &Postgres::shared().await.database().await)
            .with(&format!("max_backlog = \"1MiB\"\nbacklog_hold = \"{hold}\""))
            .account("acme", &simulator.url());
        for (sink, receiver) in [("good", &good), ("bad", &bad)] {
            setup = setup
                .webhook(sink, &receiver.url())
                .with("retry_schedule = [\"500ms\", \"500ms\", \"5m\", \"5m\"]\nbreaker.probe_after = \"500ms\"");
        }
        let daemon = Daemon::start(name, setup.text());
        Self { daemon, good, bad, simulator }
    }

    async fn wait_full(&self) {
        wait_until("the source pauses, and /readyz says so", LONG, async || {
            self.daemon.readyz().await.is_some_and(|(status, body)| status == 200 && body.contains("backlog is full"))
        })
        .await;
    }

    /// Nothing happens any more; gives how many events there were.
    async fn stand_still(&self) -> usize {
        self.simulator.set_rate(0).await;
        hold("the last ones are emitted", Duration::from_secs(1), async || true).await;
        self.simulator.emitted().await.len()
    }

    async fn gaps(&self) -> Vec<Value> {
        let output = self.daemon.run_verb(&["gaps", "list", "--json"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

/// The events that a receiver took, and whether an announcement was among them.
fn taken(receiver: &Receiver) -> (usize, bool) {
    let got = receiver.got();
    let told = |got: &super::receiver::Got| String::from_utf8_lossy(&got.body).contains("\"type\":\"standpipe.gap\"");
    let (gaps, events): (Vec<_>, Vec<_>) = got.iter().partition(|got| told(got));
    let ids: HashSet<String> = events.iter().map(|got| got.id()).collect();
    (ids.len(), !gaps.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backlog_pauses_the_source_which_goes_on_once_the_sink_takes_again() {
    let pipe = Pipe::start("backlog", "12h").await;
    pipe.wait_full().await;
    // What was under way when it filled is recorded; then it stands still, while the company goes on.
    let mut before = 0;
    wait_until("nothing more comes", LONG, async || {
        let now = pipe.good.count();
        hold("the look lasts", Duration::from_secs(1), async || true).await;
        std::mem::replace(&mut before, now) == now && now > 0
    })
    .await;
    hold("the source stands still", Duration::from_secs(2), async || pipe.good.count() == before).await;
    pipe.bad.answer_with(|_| Reply::Status(204));
    let emitted = pipe.stand_still().await;
    assert!(before < emitted, "all of it fitted into the backlog");
    for receiver in [&pipe.good, &pipe.bad] {
        wait_until("everything arrives", LONG, async || taken(receiver).0 == emitted).await;
        assert!(!taken(receiver).1);
    }
    assert_eq!(pipe.gaps().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_holds_the_backlog_until_history_runs_out_is_cut_off_and_costs_the_others_nothing() {
    // Streams that stood still for three seconds have less than the hold left of their history.
    let pipe = Pipe::start("cutoff", "71h 59m 57s").await;
    pipe.wait_full().await;
    let gaps = wait_for("the gap", LONG, async || Some(pipe.gaps().await).filter(|gaps| !gaps.is_empty())).await;
    for gap in &gaps {
        assert_eq!((&gap["sink"], &gap["reason"]), (&"bad".into(), &"backlog_hold".into()), "{gap}");
    }
    let emitted = pipe.stand_still().await;
    wait_until("the other sink gets everything", LONG, async || taken(&pipe.good).0 == emitted).await;
    wait_until("the other sink is told", LONG, async || taken(&pipe.good).1).await;
    pipe.bad.answer_with(|_| Reply::Status(204));
    wait_until("it is told of its own gap once it takes again", LONG, async || taken(&pipe.bad).1).await;
    assert!(taken(&pipe.bad).0 < emitted, "nothing was cut off");
}
