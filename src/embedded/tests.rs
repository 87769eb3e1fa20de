use std::path::Path;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Message};
use rustix::process::{Pid, test_kill_process};
use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

use super::{EmbeddedPostgres, MockKafka};

async fn answers(postgres: &EmbeddedPostgres) {
    let url = postgres.url().read().unwrap();
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    connection.ping().await.unwrap();
}

fn lives(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

async fn until_gone(pid: i32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while lives(pid) {
        assert!(Instant::now() < deadline, "process {pid} is left behind");
        sleep(Duration::from_millis(20)).await;
    }
}

fn server_of(directory: &Path) -> i32 {
    let file = std::fs::read_to_string(directory.join("postgres/data/postmaster.pid")).unwrap();
    file.lines().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_embedded_postgres_starts_answers_ends_and_starts_again_on_its_data() {
    let directory = tempfile::tempdir().unwrap();
    let first = EmbeddedPostgres::start(directory.path()).await.unwrap();
    answers(&first).await;
    assert!(!format!("{first:?} {:?}", first.url()).contains("postgres://"), "INV-16: the password is never shown");
    let made = std::fs::metadata(directory.path().join("postgres/data/PG_VERSION")).unwrap().modified().unwrap();
    let pid = server_of(directory.path());
    let left = EmbeddedPostgres::url_of(directory.path());
    assert_eq!(left.read().unwrap().expose_secret(), first.url().read().unwrap().expose_secret());
    first.stop(Duration::from_secs(10)).await.unwrap();
    assert!(!lives(pid) && left.read().is_err());

    let second = EmbeddedPostgres::start(directory.path()).await.unwrap();
    answers(&second).await;
    let kept = std::fs::metadata(directory.path().join("postgres/data/PG_VERSION")).unwrap().modified().unwrap();
    assert_eq!(made, kept, "the data is the same");
    second.stop(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_dropped_one_and_one_that_a_killed_owner_left_both_end() {
    let directory = tempfile::tempdir().unwrap();
    let left = EmbeddedPostgres::start(directory.path()).await.unwrap();
    let pid = server_of(directory.path());
    let next = EmbeddedPostgres::start(directory.path()).await.unwrap();
    assert_ne!(server_of(directory.path()), pid);
    answers(&next).await;
    drop(left);
    until_gone(pid).await;
    let pid = server_of(directory.path());
    // What the system does to our end of the pipe when we are killed.
    drop(next);
    until_gone(pid).await;
}

#[tokio::test]
async fn an_end_of_its_own_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut postgres = EmbeddedPostgres::start(directory.path()).await.unwrap();
    let pid = Pid::from_raw(server_of(directory.path())).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
    let told = tokio::time::timeout(Duration::from_secs(10), postgres.ended()).await.unwrap();
    assert!(told.to_string().contains("ended"), "{told}");
}

#[test]
fn a_mock_cluster_takes_transactions_and_gives_them_out() {
    let kafka = MockKafka::start(&[("sell.deal".to_owned(), 2)]).unwrap();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap()).set("transactional.id", "demo");
    let producer: ThreadedProducer<_> = config.create().unwrap();
    let within = Duration::from_secs(10);
    producer.init_transactions(within).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::to("sell.deal").key("k").payload("v")).unwrap();
    producer.commit_transaction(within).unwrap();

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap()).set("group.id", "g").set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.subscribe(&["sell.deal"]).unwrap();
    // It also gives out what is not a message, as nothing.
    let message = (0..1_000).find_map(|_| consumer.poll(Duration::from_millis(20))).unwrap().unwrap();
    assert_eq!(message.payload(), Some(&b"v"[..]));
}
