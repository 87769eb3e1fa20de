//! Recording, reading, the lease and the streams.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Lost, Model, State, Stream, fenced};
use crate::event::ports::{Dialect, LedgerError, Ownership, ReadLedger, StreamBook, StreamRow, StreamState};
use crate::event::{
    AccountName, Batch, Chain, DedupeKey, Epoch, Event, EventType, Gap, Position, Recorded, Rejected, Replay, Seq,
    Shard, StreamKey, StreamName,
};
use crate::ledger::database::seq_to_db;
use crate::ledger::dictionary::StreamNumbers;
use crate::ledger::lease::LeaseBook;
use crate::ledger::plan::{Answer, Draft, Element, Kind};
use crate::ledger::store::{Doubt, Settled, Standing, Store};
use crate::ledger::wishes::Wishes;
use crate::mutant::{Mutant, planted};

/// A draft on its way.
#[derive(Debug)]
struct Call {
    owner: Ownership,
    head: Seq,
    chain: Chain,
    moves: Vec<Move>,
    elements: Vec<(Event, Kind, Option<Box<Replay>>)>,
    rejected: Vec<Rejected>,
    gaps: Vec<(StreamKey, Gap)>,
    at: OffsetDateTime,
}

/// One stream: from where its first page was polled to where its last one leads.
#[derive(Clone, Debug)]
struct Move {
    key: StreamKey,
    number: i32,
    from: Position,
    to: Position,
    top: bool,
    seek: bool,
}

impl Call {
    fn of(draft: &Draft, owner: Ownership, (head, chain): (Seq, Chain), at: OffsetDateTime) -> Self {
        let mut moves: Vec<Move> = Vec::new();
        let (mut rejected, mut gaps) = (Vec::new(), Vec::new());
        for (_, step) in draft.taken() {
            rejected.extend(step.rejected.iter().cloned());
            gaps.extend(step.gap.iter().map(|(gap, _)| (step.key.clone(), gap.clone())));
            match moves.iter_mut().find(|known| known.number == step.numbers.stream) {
                Some(known) => (known.to, known.top) = (step.to.clone(), step.top),
                None => moves.push(Move {
                    key: step.key.clone(),
                    number: step.numbers.stream,
                    from: step.from.clone(),
                    to: step.to.clone(),
                    top: step.top,
                    seek: step.seek,
                }),
            }
        }
        let elements = draft.elements.iter().map(|one| (one.event.clone(), one.kind, one.replay.clone())).collect();
        Self { owner, head, chain, moves, elements, rejected, gaps, at }
    }
}

impl State {
    fn answer(&self, outcome: &str) -> Answer {
        Answer {
            outcome: outcome.to_owned(),
            epoch: Some(self.epoch.0),
            head: Some(seq_to_db(self.head())),
            chain: Some(self.chain().0.to_vec()),
            recorded_at: None,
            superseded: Vec::new(),
            superseded_at: Vec::new(),
            known: Vec::new(),
            known_seqs: Vec::new(),
            known_hashes: Vec::new(),
        }
    }

    /// As `standpipe_record` does, in its order.
    fn record(&mut self, call: Call) -> Answer {
        let epoch = self.epoch == call.owner.epoch || planted(Mutant::EpochUnchecked);
        if !epoch || self.head() != call.head || self.chain() != call.chain {
            return self.answer("fenced");
        }
        // INV-3.
        let mut elsewhere = self.answer("superseded");
        for step in &call.moves {
            let row = self.streams.get(&step.key).map(|stream| &stream.row);
            let from = if planted(Mutant::PositionFirst) { &step.to } else { &step.from };
            let there = row.is_some_and(|row| row.position == *from && (step.seek || row.state != StreamState::Paused));
            if !there && !planted(Mutant::PositionUnchecked) {
                elsewhere.superseded.push(step.number);
                elsewhere.superseded_at.push(row.map(|row| row.position.as_str().as_bytes().to_vec()));
            }
        }
        if !elsewhere.superseded.is_empty() {
            self.burnt += call.elements.len() as u64;
            return elsewhere;
        }
        let known = self.insert(&call);
        if !planted(Mutant::PositionFirst) {
            self.advance(&call.moves, call.at);
        }
        self.rejected.extend(call.rejected);
        self.gaps.extend(call.gaps);
        self.written = Some((call.owner.epoch, self.epoch));
        Answer {
            recorded_at: Some(call.at),
            known: known.iter().map(|(at, ..)| *at).collect(),
            known_seqs: known.iter().map(|(_, seq, _)| seq_to_db(*seq)).collect(),
            known_hashes: known.iter().map(|(.., hash)| *hash).collect(),
            ..self.answer("recorded")
        }
    }

    /// The events whose ids are new (INV-1), densely numbered (INV-2); gives the others.
    fn insert(&mut self, call: &Call) -> Vec<(i32, Seq, Uuid)> {
        let mut known = Vec::new();
        let mut seen = HashSet::new();
        for (at, (event, kind, replay)) in call.elements.iter().enumerate() {
            if replay.is_none()
                && let Some((seq, hash)) = self.ids.get(&event.dedupe_key).copied()
                && !(planted(Mutant::DedupeTooShort) && seen.insert(event.dedupe_key))
            {
                self.conflicts += usize::from(hash != event.content_hash);
                known.push((i32::try_from(at + 1).unwrap_or(i32::MAX), seq, Uuid::from_bytes(hash.0)));
                continue;
            }
            let mut seq = self.head().next();
            if planted(Mutant::SequenceObject) {
                seq.0 += std::mem::take(&mut self.burnt);
            }
            if let Kind::Replay(number) = kind
                && let Some((.., recorded)) = usize::try_from(*number).ok().and_then(|at| self.replays.get_mut(at))
            {
                *recorded = Some(seq);
            }
            if replay.is_none() {
                self.ids.insert(event.dedupe_key, (seq, event.content_hash));
                seen.insert(event.dedupe_key);
            }
            self.events.push(Recorded {
                seq,
                chain: self.chain().link(seq, &event.id, &event.content_hash),
                account: event.account.clone(),
                event_type: event.event_type.clone(),
                id: event.id.clone(),
                record_id: event.record_id.clone(),
                occurred_at: event.occurred_at,
                recorded_at: call.at,
                content_hash: event.content_hash,
                body: event.body.clone(),
                replay: replay.clone(),
            });
        }
        known
    }

    /// INV-4: also where there was no event.
    fn advance(&mut self, moves: &[Move], at: OffsetDateTime) {
        for step in moves {
            let Some(Stream { row, .. }) = self.streams.get_mut(&step.key) else { continue };
            if row.position != step.from && !step.seek {
                self.misstep = Some((step.key.clone(), step.from.clone(), row.position.clone()));
            }
            if row.position != step.to {
                row.position_at = at;
            }
            row.position = step.to.clone();
            row.top = step.top;
        }
    }

    fn standing(&self) -> Standing {
        Standing { epoch: self.epoch, head: self.head(), chain: self.chain() }
    }
}

impl Store for Model {
    type Kept = ();

    async fn standing(&self, shard: Shard) -> Result<Standing, LedgerError> {
        self.call("starting to record", shard, |state| Ok(state.standing())).await
    }

    async fn wished(&self, shard: Shard) -> Result<Wishes, LedgerError> {
        self.call("reading the operators' wishes", shard, |state| {
            let open = state.replays.iter().zip(0..).filter(|((.., recorded), _)| recorded.is_none());
            let elements = open.map(|((replay, event, _), number)| Element {
                kind: Kind::Replay(number),
                step: None,
                account_id: 1,
                type_id: None,
                replay: Some(Box::new(replay.clone())),
                event: Event {
                    account: event.account.clone(),
                    stream: StreamName::from(""),
                    event_type: event.event_type.clone(),
                    dedupe_key: DedupeKey::by_id(event.account.as_str(), &event.id),
                    id: event.id.clone(),
                    record_id: event.record_id.clone(),
                    occurred_at: event.occurred_at,
                    sequence: None,
                    content_hash: event.content_hash,
                    body: event.body.clone(),
                },
            });
            Ok(Wishes { seeks: Vec::new(), elements: elements.collect() })
        })
        .await
    }

    /// Known in memory, as the ledger's are.
    async fn stream(&self, key: &StreamKey) -> Result<Option<StreamNumbers>, LedgerError> {
        let number = self.look(self.home_of(&key.account)).streams.get(key).map(|stream| stream.number);
        Ok(number.map(|stream| StreamNumbers { stream, account: 1 }))
    }

    async fn types(&self, elements: &[Element]) -> Result<HashMap<EventType, i32>, LedgerError> {
        let mut numbers = HashMap::new();
        for element in elements {
            let mut state = self.look(self.home_of(&element.event.account));
            let name = &element.event.event_type;
            let next = i32::try_from(state.types.len()).unwrap_or(i32::MAX);
            let number = *state.types.entry(name.clone()).or_insert(next);
            numbers.insert(name.clone(), number);
        }
        Ok(numbers)
    }

    async fn record(&self, (): &mut (), draft: &Draft, owner: Ownership, head: (Seq, Chain)) -> Result<Answer, Doubt> {
        let lost = |Lost| Doubt::Unknown(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()));
        let call = Call::of(draft, owner, head, self.clock.now());
        if planted(Mutant::PositionFirst) {
            let (moves, at) = (call.moves.clone(), call.at);
            let first = move |state: &mut State| {
                let fits = |step: &Move| state.streams.get(&step.key).is_some_and(|it| it.row.position == step.from);
                if state.epoch == owner.epoch && moves.iter().all(fits) {
                    state.advance(&moves, at);
                }
            };
            self.carry("moving positions", owner.shard, first).await.map_err(lost)?;
        }
        let at_home = self.at_home(owner.shard);
        let recorded = self.carry("recording", owner.shard, move |state| at_home.map(|()| state.record(call)));
        recorded.await.map_err(lost)?.map_err(Doubt::Elsewhere)
    }

    async fn refused(&self, _: &[Element], error: &sqlx::Error) -> Result<(usize, String), LedgerError> {
        Err(LedgerError::Refused { doing: "looking for what is refused", why: error.to_string() })
    }

    async fn settled(&self, shard: Shard, head: Seq) -> Result<(Standing, Vec<Settled>), LedgerError> {
        self.call("settling a commit in doubt", shard, move |state| {
            let rows = state.events.iter().filter(|event| event.seq > head).map(|event| Settled {
                event_id: event.id.to_string(),
                content_hash: event.content_hash,
                replay_of: event.replay.as_ref().map(|replay| replay.of),
                recorded_at: event.recorded_at,
            });
            Ok((state.standing(), rows.collect()))
        })
        .await
    }

    async fn close(&self, (): ()) -> Result<(), LedgerError> {
        Ok(())
    }
}

impl ReadLedger for Model {
    async fn read(
        &self,
        shard: Shard,
        after: Seq,
        until: Seq,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Batch, LedgerError> {
        let doing = "reading events";
        self.call(doing, shard, move |state| {
            let crate::event::ports::ChainAt::Known(chain_before) = state.chain_at(after) else {
                let why = format!("events after seq {after} are no longer kept");
                return Err(LedgerError::Refused { doing, why });
            };
            let void = state.void_after(after).filter(|_| after < until);
            let mut batch = Batch { shard, after, chain_before, void, events: Vec::new() };
            let mut bytes = 0;
            for event in state.events.iter().filter(|event| event.seq > after && event.seq <= until) {
                let ends = event.seq != batch.to().next();
                if ends || batch.events.len() >= max_events.max(1) || bytes >= max_bytes.max(1) {
                    break;
                }
                bytes += event.body.len();
                batch.events.push(event.clone());
            }
            Ok(batch)
        })
        .await
    }
}

impl LeaseBook for Model {
    fn lease_ttl(&self) -> Duration {
        self.lease_ttl
    }

    async fn take_lease(&self, shard: Shard, instance: Uuid) -> Result<Option<Epoch>, LedgerError> {
        let (clock, ttl) = (self.clock.clone(), self.lease_ttl);
        self.call("taking a lease", shard, move |state| {
            let now = clock.now();
            if state.lease.is_some_and(|(holder, until)| holder != instance && until >= now) {
                return Ok(None);
            }
            state.epoch.0 += 1;
            state.lease = Some((instance, now + ttl));
            Ok(Some(state.epoch))
        })
        .await
    }

    async fn renew_lease(&self, owner: Ownership) -> Result<(), LedgerError> {
        let (clock, ttl) = (self.clock.clone(), self.lease_ttl);
        self.call("renewing a lease", owner.shard, move |state| match &mut state.lease {
            Some((_, until)) if state.epoch == owner.epoch => {
                *until = clock.now() + ttl;
                Ok(())
            }
            _ => Err(fenced(owner)),
        })
        .await
    }

    async fn release_lease(&self, owner: Ownership) -> Result<(), LedgerError> {
        self.call("releasing a lease", owner.shard, move |state| {
            if state.epoch == owner.epoch {
                state.lease = None;
            }
            Ok(())
        })
        .await
    }
}

impl StreamBook for Model {
    async fn dialect(&self, account: &AccountName) -> Result<Option<Dialect>, LedgerError> {
        let (account, shard) = (account.clone(), self.home_of(account));
        self.call("reading an account's dialect", shard, move |state| Ok(state.dialects.get(&account).copied())).await
    }

    async fn keep_dialect(&self, account: &AccountName, dialect: Dialect) -> Result<(), LedgerError> {
        let (account, shard) = (account.clone(), self.home_of(account));
        self.call("keeping an account's dialect", shard, move |state| {
            state.dialects.insert(account, dialect);
            Ok(())
        })
        .await
    }

    async fn open(&self, key: &StreamKey, start: &Position) -> Result<StreamRow, LedgerError> {
        let (key, position, clock) = (key.clone(), start.clone(), self.clock.clone());
        self.call("opening a stream", self.home_of(&key.account), move |state| {
            let number = i32::try_from(state.streams.len()).unwrap_or(i32::MAX);
            let stream = state.streams.entry(key.clone()).or_insert_with(|| Stream {
                row: StreamRow { key, position, position_at: clock.now(), top: false, state: StreamState::Active },
                number,
            });
            Ok(stream.row.clone())
        })
        .await
    }

    async fn streams(&self, account: &AccountName) -> Result<Vec<StreamRow>, LedgerError> {
        let (account, shard) = (account.clone(), self.home_of(account));
        self.call("reading an account's streams", shard, move |state| {
            Ok(state
                .streams
                .values()
                .map(|stream| &stream.row)
                .filter(|row| row.key.account == account)
                .cloned()
                .collect())
        })
        .await
    }

    async fn set_state(&self, key: &StreamKey, to: StreamState, _: &str) -> Result<(), LedgerError> {
        let (key, shard) = (key.clone(), self.home_of(&key.account));
        self.call("noting a stream's state", shard, move |state| {
            if let Some(stream) = state.streams.get_mut(&key)
                && stream.row.state != StreamState::Paused
                && to != StreamState::Paused
            {
                stream.row.state = to;
            }
            Ok(())
        })
        .await
    }
}
