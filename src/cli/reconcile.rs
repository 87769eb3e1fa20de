//! `standpipe reconcile`: makes the topics of a Kafka sink whole again. The sink does it; this orders it.

use std::sync::Arc;

use clap::Args;

use super::attach::{attach, when};
use super::output::line;
use super::verify::{failure, kafka_sinks};
use super::{Failure, Global};
use crate::clock::Clock;
use crate::event::SinkName;
use crate::sink::kafka::{Question, Settings, prove};

/// `standpipe reconcile`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Only this sink [default: every configured Kafka sink]
    #[arg(long, value_name = "SINK", value_parser = |name: &str| Ok::<_, String>(SinkName::from(name)))]
    sink: Option<SinkName>,
    /// Order nothing; say what is missing, as `verify` sees it
    #[arg(long)]
    dry_run: bool,
}

/// Orders it in every shard, or looks.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let (ready, ledger) = attach(global).await?;
    let config = &ready.loaded.config;
    let clock = Clock::system();
    let sinks = kafka_sinks(config, options.sink.as_ref())?;
    for (name, kafka) in &sinks {
        for shard in ledger.shards() {
            if !options.dry_run {
                ledger.reconcile_sink(name, shard).await?;
                line(&format!("{name} reads its topics in shard {shard}, and emits what is missing there."))?;
                continue;
            }
            let shards = u16::try_from(ledger.shards().count()).unwrap_or(u16::MAX);
            let settings = Settings::new(&config.deployment, name, ledger.id(), shards, shard, (*kafka).clone());
            let rules = ready.rules[*name].clone();
            let question =
                Question { settings: Arc::new(settings), rules: &*rules, book: &ledger, since: None, clock: &clock };
            let proof = prove(&question).await.map_err(|error| failure(name, error))?;
            line(&format!(
                "{name} in shard {shard}: {} events of {} to {} are missing and would be emitted",
                proof.missing, proof.from, proof.to
            ))?;
            for note in &proof.notes {
                line(&format!("  note: {note}"))?;
            }
        }
    }
    if options.dry_run {
        return line("Nothing was changed. `standpipe verify` tells each of them.");
    }
    line(when(&ledger).await?)?;
    line("`standpipe status` shows when a sink runs again; `standpipe verify` whether its topics are whole.")
}
