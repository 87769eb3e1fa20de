//! nginx (Debian's package) with `proxy_cache` before a vendor: what people put before an API that they look things up in.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::net::TcpStream;

use crate::support::keeper::{self, Process};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(20);

/// A running nginx.
pub struct Nginx {
    process: Process,
    port: u16,
}

impl Nginx {
    /// Before what listens on `vendor`: `/sell/acme/…` is `/…` there.
    pub async fn start(vendor: u16) -> Self {
        let (directory, port) = (keeper::directory("nginx"), keeper::free_port());
        let configuration = directory.join("nginx.conf");
        std::fs::write(&configuration, text(&directory, port, vendor)).expect("own directory");
        let program = ["/usr/sbin/nginx", "nginx"].into_iter().find(|path| Path::new(path).exists()).unwrap_or("nginx");
        let mut command = Command::new(program);
        command.arg("-e").arg("stderr").arg("-p").arg(&directory).arg("-c").arg(&configuration);
        let process = Process::start("nginx", &mut command, &directory.join("log"));
        let listens = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        wait_until("nginx listens", LIMIT, listens).await;
        Self { process, port }
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Killed, it would leave its workers behind.
    pub async fn end(mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait_ended(LIMIT).await;
    }
}

/// As Debian has it (`worker_processes auto`, `sendfile`, `tcp_nopush`), without a log; connections are kept on both sides.
/// What the vendor says of caches is left aside, as the door does.
fn text(directory: &Path, port: u16, vendor: u16) -> String {
    let own = |name: &str| directory.join(name).display().to_string();
    format!(
        r#"daemon off; pid {pid}; error_log stderr warn; worker_processes auto;
events {{ worker_connections 768; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type application/json;
  client_body_temp_path {body}; proxy_temp_path {proxy}; fastcgi_temp_path {fastcgi}; uwsgi_temp_path {uwsgi};
  scgi_temp_path {scgi};
  proxy_cache_path {cache} levels=1:2 keys_zone=sell:16m max_size=256m inactive=60m use_temp_path=off;
  upstream sell {{ server 127.0.0.1:{vendor}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    keepalive_requests 100000000;
    location /sell/acme/ {{
      proxy_pass http://sell/; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Authorization "Bearer t";
      proxy_cache sell; proxy_cache_valid 200 60m; proxy_cache_bypass $http_cache_control;
      proxy_ignore_headers Cache-Control Expires Vary;
      add_header X-Cache $upstream_cache_status;
    }}
  }}
}}
"#,
        pid = own("pid"),
        body = own("body"),
        proxy = own("proxy"),
        fastcgi = own("fastcgi"),
        uwsgi = own("uwsgi"),
        scgi = own("scgi"),
        cache = own("cache"),
    )
}
