//! The ledger's promises, against a real PostgreSQL.

mod doubt;
mod hostile;
mod house;
mod lease;
mod open;
mod orders;
mod pooler;
mod promises;
mod read;
mod record;
mod voids;
pub(crate) mod world;
