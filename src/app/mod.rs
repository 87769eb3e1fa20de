//! The only wiring: what starts in which order, who owns whom, and how everything ends.

pub mod health;
pub mod instance;
pub mod tasks;
