//! How requests are authorized: a token that is read anew when its file changes, or OAuth 2.0 with refresh.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::Instant;

use super::error::SellError;
use super::wire::WireError;
use crate::config::{Auth, Secret};

/// An access token is renewed this long before it expires.
const RENEW_BEFORE: Duration = Duration::from_mins(1);
/// The longest life of an access token that is believed.
const LONGEST_LIFE: Duration = Duration::from_hours(720);
/// Between attempts to keep a refresh token that could not be written.
const KEEP_AGAIN: Duration = Duration::from_mins(1);

/// What authorizes one request.
#[derive(Clone)]
pub(super) struct Bearer(SecretString);

impl Bearer {
    pub fn token(&self) -> &str {
        self.0.expose_secret()
    }

    fn same(&self, other: &SecretString) -> bool {
        self.0.expose_secret() == other.expose_secret()
    }
}

/// A request for a new access token, to be sent by the account's own client, under its budget.
pub(super) struct RefreshRequest {
    pub client_id: String,
    pub client_secret: SecretString,
    pub refresh_token: SecretString,
}

/// Sends a [`RefreshRequest`] and gives the body of a good answer.
pub(super) trait Refresh {
    fn refresh(&self, request: RefreshRequest) -> impl Future<Output = Result<bytes::Bytes, SellError>> + Send;
}

/// Gives tokens for one account.
pub(super) struct Authorizer {
    auth: Auth,
    oauth: tokio::sync::Mutex<OAuth>,
    refused: Mutex<Option<SecretString>>,
}

#[derive(Default)]
struct OAuth {
    access: Option<Access>,
    refresh: Option<Held>,
}

struct Access {
    token: SecretString,
    renew_at: Instant,
}

/// A refresh token that the vendor gave in exchange for the configured one.
struct Held {
    token: SecretString,
    /// What the configured place held when the exchange was made; once it holds something else, that counts.
    replaces: SecretString,
    /// Set while it could not be written: when it was last tried.
    unsaved: Option<Instant>,
}

impl Authorizer {
    pub fn new(auth: Auth) -> Self {
        Self { auth, oauth: tokio::sync::Mutex::default(), refused: Mutex::new(None) }
    }

    /// The token to use now; for OAuth a new one where the last is about to expire.
    pub async fn bearer(&self, vendor: &impl Refresh) -> Result<Bearer, SellError> {
        match &self.auth {
            Auth::Token(secret) => {
                let token = read(secret)?;
                if fits_a_header(token.expose_secret()) { Ok(Bearer(token)) } else { Err(SellError::UnusableToken) }
            }
            Auth::OAuth { client_id, client_secret, refresh_token } => {
                let mut oauth = self.oauth.lock().await;
                oauth.keep_again(refresh_token).await;
                match &oauth.access {
                    Some(access) if access.renew_at > Instant::now() => Ok(Bearer(access.token.clone())),
                    _ => oauth.renew((client_id, client_secret), refresh_token, vendor).await,
                }
            }
        }
    }

    /// After a 401 for `refused`: another token, where there is one. Many requests that are refused together make
    /// one refresh.
    pub async fn after_refusal(&self, refused: &Bearer, vendor: &impl Refresh) -> Result<Option<Bearer>, SellError> {
        match &self.auth {
            Auth::Token(secret) => {
                let now = read(secret)?;
                let other = !refused.same(&now) && fits_a_header(now.expose_secret());
                Ok(other.then_some(Bearer(now)))
            }
            Auth::OAuth { client_id, client_secret, refresh_token } => {
                let mut oauth = self.oauth.lock().await;
                match &oauth.access {
                    Some(access) if !refused.same(&access.token) => Ok(Some(Bearer(access.token.clone()))),
                    _ => oauth.renew((client_id, client_secret), refresh_token, vendor).await.map(Some),
                }
            }
        }
    }

    /// Notes that the vendor does not accept what is configured now.
    pub fn note_refused(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = self.configured().ok();
    }

    /// Whether something else is configured since it was refused.
    pub fn changed_since_refused(&self) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.configured(), refused.as_ref()) {
            (Ok(now), Some(refused)) => now.expose_secret() != refused.expose_secret(),
            (Ok(_), None) => true,
            (Err(_), _) => false,
        }
    }

    fn configured(&self) -> Result<SecretString, SellError> {
        match &self.auth {
            Auth::Token(secret) => read(secret),
            Auth::OAuth { refresh_token, .. } => read(refresh_token),
        }
    }
}

impl OAuth {
    /// Exchanges the refresh token for an access token, and keeps the next refresh token.
    async fn renew(
        &mut self,
        (client_id, client_secret): (&str, &Secret),
        refresh_token: &Secret,
        vendor: &impl Refresh,
    ) -> Result<Bearer, SellError> {
        let configured = read(refresh_token)?;
        let held = self.refresh.as_ref().filter(|held| held.replaces.expose_secret() == configured.expose_secret());
        let used = held.map_or_else(|| configured.clone(), |held| held.token.clone());
        self.access = None;
        let body = vendor
            .refresh(RefreshRequest {
                client_id: client_id.to_owned(),
                client_secret: read(client_secret)?,
                refresh_token: used.clone(),
            })
            .await?;
        let granted = Granted::read(&body)?;
        let life = Duration::from_secs(granted.expires_in.unwrap_or(3_600)).min(LONGEST_LIFE);
        if let Some(rotated) = granted.refresh_token.filter(|rotated| rotated != used.expose_secret()) {
            // Kept before the access token is used: a crash between must not leave us with the spent one.
            self.hold(SecretString::from(rotated), configured, refresh_token).await;
        }
        let token = SecretString::from(granted.access_token);
        let renew_at = Instant::now() + life.saturating_sub(RENEW_BEFORE).max(life / 2);
        self.access = Some(Access { token: token.clone(), renew_at });
        Ok(Bearer(token))
    }

    async fn hold(&mut self, token: SecretString, replaces: SecretString, place: &Secret) {
        match keep(place, &token).await {
            Ok(()) => self.refresh = None,
            Err(error) => {
                tracing::error!(
                    %error,
                    "the rotated refresh token could not be kept: it lives in memory alone, and a restart before it is \
                     kept needs a new authorization"
                );
                self.refresh = Some(Held { token, replaces, unsaved: Some(Instant::now()) });
            }
        }
    }

    async fn keep_again(&mut self, place: &Secret) {
        let Some(held) = &mut self.refresh else { return };
        let due = held.unsaved.is_some_and(|last| last.elapsed() >= KEEP_AGAIN) && place.path().is_some();
        let replaced = read(place).is_ok_and(|now| now.expose_secret() != held.replaces.expose_secret());
        if due && !replaced {
            match keep(place, &held.token).await {
                Ok(()) => self.refresh = None,
                Err(error) => {
                    tracing::error!(%error, "the rotated refresh token still cannot be kept");
                    held.unsaved = Some(Instant::now());
                }
            }
        }
    }
}

/// The vendor's answer to a refresh.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

impl Granted {
    /// An error shows nothing of the body: it may hold a token.
    fn read(body: &[u8]) -> Result<Self, SellError> {
        let unusable = |why: String| SellError::Wire {
            source: WireError::Shape { expected: "an access token", why },
            excerpt: String::new(),
            body: bytes::Bytes::new(),
        };
        let granted: Self = serde_json::from_slice(body).map_err(|error| {
            unusable(format!("not the promised JSON, line {} column {}", error.line(), error.column()))
        })?;
        if !fits_a_header(&granted.access_token) || granted.refresh_token.as_deref() == Some("") {
            return Err(unusable("a token that cannot be used".to_owned()));
        }
        Ok(granted)
    }
}

fn fits_a_header(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

fn read(secret: &Secret) -> Result<SecretString, SellError> {
    secret.read().map_err(|source| SellError::Credential { source })
}

/// Why a refresh token could not be kept.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("it stands in the configuration itself: use refresh_token_file")]
    NoFile,
    #[error("cannot replace its file: {0}")]
    Write(#[from] std::io::Error),
    #[error("the task that writes it ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Replaces the content of a secret's file, at once and durably.
async fn keep(place: &Secret, token: &SecretString) -> Result<(), KeepError> {
    let path = place.path().ok_or(KeepError::NoFile)?.to_owned();
    let token = token.clone();
    tokio::task::spawn_blocking(move || replace(&path, token.expose_secret())).await??;
    Ok(())
}

fn replace(path: &Path, content: &str) -> std::io::Result<()> {
    // Through symbolic links, so that the link stays and what it names is replaced.
    let path = std::fs::canonicalize(path)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.new", std::process::id()));
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&temporary)?;
        file.set_permissions(std::fs::metadata(&path)?.permissions())?;
        file.write_all(content.as_bytes())?;
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

/// What a refused refresh means: a spent or unknown refresh token is a 400 `invalid_grant` (RFC 6749, section 5.2).
pub(super) fn refused_refresh(error: SellError) -> SellError {
    match error {
        SellError::Refused { status: 400, excerpt } | SellError::Forbidden { excerpt } => {
            SellError::Unauthorized { excerpt }
        }
        other => other,
    }
}
