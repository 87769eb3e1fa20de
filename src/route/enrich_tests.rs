use std::time::Duration;

use time::macros::datetime;

use super::Rules;
use super::tests::{DEFAULT_KEY, config, event};
use crate::config::{EnrichConfig, SinkConfig};
use crate::event::ports::{Decision, Route, RouteError};
use crate::event::{Answerer, Found, LookUps, OnMiss, RecordKey, Recorded, Replay, Seq, SinkName};

fn lookup(name: &str, collection: &str, id: &str) -> EnrichConfig {
    EnrichConfig {
        lookup: collection.to_owned(),
        id: id.to_owned(),
        name: name.to_owned(),
        fields: None,
        max_age: Duration::from_mins(10),
        on_miss: OnMiss::Wait,
    }
}

fn contact() -> EnrichConfig {
    lookup("contact", "contacts", "data.deal.contact_id")
}

fn sink(filter: Option<&str>, enrich: Vec<EnrichConfig>) -> SinkConfig {
    SinkConfig { enrich, ..config(filter, "sell.{{ resource }}", DEFAULT_KEY, &[]) }
}

fn with_key(key: &str) -> SinkConfig {
    SinkConfig { enrich: vec![contact()], ..config(None, "sell", key, &[]) }
}

fn compile(config: &SinkConfig) -> Result<Rules, Vec<String>> {
    Rules::compile(&SinkName::from("crm"), config, &[])
        .map_err(|errors| errors.into_iter().map(|error| format!("{}: {}", error.key, error.message)).collect())
}

fn rules(config: &SinkConfig) -> Rules {
    compile(config).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn deal(contact: &str) -> Recorded {
    event("deal.updated", &format!(r#"{{"id":456,"value":1e3,"contact_id":{contact}}}"#), r#""previous":{"value":1},"#)
}

fn lookups(rules: &Rules, event: &Recorded) -> LookUps {
    match rules.decide(event) {
        Ok(Decision::LookUp(lookups)) => *lookups,
        other => panic!("{other:?}"),
    }
}

fn ids(lookups: &LookUps) -> Vec<&str> {
    lookups.keys().map(|(key, _)| &*key.id).collect()
}

/// Everything is found, as this.
fn complete(rules: &Rules, event: &Recorded, record: Option<&str>) -> Recorded {
    let record = record.map(|text| text.to_owned().into());
    let found = Found { answerer: Answerer::Cache, as_of: datetime!(2024-02-14 10:29:55.5 UTC), record };
    let now = datetime!(2024-02-14 10:30 UTC);
    rules.complete(event, &lookups(rules, event), &|_: &RecordKey| Some(found.clone()), now)
}

fn body(event: &Recorded) -> &str {
    std::str::from_utf8(&event.body).unwrap()
}

#[test]
fn an_id_names_one_record_a_list_many_and_null_none() {
    let of =
        |id: &str, contact: &str| match rules(&sink(None, vec![lookup("x", "contacts", id)])).decide(&deal(contact)) {
            Ok(Decision::LookUp(lookups)) => {
                Ok(Some((lookups.wanted[0].is_list, ids(&lookups).into_iter().map(str::to_owned).collect::<Vec<_>>())))
            }
            Ok(Decision::Deliver(_)) => Ok(None),
            Ok(Decision::Filtered) => panic!("nothing filters"),
            Err(RouteError { what, why }) => Err(format!("{what}: {why}")),
        };
    let one = |id: &str| Ok(Some((false, vec![id.to_owned()])));
    assert_eq!(of("data.deal.contact_id", "77"), one("77"));
    assert_eq!(of("data.deal.contact_id", "\"77\""), one("77"), "as the record's own id is spelled");
    assert_eq!(of("data.deal.contact_id", "18446744073709551615"), one("18446744073709551615"));
    assert_eq!(of("data.deal.contact_id", "null"), Ok(None));
    assert_eq!(of("data.lead.contact_id", "77"), Ok(None), "an event of another resource");
    assert_eq!(of("data.deal.contact_ids", "77"), Ok(None), "or without the member");
    assert_eq!(of("resource == 'deal' ? data.deal.contact_id : null", "77"), one("77"));
    let many = Ok(Some((true, vec!["7".to_owned(), "8".to_owned()])));
    assert_eq!(of("[data.deal.contact_id, 8, null, 7]", "7"), many, "each once, null is none");
    assert_eq!(of("data.deal.contact_id", "[]"), Ok(None));
    for wrong in ["7.5", "true", "{\"id\":7}", "\"\"", "\"..\"", "\"7/deals\"", "\"a?b\"", "[[7]]", "\"%2e\""] {
        let error = of("data.deal.contact_id", wrong).unwrap_err();
        assert!(error.starts_with("the id of enrich.x: it gives ") && error.contains("no id"), "{wrong}: {error}");
    }
    let all: Vec<String> = (0..101).map(|id| id.to_string()).collect();
    let error = of("data.deal.contact_id", &format!("[{}]", all.join(","))).unwrap_err();
    assert!(error.contains("101 records; 100 are looked up at most"), "{error}");
}

#[test]
fn what_was_found_is_the_last_member_and_nothing_else_of_the_event_changes() {
    let rules = rules(&sink(None, vec![contact(), lookup("owners", "users", "[1, 2]")]));
    let event = deal("77");
    let completed = complete(&rules, &event, Some(r#"{"id": 77,"na\u006de":"Ann","x":10.250}"#));
    let own = &body(&event)[..body(&event).len() - 1];
    let answer = |id: &str| {
        format!(
            r#"{{"id":"{id}","source":"cache","as_of":"2024-02-14T10:29:55Z","age_seconds":4,"data":{{"id": 77,"na\u006de":"Ann","x":10.250}}}}"#
        )
    };
    let (contact, one, two) = (answer("77"), answer("1"), answer("2"));
    assert_eq!(body(&completed), format!(r#"{own},"enrichment":{{"contact":{contact},"owners":[{one},{two}]}}}}"#));
    assert_eq!((completed.seq, &completed.id, completed.content_hash), (event.seq, &event.id, event.content_hash));
}

#[test]
fn fields_pick_members_as_they_are_spelled_and_a_record_that_is_gone_is_null() {
    let fields = Some(["email", "id", "nothing", "na\"me"].map(str::to_owned).to_vec());
    let rules = rules(&sink(None, vec![EnrichConfig { fields, ..contact() }]));
    let completed = complete(&rules, &deal("77"), Some(r#"{"id":77,"na\"me":1,"\u0065mail":"a@\u0062","large":[1]}"#));
    assert!(body(&completed).contains(r#""data":{"email":"a@\u0062","id":77,"na\"me":1}}"#), "{}", body(&completed));
    assert!(body(&complete(&rules, &deal("77"), None)).contains(r#""data":null}"#));
}

#[test]
fn without_an_answer_the_policy_decides_what_stands_there() {
    let now = datetime!(2024-02-14 10:30 UTC);
    let missed = |on_miss: OnMiss, id: &str| {
        let rules = rules(&sink(None, vec![EnrichConfig { on_miss, id: id.to_owned(), ..contact() }]));
        let event = deal("77");
        let nine = |key: &RecordKey| {
            (*key.id == *"9").then_some(Found { answerer: Answerer::Stream, as_of: now, record: None })
        };
        let completed = rules.complete(&event, &lookups(&rules, &event), &nine, now);
        body(&completed).strip_prefix(&body(&event)[..body(&event).len() - 1]).unwrap().to_owned()
    };
    assert_eq!(missed(OnMiss::Skip, "data.deal.contact_id"), "}", "the event as it is");
    assert_eq!(missed(OnMiss::Null, "data.deal.contact_id"), r#","enrichment":{"contact":null}}"#);
    let nine = r#"{"id":"9","source":"stream","as_of":"2024-02-14T10:30:00Z","age_seconds":0,"data":null}"#;
    assert_eq!(missed(OnMiss::Skip, "[7, 9]"), format!(r#","enrichment":{{"contact":[{nine}]}}}}"#));
    assert_eq!(missed(OnMiss::Null, "[7, 9]"), format!(r#","enrichment":{{"contact":[null,{nine}]}}}}"#));
}

#[test]
fn nothing_is_looked_up_for_an_event_that_the_sink_does_not_take() {
    for (filter, takes) in [
        ("resource == 'lead'", false),
        ("resource == 'deal'", true),
        // What the answer cannot change is decided before.
        ("type == 'deal.created' && enrichment.contact.data.vip", false),
        ("type == 'deal.updated' && enrichment.contact.data.vip", true),
        ("has(enrichment.contact)", true),
        ("!has(enrichment.contact)", true),
    ] {
        let decision = rules(&sink(Some(filter), vec![contact()])).decide(&deal("77")).unwrap();
        assert_eq!(matches!(decision, Decision::LookUp(_)), takes, "{filter}: {decision:?}");
        assert_eq!(decision == Decision::Filtered, !takes, "{filter}: {decision:?}");
    }
    let replay = |sink: &str| Some(Box::new(Replay { sink: sink.into(), of: Seq(1) }));
    let rules = rules(&sink(Some("false"), vec![contact()]));
    let others = Recorded { replay: replay("other"), ..deal("77") };
    assert_eq!(rules.decide(&others).unwrap(), Decision::Filtered);
    let ours = Recorded { replay: replay("crm"), ..deal("77") };
    assert!(matches!(rules.decide(&ours).unwrap(), Decision::LookUp(_)), "asked for by name");
}

#[test]
fn filters_keys_and_headers_use_what_was_looked_up() {
    let config = SinkConfig {
        enrich: vec![contact(), EnrichConfig { on_miss: OnMiss::Skip, ..lookup("owner", "users", "3") }],
        ..config(
            Some("enrichment.contact.data.vip"),
            "sell",
            "{{ enrichment.contact.data.company }}/{{ record_id }}",
            &[("owner", "{% if enrichment.owner %}{{ enrichment.owner.source }}{% endif %}")],
        )
    };
    let rules = rules(&config);
    let decide = |record: &str| {
        let deal = deal("77");
        rules.decide_completed(&complete(&rules, &deal, Some(record)), &lookups(&rules, &deal))
    };
    assert_eq!(decide(r#"{"vip":false}"#).unwrap(), Decision::Filtered);
    let Decision::Deliver(address) = decide(r#"{"vip":true,"company":"Acme"}"#).unwrap() else { panic!("it is taken") };
    assert_eq!((&*address.topic, address.key.as_str(), address.headers[0].1.as_str()), ("sell", "Acme/456", "cache"));
    let failed = decide(r#"{"vip":true}"#).unwrap_err();
    assert_eq!((failed.what.as_str(), failed.why.contains("undefined")), ("key", true), "{failed}");
    let failed = decide(r#"{"company":"Acme"}"#).unwrap_err();
    assert_eq!(failed.to_string(), "filter failed on this event: the event has no `vip` there");
    // Nothing to look up: a filter sees an empty object.
    let failed = rules.decide(&event("lead.created", r#"{"id":1}"#, ""));
    assert!(matches!(failed, Ok(Decision::LookUp(_))), "the owner is: {failed:?}");
}

#[test]
fn where_an_event_goes_is_known_before_unless_it_hangs_on_an_answer() {
    let address = |config: &SinkConfig| lookups(&rules(config), &deal("77")).address;
    let known = address(&sink(Some("resource == 'deal'"), vec![contact()])).expect("it hangs on nothing");
    assert_eq!((&*known.topic, known.key.as_str()), ("sell.deal", "acme/deal/456"));
    assert_eq!(address(&sink(Some("enrichment.contact.data.vip"), vec![contact()])), None);
    assert_eq!(address(&with_key("{{ enrichment.contact.id }}")), None);
    assert!(address(&with_key("{{ record_id }}")).is_some());
    // It goes there, with headers that hang on an answer.
    let rules = rules(&SinkConfig {
        enrich: vec![contact()],
        ..config(
            Some("resource == 'deal'"),
            "sell.{{ resource }}",
            DEFAULT_KEY,
            &[("from", "{{ enrichment.contact.source }}")],
        )
    });
    let completed = complete(&rules, &deal("77"), Some("{}"));
    let Ok(Decision::Deliver(address)) = rules.decide_completed(&completed, &lookups(&rules, &deal("77"))) else {
        panic!("it is taken")
    };
    assert_eq!((&*address.topic, address.key.as_str()), (&*known.topic, known.key.as_str()));
    assert_eq!(address.headers[0].1.as_str(), "cache");
}

#[test]
fn what_has_no_meaning_is_refused_at_start() {
    let errors = |config: &SinkConfig| compile(config).err().unwrap_or_default().join("; ");
    let wrong = |id: &str| errors(&sink(None, vec![contact(), lookup("x", "contacts", id)]));
    assert!(wrong("data.deal.").starts_with("enrich[1].id: not a CEL expression"), "{}", wrong("data.deal."));
    assert!(wrong("dat.deal").contains("did you mean `data`?"));
    assert!(wrong("enrichment.contact.id").contains("only where the sink looks something up first"));
    let nested = format!("7{}", " + 7".repeat(900));
    assert!(wrong(&nested).contains("nest deeper than 32"), "{}", wrong(&nested));
    assert!(wrong(&"9".repeat(5000)).contains("at most 4096 bytes"));
    assert!(errors(&sink(Some("enrichment.contract.id == '7'"), vec![contact()])).contains("did you mean `contact`?"));
    assert!(errors(&sink(Some("has(enrichment.contact)"), vec![])).contains("[[sinks.NAME.enrich]]"));
    assert!(errors(&with_key("{{ enrichment.owner.id }}")).contains("nothing is looked up as `owner`, but contact"));
    // What no answer will ever have would make a dead letter of every event.
    let fields = Some(["id", "email"].map(str::to_owned).to_vec());
    let some = || vec![contact(), EnrichConfig { fields: fields.clone(), ..lookup("owner", "users", "[1, 2]") }];
    let filter = |text: &str| errors(&sink(Some(text), some()));
    let key = |text: &str| errors(&SinkConfig { enrich: some(), ..with_key(text) });
    for path in ["enrichment.contact.email", "enrichment.contact.email.size"] {
        let told = filter(&format!("{path} == 'a'"));
        assert!(told.starts_with("filter: an answer has no member `email`, but id, source"), "{told}");
        assert!(told.ends_with("the record is in `data`: enrichment.contact.data.email"), "{told}");
        assert_eq!(key(&format!("{{{{ {path} }}}}")), told.replace("filter: ", "key: "));
    }
    assert!(filter("has(enrichment.contact.dta)").ends_with("did you mean `data`?"));
    let told = key("{{ enrichment.owner.data.phone | default('') }}");
    assert_eq!(told, "key: `phone` is not among the `fields` of this lookup: id, email");
    assert_eq!(filter("enrichment.owner.data.phone == '1'"), told.replace("key: ", "filter: "));
    for good in [
        "enrichment.contact.data.company.name == 'x'",
        "enrichment.owner.exists(owner, owner.data.email == 'x' && owner.age_seconds < 60)",
        "enrichment.owner[0].data.id == enrichment.contact.id",
        "['x'].exists(enrichment, enrichment.startsWith('y'))",
    ] {
        assert_eq!(filter(good), "", "{good}");
    }
    for good in
        ["{% for one in enrichment.owner %}{{ one.data.email }}{% endfor %}", "{{ enrichment.owner[0].data.id }}"]
    {
        assert_eq!(key(good), "", "{good}");
    }
    let mut plain = with_key("{{ enrichment }}");
    plain.enrich.clear();
    assert!(errors(&plain).contains("[[sinks.NAME.enrich]]"));
}

#[test]
fn the_rules_have_another_name_where_what_is_looked_up_decides() {
    let name = |config: &SinkConfig| rules(config).fingerprint().unwrap().to_owned();
    let bare = name(&sink(None, vec![]));
    assert_eq!(bare, name(&sink(None, vec![contact()])), "it decides nothing");
    let id = |id: &str| {
        name(&SinkConfig { enrich: vec![lookup("contact", "contacts", id)], ..with_key("{{ enrichment.contact.id }}") })
    };
    assert_ne!(id("data.deal.contact_id"), id("data.deal.organization_id"));
}
