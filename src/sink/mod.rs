pub mod kafka;
pub mod webhook;
