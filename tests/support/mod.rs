//! What the test binaries share: private servers that never outlive the process, outside clients, waiting.

pub mod cluster;
pub mod disk;
pub mod emitted;
pub mod http;
pub mod kafka;
pub mod keeper;
pub mod mutants;
pub mod pgbouncer;
pub mod postgres;
pub mod program;
pub mod raw;
pub mod receiver;
pub mod setup;
pub mod switch;
pub mod toxiproxy;
pub mod wait;
