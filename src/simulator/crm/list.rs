//! Lists: filtered, sorted, and in pages of either dialect.

use std::cmp::Ordering;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use super::super::catalog::Resource;
use super::super::company::Record;
use super::super::encode;
use super::super::options::Dialect;
use super::super::world::World;
use super::call::{Call, ok};
use super::refusal::Refusal;
use super::target::Target;

/// Lists end here.
const MOST: usize = 10_000;
const PER_PAGE: usize = 25;
const MOST_PER_PAGE: usize = 100;

/// Parameters of the live dialect that are no conditions.
const LIVE: [&str; 5] = ["page", "per_page", "sort_by", "ids", "includes"];
const REFERENCE: [&str; 3] = ["limit", "cursor", "sort_by"];

/// An attribute, or a custom field, and what it must be.
pub(super) type Condition = (String, String);

/// The conditions of a query: every parameter that is an attribute. Any other is refused.
pub(super) fn conditions(resource: &Resource, call: &Call<'_>) -> Result<Vec<Condition>, Refusal> {
    let usual: &[&str] = match call.dialect {
        Dialect::Live => &LIVE,
        Dialect::Reference => &REFERENCE,
    };
    let mut conditions = Vec::new();
    for (name, value) in &call.query {
        if usual.contains(&name.as_str()) {
            continue;
        }
        if !comparable(resource, name) {
            return Err(Refusal::parameter(name, "is not a parameter of this resource"));
        }
        conditions.push((name.clone(), value.clone()));
    }
    Ok(conditions)
}

fn comparable(resource: &Resource, name: &str) -> bool {
    if field(name).is_some() {
        return resource.attribute("custom_fields").is_some();
    }
    let part = name == "city" && resource.attribute("address").is_some();
    part || resource.attribute(name).is_some_and(|attribute| attribute.compares() && !attribute.hidden)
}

/// The name in `custom_fields[NAME]` or `custom_fields:NAME`.
fn field(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("custom_fields")?;
    rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).or_else(|| rest.strip_prefix(':'))
}

/// What a record has under a name by which lists are filtered and sorted.
fn value(dialect: Dialect, name: &str, record: &Record, world: &World) -> Value {
    let of = |name: &str| encode::attribute(dialect, name, record, world.company.users());
    if let Some(field) = field(name) {
        return of("custom_fields").get(field).cloned().unwrap_or_default();
    }
    if name == "city" && dialect == Dialect::Live {
        return of("address").get("city").cloned().unwrap_or_default();
    }
    of(name)
}

/// Whether a value is what a query spells.
fn is(value: &Value, spelled: &str) -> bool {
    match value {
        Value::Null => spelled.is_empty(),
        Value::String(text) => text == spelled,
        Value::Number(number) => {
            let (number, spelled) = (number.as_f64(), spelled.parse::<f64>().ok());
            number.partial_cmp(&spelled) == Some(Ordering::Equal)
        }
        Value::Bool(value) => spelled == if *value { "true" } else { "false" },
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// Whether a record is what a query asks for.
pub(super) fn meets(dialect: Dialect, conditions: &[Condition], record: &Record, world: &World) -> bool {
    conditions.iter().all(|(name, spelled)| is(&value(dialect, name, record, world), spelled))
}

/// The order of two values: nothing, then booleans, numbers, texts.
pub(super) fn order(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap_or_default(), b.as_f64().unwrap_or_default());
            a.total_cmp(&b)
        }
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

const fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        _ => 4,
    }
}

/// `sort_by`: attributes, each with `:asc` or `:desc` where it has any.
fn sorting(resource: &Resource, call: &Call<'_>) -> Result<Vec<(String, bool)>, Refusal> {
    let Some(text) = call.parameter("sort_by") else { return Ok(Vec::new()) };
    text.split(',')
        .map(|part| {
            let (name, down) = match part.rsplit_once(':') {
                Some((name, "desc")) => (name, true),
                Some((name, "asc")) => (name, false),
                _ => (part, false),
            };
            if comparable(resource, name) {
                Ok((name.to_owned(), down))
            } else {
                Err(Refusal::parameter("sort_by", format!("`{name}` is not an attribute to sort by")))
            }
        })
        .collect()
}

pub(super) fn answer(target: &Target, call: &Call<'_>) -> Result<Response, Refusal> {
    let resource = target.resource;
    let conditions = conditions(resource, call)?;
    let sorting = sorting(resource, call)?;
    let ids = call
        .parameter("ids")
        .map(|ids| ids.split(',').map(str::parse::<u64>).collect::<Result<Vec<_>, _>>())
        .transpose()
        .map_err(|_| Refusal::parameter("ids", "must be ids between commas"))?;
    let page = Page::asked(call)?;
    let world = call.shared.world();
    let mut records: Vec<&Record> = resource.kinds.iter().flat_map(|kind| world.company.records(*kind)).collect();
    if resource.kinds.len() > 1 {
        records.sort_unstable_by_key(|record| record.id);
    }
    records.retain(|record| {
        ids.as_ref().is_none_or(|ids| ids.contains(&record.id))
            && target.holds(&world, call.dialect, record)
            && meets(call.dialect, &conditions, record, &world)
    });
    if !sorting.is_empty() {
        let key = |record: &&Record| -> Vec<Value> {
            sorting.iter().map(|(name, _)| value(call.dialect, name, record, &world)).collect()
        };
        let mut keyed: Vec<(Vec<Value>, &Record)> = records.iter().map(|record| (key(record), *record)).collect();
        keyed.sort_by(|(a, _), (b, _)| {
            let each =
                a.iter().zip(b).zip(&sorting).map(|((a, b), (_, down))| if *down { order(b, a) } else { order(a, b) });
            each.fold(Ordering::Equal, Ordering::then)
        });
        records = keyed.into_iter().map(|(_, record)| record).collect();
    }
    records.truncate(MOST);
    Ok(page.answer(resource, call, &records, &world))
}

/// The part of a list that is asked for.
enum Page {
    Live {
        page: usize,
        size: usize,
    },
    /// From a place in the list on. Records that come and go do not move the ones behind a cursor of ids.
    Reference {
        after: Option<(u64, usize)>,
        size: usize,
    },
}

impl Page {
    fn asked(call: &Call<'_>) -> Result<Self, Refusal> {
        match call.dialect {
            Dialect::Live => {
                let size = call.number("per_page", (1, MOST_PER_PAGE), PER_PAGE)?;
                let page = call.number("page", (1, MOST / size), 1)?;
                Ok(Self::Live { page, size })
            }
            Dialect::Reference => {
                let size = call.number("limit", (1, MOST_PER_PAGE), PER_PAGE)?;
                let after = match call.parameter("cursor").filter(|text| !text.is_empty()) {
                    None => None,
                    Some(text) => {
                        let refused = || Refusal::parameter("cursor", "is not a cursor of this list");
                        Some(decode(text, call.shared.seed).ok_or_else(refused)?)
                    }
                };
                Ok(Self::Reference { after, size })
            }
        }
    }

    fn answer(self, resource: &Resource, call: &Call<'_>, records: &[&Record], world: &World) -> Response {
        let mut out = Vec::new();
        out.extend_from_slice(br#"{"items":["#);
        let mut scratch = Vec::new();
        let mut write = |at: usize, record: &Record, out: &mut Vec<u8>| {
            if at > 0 {
                out.push(b',');
            }
            scratch.clear();
            encode::core(call.dialect, resource, record, world.company.users(), &mut scratch);
            match call.dialect {
                Dialect::Reference => out.extend_from_slice(&scratch),
                Dialect::Live => super::envelope(resource.name, &scratch, out),
            }
        };
        let meta = match self {
            Self::Live { page, size } => {
                let from = (page - 1) * size;
                let shown = records.iter().skip(from).take(size);
                let count = shown.clone().count();
                for (at, record) in shown.enumerate() {
                    write(at, record, &mut out);
                }
                let link = |page: usize| link(call, page, size);
                let mut links = format!(r#""self":{}"#, link(page));
                if page > 1 {
                    links = format!(r#"{links},"first_page":{},"prev_page":{}"#, link(1), link(page - 1));
                }
                if records.len() > from + size {
                    links = format!(r#"{links},"next_page":{}"#, link(page + 1));
                }
                format!(r#""type":"collection","count":{count},"links":{{{links}}}"#)
            }
            Self::Reference { after, size } => {
                // Where the record of the cursor is gone, the list goes on where it was.
                let from = after.map_or(0, |(id, place)| {
                    let at = records.iter().position(|record| record.id == id).map(|at| at + 1);
                    at.unwrap_or_else(|| {
                        let sorted = call.parameter("sort_by").is_none();
                        if sorted {
                            records.partition_point(|record| record.id <= id)
                        } else {
                            place.min(records.len())
                        }
                    })
                });
                let shown: Vec<&&Record> = records.iter().skip(from).take(size).collect();
                for (at, record) in shown.iter().enumerate() {
                    write(at, record, &mut out);
                }
                let more = records.len() > from + shown.len();
                let cursor = shown
                    .last()
                    .filter(|_| more)
                    .map(|last| encode_cursor(last.id, from + shown.len(), call.shared.seed));
                let cursor = cursor.map_or_else(|| "null".to_owned(), |cursor| format!("\"{cursor}\""));
                format!(r#""count":{},"cursor":{cursor}"#, shown.len())
            }
        };
        out.extend_from_slice(br#"],"meta":{"#);
        out.extend_from_slice(meta.as_bytes());
        out.extend_from_slice(b"}}");
        ok(StatusCode::OK, out)
    }
}

/// A link to a page of the list that was asked, as JSON.
fn link(call: &Call<'_>, page: usize, size: usize) -> String {
    let mut url = reqwest::Url::parse(&format!("{}{}", call.origin(), call.path))
        .or_else(|_| reqwest::Url::parse(&call.shared.url()))
        .expect("the simulator's own address is a URL");
    let rest = call.query.iter().filter(|(name, _)| name != "page" && name != "per_page");
    url.query_pairs_mut()
        .append_pair("page", &page.to_string())
        .append_pair("per_page", &size.to_string())
        .extend_pairs(rest);
    Value::String(url.into()).to_string()
}

pub(super) fn encode_cursor(id: u64, place: usize, seed: u64) -> String {
    format!("{:016x}{place:04x}", id ^ seed.rotate_left(17))
}

pub(super) fn decode(text: &str, seed: u64) -> Option<(u64, usize)> {
    let (id, place) = text.is_ascii().then(|| text.split_at_checked(16)).flatten()?;
    let id = u64::from_str_radix(id, 16).ok()? ^ seed.rotate_left(17);
    Some((id, usize::from_str_radix(place, 16).ok()?))
}
