//! A webhook receiver in Python that verifies signatures by libraries that are not ours.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::keeper::{self, Process};
use super::wait::wait_until;

/// A running receiver.
#[derive(Debug)]
pub struct VerifyingReceiver {
    process: Process,
    port: u16,
}

/// A request that it got.
#[derive(Clone, Debug, Deserialize)]
pub struct Received {
    /// Header names are in lower case.
    pub headers: HashMap<String, String>,
    /// base64
    body: String,
    /// Why the outside library refused the signatures; none when they are right.
    pub error: Option<String>,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers))
    }

    pub fn body(&self) -> Vec<u8> {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(&self.body).expect("the receiver writes base64")
    }
}

impl VerifyingReceiver {
    /// Starts one that knows the shared secret (`whsec_…`) and maybe the public key (`whpk_…`).
    pub async fn start(secret: &str, public_key: Option<&str>) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".tools/venv/bin/python");
        assert!(python.exists(), "{} is not there; run tests/prepare", python.display());
        let port = keeper::free_port();
        let mut command = Command::new(python);
        command.arg(root.join("tests/tools/receiver.py")).arg(port.to_string()).arg(secret).args(public_key);
        let process = Process::start("receiver.py", &mut command, &keeper::directory("receiver").join("log"));
        let receiver = Self { process, port };
        let listens = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        wait_until("receiver.py listens", Duration::from_secs(20), listens).await;
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// Everything received until now, in order.
    pub fn received(&self) -> Vec<Received> {
        let log = std::fs::read_to_string(self.process.log_path()).expect("own file");
        // The last line may be half written.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}
