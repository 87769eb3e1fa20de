use uuid::Uuid;

use super::*;
use crate::event::{Chain, Shard};
use crate::sink::kafka::cursor::Tail;

const OURS: LedgerId = LedgerId(Uuid::from_u128(1));
const CHAIN: Chain = Chain([7; 32]);

fn bounds(oldest: u64, head: u64) -> ShardBounds {
    ShardBounds { ledger: OURS, oldest: Seq(oldest), head: Seq(head), chain: Chain([9; 32]) }
}

fn cursor(seq: u64) -> Cursor {
    Cursor::new(OURS, Shard(0), Seq(seq), CHAIN, Tails::new())
}

/// C, W, the ledger's oldest and head.
fn judged(at: Option<u64>, copy: Option<u64>, oldest: u64, head: u64) -> Result<Verdict, Stop> {
    judge("cursors", false, at.map(cursor).as_ref(), copy.map(Seq), &bounds(oldest, head))
}

/// INV-8: every row of the table in design.md section 5 in which the ledger was not rewound.
#[test]
fn a_start_is_judged_by_the_table() {
    assert_eq!(judged(None, None, 1, 9), Ok(Verdict::FirstStart));
    assert_eq!(judged(None, Some(0), 1, 9), Ok(Verdict::FirstStart));
    assert!(matches!(judged(None, Some(4), 1, 9), Err(Stop::CursorLost { copy: Seq(4), .. })));
    assert_eq!(judged(Some(0), None, 1, 9), Ok(Verdict::NoteAndGo));
    for (at, copy) in [(5, 5), (5, 4), (9, 0), (0, 0)] {
        assert_eq!(judged(Some(at), Some(copy), 1, 9), Ok(Verdict::Go), "C {at}, W {copy}");
    }
    assert_eq!(judged(Some(5), Some(5), 6, 9), Ok(Verdict::Go), "the next event is the oldest kept");
    assert_eq!(judged(Some(5), Some(5), 7, 9), Err(Stop::Expired { cursor: Seq(5), oldest: Seq(7) }));
    assert!(matches!(judged(Some(5), Some(6), 1, 9), Err(Stop::KafkaRewound { cursor: Seq(5), copy: Seq(6), .. })));
}

#[test]
fn a_cursor_of_another_ledger_stops_whatever_it_says() {
    let theirs = Cursor::new(LedgerId(Uuid::from_u128(2)), Shard(0), Seq(5), CHAIN, Tails::new());
    for copy in [None, Some(Seq(0)), Some(Seq(5))] {
        let judged = judge("cursors", false, Some(&theirs), copy, &bounds(1, 9));
        assert!(matches!(judged, Err(Stop::OtherLedger { ours: OURS, .. })), "{copy:?}");
    }
}

#[test]
fn a_cursor_partition_that_was_cut_is_not_a_first_start() {
    let judged = judge("cursors", true, None, None, &bounds(1, 9));
    assert!(matches!(judged, Err(Stop::CursorLost { .. })));
}

fn end(low: i64, from: i64, ours: &[(u64, u64)]) -> PartitionEnd {
    PartitionEnd { low, from, high: 100, ours: ours.iter().map(|(seq, prev)| (Seq(*seq), Seq(*prev))).collect() }
}

/// A topic whose only partition should end with 5.
fn compared(end: PartitionEnd) -> Result<(), Stop> {
    let mut cursor = cursor(5);
    cursor.topics.insert("deals".into(), Tail { last: vec![Seq(5)] });
    compare(&cursor, &[TopicEnd { topic: "deals".into(), partitions: Some(vec![end]) }])
}

#[test]
fn a_partition_must_end_with_what_the_cursor_says() {
    let disagrees = |compared: Result<(), Stop>| matches!(compared, Err(Stop::TailDisagrees { expected: Seq(5), .. }));
    assert_eq!(compared(end(0, 0, &[(3, 0), (5, 3)])), Ok(()));
    assert!(disagrees(compared(end(0, 0, &[]))), "recreated");
    assert!(disagrees(compared(end(0, 0, &[(3, 0)]))), "rewound");
    assert!(disagrees(compared(end(0, 0, &[(5, 3), (6, 5)]))), "the cursor was rewound");
}

#[test]
fn what_retention_or_another_sink_did_to_a_partition_is_no_disagreement() {
    assert_eq!(compared(end(90, 90, &[])), Ok(()), "all removed by retention");
    assert_eq!(compared(end(0, 36, &[])), Ok(()), "too far back to be looked for");
    assert_eq!(compared(end(0, 0, &[(5, 3), (8, 2)])), Ok(()), "another sink's, behind a message of its own");
}

#[test]
fn a_topic_that_is_gone_or_has_other_partitions_stops() {
    let mut cursor = cursor(5);
    cursor.topics.insert("deals".into(), Tail { last: vec![Seq(5), Seq(4)] });
    let with =
        |partitions: Option<Vec<PartitionEnd>>| compare(&cursor, &[TopicEnd { topic: "deals".into(), partitions }]);
    assert!(matches!(with(None), Err(Stop::TopicLost { .. })));
    let three = vec![end(0, 0, &[(5, 0)]), end(0, 0, &[(4, 0)]), end(0, 0, &[])];
    assert!(matches!(with(Some(three)), Err(Stop::PartitionsChanged { was: 2, now: 3, .. })));
}

#[test]
fn a_seek_takes_over_what_the_partitions_really_hold() {
    let known = Tails::from([(Arc::from("deals"), Tail { last: vec![Seq(5), Seq(4), Seq(3)] })]);
    let partitions = vec![end(0, 0, &[(2, 0)]), end(0, 0, &[]), end(50, 90, &[]), end(0, 0, &[])];
    let found = found_tails(&known, &[TopicEnd { topic: "deals".into(), partitions: Some(partitions) }]);
    assert_eq!(found["deals"].last, [Seq(2), Seq(0), Seq(3), Seq(0)]);
}

#[test]
fn every_stop_names_a_way_out() {
    let stops = [
        judged(None, Some(4), 1, 9).unwrap_err(),
        judged(Some(5), Some(5), 7, 9).unwrap_err(),
        Stop::TailTooShort { topic: "deals".into(), partition: 0, seq: Seq(7) },
        Stop::TailTooLong { topic: "deals".into(), partition: 0, most: 7 },
        Stop::TailUnreadable { topic: "deals".into(), partition: 0, offset: 7, why: "no".into() },
        judged(Some(5), Some(6), 1, 9).unwrap_err(),
        compared(end(0, 0, &[])).unwrap_err(),
    ];
    for stop in stops {
        assert!(stop.to_string().contains("standpipe sinks seek"), "{stop}");
    }
}
