//! The only wiring: what starts in which order, who owns whom, and how everything ends.
//!
//! `run` brings up, in this order: the rules of the sinks (they are configuration), the instance, the listeners, the
//! ledger, a look at the brokers, then one supervisor a [shard]. A supervisor waits for the shard's lease
//! and runs its stages under it; whatever goes wrong in a stage ends all of that shard's stages, and they start again
//! from the ledger. A stop ends the stages in the data's order, within one deadline, and names who was late.

pub mod health;
pub mod instance;
pub mod rules;
pub mod signals;
pub mod tasks;
