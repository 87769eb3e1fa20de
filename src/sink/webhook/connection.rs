//! Connections to an endpoint, kept from one attempt to the next.
//!
//! A connection is hyper's and is moved on by the attempt that uses it. A task of its own would be woken for every request
//! and again for every answer, and with the hand-over back this was most of what an attempt cost.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{TrySendError, http1};
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::{Instant, timeout, timeout_at};
use tower::{Service as _, ServiceExt as _};

use super::guard::Guard;
use super::response::{Beginning, Reply, Unanswered};

/// An idle connection is given up before common servers do so (5 s in Node.js): a request that crosses with a close is a
/// failure that was none.
const IDLE: Duration = Duration::from_secs(4);
/// How often the kernel asks whether the far side of a silent connection is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Connector = HttpsConnector<HttpConnector<Guard>>;
type Stream = <Connector as tower::Service<Uri>>::Response;

/// Opens connections through the guard, and keeps those that can be used again.
pub struct Connections {
    connector: Connector,
    connect_timeout: Duration,
    /// The one used last at the end. As many as attempts were under way at once, at most.
    idle: Mutex<VecDeque<Idle>>,
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Connections {
    /// TLS by rustls with ring, verified by the machine's own roots; no redirect, no proxy.
    pub fn new(guard: &Guard, connect_timeout: Duration) -> std::io::Result<Self> {
        let mut tcp = HttpConnector::new_with_resolver(guard.clone());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_connect_timeout(Some(connect_timeout));
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_platform_verifier(Arc::new(rustls::crypto::ring::default_provider()))?;
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        Ok(Self { connector, connect_timeout, idle: Mutex::default() })
    }

    /// Sends a request to an origin and reads its answer. The head must be there by `deadline`; a body that is not ends
    /// the connection and nothing else, since the status has said what matters.
    pub async fn exchange(
        &self,
        origin: &Uri,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Reply, Unanswered> {
        match timeout_at(deadline, self.head(origin, request)).await {
            Ok(Ok((mut connection, answer))) => {
                let (head, body) = answer.into_parts();
                let mut beginning = Beginning::default();
                if let Ok(true) = timeout_at(deadline, connection.read(body, &mut beginning)).await {
                    self.keep(connection);
                }
                Ok(Reply { status: head.status, headers: head.headers, body: beginning.kept })
            }
            Ok(Err(unanswered)) => Err(unanswered),
            Err(_) => Err(Unanswered::Late),
        }
    }

    async fn head(
        &self,
        origin: &Uri,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Box<Connection>, hyper::Response<Incoming>), Unanswered> {
        // What was kept may be closed by the far side at any time. A request that nothing was sent of goes by another one.
        while let Some(mut kept) = self.take(origin) {
            match kept.send(request).await {
                Ok(answer) => return Ok((kept, answer)),
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Unanswered::Broken(refused.into_error().into())),
                },
            }
        }
        // On the heap, as it is seldom and by far the largest part: an attempt is moved several times.
        let mut connection = Box::pin(self.open(origin)).await?;
        match connection.send(request).await {
            Ok(answer) => Ok((connection, answer)),
            Err(refused) => Err(Unanswered::Broken(refused.into_error().into())),
        }
    }

    async fn open(&self, origin: &Uri) -> Result<Box<Connection>, Unanswered> {
        let mut connector = self.connector.clone();
        let connect = async { connector.ready().await?.call(origin.clone()).await };
        let stream = match timeout(self.connect_timeout, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Unanswered::Unconnected(error)),
            Err(_) => return Err(Unanswered::Unreached),
        };
        // One piece to the kernel: events are small, so that a copy is cheaper than a list of two.
        let handshake = http1::Builder::new().writev(false).handshake(stream).await;
        let (requests, stream) = handshake.map_err(|error| Unanswered::Unconnected(error.into()))?;
        Ok(Box::new(Connection { origin: origin.clone(), requests, stream: Some(stream) }))
    }

    /// The connection used last, if it can still be used.
    fn take(&self, origin: &Uri) -> Option<Box<Connection>> {
        loop {
            let Idle { mut connection, since } = self.idle().pop_back()?;
            if since.elapsed() < IDLE && connection.origin == *origin && connection.is_ready() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: Box<Connection>) {
        self.idle().push_back(Idle { connection, since: Instant::now() });
    }

    /// Closes what was idle for too long.
    pub fn sweep(&self) {
        let mut idle = self.idle();
        let old = idle.iter().take_while(|idle| idle.since.elapsed() >= IDLE).count();
        idle.drain(..old);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("idle", &self.idle().len()).finish_non_exhaustive()
    }
}

struct Connection {
    origin: Uri,
    requests: http1::SendRequest<Full<Bytes>>,
    /// None once it has ended.
    stream: Option<http1::Connection<Stream, Full<Bytes>>>,
}

impl Connection {
    /// Whether it takes a request at once: the far side has not closed it, and nothing of the last answer is left.
    fn is_ready(&mut self) -> bool {
        self.go_on(&mut Context::from_waker(Waker::noop()));
        self.stream.is_some() && self.requests.is_ready()
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<hyper::Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        let answer = self.requests.try_send_request(request);
        self.drive(answer).await
    }

    /// Reads a body to its end, or until enough of it was read; says whether to its end. An error ends the reading.
    async fn read(&mut self, mut body: Incoming, beginning: &mut Beginning) -> bool {
        while !body.is_end_stream() {
            match self.drive(body.frame()).await {
                Some(Ok(frame)) if beginning.take(frame.data_ref().map_or(&[], |data| &data[..])) => {}
                Some(_) => return false,
                None => return true,
            }
        }
        true
    }

    /// Waits for something of the connection, and moves the connection on meanwhile. How it ends, who waits is told.
    async fn drive<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        poll_fn(|cx| {
            self.go_on(cx);
            what.as_mut().poll(cx)
        })
        .await
    }

    fn go_on(&mut self, cx: &mut Context<'_>) {
        if let Some(stream) = &mut self.stream
            && stream.poll_without_shutdown(cx).is_ready()
        {
            self.stream = None;
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
