use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Failure, Global};

/// `standpipe healthcheck`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Where the metrics listener is [default: as configured]
    #[arg(long, value_name = "ADDR")]
    address: Option<SocketAddr>,
    /// Which question is asked
    #[arg(long, value_name = "PATH", default_value = "/readyz", value_parser = ["/readyz", "/livez"])]
    path: String,
}

/// At most this long for the whole check: container engines give 30 s by default and count a hang as a failure.
const DEADLINE: Duration = Duration::from_secs(5);
/// More of the answer than this is not read: metrics of a thousand streams are a few of these.
const MAX_ANSWER_BYTES: u64 = 8 << 20;

/// Exit code 0 when the answer is 200, else 1 with the reasons that it gave.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let address = match options.address {
        Some(address) => address,
        None => super::load(global)?.loaded.config.server.metrics_listen,
    };
    get(address, &options.path).await.map(|_| ()).map_err(Failure::runtime)
}

/// What the metrics listener says, in `DEADLINE`; an error in words where it does not say it with a 200.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<String, String> {
    let answer = tokio::time::timeout(DEADLINE, ask(reachable(address), path))
        .await
        .map_err(|_| format!("no answer from {address} within {DEADLINE:?}"))?
        .map_err(|error| format!("cannot ask {address}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split_ascii_whitespace().nth(1) == Some("200") {
        return Ok(body.to_owned());
    }
    let status = head.lines().next().unwrap_or("no status line");
    Err(format!("{address}{path}: {status} {}", super::output::printable(body.trim())))
}

/// A listener on all addresses is asked through loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

/// One plain HTTP/1.1 request to our own listener: no client library has to come up for it.
async fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
