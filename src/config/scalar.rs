//! The texts that a configuration is made of: how each is parsed, and how the schema names it (`x-kind`).

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Stands for every secret that is printed.
pub(super) const REDACTED: &str = "<redacted>";

/// Of deployments, accounts, sinks and keys.
pub(super) const NAME_PATTERN: &str = "^[a-z][a-z0-9-]{0,31}$";
/// Of librdkafka's properties.
pub(super) const PROPERTY_PATTERN: &str = "^[a-z][a-z0-9._]*$";
/// Of HTTP and Kafka headers (RFC 9110 tokens).
pub(super) const HEADER_PATTERN: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// No duration may be longer: far inside what clocks can add.
const LONGEST: Duration = Duration::from_hours(3650 * 24);

pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// What is wrong with a key of a map whose schema has this pattern.
pub(super) fn check_key(pattern: &str, key: &str) -> Result<(), &'static str> {
    let (fits, wrong) = match pattern {
        NAME_PATTERN => (
            is_name(key),
            "not a name: a name has lower-case letters, digits and `-`, begins with a letter, and is at most 32 long",
        ),
        PROPERTY_PATTERN => (
            key.starts_with(|c: char| c.is_ascii_lowercase())
                && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '_'),
            "not the name of a librdkafka property: those look like `socket.timeout.ms`",
        ),
        _ => (
            !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+.^_`|~-".contains(c)),
            "not the name of a header: only letters, digits and -_.!#$%&'*+^`|~",
        ),
    };
    if fits { Ok(()) } else { Err(wrong) }
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = |why: &str| {
        format!("{why}; a duration is a number with a unit, like \"500ms\", \"30s\", \"5m\", \"12h\" or \"7d\"")
    };
    match humantime::parse_duration(text.trim()) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err("longer than 3650d".to_owned()),
        Err(humantime::DurationError::UnknownUnit { unit, .. }) if unit.is_empty() => Err(wrong("it has no unit")),
        Err(_) => Err(wrong("not a duration")),
    }
}

/// In the largest unit that keeps it whole; days from four days on (72 hours are what the vendor says).
pub(super) fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    units
        .iter()
        .find(|(unit, name)| millis >= *unit && millis.is_multiple_of(*unit) && (*name != "d" || millis / unit > 3))
        .map_or_else(|| format!("{millis}ms"), |(unit, name)| format!("{}{name}", millis / unit))
}

pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    text.trim()
        .parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| "not a size; a size is a number with a unit, like \"512KiB\", \"64MiB\" or \"10GiB\"".to_owned())
}

pub(super) fn format_size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    units
        .iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.trim().parse().map_err(|_| {
        let hint = text.trim().strip_prefix(':').filter(|port| port.parse::<u16>().is_ok());
        hint.map_or_else(
            || {
                "not an address; it is an IP address and a port, like \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \
                 \"[::]:8080\""
                    .to_owned()
            },
            |port| format!("not an address; for all interfaces write \"0.0.0.0:{port}\" or \"[::]:{port}\""),
        )
    })
}

/// Checks a text against the `x-kind` of its schema.
pub(super) fn check(kind: &str, text: &str) -> Result<(), String> {
    match kind {
        "duration" => parse_duration(text).map(drop),
        "size" => parse_size(text).map(drop),
        "address" => parse_address(text).map(drop),
        "path" | "secret" if text.trim().is_empty() => Err("is empty".to_owned()),
        _ => Ok(()),
    }
}

macro_rules! scalar {
    ($(#[$doc:meta])* $name:ident($inner:ty) $schema:tt |$text:ident| $parse:expr, |$value:ident| $format:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq)]
        pub(super) struct $name(pub $inner);

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let $text = Text::deserialize(deserializer)?.0;
                let parsed: Result<$inner, String> = $parse;
                parsed.map(Self).map_err(de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let $value = &self.0;
                serializer.serialize_str(&$format)
            }
        }
    };
}

scalar! {
    DurationText(Duration)
    {"type": "string", "x-kind": "duration", "examples": ["30s"]}
    |text| parse_duration(&text), |value| format_duration(*value)
}
scalar! {
    SizeText(u64)
    {"type": "string", "x-kind": "size", "examples": ["64MiB"]}
    |text| parse_size(&text), |value| format_size(*value)
}
scalar! {
    AddressText(SocketAddr)
    {"type": "string", "x-kind": "address", "examples": ["127.0.0.1:8080"]}
    |text| parse_address(&text), |value| value.to_string()
}
scalar! {
    PathText(PathBuf)
    {"type": "string", "x-kind": "path"}
    |text| Ok(PathBuf::from(text)), |value| value.display().to_string()
}
scalar! {
    /// Never printed.
    SecretText(String)
    {"type": "string", "x-kind": "secret"}
    |text| Ok(text), |_value| REDACTED
}
scalar! {
    /// A value of a librdkafka property: a string, a number or a boolean.
    PropertyText(String)
    {"type": ["string", "integer", "number", "boolean"], "x-kind": "property"}
    |text| Ok(text), |_value| REDACTED
}
scalar! {
    /// A minijinja template of a header; may hold a secret.
    HeaderText(String)
    {"type": "string", "x-kind": "header"}
    |text| Ok(text), |_value| REDACTED
}

macro_rules! key {
    ($name:ident $pattern:ident) => {
        #[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub(super) struct $name(pub String);

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern})
            }
        }
    };
}

key!(Name NAME_PATTERN);
key!(PropertyName PROPERTY_PATTERN);
key!(HeaderName HEADER_PATTERN);

/// Any scalar, as text.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Text;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a scalar")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Text, E> {
                Ok(Text(text))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Text, E> {
                Ok(Text(flag.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
