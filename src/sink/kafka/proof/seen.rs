//! A message as anyone can read it, and reading many of them. Blocks; the caller stands on a thread of its own.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::super::client::{Looker, says_little};
use super::super::error::KafkaSinkError;
use crate::event::Seq;

/// A look that has not come further for so long is given up.
const STALLED: Duration = Duration::from_secs(30);

/// A message that this ledger's shard wrote, by its headers.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'m> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// `standpipe-seq`
    pub seq: Seq,
    /// `standpipe-prev`
    pub prev: Seq,
    /// `standpipe-id`
    pub id: &'m str,
    /// `standpipe-chain`
    pub chain: &'m str,
    /// Whether it is a replay (`standpipe-replay`).
    pub is_replay: bool,
    /// Whether `standpipe reconcile` put it behind later ones (`standpipe-repair`).
    pub is_repair: bool,
    /// Whether a stub stands in for the event (`standpipe-truncated`).
    pub is_stub: bool,
    /// The key.
    pub key: &'m [u8],
    /// The value.
    pub value: &'m [u8],
}

impl<'m> Seen<'m> {
    /// None where it is of another ledger or shard, or of nobody's.
    pub(in super::super) fn of(message: &'m BorrowedMessage<'_>, ledger: &str, shard: &str) -> Option<Self> {
        let headers = message.headers()?;
        let value = |name: &str| {
            let header = headers.iter().find(|header| header.key == name)?;
            std::str::from_utf8(header.value?).ok()
        };
        if value("standpipe-ledger")? != ledger || value("standpipe-shard")? != shard {
            return None;
        }
        Some(Self {
            partition: message.partition(),
            offset: message.offset(),
            seq: Seq(value("standpipe-seq")?.parse().ok()?),
            prev: Seq(value("standpipe-prev")?.parse().ok()?),
            id: value("standpipe-id").unwrap_or_default(),
            chain: value("standpipe-chain").unwrap_or_default(),
            is_replay: value("standpipe-replay").is_some(),
            is_repair: value("standpipe-repair").is_some(),
            is_stub: value("standpipe-truncated").is_some(),
            key: message.key().unwrap_or_default(),
            value: message.payload().unwrap_or_default(),
        })
    }
}

/// Reads partitions of one topic, each from an offset up to another below which everything is decided. Ends when all
/// of it was read, or when nothing came for half a minute.
pub(in super::super) fn read_through(
    looker: &Looker,
    topic: &str,
    wanted: &[(i32, i64, i64)],
    mut take: impl FnMut(&BorrowedMessage<'_>),
) -> Result<(), KafkaSinkError> {
    let failed = |error: KafkaError| looker.failed(format!("reading `{topic}`"), error);
    let mut assigned = TopicPartitionList::with_capacity(wanted.len());
    let mut left: HashMap<i32, i64> = HashMap::with_capacity(wanted.len());
    for (partition, from, to) in wanted.iter().copied().filter(|(_, from, to)| from < to) {
        assigned.add_partition_offset(topic, partition, Offset::Offset(from)).map_err(failed)?;
        left.insert(partition, to);
    }
    looker.consumer.assign(&assigned).map_err(failed)?;
    let mut deadline = Instant::now() + STALLED;
    while !left.is_empty() {
        if Instant::now() >= deadline {
            return Err(failed(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
        }
        match looker.consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                deadline = Instant::now() + STALLED;
                let Some(to) = left.get(&message.partition()).copied() else { continue };
                if message.offset() < to {
                    take(&message);
                }
                if message.offset() + 1 >= to {
                    left.remove(&message.partition());
                }
            }
            // Everything up to `to` is decided, so that the end of what is decided lies behind it.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                left.remove(&partition);
            }
            Some(Err(error)) if says_little(&error) => {}
            Some(Err(error)) => return Err(failed(error)),
        }
    }
    Ok(())
}
