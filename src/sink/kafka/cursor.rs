//! The cursor of a Kafka sink: the message that stands in the same transaction as the events that it counts (INV-7).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::event::ports::{Crossing, Rehydration};
use crate::event::{Chain, LedgerId, Seq, Shard};

/// The version of the value's form that this program writes, and the highest that it reads.
const VERSION: u32 = 1;
/// Partitions of all topics of a cursor, at most: a record that claims more is no cursor of ours, and must not take the
/// memory that it claims.
const MOST_PARTITIONS: i64 = 1_000_000;

/// A sink's place in its shard, and what it has last written where.
///
/// As JSON, in version 1: `{"version":1,"ledger":UUID,"shard":0,"seq":7,"chain":HEX,"topics":{"sell.deal":
/// {"partitions":6,"last":{"0":5,"4":7}}},"owner":UUID,"crossed":{"after":2,"chain":HEX,"to":4},"rehydrated":{"base":3,
/// "seq":5,"chain":HEX}}`. A partition without a
/// message of this shard has no entry in `last`; `owner` is the writing instance, absent where an older program wrote;
/// `rehydrated` is there once the ledger was rewound behind the sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    version: u32,
    /// Whose events they are.
    pub ledger: LedgerId,
    /// Of which shard.
    pub shard: Shard,
    /// The last event that was taken.
    pub seq: Seq,
    /// The chain at `seq`.
    pub chain: Chain,
    /// Every topic that was written to.
    #[serde(deserialize_with = "tails_within_bounds")]
    pub topics: Tails,
    /// The instance that wrote it; none where an older program did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Uuid>,
    /// The last void on the way to `seq`; none where there was none, or an older program wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crossed: Option<Crossing>,
    /// The sink's last rehydration; none where there was none, or an older program wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehydrated: Option<Rehydrated>,
}

/// A rehydration that a sink went through (design.md section 5). The ledger notes it, with what the sink then skips and gets
/// again; the cursor tells of it too, because the ledger may be rewound once more, to before it noted that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehydrated {
    /// Up to here ledger and sink agreed for certain.
    pub base: Seq,
    /// Where the sink stood.
    pub seq: Seq,
    /// The chain that the sink had there.
    pub chain: Chain,
}

impl Rehydrated {
    /// What a cursor tells of a way back.
    #[must_use]
    pub const fn by(way: &Rehydration) -> Self {
        Self { base: way.base, seq: way.found, chain: way.chain }
    }
}

/// What a sink has last written to each topic.
pub type Tails = BTreeMap<Arc<str>, Tail>;

/// The partitions of a topic and the last seq that each of them was given; 0 where none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// By partition.
    pub last: Vec<Seq>,
}

impl Tail {
    /// A topic that was never written to.
    #[must_use]
    pub fn new(partitions: i32) -> Self {
        Self { last: vec![Seq::ZERO; usize::try_from(partitions).unwrap_or(0)] }
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partitions(&self) -> i32 {
        i32::try_from(self.last.len()).unwrap_or(i32::MAX)
    }
}

/// A message of the cursor partition that cannot be a cursor.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// It is not of the form.
    #[error("the cursor partition holds a message that is not a cursor")]
    Malformed(#[source] serde_json::Error),
    /// A newer program wrote it.
    #[error("the cursor was written in form {0}, by a newer standpipe; this one reads up to form {VERSION}")]
    Newer(u32),
}

impl Cursor {
    /// A cursor at a place.
    #[must_use]
    pub const fn new(ledger: LedgerId, shard: Shard, seq: Seq, chain: Chain, topics: Tails) -> Self {
        Self { version: VERSION, ledger, shard, seq, chain, topics, owner: None, crossed: None, rehydrated: None }
    }

    /// The same, written by an instance.
    #[must_use]
    pub fn by(self, owner: Option<Uuid>) -> Self {
        Self { owner, ..self }
    }

    /// The same, of a sink that came there across a void.
    #[must_use]
    pub fn crossed(self, crossed: Option<Crossing>) -> Self {
        Self { crossed, ..self }
    }

    /// The same, of a sink that went through a rehydration.
    #[must_use]
    pub fn rehydrated(self, rehydrated: Option<Rehydrated>) -> Self {
        Self { rehydrated, ..self }
    }

    /// The message's value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a cursor has nothing that JSON cannot hold")
    }

    /// The cursor of a message's value.
    pub fn from_json(value: &[u8]) -> Result<Self, CursorError> {
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }
        let form: Form = serde_json::from_slice(value).map_err(CursorError::Malformed)?;
        if form.version > VERSION {
            return Err(CursorError::Newer(form.version));
        }
        serde_json::from_slice(value).map_err(CursorError::Malformed)
    }
}

/// The topic of a sink's cursors; partition n is shard n's.
#[must_use]
pub fn cursor_topic(deployment: &str, sink: &str) -> String {
    format!("standpipe.{deployment}.{sink}.cursor")
}

/// The topic of a deployment's announcements.
#[must_use]
pub fn control_topic(deployment: &str) -> String {
    format!("standpipe.{deployment}.control")
}

#[derive(Serialize, Deserialize)]
struct TailForm {
    partitions: i32,
    last: BTreeMap<usize, Seq>,
}

impl Serialize for Tail {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let last = self.last.iter().copied().enumerate().filter(|(_, seq)| *seq > Seq::ZERO).collect();
        TailForm { partitions: self.partitions(), last }.serialize(serializer)
    }
}

impl TryFrom<TailForm> for Tail {
    type Error = &'static str;

    fn try_from(form: TailForm) -> Result<Self, Self::Error> {
        let mut tail = Self::new(form.partitions);
        for (partition, seq) in form.last {
            *tail.last.get_mut(partition).ok_or("a partition beyond the count")? = seq;
        }
        Ok(tail)
    }
}

/// Looks at the counts of all before there is room for any.
fn tails_within_bounds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tails, D::Error> {
    use serde::de::Error as _;
    let forms = BTreeMap::<Arc<str>, TailForm>::deserialize(deserializer)?;
    if !forms.values().all(|form| (1..=100_000).contains(&form.partitions)) {
        return Err(D::Error::custom("a topic has 1 to 100000 partitions"));
    }
    if forms.values().map(|form| i64::from(form.partitions)).sum::<i64>() > MOST_PARTITIONS {
        return Err(D::Error::custom("more partitions than any cluster has"));
    }
    let tails = forms.into_iter().map(|(topic, form)| Ok((topic, Tail::try_from(form)?)));
    tails.collect::<Result<_, &str>>().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_written_in_its_documented_form_and_read_back() {
        let topics = Tails::from([(Arc::from("sell.deal"), Tail { last: vec![Seq(5), Seq::ZERO, Seq(7)] })]);
        let cursor = Cursor::new(LedgerId(uuid::Uuid::nil()), Shard(3), Seq(7), Chain([0xab; 32]), topics);
        let json = String::from_utf8(cursor.to_json()).unwrap();
        let chain = "ab".repeat(32);
        assert_eq!(
            json,
            format!(
                r#"{{"version":1,"ledger":"00000000-0000-0000-0000-000000000000","shard":3,"seq":7,"chain":"{chain}","topics":{{"sell.deal":{{"partitions":3,"last":{{"0":5,"2":7}}}}}}}}"#
            )
        );
        assert_eq!(Cursor::from_json(json.as_bytes()).unwrap(), cursor);
        let owned = cursor.clone().by(Some(uuid::Uuid::nil()));
        let with_owner = json.replace("}}}}", r#"}}},"owner":"00000000-0000-0000-0000-000000000000"}"#);
        assert_eq!(String::from_utf8(owned.to_json()).unwrap(), with_owner);
        assert_eq!(Cursor::from_json(with_owner.as_bytes()).unwrap(), owned);
        let crossed = Crossing { after: Seq(2), chain: Chain([0xef; 32]), to: Seq(4) };
        let last = format!(r#","crossed":{{"after":2,"chain":"{}","to":4}}}}"#, "ef".repeat(32));
        let with_crossed = format!("{}{last}", with_owner.strip_suffix('}').unwrap());
        let owned = owned.crossed(Some(crossed));
        assert_eq!(String::from_utf8(owned.to_json()).unwrap(), with_crossed);
        assert_eq!(Cursor::from_json(with_crossed.as_bytes()).unwrap(), owned);
        let back = owned.rehydrated(Some(Rehydrated { base: Seq(3), seq: Seq(5), chain: Chain([0xcd; 32]) }));
        let last = format!(r#","rehydrated":{{"base":3,"seq":5,"chain":"{}"}}}}"#, "cd".repeat(32));
        let with_it = format!("{}{last}", with_crossed.strip_suffix('}').unwrap());
        assert_eq!(String::from_utf8(back.to_json()).unwrap(), with_it);
        assert_eq!(Cursor::from_json(with_it.as_bytes()).unwrap(), back);
        let newer = json.replace(r#""version":1"#, r#""version":2"#);
        assert!(matches!(Cursor::from_json(newer.as_bytes()), Err(CursorError::Newer(2))));
        assert!(matches!(Cursor::from_json(b"{}"), Err(CursorError::Malformed(_))));
    }

    #[test]
    fn a_record_that_claims_more_partitions_than_there_are_is_no_cursor() {
        let with = |topics: usize| {
            let cursor = Cursor::new(LedgerId(uuid::Uuid::nil()), Shard(0), Seq(7), Chain([0; 32]), Tails::new());
            let topics: Vec<String> =
                (0..topics).map(|at| format!(r#""t{at}":{{"partitions":100000,"last":{{}}}}"#)).collect();
            let json = String::from_utf8(cursor.to_json()).unwrap();
            Cursor::from_json(json.replace(r#""topics":{"#, &format!(r#""topics":{{{}"#, topics.join(","))).as_bytes())
        };
        assert_eq!(with(10).unwrap().topics.len(), 10);
        assert!(matches!(with(11), Err(CursorError::Malformed(_))));
    }
}
