use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::SecretString;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::faults::{Fault, Rate};

/// What a simulator is asked to be.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8088")]
    pub listen: SocketAddr,
    /// The company's seed: the same seed tells the same story
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Events a second; 0 = nothing happens after the backlog
    #[arg(long, value_name = "R", default_value = "20", value_parser = parse_rate)]
    pub rate: f64,
    /// Events that happened before the start
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub backlog: u64,
    /// The dialects that are served; `GET /v3/firehose` is a 404 where it is live alone
    #[arg(long, value_enum, default_value_t = Served::Both)]
    pub dialect: Served,
    /// How long events are kept: an older position is answered with 410
    #[arg(long, value_name = "TIME", default_value = "72h", value_parser = humantime::parse_duration)]
    pub history: Duration,
    /// How long it takes until what is written through Core appears in the Firehose, in Search and in Sync
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_lag)]
    pub lag: Duration,
    /// The only access token that is taken beside those of the OAuth endpoint [default: any is]
    #[arg(long, value_name = "T", value_parser = parse_secret)]
    pub token: Option<SecretString>,
    /// How long an access token of the OAuth endpoint lives
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub token_life: Duration,
    /// Enforce the limits of a dialect: requests, and 1 MB/s a stream
    #[arg(long, value_enum, default_value_t = Enforced::Off)]
    pub limits: Enforced,
    /// A fault and its probability per request or, where it is a fault of events, per event; repeat it for more
    #[arg(long = "fault", value_name = "NAME=RATE", value_parser = parse_fault)]
    pub faults: Vec<(Fault, f64)>,
    /// When the company's story begins (RFC 3339), so that every byte depends on the seed alone [default: about a day
    /// ago, and what happens happens now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub epoch: Option<OffsetDateTime>,
}

impl Default for Options {
    /// The defaults of the command line.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8088)),
            seed: 1,
            rate: 20.0,
            backlog: 1_000,
            dialect: Served::Both,
            history: Duration::from_hours(72),
            lag: Duration::ZERO,
            token: None,
            token_life: Duration::from_hours(1),
            limits: Enforced::Off,
            faults: Vec::new(),
            epoch: None,
        }
    }
}

/// The dialects that a simulator serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Served {
    /// Both at once, over the same company.
    Both,
    /// As the project's user describes the API.
    Reference,
    /// As the vendor's public service speaks today.
    Live,
}

impl Served {
    /// Whether this dialect is served.
    #[must_use]
    pub fn serves(self, dialect: Dialect) -> bool {
        match self {
            Self::Both => true,
            Self::Reference => dialect == Dialect::Reference,
            Self::Live => dialect == Dialect::Live,
        }
    }

    /// The dialect that `dialect = "auto"` finds.
    #[must_use]
    pub fn found(self) -> Dialect {
        match self {
            Self::Both | Self::Reference => Dialect::Reference,
            Self::Live => Dialect::Live,
        }
    }
}

/// One of the two dialects.
pub use crate::event::ports::Dialect;

/// The limits that a simulator enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Enforced {
    /// None: the vendor's own clients do not back off.
    Off,
    /// 100 requests a minute and 6,000 an hour per token, 1 MB/s a stream.
    Reference,
    /// 10 requests a second and 36,000 an hour per token, 1 MB/s a stream.
    Live,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=1_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected events a second, 0 to 1000000".to_owned()),
    }
}

fn parse_lag(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(lag) if lag <= Duration::from_mins(10) => Ok(lag),
        Ok(_) => Err("expected at most 10 minutes".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a value parser")]
fn parse_secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}

fn parse_fault(text: &str) -> Result<(Fault, f64), String> {
    let (name, rate) = text.split_once('=').ok_or("expected NAME=RATE")?;
    let fault = Fault::from_str(name)?;
    let rate: f64 = rate.parse().map_err(|_| "the rate is not a number")?;
    Rate::new(rate).map(|rate| (fault, rate.get()))
}

fn parse_time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|error| error.to_string())
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both",
            Self::Reference => "reference",
            Self::Live => "live",
        })
    }
}
