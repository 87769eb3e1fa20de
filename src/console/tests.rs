use std::future::IntoFuture;
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use time::macros::datetime;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::page::{count, span};
use super::*;

fn overview() -> Overview {
    let at = datetime!(2026-11-24 10:52:07.5 UTC);
    let stream = |stream: &str, state: &str, top, lag| StreamLine {
        account: "acme".into(),
        stream: stream.into(),
        state: state.into(),
        position_at: datetime!(2026-11-24 10:00 UTC),
        lag_seconds: lag,
        headroom_seconds: Some(258_000.0),
        top,
    };
    let sink = |sink: &str, kind: &str, state: &str, lag_events| SinkLine {
        sink: sink.into(),
        shard: 0,
        kind: kind.into(),
        promise: if kind == "kafka" { "exactly once" } else { "at least once" }.into(),
        state: state.into(),
        cursor: Some(12_345),
        lag_events,
        lag_seconds: Some(0.2),
        dead_letters: 0,
        audit: (kind == "kafka").then(|| AuditLine {
            judged: 4_711,
            found: 1,
            finding: Some("duplicate: seq 7 in <topic>".into()),
            at,
            error: None,
        }),
        error: None,
    };
    let event = |seq, event_type: &str, record_id: &str| EventLine {
        shard: 0,
        seq,
        account: "acme".into(),
        event_type: event_type.into(),
        record_id: record_id.into(),
        at,
    };
    Overview {
        deployment: "acme-prod".into(),
        at,
        notice: Some("The broker is a demo <i>broker</i>.".into()),
        reasons: vec!["sink ops: the breaker is open".into()],
        ledger: Ledger { id: "0f9b7d3c-1111-2222-3333-444455556666".into(), schema: 3 },
        shards: vec![ShardLine {
            shard: 0,
            owner: Some("host-1/8341".into()),
            epoch: 4,
            head: 12_457,
            voids: vec![VoidLine { from: 7, to: 106, at }],
        }],
        grants: vec![GrantLine {
            account: "acme".into(),
            state: "reauth_required",
            renewed_at: Some(at),
            expires_at: Some(at),
            refused_at: Some(at),
            error: Some("the vendor answered 400: <i>invalid_grant</i>".into()),
        }],
        streams: vec![stream("deals", "active", true, Some(0.0)), stream("leads", "stuck", false, Some(75.0))],
        sinks: vec![
            sink("crm", "kafka", "running", 12),
            SinkLine {
                dead_letters: 2,
                error: Some("503 from <b>the endpoint</b>; tried again at 10:55".into()),
                ..sink("ops", "webhook", "retrying", 48_210)
            },
        ],
        rehydrations: vec![RehydrationLine {
            sink: "crm".into(),
            shard: 0,
            found: 106,
            goes_on: 106,
            skips: 99,
            reclaimed: 1,
            at,
            done_at: Some(at),
        }],
        gaps: vec![GapLine {
            of: "acme/leads".into(),
            reason: "position_expired".into(),
            range: "from 4f2a to tail".into(),
            at,
        }],
        replica: Some(replica()),
        events: vec![event(12_357, "deal.updated", "456"), event(12_356, "contact.created", "<script>")],
    }
}

fn replica() -> Replica {
    Replica {
        cache: CacheLine { entries: 1_234, bytes: 4_096 },
        accounts: vec![LendingLine {
            account: "acme".into(),
            minute_left: 90,
            hour_left: 5_990,
            requests: 14,
            throttled: 2,
            lookups: 8,
            hits: 6,
            hit_ratio: Some(0.754),
        }],
        enrichment: vec![EnrichmentLine {
            sink: "ops".into(),
            stream: 4,
            cache: 3,
            vendor: 2_345,
            missed: 1,
            waiting: true,
        }],
    }
}

struct Standing(Result<Overview, String>);

impl Provide for Standing {
    fn overview(&self) -> BoxFuture<'_, Result<Overview, String>> {
        async { self.0.clone() }.boxed()
    }
}

async fn get(path: &str, of: Result<Overview, String>) -> (StatusCode, HeaderMap, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{path}", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(axum::serve(listener, router(Arc::new(Standing(of)))).into_future());
    let answer = crate::http::client_builder().build().unwrap().get(url).send().await.unwrap();
    (answer.status(), answer.headers().clone(), answer.text().await.unwrap())
}

#[tokio::test]
async fn the_page_shows_streams_sinks_counts_lag_and_gaps_and_escapes_all_of_it() {
    let (status, headers, page) = get("/console", Ok(overview())).await;
    assert_eq!(status, StatusCode::OK);
    for shown in [
        "acme-prod",
        "12\u{202F}357",
        "48\u{202F}210",
        "exactly once",
        "at least once",
        "deal.updated",
        "position expired",
        "reauth_required",
        "2026-11-24T10:52:07Z",
        "400: &lt;i&gt;invalid_grant",
        "Rehydrated",
        "2 d 23 h",
        "75 s",
        "Answers of the vendor that are kept: 1\u{202F}234, 4.0 KiB",
        "<td class=\"number\">75 %</td>",
        "4 by the stream, 3 by the cache, 2\u{202F}345 by the vendor, 1 without an answer; events wait now",
        "The broker is a demo &lt;i&gt;broker",
        "the breaker is open",
        "&lt;b&gt;the endpoint&lt;&#x2f;b&gt;",
        "&lt;script&gt;",
        r#"<meta http-equiv="refresh" content="2">"#,
    ] {
        assert!(page.contains(shown), "{shown} is not in\n{page}");
    }
    assert!(!page.contains("<script>") && !page.contains("<b>"));
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'self'"));
    assert!(
        !page.contains("http://") && !page.contains("https://") && !page.contains("style="),
        "nothing from elsewhere"
    );
}

#[tokio::test]
async fn a_person_can_make_it_stand_still() {
    let (_, _, page) = get("/console?refresh=0", Ok(overview())).await;
    assert!(!page.contains("http-equiv") && page.contains("standing still"));
}

#[tokio::test]
async fn it_says_so_when_the_ledger_is_out_of_reach_and_goes_on_asking() {
    let (status, _, page) = get("/console", Err("the ledger is out of reach".into())).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.contains("the ledger is out of reach") && page.contains("http-equiv=\"refresh\""));
}

#[tokio::test]
async fn an_empty_ledger_has_a_page_too_and_the_root_leads_to_it() {
    let empty = Overview {
        notice: None,
        reasons: Vec::new(),
        shards: Vec::new(),
        grants: Vec::new(),
        streams: Vec::new(),
        sinks: Vec::new(),
        gaps: Vec::new(),
        rehydrations: Vec::new(),
        replica: None,
        events: Vec::new(),
        ..overview()
    };
    let (status, _, page) = get("/console", Ok(empty)).await;
    assert!(
        status.is_success()
            && page.contains("Nothing is recorded yet.")
            && !page.contains("Door and budget")
            && !page.contains("class=\"notice")
    );
    let (status, headers, _) = get("/", Ok(overview())).await;
    assert!(status.is_redirection() && headers[header::LOCATION] == "/console");
    let (status, headers, _) = get("/console/style.css", Ok(overview())).await;
    assert!(status.is_success() && headers[header::CONTENT_TYPE] == "text/css; charset=utf-8");
}

#[test]
fn numbers_and_times_read_as_a_person_says_them() {
    assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1\u{202F}000", "1\u{202F}234\u{202F}567"]);
    let spans = [0.0, 0.42, 9.96, 75.0, 100.0, 3599.0, 3600.0, 19_200.0, 86_400.0, 187_200.0, -3.0, f64::NAN];
    let said = ["0 s", "0.4 s", "10 s", "75 s", "1 min", "59 min", "1 h", "5 h 20 min", "1 d", "2 d 4 h", "0 s", "0 s"];
    assert_eq!(spans.map(span), said);
}
