//! What a person may configure, parsed and validated: design.md section 8.
//!
//! [`Config`] is what the rest of the program sees: every value is in range, every name is checked, every duration
//! is a `Duration`. [`load`](load()) makes it of the built-in defaults, TOML files, the environment and flags, or
//! names everything that is wrong at once, each with its place.
//!
//! The keys are declared once, by the structs of `raw`: their JSON schema drives the check for unknown keys and
//! wrong types, `config schema` and `config reference`; `config/default.toml` documents them for a person, and a
//! test proves it equal to the typed defaults.

mod check;
mod check_account;
mod check_enrich;
mod check_sink;
mod document;
mod environment;
mod interpolate;
mod key;
mod load;
mod problem;
mod raw;
mod scalar;
mod schema;
mod secret;
mod show;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod walk;

pub use check_sink::{OWNED_PROPERTIES, is_secret_header, is_secret_property};
pub use environment::Override;
pub use key::{KEY_BYTES, read_key};
pub use load::{Loaded, discover, load, load_and, load_to_authorize, parse, parse_with, process_environment};
pub use problem::{ConfigErrors, Origin, Origins, Problem};
pub use schema::{Reference, reference, schema};
pub use secret::{Secret, SecretError};
pub use types::*;

/// The built-in defaults, as a file that documents every key.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");
