//! Keeps the access tokens of all accounts that are authorized by OAuth good, together with the other replicas, for as long as
//! anything here may call the vendor.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::health::{Health, Readiness};
use super::run::Settings;
use crate::event::AccountName;
use crate::event::grant::GrantBook;
use crate::sell::Vendor;

/// Runs until `stop`; begins anew with each configuration that is applied, once what was under way has come to its end.
pub(super) async fn run<B: GrantBook>(
    book: B,
    mut settings: watch::Receiver<Arc<Settings>>,
    health: Health,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let now = settings.borrow_and_update().clone();
        let done = stop.child_token();
        let kept = now.vendors().iter().map(|(account, vendor)| keep(account, vendor, &book, &health, &done));
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

async fn keep<B: GrantBook>(
    account: &AccountName,
    vendor: &Vendor,
    book: &B,
    health: &Health,
    stop: &CancellationToken,
) {
    let part = format!("account/{account}/oauth");
    let told = |trouble: Option<&str>| match trouble {
        Some(why) => health.note(&part, Readiness::Degraded, why),
        None => health.forget(&part),
    };
    vendor.keep_grant(book, &told, stop).await;
    health.forget(&part);
}
