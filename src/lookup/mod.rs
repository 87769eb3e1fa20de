//! Looking things up at the vendor, for the door and for what the pipe itself wants to know: identical lookups in flight
//! are one call, and answers are kept for a while.
//!
//! **No answer that is given as fresh is older than the newest recorded event of what it shows.** An answer remembers the
//! *marks* of what it depends on (a record; the lists of a resource) as they stood before the vendor was asked. The source
//! moves the marks of a page's events when it has the page, before it hands it to the ledger: whoever looks after the
//! event was recorded finds the mark moved and the answer stale, whether it lay here then or was still on its way. What the
//! vendor is asked after that is as new as the event, which had come from the vendor by then.
//!
//! A replica hears only of the events that it records itself. So an answer counts as fresh only in the *era* in which it
//! was asked for: the time for which this replica owns the account's shard and its sources run. An era ends with the lease,
//! by the same clock; with the next one everything is asked anew. Outside of an era nothing is shared between lookups.

mod ask;
mod by_account;
mod marks;
mod record;
mod store;
mod subject;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use ask::{Answer, Body, How, Outcome, Unanswered};
pub use by_account::ByAccount;
pub use marks::Era;
pub use record::{Found, LookupError};
pub use subject::Write;

use self::ask::Flights;
use self::marks::Accounts;
use self::store::Store;
use crate::config::PassthroughConfig;
use crate::event::ports::Witness;
use crate::event::{AccountName, Page, Tenure};
use crate::sell::{Forward, Vendor};

/// Answers that are kept, and lookups that are under way. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Lookups(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    flights: Flights,
    accounts: Accounts,
    ttl: Duration,
    stale_if_error: Duration,
}

impl Lookups {
    /// With nothing kept.
    #[must_use]
    pub fn new(config: &PassthroughConfig) -> Self {
        Self(Arc::new(Inner {
            store: Store::new(config.cache, config.cache_ttl + config.stale_if_error),
            flights: Flights::default(),
            accounts: Accounts::default(),
            ttl: config.cache_ttl,
            stale_if_error: config.stale_if_error,
        }))
    }

    /// From now on this replica records every event of these accounts, for as long as the tenure is held and the era is
    /// not dropped.
    pub fn begin(&self, accounts: impl IntoIterator<Item = AccountName>, tenure: &Tenure) -> Era {
        self.0.accounts.begin(accounts, tenure)
    }

    /// Something is written at the vendor: when the write has ended, however it did, what it may have changed is asked anew.
    #[must_use]
    pub fn writing(&self, vendor: &Vendor, forward: &Forward) -> Write {
        Write::new(self.0.accounts.of(vendor.account()), forward)
    }
}

impl Witness for Lookups {
    fn seen(&self, page: &Page) {
        self.0.accounts.seen(page);
    }
}
