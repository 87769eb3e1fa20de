//! A person's consent (RFC 6749, authorization code; RFC 7636, PKCE; RFC 8252, a loopback redirect): the page to open, and what
//! comes back from it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt as _;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};

use super::budget::Priority;
use super::client::Vendor;
use super::grant;

/// One asking for consent. Good for one answer.
pub struct Consent {
    url: Url,
    redirect: String,
    state: SecretString,
    verifier: SecretString,
}

/// What came back is of no use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConsentError {
    /// It does not belong to this asking.
    #[error("its `state` is not the one that was sent: it is no answer to this page")]
    OtherState,
    /// The person, or the vendor, said no.
    #[error("consent was not given: {0}")]
    Denied(String),
    /// It holds no code.
    #[error("it holds no code")]
    NoCode,
    /// The account has a token.
    #[error("the account is not configured for OAuth: it needs a table [accounts.NAME.oauth]")]
    NotOAuth,
    /// The client secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretUnreadable),
    /// The vendor does not exchange the code.
    #[error("the code could not be exchanged: {0}")]
    NotExchanged(String),
}

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SecretUnreadable(String);

impl std::fmt::Debug for Consent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Consent({})", self.redirect)
    }
}

impl Vendor {
    /// Begins to ask for consent, whose answer goes to `redirect` on this machine.
    pub fn consent(&self, redirect: &str) -> Result<Consent, ConsentError> {
        let grant = self.grant().ok_or(ConsentError::NotOAuth)?;
        // Secrets come from the machine's own randomness.
        let random = || URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>());
        let (state, verifier) = (random(), random());
        let mut url = self.origin().clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["oauth2", "authorize"]);
        }
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", grant.client_id())
            .append_pair("redirect_uri", redirect)
            .append_pair("state", &state)
            .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(Sha256::digest(&verifier)))
            .append_pair("code_challenge_method", "S256");
        let (state, verifier) = (SecretString::from(state), SecretString::from(verifier));
        Ok(Consent { url, redirect: redirect.to_owned(), state, verifier })
    }

    /// Exchanges the code that a consent gave for a refresh token, which the caller keeps. The access token that comes with it
    /// is not used.
    pub async fn redeem(&self, consent: &Consent, code: &SecretString) -> Result<SecretString, ConsentError> {
        let grant = self.grant().ok_or(ConsentError::NotOAuth)?;
        let secret = grant.client_secret().map_err(|error| SecretUnreadable(error.to_string()))?;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code.expose_secret()),
            ("redirect_uri", consent.redirect.as_str()),
            ("code_verifier", consent.verifier.expose_secret()),
        ];
        let slot = self.budget().take(Priority::Passthrough).await;
        let granted = grant::ask(self, slot, (grant.client_id(), &secret), &form)
            .await
            .map_err(|refusal| ConsentError::NotExchanged(refusal.why().to_owned()))?;
        let missing = || ConsentError::NotExchanged("the vendor gave no refresh token".to_owned());
        granted.refresh.ok_or_else(missing)
    }
}

impl Consent {
    /// The page that a person opens.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// The code in the query of a redirect, where it belongs to this asking.
    pub fn code(&self, query: &str) -> Result<SecretString, ConsentError> {
        let (mut state, mut code, mut denied) = (None, None, None);
        let pairs = url_pairs(query);
        for (name, value) in &pairs {
            match name.as_str() {
                "state" => state = Some(value.as_str()),
                "code" => code = Some(value.as_str()),
                "error" => denied = Some(value.as_str()),
                _ => {}
            }
        }
        // By their hashes, so that the time it takes tells nothing.
        let hash = |text: &str| Sha256::digest(text.as_bytes());
        if state.is_none_or(|state| hash(state) != hash(self.state.expose_secret())) {
            return Err(ConsentError::OtherState);
        }
        if let Some(denied) = denied {
            return Err(ConsentError::Denied(grant::shown(denied)));
        }
        code.filter(|code| !code.is_empty()).map(SecretString::from).ok_or(ConsentError::NoCode)
    }
}

/// The pairs of a query, decoded.
fn url_pairs(query: &str) -> Vec<(String, String)> {
    let Ok(mut url) = Url::parse("http://127.0.0.1/") else { return Vec::new() };
    url.set_query(Some(query));
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consent() -> Consent {
        Consent {
            url: Url::parse("https://vendor.example/oauth2/authorize").unwrap(),
            redirect: "http://127.0.0.1:9/callback".to_owned(),
            state: "st+te=".into(),
            verifier: "verifier".into(),
        }
    }

    #[test]
    fn a_code_counts_with_the_state_that_was_sent_alone() {
        let consent = consent();
        let told = |query: &str| consent.code(query).map(|code| code.expose_secret().to_owned());
        assert_eq!(told("code=a%2Bb&state=st%2Bte%3D"), Ok("a+b".to_owned()));
        for other in ["code=a", "code=a&state=", "code=a&state=st%2Bte", "code=a&state=st%2Bte%3D&state=x", ""] {
            assert_eq!(told(other), Err(ConsentError::OtherState), "{other}");
        }
        assert_eq!(told("error=denied&state=other"), Err(ConsentError::OtherState), "nobody else can end it");
        let denied = told("error=access%0A_denied&state=st%2Bte%3D&code=a");
        assert_eq!(denied, Err(ConsentError::Denied("access_denied".to_owned())));
        assert_eq!(told("state=st%2Bte%3D&code="), Err(ConsentError::NoCode));
        // INV-16
        assert!(!format!("{consent:?}").contains("verifier"));
    }
}
