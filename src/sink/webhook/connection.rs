//! A connection to an endpoint, kept from one attempt to the next.
//!
//! It is hyper's and is moved on by whoever uses it. A task of its own would be woken for every request and again for every
//! answer, and with the hand-over back this was most of what an attempt cost.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{TrySendError, http1};
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
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

/// Makes one exchange after the other, through the guard, and keeps the connection between them.
pub struct KeptConnection {
    connector: Connector,
    connect_timeout: Duration,
    open: Option<Box<Connection>>,
    alarm: Alarm,
}

impl KeptConnection {
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
        Ok(Self { connector, connect_timeout, open: None, alarm: Alarm::default() })
    }

    /// Sends a request to an origin and reads its answer. The head must be there by `deadline`; a body that is not ends
    /// the connection and nothing else, since the status has said what matters. Given up, it has closed the connection.
    pub async fn exchange(
        &mut self,
        origin: &Uri,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Reply, Unanswered> {
        let Self { connector, connect_timeout, open, alarm } = self;
        let kept = open.take().filter(|kept| kept.origin == *origin && kept.is_ready());
        match alarm.within(deadline, head(kept, connector, *connect_timeout, origin, request)).await {
            Some(Ok((mut connection, answer))) => {
                let (head, body) = answer.into_parts();
                let mut beginning = Beginning::default();
                // Most answers have none.
                let whole = body.is_end_stream()
                    || alarm.within(deadline, connection.read(body, &mut beginning)).await == Some(true);
                *open = whole.then_some(connection);
                Ok(Reply { status: head.status, headers: head.headers, body: beginning.kept })
            }
            Some(Err(unanswered)) => Err(unanswered),
            None => Err(Unanswered::Late),
        }
    }

    /// Waits for something while nothing is to be sent, not for so long that the far side would close the connection: then
    /// it gives none. That it is closed before is noticed at once.
    pub async fn idle<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        let Self { open, alarm, .. } = self;
        let watched = async {
            match open {
                Some(connection) => connection.drive(what).await,
                None => what.await,
            }
        };
        let waited = alarm.within(Instant::now() + IDLE, watched).await;
        if waited.is_none() {
            *open = None;
        }
        waited
    }
}

/// One that is not open yet.
impl Clone for KeptConnection {
    fn clone(&self) -> Self {
        let connector = self.connector.clone();
        Self { connector, connect_timeout: self.connect_timeout, open: None, alarm: Alarm::default() }
    }
}

async fn head(
    kept: Option<Box<Connection>>,
    connector: &mut Connector,
    connect_timeout: Duration,
    origin: &Uri,
    mut request: Request<Full<Bytes>>,
) -> Result<(Box<Connection>, hyper::Response<Incoming>), Unanswered> {
    // What was kept may be closed by the far side at any time. A request that nothing was sent of goes by another one.
    if let Some(mut kept) = kept {
        match kept.send(request).await {
            Ok(answer) => return Ok((kept, answer)),
            Err(mut refused) => match refused.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(Unanswered::Broken(refused.into_error().into())),
            },
        }
    }
    // On the heap, as it is seldom and by far the largest part.
    let mut connection = Box::pin(open(connector, connect_timeout, origin)).await?;
    match connection.send(request).await {
        Ok(answer) => Ok((connection, answer)),
        Err(refused) => Err(Unanswered::Broken(refused.into_error().into())),
    }
}

async fn open(
    connector: &mut Connector,
    connect_timeout: Duration,
    origin: &Uri,
) -> Result<Box<Connection>, Unanswered> {
    let connect = async { connector.ready().await?.call(origin.clone()).await };
    let stream = match timeout(connect_timeout, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Unanswered::Unconnected(error)),
        Err(_) => return Err(Unanswered::Unreached),
    };
    // One piece to the kernel: events are small, so that a copy is cheaper than a list of two.
    let handshake = http1::Builder::new().writev(false).handshake(stream).await;
    let (requests, stream) = handshake.map_err(|error| Unanswered::Unconnected(error.into()))?;
    Ok(Box::new(Connection { origin: origin.clone(), requests, stream: Some(stream) }))
}

impl fmt::Debug for KeptConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptConnection").field("open", &self.open.is_some()).finish_non_exhaustive()
    }
}

/// A timer that is moved when it rings and not for every wait: most waits end long before.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// What comes of `what`; none where `deadline` is there before it.
    async fn within<T>(&mut self, deadline: Instant, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        poll_fn(|cx| match what.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.reached(deadline, cx).map(|()| None),
        })
        .await
    }

    fn reached(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
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
    fn is_ready(&self) -> bool {
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
pub(super) mod tests;
