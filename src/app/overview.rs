//! How things stand, for `status` and the console: one shape, so that both say the same.

use std::collections::BTreeMap;

use crate::clock::Clock;
use crate::config::{Auth, Config, SinkKind};
use crate::console::{
    AuditLine, GapLine, GrantLine, Ledger as LedgerLine, Overview, RehydrationLine, ShardLine, SinkLine, StreamLine,
    VoidLine,
};
use crate::event::ports::LedgerError;
use crate::ledger::{GrantStatus, Ledger};

/// More gaps than this are for `gaps list`.
const GAPS: u32 = 100;
const REHYDRATIONS: u32 = 20;

/// Looks everything up.
pub async fn look(config: &Config, ledger: &Ledger, clock: &Clock) -> Result<Overview, LedgerError> {
    let now = clock.now();
    let schema = ledger.schema_row().await?;
    let shards = ledger.shard_rows().await?;
    let voids = ledger.void_rows().await?;
    let seconds = |since: time::OffsetDateTime| (now - since).as_seconds_f64().max(0.0);
    let history: BTreeMap<&str, f64> =
        config.accounts.iter().map(|(name, account)| (name.as_str(), account.history.as_secs_f64())).collect();
    let streams = ledger.stream_rows().await?.into_iter().map(|row| {
        let age = seconds(row.position_at);
        StreamLine {
            headroom_seconds: history.get(row.account.as_str()).map(|history| (history - age).max(0.0)),
            // At the top there is nothing to be behind of; else the position's age is the best that is known.
            lag_seconds: Some(if row.top { 0.0 } else { age }),
            account: row.account,
            stream: row.stream,
            state: row.state,
            position_at: row.position_at,
            top: row.top,
        }
    });
    let sinks = ledger.sink_rows().await?.into_iter().map(|row| {
        let configured = config.sinks.get(row.sink.as_str());
        SinkLine {
            kind: configured.map_or("-", |sink| sink.kind.as_str()).to_owned(),
            promise: match configured.map(|sink| &sink.kind) {
                Some(SinkKind::Kafka(_)) => "exactly once".to_owned(),
                Some(SinkKind::Webhook(_)) => "at least once".to_owned(),
                None => "none: not configured; `standpipe sinks forget` ends it".to_owned(),
            },
            state: if configured.is_some() { row.state } else { "not configured".to_owned() },
            sink: row.sink,
            shard: row.shard.0,
            cursor: row.cursor.map(|seq| seq.0),
            lag_events: row.lag_events,
            lag_seconds: Some(row.waiting_since.map_or(0.0, seconds)),
            dead_letters: row.dead_letters,
            audit: row.audit.map(|audit| AuditLine {
                judged: audit.judged,
                found: audit.found,
                finding: audit.finding,
                at: audit.at,
                error: audit.error,
            }),
            error: row.error,
        }
    });
    let gaps = ledger.gap_rows(GAPS).await?.into_iter().map(|row| GapLine {
        of: match (&row.account, &row.stream, &row.sink) {
            (Some(account), Some(stream), _) => format!("{account}/{stream}"),
            (_, _, Some(sink)) => sink.clone(),
            _ => String::new(),
        },
        reason: row.reason,
        range: format!("{} → {}", row.from, row.to),
        at: row.at,
    });
    let rehydrations = ledger.rehydration_rows(REHYDRATIONS).await?.into_iter().map(|row| RehydrationLine {
        sink: row.sink,
        shard: row.shard.0,
        found: row.found.0,
        goes_on: row.goes_on.0,
        skips: row.skips,
        reclaimed: row.reclaimed,
        at: row.at,
        done_at: row.done_at,
    });
    Ok(Overview {
        deployment: config.deployment.clone(),
        at: now,
        notice: None,
        reasons: Vec::new(),
        ledger: LedgerLine { id: schema.id.to_string(), schema: schema.schema },
        shards: shards
            .into_iter()
            .map(|row| ShardLine {
                shard: row.shard.0,
                owner: row.owner.map(|owner| owner.to_string()),
                epoch: row.epoch,
                head: row.head.0,
                voids: voids
                    .iter()
                    .filter(|void| void.shard == row.shard)
                    .map(|void| VoidLine { from: void.from.0, to: void.to.0, at: void.at })
                    .collect(),
            })
            .collect(),
        grants: grants(config, ledger.grant_rows().await?),
        streams: streams.collect(),
        sinks: sinks.collect(),
        gaps: gaps.collect(),
        rehydrations: rehydrations.collect(),
        replica: None,
        events: Vec::new(),
    })
}

/// Every account that is authorized by OAuth, whether it has a grant yet or not.
fn grants(config: &Config, mut kept: Vec<GrantStatus>) -> Vec<GrantLine> {
    let of_oauth = config.accounts.iter().filter(|(_, account)| matches!(account.auth, Auth::OAuth { .. }));
    let lines = of_oauth.map(|(name, _)| {
        let at = kept.iter().position(|row| row.account == name.as_str());
        grant(name.as_str(), at.map(|at| kept.swap_remove(at)))
    });
    lines.collect()
}

fn grant(account: &str, kept: Option<GrantStatus>) -> GrantLine {
    let (state, error) = match &kept {
        Some(GrantStatus { refused: Some(why), .. }) => {
            let error = format!("{why}; authorize it anew: `standpipe accounts authorize {account}`");
            ("reauth_required", Some(error))
        }
        Some(GrantStatus { kept_at: Some(_), .. }) => ("ok", None),
        _ => ("none", None),
    };
    let (renewed_at, expires_at, refused_at) =
        kept.map_or((None, None, None), |kept| (kept.kept_at, kept.expires_at, kept.refused_at));
    GrantLine { account: account.to_owned(), state, renewed_at, expires_at, refused_at, error }
}
