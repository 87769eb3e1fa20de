//! The daemon's own metrics, read as its `/metrics` would give them: the screen shows what a dashboard shows.

use std::collections::BTreeMap;

use super::screen::{Scene, SinkScene};
use crate::app::samples::{samples, whole};
use crate::telemetry::metrics::{LEDGER_EVENTS_TOTAL, SINK_LAG_EVENTS, SINK_LAG_SECONDS, SINK_STATE, SOURCE_AT_TOP};

/// Puts the metrics into a scene. `sinks` are the names and kinds, in the order in which they are shown.
pub(super) fn read(text: &str, sinks: &[(&str, &str)], scene: &mut Scene) {
    let mut found: BTreeMap<&str, SinkScene> = BTreeMap::new();
    for sample in samples(text) {
        let mut sink = |change: &dyn Fn(&mut SinkScene)| {
            if let Some(name) = sample.label("sink") {
                change(found.entry(name).or_default());
            }
        };
        match sample.name {
            LEDGER_EVENTS_TOTAL if sample.label("result") == Some("new") => scene.recorded += whole(sample.value),
            SOURCE_AT_TOP => {
                scene.streams += 1;
                scene.at_top += usize::from(sample.value > 0.0);
            }
            SINK_LAG_EVENTS => sink(&|sink| sink.lag_events += whole(sample.value)),
            SINK_LAG_SECONDS => sink(&|sink| sink.lag_seconds = sink.lag_seconds.max(sample.value)),
            SINK_STATE if sample.value > 0.0 => {
                sink(&|sink| sample.label("state").unwrap_or_default().clone_into(&mut sink.state));
            }
            _ => {}
        }
    }
    scene.sinks = sinks
        .iter()
        .map(|(name, kind)| SinkScene { kind: (*kind).to_owned(), ..found.remove(name).unwrap_or_default() })
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_is_made_of_the_metrics_text() {
        let text = r#"# HELP standpipe_ledger_events_total Events
standpipe_ledger_events_total{account="acme",result="new"} 120
standpipe_ledger_events_total{account="acme",result="duplicate"} 7
standpipe_source_at_top{account="acme",stream="deals"} 1
standpipe_source_at_top{account="acme",stream="leads"} 0
standpipe_sink_lag_events{sink="topics",shard="0"} 3
standpipe_sink_lag_seconds{sink="topics",shard="0"} 0.25
standpipe_sink_state{sink="topics",shard="0",state="running"} 1
standpipe_sink_state{sink="topics",shard="0",state="halted"} 0
standpipe_build_info{version="0.1.0"} 1
"#;
        let mut scene = Scene::default();
        read(text, &[("topics", "kafka"), ("deals", "webhook")], &mut scene);
        assert_eq!((scene.recorded, scene.streams, scene.at_top), (120, 2, 1));
        let [topics, deals] = &scene.sinks[..] else { panic!("{scene:?}") };
        assert_eq!((topics.lag_events, topics.lag_seconds, topics.state.as_str()), (3, 0.25, "running"));
        assert_eq!((deals.kind.as_str(), deals.state.as_str()), ("webhook", ""));
    }
}
