//! Toxiproxy between processes: every link of a chaos run leads through a proxy that can be slow, mute, cut or turned to
//! another server.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::keeper::{self, Process};
use super::wait::wait_until;

/// A running Toxiproxy. Its links are told apart by name.
#[derive(Debug)]
pub struct Toxiproxy {
    api: u16,
    process: Process,
    client: reqwest::Client,
}

/// The two ways of a link, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What the client says.
    Up,
    /// What the server answers.
    Down,
}

/// What a link does to what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toxic {
    /// Each piece comes so many milliseconds later, give or take the second.
    Latency(u32, u32),
    /// Nothing comes through, and nobody is told.
    BlackHole,
    /// Connections end with RST after so many milliseconds.
    Reset(u32),
    /// Each connection ends after so many more bytes, in the middle of whatever it carries.
    Cut(u32),
    /// So many kilobytes a second.
    Slow(u32),
    /// Pieces of so many bytes, on average.
    Sliced(u32),
}

impl Toxic {
    fn parts(self) -> (&'static str, Value) {
        match self {
            Self::Latency(latency, jitter) => ("latency", json!({ "latency": latency, "jitter": jitter })),
            Self::BlackHole => ("timeout", json!({ "timeout": 0 })),
            Self::Reset(timeout) => ("reset_peer", json!({ "timeout": timeout })),
            Self::Cut(bytes) => ("limit_data", json!({ "bytes": bytes })),
            Self::Slow(rate) => ("bandwidth", json!({ "rate": rate })),
            Self::Sliced(size) => ("slicer", json!({ "average_size": size, "size_variation": size / 2, "delay": 200 })),
        }
    }
}

impl Toxiproxy {
    /// Starts one without links.
    ///
    /// # Panics
    /// When tests/prepare could not build it.
    pub async fn start(seed: u64) -> Self {
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/toxiproxy/bin/server");
        assert!(server.is_file(), "{} is missing: install Go and run tests/prepare", server.display());
        let api = keeper::free_port();
        let mut command = Command::new(server);
        command.args(["-host", "127.0.0.1", "-port", &api.to_string(), "-seed", &seed.to_string()]);
        command.env("LOG_LEVEL", "fatal");
        let process = Process::start("Toxiproxy", &mut command, &keeper::directory("toxiproxy").join("log"));
        let this = Self { api, process, client: super::http::client() };
        let listens = async || tokio::net::TcpStream::connect(("127.0.0.1", api)).await.is_ok();
        wait_until("Toxiproxy listens", Duration::from_secs(20), listens).await;
        this
    }

    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// A new link to a local port; gives the port that leads there.
    pub async fn link(&self, name: &str, to: u16) -> u16 {
        let port = keeper::free_port();
        self.link_at(name, port, to).await;
        port
    }

    /// The same at a port of one's choice.
    pub async fn link_at(&self, name: &str, port: u16, to: u16) {
        let link = json!({
            "name": name, "listen": format!("127.0.0.1:{port}"), "upstream": format!("127.0.0.1:{to}"), "enabled": true,
        });
        self.call(Method::POST, "/proxies", Some(&link)).await;
    }

    /// Leads to another local port from now on; connections are cut.
    pub async fn turn(&self, name: &str, to: u16) {
        let upstream = json!({ "upstream": format!("127.0.0.1:{to}"), "enabled": true });
        self.call(Method::POST, &format!("/proxies/{name}"), Some(&upstream)).await;
    }

    /// Refuses connections and cuts those that are there, or takes them again.
    pub async fn enable(&self, name: &str, enabled: bool) {
        self.call(Method::POST, &format!("/proxies/{name}"), Some(&json!({ "enabled": enabled }))).await;
    }

    /// Makes a link do something to what goes one way; until [`Toxiproxy::heal`].
    pub async fn poison(&self, name: &str, way: Way, toxic: Toxic) {
        let (kind, attributes) = toxic.parts();
        let stream = if way == Way::Up { "upstream" } else { "downstream" };
        let toxic = json!({ "type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes });
        self.call(Method::POST, &format!("/proxies/{name}/toxics"), Some(&toxic)).await;
    }

    /// Takes every toxic away and lets every link through.
    pub async fn heal(&self) {
        self.call(Method::POST, "/reset", None).await;
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) {
        let url = format!("http://127.0.0.1:{}{path}", self.api);
        let mut request = self.client.request(method, &url);
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}\n{}", self.log_tail()));
        let status = answer.status();
        assert!(status.is_success(), "{url}: {status}: {}", answer.text().await.unwrap_or_default());
    }
}
