//! ④ Deliver: each kind of sink has a folder of its own with the same files, and one `run` for each (sink, shard).

pub mod enrich;
pub mod kafka;
pub mod retry;
pub mod webhook;
