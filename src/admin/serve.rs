//! Serving HTTP with bounds: so many connections, so long for a request's head, so long for an answer, so long to end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// A further connection waits in the listener's backlog.
const MAX_CONNECTIONS: usize = 256;
/// A request's head must be here by then.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// An answer must be made by then.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Open requests get this long when the listener stops.
const GOODBYE: Duration = Duration::from_secs(2);

/// Serves `router` on `listener` until `stop`; then lets open requests finish for 2 s.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = room.clone().acquire_owned() => permit.expect("never closed"),
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, peer, router, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: the next try must not spin.
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

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, stop: CancellationToken) {
    // What is passed on in pieces must not wait for the other side to acknowledge the last one.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, peer, request.map(Body::new)).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

async fn answer(router: Router, peer: SocketAddr, mut request: Request) -> Response {
    request.extensions_mut().insert(ConnectInfo(peer));
    match tokio::time::timeout(ANSWER_DEADLINE, router.oneshot(request)).await {
        Ok(Ok(response)) => response,
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "no answer in time\n").into_response(),
    }
}
