//! Keeps the budgets of all accounts shared with the other replicas, for as long as anything here may call the vendor.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::run::Settings;
use crate::event::AccountName;
use crate::event::budget::BudgetBook;
use crate::event::ports::StreamBook;
use crate::sell::Vendor;

/// Between looks for an account's dialect, which the replica that polls it finds out.
const LOOK: Duration = Duration::from_secs(2);

/// Runs until `stop`; begins anew with each configuration that is applied.
pub(super) async fn run<B: BudgetBook + StreamBook>(
    book: B,
    mut settings: watch::Receiver<Arc<Settings>>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let now = settings.borrow_and_update().clone();
        let done = stop.child_token();
        let kept = now.vendors().iter().map(|(account, vendor)| keep(account, vendor, &book, &done));
        let replaced = async {
            // Who never changes it has dropped the sender.
            if let Some(Err(_)) = stop.run_until_cancelled(settings.changed()).await {
                stop.cancelled().await;
            }
            done.cancel();
        };
        tokio::join!(join_all(kept), replaced);
    }
}

async fn keep<B: BudgetBook + StreamBook>(account: &AccountName, vendor: &Vendor, book: &B, stop: &CancellationToken) {
    tokio::join!(vendor.budget().keep(account, book, stop), learn(account, vendor, book, stop));
}

/// A replica that does not poll the account learns from the ledger which dialect it speaks, and with it the limits.
async fn learn<B: StreamBook>(account: &AccountName, vendor: &Vendor, book: &B, stop: &CancellationToken) {
    while vendor.dialect().is_none() {
        match book.dialect(account).await {
            Ok(Some(dialect)) => return vendor.speaks(dialect),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%account, error = &error as &dyn std::error::Error, "cannot look up the dialect");
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}
