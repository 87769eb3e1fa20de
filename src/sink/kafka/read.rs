//! Reading partitions through, and the headers of what is read. Blocks; the caller stands on a thread of its own.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::client::{Looker, says_little};
use super::error::KafkaSinkError;

/// A partition, the first offset that is wanted of it, and the one behind the last.
pub(super) type Wanted = (i32, i64, i64);

/// Reads partitions of one topic, all at once, in the order of each partition. Everything that is wanted must be decided.
/// Ends when all of it was read; fails when nothing came for `patience`.
pub(super) fn read_through(
    looker: &Looker,
    topic: &str,
    wanted: &[Wanted],
    patience: Duration,
    mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<(), KafkaSinkError>,
) -> Result<(), KafkaSinkError> {
    let failed = |error: KafkaError| looker.failed(format!("reading `{topic}`"), error);
    let mut assigned = TopicPartitionList::with_capacity(wanted.len());
    let mut left: HashMap<i32, i64> = HashMap::with_capacity(wanted.len());
    for (partition, from, to) in wanted.iter().copied().filter(|(_, from, to)| from < to) {
        assigned.add_partition_offset(topic, partition, Offset::Offset(from)).map_err(failed)?;
        left.insert(partition, to);
    }
    looker.consumer.assign(&assigned).map_err(failed)?;
    let mut deadline = Instant::now() + patience;
    while !left.is_empty() {
        if Instant::now() >= deadline {
            return Err(failed(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
        }
        match looker.consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                deadline = Instant::now() + patience;
                let Some(to) = left.get(&message.partition()).copied() else { continue };
                if message.offset() < to {
                    take(&message)?;
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
    // It may be kept for another look, and must not fetch until then.
    looker.consumer.unassign().map_err(failed)
}

/// The value of a message's header, where it is text.
pub(super) fn header<'m>(message: &'m BorrowedMessage<'_>, name: &str) -> Option<&'m str> {
    let header = message.headers()?.iter().find(|header| header.key == name)?;
    std::str::from_utf8(header.value?).ok()
}
