//! Our own secrets in what others say. A server that tells a request back (an echo, the error page of a proxy) tells its
//! credentials back too; they are covered before they reach a log, the ledger, a page or a caller (INV-16).
//!
//! A covered text is as long as it was, so that lengths that were told before stay right.

use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use memchr::memmem;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Request, Response};
use zeroize::Zeroizing;

use crate::config::is_secret_header;

/// A shorter secret would cover what is none, in bytes.
const LEAST: usize = 6;
const COVER: u8 = b'*';

/// What must not be shown of a request.
#[derive(Clone, Default)]
pub struct Mask {
    secrets: Vec<Zeroizing<Vec<u8>>>,
}

// By hand: it is made of secrets (INV-16).
impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({})", self.secrets.len())
    }
}

impl Mask {
    /// The credentials in a request's headers and in its form.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let mut mask = Self::default();
        for (name, value) in request.headers() {
            if is_secret_header(name.as_str()) {
                mask.add_header(value);
            }
        }
        let is_form = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded");
        if request.headers().get(CONTENT_TYPE).is_some_and(is_form)
            && let Some(form) = request.body().and_then(reqwest::Body::as_bytes)
        {
            mask.add_pairs(form, is_secret_header);
        }
        mask
    }

    /// Adds a secret, as it is and as it stands in addresses and in JSON.
    pub fn add(&mut self, secret: &[u8]) {
        if secret.len() < LEAST || self.secrets.iter().any(|known| known.as_slice() == secret) {
            return;
        }
        let encoded = url_encoded(secret);
        self.secrets.push(Zeroizing::new(secret.to_vec()));
        if encoded.as_bytes() != secret {
            self.secrets.push(Zeroizing::new(encoded.into_bytes()));
        }
        let quoted = std::str::from_utf8(secret).ok().and_then(|text| serde_json::to_string(text).ok());
        if let Some(quoted) = quoted.filter(|quoted| quoted.len() != secret.len() + 2) {
            self.secrets.push(Zeroizing::new(quoted.as_bytes()[1..quoted.len() - 1].to_vec()));
        }
        // What holds another one goes before it.
        self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }

    /// Adds a header's value; of an authorization what follows its scheme, and what stands in that.
    pub fn add_header(&mut self, value: &HeaderValue) {
        let value = value.as_bytes();
        let credentials = memchr::memchr(b' ', value).map_or(value, |at| &value[at + 1..]);
        self.add(credentials);
        if let Some(pair) = STANDARD.decode(credentials).ok().map(Zeroizing::new)
            && let Some(at) = memchr::memchr(b':', &pair)
        {
            self.add(&pair[at + 1..]);
        }
    }

    /// Adds values of a query or of a form, by their names.
    pub fn add_pairs(&mut self, pairs: &[u8], is_secret: impl Fn(&str) -> bool) {
        let as_query = format!("?{}", String::from_utf8_lossy(pairs));
        if let Ok(url) = reqwest::Url::parse("http://localhost/").and_then(|base| base.join(&as_query)) {
            for (_, value) in url.query_pairs().filter(|(name, _)| is_secret(name)) {
                self.add(value.as_bytes());
            }
        }
    }

    /// Covers every secret in a text, and at its end what may be the beginning of one.
    pub fn cover(&self, text: &mut [u8]) {
        self.cover_whole(text);
        let tail = text.len() - self.begun(text, LEAST);
        text[tail..].fill(COVER);
    }

    fn holds_one(&self, text: &[u8]) -> bool {
        self.secrets.iter().any(|secret| memmem::find(text, secret).is_some())
    }

    fn cover_whole(&self, text: &mut [u8]) {
        for secret in &self.secrets {
            let mut from = 0;
            while let Some(at) = memmem::find(&text[from..], secret) {
                text[from + at..from + at + secret.len()].fill(COVER);
                from += at + secret.len();
            }
        }
    }

    /// How many bytes at the end of a text may be the beginning of a secret, where that are `least` or more.
    fn begun(&self, text: &[u8], least: usize) -> usize {
        let begins = |secret: &[u8]| {
            let most = secret.len().saturating_sub(1).min(text.len());
            (least..=most).rev().find(|length| text.ends_with(&secret[..*length]))
        };
        self.secrets.iter().filter_map(|secret| begins(secret)).max().unwrap_or(0)
    }

    /// An answer with every secret covered in its headers and, as it comes, in its body.
    #[must_use]
    pub fn over(self, answer: Response) -> Response {
        let mut covered = hyper::Response::new(());
        *covered.status_mut() = answer.status();
        *covered.version_mut() = answer.version();
        *covered.headers_mut() = self.headers(answer.headers());
        let body = Covered { inner: reqwest::Body::from(answer), mask: self, held: BytesMut::new() };
        Response::from(covered.map(|()| reqwest::Body::wrap(body)))
    }

    fn headers(&self, given: &HeaderMap) -> HeaderMap {
        let mut headers = given.clone();
        for value in headers.values_mut() {
            if self.holds_one(value.as_bytes()) {
                let mut text = value.as_bytes().to_vec();
                self.cover_whole(&mut text);
                *value = HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("***"));
            }
        }
        headers
    }
}

/// As `application/x-www-form-urlencoded` writes it.
fn url_encoded(secret: &[u8]) -> String {
    let mut encoded = String::with_capacity(secret.len());
    for byte in secret {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => encoded.push(char::from(*byte)),
            // Writing to a String cannot fail.
            byte => write!(encoded, "%{byte:02X}").unwrap_or_default(),
        }
    }
    encoded
}

/// A body in which secrets are covered, also where one comes in pieces.
struct Covered {
    inner: reqwest::Body,
    mask: Mask,
    /// What may be the beginning of a secret.
    held: BytesMut,
}

impl Covered {
    fn pass(&mut self, piece: Bytes) -> Bytes {
        if self.held.is_empty() && !self.mask.holds_one(&piece) && self.mask.begun(&piece, 1) == 0 {
            return piece;
        }
        self.held.extend_from_slice(&piece);
        self.mask.cover_whole(&mut self.held);
        let begun = self.mask.begun(&self.held, 1);
        self.held.split_to(self.held.len() - begun).freeze()
    }
}

impl Body for Covered {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(context)).transpose()? else {
                // It was no beginning.
                let held = self.held.split().freeze();
                return Poll::Ready((!held.is_empty()).then(|| Ok(Frame::data(held))));
            };
            // Trailers do not pass.
            if let Ok(piece) = frame.into_data() {
                let passed = self.pass(piece);
                if !passed.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(passed))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, held) = (self.inner.size_hint(), self.held.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + held);
        }
        hint.set_lower(inner.lower() + held);
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn mask(secrets: &[&str]) -> Mask {
        let mut mask = Mask::default();
        for secret in secrets {
            mask.add(secret.as_bytes());
        }
        mask
    }

    fn covered(mask: &Mask, text: &str) -> String {
        let mut text = text.as_bytes().to_vec();
        mask.cover(&mut text);
        String::from_utf8(text).unwrap()
    }

    /// INV-16: however a server spells what it was told.
    #[test]
    fn the_credentials_of_a_request_are_covered_however_they_are_told_back() {
        let client = crate::http::client_builder().build().unwrap();
        let request = client.post("http://localhost/").basic_auth("client", Some("pa/ss+\"wörd\""));
        let request = request.header("x-api-key", "k3y-of-mine").header("accept", "text/plain");
        let request = request.form(&[("grant_type", "refresh"), ("refresh_token", "r/efresh=1")]).build().unwrap();
        let mask = Mask::of(&request);
        let basic = STANDARD.encode("client:pa/ss+\"wörd\"");
        for told in [
            basic.as_str(),
            "pa/ss+\"wörd\"",
            r#"pa/ss+\"wörd\""#,
            "pa%2Fss%2B%22w%C3%B6rd%22",
            "k3y-of-mine",
            "r/efresh=1",
        ] {
            let shown = covered(&mask, &format!("<p>{told}</p>"));
            assert_eq!(shown, format!("<p>{}</p>", "*".repeat(told.len())), "{told}");
        }
        assert_eq!(covered(&mask, "client text/plain refresh"), "client text/plain refresh", "what is no secret stays");
        assert!(format!("{mask:?}").starts_with("Mask("));
    }

    #[test]
    fn a_secret_that_is_cut_off_is_covered_as_far_as_it_came() {
        let mask = mask(&["0123456789", "345678"]);
        assert_eq!(covered(&mask, "a 0123456789 b 345678 c"), "a ********** b ****** c");
        assert_eq!(covered(&mask, "a 01234567"), "a ********");
        assert_eq!(covered(&mask, "a 01234"), "a 01234", "too little to say anything");
        assert_eq!(covered(&Mask::default(), "a 01234567"), "a 01234567");
    }

    #[tokio::test]
    async fn an_answer_is_covered_as_it_comes_and_keeps_its_length() {
        let text = b"it says s3cr3t-t0ken, s3cr3t-t0k and s3cr3t-t0ken s3cr3t";
        for size in 1..text.len() {
            let pieces: Vec<_> =
                text.chunks(size).map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece))).collect();
            let body = reqwest::Body::wrap_stream(stream::iter(pieces));
            let answer = hyper::Response::builder().header("etag", "\"s3cr3t-t0ken\"").body(body).unwrap();
            let answer = mask(&["s3cr3t-t0ken"]).over(Response::from(answer));
            assert_eq!(answer.headers()["etag"], "\"************\"");
            let told = answer.bytes().await.unwrap();
            assert_eq!(told, "it says ************, s3cr3t-t0k and ************ s3cr3t", "in pieces of {size}");
        }
        let answer = Response::from(hyper::Response::new(reqwest::Body::from("s3cr3t-t0ken and more")));
        let answer = mask(&["s3cr3t-t0ken"]).over(answer);
        assert_eq!(answer.content_length(), Some(21));
    }
}
