//! Which headers cross the door, by allow-lists: nothing of the caller's credentials reaches the vendor, nothing of the
//! vendor's cookies or of the connection's own business reaches the caller.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::{
    ACCEPT, ACCEPT_LANGUAGE, AGE, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_DISPOSITION, CONTENT_ENCODING,
    CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, EXPIRES, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED, LOCATION, RETRY_AFTER, USER_AGENT, VARY,
};

use super::links::Door;
use crate::lookup::Outcome;

/// From the caller to the vendor.
const UP: [HeaderName; 8] = [
    ACCEPT,
    ACCEPT_LANGUAGE,
    CONTENT_TYPE,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
    USER_AGENT,
];
/// As above: the device of Sync, and an id by which a caller finds its request again.
const UP_OWN: [&str; 2] = ["x-basecrm-device-uuid", "x-request-id"];
/// From the vendor to the caller.
const DOWN: [HeaderName; 13] = [
    AGE,
    ALLOW,
    CACHE_CONTROL,
    CONTENT_DISPOSITION,
    CONTENT_LANGUAGE,
    CONTENT_TYPE,
    DATE,
    ETAG,
    EXPIRES,
    LAST_MODIFIED,
    RETRY_AFTER,
    VARY,
    CONTENT_LENGTH,
];
const DOWN_OWN: [&str; 6] = [
    "x-request-id",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-basecrm-version",
    "x-runtime",
];

/// Why a request's headers are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// A name with `_`, which some servers read as `-`.
    Underscore,
    /// The body is compressed, which the vendor does not promise to take.
    Encoded,
}

/// What the vendor gets of a request's headers.
pub(super) fn up(given: &HeaderMap) -> Result<HeaderMap, BadHeader> {
    if given.keys().any(|name| name.as_str().contains('_')) {
        return Err(BadHeader::Underscore);
    }
    if given.get_all(CONTENT_ENCODING).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(BadHeader::Encoded);
    }
    Ok(pass(given, &UP, &UP_OWN))
}

/// What the caller gets of an answer's headers.
pub(super) fn down(given: &HeaderMap, origin: &Url, door: &Door) -> HeaderMap {
    let mut passed = pass(given, &DOWN, &DOWN_OWN);
    let place = given.get(LOCATION).and_then(|value| value.to_str().ok());
    // A place at the vendor is one behind the door; any other is nobody's business here.
    let place = place.and_then(|place| origin.join(place).ok()).and_then(|place| door.rewrite(place.as_str()));
    if let Some(place) = place.and_then(|place| HeaderValue::from_str(&place).ok()) {
        passed.insert(LOCATION, place);
    }
    passed
}

/// Of one exchange alone: an answer that is given again does not have them.
const OF_ONE: [&str; 5] =
    ["x-request-id", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-runtime"];

/// Says where the answer to a lookup is from, and how old it is.
pub(super) fn label(down: &mut HeaderMap, outcome: Outcome, age: Duration) {
    let word = match outcome {
        Outcome::Hit => "hit",
        Outcome::Stale => "stale",
        Outcome::Miss | Outcome::Shared | Outcome::Passed => "miss",
    };
    down.insert("standpipe-cache", HeaderValue::from_static(word));
    if matches!(outcome, Outcome::Hit | Outcome::Stale) {
        for name in OF_ONE {
            down.remove(name);
        }
        // What caches before us have said comes on top.
        let before = down.get(AGE).and_then(|age| age.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
        down.insert(AGE, HeaderValue::from(before.saturating_add(age.as_secs())));
    }
}

fn pass(given: &HeaderMap, names: &[HeaderName], own: &[&str]) -> HeaderMap {
    // What a hop names in `Connection` is for that hop alone (RFC 9110, section 7.6.1).
    let hop: Vec<String> = given
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut passed = HeaderMap::new();
    for (name, value) in given {
        let allowed = names.contains(name) || own.contains(&name.as_str());
        if allowed && !hop.iter().any(|hop| hop == name.as_str()) {
            passed.append(name, value.clone());
        }
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_is_the_callers_own_stays_here() {
        let given = map(&[
            ("accept", "application/json"),
            ("authorization", "Bearer key"),
            ("cookie", "a=b"),
            ("connection", "keep-alive, X-Request-Id, Authorization"),
            ("x-request-id", "1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("host", "door"),
            ("x-basecrm-device-uuid", "d"),
        ]);
        let passed = up(&given).unwrap();
        assert_eq!(passed, map(&[("accept", "application/json"), ("x-basecrm-device-uuid", "d")]));
    }

    #[test]
    fn ambiguous_names_and_compressed_bodies_are_refused() {
        assert_eq!(up(&map(&[("x_request_id", "1")])), Err(BadHeader::Underscore));
        assert_eq!(up(&map(&[("content-encoding", "gzip")])), Err(BadHeader::Encoded));
        assert!(up(&map(&[("content-encoding", "identity")])).is_ok());
    }

    #[test]
    fn the_vendors_cookies_stay_there_and_its_places_are_behind_the_door() {
        let origin = Url::parse("https://api.getbase.com").unwrap();
        let door = Door::new(&origin, "http://door:8080/sell/acme".to_owned());
        let given = map(&[
            ("set-cookie", "session=1"),
            ("etag", "\"1\""),
            ("location", "/v2/deals/7"),
            ("transfer-encoding", "chunked"),
            ("www-authenticate", "Bearer"),
        ]);
        let expected = map(&[("etag", "\"1\""), ("location", "http://door:8080/sell/acme/v2/deals/7")]);
        assert_eq!(down(&given, &origin, &door), expected);
        let elsewhere = map(&[("location", "https://evil.example/v2/deals")]);
        assert_eq!(down(&elsewhere, &origin, &door), HeaderMap::new());
    }
}
