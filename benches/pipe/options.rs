use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// How fast the pipe is, beside its ceilings in the same run.
#[derive(Debug, Parser)]
pub struct Options {
    /// What is measured [default: all that fits into a few minutes]
    pub parts: Vec<Part>,
    /// Events of one run into Kafka
    #[arg(long, default_value_t = 400_000)]
    pub events: u64,
    /// Events of one run to webhooks
    #[arg(long, default_value_t = 100_000)]
    pub posts: u64,
    /// Lookups of one run at the door; a quarter as many where none is kept
    #[arg(long, default_value_t = 100_000)]
    pub lookups: u64,
    /// Who looks up at once, each on a connection of its own
    #[arg(long, default_value_t = 32)]
    pub callers: usize,
    /// Events of a page
    #[arg(long = "page", default_values_t = [100, 1_000])]
    pub pages: Vec<u64>,
    /// How often each is measured, in turn with its ceiling; the median counts
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// Seconds of each measurement of latency
    #[arg(long, default_value_t = 15)]
    pub seconds: u64,
    /// Let PostgreSQL wait for the disk
    #[arg(long)]
    pub durable: bool,
    /// Events in the ledger before the measurement (`ledger`), or behind a stopped sink (`backlog`)
    #[arg(long)]
    pub before: Option<u64>,
    /// Streams of `streams` and `idle`
    #[arg(long, default_value_t = 1_000)]
    pub streams: u64,
    /// Sinks of `sinks`
    #[arg(long, default_value_t = 10)]
    pub sinks: u64,
    /// A property of librdkafka for the pipe's sinks, `name=value`
    #[arg(long = "property")]
    pub properties: Vec<String>,
    /// Where the figures go as JSON, beside the table
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// What cargo says
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The bare recording statement, producer and POSTs
    Ceilings,
    /// The pipe into Kafka
    Kafka,
    /// Pages whose ids are all known
    Known,
    /// The pipe to webhooks
    Webhooks,
    /// Both at once
    Both,
    /// The pipe with lookups for every event
    Enrich,
    /// From "page answered" to "visible" and "acknowledged"
    Latency,
    /// Lookups at the door, beside nginx with `proxy_cache`
    Door,
    /// A ledger of 20 million events beside an empty one
    Ledger,
    /// 1,000 busy streams beside one
    Streams,
    /// 1,000 streams that have nothing to tell
    Idle,
    /// 10 sinks beside one
    Sinks,
    /// A sink that was stopped for 5 million events
    Backlog,
}

impl Part {
    /// Those of a usual run.
    const USUAL: [Self; 8] =
        [Self::Ceilings, Self::Kafka, Self::Known, Self::Webhooks, Self::Both, Self::Enrich, Self::Latency, Self::Door];
}

impl Options {
    pub fn wants(&self, part: Part) -> bool {
        if self.parts.is_empty() { Part::USUAL.contains(&part) } else { self.parts.contains(&part) }
    }
}
