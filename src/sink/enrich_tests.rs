use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::plan::{PIECE_EVENTS, PIECE_RECORDS};
use super::*;
use crate::event::ports::Address;
use crate::event::{Chain, ContentHash, Found, LookingUp, Wanted};

const MAX_AGE: Duration = Duration::from_mins(10);

/// Looks up what stands in an event's record id, as `POLICY/ID ID …`; delivers everything.
struct Rules;

impl Route for Rules {
    fn decide(&self, event: &Recorded) -> Result<Decision, RouteError> {
        let Some((policy, ids)) = event.record_id.split_once('/') else {
            return Ok(Decision::Deliver(Address::default()));
        };
        let keys = ids.split(' ').map(key).collect();
        let (on_miss, max_age) = match policy {
            "wait" => (OnMiss::Wait, MAX_AGE),
            "skip" => (OnMiss::Skip, MAX_AGE),
            "soon" => (OnMiss::Null, MAX_AGE / 2),
            _ => (OnMiss::Null, MAX_AGE),
        };
        let wanted = vec![Wanted { name: "x".into(), keys, is_list: true, max_age, on_miss }];
        Ok(Decision::LookUp(Box::new(LookUps { wanted, address: None })))
    }

    fn looks_up(&self) -> bool {
        true
    }

    fn complete(
        &self,
        event: &Recorded,
        lookups: &LookUps,
        found: &dyn Fn(&RecordKey) -> Option<Found>,
        _now: OffsetDateTime,
    ) -> Recorded {
        let known = lookups.keys().filter(|(key, _)| found(key).is_some()).map(|(key, _)| &*key.id);
        let body = known.collect::<Vec<_>>().join(" ");
        Recorded { body: format!("{body}{}", "x".repeat(large(event))).into(), ..event.clone() }
    }

    fn decide_completed(&self, event: &Recorded, _lookups: &LookUps) -> Result<Decision, RouteError> {
        Ok(Decision::Deliver(Address { key: event.id.to_string(), ..Address::default() }))
    }
}

/// Some events are made large by what is found.
fn large(event: &Recorded) -> usize {
    if event.record_id.contains("large") { PIECE_BYTES / 4 } else { 0 }
}

fn key(id: &str) -> RecordKey {
    RecordKey { account: "acme".into(), collection: "contacts".into(), id: id.into() }
}

/// Answers everything, but what stands here.
#[derive(Debug, Default)]
struct Vendor {
    /// What is at hand: since when, and of how many bytes.
    kept: Mutex<BTreeMap<String, (Instant, usize)>>,
    asked: Mutex<BTreeMap<String, u32>>,
    down: Mutex<BTreeMap<String, LookUpError>>,
    at_once: Mutex<(usize, usize)>,
}

impl Vendor {
    fn asked(&self) -> Vec<(String, u32)> {
        std::mem::take(&mut *self.asked.lock().unwrap()).into_iter().collect()
    }

    fn fail(&self, id: &str, with: LookUpError) {
        self.down.lock().unwrap().insert(id.to_owned(), with);
    }

    fn keep(&self, ids: impl IntoIterator<Item = usize>, bytes: usize) {
        self.kept.lock().unwrap().extend(ids.into_iter().map(|id| (id.to_string(), (Instant::now(), bytes))));
    }

    fn recover(&self) {
        self.down.lock().unwrap().clear();
    }
}

impl LookUp for Vendor {
    fn at_hand(&self, key: &RecordKey, max_age: Duration) -> Option<Found> {
        let (since, bytes) = *self.kept.lock().unwrap().get(&*key.id)?;
        let record = Some(vec![b' '; bytes].into());
        (since.elapsed() < max_age).then_some(Found {
            answerer: Answerer::Cache,
            as_of: OffsetDateTime::UNIX_EPOCH,
            record,
        })
    }

    fn look_up<'l>(&'l self, key: &'l RecordKey, _max_age: Duration, _patience: Duration) -> LookingUp<'l> {
        Box::pin(async move {
            {
                let mut at_once = self.at_once.lock().unwrap();
                at_once.0 += 1;
                at_once.1 = at_once.1.max(at_once.0);
            }
            *self.asked.lock().unwrap().entry(key.id.to_string()).or_default() += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.at_once.lock().unwrap().0 -= 1;
            match self.down.lock().unwrap().get(&*key.id) {
                Some(error) => Err(error.clone()),
                None => Ok(Found { answerer: Answerer::Vendor, as_of: OffsetDateTime::UNIX_EPOCH, record: None }),
            }
        })
    }
}

fn not_now() -> LookUpError {
    LookUpError::NotNow { why: "503".to_owned(), again_after: Duration::from_secs(2) }
}

fn world() -> (Arc<Vendor>, Arc<Enricher>) {
    let vendor = Arc::new(Vendor::default());
    let lookups: Arc<dyn LookUp> = vendor.clone();
    let enricher = Enricher::of(&Rules, &lookups, &"crm".into(), Shard(0), &Clock::system()).unwrap();
    (vendor, enricher)
}

fn batch(records: &[&str]) -> Batch {
    let events = (1..).zip(records).map(|(seq, record)| Recorded {
        seq: Seq(seq),
        chain: Chain([0; 32]),
        account: "acme".into(),
        event_type: "deal.updated".into(),
        id: format!("e{seq}").into(),
        record_id: (*record).into(),
        occurred_at: None,
        recorded_at: OffsetDateTime::UNIX_EPOCH,
        content_hash: ContentHash([0; 16]),
        body: "{}".into(),
        replay: None,
    });
    Batch { shard: Shard(0), after: Seq(0), chain_before: Chain([0; 32]), void: None, events: events.collect() }
}

/// The bodies of a piece, from `at` on.
fn bodies(mut piece: Piece, at: usize) -> Vec<String> {
    let events = (at..piece.end).map(|index| piece.take(Seq(index as u64 + 1)).expect("all up to its end"));
    events.map(|done| String::from_utf8(done.event.body.to_vec()).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_record_is_asked_for_once_for_all_events_of_a_batch() {
    let (vendor, enricher) = world();
    let batch = batch(&["wait/7", "plain", "skip/7 8", "null/8", "wait/7"]);
    let piece = enricher.piece(&Rules, &batch, 0).await;
    assert_eq!(bodies(piece, 0), ["7", "{}", "7 8", "8", "7"]);
    assert_eq!(vendor.asked(), [("7".to_owned(), 1), ("8".to_owned(), 1)]);
    assert_eq!(bodies(enricher.piece(&Rules, &batch, 3).await, 3), ["8", "7"], "from where it is asked for");
}

#[tokio::test(start_paused = true)]
async fn for_what_is_at_hand_nobody_is_asked_and_nothing_waits() {
    let (vendor, enricher) = world();
    vendor.keep([7, 8], 1);
    let (batch, began) = (batch(&["wait/7", "null/7 8"]), Instant::now());
    assert_eq!(bodies(enricher.piece(&Rules, &batch, 0).await, 0), ["7", "7 8"]);
    assert!(enricher.one(&Rules, &batch.events[0]).await.is_ok());
    assert_eq!((vendor.asked(), began.elapsed()), (vec![], Duration::ZERO));
    let one = self::batch(&["wait/7 9"]);
    assert_eq!(bodies(enricher.piece(&Rules, &one, 0).await, 0), ["7 9"]);
    assert_eq!(vendor.asked(), [("9".to_owned(), 1)], "only for what is not");
}

#[tokio::test(start_paused = true)]
async fn what_is_at_hand_is_not_asked_for_but_where_it_is_too_old() {
    let (vendor, enricher) = world();
    vendor.keep([7], 1);
    tokio::time::sleep(MAX_AGE / 2).await;
    let both = batch(&["wait/7", "soon/7", "wait/7"]);
    assert_eq!(bodies(enricher.piece(&Rules, &both, 2).await, 2), ["7"]);
    assert_eq!(vendor.asked(), []);
    assert_eq!(bodies(enricher.piece(&Rules, &both, 0).await, 0), ["7", "7", "7"]);
    assert_eq!(vendor.asked(), [("7".to_owned(), 1)], "one of them wants a younger answer");
    // While another one is waited for it grows too old.
    vendor.fail("9", not_now());
    let (began, late) = (Instant::now(), batch(&["wait/9 7"]));
    let (_, ()) = tokio::join!(enricher.piece(&Rules, &late, 0), async {
        tokio::time::sleep(MAX_AGE / 2).await;
        vendor.recover();
    });
    assert!(began.elapsed() >= MAX_AGE / 2);
    assert_eq!(vendor.asked().iter().map(|(id, _)| &**id).collect::<Vec<_>>(), ["7", "9"]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_passed_over_is_given_up_and_those_behind_it_are_there() {
    let (_vendor, enricher) = world();
    let mut piece = enricher.piece(&Rules, &batch(&["wait/7", "wait/8", "wait/9"]), 0).await;
    assert_eq!(piece.take(Seq(2)).unwrap().event.seq, Seq(2));
    assert!(piece.take(Seq(1)).is_none());
    assert!(piece.take(Seq(3)).is_some() && piece.take(Seq(4)).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_must_wait_holds_what_is_behind_it_and_nothing_before() {
    let (vendor, enricher) = world();
    vendor.fail("9", not_now());
    let batch = batch(&["wait/7", "skip/9", "wait/9", "wait/7"]);
    let piece = enricher.piece(&Rules, &batch, 0).await;
    assert_eq!(piece.end, 2);
    assert_eq!(bodies(piece, 0), ["7", ""], "one goes without");
    assert_eq!(enricher.waits().as_deref(), Some("enrich.x waits: 503"));
    let began = Instant::now();
    let (later, ()) = tokio::join!(enricher.piece(&Rules, &batch, 2), async {
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert!(enricher.waits().is_some(), "it says so again and again");
        vendor.recover();
    });
    assert!(began.elapsed() < Duration::from_secs(64), "soon after the vendor is back");
    assert_eq!(bodies(later, 2), ["9", "7"]);
    assert_eq!(enricher.waits(), None);
    let asked: u32 = vendor.asked().iter().filter(|(id, _)| id == "9").map(|(_, times)| times).sum();
    assert!((30..=33).contains(&asked), "not before it is of use: {asked}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_will_never_come_makes_a_dead_letter_where_the_event_would_wait() {
    let (vendor, enricher) = world();
    vendor.fail("9", LookUpError::Never { why: "400".to_owned() });
    let batch = batch(&["wait/9", "null/9"]);
    let mut piece = enricher.piece(&Rules, &batch, 0).await;
    let error = piece.take(Seq(1)).unwrap().decision.unwrap_err();
    assert_eq!(error.to_string(), "enrich.x failed on this event: 400");
    assert!(piece.take(Seq(2)).unwrap().decision.is_ok(), "the other goes without");
}

#[tokio::test(start_paused = true)]
async fn a_piece_is_bounded_in_events_records_and_bytes_and_so_is_what_is_asked_at_once() {
    let (vendor, enricher) = world();
    let many: Vec<String> = (0..2 * PIECE_RECORDS).map(|id| format!("wait/{id}")).collect();
    let batch_of = |records: &[String]| batch(&records.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(enricher.piece(&Rules, &batch_of(&many), 0).await.end, PIECE_RECORDS);
    assert_eq!(vendor.at_once.lock().unwrap().1, AT_ONCE);
    vendor.keep(0..2 * PIECE_RECORDS, 1);
    assert_eq!(enricher.piece(&Rules, &batch_of(&many), 0).await.end, 2 * PIECE_RECORDS, "all of it is at hand");
    vendor.keep(0..2 * PIECE_RECORDS, PIECE_BYTES / 8);
    assert_eq!(enricher.piece(&Rules, &batch_of(&many), 0).await.end, 8);
    vendor.kept.lock().unwrap().clear();
    let plain = vec!["plain".to_owned(); 2 * PIECE_EVENTS];
    assert_eq!(enricher.piece(&Rules, &batch_of(&plain), 1).await.end, PIECE_EVENTS + 1);
    let large = vec!["skip/large".to_owned(); 12];
    assert_eq!(enricher.piece(&Rules, &batch_of(&large), 0).await.end, 4);
    let all_at_once = (0..2 * PIECE_RECORDS).map(|id| id.to_string()).collect::<Vec<_>>().join(" ");
    assert_eq!(enricher.piece(&Rules, &batch(&[&format!("wait/{all_at_once}")]), 0).await.end, 1, "never none");
}

#[tokio::test(start_paused = true)]
async fn one_event_alone_says_that_it_must_wait_and_how_long() {
    let (vendor, enricher) = world();
    vendor.fail("9", not_now());
    let batch = batch(&["wait/9", "skip/9"]);
    let wait = enricher.one(&Rules, &batch.events[0]).await.unwrap_err();
    assert_eq!(wait, MustWait { why: "enrich.x waits: 503".to_owned(), pause: Duration::from_secs(2) });
    assert!(enricher.one(&Rules, &batch.events[1]).await.is_ok());
    assert!(enricher.waits().is_some(), "another one goes");
    vendor.recover();
    assert!(enricher.one(&Rules, &batch.events[0]).await.is_ok());
    assert_eq!(enricher.waits(), None, "it does not wait any more, whoever has answered");
    vendor.fail("9", not_now());
    enricher.one(&Rules, &batch.events[0]).await.unwrap_err();
    tokio::time::sleep(STALE).await;
    assert_eq!(enricher.waits(), None, "nobody has said so for long");
}

#[tokio::test(start_paused = true)]
async fn the_metric_says_that_events_wait_only_while_they_do() {
    let (recorder, shown) = crate::telemetry::recorder::Recorder::build();
    let (vendor, enricher) = metrics::with_local_recorder(&recorder, world);
    let waiting = |value: u32| {
        let line = format!("standpipe_enrichment_waiting{{sink=\"crm\",shard=\"0\"}} {value}");
        assert!(shown.render().lines().any(|shown| shown == line), "{line} in\n{}", shown.render());
    };
    vendor.fail("9", not_now());
    let batch = batch(&["wait/9", "wait/9"]);
    enricher.one(&Rules, &batch.events[0]).await.unwrap_err();
    waiting(1);
    // It was passed over by an operator's wish: nobody will say that it goes on.
    tokio::time::sleep(STALE).await;
    enricher.one(&Rules, &batch.events[1]).await.unwrap_err();
    vendor.recover();
    assert!(enricher.one(&Rules, &batch.events[1]).await.is_ok());
    waiting(0);
    vendor.fail("9", not_now());
    enricher.one(&Rules, &batch.events[0]).await.unwrap_err();
    waiting(1);
    drop(enricher);
    waiting(0);
}
