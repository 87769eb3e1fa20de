//! Keeps the metrics and writes them for Prometheus. Every metric of [`metrics::ALL`](super::metrics::ALL) has its
//! HELP, and every series that can be named ahead exists from the start, at 0: a rate over a counter that appears
//! with its first increment would miss it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio_util::sync::CancellationToken;

use super::metrics::{ALL, Kind, SECONDS_BUCKETS, is_in_nanoseconds};

/// How often observed times are counted into buckets, so that they do not pile up between scrapes (INV-11).
const UPKEEP: Duration = Duration::from_secs(1);

/// The metrics of the process.
#[derive(Clone)]
pub struct Recorder(PrometheusHandle);

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

/// Another recorder is installed already.
#[derive(Debug, thiserror::Error)]
#[error("metrics are set up already")]
pub struct AlreadyInstalled;

impl Recorder {
    /// Installs the recorder for the process, once.
    pub fn install() -> Result<Self, AlreadyInstalled> {
        let (recorder, metrics) = Self::build();
        metrics::with_local_recorder(&recorder, describe);
        metrics::set_global_recorder(recorder).map_err(|_| AlreadyInstalled)?;
        Ok(metrics)
    }

    /// A recorder that is not installed, for tests: `metrics::with_local_recorder`.
    #[must_use]
    pub fn build() -> (PrometheusRecorder, Self) {
        let builder = ALL.iter().filter(|metric| metric.kind == Kind::Histogram).fold(
            PrometheusBuilder::new(),
            |builder, metric| {
                builder
                    .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), &SECONDS_BUCKETS)
                    .expect("there are buckets")
            },
        );
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        (recorder, Self(handle))
    }

    /// The answer to a scrape: Prometheus' text format 0.0.4, in the order of names and labels.
    #[must_use]
    pub fn render(&self) -> String {
        tidy(&self.0.render())
    }

    /// Counts observed times into buckets until it is stopped.
    pub async fn upkeep(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(UPKEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.0.run_upkeep();
        }
    }
}

fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    metrics::gauge!(super::metrics::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// The exporter writes families and series in the order of a hash map, and counters of nanoseconds as they are.
fn tidy(text: &str) -> String {
    let mut families: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let begins = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let begins = begins.and_then(|rest| rest.split(' ').next());
        match (families.last_mut(), begins) {
            (Some((name, lines)), Some(begun)) if *name == begun => lines.push(line),
            (_, Some(begun)) => families.push((begun, vec![line])),
            (Some((_, lines)), None) => lines.push(line),
            (None, None) => families.push(("", vec![line])),
        }
    }
    let place = |name: &str| ALL.iter().position(|metric| metric.name == name).unwrap_or(usize::MAX);
    families.sort_by_key(|(name, _)| (place(name), *name));
    let mut out = String::with_capacity(text.len() + 2048);
    let mut told: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
    for (name, lines) in &mut families {
        told.remove(name);
        // Buckets of a histogram are in order among themselves.
        let comments = lines.iter().take_while(|line| line.starts_with('#')).count();
        if !lines[..comments].iter().any(|line| line.ends_with(" histogram")) {
            lines[comments..].sort_unstable();
        }
        for line in lines {
            match line.rsplit_once(' ') {
                Some((series, nanoseconds)) if is_in_nanoseconds(name) && !line.starts_with('#') => {
                    out.extend([series, " ", &seconds(nanoseconds)]);
                }
                _ => out.push_str(line),
            }
            out.push('\n');
        }
    }
    // What has no series yet, since it depends on what is configured or found, is known by name all the same.
    for metric in ALL.iter().filter(|metric| told.contains(metric.name)) {
        out.extend(["# HELP ", metric.name, " ", metric.help, "\n"]);
        out.extend(["# TYPE ", metric.name, " ", metric.kind.as_str(), "\n"]);
    }
    out
}

/// A whole number of nanoseconds in seconds, exactly: `1500000000` is `1.5`.
fn seconds(nanoseconds: &str) -> String {
    let padded = format!("{nanoseconds:0>10}");
    let (whole, fraction) = padded.split_at(padded.len() - 9);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::StreamKey;
    use crate::telemetry::{metrics as declared, series};

    const CONFIG: &str = "deployment = \"t\"\n[ledger]\nurl = \"embedded\"\nshards = 2\n[accounts.acme]\ntoken = \"t\"\n\
                          [sinks.crm]\ntype = \"kafka\"\nbrokers = \"b:1\"\ntopic = \"t\"\n\
                          enrich = [{ lookup = \"contacts\", id = \"record_id\", as = \"it\" }]\n\
                          [sinks.ops]\ntype = \"webhook\"\nurl = \"https://h/\"\n\
                          secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";

    /// What is scraped from a program that has only started, after `work`.
    fn scraped(work: impl FnOnce()) -> String {
        let (recorder, metrics) = Recorder::build();
        metrics::with_local_recorder(&recorder, || {
            describe();
            series::configured(&crate::config::parse("f.toml", CONFIG).unwrap().config);
            series::stream(&StreamKey { account: "acme".into(), stream: "deals".into() });
            metrics::gauge!(declared::CHANNEL_DEPTH, "channel" => "sink/crm").increment(0.0);
            metrics::gauge!(declared::CHANNEL_CAPACITY, "channel" => "sink/crm").increment(0.0);
            work();
        });
        metrics.render()
    }

    /// A sample line's name, label names and value; none where it is not as Prometheus has it.
    fn sample(line: &str) -> Option<(&str, Vec<&str>, f64)> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}')?;
        let names = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
            let (name, value) = label.split_once('=')?;
            (value.len() >= 2 && value.starts_with('"') && value.ends_with('"')).then_some(name)
        });
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let value = value.replace("+Inf", "inf").parse().ok()?;
        name.chars().all(valid).then_some((name, names.collect::<Option<_>>()?, value))
    }

    #[test]
    fn names_kinds_labels_and_help_are_a_contract() {
        let listed: Vec<String> = declared::ALL
            .iter()
            .map(|metric| format!("{:?} {} {:?}\n    {}", metric.kind, metric.name, metric.labels, metric.help))
            .collect();
        insta::assert_snapshot!(listed.join("\n"));
    }

    #[test]
    fn every_metric_is_there_from_the_start_in_prometheus_format() {
        let text = scraped(|| {});
        let (mut seen, mut family) = (BTreeSet::new(), "");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                let metric = declared::ALL.iter().find(|metric| metric.name == name).unwrap();
                assert_eq!(help, metric.help);
                family = name;
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let metric = declared::ALL.iter().find(|metric| metric.name == family).unwrap();
                assert_eq!(kind, format!("{family} {}", metric.kind.as_str()));
            } else {
                let (name, labels, value) = sample(line).unwrap_or_else(|| panic!("not a sample: {line}"));
                let metric = declared::ALL.iter().find(|metric| metric.name == family).unwrap();
                let parts = ["_bucket", "_sum", "_count"].map(|part| format!("{family}{part}"));
                match metric.kind {
                    Kind::Histogram => assert!(parts.contains(&name.to_owned()), "{line} in {family}"),
                    _ => assert_eq!(name, family),
                }
                let own: BTreeSet<_> = labels.into_iter().filter(|label| *label != "le").collect();
                assert_eq!(own, metric.labels.iter().copied().collect(), "{line}");
                assert!(value == 0.0 || family == declared::BUILD_INFO, "{line}");
                seen.insert(family);
            }
        }
        let missing: Vec<_> = declared::ALL.iter().filter(|metric| !seen.contains(metric.name)).collect();
        assert!(missing.is_empty(), "without a series at start: {missing:?}");
    }

    #[test]
    fn a_metric_without_a_series_is_known_by_name() {
        let text = Recorder::build().1.render();
        assert!(text.contains("# TYPE standpipe_source_lag_seconds gauge\n"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("# HELP ")).count(), declared::ALL.len());
    }

    #[test]
    fn seconds_totals_carry_fractions_over_exactly() {
        let text = scraped(|| {
            let blocked = metrics::counter!(declared::BLOCKED_SECONDS_TOTAL, "stage" => "source");
            for _ in 0..3 {
                declared::add_seconds(&blocked, Duration::from_nanos(500_000_001));
            }
        });
        assert!(text.contains("standpipe_blocked_seconds_total{stage=\"source\"} 1.500000003\n"), "{text}");
        for (nanoseconds, expected) in [("0", "0"), ("1", "0.000000001"), ("12000000000", "12"), ("1500000000", "1.5")]
        {
            assert_eq!(seconds(nanoseconds), expected);
        }
    }

    #[test]
    fn histograms_have_buckets() {
        let text = scraped(|| metrics::histogram!(declared::END_TO_END_SECONDS, "sink" => "crm").record(0.003));
        assert!(text.contains("standpipe_end_to_end_seconds_bucket{sink=\"crm\",le=\"0.0025\"} 0\n"), "{text}");
        assert!(text.contains("standpipe_end_to_end_seconds_bucket{sink=\"crm\",le=\"0.005\"} 1\n"), "{text}");
        assert!(text.contains("standpipe_end_to_end_seconds_bucket{sink=\"crm\",le=\"+Inf\"} 1\n"), "{text}");
    }

    #[test]
    fn label_values_known_ahead_are_those_that_help_names() {
        use declared::values;
        let help = |name: &str| declared::ALL.iter().find(|metric| metric.name == name).unwrap().help;
        let told: [(&str, &[&str]); 6] = [
            (declared::SOURCE_POLLS_TOTAL, &values::POLL_OUTCOMES),
            (declared::LEDGER_EVENTS_TOTAL, &values::RECORD_RESULTS),
            (declared::SINK_EVENTS_TOTAL, &values::SINK_OUTCOMES),
            (declared::SINK_STATE, &values::SINK_STATES),
            (declared::KAFKA_TRANSACTIONS_TOTAL, &values::TRANSACTION_OUTCOMES),
            (declared::WEBHOOK_ATTEMPTS_TOTAL, &values::ATTEMPT_CLASSES),
        ];
        assert_eq!(
            values::SINK_STATES,
            crate::event::ports::SinkState::ALL.map(crate::event::ports::SinkState::as_str)
        );
        for (name, values) in told {
            assert!(help(name).ends_with(&format!(": {}.", values.join(", "))), "{}", help(name));
        }
    }
}
