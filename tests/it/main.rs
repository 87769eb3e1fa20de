//! One integration binary: the promises of the whole program and of its parts against a real PostgreSQL and a real
//! Kafka, seen by clients that are not ours. Each part's tests stand in a file of their own.

#![allow(clippy::unwrap_used, reason = "a way to fail")]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod support;

mod budget;
mod canaries;
mod clients;
mod configuration;
mod demo;
mod enrichment;
mod ground;
mod kafka;
mod ledger;
mod oauth;
mod operate;
mod passthrough;
mod proof;
mod rehydrate;
mod source;
mod taken;
mod webhook;
mod whole;
