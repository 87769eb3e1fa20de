use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use wiremock::matchers::{body_string_contains, header, header_exists, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::clock::Clock;
use crate::config::{AccountConfig, Auth, DedupeBy, DialectChoice, OnGap, Secret, StreamStart};
use crate::event::Position;
use crate::event::ports::Dialect;

const TOKEN: &str = "/oauth2/token";
const LISTING: &str = "/v3/firehose";

struct Scene {
    server: MockServer,
    files: TempDir,
}

impl Scene {
    async fn start() -> Self {
        let scene = Self { server: MockServer::start().await, files: tempfile::tempdir().unwrap() };
        std::fs::write(scene.file("refresh"), "refresh-1\n").unwrap();
        std::fs::write(scene.file("client"), "client-secret\n").unwrap();
        scene
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn held(&self) -> String {
        std::fs::read_to_string(self.file("refresh")).unwrap().trim().to_owned()
    }

    fn oauth(&self) -> Auth {
        Auth::OAuth {
            client_id: "client".to_owned(),
            client_secret: Secret::file(self.file("client")),
            refresh_token: Secret::file(self.file("refresh")),
        }
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

    /// The token endpoint takes one refresh token once and gives an access token, and another refresh token.
    async fn grants(&self, spent: &str, access: &str, rotated: Option<&str>) {
        let granted = serde_json::json!({"access_token": access, "refresh_token": rotated, "expires_in": 3_600});
        Mock::given(method("POST"))
            .and(path(TOKEN))
            .and(header("authorization", "Basic Y2xpZW50OmNsaWVudC1zZWNyZXQ="))
            .and(body_string_contains("grant_type=refresh_token"))
            .and(body_string_contains(format!("refresh_token={spent}")))
            .respond_with(ResponseTemplate::new(200).set_body_json(granted))
            .up_to_n_times(1)
            .mount(&self.server)
            .await;
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

    async fn asked(&self, at: &str) -> usize {
        self.server.received_requests().await.unwrap().iter().filter(|request| request.url.path() == at).count()
    }
}

#[tokio::test]
async fn a_rotated_refresh_token_is_kept_before_the_access_token_is_used() {
    let scene = Scene::start().await;
    scene.grants("refresh-1", "access-1", Some("refresh-2")).await;
    // The listing is answered only when the new refresh token stands in its file.
    let file = scene.file("refresh");
    Mock::given(path(LISTING))
        .respond_with(move |_: &wiremock::Request| {
            let kept = std::fs::read_to_string(&file).unwrap() == "refresh-2\n";
            ResponseTemplate::new(if kept { 200 } else { 500 }).set_body_string(r#"{"items":[]}"#)
        })
        .mount(&scene.server)
        .await;
    scene.vendor(scene.oauth()).listing().await.expect("kept before it was used");
    assert_eq!(std::fs::read_dir(scene.files.path()).unwrap().count(), 2, "no temporary file is left");
}

#[tokio::test]
async fn many_refused_requests_make_one_refresh() {
    let scene = Scene::start().await;
    scene.grants("refresh-1", "stale", Some("refresh-2")).await;
    scene.grants("refresh-2", "fresh", Some("refresh-3")).await;
    scene.lists_for("fresh").await;
    scene.refuses(LISTING, 401).await;
    let vendor = scene.vendor(scene.oauth());
    let all = futures_util::future::join_all((0..8).map(|_| vendor.listing())).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!((scene.asked(TOKEN).await, scene.held().as_str()), (2, "refresh-3"));
}

#[tokio::test]
async fn a_token_that_stays_refused_is_unauthorized_after_one_refresh() {
    let scene = Scene::start().await;
    scene.grants("refresh-1", "access-1", None).await;
    scene.grants("refresh-1", "access-2", None).await;
    scene.refuses(LISTING, 401).await;
    let vendor = scene.vendor(scene.oauth());
    let error = vendor.listing().await.expect_err("refused");
    assert_eq!(error.disposition(), SellDisposition::Unauthorized);
    assert_eq!((scene.asked(TOKEN).await, scene.asked(LISTING).await), (2, 2));
    assert!(!vendor.credential_changed());
    std::fs::write(scene.file("refresh"), "another\n").unwrap();
    assert!(vendor.credential_changed());
}

#[tokio::test]
async fn a_spent_refresh_token_is_unauthorized_and_shows_no_secret() {
    let scene = Scene::start().await;
    Mock::given(path(TOKEN))
        .respond_with(ResponseTemplate::new(400).set_body_string(r#"{"error":"invalid_grant"}"#))
        .mount(&scene.server)
        .await;
    let vendor = scene.vendor(scene.oauth());
    let error = vendor.listing().await.expect_err("spent");
    assert_eq!(error.disposition(), SellDisposition::Unauthorized);
    // INV-16
    let said = format!("{} {error:?} {vendor:?}", crate::telemetry::causes(&error));
    assert!(said.contains("invalid_grant") && !said.contains("refresh-1") && !said.contains("client-secret"), "{said}");
}

#[tokio::test]
async fn a_refresh_token_that_an_operator_replaced_counts() {
    let scene = Scene::start().await;
    scene.grants("refresh-1", "access-1", Some("refresh-2")).await;
    scene.grants("by-hand", "access-2", None).await;
    scene.lists_for("access-2").await;
    scene.refuses(LISTING, 401).await;
    scene.refuses(TOKEN, 400).await;
    let vendor = scene.vendor(scene.oauth());
    vendor.listing().await.expect_err("the first token is refused");
    std::fs::write(scene.file("refresh"), "by-hand\n").unwrap();
    vendor.listing().await.expect("the new one is taken up");
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
    let report = check(&"acme".into(), &scene.config(token()), &Clock::system()).await;
    assert!(report.good(), "{report:?}");
    assert_eq!((report.dialect, report.token_accepted), (Some(Dialect::Reference), Some(true)));
    assert_eq!(report.streams, ["deals"]);

    let scene = Scene::start().await;
    Mock::given(path(LISTING)).respond_with(ResponseTemplate::new(404)).mount(&scene.server).await;
    let report = check(&"acme".into(), &scene.config(token()), &Clock::system()).await;
    assert_eq!(report.dialect, Some(Dialect::Live));
    assert!(!report.good(), "no stream answers: {report:?}");
    scene.refuses("/v3/deals/stream", 403).await;
    let report = check(&"acme".into(), &scene.config(token()), &Clock::system()).await;
    assert_eq!((report.token_accepted, report.firehose), (Some(true), Some(false)));
    assert!(report.errors[0].contains("Growth plan"), "{report:?}");

    let scene = Scene::start().await;
    scene.refuses(LISTING, 401).await;
    let report = check(&"acme".into(), &scene.config(token()), &Clock::system()).await;
    assert_eq!((report.reachable, report.token_accepted), (true, Some(false)));

    let scene = Scene::start().await;
    let skewed = ResponseTemplate::new(200)
        .insert_header("date", "Wed, 21 Oct 2015 07:28:00 GMT")
        .set_body_string(r#"{"items":[]}"#);
    Mock::given(path(LISTING)).respond_with(skewed).mount(&scene.server).await;
    let mut config = scene.config(token());
    config.dialect = DialectChoice::Fixed(Dialect::Live);
    let report = check(&"acme".into(), &config, &Clock::system()).await;
    assert!(report.warnings.iter().any(|warning| warning.contains("clock")), "{report:?}");
    assert!(report.errors.iter().any(|error| error.contains("speaks reference")), "{report:?}");

    config.base_url = "http://127.0.0.1:1".to_owned();
    let report = check(&"acme".into(), &config, &Clock::system()).await;
    assert!(!report.reachable && !report.good());
}
