//! The guard against requests to places that an event must not reach: whatever the URL or the name server says, the
//! address that is dialled has been looked at (server-side request forgery, DNS rebinding).

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use ipnet::IpNet;
use reqwest::Url;

use crate::mutant::{Mutant, planted};

/// Why an address is not dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// An address itself.
    #[error("{address} is {kind}; to send there on purpose, open it with `allow_networks`")]
    Address {
        /// The address.
        address: IpAddr,
        /// What it is.
        kind: &'static str,
    },
    /// A name that leads to such addresses only.
    #[error("{host} resolves to {address}, which is {kind}; to send there on purpose, open it with `allow_networks`")]
    Resolved {
        /// The name.
        host: String,
        /// The first of its addresses.
        address: IpAddr,
        /// What it is.
        kind: &'static str,
    },
    /// Plain http without `allow_http`.
    #[error("http would send events in the clear: use https, or set allow_http = true")]
    Clear,
    /// Neither http nor https, or no host.
    #[error("not an http(s) URL with a host")]
    Scheme,
}

/// What may be reached.
#[derive(Clone, Debug)]
pub struct Guard {
    allow_http: bool,
    allowed: Arc<[IpNet]>,
}

impl Guard {
    /// With the exceptions that the configuration makes.
    #[must_use]
    pub fn new(allow_http: bool, allowed: &[IpNet]) -> Self {
        Self { allow_http, allowed: allowed.into() }
    }

    /// Judges a URL as far as it can be without asking a name server. A literal address, however it was spelled, has
    /// become plain numbers by the parsing of the URL; it never passes the resolver, so it is looked at here.
    pub fn url(&self, url: &Url) -> Result<(), Refused> {
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => return Err(Refused::Clear),
            _ => return Err(Refused::Scheme),
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(Refused::Scheme)?;
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match literal.parse::<IpAddr>() {
            Ok(address) => self.address(address),
            Err(_) => Ok(()),
        }
    }

    /// Judges one address.
    pub fn address(&self, address: IpAddr) -> Result<(), Refused> {
        let Some(kind) = not_public(address) else { return Ok(()) };
        let plain = unmapped(address);
        if self.allowed.iter().any(|network| network.contains(&address) || network.contains(&plain)) {
            return Ok(());
        }
        Err(Refused::Address { address, kind })
    }

    /// Those of a name's addresses that may be dialled; an error where none is left.
    pub fn resolved(&self, host: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
        let mut first = None;
        let mut kept = Vec::with_capacity(addresses.len());
        for address in addresses {
            match self.address(address.ip()) {
                Ok(()) => kept.push(address),
                Err(Refused::Address { address, kind }) => {
                    first.get_or_insert(Refused::Resolved { host: host.to_owned(), address, kind });
                }
                Err(other) => return Err(other),
            }
        }
        match first {
            Some(refused) if kept.is_empty() => Err(refused),
            _ => Ok(kept),
        }
    }
}

/// Every connect asks here, and what is dialled is what was looked at: no second lookup lies between.
impl tower::Service<Name> for Guard {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let guard = self.clone();
        Box::pin(async move {
            let mut addresses = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if !planted(Mutant::AddressUnchecked) {
                addresses = guard.resolved(name.as_str(), addresses)?;
            }
            Ok(addresses.into_iter())
        })
    }
}

/// The IPv4 address that an IPv4-mapped one means.
fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// What an address is when it is not a public one.
fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => not_public_v4(v4),
        IpAddr::V6(v6) => not_public_v6(v6),
    }
}

/// IANA's special-purpose registry for IPv4, and multicast.
fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("of \"this network\""),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("a private address"),
        [100, 64..=127, ..] => Some("a shared (CGNAT) address"),
        [127, ..] => Some("a loopback address"),
        [169, 254, ..] => Some("a link-local address, where clouds keep their metadata"),
        [192, 0, 0, _] => Some("an address for protocol assignments"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some("a documentation address"),
        [192, 88, 99, _] => Some("a 6to4 relay address"),
        [198, 18..=19, ..] => Some("a benchmarking address"),
        // Public by number; Azure answers its virtual machines' metadata requests there.
        [168, 63, 129, 16] => Some("a cloud's metadata address"),
        [224..=239, ..] => Some("a multicast address"),
        [240..=255, ..] => Some("a reserved address"),
        _ => None,
    }
}

/// Only global unicast (`2000::/3`) may be public, less what is carved out of it, and less what carries a forbidden IPv4
/// address inside. NAT64 lies outside of it and is judged by what it carries.
fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    let carried = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("the unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("a loopback address"),
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => not_public_v4(carried(high, low)),
        [0, 0, 0, 0, 0, 0, ..] => Some("an IPv4-compatible address"),
        [0x64, 0xff9b, ..] => Some("a local NAT64 address"),
        [0x2001, 0, ..] => Some("a Teredo address"),
        [0x2001, 0x2, 0, ..] => Some("a benchmarking address"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some("a documentation address"),
        [0x2001, 0x10..=0x3f, ..] => Some("an ORCHID, which is no place"),
        [0x2001, 0..=0x1ff, ..] => Some("an address for protocol assignments"),
        [0x2002, ..] => Some("a 6to4 address"),
        [0xfc00..=0xfdff, ..] => Some("a unique local address"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xfec0..=0xfeff, ..] => Some("a site-local address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("not a global unicast address"),
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
