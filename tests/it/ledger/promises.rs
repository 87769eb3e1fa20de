//! One suite, two ledgers: what the ports promise is asked of PostgreSQL and of the model that simulations run over, so
//! that what a simulation shows is true of both.

use std::time::Duration;

use standpipe::clock::Clock;
use standpipe::event::budget::{BudgetAsk, BudgetBook, Limit, Limits, Requests};
use standpipe::event::grant::{Claimed, Fingerprint, GrantBook, GrantClaim, GrantFailure, KeyId, NewGrant, Sealed};
use standpipe::event::ports::{
    ChainAt, Crossing, Delivered, LedgerError, NewDeadLetter, Ownership, PageOutcome, ReadLedger, RehydrateBook,
    ShardBounds, SinkBook, SinkState, StreamBook, StreamState, Submission,
};
use standpipe::event::{
    Capacity, Chain, DeliveryBook, DeliveryChanges, ExhaustedDelivery, Failures, GapReason, KeepDelivery, LedgerId,
    Page, Position, RetryDelivery, SeenDelivery, Seq, Shard, SinkName, StreamKey,
};
use standpipe::ledger::model::Model;
use standpipe::ledger::{Lease, LeaseBook, Recorder, Store};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::world::{SOON, Shelf, config, event, events, key, open, page};
use crate::support::postgres::Postgres;

const SHARD: Shard = Shard(0);
const TTL: Duration = Duration::from_secs(15);
const MONTH: Duration = Duration::from_hours(720);

trait Whole:
    Store + LeaseBook + StreamBook + SinkBook + DeliveryBook + ReadLedger + RehydrateBook + BudgetBook + GrantBook
{
}
impl<L> Whole for L where
    L: Store + LeaseBook + StreamBook + SinkBook + DeliveryBook + ReadLedger + RehydrateBook + BudgetBook + GrantBook
{
}

#[tokio::test]
async fn postgresql_keeps_what_the_ports_promise() {
    let url = Postgres::shared().await.database().await;
    let ledger = open(&config(&url)).await;
    keeps_its_promises(ledger.clone(), ledger.id()).await;
}

#[tokio::test]
async fn the_model_keeps_what_the_ports_promise() {
    let id = LedgerId(Uuid::new_v4());
    keeps_its_promises(Model::new(id, Clock::system(), TTL), id).await;
}

async fn keeps_its_promises<L: Whole>(ledger: L, id: LedgerId) {
    let owner = one_owner_at_a_time(&ledger).await;
    records_once_and_in_order(&ledger, owner, id).await;
    keeps_what_sinks_keep(&ledger, owner).await;
    keeps_deliveries(&ledger, owner).await;
    shares_budgets(&ledger).await;
    leads_across_voids(&ledger, owner).await;
    shares_grants(&ledger).await;
    refuses_an_owner_whose_time_is_over(&ledger, owner).await;
}

/// A recorder that runs.
struct Recording {
    pages: mpsc::Sender<Submission>,
    capacity: Capacity,
    shelf: Shelf,
    task: JoinHandle<Result<(), LedgerError>>,
}

impl Recording {
    async fn start<L: Whole>(ledger: &L, owner: Ownership) -> Self {
        let recorder = Recorder::open(ledger, owner).await.unwrap();
        let (shelf, (pages, taken)) = (Shelf::default(), mpsc::channel(8));
        let task = tokio::spawn(recorder.run(taken, shelf.clone(), CancellationToken::new()));
        Self { pages, capacity: Capacity::new(1_000, 1 << 20), shelf, task }
    }

    async fn record(&self, page: Page) -> Option<PageOutcome> {
        let room = self.capacity.reserve(page.events.len(), page.size() as u64).await;
        let (settled, answer) = oneshot::channel();
        self.pages.send(Submission { page, room, settled }).await.ok()?;
        tokio::time::timeout(SOON, answer).await.expect("an answer in time").ok()
    }

    async fn end(self) -> Result<(), LedgerError> {
        drop(self.pages);
        tokio::time::timeout(SOON, self.task).await.expect("ends in time").expect("does not panic")
    }
}

fn is_fenced<T>(answer: &Result<T, LedgerError>) -> bool {
    matches!(answer, Err(LedgerError::Fenced { .. }))
}

/// INV-6, as the lease gives it out.
async fn one_owner_at_a_time<L: Whole>(ledger: &L) -> Ownership {
    assert_eq!(ledger.lease_ttl(), TTL);
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    let first = ledger.take_lease(SHARD, one).await.unwrap().expect("nobody has it");
    assert_eq!(ledger.take_lease(SHARD, other).await.unwrap(), None);
    let again = ledger.take_lease(SHARD, one).await.unwrap().expect("its own");
    assert_eq!(again.0, first.0 + 1, "under a new epoch");
    let (old, new) = (Ownership { shard: SHARD, epoch: first }, Ownership { shard: SHARD, epoch: again });
    assert!(is_fenced(&ledger.renew_lease(old).await));
    ledger.renew_lease(new).await.unwrap();
    ledger.release_lease(old).await.unwrap();
    assert_eq!(ledger.take_lease(SHARD, other).await.unwrap(), None, "an epoch that is over releases nothing");
    ledger.release_lease(new).await.unwrap();
    assert!(is_fenced(&ledger.renew_lease(new).await), "what was released is not prolonged");
    let held = Lease::new(ledger, SHARD, other).try_acquire().await.unwrap().expect("it is free");
    held.ownership()
}

async fn position<L: Whole>(ledger: &L, of: &StreamKey) -> (String, bool) {
    let rows = ledger.streams(&of.account).await.unwrap();
    let row = rows.iter().find(|row| row.key == *of).unwrap();
    (row.position.to_string(), row.top)
}

/// INV-1 to INV-4.
async fn records_once_and_in_order<L: Whole>(ledger: &L, owner: Ownership, id: LedgerId) {
    let (deals, notes) = (key("deals"), key("notes"));
    for stream in [&deals, &notes] {
        ledger.open(stream, &Position::tail()).await.unwrap();
    }
    let kept = ledger.open(&deals, &Position::top()).await.unwrap();
    assert_eq!((kept.position, kept.state), (Position::tail(), StreamState::Active), "it was opened before");
    let recording = Recording::start(ledger, owner).await;
    assert_eq!(recording.record(page(&deals, "tail", "p1", events(["a", "b"]))).await, Some(PageOutcome::Recorded));
    // Known ones, one of them with other content, one that comes twice, and two that are new.
    let mut mixed = events(["b", "c", "c"]);
    mixed.extend([event("a", "another"), event("d", "content")]);
    assert_eq!(recording.record(page(&deals, "p1", "p2", mixed)).await, Some(PageOutcome::Recorded));
    assert_eq!(recording.shelf.ids(), ["a", "b", "c", "d"]);
    let elsewhere = recording.record(page(&deals, "p1", "p9", events(["x"]))).await;
    assert_eq!(elsewhere, Some(PageOutcome::Superseded { at: Position::from("p2") }));
    let top = Page { top: true, ..page(&deals, "p2", "p3", vec![]) };
    assert_eq!(recording.record(top).await, Some(PageOutcome::Recorded));
    assert_eq!(position(ledger, &deals).await, ("p3".to_owned(), true));
    assert_eq!(recording.record(page(&notes, "tail", "n1", events(["e"]))).await, Some(PageOutcome::Recorded));
    recording.end().await.unwrap();

    let bounds = ledger.bounds(SHARD).await.unwrap();
    let all = ledger.read(SHARD, Seq::ZERO, bounds.head, 100, 1 << 20).await.unwrap();
    let mut chain = Chain::start(id);
    for (at, event) in (1..).zip(&all.events) {
        chain = chain.link(Seq(at), &event.id, &event.content_hash);
        assert_eq!((event.seq, event.chain), (Seq(at), chain));
        assert_eq!(ledger.chain_at(SHARD, event.seq).await.unwrap(), ChainAt::Known(chain));
    }
    assert_eq!((bounds.ledger, bounds.oldest, bounds.head, bounds.chain), (id, Seq(1), Seq(5), chain));
    assert_eq!(ledger.chain_at(SHARD, Seq::ZERO).await.unwrap(), ChainAt::Known(Chain::start(id)));
    assert_eq!(ledger.chain_at(SHARD, Seq(6)).await.unwrap(), ChainAt::Beyond);
    let some = ledger.read(SHARD, Seq(1), Seq(4), 2, 1 << 20).await.unwrap();
    assert_eq!((some.after, some.to(), some.chain_before), (Seq(1), Seq(3), all.events[0].chain));
    assert_eq!(ledger.read(SHARD, Seq(1), Seq(4), 100, 1).await.unwrap().to(), Seq(2), "at least one");
    assert_eq!(ledger.read(SHARD, Seq(1), Seq(4), 100, 1 << 20).await.unwrap().to(), Seq(4), "no further than asked");
    ledger.set_state(&deals, StreamState::Forbidden, "no plan").await.unwrap();
    assert_eq!(ledger.open(&deals, &Position::tail()).await.unwrap().state, StreamState::Forbidden);
    assert!(matches!(ledger.bounds(Shard(7)).await, Err(LedgerError::Refused { .. })), "there is no such shard");
}

async fn keeps_what_sinks_keep<L: Whole>(ledger: &L, owner: Ownership) {
    let sink = SinkName::from("crm");
    assert!(is_fenced(&ledger.keep_cursor(&sink, owner, Seq(1)).await), "there is no row yet");
    let row = ledger.row(&sink, owner).await.unwrap();
    assert_eq!((row.cursor, row.seek, row.paused, row.disabled), (None, None, false, None));
    ledger.keep_cursor(&sink, owner, Seq(3)).await.unwrap();
    ledger.keep_cursor(&sink, owner, Seq(2)).await.unwrap();
    assert_eq!(ledger.row(&sink, owner).await.unwrap().cursor, Some(Seq(3)), "never backwards");
    assert_eq!(ledger.row(&sink, owner).await.unwrap().opening, Seq::ZERO, "it has opened nothing");
    ledger.opens(&sink, owner, Seq(7)).await.unwrap();
    assert_eq!(ledger.row(&sink, owner).await.unwrap().opening, Seq(7), "beyond the head, too");
    ledger.sought(&sink, owner, Seq(1)).await.unwrap();
    let row = ledger.row(&sink, owner).await.unwrap();
    assert_eq!(row.cursor, Some(Seq(1)), "but by an order");
    assert_eq!(row.opening, Seq::ZERO, "an operator has chosen");
    let letter = NewDeadLetter { seq: Seq(2), reason: "no".to_owned(), attempts: 1 };
    for _ in 0..2 {
        ledger.dead_letters(&sink, owner, std::slice::from_ref(&letter), MONTH).await.unwrap();
    }
    ledger.gap(&sink, owner, Seq(2), Seq(3), GapReason::Sought).await.unwrap();
    ledger.report(&sink, owner, SinkState::Disabled, Some("410")).await.unwrap();
    ledger.report(&sink, owner, SinkState::Running, None).await.unwrap();
    let disabled = ledger.row(&sink, owner).await.unwrap().disabled;
    assert_eq!(disabled.as_deref(), Some("410"), "until an operator says otherwise");
}

/// INV-18: sinks that had come to different places leave one void behind the other, in whatever order they are found.
async fn leads_across_voids<L: Whole>(ledger: &L, owner: Ownership) {
    let ShardBounds { head: before, chain: chain_before, .. } = ledger.bounds(SHARD).await.unwrap();
    let (near, far) = (Seq(before.0 + 10), Seq(before.0 + 25));
    let (near_chain, far_chain) = (Chain([1; 32]), Chain([2; 32]));
    let mut ways = Vec::new();
    for (sink, found, chain) in [("tardy", near, near_chain), ("crm", far, far_chain)] {
        let sink = SinkName::from(sink);
        ledger.row(&sink, owner).await.unwrap();
        let way = ledger.rewound(&sink, owner, found, chain, before).await.unwrap();
        assert_eq!((way.goes_on, way.goes_on_chain, way.until), (found, chain, before));
        ways.push((sink, way));
    }
    // They are one void to whoever asks how a sink comes across them.
    let crossing = async |at| ledger.crossing(SHARD, at).await.unwrap();
    assert_eq!(crossing(Seq(near.0 - 1)).await, None);
    for (at, to) in [(near, near), (Seq(far.0 - 1), near), (far, far), (Seq(far.0 + 9), far)] {
        assert_eq!(crossing(at).await, Some(Crossing { after: before, chain: chain_before, to }), "{at}");
    }
    for (sink, way) in &ways {
        ledger.rehydrated(sink, owner, way, 0).await.unwrap();
    }
    skips_what_was_delivered(ledger, owner, before).await;
    let recording = Recording::start(ledger, owner).await;
    let behind = recording.record(page(&key("notes"), "n1", "n2", events(["f", "g"]))).await;
    assert_eq!(behind, Some(PageOutcome::Recorded));
    recording.end().await.unwrap();
    let head = ledger.bounds(SHARD).await.unwrap().head;
    // A gap that was noted before may be announced, too.
    let behind = head.since(far);
    assert!(behind >= 2, "{head}");
    // However much is asked for at once.
    for most in [1, 12, 100] {
        let first = ledger.read(SHARD, before, head, most, 1 << 20).await.unwrap();
        assert_eq!((first.to(), first.chain(), first.events.len()), (near, near_chain, 0));
        let second = ledger.read(SHARD, near, head, most, 1 << 20).await.unwrap();
        assert_eq!(second.void.map(|void| (void.to, void.chain)), Some((far, far_chain)));
        assert_eq!(second.to(), Seq(far.0 + behind.min(most as u64)));
    }
    assert_eq!(ledger.chain_at(SHARD, near).await.unwrap(), ChainAt::Known(near_chain));
    assert_eq!(ledger.chain_at(SHARD, far).await.unwrap(), ChainAt::Known(far_chain));
}

/// INV-18: what a sink has delivered in whatever form is skipped as a first recording, and an operator's seek forgets it.
async fn skips_what_was_delivered<L: Whole>(ledger: &L, owner: Ownership, recorded: Seq) {
    let (sink, event) = (SinkName::from("crm"), ledger.read(SHARD, Seq(0), recorded, 1, 1 << 20).await.unwrap());
    let first = Delivered::of(&event.events[0]);
    let at = event.events[0].seq;
    let replay = |of| Delivered { replay_of: of, ..first };
    let skips = async |of: &[Delivered]| ledger.skips(&sink, SHARD, of).await.unwrap();
    let excuse = async || ledger.excuses(&sink, SHARD, at, at).await.unwrap().elsewhere(at);
    // As a replay alone, because its seq had been used for another.
    ledger.keep_skips(&sink, owner, &[(Seq(99), replay(at))]).await.unwrap();
    let asked = [first, replay(at), replay(Seq(98))];
    assert_eq!(skips(&asked).await, [first, replay(at)].into_iter().collect());
    assert_eq!(excuse().await, Some(Seq(99)), "the topics have it there");
    // In its own place, too: then nothing explains that it is not there.
    ledger.keep_skips(&sink, owner, &[(at, first)]).await.unwrap();
    assert_eq!(excuse().await, None);
    ledger.keep_skips(&sink, owner, &[(Seq(97), first)]).await.unwrap();
    assert_eq!(excuse().await, Some(Seq(97)), "as it was read last");
    ledger.forget_skips(&sink, owner, Seq(at.0 - 1), at).await.unwrap();
    assert!(skips(&asked).await.is_empty() && !ledger.has_skips(&sink, SHARD).await.unwrap());
}

fn seen(seq: u64, version: i64) -> SeenDelivery {
    SeenDelivery { seq: Seq(seq), version }
}

/// INV-10: rows change only as they were seen, all of a change or nothing.
async fn keeps_deliveries<L: Whole>(ledger: &L, owner: Ownership) {
    let sink = SinkName::from("ops");
    ledger.row(&sink, owner).await.unwrap();
    let due_at = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(7);
    let all = ledger.read(SHARD, Seq::ZERO, Seq(5), 100, 1 << 20).await.unwrap().events;
    let keep = |seq: u64| KeepDelivery {
        seq: Seq(seq),
        chain: all[usize::try_from(seq - 1).unwrap()].chain,
        attempts: 1,
        due_at,
    };
    let change = async |changes: DeliveryChanges| ledger.change(&sink, owner, &changes, MONTH).await;
    let rows = async || -> Vec<(u64, i64, u32)> {
        let rows = ledger.deliveries(&sink, SHARD).await.unwrap();
        rows.iter().map(|row| (row.seq.0, row.version, row.attempts)).collect()
    };
    change(DeliveryChanges { keep: (1..=4).map(keep).collect(), ..DeliveryChanges::default() }).await.unwrap();
    assert_eq!(rows().await, [(1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1)]);
    let row = &ledger.deliveries(&sink, SHARD).await.unwrap()[1];
    assert_eq!((row.due_at, &*row.record_id, row.replay), (due_at, "7", false));
    let mut claimed = ledger.claim(&sink, owner, &[seen(2, 1), seen(1, 1)]).await.unwrap();
    claimed.sort_by_key(|event| event.seq);
    let expected: Vec<String> = all[..2].iter().map(|event| format!("{event:?}")).collect();
    assert_eq!(claimed.iter().map(|event| format!("{event:?}")).collect::<Vec<_>>(), expected, "whole");
    let stale = ledger.claim(&sink, owner, &[seen(3, 1), seen(1, 1)]).await;
    assert!(matches!(stale, Err(LedgerError::Unavailable { .. })));
    let retry = RetryDelivery { seen: seen(1, 2), attempts: 2, due_at };
    let stale = DeliveryChanges { retry: vec![retry], done: vec![seen(2, 1)], ..DeliveryChanges::default() };
    assert!(matches!(change(stale).await, Err(LedgerError::Unavailable { .. })));
    assert_eq!(rows().await, [(1, 2, 1), (2, 2, 1), (3, 1, 1), (4, 1, 1)], "nothing of it");
    let exhausted = ExhaustedDelivery { seen: seen(3, 1), attempts: 9, reason: "no".to_owned() };
    let settled = DeliveryChanges {
        retry: vec![retry],
        exhausted: vec![exhausted],
        done: vec![seen(2, 2)],
        ..DeliveryChanges::default()
    };
    change(settled).await.unwrap();
    assert_eq!(rows().await, [(1, 3, 2), (4, 1, 1)]);
    ledger.forget_after(&sink, owner, Seq(1)).await.unwrap();
    assert_eq!(rows().await, [(1, 3, 2)]);
    let failures = Failures { since: due_at, lasting: Duration::from_mins(3) };
    assert_eq!(ledger.failures(&sink, SHARD).await.unwrap(), None);
    ledger.keep_failures(&sink, owner, Some(failures)).await.unwrap();
    assert_eq!(ledger.failures(&sink, SHARD).await.unwrap(), Some(failures));
    ledger.keep_failures(&sink, owner, None).await.unwrap();
    assert_eq!(ledger.failures(&sink, SHARD).await.unwrap(), None);
    ledger.forget_attempts(&sink, owner).await.unwrap();
}

/// Every slice of every replica together is within the limits, and what was spent and given back is known.
async fn shares_budgets<L: Whole>(ledger: &L) {
    let of = |all, others| Limit { all, others };
    let requests = |streams, others| Requests { streams, others };
    let ask = |replica: u128, turn: u64, wants: Requests| BudgetAsk {
        account: "acme".into(),
        replica: Uuid::from_u128(replica),
        turn,
        limits: Limits { second: Some(of(10, 7)), minute: of(20, 14), hour: of(100, 70) },
        told: (0, 0),
        spent: Vec::new(),
        holds: requests(0, 0),
        wants,
        pace: requests(0, 4),
        lasts: Duration::from_secs(20),
    };
    let first = ledger.lease(ask(1, 1, requests(2, 100))).await.unwrap();
    assert_eq!((first.given, first.pace), (requests(2, 14), Some(of(4, 4))), "no more than the others' part");
    assert_eq!(first.left, (20, 100));
    let wait = first.wait.1.expect("when more may be there");
    assert!(first.wait.0.is_none() && wait > Duration::ZERO && wait < Duration::from_secs(90), "{wait:?}");
    let second = ledger.lease(ask(2, 1, requests(9, 9))).await.unwrap();
    assert_eq!((second.given, second.pace), (requests(4, 0), Some(of(3, 3))), "what the first has left");
    assert_eq!(second.left, (4, 84));
    assert!(ledger.lease(ask(1, 1, requests(0, 0))).await.is_err(), "an ask of before changes nothing");

    // The first has spent five, and wants none of the rest.
    let mut done = ask(1, 2, requests(0, 0));
    done.spent = vec![(Duration::from_secs(1), requests(1, 2)), (Duration::ZERO, requests(0, 2))];
    assert_eq!(ledger.lease(done.clone()).await.unwrap().given, requests(0, 0));
    let third = ledger.lease(ask(3, 1, requests(0, 100))).await.unwrap();
    assert_eq!(third.given, requests(0, 10), "what was given back");
    // It did not hear the answer, tells it again, and one more.
    done.turn = 3;
    done.spent.push((Duration::ZERO, requests(1, 0)));
    ledger.lease(done).await.unwrap();
    let other = BudgetAsk { account: "other".into(), ..ask(2, 9, requests(20, 0)) };
    assert_eq!(ledger.lease(other).await.unwrap().given, requests(20, 0), "each account has its own");
    let left = ledger.lease(ask(4, 1, requests(20, 0))).await.unwrap();
    assert_eq!((left.given, left.left), (requests(0, 0), (0, 80)), "six spent, four and ten held");
}

/// One exchange at a time, its outcome kept once, a refused one never begun again.
pub(super) async fn shares_grants<L: GrantBook>(ledger: &L) {
    let account = || standpipe::event::AccountName::from("oauth");
    let (first, second) = (Fingerprint([1; 16]), Fingerprint([2; 16]));
    let claim = |claim: u128, configured, refused| GrantClaim {
        account: account(),
        claim: Uuid::from_u128(claim),
        configured,
        refused,
        lasts: Duration::from_secs(45),
    };
    let new = |generation, configured, byte: u8| NewGrant {
        account: account(),
        generation,
        configured,
        sealed: Sealed { key: KeyId([7; 8]), bytes: vec![byte; 40].into() },
        life: Duration::from_hours(1),
        renew_after: Duration::from_mins(48),
        passed: Duration::from_secs(10),
    };
    let ours = |claimed: Claimed| match claimed {
        Claimed::Ours(row) => row,
        Claimed::No(row) => panic!("not ours: {row:?}"),
    };
    let not = |claimed: Claimed| match claimed {
        Claimed::No(row) => row,
        Claimed::Ours(row) => panic!("ours: {row:?}"),
    };
    assert!(ledger.grant(&account()).await.unwrap().is_none());
    // Many ask at once: one has it.
    let all = futures_util::future::join_all((1..=8).map(|n| ledger.claim_grant(claim(n, first, None)))).await;
    let winners = all.iter().filter(|told| matches!(told, Ok(Claimed::Ours(_)))).count();
    assert_eq!(winners, 1, "{all:?}");
    let row = ledger.grant(&account()).await.unwrap().unwrap();
    assert!(row.sealed.is_none() && row.generation == 0 && row.doubt.is_some());
    assert!(row.claimed_for.unwrap() > Duration::from_secs(30));
    // Kept, and once more after a lost answer.
    for _ in 0..2 {
        assert!(ledger.keep_grant(new(0, first, 3)).await.unwrap());
    }
    let row = ledger.grant(&account()).await.unwrap().unwrap();
    assert_eq!((row.generation, row.sealed.clone(), row.doubt), (1, Some(new(0, first, 3).sealed), None));
    let left = |at: u64| Duration::from_secs(at - 60)..Duration::from_secs(at);
    assert!(left(2_870).contains(&row.renew_in) && left(3_590).contains(&row.valid_for), "{row:?}");
    assert!(row.claimed_for.is_none());
    // What another one makes of the same refresh token comes too late.
    assert!(!ledger.keep_grant(new(0, first, 4)).await.unwrap());
    // Not due; but what the vendor has refused is replaced, and only that.
    not(ledger.claim_grant(claim(10, first, None)).await.unwrap());
    not(ledger.claim_grant(claim(10, first, Some(0))).await.unwrap());
    let row = ours(ledger.claim_grant(claim(11, first, Some(1))).await.unwrap());
    assert!(row.sealed.is_some() && row.doubt.is_none(), "as it was before");
    not(ledger.claim_grant(claim(12, first, Some(1))).await.unwrap());
    let how = GrantFailure::Unanswered;
    assert!(!ledger.fail_grant(&account(), Uuid::from_u128(12), how.clone()).await.unwrap(), "not its claim");
    assert!(ledger.fail_grant(&account(), Uuid::from_u128(11), how).await.unwrap());
    let row = ours(ledger.claim_grant(claim(13, first, Some(1))).await.unwrap());
    assert!(row.doubt.is_some(), "nobody knows what became of the exchange before");
    let refused = GrantFailure::Refused("spent".to_owned());
    assert!(ledger.fail_grant(&account(), Uuid::from_u128(13), refused).await.unwrap());
    let row = not(ledger.claim_grant(claim(14, first, Some(1))).await.unwrap());
    assert_eq!(row.refused.map(|refused| refused.why).as_deref(), Some("spent"));
    // Another one is configured.
    let row = ours(ledger.claim_grant(claim(15, second, None)).await.unwrap());
    assert!(row.refused.is_none() && row.sealed.is_none() && row.former == [first] && row.generation == 1);
    assert!(!ledger.keep_grant(new(1, first, 5)).await.unwrap(), "of the one before");
    assert!(ledger.keep_grant(new(1, second, 6)).await.unwrap());
    // A replica that has the one before does not bring it back.
    let row = not(ledger.claim_grant(claim(16, first, None)).await.unwrap());
    assert_eq!((row.configured, row.generation), (second, 2));
}

/// INV-6, at every write.
async fn refuses_an_owner_whose_time_is_over<L: Whole>(ledger: &L, old: Ownership) {
    let recording = Recording::start(ledger, old).await;
    ledger.release_lease(old).await.unwrap();
    ledger.take_lease(SHARD, Uuid::new_v4()).await.unwrap().expect("it is free");
    assert_eq!(recording.record(page(&key("deals"), "p3", "p4", events(["z"]))).await, None, "nobody answers");
    assert!(is_fenced(&recording.end().await));
    assert!(is_fenced(&Recorder::open(ledger, old).await));
    let (crm, ops) = (SinkName::from("crm"), SinkName::from("ops"));
    assert!(is_fenced(&ledger.row(&crm, old).await));
    assert!(is_fenced(&ledger.keep_cursor(&crm, old, Seq(5)).await));
    assert!(is_fenced(&ledger.opens(&crm, old, Seq(5)).await));
    assert!(is_fenced(&ledger.sought(&crm, old, Seq(5)).await));
    assert!(is_fenced(&ledger.dead_letters(&crm, old, &[], MONTH).await));
    assert!(is_fenced(&ledger.report(&crm, old, SinkState::Running, None).await));
    assert!(is_fenced(&ledger.gap(&crm, old, Seq(1), Seq(2), GapReason::Sought).await));
    assert!(is_fenced(&ledger.claim(&ops, old, &[seen(1, 3)]).await));
    assert!(is_fenced(&ledger.change(&ops, old, &DeliveryChanges::default(), MONTH).await));
    assert!(is_fenced(&ledger.keep_failures(&ops, old, None).await));
    assert!(is_fenced(&ledger.forget_after(&ops, old, Seq::ZERO).await));
    assert!(is_fenced(&ledger.forget_attempts(&ops, old).await));
    // The gap of before may have been announced meanwhile, under the old epoch; the page was not recorded.
    let all = ledger.read(SHARD, Seq(5), Seq(99), 100, 1 << 20).await.unwrap();
    assert!(all.events.iter().all(|event| &*event.id != "z"));
    assert_eq!(position(ledger, &key("deals")).await.0, "p3");
    assert_eq!(ledger.deliveries(&ops, SHARD).await.unwrap().len(), 1);
}
