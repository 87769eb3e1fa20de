//! How every HTTP client of the program begins, and where its requests go.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::{Client, Request, Response};

/// How the program names itself to servers.
pub const USER_AGENT: &str = concat!("standpipe/", env!("CARGO_PKG_VERSION"));

/// A client that follows no redirect, uses no proxy from the environment, speaks TLS by rustls with ring, verified
/// by the machine's own roots, and names itself `standpipe/<version>`.
///
/// A token or a signed body goes to the origin that it was meant for and to no other (sell-api.md, "Behaviour that
/// follows"; design.md section 6).
pub fn client_builder() -> reqwest::ClientBuilder {
    // The first caller installs the provider for the process; that it is there already is what we want.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().user_agent(USER_AGENT).redirect(reqwest::redirect::Policy::none()).no_proxy()
}

/// Where requests go: over the network, or, in a simulation, to servers in memory. Everything before (address, headers,
/// signature) and after (status, body, bounds) is the same.
#[derive(Clone)]
pub enum Transport {
    /// By a client of the network.
    Network(Client),
    /// To servers in memory; the client makes requests and sends none.
    Memory(Client, Arc<dyn Server>),
}

/// A server in memory.
pub trait Server: Send + Sync + 'static {
    /// Answers a request, takes its time, or fails as a network does. Bounds its own time by the request's.
    fn answer(&self, request: Request) -> BoxFuture<'static, Result<Response, reqwest::Error>>;
}

impl Transport {
    /// The client that makes requests.
    #[must_use]
    pub const fn client(&self) -> &Client {
        match self {
            Self::Network(client) | Self::Memory(client, _) => client,
        }
    }

    /// Sends a request and waits for the head of its answer. Fails as the client does.
    pub async fn execute(&self, request: Request) -> Result<Response, reqwest::Error> {
        match self {
            Self::Network(client) => client.execute(request).await,
            Self::Memory(_, server) => server.answer(request).await,
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network(_) => "Network",
            Self::Memory(..) => "Memory",
        })
    }
}
