//! A private, real PostgreSQL: one server for the whole test binary, one database for each test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use sqlx::{Connection as _, PgConnection};
use standpipe::config::{LedgerConfig, LedgerUrl, Secret};
use tokio::sync::OnceCell;

use super::keeper::{self, Process};
use super::wait::wait_until;

/// The configuration of a ledger as the defaults have it.
pub fn ledger_config(url: &str) -> LedgerConfig {
    LedgerConfig {
        url: LedgerUrl::Postgres(Secret::value(url)),
        shards: 1,
        lease_ttl: Duration::from_secs(15),
        retention: Duration::from_hours(168),
        dedupe_window: Duration::from_hours(336),
        max_backlog: 10 << 30,
        backlog_hold: Duration::from_hours(12),
        pooler: false,
        migrate: true,
    }
}

const STARTS_WITHIN: Duration = Duration::from_mins(1);
/// fsync guards against a crash of the machine, which no test makes.
const SETTINGS: &[&str] = &["fsync=off", "full_page_writes=off", "max_connections=300"];

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Waits for nobody, rolls back, writes a checkpoint.
    Fast,
    /// As a crash: everything is killed, the next start recovers from the log.
    Immediate,
}

/// A running PostgreSQL.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    port: u16,
    settings: &'static [&'static str],
    environment: Vec<(String, String)>,
    /// Beside its directory, whose disk may be full.
    log: PathBuf,
    process: Process,
    databases: AtomicU32,
}

impl Postgres {
    /// The server that all tests of this binary share.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// A server of one's own, to stop and freeze.
    pub async fn start() -> Self {
        Self::start_with(SETTINGS).await
    }

    /// The same with settings of one's own.
    pub async fn start_with(settings: &'static [&'static str]) -> Self {
        Self::start_at(keeper::directory("postgres"), settings, Vec::new()).await
    }

    /// The same in an empty directory of one's choice, with variables in its environment.
    pub async fn start_at(dir: PathBuf, settings: &'static [&'static str], environment: Vec<(String, String)>) -> Self {
        let bin = newest_bin();
        if is_root() {
            run(Command::new("chown").arg("nobody").arg(&dir));
        }
        let data = dir.join("data");
        run(as_unprivileged(&bin.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .current_dir(&dir));
        let port = keeper::free_port();
        let log = keeper::directory("postgres-log").join("log");
        let process = launch(&bin, &dir, port, settings, &environment, &log);
        let server = Self { bin, dir, port, settings, environment, log, process, databases: AtomicU32::new(0) };
        server.wait_ready().await;
        server
    }

    /// A new, empty database; gives its URL.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&self.url("postgres")).await.expect("the server answers");
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(create).execute(&mut admin).await.expect("a new database");
        self.url(&name)
    }

    /// Everything in a database as it is now, as `pg_dump` sees it: a backup.
    pub fn dump(&self, url: &str) -> PathBuf {
        let file = keeper::directory("dump").join("backup");
        run(Command::new(self.bin.join("pg_dump")).args(["-Fc", "-f"]).arg(&file).arg(url));
        file
    }

    /// Everything in a database, as text.
    pub fn text(&self, url: &str) -> String {
        let dump = Command::new(self.bin.join("pg_dump")).arg(url).output().expect("pg_dump");
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        String::from_utf8_lossy(&dump.stdout).into_owned()
    }

    /// Who is connected and what each of them asked last, as every user of the server may look it up.
    pub async fn activity(&self) -> String {
        let mut admin = PgConnection::connect(&self.url("postgres")).await.expect("the server answers");
        let rows = sqlx::query_scalar("SELECT activity::text FROM pg_stat_activity activity").fetch_all(&mut admin);
        let rows: Vec<String> = rows.await.expect("they are told");
        rows.join("\n")
    }

    /// A new database out of a backup; gives its URL.
    pub async fn restore(&self, backup: &Path) -> String {
        let url = self.database().await;
        run(Command::new(self.bin.join("pg_restore")).args(["--exit-on-error", "-d", &url]).arg(backup));
        url
    }

    /// A streaming standby of this server, on a port of its own.
    pub async fn standby(&self) -> Self {
        self.standby_at(keeper::directory("standby"), self.port).await
    }

    /// The same in an empty directory of one's choice, streaming from a port that leads to this server.
    pub async fn standby_at(&self, dir: PathBuf, through: u16) -> Self {
        if is_root() {
            run(Command::new("chown").arg("nobody").arg(&dir));
        }
        run(as_unprivileged(&self.bin.join("pg_basebackup"))
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &through.to_string(), "-R", "-X", "stream", "-c", "fast"])
            .arg("-D")
            .arg(dir.join("data"))
            .current_dir(&dir));
        let port = keeper::free_port();
        let log = keeper::directory("postgres-log").join("log");
        let process = launch(&self.bin, &dir, port, self.settings, &self.environment, &log);
        let server = Self {
            bin: self.bin.clone(),
            dir,
            port,
            settings: self.settings,
            environment: self.environment.clone(),
            log,
            process,
            databases: AtomicU32::new(1_000),
        };
        server.wait_ready().await;
        server
    }

    /// Runs a statement as the administrator.
    pub async fn administer(&self, statement: &'static str) {
        let mut admin = PgConnection::connect(&self.url("postgres")).await.expect("the server answers");
        sqlx::raw_sql(statement).execute(&mut admin).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// The same where it may fail; whether it was carried out.
    pub async fn try_administer(&self, statement: &'static str) -> bool {
        let url = self.url("postgres");
        let run = async {
            let mut admin = PgConnection::connect(&url).await?;
            sqlx::raw_sql(statement).execute(&mut admin).await
        };
        matches!(tokio::time::timeout(Duration::from_secs(5), run).await, Ok(Ok(_)))
    }

    /// Takes a database away again, whoever is connected to it.
    pub async fn drop_database(&self, url: &str) {
        let (_, name) = url.rsplit_once('/').expect("a URL of a database");
        let mut admin = PgConnection::connect(&self.url("postgres")).await.expect("the server answers");
        let dropped = sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"));
        sqlx::raw_sql(dropped).execute(&mut admin).await.expect("a database of ours");
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> rustix::process::Pid {
        self.process.pid()
    }

    /// Stops it; the port stays its own.
    pub async fn stop(&mut self, how: Stop) {
        self.process.signal(match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        });
        self.process.wait_ended(Duration::from_secs(30)).await;
    }

    /// kill -9 of all its processes.
    pub async fn kill(&mut self) {
        // Stopped first, so that it starts no further child meanwhile.
        let mut frozen = self.freeze();
        let pids = std::mem::take(&mut frozen.pids);
        for pid in &pids {
            kill_process(*pid, Signal::KILL).ok();
        }
        self.process.kill();
        wait_until("every process of PostgreSQL is gone", Duration::from_secs(10), async || {
            pids[1..].iter().all(|pid| rustix::process::test_kill_process(*pid).is_err())
        })
        .await;
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    /// How often its log says something.
    pub fn said(&self, words: &str) -> usize {
        std::fs::read_to_string(self.process.log_path()).unwrap_or_default().matches(words).count()
    }

    /// Starts it again after [`Postgres::stop`].
    pub async fn start_again(&mut self) {
        self.process = launch(&self.bin, &self.dir, self.port, self.settings, &self.environment, &self.log);
        self.wait_ready().await;
    }

    /// Stops every process of the server in its tracks. Gives what [`Frozen::thaw`] lets go on.
    pub fn freeze(&self) -> Frozen {
        // The postmaster first, so that it starts no further child.
        let mut pids = vec![self.process.pid()];
        self.process.signal(Signal::STOP);
        pids.extend(keeper::children_of(self.process.pid()));
        for pid in &pids[1..] {
            // A backend may have ended since.
            kill_process(*pid, Signal::STOP).ok();
        }
        Frozen { pids }
    }

    async fn wait_ready(&self) {
        let port = self.port.to_string();
        wait_until(format!("PostgreSQL answers; {}", self.process.log_tail()), STARTS_WITHIN, async || {
            let probe = Command::new(self.bin.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-U", "postgres", "-p", &port])
                .status();
            probe.is_ok_and(|status| status.success())
        })
        .await;
    }
}

/// A server whose processes are all stopped by SIGSTOP; goes on when dropped.
#[derive(Debug)]
pub struct Frozen {
    pids: Vec<rustix::process::Pid>,
}

impl Frozen {
    pub fn thaw(self) {
        drop(self);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.pids {
            kill_process(*pid, Signal::CONT).ok();
        }
    }
}

fn launch(
    bin: &Path,
    dir: &Path,
    port: u16,
    settings: &[&str],
    environment: &[(String, String)],
    log: &Path,
) -> Process {
    let program = bin.join("postgres");
    let mut command = if environment.is_empty() {
        as_unprivileged(&program)
    } else {
        // Only the server itself is to have them: whoever becomes another user before it would leave traces as root.
        let mut command = as_unprivileged(Path::new("/usr/bin/env"));
        command.args(environment.iter().map(|(name, value)| format!("{name}={value}"))).arg(program);
        command
    };
    command.arg("-D").arg(dir.join("data")).arg("-k").arg(dir).arg("-p").arg(port.to_string()).current_dir(dir);
    // Shared memory in files of its directory goes with it, where a server that was killed would leave it to the machine.
    command.args(["-c", "listen_addresses=127.0.0.1", "-c", "dynamic_shared_memory_type=mmap"]);
    command.args(settings.iter().flat_map(|setting| ["-c", setting]));
    Process::start("PostgreSQL", &mut command, log)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// PostgreSQL refuses to run as root.
pub fn as_unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=65534", "--clear-groups"]).arg(program);
    command
}

fn newest_bin() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists())
        .max();
    if let Some((_, bin)) = newest {
        return bin;
    }
    let asked = Command::new("pg_config").arg("--bindir").output().expect("PostgreSQL (run tests/prepare)");
    PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run tests/prepare"));
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
}
