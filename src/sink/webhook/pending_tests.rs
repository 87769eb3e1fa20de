use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::Instant;

use super::super::request::Message;
use super::*;
use crate::event::{AccountName, ContentHash, EventType, Shard};

const WALL: OffsetDateTime = time::macros::datetime!(2026-01-01 00:00:00 UTC);

fn event(seq: u64, record: &str) -> Recorded {
    Recorded {
        seq: Seq(seq),
        chain: Chain([7; 32]),
        account: AccountName::from("acme"),
        event_type: EventType::from("deal.updated"),
        id: format!("e{seq}").into(),
        record_id: record.into(),
        occurred_at: None,
        recorded_at: WALL,
        content_hash: ContentHash([0; 16]),
        body: Bytes::from_static(b"{}"),
        replay: None,
    }
}

/// The state with the ledger beside it: what is written there is checked as the real one checks it.
struct World {
    pending: Pending,
    /// seq → (version, failed attempts), as the database has them.
    rows: BTreeMap<u64, (i64, u32)>,
    cursor: u64,
    records: BTreeMap<u64, String>,
    under_way: Vec<u64>,
    first_attempts: Vec<u64>,
    delivered: Vec<u64>,
    dead: Vec<u64>,
    order: Order,
    at: Instant,
}

impl World {
    fn new(order: Order) -> Self {
        let at = Instant::now();
        Self {
            pending: Pending::new(order, Seq::ZERO, Vec::new(), |_| at),
            rows: BTreeMap::new(),
            cursor: 0,
            records: BTreeMap::new(),
            under_way: Vec::new(),
            first_attempts: Vec::new(),
            delivered: Vec::new(),
            dead: Vec::new(),
            order,
            at,
        }
    }

    fn now(&self) -> Due {
        Due { at: self.at, wall: WALL }
    }

    fn take(&mut self, seq: u64, record: &str) {
        self.records.insert(seq, record.to_owned());
        let event = event(seq, record);
        if self.pending.was_row(event.seq) {
            self.pending.skip(event.seq);
        } else {
            let message = Message::new(&event, Shard(0), &[]).unwrap();
            self.pending.take(&event, Load::Message(message), self.now());
        }
    }

    fn begin(&mut self, seq: u64) {
        let record = &self.records[&seq];
        // What a crash makes us repeat may meet a later one of its record.
        let settled = |seq: &u64| self.delivered.contains(seq) || self.dead.contains(seq);
        if self.order == Order::Record && !record.is_empty() && !settled(&seq) {
            // INV-12: nothing else of the record is under way.
            let same = self.under_way.iter().find(|other| self.records[*other] == *record && !settled(other));
            assert_eq!(same, None, "{seq} overtakes or meets another of record {record}");
        }
        self.under_way.push(seq);
        if !self.first_attempts.contains(&seq) {
            self.first_attempts.push(seq);
        }
    }

    fn start_ready(&mut self) {
        if let Some(start) = self.pending.start_ready(self.at) {
            self.begin(start.seq.0);
        }
    }

    fn start_due(&mut self) {
        self.write();
        for seen in self.pending.start_due(self.at, 3) {
            let row = self.rows.get_mut(&seen.seq.0).expect("only rows are claimed");
            assert_eq!(row.0, seen.version, "claimed as it is");
            row.0 += 1;
            self.begin(seen.seq.0);
        }
    }

    fn settle(&mut self, which: usize, fate: u8) {
        if self.under_way.is_empty() {
            return;
        }
        let seq = self.under_way.remove(which % self.under_way.len());
        let due = Due { at: self.at + Duration::from_secs(5), wall: WALL };
        let fate = match fate {
            0 | 1 => {
                self.delivered.push(seq);
                Fate::Done
            }
            2 => Fate::Again { due, counted: true },
            3 => Fate::Again { due, counted: false },
            _ => {
                self.dead.push(seq);
                Fate::GivenUp { reason: "test".to_owned() }
            }
        };
        self.pending.settle(Seq(seq), fate, self.now());
    }

    /// As the ledger does it: in order, by version, all or nothing.
    fn write(&mut self) {
        let changes = std::mem::take(self.pending.changes());
        for keep in changes.keep {
            assert!(self.rows.insert(keep.seq.0, (1, keep.attempts)).is_none(), "{} is kept twice", keep.seq);
        }
        for retry in changes.retry {
            let row = self.rows.get_mut(&retry.seen.seq.0).expect("a row");
            assert_eq!(row.0, retry.seen.version);
            *row = (row.0 + 1, retry.attempts);
        }
        for seen in changes.exhausted.iter().map(|row| row.seen).chain(changes.done) {
            assert_eq!(self.rows.remove(&seen.seq.0).map(|row| row.0), Some(seen.version), "{}", seen.seq);
        }
        self.cursor = self.pending.cursor().0;
    }

    /// kill -9: what was neither written nor behind the cursor is gone.
    fn crash(&mut self) {
        let rows = self.rows.iter().map(|(seq, (version, attempts))| KeptDelivery {
            seq: Seq(*seq),
            account: AccountName::from("acme"),
            event_type: EventType::from("deal.updated"),
            record_id: self.records[seq].as_str().into(),
            replay: false,
            recorded_at: WALL,
            attempts: *attempts,
            due_at: WALL,
            version: *version,
        });
        let at = self.at;
        self.pending = Pending::new(self.order, Seq(self.cursor), rows.collect(), |_| at);
        self.under_way.clear();
    }

    /// INV-10: whatever is before the cursor is delivered, dead, or a row.
    fn check(&self) {
        for seq in 1..=self.cursor {
            let known = self.delivered.contains(&seq) || self.dead.contains(&seq) || self.rows.contains_key(&seq);
            assert!(known, "{seq} is before the cursor and lost");
        }
    }

    /// Everything goes well from now on.
    fn run_dry(&mut self) {
        for _ in 0..10_000 {
            self.at += Duration::from_secs(10);
            self.start_due();
            self.start_ready();
            if self.under_way.is_empty() {
                break;
            }
            while !self.under_way.is_empty() {
                self.settle(0, 0);
            }
            self.write();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take(u8),
    StartReady,
    StartDue,
    Settle(usize, u8),
    Slow,
    Write,
    Wait(u8),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..5).prop_map(Step::Take),
        6 => Just(Step::StartReady),
        3 => Just(Step::StartDue),
        6 => (any::<usize>(), 0u8..5).prop_map(|(which, fate)| Step::Settle(which, fate)),
        1 => Just(Step::Slow),
        3 => Just(Step::Write),
        2 => (0u8..8).prop_map(Step::Wait),
        1 => Just(Step::Crash),
    ]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn play(order: Order, steps: &[Step]) {
    let runtime = runtime();
    let _inside = runtime.enter();
    let mut world = World::new(order);
    let mut taken = 0;
    for step in steps {
        match step {
            Step::Take(record) if world.pending.has_room() => {
                taken += 1;
                let known = world.records.get(&taken).cloned();
                // Record 0 is none: such events wait for nobody.
                let fresh = || if *record == 0 { String::new() } else { format!("r{record}") };
                world.take(taken, &known.unwrap_or_else(fresh));
            }
            Step::Take(_) => {}
            Step::StartReady => world.start_ready(),
            Step::StartDue => world.start_due(),
            Step::Settle(which, fate) => world.settle(*which, *fate),
            Step::Slow => {
                let now = world.now();
                world.pending.keep_slow(now);
            }
            Step::Write => world.write(),
            Step::Wait(seconds) => world.at += Duration::from_secs(u64::from(*seconds)),
            Step::Crash => {
                world.crash();
                taken = world.cursor;
            }
        }
        world.check();
    }
    // What a crash threw back is taken again.
    let last = world.records.keys().max().copied().unwrap_or(0);
    while taken < last {
        taken += 1;
        let record = world.records[&taken].clone();
        world.take(taken, &record);
    }
    world.run_dry();
    world.check();
    for seq in 1..=last {
        assert!(world.delivered.contains(&seq) || world.dead.contains(&seq), "{seq} is lost");
    }
    assert_eq!(world.cursor, last);
    assert!(world.rows.is_empty() && world.pending.entries.is_empty(), "nothing is left behind");
    assert_eq!((world.pending.rows, world.pending.waiting, world.pending.waiting_bytes), (0, 0, 0));
    if order == Order::Record {
        for record in (1..5).map(|record| format!("r{record}")) {
            let firsts: Vec<u64> =
                world.first_attempts.iter().copied().filter(|seq| world.records[seq] == record).collect();
            assert!(firsts.is_sorted(), "first deliveries of {record} came as {firsts:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    /// INV-10, INV-12: whatever the endpoint answers in whatever order, and wherever a crash strikes, nothing is lost, the
    /// cursor passes nothing that is not kept, and first deliveries of one record come in source order.
    /// Field 5: retries, whatever fails, keep the order of a record.
    #[test]
    fn any_course_keeps_the_order_of_a_record_and_loses_nothing(steps in proptest::collection::vec(step(), 1..250)) {
        play(Order::Record, &steps);
    }

    #[test]
    fn without_an_order_nothing_is_lost_either(steps in proptest::collection::vec(step(), 1..250)) {
        play(Order::None, &steps);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_costs_a_bounded_number_of_rows_and_events_in_memory() {
    let mut world = World::new(Order::Record);
    let mut seq = 0;
    // INV-11: one record fails for ever and more of it comes than anybody can keep.
    for _ in 0..3 * MAX_ROWS {
        if world.pending.has_room() {
            seq += 1;
            world.take(seq, "r1");
        }
        world.start_ready();
        world.settle(0, 2);
    }
    assert_eq!(world.pending.rows, MAX_ROWS);
    assert!(world.pending.waiting <= MAX_WAITING);
    assert_eq!(usize::try_from(seq), Ok(MAX_ROWS), "the rest waits in the ledger");
}

#[tokio::test(start_paused = true)]
async fn one_slow_attempt_becomes_a_row_with_what_waits_behind_it_and_the_cursor_passes() {
    let mut world = World::new(Order::Record);
    for seq in 1..=4 {
        world.take(seq, if seq == 4 { "r2" } else { "r1" });
    }
    world.start_ready();
    world.start_ready();
    world.settle(1, 0);
    world.pending.keep_slow(world.now());
    world.write();
    assert_eq!((world.cursor, world.rows.len()), (0, 0), "not yet slow");
    world.at += SLOW;
    world.pending.keep_slow(world.now());
    world.write();
    assert_eq!(world.cursor, 4);
    assert_eq!(world.rows.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    world.settle(0, 0);
    world.run_dry();
    assert_eq!(world.delivered, [4, 1, 2, 3]);
}
