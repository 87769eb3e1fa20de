//! Whether a GraphQL request only asks: queries count as reads, and whatever may change something does not.

use std::fmt;

use graphql_parser::query::{Definition, OperationDefinition, parse_query};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Whether a request's body is seen to be nothing but queries: `{"query":"…"}`, or an array of such. What is anything else,
/// or cannot be read, may be a mutation.
pub(super) fn is_query(body: &[u8]) -> bool {
    serde_json::from_slice(body).is_ok_and(|Queries(all)| all)
}

/// Of a JSON value: whether all of its documents hold queries alone, and there is one.
struct Queries(bool);

impl<'de> Deserialize<'de> for Queries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Requests).map(Self)
    }
}

struct Requests;

impl<'de> Visitor<'de> for Requests {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a GraphQL request, or a list of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut documents = 0;
        while let Some(name) = map.next_key::<String>()? {
            if name != "query" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            documents += 1;
            // Of a name that comes twice the vendor may take either.
            if !only_queries(&map.next_value::<String>()?) {
                return Err(A::Error::custom("not a query"));
            }
        }
        Ok(documents > 0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        let mut all = None;
        while let Some(Queries(one)) = list.next_element()? {
            all = Some(all.unwrap_or(true) && one);
        }
        Ok(all.unwrap_or(false))
    }
}

/// What the parser does not take may be anything.
fn only_queries(document: &str) -> bool {
    let changes_nothing = |definition: &Definition<'_, String>| {
        use OperationDefinition::{Query, SelectionSet};
        matches!(definition, Definition::Fragment(_) | Definition::Operation(Query(_) | SelectionSet(_)))
    };
    parse_query(document).is_ok_and(|document| document.definitions.iter().all(changes_nothing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(document: &str) -> Vec<u8> {
        serde_json::to_vec(&serde_json::json!({ "query": document, "variables": { "query": "mutation" } })).unwrap()
    }

    #[test]
    fn a_query_is_one_however_it_is_spelled() {
        for document in [
            "{ organizations { id } }",
            "query Mutation($mutation: [Int!] = [1]) @live(if: true) { mutation(text: \"mutation { a }\") { id } }",
            "# mutation\n\u{feff}query{a(x:\"\"\"mutation \\\"\"\" { \"\"\")}fragment f on T{b}",
            "query a { b } query c { d }",
            "{a(b: \"\\\"}\")}",
        ] {
            assert!(is_query(&body(document)), "{document}");
        }
        assert!(is_query(br#"[{"query":"{a}"},{"query":"{b}","operationName":null}]"#));
    }

    #[test]
    fn what_may_change_something_is_not() {
        for document in [
            "mutation { deleteDeal(id: 1) }",
            "query a { b } mutation c { d }",
            "{ a }\n#\"\"\"\nmutation{b} #\"\"\"",
            "{ a(b: \"\") } mutation { c }",
            "{ a(b: \"\"\"\\\"\"\" \"\"\") } mutation { c }",
            "fragment f on T { a },mutation{b}",
            "subscription { a }",
            "extend type Query { a: Int }",
            "{ a } }",
            "{ a(b: \") }",
            "{",
            "",
        ] {
            assert!(!is_query(&body(document)), "{document}");
        }
        for body in [
            &br#"{"query":"\u006dutation{a}"}"#[..],
            br#"{"query":"mutation{a}","query":"{a}"}"#,
            br#"{"query":"{a}","\u0071uery":"mutation{a}"}"#,
            br#"[{"query":"{a}"},{"query":"mutation{a}"}]"#,
            br#"[{"query":"{a}"},{"id":"stored"}]"#,
            br#"{"id":"stored"}"#,
            br#"{"query":{"a":1}}"#,
            b"[]",
            b"mutation{a}",
            b"",
        ] {
            assert!(!is_query(body), "{}", String::from_utf8_lossy(body));
        }
    }
}
