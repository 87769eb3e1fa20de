//! The walk to an authorization, with a client in the person's place that follows the redirect.

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::{LONG, Secrets, mode};
use crate::support::program::{self, Simulator};
use crate::support::{http, keeper};

/// A walk that has printed its page.
struct Walk {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: String,
    page: String,
}

impl Walk {
    async fn begin(arguments: &[&str]) -> Self {
        let mut command = tokio::process::Command::from(program::command());
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = String::new();
        let page = loop {
            let line = tokio::time::timeout(LONG, lines.next_line()).await.expect("it says something").unwrap();
            let Some(line) = line else {
                let mut error = String::new();
                child.stderr.take().unwrap().read_to_string(&mut error).await.unwrap();
                panic!("it ended: {said}\n{error}");
            };
            said.extend([line.as_str(), "\n"]);
            if line.trim().starts_with("http://") {
                break line.trim().to_owned();
            }
        };
        Self { child, lines, said, page }
    }

    /// As a person who agrees: where the vendor leads back to.
    async fn agree(&self) -> String {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        let answer = client.get(&self.page).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 302);
        answer.headers()["location"].to_str().unwrap().to_owned()
    }

    async fn end(mut self) -> (Output, String) {
        drop(self.child.stdin.take());
        while let Some(line) = tokio::time::timeout(LONG, self.lines.next_line()).await.expect("it ends").unwrap() {
            self.said.extend([line.as_str(), "\n"]);
        }
        let output = tokio::time::timeout(LONG, self.child.wait_with_output()).await.expect("it ends").unwrap();
        (output, self.said)
    }
}

/// What the simulator says to a refresh token.
async fn is_good(simulator: &Simulator, token: &str) -> bool {
    let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
    let answer = http::client().post(format!("{}/oauth2/token", simulator.url())).form(&form).send().await.unwrap();
    answer.status().is_success()
}

#[tokio::test]
async fn init_walks_a_person_to_a_configuration_that_is_authorized() {
    let simulator = Simulator::start(&["--rate", "0", "--backlog", "5"]).await;
    let dir = keeper::directory("oauth-init");
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (file, secret, refresh, key) = (path("standpipe.toml"), path("client"), path("refresh"), path("key"));
    std::fs::write(&secret, "client-secret-c4nary\n").unwrap();
    let url = simulator.url();
    let arguments = [
        "init",
        "--output",
        &file,
        "--account",
        "acme",
        "--ledger",
        "embedded",
        "--base-url",
        &url,
        "--oauth-client-id",
        "my-app",
        "--client-secret-file",
        &secret,
        "--refresh-token-file",
        &refresh,
        "--key-file",
        &key,
        "--within",
        "1m",
    ];
    let walk = Walk::begin(&arguments).await;
    let page = reqwest::Url::parse(&walk.page).unwrap();
    let asked = |name: &str| page.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    assert_eq!((page.path(), asked("response_type").as_deref()), ("/oauth2/authorize", Some("code")));
    assert_eq!(
        (asked("client_id").as_deref(), asked("code_challenge_method").as_deref()),
        (Some("my-app"), Some("S256"))
    );
    assert!(asked("state").unwrap().len() >= 40 && asked("code_challenge").unwrap().len() == 43);

    let back = walk.agree().await;
    assert!(back.starts_with("http://127.0.0.1:"), "{back}");
    // Somebody else's answer changes nothing, and is refused.
    let state = asked("state").unwrap();
    for forged in
        [back.replace(&state, "forged"), back.split('?').next().unwrap().to_owned(), format!("{back}&state=x")]
    {
        let (status, _) = http::get(&forged).await.unwrap();
        assert_eq!(status, 400, "{forged}");
    }
    let (status, text) = http::get(&back).await.unwrap();
    assert_eq!(status, 200, "{text}");
    let (output, said) = walk.end().await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{errors}");
    assert!(http::get(&back).await.is_none(), "nobody listens any more");

    let token = std::fs::read_to_string(&refresh).unwrap();
    assert!(
        !said.contains(token.trim()) && !said.contains("c4nary") && !errors.contains(token.trim()),
        "{said}{errors}"
    );
    assert_eq!((mode(refresh.as_ref()), mode(key.as_ref())), (0o600, 0o600));
    let check = program::run(&["check", "--offline", "--config", &file]).await;
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && text.contains("authorized by OAuth 2.0"), "{text}");
    assert!(is_good(&simulator, token.trim()).await);
    assert!(!is_good(&simulator, token.trim()).await, "it is the one that the vendor gave");
    let requests: Value = serde_json::from_str(&simulator.admin("requests").await).unwrap();
    assert!(requests["total"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn an_authorization_is_renewed_from_a_browser_elsewhere() {
    let simulator = Simulator::start(&["--rate", "0", "--backlog", "5"]).await;
    let secrets = Secrets::new("oauth-pasted", "spent");
    let config = secrets.file("standpipe.toml");
    let text = secrets.configuration("oauth-pasted", "postgres://u@127.0.0.1:1/x", &simulator.url());
    std::fs::write(&config, text).unwrap();
    // Not there yet, as before the first time.
    std::fs::remove_file(secrets.file("refresh")).unwrap();
    let config = config.to_str().unwrap();
    let mut walk = Walk::begin(&["accounts", "authorize", "acme", "--config", config]).await;
    let back = walk.agree().await;
    let mut input = walk.child.stdin.take().unwrap();
    let wrong = back.replace("state=", "state=x");
    input.write_all(format!("{wrong}\n\n  {back}\n").as_bytes()).await.unwrap();
    input.flush().await.unwrap();
    let (output, said) = walk.end().await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && errors.contains("no answer to this page"), "{said}{errors}");
    drop(input);
    let token = std::fs::read_to_string(secrets.file("refresh")).unwrap();
    assert!(!said.contains(token.trim()) && is_good(&simulator, token.trim()).await, "{said}");
    assert_eq!(mode(&secrets.file("refresh")), 0o600);
}

#[tokio::test]
async fn a_walk_that_nobody_ends_and_an_account_that_has_none_change_nothing() {
    let simulator = Simulator::start(&["--rate", "0", "--backlog", "5"]).await;
    let secrets = Secrets::new("oauth-nobody", "spent");
    let config = secrets.file("standpipe.toml");
    let text = secrets.configuration("oauth-nobody", "postgres://u@127.0.0.1:1/x", &simulator.url());
    std::fs::write(&config, text + "[accounts.other]\ntoken = \"t\"\n").unwrap();
    let config = config.to_str().unwrap();
    for (account, more, code, expected) in [
        ("acme", &["--within", "300ms"][..], 3, "nobody agreed within 300ms"),
        ("other", &[], 2, "has a token"),
        ("third", &[], 1, "no account third is configured"),
    ] {
        let arguments = [&["accounts", "authorize", account, "--config", config][..], more].concat();
        let output = tokio::time::timeout(Duration::from_secs(30), program::run(&arguments)).await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && errors.contains(expected), "{account}: {errors}");
    }
    assert_eq!(std::fs::read_to_string(secrets.file("refresh")).unwrap(), "spent\n");
}
