//! Endpoints that lead elsewhere or never end.

use std::time::Duration;

use tokio::time::Instant;

use super::receiver::{Receiver, Reply};
use super::world::{SOON, World, config};
use crate::support::wait::{hold, wait_until};

/// Field 10: no more is read of an answer than its bound.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_cut_and_its_status_counts() {
    let (world, mut first) = (World::new().await, true);
    let receiver = Receiver::start(move |got| match got.seq() {
        1 => Reply::Endless(200),
        _ if std::mem::take(&mut first) => Reply::Endless(500),
        _ => Reply::Status(200),
    })
    .await;
    let mut config = config(&receiver.url());
    config.retry_schedule = vec![Duration::from_hours(1)];
    let sink = world.run("ops", config);
    let began = Instant::now();
    world.record(["a", "b"]).await;
    world.wait_cursor("ops", 2).await;
    assert!(began.elapsed() < Duration::from_secs(10), "nobody waits for an end");
    assert_eq!(world.count("SELECT count(*) FROM deliveries WHERE seq = 2").await, 1);
    assert_eq!(world.count("SELECT octet_length(answer)::bigint FROM attempts WHERE seq = 2").await, 4096);
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 1);
    sink.end().await.unwrap();
}

/// Field 11: a redirect is no way around the guard.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_a_failure_and_is_never_followed() {
    let (world, target) = (World::new().await, Receiver::good().await);
    let location = target.url();
    let receiver = Receiver::start(move |_| Reply::With(307, vec![("location", location.clone())])).await;
    let sink = world.run("ops", config(&receiver.url()));
    world.record(["a"]).await;
    let tried = "SELECT count(*) FROM attempts WHERE status = 307";
    wait_until("it was tried", SOON, async || target.count() > 0 || world.count(tried).await > 0).await;
    assert_eq!(target.count(), 0, "the redirect was followed");
    wait_until("it is tried again", SOON, async || receiver.count() >= 3).await;
    assert_eq!(target.count(), 0, "the redirect was followed");
    sink.end().await.unwrap();
}

/// Field 11: the address that is dialled is the one that was looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_or_an_address_that_leads_home_is_refused_until_it_is_opened() {
    let (world, receiver) = (World::new().await, Receiver::good().await);
    for (name, host) in
        [("by-name", "localhost"), ("by-number", "127.0.0.1"), ("by-trick", "0x7f.1"), ("mapped", "[::ffff:7f00:1]")]
    {
        let mut config = config(&format!("http://{host}:{}/", receiver.port()));
        config.allow_networks.clear();
        let sink = world.run(name, config);
        if name == "by-name" {
            world.record(["a"]).await;
        }
        wait_until(format!("{host} is refused"), SOON, async || {
            world
                .text("SELECT string_agg(sink || ' ' || error, ', ') FROM attempts")
                .await
                .contains(&format!("{name} "))
        })
        .await;
        sink.end().await.unwrap();
    }
    assert!(world.text("SELECT error FROM attempts WHERE sink = 'by-name' LIMIT 1").await.contains("loopback"));
    hold("nothing is sent", Duration::from_millis(300), async || receiver.count() == 0).await;
    let opened = world.run("by-name", config(&format!("http://localhost:{}/", receiver.port())));
    wait_until("it is delivered", SOON, async || receiver.count() == 1).await;
    opened.end().await.unwrap();
}
