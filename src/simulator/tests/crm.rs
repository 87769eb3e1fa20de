//! Core of both dialects over one company, and what the Firehose tells of it.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Map, Value, json};
use time::macros::datetime;

use super::super::{Dialect, Emitted, Options, Served};
use super::{Bench, Clock, options};

impl Bench {
    /// Status and body of a request with a body of JSON; null where there is none.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.simulator.url())).bearer_auth("T");
        request = request.header("user-agent", "bench").header("content-type", "application/json");
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let body = response.text().await.unwrap();
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    pub(super) async fn fetch(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, path, body).await
    }

    /// What was told after a place.
    fn told(&self, dialect: Dialect, after: u64) -> Vec<Emitted> {
        self.simulator.emitted(dialect, after, usize::MAX)
    }

    /// The place of the last event.
    fn end(&self) -> u64 {
        self.told(Dialect::Live, 0).last().map_or(0, |last| last.place)
    }
}

fn kinds(told: &[Emitted]) -> Vec<&str> {
    told.iter().map(|event| event.event_type.as_str()).collect()
}

fn raw(raw: &serde_json::value::RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}

fn data(of: impl Into<Value>) -> Value {
    let of: Value = of.into();
    json!({ "data": of })
}

#[tokio::test]
async fn what_is_written_through_core_is_read_and_told_in_both_dialects() {
    let bench = Bench::new(options()).await;
    let before = bench.end();
    let (status, lead) = bench
        .post(
            "/v2/leads",
            data(json!({ "last_name": "Łoś", "description": "met", "tags": ["vip", "new tag"], "source_id": 1009 })),
        )
        .await;
    assert_eq!((status, &lead["meta"]["type"]), (200, &json!("lead")), "{lead}");
    let id = lead["data"]["id"].as_u64().unwrap();
    assert_eq!(lead["data"]["first_name"], Value::Null);
    let other = bench.fetch(&format!("/v3/leads/{id}")).await;
    assert_eq!(
        (&other["last_name"], &other["source"], &other["tags"]),
        (&json!("Łoś"), &json!("Cold call"), &json!(["vip", "new tag"]))
    );

    let path = format!("/v3/leads/{id}");
    let (status, changed) = bench.ask(Method::PUT, &path, json!({ "first_name": "Ida", "phone": "+1 2" })).await;
    assert_eq!((status, &changed["first_name"], &changed["last_name"]), (200, &json!("Ida"), &json!("Łoś")));
    assert_eq!(bench.fetch(&format!("/v2/leads/{id}")).await["data"]["phone"], "+1 2");
    assert_eq!(bench.ask(Method::DELETE, &format!("/v2/leads/{id}"), Value::Null).await.0, 204);
    assert_eq!(bench.ask(Method::GET, &path, Value::Null).await.0, 404);
    assert_eq!(bench.ask(Method::DELETE, &path, Value::Null).await.0, 404);

    let live = bench.told(Dialect::Live, before);
    assert_eq!(kinds(&live), ["tag.created", "lead.created", "lead.updated", "lead.deleted"]);
    let reference = bench.told(Dialect::Reference, before);
    assert_eq!(kinds(&reference), ["lead.created", "lead.updated", "lead.deleted"], "tags have no stream there");
    let created = raw(&live[1].record);
    assert_eq!((&created["description"], &created["tags"][1]["data"]["name"]), (&json!("met"), &json!("new tag")));
    let previous = raw(live[2].previous.as_ref().unwrap());
    assert_eq!((&previous["first_name"], &previous["phone"]), (&Value::Null, &Value::Null));
    assert!(previous.as_object().unwrap().contains_key("first_name") && previous.get("last_name").is_none());
    let sequences: Vec<u64> = live[1..].iter().map(|event| event.sequence.get().parse().unwrap()).collect();
    assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
    let page = bench.drain(Dialect::Live, "leads", "tail".to_owned(), 100).await;
    let events: usize = page.iter().map(|page| page.events.len()).sum();
    assert_eq!(events, bench.told(Dialect::Live, 0).iter().filter(|event| event.stream == "leads").count());
}

/// The names are those of the vendor's own client (`basecrm`), whose suite does not compare them.
#[tokio::test]
async fn an_attribute_is_read_under_the_name_by_which_it_was_written() {
    let bench = Bench::new(options()).await;
    let of_a_person = ["first_name", "last_name", "title", "description", "industry", "website", "phone", "mobile"];
    let names = of_a_person.into_iter().chain(["fax", "twitter", "facebook", "linkedin", "skype"]);
    let mut written: Map<String, Value> = names.map(|name| (name.to_owned(), json!(format!("its {name}")))).collect();
    written.insert("email".to_owned(), json!("ann@example.com"));
    let (status, told) = bench.post("/v2/contacts", data(written.clone())).await;
    assert_eq!(status, 200, "{told}");
    let read = bench.fetch(&format!("/v2/contacts/{}", told["data"]["id"])).await;
    for (name, value) in &written {
        assert_eq!((&told["data"][name], &read["data"][name]), (value, value), "{name}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_in_the_words_of_its_dialect() {
    let bench = Bench::new(options()).await;
    let wrong = [
        ("/v2/deals", json!({ "unknown": 1 }), "unknown", "/unknown"),
        ("/v2/deals", json!({ "contact_id": 1 }), "missing", "/name"),
        ("/v2/deals", json!({ "name": " ", "contact_id": 1 }), "blank", "/name"),
        ("/v2/deals", json!({ "name": "x", "contact_id": "x" }), "invalid_type", "/contact_id"),
        ("/v2/deals", json!({ "name": "x", "contact_id": 1 }), "incorrect_value", "/contact_id"),
        ("/v2/deals", json!({ "name": "x", "value": -1 }), "incorrect_value", "/value"),
        ("/v2/deals", json!({ "name": "x", "created_at": "2024-01-01T00:00:00Z" }), "incorrect_value", "/created_at"),
        ("/v2/deals", json!({ "name": "x", "custom_fields": { "Nope": 1 } }), "unknown", "/custom_fields"),
        ("/v2/contacts", json!({ "first_name": "x" }), "missing", "/last_name"),
        ("/v2/contacts", json!({ "is_organization": true, "last_name": "x" }), "missing", "/name"),
        ("/v2/loss_reasons", json!({ "name": "Price" }), "already_exists", "/name"),
        (
            "/v2/notes",
            json!({ "content": "x", "resource_type": "order", "resource_id": 1 }),
            "incorrect_value",
            "/resource_type",
        ),
    ];
    for (path, given, code, field) in wrong {
        let (status, body) = bench.post(path, data(given.clone())).await;
        assert_eq!(
            (status, &body["meta"]["http_status"]),
            (422, &json!("422 Unprocessable Entity")),
            "{given}: {body}"
        );
        let errors = body["errors"].as_array().unwrap();
        let named = |error: &Value| error["error"]["code"] == code && error["error"]["field"] == field;
        assert!(errors.iter().any(named), "{given}: {body}");
    }
    let contact = bench.fetch("/v3/contacts?limit=1").await["items"][0]["id"].clone();
    let deal = json!({ "name": "x", "contact_id": contact, "value": -1, "hot": 3 });
    let (status, body) = bench.post("/v3/deals", deal).await;
    let details: BTreeSet<&str> =
        body["error"]["details"].as_array().unwrap().iter().filter_map(|of| of["field"].as_str()).collect();
    assert_eq!(
        (status, &body["error"]["code"], details),
        (400, &json!(400), BTreeSet::from(["value", "hot"])),
        "{body}"
    );
    assert_eq!(body["error"]["details"][1]["message"], "must be a positive number");

    assert_eq!(bench.post("/v2/deals", json!({ "name": "x" })).await.0, 400, "no envelope");
    assert_eq!(bench.ask(Method::PUT, "/v2/deals", data(json!({}))).await.0, 405);
    assert_eq!(bench.ask(Method::DELETE, "/v2/stages/1", Value::Null).await.0, 405);
    for path in ["/v2/deals/1", "/v2/deals/x", "/v2/nothing", "/v2/orders/1/line_items", "/v3/nothing", "/v4/deals"] {
        assert_eq!(bench.ask(Method::GET, path, Value::Null).await.0, 404, "{path}");
    }
    for query in ["per_page=200", "per_page=0", "page=0", "page=401", "nothing=1", "sort_by=tags", "ids=x"] {
        let (status, body) = bench.ask(Method::GET, &format!("/v2/deals?{query}"), Value::Null).await;
        assert_eq!((status, &body["errors"][0]["error"]["code"]), (400, &json!("invalid_param")), "{query}: {body}");
    }
    let (status, body) = bench.ask(Method::GET, "/v2/users/self?unknown=param", Value::Null).await;
    assert_eq!((status, &body["errors"][0]["error"]["field"]), (400, &json!("unknown")));
    let url = format!("{}/v2/deals", bench.simulator.url());
    let bare = || bench.http.get(&url).bearer_auth("T");
    let asked = bare().header("user-agent", "x").header("accept", "text/html").send().await.unwrap();
    assert_eq!(asked.status(), 406);
    let form = bench.http.post(&url).bearer_auth("T").header("user-agent", "x").body("data=1").send().await.unwrap();
    assert_eq!(form.status(), 415);
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged_to_their_end() {
    let bench = Bench::new(options()).await;
    let (mut seen, mut next) =
        (Vec::new(), format!("{}/v2/deals?per_page=7&sort_by=value:desc", bench.simulator.url()));
    loop {
        let path = next.strip_prefix(&bench.simulator.url()).unwrap();
        let page = bench.fetch(path).await;
        let items = page["items"].as_array().unwrap();
        assert_eq!(page["meta"]["count"], items.len());
        seen.extend(items.iter().map(|item| item["data"].clone()));
        match page["meta"]["links"]["next_page"].as_str() {
            Some(link) => link.clone_into(&mut next),
            None => break,
        }
    }
    let values: Vec<f64> = seen.iter().map(|deal| deal["value"].as_f64().unwrap()).collect();
    assert!(values.len() > 30 && values.is_sorted_by(|a, b| a >= b), "{values:?}");
    let ids: BTreeSet<u64> = seen.iter().map(|deal| deal["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), seen.len());

    let (mut same, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let page = bench.fetch(&format!("/v3/deals?limit=7&cursor={cursor}")).await;
        same.extend(page["items"].as_array().unwrap().iter().map(|deal| deal["id"].as_u64().unwrap()));
        // Something that comes before the cursor moves nothing behind it.
        let first = *same.first().unwrap();
        assert!(bench.ask(Method::DELETE, &format!("/v3/deals/{first}"), Value::Null).await.0 <= 404);
        match page["meta"]["cursor"].as_str() {
            Some(text) => text.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(same, ids);

    let hot = bench.fetch("/v2/deals?hot=true&per_page=100").await;
    assert!(hot["items"].as_array().unwrap().iter().all(|deal| deal["data"]["hot"] == true));
    let contact = &bench.fetch("/v3/contacts?limit=1").await["items"][0]["id"];
    let of_it = bench.fetch(&format!("/v3/contacts/{contact}/deals")).await;
    assert!(of_it["items"].as_array().unwrap().iter().all(|deal| deal["contact_id"] == *contact));
    let two: Vec<u64> = ids.iter().rev().take(2).copied().collect();
    let both = bench.fetch(&format!("/v2/deals?ids={},{}", two[0], two[1])).await;
    assert_eq!(both["meta"]["count"], 2);
    for (fields, filter) in
        [("/v2/deal/custom_fields", "custom_fields[Score]=0.5"), ("/v3/custom_fields", "custom_fields[Score]=0.5")]
    {
        assert!(bench.fetch(fields).await["meta"]["count"].as_u64().unwrap() >= 4);
        assert!(bench.fetch(&format!("/v2/deals?{filter}")).await["items"].is_array());
    }
    let stages = bench.fetch("/v3/pipelines/901001/stages").await;
    assert_eq!(stages["items"].as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn what_is_written_is_told_after_the_lag_and_in_order() {
    let clock = Clock::manual(datetime!(2026-11-24 12:00 UTC));
    let options = Options { lag: std::time::Duration::from_secs(30), ..options() };
    let bench = Bench::at(options, clock.clone()).await;
    let before = bench.end();
    let (_, tag) = bench.post("/v2/tags", data(json!({ "name": "late", "resource_type": "deal" }))).await;
    let id = tag["data"]["id"].clone();
    let contact = bench.fetch("/v2/contacts?per_page=1&is_organization=false").await["items"][0]["data"]["id"].clone();
    bench.ask(Method::PUT, &format!("/v2/contacts/{contact}"), data(json!({ "title": "Late" }))).await;
    assert_eq!(bench.fetch(&format!("/v2/tags/{id}")).await["data"]["name"], "late", "Core knows at once");
    assert_eq!(bench.end(), before);
    // What the company does meanwhile waits behind it, so that a record's events keep their order.
    bench.simulator.emit(5);
    assert_eq!(bench.end(), before);
    clock.advance(time::Duration::seconds(29));
    bench.simulator.shared.tell();
    assert_eq!(bench.end(), before);
    clock.advance(time::Duration::seconds(1));
    bench.simulator.shared.tell();
    let told = bench.told(Dialect::Live, before);
    assert_eq!(told.len(), 7);
    assert_eq!(kinds(&told)[..2], ["tag.created", "contact.updated"]);
}

#[tokio::test]
async fn the_story_goes_on_over_what_was_written_and_does_not_see_what_came() {
    let epoch = Some(datetime!(2024-02-14 10:30 UTC));
    let quiet = Bench::new(Options { epoch, ..options() }).await;
    let written = Bench::new(Options { epoch, ..options() }).await;
    for n in 0..20 {
        written.post("/v2/contacts", data(json!({ "last_name": format!("Guest {n}") }))).await;
    }
    let (a, b) = (quiet.end(), written.end());
    quiet.simulator.emit(300);
    written.simulator.emit(300);
    let ids =
        |bench: &Bench, after| bench.told(Dialect::Live, after).into_iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(ids(&quiet, a), ids(&written, b));

    // People of the story whose title and phone were written: the newest of both wins, in Core as in the Firehose.
    let people = written.fetch("/v2/contacts?is_organization=false&per_page=100&sort_by=id:asc").await;
    for person in people["items"].as_array().unwrap() {
        let path = format!("/v2/contacts/{}", person["data"]["id"]);
        let given = json!({ "title": "Written", "phone": "0", "email": "w@x.example", "skype": "w" });
        written.ask(Method::PUT, &path, data(given)).await;
    }
    let place = written.end();
    written.simulator.emit(3_000);
    let mut moved = 0;
    for event in written.told(Dialect::Live, place).iter().rev() {
        let path = format!("/v2/contacts/{}", event.record_id);
        if event.event_type != "contact.updated" || moved > 20 {
            continue;
        }
        let (status, now) = written.ask(Method::GET, &path, Value::Null).await;
        let told = raw(&event.record);
        if status == 200 && now["data"]["updated_at"] == told["updated_at"] {
            for name in ["title", "phone", "email", "owner_id", "name"] {
                assert_eq!(now["data"][name], told[name], "{name} of {told}");
            }
            // A phone has no place in the story as it was written, and must not stand before the story's next one.
            moved += usize::from(told["email"] == "w@x.example" && told["phone"] != "0");
        }
    }
    assert!(moved > 0, "nobody was changed by both");
}

#[tokio::test]
async fn what_follows_from_a_write_happens_too() {
    let bench = Bench::new(Options { dialect: Served::Live, ..options() }).await;
    let (_, lead) = bench
        .post("/v2/leads", data(json!({ "last_name": "Ito", "organization_name": "Ito AB", "email": "i@x.example" })))
        .await;
    let lead = &lead["data"]["id"];
    let before = bench.end();
    let (status, conversion) = bench.post("/v2/lead_conversions", data(json!({ "lead_id": lead }))).await;
    assert_eq!(status, 200, "{conversion}");
    assert_eq!(bench.ask(Method::GET, &format!("/v2/leads/{lead}"), Value::Null).await.0, 404);
    let of = |name: &str| conversion["data"][name].clone();
    let person = bench.fetch(&format!("/v2/contacts/{}", of("individual_id"))).await;
    assert_eq!((&person["data"]["last_name"], &person["data"]["email"]), (&json!("Ito"), &json!("i@x.example")));
    assert_eq!(person["data"]["contact_id"], of("organization_id"));
    let deal = bench.fetch(&format!("/v2/deals/{}", of("deal_id"))).await;
    assert_eq!(deal["data"]["contact_id"], of("individual_id"));
    let told = bench.told(Dialect::Live, before);
    assert_eq!(kinds(&told), ["contact.created", "contact.created", "deal.created", "lead.deleted"]);

    let upsert = "/v2/contacts/upsert?email=new@x.example";
    let (_, first) = bench.post(upsert, data(json!({ "last_name": "New", "email": "new@x.example" }))).await;
    let (_, again) = bench.post(upsert, data(json!({ "last_name": "Newer" }))).await;
    assert_eq!((&first["data"]["id"], &again["data"]["last_name"]), (&again["data"]["id"], &json!("Newer")));
    assert_eq!(bench.post("/v2/contacts/upsert", data(json!({ "last_name": "x" }))).await.0, 400);

    let contact = of("individual_id");
    let pair = format!("/v2/deals/{}/associated_contacts", of("deal_id"));
    let role = data(json!({ "contact_id": contact, "role": "involved" }));
    assert_eq!(bench.post(&pair, role.clone()).await.0, 200);
    assert_eq!(bench.post(&pair, role).await.1["errors"][0]["error"]["code"], "already_exists");
    assert_eq!(bench.ask(Method::DELETE, &format!("{pair}/{contact}"), Value::Null).await.0, 204);

    let custom = json!({ "custom_fields": { "Region": "EMEA" }, "stage_id": 8_271_005 });
    let path = format!("/v2/deals/{}", of("deal_id"));
    let (_, deal) = bench.ask(Method::PUT, &path, data(custom)).await;
    assert_eq!(deal["data"]["custom_fields"]["Region"], "EMEA");
    let told = bench.told(Dialect::Live, 0);
    let last = raw(&told.last().unwrap().record);
    assert_eq!(last["custom_field_values"][0]["custom_field"]["data"]["name"], "Region");
}
