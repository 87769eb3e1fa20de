//! An endpoint as it stands in the configuration and in the secret files now.

use std::fmt;

use hyper::Uri;
use hyper::header::HeaderValue;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::guard::{Guard, Refused};
use super::sign::{KeyError, Keys};
use crate::config::{Secret, SecretError, WebhookConfig};
use crate::mask::Mask;

/// A piece of a path that is as long may be a token, in bytes.
const TELLING: usize = 12;

/// Where to and signed with what: read together, so that an attempt never mixes two states of the files.
pub struct Endpoint {
    url: Url,
    origin: Uri,
    target: Uri,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    keys: Keys,
    refused: Option<Refused>,
}

// By hand: path and query may hold a token (INV-16).
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("host", &self.url.host_str())
            .field("keys", &self.keys)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

/// An endpoint that cannot be used. Names no secret (INV-16).
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// A secret file cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The URL is none.
    #[error("`url` is not an http(s) URL; it looks like https://hooks.example.com/sell")]
    Url,
}

/// The texts that an [`Endpoint`] is made of, to tell whether a file changed.
#[derive(Debug)]
pub struct Texts {
    url: SecretString,
    secrets: Vec<SecretString>,
    signing_key: Option<SecretString>,
}

impl Texts {
    /// Reads the files. Blocks.
    pub fn read(config: &WebhookConfig) -> Result<Self, SecretError> {
        Ok(Self {
            url: config.url.read()?,
            secrets: config.secrets.iter().map(Secret::read).collect::<Result<_, _>>()?,
            signing_key: config.signing_key.as_ref().map(Secret::read).transpose()?,
        })
    }

    /// Whether any of them stands in a file, so that reading them blocks.
    #[must_use]
    pub fn in_files(config: &WebhookConfig) -> bool {
        [&config.url].into_iter().chain(&config.secrets).chain(&config.signing_key).any(|text| text.path().is_some())
    }

    /// Whether two readings gave the same.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let plain = |text: &SecretString| text.expose_secret().to_owned();
        let list = |texts: &Self| -> Vec<zeroize::Zeroizing<String>> {
            let all = [&texts.url].into_iter().chain(&texts.secrets).chain(&texts.signing_key);
            all.map(plain).map(zeroize::Zeroizing::new).collect()
        };
        self.secrets.len() == other.secrets.len() && list(self) == list(other)
    }
}

impl Endpoint {
    /// Prepares what every attempt needs.
    pub fn new(texts: &Texts, guard: &Guard) -> Result<Self, EndpointError> {
        let keys = Keys::new(&texts.secrets, texts.signing_key.as_ref())?;
        let mut url = Url::parse(texts.url.expose_secret().trim()).map_err(|_| EndpointError::Url)?;
        let authorization = authorization(&mut url)?;
        let refused = match guard.url(&url) {
            Err(Refused::Scheme) => return Err(EndpointError::Url),
            judged => judged.err(),
        };
        // Without user, and without a port that goes without saying; path and query as they are spelled, without a fragment.
        let origin = url.origin().ascii_serialization();
        let host = origin.split_once("://").and_then(|(_, host)| HeaderValue::from_str(host).ok());
        let target = url.path().to_owned() + &url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let (Ok(origin), Ok(target), Some(host)) = (Uri::try_from(origin), Uri::try_from(target), host) else {
            return Err(EndpointError::Url);
        };
        Ok(Self { url, origin, target, host, authorization, keys, refused })
    }

    /// Where to, without the password.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// What is dialled: scheme, host and port.
    #[must_use]
    pub const fn origin(&self) -> &Uri {
        &self.origin
    }

    /// What is asked for there: path and query.
    #[must_use]
    pub const fn target(&self) -> &Uri {
        &self.target
    }

    /// The value of the header `host`.
    #[must_use]
    pub const fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Basic authorization, where the URL held a user.
    #[must_use]
    pub const fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// What an answer must not show: where it came from, beyond the host, and what it was authorized with.
    #[must_use]
    pub fn mask(&self, headers: &[HeaderValue]) -> Mask {
        let mut mask = Mask::default();
        headers.iter().chain(&self.authorization).for_each(|value| mask.add_header(value));
        if let Some(query) = self.url.query() {
            mask.add(query.as_bytes());
            mask.add_pairs(query.as_bytes(), |_| true);
        }
        mask.add(self.url.path().as_bytes());
        for segment in self.url.path_segments().into_iter().flatten().filter(|segment| segment.len() >= TELLING) {
            mask.add(segment.as_bytes());
        }
        mask
    }

    /// What signs.
    #[must_use]
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Why nothing may be sent to it, where the URL alone says so.
    #[must_use]
    pub const fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }
}

/// Takes user and password out of the URL, percent-decoded, and makes the header of them.
fn authorization(url: &mut Url) -> Result<Option<HeaderValue>, EndpointError> {
    use base64::Engine;
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decoded = |text: &str| zeroize::Zeroizing::new(percent_decoded(text));
    let mut pair = decoded(url.username());
    pair.push(b':');
    pair.extend_from_slice(&decoded(url.password().unwrap_or_default()));
    let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(&*pair));
    let mut value = HeaderValue::from_str(&value).map_err(|_| EndpointError::Url)?;
    value.set_sensitive(true);
    url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| EndpointError::Url)?;
    Ok(Some(value))
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).expect("two hex digits are a byte"));
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(url: &str) -> Texts {
        Texts { url: url.into(), secrets: vec![super::super::sign::new_secret()], signing_key: None }
    }

    #[test]
    fn a_password_in_the_url_becomes_a_header_and_prints_nowhere() {
        let endpoint =
            Endpoint::new(&texts("https://us%40er:p%C3%A4ss@hooks.example.com/t0ken"), &Guard::new(false, &[]))
                .unwrap();
        assert_eq!(endpoint.url().as_str(), "https://hooks.example.com/t0ken");
        // "us@er:päss" in base64.
        assert_eq!(endpoint.authorization().unwrap().to_str().unwrap(), "Basic dXNAZXI6cMOkc3M=");
        let shown = format!("{endpoint:?}");
        assert!(!shown.contains("ss@") && !shown.contains("dXNA") && !shown.contains("t0ken"), "{shown}");
    }

    #[test]
    fn a_changed_text_is_noticed() {
        let (one, other) = (texts("https://a.example/"), texts("https://a.example/"));
        assert!(one.same(&one));
        assert!(!one.same(&other), "other secrets");
    }
}
