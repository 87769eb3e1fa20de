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
