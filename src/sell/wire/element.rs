use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A member of a JSON object: its name with its quotes and its value, both as they were spelled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    pub name: &'a str,
    pub value: &'a str,
}

impl<'a> Member<'a> {
    /// Whether this is its name, however it is spelled.
    pub fn is(&self, name: &str) -> bool {
        let inner = &self.name[1..self.name.len() - 1];
        // An escape is longer than what it spells.
        inner == name || (inner.len() > name.len() && inner.contains('\\') && self.name() == name)
    }

    /// The name as text. One that is no text (a lone surrogate) stays as it is spelled.
    pub fn name(&self) -> Cow<'a, str> {
        let inner = &self.name[1..self.name.len() - 1];
        if !inner.contains('\\') {
            return Cow::Borrowed(inner);
        }
        serde_json::from_str(self.name).map_or(Cow::Borrowed(inner), Cow::Owned)
    }
}

/// The members of an object, in order. Where a name comes twice the first one counts.
#[derive(Debug, Default)]
pub(super) struct Object<'a>(pub Vec<Member<'a>>);

impl<'a> Object<'a> {
    /// The value of the first member of this name, as it was spelled.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        get(&self.0, name)
    }
}

/// The value of the first member of this name, as it was spelled.
pub(super) fn get<'a>(members: &[Member<'a>], name: &str) -> Option<&'a str> {
    members.iter().find(|member| member.is(name)).map(|member| member.value)
}

/// An element of a page: its members, of which `meta` (and `data`, when `DATA` is set) are taken apart on the way.
#[derive(Debug)]
pub(super) struct Item<'a, const DATA: bool> {
    pub members: Vec<Member<'a>>,
    pub meta: Option<Object<'a>>,
    pub data: Option<Object<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(name) = map.next_key::<&RawValue>()? {
                    members.push(Member { name: name.get(), value: map.next_value::<&RawValue>()?.get() });
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl<'de: 'a, 'a, const DATA: bool> Deserialize<'de> for Item<'a, DATA> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<const DATA: bool>;
        impl<'de, const DATA: bool> Visitor<'de> for Members<DATA> {
            type Value = Item<'de, DATA>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut item = Item { members: Vec::with_capacity(8), meta: None, data: None };
                while let Some(name) = map.next_key::<&RawValue>()? {
                    let member = Member { name: name.get(), value: "" };
                    let (meta, data) = (member.is("meta"), DATA && member.is("data"));
                    if meta && item.meta.is_none() {
                        item.meta = map.next_value()?;
                    } else if data && item.data.is_none() {
                        item.data = map.next_value()?;
                    } else if meta || data {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        let value = map.next_value::<&RawValue>()?.get();
                        item.members.push(Member { value, ..member });
                    }
                }
                Ok(item)
            }
        }
        deserializer.deserialize_map(Members)
    }
}
