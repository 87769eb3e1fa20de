//! One exchange with the vendor's token endpoint (RFC 6749). Nothing of an answer but its error's own words is ever shown.

use std::time::Duration;

use reqwest::header::ACCEPT;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::super::auth::fits_a_header;
use super::super::budget::Slot;
use super::super::client::{SMALL_ANSWER, Vendor};
use super::super::error::SellError;
use crate::mask::Mask;

/// Bound on one exchange.
pub(super) const EXCHANGE: Duration = Duration::from_secs(20);
/// The life of an access token that does not tell it (sell-api.md L1).
const USUAL_LIFE: Duration = Duration::from_hours(1);
/// The longest life of an access token that is believed.
const LONGEST_LIFE: Duration = Duration::from_hours(720);
/// How much of the vendor's reason is shown.
const REASON: usize = 160;
/// What a form holds that is good once, beside what its names say to be secret.
const ONE_TIME: [&str; 2] = ["code", "code_verifier"];

/// What the vendor gave.
pub(in super::super) struct Granted {
    pub access: SecretString,
    /// None where the refresh token that was used stays good.
    pub refresh: Option<SecretString>,
    pub life: Duration,
}

/// Why it gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Refusal {
    /// It does not take the refresh token or the code (`invalid_grant`, RFC 6749, section 5.2), now or ever.
    Grant(String),
    /// It does not take the request, as of an application that it does not know: nothing was used. So is what stands before
    /// it and turns requests away, for some time or for good.
    Client(String),
    /// It answered otherwise, and used nothing.
    Answered(String),
    /// No whole answer came: it may have used what it was sent.
    Unanswered(String),
}

impl Refusal {
    pub fn why(&self) -> &str {
        match self {
            Self::Grant(why) | Self::Client(why) | Self::Answered(why) | Self::Unanswered(why) => why,
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reason {
    error: String,
    error_description: String,
}

/// Sends a form to the token endpoint, as the application that is named, from the account's own budget.
pub(in super::super) async fn ask(
    vendor: &Vendor,
    slot: Slot,
    (client_id, client_secret): (&str, &SecretString),
    form: &[(&str, &str)],
) -> Result<Granted, Refusal> {
    let mut url = vendor.origin().clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(["oauth2", "token"]);
    }
    let request = vendor
        .http()
        .post(url)
        .timeout(EXCHANGE)
        .basic_auth(client_id, Some(client_secret.expose_secret()))
        .header(ACCEPT, "application/json")
        .form(form);
    let request = request.build().map_err(|error| Refusal::Answered(error.without_url().to_string()))?;
    let mut mask = Mask::of(&request);
    for (_, value) in form.iter().filter(|(name, _)| ONE_TIME.contains(name)) {
        mask.add(value.as_bytes());
    }
    let mut response = match vendor.execute("oauth", slot, request).await {
        Ok(response) => response,
        Err(error) => {
            let unsent = matches!(&error, SellError::Unreachable { source } if source.is_connect());
            let why = crate::telemetry::causes(&error);
            return Err(if unsent { Refusal::Answered(why) } else { Refusal::Unanswered(why) });
        }
    };
    let status = response.status();
    let mut body = zeroize::Zeroizing::new(Vec::new());
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if (body.len() + chunk.len()) as u64 <= SMALL_ANSWER => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(Refusal::Unanswered("the answer is too long".to_owned())),
            Ok(None) => break,
            Err(_) if !status.is_success() => break,
            Err(error) => return Err(Refusal::Unanswered(error.without_url().to_string())),
        }
    }
    if status.is_success() {
        return granted(&body).map_err(|why| Refusal::Unanswered(why.to_owned()));
    }
    mask.cover(&mut body);
    let (error, why) = reason(status.as_u16(), &body);
    Err(match (status.as_u16(), error.as_str()) {
        (400..=499, "invalid_grant") => Refusal::Grant(why),
        (400 | 401 | 403, _) => Refusal::Client(why),
        _ => Refusal::Answered(why),
    })
}

fn granted(body: &[u8]) -> Result<Granted, &'static str> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| "the answer is not the promised JSON")?;
    let life = answer.expires_in.map_or(USUAL_LIFE, Duration::from_secs).min(LONGEST_LIFE);
    let (access, refresh) = (SecretString::from(answer.access_token), answer.refresh_token.map(SecretString::from));
    if !fits_a_header(access.expose_secret()) || refresh.as_ref().is_some_and(|token| token.expose_secret().is_empty())
    {
        return Err("the answer holds a token that cannot be used");
    }
    Ok(Granted { access, refresh, life })
}

/// The vendor's own words.
fn reason(status: u16, body: &[u8]) -> (String, String) {
    let told: Reason = serde_json::from_slice(body).unwrap_or_default();
    let (error, description) = (shown(&told.error), shown(&told.error_description));
    let mut why = format!("the vendor answered {status}");
    for part in [&error, &description].into_iter().filter(|part| !part.is_empty()) {
        why.extend([": ", part]);
    }
    (error, why)
}

/// What of a reason that the vendor gives can be shown.
pub(in super::super) fn shown(reason: &str) -> String {
    reason.chars().filter(|letter| !letter.is_control()).take(REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_as_the_vendor_means_it_and_shows_nothing_else() {
        let good = granted(br#"{"access_token":"a","refresh_token":"r","expires_in":60,"scope":"read"}"#).ok().unwrap();
        assert_eq!((good.access.expose_secret(), good.life), ("a", Duration::from_mins(1)));
        let rest = granted(br#"{"access_token":"a"}"#).ok().unwrap();
        assert!(rest.refresh.is_none() && rest.life == USUAL_LIFE);
        let long = granted(br#"{"access_token":"a","expires_in":99999999999}"#).ok().unwrap();
        assert_eq!(long.life, LONGEST_LIFE);
        for bad in [
            &br#"{"access_token":"a b"}"#[..],
            br#"{"access_token":""}"#,
            b"<html>",
            br#"{"access_token":"a","refresh_token":""}"#,
        ] {
            assert!(granted(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let body = br#"{"error":"invalid_grant","error_description":"spent\n"}"#;
        let (error, why) = reason(400, body);
        assert_eq!(error, "invalid_grant");
        assert_eq!(why, "the vendor answered 400: invalid_grant: spent");
        assert_eq!(reason(502, b"<html>").1, "the vendor answered 502");
    }
}
