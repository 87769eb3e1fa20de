use std::time::Duration;

use super::check::Checker;
use super::raw::{RawEnrich, RawOnMiss};
use super::types::EnrichConfig;
use crate::event::OnMiss;

/// Lookups of one sink, at most: each is asked for every event.
const MAX_LOOKUPS: usize = 16;
/// Members of a record that are named, at most.
const MAX_FIELDS: usize = 256;

/// What has a problem is left out.
pub(super) fn enrich(sink: &str, raw: Vec<RawEnrich>, to: &mut Checker<'_>) -> Vec<EnrichConfig> {
    let mut checked: Vec<EnrichConfig> = Vec::new();
    if raw.len() > MAX_LOOKUPS {
        to.refuse(&format!("sinks.{sink}.enrich"), format!("at most {MAX_LOOKUPS} lookups for one sink"));
    }
    for (index, raw) in raw.into_iter().enumerate() {
        let path = |key: &str| format!("sinks.{sink}.enrich[{index}].{key}");
        let mut given = |key: &str, value: Option<String>, example: &str| match value {
            Some(text) if !text.trim().is_empty() => Some(text),
            given => {
                let what = if given.is_some() { "empty" } else { "missing" };
                to.refuse(&path(key), format!("is {what}; for example {key} = \"{example}\""));
                None
            }
        };
        let lookup = given("lookup", raw.lookup, "contacts");
        let id = given("id", raw.id, "data.deal.contact_id");
        let name = given("as", raw.r#as, "contact");
        if let Some(lookup) = lookup.as_deref().filter(|text| !is_word(text, 64)) {
            let shown = to.shown(&path("lookup"), lookup);
            to.refuse(
                &path("lookup"),
                format!("{shown} is no resource: it looks like \"contacts\" or \"loss_reasons\""),
            );
        }
        if let Some(name) = name.as_deref().filter(|text| !is_word(text, 32)) {
            let shown = to.shown(&path("as"), name);
            to.refuse(&path("as"), format!("{shown} is no name: [a-z][a-z0-9_]{{0,31}}"));
        }
        if let Some(name) = name.as_deref().filter(|name| checked.iter().any(|other| other.name == **name)) {
            to.refuse(&path("as"), format!("`{name}` is the name of an earlier lookup of this sink"));
        }
        if raw.fields.as_ref().is_some_and(|fields| fields.is_empty() || fields.len() > MAX_FIELDS) {
            to.refuse(&path("fields"), format!("name 1 to {MAX_FIELDS} members, or leave it out for the whole record"));
        }
        to.at_least(&path("max_age"), raw.max_age.0, Duration::from_secs(1));
        if let (Some(lookup), Some(id), Some(name)) = (lookup, id, name) {
            checked.push(EnrichConfig {
                lookup,
                id,
                name,
                fields: raw.fields,
                max_age: raw.max_age.0,
                on_miss: match raw.on_miss {
                    RawOnMiss::Wait => OnMiss::Wait,
                    RawOnMiss::Skip => OnMiss::Skip,
                    RawOnMiss::Null => OnMiss::Null,
                },
            });
        }
    }
    checked
}

fn is_word(text: &str, longest: usize) -> bool {
    text.len() <= longest
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
