//! Filters and templates as somebody may type them, over events as somebody may send them: what compiles is bounded and
//! decides the same event always in the same way, and what does not points into its own text.

use std::time::Duration;

use indexmap::IndexMap;
use standpipe::config::{DedupeBy, EnrichConfig, KafkaConfig, NewProducer, SinkConfig, SinkKind, SinkStart};
use standpipe::event::ports::{Decision, Dialect, Route as _};
use standpipe::event::{Chain, OnMiss, Recorded, Seq, SinkName};
use standpipe::route::{RuleError, Rules};
use standpipe::sell::wire::Wanted;
use time::OffsetDateTime;

use crate::pages::read;
use crate::recipe::Recipe;
use crate::{elements, fuzz};

const FILTER_WORDS: [&str; 72] = [
    "type",
    "resource",
    "action",
    "id",
    "account",
    "stream",
    "record_id",
    "timestamp",
    "sequence",
    "cause",
    "data",
    "previous",
    "meta",
    ".deal",
    ".contact",
    ".id",
    ".x",
    "[0]",
    "['deal']",
    "[\"\\ud83d\"]",
    " == ",
    " != ",
    " < ",
    " >= ",
    " && ",
    " || ",
    "!",
    " in ",
    " ? ",
    " : ",
    "+",
    "-",
    "*",
    "/",
    "%",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'deal.updated'",
    "'deal'",
    "\"x\"",
    "r'\\d+'",
    "b'x'",
    "7",
    "7u",
    "-9223372036854775808",
    "1e308",
    "0",
    "null",
    "true",
    "false",
    ".startsWith('deal.')",
    ".contains('')",
    ".matches('(a*)*$')",
    ".size()",
    "size(",
    "has(data.deal.x)",
    ".exists(x, x == 1)",
    ".all(x, true)",
    ".map(x, x)",
    ".filter(x, x > 0)",
    "int(",
    "string(",
    "double(",
    "timestamp(",
    "duration('1h')",
    ".split('')",
    "\n",
];
const TEMPLATE_WORDS: [&str; 66] = [
    "{{ ",
    " }}",
    "{% ",
    " %}",
    "{# ",
    " #}",
    "{{ resource }}",
    "{{ account }}/{{ record_id }}",
    "{{ id }}",
    "type",
    "action",
    "stream",
    "sequence",
    "cause",
    "timestamp",
    "data",
    "previous",
    "meta",
    ".deal",
    ".id",
    "['x']",
    "[0]",
    "[-1:]",
    "if ",
    "else",
    "endif",
    "for x in ",
    "endfor",
    "set x = ",
    "with ",
    "endwith",
    "macro m()",
    "filter upper",
    "endfilter",
    "raw",
    "endraw",
    "include 'x'",
    "extends 'x'",
    " | lower",
    " | default('none')",
    " | replace('a', 'b')",
    " | join(',')",
    " | length",
    " | tojson",
    " | int",
    " | nofilter",
    " is defined",
    " is nothing",
    " ~ ",
    " + ",
    " * 1000000000",
    " and ",
    " not ",
    "range(99999999)",
    "loop.index",
    "self",
    "'x'",
    "\"\\n\"",
    "1",
    "(",
    ")",
    "[",
    "]",
    ",",
    "deal-",
    "\u{e9}",
];

/// Templates that are whole.
const PIECES: [&str; 22] = [
    "sell.",
    "-",
    "/",
    "{{ id }}",
    "{{ id }}",
    "{{ record_id }}",
    "{{ record_id | upper }}",
    "{{ resource }}",
    "{{ type }}",
    "{{ account | upper }}",
    "{{ stream }}",
    "{{ timestamp }}",
    "{{ sequence }}",
    "{{ cause | default('none') }}",
    "{{ data.deal.id }}",
    "{{ data.deal.x }}",
    "{{ data }}",
    "{{ previous }}",
    "{{ meta.sequence | default(0) }}",
    "{% if action == 'updated' %}u{% else %}c{% endif %}",
    "{% for x in data.deal %}{{ x }}{% endfor %}",
    "{% for x in range(99) %}{{ x }}{% endfor %}",
];

fn words(recipe: &mut Recipe<'_>, words: &[&str]) -> String {
    if recipe.below(8) == 0 {
        // A word again and again: depth is what parsers die of.
        let word = recipe.pick(words);
        let times = usize::from(recipe.byte()) / 2;
        return [word.repeat(times), words[usize::from(recipe.byte()) % words.len()].to_owned()].concat();
    }
    (0..recipe.below(24)).map(|_| recipe.pick(words)).collect()
}

/// An event of few types, most often with a record of its own making; now and then one whose body is no JSON at all.
fn event(recipe: &mut Recipe<'_>) -> Recorded {
    let element = elements::reference(recipe);
    let body = format!(r#"{{"items":[{element},{FALLBACK}],"meta":{{"position":"p"}}}}"#);
    let content = read(Dialect::Reference, body.as_bytes(), DedupeBy::Id, &Wanted::new(&["*".to_owned()])).unwrap();
    let event = content.events.into_iter().next().unwrap();
    let body = if recipe.below(16) == 0 { recipe.raw(12).to_vec().into() } else { event.body };
    Recorded {
        seq: Seq(1),
        chain: Chain([0; 32]),
        account: event.account,
        event_type: event.event_type,
        id: event.id,
        record_id: event.record_id,
        occurred_at: event.occurred_at,
        recorded_at: OffsetDateTime::UNIX_EPOCH,
        content_hash: event.content_hash,
        body,
        replay: None,
    }
}
const FALLBACK: &str = r#"{"id":"e","type":"deal.updated","timestamp":"t","data":{"deal":{"id":1,"x":[1,"a",null]}}}"#;

fn sink(filter: Option<&str>, topic: &str, key: &str, headers: &[(&str, &str)]) -> SinkConfig {
    SinkConfig {
        filter: filter.map(str::to_owned),
        headers: headers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        start: SinkStart::Oldest,
        dead_letter_retention: Duration::from_hours(1),
        enrich: Vec::new(),
        kind: SinkKind::Kafka(KafkaConfig {
            brokers: "k:9092".to_owned(),
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

/// An error lies in the text that it is about, and can be shown.
fn pointing(errors: &[RuleError]) {
    assert!(!errors.is_empty());
    for error in errors {
        assert!(error.text.get(error.at.clone()).is_some() && !error.message.is_empty(), "{error:?}");
        let (line, column) = error.position();
        assert!(line >= 1 && column >= 1 && !error.to_string().is_empty());
    }
}

fn filter(input: &[u8]) {
    let mut recipe = Recipe::new(input);
    let mut of_condition = Recipe::new(recipe.raw(48));
    let text = match recipe.below(4) {
        0 => String::from_utf8_lossy(recipe.raw(64)).into_owned(),
        _ => words(&mut recipe, &FILTER_WORDS),
    };
    let (event, other) = (event(&mut recipe), event(&mut recipe));
    compared(&mut of_condition, [&event, &other]);
    looked_up(&text, &event);
    let who = SinkName::from("f");
    let rules = match Rules::of_filter(&who, &text) {
        Ok(rules) => rules,
        Err(errors) => return pointing(&errors),
    };
    assert!(text.len() <= 4096);
    let first = rules.decide(&event);
    assert_eq!(rules.decide(&event), first, "remembered");
    let anew = Rules::of_filter(&who, &text).unwrap();
    assert_eq!(rules.decide(&other), anew.decide(&other), "what one event leaves behind is nothing to another");
}

/// The text as the id of a lookup: it names ids that cannot lead anywhere else in a path, or fails on the event alone; and the
/// completed event holds the event's own bytes.
fn looked_up(id: &str, event: &Recorded) {
    let enrich = EnrichConfig {
        lookup: "contacts".to_owned(),
        id: id.to_owned(),
        name: "it".to_owned(),
        fields: None,
        max_age: Duration::from_secs(1),
        on_miss: OnMiss::Null,
    };
    let config = SinkConfig { enrich: vec![enrich], ..sink(None, "t", "k", &[]) };
    let rules = match Rules::compile(&SinkName::from("f"), &config, &[]) {
        Ok(rules) => rules,
        Err(errors) => return pointing(&errors),
    };
    let decision = rules.decide(event);
    assert_eq!(rules.decide(event), decision);
    let Ok(Decision::LookUp(lookups)) = decision else { return };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    assert!((1..=100).contains(&lookups.keys().count()));
    assert!(lookups.keys().all(|(key, _)| !key.id.is_empty() && key.id.bytes().all(plain)));
    let completed = rules.complete(event, &lookups, &|_| None, OffsetDateTime::UNIX_EPOCH);
    let own = event.body.len().saturating_sub(1);
    assert_eq!(completed.body[..own], event.body[..own]);
    let is_json = |body: &[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
    assert!(!event.body.starts_with(b"{\"") || !is_json(&event.body) || is_json(&completed.body));
}

/// A condition over what every event has, as CEL, and whether each of two events meets it.
fn condition(recipe: &mut Recipe<'_>, events: [&Recorded; 2], depth: usize) -> (String, [bool; 2]) {
    let texts = ["deal.updated", "deal", "contact.deleted", "updated", "acme", "", "e", "1"];
    let (name, of): (&str, fn(&Recorded) -> &str) = [
        ("type", (|event| event.event_type.as_str()) as fn(&Recorded) -> &str),
        ("resource", |event| event.event_type.resource()),
        ("action", |event| event.event_type.action()),
        ("account", |event| event.account.as_str()),
        ("id", |event| &event.id),
        ("record_id", |event| &event.record_id),
        ("id", |event| &event.id),
        ("record_id", |event| &event.record_id),
    ][recipe.below(8)];
    let (values, text) = (events.map(of), recipe.pick(&texts));
    match recipe.below(if depth == 0 { 5 } else { 8 }) {
        0 => (format!("{name} == '{text}'"), values.map(|value| value == text)),
        1 => (format!("'{text}' != {name}"), values.map(|value| value != text)),
        2 => (format!("{name}.startsWith('{text}')"), values.map(|value| value.starts_with(text))),
        3 => (format!("{name} in ['{text}', 'x']"), values.map(|value| value == text || value == "x")),
        4 => (format!("size({name}) > 3"), values.map(|value| value.chars().count() > 3)),
        5 => {
            let (inner, met) = condition(recipe, events, depth - 1);
            (format!("!({inner})"), met.map(|met| !met))
        }
        other => {
            let (left, one) = condition(recipe, events, depth - 1);
            let (right, two) = condition(recipe, events, depth - 1);
            if other == 6 {
                (format!("({left}) && ({right})"), [one[0] && two[0], one[1] && two[1]])
            } else {
                (format!("({left}) || ({right})"), [one[0] || two[0], one[1] || two[1]])
            }
        }
    }
}

fn compared(recipe: &mut Recipe<'_>, events: [&Recorded; 2]) {
    let (text, met) = condition(recipe, events, 3);
    let rules = Rules::of_filter(&SinkName::from("f"), &text).unwrap_or_else(|errors| panic!("{}", errors[0]));
    for (event, met) in events.into_iter().zip(met) {
        let decision = rules.decide(event).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(decision != Decision::Filtered, met, "{text} of {}", event.id);
    }
}

fn template(input: &[u8]) {
    let mut recipe = Recipe::new(input);
    let text = match recipe.below(8) {
        0 => String::from_utf8_lossy(recipe.raw(64)).into_owned(),
        1..4 => words(&mut recipe, &TEMPLATE_WORDS),
        _ => (0..=recipe.below(3)).map(|_| recipe.pick(&PIECES)).collect(),
    };
    let place = recipe.below(3);
    let (event, other) = (event(&mut recipe), event(&mut recipe));
    let with = |text: &str| match place {
        0 => sink(None, text, "{{ id }}", &[]),
        1 => sink(None, "t", text, &[]),
        _ => sink(None, "t", "", &[("X-It", text)]),
    };
    let who = SinkName::from("t");
    let rules = match Rules::compile(&who, &with(&text), &[]) {
        Ok(rules) => rules,
        Err(errors) => return pointing(&errors),
    };
    let first = rules.decide(&event);
    assert_eq!(rules.decide(&event), first, "remembered");
    if let Ok(Decision::Deliver(address)) = &first {
        assert!((1..=249).contains(&address.topic.len()));
        assert!(
            address.topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)),
            "{}",
            address.topic
        );
        assert!(address.key.len() <= 16 * 1024);
        for (_, value) in &address.headers {
            assert!(value.len() <= 8 * 1024 && !value.chars().any(|c| c.is_control() && c != '\t'), "{value:?}");
        }
    }
    // By the engine instead of by joining pieces: the same. In front, for the engine takes away a line's end at the end.
    let slow = format!("{{{{ '' }}}}{text}");
    if let Ok(slow) = Rules::compile(&who, &with(&slow), &[]) {
        assert_eq!(slow.decide(&event), first, "by the engine");
        assert_eq!(slow.decide(&other), rules.decide(&other), "by the engine");
    }
}

#[test]
fn a_filter_decides_as_it_says_and_always_the_same() {
    fuzz!("filter", filter);
}

#[test]
fn what_a_template_makes_keeps_to_its_bounds() {
    fuzz!("template", template);
}
