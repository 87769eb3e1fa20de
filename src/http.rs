//! How every HTTP client of the program begins, and where its requests go.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::redirect::Policy;
use reqwest::{Client, Request, Response};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::mutant::{Mutant, planted};

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
    let redirects = if planted(Mutant::RedirectFollowed) { Policy::default() } else { Policy::none() };
    reqwest::Client::builder().user_agent(USER_AGENT).redirect(redirects).no_proxy()
}

/// A header's date: `Wed, 21 Oct 2015 07:28:00 GMT`. None where it is none.
#[must_use]
pub fn date(value: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(&value.trim().replace("GMT", "+0000"), &Rfc2822).ok()
}

/// `Retry-After`: seconds, or an HTTP date, which counts from `now`. None where it is neither. As long as it says: who
/// waits has a bound of its own.
#[must_use]
pub fn retry_after(value: &str, now: OffsetDateTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit mean: as long as can be.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    Some(Duration::try_from(date(value)? - now).unwrap_or(Duration::ZERO))
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

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = datetime!(2015-10-21 07:28:00 UTC);
        let cases = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:30:00 GMT", Some(120)),
            ("Wed, 21 Oct 2015 07:00:00 GMT", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("-1", None),
            ("+1", None),
            ("soon", None),
            ("", None),
            ("1.5", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
