use std::net::IpAddr;
use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::check::Checker;
use super::key::read_key;
use super::raw::{RawAccount, RawDedupeBy, RawDialect, RawOauth, RawOnGap, RawStreamStart};
use super::types::{AccountConfig, Auth, DedupeBy, DialectChoice, OnGap, StreamStart};
use crate::event::ports::Dialect;

pub(super) fn account(name: &str, raw: RawAccount, to: &mut Checker<'_>) -> Option<AccountConfig> {
    let path = |key: &str| format!("accounts.{name}.{key}");
    let base_url = base_url(&path("base_url"), &raw.base_url, to);
    list(&path("streams"), &raw.streams, "name a stream, or \"*\" for all", is_stream, to);
    list(&path("events"), &raw.events, "a pattern is \"*\", \"deal.*\" or \"deal.updated\"", is_event_pattern, to);
    to.at_least(&path("history"), raw.history.0, Duration::from_secs(1));
    to.at_least(&path("poll_interval"), raw.poll_interval.0, Duration::from_millis(10));
    if raw.max_page_bytes.0 < 1024 || raw.max_page_bytes.0 > 1 << 30 {
        to.refuse(&path("max_page_bytes"), "out of range: 1KiB to 1GiB");
    }
    if let (Some(minute), Some(hour)) = (raw.requests_per_minute, raw.requests_per_hour)
        && minute > hour
    {
        to.refuse(&path("requests_per_minute"), format!("{minute} a minute is more than {hour} an hour"));
    }
    let auth = auth(name, raw.token, raw.token_file, raw.oauth, to);
    Some(AccountConfig {
        base_url: base_url?,
        dialect: match raw.dialect {
            RawDialect::Auto => DialectChoice::Auto,
            RawDialect::Reference => DialectChoice::Fixed(Dialect::Reference),
            RawDialect::Live => DialectChoice::Fixed(Dialect::Live),
        },
        auth: auth?,
        streams: raw.streams,
        events: raw.events,
        dedupe_by: match raw.dedupe_by {
            RawDedupeBy::Id => DedupeBy::Id,
            RawDedupeBy::Sequence => DedupeBy::Sequence,
        },
        start: match raw.start {
            RawStreamStart::Tail => StreamStart::Tail,
            RawStreamStart::Top => StreamStart::Top,
        },
        history: raw.history.0,
        on_gap: match raw.on_gap {
            RawOnGap::Continue => OnGap::Continue,
            RawOnGap::Halt => OnGap::Halt,
        },
        poll_interval: raw.poll_interval.0,
        page_limit: raw.page_limit,
        max_page_bytes: raw.max_page_bytes.0,
        requests_per_minute: raw.requests_per_minute,
        requests_per_hour: raw.requests_per_hour,
    })
}

fn auth(
    name: &str,
    token: Option<super::scalar::SecretText>,
    token_file: Option<super::scalar::PathText>,
    oauth: Option<RawOauth>,
    to: &mut Checker<'_>,
) -> Option<Auth> {
    let token_path = format!("accounts.{name}.token");
    let oauth_path = format!("accounts.{name}.oauth");
    let Some(oauth) = oauth else {
        let needed = (!to.is_bad(&oauth_path)).then_some("is missing; give `token`, `token_file`, or a table `oauth`");
        return to.secret(&token_path, token, token_file, needed).map(|(token, _)| Auth::Token(token));
    };
    if token.is_some() || token_file.is_some() {
        to.refuse(&oauth_path, "both a token and `oauth` are given; leave one out");
        return None;
    }
    let path = |key: &str| format!("{oauth_path}.{key}");
    let client_id = oauth.client_id.filter(|id| !id.trim().is_empty());
    if client_id.is_none() {
        to.refuse(&path("client_id"), "is missing; give the id of the application");
    }
    let needed = Some("is missing; give `client_secret` or `client_secret_file`");
    let client_secret = to.secret(&path("client_secret"), oauth.client_secret, oauth.client_secret_file, needed);
    let needed = Some("is missing; give `refresh_token` or `refresh_token_file`");
    let refresh_token = to.secret(&path("refresh_token"), oauth.refresh_token, oauth.refresh_token_file, needed);
    let needed = Some(
        "is missing; the ledger keeps the tokens encrypted under it: write 32 random bytes into a file of mode 0600 \
         (`openssl rand -hex 32`), the same for every replica, and name it by `key_file`",
    );
    let in_file = oauth.key_file.is_some();
    let key = to.secret(&path("key"), oauth.key, oauth.key_file, needed);
    if key.as_ref().is_some_and(|(_, text)| read_key(text.expose_secret()).is_none()) {
        let key = if in_file { path("key_file") } else { path("key") };
        to.refuse(&key, "not a key: 32 bytes in hex or base64, as `openssl rand -hex 32` makes them");
        return None;
    }
    Some(Auth::OAuth {
        client_id: client_id?,
        client_secret: client_secret?.0,
        refresh_token: refresh_token?.0,
        key: key?.0,
    })
}

/// The origin alone: paths belong to the dialects, and the token goes nowhere else.
fn base_url(key: &str, text: &str, to: &mut Checker<'_>) -> Option<String> {
    let Ok(url) = reqwest::Url::parse(text.trim()) else {
        to.refuse(key, "not a URL; it looks like https://api.getbase.com");
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        to.refuse(key, "holds credentials; take them out and give `token_file` or `oauth`");
        return None;
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        to.refuse(key, format!("give the origin alone, without a path: {}", url.origin().ascii_serialization()));
        return None;
    }
    let host = url.host_str().unwrap_or_default();
    let loopback = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => {
            to.refuse(key, "http would send the token in the clear: use https (http is for loopback addresses only)");
            return None;
        }
        _ => {
            to.refuse(key, "not an http(s) URL; it looks like https://api.getbase.com");
            return None;
        }
    }
    Some(url.origin().ascii_serialization())
}

fn list(key: &str, items: &[String], what: &str, fits: fn(&str) -> bool, to: &mut Checker<'_>) {
    if items.is_empty() {
        to.refuse(key, format!("is empty: nothing would be read; {what}"));
    }
    for (index, item) in items.iter().enumerate() {
        if !fits(item) {
            let key = format!("{key}[{index}]");
            to.refuse(&key, format!("{}: {what}", to.shown(&key, item)));
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn is_stream(text: &str) -> bool {
    text == "*" || is_word(text)
}

fn is_event_pattern(text: &str) -> bool {
    text == "*"
        || text
            .split_once('.')
            .is_some_and(|(resource, action)| is_word(resource) && (action == "*" || is_word(action)))
}
