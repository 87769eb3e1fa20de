//! Seventeen secrets where users have them, in a program that is driven through good and bad ways: none of them is in
//! anything that comes out of it, but at the one place that each is for.

mod hunt;
mod outside;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;

use self::hunt::{
    ACCESS, ALL, API_KEY, CLIENT_SECRET, COLLECTOR, COOKIE, Found, HEADER, KEY_PASSWORD, LEDGER, REFRESH, ROTATED,
    SASL, SIGNS, SIGNS_TOO, STRANGER, Secret, TOKEN, URL_PASSWORD, URL_TOKEN,
};
use self::outside::{Outside, Who};
use crate::support::http;
use crate::support::kafka::{Kafka, More};
use crate::support::keeper;
use crate::support::postgres::Postgres;
use crate::support::program::{self, Daemon, Simulator};
use crate::support::wait::{wait_for, wait_until};

const LONG: Duration = Duration::from_mins(2);
const EVENTS: u64 = 60;
/// Whoever runs the program gives it these.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("GLOBEX_SECRET", CLIENT_SECRET.text),
    ("STANDPIPE__SERVER__KEYS__CI__TOKEN", API_KEY.text),
    ("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=cP-otlp-canary-1207-pass-Bb"),
];
/// What a webhook is sent, and nobody else.
const AT_THE_HOOK: [Secret; 3] = [URL_PASSWORD, URL_TOKEN, HEADER];

struct Files(PathBuf);

impl Files {
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        path.display().to_string()
    }
}

/// A broker that wants a password.
async fn broker() -> (Kafka, u16) {
    let port = keeper::free_port();
    let more = More {
        listeners: vec![("SECURE", "SASL_PLAINTEXT", port)],
        properties: "sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.secure.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"
        .to_owned(),
        user: Some(("standpipe", SASL.text)),
        jvm: None,
    };
    (Kafka::start_with(&more).await, port)
}

fn configuration(files: &Files, ledger: &str, outside: &Outside, broker: u16) -> String {
    let hook = format!("http://someone:{}@{}/hook?token={}", URL_PASSWORD.encoded(), outside.hook, URL_TOKEN.encoded());
    format!(
        r#"deployment = "canaries"
startup_timeout = "60s"
[ledger]
url_file = "{ledger}"
[accounts.acme]
base_url = "{vendor}"
dialect = "reference"
token_file = "{token}"
poll_interval = "200ms"
requests_per_minute = 60000
requests_per_hour = 3600000
[accounts.globex]
base_url = "{echo}"
dialect = "live"
streams = ["deals"]
[accounts.globex.oauth]
client_id = "globex-app"
client_secret = "${{GLOBEX_SECRET}}"
refresh_token_file = "{refresh}"
key = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
[server.keys.ci]
allow = ["passthrough:read", "events:read"]
[sinks.crm]
type = "kafka"
brokers = "localhost:{broker}"
topic = "canaries.all"
[sinks.crm.properties]
"security.protocol" = "SASL_PLAINTEXT"
"sasl.mechanism" = "SCRAM-SHA-256"
"sasl.username" = "standpipe"
"broker.address.family" = "v4"
"ssl.key.password" = "{key}"
"debug" = "conf,security"
[sinks.crm.properties_file]
"sasl.password" = "{sasl}"
[sinks.ops]
type = "webhook"
url_file = "{hook}"
secret = "whsec_{signs}"
signing_key_file = "{signs_too}"
headers.x-api-key = "{header}"
allow_http = true
allow_networks = ["127.0.0.0/8"]
retry_schedule = ["100ms"]
breaker.min_attempts = 1000
[telemetry]
log = "trace"
log_format = "json"
otlp_endpoint = "{collector}"
"#,
        vendor = outside.vendor,
        token = files.write("token", TOKEN.text),
        echo = outside.echo,
        refresh = files.write("refresh", REFRESH.text),
        key = KEY_PASSWORD.text,
        sasl = files.write("sasl", SASL.text),
        hook = files.write("hook", &hook),
        signs = SIGNS.text,
        signs_too = files.write("signing-key", &format!("whsk_{}", SIGNS_TOO.text)),
        header = HEADER.text,
        collector = outside.collector,
    )
}

/// Runs a verb as its user does.
async fn verb(config: &Path, arguments: &[&str]) -> Output {
    verb_with(config, arguments, None).await
}

async fn verb_with(config: &Path, arguments: &[&str], more: Option<(&str, &str)>) -> Output {
    let mut command = tokio::process::Command::from(program::command());
    command.args(arguments).arg("--config").arg(config).envs(ENVIRONMENT).envs(more).kill_on_drop(true);
    let output = tokio::time::timeout(LONG, command.output()).await;
    output.unwrap_or_else(|_| panic!("standpipe {arguments:?} did not end")).expect("the binary runs")
}

fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}\n{err}", output.status)
}

/// A request and what is answered, whole.
async fn ask(found: &mut Found, method: Method, url: &str, headers: &[(&str, &str)]) -> u16 {
    let mut request = http::client().request(method.clone(), url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if method == Method::POST {
        request = request.body(r#"{"data":{"name":"n"}}"#);
    }
    let answer = request.send().await.expect("the listener answers");
    let (status, headers) = (answer.status().as_u16(), format!("{:?}", answer.headers()));
    found.add(format!("{method} {url}"), format!("{status} {headers}\n{}", answer.text().await.unwrap_or_default()));
    status
}

/// What anybody can ask of the listeners; `metrics` is where the other one is.
async fn ask_all(found: &mut Found, daemon: &Daemon, metrics: &str) {
    let bearer = |key: &Secret| format!("Bearer {}", key.text);
    let (key, stranger) = (bearer(&API_KEY), bearer(&STRANGER));
    let cookie = format!("session={}", COOKIE.text);
    let mine: &[(&str, &str)] = &[("authorization", key.as_str()), ("cookie", cookie.as_str())];
    let theirs: &[(&str, &str)] = &[("authorization", stranger.as_str()), ("cookie", cookie.as_str())];
    let door = daemon.url() + "/sell";
    for path in ["/metrics", "/readyz", "/livez", "/nothing"] {
        ask(found, Method::GET, &format!("{metrics}{path}"), mine).await;
    }
    for path in ["/console", "/console?refresh=0", "/console/style.css", "/", "/nothing"] {
        ask(found, Method::GET, &(daemon.url() + path), mine).await;
    }
    for path in ["/acme/v3/contacts", "/acme/v3/contacts/1", "/acme/v3/none", "/globex/v2/deals", "/nobody/v2/deals"] {
        for method in [Method::GET, Method::POST, Method::TRACE, Method::OPTIONS] {
            ask(found, method, &(door.clone() + path), mine).await;
        }
    }
    // Not more of them: each is answered later than the one before.
    ask(found, Method::GET, &(daemon.url() + "/console"), theirs).await;
    ask(found, Method::TRACE, &(door.clone() + "/acme/v3/contacts"), theirs).await;
    ask(found, Method::GET, &(door.clone() + "/acme/v2/%2e%2e/_simulator/emitted"), mine).await;
    for more in [("x_api_key", key.as_str()), ("content-encoding", "gzip"), ("connection", "authorization, cookie")] {
        ask(found, Method::POST, &(door.clone() + "/acme/v3/search/contacts"), &[mine, &[more]].concat()).await;
    }
}

/// The configuration with a mistake beside each secret, or in it.
fn mistakes(good: &str) -> Vec<String> {
    let mut all = Vec::new();
    let lines: Vec<&str> = good.lines().collect();
    let holds = |line: &str| line.contains('=') && ALL.iter().any(|secret| secret.is_in(line));
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| holds(line)) {
        let (name, value) = line.split_once('=').expect("a key");
        let bad = [
            // A table in its place, a list, a text without an end, no value, twice the same.
            format!("{}.x.y = {value}", name.trim_end()),
            format!("{name}= [{value}]"),
            line.trim_end_matches('"').to_owned(),
            format!("{name}= {}", value.replace('"', "")),
            format!("{line}\n{line}"),
        ];
        for bad in bad {
            let mut lines = lines.clone();
            lines[at] = &bad;
            all.push(lines.join("\n"));
        }
    }
    assert!(all.len() >= 15, "{} mistakes", all.len());
    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replace(from, to)
    };
    all.push(replaced("whsec_", "whsek_"));
    all.push(replaced("headers.x-api-key = \"", "headers.x-api-key = \"{{ "));
    all.push(replaced("otlp_endpoint = \"http://", &format!("otlp_endpoint = \"http://u:{}@", COLLECTOR.text)));
    all.push(replaced("url_file = \"", &format!("url = \"postgres//u:{}@h/d\"\n#", LEDGER.text)));
    all.push(replaced("[server.keys.ci]", &format!("[server.keys.ci]\ntokn = \"{}\"", API_KEY.text)));
    all.push(replaced("${GLOBEX_SECRET}", "${GLOBEX_SEKRET}"));
    all.push(replaced("client_secret = ", &format!("refresh_token = \"{}\"\nclient_secret = ", REFRESH.text)));
    all
}

fn files_under(dir: &Path, found: &mut Found) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_under(&path, found);
        } else {
            found.add(path.display().to_string(), String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()));
        }
    }
}

/// INV-16, over everything that comes out of the program.
#[tokio::test(flavor = "multi_thread")]
async fn none_of_the_planted_secrets_is_in_anything_that_comes_out() {
    let backlog = EVENTS.to_string();
    let arguments =
        ["--seed", "17", "--rate", "0", "--backlog", &backlog, "--dialect", "reference", "--token", TOKEN.text];
    let ((kafka, broker), simulator) = tokio::join!(broker(), Simulator::start(&arguments));
    let outside = Outside::around(&simulator).await;
    let files = Files(keeper::directory("canaries-secrets"));
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    let with_password = database.replacen("postgres@", &format!("postgres:{}@", LEDGER.encoded()), 1);
    assert_ne!(with_password, database);
    let ledger = files.write("ledger-url", &with_password);
    let configuration = configuration(&files, &ledger, &outside, broker);
    let mut found = Found::default();

    let mut daemon = Daemon::start_with("canaries", &configuration, &ENVIRONMENT);
    daemon.wait_ready(LONG).await;
    let config = daemon.config();
    let whole = std::fs::read_to_string(&config).unwrap();
    let (_, metrics) = whole.rsplit_once("metrics_listen = \"").expect("it is configured");
    let metrics = format!("http://{}", metrics.trim().trim_end_matches('"'));
    let sink = async |name: &str| {
        let told = verb(&config, &["status", "--json"]).await;
        let status: Value = serde_json::from_slice(&told.stdout).ok()?;
        status["sinks"].as_array()?.iter().find(|row| row["sink"] == name).cloned()
    };
    let taken = |row: &Value| row["cursor"].as_u64() >= Some(EVENTS) && row["lag_events"] == 0;
    wait_until("all is in Kafka", LONG, async || sink("crm").await.as_ref().is_some_and(taken)).await;
    let dead = |row: &Value| row["dead_letters"].as_u64() >= Some(EVENTS / 2);
    wait_until("half is refused by the hook", LONG, async || sink("ops").await.as_ref().is_some_and(dead)).await;
    // Each of them is in use: one that lies about would be in nothing that comes out.
    wait_until("the echo gave a token, and heard it", LONG, async || {
        let echo = outside.got(Who::Echo).concat();
        [CLIENT_SECRET, REFRESH, ACCESS].iter().all(|secret| secret.is_in(&echo))
    })
    .await;
    let (vendor, hook) = (outside.got(Who::Vendor).concat(), outside.got(Who::Hook).concat());
    assert!(TOKEN.is_in(&vendor) && AT_THE_HOOK.iter().all(|secret| secret.is_in(&hook)));
    assert!(hook.contains("v1,") && hook.contains("v1a,"), "both keys sign");
    let key = format!("Bearer {}", API_KEY.text);
    let mine: &[(&str, &str)] = &[("authorization", key.as_str())];
    let lent = ["/sell/acme/v3/contacts", "/sell/globex/v2/deals"].map(|path| daemon.url() + path);
    for url in &lent {
        assert_eq!(ask(&mut found, Method::GET, url, mine).await, 200, "the key opens the door");
    }

    ask_all(&mut found, &daemon, &metrics).await;
    outside.refuse();
    let refused = ask(&mut found, Method::GET, &lent[1], &[mine, &[("cache-control", "no-cache")]].concat()).await;
    assert!(matches!(refused, 401 | 502), "{refused}");
    ask_all(&mut found, &daemon, &metrics).await;
    verbs(&mut found, &config).await;
    let pid = daemon.process.pid().as_raw_nonzero();
    let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it runs");
    found.add("the process's arguments", arguments);
    found.add("what PostgreSQL shows of connections", postgres.activity().await);

    misconfigure(&mut found, &daemon, &files, &whole).await;
    end(&mut daemon).await;

    // The same as text; then a database and a broker that cannot be had.
    daemon.reconfigure("log_format = \"json\"", "log_format = \"text\"");
    daemon.start_again();
    daemon.wait_ready(LONG).await;
    ask_all(&mut found, &daemon, &metrics).await;
    end(&mut daemon).await;
    files.write("sasl", STRANGER.text);
    let short = ["--set", "startup_timeout=3s", "--set", "telemetry.log=trace", "run"];
    found.add("run with a wrong password of Kafka", text(&verb(&config, &short).await));
    found.add("check with a wrong password of Kafka", text(&verb(&config, &["check"]).await));
    files.write("sasl", SASL.text);
    let nobody = format!("127.0.0.1:{}", keeper::free_port());
    files.write("ledger-url", &format!("postgres://postgres:{}@{nobody}/none", LEDGER.encoded()));
    for arguments in [&short[..], &["check"], &["status"], &["migrate"]] {
        found.add(format!("{arguments:?} without a database"), text(&verb(&config, arguments).await));
    }

    found.add("the log", std::fs::read_to_string(daemon.process.log_path()).unwrap());
    found.add("the ledger", postgres.text(&database));
    files_under(&config.parent().expect("a directory").join("state"), &mut found);
    collect(&mut found, &kafka, &outside).await;
    assert!(found.places() > 150, "{} places", found.places());
    let loose = found.loose();
    assert!(loose.is_empty(), "{} secrets are loose:\n{}", loose.len(), loose.join("\n\n"));
}

/// What others got.
async fn collect(found: &mut Found, kafka: &Kafka, outside: &Outside) {
    for topic in kafka.topics().await {
        found.add(format!("the topic {topic}"), format!("{:?}", kafka.read_committed(&topic).await));
    }
    found.add_where("what the vendor got", outside.got(Who::Vendor).concat(), &[TOKEN]);
    let of_oauth = [CLIENT_SECRET, REFRESH, ROTATED, ACCESS];
    found.add_where("what the other vendor got", outside.got(Who::Echo).concat(), &of_oauth);
    found.add_where("what the webhook got", outside.got(Who::Hook).concat(), &AT_THE_HOOK);
    found.add_where("what the collector got", outside.got(Who::Collector).concat(), &[COLLECTOR]);
}

async fn end(daemon: &mut Daemon) {
    daemon.process.signal(Signal::TERM);
    assert_eq!(daemon.process.wait_ended(LONG).await.code(), Some(0), "{}", daemon.process.log_tail());
}

/// Mistakes in the configuration and in the environment, as a verb tells them, and as the running program does.
async fn misconfigure(found: &mut Found, daemon: &Daemon, files: &Files, whole: &str) {
    let config = daemon.config();
    let mut wrong = 0;
    for (number, mistaken) in mistakes(whole).into_iter().enumerate() {
        let bad = files.0.join("bad.toml");
        std::fs::write(&bad, &mistaken).unwrap();
        let told = verb(&bad, &["check", "--offline"]).await;
        found.add(format!("check of mistake {number}"), text(&told));
        // A property of Kafka's client may have any name.
        if told.status.success() {
            continue;
        }
        wrong += 1;
        if wrong % 6 == 1 {
            std::fs::write(&config, &mistaken).unwrap();
            let refused = || {
                let log = std::fs::read_to_string(daemon.process.log_path()).unwrap();
                log.matches("is not applied: the old one stays").count()
            };
            let before = refused();
            daemon.process.signal(Signal::HUP);
            wait_until("the log says why", LONG, async || refused() > before).await;
        }
    }
    assert!(wrong > 15, "{wrong} of them are wrong");
    std::fs::write(&config, whole).unwrap();
    for name in ["POLL_INTERVAL", "BASE_URL", "DIALECT", "TOKN", "PAGE_LIMIT"] {
        let misplaced = format!("STANDPIPE__ACCOUNTS__ACME__{name}");
        let told = verb_with(&config, &["check", "--offline"], Some((misplaced.as_str(), TOKEN.text))).await;
        found.add(format!("check with a secret in {misplaced}"), text(&told));
    }
}

/// What the verbs print.
async fn verbs(found: &mut Found, config: &Path) {
    let told = verb(config, &["dead-letters", "list", "--json"]).await;
    let dead: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let number = dead[0]["seq"].as_u64().map(|seq| seq.to_string()).expect("a dead letter");
    let event = wait_for("an event", LONG, async || {
        let told = verb(config, &["tail", "-n", "1", "--count", "1", "--json"]).await;
        let event: Value = serde_json::from_slice(&told.stdout).ok()?;
        event["id"].as_str().map(str::to_owned)
    })
    .await;
    let all: [&[&str]; 26] = [
        &["check"],
        &["check", "--json"],
        &["check", "--offline"],
        &["config", "show"],
        &["config", "show", "--json"],
        &["config", "reference"],
        &["status"],
        &["status", "--json"],
        &["streams", "list"],
        &["streams", "list", "--json"],
        &["sinks", "list"],
        &["sinks", "list", "--json"],
        &["events", "get", &event],
        &["events", "get", &event, "--json"],
        &["events", "rejected"],
        &["dead-letters", "list"],
        &["dead-letters", "show", "ops", &number],
        &["dead-letters", "show", "ops", &number, "--json"],
        &["dead-letters", "redrive", "ops", &number],
        &["gaps", "list"],
        &["webhook", "test", "ops"],
        &["webhook", "test", "ops", "--json"],
        &["verify", "--sink", "crm"],
        &["reconcile", "--sink", "crm", "--dry-run"],
        &["migrate"],
        &["reload"],
    ];
    for arguments in all {
        let told = verb(config, arguments).await;
        // What is misspelled shows nothing.
        assert!(!String::from_utf8_lossy(&told.stderr).contains("Usage:"), "{arguments:?}: {}", text(&told));
        found.add(format!("standpipe {arguments:?}"), text(&told));
    }
}
