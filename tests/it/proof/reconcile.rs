//! Kafka behind the ledger, brought about in a real Kafka, and made whole by `reconcile`: nothing missing and nothing twice,
//! as `verify` and a consumer that is not ours see it.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{LONG, Pipe, seq};
use super::{findings, found};
use crate::support::kafka::Message;
use crate::support::postgres::Postgres;
use crate::support::wait::wait_until;

impl Pipe {
    /// Orders it, and waits until the sink runs again and has caught up.
    async fn reconcile(&self, events: usize) {
        self.verb(&["reconcile", "--sink", "crm"]).await;
        let log = async || std::fs::read_to_string(self.daemon.process.log_path()).unwrap();
        wait_until("it is reconciled", LONG, async || log().await.contains("the sink is reconciled")).await;
        self.wait_state("running").await;
        self.wait_taken(events).await;
    }

    /// Every event once, for a plain consumer and for `verify`.
    async fn assert_whole(&self, events: usize, repairs: usize) {
        let messages = self.messages().await;
        let mut seqs: Vec<u64> = messages.iter().map(seq).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=events as u64).collect::<Vec<_>>());
        let repaired = messages.iter().filter(|message| repair(message).is_some()).count();
        assert_eq!(repaired, repairs);
        let proof = self.verify(&[]).await;
        assert_eq!(found(&proof), [0; 5], "{proof}");
        assert_eq!((&proof["delivered"], &proof["repairs"]), (&events.into(), &repairs.into()), "{proof}");
    }
}

fn repair(message: &Message) -> Option<u64> {
    let (_, value) = message.headers.iter().find(|(name, _)| name == "standpipe-repair")?;
    Some(value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_gone_is_made_anew_with_all_that_the_ledger_keeps() {
    let mut pipe = Pipe::start("gone", 300, "").await;
    pipe.stop().await;
    pipe.kafka.delete_topic(&pipe.topic).await;
    pipe.daemon.start_again();
    let error = pipe.wait_state("halted").await;
    assert!(error.contains("is gone") && error.contains("standpipe reconcile"), "{error}");
    let dry = pipe.verb(&["reconcile", "--dry-run"]).await;
    assert!(dry.contains("300 events of 1 to 300 are missing"), "{dry}");
    assert!(!pipe.kafka.topics().await.contains(&pipe.topic), "a dry run changes nothing");
    pipe.reconcile(300).await;
    pipe.assert_whole(300, 0).await;
    pipe.simulator.emit(40).await;
    pipe.wait_taken(340).await;
    pipe.assert_whole(340, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_lacks_its_end_and_has_a_hole_gets_both_and_what_is_late_says_so() {
    let mut pipe = Pipe::start("mirrored", 300, "").await;
    pipe.stop().await;
    let messages = pipe.messages().await;
    let one = |partition: i32| messages.iter().filter(move |message| message.partition == partition).cloned();
    let mut mirror: Vec<Message> = one(0).collect();
    mirror.truncate(mirror.len() - 7);
    let mut holed: Vec<Message> = one(1).collect();
    let dropped: Vec<Message> = holed.drain(4..6).collect();
    let last = seq(&holed[holed.len() - 1]);
    mirror.extend(holed);
    mirror.extend(one(2));
    pipe.mirror(&mirror, &[]).await;
    assert_eq!(pipe.verify(&[]).await["missing"], 9);
    pipe.daemon.start_again();
    let error = pipe.wait_state("halted").await;
    assert!(error.contains("disagrees with the cursor") && error.contains("standpipe reconcile"), "{error}");
    pipe.reconcile(300).await;
    pipe.assert_whole(300, 2).await;
    let repaired: BTreeMap<u64, Message> = pipe
        .messages()
        .await
        .into_iter()
        .filter(|message| repair(message).is_some())
        .map(|message| (seq(&message), message))
        .collect();
    for before in &dropped {
        let after = &repaired[&seq(before)];
        assert_eq!(repair(after), Some(last), "behind the last one of its partition");
        assert_eq!((after.partition, after.body()), (before.partition, before.body()));
        assert_eq!(after.header("standpipe-prev"), before.header("standpipe-prev"), "its own place is named");
    }
    pipe.simulator.emit(40).await;
    pipe.wait_taken(340).await;
    pipe.assert_whole(340, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_was_set_back_or_lost_repeats_nothing() {
    let mut pipe = Pipe::start("setback", 200, "").await;
    pipe.simulator.emit(50).await;
    pipe.wait_taken(250).await;
    pipe.stop().await;
    let topic = "standpipe.setback.crm.cursor";
    let mut old = pipe.kafka.read_committed(topic).await[0].clone();
    let cursor: serde_json::Value = serde_json::from_str(old.body()).unwrap();
    assert!(cursor["seq"].as_u64() < Some(250), "{cursor}");
    old.headers.clear();
    pipe.produce(&[old]);
    let proof = pipe.verify(&[]).await;
    assert!(findings(&proof, "cursor")[0]["why"].as_str().unwrap().contains("Kafka was rewound"), "{proof}");
    pipe.daemon.start_again();
    let error = pipe.wait_state("halted").await;
    assert!(error.contains("Kafka was rewound") && error.contains("standpipe reconcile"), "{error}");
    pipe.reconcile(250).await;
    pipe.assert_whole(250, 0).await;

    pipe.stop().await;
    pipe.kafka.delete_topic(topic).await;
    pipe.daemon.start_again();
    let error = pipe.wait_state("halted").await;
    assert!(error.contains("there is no cursor") && error.contains("standpipe reconcile"), "{error}");
    pipe.verb(&["reconcile"]).await;
    pipe.wait_state("running").await;
    pipe.simulator.emit(30).await;
    pipe.wait_taken(280).await;
    pipe.assert_whole(280, 0).await;
}

impl Pipe {
    /// A pipe that stands still, put back as a whole site may be: the ledger to 200 of 300 events, the cursor to one that is as
    /// old, and a partition lacks a message of before as well as the last ones. The topic still holds what the ledger has lost,
    /// under seqs that come to be used anew.
    async fn put_back(deployment: &str) -> Self {
        let mut pipe = Self::start(deployment, 200, "").await;
        let postgres = Postgres::shared().await;
        let cursors = format!("standpipe.{deployment}.crm.cursor");
        let mut old = pipe.kafka.read_committed(&cursors).await.pop().unwrap();
        let backup = postgres.dump(&pipe.database);
        pipe.simulator.emit(100).await;
        pipe.wait_taken(300).await;
        pipe.stop().await;
        let mut kept = pipe.messages().await;
        let lacks: Vec<u64> = kept.iter().filter(|message| message.partition == 0).map(seq).collect();
        let lacks = [&lacks[2..3], &lacks[lacks.len() - 5..]].concat();
        assert!(lacks[1] > 200, "{lacks:?}");
        kept.retain(|message| !lacks.contains(&seq(message)));
        pipe.mirror(&kept, &[]).await;
        old.headers.clear();
        pipe.produce(&[old]);
        // What comes again comes in other company.
        pipe.simulator.emit(50).await;
        let restored = postgres.restore(&backup).await;
        pipe.daemon.reconfigure(&pipe.database, &restored);
        pipe
    }

    /// All 350 events are there, each once; `verify` finds nothing; and the sink goes on.
    async fn assert_lacks_and_repeats_nothing(&self) {
        let emitted: BTreeSet<String> = self.simulator.emitted().await.into_iter().map(|event| event.id).collect();
        wait_until("each event is there", LONG, async || {
            let messages = self.messages().await;
            let ids: BTreeSet<String> =
                messages.iter().map(|message| message.header("standpipe-id").to_owned()).collect();
            assert_eq!(ids.len(), messages.len(), "an event is there twice");
            ids == emitted
        })
        .await;
        self.wait_taken(350).await;
        let proof = self.verify(&[]).await;
        assert_eq!(found(&proof), [0; 5], "{proof}");
        self.simulator.emit(20).await;
        wait_until("it goes on", LONG, async || self.messages().await.len() == 370).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_and_a_topic_that_were_both_put_back_lack_nothing_and_repeat_nothing() {
    let mut pipe = Pipe::put_back("bothback").await;
    pipe.daemon.start_again();
    let error = pipe.wait_state("halted").await;
    assert!(error.contains("disagrees with the cursor") && error.contains("standpipe reconcile"), "{error}");
    wait_until("the source has told all of it again", LONG, async || pipe.head().await == 350).await;
    pipe.verb(&["reconcile", "--sink", "crm"]).await;
    pipe.assert_lacks_and_repeats_nothing().await;
}

/// As README says.
#[tokio::test(flavor = "multi_thread")]
async fn who_put_both_back_can_order_it_before_anything_runs_again() {
    let mut pipe = Pipe::put_back("bothordered").await;
    pipe.verb(&["reconcile"]).await;
    pipe.daemon.start_again();
    pipe.assert_lacks_and_repeats_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_removed_from_the_beginning_of_a_partition_comes_again_while_the_sink_runs() {
    let pipe = Pipe::start("truncated", 200, "").await;
    pipe.delete_records(0, 15).await;
    let missing = pipe.verify(&[]).await["missing"].as_u64().unwrap();
    assert!(missing > 0);
    pipe.reconcile(200).await;
    pipe.assert_whole(200, usize::try_from(missing).unwrap()).await;
    // A second order finds nothing to do.
    pipe.verb(&["reconcile"]).await;
    let log = async || std::fs::read_to_string(pipe.daemon.process.log_path()).unwrap();
    wait_until("it looked", LONG, async || log().await.matches("the sink is reconciled").count() == 2).await;
    pipe.assert_whole(200, usize::try_from(missing).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_the_cursor_moves_leaves_the_order_and_repeats_nothing() {
    let mut pipe = Pipe::start("killed", 300, "").await;
    pipe.stop().await;
    pipe.kafka.delete_topic(&pipe.topic).await;
    let kill = |point: &str| vec![("FAILPOINTS_KILL".to_owned(), format!("{point}=1"))];
    pipe.daemon.start_again_with(kill("kafka::reconcile_part"));
    pipe.wait_state("halted").await;
    pipe.verb(&["reconcile"]).await;
    pipe.daemon.process.wait_ended(LONG).await;
    assert!(pipe.messages().await.len() < 300, "the last part is not emitted");
    // The order is still there, and is carried out again.
    pipe.daemon.start_again_with(kill("kafka::reconcile_cursor"));
    pipe.daemon.process.wait_ended(LONG).await;
    assert_eq!(pipe.messages().await.len(), 300, "all of it is emitted, and the cursor does not say so");
    pipe.daemon.start_again_with(Vec::new());
    pipe.wait_state("running").await;
    pipe.assert_whole(300, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_rules_than_those_it_delivered_by_are_refused() {
    let mut pipe = Pipe::start("otherrules", 60, "").await;
    pipe.stop().await;
    pipe.kafka.delete_topic(&pipe.topic).await;
    let path = pipe.daemon.config();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("[sinks.crm]", "[sinks.crm]\nfilter = \"resource == 'deal'\"")).unwrap();
    pipe.daemon.start_again();
    pipe.wait_state("halted").await;
    pipe.verb(&["reconcile"]).await;
    wait_until("it refuses", LONG, async || pipe.wait_state("halted").await.contains("the rules were changed")).await;
    assert!(!pipe.kafka.topics().await.contains(&pipe.topic), "nothing was emitted");
}
