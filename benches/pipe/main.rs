//! `just bench`: how fast the pipe is, beside its ceilings in the same run, with a real PostgreSQL and a real Kafka.
//!
//! Nothing here fails for being slow: machines differ, and a shared one differs from itself. What can be compared are the
//! ratios within one run, where the pipe and its ceiling are measured in turn.

#![allow(clippy::unwrap_used, reason = "a way to fail")]

mod bare;
mod events;
mod ground;
mod growth;
mod options;
mod outside;
mod parts;
mod report;
mod runs;
#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, reason = "each binary uses its part of it")]
mod support;
mod tally;
mod vendor;

use clap::Parser as _;

use crate::options::Options;

// The pipe's own allocator, for the bare one too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("bare") {
        let order = arguments.next().expect("an order");
        return bare::run(serde_json::from_str(&order).expect("an order")).await;
    }
    let options = Options::parse();
    let report = parts::measure(&options).await;
    report.print();
    let json = serde_json::to_string(&report).expect("plain values");
    match &options.json {
        Some(path) => std::fs::write(path, json).expect("the file can be written"),
        None => println!("{json}"),
    }
}
