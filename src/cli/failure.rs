use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use crate::telemetry::causes;

/// Why a verb ended, with the exit code that tells the caller what kind of trouble it is.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// Something went wrong while running: exit code 1.
    pub fn runtime(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: 1, text: causes(&*error.into()) }
    }

    /// The configuration or the arguments are wrong (a missing secret file too): exit code 2.
    pub fn configuration(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: 2, text: causes(&*error.into()) }
    }

    /// The machine or something out of reach does not let it work: exit code 3.
    pub fn environment(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: 3, text: causes(&*error.into()) }
    }

    /// A failure that the verb has already told in its own words.
    #[must_use]
    pub const fn told(code: u8) -> Self {
        Self { code, text: String::new() }
    }

    /// The same failure, told already.
    #[must_use]
    pub fn silent(self) -> Self {
        Self { text: String::new(), ..self }
    }

    /// Prints it and gives the exit code.
    #[must_use]
    #[expect(clippy::print_stderr, reason = "the last word of a command line program")]
    pub fn exit(self) -> ExitCode {
        if !self.text.is_empty() {
            eprintln!("standpipe: {}", self.text);
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
