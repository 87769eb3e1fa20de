//! A ledger that lives in another database than before was restored, failed over, or copied. A copy must not run beside
//! its original: both would produce under the same transactional ids, and take them away from each other.

use super::shard::Shared;
use super::stages::StageError;
use crate::config::SinkKind;
use crate::event::ports::Ownership;
use crate::sink::kafka;

/// Refuses while another instance writes to the cursor of any Kafka sink, where the ledger has moved; then notes where it
/// lives. Nothing is fenced, polled or recorded before.
pub(super) async fn refuse(of: &Shared, owner: Ownership) -> Result<(), StageError> {
    let home = of.ledger.home(owner.shard).await?;
    if home.has_moved() {
        if of.adopt {
            tracing::warn!(shard = %owner.shard, "taken over without a look at who else runs (--adopt)");
        } else {
            for (name, sink) in &of.config().sinks {
                let SinkKind::Kafka(kafka) = &sink.kind else { continue };
                let (deployment, shards) = (&of.config().deployment, of.config().ledger.shards);
                let settings =
                    kafka::Settings::new(deployment, name, of.ledger.id(), shards, owner.shard, kafka.clone());
                let ttl = of.config().ledger.lease_ttl;
                let found = kafka::last_writer(settings, of.instance, ttl, of.clock.now()).await?;
                if let Some(kafka::LastWriter { topic, owner, seconds }) = found {
                    return Err(StageError::Copy { topic, owner, seconds });
                }
            }
        }
        tracing::info!(
            shard = %owner.shard, was = home.noted, now = home.now,
            "the ledger lives in another database than before, or at another address, and nobody writes for that one"
        );
    }
    Ok(of.ledger.settle(owner, &home).await?)
}
