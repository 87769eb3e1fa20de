//! Evidence that anyone can check: `verify` against real topics to which a test does by hand what should never happen.

mod reconcile;
pub mod world;

use serde_json::Value;

use self::world::{Pipe, seq};
use crate::support::kafka::Message;
use crate::support::wait::wait_until;

/// The numbers of what was found: missing, duplicate, reordered, altered, unlinked.
pub fn found(proof: &Value) -> [u64; 5] {
    ["missing", "duplicate", "reordered", "altered", "unlinked"].map(|fault| proof[fault].as_u64().unwrap())
}

fn findings<'p>(proof: &'p Value, fault: &str) -> Vec<&'p Value> {
    proof["findings"].as_array().unwrap().iter().filter(|finding| finding["fault"] == fault).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_pipe_is_verified_while_it_runs_across_replays_and_other_rules() {
    let pipe = Pipe::start("healthy", 300, "filter = \"resource != 'note'\"\n").await;
    let messages = pipe.messages().await;
    let proof = pipe.verify(&[]).await;
    assert_eq!(found(&proof), [0; 5], "{proof}");
    assert_eq!((&proof["from"], &proof["to"]), (&1.into(), &300.into()), "{proof}");
    assert_eq!(proof["delivered"], messages.len(), "{proof}");
    assert_eq!(proof["filtered"], 300 - messages.len(), "{proof}");

    // What comes while it looks is passed over, not judged half.
    pipe.simulator.set_rate(200).await;
    for _ in 0..3 {
        let proof = pipe.verify(&["--sink", "crm"]).await;
        assert_eq!(found(&proof), [0; 5], "{proof}");
    }
    pipe.simulator.set_rate(0).await;

    let id = messages[5].header("standpipe-id");
    pipe.verb(&["events", "replay", id, "--sink", "crm"]).await;
    let path = pipe.daemon.config();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("resource != 'note'", "resource == 'deal'")).unwrap();
    pipe.verb(&["reload"]).await;
    let replayed = async || {
        let messages = pipe.messages().await;
        messages.iter().any(|message| message.headers.iter().any(|(name, _)| name == "standpipe-replay"))
    };
    wait_until("the replay", world::LONG, replayed).await;
    let before = pipe.head().await;
    pipe.simulator.emit(100).await;
    pipe.wait_taken(before + 100).await;
    let proof = pipe.verify(&[]).await;
    assert_eq!(found(&proof), [0; 5], "{proof}");
    assert_eq!(proof["replays"], 1, "{proof}");
    assert!(proof["notes"].to_string().contains("delivered by other rules"), "{proof}");
    let recent = pipe.verify(&["--since", "1h"]).await;
    assert_eq!((found(&recent), &recent["from"]), ([0; 5], &1.into()), "{recent}");
    let nothing = pipe.verify(&["--since", "0s"]).await;
    assert_eq!((found(&nothing), &nothing["delivered"]), ([0; 5], &0.into()), "{nothing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_defect_is_found_and_nothing_else() {
    let mut pipe = Pipe::start("planted", 300, "").await;
    let messages = pipe.messages().await;
    assert_eq!(found(&pipe.verify(&[]).await), [0; 5]);

    // By hand, a second time.
    pipe.produce(&messages[17..18]);
    let proof = pipe.verify(&[]).await;
    assert_eq!(found(&proof), [0, 1, 0, 0, 0], "{proof}");
    assert_eq!(findings(&proof, "duplicate")[0]["seq"], seq(&messages[17]));
    pipe.stop().await;

    // Without its topic, and with an empty one of its name.
    pipe.kafka.delete_topic(&pipe.topic).await;
    assert_eq!(found(&pipe.verify(&[]).await), [300, 0, 0, 0, 0]);
    pipe.create_topic(&[]).await;
    let proof = pipe.verify(&[]).await;
    assert_eq!((found(&proof), &proof["delivered"]), ([300, 0, 0, 0, 0], &0.into()));

    let one = |partition: i32| messages.iter().filter(move |message| message.partition == partition).cloned();
    let whole: Vec<Message> = messages.clone();
    pipe.mirror(&whole, &[]).await;
    assert_eq!(found(&pipe.verify(&[]).await), [0; 5], "a faithful mirror");

    // One of each, in places of their own.
    let mut mirror: Vec<Message> = one(0).collect();
    let lost = seq(&mirror.remove(3));
    mirror.swap(10, 11);
    let swapped = seq(&mirror[10]);
    let mut other: Vec<Message> = one(1).collect();
    other[4].payload = Some(other[4].body().replacen("\"type\":\"", "\"type\":\"x", 1));
    let chain = other[6].header("standpipe-chain").to_owned();
    for (name, value) in &mut other[6].headers {
        if name == "standpipe-chain" {
            *value = chain.chars().rev().collect();
        }
    }
    other[8].key = Some("acme/deal/0".to_owned());
    let altered = [seq(&other[4]), seq(&other[6]), seq(&other[8])];
    mirror.extend(other);
    mirror.extend(one(2));
    pipe.mirror(&mirror, &[]).await;
    let proof = pipe.verify(&[]).await;
    // What follows the lost one and each of the swapped pair no longer links.
    assert_eq!((&proof["missing"], findings(&proof, "missing")[0]["seq"].as_u64()), (&1.into(), Some(lost)), "{proof}");
    assert_eq!(proof["duplicate"], 0, "{proof}");
    assert_eq!(findings(&proof, "reordered")[0]["seq"], swapped, "{proof}");
    assert_eq!(proof["reordered"], 1, "{proof}");
    let mut seqs: Vec<u64> = findings(&proof, "altered").iter().map(|found| found["seq"].as_u64().unwrap()).collect();
    let mut expected = altered.to_vec();
    seqs.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seqs, expected, "{proof}");
    for (seq, part) in altered.iter().zip(["body", "chain", "key"]) {
        let altered = findings(&proof, "altered");
        let finding = altered.iter().find(|finding| finding["seq"] == *seq).unwrap();
        assert!(finding["why"].as_str().unwrap().contains(&format!("another {part} ")), "{finding}");
    }
    assert!(findings(&proof, "unlinked").iter().any(|hop| hop["why"].as_str().unwrap().contains(&lost.to_string())));
    let text = pipe.daemon.run_verb(&["verify"]).await;
    assert_eq!(text.status.code(), Some(1));
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains(&format!("missing: seq {lost} in planted.all")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_topics_retention_removed_is_not_called_missing() {
    let mut pipe = Pipe::start("retained", 200, "").await;
    pipe.stop().await;
    let messages = pipe.messages().await;
    let removed: Vec<&Message> =
        messages.iter().filter(|message| message.partition == 0 && message.offset < 20).collect();
    // A week is not over yet: whoever removed them, it was not the topic's retention.
    pipe.delete_records(0, 20).await;
    let proof = pipe.verify(&[]).await;
    assert_eq!(found(&proof), [20, 0, 0, 0, 0], "{proof}");

    // With a bound in bytes nobody can tell.
    pipe.mirror(&messages, &[("retention.bytes", "1000000000")]).await;
    assert_eq!(found(&pipe.verify(&[]).await), [0; 5]);
    pipe.delete_records(0, 20).await;
    let proof = pipe.verify(&[]).await;
    assert_eq!(found(&proof), [0; 5], "{proof}");
    assert_eq!(proof["expired"], removed.len(), "{proof}");
    assert_eq!(proof["delivered"], messages.len() - removed.len(), "{proof}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_cannot_be_judged_says_so_with_its_exit_code() {
    let pipe = Pipe::start("unjudged", 20, "").await;
    let path = pipe.daemon.config();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(pipe.daemon.run_verb(&["verify", "--sink", "nobody"]).await.status.code(), Some(2));
    let nobody = format!("127.0.0.1:{}", crate::support::keeper::free_port());
    std::fs::write(&path, text.replace(&pipe.kafka.brokers(), &nobody)).unwrap();
    assert_eq!(pipe.daemon.run_verb(&["verify"]).await.status.code(), Some(3));
    std::fs::write(&path, text.replace("[sinks.crm]", "[sinks.other]")).unwrap();
    let proof = pipe.verify(&[]).await;
    assert!(proof["notes"].to_string().contains("has not started"), "{proof}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_finds_what_is_planted_while_it_runs_and_stops_nothing() {
    let pipe = Pipe::start("audited", 60, "[audit]\nenabled = true\n").await;
    let audit = async || pipe.status().await["sinks"][0]["audit"].clone();
    let judged = async |count: u64| {
        let what = format!("{count} messages were judged");
        wait_until(what, world::LONG, async || audit().await["judged"].as_u64() >= Some(count)).await;
    };
    wait_until("it follows", world::LONG, async || !audit().await.is_null()).await;
    pipe.simulator.emit(60).await;
    pipe.wait_taken(120).await;
    judged(60).await;
    assert_eq!(audit().await["found"], 0);

    let messages = pipe.messages().await;
    // One that was there before it began, and one that it has judged.
    let early = messages.iter().find(|message| seq(message) == 30).unwrap().clone();
    let late = messages.iter().find(|message| seq(message) == 100).unwrap().clone();
    let mut altered = messages.iter().find(|message| seq(message) == 110).unwrap().clone();
    altered.headers.iter_mut().find(|(name, _)| name == "standpipe-seq").unwrap().1 = "119999".to_owned();
    pipe.produce(&[early, late, altered]);
    wait_until("all three are found", world::LONG, async || audit().await["found"] == 3).await;
    pipe.simulator.emit(60).await;
    pipe.wait_taken(180).await;
    judged(123).await;
    let status = audit().await;
    assert_eq!(status["found"], 3, "{status}");

    let metrics = pipe.daemon.metrics().await.unwrap();
    let value = |outcome: &str| {
        let name = format!("standpipe_audit_events_total{{sink=\"crm\",outcome=\"{outcome}\"}} ");
        let line = metrics.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("{name}: {metrics}"));
        line[name.len()..].parse::<u64>().unwrap()
    };
    assert_eq!((value("good"), value("duplicate")), (120, 2));
    assert_eq!(value("missing") + value("altered"), 1, "an event that the ledger does not have");
    let (code, body) = pipe.daemon.readyz().await.unwrap();
    assert!(code == 200 && body.contains("shard/0/audit/crm") && body.contains("the audit has found 3"), "{body}");
    let log = std::fs::read_to_string(pipe.daemon.process.log_path()).unwrap();
    assert_eq!(log.matches("the audit found something").count(), 3);
    // It may have looked before the sink had started.
    assert!(!log.contains("ended on its own"), "{log}");
    assert!(pipe.verb(&["status"]).await.contains("3 not as they should be"));
}
