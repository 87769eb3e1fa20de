//! The ground that the other tests stand on.

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sqlx::{Connection as _, PgConnection};

use crate::support::kafka::{Isolation, Kafka};
use crate::support::postgres::{Postgres, Stop};
use crate::support::receiver::VerifyingReceiver;
use crate::support::wait::wait_until;
use crate::support::{http, keeper};

#[tokio::test]
async fn every_test_has_a_database_of_its_own() {
    let server = Postgres::shared().await;
    let (one, other) = (server.database().await, server.database().await);
    assert_ne!(one, other);
    let mut one = PgConnection::connect(&one).await.unwrap();
    sqlx::raw_sql("CREATE TABLE here (n int)").execute(&mut one).await.unwrap();
    let mut other = PgConnection::connect(&other).await.unwrap();
    assert!(sqlx::raw_sql("SELECT * FROM here").execute(&mut other).await.is_err());
}

#[tokio::test]
async fn a_stopped_database_starts_again_with_what_it_had_and_a_frozen_one_goes_on() {
    let mut server = Postgres::start().await;
    let url = server.database().await;
    let mut before = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept (n int)").execute(&mut before).await.unwrap();
    server.stop(Stop::Immediate).await;
    server.start_again().await;
    let mut after = PgConnection::connect(&url).await.unwrap();
    let frozen = server.freeze();
    let query = sqlx::raw_sql("SELECT * FROM kept").execute(&mut after);
    tokio::pin!(query);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut query).await.is_err(), "a frozen server answered");
    frozen.thaw();
    tokio::time::timeout(Duration::from_secs(10), query).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_broker_that_is_killed_starts_again_with_what_it_had() {
    let mut kafka = Kafka::start().await;
    let brokers = kafka.brokers();
    create_topic(&brokers, "kept");
    produce(&brokers, "kept", "42:{\"a\":\"\u{e4}\u{2028}\"}");
    kafka.kill();
    kafka.start_again().await;
    let read = async || {
        let messages = kafka.try_read("kept", "beginning", Isolation::ReadCommitted).await.unwrap_or_default();
        messages.len() == 1
            && messages[0].key.as_deref() == Some("42")
            && messages[0].body() == "{\"a\":\"\u{e4}\u{2028}\"}"
            && messages[0].header("standpipe-id") == "event,1"
    };
    wait_until("the message is there", Duration::from_secs(30), read).await;
    assert_eq!(kafka.topics().await, ["kept"]);
}

fn create_topic(brokers: &str, name: &str) {
    let jars = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/kafka/lib/*");
    let status = Command::new("java")
        .args(["-cp", jars, "org.apache.kafka.tools.TopicCommand", "--create", "--topic", name])
        .args(["--bootstrap-server", brokers])
        .output()
        .unwrap()
        .status;
    assert!(status.success());
}

fn produce(brokers: &str, topic: &str, line: &str) {
    let file = keeper::directory("produce").join("line");
    std::fs::write(&file, line).unwrap();
    let kcat = ["-P", "-b", brokers, "-t", topic, "-H", "standpipe-id=event,1", "-K", ":", "-l"];
    assert!(Command::new("kcat").args(kcat).arg(&file).status().unwrap().success());
}

#[tokio::test]
async fn the_receiver_tells_a_right_signature_from_a_wrong_one() {
    let base64 = base64::engine::general_purpose::STANDARD;
    let secret = b"0123456789abcdef0123456789abcdef";
    let signing = SigningKey::from_bytes(&[7; 32]);
    let public = format!("whpk_{}", base64.encode(signing.verifying_key().as_bytes()));
    let receiver = VerifyingReceiver::start(&format!("whsec_{}", base64.encode(secret)), Some(&public)).await;

    let now = standpipe::clock::Clock::system().now().unix_timestamp();
    let signed = format!("evt_1.{now}.{{}}");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret).unwrap();
    mac.update(signed.as_bytes());
    let v1 = format!("v1,{}", base64.encode(mac.finalize().into_bytes()));
    let v1a = format!("v1a,{}", base64.encode(signing.sign(signed.as_bytes()).to_bytes()));
    let wrong = format!("v1a,{}", base64.encode([1; 64]));
    for (signature, status) in [(format!("{v1} {v1a}"), 204), (format!("{v1} {wrong}"), 401), (v1a, 401)] {
        let request = http::client()
            .post(receiver.url())
            .header("webhook-id", "evt_1")
            .header("webhook-timestamp", now.to_string())
            .header("webhook-signature", signature)
            .body("{}");
        assert_eq!(request.send().await.unwrap().status().as_u16(), status);
    }
    let errors: Vec<bool> = receiver.received().iter().map(|received| received.error.is_some()).collect();
    assert_eq!(errors, [false, true, true]);
    assert_eq!(receiver.received()[0].body(), b"{}");
}
