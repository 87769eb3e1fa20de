//! What one replica has done beside the pipe, for `status` and the console: read from its metrics.

use std::collections::BTreeMap;

use super::samples::{samples, whole};
use crate::console::{EnrichmentLine, LendingLine, Replica};
use crate::telemetry::metrics::{
    ENRICHMENT_LOOKUPS_TOTAL, ENRICHMENT_WAITING, PASSTHROUGH_CACHE_BYTES, PASSTHROUGH_CACHE_ENTRIES,
    PASSTHROUGH_CACHE_REQUESTS_TOTAL, PASSTHROUGH_REQUESTS_TOTAL, VENDOR_BUDGET_REMAINING,
};

/// Reads what `/metrics` says.
#[must_use]
pub fn read(text: &str) -> Replica {
    let mut replica = Replica::default();
    let mut accounts: BTreeMap<&str, LendingLine> = BTreeMap::new();
    let mut sinks: BTreeMap<&str, EnrichmentLine> = BTreeMap::new();
    for sample in samples(text) {
        let number = whole(sample.value);
        let outcome = sample.label("outcome").unwrap_or_default();
        let (account, sink) = (sample.label("account"), sample.label("sink"));
        match (sample.name, outcome) {
            (PASSTHROUGH_CACHE_ENTRIES, _) => replica.cache.entries = number,
            (PASSTHROUGH_CACHE_BYTES, _) => replica.cache.bytes = number,
            (VENDOR_BUDGET_REMAINING, _) if sample.label("window") == Some("minute") => {
                of(&mut accounts, account).minute_left = number;
            }
            (VENDOR_BUDGET_REMAINING, _) => of(&mut accounts, account).hour_left = number,
            (PASSTHROUGH_REQUESTS_TOTAL, outcome) => {
                let line = of(&mut accounts, account);
                line.requests += number;
                line.throttled += if outcome == "throttled" { number } else { 0 };
            }
            // What is never kept says nothing of what is.
            (PASSTHROUGH_CACHE_REQUESTS_TOTAL, "passed") => {}
            (PASSTHROUGH_CACHE_REQUESTS_TOTAL, outcome) => {
                let line = of(&mut accounts, account);
                line.lookups += number;
                line.hits += if matches!(outcome, "hit" | "shared") { number } else { 0 };
            }
            (ENRICHMENT_LOOKUPS_TOTAL, "stream") => of(&mut sinks, sink).stream = number,
            (ENRICHMENT_LOOKUPS_TOTAL, "cache") => of(&mut sinks, sink).cache = number,
            (ENRICHMENT_LOOKUPS_TOTAL, "vendor") => of(&mut sinks, sink).vendor = number,
            (ENRICHMENT_LOOKUPS_TOTAL, "missed") => of(&mut sinks, sink).missed = number,
            (ENRICHMENT_WAITING, _) => of(&mut sinks, sink).waiting |= sample.value > 0.0,
            _ => {}
        }
    }
    let line = |(name, line): (&str, LendingLine)| LendingLine {
        account: name.to_owned(),
        hit_ratio: ratio(line.hits, line.lookups),
        ..line
    };
    replica.accounts = accounts.into_iter().map(line).collect();
    let line = |(name, line): (&str, EnrichmentLine)| EnrichmentLine { sink: name.to_owned(), ..line };
    replica.enrichment = sinks.into_iter().map(line).collect();
    replica
}

fn of<'l, 't, L: Default>(lines: &'l mut BTreeMap<&'t str, L>, name: Option<&'t str>) -> &'l mut L {
    lines.entry(name.unwrap_or_default()).or_default()
}

#[expect(clippy::cast_precision_loss, reason = "a part of a hundred is all that is shown")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::CacheLine;

    #[test]
    fn the_metrics_tell_what_is_kept_lent_and_looked_up() {
        let text = r#"# HELP standpipe_passthrough_cache_bytes Bytes
standpipe_passthrough_cache_bytes 4096
standpipe_passthrough_cache_entries 3
standpipe_vendor_budget_remaining{account="acme",window="hour"} 5990
standpipe_vendor_budget_remaining{account="acme",window="minute"} 90
standpipe_vendor_budget_remaining{account="globex",window="minute"} 100
standpipe_passthrough_requests_total{account="acme",outcome="answered"} 12
standpipe_passthrough_requests_total{account="acme",outcome="throttled"} 2
standpipe_passthrough_cache_requests_total{account="acme",outcome="hit"} 5
standpipe_passthrough_cache_requests_total{account="acme",outcome="shared"} 1
standpipe_passthrough_cache_requests_total{account="acme",outcome="miss"} 1
standpipe_passthrough_cache_requests_total{account="acme",outcome="stale"} 1
standpipe_passthrough_cache_requests_total{account="acme",outcome="passed"} 9
standpipe_enrichment_lookups_total{sink="crm",outcome="stream"} 4
standpipe_enrichment_lookups_total{sink="crm",outcome="cache"} 3
standpipe_enrichment_lookups_total{sink="crm",outcome="vendor"} 2
standpipe_enrichment_lookups_total{sink="crm",outcome="missed"} 1
standpipe_enrichment_waiting{sink="crm",shard="0"} 1
standpipe_enrichment_waiting{sink="crm",shard="1"} 0
"#;
        let replica = read(text);
        assert_eq!(replica.cache, CacheLine { entries: 3, bytes: 4096 });
        let acme = LendingLine {
            account: "acme".to_owned(),
            minute_left: 90,
            hour_left: 5990,
            requests: 14,
            throttled: 2,
            lookups: 8,
            hits: 6,
            hit_ratio: Some(0.75),
        };
        assert_eq!(replica.accounts[0], acme);
        assert_eq!((replica.accounts[1].account.as_str(), replica.accounts[1].hit_ratio), ("globex", None));
        let sink = "crm".to_owned();
        let crm = EnrichmentLine { sink, stream: 4, cache: 3, vendor: 2, missed: 1, waiting: true };
        assert_eq!(replica.enrichment, [crm]);
    }
}
