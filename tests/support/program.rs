//! The real binary, as its users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::http;
use super::keeper::{self, Process};
use super::wait::wait_until;

pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_standpipe"));
    // What the developer's shell configures must not change a test.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STANDPIPE_") && name != "STANDPIPE_MUTANT") {
        command.env_remove(name);
    }
    command.env_remove("DATABASE_URL").stdin(Stdio::null());
    command
}

/// Runs a verb to its end.
pub async fn run(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(command());
    command.args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_mins(1), command.output()).await;
    output.unwrap_or_else(|_| panic!("standpipe {arguments:?} did not end in 60 s")).expect("the binary runs")
}

/// `standpipe run` on a configuration of its own.
#[derive(Debug)]
pub struct Daemon {
    pub process: Process,
    dir: PathBuf,
    port: u16,
    listen: u16,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl Daemon {
    /// Starts a daemon with `configuration` (TOML without `state_dir` and `[server]`, which are made here).
    pub fn start(name: &str, configuration: &str) -> Self {
        Self::start_with(name, configuration, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with(name: &str, configuration: &str, environment: &[(&str, &str)]) -> Self {
        let dir = keeper::directory(name);
        let (port, listen) = (keeper::free_port(), keeper::free_port());
        let top = format!("state_dir = \"{}\"\n", dir.join("state").display());
        let server = format!("\n[server]\nlisten = \"127.0.0.1:{listen}\"\nmetrics_listen = \"127.0.0.1:{port}\"\n");
        std::fs::write(dir.join("standpipe.toml"), top + configuration + &server).expect("own directory");
        let environment: Vec<_> =
            environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let process = launch(&dir, &environment, &[]);
        Self { process, dir, port, listen, environment, arguments: Vec::new() }
    }

    /// Starts the same instance again with more arguments of `run`.
    pub fn start_again_as(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self.start_again();
    }

    /// Changes the configuration's text; the next start reads it.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config()).expect("own file");
        assert!(text.contains(from), "{from} is not in {text}");
        std::fs::write(self.config(), text.replace(from, to)).expect("own directory");
    }

    /// Starts the same instance again after its end.
    pub fn start_again(&mut self) {
        let environment = std::mem::take(&mut self.environment);
        self.start_again_with(environment);
    }

    /// The same with other variables.
    pub fn start_again_with(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
        self.process = launch(&self.dir, &self.environment, &self.arguments);
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("standpipe.toml")
    }

    /// Runs a verb against this daemon's configuration.
    pub async fn run_verb(&self, verb: &[&str]) -> Output {
        let config = self.config();
        let mut arguments = verb.to_vec();
        arguments.extend(["--config", config.to_str().expect("a plain path")]);
        run(&arguments).await
    }

    /// Status and body of `/readyz`; none while nobody listens.
    pub async fn readyz(&self) -> Option<(u16, String)> {
        http::get(&format!("http://127.0.0.1:{}/readyz", self.port)).await
    }

    /// Status of `/livez`; none while nobody listens.
    pub async fn livez(&self) -> Option<u16> {
        http::get(&format!("http://127.0.0.1:{}/livez", self.port)).await.map(|(status, _)| status)
    }

    /// Where console and passthrough are.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.listen)
    }

    /// The page at `/console`; none while nobody listens.
    pub async fn console(&self) -> Option<String> {
        http::get(&(self.url() + "/console")).await.map(|(_, body)| body)
    }

    pub async fn metrics(&self) -> Option<String> {
        http::get(&format!("http://127.0.0.1:{}/metrics", self.port)).await.map(|(_, body)| body)
    }

    pub async fn wait_ready(&mut self, within: Duration) {
        let url = format!("http://127.0.0.1:{}/readyz", self.port);
        wait_until("the daemon is ready", within, async || {
            let ended = self.process.ended();
            assert!(ended.is_none(), "the daemon ended: {ended:?}");
            http::get(&url).await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    }
}

fn launch(dir: &Path, environment: &[(String, String)], arguments: &[String]) -> Process {
    let mut command = command();
    command.arg("run").arg("--config").arg(dir.join("standpipe.toml")).args(arguments);
    command.envs(environment.iter().map(|(key, value)| (key, value))).current_dir(dir);
    Process::start("standpipe run", &mut command, &dir.join("log"))
}

/// `standpipe simulate`, a Sell of one's own.
#[derive(Debug)]
pub struct Simulator {
    pub process: Process,
    port: u16,
}

impl Simulator {
    /// Starts one; `arguments` are those after `--listen`.
    pub async fn start(arguments: &[&str]) -> Self {
        let dir = keeper::directory("simulator");
        let port = keeper::free_port();
        let mut command = command();
        command.args(["simulate", "--listen", &format!("127.0.0.1:{port}")]).args(arguments).current_dir(&dir);
        let process = Process::start("standpipe simulate", &mut command, &dir.join("log"));
        let simulator = Self { process, port };
        let listens = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        wait_until("the simulator listens", Duration::from_secs(20), listens).await;
        simulator
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on so many events a second.
    pub async fn set_rate(&self, rate: u32) {
        let url = format!("{}/_simulator/rate", self.url());
        let request = http::client().put(&url).body(format!(r#"{{"rate":{rate}}}"#));
        let response = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        assert!(response.status().is_success(), "{url}: {}", response.status());
    }

    /// So many events at once.
    pub async fn emit(&self, count: u32) {
        let url = format!("{}/_simulator/emit", self.url());
        let body = format!(r#"{{"count":{count}}}"#);
        let request = http::client().post(&url).header("content-type", "application/json").body(body);
        let response = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        assert!(response.status().is_success(), "{url}: {}", response.status());
    }

    /// The body of an admin endpoint, `/_simulator/<path>`.
    pub async fn admin(&self, path: &str) -> String {
        let url = format!("{}/_simulator/{path}", self.url());
        let response = http::client().get(&url).send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        assert!(response.status().is_success(), "{url}: {}", response.status());
        response.text().await.unwrap_or_else(|error| panic!("{url}: {error}"))
    }
}
