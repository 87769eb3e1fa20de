use std::sync::Arc;

use serde_json::{Value, json};

use super::health::{Health, Readiness};
use crate::admin::Vitals;
use crate::telemetry::recorder::Recorder;

/// What the metrics listener shows of a running program.
pub(super) struct ProgramVitals {
    pub(super) health: Health,
    pub(super) metrics: Arc<Recorder>,
}

impl Vitals for ProgramVitals {
    fn live(&self) -> Result<(), String> {
        // The answer itself shows that the runtime turns; everything else is a matter of readiness, since a restart
        // would not mend a database that is out of reach.
        Ok(())
    }

    fn ready(&self) -> (bool, Value) {
        let (worst, reasons) = self.health.look();
        (worst != Readiness::Unready, json!({ "status": worst, "reasons": reasons }))
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }
}
