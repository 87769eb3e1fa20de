//! The webhook sink's promises, against a real PostgreSQL and a receiver that misbehaves by script.

mod backlog;
mod deliver;
mod endpoint;
mod hostile;
mod receiver;
mod verbs;
mod world;
