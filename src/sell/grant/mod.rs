//! OAuth 2.0: the access token of an account, which all replicas share through the ledger.
//!
//! Whoever calls the vendor takes the token that is known here ([`Grant::bearer`]) and waits for nothing else. Only the
//! account's [`keeper`] renews it: at 80 % of its life, or when the vendor refused it. That is a task with an owner, so that a
//! caller who goes away cannot cut an exchange in two.

mod ask;
mod keeper;
mod seal;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(super) use ask::{ask, shown};
pub(super) use keeper::keep;

use super::error::SellError;
use crate::config::{Secret, SecretError};

/// How long a request waits for an access token.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is configured of an account's OAuth.
#[derive(Clone)]
pub(super) struct Client {
    pub id: String,
    pub secret: Secret,
    pub refresh_token: Secret,
    pub key: Secret,
}

/// The grant of one account, as this process knows it.
pub(super) struct Grant {
    client: Client,
    view: watch::Sender<View>,
    demand: Mutex<Demand>,
    asked: Notify,
    /// The newest generation whose access token the vendor has accepted here.
    accepted: AtomicI64,
}

/// An access token.
#[derive(Clone)]
pub(super) struct Access {
    pub token: SecretString,
    /// Which grant it belongs to.
    pub generation: i64,
    until: Instant,
}

/// What callers see.
#[derive(Clone, Default)]
struct View {
    access: Option<Access>,
    trouble: Option<Trouble>,
    /// The last demand that was looked at.
    answered: u64,
}

/// A wish for another token than that of a generation.
#[derive(Clone, Copy, Default)]
struct Demand {
    number: u64,
    refused: Option<i64>,
}

/// Why there is no new access token. Shows no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The vendor does not take the refresh token any more: only a person can help.
    Reauth(String),
    /// What is configured or kept cannot be used: only a person can help.
    Unusable(String),
    /// It may pass.
    Passing(String),
}

impl Trouble {
    fn error(&self) -> SellError {
        match self {
            Self::Reauth(why) => SellError::ReauthRequired { why: why.clone() },
            Self::Unusable(why) => SellError::UnusableGrant { why: why.clone() },
            Self::Passing(why) => SellError::NoAccessToken { why: why.clone() },
        }
    }
}

impl View {
    fn usable(&self) -> Option<&Access> {
        self.access.as_ref().filter(|access| access.until > Instant::now())
    }
}

impl Grant {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            view: watch::Sender::new(View::default()),
            demand: Mutex::default(),
            asked: Notify::new(),
            accepted: AtomicI64::new(-1),
        }
    }

    /// The application's id.
    pub fn client_id(&self) -> &str {
        &self.client.id
    }

    /// The application's secret, as it is now.
    pub fn client_secret(&self) -> Result<SecretString, SecretError> {
        self.client.secret.read()
    }

    /// The access token to use now. Waits for one where none is known yet.
    pub async fn bearer(&self) -> Result<Access, SellError> {
        let mut view = self.view.subscribe();
        let told = async {
            loop {
                let told = {
                    let now = view.borrow_and_update();
                    match (now.usable(), &now.trouble) {
                        (Some(access), _) => Some(Ok(access.clone())),
                        (None, Some(trouble)) => Some(Err(trouble.error())),
                        (None, None) => None,
                    }
                };
                match told {
                    Some(told) => return told,
                    // The sender is ours.
                    None => view.changed().await.unwrap_or_default(),
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap_or_else(|_| Err(late()))
    }

    /// After a 401 for the token of `generation`: another one, where there is one. Many requests that are refused together
    /// make one refresh.
    pub async fn after_refusal(&self, generation: i64) -> Result<Option<Access>, SellError> {
        let mut view = self.view.subscribe();
        let other = |view: &View| view.usable().filter(|access| access.generation != generation).cloned();
        if let Some(other) = other(&view.borrow()) {
            return Ok(Some(other));
        }
        let number = {
            let mut demand = self.lock();
            *demand = Demand { number: demand.number + 1, refused: Some(generation) };
            demand.number
        };
        self.asked.notify_one();
        let told = async {
            loop {
                {
                    let now = view.borrow_and_update();
                    if let Some(other) = other(&now) {
                        return Ok(Some(other));
                    }
                    if now.answered >= number {
                        return now.trouble.as_ref().map_or(Ok(None), |trouble| Err(trouble.error()));
                    }
                }
                view.changed().await.unwrap_or_default();
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap_or_else(|_| Err(late()))
    }

    /// Notes that the vendor accepts the token of `generation`.
    pub fn note_accepted(&self, generation: i64) {
        self.accepted.fetch_max(generation, Ordering::Relaxed);
    }

    /// The generation of the access token that could be used now.
    pub fn usable(&self) -> Option<i64> {
        self.view.borrow().usable().map(|access| access.generation)
    }

    /// When the access token that is known ends, as time from now.
    pub fn valid_for(&self) -> Option<Duration> {
        let view = self.view.borrow();
        view.usable().map(|access| access.until.saturating_duration_since(Instant::now()))
    }

    fn lock(&self) -> MutexGuard<'_, Demand> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn late() -> SellError {
    SellError::NoAccessToken { why: format!("none came within {} s", PATIENCE.as_secs()) }
}
