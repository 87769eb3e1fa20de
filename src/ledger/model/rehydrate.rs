//! Sinks that are ahead of a ledger that was rewound.

use std::collections::HashSet;

use super::{Model, State};
use crate::event::ports::{ChainAt, Crossing, Delivered, LedgerError, Ownership, RehydrateBook, Rehydration};
use crate::event::{Chain, Replay, Seq, Shard, SinkName, Void};
use crate::mutant::{Mutant, planted};

impl State {
    /// Under which seq a sink had delivered it; of a first recording any message tells.
    pub(super) fn skip_of(&self, sink: &SinkName, one: Delivered) -> Option<Seq> {
        let last = if one.replay_of == Seq::ZERO { Seq(u64::MAX) } else { one.replay_of };
        let last = Delivered { replay_of: last, ..one };
        self.skips.range((sink.clone(), one)..=(sink.clone(), last)).next().map(|(_, at)| *at)
    }
}

impl RehydrateBook for Model {
    async fn rewound(
        &self,
        sink: &SinkName,
        owner: Ownership,
        found: Seq,
        chain: Chain,
        base: Seq,
    ) -> Result<Rehydration, LedgerError> {
        let (doing, sink) = ("rehydrating a sink", sink.clone());
        self.write(doing, owner, move |state| {
            let begun = |(name, way, _): &&(SinkName, Rehydration, bool)| {
                *name == sink && way.found == found && way.chain == chain
            };
            if let Some((_, way, _)) = state.ways.iter().find(begun) {
                return Ok(*way);
            }
            let used = found.min(state.head());
            let until = state.events.iter().rev().map(|event| event.seq).find(|seq| *seq <= used).unwrap_or(base);
            let is_further = state.voids.is_empty() || !planted(Mutant::VoidTooShort);
            let marks = is_further && !planted(Mutant::VoidUnmarked);
            if found > state.head() && marks {
                let void = (state.head(), Void { to: found, chain });
                state.voids.push(void);
            }
            // Beyond the head only where a mutant leaves the void out.
            let place = found.min(state.head());
            let inside = state.voids.iter().find(|(before, void)| *before < place && void.to >= place);
            let goes_on = inside.map_or(place, |(_, void)| void.to);
            let ChainAt::Known(goes_on_chain) = state.chain_at(goes_on) else {
                return Err(LedgerError::Refused { doing, why: format!("the chain at {goes_on} is not kept") });
            };
            let base = base.max(Seq(state.oldest.0.saturating_sub(1))).min(until);
            let way = Rehydration { found, chain, base, until, reclaimed_to: base, goes_on, goes_on_chain };
            state.ways.push((sink, way, false));
            Ok(way)
        })
        .await
    }

    async fn crossing(&self, shard: Shard, at: Seq) -> Result<Option<Crossing>, LedgerError> {
        self.call("looking for the last void", shard, move |state| {
            let voids = state.voids.iter().filter(|(_, void)| void.to <= at);
            Ok(voids.fold(None, |before, (after, void)| {
                Some(Crossing::from((*after, state.chain_before(*after)), before, void.to))
            }))
        })
        .await
    }

    async fn is_rehydrated(
        &self,
        sink: &SinkName,
        shard: Shard,
        found: Seq,
        chain: Chain,
    ) -> Result<bool, LedgerError> {
        let sink = sink.clone();
        self.call("asking whether a sink is rehydrated", shard, move |state| {
            let is_it = |way: &Rehydration| way.found == found && way.chain == chain;
            Ok(state.ways.iter().any(|(name, way, done)| *done && *name == sink && is_it(way)))
        })
        .await
    }

    async fn keep_skips(
        &self,
        sink: &SinkName,
        owner: Ownership,
        delivered: &[(Seq, Delivered)],
    ) -> Result<(), LedgerError> {
        let skips: Vec<_> = delivered.iter().map(|(seq, one)| ((sink.clone(), *one), *seq)).collect();
        self.write("keeping what a sink has delivered", owner, move |state| {
            state.skips.extend(skips);
            Ok(())
        })
        .await
    }

    async fn skips(&self, sink: &SinkName, shard: Shard, of: &[Delivered]) -> Result<HashSet<Delivered>, LedgerError> {
        let (sink, of) = (sink.clone(), of.to_vec());
        let of = if planted(Mutant::SkipsForgotten) { Vec::new() } else { of };
        self.call("asking what a sink has delivered", shard, move |state| {
            Ok(of.into_iter().filter(|one| state.skip_of(&sink, *one).is_some()).collect())
        })
        .await
    }

    async fn has_skips(&self, sink: &SinkName, shard: Shard) -> Result<bool, LedgerError> {
        let sink = sink.clone();
        self.call("asking whether a sink skips anything", shard, move |state| {
            Ok(state.skips.keys().any(|(name, _)| *name == sink))
        })
        .await
    }

    async fn forget_skips(&self, sink: &SinkName, owner: Ownership, after: Seq, upto: Seq) -> Result<(), LedgerError> {
        let sink = sink.clone();
        self.write("forgetting what a sink skips", owner, move |state| {
            let State { events, skips, .. } = state;
            for event in events.iter().filter(|event| event.seq > after && event.seq <= upto) {
                let of = Delivered::of(event);
                let is_it = |one: &Delivered| one.key == of.key && [one.replay_of, Seq::ZERO].contains(&of.replay_of);
                skips.retain(|(name, one), _| *name != sink || !is_it(one));
            }
            Ok(())
        })
        .await
    }

    async fn reclaim(
        &self,
        sink: &SinkName,
        owner: Ownership,
        way: &Rehydration,
        to: Seq,
        events: &[Seq],
    ) -> Result<(), LedgerError> {
        let (sink, way, events) = (sink.clone(), *way, events.to_vec());
        self.write("reclaiming events for a sink", owner, move |state| {
            let kept = state.ways.iter_mut().find(|(name, kept, _)| *name == sink && *kept == way);
            let Some((_, kept, _)) = kept else {
                let why = format!("it is not at {}, where its way back had come to", way.reclaimed_to);
                return Err(LedgerError::Moved { shard: owner.shard, why });
            };
            kept.reclaimed_to = to;
            for event in events.iter().filter_map(|seq| state.event(*seq).cloned()).collect::<Vec<_>>() {
                let of = event.replay.as_ref().map_or(event.seq, |replay| replay.of);
                state.replays.push((Replay { sink: sink.clone(), of }, event, None));
            }
            Ok(())
        })
        .await
    }

    async fn rehydrated(
        &self,
        sink: &SinkName,
        owner: Ownership,
        way: &Rehydration,
        _: u64,
    ) -> Result<(), LedgerError> {
        let (sink, way) = (sink.clone(), *way);
        self.write("noting that a sink is rehydrated", owner, move |state| {
            let same = |(name, kept, _): &&mut (SinkName, Rehydration, bool)| {
                *name == sink && kept.found == way.found && kept.chain == way.chain
            };
            if let Some((.., done)) = state.ways.iter_mut().find(same) {
                *done = true;
            }
            Ok(())
        })
        .await
    }
}
