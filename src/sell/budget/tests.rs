use proptest::prelude::*;

use super::*;

const TIGHT: Limits = Limits { per_second: Some(3), per_minute: 20, per_hour: 100 };

/// Runs requests that come at given times through a budget, in paused time; gives when each was let through.
fn run(limits: Limits, wishes: Vec<(u64, Priority)>) -> Vec<(Duration, Priority)> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
    runtime.block_on(async {
        let budget = Budget::new("acme", limits);
        let start = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for (at, priority) in wishes {
            let budget = budget.clone();
            tasks.spawn(async move {
                tokio::time::sleep_until(start + Duration::from_millis(at)).await;
                drop(budget.take(priority).await);
                (start.elapsed(), priority)
            });
        }
        let mut taken = tasks.join_all().await;
        taken.sort();
        taken
    })
}

fn most_in(taken: &[Duration], window: Duration) -> usize {
    let within = |from: Duration| taken.iter().filter(|at| **at >= from && **at < from + window).count();
    taken.iter().map(|from| within(*from)).max().unwrap_or(0)
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![
        Just(Priority::Firehose),
        Just(Priority::Repair),
        Just(Priority::Enrichment),
        Just(Priority::Snapshot),
        Just(Priority::Passthrough)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_window_ever_holds_more_than_its_limit_and_the_firehose_keeps_its_share(
        wishes in proptest::collection::vec((0..90_000_u64, priority()), 1..120),
    ) {
        let taken = run(TIGHT, wishes.clone());
        prop_assert_eq!(taken.len(), wishes.len(), "everyone comes through in the end");
        let all: Vec<Duration> = taken.iter().map(|(at, _)| *at).collect();
        prop_assert!(most_in(&all, Duration::from_secs(1)) <= 3);
        prop_assert!(most_in(&all, Duration::from_mins(1)) <= 20);
        prop_assert!(most_in(&all, Duration::from_hours(1)) <= 100);
        let others: Vec<Duration> =
            taken.iter().filter(|(_, priority)| *priority != Priority::Firehose).map(|(at, _)| *at).collect();
        prop_assert!(most_in(&others, Duration::from_mins(1)) <= 14);
        prop_assert!(most_in(&others, Duration::from_hours(1)) <= 70);
    }
}

#[test]
fn the_firehose_goes_before_everyone_who_waits() {
    let mut wishes = vec![(0, Priority::Passthrough); 40];
    wishes.extend(vec![(10, Priority::Firehose); 6]);
    let taken = run(Limits { per_second: None, per_minute: 20, per_hour: 1_000 }, wishes);
    let at_once = taken.iter().filter(|(at, _)| *at < Duration::from_secs(1));
    let (firehose, others): (Vec<_>, Vec<_>) = at_once.map(|taken| taken.1).partition(|p| *p == Priority::Firehose);
    assert_eq!((firehose.len(), others.len()), (6, 14));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_given_up_holds_nobody_back() {
    let budget = Budget::new("acme", Limits { per_second: None, per_minute: 1, per_hour: 100 });
    drop(budget.take(Priority::Firehose).await);
    let impatient = tokio::time::timeout(Duration::from_secs(1), budget.take(Priority::Firehose)).await;
    assert!(impatient.is_err());
    let patient = tokio::time::timeout(Duration::from_secs(62), budget.take(Priority::Passthrough)).await;
    assert!(patient.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_told_and_comes_back() {
    let budget = Budget::new("acme", TIGHT);
    drop(budget.take(Priority::Firehose).await);
    assert_eq!(budget.remaining(), (19, 99));
    budget.try_take(Priority::Passthrough).expect("there is room").give_back();
    assert_eq!(budget.remaining(), (19, 99), "what is given back was never taken");
    tokio::time::advance(Duration::from_secs(62)).await;
    assert_eq!(budget.remaining(), (20, 99));
}
