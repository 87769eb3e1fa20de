use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

use super::super::{Enforced, Fault, Options};
use super::{Bench, json, options};

#[tokio::test]
async fn the_eleventh_request_of_a_second_is_refused_without_a_hint_in_the_live_dialect() {
    let bench = Bench::new(Options { limits: Enforced::Live, ..options() }).await;
    let mut refused = None;
    for _ in 0..30 {
        let answer = bench.poll("/v3/visits/stream", "top", 1).await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("30 requests take less than 3 s");
    assert!(!refused.headers().contains_key("retry-after"));
    assert!(serde_json::from_str::<Value>(&refused.text().await.unwrap()).is_err(), "no JSON");
    let report = bench.simulator.requests();
    assert!(report.most_in_a_second > 10 && report.over_limit > 0 && report.tokens_seen == 1, "{report:?}");
}

#[tokio::test]
async fn the_hundred_and_first_request_of_a_minute_is_refused_in_the_reference_dialect() {
    let bench = Bench::new(Options { limits: Enforced::Reference, ..options() }).await;
    for _ in 0..100 {
        assert_eq!(bench.get("/v3/firehose", &[]).await.status(), StatusCode::OK);
    }
    let refused = bench.get("/v3/firehose", &[]).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(json(refused).await["error"]["code"], 429);
    assert_eq!(bench.simulator.requests().most_in_a_minute, 101);
}

#[tokio::test]
async fn a_stream_that_carried_its_megabyte_is_refused() {
    let faults = vec![(Fault::Oversize, 1.0)];
    let bench = Bench::new(Options { limits: Enforced::Live, faults, backlog: 20, ..options() }).await;
    let page = bench.poll("/v3/leads/stream", "tail", 2).await;
    assert!(page.bytes().await.unwrap().len() > 2_000_000);
    assert_eq!(bench.poll("/v3/leads/stream", "tail", 2).await.status(), StatusCode::TOO_MANY_REQUESTS);
}

/// Asks for a token, and gives status and answer.
async fn grant(bench: &Bench, refresh_token: &str) -> (StatusCode, Value) {
    let form =
        [("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("client_id", "c"), ("client_secret", "s")];
    let url = format!("{}/oauth2/token", bench.simulator.url());
    let answer = bench.http.post(url).form(&form).send().await.unwrap();
    (answer.status(), json(answer).await)
}

#[tokio::test]
async fn a_token_that_is_refused_is_refused_until_it_is_refreshed() {
    let bench = Bench::new(Options { token: Some("only".into()), ..options() }).await;
    let listing = async |token: &str| {
        let url = format!("{}/v3/firehose", bench.simulator.url());
        bench.http.get(url).bearer_auth(token).send().await.unwrap().status()
    };
    assert_eq!(listing("T").await, StatusCode::UNAUTHORIZED);
    assert_eq!(listing("only").await, StatusCode::OK);
    let (status, first) = grant(&bench, "r1").await;
    assert_eq!(status, StatusCode::OK);
    let access = first["access_token"].as_str().unwrap();
    assert_eq!(listing(access).await, StatusCode::OK);

    bench.simulator.set_fault(Fault::Unauthorized, 1.0).unwrap();
    assert_eq!(listing(access).await, StatusCode::UNAUTHORIZED);
    bench.simulator.set_fault(Fault::Unauthorized, 0.0).unwrap();
    assert_eq!(listing(access).await, StatusCode::UNAUTHORIZED, "it stays refused");
    assert_eq!(grant(&bench, "r1").await.1["error"], "invalid_grant", "a refresh token is good once");
    let (_, second) = grant(&bench, first["refresh_token"].as_str().unwrap()).await;
    assert_eq!(listing(second["access_token"].as_str().unwrap()).await, StatusCode::OK);
}

#[tokio::test]
async fn an_access_token_ends() {
    let bench = Bench::new(Options { token_life: Duration::ZERO, ..options() }).await;
    let (_, granted) = grant(&bench, "r").await;
    let url = format!("{}/v3/firehose", bench.simulator.url());
    let answer = bench.http.get(url).bearer_auth(granted["access_token"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
}
