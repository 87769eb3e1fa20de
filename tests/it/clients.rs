//! Clients of the vendor's API that others wrote, against the simulator: the vendor's own for Core v2 and Sync v2 with
//! the test suite that ships inside its package, directly and through the door; and one for the Firehose.
//!
//! Both are fixed, in part or all, on the vendor's own host: a CONNECT proxy with a certificate made for the test
//! answers in its place, so that nothing leaves the machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::http;
use crate::support::keeper::{self, Process};
use crate::support::postgres::Postgres;
use crate::support::program::{Daemon, Simulator};
use crate::support::wait::wait_until;

/// 64 characters: the vendor's client takes no other.
const TOKEN: &str = "5e11c0de5e11c0de5e11c0de5e11c0de5e11c0de5e11c0de5e11c0de5e11c0de";
const KEY: &str = "d00rd00rd00rd00rd00rd00rd00rd00rd00rd00rd00rd00rd00rd00rd00rd00r";
/// How many tests the package has.
const TESTS: u32 = 206;
const LONG: Duration = Duration::from_mins(1);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Python that has the clients; none where this machine has none that is old enough.
fn python() -> Option<PathBuf> {
    let python = root().join(".tools/clients/bin/python");
    if python.exists() {
        return Some(python);
    }
    let prepared = root().join(".tools/venv/.stamp").exists();
    assert!(prepared, "run tests/prepare");
    println!("no Python of 3.8 to 3.11 on this machine: not run");
    None
}

/// Who answers as api.getbase.com.
struct VendorHost {
    _process: Process,
    port: u16,
    authority: PathBuf,
}

impl VendorHost {
    async fn start(python: &Path, simulator: &Simulator) -> Self {
        let dir = keeper::directory("vendor-host");
        let path = |name: &str| dir.join(name).display().to_string();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=api.getbase.com", "-addext", "subjectAltName=DNS:api.getbase.com"])
            .args(["-keyout", &path("key.pem"), "-out", &path("certificate.pem")])
            .output()
            .expect("openssl (run tests/prepare)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect("just made");
        std::fs::write(dir.join("both.pem"), read("key.pem") + &read("certificate.pem")).expect("own directory");
        let port = keeper::free_port();
        let mut command = Command::new(python);
        command.arg(root().join("tests/tools/vendor_host.py")).arg(port.to_string()).arg(path("both.pem"));
        command.arg(simulator.port().to_string());
        let process = Process::start("vendor_host.py", &mut command, &dir.join("log"));
        let listens = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        wait_until("vendor_host.py listens", Duration::from_secs(20), listens).await;
        Self { _process: process, port, authority: dir.join("certificate.pem") }
    }

    /// Runs a Python for which it is the vendor's host, to its end.
    async fn python(&self, python: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = tokio::process::Command::new(python);
        for name in ["http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY", "PYTHONPATH"] {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("HTTPS_PROXY", format!("http://127.0.0.1:{}", self.port))
            .env("NO_PROXY", "127.0.0.1")
            .env("REQUESTS_CA_BUNDLE", &self.authority)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_mins(5), command.output()).await;
        output.expect("it ends within five minutes").expect("Python runs")
    }

    /// Runs the suite of the vendor's client: all of it, and all of it must pass.
    async fn suite(&self, python: &Path, base_url: &str, token: &str) {
        const RUN: &str = "import os, sys, unittest, basecrm.test\n\
                           names = sorted(n[:-3] for n in os.listdir(basecrm.test.__path__[0]) if n.startswith('test_'))\n\
                           suite = unittest.TestLoader().loadTestsFromNames(['basecrm.test.' + n for n in names])\n\
                           done = unittest.TextTestRunner(stream=open(os.devnull, 'w')).run(suite)\n\
                           print('ran', done.testsRun, 'skipped', len(done.skipped))\n\
                           [print('failed', case, text) for case, text in done.failures + done.errors]\n";
        let environment = [("BASECRM_BASE_URL", base_url), ("BASECRM_ACCESS_TOKEN", token)];
        let output = self.python(python, &["-W", "ignore", "-c", RUN], &environment).await;
        let text = String::from_utf8_lossy(&output.stdout);
        // The client prints what it sends between the lines.
        let told: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("ran ")).collect();
        assert_eq!(told, [format!("ran {TESTS} skipped 0")], "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_the_vendors_own_client_passes_against_the_simulator() {
    let Some(python) = python() else { return };
    let simulator = Simulator::start(&["--dialect", "live", "--rate", "0", "--backlog", "50", "--token", TOKEN]).await;
    let host = VendorHost::start(&python, &simulator).await;
    host.suite(&python, &simulator.url(), TOKEN).await;
    // What the suite wrote was told: a contact of its own, with its tags and what it knows of it.
    let told = simulator.admin("emitted?dialect=live").await;
    let contact = told.lines().find(|line| line.contains("contact.created") && line.contains("mjohnson"));
    assert!(contact.is_some_and(|line| line.contains("I know him via Tom")), "{told}");
    for event in ["deal.deleted", "note.updated", "line_item.created", "tag.deleted", "source.updated"] {
        assert!(told.lines().any(|line| line.contains(&format!("\"type\":\"{event}\""))), "no {event} in\n{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_the_vendors_own_client_passes_through_the_door() {
    let Some(python) = python() else { return };
    let simulator = Simulator::start(&["--dialect", "live", "--rate", "0", "--backlog", "50", "--token", TOKEN]).await;
    let secrets = keeper::directory("clients-secrets");
    for (name, secret) in [("token", TOKEN), ("key", KEY)] {
        std::fs::write(secrets.join(name), secret).expect("own directory");
    }
    let file = |name: &str| secrets.join(name).display().to_string();
    let configuration = format!(
        "deployment = \"clients\"\n[ledger]\nurl = \"{}\"\n[accounts.acme]\nbase_url = \"{}\"\ntoken_file = \"{}\"\n\
         dialect = \"live\"\nstreams = [\"deals\"]\nrequests_per_minute = 60000\nrequests_per_hour = 600000\n\
         [server.keys.suite]\ntoken_file = \"{}\"\nallow = [\"passthrough:read\", \"passthrough:write\"]\n",
        Postgres::shared().await.database().await,
        simulator.url(),
        file("token"),
        file("key")
    );
    let mut daemon = Daemon::start("clients", &configuration);
    daemon.wait_ready(LONG).await;
    let host = VendorHost::start(&python, &simulator).await;
    let door = format!("{}/sell/acme", daemon.url());
    host.suite(&python, &door, KEY).await;

    // A client that follows links verbatim stays on the door, to the last page.
    let (mut seen, mut next) = (BTreeSet::new(), format!("{door}/v2/contacts?per_page=7"));
    loop {
        assert!(next.starts_with(&format!("{door}/v2/contacts")), "{next}");
        let page =
            http::client().get(&next).bearer_auth(KEY).header("user-agent", "it").send().await.expect("the door");
        let page: Value = page.json().await.expect("a page");
        let items = page["items"].as_array().expect("items");
        assert!(items.iter().all(|item| seen.insert(item["data"]["id"].as_u64())), "a record twice");
        match page["meta"]["links"]["next_page"].as_str() {
            Some(link) => link.clone_into(&mut next),
            None => break,
        }
    }
    assert!(seen.len() > 40, "the company and the suite have more contacts than {}", seen.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firehose_client_that_is_fixed_on_the_vendors_host_reads_the_whole_backlog() {
    const READ: &str = "import json, sys\n\
                        from zendesk_sell_firehose_client import ZendeskSellFirehoseClient\n\
                        read = ZendeskSellFirehoseClient(bearer_token=sys.argv[1]).get_deals()\n\
                        print(json.dumps([item['meta']['event_id'] for item in read['items']]))\n";
    let Some(python) = python() else { return };
    let simulator =
        Simulator::start(&["--dialect", "live", "--rate", "0", "--backlog", "2000", "--token", TOKEN]).await;
    let host = VendorHost::start(&python, &simulator).await;
    let output = host.python(&python, &["-c", READ, TOKEN], &[]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Vec<String> = serde_json::from_slice(&output.stdout).expect("the ids of the events");
    let emitted = simulator.admin("emitted?dialect=live").await;
    let emitted: Vec<Value> = emitted.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    let deals = emitted.iter().filter(|event| event["stream"] == "deals").filter_map(|event| event["id"].as_str());
    assert_eq!(read, deals.collect::<Vec<_>>());
    assert!(read.len() > 500, "more than a few pages, not {}", read.len());
}
