//! Checking from outside what the sink has promised: its topics, read as any `read_committed` consumer reads them,
//! against the ledger. Nothing here writes, commits an offset or fences, so that it can be done beside a sink that runs.
//!
//! What is judged ends at the cursor as it stands when the look begins: whatever a later transaction adds lies behind
//! the offsets that are read, or is passed over. The events themselves are not held: 16 bytes of each, and a bit a topic.

mod expected;
mod held;
mod judge;
mod report;
mod seen;
mod seqs;
mod settle;
mod trail;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::client::Looker;
use super::config::{ADMIN_TIMEOUT, Isolation, Settings, TRANSACTION_TIMEOUT};
use super::cursor::{Cursor, Tails};
use super::error::KafkaSinkError;
use super::look::{self, Views};
use super::read::read_through;
use super::{thread, topics};
use crate::clock::Clock;
use crate::event::ports::{LedgerError, ProofBook, Route, Standing};
use crate::event::{Batch, Seq};

use expected::Expected;
pub(super) use expected::{Way, content, way};
pub(super) use held::held;
pub use held::{PartitionHeld, TopicHeld};
use judge::{Judge, Partition, Topic};
pub use report::{Fault, Finding, MAX_FINDINGS, Proof};
use seen::STALLED;
pub(super) use seen::Seen;
pub use seqs::SeqSet;
pub(super) use trail::Trail;

/// Events that are judged at once, at most: 1.6 GB of memory.
const MAX_JUDGED: u64 = 100_000_000;
/// How much is read from the ledger at once.
const READ_EVENTS: usize = 2_000;
const READ_BYTES: usize = 8 << 20;
/// A topic's messages may be dated this much before the time from which on they are asked for: clocks differ.
const SLACK: time::Duration = time::Duration::minutes(15);
/// The bound of one whole look; what stands still is given up long before.
const LOOK_LIMIT: Duration = Duration::from_hours(12);

/// What is to be checked.
pub struct Question<'q, B> {
    /// The sink in one shard.
    pub settings: Arc<Settings>,
    /// Its rules.
    pub rules: &'q dyn Route,
    /// The ledger.
    pub book: &'q B,
    /// Only what was recorded since then; none = all that the ledger keeps.
    pub since: Option<OffsetDateTime>,
    /// The wall clock.
    pub clock: &'q Clock,
}

impl<B> std::fmt::Debug for Question<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question")
            .field("sink", &self.settings.sink)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

/// Reads and judges. Fails where it cannot be judged: brokers or ledger out of reach, a transaction that hangs, too many
/// events at once.
pub async fn prove<B: ProofBook>(question: &Question<'_, B>) -> Result<Proof, KafkaSinkError> {
    let settings = &question.settings;
    // Before the cursor: of a sink that runs, the copy would else be ahead of it.
    let standing = question.book.standing(&settings.sink, settings.shard, question.since).await?;
    let found = {
        let settings = settings.clone();
        thread::call("reading the cursor", 3 * TRANSACTION_TIMEOUT, move || committed_cursor(&settings)).await?
    };
    let Some(cursor) = found else { return Ok(without_cursor(settings, &standing)) };
    let mut proof = Proof::new(&settings.sink, settings.shard, standing.first, cursor.seq);
    if cursor.ledger != standing.bounds.ledger {
        let why = format!("it belongs to the ledger {}, and this is {}", cursor.ledger, standing.bounds.ledger);
        proof.found(of_cursor(settings, cursor.seq, why));
        return Ok(proof);
    }
    if let Some(copy) = standing.copy.filter(|copy| *copy > cursor.seq) {
        let why = format!("the ledger says that events up to {copy} are delivered: Kafka was rewound");
        proof.found(of_cursor(settings, cursor.seq, why));
        proof.to = copy;
    }
    if proof.to >= proof.from && proof.to.since(proof.from) >= MAX_JUDGED {
        return Err(KafkaSinkError::Ledger(LedgerError::Refused {
            doing: "judging a sink",
            why: format!("{} events are too many at once: ask for fewer with --since", proof.to.since(proof.from)),
        }));
    }
    let rules_after = known_rules(question, &standing, &mut proof);
    let expected = expect(question, &mut proof, &cursor, rules_after).await?;
    let judge = read(question, expected, proof, cursor.topics.clone()).await?;
    settle::settle(question, judge, &cursor).await
}

/// The cursor that a `read_committed` consumer sees now; blocks.
pub(super) fn committed_cursor(settings: &Settings) -> Result<Option<Cursor>, KafkaSinkError> {
    let looker = Looker::new(settings, Isolation::Committed)?;
    let count = looker.partitions(&settings.cursor_topic, Instant::now() + ADMIN_TIMEOUT)?;
    if count.is_none_or(|count| count <= settings.cursor_partition()) {
        return Ok(None);
    }
    Ok(look::cursor(&Views::new(settings)?, settings)?.cursor.transpose()?)
}

fn without_cursor(settings: &Settings, standing: &Standing) -> Proof {
    let mut proof = Proof::new(&settings.sink, settings.shard, standing.first, Seq::ZERO);
    match standing.copy.filter(|copy| *copy > Seq::ZERO) {
        Some(copy) => {
            let why = format!("there is none, but the ledger says that events up to {copy} are delivered");
            proof.found(of_cursor(settings, Seq::ZERO, why));
        }
        None => proof.notes.push("the sink has not started yet: there is nothing to judge".to_owned()),
    }
    proof
}

fn of_cursor(settings: &Settings, seq: Seq, why: String) -> Finding {
    let topic = settings.cursor_topic.clone();
    Finding { fault: Fault::Cursor, topic, partition: None, offset: None, seq, why }
}

/// From where on the present rules can be judged by.
fn known_rules<B>(question: &Question<'_, B>, standing: &Standing, proof: &mut Proof) -> Option<Seq> {
    match &standing.rules {
        Some((known, after)) if question.rules.fingerprint() == Some(known) => {
            if *after >= proof.from {
                let note = format!(
                    "events up to {after} were delivered by other rules than the configured ones: they are judged by \
                     their links alone"
                );
                proof.notes.push(note);
            }
            Some(*after)
        }
        _ => {
            let note = "the sink does not deliver by the rules of this configuration (yet): its messages are judged by \
                        their links and contents alone";
            proof.notes.push(note.to_owned());
            None
        }
    }
}

/// Reads what the ledger holds of the range, and compares its chain with the cursor's.
async fn expect<B: ProofBook>(
    question: &Question<'_, B>,
    proof: &mut Proof,
    cursor: &Cursor,
    rules_after: Option<Seq>,
) -> Result<Expected, KafkaSinkError> {
    let settings = &question.settings;
    let standing = question.book.standing(&settings.sink, settings.shard, None).await?;
    let head = standing.bounds.head;
    if cursor.seq > head {
        let why = format!("Kafka has taken events up to it, but the ledger ends at {head}: PostgreSQL was rewound");
        proof.found(of_cursor(settings, cursor.seq, why));
        proof.to = head;
    }
    for (first, last) in standing.reused.iter().filter(|(first, last)| *last >= proof.from && *first <= proof.to) {
        let note = format!(
            "the ledger was rewound and has given {first} to {last} anew: messages there that are of another chain are \
             judged by their links alone"
        );
        proof.notes.push(note);
    }
    let mut expected = Expected::new(proof.from, proof.to, rules_after, standing.reused);
    let mut at = Seq(proof.from.0.saturating_sub(1));
    while at < proof.to {
        let Some(batch) = ledger(question, at, proof.to).await? else {
            // Retention goes on meanwhile.
            let oldest = question.book.standing(&settings.sink, settings.shard, None).await?.bounds.oldest;
            let before = Seq(oldest.0.saturating_sub(1));
            if before <= at {
                let why = format!("events after {at} are not there, though the ledger keeps those from {oldest} on");
                return Err(KafkaSinkError::Ledger(LedgerError::Refused { doing: "judging a sink", why }));
            }
            proof.notes.push(format!("the ledger keeps events from {oldest} on; those before are not judged"));
            at = before;
            continue;
        };
        if batch.to() <= at {
            break;
        }
        if let Some(void) = batch.void {
            let note = format!(
                "the ledger has lost {} to {} (it was rewound): messages there are judged by their links alone",
                at.next(),
                void.to
            );
            proof.notes.push(note);
        }
        expected.take(&batch, question.rules, settings);
        at = batch.to();
        if at == cursor.seq && batch.chain() != cursor.chain {
            let why =
                "its hash chain is not the ledger's: the ledger holds other events than Kafka has taken".to_owned();
            proof.found(of_cursor(settings, cursor.seq, why));
        }
    }
    proof.filtered = expected.filtered;
    proof.dead_letters = expected.dead_letters;
    Ok(expected)
}

/// The next events of the ledger; none where they are no longer kept.
async fn ledger<B: ProofBook>(
    question: &Question<'_, B>,
    after: Seq,
    until: Seq,
) -> Result<Option<Batch>, KafkaSinkError> {
    match question.book.read(question.settings.shard, after, until, READ_EVENTS, READ_BYTES).await {
        Ok(batch) => Ok(Some(batch)),
        Err(LedgerError::Refused { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads every topic that the cursor or the rules name.
async fn read<B: ProofBook>(
    question: &Question<'_, B>,
    expected: Expected,
    proof: Proof,
    written: Tails,
) -> Result<Judge, KafkaSinkError> {
    let settings = question.settings.clone();
    let handle = Handle::current();
    let since = question.since.map(|since| since - SLACK);
    thread::call("reading a sink's topics", LOOK_LIMIT, move || {
        let names: Vec<Arc<str>> = written.keys().chain(&expected.topics).cloned().collect();
        let mut topics = HashMap::new();
        for name in names {
            topics.entry(name.clone()).or_insert_with(|| Topic::new(name, &expected));
        }
        let mut judge = Judge { expected, topics, suspects: Vec::new(), proof };
        let views = Views::new(&settings)?;
        let names: Vec<Arc<str>> = judge.topics.keys().cloned().collect();
        for name in names {
            read_topic(&settings, &handle, &views, &mut judge, &name, since)?;
        }
        Ok(judge)
    })
    .await
}

fn read_topic(
    settings: &Settings,
    handle: &Handle,
    views: &Views,
    judge: &mut Judge,
    name: &Arc<str>,
    since: Option<OffsetDateTime>,
) -> Result<(), KafkaSinkError> {
    let Some(count) = views.committed.partitions(name, Instant::now() + ADMIN_TIMEOUT)? else { return Ok(()) };
    let config = topics::describe(handle, views, name)?.unwrap_or_default();
    let mut wanted = Vec::new();
    let mut partitions = Vec::new();
    for number in 0..count {
        let decided = views.decided(name, number, Instant::now() + 2 * TRANSACTION_TIMEOUT)?;
        wanted.push((number, decided.low, decided.high));
        partitions.push(Partition { low: decided.low, trail: Trail::default() });
    }
    if let Some(since) = since {
        skip_to(views, name, &mut wanted, since)?;
    }
    if let Some(topic) = judge.topics.get_mut(name) {
        topic.partitions = Some(partitions);
        topic.config = config;
    }
    let common = settings.common();
    read_through(&views.committed, name, &wanted, STALLED, |message| {
        if let Some(seen) = Seen::of(message, &common) {
            judge.message(name, &seen);
        }
        Ok(())
    })
}

/// Moves the first offsets to the first message since a time.
fn skip_to(
    views: &Views,
    topic: &str,
    wanted: &mut [(i32, i64, i64)],
    since: OffsetDateTime,
) -> Result<(), KafkaSinkError> {
    let failed = |error| views.committed.failed(format!("looking for a time in `{topic}`"), error);
    let millis = i64::try_from(since.unix_timestamp_nanos() / 1_000_000).unwrap_or(0).max(0);
    let mut asked = TopicPartitionList::with_capacity(wanted.len());
    for (partition, _, _) in wanted.iter() {
        asked.add_partition_offset(topic, *partition, Offset::Offset(millis)).map_err(failed)?;
    }
    let found = views.committed.consumer.offsets_for_times(asked, ADMIN_TIMEOUT).map_err(failed)?;
    for (partition, from, to) in wanted {
        match found.find_partition(topic, *partition).map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => *from = (*from).max(offset),
            Some(Offset::End) => *from = *to,
            _ => {}
        }
    }
    Ok(())
}
