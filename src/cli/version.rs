use clap::Args;
use serde::Serialize;

use super::Failure;
use super::output::line;

/// `standpipe version`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Version {
    #[serde(rename = "version")]
    standpipe: &'static str,
    librdkafka: String,
    target: String,
    debug_assertions: bool,
    failpoints: bool,
}

/// Prints what a report of a mistake should name.
pub fn run(options: &Options) -> Result<(), Failure> {
    let version = Version {
        standpipe: env!("CARGO_PKG_VERSION"),
        librdkafka: rdkafka::util::get_rdkafka_version().1,
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        debug_assertions: cfg!(debug_assertions),
        failpoints: cfg!(feature = "failpoints"),
    };
    if options.json {
        return line(&serde_json::to_string_pretty(&version).map_err(Failure::runtime)?);
    }
    let marks =
        [(version.debug_assertions, " debug build"), (version.failpoints, " with failpoints: not for production")];
    let marks: String = marks.iter().filter(|(on, _)| *on).map(|(_, mark)| *mark).collect();
    line(&format!("standpipe {} ({}, librdkafka {}){marks}", version.standpipe, version.target, version.librdkafka))
}
