//! Metrics, logs and traces.

#[cfg(test)]
pub(crate) mod captured;
mod json;
pub mod logging;
pub mod metrics;
mod otlp;
pub mod recorder;
pub mod series;
pub mod trace;

/// An error with every cause behind it, in one line, for the one place where it is logged or told.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        // Some libraries print their cause themselves.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}
