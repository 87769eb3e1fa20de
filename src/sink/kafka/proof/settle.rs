//! What is left when everything was read: messages that differ, events that have no message.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::cursor::Cursor;
use super::super::error::KafkaSinkError;
use super::super::message::Outgoing;
use super::super::partition::partition_of;
use super::expected::{Way, digest, way};
use super::judge::{Judge, Suspect};
use super::report::{Fault, Finding, Proof};
use super::{Question, ledger};
use crate::event::ports::{Excuses, ProofBook};
use crate::event::{Recorded, Seq};

/// A run of events is read on over this many that nobody asked for.
const STRIDE: u64 = 1_000;

pub(super) async fn settle<B: ProofBook>(
    question: &Question<'_, B>,
    mut judge: Judge,
    cursor: &Cursor,
) -> Result<Proof, KafkaSinkError> {
    let unlinked = judge.hops();
    for suspect in std::mem::take(&mut judge.suspects) {
        settle_suspect(question, &mut judge, suspect).await?;
    }
    let (from, to) = (judge.expected.from, judge.expected.to);
    // Last, so that a gap that was written meanwhile counts.
    let excuses = question.book.excuses(&question.settings.sink, question.settings.shard, from, to).await?;
    let mut told = HashSet::new();
    by_rules(question, &mut judge, &excuses).await?;
    for (topic, partition, seq) in unlinked.into_iter().chain(tails(&judge, cursor)) {
        if judge.expected.topic(seq) != Some(&topic) && told.insert((topic.clone(), seq)) {
            judge.proof.found(missing(&topic, Some(partition), seq, "a later message or the cursor names it"));
        }
    }
    judge.proof.findings.sort_by_key(|finding| (finding.seq, finding.fault));
    Ok(judge.proof)
}

fn missing(topic: &str, partition: Option<i32>, seq: Seq, why: impl Into<String>) -> Finding {
    Finding { fault: Fault::Missing, topic: topic.to_owned(), partition, offset: None, seq, why: why.into() }
}

/// The last messages of partitions that the cursor names and that are not there.
fn tails(judge: &Judge, cursor: &Cursor) -> Vec<(Arc<str>, i32, Seq)> {
    let mut missing = Vec::new();
    for (name, tail) in &cursor.topics {
        let Some(topic) = judge.topics.get(name) else { continue };
        for (number, last) in (0..).zip(&tail.last) {
            let is_judged = *last >= judge.expected.from && *last <= judge.expected.to;
            if is_judged && !topic.seen.contains(*last) && !topic.may_have_expired(number, *last) {
                missing.push((name.clone(), number, *last));
            }
        }
    }
    missing
}

/// The events that the rules name and that have no message.
async fn by_rules<B: ProofBook>(
    question: &Question<'_, B>,
    judge: &mut Judge,
    excuses: &Excuses,
) -> Result<(), KafkaSinkError> {
    let absent: Vec<Seq> = judge
        .expected
        .iter()
        .filter(|(seq, topic)| judge.topics.get(*topic).is_none_or(|topic| !topic.seen.contains(*seq)))
        .map(|(seq, _)| seq)
        .collect();
    let mut left = absent.into_iter().peekable();
    while let Some(first) = left.next() {
        let mut wanted = vec![first];
        let near = |last: Seq| move |next: &Seq| next.since(last) <= STRIDE;
        while let Some(next) = left.next_if(near(wanted[wanted.len() - 1])) {
            wanted.push(next);
            if wanted.len() == super::READ_EVENTS {
                break;
            }
        }
        let last = wanted[wanted.len() - 1];
        let mut wanted = wanted.into_iter().peekable();
        let mut at = Seq(first.0 - 1);
        while at < last {
            let Some(batch) = ledger(question, at, last).await? else { break };
            if batch.to() <= at {
                break;
            }
            for event in &batch.events {
                if wanted.next_if_eq(&event.seq).is_some() {
                    absent_event(question, judge, excuses, event);
                }
            }
            at = batch.to();
        }
        // Gone from the ledger since.
        judge.proof.expired += wanted.count() as u64;
    }
    Ok(())
}

fn absent_event<B>(question: &Question<'_, B>, judge: &mut Judge, excuses: &Excuses, event: &Recorded) {
    let seq = event.seq;
    if excuses.is_in_gap(seq) {
        judge.proof.skipped += 1;
        return;
    }
    if excuses.is_dead_letter(seq) {
        judge.proof.dead_letters += 1;
        return;
    }
    let elsewhere = excuses.elsewhere(seq);
    let is_judged = |at: &Seq| *at >= judge.expected.from;
    if elsewhere.is_some_and(|at| !is_judged(&at) || judge.topics.values().any(|topic| topic.seen.contains(at))) {
        judge.proof.skipped += 1;
        return;
    }
    let Way::To(name, key, _) = way(question.rules, &question.settings, event) else { return };
    let topic = judge.topics.get(&name);
    let Some((topic, partitions)) = topic.and_then(|topic| Some((topic, topic.partitions.as_ref()?))) else {
        judge.proof.found(missing(&name, None, seq, "the topic is not there"));
        return;
    };
    let partition = partition_of(key.as_bytes(), i32::try_from(partitions.len()).unwrap_or(i32::MAX));
    if elsewhere.is_some_and(|at| topic.may_have_expired(partition, at)) {
        judge.proof.skipped += 1;
        return;
    }
    if topic.may_have_expired(partition, seq) {
        let age = question.clock.now() - event.recorded_at;
        if topic.config.still_keeps(age.try_into().unwrap_or_default()) {
            let why = "the partition begins behind it, and the topic's retention has not come to it yet";
            judge.proof.found(missing(&name, Some(partition), seq, why));
        } else {
            judge.proof.expired += 1;
        }
        return;
    }
    let why = match elsewhere {
        Some(at) => format!("it was delivered as {at} before the ledger was rewound, and that message is not there"),
        None => "the cursor has passed it, and no message is there".to_owned(),
    };
    judge.proof.found(missing(&name, Some(partition), seq, why));
}

/// A message that differs in something, or a stub: compared with the event itself.
async fn settle_suspect<B: ProofBook>(
    question: &Question<'_, B>,
    judge: &mut Judge,
    suspect: Suspect,
) -> Result<(), KafkaSinkError> {
    let batch = ledger(question, Seq(suspect.seq.0 - 1), suspect.seq).await?;
    let Some(batch) = batch.filter(|batch| !batch.events.is_empty()).map(Arc::new) else {
        judge.proof.unknown += 1;
        return Ok(());
    };
    let event = &batch.events[0];
    let mut differs = Vec::new();
    if *suspect.id != *event.id {
        differs.push("id");
    }
    if suspect.chain != event.chain.to_string() {
        differs.push("chain");
    }
    let is_same = digest(&event.body) == suspect.value || {
        let mut stub = Outgoing::new(&batch, 0, suspect.topic.clone(), String::new(), Vec::new());
        stub.truncate();
        suspect.is_stub && digest(stub.value()) == suspect.value
    };
    if !is_same {
        differs.push("body");
    }
    if judge.expected.topic(suspect.seq) == Some(&suspect.topic) && !judge.expected.has_key(suspect.seq, &suspect.key) {
        differs.push("key");
    }
    if differs.contains(&"chain") && judge.expected.is_reused(suspect.seq) {
        judge.proof.unknown += 1;
        return Ok(());
    }
    if differs.is_empty() {
        judge.proof.delivered += 1;
        judge.proof.stubs += 1;
        return Ok(());
    }
    judge.proof.found(Finding {
        fault: Fault::Altered,
        topic: suspect.topic.to_string(),
        partition: Some(suspect.partition),
        offset: Some(suspect.offset),
        seq: suspect.seq,
        why: format!("it has another {} than the event in the ledger", differs.join(", ")),
    });
    Ok(())
}
