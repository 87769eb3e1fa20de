use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::ports::Dialect;

/// `{"data":{…},"meta":{…}}` (sell-api.md L5).
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The record in the answer to a lookup of one, as it is spelled: the whole answer in the reference dialect, what stands in
/// its envelope in the live one. None where there is no object.
#[must_use]
pub fn record(dialect: Dialect, answer: &Bytes) -> Option<Bytes> {
    let record: &RawValue = match dialect {
        Dialect::Reference => serde_json::from_slice(answer).ok()?,
        Dialect::Live => serde_json::from_slice::<Envelope<'_>>(answer).ok()?.data,
    };
    record.get().starts_with('{').then(|| answer.slice_ref(record.get().as_bytes()))
}

/// Who it is whom the vendor told of itself (`GET /v2/users/self`, sell-api.md L5): `Ann Lee (admin)`; none where it does not
/// say.
#[must_use]
pub fn user(answer: &Bytes) -> Option<String> {
    #[derive(Deserialize)]
    struct User {
        name: String,
        role: Option<String>,
    }
    let User { name, role } = serde_json::from_slice(&record(Dialect::Live, answer)?).ok()?;
    Some(role.map_or_else(|| name.clone(), |role| format!("{name} ({role})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_the_vendors_own_bytes() {
        let live = Bytes::from_static(b" {\"meta\":{\"type\":\"deal\"},\"data\": {\"id\":1, \"value\":\"1.50\"} }");
        assert_eq!(record(Dialect::Live, &live).unwrap(), &b"{\"id\":1, \"value\":\"1.50\"}"[..]);
        let reference = Bytes::from_static(b"{\"id\":1e0}\n");
        assert_eq!(record(Dialect::Reference, &reference).unwrap(), &b"{\"id\":1e0}"[..]);
        for bad in ["[]", "{\"data\":7}", "<html>", "{\"data\":{\"a\":}}", ""] {
            assert_eq!(record(Dialect::Live, &Bytes::from(bad)), None, "{bad}");
        }
    }

    #[test]
    fn a_user_has_a_name_and_may_have_a_role() {
        let told = |data: &str| user(&Bytes::from(format!("{{\"data\":{data}}}")));
        assert_eq!(told(r#"{"id":1,"name":"Ann Lee","role":"admin"}"#).as_deref(), Some("Ann Lee (admin)"));
        assert_eq!(told(r#"{"name":"Ann Lee","role":null}"#).as_deref(), Some("Ann Lee"));
        assert_eq!((told(r#"{"id":1}"#), told("[]"), user(&Bytes::from("<html>"))), (None, None, None));
    }
}
