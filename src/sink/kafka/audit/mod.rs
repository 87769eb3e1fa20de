//! The continuous audit: a consumer of our own that follows a sink's topics from the present cursor on, and judges every
//! message as `verify` does, as far as a bounded memory reaches: links, order, repetitions, contents.
//!
//! It is no part of the delivery. It writes nothing to Kafka, holds nothing back, and what fails here is told and tried
//! again without stopping anything (INV-15). What it finds is counted, logged, and noted in the ledger.

mod follow;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::config::Settings;
use super::error::KafkaSinkError;
use super::proof::{Fault, content};
use crate::event::ports::{AuditBook, AuditNote, Feed, LedgerError, Ownership};
use crate::event::{Seq, SinkName};
use crate::telemetry::causes;
use crate::telemetry::metrics as names;

use follow::{Follower, Round};
use watch::{Light, Verdict, Watch};

/// How often the ledger is told.
const NOTE_EVERY: Duration = Duration::from_secs(2);
/// How often new topics are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Findings that are logged one by one in a minute; the rest is counted.
const LOGGED_A_MINUTE: u64 = 20;
/// How long an event that Kafka already has may take to show in the ledger, and a note to be written.
const LEDGER_LIMIT: Duration = Duration::from_secs(5);
/// The bound of one read of the ledger.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Everything that the audit of one Kafka sink needs in one shard.
pub struct Audit<F, B> {
    /// The sink, with its clients' settings.
    pub settings: Arc<Settings>,
    /// The shard, and the epoch under which it is owned.
    pub owner: Ownership,
    /// The events.
    pub feed: F,
    /// Where the findings are noted.
    pub book: B,
    /// Ends it.
    pub stop: CancellationToken,
}

impl<F, B> std::fmt::Debug for Audit<F, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("sink", &self.settings.sink).field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// Follows the sink until it is stopped.
pub async fn audit<F: Feed, B: AuditBook>(audit: Audit<F, B>) {
    let stop = audit.stop.clone();
    let mut desk = Desk::new(&audit.settings.sink, &audit);
    let Audit { settings, mut feed, .. } = audit;
    while !stop.is_cancelled() {
        let ended = stop.run_until_cancelled(follow_on(&settings, &mut feed, &mut desk)).await;
        let error = match ended {
            None => break,
            // The sink had not started yet.
            Some(Ok(())) => continue,
            Some(Err(error)) => error,
        };
        let why = causes(&error);
        tracing::warn!(sink = %settings.sink, shard = %settings.shard, error = why, "the audit starts again");
        desk.pending.error = Some(why);
        stop.run_until_cancelled(async {
            desk.note().await;
            tokio::time::sleep(PAUSE).await;
        })
        .await;
    }
    desk.note().await;
}

async fn follow_on<F: Feed, B: AuditBook>(
    settings: &Arc<Settings>,
    feed: &mut F,
    desk: &mut Desk<B>,
) -> Result<(), KafkaSinkError> {
    let Some((mut follower, mut watch)) = Follower::start(settings).await? else {
        // The sink has not started yet.
        tokio::time::sleep(PAUSE).await;
        return Ok(());
    };
    desk.pending.error = None;
    let mut looked = Instant::now();
    loop {
        if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            follower = follower.look(&mut watch).await?;
            desk.lag.set(follower.lag());
        }
        let Round { follower: back, messages } = follower.round().await?;
        follower = back;
        for light in &messages {
            learn(feed, &mut watch, light.seq).await?;
            desk.judged(&mut watch, light);
        }
        desk.note_if_due().await;
    }
}

/// Reads the ledger on until it reaches an event.
async fn learn<F: Feed>(feed: &mut F, watch: &mut Watch, seq: Seq) -> Result<(), LedgerError> {
    let late = Instant::now() + LEDGER_LIMIT;
    while watch.known() < seq {
        // A batch is committed before Kafka can have it, and shows here soon after.
        let limit = if seq > feed.head() { late } else { Instant::now() + READ_LIMIT };
        let next = timeout_at(limit, feed.next(watch.known())).await;
        // Nothing came, or other events for ever: the ledger has no such one, and the verdict says so.
        let Ok(batch) = next else { return Ok(()) };
        let batch = batch?;
        if let Some(void) = &batch.void {
            watch.pass(void.to);
        }
        for event in &batch.events {
            watch.learn(content(&event.id, &event.chain.to_string(), &event.body));
        }
    }
    Ok(())
}

/// Where findings go.
struct Desk<B> {
    sink: SinkName,
    owner: Ownership,
    book: B,
    good: Counter,
    unjudged: Counter,
    faults: Vec<(Fault, Counter)>,
    lag: Gauge,
    pending: AuditNote,
    noted: Instant,
    minute: Instant,
    logged: u64,
}

impl<B: AuditBook> Desk<B> {
    fn new<F>(sink: &SinkName, of: &Audit<F, B>) -> Self {
        let events = |outcome| counter!(names::AUDIT_EVENTS_TOTAL, "sink" => sink.to_string(), "outcome" => outcome);
        let shard = of.owner.shard.to_string();
        Self {
            sink: sink.clone(),
            owner: of.owner,
            book: of.book.clone(),
            good: events("good"),
            unjudged: events("unjudged"),
            faults: Fault::OF_MESSAGES.into_iter().map(|fault| (fault, events(fault.as_str()))).collect(),
            lag: gauge!(names::AUDIT_LAG_MESSAGES, "sink" => sink.to_string(), "shard" => shard),
            pending: AuditNote::default(),
            noted: Instant::now(),
            minute: Instant::now(),
            logged: 0,
        }
    }

    fn judged(&mut self, watch: &mut Watch, light: &Light) {
        match watch.judge(light) {
            None => {}
            Some(Verdict::Good) => {
                self.good.increment(1);
                self.pending.judged += 1;
            }
            Some(Verdict::Unjudged) => self.unjudged.increment(1),
            Some(Verdict::Bad(fault, why)) => {
                for (_, counter) in self.faults.iter().filter(|(known, _)| *known == fault) {
                    counter.increment(1);
                }
                self.pending.judged += 1;
                self.pending.found += 1;
                let Light { topic, partition, offset, seq, .. } = light;
                self.pending.finding = Some(format!(
                    "{}: seq {seq} in {topic}, partition {partition} offset {offset}: {why}",
                    fault.as_str()
                ));
                self.log(fault, light, &why);
            }
        }
    }

    fn log(&mut self, fault: Fault, light: &Light, why: &str) {
        if self.minute.elapsed() >= Duration::from_mins(1) {
            self.minute = Instant::now();
            if self.logged > LOGGED_A_MINUTE {
                let more = self.logged - LOGGED_A_MINUTE;
                tracing::error!(sink = %self.sink, more, "the audit found more, which was not logged one by one");
            }
            self.logged = 0;
        }
        self.logged += 1;
        if self.logged <= LOGGED_A_MINUTE {
            tracing::error!(
                sink = %self.sink, shard = %self.owner.shard, fault = fault.as_str(), topic = %light.topic,
                partition = light.partition, offset = light.offset, seq = %light.seq, why,
                "the audit found something; `standpipe verify` tells the whole"
            );
        }
    }

    async fn note_if_due(&mut self) {
        if self.noted.elapsed() >= NOTE_EVERY {
            self.note().await;
        }
    }

    /// Tells the ledger what is new. Where that fails it is told with the next note.
    async fn note(&mut self) {
        self.noted = Instant::now();
        let told = timeout(LEDGER_LIMIT, self.book.audited(&self.sink, self.owner, &self.pending)).await;
        match told {
            Ok(Ok(())) => self.pending = AuditNote { error: self.pending.error.take(), ..AuditNote::default() },
            Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "the audit is not noted"),
            Err(_) => tracing::debug!("the audit is not noted: the ledger does not answer"),
        }
    }
}
