//! `just bench`: how fast the pipe is, beside its ceilings in the same run, with a real PostgreSQL and a real Kafka.
//!
//! Nothing here fails for being slow: machines differ, and a shared one differs from itself. What can be compared are the
//! ratios within one run, where the pipe and its ceiling are measured in turn.

#![allow(clippy::unwrap_used, reason = "a way to fail")]

mod bare;
mod callers;
mod door;
mod events;
mod ground;
mod growth;
mod nginx;
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
use tokio::runtime::Builder;

use crate::options::Options;

// The pipe's own allocator, for the bare one too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (verb, order) = (arguments.next(), arguments.next().unwrap_or_default());
    match verb.as_deref() {
        Some("bare") => on(Builder::new_multi_thread(), bare::run(serde_json::from_str(&order).expect("an order"))),
        // One thread, so that two servers that are compared have the same part of the machine beside it.
        Some("callers") => {
            on(Builder::new_current_thread(), callers::run(serde_json::from_str(&order).expect("an order")));
        }
        _ => on(Builder::new_multi_thread(), bench(Options::parse())),
    }
}

fn on(mut runtime: Builder, work: impl Future<Output = ()>) {
    runtime.enable_all().build().expect("a runtime").block_on(work);
}

async fn bench(options: Options) {
    let report = parts::measure(&options).await;
    report.print();
    let json = serde_json::to_string(&report).expect("plain values");
    match &options.json {
        Some(path) => std::fs::write(path, json).expect("the file can be written"),
        None => println!("{json}"),
    }
}
