//! The way back of a Kafka sink that has delivered what the ledger has lost (design.md section 5).
//!
//! A restored backup, or a fail-over that lost commits, leaves Kafka ahead: messages stand there under seqs whose events
//! the ledger does not know. Those seqs are never given again (INV-18): they become a *void*, the head moves to its end, and the
//! chain goes on from the chain that the furthest sink has there, so that the messages in Kafka stay one unbroken chain.
//! The events themselves come again from the source, whose positions were rewound with the ledger, under new seqs; each
//! sink skips those that it had delivered.
//!
//! What is skipped is looked up by its key, one look for each event, because a restored database has no statistics yet: a
//! join that the server may turn around would compare every event with every skip.
//!
//! Everything is written under the shard row's lock and epoch (INV-6), and again without effect after a crash.

use std::collections::HashSet;

use uuid::Uuid;

use super::database::{Session, failed, seq_from_db, seq_to_db, within};
use super::open::Ledger;
use super::sinks::fenced;
use crate::event::ports::{Crossing, Delivered, LedgerError, Ownership, RehydrateBook, Rehydration};
use crate::event::{Chain, DedupeKey, Seq, Shard, SinkName};

/// Events of one statement that forgets skips.
const FORGOTTEN_AT_ONCE: u64 = 50_000;

/// A shard under its lock.
struct Locked {
    head: Seq,
    chain: Vec<u8>,
    oldest: Seq,
    bytes: i64,
}

async fn lock(ledger: &Ledger, session: &mut Session, owner: Ownership) -> Result<Locked, LedgerError> {
    let doing = "locking a shard";
    let shard = ledger.known_shard(owner.shard)?;
    let row = sqlx::query!(
        r#"SELECT head, chain, oldest, bytes, standpipe_home() AS "home!" FROM shards
         WHERE shard = $1 AND epoch = $2 FOR NO KEY UPDATE"#,
        shard,
        owner.epoch.0
    )
    .fetch_optional(&mut **session)
    .await
    .map_err(failed(doing))?
    .ok_or_else(|| fenced(owner))?;
    ledger.at_home(owner.shard, &row.home)?;
    Ok(Locked { head: seq_from_db(row.head), chain: row.chain, oldest: seq_from_db(row.oldest), bytes: row.bytes })
}

/// Marks `after + 1 ..= to` as void and puts the head at its end, with the chain that Kafka has there.
async fn mark_void(
    session: &mut Session,
    shard: i16,
    locked: &Locked,
    to: Seq,
    chain: &Chain,
) -> Result<(), LedgerError> {
    let doing = "marking a void";
    sqlx::query!(
        "INSERT INTO voids (shard, after_seq, chain_before, to_seq, chain) VALUES ($1, $2, $3, $4, $5)",
        shard,
        seq_to_db(locked.head),
        &locked.chain,
        seq_to_db(to),
        &chain.0[..]
    )
    .execute(&mut **session)
    .await
    .map_err(failed(doing))?;
    sqlx::query!(
        "INSERT INTO chain_marks (shard, seq, chain, bytes) VALUES ($1, $2, $3, $4)",
        shard,
        seq_to_db(to),
        &chain.0[..],
        locked.bytes
    )
    .execute(&mut **session)
    .await
    .map_err(failed(doing))?;
    sqlx::query!("UPDATE shards SET head = $2, chain = $3 WHERE shard = $1", shard, seq_to_db(to), &chain.0[..])
        .execute(&mut **session)
        .await
        .map_err(failed(doing))?;
    metrics::counter!(crate::telemetry::metrics::LEDGER_VOID_SEQS_TOTAL, "shard" => shard.to_string())
        .increment(to.since(locked.head));
    tracing::warn!(
        shard,
        from = %locked.head.next(),
        %to,
        "the ledger was rewound behind Kafka: these seqs are void, and what they were is taken from the source again"
    );
    Ok(())
}

impl Ledger {
    /// What is kept of a way back that was begun before.
    async fn begun(
        &self,
        session: &mut Session,
        sink: &SinkName,
        shard: i16,
        found: Seq,
        chain: &Chain,
    ) -> Result<Option<Rehydration>, LedgerError> {
        let doing = "reading a rehydration";
        let row = sqlx::query!(
            "SELECT base, until, reclaimed_to, goes_on FROM rehydrations
             WHERE sink = $1 AND shard = $2 AND seq = $3 AND chain = $4",
            sink.as_str(),
            shard,
            seq_to_db(found),
            &chain.0[..]
        )
        .fetch_optional(&mut **session)
        .await
        .map_err(failed(doing))?;
        let Some(row) = row else { return Ok(None) };
        let goes_on = seq_from_db(row.goes_on);
        let Some(goes_on_chain) = self.recompute(session, shard, goes_on).await? else {
            let why = format!("the chain at seq {goes_on}, where the sink is to go on, is no longer kept");
            return Err(LedgerError::Refused { doing, why });
        };
        Ok(Some(Rehydration {
            found,
            chain: *chain,
            base: seq_from_db(row.base),
            until: seq_from_db(row.until),
            reclaimed_to: seq_from_db(row.reclaimed_to),
            goes_on,
            goes_on_chain,
        }))
    }
}

impl RehydrateBook for Ledger {
    async fn rewound(
        &self,
        sink: &SinkName,
        owner: Ownership,
        found: Seq,
        chain: Chain,
        base: Seq,
    ) -> Result<Rehydration, LedgerError> {
        let doing = "rehydrating a sink";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            let locked = lock(self, &mut session, owner).await?;
            if let Some(begun) = self.begun(&mut session, sink, shard, found, &chain).await? {
                session.done().await.map_err(failed(doing))?;
                return Ok(begun);
            }
            let goes_on = if found > locked.head {
                mark_void(&mut session, shard, &locked, found, &chain).await?;
                found
            } else {
                let inside = sqlx::query_scalar!(
                    "SELECT to_seq FROM voids WHERE shard = $1 AND after_seq < $2 AND to_seq >= $2",
                    shard,
                    seq_to_db(found)
                )
                .fetch_optional(&mut *session)
                .await
                .map_err(failed(doing))?;
                inside.map_or(found, seq_from_db)
            };
            let base = base.max(Seq(locked.oldest.0.saturating_sub(1)));
            // The last event under a seq that the sink has used: there is nothing to reclaim in a void.
            let last = sqlx::query_scalar!(
                "SELECT seq FROM events WHERE shard = $1 AND seq <= $2 ORDER BY seq DESC LIMIT 1",
                shard,
                seq_to_db(found.min(locked.head))
            )
            .fetch_optional(&mut *session)
            .await
            .map_err(failed(doing))?;
            let until = last.map_or(base, seq_from_db);
            let base = base.min(until);
            sqlx::query!(
                "INSERT INTO rehydrations (sink, shard, seq, chain, base, until, reclaimed_to, goes_on)
                 VALUES ($1, $2, $3, $4, $5, $6, $5, $7)",
                sink.as_str(),
                shard,
                seq_to_db(found),
                &chain.0[..],
                seq_to_db(base),
                seq_to_db(until),
                seq_to_db(goes_on)
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            let way = self.begun(&mut session, sink, shard, found, &chain).await?;
            session.done().await.map_err(failed(doing))?;
            way.ok_or_else(|| LedgerError::Refused { doing, why: "what was just written is not there".to_owned() })
        })
        .await
    }

    async fn crossing(&self, shard: Shard, at: Seq) -> Result<Option<Crossing>, LedgerError> {
        let doing = "looking for the last void";
        let shard = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!(
                "SELECT after_seq, chain_before, to_seq FROM voids WHERE shard = $1 AND to_seq <= $2 ORDER BY after_seq",
                shard,
                seq_to_db(at)
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(rows.into_iter().fold(None, |before, row| {
                // Of a void that an older program marked no cursor tells: who came across it is rehydrated once.
                let chain = Chain(row.chain_before.try_into().unwrap_or_default());
                Some(Crossing::from((seq_from_db(row.after_seq), chain), before, seq_from_db(row.to_seq)))
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
        let doing = "asking whether a sink is rehydrated";
        let shard = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let known = sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT FROM rehydrations
                       WHERE sink = $1 AND shard = $2 AND seq = $3 AND chain = $4 AND done_at IS NOT NULL) AS "known!""#,
                sink.as_str(),
                shard,
                seq_to_db(found),
                &chain.0[..]
            )
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(known)
        })
        .await
    }

    async fn keep_skips(
        &self,
        sink: &SinkName,
        owner: Ownership,
        delivered: &[(Seq, Delivered)],
    ) -> Result<(), LedgerError> {
        let doing = "keeping what a sink has delivered";
        let shard = self.known_shard(owner.shard)?;
        let (keys, replays) = columns(delivered.iter().map(|(_, one)| one));
        let seqs: Vec<i64> = delivered.iter().map(|(seq, _)| seq_to_db(*seq)).collect();
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            sqlx::query!(
                "INSERT INTO skips (sink, shard, key, replay_of, at_seq)
                 SELECT DISTINCT ON (d.key, d.replay_of) $1, $2::smallint, d.key, d.replay_of, d.at_seq
                 FROM unnest($3::uuid[], $4::bigint[], $5::bigint[]) AS d (key, replay_of, at_seq)
                 ORDER BY d.key, d.replay_of, d.at_seq DESC
                 ON CONFLICT ON CONSTRAINT skips_pkey DO UPDATE SET at_seq = excluded.at_seq",
                sink.as_str(),
                shard,
                &keys,
                &replays,
                &seqs
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }

    async fn skips(&self, sink: &SinkName, shard: Shard, of: &[Delivered]) -> Result<HashSet<Delivered>, LedgerError> {
        let doing = "asking what a sink has delivered";
        let shard = self.known_shard(shard)?;
        let (keys, replays) = columns(of.iter());
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let rows = sqlx::query!(
                r#"SELECT d.key AS "key!", d.replay_of AS "replay_of!"
                 FROM unnest($3::uuid[], $4::bigint[]) AS d (key, replay_of)
                 CROSS JOIN LATERAL (SELECT FROM skips
                     WHERE sink = $1 AND shard = $2 AND key = d.key AND d.replay_of IN (replay_of, 0) LIMIT 1) s"#,
                sink.as_str(),
                shard,
                &keys,
                &replays
            )
            .fetch_all(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            let rows = rows.into_iter();
            Ok(rows.map(|row| Delivered { key: DedupeKey(row.key), replay_of: seq_from_db(row.replay_of) }).collect())
        })
        .await
    }

    async fn has_skips(&self, sink: &SinkName, shard: Shard) -> Result<bool, LedgerError> {
        let doing = "asking whether a sink skips anything";
        let shard = self.known_shard(shard)?;
        within(doing, async {
            let mut session = self.0.db.session().await.map_err(failed(doing))?;
            let any = sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT FROM skips WHERE sink = $1 AND shard = $2) AS "any!""#,
                sink.as_str(),
                shard
            )
            .fetch_one(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))?;
            Ok(any)
        })
        .await
    }

    async fn forget_skips(&self, sink: &SinkName, owner: Ownership, after: Seq, upto: Seq) -> Result<(), LedgerError> {
        let doing = "forgetting what a sink skips";
        let shard = self.known_shard(owner.shard)?;
        let mut from = after;
        while from < upto {
            let to = Seq(from.0 + FORGOTTEN_AT_ONCE).min(upto);
            within(doing, async {
                let mut session = self.0.db.begin().await.map_err(failed(doing))?;
                self.own(&mut session, owner, doing).await?;
                sqlx::query!(
                    r#"DELETE FROM skips WHERE ctid = ANY (ARRAY(
                           SELECT s.ctid FROM events e JOIN accounts a USING (account_id)
                           CROSS JOIN LATERAL (SELECT ctid FROM skips s
                               WHERE s.sink = $1 AND s.shard = $2 AND coalesce(e.replay_of, 0) IN (s.replay_of, 0)
                                   AND s.key = encode(substring(sha256(convert_to(a.name, 'UTF8') || '\x00'::bytea
                                       || convert_to(e.event_id, 'UTF8')) FOR 16), 'hex')::uuid) s
                           WHERE e.shard = $2 AND e.seq > $3 AND e.seq <= $4))"#,
                    sink.as_str(),
                    shard,
                    seq_to_db(from),
                    seq_to_db(to)
                )
                .execute(&mut *session)
                .await
                .map_err(failed(doing))?;
                session.done().await.map_err(failed(doing))
            })
            .await?;
            from = to;
        }
        Ok(())
    }

    async fn reclaim(
        &self,
        sink: &SinkName,
        owner: Ownership,
        way: &Rehydration,
        to: Seq,
        events: &[Seq],
    ) -> Result<(), LedgerError> {
        let doing = "reclaiming events for a sink";
        let shard = self.known_shard(owner.shard)?;
        let seqs: Vec<i64> = events.iter().copied().map(seq_to_db).collect();
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            let noted = sqlx::query!(
                "UPDATE rehydrations SET reclaimed_to = $6, reclaimed = reclaimed + $7
                 WHERE sink = $1 AND shard = $2 AND seq = $3 AND chain = $4 AND reclaimed_to = $5",
                sink.as_str(),
                shard,
                seq_to_db(way.found),
                &way.chain.0[..],
                seq_to_db(way.reclaimed_to),
                seq_to_db(to),
                i64::try_from(events.len()).unwrap_or(i64::MAX)
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            if noted.rows_affected() != 1 {
                let why = format!("it is not at {}, where its way back had come to", way.reclaimed_to);
                return Err(LedgerError::Moved { shard: owner.shard, why });
            }
            sqlx::query!(
                "INSERT INTO replays (shard, of_seq, sink, account_id, type_id, occurred_at, content_hash, event_id,
                    record_id, body)
                 SELECT e.shard, coalesce(e.replay_of, e.seq), $2, e.account_id, e.type_id, e.occurred_at, e.content_hash,
                    e.event_id, e.record_id, e.body
                 FROM events e WHERE e.shard = $1 AND e.seq = ANY ($3) ORDER BY e.seq",
                shard,
                sink.as_str(),
                &seqs
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }

    async fn rehydrated(
        &self,
        sink: &SinkName,
        owner: Ownership,
        way: &Rehydration,
        skips: u64,
    ) -> Result<(), LedgerError> {
        let doing = "noting that a sink is rehydrated";
        let shard = self.known_shard(owner.shard)?;
        within(doing, async {
            let mut session = self.0.db.begin().await.map_err(failed(doing))?;
            self.own(&mut session, owner, doing).await?;
            sqlx::query!(
                "UPDATE rehydrations SET done_at = clock_timestamp(), skips = $5
                 WHERE sink = $1 AND shard = $2 AND seq = $3 AND chain = $4",
                sink.as_str(),
                shard,
                seq_to_db(way.found),
                &way.chain.0[..],
                i64::try_from(skips).unwrap_or(i64::MAX)
            )
            .execute(&mut *session)
            .await
            .map_err(failed(doing))?;
            session.done().await.map_err(failed(doing))
        })
        .await
    }
}

/// One array a column.
fn columns<'d>(delivered: impl Iterator<Item = &'d Delivered>) -> (Vec<Uuid>, Vec<i64>) {
    delivered.map(|one| (one.key.0, seq_to_db(one.replay_of))).unzip()
}
