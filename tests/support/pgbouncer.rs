//! A private pgbouncer in transaction mode before a private PostgreSQL.

use std::process::Command;
use std::time::Duration;

use super::keeper::{self, Process};
use super::postgres::{Postgres, as_unprivileged};
use super::wait::wait_until;

/// A running pooler.
#[derive(Debug)]
pub struct PgBouncer {
    _process: Process,
    port: u16,
}

impl PgBouncer {
    pub async fn start(postgres: &Postgres) -> Self {
        let dir = keeper::directory("pgbouncer");
        let port = keeper::free_port();
        let settings = dir.join("pgbouncer.ini");
        let text = format!(
            "[databases]
* = host=127.0.0.1 port={} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 5
",
            postgres.port()
        );
        std::fs::write(&settings, text).expect("own directory");
        let program =
            if Command::new("pgbouncer").arg("-V").output().is_ok() { "pgbouncer" } else { "/usr/sbin/pgbouncer" };
        let mut command = as_unprivileged(program.as_ref());
        command.arg(&settings).current_dir("/");
        let process = Process::start("pgbouncer", &mut command, &dir.join("log"));
        let listens = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        wait_until("pgbouncer listens", Duration::from_secs(20), listens).await;
        Self { _process: process, port }
    }

    /// The URL of a database of the PostgreSQL behind it.
    pub fn url(&self, direct: &str) -> String {
        let (_, database) = direct.rsplit_once('/').expect("a URL of Postgres::database");
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}
