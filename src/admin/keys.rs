//! Who may look: API keys, compared in constant time by their hashes; without any, loopback alone is served.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use crate::config::{KeyConfig, Scope, SecretError};

/// The keys that open one part of the server. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    keys: Arc<[(Vec<Scope>, [u8; 32])]>,
    needs: Scope,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({} keys, needs {:?})", self.keys.len(), self.needs)
    }
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No key, or one that is not known: 401.
    Unknown,
    /// A known key without the scope: 403.
    Beyond,
    /// Not from loopback while no keys are configured: 403.
    NotLocal,
}

impl Gate {
    /// A gate that lets keys with `needs` or `admin` pass.
    pub fn new<'a>(keys: impl Iterator<Item = &'a KeyConfig>, needs: Scope) -> Result<Self, SecretError> {
        let keys = keys
            .map(|key| Ok((key.allow.clone(), Sha256::digest(key.token.read()?.expose_secret()).into())))
            .collect::<Result<_, SecretError>>()?;
        Ok(Self { keys, needs })
    }

    /// Decides about a request from `peer` that carries this `Authorization` header.
    ///
    /// A key comes as `Bearer KEY`, or as the password of `Basic` so that a browser can ask for it.
    pub fn admit(&self, peer: IpAddr, authorization: Option<&str>) -> Result<(), Refused> {
        if self.keys.is_empty() {
            return if peer.to_canonical().is_loopback() { Ok(()) } else { Err(Refused::NotLocal) };
        }
        let given: [u8; 32] = Sha256::digest(authorization.and_then(key_in).ok_or(Refused::Unknown)?).into();
        // Every key is compared, and each in full: the time tells nothing.
        let mut found = None;
        for (scopes, hash) in self.keys.iter() {
            let difference = hash.iter().zip(given).fold(0, |sum, (a, b)| sum | (a ^ b));
            if difference == 0 {
                found = Some(scopes);
            }
        }
        let scopes = found.ok_or(Refused::Unknown)?;
        let allowed = scopes.iter().any(|scope| *scope == self.needs || *scope == Scope::Admin);
        if allowed { Ok(()) } else { Err(Refused::Beyond) }
    }

    /// The gate as axum's middleware.
    pub async fn middleware(
        State(gate): State<Self>,
        ConnectInfo(peer): ConnectInfo<SocketAddr>,
        request: Request,
        next: Next,
    ) -> Response {
        let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match gate.admit(peer.ip(), authorization) {
            Ok(()) => next.run(request).await,
            Err(refused) => refused.into_response(),
        }
    }
}

fn key_in(authorization: &str) -> Option<Vec<u8>> {
    let (scheme, rest) = authorization.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().as_bytes().to_vec());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok()?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        return Some(pair[colon + 1..].to_vec());
    }
    None
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, title) = match self {
            Self::Unknown => (StatusCode::UNAUTHORIZED, "an API key is needed: Authorization: Bearer KEY"),
            Self::Beyond => (StatusCode::FORBIDDEN, "this API key is not allowed to do that"),
            Self::NotLocal => (
                StatusCode::FORBIDDEN,
                "without [server.keys] only loopback is served; configure a key to look from elsewhere",
            ),
        };
        let body = serde_json::json!({ "type": "about:blank", "title": title, "status": status.as_u16() });
        let mut response = (status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        if self == Self::Unknown {
            headers.insert(
                header::WWW_AUTHENTICATE,
                header::HeaderValue::from_static("Bearer, Basic realm=\"standpipe\", charset=\"UTF-8\""),
            );
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn gate(scopes: &[Scope]) -> Gate {
        let key = KeyConfig { token: Secret::value("s3cret-key"), allow: scopes.to_vec(), accounts: Vec::new() };
        Gate::new([&key].into_iter(), Scope::EventsRead).unwrap()
    }

    #[test]
    fn without_keys_only_loopback_is_served() {
        let gate = Gate::new(std::iter::empty(), Scope::EventsRead).unwrap();
        assert_eq!(gate.admit(HERE, None), Ok(()));
        assert_eq!(gate.admit("::ffff:127.0.0.1".parse().unwrap(), None), Ok(()));
        assert_eq!(gate.admit(ELSEWHERE, None), Err(Refused::NotLocal));
    }

    #[test]
    fn with_keys_everyone_needs_one_that_reaches_so_far() {
        let reader = gate(&[Scope::EventsRead]);
        assert_eq!(reader.admit(HERE, None), Err(Refused::Unknown));
        assert_eq!(reader.admit(HERE, Some("Bearer wrong")), Err(Refused::Unknown));
        assert_eq!(reader.admit(ELSEWHERE, Some("Bearer s3cret-key")), Ok(()));
        // base64 of "browser:s3cret-key"
        assert_eq!(reader.admit(ELSEWHERE, Some("Basic YnJvd3NlcjpzM2NyZXQta2V5")), Ok(()));
        assert_eq!(gate(&[Scope::PassthroughRead]).admit(HERE, Some("Bearer s3cret-key")), Err(Refused::Beyond));
        assert_eq!(gate(&[Scope::Admin]).admit(HERE, Some("Bearer s3cret-key")), Ok(()));
    }
}
