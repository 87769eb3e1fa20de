//! What the demo, and `ledger.url = "embedded"`, bring with them: a private PostgreSQL, and librdkafka's mock cluster.

mod error;
mod install;
mod kafka;
mod postgres;
mod user;

pub use error::EmbeddedError;
pub use install::FETCHED_DIRECTORY;
pub use kafka::MockKafka;
pub use postgres::EmbeddedPostgres;

#[cfg(test)]
mod tests;
