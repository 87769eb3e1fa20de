use std::sync::Arc;

use axum::Router;
use axum::middleware;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use tokio::sync::watch;

use super::Program;
use super::health::Health;
use super::run::Settings;
use super::{overview, replica};
use crate::admin::{Gate, Keys};
use crate::config::Scope;
use crate::console::{self, EventLine, Overview, Provide};
use crate::event::{AccountName, Seq};
use crate::ledger::Ledger;
use crate::lookup::Lookups;
use crate::passthrough;
use crate::sell::Vendor;

/// How many of the newest events the page shows, for each shard.
const NEWEST: u32 = 12;

/// The router of `server.listen`: what shows the pipe behind one gate, and the door, which asks for keys itself.
pub(super) fn router(
    program: &Program,
    ledger: &Ledger,
    health: &Health,
    (settings, lookups): (watch::Receiver<Arc<Settings>>, Lookups),
    keys: &Keys,
) -> Router {
    let provider = Provider { program: program.clone(), ledger: ledger.clone(), health: health.clone() };
    let accounts = settings.clone();
    // The page shows all accounts.
    let gate =
        Gate::new(keys.clone(), Scope::EventsRead, move || accounts.borrow().vendors().keys().cloned().collect());
    console::router(Arc::new(provider))
        .layer(middleware::from_fn_with_state(gate, Gate::middleware))
        .merge(passthrough::router(Arc::new(Accounts(settings)), lookups, keys.clone()))
}

struct Accounts(watch::Receiver<Arc<Settings>>);

impl passthrough::Vendors for Accounts {
    fn vendor(&self, account: &AccountName) -> Option<Vendor> {
        self.0.borrow().vendors().get(account).cloned()
    }
}

struct Provider {
    program: Program,
    ledger: Ledger,
    health: Health,
}

impl Provide for Provider {
    fn overview(&self) -> BoxFuture<'_, Result<Overview, String>> {
        async {
            let told = |error: crate::event::ports::LedgerError| error.to_string();
            let config = self.program.config_now();
            let mut overview = overview::look(&config, &self.ledger, &self.program.clock).await.map_err(told)?;
            overview.replica = Some(replica::read(&self.program.metrics.render()));
            overview.notice = self.program.notice.map(str::to_owned);
            overview.reasons =
                self.health.look().1.into_iter().map(|reason| format!("{}: {}", reason.part, reason.why)).collect();
            for shard in self.ledger.shards() {
                let head = overview.shards.iter().find(|row| row.shard == shard.0).map_or(0, |row| row.head);
                let after = Seq(head.saturating_sub(u64::from(NEWEST)));
                let rows = self.ledger.event_rows(shard, after, NEWEST).await.map_err(told)?;
                overview.events.extend(rows.into_iter().map(|row| EventLine {
                    shard: row.shard.0,
                    seq: row.seq.0,
                    account: row.account,
                    event_type: row.event_type,
                    record_id: row.record_id,
                    at: row.recorded_at,
                }));
            }
            overview.events.sort_by(|a, b| b.at.cmp(&a.at).then(b.seq.cmp(&a.seq)));
            overview.events.truncate(NEWEST as usize);
            Ok(overview)
        }
        .boxed()
    }
}
