//! Fuzz targets: what comes from outside, as bytes that nobody would write. `cargo test` runs each for a moment, over
//! its kept corpus (`__fuzz__/<target>/corpus`) and over random input; `just fuzz [target] [minutes]` runs them under
//! libFuzzer, which follows the code's branches. What it finds comes into the corpus.
//!
//! A target's input is bytes. Where bare bytes would hardly ever be more than garbage, they are a recipe: each picks one
//! of the words that the format is made of, so that chance and libFuzzer alike come to the inside of a parser.

#![allow(clippy::unwrap_used, reason = "a way to fail")]

mod configuration;
mod cursor;
mod elements;
mod envelope;
mod guard;
mod pages;
mod recipe;
mod retry_after;
mod rules;
mod signature;

/// How long a target runs as an ordinary test, at most.
const MOMENT: std::time::Duration = std::time::Duration::from_secs(1);

/// Runs a property over the corpus of a target and over what the engine makes up.
macro_rules! fuzz {
    ($target:literal, $property:expr) => {
        let stretches = crate::stretches();
        bolero::check!(name = $target).with_test_time(crate::MOMENT).for_each(|input: &[u8]| {
            $property(input);
            if stretches {
                $property(&crate::recipe::stretched(input));
            }
        })
    };
}
use fuzz;

/// Chance makes inputs of 64 bytes at most, which is no more than the beginning of a recipe. libFuzzer finds long ones itself.
fn stretches() -> bool {
    std::env::var_os("BOLERO_LIBFUZZER_ARGS").is_none()
}
