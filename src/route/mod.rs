//! ③ Decide: pure rules of a sink (filter, topic, key, headers), and the way of committed batches to the sinks.
//!
//! [`Rules`] is compiled and checked at start, so that a mistake is a configuration error with a pointer into the text
//! and not a dead letter at night. It is pure: the same event always gets the same decision (INV-9 relies on it).
//! What fails on one event at run time is an error of that event alone, and the sink makes it a dead letter.
//!
//! One form exists: the canonical event's bytes as they are. A further one would be rendered here and travel in the
//! [`Address`](crate::event::ports::Address), so that sinks go on knowing nothing of forms.
//!
//! Where a sink looks records up first, its rules say which, and put the answers into the event (`enrich`); the asking is
//! the sink's. A completed event always gets the same decision, too.
//!
//! [`Fanout`] hands committed batches over; for a sink that takes them it waits a moment, for one that does not never
//! (INV-15).

mod body;
mod enrich;
mod error;
mod fanout;
mod filter;
mod looked_up;
mod members;
mod rules;
mod shape;
mod template;
mod value;
mod view;

pub use error::RuleError;
pub use fanout::{Fanout, SinkFeed};
pub use rules::{Rules, never_emitted};

#[cfg(test)]
mod enrich_tests;
#[cfg(test)]
mod tests;
