//! An endpoint that fails: spared, disabled, its events kept.

use std::time::Duration;

use standpipe::config::Secret;

use super::receiver::{Receiver, Reply};
use super::world::{SOON, World, config};
use crate::support::keeper;
use crate::support::wait::{hold, wait_until};

/// Field 9: events of a disabled endpoint are kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_410_disables_the_endpoint_and_its_events_go_out_once_it_is_enabled() {
    let world = World::new().await;
    let receiver = Receiver::start(|_| Reply::Status(410)).await;
    let sink = world.run("ops", config(&receiver.url()));
    world.record(["a"]).await;
    wait_until("it is disabled", SOON, async || world.text("SELECT state FROM sinks").await == "disabled").await;
    assert!(world.text("SELECT disabled FROM sinks").await.contains("410"));
    world.record(["a", "b", "c"]).await;
    receiver.answer_with(|_| Reply::Status(200));
    hold("nothing is sent", Duration::from_millis(1_500), async || receiver.count() == 1).await;
    // Disabled outlives a restart.
    sink.end().await.unwrap();
    let sink = world.run("ops", config(&receiver.url()));
    hold("nothing is sent", Duration::from_millis(1_500), async || receiver.count() == 1).await;
    world.execute("UPDATE sinks SET disabled = NULL, disabled_at = NULL").await;
    world.wait_cursor("ops", 4).await;
    wait_until("everything is delivered", SOON, async || receiver.count() == 5).await;
    let of_a: Vec<u64> = receiver.seqs().into_iter().skip(1).filter(|seq| *seq < 3).collect();
    assert_eq!(of_a, [1, 2]);
    wait_until("it runs", SOON, async || world.text("SELECT state FROM sinks").await == "running").await;
    sink.end().await.unwrap();
}

/// INV-11: what a dead endpoint costs is bounded, whatever comes.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_leaves_events_in_the_ledger_and_they_go_out_when_the_endpoint_returns() {
    let world = World::new().await;
    let receiver = Receiver::start(|_| Reply::Status(503)).await;
    let mut config = config(&receiver.url());
    config.breaker.min_attempts = 10;
    config.breaker.probe_after = Duration::from_millis(300);
    config.retry_schedule = vec![Duration::from_millis(50), Duration::from_mins(5)];
    let sink = world.run("ops", config);
    world.record((0..2_000).map(|at| format!("r{}", at % 500))).await;
    wait_until("it retries", SOON, async || world.text("SELECT state FROM sinks").await == "retrying").await;
    let before = receiver.count();
    wait_until("it is probed", SOON, async || receiver.count() >= before + 8).await;
    let kept = world.count("SELECT count(*) FROM deliveries").await;
    assert!(kept < 100, "{kept} rows for one dead endpoint");
    assert_eq!(world.count("SELECT count(*) FROM dead_letters").await, 0, "probes use up no schedule");
    assert!(world.text("SELECT error FROM sinks").await.contains("503"));
    receiver.answer_with(|_| Reply::Status(200));
    world.execute("UPDATE deliveries SET due_at = due_at").await;
    world.wait_cursor("ops", 2_000).await;
    wait_until("it runs", SOON, async || world.text("SELECT state FROM sinks").await == "running").await;
    sink.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_failures_for_long_enough_disables_the_endpoint() {
    let world = World::new().await;
    let receiver = Receiver::start(|_| Reply::Status(500)).await;
    let mut config = config(&receiver.url());
    config.disable_after = Duration::from_secs(2);
    config.retry_schedule = vec![Duration::from_millis(200); 100];
    let sink = world.run("ops", config);
    world.record(["a"]).await;
    wait_until("it is disabled", SOON, async || world.text("SELECT state FROM sinks").await == "disabled").await;
    assert!(world.text("SELECT disabled FROM sinks").await.contains("nothing but failures for 2s"));
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 1, "its event is kept");
    sink.end().await.unwrap();
}

/// What a restart finds is the time that counted, not the time that passed; and what an operator has forgiven is gone.
#[tokio::test(flavor = "multi_thread")]
async fn our_own_downtime_disables_no_endpoint_and_one_that_is_enabled_meanwhile_begins_anew() {
    let world = World::new().await;
    let receiver = Receiver::start(|_| Reply::Status(500)).await;
    let mut config = config(&receiver.url());
    config.retry_schedule = vec![Duration::from_millis(200); 100];
    let sink = world.run("ops", config.clone());
    world.record(["a"]).await;
    wait_until("it fails", SOON, async || receiver.count() > 2).await;
    sink.end().await.unwrap();
    let failing = "INSERT INTO endpoints (sink, shard, failing_since, failing_ms)
                   VALUES ('ops', 0, now() - interval '30 days', 431000000)";
    world.execute(failing).await;
    let sink = world.run("ops", config.clone());
    let (tried, state) = (receiver.count(), async || world.text("SELECT state FROM sinks").await);
    wait_until("it is tried again", SOON, async || receiver.count() > tried + 10).await;
    assert_ne!(state().await, "disabled", "a thousand seconds are missing");
    sink.end().await.unwrap();

    world.execute("UPDATE endpoints SET failing_ms = 431999000").await;
    let sink = world.run("ops", config.clone());
    wait_until("it is disabled", SOON, async || state().await == "disabled").await;
    sink.end().await.unwrap();
    receiver.answer_with(|_| Reply::Status(200));
    world.ledger.enable_sink(&"ops".into()).await.unwrap();
    let sink = world.run("ops", config);
    world.wait_cursor("ops", 1).await;
    wait_until("it runs", SOON, async || state().await == "running").await;
    assert_eq!(world.count("SELECT count(*) FROM endpoints").await, 0);
    sink.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured_for_the_whole_endpoint() {
    let (world, mut first) = (World::new().await, true);
    let receiver = Receiver::start(move |_| {
        if std::mem::take(&mut first) {
            return Reply::With(429, vec![("retry-after", "2".to_owned())]);
        }
        Reply::Status(200)
    })
    .await;
    let sink = world.run("ops", config(&receiver.url()));
    world.record(["a"]).await;
    wait_until("the first comes", SOON, async || receiver.count() == 1).await;
    wait_until("it is kept", SOON, async || world.count("SELECT count(*) FROM deliveries").await == 1).await;
    world.record(["b"]).await;
    wait_until("all come", SOON, async || receiver.count() == 3).await;
    let got = receiver.got();
    let wait = got[1].at.min(got[2].at) - got[0].at;
    assert!(wait >= Duration::from_millis(1_990), "the next came after {wait:?}");
    sink.end().await.unwrap();
}

/// INV-15
/// Field 8: one that fails costs nobody else anything.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_stops_no_other_sink_and_no_recording() {
    let (world, good) = (World::new().await, Receiver::good().await);
    let hanging = Receiver::start(|_| Reply::Hang).await;
    let stuck = world.run_with_channel("stuck", config(&hanging.url()), 100);
    let sink = world.run("ops", config(&good.url()));
    let unusable = world.run("unusable", {
        let mut config = config(&good.url());
        config.secrets = vec![Secret::file("/nowhere/at/all".into())];
        config
    });
    for _ in 0..10 {
        world.record((0..100).map(|at| format!("r{at}"))).await;
    }
    world.wait_cursor("ops", 1_000).await;
    assert_eq!(good.count(), 1_000);
    wait_until("the one without a secret says so", SOON, async || {
        world
            .text("SELECT error FROM sinks WHERE sink = 'unusable' AND state = 'halted'")
            .await
            .contains("/nowhere/at/all")
    })
    .await;
    for running in [stuck, sink, unusable] {
        running.end().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_changes_in_its_file_signs_what_comes_later() {
    let (world, receiver) = (World::new().await, Receiver::good().await);
    let file = keeper::directory("secrets").join("whsec");
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    std::fs::write(&file, super::world::SECRET).unwrap();
    let mut config = config(&receiver.url());
    config.secrets = vec![Secret::file(file.clone())];
    let sink = world.run("ops", config);
    world.record(["a"]).await;
    world.wait_cursor("ops", 1).await;
    std::fs::write(&file, "not a secret").unwrap();
    world.record(["a"]).await;
    world.wait_cursor("ops", 2).await;
    std::fs::write(&file, other).unwrap();
    let verifies = |secret: &str, at: usize| {
        let keys = standpipe::sink::webhook::Keys::new(&[secret.into()], None).unwrap();
        let got = &receiver.got()[at];
        keys.sign(got.header("webhook-id"), got.header("webhook-timestamp"), &got.body)
            == got.header("webhook-signature")
    };
    assert!(verifies(super::world::SECRET, 0) && verifies(super::world::SECRET, 1));
    wait_until("the new secret signs", SOON, async || {
        let at = receiver.count();
        world.record(["a"]).await;
        wait_until("it comes", SOON, async || receiver.count() > at).await;
        verifies(other, at)
    })
    .await;
    sink.end().await.unwrap();
}
