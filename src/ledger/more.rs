//! What is rare in a commit and written beside the recording call, in its transaction: rejected elements, gaps, replays.

use super::statements::Statements;
use time::OffsetDateTime;

use super::database::seq_to_db;
use super::plan::{Answer, Draft, Kind, Plan, Step};
use super::streams::printable;

const REASON_BYTES: usize = 1024;

impl Draft {
    /// Whether anything of it needs more than the call.
    pub(crate) fn has_more(&self) -> bool {
        self.taken().any(|(_, step)| !step.rejected.is_empty() || step.gap.is_some())
            || self.elements.iter().any(|element| element.kind != Kind::Event)
    }

    /// Writes it. The call has given the seqs.
    pub(crate) async fn write_more(
        &self,
        connection: &mut Statements,
        shard: i16,
        plan: &Plan<'_>,
        answer: &Answer,
    ) -> Result<(), sqlx::Error> {
        let at = answer.recorded_at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        self.write_rejected(connection, shard, at).await?;
        let seqs = self.seqs(plan, answer);
        for (element, seq) in self.elements.iter().zip(seqs) {
            match element.kind {
                Kind::Event => {}
                Kind::StreamGap => {
                    if let Some(step) = element.step {
                        let step = &self.steps[step];
                        write_gap(connection, shard, step, &element.event.id, seq).await?;
                    }
                }
                Kind::SinkGap(gap) => {
                    sqlx::query!("UPDATE gaps SET seq = $2 WHERE gap_id = $1", gap, seq)
                        .execute(&mut *connection)
                        .await?;
                }
                Kind::Replay(replay) => {
                    sqlx::query!("UPDATE replays SET seq = $2, body = NULL WHERE replay_id = $1", replay, seq)
                        .execute(&mut *connection)
                        .await?;
                }
            }
        }
        Ok(())
    }

    async fn write_rejected(
        &self,
        connection: &mut Statements,
        shard: i16,
        at: OffsetDateTime,
    ) -> Result<(), sqlx::Error> {
        let (mut streams, mut reasons, mut raw) = (Vec::new(), Vec::new(), Vec::new());
        for (_, step) in self.taken() {
            for rejected in &step.rejected {
                streams.push(step.numbers.stream);
                reasons.push(printable(&rejected.reason, REASON_BYTES));
                raw.push(&rejected.raw[..]);
            }
        }
        if streams.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "INSERT INTO rejected (shard, stream_id, reason, raw, seen_at)
             SELECT $1, r.stream, r.reason, r.raw, $5
             FROM unnest($2::integer[], $3::text[], $4::bytea[]) AS r (stream, reason, raw)",
            shard,
            &streams,
            &reasons,
            &raw as &[&[u8]],
            at
        )
        .execute(connection)
        .await
        .map(drop)
    }

    /// Where every element stands now: a new one where the call put it, a known one where it was.
    fn seqs(&self, plan: &Plan<'_>, answer: &Answer) -> Vec<i64> {
        let known = answer.known();
        let fresh = self.elements.len() - known.len();
        let mut next = answer.head.unwrap_or_default() - i64::try_from(fresh).unwrap_or(0);
        (0..plan.seqs.len())
            .map(|index| {
                if let Some(known) = known.get(&index) {
                    return seq_to_db(known.seq);
                }
                next += 1;
                next
            })
            .collect()
    }
}

async fn write_gap(
    connection: &mut Statements,
    shard: i16,
    step: &Step,
    event_id: &str,
    seq: i64,
) -> Result<(), sqlx::Error> {
    let Some((gap, at)) = &step.gap else { return Ok(()) };
    sqlx::query!(
        "INSERT INTO gaps (event_id, shard, stream_id, from_position, to_position, reason, detail, at, seq)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT ON CONSTRAINT gaps_event_id_key DO NOTHING",
        event_id,
        shard,
        step.numbers.stream,
        step.from.as_str().as_bytes(),
        step.to.as_str().as_bytes(),
        gap.reason.as_str(),
        printable(&gap.detail, REASON_BYTES),
        at,
        seq
    )
    .execute(connection)
    .await
    .map(drop)
}
