//! The events by which a gap is announced (design.md section 7): canonical bytes, and an id that is a function of what
//! the gap is, so that writing it again changes nothing.

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::event::{
    AccountName, ContentHash, DedupeKey, Event, EventType, GAP_EVENT_TYPE, Gap, GapReason, Position, Seq, Shard,
    SinkName, StreamKey, StreamName,
};

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    r#type: &'a str,
    timestamp: &'a str,
    data: Data<'a>,
    meta: Meta<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    gap: &'a serde_json::value::RawValue,
}

#[derive(Serialize)]
struct Meta<'a> {
    account: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    stream: &'a str,
}

#[derive(Serialize)]
struct StreamHole<'a> {
    stream: &'a str,
    from: &'a str,
    to: &'a str,
    reason: &'a str,
    detail: &'a str,
    at: &'a str,
}

#[derive(Serialize)]
struct SinkHole<'a> {
    sink: &'a str,
    shard: u16,
    from: u64,
    to: u64,
    reason: &'a str,
    at: &'a str,
}

/// The announcement of a stream's gap, found at `at`.
pub(crate) fn stream_gap(key: &StreamKey, from: &Position, to: &Position, gap: &Gap, at: OffsetDateTime) -> Event {
    let at_text = rfc3339(at);
    let reason = gap.reason.as_str();
    let id = gap_id(&[key.account.as_str(), key.stream.as_str(), from.as_str(), to.as_str(), reason, &at_text]);
    let hole = StreamHole {
        stream: key.stream.as_str(),
        from: from.as_str(),
        to: to.as_str(),
        reason,
        detail: &gap.detail,
        at: &at_text,
    };
    announcement(id, &key.account, &key.stream, &hole, at, &at_text)
}

/// The announcement of a sink's gap, which was written as a row at `at`.
pub(crate) fn sink_gap(
    account: &AccountName,
    sink: &SinkName,
    shard: Shard,
    (from, to): (Seq, Seq),
    reason: GapReason,
    at: OffsetDateTime,
) -> Event {
    let at_text = rfc3339(at);
    let hole =
        SinkHole { sink: sink.as_str(), shard: shard.0, from: from.0, to: to.0, reason: reason.as_str(), at: &at_text };
    let id = sink_gap_id(sink, shard, from, to, reason);
    announcement(id, account, &StreamName::from(""), &hole, at, &at_text)
}

/// The id of a sink's gap: the same hole is the same gap.
pub(crate) fn sink_gap_id(sink: &SinkName, shard: Shard, from: Seq, to: Seq, reason: GapReason) -> String {
    let (shard, from, to) = (shard.to_string(), from.to_string(), to.to_string());
    gap_id(&["sink", sink.as_str(), &shard, &from, &to, reason.as_str()])
}

fn announcement(
    id: String,
    account: &AccountName,
    stream: &StreamName,
    hole: &impl Serialize,
    at: OffsetDateTime,
    at_text: &str,
) -> Event {
    let gap = serde_json::value::to_raw_value(hole).expect("plain texts and numbers have a JSON form");
    let body = Body {
        id: &id,
        r#type: GAP_EVENT_TYPE,
        timestamp: at_text,
        data: Data { gap: &gap },
        meta: Meta { account: account.as_str(), stream: stream.as_str() },
    };
    let body = serde_json::to_vec(&body).expect("plain texts and numbers have a JSON form");
    Event {
        account: account.clone(),
        stream: stream.clone(),
        event_type: EventType::from(GAP_EVENT_TYPE),
        dedupe_key: DedupeKey::by_id(account.as_str(), &id),
        content_hash: ContentHash::of(GAP_EVENT_TYPE, at_text, gap.get().as_bytes(), b""),
        id: id.into_boxed_str(),
        record_id: "".into(),
        occurred_at: Some(at),
        sequence: None,
        body: Bytes::from(body),
    }
}

fn gap_id(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest[..16].iter().fold("gap-".to_owned(), |id, byte| format!("{id}{byte:02x}"))
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.unix_timestamp().to_string())
}
