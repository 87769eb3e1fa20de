//! A private PostgreSQL: its data, its password and its log under one directory, on a loopback port of its own.
//!
//! It ends with us, however we end: at [`EmbeddedPostgres::stop`]; when the value is dropped; and when the process is
//! killed, by a watchdog that reads a pipe of ours until its end. (A parent-death signal would hang on the *thread*
//! that started the server.) It runs in its own process group, so that a Ctrl-C at the terminal is ours alone to act
//! on.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rand::RngExt;
use rand::distr::Alphanumeric;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::error::EmbeddedError;
use super::install::{Programs, find_or_fetch};
use super::user::User;
use crate::config::Secret;

/// How long `initdb` may take.
const INITDB_WITHIN: Duration = Duration::from_mins(1);
/// How long the server may take to become ready, recovery after a crash included.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// How long an earlier server on the same data may take to end.
const PREDECESSOR_WITHIN: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(25);
/// How often the server is started when another program takes its port first.
const TRIES: u32 = 3;
const ROLE: &str = "standpipe";
const URL_FILE: &str = "url";

/// Waits for a line, which means a clean stop; at the end of its input instead, its parent is gone and it ends the
/// server, whose process it names by the server's own file.
const WATCHDOG: &str = r#"if read -r _; then exit 0; fi
if [ "$(head -n 1 "$2/postmaster.pid" 2>/dev/null)" = "$1" ]; then kill -INT "$1"; fi"#;

/// A running private PostgreSQL.
pub struct EmbeddedPostgres {
    server: Child,
    pid: i32,
    watchdog: Child,
    url: SecretString,
    url_file: PathBuf,
    log: PathBuf,
}

/// Where everything lies.
struct Place {
    home: PathBuf,
    user: Option<User>,
}

impl EmbeddedPostgres {
    /// Starts the one under `state_dir`, made at the first start. Takes seconds; at most a few minutes where
    /// PostgreSQL must be fetched first.
    pub async fn start(state_dir: &Path) -> Result<Self, EmbeddedError> {
        let state_dir = std::path::absolute(state_dir).map_err(prepare("find", state_dir))?;
        let place = Place { home: state_dir.join("postgres"), user: User::choose()? };
        place.make(&state_dir)?;
        place.end_predecessor().await?;
        let made_by = place.made_by();
        let programs = find_or_fetch(&state_dir, made_by).await?;
        let programs = programs
            .ok_or_else(|| EmbeddedError::OtherVersion { data: place.data(), major: made_by.unwrap_or_default() })?;
        tracing::info!(programs = %programs.directory.display(), major = programs.major, "embedded PostgreSQL");
        if made_by.is_none() {
            place.initdb(&programs).await?;
        }
        let mut tried = 1;
        loop {
            match place.start(&programs).await {
                Err(EmbeddedError::Ended { log, .. }) if tried < TRIES && log.contains("could not bind") => tried += 1,
                outcome => return outcome,
            }
        }
    }

    /// How to connect; holds the password.
    #[must_use]
    pub fn url(&self) -> Secret {
        Secret::value(self.url.expose_secret())
    }

    /// How another process of ours connects to the one that runs under `state_dir`: the file is there while it runs.
    #[must_use]
    pub fn url_of(state_dir: &Path) -> Secret {
        Secret::file(state_dir.join("postgres").join(URL_FILE))
    }

    /// Ends one that an earlier owner of `state_dir` left, or waits for one that is ending already.
    pub async fn end_at(state_dir: &Path) -> Result<(), EmbeddedError> {
        Place { home: state_dir.join("postgres"), user: None }.end_predecessor().await
    }

    /// Resolves when the server ends on its own.
    pub async fn ended(&mut self) -> EmbeddedError {
        match self.server.wait().await {
            Ok(status) => EmbeddedError::Ended { status, log: tail(&self.log) },
            Err(source) => EmbeddedError::Run { program: "postgres".into(), source },
        }
    }

    /// Ends it: gracefully, and by force when it takes longer than `within`.
    pub async fn stop(mut self, within: Duration) -> Result<(), EmbeddedError> {
        if let Err(error) = fs::remove_file(&self.url_file) {
            tracing::debug!(%error, "the URL's file is gone already");
        }
        // The watchdog first, so that it finds nothing to end.
        if let Some(mut line) = self.watchdog.stdin.take()
            && let Err(error) = line.write_all(b"stop\n").await
        {
            tracing::debug!(%error, "the watchdog is gone already");
        }
        // Fast shutdown: sessions are ended, everything is written.
        let mut status = end(&mut self.server, self.pid, Signal::INT, within).await?;
        for (signal, within) in [(Signal::QUIT, Duration::from_secs(1)), (Signal::KILL, Duration::from_secs(1))] {
            if status.is_none() {
                tracing::warn!(pid = self.pid, "embedded PostgreSQL does not end: {signal:?}");
                status = end(&mut self.server, self.pid, signal, within).await?;
            }
        }
        drop(timeout(Duration::from_secs(1), self.watchdog.wait()).await);
        Ok(())
    }
}

impl fmt::Debug for EmbeddedPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedPostgres").field("pid", &self.pid).finish_non_exhaustive()
    }
}

async fn end(
    server: &mut Child,
    pid: i32,
    signal: Signal,
    within: Duration,
) -> Result<Option<ExitStatus>, EmbeddedError> {
    // Until it has been waited for, its process id is nobody else's.
    if let Some(process) = server.id().and_then(|_| Pid::from_raw(pid))
        && let Err(error) = kill_process(process, signal)
    {
        tracing::debug!(%error, pid, "cannot signal");
    }
    match timeout(within, server.wait()).await {
        Ok(status) => status.map(Some).map_err(|source| EmbeddedError::Run { program: "postgres".into(), source }),
        Err(_) => Ok(None),
    }
}

impl Place {
    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    fn password_file(&self) -> PathBuf {
        self.home.join("password")
    }

    /// Makes the directory; the unprivileged user gets it, and may pass through ours to it.
    fn make(&self, state_dir: &Path) -> Result<(), EmbeddedError> {
        fs::create_dir_all(state_dir).map_err(prepare("make", state_dir))?;
        fs::create_dir_all(&self.home).map_err(prepare("make", &self.home))?;
        let Some(user) = &self.user else { return Ok(()) };
        let mode = fs::metadata(state_dir).map_err(prepare("look at", state_dir))?.permissions().mode();
        fs::set_permissions(state_dir, fs::Permissions::from_mode(mode | 0o011)).map_err(prepare("open", state_dir))?;
        self.give(&self.home)?;
        user.check_reach(&self.home)
    }

    fn give(&self, path: &Path) -> Result<(), EmbeddedError> {
        match &self.user {
            Some(user) => {
                std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).map_err(prepare("give away", path))
            }
            None => Ok(()),
        }
    }

    /// The major version that made the data; none where there is no data yet.
    fn made_by(&self) -> Option<u32> {
        fs::read_to_string(self.data().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.home).env_clear().env("LC_ALL", "C").env("TZ", "UTC").process_group(0);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    async fn initdb(&self, programs: &Programs) -> Result<(), EmbeddedError> {
        // What an interrupted first start left; data that was ever whole has a version and never comes here.
        if self.data().exists() {
            fs::remove_dir_all(self.data()).map_err(prepare("clear", &self.data()))?;
        }
        let password: String = rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
        let file = self.password_file();
        write_secret(&file, &password)?;
        self.give(&file)?;
        let program = programs.path("initdb");
        let mut command = self.command(&program);
        command.arg("--pgdata").arg(self.data()).arg("--pwfile").arg(&file);
        command.args(["--username", ROLE, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]);
        let run = timeout(INITDB_WITHIN, command.stdin(Stdio::null()).kill_on_drop(true).output()).await;
        let failed = |output: String| EmbeddedError::Initdb { output };
        let output = run.map_err(|_| failed(format!("it took longer than {INITDB_WITHIN:?}")))?;
        let output = output.map_err(|source| EmbeddedError::Run { program, source })?;
        if output.status.success() {
            return Ok(());
        }
        // A half-made directory would look like data at the next start.
        drop(fs::remove_dir_all(self.data()));
        Err(failed(last_lines(&String::from_utf8_lossy(&output.stderr))))
    }

    async fn start(&self, programs: &Programs) -> Result<EmbeddedPostgres, EmbeddedError> {
        let password = fs::read_to_string(self.password_file()).map_err(prepare("read", &self.password_file()))?;
        let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = probe.map_err(prepare("find a free port on", Path::new("127.0.0.1")))?.port();
        let log = fs::File::create(self.log()).map_err(prepare("write", &self.log()))?;
        let program = programs.path("postgres");
        let mut command = self.command(&program);
        command.arg("-D").arg(self.data());
        for setting in [
            &format!("port={port}"),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=60",
            "shared_buffers=128MB",
            "max_wal_size=512MB",
            // In its own directory, so that a server that is killed leaves nothing elsewhere.
            "dynamic_shared_memory_type=mmap",
            // Above `error`: what a statement of ours meets is logged by us, once.
            "log_min_messages=log",
            "log_checkpoints=off",
            "logging_collector=off",
        ] {
            command.arg("-c").arg(setting);
        }
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let mut server = server.map_err(|source| EmbeddedError::Run { program, source })?;
        let pid = server.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        let shell = Path::new("/bin/sh");
        let mut watchdog = self.command(shell);
        watchdog.arg("-c").arg(WATCHDOG).arg("standpipe-watchdog").arg(pid.to_string()).arg(self.data());
        watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watchdog = match watchdog.spawn() {
            Ok(watchdog) => watchdog,
            Err(source) => {
                end(&mut server, pid, Signal::QUIT, Duration::from_secs(5)).await?;
                return Err(EmbeddedError::Run { program: shell.to_owned(), source });
            }
        };
        let url = SecretString::from(format!("postgres://{ROLE}:{}@127.0.0.1:{port}/postgres", password.trim()));
        let url_file = self.home.join(URL_FILE);
        let mut started = EmbeddedPostgres { server, pid, watchdog, url, url_file, log: self.log() };
        let ready = self.ready(&mut started).await;
        match ready.and_then(|()| write_secret(&started.url_file, started.url.expose_secret())) {
            Ok(()) => Ok(started),
            Err(error) => {
                started.stop(Duration::from_secs(5)).await?;
                Err(error)
            }
        }
    }

    /// Waits until the server says that it takes connections: the last line of its own file.
    async fn ready(&self, started: &mut EmbeddedPostgres) -> Result<(), EmbeddedError> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let ended = started.server.try_wait();
            if let Some(status) = ended.map_err(|source| EmbeddedError::Run { program: "postgres".into(), source })? {
                return Err(EmbeddedError::Ended { status, log: tail(&self.log()) });
            }
            let lines = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let mut lines = lines.lines();
            let ours = lines.next().and_then(|pid| pid.trim().parse().ok()) == Some(started.pid);
            if ours && lines.nth(6).is_some_and(|status| status.trim() == "ready") {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(EmbeddedError::NotReady { within: READY_WITHIN, log: tail(&self.log()) });
            }
            sleep(POLL).await;
        }
    }

    /// Ends a server that an earlier owner of this directory left, or waits for one that is ending already. A stale
    /// `postmaster.pid` is harmless: PostgreSQL itself sees that no such server lives.
    async fn end_predecessor(&self) -> Result<(), EmbeddedError> {
        let Ok(lines) = fs::read_to_string(self.data().join("postmaster.pid")) else { return Ok(()) };
        let pid: Option<i32> = lines.lines().next().and_then(|pid| pid.trim().parse().ok());
        let Some((pid, process)) = pid.and_then(|pid| Some((pid, Pid::from_raw(pid)?))) else { return Ok(()) };
        let deadline = Instant::now() + PREDECESSOR_WITHIN;
        let mut signalled = false;
        while self.is_our_server(pid, process) {
            if !signalled {
                tracing::info!(pid, "ending the PostgreSQL that an earlier run left");
                signalled = kill_process(process, Signal::INT).is_ok();
            }
            if Instant::now() >= deadline {
                return Err(EmbeddedError::StillRunning { pid, data: self.data() });
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Whether the process is a server on our data: it works in its data directory. Where the system cannot tell,
    /// only that it lives counts for nothing, because process ids come again.
    fn is_our_server(&self, pid: i32, process: Pid) -> bool {
        let works_in = fs::read_link(format!("/proc/{pid}/cwd"));
        let data = fs::canonicalize(self.data());
        test_kill_process(process).is_ok() && matches!((works_in, data), (Ok(cwd), Ok(data)) if cwd == data)
    }
}

/// Writes a file that only we can read.
fn write_secret(path: &Path, text: &str) -> Result<(), EmbeddedError> {
    // One that exists would keep its owner and mode.
    drop(fs::remove_file(path));
    let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes())).map_err(prepare("write", path))
}

fn prepare(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |source| EmbeddedError::Prepare { doing, path, source }
}

fn tail(log: &Path) -> String {
    last_lines(&fs::read_to_string(log).unwrap_or_default())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" · ")
}
