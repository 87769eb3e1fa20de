//! Search, Sync and GraphQL of both dialects over what Core writes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use time::macros::datetime;

use super::super::{Fault, Options, Served};
use super::{Bench, Clock, options};

impl Bench {
    /// Every deal as the reference dialect's Core has it.
    async fn deals(&self) -> Vec<Value> {
        let (mut deals, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.fetch(&format!("/v3/deals?limit=100&cursor={cursor}")).await;
            deals.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["meta"]["cursor"].as_str() {
                Some(text) => text.clone_into(&mut cursor),
                None => return deals,
            }
        }
    }

    async fn search(&self, path: &str, body: Value) -> Value {
        let (status, found) = self.post(path, body.clone()).await;
        assert_eq!(status, 200, "{body}: {found}");
        found
    }
}

fn ids(items: &Value) -> BTreeSet<u64> {
    items.as_array().unwrap().iter().map(|item| item["id"].as_u64().unwrap()).collect()
}

/// A filter, and what it must find.
type Case<'a> = (Value, Box<dyn Fn(&Value) -> bool + 'a>);

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[tokio::test]
async fn a_search_of_the_reference_dialect_finds_what_a_list_of_all_has() {
    let bench = Bench::new(options()).await;
    let deals = bench.deals().await;
    let expected = |test: &dyn Fn(&Value) -> bool| -> BTreeSet<u64> {
        deals.iter().filter(|deal| test(deal)).map(|deal| deal["id"].as_u64().unwrap()).collect()
    };
    let value = |deal: &Value| number(&deal["value"]);
    let tag = deals.iter().find_map(|deal| deal["tags"].as_array()?.first().cloned()).unwrap();
    let cases: Vec<Case<'_>> = vec![
        (
            json!({ "value": { "$gt": 10000 }, "status": { "$in": ["won", "active"] } }),
            Box::new(|deal| value(deal) > 10_000.0 && deal["status"] != "lost"),
        ),
        (
            json!({ "$or": [{ "hot": true }, { "value": { "$lte": 5000 } }] }),
            Box::new(|deal| deal["hot"] == true || value(deal) <= 5_000.0),
        ),
        (json!({ "$not": { "currency": "EUR" } }), Box::new(|deal| deal["currency"] != "EUR")),
        (json!({ "currency": { "$nin": ["EUR", "USD"], "$ne": "PLN" } }), Box::new(|deal| deal["currency"] == "GBP")),
        (json!({ "loss_reason": { "$exists": true } }), Box::new(|deal| !deal["loss_reason"].is_null())),
        (json!({ "custom_fields.Region": "EMEA" }), Box::new(|deal| deal["custom_fields"]["Region"] == "EMEA")),
        (json!({ "tags": tag }), Box::new(|deal| deal["tags"].as_array().unwrap().contains(&tag))),
        (json!({ "value": { "$not": { "$gte": 7000 } } }), Box::new(|deal| value(deal) < 7_000.0)),
    ];
    for (filter, test) in cases {
        let found = bench.search("/v3/search/deals", json!({ "filter": filter, "limit": 100 })).await;
        let wanted = expected(&*test);
        assert_eq!(found["meta"]["total_count"], wanted.len(), "{filter}");
        assert!(!wanted.is_empty() && ids(&found["items"]).is_subset(&wanted), "{filter}");
        assert_eq!(ids(&found["items"]).len(), wanted.len().min(100), "{filter}");
    }

    let sums =
        json!({ "group_by": "status", "aggregations": { "value": ["sum", "avg", "min", "max", "count"] }, "limit": 1 });
    let found = bench.search("/v3/search/deals", sums).await;
    let mut by: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for deal in &deals {
        by.entry(deal["status"].as_str().unwrap()).or_default().push(value(deal));
    }
    let groups = found["groups"].as_array().unwrap();
    assert_eq!(
        groups.iter().map(|group| group["key"].as_str().unwrap()).collect::<Vec<_>>(),
        by.keys().copied().collect::<Vec<_>>()
    );
    for group in groups {
        let values = &by[group["key"].as_str().unwrap()];
        let sum: f64 = values.iter().sum();
        let told = &group["aggregations"]["value"];
        assert_eq!(group["count"], values.len());
        assert!((number(&told["sum"]) - sum).abs() < 0.02, "{told} {sum}");
        assert!(number(&told["min"]) <= number(&told["avg"]) && number(&told["avg"]) <= number(&told["max"]));
    }
    assert_eq!(found["aggregations"]["value"]["count"], deals.len());

    let (mut values, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let page =
            bench.search("/v3/search/deals", json!({ "sort": { "value": -1 }, "limit": 9, "cursor": cursor })).await;
        values.extend(page["items"].as_array().unwrap().iter().map(value));
        cursor = page["meta"]["cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert!(values.len() == deals.len() && values.is_sorted_by(|a, b| a >= b));

    let named = deals[0]["name"].as_str().unwrap();
    let found = bench.search("/v3/search/deals", json!({ "query": named })).await;
    assert!(ids(&found["items"]).contains(&deals[0]["id"].as_u64().unwrap()));
    for (path, wrong) in [
        ("/v3/search/deals", json!({ "filter": { "nothing": 1 } })),
        ("/v3/search/deals", json!({ "filter": { "value": { "$near": 1 } } })),
        ("/v3/search/deals", json!({ "limit": 1000 })),
        ("/v3/search/deals", json!({ "sort": { "value": 2 } })),
        ("/v3/search/deals", json!({ "aggregations": { "value": ["median"] } })),
        ("/v3/search/deals", json!({ "unknown": 1 })),
    ] {
        let (status, body) = bench.post(path, wrong.clone()).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!(400)), "{wrong}: {body}");
    }
    assert_eq!(bench.post("/v3/search/users", json!({})).await.0, 404);
}

#[tokio::test]
async fn searches_of_the_live_dialect_stand_side_by_side() {
    let bench = Bench::new(options()).await;
    let deals = bench.deals().await;
    let filter = json!({ "and": [
        { "filter": { "attribute": { "name": "value" }, "parameter": { "range": { "gt": 10000 } } } },
        { "not": { "attribute": { "name": "currency" }, "parameter": { "any": ["GBP"] } } },
        { "or": [
            { "filter": { "attribute": { "name": "name" }, "parameter": { "contains": "a" } } },
            { "filter": { "attribute": { "name": "hot" }, "parameter": { "eq": true } } },
        ] },
    ] });
    let sort = json!([{ "attribute": { "name": "value" }, "order": "descending" }]);
    let sums = json!([
        { "attribute": { "name": "value" }, "type": "sum" },
        { "name": "stages", "attribute": { "name": "stage_id" }, "type": "terms" },
    ]);
    let query = json!({ "query": { "filter": filter, "projection": [{ "name": "value" }, { "name": "name" }], "sort": sort }, "per_page": 100 });
    let body = json!({ "items": [
        { "data": query },
        { "data": { "query": { "filter": { "attribute": { "name": "nothing" }, "parameter": { "eq": 1 } } } } },
        { "data": { "hits": false, "aggregations": sums } },
    ] });
    let found = bench.search("/v3/deals/search", body).await;
    let [first, second, third] = found["items"].as_array().unwrap().as_slice() else { panic!("{found}") };
    let wanted: BTreeSet<u64> = deals
        .iter()
        .filter(|deal| number(&deal["value"]) > 10_000.0 && deal["currency"] != "GBP")
        .filter(|deal| deal["hot"] == true || deal["name"].as_str().unwrap().to_lowercase().contains('a'))
        .map(|deal| deal["id"].as_u64().unwrap())
        .collect();
    assert_eq!(first["meta"]["total_count"], wanted.len());
    let hits: Vec<&Value> = first["items"].as_array().unwrap().iter().map(|hit| &hit["data"]).collect();
    assert!(hits.iter().all(|hit| hit["version"].is_u64() && hit["name"].is_string() && hit.get("currency").is_none()));
    assert!(hits.iter().map(|hit| number(&hit["value"])).is_sorted_by(|a, b| a >= b));
    assert!(hits.iter().all(|hit| wanted.contains(&hit["id"].as_u64().unwrap())));
    assert_eq!((&second["successful"], &third["successful"]), (&json!(false), &json!(true)));
    assert_eq!(third["items"], json!([]));
    let sum: f64 = deals.iter().map(|deal| number(&deal["value"])).sum();
    assert!((number(&third["meta"]["aggregations"]["sum_value"]) - sum).abs() < 0.02);
    let stages = third["meta"]["aggregations"]["stages"].as_array().unwrap();
    let counted: u64 = stages.iter().map(|stage| stage["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, deals.len() as u64);
}

#[tokio::test]
async fn search_and_sync_know_what_is_written_after_the_lag() {
    let clock = Clock::manual(datetime!(2026-11-24 12:00 UTC));
    let bench = Bench::at(Options { lag: Duration::from_secs(5), ..options() }, clock.clone()).await;
    let organization = json!({ "name": "Zzyzx" });
    let (_, written) = bench.post("/v3/organizations", organization).await;
    let victim = bench.fetch("/v3/leads?limit=1").await["items"][0]["id"].clone();
    bench.ask(Method::DELETE, &format!("/v3/leads/{victim}"), Value::Null).await;
    let find = async |name: &str, id: &Value| {
        let path = format!("/v3/search/{name}");
        bench.search(&path, json!({ "filter": { "id": id } })).await["meta"]["total_count"].as_u64().unwrap()
    };
    assert_eq!((find("organizations", &written["id"]).await, find("leads", &victim).await), (0, 1));
    clock.advance(time::Duration::seconds(5));
    bench.simulator.shared.tell();
    assert_eq!((find("organizations", &written["id"]).await, find("leads", &victim).await), (1, 0));
}

/// Reads a session to its end, with what it acknowledges; gives each item's (type, id, event).
async fn session(bench: &Bench, device: &str, acknowledge: bool) -> Vec<(String, u64, String)> {
    let ask = |method: Method, path: String, body: Value| {
        let request = bench.http.request(method, format!("{}/v2/sync/{path}", bench.simulator.url())).bearer_auth("T");
        let request = request.header("user-agent", "bench").header("X-Basecrm-Device-UUID", device);
        let request = if body.is_null() {
            request
        } else {
            request.header("content-type", "application/json").body(body.to_string())
        };
        async move { request.send().await.unwrap() }
    };
    let started = ask(Method::POST, "start".to_owned(), Value::Null).await;
    if started.status() == 204 {
        return Vec::new();
    }
    assert_eq!(started.status(), 201);
    let started = super::json(started).await;
    let queue = &started["data"]["queues"][0]["data"];
    let mut items = Vec::new();
    loop {
        let page =
            ask(Method::GET, format!("{}/queues/main", started["data"]["id"].as_str().unwrap()), Value::Null).await;
        if page.status() == 204 {
            break;
        }
        let page = super::json(page).await;
        let mut keys = Vec::new();
        for item in page["items"].as_array().unwrap() {
            let sync = &item["meta"]["sync"];
            keys.push(sync["ack_key"].clone());
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            items.push((text(&item["meta"]["type"]), item["data"]["id"].as_u64().unwrap(), text(&sync["event_type"])));
        }
        if acknowledge {
            assert_eq!(
                ask(Method::POST, "ack".to_owned(), json!({ "data": { "ack_keys": keys } })).await.status(),
                202
            );
        }
    }
    assert_eq!(queue["total_count"], items.len());
    items
}

#[tokio::test]
async fn a_device_is_given_what_it_has_not_acknowledged_in_its_freshest_state() {
    let bench = Bench::new(Options { dialect: Served::Live, ..options() }).await;
    let all = session(&bench, "one", false).await;
    assert!(all.iter().all(|(.., event)| event == "created"));
    for kind in ["contact", "lead", "deal", "user", "stage", "tag", "call", "note", "task", "custom_field"] {
        assert!(all.iter().any(|(known, ..)| known == kind), "no {kind}");
    }
    assert_eq!(session(&bench, "one", true).await, all, "what is not acknowledged comes again");
    assert!(session(&bench, "one", true).await.is_empty());
    assert_eq!(session(&bench, "two", false).await.len(), all.len(), "a device knows nothing of another's");

    let (_, made) = bench.post("/v2/tags", json!({ "data": { "name": "fresh", "resource_type": "lead" } })).await;
    let made = made["data"]["id"].as_u64().unwrap();
    let deal = all.iter().find(|(kind, ..)| kind == "deal").unwrap().1;
    let lead = all.iter().find(|(kind, ..)| kind == "lead").unwrap().1;
    for value in [1, 2] {
        bench.ask(Method::PUT, &format!("/v2/deals/{deal}"), json!({ "data": { "value": value } })).await;
    }
    bench.ask(Method::DELETE, &format!("/v2/leads/{lead}"), Value::Null).await;
    // One that comes and goes between two sessions was never there for a device.
    let (_, brief) = bench.post("/v2/sources", json!({ "data": { "name": "brief" } })).await;
    bench.ask(Method::DELETE, &format!("/v2/sources/{}", brief["data"]["id"]), Value::Null).await;
    bench.simulator.set_fault(Fault::EmptyPage, 0.5).unwrap();
    let changed: BTreeSet<_> = session(&bench, "one", true).await.into_iter().collect();
    let of = |kind: &str, id, event: &str| (kind.to_owned(), id, event.to_owned());
    let wanted = BTreeSet::from([of("tag", made, "created"), of("deal", deal, "updated"), of("lead", lead, "deleted")]);
    assert_eq!(changed, wanted);
    assert!(session(&bench, "one", true).await.is_empty());
}

#[tokio::test]
async fn the_reference_dialect_synchronizes_both_ways_and_names_conflicts() {
    let bench = Bench::new(options()).await;
    let (status, session) = bench.post("/v3/sync/init", json!({ "device_id": "tablet" })).await;
    assert_eq!((status, &session["checkpoint"]), (200, &Value::Null));
    let id = session["session_id"].clone();
    let exchange = async |changes: Value| {
        bench.post("/v3/sync/", json!({ "session_id": id, "checkpoint": null, "changes": changes })).await
    };
    let (mut seen, mut deal, mut total) = (BTreeSet::new(), Value::Null, 0);
    loop {
        let (status, page) = exchange(json!([])).await;
        assert_eq!(status, 200, "{page}");
        let items = page["items"].as_array().unwrap().clone();
        total += items.len();
        for item in &items {
            seen.insert(item["ack_key"].as_str().unwrap().to_owned());
            if item["resource"] == "deal" && deal.is_null() {
                deal = item["data"].clone();
            }
        }
        let keys: Vec<&Value> = items.iter().map(|item| &item["ack_key"]).collect();
        assert_eq!(bench.post("/v3/sync/ack", json!({ "session_id": id, "ack_keys": keys })).await.0, 202);
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!((json!(total), seen.len()), (session["total"].clone(), total));
    assert_eq!(exchange(json!([])).await.1["items"], json!([]));

    let change = |base: &Value, value: u64| json!({ "resource": "deal", "id": deal["id"], "base_updated_at": base, "data": { "value": value } });
    let (status, taken) = exchange(json!([change(&deal["updated_at"], 77)])).await;
    assert_eq!(
        (status, &taken["conflicts"], &taken["items"][0]["data"]["value"]),
        (200, &json!([]), &json!(77)),
        "{taken}"
    );
    let (status, body) = exchange(json!([change(&deal["updated_at"], 78)])).await;
    assert_eq!((status, &body["error"]["code"]), (409, &json!(409)), "{body}");
    let new = json!({ "resource": "organization", "data": { "name": "From the tablet" } });
    let (status, both) = exchange(json!([change(&deal["updated_at"], 79), new])).await;
    assert_eq!(
        (status, &both["conflicts"][0]["server"]["value"], &both["conflicts"][0]["client"]["value"]),
        (200, &json!(77), &json!(79))
    );
    let created = both["items"].as_array().unwrap().iter().any(|item| item["data"]["name"] == "From the tablet");
    assert!(created, "{both}");
    assert_eq!(bench.post("/v3/sync/", json!({ "session_id": "nobody" })).await.0, 404);
}

#[tokio::test]
async fn graphql_leads_from_organizations_to_contacts_to_deals() {
    let bench = Bench::new(options()).await;
    let query = "query Tree($limit: Int = 100, $hot: Boolean!) {
        organizations(limit: $limit) { ...of __typename }
        lead(id: \"1\") { id }
        hot: deals(hot: $hot, limit: 100) { id hot contact { last_name } }
    }
    fragment of on Organization { id name contacts(limit: 100) { id organization { id } deals { id name contact_id } } }";
    let found = bench.search("/v3/graphql", json!({ "query": query, "variables": { "hot": true } })).await;
    assert_eq!(found.get("errors"), None, "{found}");
    let organizations = found["data"]["organizations"].as_array().unwrap();
    let (mut contacts, mut deals) = (0, 0);
    for organization in organizations {
        assert_eq!(organization["__typename"], "Organization");
        for contact in organization["contacts"].as_array().unwrap() {
            contacts += 1;
            assert_eq!(contact["organization"]["id"], organization["id"]);
            for deal in contact["deals"].as_array().unwrap() {
                deals += 1;
                assert_eq!(deal["contact_id"], contact["id"]);
            }
        }
    }
    assert!(organizations.len() > 10 && contacts > 10 && deals > 10, "{contacts} {deals}");
    assert_eq!(found["data"]["lead"], Value::Null);
    assert!(found["data"]["hot"].as_array().unwrap().iter().all(|deal| deal["hot"] == true));

    let (down, up) = ("contact { deals(limit: 1) { id ".repeat(20), "} } ".repeat(20));
    let deep = format!("{{ deals(limit: 1) {{ id {down} {up} }} }}");
    for wrong in [
        "{ deals { nothing } }",
        "{ deals }",
        "{ deals { id { x } } }",
        "{ nothing { id } }",
        "mutation { x }",
        "{",
        deep.as_str(),
    ] {
        let (status, body) = bench.post("/v3/graphql", json!({ "query": wrong })).await;
        assert_eq!((status, &body["data"]), (200, &Value::Null), "{wrong}");
        assert!(body["errors"][0]["message"].is_string(), "{wrong}: {body}");
    }
    assert_eq!(bench.post("/v3/graphql", json!({ "q": "{}" })).await.0, 400);
}
