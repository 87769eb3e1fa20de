//! What the binary says of a configuration: all errors at once with their places, exit codes, no secret anywhere.

use std::path::PathBuf;
use std::process::Output;

use crate::support::keeper;
use crate::support::postgres::Postgres;
use crate::support::program;

const CANARY: &str = "c4nary-5ecret";

fn written(name: &str, text: &str) -> (String, PathBuf) {
    let dir = keeper::directory(name);
    let path = dir.join("standpipe.toml");
    std::fs::write(&path, text).unwrap();
    (path.to_str().unwrap().to_owned(), dir)
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn every_verb_names_all_errors_at_once_with_file_and_line_and_ends_with_2() {
    let (path, _) = written(
        "config-errors",
        r#"deployment = "errors"
[ledger]
url = "postgres://u@127.0.0.1:1/x"
retentoin = "3d"
[accounts.acme]
token_file = "/absent/token"
poll_interval = 5
[sinks.crm]
type = "kafka"
brokers = "127.0.0.1:1"
topic = "sell.{{ resorce }}"
filter = "type.startsWith('deal.'"
[sinks.crm.properties]
"linger.msx" = 3
"#,
    );
    for verb in ["run", "check", "status"] {
        let (code, stdout, stderr) = told(&program::run(&[verb, "--config", &path]).await);
        assert_eq!(code, Some(2), "{verb}: {stderr}");
        assert_eq!(stdout, "", "{verb}");
        for expected in [
            ":4: ledger.retentoin: unknown key; did you mean `retention`?",
            ":6: accounts.acme.token_file: cannot read the secret file /absent/token",
            ":7: accounts.acme.poll_interval: expected a duration",
            ":11: sinks.crm.topic: ",
            ":12: sinks.crm.filter: ",
            ":14: sinks.crm.properties.\"linger.msx\": ",
        ] {
            assert!(stderr.contains(&format!("{path}{expected}")), "{verb}: {expected} is not in\n{stderr}");
        }
        assert!(stderr.contains("the configuration has 6 errors"), "{verb}: {stderr}");
    }
}

/// INV-16, seen from outside.
#[tokio::test]
async fn no_verb_prints_a_secret() {
    let (path, _) = written(
        "config-secrets",
        &format!(
            r#"deployment = "secrets"
[ledger]
url = "postgres://u:{CANARY}@127.0.0.1:1/x"
[accounts.acme]
token = "{CANARY}"
base_url = "http://127.0.0.1:1"
[sinks.crm]
type = "kafka"
brokers = "127.0.0.1:1"
topic = "t"
headers.authorization = "Bearer {CANARY}"
properties."sasl.password" = "{CANARY}"
[sinks.ops]
type = "webhook"
url = "https://127.0.0.1:1/{CANARY}"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"#
        ),
    );
    let (code, stdout, stderr) = told(&program::run(&["config", "show", "--config", &path]).await);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("url = \"<redacted>\"") && stdout.contains(&format!("# {path}:3")), "{stdout}");
    assert!(!stdout.contains("MfKQ9r8"), "{stdout}");
    for verb in [
        &["config", "show", "--json"][..],
        &["check", "--offline"],
        &["check", "--json"],
        &["status"],
        &["--set", "ledger.lese_ttl=1s", "run"],
    ] {
        let mut arguments = verb.to_vec();
        arguments.extend(["--config", &path]);
        let output = program::run(&arguments).await;
        let (_, stdout, stderr) = told(&output);
        assert!(!stdout.contains(CANARY) && !stderr.contains(CANARY), "{verb:?}\n{stdout}\n{stderr}");
    }
}

#[tokio::test]
async fn check_ends_with_3_for_what_is_out_of_reach_and_says_what_answers() {
    let database = Postgres::shared().await.database().await;
    let (path, dir) = written(
        "config-check",
        &format!(
            "deployment = \"reach\"\n[ledger]\nurl = \"{database}\"\n[accounts.acme]\ntoken = \"t\"\n\
             base_url = \"http://127.0.0.1:1\"\n"
        ),
    );
    let set = format!("state_dir={}", dir.display());
    let (code, stdout, stderr) = told(&program::run(&["check", "--json", "--set", &set, "--config", &path]).await);
    assert_eq!(code, Some(3), "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let state = |what: &str| {
        let outside = report["outside"].as_array().unwrap();
        let found = outside.iter().find(|finding| finding["what"].as_str().unwrap().starts_with(what)).unwrap();
        found["state"].as_str().unwrap().to_owned()
    };
    assert_eq!((state("state_dir"), state("ledger")), ("good".to_owned(), "good".to_owned()), "{stdout}");
    assert_eq!(state("account acme"), "out-of-reach", "{stdout}");
    let (code, stdout, _) = told(&program::run(&["check", "--offline", "--config", &path]).await);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("account acme: recorded exactly once"), "{stdout}");
}

#[tokio::test]
async fn what_is_wrong_with_a_question_is_said_before_the_ledger_is_asked() {
    let base =
        "deployment = \"asked\"\n[ledger]\nurl = \"postgres://u@127.0.0.1:1/x\"\n[accounts.acme]\ntoken = \"t\"\n";
    let (path, _) = written("config-questions", base);
    for (verb, expected, wanted) in [
        (vec!["tail", "--filter", "type =="], 2, "--filter"),
        (vec!["tail", "--filter", "id"], 2, "a filter must be true or false"),
        (vec!["tail", "--count", "0"], 2, "--count"),
        (vec!["tail", "--sink", "nope"], 1, "no sink nope is configured"),
        (vec!["tail"], 3, "database"),
    ] {
        let (code, _, stderr) = told(&program::run(&[&verb[..], &["--config", &path]].concat()).await);
        assert_eq!(code, Some(expected), "{verb:?}: {stderr}");
        assert!(stderr.contains(wanted), "{verb:?}: {stderr}");
    }
}

#[tokio::test]
async fn init_writes_a_configuration_that_loads_and_nothing_else() {
    let dir = keeper::directory("init");
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (file, token) = (path("standpipe.toml"), path("token"));
    let base = ["init", "--output", &file, "--token-file", &token, "--brokers", "kafka-1:9092"];
    let init = async |more: &[&str]| told(&program::run(&[&base, more].concat()).await);
    let refused = [
        (vec!["--deployment", "Acme Prod"], "deployment: not a name"),
        (vec!["--account", "a b"], "accounts.\"a b\": not a name"),
        (vec!["--ledger", "mysql://h/db"], "ledger.url"),
        (vec!["--webhook", "http://hooks.example.com/"], "sinks.webhook.url"),
        (vec!["--ledger", "postgres://u:c4nary-5ecret@h/db"], "url_file"),
    ];
    for (more, expected) in refused {
        let (code, stdout, stderr) = init(&more).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{more:?}: {stderr}");
        assert!(stderr.contains(expected) && !stderr.contains(CANARY), "{expected} is not in {stderr}");
        assert!(!dir.join("standpipe.toml").exists(), "{more:?}");
    }
    let good = ["--deployment", "acme-prod", "--account", "acme", "--ledger", "embedded"];
    let (code, stdout, stderr) = init(&good).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("standpipe check --config"), "{stdout}");
    let (code, _, stderr) = init(&good).await;
    assert!(code == Some(3) && stderr.contains("overwrites nothing"), "{stderr}");
    let check = async || told(&program::run(&["check", "--offline", "--config", &file]).await);
    let (code, _, stderr) = check().await;
    assert!(code == Some(2) && stderr.contains("cannot read the secret file"), "{stderr}");
    std::fs::write(&token, "t0ken").unwrap();
    let (code, stdout, stderr) = check().await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("sink kafka (kafka): exactly once"), "{stdout}");
}

#[tokio::test]
async fn the_program_explains_its_own_configuration() {
    let (code, stdout, _) = told(&program::run(&["config", "schema"]).await);
    assert_eq!(code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(schema["properties"]["ledger"]["properties"]["shards"]["default"], 1);
    let (_, stdout, _) = told(&program::run(&["config", "reference"]).await);
    assert!(stdout.contains("| `lease_ttl` | duration | `\"15s\"` |"), "{stdout}");
    let (_, stdout, _) = told(&program::run(&["config", "reference", "--toml"]).await);
    assert_eq!(stdout.trim_end(), include_str!("../../config/default.toml").trim_end());
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, stdout, _) = told(&program::run(&["completions", shell]).await);
        assert!(code == Some(0) && stdout.contains("healthcheck"), "{shell}");
    }
    let (code, stdout, _) = told(&program::run(&["version", "--json"]).await);
    assert_eq!(code, Some(0));
    let version: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}
