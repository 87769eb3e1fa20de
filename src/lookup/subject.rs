//! What an answer shows, and what a write changes: records, the lists of a resource, or anything.

use std::sync::Arc;

use reqwest::Method;
use reqwest::header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE};

use super::marks::Account;
use crate::sell::{Forward, singular};

/// Something that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// Any record of the account.
    Everything,
    /// The records of a resource, taken together.
    Lists(Box<str>),
    /// One record: its resource, its id.
    Record(Box<str>, Box<str>),
}

/// Requests with one of these are the caller's own business with the vendor.
const OWN: [HeaderName; 5] = [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE];
/// Of a dotted name in a query, the first parts that stand within the record itself.
const WITHIN: [&str; 5] = ["address", "billing_address", "shipping_address", "custom_fields", "custom_field_values"];

/// The resources that an event of one tells of: Core has other names for some.
pub(super) fn also(resource: &str) -> impl Iterator<Item = &str> {
    let more: &[&str] = if resource == "source" { &["deal_source", "lead_source"] } else { &[] };
    std::iter::once(resource).chain(more.iter().copied())
}

/// What the answer of a request depends on; none where it is not to be shared or kept.
pub(super) fn of(forward: &Forward) -> Option<Vec<Subject>> {
    let search = forward.api == "search";
    let reads = forward.method == Method::GET || (search && forward.method == Method::POST);
    let own = OWN.iter().any(|name| forward.headers.contains_key(name))
        || forward.headers.contains_key("x-basecrm-device-uuid");
    let path: Vec<&str> = forward.segments.iter().skip(1).map(String::as_str).collect();
    let streams = path.first() == Some(&"firehose") || path.last() == Some(&"stream");
    if !reads || own || streams || forward.api == "sync" {
        return None;
    }
    // More than the record itself.
    if forward.query.as_ref().is_some_and(|query| query.contains("include")) {
        return Some(vec![Subject::Everything]);
    }
    Some(match path.as_slice() {
        [name, "search"] | ["search", name] if search => searched(name, &forward.body),
        _ if search => vec![Subject::Everything],
        [.., "custom_fields"] => vec![lists("custom_fields")],
        [name] => vec![lists(name)],
        [name, id] => vec![record(name, id).unwrap_or_else(|| lists(name))],
        [name, id, below] => vec![record(name, id).unwrap_or_else(|| lists(name)), lists(below)],
        _ => vec![Subject::Everything],
    })
}

fn lists(name: &str) -> Subject {
    Subject::Lists(singular(name).into())
}

/// A record whose id is spelled as events spell it. The vendor may take another spelling for the same.
fn record(name: &str, id: &str) -> Option<Subject> {
    let digits = !id.is_empty() && id.len() <= 20 && id.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (id == "0" || !id.starts_with('0'));
    plain.then(|| Subject::Record(singular(name).into(), id.into()))
}

/// A query of one resource depends on it alone, unless it names what lies beyond the record.
fn searched(name: &str, query: &[u8]) -> Vec<Subject> {
    let beyond = match serde_json::from_slice(query) {
        Ok(query) => reaches_beyond(&query),
        Err(_) => !query.is_empty(),
    };
    if beyond { vec![Subject::Everything] } else { vec![lists(name)] }
}

fn reaches_beyond(query: &serde_json::Value) -> bool {
    use serde_json::Value;
    let dotted = |name: &str| name.split_once('.').is_some_and(|(first, _)| !WITHIN.contains(&first));
    match query {
        Value::Array(items) => items.iter().any(reaches_beyond),
        Value::Object(members) => members.iter().any(|(key, value)| {
            dotted(key) || (key == "name" && value.as_str().is_some_and(dotted)) || reaches_beyond(value)
        }),
        _ => false,
    }
}

/// A write on its way: what it may have changed has changed when this is dropped.
#[derive(Debug)]
pub struct Write {
    account: Arc<Account>,
    subjects: Vec<Subject>,
}

impl Write {
    pub(super) fn new(account: Arc<Account>, forward: &Forward) -> Self {
        let path: Vec<&str> = forward.segments.iter().skip(1).map(String::as_str).collect();
        let plain = forward.api == "core";
        let subjects = match path.as_slice() {
            [name] if plain && *name != "lead_conversions" => vec![lists(name)],
            [name, id] if plain => vec![record(name, id).unwrap_or(Subject::Everything)],
            _ => vec![Subject::Everything],
        };
        Self { account, subjects }
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        self.account.written(&self.subjects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(method: &Method, api: &'static str, target: &str, body: &'static str) -> Forward {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
        Forward {
            api,
            method: method.clone(),
            segments: path.split('/').map(str::to_owned).collect(),
            slash: false,
            query,
            headers: reqwest::header::HeaderMap::new(),
            body: body.into(),
        }
    }

    fn list(name: &str) -> Subject {
        Subject::Lists(name.into())
    }

    fn one(name: &str, id: &str) -> Subject {
        Subject::Record(name.into(), id.into())
    }

    #[test]
    fn an_answer_depends_on_what_it_shows() {
        let all = || vec![Subject::Everything];
        for (target, expected) in [
            ("v2/deals", vec![list("deal")]),
            ("v3/activities?limit=10", vec![list("activity")]),
            ("v2/deals/7", vec![one("deal", "7")]),
            ("v2/deals/07", vec![list("deal")]),
            ("v2/users/self", vec![list("user")]),
            ("v2/deals/7?includes=contact", all()),
            ("v3/contacts/7/deals", vec![one("contact", "7"), list("deal")]),
            ("v2/deal/custom_fields", vec![list("custom_field")]),
            ("v2/a/1/b/2", all()),
        ] {
            assert_eq!(of(&forward(&Method::GET, "core", target, "")), Some(expected), "{target}");
        }
        for (target, body, expected) in [
            (
                "v3/deals/search",
                r#"{"items":[{"data":{"query":{"projection":[{"name":"value"}]}}}]}"#,
                vec![list("deal")],
            ),
            ("v3/search/leads", r#"{"filter":{"address.city":"x"},"query":"a.b"}"#, vec![list("lead")]),
            ("v3/deals/search", r#"{"items":[{"data":{"query":{"projection":[{"name":"contact.name"}]}}}]}"#, all()),
            ("v3/search/deals", r#"{"filter":{"organization.name":"x"}}"#, all()),
            ("v3/deals/search", "{", all()),
            ("v3/graphql", "{}", all()),
        ] {
            assert_eq!(of(&forward(&Method::POST, "search", target, body)), Some(expected), "{target} {body}");
        }
        for (api, target) in [("core", "v3/firehose"), ("core", "v3/deals/stream"), ("sync", "v2/sync/1/queues/main")] {
            assert_eq!(of(&forward(&Method::GET, api, target, "")), None, "{target}");
        }
        assert_eq!(of(&forward(&Method::POST, "core", "v2/deals", "")), None);
        let mut conditional = forward(&Method::GET, "core", "v2/deals", "");
        conditional.headers.insert(IF_NONE_MATCH, reqwest::header::HeaderValue::from_static("\"1\""));
        assert_eq!(of(&conditional), None);
    }
}
