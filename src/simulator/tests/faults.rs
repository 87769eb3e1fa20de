use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::time::Duration;

use reqwest::StatusCode;
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};
use tokio::time::Instant;

use super::super::{Dialect, Emitted, Fault, Options};
use super::{Bench, DIALECTS, options, read};
use crate::event::Event;

const PATH: &str = "/v3/deals/stream";

/// A simulator of one fault.
async fn with(fault: Fault, rate: f64) -> Bench {
    let backlog = if fault == Fault::Oversize { 40 } else { 600 };
    Bench::new(Options { faults: vec![(fault, rate)], backlog, ..options() }).await
}

/// What a reader that keeps the first content of each id has in the end, and how often it saw an id again.
async fn drained(bench: &Bench, dialect: Dialect) -> (Vec<Event>, usize, usize) {
    let pages = bench.drain(dialect, "deals", "tail".to_owned(), 20).await;
    let mut seen = BTreeSet::new();
    let (mut events, mut again, mut rejected) = (Vec::new(), 0, 0);
    for page in pages {
        rejected += page.rejected.len();
        for event in page.events {
            if seen.insert(event.id.clone()) {
                events.push(event);
            } else {
                again += 1;
            }
        }
    }
    (events, again, rejected)
}

fn deals(bench: &Bench, dialect: Dialect) -> Vec<Emitted> {
    let emitted = bench.simulator.emitted(dialect, 0, usize::MAX);
    emitted.into_iter().filter(|event| event.stream == "deals").collect()
}

/// Whatever befalls, a careful reader has every event once, in the order of its record, with the bytes that were
/// emitted.
fn assert_whole(read: &[Event], emitted: &[Emitted], fault: Fault) {
    let mut order: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for event in read {
        order.entry(&event.record_id).or_default().push(&event.id);
    }
    let mut expected: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for event in emitted {
        expected.entry(&event.record_id).or_default().push(&event.id);
        let body = read.iter().find(|read| *read.id == *event.id).map(|read| String::from_utf8_lossy(&read.body));
        assert!(body.is_some_and(|body| body.contains(event.record.get())), "{fault}: {}", event.id);
    }
    assert_eq!(order, expected, "{fault}");
}

#[tokio::test]
async fn every_fault_can_be_seen_and_a_careful_reader_misses_nothing() {
    for fault in Fault::ALL {
        // The faults of one request, or of the company's life, have tests of their own below.
        let rate = match fault {
            Fault::EmptyPage | Fault::ShortPage | Fault::Duplicate | Fault::Conflict | Fault::Disorder => 0.5,
            Fault::Oversize | Fault::Skew => 0.3,
            Fault::Resequence | Fault::Malformed | Fault::BadUtf8 | Fault::Nul => 0.1,
            Fault::Gone
            | Fault::Throttle
            | Fault::ServerError
            | Fault::Slow
            | Fault::Truncate
            | Fault::Reset
            | Fault::Unauthorized
            | Fault::Forbidden
            | Fault::Burst => continue,
        };
        let bench = with(fault, rate).await;
        for dialect in DIALECTS {
            let (events, again, rejected) = drained(&bench, dialect).await;
            let emitted = deals(&bench, dialect);
            assert_whole(&events, &emitted, fault);
            assert!(bench.simulator.happened(fault) > 0, "{fault}");
            assert_eq!(rejected > 0, matches!(fault, Fault::Malformed | Fault::BadUtf8), "{fault}: {rejected}");
            assert_eq!(again > 0, matches!(fault, Fault::Duplicate | Fault::Conflict), "{fault}: {again}");
            let records = || emitted.iter().map(|event| event.record.get());
            match fault {
                Fault::Resequence => assert!(emitted.iter().any(|event| event.resequenced)),
                Fault::Nul => assert!(records().any(|record| record.contains(r"\u0000"))),
                Fault::Oversize => assert!(records().any(|record| record.len() > 1_048_576)),
                Fault::Disorder => {
                    assert!(events.iter().zip(&emitted).any(|(read, emitted)| *read.id != *emitted.id));
                }
                Fault::Skew => {
                    let times: Vec<_> = emitted.iter().map(|e| OffsetDateTime::parse(&e.timestamp, &Rfc3339)).collect();
                    assert!(times.windows(2).any(|two| two[0].unwrap() > two[1].unwrap()));
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_conflict_has_other_content_and_is_never_the_first_of_its_id() {
    let bench = with(Fault::Conflict, 1.0).await;
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    let mut conflicts = 0;
    for page in bench.drain(Dialect::Live, "deals", "tail".to_owned(), 20).await {
        for event in page.events {
            let body = String::from_utf8(event.body.to_vec()).unwrap();
            let known = first.entry(event.id.to_string()).or_insert_with(|| body.clone());
            assert!(!known.contains("conflicting"), "{known}");
            conflicts += usize::from(*known != body);
        }
    }
    assert!(conflicts > 3, "{conflicts}");
    // One that came in at the top has seen nothing that could be repeated.
    let top = read(Dialect::Live, "deals", bench.poll(PATH, "top", 20).await).await;
    let page = read(Dialect::Live, "deals", bench.poll(PATH, top.position.as_str(), 20).await).await;
    assert!(page.events.is_empty());
}

#[tokio::test]
async fn an_empty_page_moves_its_position_and_does_not_say_top() {
    let bench = with(Fault::EmptyPage, 1.0).await;
    let first = read(Dialect::Live, "deals", bench.poll(PATH, "tail", 20).await).await;
    let second = read(Dialect::Live, "deals", bench.poll(PATH, first.position.as_str(), 20).await).await;
    assert!(first.events.is_empty() && !first.top && second.position != first.position);
    bench.simulator.set_fault(Fault::EmptyPage, 0.0).unwrap();
    let page = read(Dialect::Live, "deals", bench.poll(PATH, second.position.as_str(), 20).await).await;
    assert_eq!(*page.events[0].id, *deals(&bench, Dialect::Live)[0].id);
}

#[tokio::test]
async fn what_is_gone_is_told_and_the_tail_goes_on_behind_it() {
    for dialect in DIALECTS {
        let bench = with(Fault::Gone, 0.0).await;
        let path = bench.path(dialect, "deals").await;
        let held = read(dialect, "deals", bench.poll(&path, "tail", 20).await).await;
        bench.simulator.set_fault(Fault::Gone, 1.0).unwrap();
        assert_eq!(bench.poll(&path, held.position.as_str(), 20).await.status(), StatusCode::GONE);
        bench.simulator.set_fault(Fault::Gone, 0.0).unwrap();
        assert_eq!(bench.poll(&path, held.position.as_str(), 20).await.status(), StatusCode::GONE, "it stays so");
        let tail = read(dialect, "deals", bench.poll(&path, "tail", 20).await).await;
        let emitted = deals(&bench, dialect);
        let at = emitted.iter().position(|event| *event.id == *tail.events[0].id).unwrap();
        assert!((21..=40).contains(&at), "a few are lost, not more: {at}");
        assert!(emitted[..at].iter().all(|event| event.gone) && !emitted[at].gone);
    }
}

#[tokio::test]
async fn failures_are_what_a_proxy_or_a_tired_server_sends() {
    let bench = with(Fault::Throttle, 1.0).await;
    let mut hints = BTreeSet::new();
    for _ in 0..30 {
        let answer = bench.poll(PATH, "tail", 1).await;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        hints.insert(answer.headers().contains_key("retry-after"));
    }
    assert_eq!(hints.len(), 2, "with and without a hint");

    let bench = with(Fault::ServerError, 1.0).await;
    let mut statuses = BTreeSet::new();
    for _ in 0..30 {
        let answer = bench.poll(PATH, "tail", 1).await;
        statuses.insert(answer.status());
        assert!(answer.text().await.unwrap().starts_with("<html>"));
    }
    assert_eq!(statuses, BTreeSet::from([StatusCode::INTERNAL_SERVER_ERROR, StatusCode::BAD_GATEWAY]));

    let bench = with(Fault::Forbidden, 1.0).await;
    let answer = bench.poll(PATH, "tail", 1).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let text = answer.text().await.unwrap();
    assert!(text.contains("plan") && text.contains("root user"), "{text}");

    let bench = with(Fault::Unauthorized, 1.0).await;
    assert_eq!(bench.poll(PATH, "tail", 1).await.status(), StatusCode::UNAUTHORIZED);

    let bench = with(Fault::Slow, 1.0).await;
    let began = Instant::now();
    assert_eq!(bench.poll(PATH, "tail", 1).await.status(), StatusCode::OK);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_answer_is_cut_with_and_without_its_length() {
    let bench = with(Fault::Truncate, 1.0).await;
    let (mut cut, mut broken) = (0, 0);
    for _ in 0..30 {
        match bench.poll(PATH, "tail", 20).await.bytes().await {
            Ok(body) => {
                broken += usize::from(serde_json::from_slice::<serde_json::Value>(&body).is_err());
            }
            Err(_) => cut += 1,
        }
    }
    assert!(cut > 0 && broken > 0 && cut + broken == 30, "{cut} cut, {broken} broken");
}

#[tokio::test]
async fn a_connection_is_reset() {
    let bench = with(Fault::Reset, 1.0).await;
    let error = bench.try_get(PATH, &[("position", "tail")]).await.unwrap_err();
    let mut causes = std::iter::successors(error.source(), |error| (*error).source());
    let is_reset = |error: &(dyn std::error::Error + 'static)| {
        error.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionReset)
    };
    assert!(causes.any(is_reset), "{error:?}");
}

#[tokio::test]
async fn a_skewed_answer_has_a_wrong_date() {
    let bench = with(Fault::Skew, 1.0).await;
    let answer = bench.poll(PATH, "tail", 1).await;
    let date = OffsetDateTime::parse(answer.headers()["date"].to_str().unwrap(), &Rfc2822).unwrap();
    assert!((date - crate::clock::Clock::system().now()).abs() > time::Duration::seconds(10), "{date}");
}

#[tokio::test]
async fn a_burst_comes_at_once_while_the_company_lives() {
    let bench = Bench::new(Options { faults: vec![(Fault::Burst, 1.0)], rate: 50.0, backlog: 0, ..options() }).await;
    let until = Instant::now() + Duration::from_secs(10);
    while bench.simulator.events() < 100 {
        assert!(Instant::now() < until);
        tokio::task::yield_now().await;
    }
    assert!(bench.simulator.happened(Fault::Burst) > 0);
}

#[tokio::test]
async fn faults_can_be_switched_while_it_runs_and_strike_alike_for_a_seed() {
    let mut stories = Vec::new();
    for _ in 0..2 {
        let bench = Bench::new(options()).await;
        let url = format!("{}/_simulator/faults", bench.simulator.url());
        let switch = async |body: &'static str| bench.http.put(&url).body(body).send().await.unwrap();
        assert_eq!(switch(r#"{"throttle":0.3,"short-page":0.5}"#).await.status(), StatusCode::OK);
        assert_eq!(switch(r#"{"slow":1,"tired":1}"#).await.status(), StatusCode::BAD_REQUEST);
        let mut story = Vec::new();
        for _ in 0..20 {
            let answer = bench.poll(PATH, "tail", 50).await;
            story.push((answer.status(), answer.bytes().await.unwrap().len()));
        }
        assert!(story.iter().any(|(status, _)| *status == StatusCode::TOO_MANY_REQUESTS));
        stories.push(story);
    }
    assert_eq!(stories[0], stories[1]);
}
