//! Named places at which a test build ends, waits or fails (feature `failpoints`; tests/crash). Never in a release.
//!
//! A `fail_point!` stands before and after every commit and every call outside where a crash matters, and each is in
//! [`ALL`]. Three variables arm them:
//!
//! - `FAILPOINTS="kafka::after_commit=sleep(500)"` as the crate `fail` describes;
//! - `FAILPOINTS_KILL="kafka::after_commit=17"` ends the process there by SIGKILL, as `kill -9` does, when it comes by for
//!   the 17th time;
//! - `FAILPOINTS_DIR=dir`, shared by several processes, arms them while they run: the first that comes by a place whose
//!   file (`kafka::after_commit`) is in the directory takes the file away and ends. Where a process comes by for the first
//!   time it adds a line to the file `passed` there.
//!
//! `FAILPOINTS_CLOCK=file` lets a test step the process's wall clock: by the seconds that the file says.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// Every place, in the order in which an event meets it; those of starts, ends and rare ways follow.
pub const ALL: &[&str] = &[
    "source::before_fetch",
    "source::after_fetch",
    "source::after_submit",
    "ledger::before_commit",
    "ledger::after_commit",
    "kafka::before_begin",
    "kafka::after_begin",
    "kafka::after_produce",
    "kafka::before_commit",
    "kafka::after_commit",
    "kafka::before_note",
    "kafka::after_note",
    "webhook::before_send",
    "webhook::after_send",
    "webhook::before_rows",
    "webhook::after_rows",
    "webhook::before_cursor",
    "webhook::after_cursor",
    // A start.
    "ledger::before_migrated",
    "ledger::after_migrated",
    "ledger::after_lease",
    "app::before_stages",
    "kafka::after_init",
    "kafka::after_cursor",
    "kafka::first_start",
    "kafka::after_place",
    // While it is owned.
    "ledger::before_renew",
    "ledger::before_retention",
    "ledger::after_retention",
    "sell::before_grant_kept",
    "sell::after_grant_kept",
    // An end, and a hand-over.
    "app::after_sources",
    "app::after_recorder",
    "app::after_sinks",
    "ledger::before_release",
    "ledger::after_release",
    // What is not known, and what is behind.
    "ledger::in_doubt",
    "kafka::after_discard",
    "kafka::rehydrate_void",
    "kafka::rehydrate_skips",
    "kafka::rehydrate_cursor",
    "kafka::reconcile_part",
    "kafka::reconcile_cursor",
];

/// Arms what the environment asks for, until the value is dropped.
///
/// # Panics
/// When a variable cannot be understood: a test that crashes nowhere would pass for nothing.
#[must_use = "dropping it disarms every failpoint"]
pub fn arm() -> fail::FailScenario<'static> {
    crate::mutant::read();
    let scenario = fail::FailScenario::setup();
    if let Some(dir) = std::env::var_os("FAILPOINTS_DIR") {
        for name in ALL {
            let (dir, passed) = (PathBuf::from(&dir), AtomicBool::new(false));
            fail::cfg_callback(*name, move || pass(&dir, name, &passed)).expect("the feature is on");
        }
    }
    for wish in std::env::var("FAILPOINTS_KILL").unwrap_or_default().split(';').filter(|wish| !wish.is_empty()) {
        let (name, times) = wish.split_once('=').expect("FAILPOINTS_KILL is name=times;…");
        assert!(ALL.contains(&name), "there is no failpoint {name}");
        let left = AtomicU64::new(times.parse().expect("FAILPOINTS_KILL is name=times;…"));
        fail::cfg_callback(name, move || {
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                end();
            }
        })
        .expect("the feature is on");
    }
    scenario
}

/// By how much the wall clock of this process is wrong: as many seconds as the file that `FAILPOINTS_CLOCK` names says now.
#[must_use]
pub fn clock_step() -> time::Duration {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(file) = FILE.get_or_init(|| std::env::var_os("FAILPOINTS_CLOCK").map(PathBuf::from)) else {
        return time::Duration::ZERO;
    };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    time::Duration::seconds(text.trim().parse().unwrap_or_default())
}

/// Comes by a place that may be armed by now.
fn pass(dir: &Path, name: &str, passed: &AtomicBool) {
    if !passed.swap(true, Ordering::Relaxed) {
        let file = File::options().create(true).append(true).open(dir.join("passed"));
        file.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes())).expect("the tests' own directory");
    }
    // One process alone can take it away.
    if std::fs::remove_file(dir.join(name)).is_ok() {
        end();
    }
}

fn end() {
    kill_process(getpid(), Signal::KILL).expect("a process may end itself");
}
