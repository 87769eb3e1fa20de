//! POSTs on kept-alive connections.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

/// As many as the pipe's `max_in_flight`.
const CONNECTIONS: usize = 64;

/// Opens the connections; each posts what it takes from the channel.
pub async fn start(port: u16) -> mpsc::Sender<Bytes> {
    let (sender, bodies) = mpsc::channel::<Bytes>(CONNECTIONS * 16);
    let bodies = Arc::new(Mutex::new(bodies));
    for _ in 0..CONNECTIONS {
        let connection = TcpStream::connect(("127.0.0.1", port)).await.expect("the receiver listens");
        connection.set_nodelay(true).expect("a socket");
        tokio::spawn(post(connection, bodies.clone()));
    }
    sender
}

async fn post(mut connection: TcpStream, bodies: Arc<Mutex<mpsc::Receiver<Bytes>>>) {
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    loop {
        let next = bodies.lock().await.recv().await;
        let Some(body) = next else { return };
        request.clear();
        request.extend_from_slice(
            b"POST /hook HTTP/1.1\r\nhost: receiver\r\ncontent-type: application/json\r\ncontent-length: ",
        );
        request.extend_from_slice(body.len().to_string().as_bytes());
        request.extend_from_slice(b"\r\n\r\n");
        request.extend_from_slice(&body);
        connection.write_all(&request).await.expect("the receiver listens");
        answer.clear();
        while !answer.ends_with(b"\r\n\r\n") {
            connection.read_buf(&mut answer).await.expect("the receiver answers");
        }
        assert!(answer.starts_with(b"HTTP/1.1 204"), "an answer of 204");
    }
}
