//! How requests are authorized: a token that is read anew when its file changes, or OAuth 2.0 by a [`Grant`].

use std::sync::{Mutex, PoisonError};

use secrecy::{ExposeSecret, SecretString};

use super::error::SellError;
use super::grant::{Access, Client, Grant};
use crate::config::{Auth, Secret};

/// What authorizes one request.
#[derive(Clone)]
pub(super) struct Bearer {
    token: SecretString,
    /// Of which grant it is; none for a configured token.
    generation: Option<i64>,
}

impl Bearer {
    pub fn token(&self) -> &str {
        self.token.expose_secret()
    }
}

impl From<Access> for Bearer {
    fn from(access: Access) -> Self {
        Self { token: access.token, generation: Some(access.generation) }
    }
}

/// Gives tokens for one account.
pub(super) struct Authorizer {
    way: Way,
    refused: Mutex<Option<Refused>>,
}

enum Way {
    Token(Secret),
    OAuth(Grant),
}

/// What the vendor refused last.
enum Refused {
    Token(SecretString),
    /// The grant that could be used then.
    Grant(Option<i64>),
}

impl Authorizer {
    pub fn new(auth: Auth) -> Self {
        let way = match auth {
            Auth::Token(secret) => Way::Token(secret),
            Auth::OAuth { client_id, client_secret, refresh_token, key } => {
                Way::OAuth(Grant::new(Client { id: client_id, secret: client_secret, refresh_token, key }))
            }
        };
        Self { way, refused: Mutex::new(None) }
    }

    /// The account's grant, where it is authorized by OAuth.
    pub fn grant(&self) -> Option<&Grant> {
        match &self.way {
            Way::Token(_) => None,
            Way::OAuth(grant) => Some(grant),
        }
    }

    /// The token to use now.
    pub async fn bearer(&self) -> Result<Bearer, SellError> {
        match &self.way {
            Way::Token(secret) => {
                let token = read(secret)?;
                if !fits_a_header(token.expose_secret()) {
                    return Err(SellError::UnusableToken);
                }
                Ok(Bearer { token, generation: None })
            }
            Way::OAuth(grant) => grant.bearer().await.map(Into::into),
        }
    }

    /// After a 401 for `refused`: another token, where there is one.
    pub async fn after_refusal(&self, refused: &Bearer) -> Result<Option<Bearer>, SellError> {
        match (&self.way, refused.generation) {
            (Way::Token(secret), _) => {
                let token = read(secret)?;
                let other = token.expose_secret() != refused.token() && fits_a_header(token.expose_secret());
                Ok(other.then_some(Bearer { token, generation: None }))
            }
            (Way::OAuth(grant), Some(generation)) => Ok(grant.after_refusal(generation).await?.map(Into::into)),
            // No grant gives such a bearer.
            (Way::OAuth(_), None) => Ok(None),
        }
    }

    /// Notes that the vendor accepts a token.
    pub fn note_accepted(&self, bearer: &Bearer) {
        if let (Way::OAuth(grant), Some(generation)) = (&self.way, bearer.generation) {
            grant.note_accepted(generation);
        }
    }

    /// Notes that the vendor does not accept what there is now.
    pub fn note_refused(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = match &self.way {
            Way::Token(secret) => read(secret).ok().map(Refused::Token),
            Way::OAuth(grant) => Some(Refused::Grant(grant.usable())),
        };
    }

    /// Whether there is something else since it was refused.
    pub fn changed_since_refused(&self) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match (&self.way, refused.as_ref()) {
            (Way::Token(secret), Some(Refused::Token(refused))) => {
                read(secret).is_ok_and(|now| now.expose_secret() != refused.expose_secret())
            }
            (Way::Token(secret), _) => read(secret).is_ok(),
            (Way::OAuth(grant), Some(Refused::Grant(refused))) => {
                grant.usable().is_some_and(|now| Some(now) != *refused)
            }
            (Way::OAuth(grant), _) => grant.usable().is_some(),
        }
    }
}

pub(super) fn fits_a_header(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

fn read(secret: &Secret) -> Result<SecretString, SellError> {
    secret.read().map_err(|source| SellError::Credential { source })
}
