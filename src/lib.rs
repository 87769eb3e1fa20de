//! **standpipe** takes the event streams of Zendesk Sell (the *Firehose*) and delivers them to Kafka,
//! exactly once, and to webhooks, at least once under one id.
//!
//! The modules stand in the order in which an event meets them:
//!
//! ```text
//!  Sell ──page──▶ source ──▶ ledger ──▶ route ──▶ sink ──▶ Kafka topics
//!                (pull)     (record)   (decide)  (deliver)  webhooks
//!                  ▲            │                   │
//!                  └─position───┘◀────cursor────────┘
//! ```
//!
//! Stages import [`event`], the words and ports they share, and nothing of each other; [`app`] alone
//! connects them. ARCHITECTURE.md tells why, and numbers the invariants that the code cites as INV-n.

pub mod event;

pub mod sell;

pub mod source;

pub mod ledger;

pub mod route;

pub mod sink;

pub mod app;

pub mod admin;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod embedded;
#[cfg(feature = "failpoints")]
pub mod failpoints;
pub mod http;
pub mod lookup;
pub mod mask;
pub mod mutant;
pub mod passthrough;
pub mod simulator;
pub mod telemetry;
