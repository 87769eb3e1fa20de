//! A receiver that answers as a script says and remembers what it got.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Got {
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

impl Got {
    pub fn header(&self, name: &str) -> &str {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next().unwrap_or_else(|| panic!("no {name} in {:?}", self.headers));
        assert!(values.next().is_none(), "{name} twice in {:?}", self.headers);
        value.to_str().unwrap()
    }

    pub fn seq(&self) -> u64 {
        self.header("standpipe-seq").parse().unwrap()
    }

    pub fn id(&self) -> String {
        self.header("webhook-id").to_owned()
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    Status(u16),
    With(u16, Vec<(&'static str, String)>),
    /// Answers after so long.
    Late(Duration, u16),
    /// Answers when it is told to.
    Held(watch::Receiver<bool>, u16),
    /// Never ends its body.
    Endless(u16),
    /// Never answers.
    Hang,
}

type Script = Box<dyn FnMut(&Got) -> Reply + Send>;

struct Shared {
    got: Mutex<Vec<Got>>,
    script: Mutex<Script>,
}

/// A running receiver; ends when dropped.
pub struct Receiver {
    shared: Arc<Shared>,
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl Receiver {
    pub async fn start(script: impl FnMut(&Got) -> Reply + Send + 'static) -> Self {
        let shared = Arc::new(Shared { got: Mutex::default(), script: Mutex::new(Box::new(script)) });
        let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, address, _server: server }
    }

    /// Answers 204 to everything.
    pub async fn good() -> Self {
        Self::start(|_| Reply::Status(204)).await
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook?key=1", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn answer_with(&self, script: impl FnMut(&Got) -> Reply + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    pub fn got(&self) -> Vec<Got> {
        self.shared.got.lock().unwrap().clone()
    }

    pub fn seqs(&self) -> Vec<u64> {
        self.got().iter().map(Got::seq).collect()
    }

    pub fn count(&self) -> usize {
        self.shared.got.lock().unwrap().len()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let got = Got { headers, body, at: Instant::now() };
    let reply = (shared.script.lock().unwrap())(&got);
    shared.got.lock().unwrap().push(got);
    let plain = |code: u16, body: Body| {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        response
    };
    match reply {
        Reply::Status(code) => plain(code, Body::from(if code < 300 { "" } else { "no, thank you" })),
        Reply::With(code, headers) => {
            let mut response = plain(code, Body::empty());
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Reply::Late(wait, code) => {
            tokio::time::timeout(wait, std::future::pending::<()>()).await.unwrap_err();
            plain(code, Body::empty())
        }
        Reply::Held(mut go, code) => {
            go.wait_for(|go| *go).await.ok();
            plain(code, Body::empty())
        }
        Reply::Endless(code) => {
            let chunks = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 4096])));
            plain(code, Body::from_stream(chunks))
        }
        Reply::Hang => std::future::pending().await,
    }
}
