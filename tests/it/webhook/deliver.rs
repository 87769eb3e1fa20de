//! At least once, in the order of each record, under one id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use standpipe::event::ports::LedgerError;
use standpipe::sink::webhook::WebhookSinkError;
use tokio::sync::watch;
use tokio::time::Instant;

use super::receiver::{Got, Receiver, Reply};
use super::world::{SECRET, SOON, World, config};
use crate::support::receiver::VerifyingReceiver;
use crate::support::wait::{hold, wait_until};

/// Seqs 1..=n of records `r0`, `r1`, … in turn.
fn records(events: usize, of: usize) -> Vec<String> {
    (0..events).map(|at| format!("r{}", at % of)).collect()
}

fn first_deliveries(seqs: &[u64]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    seqs.iter().copied().filter(|seq| seen.insert(*seq)).collect()
}

fn assert_order_of_records(seqs: &[u64], of: u64) {
    for record in 0..of {
        let of_record: Vec<u64> = first_deliveries(seqs).into_iter().filter(|seq| (seq - 1) % of == record).collect();
        assert!(of_record.is_sorted(), "record {record} came as {of_record:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_good_path_delivers_once_with_every_header_and_writes_nothing_but_the_cursor() {
    let (world, receiver) = (World::new().await, Receiver::good().await);
    let sink = world.run("ops", config(&receiver.url()));
    world.record(records(500, 20)).await;
    world.record_as("deal.unwanted", ["r1"]).await;
    world.wait_cursor("ops", 501).await;
    assert_eq!(receiver.count(), 500);
    assert_order_of_records(&receiver.seqs(), 20);
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 0);
    assert_eq!(world.count("SELECT coalesce(sum(n_tup_ins), 0)::bigint FROM pg_stat_user_tables WHERE relname IN ('deliveries', 'attempts')").await, 0);
    let first = receiver.got().into_iter().find(|got| got.seq() == 1).unwrap();
    assert_eq!(first.header("webhook-id"), "evt_acme_e_5f1");
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.header("content-length"), first.body.len().to_string());
    assert!(first.headers.get("transfer-encoding").is_none(), "no chunking");
    assert_eq!(first.header("standpipe-shard"), "0");
    assert_eq!(first.header("x-type"), "deal.updated");
    assert_eq!(first.header("traceparent").len(), 55);
    assert!(first.header("user-agent").starts_with("standpipe/"));
    sink.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_is_not_ours_verifies_what_we_sign() {
    let world = World::new().await;
    let (signing, public) = standpipe::sink::webhook::new_signing_key();
    let receiver = VerifyingReceiver::start(SECRET, Some(&public)).await;
    let mut config = config(&receiver.url());
    // The one before it must not disturb the one that the receiver knows.
    config.secrets.insert(0, standpipe::config::Secret::value("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"));
    config.signing_key = Some(standpipe::config::Secret::value(secrecy::ExposeSecret::expose_secret(&signing)));
    let sink = world.run("ops", config);
    world.record(records(20, 5)).await;
    world.wait_cursor("ops", 20).await;
    let requests = receiver.received();
    assert_eq!(requests.len(), 20);
    for request in requests {
        assert_eq!(request.error, None, "{request:?}");
        assert!(request.header("webhook-signature").split(' ').count() == 3);
    }
    sink.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_holds_back_its_record_alone_and_its_order_is_kept() {
    let (world, mut refusals) = (World::new().await, 3);
    // INV-12: seq 1 is refused three times; 2 and 4 are of other records, 3 and 5 of its own.
    let receiver = Receiver::start(move |got| {
        if got.seq() == 1 && refusals > 0 {
            refusals -= 1;
            return Reply::Status(500);
        }
        Reply::Status(200)
    })
    .await;
    let sink = world.run("ops", config(&receiver.url()));
    world.record(["a", "b", "a", "c", "a"]).await;
    // The cursor passes, because the rest is kept as rows (INV-10).
    wait_until("all are delivered", SOON, async || receiver.count() == 8).await;
    let seqs = receiver.seqs();
    assert_eq!(seqs.iter().filter(|seq| [1, 3, 5].contains(seq)).copied().collect::<Vec<_>>(), [1, 1, 1, 1, 3, 5]);
    let ids: BTreeSet<String> = receiver.got().iter().filter(|got| got.seq() == 1).map(Got::id).collect();
    assert_eq!(ids.len(), 1, "INV-13: one id for every attempt");
    let place = |seq| seqs.iter().position(|other| *other == seq).unwrap();
    assert!(place(2) < place(3) && place(4) < place(3), "others do not wait: {seqs:?}");
    world.wait_cursor("ops", 5).await;
    wait_until("the rows are gone", SOON, async || {
        world.count("SELECT (SELECT count(*) FROM deliveries) + (SELECT count(*) FROM attempts)").await == 0
    })
    .await;
    sink.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_order_nothing_waits() {
    let world = World::new().await;
    let receiver = Receiver::start(|got| if got.seq() == 1 { Reply::Status(500) } else { Reply::Status(200) }).await;
    let mut config = config(&receiver.url());
    config.order = standpipe::config::Order::None;
    config.retry_schedule = vec![Duration::from_hours(1)];
    let sink = world.run("ops", config);
    world.record(["a", "a", "a"]).await;
    wait_until("the others come", SOON, async || receiver.count() == 3).await;
    world.wait_cursor("ops", 3).await;
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 1);
    sink.end().await.unwrap();
}

/// INV-10, INV-13
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_repeats_at_most_what_was_under_way_and_a_second_of_cursor_with_the_same_ids() {
    let world = World::new().await;
    let mut count = 0;
    let receiver = Receiver::start(move |_| {
        count += 1;
        // Some fail, so that rows take part.
        if count % 37 == 0 { Reply::Status(500) } else { Reply::Late(Duration::from_millis(10), 200) }
    })
    .await;
    let mut config = config(&receiver.url());
    config.max_in_flight = 4;
    world.record(records(1_200, 30)).await;
    let mut repeated_bound = 0;
    let mut before = 0;
    for crash in 1..=2 {
        let sink = world.run("ops", config.clone());
        wait_until("some are delivered", SOON, async || receiver.count() >= before + crash * 300).await;
        sink.crash().await;
        // A second of cursor, and the looks between which it lies.
        let recent = Instant::now() - Duration::from_millis(1_600);
        repeated_bound += receiver.got().iter().filter(|got| got.at >= recent).count() + config.max_in_flight;
        before = receiver.count();
    }
    let sink = world.run("ops", config);
    world.wait_cursor("ops", 1_200).await;
    wait_until("no rows are left", SOON, async || world.count("SELECT count(*) FROM deliveries").await == 0).await;
    let got = receiver.got();
    let mut ids: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for one in &got {
        ids.entry(one.seq()).or_default().insert(one.id());
    }
    assert_eq!(ids.len(), 1_200, "none is missing");
    assert!(ids.values().all(|ids| ids.len() == 1), "the same id at every attempt");
    assert_order_of_records(&receiver.seqs(), 30);
    let failures = got.len() / 37;
    let repeated = got.len() - 1_200 - failures;
    assert!(repeated <= repeated_bound, "{repeated} were repeated, the bound is {repeated_bound}");
    sink.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_attempt_becomes_a_row_and_the_cursor_passes_it() {
    let world = World::new().await;
    let (release, held) = watch::channel(false);
    let receiver =
        Receiver::start(move |got| if got.seq() == 1 { Reply::Held(held.clone(), 200) } else { Reply::Status(200) })
            .await;
    let sink = world.run("ops", config(&receiver.url()));
    world.record(["a", "b", "a"]).await;
    world.wait_cursor("ops", 3).await;
    // 1 and 2 are of different records and go side by side.
    let arrived = || BTreeSet::from_iter(receiver.seqs());
    assert_eq!(arrived(), [1, 2].into(), "3 waits behind 1");
    assert_eq!(world.count("SELECT count(*) FROM deliveries WHERE seq IN (1, 3) AND attempts = 0").await, 2);
    release.send(true).unwrap();
    wait_until("the rest comes", SOON, async || receiver.count() == 3).await;
    wait_until("the rows are gone", SOON, async || world.count("SELECT count(*) FROM deliveries").await == 0).await;
    assert_eq!((arrived(), receiver.seqs()[2], receiver.count()), ([1, 2, 3].into(), 3, 3), "none twice");
    sink.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_our_own_stop_cuts_off_does_not_count() {
    let world = World::new().await;
    let receiver = Receiver::start(|_| Reply::Hang).await;
    let sink = world.run("ops", config(&receiver.url()));
    world.record(["a"]).await;
    wait_until("it is a row", SOON, async || world.count("SELECT count(*) FROM deliveries").await == 1).await;
    let asked = Instant::now();
    sink.end().await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(10), "a stop waits for nobody for long");
    assert_eq!(world.count("SELECT count(*) FROM deliveries WHERE attempts = 0").await, 1);
    receiver.answer_with(|_| Reply::Status(200));
    let sink = world.run("ops", config(&receiver.url()));
    wait_until("it is delivered", SOON, async || world.count("SELECT count(*) FROM deliveries").await == 0).await;
    sink.end().await.unwrap();
}

/// INV-6
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_whose_shard_has_another_owner_writes_nothing_and_ends() {
    let world = World::new().await;
    let receiver = Receiver::start(|_| Reply::Status(500)).await;
    let sink = world.run("ops", config(&receiver.url()));
    world.record(["a"]).await;
    wait_until("a first failure is kept", SOON, async || world.count("SELECT count(*) FROM deliveries").await == 1)
        .await;
    world.execute("UPDATE shards SET epoch = epoch + 1").await;
    let error = sink.ended().await.unwrap_err();
    assert!(matches!(error, WebhookSinkError::Ledger(LedgerError::Fenced { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_up_becomes_a_dead_letter_releases_its_record_and_is_redriven_under_its_id() {
    let world = World::new().await;
    let receiver = Receiver::start(|got| if got.seq() == 1 { Reply::Status(500) } else { Reply::Status(200) }).await;
    let mut config = config(&receiver.url());
    config.retry_schedule = vec![Duration::from_millis(50); 2];
    let sink = world.run("ops", config);
    world.record(["a", "a"]).await;
    world.record_as("deal.broken", ["b"]).await;
    wait_until("two dead letters", SOON, async || world.count("SELECT count(*) FROM dead_letters").await == 2).await;
    wait_until("the next of the record comes", SOON, async || receiver.seqs() == [1, 1, 1, 2]).await;
    let letters = world.ledger.list_dead_letters(&standpipe::ledger::DeadLetters::default(), 10).await.unwrap();
    assert_eq!(
        letters.iter().map(|letter| (letter.seq.0, letter.attempts)).collect::<BTreeSet<_>>(),
        [(1, 3), (3, 0)].into()
    );
    let name = standpipe::event::SinkName::from("ops");
    let whole = world.ledger.dead_letter(&name, letters[0].shard, standpipe::event::Seq(1)).await.unwrap().unwrap();
    assert_eq!(whole.attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((whole.attempts[0].status, whole.attempts[0].answer.as_str()), (Some(500), "no, thank you"));
    assert_eq!(whole.body, receiver.got()[0].body);
    receiver.answer_with(|_| Reply::Status(200));
    let one =
        standpipe::ledger::DeadLetters { sink: Some(name.clone()), shard: None, seqs: vec![standpipe::event::Seq(1)] };
    assert_eq!(world.ledger.redrive_dead_letters(&one).await.unwrap(), 1);
    wait_until("it comes again", SOON, async || receiver.count() == 5).await;
    let again = receiver.got().pop().unwrap();
    assert_eq!((again.id(), again.header("standpipe-replay")), (receiver.got()[0].id(), "1"));
    assert_ne!(again.seq(), 1, "a new seq");
    let rest = standpipe::ledger::DeadLetters { sink: Some(name), ..Default::default() };
    assert_eq!(world.ledger.discard_dead_letters(&rest).await.unwrap(), 1);
    sink.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_back_sends_again_and_forgets_rows_that_come_again_anyway() {
    let (world, receiver) = (World::new().await, Receiver::good().await);
    let sink = world.run("ops", config(&receiver.url()));
    world.record(["a", "b", "c", "d"]).await;
    world.wait_cursor("ops", 4).await;
    world.execute("UPDATE sinks SET seek_to = 2, seek_reason = 'sought'").await;
    wait_until("3 and 4 come again", SOON, async || receiver.count() == 6).await;
    world.wait_cursor("ops", 4).await;
    world.execute("UPDATE sinks SET paused = true").await;
    wait_until("it is paused", SOON, async || world.text("SELECT state FROM sinks").await == "paused").await;
    world.record(["e"]).await;
    hold("nothing is sent while paused", Duration::from_millis(1_500), async || receiver.count() == 6).await;
    world.execute("UPDATE sinks SET paused = false").await;
    wait_until("it goes on", SOON, async || receiver.count() == 7).await;
    sink.end().await.unwrap();
}
