//! ② Record: every SQL statement of the program stands here and in `migrations/`.
//!
//! What this module upholds, and how:
//!
//! - **INV-1** An event's id, its body and its stream's position commit in one transaction: one call of one PL/pgSQL
//!   function, which raises unless new ids = events and positions moved = streams taken.
//! - **INV-2** `seq` is given under the shard row's lock as `head + 1 …`, in page order: dense, in commit order.
//! - **INV-3** A page is recorded only while its stream is still where the page was polled from; else nothing of it is.
//! - **INV-4** The moved position of an empty page is committed like any other.
//! - **INV-5** No content fails the call: what PostgreSQL refuses is found by bisection and set aside whole.
//! - **INV-6** Every write names its epoch and checks it under the shard row's lock: recording takes `NO KEY UPDATE`,
//!   the sinks `KEY SHARE` (which goes beside it), taking the lease `UPDATE` (which waits for both).
//! - **INV-14** A gap's row, its announcement and the step past it are one transaction.
//!
//! The hash chain ties it together: the owner names the head and the chain of its own last commit, so that a database
//! that was rewound (restore, fail-over) is noticed by the next call, not by a consumer.
//!
//! A COMMIT whose answer is lost is settled by reading the shard row again, whose lock waits for the old backend;
//! applying a page again is always safe.

mod audits;
mod backlog;
mod budgets;
mod control;
mod database;
mod deliveries;
mod deliveries_dead;
mod dictionary;
mod grants;
mod home;
mod house;
mod lease;
pub mod model;
mod more;
mod open;
pub mod operator;
mod owner;
mod plan;
mod proof;
mod read;
mod recorder;
mod rehydrate;
mod resequenced;
mod sinks;
mod statements;
mod store;
mod streams;
mod voids;
mod wishes;

pub use backlog::Backlog;
pub use deliveries_dead::{DeadLetter, DeadLetters, FailedAttempt, WholeDeadLetter};
pub use grants::GrantStatus;
pub use home::Home;
pub use lease::{Held, Lease, LeaseBook};
pub use open::{Database, Ledger, OpenDisposition, OpenError, newest_schema};
pub use owner::OwnerBook;
pub use recorder::Recorder;
pub use store::Store;
pub use voids::{RehydrationRow, VoidRow};
