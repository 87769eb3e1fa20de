//! The whole program against a real broker that wants TLS: with a password (`SASL_SSL` and SCRAM-SHA-256), and with a
//! certificate of the client (`SSL`).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::kafka::More;
use crate::support::keeper;
use crate::support::postgres::Postgres;
use crate::support::program::{self, Daemon, Simulator};

use super::*;

const PASSWORD: &str = "correct-horse-7Zq";
const WRONG_PASSWORD: &str = "battery-staple-4Kx";
const EVENTS: usize = 300;

/// An authority that nobody else trusts, and what it has signed.
struct Authority(PathBuf);

impl Authority {
    fn new() -> Self {
        let authority = Self(keeper::directory("authority"));
        authority.make("ca", &["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
        authority
    }

    /// Issues `<name>.pem` with the key `<name>.key`, and both in `<name>.both`.
    fn issue(&self, name: &str) {
        let (ca, key) = (self.path("ca.pem"), self.path("ca.key"));
        let host = "subjectAltName=DNS:localhost";
        self.make(
            name,
            &["-CA", &ca, "-CAkey", &key, "-addext", host, "-addext", "basicConstraints=critical,CA:FALSE"],
        );
        let read = |file: &str| std::fs::read_to_string(self.path(file)).unwrap();
        let both = read(&format!("{name}.key")) + &read(&format!("{name}.pem"));
        std::fs::write(self.path(&format!("{name}.both")), both).unwrap();
    }

    fn make(&self, name: &str, more: &[&str]) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", &format!("/CN={name}"), "-keyout", &self.path(&format!("{name}.key"))])
            .args(["-out", &self.path(&format!("{name}.pem"))])
            .args(more)
            .output()
            .expect("openssl (run tests/prepare)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }
}

/// A broker with three doors, the ports of two of them, and who signed for it.
async fn broker() -> (Kafka, [u16; 2], Authority) {
    let authority = Authority::new();
    authority.issue("broker");
    authority.issue("client");
    let ports = [keeper::free_port(), keeper::free_port()];
    let more = More {
        listeners: vec![("SECURE", "SASL_SSL", ports[0]), ("MUTUAL", "SSL", ports[1])],
        properties: format!(
            "ssl.keystore.type=PEM
ssl.keystore.location={}
ssl.truststore.type=PEM
ssl.truststore.location={}
listener.name.mutual.ssl.client.auth=required
sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.secure.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
",
            authority.path("broker.both"),
            authority.path("ca.pem"),
        ),
        user: Some(("standpipe", PASSWORD)),
        jvm: None,
    };
    (Kafka::start_with(&more).await, ports, authority)
}

/// One sink by each door.
fn sinks(kafka: &Kafka, [secure, mutual]: [u16; 2], authority: &Authority, password: &Path) -> String {
    format!(
        r#"
[sinks.plain]
type = "kafka"
brokers = "{plain}"
topic = "all.plain"
[sinks.crm]
type = "kafka"
brokers = "localhost:{secure}"
topic = "all.crm"
[sinks.crm.properties]
"security.protocol" = "SASL_SSL"
"sasl.mechanism" = "SCRAM-SHA-256"
"sasl.username" = "standpipe"
"ssl.ca.location" = "{ca}"
"broker.address.family" = "v4"
[sinks.crm.properties_file]
"sasl.password" = "{password}"
[sinks.mutual]
type = "kafka"
brokers = "localhost:{mutual}"
topic = "all.mutual"
[sinks.mutual.properties]
"security.protocol" = "SSL"
"ssl.ca.location" = "{ca}"
"ssl.certificate.location" = "{certificate}"
"ssl.key.location" = "{key}"
"broker.address.family" = "v4"
"#,
        plain = kafka.brokers(),
        ca = authority.path("ca.pem"),
        certificate = authority.path("client.pem"),
        key = authority.path("client.key"),
        password = password.display(),
    )
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What was found of one sink by `check --json`.
fn found(checked: &Output, sink: &str) -> serde_json::Value {
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let outside = report["outside"].as_array().unwrap().clone();
    outside.into_iter().find(|finding| finding["what"] == format!("sink {sink}")).unwrap()
}

/// A message without what makes it one sink's own.
fn bare(sink: &str, message: &Message) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut message = message.clone();
    assert_eq!(message.topic, format!("all.{sink}"));
    message.headers.sort();
    (message.partition, message.key, message.headers, message.payload)
}

/// INV-16: nothing that is printed, logged or served tells a password.
#[tokio::test(flavor = "multi_thread")]
async fn events_flow_over_tls_exactly_as_over_plaintext_and_what_is_refused_is_named() {
    let (kafka, ports, authority) = broker().await;
    let simulator = Simulator::start(&["--rate", "0", "--backlog", &EVENTS.to_string()]).await;
    let password = authority.0.join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let database = Postgres::shared().await.database().await;
    let configuration = format!(
        "deployment = \"secured\"\nstartup_timeout = \"6s\"\n[ledger]\nurl = \"{database}\"\n[accounts.acme]\n\
         base_url = \"{}\"\ntoken = \"t\"\nrequests_per_minute = 6000\nrequests_per_hour = 100000\n{}",
        simulator.url(),
        sinks(&kafka, ports, &authority, &password)
    );
    let mut daemon = Daemon::start("secured", &configuration);
    daemon.wait_ready(LIMIT).await;
    let messages =
        async |sink: &str| kafka.try_read(&format!("all.{sink}"), "beginning", Isolation::ReadCommitted).await;
    for sink in ["plain", "crm", "mutual"] {
        let all = async || messages(sink).await.is_ok_and(|messages| messages.len() >= EVENTS);
        wait_until(format!("{sink} has all\n{}", daemon.process.log_tail()), LIMIT, all).await;
    }
    let plain = messages("plain").await.unwrap();
    assert_eq!(plain.len(), EVENTS);
    for sink in ["crm", "mutual"] {
        let bared: Vec<_> = messages(sink).await.unwrap().iter().map(|message| bare(sink, message)).collect();
        assert_eq!(bared, plain.iter().map(|message| bare("plain", message)).collect::<Vec<_>>(), "{sink}");
    }

    let checked = daemon.run_verb(&["check", "--json"]).await;
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked));
    let crm = found(&checked, "crm")["facts"].to_string();
    assert!(crm.contains("security.protocol=sasl_ssl") && crm.contains("sasl.password=***"), "{crm}");
    let mut printed = vec![text(&checked)];
    printed.push(text(&daemon.run_verb(&["config", "show"]).await));
    printed.push(text(&daemon.run_verb(&["status", "--json"]).await));
    printed.push(daemon.metrics().await.unwrap());

    // A wrong password.
    std::fs::write(&password, WRONG_PASSWORD).unwrap();
    let refused = daemon.run_verb(&["check", "--json"]).await;
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    let crm = found(&refused, "crm");
    assert_eq!(crm["state"], "out-of-reach", "{crm}");
    let error = crm["errors"][0].as_str().unwrap().to_owned();
    assert!(error.contains("the brokers refuse the credentials: see `properties` and `properties_file`"), "{error}");
    assert_eq!(found(&refused, "mutual")["state"], "good", "{}", text(&refused));
    printed.push(text(&refused));
    printed.push(text(&daemon.run_verb(&["check"]).await));

    let config = daemon.config();
    daemon.process.signal(rustix::process::Signal::TERM);
    assert!(daemon.process.wait_ended(LIMIT).await.success(), "{}", daemon.process.log_tail());
    let refused = program::run(&["run", "--config", config.to_str().unwrap()]).await;
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("the brokers of sink crm"), "{}", text(&refused));
    assert!(text(&refused).contains("the brokers refuse the credentials"), "{}", text(&refused));
    printed.push(text(&refused));
    printed.push(std::fs::read_to_string(daemon.process.log_path()).unwrap());

    // One that is mended while the start waits for the brokers is taken up.
    daemon.start_again_with(vec![("STANDPIPE__STARTUP_TIMEOUT".to_owned(), "60s".to_owned())]);
    let log = || std::fs::read_to_string(daemon.process.log_path()).unwrap();
    let refusals = |log: &str| log.matches("no broker is within reach yet").count();
    wait_until("the start is refused", LIMIT, async || refusals(&log()) > 0).await;
    std::fs::write(&password, PASSWORD).unwrap();
    daemon.wait_ready(LIMIT).await;
    printed.push(std::fs::read_to_string(daemon.process.log_path()).unwrap());
    daemon.process.signal(rustix::process::Signal::TERM);
    assert!(daemon.process.wait_ended(LIMIT).await.success(), "{}", daemon.process.log_tail());

    for printed in printed {
        assert!(!printed.contains(PASSWORD) && !printed.contains(WRONG_PASSWORD), "{printed}");
    }

    // Another authority than the one that signed, and no certificate of one's own.
    std::fs::write(&password, PASSWORD).unwrap();
    let stranger = Authority::new();
    let text_of = std::fs::read_to_string(&config).unwrap();
    let lines = text_of.replace(&authority.path("ca.pem"), &stranger.path("ca.pem"));
    std::fs::write(&config, &lines).unwrap();
    let untrusted = daemon.run_verb(&["check", "--json"]).await;
    assert_eq!(untrusted.status.code(), Some(3), "{}", text(&untrusted));
    for sink in ["crm", "mutual"] {
        let finding = found(&untrusted, sink);
        let error = finding["errors"][0].as_str().unwrap();
        assert_eq!(finding["state"], "out-of-reach", "{finding}");
        assert!(error.contains("TLS failed") && error.contains("ssl.ca.location"), "{error}");
    }
    let lines = text_of.lines().filter(|line| !line.contains("certificate.location") && !line.contains("key.location"));
    std::fs::write(&config, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let nobody = daemon.run_verb(&["check", "--json"]).await;
    assert_eq!(nobody.status.code(), Some(3), "{}", text(&nobody));
    assert_eq!(found(&nobody, "crm")["state"], "good", "{}", text(&nobody));
    let error = found(&nobody, "mutual")["errors"][0].as_str().unwrap().to_owned();
    assert!(error.contains("certificate"), "{error}");
}
