//! Metrics, logs and traces.

pub mod metrics;
