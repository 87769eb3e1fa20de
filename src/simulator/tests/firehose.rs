use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::StatusCode;
use time::macros::datetime;
use tokio::time::Instant;

use super::super::{Dialect, Options, Served};
use super::{Bench, DIALECTS, json, options, read, streams};
use crate::clock::Clock;

#[tokio::test]
async fn each_dialect_serves_all_that_was_emitted_once_in_order_and_byte_for_byte() {
    let bench = Bench::new(options()).await;
    for dialect in DIALECTS {
        let mut served = BTreeMap::new();
        for stream in streams(dialect) {
            for limit in [7, 100] {
                let mut places = Vec::new();
                for page in bench.drain(dialect, stream, "tail".to_owned(), limit).await {
                    assert!(page.rejected.is_empty() && page.events.len() <= limit as usize, "{:?}", page.rejected);
                    for event in page.events {
                        places.push(event.id.to_string());
                        served.insert(event.id.to_string(), String::from_utf8(event.body.to_vec()).unwrap());
                    }
                }
                let emitted = bench.simulator.emitted(dialect, 0, usize::MAX);
                let expected = emitted.into_iter().filter(|event| event.stream == stream).map(|event| event.id);
                assert_eq!(places, expected.collect::<Vec<_>>(), "{stream}");
            }
        }
        let emitted = bench.simulator.emitted(dialect, 0, usize::MAX);
        assert_eq!((emitted.len(), served.len()), (300, 300));
        for event in emitted {
            let body = &served[&event.id];
            let resource = event.event_type.split_once('.').unwrap().0;
            assert!(body.contains(&format!(r#""data":{{"{resource}":{}}}"#, event.record.get())), "{body}");
            assert_eq!(event.previous.is_some(), body.contains(r#""previous":"#), "{body}");
            assert!(event.previous.is_none_or(|was| body.contains(&format!(r#""previous":{}"#, was.get()))), "{body}");
        }
    }
    // An organization is one in one dialect, and a contact in the other.
    let live = bench.simulator.emitted(Dialect::Live, 0, usize::MAX);
    assert!(live.iter().any(|event| event.record.get().contains(r#""is_organization":true"#)));
    let deal = live.iter().find(|event| event.event_type == "deal.created").unwrap().record.get().to_owned();
    assert!(deal.contains(r#""value":""#) && !deal.contains("updated_at"), "{deal}");
}

#[tokio::test]
async fn auto_finds_the_dialect_that_is_served() {
    for (served, listing, live) in [
        (Served::Both, StatusCode::OK, StatusCode::OK),
        (Served::Reference, StatusCode::OK, StatusCode::NOT_FOUND),
        (Served::Live, StatusCode::NOT_FOUND, StatusCode::OK),
    ] {
        let bench = Bench::new(Options { dialect: served, ..options() }).await;
        assert_eq!(bench.get("/v3/firehose", &[]).await.status(), listing, "{served}");
        assert_eq!(bench.poll("/v3/deals/stream", "tail", 10).await.status(), live, "{served}");
    }
}

#[tokio::test]
async fn refusals_speak_their_dialect() {
    let bench = Bench::new(options()).await;
    let answer = bench.get("/v3/deals/stream", &[("limit", "10")]).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let request = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let live = json(answer).await;
    assert_eq!(live["errors"][0]["error"]["field"], "position");
    assert_eq!((&live["meta"]["http_status"], &live["meta"]["logref"]), (&"400 Bad Request".into(), &request.into()));

    for (path, query) in [
        ("/v3/deals/stream", [("position", "tail"), ("limit", "101")]),
        ("/v3/deals/stream", [("position", "tail"), ("limit", "0")]),
        ("/v3/deals/stream", [("position", "nonsense"), ("limit", "1")]),
    ] {
        assert_eq!(bench.get(path, &query).await.status(), StatusCode::BAD_REQUEST, "{query:?}");
    }
    assert_eq!(bench.poll("/v3/nothing/stream", "tail", 1).await.status(), StatusCode::NOT_FOUND);

    let path = bench.path(Dialect::Reference, "deals").await;
    let answer = bench.get(&path, &[("limit", "1001")]).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let reference = json(answer).await;
    assert_eq!(
        (&reference["error"]["code"], &reference["error"]["details"][0]["field"]),
        (&400.into(), &"limit".into())
    );
    assert_eq!(bench.poll("/v3/firehose/s_unknown", "tail", 1).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(bench.subscribe("nothing.*", "tail").await.status(), StatusCode::BAD_REQUEST);

    let url = format!("{}/v3/deals/stream?position=tail", bench.simulator.url());
    assert_eq!(bench.http.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let nameless = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = nameless.get(&url).bearer_auth("T").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "without a User-Agent");
}

#[tokio::test]
async fn a_subscription_is_the_same_for_the_same_name_and_types() {
    let bench = Bench::new(options()).await;
    let first = bench.subscribe("deal.*", "tail").await;
    assert_eq!(first.status(), StatusCode::CREATED);
    let (first, again) = (json(first).await, json(bench.subscribe("deal.*", "top").await).await);
    assert_eq!(first["stream_id"], again["stream_id"]);
    assert_ne!(first["stream_id"], json(bench.subscribe("lead.*", "tail").await).await["stream_id"]);
    // Subscribing again at the position held gives that position.
    let held = first["position"].as_str().unwrap();
    assert_eq!(json(bench.subscribe("deal.*", held).await).await["position"], held);
    // Only the types that were asked for come.
    let created = json(bench.subscribe("deal.created", "tail").await).await;
    let path = format!("/v3/firehose/{}", created["stream_id"].as_str().unwrap());
    let page = read(Dialect::Reference, "deals", bench.poll(&path, "tail", 1_000).await).await;
    assert!(page.top && !page.events.is_empty());
    assert!(page.events.iter().all(|event| event.event_type.as_str() == "deal.created"));
}

#[tokio::test]
async fn a_position_is_gone_when_it_is_older_than_the_history_also_on_a_quiet_stream() {
    for (dialect, stream) in [(Dialect::Reference, "organizations"), (Dialect::Live, "visits")] {
        let clock = Clock::manual(datetime!(2026-11-24 12:00 UTC));
        let bench = Bench::at(options(), clock.clone()).await;
        let path = bench.path(dialect, stream).await;
        let page = async |position: &str| read(dialect, stream, bench.poll(&path, position, 100).await).await;
        let never_moved = page("top").await.position.to_string();
        let mut moved = never_moved.clone();
        for _ in 0..3 {
            clock.advance(time::Duration::hours(30));
            let empty = page(&moved).await;
            assert!(empty.top && empty.events.is_empty());
            assert_ne!(empty.position.as_str(), moved);
            moved = empty.position.to_string();
        }
        assert_eq!(bench.poll(&path, &never_moved, 100).await.status(), StatusCode::GONE, "{stream}");
        assert_eq!(page("tail").await.events.len(), 0, "what is older than the history is not kept");
        bench.simulator.emit(40);
        assert!(page(&moved).await.top);
    }
}

#[tokio::test]
async fn an_admin_can_let_everything_expire() {
    let bench = Bench::new(options()).await;
    let held = read(Dialect::Live, "deals", bench.poll("/v3/deals/stream", "tail", 10).await).await;
    let url = format!("{}/_simulator/gone", bench.simulator.url());
    assert_eq!(bench.http.post(url).send().await.unwrap().status(), StatusCode::OK);
    let gone = bench.poll("/v3/deals/stream", held.position.as_str(), 10).await;
    assert_eq!(gone.status(), StatusCode::GONE);
    let tail = read(Dialect::Live, "deals", bench.poll("/v3/deals/stream", "tail", 10).await).await;
    assert!(tail.top && tail.events.is_empty());
    assert!(bench.simulator.emitted(Dialect::Live, 0, usize::MAX).iter().all(|event| event.gone));
}

#[tokio::test]
async fn a_long_poll_is_answered_at_once_when_something_happens_and_in_the_end_when_nothing_does() {
    let bench = Bench::new(options()).await;
    let path = bench.path(Dialect::Reference, "deals").await;
    let began = Instant::now();
    let empty = bench.get(&path, &[("position", "top"), ("wait", "1")]).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let empty = read(Dialect::Reference, "deals", empty).await;
    assert!(empty.top && empty.events.is_empty());

    let began = Instant::now();
    let query = [("position", empty.position.as_str()), ("wait", "15")];
    let (answer, ()) = tokio::join!(bench.get(&path, &query), async {
        // Answered either way: that it is waited for is what the elapsed time cannot tell, so it comes second.
        tokio::task::yield_now().await;
        bench.simulator.emit(60);
    });
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(!read(Dialect::Reference, "deals", answer).await.events.is_empty());
}

#[tokio::test]
async fn a_company_goes_on_living_at_the_asked_rate() {
    let bench = Bench::new(Options { rate: 200.0, backlog: 0, ..options() }).await;
    let began = Instant::now();
    let until = began + Duration::from_secs(20);
    while bench.simulator.events() < 200 {
        assert!(Instant::now() < until, "{} events", bench.simulator.events());
        tokio::task::yield_now().await;
    }
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_was_emitted_can_be_read_over_http_in_parts() {
    let bench = Bench::new(options()).await;
    let lines = async |path: &str| {
        let text =
            bench.http.get(format!("{}{path}", bench.simulator.url())).send().await.unwrap().text().await.unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = lines("/_simulator/emitted").await;
    assert_eq!(all.len(), 300);
    assert_eq!(lines("/_simulator/emitted?after=100&limit=50").await, all[100..150]);
    let live = lines("/_simulator/emitted?dialect=live").await;
    assert!(live.len() == 300 && live != all);
    assert_eq!(lines("/_simulator/emitted?dialect=latin").await.len(), 1, "one line that refuses");
}

#[tokio::test]
async fn an_admin_emits_counts_and_changes_the_pace() {
    let bench = Bench::new(options()).await;
    let url = |path: &str| format!("{}/_simulator/{path}", bench.simulator.url());
    let emitted = bench.http.post(url("emit")).body(r#"{"count":4500}"#).send().await.unwrap();
    assert_eq!(json(emitted).await["events"], 4_800);
    let streams = json(bench.http.get(url("streams")).send().await.unwrap()).await;
    let count = |dialect: &str| {
        let of = streams[dialect].as_object().unwrap().values();
        of.map(|stream| stream["events"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((count("reference"), count("live")), (4_800, 4_800));

    let paced = async |body: &'static str| bench.http.put(url("rate")).body(body).send().await.unwrap().status();
    assert_eq!(paced(r#"{"rate":-1}"#).await, StatusCode::BAD_REQUEST);
    assert_eq!(paced(r#"{"rate":1000}"#).await, StatusCode::OK);
    let until = Instant::now() + Duration::from_secs(10);
    while bench.simulator.events() == 4_800 {
        assert!(Instant::now() < until, "nothing happens");
        tokio::task::yield_now().await;
    }

    bench.poll("/v3/deals/stream", "tail", 10).await;
    let requests = json(bench.http.get(url("requests")).send().await.unwrap()).await;
    assert_eq!(
        (&requests["total"], &requests["tokens_seen"]),
        (&1.into(), &1.into()),
        "admin requests are not counted"
    );
    assert_eq!(requests["by_path"]["poll"]["statuses"]["200"], 1);
    let overview = json(bench.http.get(url("")).send().await.unwrap()).await;
    assert_eq!((&overview["seed"], &overview["dialect"]), (&1.into(), &"both".into()));
}
