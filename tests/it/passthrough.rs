//! The door of the real daemon: what it lends, to whom, what it keeps, and that neither secret is seen anywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::Response;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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
        "standpipe_passthrough_requests_total{account=\"acme\",outcome=\"refused\"} 3",
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

/// As a reader pastes them.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_readme_do_what_they_say() {
    let simulator = Simulator::start(&["--seed", "17", "--rate", "0", "--backlog", "50"]).await;
    let configuration = format!(
        "deployment = \"readme\"\n[ledger]\nurl = \"{}\"\n[accounts.acme]\nbase_url = \"{}\"\ntoken = \"t\"\n\
         [server.keys.ci]\ntoken = \"{READER}\"\nallow = [\"passthrough:read\"]\n",
        Postgres::shared().await.database().await,
        simulator.url()
    );
    let mut daemon = Daemon::start("readme", &configuration);
    daemon.wait_ready(LONG).await;
    let section =
        include_str!("../../README.md").split("\n## Look things up through it\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("it has an end");
    let run = async |program: &[&str], language: &str| {
        let example = section.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
        let example = example.expect("an example").replace("http://127.0.0.1:8080", &daemon.url());
        let mut command = tokio::process::Command::new(program[0]);
        command.args(&program[1..]).arg(example).env("KEY", READER).env("no_proxy", "127.0.0.1").kill_on_drop(true);
        let output = tokio::time::timeout(LONG, command.output()).await.expect("in time").expect("it runs");
        assert!(output.status.success(), "{language}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let deals: Value = serde_json::from_str(&run(&["sh", "-c"], "sh").await).expect("deals");
    let values = deals["items"].as_array().expect("items").iter().map(|deal| deal["data"]["value"].as_f64());
    let values: Vec<f64> = values.map(|value| value.expect("a number")).collect();
    assert!(values.len() > 1 && values.is_sorted_by(|one, next| one >= next), "{values:?}");
    let told = run(&["python3", "-c"], "python").await;
    let (deal, owner) = told.trim().split_once(" is owned by ").unwrap_or_else(|| panic!("{told}"));
    assert!(!deal.is_empty() && !owner.is_empty(), "{told}");
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

    let (began, over) = (tokio::time::Instant::now(), CancellationToken::new());
    let mut callers = JoinSet::new();
    for n in 0..50 {
        let (url, over) = (format!("{}/sell/acme/v3/firehose", daemons[n % 2].url()), over.clone());
        callers.spawn(async move {
            let (client, mut told) = (http::client(), Vec::new());
            while !over.is_cancelled() {
                let answer = client.get(&url).send().await.expect("the door answers");
                let ours = answer.headers().contains_key("standpipe-error");
                let wait = answer.headers().get("retry-after").is_some();
                told.push((answer.status().as_u16(), ours, wait));
            }
            told
        });
    }
    let throttled = async || {
        let mut all = 0;
        for daemon in &daemons {
            let metrics = daemon.metrics().await.expect("metrics");
            all += number(&metrics, "standpipe_passthrough_requests_total{account=\"acme\",outcome=\"throttled\"}");
        }
        all
    };
    wait_until("the doors are stormed", LONG, async || throttled().await > 50).await;
    simulator.emit(30).await;
    wait_until("what happens meanwhile is recorded", LONG, async || recorded().await == 50).await;
    let turned_away = throttled().await;
    wait_until("the storm goes on", LONG, async || throttled().await > turned_away + 50).await;
    over.cancel();
    let minutes = usize::try_from(began.elapsed().as_secs() / 60 + 1).expect("it fits");
    let told: Vec<(u16, bool, bool)> = callers.join_all().await.into_iter().flatten().collect();
    let good = told.iter().filter(|told| **told == (200, false, false)).count();
    assert!((40..=70 * minutes).contains(&good), "{good} of 70 a minute in {minutes}");
    assert!(told.iter().all(|told| told.0 == 200 || *told == (429, true, true)), "{told:?}");
    assert!(told.len() > good + 50, "{} were turned away", told.len() - good);
    for daemon in &daemons {
        let metrics = daemon.metrics().await.expect("metrics");
        for api in ["firehose", "core"] {
            let refused =
                format!("standpipe_vendor_requests_total{{account=\"acme\",api=\"{api}\",status_class=\"4xx\"}}");
            assert_eq!(number(&metrics, &refused), 0, "the vendor refuses nobody");
        }
        assert_eq!(number(&metrics, "standpipe_vendor_budget_leases_total{account=\"acme\",outcome=\"failed\"}"), 0);
    }
}

/// The value of a counter.
fn number(metrics: &str, series: &str) -> u64 {
    let line =
        metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{series} in\n{metrics}"));
    line.trim().parse().unwrap_or_else(|_| panic!("{series}: {line}"))
}

/// A vendor whose Core stands before a simulator's Firehose: every record says how many were asked for before.
async fn core(simulator: &Simulator) -> (String, JoinSet<()>) {
    type Front = (String, Arc<AtomicU64>);
    async fn answer(State((behind, asked)): State<Front>, request: Request) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if !path.starts_with("/v3/firehose") {
            let body = format!(r#"{{"asked":{}}}"#, asked.fetch_add(1, Ordering::Relaxed));
            return Response::builder().header("content-type", "application/json").body(Body::from(body)).unwrap();
        }
        let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let mut passed = http::client().request(request.method().clone(), behind + &target);
        for name in ["authorization", "content-type", "user-agent"] {
            if let Some(value) = request.headers().get(name) {
                passed = passed.header(name, value);
            }
        }
        let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let told = passed.body(body).send().await.expect("the simulator answers");
        let status = told.status();
        let body = told.bytes().await.expect("a body");
        Response::builder().status(status).body(Body::from(body)).unwrap()
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state((simulator.url(), Arc::default()));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.expect("it serves until it is aborted") });
    (url, tasks)
}

/// Where the answer to a lookup is from, how old it is, and what it says.
async fn look(url: &str, directive: Option<&'static str>) -> (String, Option<u64>, String) {
    let mut request = http::client().get(url);
    if let Some(directive) = directive {
        request = request.header("cache-control", directive);
    }
    let answer = request.send().await.expect("the door answers");
    assert_eq!(answer.status(), 200, "{url}");
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (from, age) = (header("standpipe-cache").expect("a label"), header("age"));
    let age = age.map(|age| age.parse().unwrap());
    (from, age, answer.text().await.expect("a body"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_dropped_by_the_events_of_its_record_and_by_no_others() {
    let simulator =
        Simulator::start(&["--seed", "13", "--rate", "0", "--backlog", "300", "--dialect", "reference"]).await;
    let (vendor, _serving) = core(&simulator).await;
    let configuration = format!(
        "deployment = \"kept\"\n[ledger]\nurl = \"{}\"\n[accounts.acme]\nbase_url = \"{vendor}\"\ntoken = \"t\"\n\
         poll_interval = \"100ms\"\nrequests_per_minute = 60000\nrequests_per_hour = 3600000\n\
         [passthrough]\ncache_ttl = \"10m\"\n",
        Postgres::shared().await.database().await
    );
    let mut daemon = Daemon::start("door-kept", &configuration);
    let mut standby = Daemon::start("door-standby", &configuration);
    for daemon in [&mut daemon, &mut standby] {
        daemon.wait_ready(LONG).await;
    }
    let all = async |count: u64| {
        wait_until("everything is recorded", LONG, async || {
            let mut recorded = 0;
            for daemon in [&daemon, &standby] {
                let metrics = daemon.metrics().await.expect("metrics");
                recorded += number(&metrics, "standpipe_ledger_events_total{account=\"acme\",result=\"new\"}");
            }
            recorded == count
        })
        .await;
    };
    all(300).await;
    // Which of them polls?
    let owns = number(&daemon.metrics().await.expect("metrics"), "standpipe_shard_owned{shard=\"0\"}") == 1;
    let (owner, other) = if owns { (&daemon, &standby) } else { (&standby, &daemon) };
    let before = simulator.emitted().await;
    let plural = |resource: &str| if resource == "activity" { "activities".to_owned() } else { format!("{resource}s") };
    let records: BTreeSet<(String, String)> =
        before.iter().map(|event| (event.resource().to_owned(), event.record_id.clone())).collect();
    let record = |door: &Daemon, (resource, id): &(String, String)| {
        format!("{}/sell/acme/v3/{}/{id}", door.url(), plural(resource))
    };
    let list = |resource: &str| format!("{}/sell/acme/v3/{}?limit=10", owner.url(), plural(resource));
    let resources: BTreeSet<&str> = records.iter().map(|(resource, _)| resource.as_str()).collect();
    for of in &records {
        assert_eq!(look(&record(owner, of), None).await.0, "miss");
    }
    for resource in &resources {
        assert_eq!(look(&list(resource), None).await.0, "miss");
    }
    simulator.emit(12).await;
    all(312).await;
    let after = &simulator.emitted().await[before.len()..];
    let changed: BTreeSet<(String, String)> =
        after.iter().map(|event| (event.resource().to_owned(), event.record_id.clone())).collect();
    let (mut hits, mut misses) = (0, 0);
    for of in &records {
        let (from, age, _) = look(&record(owner, of), None).await;
        assert_eq!(from, if changed.contains(of) { "miss" } else { "hit" }, "{of:?}");
        assert_eq!(age.is_some(), from == "hit");
        *(if from == "hit" { &mut hits } else { &mut misses }) += 1;
    }
    assert!(hits > 0 && misses > 0, "{hits} hits, {misses} misses");
    for resource in resources {
        let is = changed.iter().any(|(changed, _)| changed == resource);
        assert_eq!(look(&list(resource), None).await.0, if is { "miss" } else { "hit" }, "{resource}s");
    }
    let one = records.first().expect("there are some");
    let (_, _, kept) = look(&record(owner, one), None).await;
    let (from, _, fresh) = look(&record(owner, one), Some("no-cache")).await;
    assert!(from == "miss" && fresh != kept, "{fresh} after {kept}");
    // Who does not poll cannot know.
    for _ in 0..2 {
        assert_eq!(look(&record(other, one), None).await.0, "miss");
    }
    let metrics = owner.metrics().await.expect("metrics");
    let outcome = |outcome: &str| {
        number(
            &metrics,
            &format!("standpipe_passthrough_cache_requests_total{{account=\"acme\",outcome=\"{outcome}\"}}"),
        )
    };
    assert!(outcome("hit") >= hits && outcome("miss") > misses && outcome("stale") == 0);
    assert!(number(&metrics, "standpipe_passthrough_cache_drops_total{account=\"acme\",cause=\"event\"}") >= misses);
    assert!(number(&metrics, "standpipe_passthrough_cache_bytes") > 0);
    let check = String::from_utf8(owner.run_verb(&["check", "--offline"]).await.stdout).expect("text");
    assert!(check.contains("passthrough: keeps 32.0 MiB of answers, each fresh for 10m at most"), "{check}");
}
