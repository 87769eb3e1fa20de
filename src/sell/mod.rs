//! The vendor: HTTP, authorization, the request budget, and both dialects of its JSON.
//!
//! A [`Vendor`] is one account's way to it, made once and shared by everything that calls: one connection pool, one
//! token, one [`Budget`]. Only [`wire`] knows what the vendor's JSON looks like.

mod auth;
mod budget;
mod check;
mod client;
mod consent;
mod error;
mod firehose;
mod forward;
mod grant;
#[cfg(test)]
mod tests;
pub mod wire;

pub use budget::{Budget, Limits, Priority, Slot};
pub use check::{CheckReport, check};
pub use client::{Answer, Call, Vendor};
pub use consent::{Consent, ConsentError, SecretUnreadable};
pub use error::{SellDisposition, SellError};
pub use firehose::{Poll, StreamListed, page, page_limit};
pub use forward::Forward;

/// The resource of a stream or of a list, as events name it: `activities` carries `activity`.
#[must_use]
pub fn singular(plural: &str) -> String {
    match plural.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None => plural.strip_suffix('s').unwrap_or(plural).to_owned(),
    }
}
