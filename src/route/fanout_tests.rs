use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use time::macros::datetime;
use tokio::time::timeout;

use super::*;
use crate::event::{Chain, ContentHash, Recorded};

/// A ledger in memory; `behind` events at its end are not there yet.
#[derive(Clone, Default)]
struct Ledger {
    events: Arc<Mutex<Vec<Recorded>>>,
    reads: Arc<AtomicUsize>,
    lost: bool,
}

impl Ledger {
    /// Commits `count` events and gives the batch to the fanout.
    async fn commit(&self, fanout: &Fanout, count: usize) {
        let batch = {
            let mut events = self.events.lock().unwrap();
            let after = events.len() as u64;
            for seq in after + 1..=after + count as u64 {
                events.push(recorded(seq));
            }
            batch(after, &events[usize::try_from(after).unwrap()..])
        };
        fanout.publish(Arc::new(batch)).await;
    }
}

impl ReadLedger for Ledger {
    async fn read(&self, _: Shard, after: Seq, until: Seq, max_events: usize, _: usize) -> Result<Batch, LedgerError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let events = self.events.lock().unwrap();
        let from = usize::try_from(after.0).unwrap();
        let to = usize::try_from(until.0).unwrap().min(from + max_events.min(3));
        Ok(batch(after.0, if self.lost { &[] } else { &events[from..to] }))
    }
}

fn chain(seq: u64) -> Chain {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seq.to_be_bytes());
    Chain(bytes)
}

fn batch(after: u64, events: &[Recorded]) -> Batch {
    Batch { shard: Shard(0), after: Seq(after), chain_before: chain(after), void: None, events: events.to_vec() }
}

fn recorded(seq: u64) -> Recorded {
    Recorded {
        seq: Seq(seq),
        chain: chain(seq),
        account: "acme".into(),
        event_type: "deal.updated".into(),
        id: seq.to_string().into(),
        record_id: "1".into(),
        occurred_at: None,
        recorded_at: datetime!(2024-02-14 10:30 UTC),
        content_hash: ContentHash([0; 16]),
        body: Bytes::from_static(&[b'x'; 700]),
        replay: None,
    }
}

fn sink() -> SinkName {
    "crm".into()
}

/// Takes the next batch, which must follow on, and moves the cursor by at most `take` of its events.
async fn advance<R: ReadLedger>(feed: &mut SinkFeed<R>, cursor: &mut Seq, take: usize) {
    let next = timeout(Duration::from_mins(1), feed.next(*cursor)).await.expect("a sink behind the head sleeps");
    let batch = next.unwrap();
    assert_eq!((batch.after, batch.chain_before), (*cursor, chain(cursor.0)), "contiguous");
    assert!(!batch.events.is_empty());
    for (event, expected) in batch.events.iter().zip(cursor.0 + 1..) {
        assert_eq!(event.seq.0, expected, "in order, none left out");
    }
    *cursor = batch.events[take.clamp(1, batch.events.len()) - 1].seq;
}

#[derive(Clone, Debug)]
enum Step {
    Commit(usize),
    Take(usize),
    Cancel,
    Replace,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1usize..6).prop_map(Step::Commit),
        3 => (1usize..6).prop_map(Step::Take),
        1 => Just(Step::Cancel),
        1 => Just(Step::Replace),
    ];
    proptest::collection::vec(step, 0..60)
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

proptest! {
    /// INV-15, INV-11: whatever a full channel dropped, a feed gives every seq exactly once, in order.
    /// Field 4: a channel that was full costs a look into the ledger, and no event.
    #[test]
    fn a_feed_gives_every_event_once_in_order_whatever_was_dropped(
        steps in steps(), room in 1usize..8, kibibytes in 1u64..6,
    ) {
        paused().block_on(async {
            let ledger = Ledger::default();
            let fanout = Fanout::new(Shard(0), Seq::ZERO);
            let capacity = || Capacity::new(room, kibibytes * 1024);
            let mut feed = fanout.feed(&sink(), capacity(), ledger.clone());
            let mut cursor = Seq::ZERO;
            for step in steps {
                match step {
                    Step::Commit(count) => ledger.commit(&fanout, count).await,
                    Step::Take(_) if cursor == fanout.head() => {}
                    Step::Take(take) => advance(&mut feed, &mut cursor, take).await,
                    // Polled once, then dropped: nothing may be lost by it.
                    Step::Cancel => drop(futures_util::poll!(Box::pin(feed.next(cursor)))),
                    Step::Replace => feed = fanout.feed(&sink(), capacity(), ledger.clone()),
                }
            }
            while cursor < fanout.head() {
                advance(&mut feed, &mut cursor, usize::MAX).await;
            }
            assert!(futures_util::poll!(Box::pin(feed.next(cursor))).is_pending(), "and nothing more");
        });
    }
}

#[tokio::test]
async fn a_sink_that_keeps_up_never_reads_the_ledger() {
    let ledger = Ledger::default();
    let fanout = Fanout::new(Shard(0), Seq::ZERO);
    let mut feed = fanout.feed(&sink(), Capacity::new(100, 1 << 20), ledger.clone());
    let mut cursor = Seq::ZERO;
    for _ in 0..10 {
        ledger.commit(&fanout, 5).await;
        advance(&mut feed, &mut cursor, usize::MAX).await;
    }
    assert_eq!((cursor, ledger.reads.load(Ordering::SeqCst)), (Seq(50), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_sink_is_woken_by_a_batch_that_had_no_room() {
    let ledger = Ledger::default();
    let fanout = Fanout::new(Shard(0), Seq::ZERO);
    let mut feeds: Vec<_> = (0..3).map(|_| fanout.feed(&sink(), Capacity::new(2, 1024), ledger.clone())).collect();
    let stuck = feeds.pop();
    let mut readers = tokio::task::JoinSet::new();
    for mut feed in feeds {
        readers.spawn(async move {
            let mut cursor = Seq::ZERO;
            while cursor < Seq(3000) {
                advance(&mut feed, &mut cursor, usize::MAX).await;
            }
        });
    }
    for _ in 0..1000 {
        ledger.commit(&fanout, 3).await;
        tokio::task::yield_now().await;
    }
    readers.join_all().await;
    drop(stuck);
}

#[tokio::test]
async fn a_dropped_feed_gives_its_room_back_and_is_forgotten() {
    let ledger = Ledger::default();
    let fanout = Fanout::new(Shard(0), Seq::ZERO);
    let capacity = Capacity::new(10, 1 << 20);
    let feed = fanout.feed(&sink(), capacity.clone(), ledger.clone());
    ledger.commit(&fanout, 4).await;
    assert_eq!(capacity.depth(), 4);
    drop(feed);
    assert_eq!(capacity.depth(), 0);
    ledger.commit(&fanout, 1).await;
    assert!(fanout.sinks().outlets.is_empty());
}

#[tokio::test]
async fn a_feed_says_when_its_ledger_lost_events_and_waits_when_its_recorder_has_ended() {
    let ledger = Ledger { lost: true, ..Ledger::default() };
    let fanout = Fanout::new(Shard(0), Seq(3));
    let mut feed = fanout.feed(&sink(), Capacity::new(10, 1 << 20), ledger);
    let error = feed.next(Seq(1)).await.unwrap_err();
    assert!(matches!(error, LedgerError::Unavailable { .. }), "{error:?}");
    drop(fanout);
    assert!(futures_util::poll!(Box::pin(feed.next(Seq(3)))).is_pending());
}

/// INV-15: a sink that takes is waited for, one that does not costs one wait and no more.
#[tokio::test(start_paused = true)]
async fn a_sink_that_is_a_little_late_stays_in_memory_and_one_that_takes_nothing_is_waited_for_once() {
    let ledger = Ledger::default();
    let fanout = Fanout::new(Shard(0), Seq::ZERO);
    let mut feed = fanout.feed(&sink(), Capacity::new(4, 1 << 20), ledger.clone());
    let began = Instant::now();
    ledger.commit(&fanout, 4).await;
    let mut cursor = Seq::ZERO;
    let taking = async {
        tokio::time::sleep(PATIENCE * 2).await;
        advance(&mut feed, &mut cursor, usize::MAX).await;
    };
    tokio::join!(ledger.commit(&fanout, 3), taking);
    advance(&mut feed, &mut cursor, usize::MAX).await;
    assert_eq!((cursor, ledger.reads.load(Ordering::SeqCst)), (Seq(7), 0), "both came by memory");
    ledger.commit(&fanout, 4).await;
    let (patient, waited) = (began.elapsed(), |since: Duration| began.elapsed().saturating_sub(since));
    ledger.commit(&fanout, 3).await;
    // Timers tick in milliseconds.
    let once = PATIENCE * 3;
    assert!((once..once + Duration::from_millis(2)).contains(&waited(patient)), "{:?}", waited(patient));
    let after = began.elapsed();
    for _ in 0..100 {
        ledger.commit(&fanout, 3).await;
    }
    assert_eq!(waited(after), Duration::ZERO, "nobody waits for what takes nothing");
    while cursor < fanout.head() {
        advance(&mut feed, &mut cursor, usize::MAX).await;
    }
}
