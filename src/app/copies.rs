//! A ledger that lives in another database than before was restored, failed over, or copied. A copy must not run beside
//! its original: both would produce under the same transactional ids, and take them away from each other.

use std::sync::Arc;

use super::ground::Ground;
use super::shard::Shared;
use super::stages::StageError;
use crate::config::SinkKind;
use crate::event::ports::Ownership;
use crate::ledger::OwnerBook as _;
use crate::sink::kafka;

/// Refuses while another instance writes to the cursor of any Kafka sink, where the ledger has moved; then notes where it
/// lives. Nothing is fenced, polled or recorded before.
///
/// Gives whether a cluster could not be asked: it stops neither the source nor another sink (INV-15), and its sinks ask
/// by themselves before they fence anybody.
pub(super) async fn refuse<G: Ground>(of: &Shared<G>, owner: Ownership) -> Result<bool, StageError> {
    let home = of.ledger().home(owner.shard).await?;
    let mut unasked = false;
    if home.has_moved() && of.adopt {
        tracing::warn!(shard = %owner.shard, "taken over without a look at who else runs (--adopt)");
    } else if home.has_moved() {
        for (name, sink) in &of.config().sinks {
            let SinkKind::Kafka(kafka) = &sink.kind else { continue };
            let (deployment, shards) = (&of.config().deployment, of.config().ledger.shards);
            let settings = kafka::Settings::new(deployment, name, of.ledger().id(), shards, owner.shard, kafka.clone());
            let (topic, ttl) = (settings.cursor_topic.clone(), of.config().ledger.lease_ttl);
            let mut cluster = of.ground.cluster(Arc::new(settings));
            match kafka::last_writer(&mut cluster, of.instance, ttl, of.clock.now()).await {
                Ok(None) => {}
                Ok(Some((owner, seconds))) => {
                    return Err(StageError::Copy { topic, owner, seconds });
                }
                Err(error) if error.is_out_of_reach() => {
                    tracing::warn!(
                        sink = %name, shard = %owner.shard, error = &error as &dyn std::error::Error,
                        "the ledger lives in another database than before, and who writes for that one cannot be asked here"
                    );
                    unasked = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !unasked {
            tracing::info!(
                shard = %owner.shard, was = home.noted, now = home.now,
                "the ledger lives in another database than before, or at another address, and nobody writes for that one"
            );
        }
    }
    if !unasked {
        of.ledger().settle(owner, &home).await?;
    }
    Ok(unasked)
}
