//! JSON as CEL values, strings borrowed from the body where they can be.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey as Key, CelNull, CelString, CelUInt};
use cel::common::value::Val;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::body::mend;

type Boxed<'v> = Box<dyn Val + 'v>;

/// Decodes JSON of an event.
pub(super) fn decode(json: &str) -> Result<Boxed<'_>, String> {
    match serde_json::from_str::<Decoded<'_>>(json) {
        Ok(decoded) => Ok(decoded.0),
        // Rare: a lone surrogate or a number that no double holds. Then everything is copied.
        Err(error) => match mend(json) {
            Cow::Owned(mended) => serde_json::from_str(&mended).map(owned).map_err(|e| e.to_string()),
            Cow::Borrowed(_) => Err(error.to_string()),
        },
    }
}

pub(super) fn empty_map<'v>() -> Boxed<'v> {
    Box::new(CelMap::from(HashMap::new()))
}

fn integer<'v>(number: u64) -> Boxed<'v> {
    match i64::try_from(number) {
        Ok(number) => Box::new(CelInt::from(number)),
        Err(_) => Box::new(CelUInt::from(number)),
    }
}

fn owned(json: serde_json::Value) -> Boxed<'static> {
    match json {
        serde_json::Value::Null => Box::new(CelNull),
        serde_json::Value::Bool(truth) => Box::new(CelBool::from(truth)),
        serde_json::Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => integer(number),
            (None, Some(number)) => Box::new(CelInt::from(number)),
            (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        serde_json::Value::String(text) => Box::new(CelString::from(text)),
        serde_json::Value::Array(items) => Box::new(CelList::from(items.into_iter().map(owned).collect::<Vec<_>>())),
        serde_json::Value::Object(members) => {
            let members = members.into_iter().map(|(name, value)| (Key::from(name), owned(value)));
            Box::new(CelMap::from(members.collect::<HashMap<_, _>>()))
        }
    }
}

struct Decoded<'v>(Boxed<'v>);

impl<'de> Deserialize<'de> for Decoded<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Decoder).map(Self)
    }
}

struct Name<'v>(Key<'v>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Key::from(name)))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Key::from(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Names)
    }
}

struct Decoder;

impl<'de> Visitor<'de> for Decoder {
    type Value = Boxed<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Box::new(CelNull))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(Box::new(CelBool::from(truth)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Box::new(CelInt::from(number)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(integer(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Box::new(CelDouble::from(number)))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Box::new(CelString::from(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Box::new(CelString::from(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Decoded(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Box::new(CelList::from(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut map = HashMap::new();
        while let Some((Name(name), Decoded(value))) = members.next_entry()? {
            map.insert(name, value);
        }
        Ok(Box::new(CelMap::from(map)))
    }
}
