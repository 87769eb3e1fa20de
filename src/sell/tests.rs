use std::time::Duration;

use futures_util::future::BoxFuture;
use uuid::Uuid;
use wiremock::matchers::{header, header_exists, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::clock::Clock;
use crate::config::{AccountConfig, Auth, DedupeBy, DialectChoice, OnGap, Secret, StreamStart};
use crate::event::grant::{Claimed, GrantBook, GrantClaim, GrantFailure, GrantRow, NewGrant};
use crate::event::ports::{Dialect, LedgerError};
use crate::event::{AccountName, Position};

const LISTING: &str = "/v3/firehose";

/// A token needs no book.
struct NoBook;

impl GrantBook for NoBook {
    fn grant(&self, _: &AccountName) -> BoxFuture<'_, Result<Option<GrantRow>, LedgerError>> {
        unreachable!()
    }

    fn claim_grant(&self, _: GrantClaim) -> BoxFuture<'_, Result<Claimed, LedgerError>> {
        unreachable!()
    }

    fn keep_grant(&self, _: NewGrant) -> BoxFuture<'_, Result<bool, LedgerError>> {
        unreachable!()
    }

    fn fail_grant(&self, _: &AccountName, _: Uuid, _: GrantFailure) -> BoxFuture<'_, Result<bool, LedgerError>> {
        unreachable!()
    }
}

struct Scene {
    server: MockServer,
}

impl Scene {
    async fn start() -> Self {
        Self { server: MockServer::start().await }
    }

    fn config(&self, auth: Auth) -> AccountConfig {
        AccountConfig {
            base_url: self.server.uri(),
            dialect: DialectChoice::Auto,
            auth,
            streams: vec!["*".to_owned()],
            events: vec!["*".to_owned()],
            dedupe_by: DedupeBy::Id,
            start: StreamStart::Tail,
            history: Duration::from_hours(72),
            on_gap: OnGap::Continue,
            poll_interval: Duration::from_secs(5),
            page_limit: 100,
            max_page_bytes: 4_096,
            requests_per_minute: Some(6_000),
            requests_per_hour: Some(60_000),
        }
    }

    fn vendor(&self, auth: Auth) -> Vendor {
        Vendor::new(&"acme".into(), &self.config(auth), Clock::system()).unwrap()
    }

    /// The listing is given to this token alone.
    async fn lists_for(&self, token: &str) {
        Mock::given(method("GET"))
            .and(path(LISTING))
            .and(header("authorization", format!("Bearer {token}")))
            .respond_with(ResponseTemplate::new(200).set_body_string(r#"{"items":[{"id":"deals"}],"meta":{}}"#))
            .mount(&self.server)
            .await;
    }

    /// What remains is refused.
    async fn refuses(&self, at: &str, status: u16) {
        Mock::given(path(at)).respond_with(ResponseTemplate::new(status)).with_priority(9).mount(&self.server).await;
    }
}

#[tokio::test]
async fn a_token_goes_to_its_own_origin_only() {
    let elsewhere = MockServer::start().await;
    Mock::given(header_exists("authorization"))
        .respond_with(ResponseTemplate::new(200))
        .expect(0)
        .mount(&elsewhere)
        .await;
    let scene = Scene::start().await;
    Mock::given(path(LISTING))
        .respond_with(ResponseTemplate::new(302).insert_header("location", elsewhere.uri()))
        .mount(&scene.server)
        .await;
    let error = scene.vendor(Auth::Token(Secret::value("t"))).listing().await.expect_err("not followed");
    assert!(matches!(error, SellError::Redirected { status: 302 }), "{error}");
    assert!(elsewhere.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn answers_become_errors_that_say_what_to_do() {
    let retry = |seconds: Option<u64>| SellDisposition::Retry(seconds.map(Duration::from_secs));
    let text = |status: u16| ResponseTemplate::new(status).set_body_string("<html>no</html>");
    let cases = [
        (text(429), retry(None)),
        (text(429).insert_header("retry-after", "7"), retry(Some(7))),
        (text(503).insert_header("retry-after", "999999"), retry(Some(900))),
        (text(503).insert_header("retry-after", "99999999999999999999999"), retry(Some(900))),
        (text(502), retry(None)),
        (
            text(429)
                .insert_header("date", "Wed, 21 Oct 2015 07:28:00 GMT")
                .insert_header("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT"),
            retry(Some(30)),
        ),
        (text(408), retry(None)),
        (text(400), retry(None)),
        (text(403), SellDisposition::Forbidden),
        (text(404), SellDisposition::Missing),
        (text(410), SellDisposition::Gap),
        (text(200), SellDisposition::Shrink),
    ];
    for (answer, expected) in cases {
        let scene = Scene::start().await;
        Mock::given(path(LISTING)).respond_with(answer).mount(&scene.server).await;
        let error = scene.vendor(Auth::Token(Secret::value("t"))).listing().await.expect_err("an error");
        assert_eq!(error.disposition(), expected, "{error}");
        assert!(error.to_string().contains("<html>no</html>"), "it shows what the vendor said: {error}");
    }
}

#[tokio::test]
async fn no_more_of_an_answer_is_read_than_the_bound() {
    let scene = Scene::start().await;
    Mock::given(path("/v3/deals/stream"))
        .and(query_param("position", "a+b/c="))
        .and(query_param("limit", "100"))
        .respond_with(ResponseTemplate::new(200).set_body_string("y".repeat(5_000)))
        .mount(&scene.server)
        .await;
    let vendor = scene.vendor(Auth::Token(Secret::value("t")));
    let position = Position::from("a+b/c=");
    let poll = Poll {
        dialect: Dialect::Live,
        path: "deals",
        position: &position,
        limit: 999,
        most: u64::MAX,
        wait: Duration::ZERO,
    };
    let slot = vendor.budget().take(Priority::Firehose).await;
    let error = vendor.poll(poll, slot).await.expect_err("too long");
    assert!(matches!(&error, SellError::Oversize { most: 4_096, excerpt } if excerpt.len() == 200), "{error:?}");
}

#[tokio::test]
async fn a_check_tells_the_dialect_the_token_the_plan_and_the_clock() {
    let token = || Auth::Token(Secret::value("t"));
    let scene = Scene::start().await;
    scene.lists_for("t").await;
    let report = check(&"acme".into(), &scene.config(token()), &Clock::system(), None::<&NoBook>).await;
    assert!(report.good(), "{report:?}");
    assert_eq!((report.dialect, report.token_accepted), (Some(Dialect::Reference), Some(true)));
    assert_eq!(report.streams, ["deals"]);

    let scene = Scene::start().await;
    Mock::given(path(LISTING)).respond_with(ResponseTemplate::new(404)).mount(&scene.server).await;
    let report = check(&"acme".into(), &scene.config(token()), &Clock::system(), None::<&NoBook>).await;
    assert_eq!(report.dialect, Some(Dialect::Live));
    assert!(!report.good(), "no stream answers: {report:?}");
    scene.refuses("/v3/deals/stream", 403).await;
    let report = check(&"acme".into(), &scene.config(token()), &Clock::system(), None::<&NoBook>).await;
    assert_eq!((report.token_accepted, report.firehose), (Some(true), Some(false)));
    assert!(report.errors[0].contains("Growth plan"), "{report:?}");

    let scene = Scene::start().await;
    let asked = async || check(&"acme".into(), &scene.config(token()), &Clock::system(), None::<&NoBook>).await;
    let page = ResponseTemplate::new(200).set_body_string(r#"{"items":[],"meta":{"position":"p","top":true}}"#);
    Mock::given(path("/v3/deals/stream")).respond_with(page).mount(&scene.server).await;
    let user = ResponseTemplate::new(200)
        .insert_header("date", "Wed, 21 Oct 2015 07:28:00 GMT")
        .set_body_string(r#"{"data":{"id":1,"name":"Ann Lee","role":"admin"},"meta":{"type":"user"}}"#);
    let myself = Mock::given(path("/v2/users/self")).respond_with(user).mount_as_scoped(&scene.server).await;
    let report = asked().await;
    assert!(report.good() && report.firehose == Some(true), "{report:?}");
    assert_eq!((report.core, report.user.as_deref()), (Some(true), Some("Ann Lee (admin)")));
    assert!(report.warnings.iter().any(|warning| warning.contains("clock")), "in this dialect, too: {report:?}");
    drop(myself);
    scene.refuses("/v2/users/self", 403).await;
    let report = asked().await;
    assert!(report.good() && report.core == Some(false), "what the streams need is there: {report:?}");
    assert!(report.warnings.iter().any(|warning| warning.contains("lookups and enrichment")), "{report:?}");

    let scene = Scene::start().await;
    scene.refuses(LISTING, 401).await;
    let report = check(&"acme".into(), &scene.config(token()), &Clock::system(), None::<&NoBook>).await;
    assert_eq!((report.reachable, report.token_accepted), (true, Some(false)));

    let scene = Scene::start().await;
    let skewed = ResponseTemplate::new(200)
        .insert_header("date", "Wed, 21 Oct 2015 07:28:00 GMT")
        .set_body_string(r#"{"items":[]}"#);
    Mock::given(path(LISTING)).respond_with(skewed).mount(&scene.server).await;
    let mut config = scene.config(token());
    config.dialect = DialectChoice::Fixed(Dialect::Live);
    let report = check(&"acme".into(), &config, &Clock::system(), None::<&NoBook>).await;
    assert!(report.warnings.iter().any(|warning| warning.contains("clock")), "{report:?}");
    assert!(report.errors.iter().any(|error| error.contains("speaks reference")), "{report:?}");

    config.base_url = "http://127.0.0.1:1".to_owned();
    let report = check(&"acme".into(), &config, &Clock::system(), None::<&NoBook>).await;
    assert!(!report.reachable && !report.good());
}
