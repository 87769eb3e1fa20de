//! The messages of a transaction: whose events they are, their headers, and the stub that stands in for an event that
//! is larger than the broker takes.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::event::{Batch, LedgerId, Recorded, Seq, Shard, SinkName};

/// What Kafka adds to a message and to the batch that it travels in, about, in bytes: the limits of topics count it.
const FRAMING: usize = 256;
/// A part of the event that is longer than this is left out of its stub, in bytes.
const MAX_STUB_PART: usize = 16 * 1024;

/// One event on its way into one partition. Holds the batch that it came in, so that nothing of it is copied.
#[derive(Debug)]
pub struct Outgoing {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The key.
    pub key: String,
    /// The previous seq of this shard in this partition; 0 where none.
    pub prev: Seq,
    /// Set where it is put behind a later one of its partition: the last seq that stands before it there.
    pub repair: Option<Seq>,
    /// Headers that the sink's configuration adds.
    pub user: Vec<(Arc<str>, String)>,
    batch: Arc<Batch>,
    at: usize,
    stub: Option<Bytes>,
    /// The event with what was looked up for it.
    enriched: Option<Bytes>,
}

/// What all messages of one (sink, shard) have in common.
#[derive(Clone, Debug)]
pub struct Common {
    ledger: String,
    shard: String,
    sink: String,
}

impl Common {
    /// For a sink in one shard of a ledger.
    #[must_use]
    pub fn new(ledger: LedgerId, shard: Shard, sink: &SinkName) -> Self {
        Self { ledger: ledger.short(), shard: shard.to_string(), sink: sink.to_string() }
    }

    /// Whether a message with these headers is one of them. An announcement alone names its sink, since every Kafka sink of
    /// the deployment writes to the control topic; where sinks share a data topic, what they write cannot be told apart.
    pub(super) fn are_of<'m>(&self, header: impl Fn(&str) -> Option<&'m str>) -> bool {
        header("standpipe-ledger") == Some(&self.ledger)
            && header("standpipe-shard") == Some(&self.shard)
            && header("standpipe-sink").is_none_or(|sink| sink == self.sink)
    }
}

impl Outgoing {
    /// The event at `at` of a batch, for a topic, under a key. The partition and what precedes it are set later.
    #[must_use]
    pub fn new(batch: &Arc<Batch>, at: usize, topic: Arc<str>, key: String, user: Vec<(Arc<str>, String)>) -> Self {
        Self {
            topic,
            partition: 0,
            key,
            prev: Seq::ZERO,
            repair: None,
            user,
            batch: Arc::clone(batch),
            at,
            stub: None,
            enriched: None,
        }
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &Recorded {
        &self.batch.events[self.at]
    }

    /// With what was looked up for the event as its last member; its own bytes stand before it.
    #[must_use]
    pub fn with_body(mut self, body: Bytes) -> Self {
        self.enriched = (body.len() > self.event().body.len()).then_some(body);
        self
    }

    /// The value: the event's bytes as they are, those with what was looked up for it, or its stub.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.stub.as_ref().or(self.enriched.as_ref()).unwrap_or(&self.event().body)
    }

    /// Whether a stub stands in for the event.
    #[must_use]
    pub const fn is_stub(&self) -> bool {
        self.stub.is_some()
    }

    /// The size that counts against a topic's `max.message.bytes`, before compression, rounded up.
    #[must_use]
    pub fn size(&self) -> usize {
        let user: usize = self.user.iter().map(|(name, value)| name.len() + value.len() + 10).sum();
        // The headers of ours, with their names, hold about 500 bytes beside the id.
        self.value().len() + self.key.len() + user + self.event().id.len() + 500 + FRAMING
    }

    /// Replaces the value by a stub; headers of the configuration go, so that they cannot be what is too large.
    pub fn truncate(&mut self) {
        let stub = stub(self.event());
        self.stub = Some(stub);
        self.enriched = None;
        self.user.clear();
    }

    /// Hands every header to `each`, in their order: ours first.
    pub fn headers(&self, common: &Common, mut each: impl FnMut(&str, &[u8])) {
        let event = self.event();
        let mut digits = [0; 20];
        each("standpipe-id", event.id.as_bytes());
        each("standpipe-ledger", common.ledger.as_bytes());
        each("standpipe-shard", common.shard.as_bytes());
        each("standpipe-seq", decimal(event.seq.0, &mut digits));
        each("standpipe-prev", decimal(self.prev.0, &mut digits));
        each("standpipe-chain", &hex(&event.chain.0));
        each("traceparent", &event.traceparent());
        each("content-type", b"application/json");
        if event.is_control() {
            each("standpipe-sink", common.sink.as_bytes());
        }
        if let Some(replay) = &event.replay {
            each("standpipe-replay", decimal(replay.of.0, &mut digits));
        }
        if let Some(behind) = self.repair {
            each("standpipe-repair", decimal(behind.0, &mut digits));
        }
        if self.is_stub() {
            each("standpipe-truncated", decimal(event.body.len() as u64, &mut digits));
        }
        if self.enriched.is_some() {
            each("standpipe-enriched", decimal(event.body.len() as u64, &mut digits));
        }
        for (name, value) in &self.user {
            if !is_ours(name) {
                each(name, value.as_bytes());
            }
        }
    }
}

/// The event's own bytes in a value that carries what was looked up for it: those up to there are the event's, and its end is
/// put back. `own` is what `standpipe-enriched` says; a value that does not fit it is taken whole.
pub(super) fn own_bytes(value: &[u8], own: Option<usize>) -> Cow<'_, [u8]> {
    let kept = own.and_then(|own| value.split_at_checked(own.checked_sub(1)?));
    match kept {
        Some((event, rest)) if rest.starts_with(b",\"enrichment\":{") => Cow::Owned([event, b"}"].concat()),
        _ => Cow::Borrowed(value),
    }
}

/// Whether a header's name belongs to the program; rules that set such a one are refused at start, and here ours wins.
fn is_ours(name: &str) -> bool {
    let ours = |reserved: &str| name.eq_ignore_ascii_case(reserved);
    name.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("standpipe-"))
        || ours("traceparent")
        || ours("content-type")
}

#[derive(Serialize)]
struct Stub<'e> {
    id: &'e str,
    r#type: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<&'e RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'e RawValue>,
    truncated: Truncated,
}

#[derive(Serialize)]
struct Truncated {
    bytes: usize,
    sha256: String,
    fetch: String,
}

#[derive(Default, Deserialize)]
struct Kept<'e> {
    #[serde(borrow)]
    timestamp: Option<&'e RawValue>,
    #[serde(borrow)]
    meta: Option<&'e RawValue>,
}

fn stub(event: &Recorded) -> Bytes {
    // A body that cannot be read as JSON keeps its place with what the ledger knows of it.
    let kept: Kept<'_> = serde_json::from_slice(&event.body).unwrap_or_default();
    let short = |part: &&RawValue| part.get().len() <= MAX_STUB_PART;
    let digest: [u8; 32] = Sha256::digest(&event.body).into();
    let stub = Stub {
        id: &event.id,
        r#type: event.event_type.as_str(),
        timestamp: kept.timestamp.filter(short),
        meta: kept.meta.filter(short),
        truncated: Truncated {
            bytes: event.body.len(),
            sha256: String::from_utf8_lossy(&hex(&digest)).into_owned(),
            fetch: format!("standpipe events get {}", event.id),
        },
    };
    serde_json::to_vec(&stub).expect("a stub has nothing that JSON cannot hold").into()
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).expect("one digit");
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

fn hex(bytes: &[u8; 32]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::event::{AccountName, Chain, ContentHash, EventType, Replay, SinkName};

    fn outgoing(body: &str, replay: Option<Replay>) -> Outgoing {
        let event = Recorded {
            seq: Seq(42),
            chain: Chain([0x0f; 32]),
            account: AccountName::from("acme"),
            event_type: EventType::from("deal.updated"),
            id: "évent-1".into(),
            record_id: "7".into(),
            occurred_at: None,
            recorded_at: OffsetDateTime::UNIX_EPOCH,
            content_hash: ContentHash([0; 16]),
            body: Bytes::copy_from_slice(body.as_bytes()),
            replay: replay.map(Box::new),
        };
        let batch =
            Batch { shard: Shard(2), after: Seq(41), chain_before: Chain([0; 32]), void: None, events: vec![event] };
        let user = vec![
            (Arc::from("team"), "crm".to_owned()),
            (Arc::from("Standpipe-Seq"), "1".to_owned()),
            (Arc::from("Content-Type"), "text/plain".to_owned()),
        ];
        let mut out = Outgoing::new(&Arc::new(batch), 0, "sell.deal".into(), "acme/deal/7".into(), user);
        out.prev = Seq(40);
        out
    }

    fn headers(out: &Outgoing) -> Vec<(String, String)> {
        let ledger = LedgerId(uuid::Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0));
        let mut found = Vec::new();
        out.headers(&Common::new(ledger, Shard(2), &SinkName::from("crm")), |name, value| {
            found.push((name.to_owned(), String::from_utf8(value.to_vec()).unwrap()));
        });
        found
    }

    #[test]
    fn a_message_has_the_documented_headers_and_those_of_the_configuration_cannot_replace_them() {
        let found = headers(&outgoing("{}", None));
        let traceparent = found[6].1.clone();
        let expected = [
            ("standpipe-id", "évent-1"),
            ("standpipe-ledger", "12345678"),
            ("standpipe-shard", "2"),
            ("standpipe-seq", "42"),
            ("standpipe-prev", "40"),
            ("standpipe-chain", &"0f".repeat(32)),
            ("traceparent", &traceparent),
            ("content-type", "application/json"),
            ("team", "crm"),
        ];
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, expected);
        assert!(traceparent.starts_with("00-") && traceparent.ends_with("-01") && traceparent.len() == 55);
    }

    #[test]
    fn an_announcement_alone_names_its_sink_and_is_no_other_sinks() {
        let mut out = outgoing("{}", None);
        assert!(headers(&out).iter().all(|(name, _)| name != "standpipe-sink"));
        let event = Recorded { event_type: "standpipe.gap".into(), ..out.event().clone() };
        let batch =
            Batch { shard: Shard(2), after: Seq(41), chain_before: Chain([0; 32]), void: None, events: vec![event] };
        out = Outgoing::new(&Arc::new(batch), 0, "control".into(), "acme".into(), Vec::new());
        let found = headers(&out);
        let of = |name: &str| found.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!(of("standpipe-sink"), Some("crm"));
        let ledger = LedgerId(uuid::Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0));
        assert!(Common::new(ledger, Shard(2), &SinkName::from("crm")).are_of(of));
        assert!(!Common::new(ledger, Shard(2), &SinkName::from("erp")).are_of(of));
        assert!(!Common::new(ledger, Shard(1), &SinkName::from("crm")).are_of(of));
    }

    #[test]
    fn a_replay_names_the_seq_that_it_repeats() {
        let replay = Replay { sink: SinkName::from("crm"), of: Seq(18_446_744_073_709_551_615) };
        let found = headers(&outgoing("{}", Some(replay)));
        assert!(found.contains(&("standpipe-replay".to_owned(), "18446744073709551615".to_owned())));
        assert!(found.iter().all(|(name, _)| name != "standpipe-repair"));
    }

    #[test]
    fn a_message_with_what_was_looked_up_tells_which_of_its_bytes_are_the_events() {
        let body = r#"{"id":"évent-1","data":{"deal":{"id":7}}}"#;
        let with = r#"{"id":"évent-1","data":{"deal":{"id":7}},"enrichment":{"contact":null}}"#;
        let mut out = outgoing(body, None).with_body(Bytes::from(with));
        assert_eq!(out.value(), with.as_bytes());
        assert!(headers(&out).contains(&("standpipe-enriched".to_owned(), body.len().to_string())));
        assert_eq!(&*own_bytes(out.value(), Some(body.len())), body.as_bytes());
        for own in [None, Some(0), Some(body.len() - 1), Some(with.len()), Some(with.len() + 9)] {
            assert_eq!(&*own_bytes(with.as_bytes(), own), with.as_bytes(), "{own:?}");
        }
        out.truncate();
        assert!(headers(&out).iter().all(|(name, _)| name != "standpipe-enriched"), "a stub carries nothing");
        let plain = outgoing(body, None).with_body(Bytes::from(body));
        assert!(headers(&plain).iter().all(|(name, _)| name != "standpipe-enriched"), "nothing was found");
    }

    #[test]
    fn a_repair_names_the_seq_that_stands_before_it_out_of_order() {
        let mut out = outgoing("{}", None);
        out.repair = Some(Seq(50));
        assert!(headers(&out).contains(&("standpipe-repair".to_owned(), "50".to_owned())));
    }

    #[test]
    fn a_stub_keeps_what_names_the_event_and_says_where_the_whole_is() {
        let body = format!(
            r#"{{"id":"évent-1","type":"deal.updated","timestamp":"2024-02-14T10:30:00Z","data":{{"deal":{{"note":"{}"}}}},"meta":{{"account":"acme","stream":"deals"}}}}"#,
            "x".repeat(100_000)
        );
        let mut out = outgoing(&body, None);
        assert!(out.size() > 100_000);
        out.truncate();
        assert!(out.size() < 2_000);
        let stub: serde_json::Value = serde_json::from_slice(out.value()).unwrap();
        let digest: [u8; 32] = Sha256::digest(body.as_bytes()).into();
        let expected = serde_json::json!({
            "id": "évent-1",
            "type": "deal.updated",
            "timestamp": "2024-02-14T10:30:00Z",
            "meta": { "account": "acme", "stream": "deals" },
            "truncated": {
                "bytes": body.len(),
                "sha256": Chain(digest).to_string(),
                "fetch": "standpipe events get évent-1",
            },
        });
        assert_eq!(stub, expected);
        assert!(headers(&out).contains(&("standpipe-truncated".to_owned(), body.len().to_string())));
    }

    #[test]
    fn a_stub_stays_small_whatever_the_event_holds() {
        let meta = format!(r#"{{"meta":{{"account":"{}"}}}}"#, "x".repeat(50_000));
        for body in [meta.as_str(), &"\u{0}not JSON ".repeat(10_000)] {
            let mut out = outgoing(body, None);
            out.truncate();
            assert!(out.size() < 2_000, "{}", out.size());
        }
    }
}
