//! Members of JSON objects by their names, in place: nothing else of the text is decoded or copied.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The values of these members as they are spelled, none for one that is not there; nothing where the text is no object.
/// Of a name that comes twice the last one counts.
pub(super) fn picked<'j>(json: &'j [u8], names: &[String]) -> Vec<Option<&'j RawValue>> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    deserializer.deserialize_map(Pick(names)).unwrap_or_default()
}

struct Pick<'n>(&'n [String]);

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.0.len()];
        while let Some(name) = map.next_key_seed(Name(PhantomData))? {
            match self.0.iter().position(|wanted| *wanted == *name) {
                // A name may be wanted twice.
                Some(first) => {
                    let value = map.next_value()?;
                    let same = self.0[first..].iter().enumerate().filter(|(_, wanted)| **wanted == *name);
                    same.for_each(|(at, _)| values[first + at] = Some(value));
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(values)
    }
}

/// A plain value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plain {
    Null,
    Int(i64),
    /// Beyond [`Plain::Int`].
    UInt(u64),
    Text(String),
}

/// The plain value that lies at `path`, below objects alone; none where anything else is there, or what cannot be read.
pub(super) fn plain(json: &[u8], path: &[Box<str>]) -> Option<Plain> {
    Walk(path).deserialize(&mut serde_json::Deserializer::from_slice(json)).ok()?
}

struct Walk<'p>(&'p [Box<str>]);

impl Walk<'_> {
    fn arrived(&self, value: Plain) -> Option<Plain> {
        self.0.is_empty().then_some(value)
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<Plain>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Plain>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(self.arrived(Plain::Null))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(self.arrived(Plain::Int(number)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(self.arrived(i64::try_from(number).map_or(Plain::UInt(number), Plain::Int)))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.arrived(Plain::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key_seed(Name(PhantomData))? {
            match self.0.split_first() {
                Some((first, rest)) if **first == *name => found = map.next_value_seed(Walk(rest))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// A member's name, copied only where it is spelled with escapes.
struct Name<'v>(PhantomData<&'v str>);

impl<'de> DeserializeSeed<'de> for Name<'de> {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name<'de> {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn members_are_picked_as_they_are_spelled() {
        let json = br#"{"a":1.0,"\u0062":[1, {"a":2}],"c":{},"a":2e0}"#;
        let picked = |wanted: &[&str]| -> Vec<Option<&str>> {
            super::picked(json, &names(wanted)).into_iter().map(|value| value.map(RawValue::get)).collect()
        };
        assert_eq!(picked(&["b", "a", "x", "a"]), [Some("[1, {\"a\":2}]"), Some("2e0"), None, Some("2e0")]);
        assert!(
            super::picked(b"[1]", &names(&["a"])).is_empty() && super::picked(b"{\"a\":", &names(&["a"])).is_empty()
        );
    }

    #[test]
    fn a_plain_value_is_found_below_objects_alone() {
        let at = |json: &str, path: &str| plain(json.as_bytes(), &path.split('.').map(Box::from).collect::<Vec<_>>());
        let json = r#"{"x":[{"a":1}],"data":{"deal":{"id":9,"n":null,"s":"a\u0062","f":1.0,"l":[7],"b":true,
            "u":18446744073709551615,"i":-1}},"data2":1}"#;
        assert_eq!(at(json, "data.deal.id"), Some(Plain::Int(9)));
        assert_eq!(at(json, "data.deal.i"), Some(Plain::Int(-1)));
        assert_eq!(at(json, "data.deal.u"), Some(Plain::UInt(u64::MAX)));
        assert_eq!(at(json, "data.deal.s"), Some(Plain::Text("ab".to_owned())));
        assert_eq!(at(json, "data.deal.n"), Some(Plain::Null));
        for path in ["data.deal", "data.deal.f", "data.deal.l", "data.deal.b", "data.deal.x", "data.deal.id.x", "x.a"] {
            assert_eq!(at(json, path), None, "{path}");
        }
        assert_eq!(at(r#"{"data":{"id":1},"data":{"id":2}}"#, "data.id"), Some(Plain::Int(2)), "the last one counts");
        assert_eq!(at(r#"{"data":{"id":1},"data":{}}"#, "data.id"), None);
        assert_eq!(at(r#"{"data":{"id":"\ud800"}}"#, "data.id"), None);
        assert_eq!(at(r#"{"data":{"id":1}"#, "data.id"), None);
    }
}
