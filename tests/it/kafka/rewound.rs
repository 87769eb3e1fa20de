//! PostgreSQL was rewound behind Kafka: what the sink has delivered is not delivered again, what it has not is.

use std::collections::BTreeSet;

use standpipe::sink::kafka::Runner;
use uuid::Uuid;

use super::*;

impl Stage {
    /// Delivers `count` events, one of them as a stub, so that C and W are `count`, and stops.
    async fn delivered_some(name: &str, count: u64) -> Self {
        let stage = Self::new(name).await;
        stage.ledger.record_some(usize::try_from(count).unwrap() - 1);
        let large = format!(r#"{{"id":"e{count}","long":"{}"}}"#, "x".repeat(1_100_000));
        stage.ledger.record([("3".into(), large)]);
        let running = stage.start();
        stage.wait_copy(count).await;
        running.stop().await.unwrap();
        stage.ledger.state().reports.clear();
        stage
    }

    async fn wait_running(&self) {
        let running = async || self.ledger.reported().0 == SinkState::Running;
        wait_until(format!("it runs; {:?}", self.ledger.reported()), LIMIT, running).await;
    }

    /// The ids of all messages, none of them twice, chained per partition.
    async fn ids(&self) -> BTreeSet<String> {
        let delivered = self.delivered().await;
        let ids: BTreeSet<String> = delivered.iter().map(|message| message.header("standpipe-id").to_owned()).collect();
        assert_eq!(ids.len(), delivered.len(), "an event was delivered twice");
        ids
    }
}

fn ids(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<String> {
    numbers.into_iter().map(|number| format!("e{number}")).collect()
}

/// INV-18.
#[tokio::test]
async fn what_was_delivered_before_a_rewind_comes_again_from_the_source_and_is_skipped() {
    let stage = Stage::delivered_some("rehydrated", 40).await;
    stage.ledger.rewind(25);
    let running = stage.start();
    stage.wait_running().await;
    assert_eq!(stage.ledger.head(), Seq(40), "what Kafka has used is void");
    assert_eq!(stage.ledger.state().skips.len(), 15);
    stage.ledger.record_again(26..=40);
    stage.ledger.record_some(5);
    stage.wait_copy(60).await;
    running.stop().await.unwrap();
    // Also after another start: the skips last.
    stage.ledger.record_some(1);
    let running = stage.start();
    stage.wait_copy(61).await;
    running.stop().await.unwrap();
    assert_eq!(stage.ids().await, ids((1..=40).chain(56..=61)));
    // The chain in the headers goes on from what was delivered.
    let new = stage.delivered().await.into_iter().find(|message| seq(message) == 56).unwrap();
    assert!(new.headers.iter().all(|(name, _)| name != "standpipe-replay"));
}

#[tokio::test]
async fn a_seek_back_delivers_again_what_was_skipped_and_nothing_that_has_not_come_yet() {
    let stage = Stage::delivered_some("soughtback", 40).await;
    stage.ledger.rewind(25);
    let running = stage.start();
    stage.wait_running().await;
    stage.ledger.record_again(26..=33);
    stage.wait_copy(48).await;
    stage.ledger.state().row.seek = Some(Seq(42));
    wait_until("the seek is carried out", LIMIT, async || !stage.ledger.state().sought.is_empty()).await;
    stage.wait_copy(48).await;
    stage.ledger.record_again(34..=40);
    stage.wait_copy(55).await;
    running.stop().await.unwrap();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for message in stage.delivered().await {
        *times.entry(message.header("standpipe-id").to_owned()).or_default() += 1;
    }
    let expected = (1..=40).map(|number| (format!("e{number}"), if (28..=33).contains(&number) { 2 } else { 1 }));
    assert_eq!(times, expected.collect());
}

/// Another sink with the same cursor came first: then the chain at the void's end is this sink's too.
#[tokio::test]
async fn a_sink_that_finds_its_own_chain_at_the_end_of_a_void_skips_what_it_has_delivered_too() {
    let stage = Stage::delivered_some("second", 40).await;
    let cursor = stage.cursor().await.unwrap();
    stage.ledger.rewind(25);
    stage.ledger.mark_void(40, cursor["chain"].as_str().unwrap().parse().unwrap());
    stage.ledger.record_again(26..=40);
    for to in [55, 56] {
        // The second start is as any other.
        let running = stage.start();
        stage.wait_copy(to).await;
        running.stop().await.unwrap();
        stage.ledger.record_some(1);
    }
    assert_eq!(stage.ledger.state().skips.len(), 15);
    assert_eq!(stage.ids().await, ids((1..=40).chain([56])));
}

/// Nothing in the lost range was for the sink to deliver, so that nothing in its topics tells how it came to the void's end.
#[tokio::test]
async fn a_sink_that_stands_at_the_end_of_a_void_that_it_has_not_crossed_gets_what_stands_before_it() {
    let stage = Stage::delivered_some("uncrossed", 25).await;
    for at in 26..=40 {
        stage.ledger.add_as(&format!("h{at}"), "deal.updated", "9", "FILTERED".into(), None);
    }
    stage.ledger.publish();
    let running = stage.start();
    stage.wait_copy(40).await;
    running.stop().await.unwrap();
    let cursor = stage.cursor().await.unwrap();
    stage.ledger.rewind(25);
    for at in 0..5 {
        stage.ledger.add_as(&format!("n{at}"), "deal.updated", "9", format!(r#"{{"new":{at}}}"#), None);
    }
    // Another sink that had come as far is found first.
    stage.ledger.mark_void(40, cursor["chain"].as_str().unwrap().parse().unwrap());
    stage.ledger.state().reports.clear();
    let running = stage.start();
    stage.wait_running().await;
    assert_eq!(stage.ledger.state().reclaimed, (26..=30).map(Seq).collect::<Vec<_>>());
    stage.wait_copy(45).await;
    running.stop().await.unwrap();
    assert_eq!(stage.ids().await, ids(1..=25).into_iter().chain((0..5).map(|at| format!("n{at}"))).collect());
    // Now it has.
    stage.ledger.record_some(1);
    let running = stage.start();
    stage.wait_copy(46).await;
    running.stop().await.unwrap();
    assert_eq!(stage.ledger.state().reclaimed.len(), 5);
    let crossed = &stage.cursor().await.unwrap()["crossed"];
    assert_eq!((&crossed["after"], &crossed["to"]), (&30.into(), &40.into()));
}

/// INV-8: also where the database has gone on since, so that only the chain can tell.
#[tokio::test]
async fn what_was_recorded_under_seqs_that_the_sink_had_used_comes_as_a_replay() {
    let stage = Stage::delivered_some("goneon", 40).await;
    stage.ledger.rewind(25);
    stage.ledger.record_again(26..=30);
    for at in 0..12 {
        stage.ledger.add_as(&format!("n{at}"), "deal.updated", "9", format!(r#"{{"new":{at}}}"#), None);
    }
    stage.ledger.add_as("hidden", "deal.updated", "9", "FILTERED".into(), None);
    stage.ledger.publish();
    assert_eq!(stage.ledger.head(), Seq(43), "the ledger has gone on past the cursor");
    let running = stage.start();
    // Ten of the new ones stand under seqs that were used (31..=40), and two behind them.
    stage.wait_copy(53).await;
    running.stop().await.unwrap();
    assert_eq!(stage.ledger.state().reclaimed, (31..=40).map(Seq).collect::<Vec<_>>());
    let expected: BTreeSet<String> = ids(1..=40).into_iter().chain((0..12).map(|at| format!("n{at}"))).collect();
    assert_eq!(stage.ids().await, expected);
    let replays = stage.delivered().await;
    let replays = replays.iter().filter(|message| message.headers.iter().any(|(name, _)| name == "standpipe-replay"));
    assert_eq!(replays.map(|message| message.header("standpipe-replay").to_owned()).collect::<Vec<_>>(), {
        let seqs: Vec<String> = (31..=40).map(|seq: u64| seq.to_string()).collect();
        seqs
    });
}

/// The copy that a sink writes into a ledger that was just rewound, up to its head, is no place where they agree while the
/// ledger does not know of the sink's last rehydration.
#[tokio::test]
async fn a_ledger_that_is_rewound_once_more_to_before_it_noted_the_rehydration_repeats_and_loses_nothing() {
    let stage = Stage::delivered_some("twice", 40).await;
    let new = |from: usize, to: usize| {
        for at in from..to {
            stage.ledger.add_as(&format!("n{at}"), "deal.updated", "9", format!(r#"{{"new":{at}}}"#), None);
        }
        stage.ledger.publish();
    };
    stage.ledger.rewind(25);
    new(0, 20);
    let running = stage.start();
    // Of the twenty new ones fifteen stand under seqs that were used, and come as replays.
    stage.wait_copy(60).await;
    running.stop().await.unwrap();
    assert_eq!(stage.cursor().await.unwrap()["rehydrated"]["seq"], 40);
    stage.ledger.rewind(45);
    stage.ledger.forget_rehydrations();
    assert_eq!(stage.ledger.state().row.cursor, Some(Seq(45)));
    stage.ledger.record_again(26..=40);
    new(20, 50);
    let running = stage.start();
    let done = async || {
        let head = stage.ledger.head();
        stage.ledger.state().row.cursor == Some(head)
    };
    wait_until("it has all", LIMIT, done).await;
    running.stop().await.unwrap();
    let expected: BTreeSet<String> = ids(1..=40).into_iter().chain((0..50).map(|at| format!("n{at}"))).collect();
    assert_eq!(stage.ids().await, expected);
}

#[tokio::test]
async fn a_topic_that_no_longer_holds_what_was_delivered_stops_the_sink_until_an_operator_chooses() {
    let stage = Stage::delivered_some("tooshort", 40).await;
    let offsets: Vec<String> = stage
        .kafka
        .read_committed(&stage.topic)
        .await
        .iter()
        .filter(|message| seq(message) == 30)
        .map(|message| {
            format!(
                r#"{{"topic":"{}","partition":{},"offset":{}}}"#,
                stage.topic,
                message.partition,
                message.offset + 1
            )
        })
        .collect();
    let file = crate::support::keeper::directory("delete-records").join("offsets.json");
    std::fs::write(&file, format!(r#"{{"partitions":[{}],"version":1}}"#, offsets.join(","))).unwrap();
    let arguments = ["--offset-json-file", file.to_str().unwrap()];
    stage.kafka.tool("org.apache.kafka.tools.DeleteRecordsCommand", &arguments).await;
    stage.ledger.rewind(25);
    let running = stage.start();
    let error = stage.wait_halted().await;
    assert!(error.contains("no longer holds the message of seq 30"), "{error}");
    assert!(error.contains("standpipe sinks seek"), "{error}");
    // What comes under new seqs never meets the ones that were used.
    assert_eq!(stage.ledger.head(), Seq(40));
    stage.ledger.state().row.seek = Some(Seq(40));
    stage.wait_running().await;
    stage.ledger.record_some(3);
    stage.wait_copy(43).await;
    running.stop().await.unwrap();
}

/// The other one is not even fenced: it may be the original.
#[tokio::test]
async fn a_ledger_that_is_behind_is_refused_while_another_instance_writes_unless_it_is_adopted() {
    let stage = Stage::delivered_some("another", 40).await;
    let original = stage.start();
    stage.wait_running().await;
    let copy = FakeLedger::of(stage.ledger.id());
    copy.record_some(25);
    copy.state().row.cursor = Some(Seq(25));
    let theirs = |adopt| {
        let mut sink = sink(&copy, &stage.deployment, stage.config());
        sink.runner = Runner::new(Some(Uuid::from_u128(2)), adopt, Duration::from_mins(5));
        sink
    };
    let refused = start(theirs(false));
    let told = async || copy.reported().1.contains("wrote there");
    wait_until(format!("it is refused; {:?}", copy.reported()), LIMIT, told).await;
    assert_eq!(copy.reported().0, SinkState::Retrying);
    delivers_undisturbed(&stage).await;
    refused.stop().await.unwrap();
    original.stop().await.unwrap();
    assert_eq!(copy.head(), Seq(25), "nothing is changed by one that is refused");

    let adopted = start(theirs(true));
    stage.wait_cursor(45).await;
    wait_until("the copy is the original now", LIMIT, async || copy.head() == Seq(45)).await;
    copy.record_again(26..=45);
    copy.record_some(2);
    wait_until("it delivers", LIMIT, async || copy.state().row.cursor == Some(Seq(67))).await;
    adopted.stop().await.unwrap();
    assert_eq!(stage.ids().await, ids((1..=45).chain(66..=67)));
}

/// The original takes five more events after 40, and nobody has fenced it.
async fn delivers_undisturbed(original: &Stage) {
    original.ledger.record_some(5);
    original.wait_copy(45).await;
    let reports = &original.ledger.state().reports;
    assert!(reports.iter().all(|(state, _)| *state != SinkState::Retrying), "the original was fenced: {reports:?}");
}

/// A copy that is not behind yet: that the ledger has moved is all that tells it from its original.
#[tokio::test]
async fn a_ledger_that_has_moved_is_refused_while_another_instance_writes_even_where_nothing_is_lost() {
    let stage = Stage::delivered_some("movedaway", 40).await;
    let original = stage.start();
    stage.wait_running().await;
    let copy = FakeLedger::of(stage.ledger.id());
    copy.record_some(40);
    copy.state().row.cursor = Some(Seq(40));
    let mut sink = sink(&copy, &stage.deployment, stage.config());
    sink.runner = Runner::new(Some(Uuid::from_u128(2)), false, Duration::from_mins(5));
    sink.runner.moved = true;
    let refused = start(sink);
    let told = async || copy.reported().1.contains("wrote there");
    wait_until(format!("it is refused; {:?}", copy.reported()), LIMIT, told).await;
    delivers_undisturbed(&stage).await;
    refused.stop().await.unwrap();
    original.stop().await.unwrap();
}

#[tokio::test]
async fn the_cursor_of_another_ledger_is_taken_over_by_an_adopting_start() {
    let stage = Stage::delivered_some("adopted", 20).await;
    let other = FakeLedger::new();
    other.record_some(3);
    let mut sink = sink(&other, &stage.deployment, stage.config());
    sink.runner = Runner::new(Some(Uuid::from_u128(2)), true, Duration::from_mins(5));
    let running = start(sink);
    wait_until("it delivers", LIMIT, async || other.state().row.cursor == Some(Seq(3))).await;
    running.stop().await.unwrap();
    assert_eq!(stage.cursor().await.unwrap()["ledger"], other.id().to_string());
    assert_eq!(stage.delivered_in_any_chain().await.len(), 23);
}
