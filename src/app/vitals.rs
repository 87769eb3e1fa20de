use serde_json::{Value, json};

use super::health::{Health, Readiness, Reason};
use crate::admin::Vitals;
use crate::source::SourceStatus;
use crate::telemetry::recorder::Recorder;

/// What the metrics listener shows of a running program.
pub(super) struct ProgramVitals {
    pub(super) health: Health,
    pub(super) sources: SourceStatus,
    pub(super) metrics: Recorder,
}

impl Vitals for ProgramVitals {
    fn live(&self) -> Result<(), String> {
        // The answer itself shows that the runtime turns; everything else is a matter of readiness, since a restart
        // would not mend a database that is out of reach.
        Ok(())
    }

    fn ready(&self) -> (bool, Value) {
        let (mut worst, mut reasons) = self.health.look();
        for trouble in self.sources.troubles() {
            worst = worst.max(Readiness::Degraded);
            reasons.push(Reason { part: trouble.part, readiness: Readiness::Degraded, why: trouble.why });
        }
        (worst != Readiness::Unready, json!({ "status": worst, "reasons": reasons }))
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }
}
