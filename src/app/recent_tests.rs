use super::*;
use crate::event::{Chain, ContentHash, EventType, Replay};

const BEGIN: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn event(seq: u64, event_type: &str, id: &str, name: &str) -> Recorded {
    let resource = EventType::from(event_type).resource().to_owned();
    Recorded {
        seq: Seq(seq),
        chain: Chain([0; 32]),
        account: "acme".into(),
        event_type: event_type.into(),
        id: format!("e{seq}").into(),
        record_id: id.into(),
        occurred_at: None,
        recorded_at: BEGIN + Duration::from_secs(seq),
        content_hash: ContentHash([0; 16]),
        body: format!(r#"{{"data":{{"{resource}":{{"id":{id},"name":"{name}"}}}}}}"#).into(),
        replay: None,
    }
}

fn recent() -> Recent {
    Recent::new(["contact"], Duration::from_mins(10))
}

fn key(id: &str) -> RecordKey {
    RecordKey { account: "acme".into(), collection: "contacts".into(), id: id.into() }
}

fn found(recent: &Recent, id: &str) -> Option<(Answerer, Option<String>)> {
    let found = recent.find(&key(id), BEGIN)?;
    Some((found.answerer, found.record.map(|record| String::from_utf8(record.to_vec()).unwrap())))
}

fn from_stream(record: &str) -> (Answerer, Option<String>) {
    (Answerer::Stream, Some(record.to_owned()))
}

#[test]
fn of_a_record_the_newest_event_counts_in_whatever_order_they_come() {
    let recent = recent();
    recent.learn(&[event(5, "contact.updated", "7", "new"), event(3, "contact.updated", "7", "old")]);
    recent.learn(&[event(4, "contact.updated", "7", "between"), event(9, "deal.updated", "7", "no contact")]);
    assert_eq!(found(&recent, "7").unwrap(), from_stream(r#"{"id":7,"name":"new"}"#));
    let mut replay = event(10, "contact.updated", "7", "replayed");
    replay.replay = Some(Box::new(Replay { sink: "crm".into(), of: Seq(1) }));
    recent.learn(&[replay]);
    assert_eq!(found(&recent, "7").unwrap(), from_stream(r#"{"id":7,"name":"new"}"#));
    assert!(recent.find(&key("7"), BEGIN + Duration::from_secs(6)).is_none(), "older than it may be");
    recent.learn(&[event(11, "contact.deleted", "7", "")]);
    assert_eq!(found(&recent, "7"), Some((Answerer::Stream, None)), "it is known to be gone");
    assert_eq!(found(&recent, "8"), None);
}

#[test]
fn what_is_given_up_for_want_of_room_never_comes_back_older() {
    let recent = recent();
    let large = "x".repeat(MAX_EVENT_BYTES - 100);
    recent.learn(&[event(1, "contact.created", "1", "first"), event(2, "contact.updated", "2", &large)]);
    let many = MAX_BYTES / MAX_EVENT_BYTES + 2;
    for seq in 0..many as u64 {
        recent.learn(&[event(10 + seq, "contact.updated", &(100 + seq).to_string(), &large)]);
    }
    assert_eq!(found(&recent, "2"), None);
    recent.learn(&[event(1, "contact.created", "2", "older")]);
    assert_eq!(found(&recent, "2"), None);
    // One that is too large to be held takes what was known before it along.
    recent.learn(&[event(500, "contact.updated", "5", "small")]);
    recent.learn(&[event(501, "contact.updated", "5", &"x".repeat(MAX_EVENT_BYTES))]);
    assert_eq!(found(&recent, "5"), None);
    recent.learn(&[event(500, "contact.updated", "5", "small")]);
    assert_eq!(found(&recent, "5"), None);
}
