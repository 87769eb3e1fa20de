//! What a request through the door asks for: the account, and a path whose segments were checked one by one. The vendor's
//! address is built from these alone, so that no spelling of a path reaches anything else.

use std::fmt;

use reqwest::Method;

use crate::event::AccountName;

/// The longest path that is read, in bytes.
const MAX_PATH: usize = 4096;

/// A checked target below an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Whose vendor.
    pub(super) account: AccountName,
    /// Decoded, none of them empty or a way up; the first is `v2` or `v3`.
    pub(super) segments: Vec<String>,
    /// Whether the path ends with a slash, which the vendor tells apart.
    pub(super) slash: bool,
}

/// Which of the vendor's APIs: for scopes, the cache and the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    /// Records, one at a time or in lists.
    Core,
    /// Search and GraphQL: queries, whatever their method.
    Search,
    /// Sync: moves a session forward.
    Sync,
}

impl Api {
    /// As the metric's label says it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Search => "search",
            Self::Sync => "sync",
        }
    }
}

/// Why a path is refused; nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadTarget {
    /// Not `/sell/{account}/{v2|v3}/…`.
    Shape,
    /// A segment that is empty, `.` or `..`, or holds a slash, a backslash, a control character or bytes that are no text,
    /// encoded or not.
    Segment,
    /// Over 4 KiB.
    Long,
}

impl fmt::Display for BadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "the path must be /sell/{account}/v2/… or /sell/{account}/v3/…",
            Self::Segment => {
                "a segment of the path is empty, `.` or `..`, or holds a slash, a backslash, a control character or bytes \
                 that are no text"
            }
            Self::Long => "the path is longer than 4 KiB",
        })
    }
}

impl Target {
    /// Whose vendor a path is about, whatever the rest of it is.
    pub(super) fn account(path: &str) -> Option<AccountName> {
        path.strip_prefix("/sell/")?.split('/').next().map(AccountName::from)
    }

    /// Reads the path of a request, as it came.
    pub(super) fn parse(path: &str) -> Result<Self, BadTarget> {
        if path.len() > MAX_PATH {
            return Err(BadTarget::Long);
        }
        let rest = path.strip_prefix("/sell/").ok_or(BadTarget::Shape)?;
        let (rest, slash) = rest.strip_suffix('/').map_or((rest, false), |rest| (rest, true));
        let mut raw = rest.split('/');
        let account = raw.next().filter(|name| !name.is_empty()).map(AccountName::from).ok_or(BadTarget::Shape)?;
        let segments = raw.map(segment).collect::<Result<Vec<_>, _>>()?;
        if segments.len() < 2 || !matches!(&*segments[0], "v2" | "v3") {
            return Err(BadTarget::Shape);
        }
        Ok(Self { account, segments, slash })
    }

    /// Which API it belongs to.
    pub(super) fn api(&self) -> Api {
        let last = self.segments.last().map_or("", String::as_str);
        match &*self.segments[1] {
            "search" | "graphql" => Api::Search,
            "sync" => Api::Sync,
            _ if self.segments[0] == "v3" && self.segments.len() == 3 && last == "search" => Api::Search,
            _ => Api::Core,
        }
    }

    /// Whether it is GraphQL, where a request's body says what it does.
    pub(super) fn is_graphql(&self) -> bool {
        self.segments[1] == "graphql"
    }

    /// Whether a request changes nothing at the vendor: a query by POST is one, if it is a query ([`super::graphql`]).
    pub(super) fn is_read(&self, method: &Method) -> bool {
        *method == Method::GET || *method == Method::HEAD || (*method == Method::POST && self.api() == Api::Search)
    }
}

fn segment(raw: &str) -> Result<String, BadTarget> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                let value = high.zip(low).map(|(high, low)| high * 16 + low).ok_or(BadTarget::Segment)?;
                u8::try_from(value).map_err(|_| BadTarget::Segment)?
            }
            byte => byte,
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| BadTarget::Segment)?;
    let bad = text.is_empty()
        || text == "."
        || text == ".."
        || text.chars().any(|letter| matches!(letter, '/' | '\\') || letter.is_control());
    if bad { Err(BadTarget::Segment) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> Target {
        Target::parse(path).expect("a good path")
    }

    #[test]
    fn a_path_of_the_vendor_is_taken_apart() {
        let target = parsed("/sell/acme/v2/deals/12/associated_contacts");
        assert_eq!(target.account.as_str(), "acme");
        assert_eq!(target.segments, ["v2", "deals", "12", "associated_contacts"]);
        assert!(!target.slash && parsed("/sell/acme/v3/sync/").slash);
        assert_eq!(parsed("/sell/acme/v2/tags/a%20b%3F").segments[2], "a b?");
    }

    #[test]
    fn no_spelling_leads_anywhere_else() {
        for path in [
            "/sell/acme/v2/../oauth2/token",
            "/sell/acme/v2/%2e%2e/oauth2/token",
            "/sell/acme/v2/.%2E/x",
            "/sell/acme/v2/./deals",
            "/sell/acme/v2/deals%2f..%2f..%2foauth2",
            "/sell/acme/v2/deals%5c..",
            "/sell/acme/v2/deals\\..",
            "/sell/acme/v2//deals",
            "/sell/acme/v2/deals//",
            "/sell/acme/v2/a%00b",
            "/sell/acme/v2/a%0d%0aHost:x",
            "/sell/acme/v2/%",
            "/sell/acme/v2/%4",
            "/sell/acme/v2/%zz",
            "/sell/acme/v2/%ff",
            "/sell/acme/v2/%c0%ae%c0%ae/x",
        ] {
            assert_eq!(Target::parse(path), Err(BadTarget::Segment), "{path}");
        }
        for path in [
            "/sell/acme/v4/deals",
            "/sell/acme/oauth2/token",
            "/sell/acme/v2",
            "/sell/acme/",
            "/sell//v2/deals",
            "/other/acme/v2/deals",
            "http://vendor.example/sell/acme/v2/deals",
            "//vendor.example/v2/deals",
        ] {
            assert_eq!(Target::parse(path), Err(BadTarget::Shape), "{path}");
        }
        assert_eq!(Target::parse(&format!("/sell/acme/v2/{}", "a".repeat(5000))), Err(BadTarget::Long));
    }

    #[test]
    fn a_query_by_post_is_a_read_and_a_session_of_sync_is_not() {
        for (path, api) in [
            ("/sell/acme/v3/search/deals", Api::Search),
            ("/sell/acme/v3/deals/search", Api::Search),
            ("/sell/acme/v3/graphql", Api::Search),
            ("/sell/acme/v2/sync/start", Api::Sync),
            ("/sell/acme/v3/sync/", Api::Sync),
            ("/sell/acme/v2/deals", Api::Core),
            ("/sell/acme/v2/search_terms", Api::Core),
            ("/sell/acme/v2/deals/search", Api::Core),
        ] {
            let target = parsed(path);
            assert_eq!(target.api(), api, "{path}");
            assert_eq!(target.is_read(&Method::POST), api == Api::Search, "{path}");
            assert!(target.is_read(&Method::GET) && !target.is_read(&Method::DELETE), "{path}");
        }
    }
}
