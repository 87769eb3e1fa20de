use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indexmap::IndexMap;
use proptest::prelude::*;
use time::macros::datetime;

use super::{RuleError, Rules, never_emitted};
use crate::config::{KafkaConfig, NewProducer, SinkConfig, SinkKind, SinkStart};
use crate::event::ports::{Address, Decision, Dialect, Route, RouteError};
use crate::event::{Chain, ContentHash, Recorded, Replay, Seq, SinkName};

pub(super) const DEFAULT_KEY: &str = "{{ account }}/{{ resource }}/{{ record_id }}";

pub(super) fn config(filter: Option<&str>, topic: &str, key: &str, headers: &[(&str, &str)]) -> SinkConfig {
    SinkConfig {
        filter: filter.map(str::to_owned),
        headers: headers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        start: SinkStart::Oldest,
        dead_letter_retention: Duration::from_hours(720),
        enrich: Vec::new(),
        kind: SinkKind::Kafka(KafkaConfig {
            brokers: "127.0.0.1:9092".to_owned(),
            topic: topic.to_owned(),
            key: key.to_owned(),
            new_producer: NewProducer::OnDoubt,
            create_topics: true,
            partitions: None,
            replication: None,
            properties: IndexMap::new(),
            secret_properties: IndexMap::new(),
        }),
    }
}

fn compile(config: &SinkConfig) -> Result<Rules, Vec<RuleError>> {
    Rules::compile(&SinkName::from("crm"), config, &[])
}

fn filter(text: &str) -> Result<Rules, Vec<RuleError>> {
    compile(&config(Some(text), "sell.{{ resource }}", DEFAULT_KEY, &[]))
}

fn key(text: &str) -> Result<Rules, Vec<RuleError>> {
    compile(&config(None, "sell.{{ resource }}", text, &[]))
}

pub(super) fn event(event_type: &str, record: &str, rest: &str) -> Recorded {
    let resource = event_type.split('.').next().unwrap();
    let body = format!(
        r#"{{"id":"e-1","type":"{event_type}","timestamp":"2024-02-14T10:30:00+01:00","data":{{"{resource}":{record}}},{rest}"meta":{{"account":"acme","stream":"deals","sequence":7}}}}"#
    );
    Recorded {
        seq: Seq(5),
        chain: Chain([0; 32]),
        account: "acme".into(),
        event_type: event_type.into(),
        id: "e-1".into(),
        record_id: "456".into(),
        occurred_at: None,
        recorded_at: datetime!(2024-02-14 10:30 UTC),
        content_hash: ContentHash([0; 16]),
        body: Bytes::from(body),
        replay: None,
    }
}

fn takes(rules: &Rules, event: &Recorded) -> bool {
    match rules.decide(event) {
        Ok(decision) => decision != Decision::Filtered,
        Err(error) => panic!("{error}"),
    }
}

fn address(rules: &Rules, event: &Recorded) -> Address {
    match rules.decide(event) {
        Ok(Decision::Deliver(address)) => address,
        other => panic!("{other:?}"),
    }
}

fn error(result: Result<Rules, Vec<RuleError>>) -> RuleError {
    let mut errors = result.expect_err("it must be refused");
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

fn pointed(error: &RuleError) -> &str {
    &error.text[error.at.clone()]
}

#[test]
fn events_are_filtered_by_what_the_filter_says() {
    let deal =
        event("deal.updated", r#"{"id":456,"value":"10000.50","tags":["a"],"won":true}"#, r#""previous":{"value":1},"#);
    let contact = event("contact.created", r#"{"id":456}"#, "");
    for (text, takes_deal, takes_contact) in [
        ("true", true, true),
        ("type.startsWith('deal.')", true, false),
        ("resource == 'deal' && double(data.deal.value) > 10000.0", true, false),
        ("type == 'deal.updated' && data.deal.won", true, false),
        ("has(previous.value)", true, false),
        ("account == 'acme' && stream == 'deals' && record_id == '456' && id == 'e-1'", true, true),
        ("sequence == 7 && cause == null && action in ['created', 'updated']", true, true),
        ("timestamp(timestamp) < timestamp('2024-02-14T10:00:00Z')", true, true),
        ("meta.account == 'acme' && !has(meta.nothing)", true, true),
        ("resource == 'contact' || data.deal.tags.exists(t, t == 'a')", true, true),
        ("type.upperAscii() == 'DEAL.UPDATED'", true, false),
    ] {
        let rules = filter(text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        assert_eq!((takes(&rules, &deal), takes(&rules, &contact)), (takes_deal, takes_contact), "{text}");
        assert_eq!((takes(&rules, &deal), takes(&rules, &contact)), (takes_deal, takes_contact), "{text}, again");
    }
}

#[test]
fn a_value_is_a_number_in_one_dialect_and_text_in_the_other_and_double_takes_both() {
    let rules = filter("type == 'deal.updated' && double(data.deal.value) > 10000.0").unwrap();
    for (value, taken) in [("\"10000.01\"", true), ("10001", true), ("1e5", true), ("9999", false), ("\"1.5\"", false)]
    {
        assert_eq!(takes(&rules, &event("deal.updated", &format!(r#"{{"value":{value}}}"#), "")), taken, "{value}");
    }
}

#[test]
fn numbers_and_texts_that_rust_cannot_hold_are_mended_for_rules_alone() {
    let record = r#"{"id":18446744073709551615,"big":123456789012345678901234567890,"far":-1e999,"name":"a\ud800b\ud83d\ude00\\ud800"}"#;
    let original = event("deal.updated", record, "");
    for text in [
        "data.deal.id == 18446744073709551615u",
        "data.deal.big > 1.0e29",
        "data.deal.far < -1.0e300",
        "data.deal.name == 'a\u{FFFD}b\u{1F600}\\\\ud800'",
    ] {
        let guarded = format!("type == 'deal.updated' && {text}");
        let rules = filter(&guarded).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        assert!(takes(&rules, &original), "{text}");
    }
    let rules = key("{{ data.deal.name }}").unwrap();
    assert_eq!(address(&rules, &original).key, "a\u{FFFD}b\u{1F600}\\ud800");
}

#[test]
fn rules_that_need_no_body_never_look_at_it() {
    let mut broken = event("deal.updated", "{}", "");
    broken.body = Bytes::from_static(b"not json at all");
    let rules = filter("type.startsWith('deal.') && record_id == '456' && id != ''").unwrap();
    assert_eq!(address(&rules, &broken).key, "acme/deal/456");
    let rules = filter("resource == 'contact' && data.contact.id == 1").unwrap();
    assert!(!takes(&rules, &broken), "data is not decoded when the left side has decided");
}

#[test]
fn what_fails_on_one_event_is_an_error_of_that_event_with_the_reason() {
    let rules = filter("data.deal.value > 5").unwrap();
    let RouteError { what, why } = rules.decide(&event("contact.created", "{}", "")).unwrap_err();
    assert_eq!((what.as_str(), why.as_str()), ("filter", "the event has no `deal` there"));

    let rules = key("{{ data.deal.name }}").unwrap();
    let failed = rules.decide(&event("contact.created", "{}", "")).unwrap_err();
    assert_eq!(failed.to_string(), "key failed on this event: `data.deal.name` is undefined");

    let mut broken = event("deal.updated", "{}", "");
    broken.body = Bytes::from_static(b"{\"data\":");
    let failed = filter("data.deal.value > 5").unwrap().decide(&broken).unwrap_err();
    assert!(failed.why.starts_with("data of the body cannot be decoded"), "{}", failed.why);

    let rules = compile(&config(None, "sell.{{ record_id }}", DEFAULT_KEY, &[])).unwrap();
    let mut odd = event("deal.updated", "{}", "");
    odd.record_id = "no topic".into();
    assert_eq!(rules.decide(&odd).unwrap_err().what, "topic");
}

#[test]
fn topics_keys_and_headers_are_rendered() {
    let headers = [("x-stage", "{{ data.deal.stage | default('none') }}"), ("x-fixed", "yes")];
    let rules = compile(&config(None, "sell.{{ resource }}", DEFAULT_KEY, &headers)).unwrap();
    let rendered = address(&rules, &event("deal.updated", "{}", ""));
    assert_eq!((&*rendered.topic, rendered.key.as_str()), ("sell.deal", "acme/deal/456"));
    let expected = [("x-stage", "none"), ("x-fixed", "yes")].map(|(name, value)| (Arc::from(name), value.to_owned()));
    assert_eq!(rendered.headers, expected);
    let again = address(&rules, &event("deal.created", "{}", ""));
    let third = address(&rules, &event("deal.created", "{}", ""));
    assert!(Arc::ptr_eq(&again.topic, &third.topic), "a rendered topic is kept");

    let rules = key("{% if resource == 'deal' %}d{% else %}{{ resource|upper }}{% endif %}-{{ sequence }}").unwrap();
    assert_eq!(address(&rules, &event("contact.created", "{}", "")).key, "CONTACT-7");
}

#[test]
fn a_replay_goes_to_its_sink_alone_past_the_filter() {
    let rules = filter("false").unwrap();
    let mut replay = event("deal.updated", "{}", "");
    replay.replay = Some(Box::new(Replay { sink: "crm".into(), of: Seq(2) }));
    assert_eq!(address(&rules, &replay).key, "acme/deal/456");
    replay.replay = Some(Box::new(Replay { sink: "other".into(), of: Seq(2) }));
    assert_eq!(filter("true").unwrap().decide(&replay).unwrap(), Decision::Filtered);
}

#[test]
fn an_announcement_passes_every_filter_without_an_address() {
    let rules = filter("false").unwrap();
    assert_eq!(address(&rules, &event("standpipe.gap", "{}", "")), Address::default());
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_and_its_place() {
    for (result, wrong, hint) in [
        (filter("resource == 'deal' && typ == 'x'"), "typ", "did you mean `type`?"),
        (filter("data.deal.tags.exists(t, tt == 'a') || x.y.z"), "tt", ""),
        (key("{{ account }}/{{ recordid }}"), "recordid", "did you mean `record_id`?"),
        (key("{% if nosuch %}a{% endif %}"), "nosuch", "known are id, type"),
    ] {
        let errors = result.expect_err(wrong);
        assert!(pointed(&errors[0]).starts_with(wrong), "{:?}", errors[0]);
        assert!(errors[0].message.contains(hint), "{}", errors[0].message);
    }
}

#[test]
fn an_error_shows_the_line_and_a_caret_under_the_place() {
    let refused = error(filter("type == 'deal.updated' &&\n  nosuch > 5"));
    assert_eq!(refused.position(), (2, 3));
    let shown = refused.to_string();
    assert!(shown.starts_with("sinks.crm.filter: unknown variable `nosuch`"), "{shown}");
    assert!(shown.ends_with("(line 2, column 3)\n  |   nosuch > 5\n  |   ^^^^^^"), "{shown}");
}

#[test]
fn a_filter_that_is_not_boolean_is_refused() {
    for text in [
        "1 + 1",
        "type",
        "'deal'",
        "size(type)",
        "data",
        "data.deal.name",
        "type && true",
        "!type",
        "true ? type : id",
        "data.deal.tags.map(t, t)",
        "resource == 'deal' ? data.deal.name : 'x'",
        "type.lowerAscii()",
    ] {
        let errors = filter(text).expect_err(text);
        assert!(errors[0].message.contains("true or false"), "{text}: {}", errors[0]);
    }
}

#[test]
fn rules_that_cannot_be_read_are_refused_with_a_place() {
    for text in
        ["type ==", "type == 'deal", "type = 'x'", "(", "a b", "", "type.nosuch()", "nosuch(type)", "type.id == 1"]
    {
        assert!(filter(text).is_err(), "{text}");
    }
    for text in [
        "{{ account",
        "{{ account }",
        "{% if %}",
        "{{ account|nosuch }}",
        "{{ account is nosuch }}",
        "{{ type.resource }}",
    ] {
        let refused = error(key(text));
        assert!(refused.at.end <= text.len(), "{text}: {refused}");
    }
    assert_eq!(pointed(&error(key("a-{{ account|nosuch }}"))), "nosuch");
    assert!(error(filter("type.startWith('a')")).message.contains("did you mean `startsWith`?"));
}

#[test]
fn a_template_that_no_event_can_render_is_refused_and_one_that_some_can_is_not() {
    assert!(key("{{ data.dael.value }}").is_err(), "no event has this resource");
    assert!(key("{{ nothing() }}").is_err());
    assert!(key("{{ account + 1 }}").is_err());
    key("{{ data.deal.value }}").unwrap();
    key("{{ data.deal.a_custom_field }}").unwrap();
    key("{{ data.deal.a_custom_field.with.parts }}").unwrap();
    let refused = error(compile(&config(None, "sell/{{ resource }}", DEFAULT_KEY, &[])));
    assert!(refused.message.contains("not a legal topic name"), "{refused}");
    let narrowed = config(Some("resource == 'contact'"), "t", "{{ data.deal.id }}", &[]);
    assert!(compile(&narrowed).is_err(), "the filter takes none that could be rendered");
}

#[test]
fn headers_that_are_ours_are_refused() {
    for name in ["standpipe-id", "Webhook-Signature", "content-type", "TraceParent", "Host", "a b", ""] {
        error(compile(&config(None, "t", "k", &[(name, "x")])));
    }
    compile(&config(None, "t", "k", &[("x-source", "crm")])).unwrap();
}

#[test]
fn a_rule_has_bounds() {
    assert!(filter(&format!("type == '{}'", "x".repeat(5000))).is_err());
    assert!(filter("data.a.all(x, x.all(y, y.all(z, z == 1)))").is_err());
    let deal = event("deal.updated", "{}", "");
    let rules = key("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}");
    assert!(rules.is_err() || rules.unwrap().decide(&deal).is_err());
}

#[test]
fn types_that_a_dialect_never_emits_are_warned_of() {
    let accounts = [("acme".into(), Dialect::Live)];
    let warned = |text: &str| filter(text).unwrap().warnings(&accounts);
    assert!(warned("type == 'organization.created'")[0].contains("is_organization"));
    assert!(warned("resource in ['deal', 'activity']")[0].contains("call, task, note"));
    assert!(warned("type.startsWith('dael.')")[0].contains("did you mean `deal`?"));
    assert!(warned("type == 'deal.changed'")[0].contains("actions are"));
    assert!(warned("type == 'deal.updated' && resource == 'deal'").is_empty());
    let both = [("acme".into(), Dialect::Live), ("old".into(), Dialect::Reference)];
    assert!(filter("resource == 'activity'").unwrap().warnings(&both).is_empty());
    assert!(never_emitted(Dialect::Live, "organization.*").is_some());
    assert!(never_emitted(Dialect::Reference, "organization.*").is_none());
    assert!(never_emitted(Dialect::Live, "*").is_none());
}

/// Expressions of everything that CEL has, over values at the edges.
fn expression() -> impl Strategy<Value = String> {
    let leaf = proptest::sample::select(vec![
        "0",
        "-1",
        "9223372036854775807",
        "(-9223372036854775807 - 1)",
        "0u",
        "18446744073709551615u",
        "1e308",
        "0.0",
        "'é'",
        "''",
        "'9'",
        "b'\\xff'",
        "null",
        "true",
        "[]",
        "[1, 'a']",
        "{}",
        "{'a': 1}",
        "type",
        "sequence",
        "data",
        "data.deal.f",
        "data.deal.l",
        "data.deal.s",
        "data.deal.n",
        "duration('1h')",
        "timestamp(timestamp)",
        "int",
        "timestamp('9999-12-31T23:59:59Z')",
        "duration('9223372036s')",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        let operator = proptest::sample::select(vec!["+", "-", "*", "/", "%", "==", "<", ">=", "in", "&&", "||"]);
        let function = proptest::sample::select(vec![
            "size",
            "int",
            "uint",
            "double",
            "string",
            "bytes",
            "type",
            "timestamp",
            "duration",
            "!",
            "-",
            "dyn",
        ]);
        let member = proptest::sample::select(vec![
            "substring",
            "charAt",
            "indexOf",
            "split",
            "replace",
            "matches",
            "contains",
            "format",
            "join",
            "getHours",
            "getFullYear",
            "lowerAscii",
            "reverse",
            "startsWith",
        ]);
        let macros = proptest::sample::select(vec!["all", "exists", "map", "filter", "exists_one"]);
        prop_oneof![
            (two.clone(), operator).prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            (inner.clone(), function).prop_map(|(a, f)| format!("{f}({a})")),
            (two.clone(), member).prop_map(|((a, b), m)| format!("({a}).{m}({b})")),
            (two.clone(), macros).prop_map(|((a, b), m)| format!("({a}).{m}(v, {b})")),
            two.clone().prop_map(|(a, b)| format!("({a})[{b}]")),
            (inner.clone(), two).prop_map(|(a, (b, c))| format!("({a} ? {b} : {c})")),
            inner.prop_map(|a| format!("({a}).substring(-1, 3)")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn no_filter_that_compiles_can_panic_on_an_event(text in expression()) {
        let deal = event("deal.updated", r#"{"f":1.5,"l":[1,"x",null,{}],"s":"é\u0000","n":-9223372036854775808}"#, "");
        if let Ok(rules) = filter(&format!("dyn({text}) == 1 || {text} == true")) {
            let _decided = rules.decide(&deal);
        }
    }
}

proptest! {
    #[test]
    fn no_text_of_a_rule_can_panic_and_every_error_points_into_it(text in "[ -~äé\n]{0,40}") {
        for result in [filter(&text), key(&text)] {
            for error in result.err().unwrap_or_default() {
                prop_assert!(text.get(error.at.clone()).is_some());
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn the_default_key_is_what_the_engine_would_render(account in "[a-z]{1,5}", record in "\\PC{0,20}") {
        let mut event = event("deal.updated", "{}", "");
        event.account = account.as_str().into();
        event.record_id = record.as_str().into();
        let by_engine = key(&format!("{DEFAULT_KEY}{{{{ '' }}}}")).unwrap();
        let fast = key(DEFAULT_KEY).unwrap();
        prop_assert_eq!(address(&fast, &event).key, address(&by_engine, &event).key);
    }

    #[test]
    fn mended_json_can_be_decoded(units in proptest::collection::vec(any::<u16>(), 0..8), exponent in 0u32..2000) {
        let escapes = units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat();
        let json = format!(r#"["{escapes}",1e{exponent},-1e{exponent}]"#);
        prop_assert!(super::body::decode::<serde_json::Value>(&json).is_ok(), "{}", json);
    }
}

/// The deepest filter that is accepted leaves a quarter of what a thread of the runtime has for those who ask.
#[test]
fn the_deepest_filter_fits_on_the_stack_of_a_thread() {
    const STACK: usize = 3 * (2 << 20) / 4;
    let event = event("deal.updated", r#"{"id":456,"x":[1]}"#, "");
    let nests = [
        ("", "data", "[0]"),
        ("", "data", ".x"),
        ("", "1", " + 7"),
        ("", "[1]", ".map(a, a)"),
        ("", "type", ".trim()"),
        ("!", "has(data.x)", ""),
        ("-", "data.id", ""),
        ("1 == ", "7", ""),
        ("[", "7", "]"),
        ("[0][", "0", "]"),
        ("{'a': ", "7", "}"),
        ("{", "7", ": 1}"),
        ("1 in [", "0", "]"),
        ("string(", "type", ")"),
        ("'a'.contains(", "type", ")"),
        ("type.replace('x', ", "type", ")"),
        ("[1].exists(a, a == ", "1", ")"),
        ("(true ? 1 : ", "7", ")"),
    ];
    for (open, inmost, close) in nests {
        let nested = |levels: usize| {
            let text = format!("{}{inmost}{} == 7", open.repeat(levels), close.repeat(levels));
            Rules::of_filter(&SinkName::from("f"), &text)
        };
        let deepest = (0..64).rev().find_map(|levels| nested(levels).ok());
        let rules = deepest.unwrap_or_else(|| panic!("{open}{inmost}{close} is no filter"));
        std::thread::scope(|scope| {
            let small = std::thread::Builder::new().stack_size(STACK);
            drop(small.spawn_scoped(scope, || rules.decide(&event)).unwrap().join().unwrap());
        });
    }
}

/// However deep a rule is nested, compiling it fits on the stack that there is for it: it is refused, or evaluated.
#[test]
fn a_rule_as_deep_as_its_length_allows_exhausts_no_stack() {
    let event = event("deal.updated", r#"{"id":456}"#, "");
    let long = |link: &str, end: &str| format!("{}{end}", link.repeat((4096 - end.len()) / link.len()));
    let links = [
        "data + ",
        "1 - ",
        "data.",
        "data[",
        "!",
        "-",
        "true ? true : ",
        "(",
        "[",
        "{'a': ",
        "1 == ",
        "id in ",
        "true || ",
        "size(",
    ];
    for link in links {
        let text = long(link, "true");
        if let Ok(rules) = Rules::of_filter(&SinkName::from("f"), &text) {
            drop(rules.decide(&event));
        }
    }
    let deep = filter(&long("data.", "x == 1")).unwrap_err();
    assert!(deep[0].message.contains("nest deeper than 32"), "{}", deep[0]);
    let many = long("type == 'deal.updated' || ", "false");
    assert_eq!(
        Rules::of_filter(&SinkName::from("f"), &many).unwrap().decide(&event).unwrap(),
        Decision::Deliver(Address::default())
    );

    for link in
        ["id ~ ", "id.", "id[", "not ", "-", "id if true else ", "(", "[", "{'a': ", "1 == ", "id in ", "id|lower ~ "]
    {
        drop(key(&format!("{{{{ {}id }}}}", long(link, "").split_at(4000).0)).map(|rules| rules.decide(&event)));
    }
    for link in ["id|lower", "{{ id }}", "{% if id %}", "{% for x in id %}", "{% filter lower %}", "{% with %}"] {
        drop(key(&long(link, "")).map(|rules| rules.decide(&event)));
    }
    drop(key(&format!("{{{{ id{} }}}}", "|lower".repeat(600))).map(|rules| rules.decide(&event)));
}
