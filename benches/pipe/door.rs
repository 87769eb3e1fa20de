//! Lookups at the door beside nginx's, with one simulated Sell behind both: kept ones, and ones that go to the vendor.
//!
//! The door asks its callers for an API key, as it does outside; nginx asks for nothing. nginx keeps answers in files on
//! the disk, which the kernel has in memory.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use rustix::process::Pid;
use serde_json::Value;

use crate::callers::{Order, Told};
use crate::ground::{cpu_seconds, peak_rss};
use crate::nginx::Nginx;
use crate::parts::Bench;
use crate::report::Figure;
use crate::support::http;
use crate::support::keeper::{self, Process};
use crate::support::program::{Daemon, Simulator};
use crate::support::wait::wait_until;

const KEY: &str = "the-key-of-the-callers";
/// The vendor asks for a name.
const CALLER: &str = "bench";
/// Records that are looked up, at most.
const RECORDS: usize = 1_000;
const SOON: Duration = Duration::from_mins(1);
const LIMIT: Duration = Duration::from_mins(5);

/// One of the two.
struct Side {
    name: &'static str,
    port: u16,
    pid: Pid,
    /// How a head says that an answer was kept, and that it was not.
    says: [&'static str; 2],
}

/// What one run brings.
struct Seen {
    told: Told,
    /// Microseconds of CPU for each lookup: the side's, and the vendor's.
    cpu: [f64; 2],
}

/// Measures both sides in turn.
pub async fn measure(bench: &mut Bench<'_>) {
    let options = bench.options;
    let story = ["--seed", "5", "--rate", "0", "--backlog", "20000", "--epoch", "2026-01-05T10:00:00Z"];
    let vendor = Simulator::start(&[&story[..], &["--dialect", "live"]].concat()).await;
    let configuration = format!(
        "deployment = \"door\"\n[ledger]\nurl = \"{}\"\n[accounts.acme]\nbase_url = \"{}\"\ntoken = \"t\"\n\
         dialect = \"live\"\nstreams = [\"contacts\"]\nstart = \"top\"\nrequests_per_minute = 10000000\n\
         requests_per_hour = 600000000\n[server.keys.callers]\ntoken = \"{KEY}\"\nallow = [\"passthrough:read\"]\n",
        bench.ground.postgres.database().await,
        vendor.url()
    );
    let mut door = Daemon::start("door", &configuration);
    door.wait_ready(SOON).await;
    let nginx = Nginx::start(vendor.port()).await;
    let targets = contacts(&vendor).await;
    is_kept(&format!("{}{}", door.url(), targets[0])).await;
    let sides = [
        Side {
            name: "door",
            port: door.url().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port"),
            pid: door.process.pid(),
            says: ["standpipe-cache: hit", "standpipe-cache: miss"],
        },
        Side { name: "nginx", port: nginx.port(), pid: nginx.pid(), says: ["x-cache: HIT", "x-cache: BYPASS"] },
    ];
    for (what, kept, lookups) in [("kept", true, options.lookups), ("not kept", false, options.lookups / 4)] {
        eprintln!("lookups at the door, {what}: {} records, {} callers", targets.len(), options.callers);
        let mut seen: BTreeMap<&str, Vec<Seen>> = BTreeMap::new();
        let order = |side: &Side, lookups| Order {
            port: side.port,
            targets: targets.clone(),
            headers: headers(kept),
            callers: options.callers,
            lookups,
            says: side.says[usize::from(!kept)].to_owned(),
        };
        for side in &sides {
            if kept {
                // Whatever was kept before this is asked for anew, once.
                let fill = Order { headers: headers(false), ..order(side, targets.len() as u64) };
                call(&Order { says: side.says[1].to_owned(), ..fill }).await;
            }
            call(&order(side, lookups / 4)).await;
        }
        for _ in 0..options.rounds {
            for side in &sides {
                let before = [side.pid, vendor.process.pid()].map(cpu_seconds);
                let told = call(&order(side, lookups)).await;
                let after = [side.pid, vendor.process.pid()].map(cpu_seconds);
                #[expect(clippy::cast_precision_loss, reason = "a count of lookups")]
                let cpu = [0, 1].map(|group| (after[group] - before[group]) * 1e6 / lookups as f64);
                eprintln!("  {}: {:.0} a second, {told:.2?}, {cpu:.1?} µs", side.name, told.rate);
                seen.entry(side.name).or_default().push(Seen { told, cpu });
            }
        }
        let beside = |figure: fn(&Seen) -> f64| ["door", "nginx"].map(|side| middle(&seen[side], figure));
        let what = format!("lookups, {what}, by nginx");
        let wanted = |text: &'static str| if kept { text } else { "" };
        for (what, unit, [ours, theirs], wanted) in [
            (what.clone(), "a second", beside(|seen| seen.told.rate), wanted("≥ 0.5")),
            (format!("{what}: p50"), "ms", beside(|seen| seen.told.p50), ""),
            (format!("{what}: p99"), "ms", beside(|seen| seen.told.p99), wanted("< 2")),
            (format!("{what}: CPU"), "µs", beside(|seen| seen.cpu[0]), ""),
            (format!("{what}: CPU, vendor"), "µs", beside(|seen| seen.cpu[1]), ""),
        ] {
            bench.figures.push(Figure::beside(what, unit, ours, theirs, wanted));
        }
    }
    nginx.end().await;
    bench.figures.push(Figure::alone("lookups: peak RSS", "MB", peak_rss(door.process.pid()), ""));
}

/// The figure of the middle run.
fn middle(runs: &[Seen], figure: fn(&Seen) -> f64) -> f64 {
    let mut figures: Vec<f64> = runs.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn headers(kept: bool) -> Vec<String> {
    let past = (!kept).then(|| "cache-control: no-cache".to_owned());
    [format!("authorization: Bearer {KEY}"), format!("user-agent: {CALLER}"), "accept: application/json".to_owned()]
        .into_iter()
        .chain(past)
        .collect()
}

/// The vendor's contacts, as they are looked up.
async fn contacts(vendor: &Simulator) -> Vec<String> {
    let mut targets = Vec::new();
    for page in 1.. {
        let url = format!("{}/v2/contacts?per_page=100&page={page}", vendor.url());
        let asked = http::client().get(&url).bearer_auth("t").header("user-agent", CALLER);
        let answer = asked.send().await.expect("the simulator answers");
        let list: Value = serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON");
        let items = list["items"].as_array().expect("a list");
        targets.extend(items.iter().map(|item| format!("/sell/acme/v2/contacts/{}", item["data"]["id"])));
        if items.is_empty() || targets.len() >= RECORDS {
            break;
        }
    }
    targets.truncate(RECORDS);
    targets
}

/// Waits until the door keeps answers: the account's streams run.
async fn is_kept(url: &str) {
    let client = http::client();
    wait_until("the door keeps answers", SOON, async || {
        let answer = client.get(url).bearer_auth(KEY).send().await.expect("the door answers");
        answer.headers().get("standpipe-cache").is_some_and(|said| said == "hit")
    })
    .await;
}

/// Lets callers carry an order out.
async fn call(order: &Order) -> Told {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("callers").arg(serde_json::to_string(order).expect("plain values"));
    let mut process = Process::start("the callers", &mut command, &keeper::directory("callers").join("log"));
    process.wait_ended(LIMIT).await;
    let told = std::fs::read_to_string(process.log_path()).expect("own file");
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {}", process.log_tail()))
}
