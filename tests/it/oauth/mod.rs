//! OAuth 2.0 of the whole program: grants that replicas share, by the real binary, a real PostgreSQL and the simulator's
//! token endpoint, whose refresh tokens are good once.

mod consent;
mod keeper;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::http;
use crate::support::keeper as process_keeper;
use crate::support::postgres::Postgres;
use crate::support::program::{Daemon, Simulator};
use crate::support::wait::{hold, wait_until};

const LONG: Duration = Duration::from_mins(1);
/// A claim of a process that was killed runs out in 45 s.
const CLAIM: Duration = Duration::from_mins(2);

/// The secrets of an account, in files that replicas share.
struct Secrets(PathBuf);

impl Secrets {
    fn new(name: &str, refresh_token: &str) -> Self {
        let secrets = Self(process_keeper::directory(name));
        secrets.write("client", "client-secret-c4nary");
        secrets.write("refresh", refresh_token);
        secrets.write("key", &"c4".repeat(32));
        secrets
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), format!("{text}\n")).unwrap();
    }

    /// A deployment without sinks.
    fn configuration(&self, deployment: &str, database: &str, vendor: &str) -> String {
        let mut text = format!("deployment = \"{deployment}\"\n[ledger]\nurl = \"{database}\"\nlease_ttl = \"4s\"\n");
        write!(
            text,
            "[accounts.acme]\nbase_url = \"{vendor}\"\ndialect = \"live\"\npoll_interval = \"300ms\"\n\
             requests_per_minute = 60000\nrequests_per_hour = 3600000\nstreams = [\"deals\"]\n\
             [accounts.acme.oauth]\nclient_id = \"id\"\nclient_secret_file = \"{}\"\nrefresh_token_file = \"{}\"\n\
             key_file = \"{}\"\n",
            self.file("client").display(),
            self.file("refresh").display(),
            self.file("key").display()
        )
        .unwrap();
        text
    }
}

/// How many grants were kept, and whether a person is needed.
async fn row(database: &str) -> Option<(i64, Option<String>)> {
    let mut connection = PgConnection::connect(database).await.ok()?;
    sqlx::query_as("SELECT generation, refused FROM grants WHERE account = 'acme'")
        .fetch_optional(&mut connection)
        .await
        .unwrap_or(None)
}

async fn generation(database: &str) -> i64 {
    row(database).await.map_or(0, |(generation, _)| generation)
}

/// Exchanges that the simulator was asked for, and how it answered them, by status.
async fn exchanges(simulator: &Simulator) -> (u64, Value) {
    let report: Value = serde_json::from_str(&simulator.admin("requests").await).unwrap();
    let of = &report["by_path"]["token"];
    (of["requests"].as_u64().unwrap_or(0), of["statuses"].clone())
}

async fn metric(daemon: &Daemon, series: &str) -> f64 {
    let text = daemon.metrics().await.unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no {series} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

const DONE: &str = r#"standpipe_oauth_refreshes_total{account="acme",outcome="done"}"#;
const REAUTH: &str = r#"standpipe_oauth_reauth_required{account="acme"}"#;

#[tokio::test]
async fn two_replicas_renew_an_access_token_once_each_time() {
    let database = Postgres::shared().await.database().await;
    let simulator =
        Simulator::start(&["--rate", "5", "--backlog", "20", "--dialect", "live", "--token-life", "5s"]).await;
    let secrets = Secrets::new("oauth-replicas", "first");
    let configuration = secrets.configuration("oauth-replicas", &database, &simulator.url());
    let mut first = Daemon::start("oauth-one", &configuration);
    first.wait_ready(LONG).await;
    let mut second = Daemon::start("oauth-two", &configuration);
    second.wait_ready(LONG).await;
    let doors = async |of: &[&Daemon]| {
        for daemon in of {
            let (status, body) = http::get(&format!("{}/sell/acme/v2/deals", daemon.url())).await.unwrap();
            assert_eq!(status, 200, "{body}");
        }
    };
    wait_until("it was renewed five times", LONG, async || {
        if generation(&database).await > 0 {
            doors(&[&first, &second]).await;
        }
        generation(&database).await >= 6
    })
    .await;
    // One exchange each time, none refused, whoever made it.
    let (asked, statuses) = exchanges(&simulator).await;
    let kept = u64::try_from(generation(&database).await).unwrap();
    assert!(asked == kept || asked == kept + 1, "{asked} exchanges for {kept} grants");
    assert!(statuses.as_object().unwrap().keys().all(|status| status == "200"), "{statuses}");
    assert!(metric(&first, REAUTH).await + metric(&second, REAUTH).await < 0.5);
    let (done, kept) =
        (metric(&first, DONE).await + metric(&second, DONE).await, f64::from(u32::try_from(kept).unwrap()));
    assert!((kept - 0.5..kept + 1.5).contains(&done), "{done} of {kept}: each is one replica's");
    // `check` takes the token that is there.
    let output = first.run_verb(&["check"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("authorized by OAuth 2.0; its access token is good for"),
        "{text}"
    );
    let (_, statuses) = exchanges(&simulator).await;
    assert!(statuses.as_object().unwrap().keys().all(|status| status == "200"), "{statuses}");
}

#[tokio::test]
async fn a_kill_after_the_new_token_is_kept_costs_nothing_and_one_before_needs_a_person() {
    let database = Postgres::shared().await.database().await;
    let simulator =
        Simulator::start(&["--rate", "0", "--backlog", "5", "--dialect", "live", "--token-life", "4s"]).await;
    let secrets = Secrets::new("oauth-kill", "first");
    let configuration = secrets.configuration("oauth-kill", &database, &simulator.url());
    let kill = |point: &str, time: u32| vec![("FAILPOINTS_KILL".to_owned(), format!("{point}={time}"))];
    let first = kill("sell::after_grant_kept", 2);
    let mut daemon = Daemon::start_with("oauth-kill", &configuration, &[(&first[0].0, &first[0].1)]);
    daemon.process.wait_ended(LONG).await;
    assert_eq!(generation(&database).await, 2);
    daemon.start_again_with(Vec::new());
    wait_until("it goes on", LONG, async || generation(&database).await >= 3).await;
    daemon.process.kill();
    assert!(row(&database).await.unwrap().1.is_none(), "nothing was refused");
    let (asked, statuses) = exchanges(&simulator).await;
    assert!(statuses.as_object().unwrap().keys().all(|status| status == "200"), "{asked}: {statuses}");

    // The vendor has used the refresh token up, and nobody knows the next one.
    daemon.start_again_with(kill("sell::before_grant_kept", 1));
    daemon.process.wait_ended(LONG).await;
    let before = generation(&database).await;
    daemon.start_again_with(Vec::new());
    wait_until("a person is needed", CLAIM, async || {
        row(&database).await.is_some_and(|(_, refused)| refused.is_some())
    })
    .await;
    let refused = row(&database).await.unwrap().1.unwrap();
    assert!(refused.contains("invalid_grant") && refused.contains("no known end"), "{refused}");

    // Told everywhere, and not tried again.
    wait_until("it is told", LONG, async || {
        daemon.readyz().await.is_some_and(|(status, body)| status == 200 && body.contains("reauth_required"))
    })
    .await;
    let (asked, _) = exchanges(&simulator).await;
    assert!(metric(&daemon, REAUTH).await > 0.5);
    let status = daemon.run_verb(&["status", "--json"]).await;
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["grants"][0]["state"], "reauth_required", "{status}");
    let text = String::from_utf8_lossy(&daemon.run_verb(&["status"]).await.stdout).into_owned();
    assert!(text.contains("standpipe accounts authorize acme"), "{text}");
    assert!(daemon.console().await.unwrap().contains("reauth_required"));
    let log = daemon.process.log_tail();
    assert!(log.contains("authorize it with `standpipe accounts authorize acme`"), "{log}");
    let check = daemon.run_verb(&["check"]).await;
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.code() == Some(2) && text.contains("standpipe accounts authorize acme"), "{text}");
    hold("no further exchange", Duration::from_secs(6), async || exchanges(&simulator).await.0 == asked).await;

    secrets.write("refresh", "second");
    wait_until("it goes on by itself", LONG, async || generation(&database).await > before).await;
    wait_until("it is taken back", LONG, async || {
        daemon.readyz().await.is_some_and(|(_, body)| !body.contains("reauth_required"))
    })
    .await;
    assert!(metric(&daemon, REAUTH).await.abs() < 0.5);
}

/// INV-16: the vendor's tokens are canaries, and so is everything that is configured.
#[tokio::test]
async fn no_token_stands_anywhere_in_clear() {
    const CANARY: &str = "c4nary";
    let database = Postgres::shared().await.database().await;
    let vendor = MockServer::start().await;
    let given = AtomicUsize::new(0);
    Mock::given(path("/oauth2/token"))
        .respond_with(move |_: &wiremock::Request| {
            let n = given.fetch_add(1, Ordering::Relaxed);
            let answer = json!({
                "access_token": format!("access-{CANARY}-{n}"), "refresh_token": format!("refresh-{CANARY}-{n}"),
                "expires_in": 2,
            });
            // The last one is refused by a vendor that repeats what it was sent.
            if n < 4 {
                return ResponseTemplate::new(200).set_body_json(answer);
            }
            let error = format!("refresh-{CANARY}-{} was used", n - 1);
            ResponseTemplate::new(400).set_body_json(json!({"error": "invalid_grant", "error_description": error}))
        })
        .mount(&vendor)
        .await;
    let secrets = Secrets::new("oauth-canary", &format!("refresh-{CANARY}-first"));
    let configuration = secrets.configuration("oauth-canary", &database, &vendor.uri())
        + "[telemetry]\nlog = \"info,standpipe=trace\"\n";
    let mut daemon = Daemon::start("oauth-canary", &configuration);
    daemon.wait_ready(LONG).await;
    wait_until("it was refused", LONG, async || row(&database).await.is_some_and(|(_, refused)| refused.is_some()))
        .await;
    let used = vendor.received_requests().await.unwrap();
    let bearers = used.iter().filter_map(|request| request.headers.get("authorization")?.to_str().ok());
    assert!(bearers.filter(|bearer| bearer.starts_with("Bearer access-c4nary")).count() > 0, "they were used");

    let clean = |what: &str, text: &[u8]| {
        let mut hex = String::new();
        for byte in CANARY.bytes() {
            write!(hex, "{byte:02x}").unwrap();
        }
        for form in [CANARY.to_owned(), hex] {
            let found = text.windows(form.len()).any(|part| part.eq_ignore_ascii_case(form.as_bytes()));
            assert!(!found, "{what} holds a canary: {}", String::from_utf8_lossy(text));
        }
    };
    let mut connection = PgConnection::connect(&database).await.unwrap();
    let (rows,): (String,) = sqlx::query_as("SELECT coalesce(string_agg(g::text, ';'), '') FROM grants g")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(rows.contains("acme"), "{rows}");
    clean("the row", rows.as_bytes());
    clean("the log", &std::fs::read(daemon.process.log_path()).unwrap());
    clean("metrics", daemon.metrics().await.unwrap().as_bytes());
    clean("readyz", daemon.readyz().await.unwrap().1.as_bytes());
    clean("the console", daemon.console().await.unwrap().as_bytes());
    for verb in [&["status"][..], &["status", "--json"], &["check"], &["config", "show"]] {
        let output = daemon.run_verb(verb).await;
        clean(&format!("{verb:?}"), &[output.stdout, output.stderr].concat());
    }
}

#[tokio::test]
async fn a_wrong_key_file_is_said_as_what_it_is_and_spends_nothing() {
    let database = Postgres::shared().await.database().await;
    let simulator = Simulator::start(&["--rate", "0", "--backlog", "5", "--dialect", "live"]).await;
    let secrets = Secrets::new("oauth-key", "first");
    let mut daemon = Daemon::start("oauth-key", &secrets.configuration("oauth-key", &database, &simulator.url()));
    wait_until("there is a grant", LONG, async || generation(&database).await == 1).await;
    daemon.process.kill();
    let key = std::fs::read_to_string(secrets.file("key")).unwrap();
    secrets.write("key", "not a key");
    let output = daemon.run_verb(&["check", "--offline"]).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && text.contains("oauth.key_file: not a key"), "{text}");
    secrets.write("key", &"00".repeat(32));
    daemon.start_again();
    wait_until("it is told", LONG, async || {
        daemon.readyz().await.is_some_and(|(_, body)| body.contains("encrypted under the key"))
    })
    .await;
    secrets.write("key", key.trim());
    wait_until("it goes on", LONG, async || {
        daemon.readyz().await.is_some_and(|(_, body)| !body.contains("encrypted under the key"))
    })
    .await;
    assert_eq!(exchanges(&simulator).await.0, 1);
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
