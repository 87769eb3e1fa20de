use serde::Serialize;
use time::OffsetDateTime;

/// How things stand: the page's content, with the words of `status --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// The deployment's name.
    pub deployment: String,
    /// When this was looked up.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What a person must know of this installation before anything else.
    pub notice: Option<String>,
    /// What keeps the daemon from being simply ready, in words.
    pub reasons: Vec<String>,
    /// The ledger.
    pub ledger: Ledger,
    /// Every shard.
    pub shards: Vec<ShardLine>,
    /// Every account that is authorized by OAuth.
    pub grants: Vec<GrantLine>,
    /// Every stream.
    pub streams: Vec<StreamLine>,
    /// Every sink, once for each shard.
    pub sinks: Vec<SinkLine>,
    /// Gaps that are not closed.
    pub gaps: Vec<GapLine>,
    /// Sinks that found their way back to a ledger that was rewound behind them, newest first.
    pub rehydrations: Vec<RehydrationLine>,
    /// What one replica has done beside the pipe; none where it cannot be asked.
    pub replica: Option<Replica>,
    /// The newest events, newest first.
    pub events: Vec<EventLine>,
}

/// What one replica keeps, lends and looks up, in memory and since its start: the ledger knows nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Replica {
    /// What is kept of the vendor's answers.
    pub cache: CacheLine,
    /// Every account.
    pub accounts: Vec<LendingLine>,
    /// Every sink that looks records up.
    pub enrichment: Vec<EnrichmentLine>,
}

/// What is kept of the vendor's answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CacheLine {
    /// How many.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An account's requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LendingLine {
    /// The account's name.
    pub account: String,
    /// Requests that the budget has left in this minute.
    pub minute_left: u64,
    /// And in this hour.
    pub hour_left: u64,
    /// Requests at the door.
    pub requests: u64,
    /// Those of them that the budget had nothing left for.
    pub throttled: u64,
    /// Lookups, for the door and for sinks, whose answer may be kept.
    pub lookups: u64,
    /// Those of them that cost no request: the answer was kept, or another lookup brought it.
    pub hits: u64,
    /// Their part; none before the first.
    pub hit_ratio: Option<f64>,
}

/// What a sink has looked up for its events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EnrichmentLine {
    /// The sink.
    pub sink: String,
    /// Records that the stream itself told.
    pub stream: u64,
    /// Records that were kept.
    pub cache: u64,
    /// Records that the vendor was asked for.
    pub vendor: u64,
    /// Lookups without an answer.
    pub missed: u64,
    /// Whether events wait for an answer now.
    pub waiting: bool,
}

/// The ledger.
#[derive(Clone, Debug, Serialize)]
pub struct Ledger {
    /// Its id.
    pub id: String,
    /// The version of its schema.
    pub schema: i64,
}

/// A shard.
#[derive(Clone, Debug, Serialize)]
pub struct ShardLine {
    /// Its number.
    pub shard: u16,
    /// Who owns it; none while nobody does.
    pub owner: Option<String>,
    /// The owner's epoch.
    pub epoch: i64,
    /// The newest committed seq, which is also the number of events ever recorded in it, but for what is void.
    pub head: u64,
    /// Seqs that stay without an event, because the ledger was rewound behind Kafka.
    pub voids: Vec<VoidLine>,
}

impl ShardLine {
    /// How many events were ever recorded in it.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        let void: u64 = self.voids.iter().map(|void| void.to + 1 - void.from).sum();
        self.head.saturating_sub(void)
    }
}

/// A range of seqs that was lost.
#[derive(Clone, Debug, Serialize)]
pub struct VoidLine {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// When it was marked.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// A sink that found its way back.
#[derive(Clone, Debug, Serialize)]
pub struct RehydrationLine {
    /// The sink.
    pub sink: String,
    /// The shard.
    pub shard: u16,
    /// Where its cursor was found.
    pub found: u64,
    /// Where it went on.
    pub goes_on: u64,
    /// Delivered events that it skips when they come again.
    pub skips: u64,
    /// Events that came to it as replays.
    pub reclaimed: u64,
    /// When it was found.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// When it was ready to go on; none while it is not.
    #[serde(with = "time::serde::rfc3339::option")]
    pub done_at: Option<OffsetDateTime>,
}

/// An account that is authorized by OAuth.
#[derive(Clone, Debug, Serialize)]
pub struct GrantLine {
    /// The account's name.
    pub account: String,
    /// `ok`, `reauth_required`, or `none` before the first refresh.
    pub state: &'static str,
    /// When its tokens were last renewed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub renewed_at: Option<OffsetDateTime>,
    /// When its access token ends.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// Since when a person is needed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub refused_at: Option<OffsetDateTime>,
    /// What is wrong with it, and the way out.
    pub error: Option<String>,
}

/// A stream.
#[derive(Clone, Debug, Serialize)]
pub struct StreamLine {
    /// The account's name.
    pub account: String,
    /// The stream's name.
    pub stream: String,
    /// What it is doing, in the words of `StreamState`.
    pub state: String,
    /// When its position last moved.
    #[serde(with = "time::serde::rfc3339")]
    pub position_at: OffsetDateTime,
    /// How far it is behind the source, in seconds, where that is known.
    pub lag_seconds: Option<f64>,
    /// Seconds until its position falls out of the source's history.
    pub headroom_seconds: Option<f64>,
    /// Whether the source says that nothing newer is there.
    pub top: bool,
}

/// A sink in one shard.
#[derive(Clone, Debug, Serialize)]
pub struct SinkLine {
    /// The sink's name.
    pub sink: String,
    /// The shard.
    pub shard: u16,
    /// `kafka` or `webhook`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The guarantee that it has: `exactly once`, `at least once`.
    pub promise: String,
    /// What it is doing, in the words of `SinkState`.
    pub state: String,
    /// The last seq that it took.
    pub cursor: Option<u64>,
    /// Recorded events that it has not taken.
    pub lag_events: u64,
    /// Age of the oldest of them, in seconds.
    pub lag_seconds: Option<f64>,
    /// Dead letters that wait for an operator.
    pub dead_letters: u64,
    /// What the continuous audit has found; none where it never ran.
    pub audit: Option<AuditLine>,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// The continuous audit of a Kafka sink.
#[derive(Clone, Debug, Serialize)]
pub struct AuditLine {
    /// Messages that were judged.
    pub judged: u64,
    /// Those of them that were not as they should be.
    pub found: u64,
    /// The last of them, in words.
    pub finding: Option<String>,
    /// When it last noted something.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Why it does not follow now.
    pub error: Option<String>,
}

/// A gap.
#[derive(Clone, Debug, Serialize)]
pub struct GapLine {
    /// The stream (`acme/deals`) or the sink that it is in.
    pub of: String,
    /// Why, in the words of `GapReason`.
    pub reason: String,
    /// From where to where, in the source's or the ledger's terms.
    pub range: String,
    /// When it was recorded.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// A recorded event.
#[derive(Clone, Debug, Serialize)]
pub struct EventLine {
    /// Its shard.
    pub shard: u16,
    /// Its place there.
    pub seq: u64,
    /// The account.
    pub account: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The record's id.
    pub record_id: String,
    /// When it was recorded.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}
