//! `standpipe webhook` and `standpipe dead-letters`, as an operator runs them.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::time::Duration;

use super::receiver::{Receiver, Reply};
use super::world::{SOON, World, config};
use crate::support::wait::wait_until;
use crate::support::{keeper, program};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A configuration whose sink `ops` posts to `url`, in a directory of its own.
fn configured(ledger: &str, url: &str, secret_file: &str) -> String {
    let dir = keeper::directory("verbs");
    std::fs::write(dir.join("token"), "t0ken").unwrap();
    let toml = format!(
        "deployment = \"test\"\nstate_dir = \"{dir}/state\"\n[ledger]\nurl = \"{ledger}\"\n\
         [accounts.acme]\ntoken_file = \"{dir}/token\"\n\
         [sinks.ops]\ntype = \"webhook\"\nurl = \"{url}\"\nsecret_file = \"{secret_file}\"\nallow_http = true\n\
         allow_networks = [\"127.0.0.0/8\"]\n",
        dir = dir.display()
    );
    let file = dir.join("standpipe.toml");
    std::fs::write(&file, toml).unwrap();
    file.to_str().unwrap().to_owned()
}

/// INV-16: secrets go by files alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_signs_verifies_and_pings() {
    let dir = keeper::directory("secret");
    let secret = dir.join("whsec").to_str().unwrap().to_owned();
    let made = program::run(&["webhook", "rotate", "--file", &secret, "--sink", "ops"]).await;
    assert!(made.status.success(), "{}", text(&made));
    let whsec = std::fs::read_to_string(&secret).unwrap();
    assert!(whsec.starts_with("whsec_") && !text(&made).contains(whsec.trim()), "a secret is never printed");
    assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    let again = program::run(&["webhook", "rotate", "--file", &secret]).await;
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));

    let body = dir.join("body").to_str().unwrap().to_owned();
    std::fs::write(&body, r#"{"test": 2432232314}"#).unwrap();
    let signed = program::run(&["webhook", "sign", "--secret-file", &secret, "--id", "msg_1", &body]).await;
    let headers = text(&signed);
    let header = |name: &str| headers.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let (timestamp, signature) = (header("webhook-timestamp:"), header("webhook-signature:"));
    let verify = async |timestamp: &str, more: &[&str]| {
        let mut arguments = vec!["webhook", "verify", "--secret-file", &secret, "--id", "msg_1"];
        arguments.extend(["--timestamp", timestamp, "--signature", &signature, &body]);
        arguments.extend(more);
        program::run(&arguments).await.status.code()
    };
    assert_eq!(verify(&timestamp, &[]).await, Some(0));
    assert_eq!(verify("1614265330", &["--any-age"]).await, Some(1), "another timestamp");

    let receiver = Receiver::good().await;
    let file = configured("embedded", &receiver.url(), &secret);
    let pinged = program::run(&["webhook", "test", "ops", "--json", "--config", &file]).await;
    assert!(pinged.status.success(), "{}", text(&pinged));
    let got = receiver.got().pop().unwrap();
    assert!(got.id().starts_with("evt_standpipe_ping-") && text(&pinged).contains(&got.id()));
    assert!(String::from_utf8_lossy(&got.body).contains(r#""type":"standpipe.ping""#));
    receiver.answer_with(|_| Reply::Status(500));
    let refused = program::run(&["webhook", "test", "ops", "--config", &file]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("500") && text(&refused).contains("no, thank you"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_redriven_and_discarded() {
    let world = World::new().await;
    let receiver = Receiver::start(|_| Reply::Status(500)).await;
    let mut quick = config(&receiver.url());
    quick.retry_schedule = vec![Duration::from_millis(50)];
    let sink = world.run("ops", quick);
    world.record(["a", "b", "c"]).await;
    wait_until("three dead letters", SOON, async || world.count("SELECT count(*) FROM dead_letters").await == 3).await;
    let dir = keeper::directory("secret");
    let secret = dir.join("whsec").to_str().unwrap().to_owned();
    std::fs::write(&secret, super::world::SECRET).unwrap();
    let file = configured(&world.url, &receiver.url(), &secret);
    let verb = async |arguments: &[&str]| {
        let mut all = vec!["dead-letters"];
        all.extend(arguments);
        all.extend(["--config", &file]);
        program::run(&all).await
    };
    let listed = verb(&["list", "--json"]).await;
    let letters: serde_json::Value =
        serde_json::from_slice(&listed.stdout).unwrap_or_else(|_| panic!("{}", text(&listed)));
    assert_eq!(letters.as_array().unwrap().len(), 3);
    assert_eq!((&letters[0]["sink"], &letters[0]["type"]), (&"ops".into(), &"deal.updated".into()));
    let shown = verb(&["show", "ops", "1", "--json"]).await;
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["event"]["id"], &shown["failed_attempts"][1]["status"]), (&"e_1".into(), &500.into()));
    assert!(text(&verb(&["show", "ops", "1"]).await).contains("the endpoint answered 500"));
    let body = verb(&["show", "ops", "1", "--body"]).await.stdout;
    assert_eq!(body.trim_ascii_end(), receiver.got().iter().find(|got| got.seq() == 1).unwrap().body);
    receiver.answer_with(|_| Reply::Status(200));
    let redriven = verb(&["redrive", "ops", "1"]).await;
    assert!(redriven.status.success(), "{}", text(&redriven));
    let before = receiver.count();
    wait_until("it comes again", SOON, async || receiver.count() > before).await;
    let missing = verb(&["discard", "ops", "1"]).await;
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing));
    assert!(verb(&["discard", "ops", "--all"]).await.status.success());
    assert_eq!(world.count("SELECT count(*) FROM dead_letters").await, 0);
    sink.end().await.unwrap();
}
