use super::database::{failed, within};
use super::open::Ledger;
use super::streams::printable;
use crate::event::SinkName;
use crate::event::ports::{AuditBook, AuditNote, LedgerError, Ownership};

const TEXT_BYTES: usize = 1024;

impl AuditBook for Ledger {
    async fn audited(&self, sink: &SinkName, owner: Ownership, note: &AuditNote) -> Result<(), LedgerError> {
        let doing = "noting what the audit found";
        let shard = self.known_shard(owner.shard)?;
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let finding = note.finding.as_deref().map(|text| printable(text, TEXT_BYTES));
        let error = note.error.as_deref().map(|text| printable(text, TEXT_BYTES));
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            // Who is not the owner any more writes nothing, and need not know: the audit ends with the other stages.
            sqlx::query!(
                "INSERT INTO audits (sink, shard, judged, found, finding, found_at, error)
                 SELECT k.sink, k.shard, $4, $5, $6, CASE WHEN $6::text IS NOT NULL THEN clock_timestamp() END, $7
                 FROM sinks k JOIN shards h ON h.shard = k.shard AND h.epoch = $3
                 WHERE k.sink = $1 AND k.shard = $2
                 ON CONFLICT ON CONSTRAINT audits_pkey DO UPDATE SET at = clock_timestamp(),
                    judged = audits.judged + excluded.judged, found = audits.found + excluded.found,
                    finding = coalesce(excluded.finding, audits.finding),
                    found_at = coalesce(excluded.found_at, audits.found_at), error = excluded.error",
                sink.as_str(),
                shard,
                owner.epoch.0,
                count(note.judged),
                count(note.found),
                finding,
                error
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }
}
