//! A ledger that lives in another database than before was restored, failed over, or copied. A copy must not run beside
//! its original: both would produce under the same transactional ids, and take them away from each other.

use super::shard::Shared;
use super::stages::StageError;
use crate::config::SinkKind;
use crate::event::ports::Ownership;
use crate::sink::kafka;

/// Refuses while another instance writes to the cursor of any Kafka sink, where the ledger has moved; then notes where it
/// lives. Nothing is fenced, polled or recorded before.
///
/// Gives whether a cluster could not be asked: it stops neither the source nor another sink (INV-15), and its sinks ask
/// by themselves before they fence anybody.
pub(super) async fn refuse(of: &Shared, owner: Ownership) -> Result<bool, StageError> {
    let home = of.ledger.home(owner.shard).await?;
    let mut unasked = false;
    if home.has_moved() && of.adopt {
        tracing::warn!(shard = %owner.shard, "taken over without a look at who else runs (--adopt)");
    } else if home.has_moved() {
        for (name, sink) in &of.config().sinks {
            let SinkKind::Kafka(kafka) = &sink.kind else { continue };
            let (deployment, shards) = (&of.config().deployment, of.config().ledger.shards);
            let settings = kafka::Settings::new(deployment, name, of.ledger.id(), shards, owner.shard, kafka.clone());
            let ttl = of.config().ledger.lease_ttl;
            match kafka::last_writer(settings, of.instance, ttl, of.clock.now()).await {
                Ok(None) => {}
                Ok(Some(kafka::LastWriter { topic, owner, seconds })) => {
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
        of.ledger.settle(owner, &home).await?;
    }
    Ok(unasked)
}
