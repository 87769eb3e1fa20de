//! The HTTP side of running: who may ask, and `/livez`, `/readyz` and `/metrics` on `server.metrics_listen`.

mod failures;
mod keys;
mod serve;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

pub use keys::{Caller, Gate, Keys, Refused};
pub use serve::serve;

/// What the endpoints show; `app` provides it, so that this module needs nothing of the pipe.
pub trait Vitals: Send + Sync + 'static {
    /// Whether the process should be restarted; the reason when it should.
    fn live(&self) -> Result<(), String>;
    /// Whether it is ready, and the JSON document that says why.
    fn ready(&self) -> (bool, serde_json::Value);
    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> String;
}

/// The router of `server.metrics_listen`.
pub fn vitals(of: Arc<dyn Vitals>) -> Router {
    let (live, ready, metrics) = (of.clone(), of.clone(), of);
    Router::new()
        .route(
            "/livez",
            get(move || async move {
                match live.live() {
                    Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
                    Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
                }
            }),
        )
        .route(
            "/readyz",
            get(move || async move {
                let (is_ready, body) = ready.ready();
                let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                (status, Json(body))
            }),
        )
        .route(
            "/metrics",
            get(move || async move {
                // The text format's version 0.0.4, as Prometheus asks for it.
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.metrics())
                    .into_response()
            }),
        )
}
