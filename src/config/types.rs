use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;
use ipnet::IpNet;

use super::problem::{Origin, Origins, Problem};
use super::secret::Secret;
use crate::event::{AccountName, OnMiss, SinkName};

/// Everything that is configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names transactional ids and topics; two deployments never share one.
    pub deployment: String,
    /// Where the instance id and lock, the embedded database and fetched archives live.
    pub state_dir: PathBuf,
    /// How long `run` waits for database and brokers before it exits with 3.
    pub startup_timeout: Duration,
    /// How long a stop may take.
    pub drain_timeout: Duration,
    /// The ledger.
    pub ledger: LedgerConfig,
    /// The bounds of every channel between stages.
    pub channels: ChannelsConfig,
    /// Listeners and API keys.
    pub server: ServerConfig,
    /// The accounts, in the order of the file.
    pub accounts: IndexMap<AccountName, AccountConfig>,
    /// The sinks, in the order of the file.
    pub sinks: IndexMap<SinkName, SinkConfig>,
    /// What the door keeps of the vendor's answers.
    pub passthrough: PassthroughConfig,
    /// Reading back what the Kafka sinks deliver.
    pub audit: AuditConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// Where each key was given; see [`Config::origin`].
    pub origins: Origins,
}

impl Config {
    /// Where a key was given: `config.origin("sinks.crm.filter")`. None where it is the built-in default.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// What is wrong with a key, with the place where it was given, for checks that live outside of `config`.
    #[must_use]
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        self.origins.problem(key, message)
    }
}

/// `[passthrough]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassthroughConfig {
    /// Bytes of answers that are kept, at most; 0 keeps none.
    pub cache: u64,
    /// For how long an answer counts as fresh, unless an event says otherwise before.
    pub cache_ttl: Duration,
    /// For how long after that it may be given, labelled, where the vendor gives none.
    pub stale_if_error: Duration,
}

/// `[audit]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Whether every Kafka sink's topics are read back and judged while it delivers.
    pub enabled: bool,
}

/// `[ledger]`
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerConfig {
    /// Where the database is.
    pub url: LedgerUrl,
    /// The number of shards, fixed when the ledger is created; 1..=1024.
    pub shards: u16,
    /// How long a lease lives without renewal; at least 3 s.
    pub lease_ttl: Duration,
    /// How long events are kept.
    pub retention: Duration,
    /// How long event ids are remembered; at least twice any account's `history`.
    pub dedupe_window: Duration,
    /// The source pauses when the events that a sink still needs exceed this many bytes.
    pub max_backlog: u64,
    /// The headroom under which a sink that holds the backlog is cut off.
    pub backlog_hold: Duration,
    /// Whether a transaction-mode pooler stands between.
    pub pooler: bool,
    /// Whether `run` applies migrations.
    pub migrate: bool,
}

/// Where the ledger's database is.
#[derive(Clone, Debug, PartialEq)]
pub enum LedgerUrl {
    /// A `postgres://` URL; secret, because it may hold a password.
    Postgres(Secret),
    /// A private PostgreSQL under `state_dir`.
    Embedded,
}

/// `[channels]`
#[derive(Clone, Copy, Debug)]
pub struct ChannelsConfig {
    /// Events in a channel, at most.
    pub events: usize,
    /// Bytes in a channel, at most.
    pub bytes: u64,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Console and passthrough.
    pub listen: SocketAddr,
    /// `/metrics`, `/livez`, `/readyz`.
    pub metrics_listen: SocketAddr,
    /// API keys; without any, only loopback is served.
    pub keys: IndexMap<String, KeyConfig>,
}

/// `[server.keys.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct KeyConfig {
    /// The key's secret.
    pub token: Secret,
    /// What it may do.
    pub allow: Vec<Scope>,
    /// For which accounts; empty = all.
    pub accounts: Vec<AccountName>,
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Lookups through the passthrough.
    PassthroughRead,
    /// Writes through the passthrough.
    PassthroughWrite,
    /// Events, streams and sinks, read only.
    EventsRead,
    /// Everything.
    Admin,
}

impl Scope {
    /// As it is configured.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PassthroughRead => "passthrough:read",
            Self::PassthroughWrite => "passthrough:write",
            Self::EventsRead => "events:read",
            Self::Admin => "admin",
        }
    }
}

/// `[accounts.NAME]`
#[derive(Clone, Debug)]
pub struct AccountConfig {
    /// The vendor's origin, without a trailing slash: `https://api.getbase.com`. `http` for loopback only.
    pub base_url: String,
    /// Which dialect it speaks.
    pub dialect: DialectChoice,
    /// How requests are authorized.
    pub auth: Auth,
    /// Stream names, or `*`.
    pub streams: Vec<String>,
    /// Event type patterns (`*`, `deal.*`, `contact.deleted`); others are dropped after the poll.
    pub events: Vec<String>,
    /// What makes an event unique.
    pub dedupe_by: DedupeBy,
    /// Where a stream that the ledger does not know starts.
    pub start: StreamStart,
    /// How long the source keeps events.
    pub history: Duration,
    /// What happens at a 410.
    pub on_gap: OnGap,
    /// The pause between polls of a stream that is at its top.
    pub poll_interval: Duration,
    /// How many events a page may hold: 1..=1000; the live dialect cuts it to 100.
    pub page_limit: u16,
    /// How many bytes of an answer are read, at most.
    pub max_page_bytes: u64,
    /// Overrides the dialect's requests per minute.
    pub requests_per_minute: Option<u32>,
    /// Overrides the dialect's requests per hour.
    pub requests_per_hour: Option<u32>,
}

/// `dialect`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialectChoice {
    /// Ask once and remember.
    Auto,
    /// As configured.
    Fixed(crate::event::ports::Dialect),
}

/// How an account's requests are authorized.
#[derive(Clone, Debug)]
pub enum Auth {
    /// `token` or `token_file`.
    Token(Secret),
    /// `[accounts.NAME.oauth]`
    OAuth {
        /// The application's id.
        client_id: String,
        /// The application's secret.
        client_secret: Secret,
        /// The refresh token to begin with.
        refresh_token: Secret,
        /// The key under which the ledger keeps the tokens; [`read_key`](super::read_key) reads it.
        key: Secret,
    },
}

/// `dedupe_by`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DedupeBy {
    /// The event id.
    Id,
    /// Resource, record id and sequence.
    Sequence,
}

/// `start` of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStart {
    /// The oldest event that the source keeps.
    Tail,
    /// Now.
    Top,
}

/// `on_gap`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// Record, announce, go on from `tail`.
    Continue,
    /// Record, announce, and wait for an operator.
    Halt,
}

/// `[sinks.NAME]`
#[derive(Clone)]
pub struct SinkConfig {
    /// CEL over the event; none = all.
    pub filter: Option<String>,
    /// Headers to add: name → minijinja template.
    pub headers: IndexMap<String, String>,
    /// Where a sink that is new to this ledger begins.
    pub start: SinkStart,
    /// How long dead letters are kept.
    pub dead_letter_retention: Duration,
    /// What is looked up for its events.
    pub enrich: Vec<EnrichConfig>,
    /// What it delivers to.
    pub kind: SinkKind,
}

/// `[[sinks.NAME.enrich]]`
#[derive(Clone, Debug)]
pub struct EnrichConfig {
    /// The resource, as it stands in paths of the Core API: `contacts`.
    pub lookup: String,
    /// CEL over the event.
    pub id: String,
    /// `as`: the name under `enrichment`.
    pub name: String,
    /// The members that are delivered; none = the whole record.
    pub fields: Option<Vec<String>>,
    /// How old an answer may be.
    pub max_age: Duration,
    /// What happens without an answer.
    pub on_miss: OnMiss,
}

// By hand: a header may hold a secret.
impl fmt::Debug for SinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkConfig")
            .field("filter", &self.filter)
            .field("headers", &self.headers.keys())
            .field("start", &self.start)
            .field("dead_letter_retention", &self.dead_letter_retention)
            .field("enrich", &self.enrich)
            .field("kind", &self.kind)
            .finish()
    }
}

/// `start` of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkStart {
    /// The oldest event that the ledger keeps.
    Oldest,
    /// Only what is recorded from now on.
    Now,
}

/// `type`
#[derive(Clone, Debug)]
pub enum SinkKind {
    /// `type = "kafka"`
    Kafka(KafkaConfig),
    /// `type = "webhook"`
    Webhook(WebhookConfig),
}

impl SinkKind {
    /// The word for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Webhook(_) => "webhook",
        }
    }
}

/// A Kafka sink's own keys.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port,host:port`
    pub brokers: String,
    /// minijinja over the event.
    pub topic: String,
    /// minijinja over the event.
    pub key: String,
    /// When a producer is discarded and initialised again.
    pub new_producer: NewProducer,
    /// Whether topics that do not exist are created.
    pub create_topics: bool,
    /// Partitions of created topics; none = the broker's default.
    pub partitions: Option<u32>,
    /// Replication of created topics; none = the broker's default.
    pub replication: Option<u16>,
    /// Any librdkafka property.
    pub properties: IndexMap<String, String>,
    /// Any librdkafka property whose value is a secret (`properties_file`, or from the environment).
    pub secret_properties: IndexMap<String, Secret>,
}

/// `new_producer`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewProducer {
    /// After any outcome that is not a definite yes.
    OnDoubt,
    /// For every transaction: slow, and immune to a delayed `EndTxn` of any kind.
    EveryTransaction,
}

/// A webhook sink's own keys.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// Where to; secret, because it may hold a password or a token.
    pub url: Secret,
    /// `whsec_…`; all sign, the first first.
    pub secrets: Vec<Secret>,
    /// ed25519 `whsk_…`; adds a `v1a` signature.
    pub signing_key: Option<Secret>,
    /// Whether `http://` may be used.
    pub allow_http: bool,
    /// Networks that the guard lets through.
    pub allow_networks: Vec<IpNet>,
    /// The wait before each further attempt, ±20 %.
    pub retry_schedule: Vec<Duration>,
    /// Attempts at once, per shard.
    pub max_in_flight: usize,
    /// Whether events of one record wait for each other.
    pub order: Order,
    /// The circuit breaker.
    pub breaker: BreakerConfig,
    /// An endpoint with nothing but failures for this long is disabled; its events are kept.
    pub disable_after: Duration,
    /// Bound on connecting.
    pub connect_timeout: Duration,
    /// Bound on a whole attempt.
    pub timeout: Duration,
}

/// `order`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// An event waits while an earlier one of the same record is undelivered.
    Record,
    /// Nothing waits.
    None,
}

/// `[sinks.NAME.breaker]`
#[derive(Clone, Copy, Debug)]
pub struct BreakerConfig {
    /// The share of failures that opens it, 0–1.
    pub failure_ratio: f64,
    /// With fewer attempts in the window it stays closed.
    pub min_attempts: u32,
    /// The window that is looked at.
    pub window: Duration,
    /// How long it stays open before one attempt is let through.
    pub probe_after: Duration,
}

/// `[telemetry]`
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// A tracing-subscriber filter.
    pub log: String,
    /// How lines look.
    pub log_format: LogFormat,
    /// Where traces go; none = nowhere.
    pub otlp_endpoint: Option<String>,
}

/// `log_format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// JSON.
    Json,
    /// Text.
    Text,
}
