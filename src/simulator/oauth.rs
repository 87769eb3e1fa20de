//! Access tokens: which are taken, and `POST /oauth2/token` that gives them (authorization code and refresh token,
//! RFC 6749). A refresh token is good for one refresh; the answer brings the next. `GET /oauth2/authorize` consents at
//! once, as a person would who trusts the client, with PKCE where it is asked for (RFC 7636); `POST /oauth2/revoke`
//! takes an access token back (RFC 7009).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::dice::Dice;
use super::limits::{TokenDigest, digest};
use super::shared::Shared;

/// A token that was not given here cannot be refreshed here: it is taken again after this time.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Beyond so many, those that ended are forgotten.
const REMEMBERED: usize = 10_000;
/// The dice's purpose.
const TOKENS: u64 = 2;

/// The tokens of a simulator.
#[derive(Debug)]
pub(super) struct Tokens {
    only: Option<TokenDigest>,
    life: Duration,
    dice: Dice,
    /// When each token that was given here ends.
    given: HashMap<TokenDigest, Instant>,
    /// Tokens from elsewhere that are refused, and until when.
    refused: HashMap<TokenDigest, Instant>,
    /// Refresh tokens and codes that were used.
    spent: HashSet<TokenDigest>,
    /// Codes that were given here and not used: for which redirect, and the challenge that they are bound to.
    codes: HashMap<TokenDigest, (String, Option<String>)>,
}

/// The body of a token request.
#[derive(Deserialize)]
pub(super) struct Request {
    grant_type: String,
    #[serde(default, deserialize_with = "secret")]
    code: Option<SecretString>,
    #[serde(default, deserialize_with = "secret")]
    refresh_token: Option<SecretString>,
    #[serde(default, deserialize_with = "secret")]
    code_verifier: Option<SecretString>,
    redirect_uri: Option<String>,
}

/// The query of an authorization request.
#[derive(Deserialize)]
pub(super) struct Authorize {
    response_type: Option<String>,
    client_id: Option<String>,
    redirect_uri: Option<String>,
    state: Option<String>,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
}

/// The body of a revocation.
#[derive(Deserialize)]
struct Revocation {
    #[serde(default, deserialize_with = "secret")]
    token: Option<SecretString>,
}

/// A good answer to it.
#[derive(Serialize)]
pub(super) struct Granted {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    refresh_token: String,
    scope: &'static str,
}

/// A refusal, in the words of RFC 6749 section 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Refused {
    pub error: &'static str,
    pub error_description: &'static str,
}

/// `POST /oauth2/token`, its body as a form or as JSON.
pub(super) async fn token(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(request) = read::<Request>(&headers, &body) else {
        let refused = Refused { error: "invalid_request", error_description: "expected a form with grant_type" };
        return (StatusCode::BAD_REQUEST, Json(refused)).into_response();
    };
    let granted = shared.tokens().grant(&request, Instant::now());
    match granted {
        Ok(granted) => ([(header::CACHE_CONTROL, "no-store")], Json(granted)).into_response(),
        Err(refused) => (StatusCode::BAD_REQUEST, Json(refused)).into_response(),
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

/// `GET /oauth2/authorize`: leads back to the client with a code.
pub(super) async fn authorize(State(shared): State<Arc<Shared>>, Query(asked): Query<Authorize>) -> Response {
    let refuse = |error_description| {
        let refused = Refused { error: "invalid_request", error_description };
        (StatusCode::BAD_REQUEST, Json(refused)).into_response()
    };
    let redirect = asked.redirect_uri.as_deref().and_then(|uri| reqwest::Url::parse(uri).ok());
    let Some(mut redirect) = redirect.filter(|uri| uri.scheme().starts_with("http")) else {
        return refuse("the redirect_uri is no address");
    };
    if asked.response_type.as_deref() != Some("code") || asked.client_id.as_deref().is_none_or(str::is_empty) {
        return refuse("expected response_type=code and a client_id");
    }
    if asked.code_challenge.is_some() && asked.code_challenge_method.as_deref() != Some("S256") {
        return refuse("the code_challenge_method must be S256");
    }
    let code = shared.tokens().code(asked.redirect_uri.unwrap_or_default(), asked.code_challenge);
    redirect.query_pairs_mut().append_pair("code", &code);
    if let Some(state) = &asked.state {
        redirect.query_pairs_mut().append_pair("state", state);
    }
    let to = [(header::LOCATION, redirect.to_string()), (header::CACHE_CONTROL, "no-store".to_owned())];
    (StatusCode::FOUND, to).into_response()
}

/// `POST /oauth2/revoke`: 200 whether the token was good or not.
pub(super) async fn revoke(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let revocation = read::<Revocation>(&headers, &body).and_then(|revocation| revocation.token);
    let Some(token) = revocation.filter(|token| !token.expose_secret().is_empty()) else {
        let refused = Refused { error: "invalid_request", error_description: "the token is missing" };
        return (StatusCode::BAD_REQUEST, Json(refused)).into_response();
    };
    shared.tokens().revoke(digest(token.expose_secret()), Instant::now());
    StatusCode::OK.into_response()
}

/// A body as a form or as JSON.
fn read<T: for<'a> Deserialize<'a>>(headers: &HeaderMap, body: &[u8]) -> Option<T> {
    let is_json =
        headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json {
        return serde_json::from_slice(body).ok();
    }
    let uri = Uri::try_from(format!("/?{}", std::str::from_utf8(body).ok()?)).ok()?;
    Query::<T>::try_from_uri(&uri).ok().map(|Query(request)| request)
}

impl Tokens {
    pub fn new(only: Option<&SecretString>, life: Duration, seed: u64) -> Self {
        Self {
            only: only.map(|token| digest(token.expose_secret())),
            life,
            dice: Dice::new(seed, TOKENS),
            given: HashMap::new(),
            refused: HashMap::new(),
            spent: HashSet::new(),
            codes: HashMap::new(),
        }
    }

    /// A code for one redirect, bound to a challenge where there is one.
    fn code(&mut self, redirect: String, challenge: Option<String>) -> String {
        if self.codes.len() >= REMEMBERED {
            self.codes.clear();
        }
        let code = self.token();
        self.codes.insert(digest(&code), (redirect, challenge));
        code
    }

    /// Whether a code is used by whom it was given to. One from elsewhere is taken as it is.
    fn matches(&self, code: &TokenDigest, request: &Request) -> bool {
        let Some((redirect, challenge)) = self.codes.get(code) else { return true };
        let verified = challenge.as_ref().is_none_or(|challenge| {
            let verifier = request.code_verifier.as_ref().map(|verifier| Sha256::digest(verifier.expose_secret()));
            verifier.is_some_and(|verifier| URL_SAFE_NO_PAD.encode(verifier) == *challenge)
        });
        verified && request.redirect_uri.as_ref() == Some(redirect)
    }

    /// Whether a request with this token is served.
    pub fn takes(&mut self, token: &TokenDigest, now: Instant) -> bool {
        if let Some(ends) = self.given.get(token) {
            return *ends > now;
        }
        match self.refused.get(token) {
            Some(until) if *until > now => return false,
            Some(_) => drop(self.refused.remove(token)),
            None => {}
        }
        self.only.is_none_or(|only| only == *token)
    }

    /// Refuses a token from now on, until it is refreshed.
    pub fn revoke(&mut self, token: TokenDigest, now: Instant) {
        match self.given.get_mut(&token) {
            Some(ends) => *ends = now,
            None => drop(self.refused.insert(token, now + REFUSED_FOR)),
        }
    }

    /// Takes again what was refused and comes from elsewhere.
    pub fn pardon(&mut self) {
        self.refused.clear();
    }

    /// Gives an access token and the next refresh token.
    pub fn grant(&mut self, request: &Request, now: Instant) -> Result<Granted, Refused> {
        let refuse = |error, error_description| Err(Refused { error, error_description });
        let presented = match request.grant_type.as_str() {
            "authorization_code" => &request.code,
            "refresh_token" => &request.refresh_token,
            _ => return refuse("unsupported_grant_type", "authorization_code and refresh_token are"),
        };
        let Some(presented) = presented.as_ref().filter(|text| !text.expose_secret().is_empty()) else {
            return refuse("invalid_request", "the code or the refresh_token is missing");
        };
        let presented = digest(presented.expose_secret());
        if request.grant_type == "authorization_code" && !self.matches(&presented, request) {
            return refuse("invalid_grant", "the code was given for another redirect_uri or code_verifier");
        }
        if !self.spent.insert(presented) {
            return refuse("invalid_grant", "it was used before");
        }
        self.codes.remove(&presented);
        if self.given.len() >= REMEMBERED {
            self.given.retain(|_, ends| *ends > now);
            self.spent.clear();
        }
        let access_token = self.token();
        self.given.insert(digest(&access_token), now + self.life);
        Ok(Granted {
            access_token,
            token_type: "bearer",
            expires_in: self.life.as_secs(),
            refresh_token: self.token(),
            scope: "read write",
        })
    }

    /// 64 hex digits.
    fn token(&mut self) -> String {
        let mut half = || u128::from(self.dice.number()) << 64 | u128::from(self.dice.number());
        format!("{:032x}{:032x}", half(), half())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refresh(token: &str) -> Request {
        let grant_type = "refresh_token".to_owned();
        Request { grant_type, code: None, refresh_token: Some(token.into()), code_verifier: None, redirect_uri: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_token_is_good_once_and_an_access_token_for_its_life() {
        let only = SecretString::from("only");
        let mut tokens = Tokens::new(Some(&only), Duration::from_mins(1), 1);
        assert!(tokens.takes(&digest("only"), Instant::now()));
        assert!(!tokens.takes(&digest("other"), Instant::now()));
        let granted = tokens.grant(&refresh("first"), Instant::now()).ok().unwrap();
        assert_eq!(tokens.grant(&refresh("first"), Instant::now()).err().unwrap().error, "invalid_grant");
        assert!(tokens.takes(&digest(&granted.access_token), Instant::now()));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(!tokens.takes(&digest(&granted.access_token), Instant::now()));
        assert!(tokens.grant(&refresh(&granted.refresh_token), Instant::now()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_code_is_good_once_and_for_whom_it_was_given_to() {
        let mut tokens = Tokens::new(None, Duration::from_mins(1), 1);
        // The verifier and challenge of RFC 7636, appendix B.
        let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        let code = tokens.code("http://127.0.0.1:9/back".to_owned(), Some(challenge.to_owned()));
        let mut ask = |verifier: Option<&str>, redirect: &str| {
            let request = Request {
                grant_type: "authorization_code".to_owned(),
                code: Some(code.as_str().into()),
                refresh_token: None,
                code_verifier: verifier.map(Into::into),
                redirect_uri: Some(redirect.to_owned()),
            };
            tokens.grant(&request, Instant::now()).map_err(|refused| refused.error)
        };
        let (verifier, redirect) = ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "http://127.0.0.1:9/back");
        assert_eq!(ask(None, redirect).err(), Some("invalid_grant"));
        assert_eq!(ask(Some("another"), redirect).err(), Some("invalid_grant"));
        assert_eq!(ask(Some(verifier), "http://127.0.0.1:9/elsewhere").err(), Some("invalid_grant"));
        assert!(ask(Some(verifier), redirect).is_ok());
        assert_eq!(ask(Some(verifier), redirect).err(), Some("invalid_grant"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoked_token_is_refused_until_it_is_refreshed_or_where_it_cannot_be_for_a_while() {
        let mut tokens = Tokens::new(None, Duration::from_hours(1), 1);
        let granted = tokens.grant(&refresh("r"), Instant::now()).ok().unwrap();
        for token in [granted.access_token.as_str(), "static"] {
            assert!(tokens.takes(&digest(token), Instant::now()));
            tokens.revoke(digest(token), Instant::now());
            assert!(!tokens.takes(&digest(token), Instant::now()));
        }
        tokio::time::advance(REFUSED_FOR).await;
        assert!(tokens.takes(&digest("static"), Instant::now()));
        assert!(!tokens.takes(&digest(&granted.access_token), Instant::now()));
    }
}
