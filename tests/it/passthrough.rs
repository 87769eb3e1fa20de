//! The door of the real daemon: what it lends, to whom, and that neither secret is seen anywhere.

use std::time::Duration;

use serde_json::Value;

use crate::support::http;
use crate::support::keeper;
use crate::support::postgres::Postgres;
use crate::support::program::{Daemon, Simulator};
use crate::support::wait::wait_until;

const TOKEN: &str = "vendor-token-canary-55e0";
const READER: &str = "reader-key-canary-a71c";
const WRITER: &str = "writer-key-canary-0b9d";
const LONG: Duration = Duration::from_mins(1);

/// Status and body of a request at the door.
async fn ask(url: &str, method: reqwest::Method, key: Option<&str>, body: &str) -> (u16, String) {
    let mut request = http::client().request(method, url).header("content-type", "application/json");
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let answer = request.body(body.to_owned()).send().await.expect("the door answers");
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}

/// INV-16: also where two secrets meet in one request.
#[tokio::test(flavor = "multi_thread")]
async fn the_door_lends_the_connection_and_neither_secret() {
    use reqwest::Method;
    let simulator = Simulator::start(&["--seed", "11", "--rate", "0", "--backlog", "5", "--token", TOKEN]).await;
    let secrets = keeper::directory("door-secrets");
    for (name, secret) in [("token", TOKEN), ("reader", READER), ("writer", WRITER)] {
        std::fs::write(secrets.join(name), format!("{secret}\n")).expect("own directory");
    }
    let file = |name: &str| secrets.join(name).display().to_string();
    let configuration = format!(
        "deployment = \"door\"\n[ledger]\nurl = \"{}\"\n[accounts.acme]\nbase_url = \"{}\"\ntoken_file = \"{}\"\n\
         poll_interval = \"200ms\"\n[telemetry]\nlog = \"debug\"\n\
         [server.keys.reader]\ntoken_file = \"{}\"\nallow = [\"passthrough:read\"]\n\
         [server.keys.writer]\ntoken_file = \"{}\"\nallow = [\"passthrough:write\"]\naccounts = [\"acme\"]\n",
        Postgres::shared().await.database().await,
        simulator.url(),
        file("token"),
        file("reader"),
        file("writer")
    );
    let mut daemon = Daemon::start("door", &configuration);
    daemon.wait_ready(LONG).await;
    let door = format!("{}/sell/acme/v3", daemon.url());

    let (status, listing) = ask(&format!("{door}/firehose"), Method::GET, Some(READER), "").await;
    let direct = http::client().get(format!("{}/v3/firehose", simulator.url())).bearer_auth(TOKEN);
    let direct = direct.send().await.expect("the simulator").text().await.expect("a body");
    assert_eq!((status, &listing), (200, &direct), "unchanged");
    let (status, refused) = ask(&format!("{door}/firehose"), Method::GET, None, "").await;
    let refused: Value = serde_json::from_str(&refused).expect("the vendor's error form");
    assert_eq!((status, refused["error"]["code"].as_u64()), (401, Some(401)));
    let subscription = r#"{"name":"by-the-door","event_types":["deal.*"],"position":"tail"}"#;
    let subscribe = format!("{door}/firehose/subscribe");
    assert_eq!(ask(&subscribe, Method::POST, Some(READER), subscription).await.0, 403);
    let (status, subscribed) = ask(&subscribe, Method::POST, Some(WRITER), subscription).await;
    assert_eq!(status, 201, "{subscribed}");
    let outside = daemon.url() + "/sell/acme/v2/%2e%2e/_simulator/emitted";
    assert_eq!(ask(&outside, Method::GET, Some(READER), "").await.0, 400);
    assert_eq!(ask(&(daemon.url() + "/console"), Method::GET, Some(READER), "").await.0, 403);

    let log = || std::fs::read_to_string(daemon.process.log_path()).expect("own file");
    wait_until("the write leaves a line", LONG, async || {
        log().lines().any(|line| {
            line.contains("a write passed the door")
                && ["\"writer\"", "/v3/firehose/subscribe", "201"].iter().all(|part| line.contains(part))
        })
    })
    .await;
    let metrics = daemon.metrics().await.expect("metrics");
    for line in [
        "standpipe_passthrough_requests_total{account=\"acme\",outcome=\"answered\"} 2",
        "standpipe_passthrough_requests_total{account=\"acme\",outcome=\"refused\"} 2",
        "standpipe_vendor_requests_total{account=\"acme\",api=\"core\",status_class=\"2xx\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let check = daemon.run_verb(&["check"]).await;
    let text = String::from_utf8(check.stdout).expect("text");
    assert!(text.contains("key reader: passthrough:read, every account"), "{text}");
    assert!(text.contains("key writer: passthrough:write, accounts acme"), "{text}");
    let status = daemon.run_verb(&["status", "--json"]).await;
    for (what, shown) in [
        ("the log", log()),
        ("the metrics", metrics),
        ("check", text + &String::from_utf8_lossy(&check.stderr)),
        ("status", String::from_utf8_lossy(&status.stdout).into_owned()),
        ("the simulator's answers", listing + &subscribed),
    ] {
        for secret in [TOKEN, READER, WRITER] {
            assert!(!shown.contains(secret), "{what} shows {secret}");
        }
    }
}

/// Fifty callers at two replicas, one of which polls: the vendor, which counts, refuses nobody, and the streams go on.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_pay_from_one_budget_and_the_streams_keep_their_part() {
    let limits = ["--seed", "12", "--rate", "0", "--backlog", "20", "--dialect", "reference", "--limits", "reference"];
    let simulator = Simulator::start(&limits).await;
    let configuration = format!(
        "deployment = \"shared\"\n[ledger]\nurl = \"{}\"\n[accounts.acme]\nbase_url = \"{}\"\ntoken = \"t\"\n",
        Postgres::shared().await.database().await,
        simulator.url()
    );
    let mut daemons = [Daemon::start("door-one", &configuration), Daemon::start("door-other", &configuration)];
    for daemon in &mut daemons {
        daemon.wait_ready(LONG).await;
    }
    let recorded = async || {
        let mut all = 0;
        for daemon in &daemons {
            let metrics = daemon.metrics().await.expect("metrics");
            all += number(&metrics, "standpipe_ledger_events_total{account=\"acme\",result=\"new\"}");
        }
        all
    };
    wait_until("the backlog is recorded", LONG, async || recorded().await == 20).await;

    let storm = tokio::time::Instant::now() + Duration::from_secs(15);
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..50 {
        let url = format!("{}/sell/acme/v3/firehose", daemons[n % 2].url());
        callers.spawn(async move {
            let mut told = Vec::new();
            while tokio::time::Instant::now() < storm {
                let answer = http::client().get(&url).send().await.expect("the door answers");
                let ours = answer.headers().contains_key("standpipe-error");
                let wait = answer.headers().get("retry-after").is_some();
                told.push((answer.status().as_u16(), ours, wait));
            }
            told
        });
    }
    tokio::time::sleep_until(storm - Duration::from_secs(10)).await;
    simulator.emit(30).await;
    wait_until("what happens meanwhile is recorded", Duration::from_secs(10), async || recorded().await == 50).await;
    assert!(tokio::time::Instant::now() < storm, "while the doors were stormed");
    let told: Vec<(u16, bool, bool)> = callers.join_all().await.into_iter().flatten().collect();
    let good = told.iter().filter(|told| **told == (200, false, false)).count();
    assert!((40..=70).contains(&good), "{good} of 70 a minute");
    assert!(told.iter().all(|told| told.0 == 200 || *told == (429, true, true)), "{told:?}");
    assert!(told.len() > good + 50, "{} were turned away", told.len() - good);
    for daemon in &daemons {
        let metrics = daemon.metrics().await.expect("metrics");
        for api in ["firehose", "core"] {
            let refused = format!("standpipe_vendor_requests_total{{account=\"acme\",api=\"{api}\",status_class=\"4xx\"}}");
            assert_eq!(number(&metrics, &refused), 0, "the vendor refuses nobody");
        }
        assert_eq!(number(&metrics, "standpipe_vendor_budget_leases_total{account=\"acme\",outcome=\"failed\"}"), 0);
    }
}

/// The value of a counter.
fn number(metrics: &str, series: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{series} in\n{metrics}"));
    line.trim().parse().unwrap_or_else(|_| panic!("{series}: {line}"))
}
