use std::io;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::app::demo::{self, DemoDisposition};
use crate::app::signals;
use crate::telemetry::recorder::Recorder;

/// `standpipe demo`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Real Kafka brokers, `host:port,host:port`, instead of a demo broker inside this process
    #[arg(long, value_name = "BROKERS")]
    brokers: Option<String>,
    /// The same seed tells the same story
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Events a second
    #[arg(long, value_name = "R", default_value_t = 10.0, value_parser = parse_rate)]
    rate: f64,
    /// Print lines, also on a terminal
    #[arg(long)]
    plain: bool,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (0.1..=1000.0).contains(&rate) { Ok(rate) } else { Err("expected 0.1 to 1000".to_owned()) }
}

/// Runs the demo until Ctrl-C.
pub async fn run(options: &Options) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let options = demo::Options {
        brokers: options.brokers.clone(),
        seed: options.seed,
        rate: options.rate,
        plain: options.plain,
        program: std::env::args().next().unwrap_or_else(|| "standpipe".to_owned()),
    };
    let metrics = Recorder::install().map_err(Failure::runtime)?;
    // The terminal's end is a wish to stop, too: nothing may be left behind.
    let mut hangup = signals::reload_requests().map_err(Failure::environment)?;
    let hung_up = stop.clone();
    let heard = async {
        tokio::join!(signals::stop_on_signal(stop.clone()), async {
            hangup.recv().await;
            hung_up.cancel();
        })
        .0
    };
    let result = tokio::select! {
        result = demo::run(options, metrics, stop.clone()) => result,
        // A second signal ends the process, so that it only ends here by an error.
        heard = heard => return Err(Failure::environment(heard.err().unwrap_or_else(|| io::Error::other("no signals")))),
    };
    result.map_err(|error| match error.disposition() {
        DemoDisposition::Runtime => Failure::runtime(error),
        DemoDisposition::Environment => Failure::environment(error),
    })
}
