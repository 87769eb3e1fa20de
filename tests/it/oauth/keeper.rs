//! What keeps an access token, over HTTP, with the ledger in memory: that PostgreSQL keeps the same promises shows
//! `ledger::promises`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use serde_json::json;
use standpipe::clock::Clock;
use standpipe::config::{AccountConfig, Auth, DedupeBy, DialectChoice, OnGap, Secret, StreamStart};
use standpipe::event::grant::{Claimed, GrantBook, GrantClaim, GrantFailure, GrantRow, NewGrant};
use standpipe::event::ports::LedgerError;
use standpipe::event::{AccountName, LedgerId};
use standpipe::ledger::model::Model;
use standpipe::sell::{SellDisposition, SellError, Vendor};
use standpipe::telemetry::causes;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wiremock::matchers::{body_string_contains, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::wait::wait_until;

const TOKEN: &str = "/oauth2/token";
const LISTING: &str = "/v3/firehose";
const SOON: Duration = Duration::from_secs(20);

/// A ledger that can be away, and whose answers can be lost.
struct Book {
    model: Model,
    away: AtomicBool,
    /// So many answers to `keep` are lost, after it was carried out.
    lost: AtomicUsize,
    /// The newest generation that was kept.
    kept: AtomicI64,
}

impl Book {
    fn new() -> Arc<Self> {
        let model = Model::new(LedgerId(Uuid::nil()), Clock::system(), Duration::from_secs(15));
        let (away, lost, kept) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicI64::new(0));
        Arc::new(Self { model, away, lost, kept })
    }

    fn reach(&self) -> Result<(), LedgerError> {
        if self.away.load(Ordering::Relaxed) { Err(away()) } else { Ok(()) }
    }
}

fn away() -> LedgerError {
    LedgerError::Unavailable { doing: "asking", source: "it is away".into() }
}

impl GrantBook for Book {
    fn grant(&self, account: &AccountName) -> BoxFuture<'_, Result<Option<GrantRow>, LedgerError>> {
        let account = account.clone();
        async move {
            self.reach()?;
            self.model.grant(&account).await
        }
        .boxed()
    }

    fn claim_grant(&self, claim: GrantClaim) -> BoxFuture<'_, Result<Claimed, LedgerError>> {
        async move {
            self.reach()?;
            self.model.claim_grant(claim).await
        }
        .boxed()
    }

    fn keep_grant(&self, new: NewGrant) -> BoxFuture<'_, Result<bool, LedgerError>> {
        async move {
            self.reach()?;
            let generation = new.generation + 1;
            let kept = self.model.keep_grant(new).await?;
            self.kept.fetch_max(generation, Ordering::Relaxed);
            let lost = self.lost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |lost| lost.checked_sub(1));
            if lost.is_ok() { Err(away()) } else { Ok(kept) }
        }
        .boxed()
    }

    fn fail_grant(
        &self,
        account: &AccountName,
        claim: Uuid,
        how: GrantFailure,
    ) -> BoxFuture<'_, Result<bool, LedgerError>> {
        let account = account.clone();
        async move {
            self.reach()?;
            self.model.fail_grant(&account, claim, how).await
        }
        .boxed()
    }
}

struct Scene {
    server: MockServer,
    files: TempDir,
    book: Arc<Book>,
}

/// A process: its way to the vendor, and what keeps its token.
struct Replica {
    vendor: Vendor,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    told: Arc<Mutex<Vec<Option<String>>>>,
}

impl Replica {
    fn told(&self) -> Vec<Option<String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Scene {
    async fn start() -> Self {
        let scene = Self { server: MockServer::start().await, files: tempfile::tempdir().unwrap(), book: Book::new() };
        scene.write("refresh", "refresh-1");
        scene.write("client", "client-secret");
        scene.write("key", &"5e".repeat(32));
        scene
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), format!("{text}\n")).unwrap();
    }

    fn vendor(&self) -> Vendor {
        let config = AccountConfig {
            base_url: self.server.uri(),
            dialect: DialectChoice::Auto,
            auth: Auth::OAuth {
                client_id: "client".to_owned(),
                client_secret: Secret::file(self.file("client")),
                refresh_token: Secret::file(self.file("refresh")),
                key: Secret::file(self.file("key")),
            },
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
        };
        Vendor::new(&"acme".into(), &config, Clock::system()).unwrap()
    }

    fn replica(&self) -> Replica {
        let (vendor, stop, told) = (self.vendor(), CancellationToken::new(), Arc::<Mutex<Vec<_>>>::default());
        let mut tasks = JoinSet::new();
        let (kept, book, stopped, heard) = (vendor.clone(), self.book.clone(), stop.clone(), told.clone());
        tasks.spawn(async move {
            let hear = |trouble: Option<&str>| {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(trouble.map(str::to_owned));
            };
            kept.keep_grant(&*book, &hear, &stopped).await;
        });
        Replica { vendor, stop, tasks, told }
    }

    /// The token endpoint takes one refresh token once and gives an access token for `life` seconds, and another refresh token.
    async fn grants(&self, spent: &str, access: &str, rotated: Option<&str>, life: u64) {
        let granted = json!({"access_token": access, "refresh_token": rotated, "expires_in": life});
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
    async fn refuses(&self, at: &str, status: u16, body: &str) {
        let answer = ResponseTemplate::new(status).set_body_string(body);
        Mock::given(path(at)).respond_with(answer).with_priority(9).mount(&self.server).await;
    }

    async fn asked(&self, at: &str) -> usize {
        self.server.received_requests().await.unwrap().iter().filter(|request| request.url.path() == at).count()
    }

    async fn row(&self) -> GrantRow {
        self.book.model.grant(&"acme".into()).await.unwrap().unwrap()
    }
}

async fn until(what: &str, look: impl AsyncFnMut() -> bool) {
    wait_until(what, SOON, look).await;
}

#[tokio::test]
async fn a_new_grant_is_kept_once_though_answers_are_lost_and_lasts_for_who_comes_after() {
    let scene = Scene::start().await;
    scene.grants("refresh-1", "access-1", Some("refresh-2"), 3_600).await;
    scene.lists_for("access-1").await;
    // It is kept, and the ledger's answer is lost, twice.
    scene.book.lost.store(2, Ordering::Relaxed);
    let replica = scene.replica();
    replica.vendor.listing().await.unwrap();
    let row = scene.row().await;
    assert_eq!((row.generation, scene.asked(TOKEN).await), (1, 1));
    // 80 % of an hour, less what the test took.
    let due = Duration::from_mins(47)..=Duration::from_mins(48);
    assert!(due.contains(&row.renew_in), "{row:?}");
    drop(replica);
    let next = scene.replica();
    next.vendor.listing().await.expect("the same token");
    assert_eq!(scene.asked(TOKEN).await, 1);
    assert!(next.vendor.token_valid_for().unwrap() > Duration::from_mins(58), "to its end, not to its renewal");
}

#[tokio::test]
async fn many_refused_requests_of_two_replicas_make_one_refresh() {
    let scene = Scene::start().await;
    scene.grants("refresh-1", "stale", Some("refresh-2"), 3_600).await;
    scene.grants("refresh-2", "fresh", Some("refresh-3"), 3_600).await;
    scene.lists_for("fresh").await;
    scene.refuses(LISTING, 401, "").await;
    let (one, two) = (scene.replica(), scene.replica());
    let all = join_all((0..8).map(|n| if n % 2 == 0 { one.vendor.listing() } else { two.vendor.listing() })).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!((scene.asked(TOKEN).await, scene.row().await.generation), (2, 2));
}

#[tokio::test]
async fn two_replicas_renew_once_each_time_and_an_old_token_is_used_meanwhile() {
    let scene = Scene::start().await;
    for n in 1..=3 {
        let life = if n == 3 { 3_600 } else { 2 };
        scene.grants(&format!("refresh-{n}"), &format!("access-{n}"), Some(&format!("refresh-{}", n + 1)), life).await;
        scene.lists_for(&format!("access-{n}")).await;
    }
    scene.refuses(TOKEN, 400, r#"{"error":"invalid_grant"}"#).await;
    let replicas = [scene.replica(), scene.replica()];
    until("it was renewed twice", async || {
        for replica in &replicas {
            replica.vendor.listing().await.expect("there is always a token");
        }
        scene.book.kept.load(Ordering::Relaxed) == 3
    })
    .await;
    for replica in &replicas {
        replica.vendor.listing().await.unwrap();
        assert_eq!(replica.told(), Vec::<Option<String>>::new());
    }
    assert_eq!(scene.asked(TOKEN).await, 3);
    assert!(scene.row().await.refused.is_none());
}

/// As after a clock that was set back by hours, while a replica that is gone had claimed the exchange.
#[tokio::test]
async fn a_claim_that_seems_to_last_for_hours_ends_in_time() {
    let scene = Scene::start().await;
    let replica = scene.replica();
    until("it is known", async || scene.book.model.grant(&"acme".into()).await.unwrap().is_some()).await;
    let row = scene.row().await;
    let lasts = Duration::from_hours(5);
    let (account, claim, configured) = ("acme".into(), Uuid::from_u128(7), row.configured);
    scene.refuses(TOKEN, 500, "").await;
    until("it is claimed", async || {
        let ask = GrantClaim { account: AccountName::clone(&account), claim, configured, refused: None, lasts };
        matches!(scene.book.model.claim_grant(ask).await.unwrap(), Claimed::Ours(_))
    })
    .await;
    assert!(scene.row().await.claimed_for > Some(Duration::from_hours(4)));
    until("it ends in time", async || scene.row().await.claimed_for <= Some(Duration::from_secs(45))).await;
    drop(replica);
}

#[tokio::test]
async fn a_token_that_stays_refused_is_unauthorized_after_one_refresh() {
    let scene = Scene::start().await;
    for n in 1..=4 {
        scene.grants(&format!("refresh-{n}"), &format!("access-{n}"), Some(&format!("refresh-{}", n + 1)), 3_600).await;
    }
    scene.refuses(LISTING, 401, "").await;
    let replica = scene.replica();
    let error = replica.vendor.listing().await.expect_err("refused");
    assert_eq!(error.disposition(), SellDisposition::Unauthorized);
    assert_eq!((scene.asked(TOKEN).await, scene.asked(LISTING).await), (2, 2));
    // Nor do those that come at once afterwards.
    let all = join_all((0..4).map(|_| replica.vendor.listing())).await;
    assert!(all.iter().all(Result::is_err), "{all:?}");
    assert_eq!(scene.asked(TOKEN).await, 2);
    assert!(!replica.vendor.credential_changed());
    scene.lists_for("access-3").await;
    scene.write("refresh", "another");
    scene.grants("another", "access-3", None, 3_600).await;
    until("the new one is taken up", async || replica.vendor.credential_changed()).await;
    replica.vendor.listing().await.unwrap();
}

#[tokio::test]
async fn a_refused_refresh_token_is_told_loudly_and_never_tried_again_until_another_one_is_configured() {
    let scene = Scene::start().await;
    scene
        .refuses(TOKEN, 400, r#"{"error":"invalid_grant","error_description":"refresh-1 of client-secret was used"}"#)
        .await;
    scene.grants("by-hand", "access-2", None, 3_600).await;
    scene.lists_for("access-2").await;
    let replicas = [scene.replica(), scene.replica()];
    let all = join_all((0..6).map(|n| replicas[n % 2].vendor.listing())).await;
    for error in all {
        let error = error.expect_err("spent");
        assert!(matches!(error, SellError::ReauthRequired { .. }), "{error}");
        assert_eq!(error.disposition(), SellDisposition::Unauthorized);
        // INV-16
        let said = format!("{} {error:?} {:?}", causes(&error), replicas[0].vendor);
        let secret = ["refresh-1", "client-secret", "5e5e"].into_iter().find(|secret| said.contains(secret));
        assert!(said.contains("invalid_grant") && secret.is_none(), "{said}");
    }
    // A new process asks the row, not the vendor.
    let third = scene.replica();
    third.vendor.listing().await.expect_err("it is known");
    assert_eq!(scene.asked(TOKEN).await, 1, "one refused refresh in all");
    assert!(scene.row().await.refused.unwrap().why.contains("400: invalid_grant"));
    assert!(replicas.iter().all(|replica| replica.told()[0].as_ref().unwrap().starts_with("reauth_required")));
    scene.write("refresh", "by-hand");
    until("all go on", async || {
        join_all(replicas.iter().chain([&third]).map(|replica| replica.vendor.listing()))
            .await
            .iter()
            .all(Result::is_ok)
    })
    .await;
    assert_eq!(scene.asked(TOKEN).await, 2);
    assert!(replicas.iter().all(|replica| replica.told().last() == Some(&None)), "it is taken back");
}

#[tokio::test]
async fn a_ledger_that_is_away_costs_nothing_while_the_access_token_lasts() {
    let scene = Scene::start().await;
    scene.grants("refresh-1", "access-1", Some("refresh-2"), 4).await;
    scene.grants("refresh-2", "access-2", Some("refresh-3"), 3_600).await;
    scene.lists_for("access-1").await;
    scene.lists_for("access-2").await;
    let replica = scene.replica();
    replica.vendor.listing().await.unwrap();
    scene.book.away.store(true, Ordering::Relaxed);
    until("the renewal is due", async || !replica.told().is_empty()).await;
    assert_eq!(scene.asked(TOKEN).await, 1, "nothing is exchanged that could not be kept");
    replica.vendor.listing().await.expect("it lasts");
    until("it has ended", async || replica.vendor.token_valid_for().is_none()).await;
    let error = replica.vendor.listing().await.expect_err("no token");
    assert!(matches!(error, SellError::NoAccessToken { .. }), "{error}");
    assert_eq!(error.disposition(), SellDisposition::Retry(None), "it may pass");
    scene.book.away.store(false, Ordering::Relaxed);
    until("it goes on", async || replica.vendor.listing().await.is_ok()).await;
    assert_eq!(scene.asked(TOKEN).await, 2);
}

#[tokio::test]
async fn what_the_vendor_gave_is_kept_when_the_ledger_is_back_and_used_by_nobody_before() {
    let scene = Scene::start().await;
    let book = scene.book.clone();
    // Away from the moment on at which the vendor has answered.
    Mock::given(path(TOKEN))
        .respond_with(move |_: &wiremock::Request| {
            book.away.store(true, Ordering::Relaxed);
            let granted = json!({"access_token": "access-1", "refresh_token": "refresh-2", "expires_in": 3_600});
            ResponseTemplate::new(200).set_body_json(granted)
        })
        .mount(&scene.server)
        .await;
    scene.lists_for("access-1").await;
    let mut replica = scene.replica();
    until("the exchange is made", async || scene.asked(TOKEN).await == 1).await;
    // A stop waits for it.
    replica.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_millis(700), replica.tasks.join_next()).await;
    assert!(ended.is_err() && replica.vendor.token_valid_for().is_none());
    scene.book.away.store(false, Ordering::Relaxed);
    replica.tasks.join_next().await.unwrap().unwrap();
    assert_eq!((scene.row().await.generation, scene.asked(LISTING).await), (1, 0));
    scene.replica().vendor.listing().await.unwrap();
    assert_eq!(scene.asked(TOKEN).await, 1);
}

#[tokio::test]
async fn another_key_is_a_clear_error_and_spends_nothing() {
    let scene = Scene::start().await;
    scene.grants("refresh-1", "access-1", Some("refresh-2"), 3_600).await;
    scene.lists_for("access-1").await;
    scene.replica().vendor.listing().await.unwrap();
    let key = std::fs::read_to_string(scene.file("key")).unwrap();
    scene.write("key", &"aa".repeat(32));
    let replica = scene.replica();
    let error = replica.vendor.listing().await.expect_err("another key");
    assert!(error.to_string().contains("encrypted under the key"), "{error}");
    assert_eq!((error.disposition(), scene.asked(TOKEN).await), (SellDisposition::Unauthorized, 1));
    scene.write("key", "short");
    let error = scene.replica().vendor.listing().await.expect_err("no key");
    assert!(error.to_string().contains("not 32 bytes"), "{error}");
    scene.write("key", key.trim());
    scene.replica().vendor.listing().await.unwrap();
}

#[tokio::test]
async fn an_application_that_is_not_known_and_a_vendor_that_fails_spend_nothing() {
    // The last but one is not the vendor's: something before it turns requests away.
    for (status, body) in [(401, r#"{"error":"invalid_client"}"#), (403, "<html>"), (503, "<html>")] {
        let scene = Scene::start().await;
        scene.refuses(TOKEN, status, body).await;
        let replica = scene.replica();
        let error = replica.vendor.listing().await.expect_err("refused");
        assert!(!matches!(error, SellError::ReauthRequired { .. }), "{error}");
        let row = scene.row().await;
        assert!(row.refused.is_none() && row.doubt.is_none() && row.claimed_for.is_none(), "{row:?}");
        scene.server.reset().await;
        scene.grants("refresh-1", "access-1", None, 3_600).await;
        scene.lists_for("access-1").await;
        scene.replica().vendor.listing().await.expect("the refresh token is as good as before");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_leaves_a_doubt_that_a_refusal_tells_of() {
    let scene = Scene::start().await;
    Mock::given(path(TOKEN))
        .respond_with(ResponseTemplate::new(200).set_body_string(r#"{"access_token":"acc"#))
        .up_to_n_times(1)
        .mount(&scene.server)
        .await;
    scene.refuses(TOKEN, 400, r#"{"error":"invalid_grant"}"#).await;
    let replica = scene.replica();
    until("it was tried again", async || {
        replica.vendor.listing().await.is_err_and(|error| matches!(error, SellError::ReauthRequired { .. }))
    })
    .await;
    assert_eq!(scene.asked(TOKEN).await, 2);
    let why = scene.row().await.refused.unwrap().why;
    assert!(why.contains("no known end"), "{why}");
}
