use serde::Serialize;

use crate::event::{Seq, Shard, SinkName};

/// Findings that are told one by one, at most, for each sink and shard; all are counted.
pub const MAX_FINDINGS: usize = 1_000;

/// What is wrong with a message, or with one that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The ledger says that the sink took it, and it is not there.
    Missing,
    /// It is there twice.
    Duplicate,
    /// It stands before one that it must follow.
    Reordered,
    /// It says something else than the ledger: another body, id, key or chain.
    Altered,
    /// Its `standpipe-prev` does not name the message before it.
    Unlinked,
    /// The cursor itself disagrees with the ledger.
    Cursor,
}

impl Fault {
    /// Those that the audit tells of a message.
    pub const OF_MESSAGES: [Self; 4] = [Self::Missing, Self::Duplicate, Self::Reordered, Self::Altered];

    /// The word for it, as in the report and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Duplicate => "duplicate",
            Self::Reordered => "reordered",
            Self::Altered => "altered",
            Self::Unlinked => "unlinked",
            Self::Cursor => "cursor",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub fault: Fault,
    /// The topic.
    pub topic: String,
    /// The partition, where it is known.
    pub partition: Option<i32>,
    /// The offset of the message; none where there is no message.
    pub offset: Option<i64>,
    /// The event.
    pub seq: Seq,
    /// In words.
    pub why: String,
}

/// What a sink's topics hold in one shard, against the ledger.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    /// The sink.
    pub sink: SinkName,
    /// The shard.
    pub shard: Shard,
    /// The first event that was judged.
    pub from: Seq,
    /// The last one: the cursor as it stood when the look began.
    pub to: Seq,
    /// Messages that are as the ledger says.
    pub delivered: u64,
    /// Of them, replays: outside the order promise, and no duplicates.
    pub replays: u64,
    /// Of them, those that `reconcile` put behind later ones.
    pub repairs: u64,
    /// Of them, stubs of events that are larger than the broker takes.
    pub stubs: u64,
    /// Events that the sink's rules leave out.
    pub filtered: u64,
    /// Events that are dead letters, or were.
    pub dead_letters: u64,
    /// Events that a recorded gap of the sink covers, or that it had delivered before the ledger was rewound.
    pub skipped: u64,
    /// Events whose messages the topic's own retention or compaction has removed: not judged.
    pub expired: u64,
    /// Messages whose event the ledger does not keep: only their links were judged.
    pub unknown: u64,
    /// Messages of this ledger that other sinks wrote, or other rules.
    pub others: u64,
    /// How many of each kind were found: missing, duplicate, reordered, altered, unlinked.
    pub missing: u64,
    /// See [`Fault::Duplicate`].
    pub duplicate: u64,
    /// See [`Fault::Reordered`].
    pub reordered: u64,
    /// See [`Fault::Altered`].
    pub altered: u64,
    /// See [`Fault::Unlinked`].
    pub unlinked: u64,
    /// The first of them, one by one.
    pub findings: Vec<Finding>,
    /// What a reader of this should know: what could not be judged, and why.
    pub notes: Vec<String>,
    /// Whether nothing was found.
    pub holds: bool,
}

impl Proof {
    pub(super) fn new(sink: &SinkName, shard: Shard, from: Seq, to: Seq) -> Self {
        Self {
            sink: sink.clone(),
            shard,
            from,
            to,
            delivered: 0,
            replays: 0,
            repairs: 0,
            stubs: 0,
            filtered: 0,
            dead_letters: 0,
            skipped: 0,
            expired: 0,
            unknown: 0,
            others: 0,
            missing: 0,
            duplicate: 0,
            reordered: 0,
            altered: 0,
            unlinked: 0,
            findings: Vec::new(),
            notes: Vec::new(),
            holds: true,
        }
    }

    pub(super) fn found(&mut self, finding: Finding) {
        self.holds = false;
        match finding.fault {
            Fault::Missing => self.missing += 1,
            Fault::Duplicate => self.duplicate += 1,
            Fault::Reordered => self.reordered += 1,
            Fault::Altered => self.altered += 1,
            Fault::Unlinked => self.unlinked += 1,
            Fault::Cursor => {}
        }
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}
