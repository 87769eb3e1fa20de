//! The walk to an authorization: a page to open in a browser, its answer on a loopback address (or pasted), the exchange, and the
//! refresh token in its file. No secret is an argument, is printed or is logged.

use std::io::{self, BufRead as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::output::{line, printable};
use crate::admin;
use crate::clock::Clock;
use crate::config::AccountConfig;
use crate::event::AccountName;
use crate::sell::{Consent, ConsentError, Vendor};

/// What the vendor leads back to.
const PATH: &str = "/callback";

/// How the answer comes back.
#[derive(Clone, Debug, Args)]
pub struct Way {
    /// Port of the address on this machine that the vendor leads back to; 0 takes a free one. The application must be registered
    /// with `http://127.0.0.1:PORT/callback` where the vendor asks for the exact address
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    redirect_port: u16,
    /// How long to wait for the person
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    within: Duration,
}

type Answer = Result<SecretString, ConsentError>;

/// Asks for consent and keeps what comes of it in `file`.
pub(super) async fn walk(account: &AccountName, config: &AccountConfig, file: &Path, way: &Way) -> Result<(), Failure> {
    let vendor = Vendor::new(account, config, Clock::system()).map_err(Failure::configuration)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, way.redirect_port));
    let busy = |error: io::Error| Failure::environment(format!("cannot listen on {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(busy)?;
    let port = listener.local_addr().map_err(Failure::environment)?.port();
    let consent = vendor.consent(&format!("http://127.0.0.1:{port}{PATH}")).map_err(Failure::configuration)?;
    let consent = Arc::new(consent);
    line(&format!(
        "Open this page in a browser, as the user whose account standpipe is to read, and agree:\n\n  {}\n\nIt leads back to \
         this machine. From a browser elsewhere, paste here the address that it ends at.",
        consent.url()
    ))?;
    let answered = tokio::time::timeout(way.within, answer(listener, &consent)).await;
    let Ok(answer) = answered else {
        let within = humantime::format_duration(way.within);
        return Err(Failure::environment(format!("nobody agreed within {within}; nothing was changed")));
    };
    let code = answer.map_err(Failure::runtime)?;
    let token = vendor.redeem(&consent, &code).await.map_err(Failure::runtime)?;
    keep(file, &token).map_err(|error| {
        Failure::environment(format!("cannot write the refresh token into {}: {error}", file.display()))
    })?;
    line(&format!(
        "\nThe account {account} is authorized, and its refresh token stands in {file}. A standpipe that runs takes it up within \
         seconds; other replicas need the same file.",
        file = file.display()
    ))
}

/// The first answer that belongs to this asking, from the browser or pasted. Then nobody listens any more.
async fn answer(listener: TcpListener, consent: &Arc<Consent>) -> Answer {
    let (sender, mut answers) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let router = Router::new().route(PATH, get(back)).with_state((consent.clone(), sender.clone()));
    let (mut server, mut reader) = (JoinSet::new(), JoinSet::new());
    server.spawn(admin::serve(listener, router, stop.clone()));
    reader.spawn(pasted(consent.clone(), sender));
    // The router holds a sender, too: this ends with an answer.
    let answer = answers.recv().await.unwrap_or(Err(ConsentError::NoCode));
    stop.cancel();
    // The browser gets its page.
    server.join_next().await;
    answer
}

/// Where the browser comes back to.
async fn back(
    State((consent, sender)): State<(Arc<Consent>, mpsc::Sender<Answer>)>,
    RawQuery(query): RawQuery,
) -> Response {
    let answer = consent.code(&query.unwrap_or_default());
    let (status, text) = match &answer {
        Err(ConsentError::OtherState) => {
            // Not from the page that was opened: the walk goes on.
            return page(StatusCode::BAD_REQUEST, "This is not the answer that standpipe waits for.");
        }
        Ok(_) => (StatusCode::OK, "standpipe has the answer: see its terminal. This page can be closed."),
        Err(_) => (StatusCode::BAD_REQUEST, "Consent was not given: see standpipe's terminal."),
    };
    match sender.try_send(answer) {
        Ok(()) => page(status, text),
        Err(_) => page(StatusCode::GONE, "There was an answer already."),
    }
}

fn page(status: StatusCode, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (status, headers, text).into_response()
}

/// Reads addresses from standard input until one belongs to this asking, or until it ends.
async fn pasted(consent: Arc<Consent>, sender: mpsc::Sender<Answer>) {
    let read = move || {
        let mut input = io::stdin().lock();
        let mut text = zeroize::Zeroizing::new(String::new());
        loop {
            text.clear();
            if input.read_line(&mut text).unwrap_or(0) == 0 {
                return;
            }
            let query = text.trim().split_once('?').map_or("", |(_, query)| query);
            let query = query.split('#').next().unwrap_or_default();
            match consent.code(query) {
                Err(error @ ConsentError::OtherState) if !text.trim().is_empty() => {
                    tell(&format!("That address is of no use: {error}."));
                }
                Err(ConsentError::OtherState) => {}
                answer => return sender.blocking_send(answer).unwrap_or_default(),
            }
        }
    };
    // Ends with the process, at the latest.
    tokio::task::spawn_blocking(read).await.unwrap_or_default();
}

fn tell(text: &str) {
    writeln!(io::stderr().lock(), "{}", printable(text)).unwrap_or_default();
}

/// Replaces a secret's file, at once and durably; one that is new is its owner's alone.
fn keep(path: &Path, token: &SecretString) -> io::Result<()> {
    // Through symbolic links, so that the link stays and what it names is replaced.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.new", std::process::id()));
    let written = (|| {
        let mut file = private(&temporary)?;
        if let Ok(before) = std::fs::metadata(&path) {
            // Who could read the old one can read the new one.
            file.set_permissions(before.permissions())?;
        }
        file.write_all(token.expose_secret().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        std::fs::File::open(directory)?.sync_all()
    })();
    if written.is_err() && temporary.exists() {
        drop(std::fs::remove_file(&temporary));
    }
    written
}

/// A new file that only we can read.
pub(super) fn private(path: &Path) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
