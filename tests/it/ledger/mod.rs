//! The ledger's promises, against a real PostgreSQL.

mod doubt;
mod hostile;
mod house;
mod lease;
mod orders;
mod pooler;
mod record;
mod world;
