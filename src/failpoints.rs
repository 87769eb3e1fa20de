//! Named places at which a test build ends, waits or fails (feature `failpoints`; tests/crash). Never in a release.
//!
//! A `fail_point!` stands before and after every commit. `FAILPOINTS="kafka::after_commit=sleep(500)"` configures them
//! as the crate `fail` describes; `FAILPOINTS_KILL="kafka::after_commit=17"` ends the process there by SIGKILL, as
//! `kill -9` does, when it comes by for the 17th time.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// Arms what the environment asks for, until the value is dropped.
///
/// # Panics
/// When a variable cannot be understood: a test that crashes nowhere would pass for nothing.
#[must_use = "dropping it disarms every failpoint"]
pub fn arm() -> fail::FailScenario<'static> {
    let scenario = fail::FailScenario::setup();
    for wish in std::env::var("FAILPOINTS_KILL").unwrap_or_default().split(';').filter(|wish| !wish.is_empty()) {
        let (name, times) = wish.split_once('=').expect("FAILPOINTS_KILL is name=times;…");
        let left = AtomicU64::new(times.parse().expect("FAILPOINTS_KILL is name=times;…"));
        fail::cfg_callback(name, move || {
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                kill_process(getpid(), Signal::KILL).expect("a process may end itself");
            }
        })
        .expect("the feature is on");
    }
    scenario
}
