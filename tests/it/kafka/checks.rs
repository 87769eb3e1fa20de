//! What `check` finds at a real Kafka, and what a start waits for.

use standpipe::event::SinkName;
use standpipe::sink::kafka::{check, reach};

use super::*;

#[tokio::test]
async fn a_check_names_what_weakens_the_guarantee_and_leaves_a_running_sink_alone() {
    let stage = Stage::new("checked").await;
    stage.ledger.record_some(5);
    let running = stage.start();
    stage.wait_cursor(5).await;
    let name = SinkName::from(SINK);
    let topics = [stage.topic.clone(), "checked.notthere".to_owned()];
    let checked = check(&name, &stage.deployment, Some(stage.ledger.id()), 2, &stage.config(), &topics).await.unwrap();
    assert_eq!(
        checked.guarantee,
        "exactly once for read_committed consumers, as long as no broker of a topic with replication 1 loses its disk"
    );
    let cursor = stage.cursor_topic();
    let found = |part: &str| checked.warnings.iter().any(|warning| warning.contains(part));
    assert!(found(&format!("`{cursor}` has replication 1")), "{checked:?}");
    assert!(found(&format!("`{cursor}` has 1 partitions, but the ledger has 2 shards")), "{checked:?}");
    assert!(found(&format!("`{}` has replication 1", stage.topic)), "{checked:?}");
    assert!(!found("deletes by age"), "the cursor topic was not created compacted: {checked:?}");
    assert!(checked.settings.contains("enable.idempotence=true"), "{checked:?}");

    let policy =
        ["--alter", "--entity-type", "topics", "--entity-name", &cursor, "--add-config", "cleanup.policy=delete"];
    stage.kafka.tool("kafka.admin.ConfigCommand", &policy).await;
    let checked = check(&name, &stage.deployment, Some(stage.ledger.id()), 1, &stage.config(), &topics).await.unwrap();
    assert!(checked.guarantee.ends_with("and the cursor topic does not delete the cursor"), "{checked:?}");

    stage.ledger.record_some(5);
    stage.wait_cursor(10).await;
    running.stop().await.unwrap();
    let started = stage.ledger.state().reports.iter().filter(|(state, _)| *state == SinkState::Running).count();
    assert_eq!(started, 1, "the check fenced the sink");
}

#[tokio::test]
async fn topics_that_may_not_be_created_are_waited_for_and_named() {
    let stage = Stage::new("nocreate").await;
    let mut config = stage.config();
    config.create_topics = false;
    let checked = check(&SinkName::from(SINK), &stage.deployment, None, 1, &config, &[]).await.unwrap();
    assert!(checked.warnings[0].contains("does not exist, and `create_topics` is off"), "{checked:?}");
    let running = start(sink(&stage.ledger, &stage.deployment, config));
    let retrying = async || stage.ledger.reported().0 == SinkState::Retrying;
    wait_until("it is reported", LIMIT, retrying).await;
    assert!(stage.ledger.reported().1.contains(&stage.cursor_topic()), "{:?}", stage.ledger.reported());
    let create = ["--create", "--topic", &stage.cursor_topic(), "--partitions", "1"];
    stage.kafka.tool("org.apache.kafka.tools.TopicCommand", &create).await;
    stage.wait_cursor(0).await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_out_of_reach() {
    let name = SinkName::from(SINK);
    let port = crate::support::keeper::free_port();
    let config = config(&format!("127.0.0.1:{port}"), "deals");
    let error = reach("it-reach", &name, &config, Duration::from_secs(1)).await.unwrap_err();
    assert!(error.is_out_of_reach(), "{error}");
    let error = check(&name, "it-reach", None, 1, &config, &[]).await.unwrap_err();
    assert!(error.is_out_of_reach(), "{error}");
    let kafka = Kafka::shared().await;
    reach("it-reach", &name, &fakes::config(&kafka.brokers(), "deals"), Duration::from_secs(10)).await.unwrap();
}
