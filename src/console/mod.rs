//! The page at `/console`: what a person wants to see first, rendered on the server, read only.
//!
//! No script, nothing from elsewhere: it works where nothing but this process can be reached, and its content policy
//! says so to the browser.

mod model;
mod page;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures_util::future::BoxFuture;

pub use model::{
    AuditLine, CacheLine, EnrichmentLine, EventLine, GapLine, GrantLine, Ledger, LendingLine, Overview,
    RehydrationLine, Replica, ShardLine, SinkLine, StreamLine, VoidLine,
};

/// How long the page waits for what it shows.
const WITHIN: Duration = Duration::from_secs(5);
/// Seconds between two looks, unless the address says otherwise.
const REFRESH_SECONDS: u32 = 2;
/// Longest pause between two looks.
const MAX_REFRESH_SECONDS: u32 = 3600;

/// Where the page gets what it shows: `app` provides it.
pub trait Provide: Send + Sync + 'static {
    /// How things stand; an error is shown instead of the page's content.
    fn overview(&self) -> BoxFuture<'_, Result<Overview, String>>;
}

#[derive(Debug, serde::Deserialize)]
struct Asked {
    /// Seconds between two looks; 0 stops them.
    refresh: Option<u32>,
}

/// `/console`, its style sheet, and `/` as a way to it.
pub fn router(of: Arc<dyn Provide>) -> Router {
    Router::new()
        .route("/", get(async || Redirect::temporary("/console")))
        .route("/console", get(move |Query(asked): Query<Asked>| show(of, asked)))
        .route(
            "/console/style.css",
            get(async || answer(StatusCode::OK, "text/css; charset=utf-8", page::STYLE.to_owned())),
        )
}

async fn show(of: Arc<dyn Provide>, asked: Asked) -> Response {
    let refresh = asked.refresh.unwrap_or(REFRESH_SECONDS).min(MAX_REFRESH_SECONDS);
    let overview = match tokio::time::timeout(WITHIN, of.overview()).await {
        Ok(overview) => overview,
        Err(_) => Err(format!("the ledger did not answer within {WITHIN:?}")),
    };
    let status = if overview.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match page::render(&overview, refresh) {
        Ok(page) => answer(status, "text/html; charset=utf-8", page),
        Err(error) => {
            tracing::error!(%error, "the console's page cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response {
    const HEADERS: [(HeaderName, &str); 4] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let mut response = (status, [(header::CONTENT_TYPE, content_type)], body).into_response();
    response.headers_mut().extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}
