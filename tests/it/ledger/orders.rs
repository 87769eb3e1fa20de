//! Gaps, and what operators order: INV-14.

use std::time::Duration;

use standpipe::event::ports::{
    LedgerError, NewDeadLetter, PageOutcome, SinkBook as _, SinkState, StreamBook as _, StreamState,
};
use standpipe::event::{GAP_EVENT_TYPE, Gap, GapReason, Position, Recorded, Seq, Shard, SinkName};

use standpipe::ledger::operator::{Replayed, Seqs};

use super::world::{SOON, World, events, page};
use crate::support::wait::{wait_for, wait_until};

const SHARD: Shard = Shard(0);

fn announced(world: &World) -> Vec<Recorded> {
    let all = world.shelf.batches().iter().flat_map(|batch| batch.events.clone()).collect::<Vec<_>>();
    all.into_iter().filter(Recorded::is_control).collect()
}

async fn announcement(world: &World, which: usize) -> (Recorded, serde_json::Value) {
    let event = wait_for("the gap is announced", SOON, async || announced(world).get(which).cloned()).await;
    let body = serde_json::from_slice(&event.body).unwrap();
    (event, body)
}

#[tokio::test]
async fn a_gap_its_announcement_and_the_step_past_it_are_one_commit_inv_14() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    let gap = Some(Gap { reason: GapReason::PositionExpired, detail: "410 Gone".to_owned() });
    let mut past = page(&deals, "tail", "p1", events(["after"]));
    past.gap = gap.clone();
    assert_eq!(world.record(past).await, PageOutcome::Recorded);
    assert_eq!(world.shelf.batches().len(), 1);
    let (event, body) = announcement(&world, 0).await;
    assert_eq!((event.seq, event.event_type.as_str()), (Seq(1), GAP_EVENT_TYPE), "before what comes past the hole");
    assert_eq!(body["id"], *event.id);
    assert_eq!(body["type"], GAP_EVENT_TYPE);
    assert_eq!(body["timestamp"], "1970-01-01T00:00:00Z");
    assert_eq!(body["meta"], serde_json::json!({ "account": "acme", "stream": "deals" }));
    let told = serde_json::json!({ "stream": "deals", "from": "tail", "to": "p1", "reason": "position_expired",
        "detail": "410 Gone", "at": "1970-01-01T00:00:00Z" });
    assert_eq!(body["data"]["gap"], told);
    assert_eq!(world.count("SELECT count(*) FROM gaps WHERE seq = 1 AND reason = 'position_expired'").await, 1);
    // A page that is left out leaves its gap out.
    let mut stale = page(&deals, "tail", "p9", vec![]);
    stale.gap = gap;
    assert!(matches!(world.record(stale).await, PageOutcome::Superseded { .. }));
    assert_eq!(world.count("SELECT count(*) FROM gaps").await, 1);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_sought_moves_with_its_gap_announced_even_when_idle_and_paused_inv_14() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    assert_eq!(world.record(page(&deals, "tail", "p1", events(["a"]))).await, PageOutcome::Recorded);
    world.ledger.set_state(&deals, StreamState::Halted, "a gap\0").await.unwrap();
    world
        .execute("UPDATE streams SET paused = true, seek_to = 'top', seek_at = clock_timestamp() WHERE name = 'deals'")
        .await;
    let (_, body) = announcement(&world, 0).await;
    assert_eq!(body["data"]["gap"]["reason"], "sought");
    assert_eq!(body["data"]["gap"]["from"], "p1");
    assert_eq!(body["data"]["gap"]["to"], "top");
    assert_eq!(world.position(&deals).await, "top");
    let row = world.ledger.open(&deals, &Position::tail()).await.unwrap();
    assert_eq!(row.state, StreamState::Paused, "as the operator ordered");
    world.execute("UPDATE streams SET paused = false").await;
    assert_eq!(world.ledger.streams(&deals.account).await.unwrap()[0].state, StreamState::Active);
    // What was polled before finds the stream elsewhere.
    let old = world.record(page(&deals, "p1", "p2", events(["b"]))).await;
    assert_eq!(old, PageOutcome::Superseded { at: Position::top() });
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_sinks_gap_is_recorded_once_and_announced_inv_14() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    let (owner, crm) = (world.held.ownership(), SinkName::from("crm"));
    assert_eq!(world.record(page(&deals, "tail", "p1", events(1..=10))).await, PageOutcome::Recorded);
    assert_eq!(world.ledger.row(&crm, owner).await.unwrap().cursor, None);
    world.ledger.keep_cursor(&crm, owner, Seq(4)).await.unwrap();
    world.ledger.keep_cursor(&crm, owner, Seq(3)).await.unwrap();
    assert_eq!(world.ledger.row(&crm, owner).await.unwrap().cursor, Some(Seq(4)), "never backwards");
    world.execute("UPDATE sinks SET seek_to = 8, seek_reason = 'sought'").await;
    assert_eq!(world.ledger.row(&crm, owner).await.unwrap().seek, Some(Seq(8)));
    world.ledger.sought(&crm, owner, Seq(8)).await.unwrap();
    let row = world.ledger.row(&crm, owner).await.unwrap();
    assert_eq!((row.cursor, row.seek), (Some(Seq(8)), None));
    let (event, body) = announcement(&world, 0).await;
    assert_eq!(event.account.as_str(), "standpipe");
    assert_eq!((&body["data"]["gap"]["from"], &body["data"]["gap"]["to"]), (&5.into(), &8.into()));
    // Done again after a crash: the same gap.
    world.ledger.gap(&crm, owner, Seq(5), Seq(8), GapReason::Sought).await.unwrap();
    assert_eq!(world.count("SELECT count(*) FROM gaps").await, 1);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn the_backlog_is_what_the_slowest_configured_sink_has_not_taken_until_it_is_cut_off() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    let (owner, crm, ops) = (world.held.ownership(), SinkName::from("crm"), SinkName::from("ops"));
    let sinks = [crm.clone(), ops.clone()];
    let on_page = events(1..=10);
    let each = on_page[0].body.len() as u64;
    for (from, to, events) in [("tail", "p1", &on_page[..5]), ("p1", "p2", &on_page[5..9])] {
        assert_eq!(world.record(page(&deals, from, to, events.to_vec())).await, PageOutcome::Recorded);
    }
    let all = world.ledger.backlog(SHARD, &sinks).await.unwrap();
    assert_eq!((all.bytes, all.taken), (9 * each, Seq::ZERO), "a sink that has not started holds everything");
    let late = SinkName::from("late");
    assert_eq!(world.ledger.cut_off(owner, &late).await.unwrap(), Some((Seq(1), Seq(9))), "it never started");
    for sink in &sinks {
        world.ledger.row(sink, owner).await.unwrap();
        world.ledger.keep_cursor(sink, owner, Seq(9)).await.unwrap();
    }
    let none = world.ledger.backlog(SHARD, &sinks).await.unwrap();
    assert_eq!((none.bytes, none.holder), (0, None));
    world.execute("UPDATE sinks SET cursor = 5 WHERE sink = 'crm'").await;
    let some = world.ledger.backlog(SHARD, &sinks).await.unwrap();
    assert_eq!((some.bytes, some.holder, some.taken), (4 * each, Some(crm.clone()), Seq(5)));
    assert_eq!(world.ledger.backlog(SHARD, std::slice::from_ref(&ops)).await.unwrap().bytes, 0, "not configured");
    assert_eq!(world.ledger.cut_off(owner, &crm).await.unwrap(), Some((Seq(6), Seq(9))));
    assert_eq!(world.ledger.cut_off(owner, &ops).await.unwrap(), None);
    let (_, body) = announcement(&world, 1).await;
    assert_eq!(body["data"]["gap"]["reason"], "backlog_hold");
    assert_eq!(body["data"]["gap"]["sink"], "crm");
    assert_eq!(world.ledger.backlog(SHARD, std::slice::from_ref(&crm)).await.unwrap().taken, Seq(9));
    // It comes back: the gap is not told twice.
    let to = world.ledger.row(&crm, owner).await.unwrap().seek.unwrap();
    world.ledger.sought(&crm, owner, to).await.unwrap();
    assert_eq!(world.ledger.row(&crm, owner).await.unwrap().seek, None);
    assert_eq!(world.count("SELECT count(*) FROM gaps WHERE sink = 'crm'").await, 1);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_replay_is_a_row_of_its_own_for_one_sink_alone() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    let (owner, crm) = (world.held.ownership(), SinkName::from("crm"));
    assert_eq!(world.record(page(&deals, "tail", "p1", events(["a", "b"]))).await, PageOutcome::Recorded);
    let letter = NewDeadLetter { seq: Seq(2), reason: "why\0".to_owned(), attempts: 3 };
    for _ in 0..2 {
        let kept = Duration::from_hours(48);
        world.ledger.dead_letters(&crm, owner, std::slice::from_ref(&letter), kept).await.unwrap();
    }
    let hours = "SELECT round(extract(epoch FROM expires_at - clock_timestamp()) / 3600)::bigint FROM dead_letters";
    assert_eq!(world.count(hours).await, 48);
    assert_eq!(world.count("SELECT count(*) FROM dead_letters").await, 1);
    // The event itself may be gone by then.
    world
        .execute(
            "INSERT INTO replays (shard, of_seq, sink, account_id, type_id, occurred_at, content_hash, event_id,
                record_id, body)
             SELECT shard, seq, sink, account_id, type_id, occurred_at, content_hash, event_id, record_id, body
             FROM dead_letters",
        )
        .await;
    let again = wait_for("the replay is recorded", SOON, async || {
        let batches = world.shelf.batches();
        batches.iter().flat_map(|batch| &batch.events).find(|event| event.seq == Seq(3)).cloned()
    })
    .await;
    let first = world.shelf.batches()[0].events[1].clone();
    assert_eq!((&again.id, &again.body, &again.event_type), (&first.id, &first.body, &first.event_type));
    let replay = again.replay.unwrap();
    assert_eq!((replay.sink, replay.of), (crm, Seq(2)));
    assert_eq!(world.count("SELECT count(*) FROM replays WHERE seq = 3 AND body IS NULL").await, 1);
    // The id's own place is the first one's.
    assert_eq!(world.record(page(&deals, "p1", "p2", events(["b"]))).await, PageOutcome::Recorded);
    assert_eq!(world.count("SELECT max(seq) FROM event_ids").await, 2);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_range_is_replayed_in_bounded_statements_and_what_is_not_kept_is_named() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    let (crm, ops) = (SinkName::from("crm"), SinkName::from("ops"));
    assert_eq!(world.record(page(&deals, "tail", "p1", events(1..=1_200))).await, PageOutcome::Recorded);
    world.execute("DELETE FROM events WHERE seq <= 3 OR seq BETWEEN 499 AND 502 OR seq = 700").await;
    let seqs = |from, to| Seqs { from: Seq(from), to: Seq(to) };
    let replay = async |sink: &SinkName, seqs| {
        let mut replayed = Replayed::default();
        let done = world.ledger.wish_replays(sink, SHARD, seqs, &mut replayed).await;
        done.map(|()| replayed)
    };
    let replayed = replay(&crm, seqs(1, 1_205)).await.unwrap();
    let not_kept = vec![seqs(1, 3), seqs(499, 502), Seqs::one(Seq(700)), seqs(1_201, 1_205)];
    assert_eq!((replayed.replayed, replayed.for_another_sink, replayed.not_kept), (1_192, 0, not_kept));
    let recorded = async || world.count("SELECT count(*) FROM events WHERE replay_sink = 'crm'").await == 1_192;
    wait_until("all of them are rows for crm", SOON, recorded).await;
    let in_order = "SELECT count(*) FROM (SELECT replay_of < lead(replay_of) OVER (ORDER BY seq) AS rises FROM events
                        WHERE replay_sink = 'crm') r WHERE NOT rises";
    assert_eq!(world.count(in_order).await, 0, "in the order of their seqs");

    // A row that repeats an event for crm alone is none of ops' events, unless it is asked for by its own seq.
    let replayed = replay(&ops, seqs(1_199, 1_203)).await.unwrap();
    assert_eq!((replayed.replayed, replayed.for_another_sink, replayed.not_kept), (2, 3, vec![]));
    let again = replay(&crm, seqs(1_201, 1_202)).await.unwrap();
    assert_eq!((again.replayed, again.for_another_sink), (2, 0));
    let alone = replay(&ops, Seqs::one(Seq(1_201))).await.unwrap();
    assert_eq!((alone.replayed, alone.for_another_sink), (1, 0));
    let of = "SELECT count(*) FROM replays WHERE sink = 'ops' AND of_seq = 4";
    assert_eq!(world.count(of).await, 1, "it repeats what the repetition repeats");
    let nowhere = world.ledger.wish_replays(&ops, Shard(9), seqs(1, 2), &mut Replayed::default()).await;
    assert!(nowhere.unwrap_err().to_string().contains("no shard 9"));
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_disabled_endpoint_stays_so_until_it_is_enabled() {
    let world = World::new().await;
    let (owner, ops) = (world.held.ownership(), SinkName::from("ops"));
    world.ledger.row(&ops, owner).await.unwrap();
    world.ledger.report(&ops, owner, SinkState::Disabled, Some("410 Gone")).await.unwrap();
    world.ledger.report(&ops, owner, SinkState::Starting, None).await.unwrap();
    assert_eq!(world.ledger.row(&ops, owner).await.unwrap().disabled.as_deref(), Some("410 Gone"));
    let nowhere = world.ledger.bounds(Shard(7)).await;
    assert!(matches!(nowhere, Err(LedgerError::Refused { .. })));
    world.finish().await.unwrap();
}
