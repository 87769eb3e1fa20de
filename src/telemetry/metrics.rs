//! Every metric of the program, declared once: name, kind, help, and its buckets (design.md section 10).
//!
//! Names are a contract: a snapshot test holds them. Labels are few (account, stream, sink, shard, outcome, status class),
//! never an id or a URL. Values are kept as they change, never computed by scanning a table at scrape.
//!
//! A counter of the crate `metrics` is a whole number. One whose name ends in `_seconds_total` therefore counts
//! nanoseconds, and only [`recorder`](super::recorder) writes it in seconds, exactly: use [`add_seconds`].

use std::time::Duration;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Seconds, with [`SECONDS_BUCKETS`].
    Histogram,
}

impl Kind {
    /// Prometheus' word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One declared metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its full name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its label names.
    pub labels: &'static [&'static str],
    /// One sentence for people.
    pub help: &'static str,
}

/// The upper bounds of every histogram, in seconds: 1 ms to 2 min.
pub const SECONDS_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// The values of labels that are known ahead: their series exist from the start.
pub mod values {
    /// `outcome` of `source_polls_total`.
    pub const POLL_OUTCOMES: [&str; 5] = ["page", "empty", "throttled", "error", "gone"];
    /// `result` of `ledger_events_total`.
    pub const RECORD_RESULTS: [&str; 5] = ["new", "duplicate", "conflicting", "resequenced", "rejected"];
    /// `outcome` of `sink_events_total`.
    pub const SINK_OUTCOMES: [&str; 5] = ["delivered", "filtered", "skipped", "truncated", "dead-letter"];
    /// `state` of `sink_state`.
    pub const SINK_STATES: [&str; 6] = ["starting", "running", "retrying", "paused", "disabled", "halted"];
    /// `outcome` of `enrichment_lookups_total`.
    pub const LOOKUP_OUTCOMES: [&str; 4] = ["stream", "cache", "vendor", "missed"];
    /// `outcome` of `kafka_transactions_total`.
    pub const TRANSACTION_OUTCOMES: [&str; 2] = ["committed", "discarded"];
    /// `outcome` of `audit_events_total`.
    pub const AUDIT_OUTCOMES: [&str; 6] = ["good", "unjudged", "missing", "duplicate", "reordered", "altered"];
    /// `status_class` of `webhook_attempts_total`.
    pub const ATTEMPT_CLASSES: [&str; 7] = ["2xx", "3xx", "4xx", "5xx", "timeout", "refused", "error"];
    /// `status_class` of `vendor_requests_total`.
    pub const VENDOR_CLASSES: [&str; 6] = ["2xx", "3xx", "4xx", "5xx", "timeout", "error"];
    /// `api` of `vendor_requests_total`.
    pub const VENDOR_APIS: [&str; 5] = ["firehose", "oauth", "core", "search", "sync"];
    /// `outcome` of `passthrough_requests_total`.
    pub const PASSTHROUGH_OUTCOMES: [&str; 4] = ["answered", "refused", "throttled", "unanswered"];
    /// `outcome` of `vendor_budget_leases_total`.
    pub const LEASE_OUTCOMES: [&str; 3] = ["given", "short", "failed"];
    /// `outcome` of `passthrough_cache_requests_total`.
    pub const CACHE_OUTCOMES: [&str; 6] = ["hit", "miss", "shared", "stale", "passed", "unanswered"];
    /// `cause` of `passthrough_cache_drops_total`.
    pub const DROP_CAUSES: [&str; 2] = ["event", "write"];
    /// `outcome` of `oauth_refreshes_total`.
    pub const REFRESH_OUTCOMES: [&str; 3] = ["done", "failed", "refused"];
    /// `window` of `vendor_budget_remaining`.
    pub const BUDGET_WINDOWS: [&str; 2] = ["minute", "hour"];
}

/// Adds time to a counter whose name ends in `_seconds_total`, to the nanosecond; 584 years fit.
pub fn add_seconds(counter: &metrics::Counter, time: Duration) {
    counter.increment(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

/// Whether a counter is kept in nanoseconds and shown in seconds.
#[must_use]
pub fn is_in_nanoseconds(name: &str) -> bool {
    name.ends_with("_seconds_total")
}

macro_rules! metrics {
    ($($kind:ident $constant:ident = $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*
        /// All of them, in the order of an event's way.
        pub const ALL: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

metrics! {
    Counter SOURCE_POLLS_TOTAL = "standpipe_source_polls_total" ["account", "stream", "outcome"]
        "Polls of a source stream, by outcome: page, empty, throttled, error, gone.";
    Counter SOURCE_EVENTS_TOTAL = "standpipe_source_events_total" ["account", "stream"]
        "Events that source pages held, duplicates included.";
    Counter SOURCE_UNWANTED_TOTAL = "standpipe_source_unwanted_total" ["account", "stream"]
        "Events that the account's `events` patterns left out after the poll.";
    Gauge SOURCE_LAG_SECONDS = "standpipe_source_lag_seconds" ["account", "stream"]
        "Age of the newest event of the last page while the stream is not at its top; 0 at the top.";
    Gauge SOURCE_RETENTION_HEADROOM_SECONDS = "standpipe_source_retention_headroom_seconds" ["account", "stream"]
        "Time left until the committed position falls out of the source's history.";
    Gauge SOURCE_AT_TOP = "standpipe_source_at_top" ["account", "stream"]
        "1 when the last page said that nothing newer is there.";
    Counter LEDGER_EVENTS_TOTAL = "standpipe_ledger_events_total" ["account", "result"]
        "Events by what recording made of them: new, duplicate, conflicting, resequenced, rejected.";
    Histogram LEDGER_COMMIT_SECONDS = "standpipe_ledger_commit_seconds" ["shard"]
        "Time of one recording call, commit included.";
    Gauge LEDGER_BACKLOG_BYTES = "standpipe_ledger_backlog_bytes" ["shard"]
        "Bytes of recorded events that at least one configured sink has not taken.";
    Counter LEDGER_VOID_SEQS_TOTAL = "standpipe_ledger_void_seqs_total" ["shard"]
        "Seqs that became void because the ledger was rewound behind Kafka.";
    Gauge CHANNEL_DEPTH = "standpipe_channel_depth" ["channel"]
        "Events inside a bounded channel: source, or sink/NAME.";
    Gauge CHANNEL_CAPACITY = "standpipe_channel_capacity" ["channel"]
        "Events that a bounded channel takes at most.";
    Counter BLOCKED_SECONDS_TOTAL = "standpipe_blocked_seconds_total" ["stage"]
        "Time that a stage (source, ledger) waited for room in front of it.";
    Counter SINK_EVENTS_TOTAL = "standpipe_sink_events_total" ["sink", "outcome"]
        "Events that a sink took, by outcome: delivered, filtered, skipped, truncated, dead-letter.";
    Gauge SINK_LAG_EVENTS = "standpipe_sink_lag_events" ["sink", "shard"]
        "Recorded events that the sink has not taken.";
    Gauge SINK_LAG_SECONDS = "standpipe_sink_lag_seconds" ["sink", "shard"]
        "Age of the oldest recorded event that the sink has not taken.";
    Counter ENRICHMENT_LOOKUPS_TOTAL = "standpipe_enrichment_lookups_total" ["sink", "outcome"]
        "Records that a sink looked up for its events, by who answered: stream, cache, vendor; or missed.";
    Histogram ENRICHMENT_SECONDS = "standpipe_enrichment_seconds" ["sink"]
        "Time that the lookups of an event, or of events that go together, took.";
    Gauge ENRICHMENT_WAITING = "standpipe_enrichment_waiting" ["sink", "shard"]
        "1 while events wait because a lookup has no answer.";
    Histogram END_TO_END_SECONDS = "standpipe_end_to_end_seconds" ["sink"]
        "Time from the commit of an event's page to its delivery.";
    Gauge SINK_STATE = "standpipe_sink_state" ["sink", "shard", "state"]
        "1 for the state that the sink is in: starting, running, retrying, paused, disabled, halted.";
    Counter KAFKA_TRANSACTIONS_TOTAL = "standpipe_kafka_transactions_total" ["sink", "outcome"]
        "Kafka transactions by outcome: committed, discarded.";
    Counter KAFKA_REHYDRATIONS_TOTAL = "standpipe_kafka_rehydrations_total" ["sink"]
        "Times that a sink found its way back to a ledger that was rewound behind it.";
    Histogram KAFKA_TRANSACTION_SECONDS = "standpipe_kafka_transaction_seconds" ["sink"]
        "Time from the begin of a Kafka transaction to its definite commit.";
    Counter AUDIT_EVENTS_TOTAL = "standpipe_audit_events_total" ["sink", "outcome"]
        "Messages that the audit judged, by outcome: good, unjudged, missing, duplicate, reordered, altered.";
    Gauge AUDIT_LAG_MESSAGES = "standpipe_audit_lag_messages" ["sink", "shard"]
        "Offsets between the audit and the ends of the sink's partitions, marks of transactions included.";
    Counter WEBHOOK_ATTEMPTS_TOTAL = "standpipe_webhook_attempts_total" ["sink", "status_class"]
        "Webhook attempts by answer: 2xx, 3xx, 4xx, 5xx, timeout, refused, error.";
    Gauge WEBHOOK_BREAKER_STATE = "standpipe_webhook_breaker_state" ["sink", "shard"]
        "0 closed, 1 half open, 2 open.";
    Gauge DEAD_LETTERS = "standpipe_dead_letters" ["sink"]
        "Dead letters that wait for an operator.";
    Counter VENDOR_REQUESTS_TOTAL = "standpipe_vendor_requests_total" ["account", "api", "status_class"]
        "Requests to the vendor, by API and answer.";
    Counter OAUTH_REFRESHES_TOTAL = "standpipe_oauth_refreshes_total" ["account", "outcome"]
        "Exchanges of an account's OAuth refresh token that this replica made, by outcome: done, failed, refused.";
    Gauge OAUTH_REAUTH_REQUIRED = "standpipe_oauth_reauth_required" ["account"]
        "1 while the vendor does not accept the account's OAuth authorization and a person must renew it.";
    Gauge VENDOR_BUDGET_REMAINING = "standpipe_vendor_budget_remaining" ["account", "window"]
        "Requests left in the account's budget, per minute and per hour.";
    Counter VENDOR_BUDGET_LEASES_TOTAL = "standpipe_vendor_budget_leases_total" ["account", "outcome"]
        "Slices of an account's budget that were asked for, by outcome: given, short (less than wanted), failed.";
    Counter PASSTHROUGH_REQUESTS_TOTAL = "standpipe_passthrough_requests_total" ["account", "outcome"]
        "Requests at the passthrough: answered by the vendor, refused, throttled by the budget, unanswered.";
    Histogram PASSTHROUGH_SECONDS = "standpipe_passthrough_seconds" ["account"]
        "Time from a request at the passthrough to the head of its answer.";
    Counter PASSTHROUGH_CACHE_REQUESTS_TOTAL = "standpipe_passthrough_cache_requests_total" ["account", "outcome"]
        "Lookups by where their answer came from: hit, miss, shared (with one in flight), stale, passed (never kept), unanswered.";
    Counter PASSTHROUGH_CACHE_DROPS_TOTAL = "standpipe_passthrough_cache_drops_total" ["account", "cause"]
        "Changes that made kept answers old, by cause: event, write.";
    Gauge PASSTHROUGH_CACHE_BYTES = "standpipe_passthrough_cache_bytes" []
        "Bytes of the vendor's answers that are kept.";
    Gauge PASSTHROUGH_CACHE_ENTRIES = "standpipe_passthrough_cache_entries" []
        "The vendor's answers that are kept.";
    Gauge SHARD_OWNED = "standpipe_shard_owned" ["shard"]
        "1 while this replica owns the shard.";
    Counter GAPS_TOTAL = "standpipe_gaps_total" ["reason"]
        "Gaps recorded, of streams and of sinks.";
    Gauge BUILD_INFO = "standpipe_build_info" ["version"]
        "1, labelled with the version.";
}
