//! Search in both dialects (sell-api.md R7, L7): conditions, order, pages and sums over what has been told.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::catalog;
use super::super::company::Record;
use super::super::encode;
use super::super::options::Dialect;
use super::call::{Call, ok};
use super::list::{decode, encode_cursor};
use super::predicate::{self, Field, Test, Wrong};
use super::refusal::Refusal;

/// Where each dialect's searches can look.
const LIVE: [&str; 5] = ["contacts", "leads", "deals", "tasks", "notes"];
const REFERENCE: [&str; 5] = ["deals", "leads", "contacts", "organizations", "activities"];
const QUERY: [&str; 5] = ["query", "aggregations", "hits", "cursor", "per_page"];
const USUAL: usize = 50;
const MOST: usize = 100;
/// The most searches of one request.
const MOST_QUERIES: usize = 50;

/// The members of an object in their own order.
type Pairs = IndexMap<String, Value>;

/// A search of the reference dialect.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    filter: Option<Value>,
    query: Option<String>,
    sort: Option<Pairs>,
    limit: Option<usize>,
    cursor: Option<String>,
    group_by: Option<String>,
    aggregations: Option<Pairs>,
}

/// Answers `POST /v3/search/{resource}`.
pub(super) fn reference(call: &Call<'_>, path: &str) -> Result<Response, Refusal> {
    let resource = catalog::at(Dialect::Reference, None, path).filter(|_| REFERENCE.contains(&path));
    let resource = resource.ok_or_else(Refusal::no_path)?;
    if call.method != Method::POST {
        return Err(Refusal::no_method());
    }
    let asked: Asked =
        serde_json::from_slice(&call.body).map_err(|error| Refusal::parameter("body", error.to_string()))?;
    let limit = asked.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(Refusal::parameter("limit", format!("must be a number from 1 to {MOST}")));
    }
    let from = place(call, asked.cursor.as_deref())?;
    let world = call.shared.world();
    let field = Field { dialect: Dialect::Reference, resource, world: &world };
    let filter = asked.filter.unwrap_or_else(|| json!({}));
    let test = predicate::reference(&filter, &field, 0).map_err(|why| Refusal::parameter("filter", why))?;
    let mut found = field.meeting(&test);
    if let Some(text) = asked.query.filter(|text| !text.trim().is_empty()) {
        found.retain(|record| field.mentions(record, &text));
    }
    let by = order(asked.sort.unwrap_or_default(), &field).map_err(|why| Refusal::parameter("sort", why))?;
    let sums = asked.aggregations.unwrap_or_default();
    let summed =
        |records: &[&Record]| sums_of(&sums, records, &field).map_err(|why| Refusal::parameter("aggregations", why));
    let mut body = Map::new();
    if !sums.is_empty() {
        body.insert("aggregations".to_owned(), summed(&found)?);
    }
    if let Some(name) = asked.group_by {
        field.knows(&name).map_err(|why| Refusal::parameter("group_by", why))?;
        let mut groups = Vec::new();
        for (key, records) in field.groups(&found, &name) {
            groups.push(json!({ "key": key, "count": records.len(), "aggregations": summed(&records)? }));
        }
        body.insert("groups".to_owned(), json!(groups));
    }
    let total = found.len();
    let ids = field.sort(&found, &by);
    let shown: Vec<u64> = ids.into_iter().skip(from).take(limit).collect();
    let cursor = next(call, from + shown.len(), total);
    let items: Vec<Value> = shown.iter().filter_map(|id| shown_as_core(&field, *id)).collect();
    body.insert("meta".to_owned(), json!({ "count": items.len(), "total_count": total, "cursor": cursor }));
    body.insert("items".to_owned(), json!(items));
    Ok(ok(StatusCode::OK, Value::Object(body).to_string()))
}

/// Where a cursor leads.
fn place(call: &Call<'_>, cursor: Option<&str>) -> Result<usize, Refusal> {
    let Some(text) = cursor.filter(|text| !text.is_empty()) else { return Ok(0) };
    let place = decode(text, call.shared.seed).map(|(_, place)| place);
    place.ok_or_else(|| Refusal::parameter("cursor", "is not a cursor of a search"))
}

/// The cursor behind a place; none at the end.
fn next(call: &Call<'_>, place: usize, total: usize) -> Option<String> {
    (place < total).then(|| encode_cursor(0, place, call.shared.seed))
}

fn shown_as_core(field: &Field<'_>, id: u64) -> Option<Value> {
    let record = field.resource.kinds.iter().find_map(|kind| field.world.told_one(*kind, id))?;
    let mut out = Vec::new();
    encode::core(field.dialect, field.resource, record, field.world.company.users(), &mut out);
    serde_json::from_slice(&out).ok()
}

/// `{"value":-1}`
fn order(sort: Pairs, field: &Field<'_>) -> Result<Vec<(String, bool)>, Wrong> {
    let each = sort.into_iter().map(|(name, way)| {
        field.knows(&name)?;
        match way.as_i64() {
            Some(1) => Ok((name, false)),
            Some(-1) => Ok((name, true)),
            _ => Err(format!("`{name}` must be 1 or -1")),
        }
    });
    each.collect()
}

/// `{"value":["sum","avg"]}`
fn sums_of(asked: &Pairs, records: &[&Record], field: &Field<'_>) -> Result<Value, Wrong> {
    let mut all = Map::new();
    for (name, kinds) in asked {
        field.knows(name)?;
        let kinds = kinds.as_array().ok_or_else(|| format!("`{name}` must be an array"))?;
        let mut sums = Map::new();
        for kind in kinds {
            let kind = kind.as_str().ok_or_else(|| format!("`{name}` must be an array of strings"))?;
            sums.insert(kind.to_owned(), field.sum(records, name, kind)?);
        }
        all.insert(name.clone(), Value::Object(sums));
    }
    Ok(Value::Object(all))
}

/// Answers `POST /v3/{resource}/search` of the live dialect: searches side by side, each with an answer of its own.
pub(super) fn live(call: &Call<'_>, path: &str) -> Result<Response, Refusal> {
    let resource = catalog::at(Dialect::Live, None, path).filter(|_| LIVE.contains(&path));
    let resource = resource.ok_or_else(Refusal::no_path)?;
    if call.method != Method::POST {
        return Err(Refusal::no_method());
    }
    let asked = call.object()?;
    let queries =
        asked.get("items").and_then(Value::as_array).filter(|items| (1..=MOST_QUERIES).contains(&items.len()));
    let queries = queries.ok_or_else(|| Refusal::payload(format!("`items` must hold 1 to {MOST_QUERIES} queries.")))?;
    let world = call.shared.world();
    let field = Field { dialect: Dialect::Live, resource, world: &world };
    let answers: Vec<Value> = queries
        .iter()
        .map(|query| match found(call, query, &field) {
            Ok(answer) => answer,
            Err(why) => json!({
                "successful": false,
                "errors": [{ "error": { "code": "incorrect_payload", "message": why }, "meta": { "type": "error" } }],
            }),
        })
        .collect();
    let body = json!({ "items": answers, "meta": { "type": "collection", "count": answers.len() } });
    Ok(ok(StatusCode::OK, body.to_string()))
}

/// One search of the live dialect.
fn found(call: &Call<'_>, query: &Value, field: &Field<'_>) -> Result<Value, Wrong> {
    let data = query.get("data").and_then(Value::as_object).ok_or("a query must be an envelope with `data`")?;
    if let Some(other) = data.keys().find(|name| !QUERY.contains(&name.as_str())) {
        return Err(format!("`{other}` is no part of a query"));
    }
    let empty = Map::new();
    let asked = match data.get("query") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(asked)) => asked,
        Some(_) => return Err("`query` must be an object".to_owned()),
    };
    if let Some(other) = asked.keys().find(|name| !["projection", "filter", "sort"].contains(&name.as_str())) {
        return Err(format!("`{other}` is no part of a query"));
    }
    let size = match data.get("per_page") {
        None => USUAL,
        Some(size) => {
            let size =
                size.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| (1..=MOST).contains(size));
            size.ok_or_else(|| format!("`per_page` must be a number from 1 to {MOST}"))?
        }
    };
    let from =
        place(call, data.get("cursor").and_then(Value::as_str)).map_err(|_| "`cursor` is not one of a search")?;
    let test = asked.get("filter").map_or(Ok(Test::All(Vec::new())), |filter| predicate::live(filter, field, 0))?;
    let found = field.meeting(&test);
    let projection = names(asked.get("projection"), field)?;
    let by = sorted(asked.get("sort"), field)?;
    let mut meta = Map::new();
    if let Some(asked) = data.get("aggregations").filter(|asked| !asked.is_null()) {
        meta.insert("aggregations".to_owned(), aggregated(asked, &found, field)?);
    }
    let total = found.len();
    let ids = field.sort(&found, &by);
    let wants = data.get("hits") != Some(&Value::Bool(false));
    let shown: Vec<u64> = if wants { ids.into_iter().skip(from).take(size).collect() } else { Vec::new() };
    let items: Vec<Value> = shown.iter().filter_map(|id| hit(field, *id, &projection)).collect();
    meta.insert("type".to_owned(), json!("collection"));
    meta.insert("count".to_owned(), json!(items.len()));
    meta.insert("total_count".to_owned(), json!(total));
    meta.insert("cursor".to_owned(), json!(if wants { next(call, from + shown.len(), total) } else { None }));
    Ok(json!({ "successful": true, "items": items, "meta": meta }))
}

fn hit(field: &Field<'_>, id: u64, projection: &[String]) -> Option<Value> {
    let record = field.resource.kinds.iter().find_map(|kind| field.world.told_one(*kind, id))?;
    let mut data = Map::new();
    data.insert("id".to_owned(), json!(id));
    data.insert("version".to_owned(), json!(record.sequence));
    for name in projection {
        data.insert(name.clone(), field.value(record, name));
    }
    Some(json!({ "data": data, "meta": { "type": field.resource.name } }))
}

/// `[{"name":"x"}]`
fn names(asked: Option<&Value>, field: &Field<'_>) -> Result<Vec<String>, Wrong> {
    each(asked, "`projection` must be an array of names", |part| {
        let Some(name) = part.get("name").and_then(Value::as_str) else { return Ok(None) };
        field.knows(name).map(|()| Some(name.to_owned()))
    })
}

/// `[{"attribute":{"name":"value"},"order":"descending"}]`
fn sorted(asked: Option<&Value>, field: &Field<'_>) -> Result<Vec<(String, bool)>, Wrong> {
    each(asked, "`sort` must be an array of attributes with an order", |part| {
        let name = part.get("attribute").and_then(|attribute| attribute.get("name")).and_then(Value::as_str);
        let Some(name) = name else { return Ok(None) };
        field.knows(name)?;
        match part.get("order").and_then(Value::as_str).unwrap_or("ascending") {
            "asc" | "ascending" => Ok(Some((name.to_owned(), false))),
            "desc" | "descending" => Ok(Some((name.to_owned(), true))),
            other => Err(format!("there is no order `{other}`")),
        }
    })
}

/// Reads every part of a list; `must` says what is wrong where it is none, or where `read` gives nothing of a part.
fn each<T>(
    asked: Option<&Value>,
    must: &str,
    read: impl Fn(&Value) -> Result<Option<T>, Wrong>,
) -> Result<Vec<T>, Wrong> {
    let Some(asked) = asked else { return Ok(Vec::new()) };
    let parts = asked.as_array().ok_or_else(|| must.to_owned())?;
    parts.iter().map(|part| read(part)?.ok_or_else(|| must.to_owned())).collect()
}

/// `[{"name":"total","attribute":{"name":"value"},"type":"sum"}]`, and `terms` for groups with their counts.
fn aggregated(asked: &Value, found: &[&Record], field: &Field<'_>) -> Result<Value, Wrong> {
    let wrong = || "`aggregations` must be an array of objects with `attribute` and `type`".to_owned();
    let mut all = Map::new();
    for part in asked.as_array().ok_or_else(wrong)? {
        let attribute = part.get("attribute").and_then(|attribute| attribute.get("name")).and_then(Value::as_str);
        let attribute = attribute.ok_or_else(wrong)?;
        field.knows(attribute)?;
        let of = part.get("type").and_then(Value::as_str).ok_or_else(wrong)?;
        let name =
            part.get("name").and_then(Value::as_str).map_or_else(|| format!("{of}_{attribute}"), ToOwned::to_owned);
        let value = if of == "terms" {
            let groups = field.groups(found, attribute).into_iter();
            json!(groups.map(|(key, records)| json!({ "key": key, "count": records.len() })).collect::<Vec<_>>())
        } else {
            field.sum(found, attribute, of)?
        };
        all.insert(name, value);
    }
    Ok(Value::Object(all))
}
