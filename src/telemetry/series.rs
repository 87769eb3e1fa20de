//! The series that exist before anything happens. Each function may be called again: it changes no value that is
//! there already.

use metrics::{counter, gauge, histogram};

use super::metrics::values::{
    ATTEMPT_CLASSES, AUDIT_OUTCOMES, BUDGET_WINDOWS, CACHE_OUTCOMES, DROP_CAUSES, LEASE_OUTCOMES, LOOKUP_OUTCOMES,
    PASSTHROUGH_OUTCOMES, POLL_OUTCOMES, RECORD_RESULTS, REFRESH_OUTCOMES, SINK_OUTCOMES, SINK_STATES,
    TRANSACTION_OUTCOMES, VENDOR_APIS, VENDOR_CLASSES,
};
use super::metrics::{
    AUDIT_EVENTS_TOTAL, AUDIT_LAG_MESSAGES, BLOCKED_SECONDS_TOTAL, DEAD_LETTERS, END_TO_END_SECONDS,
    ENRICHMENT_LOOKUPS_TOTAL, ENRICHMENT_SECONDS, ENRICHMENT_WAITING, GAPS_TOTAL, KAFKA_REHYDRATIONS_TOTAL,
    KAFKA_TRANSACTION_SECONDS, KAFKA_TRANSACTIONS_TOTAL, LEDGER_BACKLOG_BYTES, LEDGER_COMMIT_SECONDS,
    LEDGER_EVENTS_TOTAL, LEDGER_VOID_SEQS_TOTAL, OAUTH_REAUTH_REQUIRED, OAUTH_REFRESHES_TOTAL, PASSTHROUGH_CACHE_BYTES,
    PASSTHROUGH_CACHE_DROPS_TOTAL, PASSTHROUGH_CACHE_ENTRIES, PASSTHROUGH_CACHE_REQUESTS_TOTAL,
    PASSTHROUGH_REQUESTS_TOTAL, PASSTHROUGH_SECONDS, SHARD_OWNED, SINK_EVENTS_TOTAL, SINK_LAG_EVENTS, SINK_LAG_SECONDS,
    SINK_STATE, SOURCE_AT_TOP, SOURCE_EVENTS_TOTAL, SOURCE_LAG_SECONDS, SOURCE_POLLS_TOTAL,
    SOURCE_RETENTION_HEADROOM_SECONDS, SOURCE_UNWANTED_TOTAL, VENDOR_BUDGET_LEASES_TOTAL, VENDOR_BUDGET_REMAINING,
    VENDOR_REQUESTS_TOTAL, WEBHOOK_ATTEMPTS_TOTAL, WEBHOOK_BREAKER_STATE,
};
use crate::config::{Config, SinkConfig, SinkKind};
use crate::event::{AccountName, GapReason, Shard, SinkName, StreamKey};

/// Of the whole configuration: its accounts, sinks and shards.
pub fn configured(config: &Config) {
    for reason in [GapReason::PositionExpired, GapReason::Sought, GapReason::BacklogHold, GapReason::Retention] {
        counter!(GAPS_TOTAL, "reason" => reason.as_str()).increment(0);
    }
    for stage in ["source", "ledger"] {
        counter!(BLOCKED_SECONDS_TOTAL, "stage" => stage).increment(0);
    }
    gauge!(PASSTHROUGH_CACHE_BYTES).increment(0.0);
    gauge!(PASSTHROUGH_CACHE_ENTRIES).increment(0.0);
    for name in config.accounts.keys() {
        account(name);
    }
    for number in 0..config.ledger.shards {
        shard(Shard(number));
    }
    for (name, sink) in &config.sinks {
        self::sink(name, &sink.kind);
        enrichment(name, sink, config.ledger.shards);
        for number in 0..config.ledger.shards {
            sink_shard(name, &sink.kind, Shard(number));
        }
    }
}

/// Of an account.
pub fn account(name: &AccountName) {
    let name = || name.to_string();
    for result in RECORD_RESULTS {
        counter!(LEDGER_EVENTS_TOTAL, "account" => name(), "result" => result).increment(0);
    }
    for (api, class) in VENDOR_APIS.iter().flat_map(|api| VENDOR_CLASSES.map(|class| (*api, class))) {
        counter!(VENDOR_REQUESTS_TOTAL, "account" => name(), "api" => api, "status_class" => class).increment(0);
    }
    for outcome in PASSTHROUGH_OUTCOMES {
        counter!(PASSTHROUGH_REQUESTS_TOTAL, "account" => name(), "outcome" => outcome).increment(0);
    }
    drop(histogram!(PASSTHROUGH_SECONDS, "account" => name()));
    for outcome in CACHE_OUTCOMES {
        counter!(PASSTHROUGH_CACHE_REQUESTS_TOTAL, "account" => name(), "outcome" => outcome).increment(0);
    }
    for cause in DROP_CAUSES {
        counter!(PASSTHROUGH_CACHE_DROPS_TOTAL, "account" => name(), "cause" => cause).increment(0);
    }
    for outcome in LEASE_OUTCOMES {
        counter!(VENDOR_BUDGET_LEASES_TOTAL, "account" => name(), "outcome" => outcome).increment(0);
    }
    for outcome in REFRESH_OUTCOMES {
        counter!(OAUTH_REFRESHES_TOTAL, "account" => name(), "outcome" => outcome).increment(0);
    }
    gauge!(OAUTH_REAUTH_REQUIRED, "account" => name()).increment(0.0);
    for window in BUDGET_WINDOWS {
        gauge!(VENDOR_BUDGET_REMAINING, "account" => name(), "window" => window).increment(0.0);
    }
}

/// Of a stream, when the source first knows it.
pub fn stream(key: &StreamKey) {
    let labels = || [("account", key.account.to_string()), ("stream", key.stream.to_string())];
    for outcome in POLL_OUTCOMES {
        let [account, stream] = labels();
        counter!(SOURCE_POLLS_TOTAL, &[account, stream, ("outcome", outcome.to_owned())]).increment(0);
    }
    counter!(SOURCE_EVENTS_TOTAL, &labels()).increment(0);
    counter!(SOURCE_UNWANTED_TOTAL, &labels()).increment(0);
    gauge!(SOURCE_LAG_SECONDS, &labels()).increment(0.0);
    gauge!(SOURCE_RETENTION_HEADROOM_SECONDS, &labels()).increment(0.0);
    gauge!(SOURCE_AT_TOP, &labels()).increment(0.0);
}

/// Of a shard.
pub fn shard(shard: Shard) {
    gauge!(SHARD_OWNED, "shard" => shard.to_string()).increment(0.0);
    gauge!(LEDGER_BACKLOG_BYTES, "shard" => shard.to_string()).increment(0.0);
    counter!(LEDGER_VOID_SEQS_TOTAL, "shard" => shard.to_string()).increment(0);
    drop(histogram!(LEDGER_COMMIT_SECONDS, "shard" => shard.to_string()));
}

/// Of a sink.
pub fn sink(name: &SinkName, kind: &SinkKind) {
    let sink = || name.to_string();
    for outcome in SINK_OUTCOMES {
        counter!(SINK_EVENTS_TOTAL, "sink" => sink(), "outcome" => outcome).increment(0);
    }
    gauge!(DEAD_LETTERS, "sink" => sink()).increment(0.0);
    drop(histogram!(END_TO_END_SECONDS, "sink" => sink()));
    match kind {
        SinkKind::Kafka(_) => {
            for outcome in AUDIT_OUTCOMES {
                counter!(AUDIT_EVENTS_TOTAL, "sink" => sink(), "outcome" => outcome).increment(0);
            }
            for outcome in TRANSACTION_OUTCOMES {
                counter!(KAFKA_TRANSACTIONS_TOTAL, "sink" => sink(), "outcome" => outcome).increment(0);
            }
            counter!(KAFKA_REHYDRATIONS_TOTAL, "sink" => sink()).increment(0);
            drop(histogram!(KAFKA_TRANSACTION_SECONDS, "sink" => sink()));
        }
        SinkKind::Webhook(_) => {
            for class in ATTEMPT_CLASSES {
                counter!(WEBHOOK_ATTEMPTS_TOTAL, "sink" => sink(), "status_class" => class).increment(0);
            }
        }
    }
}

/// Of a sink that looks records up.
fn enrichment(name: &SinkName, sink: &SinkConfig, shards: u16) {
    if sink.enrich.is_empty() {
        return;
    }
    let name = || name.to_string();
    for outcome in LOOKUP_OUTCOMES {
        counter!(ENRICHMENT_LOOKUPS_TOTAL, "sink" => name(), "outcome" => outcome).increment(0);
    }
    drop(histogram!(ENRICHMENT_SECONDS, "sink" => name()));
    for shard in 0..shards {
        gauge!(ENRICHMENT_WAITING, "sink" => name(), "shard" => shard.to_string()).increment(0.0);
    }
}

/// Of a sink in a shard.
pub fn sink_shard(name: &SinkName, kind: &SinkKind, shard: Shard) {
    let labels = || [("sink", name.to_string()), ("shard", shard.to_string())];
    gauge!(SINK_LAG_EVENTS, &labels()).increment(0.0);
    gauge!(SINK_LAG_SECONDS, &labels()).increment(0.0);
    for state in SINK_STATES {
        let [sink, shard] = labels();
        gauge!(SINK_STATE, &[sink, shard, ("state", state.to_owned())]).increment(0.0);
    }
    match kind {
        SinkKind::Kafka(_) => gauge!(AUDIT_LAG_MESSAGES, &labels()).increment(0.0),
        SinkKind::Webhook(_) => gauge!(WEBHOOK_BREAKER_STATE, &labels()).increment(0.0),
    }
}
