//! A sink's first message to a partition.
//!
//! If Kafka loses the end of the cursor topic, W tells, or a partition that no longer ends as the cursor says. Neither does
//! where W had not followed yet and the partition was a new one: of that the older cursor says nothing, and what it holds
//! would be delivered again. So the ledger notes how far such a transaction reaches *before* it is committed. A start that
//! finds a cursor before that place looks into each partition that it opens up to there: mostly nothing is found, because the
//! program died before the commit.

use std::sync::Arc;

use super::cluster::Cluster;
use super::cursor::{Tail, Tails};
use super::error::KafkaSinkError;
use super::message::Outgoing;
use super::verify::Stop;
use crate::event::Seq;
use crate::mutant::{Mutant, planted};

/// Refuses a message of a topic with so many partitions that is the sink's first one to its own, by what the cursor says, and
/// stands there already. Nothing can where `opening`, which the ledger notes, lies before it.
pub(super) async fn refuse_again<C: Cluster>(
    cluster: &mut C,
    message: &Outgoing,
    partitions: i32,
    tails: &Tails,
    opening: Seq,
) -> Result<(), KafkaSinkError> {
    let seq = message.event().seq;
    if seq > opening || planted(Mutant::OpeningUnread) {
        return Ok(());
    }
    let number = usize::try_from(message.partition).expect("a partition is never negative");
    let last = tails.get(&message.topic).and_then(|tail| tail.last.get(number)).copied().unwrap_or_default();
    if last > Seq::ZERO {
        return Ok(());
    }
    let mut asked = Tail::new(partitions);
    asked.last[number] = seq;
    let ends = cluster.ends(&Tails::from([(message.topic.clone(), asked)])).await?;
    let partitions = ends.into_iter().filter_map(|end| end.partitions);
    let holds = partitions.flatten().any(|end| end.ours.iter().any(|(found, _)| *found == seq));
    if holds {
        let found = format!("it holds {seq}");
        let topic = Arc::clone(&message.topic);
        return Err(Stop::TailDisagrees { topic, partition: number, expected: Seq::ZERO, found }.into());
    }
    Ok(())
}
