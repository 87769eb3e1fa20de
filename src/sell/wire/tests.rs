use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::event::Event;

const REFERENCE: Dialect = Dialect::Reference;
const LIVE: Dialect = Dialect::Live;

fn parse_bytes(dialect: Dialect, body: &[u8]) -> Result<PageContent, WireError> {
    parse_as(dialect, body, "*", DedupeBy::Id)
}

fn parse_as(dialect: Dialect, body: &[u8], wanted: &str, dedupe_by: DedupeBy) -> Result<PageContent, WireError> {
    let (account, stream) = ("acme".into(), "deals".into());
    let wanted = Wanted::new(&[wanted.to_owned()]);
    let of = PageOf { account: &account, stream: &stream, dedupe_by, wanted: &wanted };
    page(dialect, &Bytes::copy_from_slice(body), of)
}

fn parse(dialect: Dialect, items: &str) -> PageContent {
    let body = format!(r#"{{"items":[{items}],"meta":{{"position":"p1","top":true}}}}"#);
    parse_bytes(dialect, body.as_bytes()).expect("a page")
}

fn one(dialect: Dialect, item: &str) -> Event {
    let mut content = parse(dialect, item);
    assert!(content.rejected.is_empty(), "{:?}", content.rejected);
    assert_eq!(content.events.len(), 1);
    content.events.remove(0)
}

fn body_of(dialect: Dialect, item: &str) -> String {
    String::from_utf8(one(dialect, item).body.to_vec()).expect("UTF-8")
}

fn rejection(dialect: Dialect, item: &str) -> String {
    let good = match dialect {
        Dialect::Reference => r#"{"id":"good","type":"deal.created","timestamp":"t","data":{"deal":{"id":1}}}"#,
        Dialect::Live => r#"{"data":{"id":1},"meta":{"event_id":"good","event_type":"created","type":"deal"}}"#,
    };
    let content = parse(dialect, &format!("{good},{item},{good}"));
    assert_eq!(content.events.len(), 2, "the good neighbours stay");
    assert_eq!(content.rejected.len(), 1);
    assert_eq!(content.rejected[0].raw, item.trim().as_bytes(), "kept whole");
    content.rejected[0].reason.clone()
}

#[test]
fn reference_event_has_its_canonical_bytes() {
    let body = body_of(
        REFERENCE,
        r#" { "meta" : {"sequence": 7, "cause":"interaction", "trace":"a\/b", "stream":"theirs"} , "extra" : [1, 2],
            "previous":{ "value" : 40000 }, "data": { "deal" : {"z":1e3, "id" : 12345678901234567890, "n":"\u00e9\ud83d",
            "value":"10.25", "a": null} }, "timestamp":"2024-02-14T10:30:00Z","type":"deal.updated","id":"event-123"} "#,
    );
    let record = r#"{"z":1e3, "id" : 12345678901234567890, "n":"\u00e9\ud83d",
            "value":"10.25", "a": null}"#;
    let expected = [
        r#"{"id":"event-123","type":"deal.updated","timestamp":"2024-02-14T10:30:00Z","data":{"deal":"#,
        record,
        r#"},"previous":{ "value" : 40000 },"meta":{"account":"acme","stream":"deals","sequence":7,"#,
        r#""cause":"interaction","extra":[1, 2],"trace":"a\/b"}}"#,
    ];
    assert_eq!(body, expected.concat());
}

#[test]
fn live_event_has_its_canonical_bytes() {
    let body = body_of(
        LIVE,
        r#"{"data":{"id":456,"value":"10.25","tags":[{"x":1e3}]},"meta":{"event_id":"e-1","event_type":"updated",
            "event_cause":"interaction","event_time":"2024-02-14T10:30:00Z","sequence":  7,"type":"deal",
            "previous":{"value":"9"},"actor":{"id":1}},"links":{}}"#,
    );
    assert_eq!(
        body,
        r#"{"id":"e-1","type":"deal.updated","timestamp":"2024-02-14T10:30:00Z","data":{"deal":{"id":456,"value":"10.25","tags":[{"x":1e3}]}},"previous":{"value":"9"},"meta":{"account":"acme","stream":"deals","sequence":7,"cause":"interaction","links":{},"actor":{"id":1}}}"#
    );
}

#[test]
fn absent_members_are_left_out_and_a_deleted_event_may_be_nearly_empty() {
    assert_eq!(
        body_of(
            LIVE,
            r#"{"data":{"id":"9"},"meta":{"event_id":"e","event_type":"deleted","type":"lead","event_time":"t"}}"#
        ),
        r#"{"id":"e","type":"lead.deleted","timestamp":"t","data":{"lead":{"id":"9"}},"meta":{"account":"acme","stream":"deals"}}"#
    );
    let event = one(REFERENCE, r#"{"id":"e","type":"lead.deleted","timestamp":"t","data":{"lead":{}}}"#);
    assert_eq!((&*event.record_id, event.occurred_at), ("", None), "one lane; a time that is none is none");
}

#[test]
fn names_that_are_ours_stay_ours_however_they_are_spelled() {
    let body = body_of(
        REFERENCE,
        r#"{"id":"e","type":"deal.created","timestamp":"t","data":{"deal":{},"beside":1},"account":"evil","\u0073tream":"evil",
            "x":1,"meta":{"account":"evil","x":2,"sequence":3,"sequence":4}}"#,
    );
    assert_eq!(
        body,
        r#"{"id":"e","type":"deal.created","timestamp":"t","data":{"deal":{},"beside":1},"meta":{"account":"acme","stream":"deals","sequence":3,"x":1}}"#
    );
}

#[test]
fn spelling_of_names_survives_and_their_text_counts() {
    let event = one(
        REFERENCE,
        r#"{"id":"a\u0062c\"","type":"de\u0061l.created","timestamp":"2024-02-14T10:30:00+01:00","data":{"d\u0065al":{"\u0069d":"x\/y"}}}"#,
    );
    assert_eq!((&*event.id, event.event_type.as_str(), &*event.record_id), ("abc\"", "deal.created", "x/y"));
    assert!(event.body.starts_with(br#"{"id":"a\u0062c\"","type":"de\u0061l.created","#));
    assert_eq!(event.occurred_at.expect("a time").unix_timestamp(), 1_707_903_000);
    assert_eq!(&*one(REFERENCE, r#"{"id":7,"type":"deal.x","data":{"deal":{"id":1e3}}}"#).record_id, "1e3");
}

#[test]
fn an_id_that_is_missing_is_derived() {
    let with =
        one(LIVE, r#"{"data":{"id":456},"meta":{"event_type":"updated","type":"deal","sequence":7,"event_time":"t"}}"#);
    assert_eq!(&*with.id, "deal.updated:456:7");
    assert!(with.body.starts_with(br#"{"id":"deal.updated:456:7","#));
    let without = one(LIVE, r#"{"data":{"id":456},"meta":{"event_type":"updated","type":"deal","event_time":"t"}}"#);
    assert_eq!(*without.id, *format!("deal.updated:456:t:{}", &without.content_hash.to_string()[..16]));
}

#[test]
fn dedupe_by_sequence_makes_another_id_the_same_event() {
    let item = |id: &str| {
        format!(
            r#"{{"data":{{"id":4}},"meta":{{"event_id":"{id}","event_type":"updated","type":"deal","sequence":7}}}}"#
        )
    };
    let key = |dedupe_by, id: &str| {
        let body = format!(r#"{{"items":[{}],"meta":{{"position":"p"}}}}"#, item(id));
        parse_as(LIVE, body.as_bytes(), "*", dedupe_by).expect("a page").events[0].dedupe_key
    };
    assert_eq!(key(DedupeBy::Sequence, "a"), key(DedupeBy::Sequence, "b"));
    assert_ne!(key(DedupeBy::Id, "a"), key(DedupeBy::Id, "b"));
}

#[test]
fn what_is_not_an_event_is_set_aside_whole_with_its_reason() {
    let long = "x".repeat(513);
    let cases = [
        (REFERENCE, r#"{"id":"e","timestamp":"t","data":{"deal":{}}}"#.to_owned(), "no type"),
        (REFERENCE, r#"{"id":"e","type":"","data":{"deal":{}}}"#.to_owned(), "no type"),
        (REFERENCE, r#"{"id":"e","type":".created","data":{"":{}}}"#.to_owned(), "no type"),
        (REFERENCE, r#"{"id":"e","type":"deal.created","data":{"lead":{}}}"#.to_owned(), "no record"),
        (REFERENCE, r#"{"id":"e","type":"deal.created"}"#.to_owned(), "no record"),
        (REFERENCE, r#"{"id":"e","type":"deal.created","data":{"deal":null}}"#.to_owned(), "no record"),
        (REFERENCE, r#"{"id":"e","type":"deal.created","data":[]}"#.to_owned(), "an object"),
        (
            REFERENCE,
            r#"{"id":"a\u0000b","type":"deal.created","data":{"deal":{}}}"#.to_owned(),
            "event id contains a NUL",
        ),
        (
            REFERENCE,
            r#"{"id":"\ud800","type":"deal.created","data":{"deal":{}}}"#.to_owned(),
            "event id is not valid text",
        ),
        (
            REFERENCE,
            r#"{"id":"e","type":"deal.created","data":{"deal":{"id":"\u0000"}}}"#.to_owned(),
            "record id contains a NUL",
        ),
        (
            REFERENCE,
            format!(r#"{{"id":"{long}","type":"deal.created","data":{{"deal":{{}}}}}}"#),
            "event id is longer than 512",
        ),
        (REFERENCE, format!(r#"{{"id":"e","type":"deal.{long}","data":{{"deal":{{}}}}}}"#), "type is longer than 128"),
        (
            REFERENCE,
            format!(r#"{{"id":"e","type":"deal.x","data":{{"deal":{{"id":"{long}"}}}}}}"#),
            "record id is longer than 256",
        ),
        (REFERENCE, r#"{"id":"e","type":"deal.created","data":{"deal":{}},}"#.to_owned(), "not a JSON element"),
        (REFERENCE, "garbage".to_owned(), "not a JSON element"),
        (REFERENCE, "17".to_owned(), "an object"),
        (LIVE, r#"{"data":{"id":1}}"#.to_owned(), "no type"),
        (LIVE, r#"{"data":{"id":1},"meta":{"type":"deal"}}"#.to_owned(), "no type"),
        (LIVE, r#"{"data":null,"meta":{"type":"deal","event_type":"created"}}"#.to_owned(), "no record"),
        (LIVE, r#"{"meta":{"type":"deal","event_type":"created"}}"#.to_owned(), "no record"),
    ];
    for (dialect, item, reason) in cases {
        let said = rejection(dialect, &item);
        assert!(said.contains(reason), "{item}: {said}");
    }
}

#[test]
fn bytes_that_are_not_utf8_cost_their_element_alone() {
    let good = "{\"id\":\"g\",\"type\":\"deal.created\",\"data\":{\"deal\":{\"n\":\"caf\u{e9}\"}}}".as_bytes();
    let bad = b"{\"id\":\"b\",\"type\":\"deal.created\",\"data\":{\"deal\":{\"n\":\"\xff\xfe\"}}}";
    let body = [&b"{\"items\":["[..], good, b",", bad, b"],\"meta\":{\"position\":\"p\",\"top\":false}}"].concat();
    let content = parse_bytes(REFERENCE, &body).expect("a page");
    assert_eq!((content.events.len(), content.rejected.len()), (1, 1));
    assert_eq!(content.rejected[0].raw, &bad[..]);
}

#[test]
fn a_page_that_is_none_says_why() {
    let why = |body: &str| parse_bytes(LIVE, body.as_bytes()).expect_err("not a page").to_string();
    assert!(why("<html>").contains("not a JSON object"));
    assert!(why("").contains("empty"));
    assert!(why(r#"{"items":[{"data":{}"#).contains("cut short"));
    assert!(why(r#"{"items":[{"data":]}"#).contains("do not match"));
    assert!(why(r#"{"items":{},"meta":{}}"#).contains("not a list"));
    assert!(why(r#"{"error":{"code":500}}"#).contains("no `items`"));
    assert!(why(r#"{"items":[]}"#).contains("no `meta`"));
    assert!(why(r#"{"items":[],"meta":{}}"#).contains("there is none"));
    assert!(why(r#"{"items":[],"meta":{"position":"a\u0000"}}"#).contains("NUL"));
    assert!(why(&format!(r#"{{"items":[],"meta":{{"position":"{}"}}}}"#, "p".repeat(4097))).contains("4 KiB"));
    assert!(why(r#"{"items":[],"meta":{"position":"p"}} x"#).contains("follows"));
}

#[test]
fn types_that_are_not_wanted_are_dropped_and_counted() {
    let items = r#"{"items":[{"id":"1","type":"deal.created","data":{"deal":{}}},{"id":"2","type":"deal.deleted","data":{"deal":{}}},
        {"id":"3","type":"dealer.created","data":{"dealer":{}}}],"meta":{"position":"p"}}"#;
    let kept = |wanted| {
        let content = parse_as(REFERENCE, items.as_bytes(), wanted, DedupeBy::Id).expect("a page");
        (content.events.len(), content.unwanted)
    };
    assert_eq!(kept("*"), (3, 0));
    assert_eq!(kept("deal.*"), (2, 1));
    assert_eq!(kept("deal.deleted"), (1, 2));
}

#[test]
fn nesting_however_deep_is_passed_through() {
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let event = one(REFERENCE, &format!(r#"{{"id":"e","type":"deal.created","data":{{"deal":{{"x":{deep}}}}}}}"#));
    assert!(event.body.len() > 40_000);
}

/// Elements of every kind that a hostile page may mix, and whether they are events.
fn element() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let record =
        "\\{\"id\":(0|[1-9][0-9]{0,19})(,\"[a-z]{1,5}\":(1e3|\"[ -!#-\\[\\]-~]{0,8}\"|null|\\[1, 2\\]|\\{\\}))?\\}";
    let good = ("[a-z0-9-]{1,12}", record).prop_map(|(id, record)| {
        (
            format!(r#"{{"id":"{id}","type":"deal.updated","timestamp":"t","data":{{"deal":{record}}}}}"#).into_bytes(),
            true,
        )
    });
    // Any bytes that cannot open or close anything, so that the page around them can still be split.
    let noise = proptest::collection::vec(
        any::<u8>().prop_filter("bracket", |byte| !b"[]{}\",: \t\r\n\\".contains(byte)),
        1..20,
    );
    let garbage = noise.clone().prop_map(|bytes| (bytes, false));
    let wrapped = noise.prop_map(|bytes| ([b"{\"id\":", &bytes[..], b"}"].concat(), false));
    prop_oneof![3 => good, 1 => garbage, 1 => wrapped]
}

proptest! {
    #[test]
    fn every_good_element_survives_byte_for_byte_whatever_stands_beside_it(
        elements in proptest::collection::vec(element(), 0..12),
    ) {
        let items = elements.iter().map(|(bytes, _)| bytes.clone()).collect::<Vec<_>>().join(&b","[..]);
        let body = [&b"{\"items\":["[..], &items, b"],\"meta\":{\"position\":\"p\",\"top\":true}}"].concat();
        let content = parse_bytes(REFERENCE, &body).expect("the page can be split");
        let good = elements.iter().filter(|(_, good)| *good).map(|(bytes, _)| bytes);
        let bad: Vec<&Vec<u8>> = elements.iter().filter(|(_, good)| !good).map(|(bytes, _)| bytes).collect();
        for (element, event) in good.clone().zip(&content.events) {
            let expected = [&element[..element.len() - 1], br#","meta":{"account":"acme","stream":"deals"}}"#].concat();
            prop_assert_eq!(&event.body, &expected);
        }
        prop_assert_eq!(content.events.len(), good.count());
        prop_assert_eq!(content.rejected.iter().map(|r| r.raw.to_vec()).collect::<Vec<_>>(), bad.into_iter().cloned().collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), proptest::sample::select(b"[]{}\",:\\u0".to_vec())], 0..200),
        live: bool,
    ) {
        let dialect = if live { LIVE } else { REFERENCE };
        drop(parse_bytes(dialect, &bytes));
        let page = [&b"{\"items\":["[..], &bytes, b"],\"meta\":{\"position\":\"p\"}}"].concat();
        drop(parse_bytes(dialect, &page));
    }

    #[test]
    fn reading_apart_and_reading_at_once_agree(sequences in proptest::collection::vec(any::<u32>(), 1..20)) {
        let mut items = String::new();
        for (at, sequence) in sequences.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(items, r#"{comma} {{"data":{{"id":{at}}} ,"meta":{{"type":"deal","event_type":"updated","sequence":{sequence}}}}}"#).unwrap();
        }
        let whole = parse(LIVE, &items);
        let apart = parse(LIVE, &format!("{items},oops"));
        prop_assert_eq!(apart.rejected.len(), 1);
        prop_assert_eq!(whole.events.len(), apart.events.len());
        for (one, other) in whole.events.iter().zip(&apart.events) {
            prop_assert_eq!(&one.body, &other.body);
            prop_assert_eq!((&one.id, one.dedupe_key, one.content_hash), (&other.id, other.dedupe_key, other.content_hash));
        }
    }
}
