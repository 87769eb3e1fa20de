//! The secrets that are planted, and the hunt for them: as they are, in base64 at any offset, in hexadecimal, as they
//! stand in an address and in JSON, and cut short.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Of a secret that is cut short so much tells it.
const TELLING: usize = 14;

/// A planted secret.
#[derive(Clone, Copy, Debug)]
pub struct Secret {
    pub what: &'static str,
    pub text: &'static str,
}

pub const LEDGER: Secret = secret("the ledger's password", "lk7/Qv+2wLedgerPass-9Xm4");
pub const TOKEN: Secret = secret("the vendor's token", "vT0k3n-acme-canary-7d1f55e0");
pub const CLIENT_SECRET: Secret = secret("an OAuth client's secret", "oC/s3cret+globex-canary-31aa");
pub const REFRESH: Secret = secret("a refresh token", "rF-t0ken-globex-canary-c0de88");
pub const ROTATED: Secret = secret("the next refresh token", "rN-t0ken-globex-canary-f00d21");
pub const ACCESS: Secret = secret("an access token", "aC-t0ken-globex-canary-b33f07");
pub const SASL: Secret = secret("a Kafka password", "kS-sasl-canary-0419-Zq7");
pub const KEY_PASSWORD: Secret = secret("the password of a Kafka key", "kP-ssl-key-canary-5517-Wd2");
/// base64, as the setting wants it.
pub const SIGNS: Secret = secret("a webhook's secret", "d2hzZWMtY2FuYXJ5LWI0cy1zZWNyZXQtMDAx");
/// 32 bytes in base64.
pub const SIGNS_TOO: Secret = secret("a webhook's signing key", "c2lnbmluZy1jYW5hcnktZWQyNTUxOS0zMi1ieXRlcyE=");
pub const URL_PASSWORD: Secret = secret("a password in a webhook's URL", "uP-url-canary-7781-pass-Lm");
pub const URL_TOKEN: Secret = secret("a token in a webhook's URL", "uT/query+canary-9902-token");
pub const HEADER: Secret = secret("a webhook's header", "hD-header-canary-4410-key-Rt");
pub const API_KEY: Secret = secret("a key of the door", "dK-door-canary-key-6603-abcd");
pub const STRANGER: Secret = secret("what a stranger tries as a key", "sK-stranger-canary-2218-try");
pub const COOKIE: Secret = secret("a caller's cookie", "cK-cookie-canary-8876-sess");
pub const COLLECTOR: Secret = secret("what a collector is told", "cP-otlp-canary-1207-pass-Bb");

pub const ALL: [Secret; 17] = [
    LEDGER,
    TOKEN,
    CLIENT_SECRET,
    REFRESH,
    ROTATED,
    ACCESS,
    SASL,
    KEY_PASSWORD,
    SIGNS,
    SIGNS_TOO,
    URL_PASSWORD,
    URL_TOKEN,
    HEADER,
    API_KEY,
    STRANGER,
    COOKIE,
    COLLECTOR,
];

const fn secret(what: &'static str, text: &'static str) -> Secret {
    Secret { what, text }
}

impl Secret {
    /// As it stands in an address.
    pub fn encoded(&self) -> String {
        each(self.text, spelled)
    }

    /// Whether a text holds it, in any form.
    pub fn is_in(&self, shown: &str) -> bool {
        self.forms().iter().any(|form| shown.contains(form.as_str()))
    }

    fn forms(&self) -> Vec<String> {
        let mut forms = vec![self.text[..TELLING].to_owned(), self.encoded()[..TELLING].to_owned()];
        forms.push(each(self.text, |byte| format!("%{byte:02X}")));
        forms.push(each(self.text, |byte| format!("{byte:02x}")));
        forms.push(format!("{:?}", self.text.as_bytes()));
        forms.push(self.text.replace('/', "\\/"));
        // What a webhook's secret is the base64 of.
        let bytes = STANDARD.decode(self.text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        forms.extend(bytes.map(|bytes| bytes[..TELLING].to_owned()));
        // Whatever stands around it: what its own bytes alone decide, without what they share with a neighbour.
        for before in 0..3 {
            let text = [&b"\0\0"[..before], self.text.as_bytes()].concat();
            let shared = [0, 2, 3][before];
            let whole = text.len() / 3 * 4;
            forms.push(STANDARD.encode(&text)[shared..whole].to_owned());
            forms.push(URL_SAFE.encode(&text)[shared..whole].to_owned());
        }
        forms
    }
}

/// Byte by byte.
fn each(text: &str, spelled: impl Fn(u8) -> String) -> String {
    text.bytes().map(spelled).collect()
}

fn spelled(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// What was seen somewhere, and what may stand there.
pub struct Shown {
    pub place: String,
    pub text: String,
    pub belongs: Vec<Secret>,
}

/// Everything that came out.
#[derive(Default)]
pub struct Found(Vec<Shown>);

impl Found {
    pub fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.add_where(place, text, &[]);
    }

    /// Where some of them belong.
    pub fn add_where(&mut self, place: impl Into<String>, text: impl Into<String>, belongs: &[Secret]) {
        self.0.push(Shown { place: place.into(), text: text.into(), belongs: belongs.to_vec() });
    }

    pub fn places(&self) -> usize {
        self.0.len()
    }

    /// Who is seen where nobody of them belongs.
    pub fn loose(&self) -> Vec<String> {
        let mut loose = Vec::new();
        for secret in ALL {
            let forms = secret.forms();
            for shown in &self.0 {
                if shown.belongs.iter().any(|belongs| belongs.text == secret.text) {
                    continue;
                }
                if let Some(at) = forms.iter().find_map(|form| shown.text.find(form.as_str())) {
                    let (from, to) = (floor(&shown.text, at.saturating_sub(200)), floor(&shown.text, at + 120));
                    loose.push(format!("{} in {}: …{}…", secret.what, shown.place, &shown.text[from..to]));
                }
            }
        }
        loose
    }
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// A hunt that finds nothing shows nothing unless it would have found something.
#[test]
fn a_hunt_finds_every_secret_however_it_is_spelled() {
    for secret in ALL {
        let text = secret.text;
        assert!(text.len() >= 22 && ALL.iter().filter(|other| other.text[..8] == text[..8]).count() == 1, "{text}");
        let spelled = [
            text.to_owned(),
            text[..16].to_owned(),
            secret.encoded(),
            text.replace('/', "\\/"),
            STANDARD.encode(text),
            STANDARD.encode(format!("u:{text}")),
            STANDARD.encode(format!("user:{text}")),
            URL_SAFE.encode(format!("someone:{text} and more")),
            each(text, |byte| format!("{byte:02x}")),
            format!("{:?}", text.as_bytes()),
        ];
        for spelled in spelled {
            let mut found = Found::default();
            found.add("here", format!("before {spelled} after"));
            let loose = found.loose();
            assert!(loose.len() == 1 && loose[0].contains(secret.what), "{} as {spelled}: {loose:?}", secret.what);
        }
    }
    let mut found = Found::default();
    found.add_where("home", TOKEN.text, &[TOKEN]);
    found.add("elsewhere", "nothing");
    assert_eq!((found.loose(), found.places()), (Vec::new(), 2));
}
