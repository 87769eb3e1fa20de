//! Who looks things up at the door, and at nginx beside it: a process of its own, so that its CPU is nobody else's. Each
//! caller has a connection that is kept, and asks again when it is answered.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What callers are to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Whom they ask.
    pub port: u16,
    /// What they ask for, in turn.
    pub targets: Vec<String>,
    /// Lines of each request's head.
    pub headers: Vec<String>,
    pub callers: usize,
    /// Lookups of all callers together.
    pub lookups: u64,
    /// A line that must stand in each answer's head.
    pub says: String,
}

/// What they saw, on standard output.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Told {
    /// Lookups a second.
    pub rate: f64,
    /// Milliseconds from the request to the whole answer.
    pub p50: f64,
    pub p99: f64,
}

/// Carries an order out.
pub async fn run(order: Order) {
    let head = order.headers.iter().fold(String::new(), |head, line| head + line + "\r\n");
    let request = |target: &String| Bytes::from(format!("GET {target} HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}\r\n"));
    let requests: Vec<Bytes> = order.targets.iter().map(request).collect();
    let mut connections = Vec::new();
    for _ in 0..order.callers {
        let connection = TcpStream::connect(("127.0.0.1", order.port)).await.expect("it listens");
        connection.set_nodelay(true).expect("a socket");
        connections.push(connection);
    }
    let mut callers = JoinSet::new();
    let began = Instant::now();
    for (first, connection) in connections.into_iter().enumerate() {
        let lookups = (first..usize::try_from(order.lookups).expect("a count")).step_by(order.callers);
        let asked: Vec<Bytes> = lookups.map(|lookup| requests[lookup % requests.len()].clone()).collect();
        callers.spawn(call(connection, asked, order.says.clone()));
    }
    let mut took: Vec<Duration> = callers.join_all().await.into_iter().flatten().collect();
    let all = began.elapsed().as_secs_f64();
    took.sort_unstable();
    let [p50, p99] = [50, 99].map(|percent| took[took.len() * percent / 100].as_secs_f64() * 1e3);
    #[expect(clippy::cast_precision_loss, reason = "a count of lookups")]
    let told = Told { rate: took.len() as f64 / all, p50, p99 };
    println!("{}", serde_json::to_string(&told).expect("three numbers"));
}

/// Asks one after the other; how long each took.
async fn call(mut connection: TcpStream, asked: Vec<Bytes>, says: String) -> Vec<Duration> {
    let mut took = Vec::with_capacity(asked.len());
    let mut answer = Vec::with_capacity(16 * 1024);
    for request in asked {
        let began = Instant::now();
        connection.write_all(&request).await.expect("the connection is kept");
        answer.clear();
        loop {
            let read = connection.read_buf(&mut answer).await.expect("the connection is kept");
            assert!(read > 0, "the connection was closed after {}", String::from_utf8_lossy(&answer));
            if is_whole(&answer, &says) {
                break;
            }
        }
        took.push(began.elapsed());
    }
    took
}

/// Whether an answer has come to its end; it must be a good one.
fn is_whole(answer: &[u8], says: &str) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = std::str::from_utf8(&answer[..end]).expect("a head");
    let lines = || head.split("\r\n").skip(1);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(lines().any(|line| line.eq_ignore_ascii_case(says)), "{says:?} is not in\n{head}");
    let length = lines().filter_map(|line| line.split_once(':'));
    let length = length.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.expect("a length").1.trim().parse().expect("a length");
    answer.len() == end + 4 + length
}
