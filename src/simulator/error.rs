use std::io;
use std::net::SocketAddr;

/// Why a simulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// Its address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An option is out of its bounds.
    #[error("{option}: {why}")]
    Option {
        /// Which.
        option: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// What the caller of [`start`](super::start) does about a [`SimulatorError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimulatorDisposition {
    /// The machine does not let it: another address may.
    Environment,
    /// The options must change.
    Configuration,
}

impl SimulatorError {
    /// What to do about it.
    #[must_use]
    pub const fn disposition(&self) -> SimulatorDisposition {
        match self {
            Self::Listen { .. } => SimulatorDisposition::Environment,
            Self::Option { .. } => SimulatorDisposition::Configuration,
        }
    }
}
