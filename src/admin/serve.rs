//! Serving HTTP with bounds: so many connections, so long for a request's head, so long for an answer, so long for its caller
//! to take more of it, so long to end.

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
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// A further connection waits in the listener's backlog.
const MAX_CONNECTIONS: usize = 256;
/// A request's head must be here by then.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// An answer must be made by then.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// A caller that takes nothing of its answer for so long is cut off: it holds a connection, and maybe one to the vendor.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
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
                    connection(stream, peer, router, stop, TAKEN_WITHIN).await;
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

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
    taken_within: Duration,
) {
    // What is passed on in pieces must not wait for the other side to acknowledge the last one.
    drop(stream.set_nodelay(true));
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(taken_within));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, peer, request.map(Body::new)).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// More than the sockets between two processes hold.
    const LONG: usize = 64 << 20;

    #[tokio::test]
    async fn a_caller_that_takes_nothing_of_its_answer_is_cut_off_and_a_slow_one_is_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || vec![b'x'; LONG]));
        let asked = async || {
            let mut caller = TcpStream::connect(address).await.unwrap();
            let (stream, peer) = listener.accept().await.unwrap();
            caller.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
            let stop = CancellationToken::new();
            (caller, connection(stream, peer, router.clone(), stop, Duration::from_secs(2)))
        };
        let (_caller, serving) = asked().await;
        tokio::time::timeout(Duration::from_secs(30), serving).await.expect("it is over");

        let (mut caller, serving) = asked().await;
        let taking = async {
            let (mut piece, mut taken) = (vec![0; 1 << 20], 0);
            loop {
                match caller.read(&mut piece).await.unwrap() {
                    0 => return taken,
                    more => taken += more,
                }
                // In all it takes longer than it may take nothing.
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        };
        let (taken, ()) = tokio::join!(taking, serving);
        assert!(taken > LONG, "{taken}");
    }
}
