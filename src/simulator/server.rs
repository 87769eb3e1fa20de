//! HTTP on sockets that can be reset: what a front server never lets a handler do.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::firehose::{live, reference};
use super::mishaps::{self, Reset};
use super::shared::Shared;
use super::{admin, crm, oauth};

const MAX_CONNECTIONS: usize = 1_024;
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// Open requests get this long at the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// Every path. What the Firehose and OAuth do not take is Core's, which has tables for it.
fn router(shared: &Arc<Shared>) -> Router {
    let vendor = Router::new()
        .route("/v3/firehose", get(reference::listing))
        .route("/v3/firehose/subscribe", post(reference::subscribe))
        .route("/v3/firehose/{stream_id}", get(reference::stream))
        .route("/v3/{resources}/stream", get(live::stream))
        .route("/oauth2/authorize", get(oauth::authorize))
        .route("/oauth2/token", post(oauth::token))
        .route("/oauth2/revoke", post(oauth::revoke))
        .fallback(crm::answer)
        .layer(from_fn_with_state(shared.clone(), mishaps::around));
    admin::router().merge(vendor).with_state(shared.clone())
}

/// Serves until `shared.stop`.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let router = router(&shared);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            () = shared.stop.cancelled() => break,
            permit = room.clone().acquire_owned() => permit.expect("never closed"),
        };
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), shared.stop.clone());
                connections.spawn(async move {
                    connection(stream, router, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GOODBYE, ended).await.is_err() {
        tracing::debug!("connections still open at the end are cut");
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    drop(stream.set_nodelay(true));
    let reset = CancellationToken::new();
    let resets = Reset(reset.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| -> Answering {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(resets.clone());
        Box::pin(router.clone().oneshot(request))
    });
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    let result = tokio::select! {
        result = &mut serving => result,
        () = reset.cancelled() => {
            let stream = serving.into_parts().io.into_inner();
            // With nothing lingering a close is a reset.
            drop(stream.set_zero_linger());
            return;
        }
        () = stop.cancelled() => {
            Pin::new(&mut serving).graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}
