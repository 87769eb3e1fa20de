use std::collections::{BTreeMap, BTreeSet};

use time::macros::datetime;

use super::super::journal::Role;
use super::super::world::World;
use super::super::{Dialect, Fault, Options};
use super::DIALECTS;

const NOON: time::OffsetDateTime = datetime!(2026-11-24 12:00 UTC);

/// Every element's bytes, in order, of both dialects.
fn bytes(world: &World, roles: &[Role]) -> Vec<String> {
    let entries = world.journal.from(0).filter(|(_, entry)| roles.contains(&entry.role));
    let written = entries.flat_map(|(_, entry)| {
        DIALECTS.map(|dialect| {
            let mut element = Vec::new();
            entry.piece(dialect).write(&mut element);
            String::from_utf8_lossy(&element).into_owned()
        })
    });
    written.collect()
}

fn all(world: &World) -> Vec<String> {
    bytes(world, &[Role::Event, Role::Resequenced, Role::Bogus])
}

#[test]
fn the_same_seed_tells_the_same_story_byte_for_byte() {
    let options =
        Options { seed: 7, backlog: 2_000, epoch: Some(datetime!(2024-02-14 10:30 UTC)), ..Options::default() };
    let mut one = World::new(&options, NOON);
    let mut other = World::new(&options, NOON + time::Duration::days(40));
    one.emit(500, NOON);
    other.emit(200, NOON + time::Duration::days(40));
    other.emit(300, NOON + time::Duration::days(41));
    assert_eq!(all(&one), all(&other));
    assert_eq!(one.events, 2_500);

    let elsewhere = World::new(&Options { seed: 8, ..options.clone() }, NOON);
    assert_ne!(all(&one)[..100], all(&elsewhere)[..100]);
}

#[test]
fn a_backlog_is_the_same_all_day_and_none_of_it_is_about_to_expire() {
    let options = Options { backlog: 500, ..Options::default() };
    let (morning, evening) = (datetime!(2026-11-24 00:00:01 UTC), datetime!(2026-11-24 23:59:59 UTC));
    let (one, other) = (World::new(&options, morning), World::new(&options, evening));
    assert_eq!(all(&one), all(&other));
    let oldest = other.journal.get(0).unwrap().at;
    let age = super::super::world::milliseconds(evening) - oldest;
    assert!(age < 48 * 3_600_000, "{age}");
}

#[test]
fn faults_of_events_do_not_change_what_happens_in_the_company() {
    let quiet = Options { backlog: 1_000, ..Options::default() };
    let faults = vec![(Fault::Resequence, 0.1), (Fault::Malformed, 0.1), (Fault::BadUtf8, 0.1)];
    let loud = World::new(&Options { faults, ..quiet.clone() }, NOON);
    let quiet = World::new(&quiet, NOON);
    assert_eq!(all(&quiet), bytes(&loud, &[Role::Event]));
    assert!(all(&loud).len() > all(&quiet).len() + 400);
}

#[test]
fn a_company_lives_deals_move_on_and_some_things_are_deleted() {
    let world = World::new(&Options { backlog: 5_000, ..Options::default() }, NOON);
    let events: Vec<_> = world.excerpt(Dialect::Reference, 0, usize::MAX).events().collect();
    assert_eq!(events.len(), 5_000);
    let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids.len(), 5_000, "an id is an event's own");

    let mut types: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &events {
        *types.entry(&event.event_type).or_default() += 1;
    }
    for resource in ["lead", "contact", "organization", "deal", "activity"] {
        for action in ["created", "updated", "deleted"] {
            assert!(types.contains_key(&*format!("{resource}.{action}")), "{resource}.{action} of {types:?}");
        }
    }
    let moved = |event: &&super::super::Emitted| {
        event.previous.as_ref().is_some_and(|was| event.event_type == "deal.updated" && was.get().contains("\"stage\""))
    };
    assert!(events.iter().filter(moved).count() > 200, "deals move through the pipeline");
    assert!(events.iter().any(|event| event.record.get().contains("\"won\"")), "and some are won");
}

#[test]
fn a_records_sequence_rises_with_gaps_and_nothing_follows_its_deletion() {
    for dialect in DIALECTS {
        let world = World::new(&Options { backlog: 5_000, ..Options::default() }, NOON);
        let mut last: BTreeMap<String, (u64, bool)> = BTreeMap::new();
        let mut gaps = 0;
        for event in world.excerpt(dialect, 0, usize::MAX).events() {
            let sequence: u64 = event.sequence.get().parse().unwrap();
            let deleted = event.event_type.ends_with(".deleted");
            if let Some((before, gone)) = last.insert(event.record_id.clone(), (sequence, deleted)) {
                assert!(sequence > before && !gone, "{event:?}");
                gaps += usize::from(sequence > before + 1);
            }
        }
        assert!(gaps > 100);
    }
}

#[test]
fn what_was_before_is_what_changed_in_each_dialects_own_words() {
    let world = World::new(&Options { backlog: 3_000, ..Options::default() }, NOON);
    for dialect in DIALECTS {
        let mut updates = 0;
        for event in world.excerpt(dialect, 0, usize::MAX).events() {
            let Some(previous) = event.previous else {
                assert!(!event.event_type.ends_with(".updated"));
                continue;
            };
            let was: serde_json::Map<String, serde_json::Value> = serde_json::from_str(previous.get()).unwrap();
            let now: serde_json::Map<String, serde_json::Value> = serde_json::from_str(event.record.get()).unwrap();
            updates += was.len();
            for (name, value) in was {
                assert_ne!(now[&name], value, "{name} of {}", event.record.get());
            }
        }
        assert!(updates > 800, "{updates}");
    }
}

#[test]
fn a_company_that_lives_long_forgets_what_no_reader_can_have() {
    let mut world = World::new(&Options { backlog: 1_000, ..Options::default() }, NOON);
    world.emit(10, NOON + time::Duration::hours(100));
    assert_eq!(world.journal.first(), 1_000);
    assert_eq!(world.excerpt(Dialect::Live, 0, 100).events().count(), 10);
    assert_eq!(world.events, 1_010);
}
