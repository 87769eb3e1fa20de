//! No content fails the recording call.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use standpipe::event::ports::{PageOutcome, ReadLedger as _};
use standpipe::event::{DedupeKey, Event, EventType, Gap, GapReason, Page, Position, Rejected, Seq, Shard};
use time::OffsetDateTime;

use super::world::{World, event, page};

/// What a source may put into an element, beyond good manners.
#[derive(Clone, Debug)]
struct Hostile {
    id: String,
    event_type: String,
    record_id: String,
    seconds: Option<i64>,
    body: Vec<u8>,
}

fn text() -> impl Strategy<Value = String> {
    let long = (1usize..1200).prop_map(|n| "\u{20ac}".repeat(n));
    prop_oneof![
        4 => any::<String>(),
        1 => "[a-z\u{0}\u{1}'\\\\{}\",\u{202e}\u{fffd}]{0,12}",
        1 => long,
        1 => Just("\u{0}".to_owned()),
        1 => Just("\\x00 {NULL}".to_owned()),
    ]
}

fn element() -> impl Strategy<Value = Hostile> {
    let seconds = prop_oneof![Just(None), (-377_705_116_800i64..=253_402_300_799).prop_map(Some)];
    (text(), text(), text(), seconds, prop::collection::vec(any::<u8>(), 0..200))
        .prop_map(|(id, event_type, record_id, seconds, body)| Hostile { id, event_type, record_id, seconds, body })
}

fn hostile(element: &Hostile, round: usize, at: usize) -> Event {
    let id = format!("{round}/{at}/{}", element.id);
    Event {
        event_type: EventType::from(element.event_type.as_str()),
        dedupe_key: DedupeKey::by_id("acme", &id),
        id: id.into_boxed_str(),
        record_id: element.record_id.as_str().into(),
        occurred_at: element.seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()),
        body: Bytes::from(element.body.clone()),
        ..event("", "content")
    }
}

#[test]
fn no_content_of_a_page_fails_the_recording_call_inv_5() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (world, deals) = runtime.block_on(async {
        let world = World::new().await;
        let deals = world.stream("deals").await;
        (world, deals)
    });
    let round = std::cell::Cell::new(0);
    let position = std::cell::RefCell::new("tail".to_owned());
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(60) });
    let page_of = (prop::collection::vec(element(), 0..30), text(), text(), text(), any::<bool>());
    runner
        .run(&page_of, |(elements, target, reason, detail, hole)| {
            let this = round.replace(round.get() + 1);
            let target = format!("{this}{target}");
            let from = position.replace(target.clone());
            let events: Vec<Event> =
                elements.iter().enumerate().map(|(at, element)| hostile(element, this, at)).collect();
            let bodies: Vec<Bytes> = events.iter().map(|event| event.body.clone()).collect();
            let hostile_page = Page {
                rejected: vec![Rejected { raw: Bytes::from_static(b"\0\xff"), reason: reason.clone() }],
                gap: hole.then(|| Gap { reason: GapReason::PositionExpired, detail: detail.clone() }),
                ..page(&deals, &from, &target, events)
            };
            let before = world.shelf.batches().iter().map(|batch| batch.events.len()).sum::<usize>();
            runtime.block_on(async {
                let set_aside = "SELECT count(*) FROM rejected";
                let aside_before = world.count(set_aside).await;
                prop_assert_eq!(world.record(hostile_page).await, PageOutcome::Recorded);
                prop_assert_eq!(&world.position(&deals).await, &target);
                let aside = usize::try_from(world.count(set_aside).await - aside_before).unwrap();
                let recorded: Vec<_> =
                    world.shelf.batches().iter().flat_map(|batch| batch.events.clone()).skip(before).collect();
                let recorded: Vec<_> = recorded.iter().filter(|event| !event.is_control()).collect();
                prop_assert_eq!(recorded.len() + aside, bodies.len() + 1, "every element is an event or set aside");
                let mut left = bodies.iter();
                for event in &recorded {
                    prop_assert!(left.any(|body| *body == event.body), "in page order, byte for byte");
                }
                Ok(())
            })
        })
        .unwrap();
    runtime.block_on(async {
        let published: Vec<_> = world.shelf.batches().iter().flat_map(|batch| batch.events.clone()).collect();
        let head = Seq(published.len() as u64);
        let mut after = Seq::ZERO;
        while after < head {
            let batch = world.ledger.read(Shard(0), after, head, 500, 1 << 20).await.unwrap();
            for (read, remembered) in batch.events.iter().zip(&published[usize::try_from(after.0).unwrap()..]) {
                assert_eq!((&read.body, &read.id, read.chain), (&remembered.body, &remembered.id, remembered.chain));
            }
            after = batch.to();
        }
        world.finish().await.unwrap();
    });
}

#[tokio::test]
async fn an_element_that_postgresql_refuses_is_kept_whole_and_the_rest_recorded_inv_5() {
    let world = World::new().await;
    let deals = world.stream("deals").await;
    let mut on_page: Vec<Event> = (0..40).map(|n| event(&format!("e{n}"), "content")).collect();
    on_page[17].id = "nul\0".into();
    on_page[18].record_id = "\0".into();
    on_page[39].id = "x".repeat(513).into_boxed_str();
    let answer = world.record(page(&deals, "tail", "p1", on_page)).await;
    assert_eq!(answer, PageOutcome::Recorded);
    assert_eq!(world.shelf.ids().len(), 37);
    let whole = "SELECT count(*) FROM rejected WHERE convert_from(raw, 'UTF8') LIKE '{\"id\":\"e%\"content\"}'";
    assert_eq!(world.count(whole).await, 3);
    let reasons: Vec<_> = world.ledger.rejected_rows(10).await.unwrap().into_iter().map(|row| row.reason).collect();
    assert!(reasons.iter().any(|reason| reason.contains("512 bytes")), "{reasons:?}");
    assert_eq!(reasons.iter().filter(|reason| reason.contains("0x00")).count(), 2, "{reasons:?}");
    assert_eq!(world.position(&deals).await, Position::from("p1").as_str());
    world.finish().await.unwrap();
}
