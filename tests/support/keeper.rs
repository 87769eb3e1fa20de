//! Processes and files that never outlive the test binary.
//!
//! A test binary can end in ways that run none of its code (a failed test, Ctrl-C, kill -9). So a small shell, the
//! keeper, holds the other end of a pipe: when the pipe closes, for whatever reason, it kills by pid what was given
//! to it and is still there, and removes the temporary directory.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::wait::wait_for;

/// Children of a kept process are killed too: PostgreSQL's live in sessions of their own. A pid is known with the time
/// at which its process started, so that another process that got the number since is left alone.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
started() { local stat; read -r stat <"/proc/$1/stat" && set -- ${stat##*) } && echo "${20}"; }
declare -A kept
while read -r verb pid; do
  case $verb in keep) kept[$pid]=$(started "$pid"); ever+=("$pid") ;; forget) unset "kept[$pid]" ;; esac
done
for pid in "${!kept[@]}"; do
  [ -n "${kept[$pid]}" ] && [ "$(started "$pid")" = "${kept[$pid]}" ] || continue
  children=$(pgrep -P "$pid")
  kill -KILL "$pid" $children
done
# What a preloaded clock (faketime) shares between processes, and the small disks.
for pid in "${ever[@]}"; do rm -f "/dev/shm/faketime_shm_$pid" "/dev/shm/sem.faketime_sem_$pid"; done
while read -r _ at _; do case $at in "$1"/*) umount -l "$at" ;; esac; done </proc/mounts
if [ -z "$STANDPIPE_TEST_KEEP" ]; then
  for try in 1 2 3 4 5; do rm -rf "$1" && break; sleep 0.2; done
fi
"#;

struct Keeper {
    pipe: Mutex<ChildStdin>,
    root: PathBuf,
}

static KEEPER: LazyLock<Keeper> = LazyLock::new(|| {
    let root = tempfile::Builder::new().prefix("standpipe-test-").tempdir().expect("a temporary directory").keep();
    // PostgreSQL's unprivileged user must get through.
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).expect("own directory");
    #[expect(clippy::zombie_processes, reason = "the keeper outlives this process on purpose")]
    let mut shell = Command::new("bash")
        .args(["-c", SCRIPT, "keeper"])
        .arg(&root)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("bash starts");
    let pipe = Mutex::new(shell.stdin.take().expect("piped"));
    Keeper { pipe, root }
});

impl Keeper {
    fn tell(&self, verb: &str, pid: Pid) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(pipe, "{verb} {}", pid.as_raw_nonzero()).expect("the keeper listens");
    }
}

/// A new directory that goes with the test binary (`STANDPIPE_TEST_KEEP=1` keeps it for a look).
pub fn directory(name: &str) -> PathBuf {
    let dir = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&KEEPER.root).expect("own root").keep();
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).expect("own directory");
    dir
}

/// A TCP port that is free now and below the ephemeral range, so that nobody's outgoing connection takes it while
/// a server is down for a restart.
pub fn free_port() -> u16 {
    (0..1000)
        .map(|_| rand::random_range(12_000..32_000))
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port among a thousand tries")
}

/// A child process with its output in a file; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to `log`, after what an earlier process wrote there.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log file in an own directory");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}; run tests/prepare"));
        let pid = Pid::from_child(&child);
        KEEPER.tell("keep", pid);
        Self { name: name.to_owned(), child, pid, log: log.to_owned() }
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last lines of its output.
    pub fn log_tail(&self) -> String {
        let text = String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        format!("── the end of {}'s output ──\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Its exit status when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("own child")
    }

    pub async fn wait_ended(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} (pid {}) ends", self.name, self.pid.as_raw_nonzero());
        let status = wait_for(what, within, async || self.ended()).await;
        KEEPER.tell("forget", self.pid);
        status
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::KILL);
        }
        self.child.wait().expect("own child");
        KEEPER.tell("forget", self.pid);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        self.kill();
    }
}

/// The processes whose parent is `pid`.
pub fn children_of(pid: Pid) -> Vec<Pid> {
    let out = Command::new("pgrep").args(["-P", &pid.as_raw_nonzero().to_string()]).output().expect("pgrep (procps)");
    String::from_utf8_lossy(&out.stdout).lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
}
