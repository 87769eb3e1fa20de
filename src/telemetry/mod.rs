//! Metrics, logs and traces.

use std::fmt;

pub mod logging;
pub mod metrics;
mod otlp;
pub mod recorder;
pub mod series;
pub mod trace;

/// An error with every cause behind it, in one line: `error = %causes(&error)`.
pub fn causes<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl fmt::Display + 'a {
    struct Causes<'a>(&'a (dyn std::error::Error + 'static));
    impl fmt::Display for Causes<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut said = self.0.to_string();
            f.write_str(&said)?;
            let mut next = self.0.source();
            while let Some(cause) = next {
                let text = cause.to_string();
                // Some libraries print their cause themselves.
                if !said.contains(&text) {
                    write!(f, ": {text}")?;
                }
                said = text;
                next = cause.source();
            }
            Ok(())
        }
    }
    Causes(error)
}
