use std::path::PathBuf;
use std::time::Duration;

/// Why an embedded server cannot be had. All of it lies in the machine and not in the configuration: `run` exits with
/// 3 when it meets one at start.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No PostgreSQL was found and none could be fetched.
    #[error(
        "no PostgreSQL (14 or newer) is on this machine and none could be fetched; install one (Debian: \
         `apt-get install postgresql`) or set ledger.url"
    )]
    Fetch {
        /// What the download said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The data directory was made by a version that is not on this machine.
    #[error("{data} was made by PostgreSQL {major}, which is not on this machine any more: install it again")]
    OtherVersion {
        /// The data directory.
        data: PathBuf,
        /// Its major version.
        major: u32,
    },
    /// Run by root, and there is no unprivileged user to start the server as.
    #[error("PostgreSQL does not run as root, and this machine has neither a user `postgres` nor a user `nobody`")]
    NoUser,
    /// Run by root, and the unprivileged user cannot reach the directory.
    #[error(
        "PostgreSQL runs as the user {user}, who may not enter {closed}: choose another state_dir, or run as an \
         unprivileged user"
    )]
    Closed {
        /// The user.
        user: String,
        /// The directory that is closed.
        closed: PathBuf,
    },
    /// A file or directory could not be made ready.
    #[error("cannot {doing} {path}")]
    Prepare {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be started or waited for.
    #[error("cannot run {program}")]
    Run {
        /// Which.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed: {output}")]
    Initdb {
        /// The end of what it wrote.
        output: String,
    },
    /// The server ended instead of becoming ready.
    #[error("PostgreSQL ended ({status}): {log}")]
    Ended {
        /// How.
        status: std::process::ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The server did not become ready in time.
    #[error("PostgreSQL was not ready within {within:?}: {log}")]
    NotReady {
        /// The wait.
        within: Duration,
        /// The end of its log.
        log: String,
    },
    /// An earlier server on the same data does not end.
    #[error("an earlier PostgreSQL (process {pid}) on {data} does not end")]
    StillRunning {
        /// Its process.
        pid: i32,
        /// Its data directory.
        data: PathBuf,
    },
    /// The mock cluster could not be made.
    #[error("cannot start librdkafka's mock cluster: {why}")]
    MockKafka {
        /// What librdkafka said.
        why: String,
    },
}
