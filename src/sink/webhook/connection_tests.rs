use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;

const SOON: Duration = Duration::from_secs(30);

/// Says yes to so many requests on each connection, and closes it without a word.
pub struct Server {
    pub origin: Uri,
    connections: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub async fn start(requests: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (connections, closed) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (made, ended) = (connections.clone(), closed.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                made.fetch_add(1, Ordering::SeqCst);
                let ended = ended.clone();
                serving.spawn(async move {
                    serve(stream, requests).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { origin, connections, closed, _tasks: tasks }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }

    async fn ask(&self, by: &mut KeptConnection) -> Result<Reply, Unanswered> {
        // Whoever asks again has waited.
        assert_eq!(by.idle(tokio::task::yield_now()).await, Some(()));
        let request = Request::post("/hook").header("host", "receiver").body(Full::new(Bytes::from_static(b"{}")));
        by.exchange(&self.origin, request.unwrap(), Instant::now() + SOON).await
    }
}

async fn serve(mut stream: TcpStream, requests: usize) {
    for _ in 0..requests {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n{}") {
            if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes").await.unwrap();
    }
}

fn kept() -> KeptConnection {
    KeptConnection::new(&Guard::new(true, &["127.0.0.0/8".parse().unwrap()]), SOON).unwrap()
}

async fn until(what: impl Fn() -> bool) {
    tokio::time::timeout(SOON, async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("in time");
}

#[tokio::test]
async fn a_connection_is_used_again_and_one_that_was_closed_costs_no_attempt() {
    let (server, mut kept) = (Server::start(2).await, kept());
    for asked in 1..=6 {
        let reply = server.ask(&mut kept).await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, &b"yes"[..]));
        until(|| server.closed() == asked / 2).await;
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_connection_leads_to_one_origin() {
    let (one, other, mut kept) = (Server::start(9).await, Server::start(9).await, kept());
    for server in [&one, &other, &other] {
        server.ask(&mut kept).await.unwrap();
    }
    assert_eq!((one.connections(), other.connections()), (1, 1));
}

#[tokio::test]
async fn what_was_idle_for_too_long_is_closed() {
    let (server, mut kept) = (Server::start(9).await, kept());
    server.ask(&mut kept).await.unwrap();
    server.ask(&mut kept).await.unwrap();
    assert_eq!((server.connections(), server.closed()), (1, 0));
    tokio::time::pause();
    assert_eq!(kept.idle(std::future::pending::<()>()).await, None);
    tokio::time::resume();
    until(|| server.closed() == 1).await;
    server.ask(&mut kept).await.unwrap();
    assert_eq!((server.connections(), server.closed()), (2, 1));
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_waited_for_no_longer_than_allowed() {
    let (server, mut kept) = (Server::start(0).await, kept());
    let broken = server.ask(&mut kept).await.unwrap_err();
    assert!(matches!(broken, Unanswered::Broken(_)), "{broken:?}");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let request = Request::post("/").body(Full::default()).unwrap();
    let late = kept.exchange(&origin, request, Instant::now() + Duration::from_millis(50)).await;
    assert!(matches!(late, Err(Unanswered::Late)), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn an_alarm_rings_at_the_deadline_whatever_it_was_set_to_before() {
    let mut alarm = Alarm::default();
    for (allowed, needed) in [(9, 5), (2, 7), (3, 1), (1, 1), (5, 2), (6, 8)] {
        let (began, seconds) = (Instant::now(), Duration::from_secs);
        let done = alarm.within(began + seconds(allowed), sleep_until(began + seconds(needed))).await;
        assert_eq!(done.is_some(), needed <= allowed, "{allowed} {needed}");
        assert_eq!(began.elapsed().as_secs(), allowed.min(needed), "{allowed} {needed}");
    }
}
