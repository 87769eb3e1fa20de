//! `GET /v3/{resources}/stream` (sell-api.md L4).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, Query, State};
use axum::response::Response;

use super::super::company::{Action, Kind};
use super::super::dice::Dice;
use super::super::encode::live_resource;
use super::super::journal::Filter;
use super::super::options::Dialect;
use super::super::shared::{RequestId, Shared};
use super::super::trouble::Trouble;
use super::page::Ask;

/// The streams that a real account has. Most of them are quiet here.
pub(in super::super) const STREAMS: [&str; 19] = [
    "appointments",
    "associated_contacts",
    "calls",
    "collaborations",
    "contacts",
    "custom_fields",
    "deals",
    "documents",
    "leads",
    "line_items",
    "notes",
    "orders",
    "products",
    "sources",
    "stages",
    "tags",
    "tasks",
    "users",
    "visits",
];

/// The most events of a page.
const MOST: u64 = 100;

pub(in super::super) fn filter(stream: &str) -> Filter {
    let kinds = Kind::ALL.into_iter().filter(|kind| live_resource(*kind).1 == stream);
    kinds
        .flat_map(|kind| Action::ALL.map(|action| (kind, action)))
        .fold(Filter::default(), |filter, (kind, action)| filter.with(kind, action))
}

pub(in super::super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Extension(mut dice): Extension<Dice>,
    Extension(RequestId(request)): Extension<RequestId>,
    Path(stream): Path<String>,
    Query(query): Query<super::Query>,
) -> Response {
    match page(&shared, &stream, &query, &mut dice).await {
        Ok(response) => response,
        Err(trouble) => trouble.answer(Dialect::Live, &request),
    }
}

async fn page(shared: &Shared, stream: &str, query: &super::Query, dice: &mut Dice) -> Result<Response, Trouble> {
    let number = (1..).zip(STREAMS).find(|(_, known)| *known == stream).map(|(number, _)| number);
    let number: u32 = number.filter(|_| shared.served.serves(Dialect::Live)).ok_or(Trouble::NotFound)?;
    let position = query.get("position").ok_or(Trouble::Parameter("position", "is required"))?;
    let limit = super::number(query, "limit", (1, MOST), MOST)?;
    let ask = Ask {
        dialect: Dialect::Live,
        reader: number,
        stream: number,
        filter: filter(stream),
        from: super::start(shared, position, number)?,
        limit: usize::try_from(limit).unwrap_or(1),
    };
    let (page, position) = super::poll(shared, ask, Duration::ZERO, dice).await?;
    let escaped = position.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let next = format!("{}/v3/{stream}/stream?position={escaped}&limit={limit}", shared.url());
    let meta = format!(r#""type":"collection","links":{{"next":"{next}"}},"#);
    Ok(super::answer(shared, &ask, &page, &position, &meta))
}
