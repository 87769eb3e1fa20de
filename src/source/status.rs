use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::event::ports::{Dialect, StreamState};
use crate::event::{AccountName, StreamName};

/// What the sources of this process are doing, for `readyz` and the log. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct SourceStatus(Arc<Mutex<BTreeMap<AccountName, AccountStatus>>>);

/// One account.
#[derive(Clone, Debug, Default)]
pub struct AccountStatus {
    /// The dialect that it speaks, once it is known.
    pub dialect: Option<Dialect>,
    /// Set while the account as a whole cannot be read: why.
    pub trouble: Option<String>,
    /// Set while its streams cannot be listed: why.
    pub unlisted: Option<String>,
    /// Set while polling waits because the ledger's backlog is full.
    pub backlog_full: bool,
    /// Its streams.
    pub streams: BTreeMap<StreamName, StreamStatus>,
}

/// One stream.
#[derive(Clone, Debug)]
pub struct StreamStatus {
    /// What it is doing.
    pub state: StreamState,
    /// Why, where it is not simply polled.
    pub detail: String,
    /// Set while one poll after the other fails: why the last one did.
    pub failing: Option<String>,
    /// Whether the last page said that nothing newer is there.
    pub top: bool,
    /// Age of the newest event of the last page; zero at the top.
    pub lag: Duration,
    /// Time left until the committed position falls out of the source's history.
    pub headroom: Duration,
}

/// Something that a person should look at. The program works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// `account/acme` or `account/acme/stream/deals`.
    pub part: String,
    /// Why, in words.
    pub why: String,
}

impl SourceStatus {
    /// What keeps sources from reading, now.
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        for (account, status) in &*self.lock() {
            let part = format!("account/{account}");
            if let Some(why) = &status.trouble {
                troubles.push(Trouble { part: part.clone(), why: why.clone() });
            }
            if let Some(why) = &status.unlisted {
                troubles.push(Trouble { part: part.clone(), why: format!("its streams cannot be listed: {why}") });
            }
            if status.backlog_full {
                let headroom = status.streams.values().map(|stream| stream.headroom).min().unwrap_or_default();
                let headroom = humantime::format_duration(Duration::from_secs(headroom.as_secs()));
                let why = format!("not polled: the ledger's backlog is full; {headroom} left of the source's history");
                troubles.push(Trouble { part: part.clone(), why });
            }
            for (stream, status) in &status.streams {
                let stands = matches!(status.state, StreamState::Forbidden | StreamState::Stuck | StreamState::Halted);
                let why = match &status.failing {
                    _ if stands => format!("{}: {}", status.state.as_str(), status.detail),
                    Some(why) => format!("failing: {why}"),
                    None => continue,
                };
                let headroom = humantime::format_duration(Duration::from_secs(status.headroom.as_secs()));
                let why = format!("{why}; {headroom} of headroom");
                troubles.push(Trouble { part: format!("{part}/stream/{stream}"), why });
            }
        }
        troubles
    }

    /// One account as it is now.
    #[must_use]
    pub fn account(&self, account: &AccountName) -> Option<AccountStatus> {
        self.lock().get(account).cloned()
    }

    /// Takes back all that was said of an account: its shard is no longer ours.
    pub fn forget(&self, account: &AccountName) {
        self.lock().remove(account);
    }

    pub(super) fn note(&self, account: &AccountName, note: impl FnOnce(&mut AccountStatus)) {
        note(self.lock().entry(account.clone()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AccountName, AccountStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
