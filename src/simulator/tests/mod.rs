mod consent;
mod crm;
mod faults;
mod firehose;
mod limits;
mod lookup;
mod story;

use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

use super::{Dialect, Options, Served, Simulator, start};
use crate::clock::Clock;
use crate::config::DedupeBy;
use crate::event::{AccountName, StreamName};
use crate::sell::wire::{self, PageContent, PageOf, Wanted};

/// A quiet company on a free port.
fn options() -> Options {
    Options { listen: ([127, 0, 0, 1], 0).into(), rate: 0.0, backlog: 300, ..Options::default() }
}

/// A simulator and someone who asks it.
struct Bench {
    simulator: Simulator,
    http: Client,
}

impl Bench {
    async fn new(options: Options) -> Self {
        Self::at(options, Clock::system()).await
    }

    async fn at(options: Options, clock: Clock) -> Self {
        let simulator = start(options, clock).await.unwrap();
        let http = crate::http::client_builder().timeout(Duration::from_secs(20)).build().unwrap();
        Self { simulator, http }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Response {
        self.try_get(path, query).await.unwrap()
    }

    async fn try_get(&self, path: &str, query: &[(&str, &str)]) -> reqwest::Result<Response> {
        let mut url = reqwest::Url::parse(&self.simulator.url()).unwrap().join(path).unwrap();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http.get(url).bearer_auth("T").send().await
    }

    async fn subscribe(&self, event_type: &str, position: &str) -> Response {
        let body = serde_json::json!({ "name": "bench", "event_types": [event_type], "position": position });
        let url = format!("{}/v3/firehose/subscribe", self.simulator.url());
        self.http.post(url).bearer_auth("T").body(body.to_string()).send().await.unwrap()
    }

    /// The path under which a stream is polled.
    async fn path(&self, dialect: Dialect, stream: &str) -> String {
        match dialect {
            Dialect::Live => format!("/v3/{stream}/stream"),
            Dialect::Reference => {
                let resource = match stream {
                    "activities" => "activity",
                    stream => stream.trim_end_matches('s'),
                };
                let answer = json(self.subscribe(&format!("{resource}.*"), "tail").await).await;
                format!("/v3/firehose/{}", answer["stream_id"].as_str().unwrap())
            }
        }
    }

    async fn poll(&self, path: &str, position: &str, limit: u32) -> Response {
        self.get(path, &[("position", position), ("limit", &limit.to_string())]).await
    }

    /// Everything from a position on, page by page, until the top.
    async fn drain(&self, dialect: Dialect, stream: &str, mut position: String, limit: u32) -> Vec<PageContent> {
        let path = self.path(dialect, stream).await;
        let mut pages = Vec::new();
        loop {
            let response = self.poll(&path, &position, limit).await;
            assert_eq!(response.status(), StatusCode::OK, "{stream} at {position}");
            let page = read(dialect, stream, response).await;
            assert_ne!(page.position.as_str(), position, "a position moves, also with an empty page");
            page.position.as_str().clone_into(&mut position);
            let top = page.top;
            pages.push(page);
            assert!(pages.len() < 5_000, "{stream} has no top");
            if top {
                return pages;
            }
        }
    }
}

/// Reads a page with the program's own eyes.
async fn read(dialect: Dialect, stream: &str, response: Response) -> PageContent {
    let body = response.bytes().await.unwrap();
    let (account, stream) = (AccountName::from("acme"), StreamName::from(stream));
    let wanted = Wanted::new(&["*".to_owned()]);
    let of = PageOf { account: &account, stream: &stream, dedupe_by: DedupeBy::Id, wanted: &wanted };
    wire::page(dialect, &body, of).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)))
}

async fn json(response: Response) -> Value {
    let body = response.text().await.unwrap();
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn streams(dialect: Dialect) -> Vec<&'static str> {
    match dialect {
        Dialect::Reference => super::firehose::reference::STREAMS.iter().map(|(stream, _, _)| *stream).collect(),
        Dialect::Live => super::firehose::live::STREAMS.to_vec(),
    }
}

const DIALECTS: [Dialect; 2] = [Dialect::Reference, Dialect::Live];

#[tokio::test]
async fn it_stops_in_time_with_a_long_poll_open() {
    let bench = Bench::new(options()).await;
    let path = bench.path(Dialect::Reference, "deals").await;
    let url = format!("{}{path}?position=top&wait=30", bench.simulator.url());
    let waiting = tokio::spawn(bench.http.get(url).bearer_auth("T").send());
    let polls = || bench.simulator.requests().by_path.get("poll").is_some_and(|polls| polls.requests == 1);
    tokio::time::timeout(Duration::from_secs(10), async {
        while !polls() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let stopping = bench.simulator.stop(Duration::from_secs(5));
    tokio::time::timeout(Duration::from_secs(5), stopping).await.unwrap();
    drop(waiting.await.unwrap());
}

#[test]
fn the_defaults_are_those_of_the_command_line() {
    use clap::Parser;
    #[derive(Parser)]
    struct Verb {
        #[command(flatten)]
        options: Options,
    }
    let parsed = Verb::parse_from(["simulate"]).options;
    assert_eq!(format!("{parsed:?}"), format!("{:?}", Options::default()));
    let asked = ["simulate", "--token", "secret", "--fault", "slow=0.5", "--fault", "nul=1", "--dialect", "live"];
    let parsed = Verb::parse_from(asked).options;
    assert_eq!(parsed.faults, vec![(super::Fault::Slow, 0.5), (super::Fault::Nul, 1.0)]);
    assert_eq!(parsed.dialect, Served::Live);
    assert!(!format!("{parsed:?}").contains("secret"), "INV-16: a token does not print");
    for wrong in ["slow", "slow=2", "slow=-1", "slow=NaN", "sloow=0.1"] {
        assert!(Verb::try_parse_from(["simulate", "--fault", wrong]).is_err(), "{wrong}");
    }
}
