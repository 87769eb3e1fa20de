//! A TCP address behind which servers can be changed, as a virtual address does in a fail-over.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::keeper;

/// A listening address that leads to one server at a time; ends when dropped.
#[derive(Debug)]
pub struct Switch {
    port: u16,
    target: Arc<Mutex<(u16, CancellationToken)>>,
    task: JoinHandle<()>,
}

impl Switch {
    /// Leads to a local port.
    pub async fn to(port: u16) -> Self {
        let own = keeper::free_port();
        let listener = TcpListener::bind(("127.0.0.1", own)).await.expect("a free port");
        let target = Arc::new(Mutex::new((port, CancellationToken::new())));
        let task = tokio::spawn(serve(listener, target.clone()));
        Self { port: own, target, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn target(&self) -> MutexGuard<'_, (u16, CancellationToken)> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts every connection, and leads to another port from now on.
    pub fn turn_to(&self, port: u16) {
        let before = std::mem::replace(&mut *self.target(), (port, CancellationToken::new()));
        before.1.cancel();
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: Arc<Mutex<(u16, CancellationToken)>>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let (port, cut) = target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        connections.spawn(async move {
            // A server that is down refuses, which closes the client's connection too.
            if let Ok(mut server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await {
                cut.run_until_cancelled(tokio::io::copy_bidirectional(&mut client, &mut server)).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
