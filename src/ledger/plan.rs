//! What one recording call is asked to do, and what it answered.

use std::collections::{HashMap, HashSet};

use super::statements::Statements;
use time::OffsetDateTime;
use uuid::Uuid;

use super::control;
use super::database::{seq_from_db, seq_to_db};
use super::dictionary::StreamNumbers;
use crate::event::ports::Ownership;
use crate::event::{
    Chain, ContentHash, Event, EventType, Gap, MAX_EVENT_ID_BYTES, MAX_EVENT_TYPE_BYTES, MAX_RECORD_ID_BYTES, Page,
    Position, Rejected, Replay, Seq, StreamKey,
};

/// PostgreSQL's first year; an earlier time counts as one that cannot be read.
const FIRST_YEAR: i32 = -4712;

/// One step of a stream: a page, or an operator's seek.
#[derive(Debug)]
pub struct Step {
    pub(crate) key: StreamKey,
    pub(crate) numbers: StreamNumbers,
    pub(crate) from: Position,
    pub(crate) to: Position,
    pub(crate) top: bool,
    pub(crate) seek: bool,
    pub(crate) gap: Option<(Gap, OffsetDateTime)>,
    pub(crate) rejected: Vec<Rejected>,
    /// Set when the step is left out: where the ledger has the stream.
    pub(crate) superseded: Option<Position>,
}

/// What an element of the call is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event of a page.
    Event,
    /// The announcement of its step's gap.
    StreamGap,
    /// The announcement of a sink's gap: which row of `gaps`.
    SinkGap(i64),
    /// A row of `replays`.
    Replay(i64),
}

/// What may become a row of `events`.
#[derive(Debug)]
pub struct Element {
    pub(crate) kind: Kind,
    pub(crate) step: Option<usize>,
    pub(crate) account_id: i32,
    pub(crate) type_id: Option<i32>,
    pub(crate) replay: Option<Box<Replay>>,
    pub(crate) event: Event,
}

/// The steps and elements of one commit. Survives calls that wrote nothing, each of which leaves something out.
#[derive(Debug, Default)]
pub struct Draft {
    pub(crate) steps: Vec<Step>,
    pub(crate) elements: Vec<Element>,
    /// Where the steps taken so far lead each stream.
    leads: HashMap<i32, Position>,
}

impl Step {
    pub(crate) fn seek(
        key: StreamKey,
        numbers: StreamNumbers,
        from: Position,
        to: Position,
        gap: Gap,
        at: OffsetDateTime,
    ) -> Self {
        let gap = Some((gap, at));
        Self { key, numbers, from, to, top: false, seek: true, gap, rejected: Vec::new(), superseded: None }
    }
}

impl Draft {
    /// Adds a step without events.
    pub(crate) fn step(&mut self, mut step: Step) -> usize {
        let lead = self.leads.get(&step.numbers.stream);
        // Pages of one stream follow each other in one commit only where each begins at the end of the one before.
        if let Some(lead) = lead.filter(|lead| **lead != step.from) {
            step.superseded = Some(lead.clone());
        } else {
            self.leads.insert(step.numbers.stream, step.to.clone());
        }
        let at = self.steps.len();
        if let (Some((gap, when)), None) = (&step.gap, &step.superseded) {
            // INV-14: the announcement stands before everything that comes past the hole.
            let event = control::stream_gap(&step.key, &step.from, &step.to, gap, *when);
            let account_id = step.numbers.account;
            self.elements.push(Element {
                kind: Kind::StreamGap,
                step: Some(at),
                account_id,
                type_id: None,
                replay: None,
                event,
            });
        }
        self.steps.push(step);
        at
    }

    /// Adds a page.
    pub(crate) fn page(&mut self, page: Page, numbers: StreamNumbers) -> usize {
        let Page { stream: key, from, to, top, events, rejected, gap, fetched_at } = page;
        let gap = gap.map(|gap| (gap, fetched_at));
        let at = self.step(Step { key, numbers, from, to, top, seek: false, gap, rejected, superseded: None });
        if self.steps[at].superseded.is_none() {
            self.elements.extend(events.into_iter().map(|event| Element {
                kind: Kind::Event,
                step: Some(at),
                account_id: numbers.account,
                type_id: None,
                replay: None,
                event,
            }));
        }
        at
    }

    /// Gives every element the number of its type; sets those aside that are out of bounds or whose type has none.
    pub(crate) fn number_types(&mut self, types: &HashMap<EventType, i32>) {
        let mut refused = Vec::new();
        for (at, element) in self.elements.iter_mut().enumerate() {
            element.type_id = element.type_id.or_else(|| types.get(&element.event.event_type).copied());
            if let Some(reason) = out_of_bounds(&element.event) {
                refused.push((at, reason));
            } else if element.type_id.is_none() {
                refused.push((at, "the event type cannot be stored"));
            }
        }
        for (at, reason) in refused.into_iter().rev() {
            self.refuse(at, reason.to_owned());
        }
    }

    /// Sets an element aside: its body is kept whole with the reason (INV-5).
    pub(crate) fn refuse(&mut self, at: usize, reason: String) {
        let element = self.elements.remove(at);
        if let Some(step) = element.step {
            self.steps[step].rejected.push(Rejected { raw: element.event.body, reason });
        }
    }

    /// Leaves a stream's steps out (INV-3).
    pub(crate) fn leave_out(&mut self, stream: i32, at: Option<&Position>) {
        let mut out = HashSet::new();
        for (index, step) in self.steps.iter_mut().enumerate().filter(|(_, step)| step.numbers.stream == stream) {
            step.superseded = Some(at.unwrap_or(&step.from).clone());
            out.insert(index);
        }
        self.elements.retain(|element| element.step.is_none_or(|step| !out.contains(&step)));
    }

    /// Whether there is anything to be recorded.
    pub(crate) fn is_empty(&self) -> bool {
        self.elements.is_empty() && self.taken().next().is_none()
    }

    /// The steps that are taken.
    pub(crate) fn taken(&self) -> impl Iterator<Item = (usize, &Step)> {
        self.steps.iter().enumerate().filter(|(_, step)| step.superseded.is_none())
    }
}

fn out_of_bounds(event: &Event) -> Option<&'static str> {
    if event.id.len() > MAX_EVENT_ID_BYTES {
        Some("the event id is longer than 512 bytes")
    } else if event.event_type.as_str().len() > MAX_EVENT_TYPE_BYTES {
        Some("the event type is longer than 128 bytes")
    } else if event.record_id.len() > MAX_RECORD_ID_BYTES {
        Some("the record id is longer than 256 bytes")
    } else {
        None
    }
}

/// A draft as the parameters of a call, planned as if every id were new.
#[derive(Debug)]
pub(crate) struct Plan<'d> {
    moves: Moves<'d>,
    columns: Columns<'d>,
    /// 0 where an earlier element has the same key.
    pub(crate) seqs: Vec<i64>,
    /// The chain at each element that has a seq.
    pub(crate) chains: Vec<Chain>,
    next_chain: Chain,
    bytes: i64,
}

/// One array a column, one element a stream: from where its first step starts to where its last one leads.
#[derive(Debug, Default)]
struct Moves<'d> {
    streams: Vec<i32>,
    from: Vec<&'d [u8]>,
    to: Vec<&'d [u8]>,
    top: Vec<bool>,
    seek: Vec<bool>,
}

/// One array a column, one element an event.
#[derive(Debug)]
pub(crate) struct Columns<'d> {
    keys: Vec<Option<Uuid>>,
    hashes: Vec<Uuid>,
    accounts: Vec<i32>,
    types: Vec<i32>,
    ids: Vec<&'d str>,
    records: Vec<&'d str>,
    occurred: Vec<Option<OffsetDateTime>>,
    replay_of: Vec<Option<i64>>,
    replay_sinks: Vec<Option<&'d str>>,
    bodies: Vec<&'d [u8]>,
}

impl<'d> Moves<'d> {
    fn of(draft: &'d Draft) -> Self {
        let mut moves = Self::default();
        let mut places: HashMap<i32, usize> = HashMap::new();
        for (_, step) in draft.taken() {
            let place = *places.entry(step.numbers.stream).or_insert_with(|| {
                moves.streams.push(step.numbers.stream);
                moves.from.push(step.from.as_str().as_bytes());
                moves.to.push(b"");
                moves.top.push(false);
                moves.seek.push(step.seek);
                moves.streams.len() - 1
            });
            moves.to[place] = step.to.as_str().as_bytes();
            moves.top[place] = step.top;
        }
        moves
    }
}

impl<'d> Columns<'d> {
    fn of(elements: &'d [Element]) -> Self {
        let count = elements.len();
        let mut columns = Self {
            keys: Vec::with_capacity(count),
            hashes: Vec::with_capacity(count),
            accounts: Vec::with_capacity(count),
            types: Vec::with_capacity(count),
            ids: Vec::with_capacity(count),
            records: Vec::with_capacity(count),
            occurred: Vec::with_capacity(count),
            replay_of: Vec::with_capacity(count),
            replay_sinks: Vec::with_capacity(count),
            bodies: Vec::with_capacity(count),
        };
        for element in elements {
            let event = &element.event;
            columns.keys.push(element.replay.is_none().then_some(event.dedupe_key.0));
            columns.hashes.push(Uuid::from_bytes(event.content_hash.0));
            columns.accounts.push(element.account_id);
            columns.types.push(element.type_id.unwrap_or_default());
            columns.ids.push(&event.id);
            columns.records.push(&event.record_id);
            columns.occurred.push(event.occurred_at.filter(|at| at.year() > FIRST_YEAR));
            columns.replay_of.push(element.replay.as_ref().map(|replay| seq_to_db(replay.of)));
            columns.replay_sinks.push(element.replay.as_ref().map(|replay| replay.sink.as_str()));
            columns.bodies.push(&event.body);
        }
        columns
    }
}

impl<'d> Plan<'d> {
    pub(crate) fn of(draft: &'d Draft, head: Seq, chain: Chain) -> Self {
        let mut plan = Self {
            moves: Moves::of(draft),
            columns: Columns::of(&draft.elements),
            seqs: Vec::with_capacity(draft.elements.len()),
            chains: Vec::with_capacity(draft.elements.len()),
            next_chain: chain,
            bytes: 0,
        };
        let mut seen = HashSet::with_capacity(draft.elements.len());
        let mut last = head;
        for element in &draft.elements {
            let event = &element.event;
            if element.replay.is_none() && !seen.insert(event.dedupe_key) {
                plan.seqs.push(0);
            } else {
                last = last.next();
                plan.next_chain = plan.next_chain.link(last, &event.id, &event.content_hash);
                plan.seqs.push(seq_to_db(last));
                plan.bytes += i64::try_from(event.body.len()).unwrap_or(i64::MAX);
            }
            plan.chains.push(plan.next_chain);
        }
        plan
    }

    /// The moves of the streams as a plan of their own ([`Mutant::PositionFirst`](crate::mutant::Mutant)).
    pub(crate) fn take_moves(&mut self, chain: Chain) -> Self {
        let (seqs, chains) = (Vec::new(), Vec::new());
        Self {
            moves: std::mem::take(&mut self.moves),
            columns: Columns::of(&[]),
            seqs,
            chains,
            next_chain: chain,
            bytes: 0,
        }
    }

    /// Calls the recording function. Without a transaction around it, it is one: the client reads on to the server's
    /// "ready", which comes after the commit.
    pub(crate) async fn call(
        &self,
        connection: &mut Statements,
        owner: Ownership,
        head: Seq,
        chain: Chain,
    ) -> Result<Answer, sqlx::Error> {
        let columns = &self.columns;
        let mut rows = sqlx::query_as!(
            Answer,
            r#"SELECT outcome AS "outcome!", epoch, head, chain, recorded_at,
                   coalesce(superseded, '{}') AS "superseded!",
                   coalesce(superseded_at, '{}') AS "superseded_at!: Vec<Option<Vec<u8>>>",
                   coalesce(known, '{}') AS "known!", coalesce(known_seqs, '{}') AS "known_seqs!",
                   coalesce(known_hashes, '{}') AS "known_hashes!"
               FROM standpipe_record($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                   $19, $20, $21, $22)"#,
            super::database::shard_to_db(owner.shard),
            owner.epoch.0,
            seq_to_db(head),
            &chain.0[..],
            &self.moves.streams,
            &self.moves.from as &[&[u8]],
            &self.moves.to as &[&[u8]],
            &self.moves.top,
            &self.moves.seek,
            &columns.keys as &[Option<Uuid>],
            &columns.hashes,
            &self.seqs,
            &columns.accounts,
            &columns.types,
            &columns.ids as &[&str],
            &columns.records as &[&str],
            &columns.occurred as &[Option<OffsetDateTime>],
            &columns.replay_of as &[Option<i64>],
            &columns.replay_sinks as &[Option<&str>],
            &columns.bodies as &[&[u8]],
            &self.next_chain.0[..],
            self.bytes,
        )
        .fetch_all(connection)
        .await?;
        rows.pop().ok_or(sqlx::Error::RowNotFound)
    }
}

/// Whether PostgreSQL takes the content of these elements: a look, without a write.
pub(crate) async fn accepts(connection: &mut Statements, elements: &[Element]) -> Result<(), sqlx::Error> {
    let columns = Columns::of(elements);
    sqlx::query!(
        "SELECT count(*) FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bytea[])",
        &columns.ids as &[&str],
        &columns.records as &[&str],
        &columns.occurred as &[Option<OffsetDateTime>],
        &columns.bodies as &[&[u8]]
    )
    .fetch_all(connection)
    .await
    .map(drop)
}

/// What the recording function answers.
#[derive(Debug)]
pub struct Answer {
    pub(crate) outcome: String,
    pub(crate) epoch: Option<i64>,
    pub(crate) head: Option<i64>,
    pub(crate) chain: Option<Vec<u8>>,
    pub(crate) recorded_at: Option<OffsetDateTime>,
    pub(crate) superseded: Vec<i32>,
    pub(crate) superseded_at: Vec<Option<Vec<u8>>>,
    pub(crate) known: Vec<i32>,
    pub(crate) known_seqs: Vec<i64>,
    pub(crate) known_hashes: Vec<Uuid>,
}

/// What is known of an element that was not recorded because its key was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) seq: Seq,
    pub(crate) content_hash: ContentHash,
}

impl Answer {
    /// The elements that were known, by their index.
    pub(crate) fn known(&self) -> HashMap<usize, Known> {
        let known = self.known.iter().zip(&self.known_seqs).zip(&self.known_hashes);
        known
            .map(|((ordinal, seq), hash)| {
                let known = Known { seq: seq_from_db(*seq), content_hash: ContentHash(hash.into_bytes()) };
                (usize::try_from(*ordinal).unwrap_or(1) - 1, known)
            })
            .collect()
    }
}
