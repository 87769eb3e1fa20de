//! Sending events again: wishes for it, which the owner's next commits make rows of, each under a new seq.

use serde::Serialize;

use super::super::database::{failed, seq_from_db, seq_to_db, within};
use super::super::open::Ledger;
use crate::event::ports::LedgerError;
use crate::event::{Seq, Shard, SinkName};

/// More than this is not replayed at once.
pub const MAX_REPLAYS: u64 = 100_000;
/// No seq is beyond this: the ledger counts in signed 64 bits.
pub const MAX_SEQ: u64 = i64::MAX as u64;
/// So many seqs go into one statement, bodies and all.
const AT_ONCE: u64 = 500;

/// Seqs, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Seqs {
    /// The first.
    pub from: Seq,
    /// The last.
    pub to: Seq,
}

impl Seqs {
    /// One alone.
    #[must_use]
    pub const fn one(seq: Seq) -> Self {
        Self { from: seq, to: seq }
    }

    /// In chunks of at most [`AT_ONCE`].
    fn chunks(self) -> impl Iterator<Item = Self> {
        let (from, to) = (self.from.0, self.to.0);
        (from..=to)
            .step_by(usize::try_from(AT_ONCE).unwrap_or(usize::MAX))
            .map(move |from| Self { from: Seq(from), to: Seq(to.min(from.saturating_add(AT_ONCE - 1))) })
    }
}

/// What became of a wish to send seqs again.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// So many events are sent again.
    pub replayed: u64,
    /// So many rows in the range repeat an event for another sink alone; they are left out.
    pub for_another_sink: u64,
    /// What is not kept, in order.
    pub not_kept: Vec<Seqs>,
    /// Everything up to here is settled; none before the first answer. It lies before the end of the range where the
    /// ledger failed in between.
    #[serde(skip)]
    pub settled: Option<Seq>,
}

/// A seq that is kept, and whether it is sent again.
struct Kept {
    seq: i64,
    taken: bool,
}

impl Replayed {
    /// Counts what was kept of `chunk`, in order.
    fn count(&mut self, chunk: Seqs, kept: &[Kept]) {
        let mut due = chunk.from;
        for row in kept {
            let seq = seq_from_db(row.seq);
            self.miss(due, seq);
            if row.taken {
                self.replayed += 1;
            } else {
                self.for_another_sink += 1;
            }
            due = seq.next();
        }
        self.miss(due, chunk.to.next());
        self.settled = Some(chunk.to);
    }

    /// Nothing is kept from `due` to before `found`.
    fn miss(&mut self, due: Seq, found: Seq) {
        if due >= found {
            return;
        }
        let to = Seq(found.0 - 1);
        match self.not_kept.last_mut() {
            Some(last) if last.to.next() == due => last.to = to,
            _ => self.not_kept.push(Seqs { from: due, to }),
        }
    }
}

impl Ledger {
    /// Wishes that one sink gets the events of `seqs` again, a bounded statement for each chunk of them, and counts into
    /// `replayed` what became of it: when it fails, what was wished before stays wished. Rows that repeat an event for
    /// another sink are left out, but for one that is asked for alone.
    pub async fn wish_replays(
        &self,
        sink: &SinkName,
        shard: Shard,
        seqs: Seqs,
        replayed: &mut Replayed,
    ) -> Result<(), LedgerError> {
        let doing = "wishing for replays";
        let number = self.known_shard(shard)?;
        for chunk in seqs.chunks() {
            let kept = within(doing, async {
                let mut session = self.0.db.session().await.map_err(failed(doing))?;
                // Both parts see the same snapshot, so that what is counted is what is wished.
                let kept = sqlx::query_as!(
                    Kept,
                    r#"WITH wished AS (
                           INSERT INTO replays (shard, of_seq, sink, account_id, type_id, occurred_at, content_hash,
                               event_id, record_id, body)
                           SELECT e.shard, coalesce(e.replay_of, e.seq), $4, e.account_id, e.type_id, e.occurred_at,
                               e.content_hash, e.event_id, e.record_id, e.body
                           FROM events e
                           WHERE e.shard = $1 AND e.seq BETWEEN $2 AND $3
                               AND (coalesce(e.replay_sink, $4) = $4 OR $5)
                           ORDER BY e.seq)
                       SELECT e.seq, (coalesce(e.replay_sink, $4) = $4 OR $5) AS "taken!"
                       FROM events e WHERE e.shard = $1 AND e.seq BETWEEN $2 AND $3 ORDER BY e.seq"#,
                    number,
                    seq_to_db(chunk.from),
                    seq_to_db(chunk.to),
                    sink.as_str(),
                    seqs.from == seqs.to
                )
                .fetch_all(&mut *session)
                .await
                .map_err(failed(doing))?;
                session.done().await.map_err(failed(doing))?;
                Ok(kept)
            })
            .await?;
            replayed.count(chunk, &kept);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seqs(from: u64, to: u64) -> Seqs {
        Seqs { from: Seq(from), to: Seq(to) }
    }

    #[test]
    fn chunks_cover_the_range_once() {
        assert_eq!(seqs(7, 7).chunks().collect::<Vec<_>>(), [Seqs::one(Seq(7))]);
        assert_eq!(seqs(1, AT_ONCE + 1).chunks().collect::<Vec<_>>(), [seqs(1, AT_ONCE), Seqs::one(Seq(AT_ONCE + 1))]);
        let last = seqs(MAX_SEQ - 1, MAX_SEQ);
        assert_eq!(last.chunks().collect::<Vec<_>>(), [last]);
    }

    proptest! {
        /// However it falls into chunks: every seq is either counted or in exactly one range, and ranges never touch.
        #[test]
        fn what_is_not_kept_is_named_by_whole_ranges(kept in proptest::collection::vec(any::<Option<bool>>(), 1..60), chunk in 1..20_usize) {
            let mut replayed = Replayed::default();
            let rows: Vec<(u64, Option<bool>)> = (1..).zip(kept.iter().copied()).collect();
            for part in rows.chunks(chunk) {
                let range = seqs(part[0].0, part[part.len() - 1].0);
                let kept = part.iter().filter_map(|(seq, taken)| Some(Kept { seq: i64::try_from(*seq).unwrap(), taken: (*taken)? }));
                replayed.count(range, &kept.collect::<Vec<_>>());
            }
            prop_assert_eq!(replayed.replayed, kept.iter().filter(|taken| **taken == Some(true)).count() as u64);
            prop_assert_eq!(replayed.for_another_sink, kept.iter().filter(|taken| **taken == Some(false)).count() as u64);
            let missed: Vec<u64> = replayed.not_kept.iter().flat_map(|range| range.from.0..=range.to.0).collect();
            let expected: Vec<u64> = rows.iter().filter(|(_, taken)| taken.is_none()).map(|(seq, _)| *seq).collect();
            prop_assert_eq!(missed, expected);
            prop_assert!(replayed.not_kept.windows(2).all(|pair| pair[0].to.next() < pair[1].from));
        }
    }
}
