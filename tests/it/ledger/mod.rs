//! The ledger's promises, against a real PostgreSQL.

mod lease;
mod record;
mod world;
