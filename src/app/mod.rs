//! The only wiring: what starts in which order, who owns whom, and how everything ends.
//!
//! `run` brings up, in this order: the instance, the listeners, the ledger, a look at the brokers, then one supervisor
//! for each shard. A supervisor waits for the shard's lease and runs its stages under it; whatever goes wrong in a stage
//! ends all of that shard's stages, and they start again from the ledger. A stop ends the stages in the data's order,
//! within one deadline, and names who was late.

mod backlog;
mod budgets;
mod copies;
pub mod demo;
mod grants;
pub mod ground;
pub mod health;
mod held;
pub mod instance;
mod looks;
mod lookups;
pub mod open;
pub mod overview;
mod pages;
mod recent;
pub mod replica;
pub mod rules;
mod run;
mod samples;
pub mod shard;
pub mod signals;
pub mod stages;
mod start;
pub mod tasks;
mod vitals;

pub use run::{Program, RunDisposition, RunError, Settings, run, shards};
