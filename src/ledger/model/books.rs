//! What sinks keep.

use std::time::Duration;

use super::{Delivery, Model, Sink, State, fenced};
use crate::event::ports::{
    ChainAt, Delivered, Excuses, LedgerError, NewDeadLetter, Ownership, ShardBounds, SinkBook, SinkRow, SinkState,
};
use crate::event::{
    DeliveryBook, DeliveryChanges, Failures, GapReason, KeptDelivery, Recorded, SeenDelivery, Seq, Shard, SinkName,
};

impl State {
    pub(super) fn gap(&mut self, sink: &SinkName, from: Seq, to: Seq) {
        let hole = (sink.clone(), from, to);
        if from <= to && !self.sink_gaps.contains(&hole) {
            self.sink_gaps.push(hole);
        }
    }

    /// The row as it was seen, or nothing of the change is made.
    fn seen(&mut self, sink: &SinkName, seen: SeenDelivery, doing: &'static str) -> Result<&mut Delivery, LedgerError> {
        self.deliveries
            .get_mut(&(sink.clone(), seen.seq))
            .filter(|row| row.version == seen.version)
            .ok_or_else(|| LedgerError::Unavailable { doing, source: "a row is not as it was seen".into() })
    }

    fn change(&mut self, sink: &SinkName, changes: &DeliveryChanges, doing: &'static str) -> Result<(), LedgerError> {
        for keep in &changes.keep {
            let moved = || LedgerError::Unavailable { doing, source: "an event is not there".into() };
            let event = self.event(keep.seq).filter(|_| keep.seq >= self.oldest).cloned().ok_or_else(moved)?;
            let row = Delivery {
                event: Recorded { chain: keep.chain, ..event },
                version: 1,
                attempts: keep.attempts,
                due_at: keep.due_at,
            };
            if self.deliveries.insert((sink.clone(), keep.seq), row).is_some() {
                return Err(LedgerError::Refused { doing, why: format!("there is a row of {} already", keep.seq) });
            }
        }
        for retry in &changes.retry {
            let row = self.seen(sink, retry.seen, doing)?;
            row.version += 1;
            row.attempts = retry.attempts;
            row.due_at = retry.due_at;
        }
        for exhausted in &changes.exhausted {
            self.seen(sink, exhausted.seen, doing)?;
            let seq = exhausted.seen.seq;
            self.deliveries.remove(&(sink.clone(), seq));
            let letter = NewDeadLetter { seq, reason: exhausted.reason.clone(), attempts: exhausted.attempts };
            self.dead_letters.entry((sink.clone(), seq)).or_insert(letter);
        }
        for done in &changes.done {
            self.seen(sink, *done, doing)?;
            self.deliveries.remove(&(sink.clone(), done.seq));
        }
        Ok(())
    }
}

impl SinkBook for Model {
    async fn row(&self, sink: &SinkName, owner: Ownership) -> Result<SinkRow, LedgerError> {
        let sink = sink.clone();
        self.write("reading a sink's row", owner, move |state| {
            let new = || Sink { row: SinkRow::default(), rules: None, reported: None };
            Ok(state.sinks.entry(sink).or_insert_with(new).row.clone())
        })
        .await
    }

    async fn keep_cursor(&self, sink: &SinkName, owner: Ownership, cursor: Seq) -> Result<(), LedgerError> {
        let sink = sink.clone();
        self.write("keeping a sink's cursor", owner, move |state| {
            let head = state.head();
            let row = &mut state.sinks.get_mut(&sink).ok_or_else(|| fenced(owner))?.row;
            row.cursor = row.cursor.max(Some(cursor.min(head)));
            Ok(())
        })
        .await
    }

    async fn opens(&self, sink: &SinkName, owner: Ownership, to: Seq) -> Result<(), LedgerError> {
        let sink = sink.clone();
        self.write("noting that a sink opens a partition", owner, move |state| {
            state.sinks.get_mut(&sink).ok_or_else(|| fenced(owner))?.row.opening = to;
            Ok(())
        })
        .await
    }

    async fn sought(&self, sink: &SinkName, owner: Ownership, cursor: Seq) -> Result<(), LedgerError> {
        let sink = sink.clone();
        self.write("carrying out a sink's seek", owner, move |state| {
            let row = &mut state.sinks.get_mut(&sink).ok_or_else(|| fenced(owner))?.row;
            let before = row.cursor.replace(cursor);
            row.opening = Seq::ZERO;
            row.seek = row.seek.filter(|seek| *seek != cursor);
            if let Some(before) = before {
                state.gap(&sink, before.next(), cursor);
            }
            Ok(())
        })
        .await
    }

    async fn dead_letters(
        &self,
        sink: &SinkName,
        owner: Ownership,
        letters: &[NewDeadLetter],
        _: Duration,
    ) -> Result<(), LedgerError> {
        let (sink, letters) = (sink.clone(), letters.to_vec());
        self.write("writing dead letters", owner, move |state| {
            for letter in letters {
                state.dead_letters.entry((sink.clone(), letter.seq)).or_insert(letter);
            }
            Ok(())
        })
        .await
    }

    async fn report(
        &self,
        sink: &SinkName,
        owner: Ownership,
        to: SinkState,
        error: Option<&str>,
    ) -> Result<(), LedgerError> {
        let (sink, error) = (sink.clone(), error.map(str::to_owned));
        self.write("noting a sink's state", owner, move |state| {
            let sink = state.sinks.get_mut(&sink).ok_or_else(|| fenced(owner))?;
            if to == SinkState::Disabled {
                sink.row.disabled.get_or_insert_with(|| error.clone().unwrap_or_default());
            }
            sink.row.halted = to == SinkState::Halted;
            sink.reported = Some((to, error));
            Ok(())
        })
        .await
    }

    async fn bounds(&self, shard: Shard) -> Result<ShardBounds, LedgerError> {
        self.call("reading a shard's bounds", shard, |state| {
            Ok(ShardBounds { ledger: state.id, oldest: state.oldest, head: state.head(), chain: state.chain() })
        })
        .await
    }

    async fn chain_at(&self, shard: Shard, seq: Seq) -> Result<ChainAt, LedgerError> {
        self.call("reading the chain", shard, move |state| Ok(state.chain_at(seq))).await
    }

    async fn keep_rules(
        &self,
        sink: &SinkName,
        owner: Ownership,
        fingerprint: &str,
        after: Seq,
    ) -> Result<(), LedgerError> {
        let (sink, fingerprint) = (sink.clone(), fingerprint.to_owned());
        self.write("noting a sink's rules", owner, move |state| {
            let sink = state.sinks.get_mut(&sink).ok_or_else(|| fenced(owner))?;
            if sink.rules.as_ref().is_none_or(|(known, _)| *known != fingerprint) {
                sink.rules = Some((fingerprint, after));
            }
            Ok(())
        })
        .await
    }

    async fn excuses(&self, sink: &SinkName, shard: Shard, from: Seq, to: Seq) -> Result<Excuses, LedgerError> {
        let sink = sink.clone();
        self.call("looking for what a sink need not have delivered", shard, move |state| {
            let within = |seq: &Seq| (from..=to).contains(seq);
            let gaps =
                state.sink_gaps.iter().filter(|(name, first, last)| *name == sink && *last >= from && *first <= to);
            let letters = state.dead_letters.keys().filter(|(name, seq)| *name == sink && within(seq));
            let replays = state.replays.iter().filter(|(replay, ..)| replay.sink == sink && within(&replay.of));
            let mut letters: Vec<Seq> =
                letters.map(|(_, seq)| *seq).chain(replays.map(|(replay, ..)| replay.of)).collect();
            letters.sort_unstable();
            letters.dedup();
            let skips = state.events.iter().filter(|event| within(&event.seq)).filter_map(|event| {
                let at = state.skip_of(&sink, Delivered::of(event))?;
                Some((event.seq, at)).filter(|(seq, at)| seq != at)
            });
            Ok(Excuses {
                gaps: gaps.map(|(_, first, last)| (*first, *last)).collect(),
                dead_letters: letters,
                skips: skips.collect(),
            })
        })
        .await
    }

    async fn reconciled(&self, sink: &SinkName, owner: Ownership, cursor: Seq) -> Result<(), LedgerError> {
        let sink = sink.clone();
        self.write("noting that a sink is reconciled", owner, move |state| {
            let row = &mut state.sinks.get_mut(&sink).ok_or_else(|| fenced(owner))?.row;
            row.cursor = row.cursor.max(Some(cursor));
            row.reconcile = None;
            Ok(())
        })
        .await
    }

    async fn gap(
        &self,
        sink: &SinkName,
        owner: Ownership,
        from: Seq,
        to: Seq,
        _: GapReason,
    ) -> Result<(), LedgerError> {
        let sink = sink.clone();
        self.write("recording a sink's gap", owner, move |state| {
            state.gap(&sink, from, to);
            Ok(())
        })
        .await
    }
}

impl DeliveryBook for Model {
    async fn deliveries(&self, sink: &SinkName, shard: Shard) -> Result<Vec<KeptDelivery>, LedgerError> {
        let sink = sink.clone();
        self.call("reading a sink's deliveries", shard, move |state| {
            let rows = state.deliveries.iter().filter(|((name, _), _)| *name == sink);
            Ok(rows
                .map(|((_, seq), row)| KeptDelivery {
                    seq: *seq,
                    account: row.event.account.clone(),
                    event_type: row.event.event_type.clone(),
                    record_id: row.event.record_id.clone(),
                    replay: row.event.replay.is_some(),
                    recorded_at: row.event.recorded_at,
                    attempts: row.attempts,
                    due_at: row.due_at,
                    version: row.version,
                })
                .collect())
        })
        .await
    }

    async fn claim(
        &self,
        sink: &SinkName,
        owner: Ownership,
        rows: &[SeenDelivery],
    ) -> Result<Vec<Recorded>, LedgerError> {
        let doing = "claiming deliveries";
        let (sink, rows) = (sink.clone(), rows.to_vec());
        self.write(doing, owner, move |state| {
            for row in &rows {
                state.seen(&sink, *row, doing)?;
            }
            rows.iter()
                .map(|row| {
                    let row = state.seen(&sink, *row, doing)?;
                    row.version += 1;
                    Ok(row.event.clone())
                })
                .collect()
        })
        .await
    }

    async fn change(
        &self,
        sink: &SinkName,
        owner: Ownership,
        changes: &DeliveryChanges,
        _: Duration,
    ) -> Result<(), LedgerError> {
        let doing = "keeping deliveries";
        let (sink, changes) = (sink.clone(), changes.clone());
        self.write(doing, owner, move |state| {
            let before = (state.deliveries.clone(), state.dead_letters.clone());
            let outcome = state.change(&sink, &changes, doing);
            if outcome.is_err() {
                (state.deliveries, state.dead_letters) = before;
            }
            outcome
        })
        .await
    }

    async fn failures(&self, sink: &SinkName, shard: Shard) -> Result<Option<Failures>, LedgerError> {
        let sink = sink.clone();
        self.call("reading an endpoint's failures", shard, move |state| Ok(state.failures.get(&sink).copied())).await
    }

    async fn keep_failures(
        &self,
        sink: &SinkName,
        owner: Ownership,
        failures: Option<Failures>,
    ) -> Result<(), LedgerError> {
        let sink = sink.clone();
        self.write("keeping an endpoint's failures", owner, move |state| {
            match failures {
                Some(failures) => drop(state.failures.insert(sink, failures)),
                None => drop(state.failures.remove(&sink)),
            }
            Ok(())
        })
        .await
    }

    async fn forget_after(&self, sink: &SinkName, owner: Ownership, seq: Seq) -> Result<(), LedgerError> {
        let sink = sink.clone();
        self.write("forgetting deliveries that come again", owner, move |state| {
            state.deliveries.retain(|(name, at), _| *name != sink || *at <= seq);
            Ok(())
        })
        .await
    }

    async fn forget_attempts(&self, _: &SinkName, owner: Ownership) -> Result<(), LedgerError> {
        self.write("forgetting attempts", owner, |_| Ok(())).await
    }
}
