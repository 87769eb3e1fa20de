//! Where stages meet. The ledger implements most of these; `app` hands them over; simulated twins may stand in.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::oneshot;

use super::{
    AccountName, Batch, Chain, Epoch, Found, GapReason, LedgerId, LookUps, Page, Position, RecordKey, Recorded, Room,
    Seq, Shard, SinkName, StreamKey,
};

pub use super::rehydrate::{Crossing, Delivered, RehydrateBook, Rehydration};

/// What can go wrong between a stage and the ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another owner has the shard: the owner's stages stop, and it stands back.
    #[error("shard {shard} is no longer ours: {why}")]
    Fenced {
        /// The shard that was lost.
        shard: Shard,
        /// What was found instead.
        why: String,
    },
    /// The database is not where we left it (a restore, a fail-over, another program): the owner's stages stop and start
    /// anew, and every sink verifies itself against what is there now.
    #[error("shard {shard} moved under us: {why}")]
    Moved {
        /// The shard that moved.
        shard: Shard,
        /// What was found instead.
        why: String,
    },
    /// The database did not answer, or not in time: tried again from a fresh look at the shard.
    #[error("the ledger is out of reach while {doing}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What the database client said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The ledger refuses for a reason that only a person can remove.
    #[error("the ledger refuses while {doing}: {why}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// The reason and the remedy.
        why: String,
    },
}

/// What the owner of a [`LedgerError`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerDisposition {
    /// Give the shard up and back off at least one lease TTL.
    StandDown,
    /// Stop the shard's stages and start them anew, soon.
    Restart,
    /// Stop, loudly.
    Halt,
}

impl LedgerError {
    /// What to do about it.
    #[must_use]
    pub const fn disposition(&self) -> LedgerDisposition {
        match self {
            Self::Fenced { .. } => LedgerDisposition::StandDown,
            Self::Moved { .. } | Self::Unavailable { .. } => LedgerDisposition::Restart,
            Self::Refused { .. } => LedgerDisposition::Halt,
        }
    }
}

/// The right to write to a shard: only the lease makes one, and every write names it (INV-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The shard that is owned.
    pub shard: Shard,
    /// The epoch under which it is.
    pub epoch: Epoch,
}

// ── source ⇄ ledger ──────────────────────────────────────────────────────────────────────────────────────────────

/// A page on its way to the ledger, with the room that it takes.
#[derive(Debug)]
pub struct Submission {
    /// The page.
    pub page: Page,
    /// Comes back when the page is settled.
    pub room: Room,
    /// Where the source waits for the answer; a dropped sender means that the shard stopped.
    pub settled: oneshot::Sender<PageOutcome>,
}

/// What became of a submitted page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageOutcome {
    /// Events, ids and position are committed.
    Recorded,
    /// The stream is no longer where the page was polled from (a seek, a pause, an older owner): nothing of it was
    /// taken; poll again from `at`.
    Superseded {
        /// Where the ledger holds the stream.
        at: Position,
    },
}

/// What a stream is doing, as the ledger and `status` tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// Polled.
    Active,
    /// An operator paused it.
    Paused,
    /// The source says 403.
    Forbidden,
    /// The source says 404; tried again hourly.
    Missing,
    /// A page cannot be read even at limit 1; it goes on being tried, loudly.
    Stuck,
    /// A gap with `on_gap = "halt"`: waits for `streams seek`.
    Halted,
}

impl StreamState {
    /// Every state, for the ledger's constraint and for parsing.
    pub const ALL: [Self; 6] = [Self::Active, Self::Paused, Self::Forbidden, Self::Missing, Self::Stuck, Self::Halted];

    /// The word for it in the ledger, the metrics and `status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Forbidden => "forbidden",
            Self::Missing => "missing",
            Self::Stuck => "stuck",
            Self::Halted => "halted",
        }
    }
}

/// A stream as the ledger holds it.
#[derive(Clone, Debug)]
pub struct StreamRow {
    /// Which stream.
    pub key: StreamKey,
    /// The committed position.
    pub position: Position,
    /// When the position was committed: the age that counts against the source's history.
    pub position_at: OffsetDateTime,
    /// Whether the last committed page said `top`.
    pub top: bool,
    /// What it is doing.
    pub state: StreamState,
}

/// The dialect that an account was found to speak; kept so that a restart does not flip it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// As the project's user describes the API.
    Reference,
    /// As the vendor's public service speaks today.
    Live,
}

impl Dialect {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Live => "live",
        }
    }
}

/// Who hears of a page before the ledger does.
pub trait Witness: std::fmt::Debug + Send + Sync + 'static {
    /// A source has this page, and hands it to the ledger next.
    fn seen(&self, page: &Page);
}

/// What a source reads and writes about its streams, apart from pages.
pub trait StreamBook: Clone + Send + Sync + 'static {
    /// The dialect found earlier, if any.
    fn dialect(&self, account: &AccountName) -> impl Future<Output = Result<Option<Dialect>, LedgerError>> + Send;
    /// Keeps a dialect that was found.
    fn keep_dialect(
        &self,
        account: &AccountName,
        dialect: Dialect,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// The stream as it is held; made at `start` when the ledger does not know it yet.
    fn open(&self, key: &StreamKey, start: &Position) -> impl Future<Output = Result<StreamRow, LedgerError>> + Send;
    /// All streams of an account (a source looks every second for what an operator changed).
    fn streams(&self, account: &AccountName) -> impl Future<Output = Result<Vec<StreamRow>, LedgerError>> + Send;
    /// Notes what a stream is doing. Never overwrites `Paused`.
    fn set_state(
        &self,
        key: &StreamKey,
        state: StreamState,
        detail: &str,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

// ── ledger ⇄ sink ────────────────────────────────────────────────────────────────────────────────────────────────

/// Where the ledger puts a batch that it has just committed. Who has no room reads the ledger later.
pub trait Publish: Send + Sync + 'static {
    /// Hands a committed batch to the sinks of its shard: at the call to those that have room. What is given back waits
    /// for the others, within a bound that does not depend on them.
    fn publish(&self, batch: Arc<Batch>) -> impl Future<Output = ()> + Send;
}

/// Reading what is recorded.
pub trait ReadLedger: Clone + Send + Sync + 'static {
    /// Contiguous events after `after`, at most `until`, at most `max_events` and about `max_bytes` (at least one).
    /// Fails with [`LedgerError::Refused`] when `after + 1` is no longer kept.
    fn read(
        &self,
        shard: Shard,
        after: Seq,
        until: Seq,
        max_events: usize,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Batch, LedgerError>> + Send;
}

/// A sink's view of its shard: batches after its cursor, from memory when it keeps up, from the ledger when not.
pub trait Feed: Send {
    /// The next contiguous batch after `after`, never empty. Waits for one. Safe to cancel: nothing is lost.
    fn next(&mut self, after: Seq) -> impl Future<Output = Result<Arc<Batch>, LedgerError>> + Send;
    /// The highest committed seq that is known here.
    fn head(&self) -> Seq;
}

/// What the ledger keeps of a shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardBounds {
    /// Which ledger.
    pub ledger: LedgerId,
    /// The oldest event still kept; `head + 1` when none is.
    pub oldest: Seq,
    /// The newest committed event.
    pub head: Seq,
    /// The chain at `head`.
    pub chain: Chain,
}

/// The chain that the ledger has at a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainAt {
    /// This.
    Known(Chain),
    /// The events up to there are no longer kept, so it cannot be told.
    Expired,
    /// The ledger lost the event and has none in its place (a void): only the chain at its end can be told.
    Void,
    /// The ledger has not come that far.
    Beyond,
}

/// What a sink is doing, as `status` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// Finding its place.
    Starting,
    /// Delivering.
    Running,
    /// Tries again after a failure.
    Retrying,
    /// An operator paused it.
    Paused,
    /// A webhook endpoint that is turned off (410, or failures only for `disable_after`); its events are kept.
    Disabled,
    /// Stopped for a reason that only a person can remove; the error says which.
    Halted,
}

impl SinkState {
    /// Every state, for the ledger's constraint and for parsing.
    pub const ALL: [Self; 6] =
        [Self::Starting, Self::Running, Self::Retrying, Self::Paused, Self::Disabled, Self::Halted];

    /// The word for it in the ledger, the metrics and `status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Halted => "halted",
        }
    }
}

/// A sink's row in the ledger for one shard. For a webhook its `cursor` is the truth; for Kafka it is the copy W.
#[derive(Clone, Debug, Default)]
pub struct SinkRow {
    /// The last seq that was taken; none before the first start.
    pub cursor: Option<Seq>,
    /// The last seq of the last Kafka transaction that was to hold a first message to a partition; see [`SinkBook::opens`].
    pub opening: Seq,
    /// An operator's order to stand at this seq instead; cleared by [`SinkBook::sought`].
    pub seek: Option<Seq>,
    /// An operator's order to be reconciled with its topics; cleared by [`SinkBook::reconciled`]. A seek comes first.
    pub reconcile: Option<Reconcile>,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Whether its last report, [`SinkState::Halted`], still stands: an operator who resumes the sink takes it back.
    pub halted: bool,
    /// Set while a webhook endpoint is disabled: since when and why.
    pub disabled: Option<String>,
}

/// What is known of a sink that is to be reconciled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconcile {
    /// The fingerprint of the rules by which it delivered last, where they were noted.
    pub rules: Option<String>,
    /// The last event that it took before it had them.
    pub after: Seq,
}

impl SinkRow {
    /// Whether the ledger says that the sink has taken anything, or was about to.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.cursor.is_some_and(|cursor| cursor > Seq::ZERO) || self.opening > Seq::ZERO
    }

    /// Whether an operator wants something else of a sink than to deliver.
    #[must_use]
    pub const fn is_wished_otherwise(&self) -> bool {
        self.paused || self.seek.is_some() || self.reconcile.is_some()
    }
}

/// An event that a sink gave up on, with the reason.
#[derive(Clone, Debug)]
pub struct NewDeadLetter {
    /// The event.
    pub seq: Seq,
    /// Why, in words; at most 1 KiB.
    pub reason: String,
    /// How many attempts were made.
    pub attempts: u32,
}

/// What every sink keeps in the ledger. Every write names the [`Ownership`] and fails as fenced when it is not held.
pub trait SinkBook: Clone + Send + Sync + 'static {
    /// The sink's row; made (without a cursor) when it is new.
    fn row(&self, sink: &SinkName, owner: Ownership) -> impl Future<Output = Result<SinkRow, LedgerError>> + Send;
    /// Moves the cursor. Never backwards, but for [`SinkBook::sought`].
    fn keep_cursor(
        &self,
        sink: &SinkName,
        owner: Ownership,
        cursor: Seq,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// Notes that a transaction which ends at `to` is about to write the sink's first message to a partition.
    fn opens(&self, sink: &SinkName, owner: Ownership, to: Seq)
    -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// Carries out the order in [`SinkRow::seek`]: the cursor is set to `cursor`, which is that seq, and a skipped range
    /// becomes a gap of the sink. What was noted by [`SinkBook::opens`] is forgotten. An order that changed meanwhile stays.
    fn sought(
        &self,
        sink: &SinkName,
        owner: Ownership,
        cursor: Seq,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// Writes dead letters, unique by (sink, shard, seq): doing it again changes nothing. They are kept for `retention`
    /// from now.
    fn dead_letters(
        &self,
        sink: &SinkName,
        owner: Ownership,
        letters: &[NewDeadLetter],
        retention: Duration,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// Notes what the sink is doing and, where it fails, why (with the remedy, without secrets).
    fn report(
        &self,
        sink: &SinkName,
        owner: Ownership,
        state: SinkState,
        error: Option<&str>,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// What the ledger keeps of the shard.
    fn bounds(&self, shard: Shard) -> impl Future<Output = Result<ShardBounds, LedgerError>> + Send;
    /// The chain at a seq.
    fn chain_at(&self, shard: Shard, seq: Seq) -> impl Future<Output = Result<ChainAt, LedgerError>> + Send;
    /// Notes by which rules the sink delivers what comes after `after`; nothing where it delivers by them already.
    fn keep_rules(
        &self,
        sink: &SinkName,
        owner: Ownership,
        fingerprint: &str,
        after: Seq,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// Why the sink need not have delivered all of what lies between two seqs.
    fn excuses(
        &self,
        sink: &SinkName,
        shard: Shard,
        from: Seq,
        to: Seq,
    ) -> impl Future<Output = Result<Excuses, LedgerError>> + Send;
    /// Ends the order in [`SinkRow::reconcile`]: the cursor is at `cursor`, or where it was when that is further.
    fn reconciled(
        &self,
        sink: &SinkName,
        owner: Ownership,
        cursor: Seq,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// Records a gap of the sink: `from..=to` will not be delivered to it.
    fn gap(
        &self,
        sink: &SinkName,
        owner: Ownership,
        from: Seq,
        to: Seq,
        reason: GapReason,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// Where a sink stands in a shard, for those who look from outside.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What the ledger keeps of the shard.
    pub bounds: ShardBounds,
    /// The first event that was recorded at the asked time or later; the oldest kept where none was asked.
    pub first: Seq,
    /// The ledger's copy of the cursor; none before the sink's first start.
    pub copy: Option<Seq>,
    /// The fingerprint of the rules that the sink delivers by, and the last event that it took before it had them.
    pub rules: Option<(String, Seq)>,
    /// First and last of the seqs that it may have used for other events, before the ledger was rewound and gave them anew.
    pub reused: Vec<(Seq, Seq)>,
}

/// Why a sink need not have delivered an event that its rules name.
#[derive(Clone, Debug, Default)]
pub struct Excuses {
    /// Its recorded gaps: first and last seq.
    pub gaps: Vec<(Seq, Seq)>,
    /// Its dead letters, those that were redriven since included, in order.
    pub dead_letters: Vec<Seq>,
    /// What it had delivered before the ledger was rewound and recorded it again, in order: under which seq that is now, and
    /// under which the topics have it (0 where an older program did not note it).
    pub skips: Vec<(Seq, Seq)>,
}

impl Excuses {
    /// Whether the event is in one of the gaps.
    #[must_use]
    pub fn is_in_gap(&self, seq: Seq) -> bool {
        self.gaps.iter().any(|(from, to)| *from <= seq && seq <= *to)
    }

    /// Whether the event is a dead letter, or was one.
    #[must_use]
    pub fn is_dead_letter(&self, seq: Seq) -> bool {
        self.dead_letters.binary_search(&seq).is_ok()
    }

    /// The other seq under which the topics have the event.
    #[must_use]
    pub fn elsewhere(&self, seq: Seq) -> Option<Seq> {
        let at = self.skips.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        Some(self.skips[at].1)
    }
}

/// What `verify` asks of the ledger beside the events and the excuses; it writes nothing.
pub trait ProofBook: ReadLedger + SinkBook {
    /// Where a sink stands, and which event is the first since a time.
    fn standing(
        &self,
        sink: &SinkName,
        shard: Shard,
        since: Option<OffsetDateTime>,
    ) -> impl Future<Output = Result<Standing, LedgerError>> + Send;
}

/// What the audit of a sink has to tell since its last note.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditNote {
    /// Messages that were judged.
    pub judged: u64,
    /// Those of them that were not as they should be.
    pub found: u64,
    /// The last finding, in words; at most 1 KiB are kept.
    pub finding: Option<String>,
    /// Why the audit does not follow now.
    pub error: Option<String>,
}

/// Where the audit of a sink notes what it finds.
pub trait AuditBook: Clone + Send + Sync + 'static {
    /// Adds a note to the sink's row. Nothing is written where another owner has the shard.
    fn audited(
        &self,
        sink: &SinkName,
        owner: Ownership,
        note: &AuditNote,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

// ── route ⇄ sink ─────────────────────────────────────────────────────────────────────────────────────────────────

/// What the rules of a sink say about one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is not for this sink.
    Filtered,
    /// It is, under this address.
    Deliver(Address),
    /// That hangs on what is to be looked up first, or the event is to carry it.
    LookUp(Box<LookUps>),
}

/// Where and how one event goes. Topic and key are empty for a webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// The Kafka topic.
    pub topic: Arc<str>,
    /// The message key.
    pub key: String,
    /// Headers that the sink's configuration adds, rendered.
    pub headers: Vec<(Arc<str>, String)>,
}

/// A filter or template that failed on one event: the event becomes a dead letter of that sink with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} failed on this event: {why}")]
pub struct RouteError {
    /// `filter`, `topic`, `key` or `header NAME`.
    pub what: String,
    /// What the evaluator said.
    pub why: String,
}

/// The compiled rules of one sink: pure, so that a repeated decision is the same (INV-9).
pub trait Route: Send + Sync + 'static {
    /// Decides. Replays for another sink are `Filtered`; control events are always delivered.
    fn decide(&self, event: &Recorded) -> Result<Decision, RouteError>;
    /// Whether there are events for which it says `LookUp`.
    fn looks_up(&self) -> bool {
        false
    }
    /// The event with what was found, as its last member `enrichment`: nothing else of its bytes changes. Where `_found`
    /// knows nothing of a record, [`Wanted::on_miss`](super::Wanted::on_miss) decides what stands there.
    fn complete(
        &self,
        event: &Recorded,
        _lookups: &LookUps,
        _found: &dyn Fn(&RecordKey) -> Option<Found>,
        _now: OffsetDateTime,
    ) -> Recorded {
        event.clone()
    }
    /// Decides an event that was completed; never `LookUp`. `_lookups` are those that it was completed by.
    fn decide_completed(&self, event: &Recorded, _lookups: &LookUps) -> Result<Decision, RouteError> {
        self.decide(event)
    }
    /// Names the rules: what has one name decides one way. None where nothing is known of them.
    fn fingerprint(&self) -> Option<&str> {
        None
    }
}
