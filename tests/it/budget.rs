//! One budget over several replicas, in paused time: over the model, which keeps the same promises as PostgreSQL does
//! (`ledger::promises`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use standpipe::clock::Clock;
use standpipe::event::budget::{BudgetAsk, BudgetBook, BudgetSlice};
use standpipe::event::ports::LedgerError;
use standpipe::event::{AccountName, LedgerId};
use standpipe::ledger::model::Model;
use standpipe::sell::{Budget, Limits, Priority};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PACED: Limits = Limits { per_second: Some(3), per_minute: 20, per_hour: 60 };
const PLAIN: Limits = Limits { per_second: None, per_minute: 20, per_hour: 60 };

const START: OffsetDateTime = time::macros::datetime!(2024-10-04 0:00 UTC);

/// What goes wrong between replicas and book.
#[derive(Clone, Debug, Default)]
struct Troubles {
    /// Out of reach from, and for, so many milliseconds.
    away: Option<(u64, u64)>,
    /// Of so many answers one is lost; 0 = none.
    lost: u64,
    /// Each call takes so long, in milliseconds.
    slow: u64,
    /// A replica that dies, and when; who asks it later asks the one that came after it.
    dies: Option<(usize, u64)>,
    /// From when on the server's clock is behind what it said before, and by how much, in milliseconds.
    behind: Option<(u64, u64)>,
}

struct Book {
    model: Model,
    clock: Clock,
    began: Instant,
    troubles: Troubles,
    calls: AtomicU64,
}

impl Book {
    fn new(troubles: Troubles) -> Self {
        let clock = Clock::manual(START);
        let model = Model::new(LedgerId(Uuid::nil()), clock.clone(), Duration::from_secs(15));
        Self { model, clock, began: Instant::now(), troubles, calls: AtomicU64::new(0) }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    fn is_away(&self) -> bool {
        self.troubles.away.is_some_and(|(from, length)| (from..from + length).contains(&self.elapsed()))
    }

    /// The server's clock says what it is to say now.
    fn set_clock(&self) {
        let behind = self.troubles.behind.filter(|(from, _)| self.elapsed() >= *from);
        let behind = behind.map_or(Duration::ZERO, |(_, by)| Duration::from_millis(by));
        self.clock.advance(START + self.began.elapsed() - behind - self.clock.now());
    }
}

impl BudgetBook for Book {
    fn lease(&self, ask: BudgetAsk) -> BoxFuture<'_, Result<BudgetSlice, LedgerError>> {
        async move {
            let lost = || LedgerError::Unavailable { doing: "leasing", source: "it is away".into() };
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            passes(self.troubles.slow).await;
            if self.is_away() {
                return Err(lost());
            }
            self.set_clock();
            let told = self.model.lease(ask).await;
            passes(self.troubles.slow).await;
            if self.troubles.lost > 0 && call.is_multiple_of(self.troubles.lost) { Err(lost()) } else { told }
        }
        .boxed()
    }
}

/// So many milliseconds of paused time.
async fn passes(time: u64) {
    tokio::time::sleep_until(Instant::now() + Duration::from_millis(time)).await;
}

type Wish = (u64, usize, Priority);

/// A caller of a door goes away after this, where the doors are stormed.
const PATIENCE: Duration = Duration::from_secs(2);

/// A replica: its budget, and what keeps it.
fn replica(book: &Arc<Book>, limits: Limits) -> (Budget, JoinSet<()>) {
    let budget = Budget::new("acme", limits);
    budget.share();
    let (book, kept) = (book.clone(), budget.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        kept.keep(&AccountName::from("acme"), &*book, &CancellationToken::new()).await;
    });
    (budget, tasks)
}

/// Lets the wishes through budgets of `replicas` processes; gives when each was let through.
fn run(
    limits: Limits,
    replicas: usize,
    wishes: &[Wish],
    troubles: &Troubles,
    patience: Option<Duration>,
) -> Vec<(Duration, Priority)> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let book = Arc::new(Book::new(troubles.clone()));
        let start = Instant::now();
        let mut all: Vec<(Budget, JoinSet<()>)> = (0..replicas).map(|_| replica(&book, limits)).collect();
        let (mut heir, _kept) = replica(&book, limits);
        let dies = troubles.dies.filter(|(which, _)| *which < replicas);
        let (mut mortal, mut tasks) = (JoinSet::new(), JoinSet::new());
        for (at, which, priority) in wishes.iter().copied() {
            let which = which % replicas;
            let late = dies.is_some_and(|(dead, death)| dead == which && at >= death);
            let budget = if late { heir.clone() } else { all[which].0.clone() };
            let asking = async move {
                tokio::time::sleep_until(start + Duration::from_millis(at)).await;
                let taken = budget.take(priority);
                match patience.filter(|_| priority == Priority::Passthrough) {
                    Some(patience) => drop(tokio::time::timeout(patience, taken).await.ok()?),
                    None => drop(taken.await),
                }
                Some((start.elapsed(), priority))
            };
            if !late && dies.is_some_and(|(dead, _)| dead == which) {
                mortal.spawn(asking)
            } else {
                tasks.spawn(asking)
            };
        }
        let mut taken = Vec::new();
        if let Some((dead, death)) = dies {
            let end = tokio::time::sleep_until(start + Duration::from_millis(death));
            tokio::pin!(end);
            loop {
                tokio::select! {
                    biased;
                    () = &mut end => break,
                    Some(told) = mortal.join_next() => taken.push(told.expect("it does not panic")),
                }
            }
            // Without a word: what it held stays held.
            mortal.shutdown().await;
            all[dead].1.shutdown().await;
            std::mem::swap(&mut all[dead].0, &mut heir);
        }
        taken.extend(tasks.join_all().await);
        let mut taken: Vec<_> = taken.into_iter().flatten().collect();
        taken.sort();
        taken
    })
}

fn most_in(taken: &[Duration], window: Duration) -> usize {
    let within = |from: Duration| taken.iter().filter(|at| **at >= from && **at < from + window).count();
    taken.iter().map(|from| within(*from)).max().unwrap_or(0)
}

fn is_within(limits: Limits, taken: &[(Duration, Priority)]) -> Result<(), TestCaseError> {
    let all: Vec<Duration> = taken.iter().map(|(at, _)| *at).collect();
    let others = taken.iter().filter(|(_, priority)| *priority != Priority::Firehose);
    let others: Vec<Duration> = others.map(|(at, _)| *at).collect();
    let spans = [
        (limits.per_second.unwrap_or(u32::MAX), Duration::from_secs(1)),
        (limits.per_minute, Duration::from_mins(1)),
        (limits.per_hour, Duration::from_hours(1)),
    ];
    for (limit, span) in spans {
        let limit = usize::try_from(limit).expect("it fits");
        prop_assert!(most_in(&all, span) <= limit, "{} in {span:?}", most_in(&all, span));
        let share = (limit * 7 / 10).max(1);
        prop_assert!(most_in(&others, span) <= share, "{} of others in {span:?}", most_in(&others, span));
    }
    Ok(())
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![Just(Priority::Firehose), Just(Priority::Enrichment), Just(Priority::Passthrough)]
}

fn troubles() -> impl Strategy<Value = Troubles> {
    let away = proptest::option::of((0..60_000_u64, 1..90_000_u64));
    let dies = proptest::option::of((0..3_usize, 0..60_000_u64));
    let behind = proptest::option::of((0..90_000_u64, 1..200_000_u64));
    (away, 0..4_u64, prop_oneof![Just(0), 1..300_u64], dies, behind).prop_map(|(away, lost, slow, dies, behind)| {
        Troubles { away, lost: if lost == 1 { 5 } else { lost }, slow, dies, behind }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
    #[test]
    fn replicas_together_never_make_more_than_the_limits_whatever_happens(
        wishes in proptest::collection::vec((0..90_000_u64, 0..3_usize, priority()), 1..90),
        replicas in 1..=3_usize,
        paced in any::<bool>(),
        troubles in troubles(),
    ) {
        let limits = if paced { PACED } else { PLAIN };
        let taken = run(limits, replicas, &wishes, &troubles, None);
        is_within(limits, &taken)?;
        if troubles.dies.is_none() {
            prop_assert_eq!(taken.len(), wishes.len(), "everyone comes through in the end");
        }
    }
}

/// A tight hour: what a replica made of its slice, and died before it could say so, is known to nobody.
#[test]
fn what_a_dead_replica_held_counts_for_its_whole_hour() {
    let limits = Limits { per_second: None, per_minute: 300, per_hour: 30 };
    let mut wishes: Vec<Wish> = vec![(0, 0, Priority::Firehose); 20];
    // When its slice is over, and the time in which it might still come back and tell.
    wishes.extend(vec![(300_000, 1, Priority::Firehose); 20]);
    let troubles = Troubles { slow: 100, dies: Some((0, 260)), ..Troubles::default() };
    let taken = run(limits, 2, &wishes, &troubles, None);
    let early = taken.iter().filter(|(at, _)| *at < Duration::from_secs(1)).count();
    assert_eq!(early, 20, "it used what it held, and had no time to tell");
    let soon = taken.iter().filter(|(at, _)| *at < Duration::from_secs(320)).count();
    is_within(limits, &taken).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((soon, taken.len()), (30, 40), "the rest waits until the hour is over");
}

/// The server's clock is set back, or a standby whose clock is behind takes over: what a replica that is gone was given by
/// the former time holds nobody up for longer than it lasted.
#[test]
fn a_clock_that_is_set_back_stops_no_stream() {
    let limits = Limits { per_second: Some(10), per_minute: 600, per_hour: 36_000 };
    // It is in a hurry, and is given all of each second.
    let mut wishes: Vec<Wish> = vec![(9_000, 0, Priority::Firehose); 60];
    let due = |n: u64| 10_100 + n * 500;
    wishes.extend((0..40).map(|n| (due(n), 1, Priority::Firehose)));
    let troubles = Troubles { slow: 2, dies: Some((0, 10_000)), behind: Some((10_000, 75_000)), ..Troubles::default() };
    let taken = run(limits, 2, &wishes, &troubles, None);
    is_within(limits, &taken).unwrap();
    let mut at: Vec<Duration> = taken.iter().map(|(at, _)| *at).filter(|at| *at > Duration::from_secs(10)).collect();
    at.sort();
    assert_eq!(at.len(), 40, "nobody is left out");
    for (n, at) in (0..).zip(at) {
        let due = Duration::from_millis(due(n));
        assert!(at < due + Duration::from_secs(3), "poll {n}, due at {due:?}, came at {at:?}");
    }
}

/// Doors that are stormed at two replicas leave the streams of one of them what is theirs.
#[test]
fn the_streams_keep_their_part_while_two_doors_are_stormed() {
    for limits in [
        Limits { per_second: None, per_minute: 100, per_hour: 6_000 },
        Limits { per_second: Some(10), per_minute: 600, per_hour: 36_000 },
    ] {
        let mut wishes: Vec<Wish> =
            (0..6_000).map(|n| (n * 30, usize::try_from(n % 2).unwrap(), Priority::Passthrough)).collect();
        // Of what is theirs alone nine parts in ten, evenly, at the first replica: windows are counted a second longer.
        let gap = 60_000 * 100 / (27 * u64::from(limits.per_minute));
        let polls = 180_000 / gap;
        wishes.extend((0..polls).map(|n| (500 + n * gap, 0, Priority::Firehose)));
        let taken = run(limits, 2, &wishes, &Troubles { slow: 2, ..Troubles::default() }, Some(PATIENCE));
        is_within(limits, &taken).unwrap();
        let mut at: Vec<Duration> = taken.iter().filter(|(_, p)| *p == Priority::Firehose).map(|(at, _)| *at).collect();
        at.sort();
        for (n, at) in (0..).zip(at) {
            let due = Duration::from_millis(500 + n * gap);
            assert!(at < due + Duration::from_secs(3), "{limits:?}: poll {n}, due at {due:?}, came at {at:?}");
        }
        let minute = |from: u64| {
            let span = Duration::from_secs(from)..Duration::from_secs(from + 60);
            taken.iter().filter(|(at, p)| *p == Priority::Passthrough && span.contains(at)).count()
        };
        let share = usize::try_from(limits.per_minute).unwrap() * 7 / 10;
        assert!(minute(70) * 10 > share * 8, "{limits:?}: {} of {share} are used", minute(70));
    }
}

/// What happens without a book: what is held is used, then requests wait; with the book they go on within a second.
#[tokio::test(start_paused = true)]
async fn without_a_book_a_replica_has_what_it_holds_and_afterwards_the_streams_go_on_at_once() {
    let away = Troubles { away: Some((5_000, 600_000)), ..Troubles::default() };
    let book = Arc::new(Book::new(away));
    let (budget, _kept) = replica(&book, Limits { per_second: None, per_minute: 100, per_hour: 6_000 });
    let poll = async |within: u64| {
        tokio::time::timeout(Duration::from_millis(within), budget.take(Priority::Firehose)).await.map(drop)
    };
    for _ in 0..20 {
        poll(100).await.expect("the book is there");
        passes(240).await;
    }
    passes(1_000).await;
    assert!(book.is_away());
    let mut held = 0;
    while poll(2_000).await.is_ok() {
        held += 1;
    }
    assert!((1..=10).contains(&held), "{held}: a tenth of a minute's at most");
    assert!(budget.full_for(Priority::Passthrough) <= Duration::from_secs(1));
    tokio::time::sleep_until(book.began + Duration::from_secs(605)).await;
    let back = Instant::now();
    for _ in 0..30 {
        poll(1_500).await.expect("the book is back");
    }
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
}

/// A round trip is paid for many requests.
#[tokio::test(start_paused = true)]
async fn a_slice_pays_for_many_requests() {
    let book = Arc::new(Book::new(Troubles { slow: 1, ..Troubles::default() }));
    let (budget, _kept) = replica(&book, Limits { per_second: None, per_minute: 60_000, per_hour: 3_600_000 });
    drop(budget.take(Priority::Firehose).await);
    let began = Instant::now();
    for _ in 0..5_000 {
        drop(budget.take(Priority::Firehose).await);
        passes(4).await;
    }
    let calls = book.calls.load(Ordering::Relaxed);
    assert!(calls <= 30, "{calls} calls for 5,000 requests");
    assert!(began.elapsed() < Duration::from_secs(21), "{:?}: nobody waits for the book", began.elapsed());
    // Five streams at their tops.
    let before = book.calls.load(Ordering::Relaxed);
    for _ in 0..60 {
        drop(budget.take(Priority::Firehose).await);
        passes(1_000).await;
    }
    let calls = book.calls.load(Ordering::Relaxed) - before;
    assert!(calls <= 6, "{calls} calls a minute");
}
