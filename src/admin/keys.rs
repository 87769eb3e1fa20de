//! Who may ask: API keys, compared in constant time by their hashes; without any, this machine alone is served.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::failures::Failures;
use crate::config::{KeyConfig, Scope, Secret, SecretError};
use crate::event::AccountName;

/// Keys that stand in files are read again so often, where anybody asks.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// The keys of the server. Cheap to clone.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    keys: Vec<Arc<Key>>,
    known: Mutex<Known>,
    failures: Failures,
}

/// What opens the server now.
struct Known {
    /// One for each key, in their order; none where its file cannot be read.
    hashes: Arc<[Option<Hash>]>,
    read_at: Instant,
}

type Hash = [u8; 32];

#[derive(Debug)]
struct Key {
    name: String,
    /// Where it stands, if that is a file; else its hash is all that is held here.
    file: Option<Secret>,
    allow: Vec<Scope>,
    accounts: Vec<AccountName>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.keys.len())
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller(Option<Arc<Key>>);

impl Caller {
    /// The key's name; `local` where none is needed.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.as_ref().map_or("local", |key| &key.name)
    }

    /// Whether it may do what needs a scope.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.0.as_ref().is_none_or(|key| key.allow.iter().any(|given| *given == scope || *given == Scope::Admin))
    }

    /// Whether it may do so for an account.
    #[must_use]
    pub fn reaches(&self, account: &AccountName) -> bool {
        self.0.as_ref().is_none_or(|key| key.accounts.is_empty() || key.accounts.contains(account))
    }
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No key, or one that is not known: 401.
    #[error("an API key is needed: Authorization: Bearer KEY")]
    Unknown,
    /// A known key without the scope: 403.
    #[error("this API key is not allowed to do that")]
    Beyond,
    /// Not from this machine while no keys are configured: 403.
    #[error("without [server.keys] only this machine is served, and no page from elsewhere; configure a key")]
    NotLocal,
    /// Too many failed tries from there: 429.
    #[error("too many failed tries from this address: later")]
    TooMany,
}

impl Refused {
    /// The status that says it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unknown => StatusCode::UNAUTHORIZED,
            Self::Beyond | Self::NotLocal => StatusCode::FORBIDDEN,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

impl Keys {
    /// Reads the secrets of the configured keys. Those in files are read again while they are used: a key whose file is
    /// replaced is another one within a second, and one whose file cannot be read opens nothing until it can.
    pub fn new<'a>(keys: impl IntoIterator<Item = (&'a String, &'a KeyConfig)>) -> Result<Self, SecretError> {
        let (keys, hashes): (Vec<_>, Vec<_>) = keys
            .into_iter()
            .map(|(name, key)| {
                let hash = hash(&key.token)?;
                let file = key.token.path().is_some().then(|| key.token.clone());
                let (allow, accounts) = (key.allow.clone(), key.accounts.clone());
                Ok((Arc::new(Key { name: name.clone(), file, allow, accounts }), Some(hash)))
            })
            .collect::<Result<_, SecretError>>()?;
        let hashes = hashes.into();
        let known = Mutex::new(Known { hashes, read_at: Instant::now() });
        Ok(Self(Arc::new(Inner { keys, known, failures: Failures::default() })))
    }

    /// Says who asks from `peer`. A failed try is answered late, and later each time ([`Failures`]).
    ///
    /// A key comes as `Bearer KEY`, or as the password of `Basic` so that a browser can ask for it.
    pub async fn admit(&self, peer: IpAddr, headers: &HeaderMap) -> Result<Caller, Refused> {
        let peer = peer.to_canonical();
        if self.0.keys.is_empty() {
            return if peer.is_loopback() && is_local(headers) { Ok(Caller(None)) } else { Err(Refused::NotLocal) };
        }
        let turn = self.0.failures.turn(peer).ok_or(Refused::TooMany)?;
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(given) = authorization.and_then(key_in) else { return Err(Refused::Unknown) };
        if let Some(key) = self.find(&given) {
            return Ok(Caller(Some(key)));
        }
        turn.failed().await;
        Err(Refused::Unknown)
    }

    /// Every key is compared, and each in full: the time tells nothing.
    fn find(&self, given: &[u8]) -> Option<Arc<Key>> {
        let given: Hash = Sha256::digest(given).into();
        let mut found = None;
        for (key, hash) in self.0.keys.iter().zip(self.hashes().iter()) {
            let difference = hash.iter().flatten().zip(given).fold(0, |sum, (a, b)| sum | (a ^ b));
            if hash.is_some() && difference == 0 {
                found = Some(key.clone());
            }
        }
        found
    }

    fn hashes(&self) -> Arc<[Option<Hash>]> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.read_at.elapsed() >= READ_AGAIN && self.0.keys.iter().any(|key| key.file.is_some()) {
            let again = |(key, before): (&Arc<Key>, &Option<Hash>)| {
                let Some(file) = &key.file else { return *before };
                let now = hash(file).inspect_err(|error| {
                    if before.is_some() {
                        let error = error as &dyn std::error::Error;
                        tracing::error!(key = key.name, error, "an API key opens nothing until its file can be read");
                    }
                });
                let now = now.ok();
                if now.is_some() && now != *before {
                    tracing::info!(key = key.name, "an API key is another one now");
                }
                now
            };
            known.hashes = self.0.keys.iter().zip(known.hashes.iter()).map(again).collect();
            known.read_at = Instant::now();
        }
        known.hashes.clone()
    }
}

fn hash(secret: &Secret) -> Result<Hash, SecretError> {
    Ok(Sha256::digest(secret.read()?.expose_secret()).into())
}

/// The keys that open one part of the server.
#[derive(Clone)]
pub struct Gate {
    keys: Keys,
    needs: Scope,
    shows: Arc<dyn Fn() -> Vec<AccountName> + Send + Sync>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({:?} {:?})", self.keys, self.needs)
    }
}

impl Gate {
    /// A gate that lets keys with `needs` or `admin` pass, which reach every account that is shown behind it.
    #[must_use]
    pub fn new(keys: Keys, needs: Scope, shows: impl Fn() -> Vec<AccountName> + Send + Sync + 'static) -> Self {
        Self { keys, needs, shows: Arc::new(shows) }
    }

    fn lets_pass(&self, caller: &Caller) -> bool {
        caller.may(self.needs) && (self.shows)().iter().all(|account| caller.reaches(account))
    }

    /// The gate as axum's middleware.
    pub async fn middleware(
        State(gate): State<Self>,
        ConnectInfo(peer): ConnectInfo<SocketAddr>,
        request: Request,
        next: Next,
    ) -> Response {
        match gate.keys.admit(peer.ip(), request.headers()).await {
            Ok(caller) if gate.lets_pass(&caller) => next.run(request).await,
            Ok(_) => Refused::Beyond.into_response(),
            Err(refused) => refused.into_response(),
        }
    }
}

/// Whether a request to a server without keys comes from a program on this machine: not through a proxy in front of us, and
/// not from a page in somebody's browser, which reaches loopback too (and whose name may have been made to point there).
fn is_local(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let forwarded = headers.contains_key(header::FORWARDED) || headers.contains_key("x-forwarded-for");
    let host = text(header::HOST).is_none_or(names_loopback);
    let origin = text(header::ORIGIN)
        .is_none_or(|origin| origin.split_once("://").is_some_and(|(_, host)| names_loopback(host)));
    // A picture or a script of another site's page brings no origin. Whoever follows a link here is a person.
    let embedded = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
        && headers.get("sec-fetch-mode").is_none_or(|mode| mode != "navigate");
    !forwarded && host && origin && !embedded
}

fn names_loopback(authority: &str) -> bool {
    let Ok(uri) = authority.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || literal.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
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
        let status = self.status();
        let body = serde_json::json!({ "type": "about:blank", "title": self.to_string(), "status": status.as_u16() });
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
    use axum::http::HeaderValue;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn keys(scopes: &[Scope]) -> Keys {
        let accounts = vec![AccountName::from("acme")];
        let key = KeyConfig { token: Secret::value("s3cret-key"), allow: scopes.to_vec(), accounts };
        Keys::new([(&"ci".to_owned(), &key)]).unwrap()
    }

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[tokio::test]
    async fn without_keys_only_programs_on_this_machine_are_served() {
        let keys = Keys::new([]).unwrap();
        let none = HeaderMap::new();
        let caller = keys.admit(HERE, &none).await.unwrap();
        assert!(caller.may(Scope::PassthroughWrite) && caller.reaches(&AccountName::from("any")));
        assert!(keys.admit("::ffff:127.0.0.1".parse().unwrap(), &none).await.is_ok());
        assert_eq!(keys.admit(ELSEWHERE, &none).await.unwrap_err(), Refused::NotLocal);
        for (name, value, served) in [
            ("host", "localhost:8080", true),
            ("host", "127.0.0.1:8080", true),
            ("host", "[::1]:8080", true),
            ("host", "rebound.example:8080", false),
            ("origin", "http://localhost:3000", true),
            ("origin", "https://evil.example", false),
            ("origin", "null", false),
            ("sec-fetch-site", "cross-site", false),
            ("sec-fetch-site", "none", true),
            ("x-forwarded-for", "192.0.2.1", false),
            ("forwarded", "for=192.0.2.1", false),
        ] {
            assert_eq!(keys.admit(HERE, &with(name, value)).await.is_ok(), served, "{name}: {value}");
        }
        let mut followed = with("sec-fetch-site", "cross-site");
        followed.insert("sec-fetch-mode", HeaderValue::from_static("navigate"));
        assert!(keys.admit(HERE, &followed).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn with_keys_everyone_needs_one_that_reaches_so_far() {
        let reader = keys(&[Scope::EventsRead]);
        assert_eq!(reader.admit(HERE, &HeaderMap::new()).await.unwrap_err(), Refused::Unknown);
        assert_eq!(reader.admit(HERE, &with("authorization", "Bearer wrong")).await.unwrap_err(), Refused::Unknown);
        let caller = reader.admit(ELSEWHERE, &with("authorization", "Bearer s3cret-key")).await.unwrap();
        assert!(caller.may(Scope::EventsRead) && !caller.may(Scope::PassthroughRead));
        assert!(caller.reaches(&AccountName::from("acme")) && !caller.reaches(&AccountName::from("other")));
        assert_eq!(caller.name(), "ci");
        // base64 of "browser:s3cret-key"
        assert!(reader.admit(ELSEWHERE, &with("authorization", "Basic YnJvd3NlcjpzM2NyZXQta2V5")).await.is_ok());
        let admin = keys(&[Scope::Admin]).admit(HERE, &with("authorization", "bearer s3cret-key")).await.unwrap();
        assert!(admin.may(Scope::PassthroughWrite));
    }

    #[tokio::test(start_paused = true)]
    async fn failed_tries_are_answered_later_and_later_and_only_so_many_at_once() {
        let keys = keys(&[Scope::Admin]);
        let wrong = with("authorization", "Bearer wrong");
        let begun = tokio::time::Instant::now();
        for _ in 0..6 {
            assert_eq!(keys.admit(ELSEWHERE, &wrong).await.unwrap_err(), Refused::Unknown);
        }
        assert!(begun.elapsed() >= std::time::Duration::from_secs(7), "{:?}", begun.elapsed());
        // The right key is not made to wait for it, nor is another address.
        let at = tokio::time::Instant::now();
        keys.admit(ELSEWHERE, &with("authorization", "Bearer s3cret-key")).await.unwrap();
        assert_eq!(at.elapsed(), std::time::Duration::ZERO);
        let many = futures_util::future::join_all((0..20).map(|_| keys.admit(ELSEWHERE, &wrong))).await;
        let too_many = many.iter().filter(|told| matches!(told, Err(Refused::TooMany))).count();
        assert_eq!(too_many, 12);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_whose_file_is_replaced_is_another_one_and_without_its_file_it_is_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first-key-of-two\n").unwrap();
        let token = Secret::file(file.path().to_owned());
        let key = KeyConfig { token, allow: vec![Scope::PassthroughRead], accounts: Vec::new() };
        let written = KeyConfig { token: Secret::value("written-key"), ..key.clone() };
        let keys = Keys::new([(&"ci".to_owned(), &key), (&"written".to_owned(), &written)]).unwrap();
        let opens = async |keys: &Keys, value: &'static str| {
            tokio::time::advance(READ_AGAIN).await;
            keys.admit(ELSEWHERE, &with("authorization", value)).await.is_ok()
        };
        let (first, second) = ("Bearer first-key-of-two", "Bearer second-key-of-two");
        assert!(opens(&keys, first).await && !opens(&keys, second).await);
        std::fs::write(file.path(), "second-key-of-two").unwrap();
        assert!(!opens(&keys, first).await && opens(&keys, second).await);
        std::fs::write(file.path(), "").unwrap();
        assert!(!opens(&keys, second).await && !opens(&keys, "Bearer ").await);
        assert!(opens(&keys, "Bearer written-key").await, "it stands in no file");
        std::fs::write(file.path(), "first-key-of-two").unwrap();
        assert!(opens(&keys, first).await);
    }

    #[tokio::test]
    async fn a_key_for_some_accounts_does_not_open_what_shows_others() {
        let keys = keys(&[Scope::EventsRead]);
        let caller = keys.admit(ELSEWHERE, &with("authorization", "Bearer s3cret-key")).await.unwrap();
        let gate = |accounts: &'static [&'static str], needs| {
            Gate::new(keys.clone(), needs, move || accounts.iter().map(|name| AccountName::from(*name)).collect())
        };
        assert!(gate(&["acme"], Scope::EventsRead).lets_pass(&caller));
        assert!(!gate(&["acme"], Scope::PassthroughRead).lets_pass(&caller));
        assert!(!gate(&["acme", "other"], Scope::EventsRead).lets_pass(&caller));
    }
}
