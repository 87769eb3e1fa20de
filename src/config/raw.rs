//! Every key, declared once: its name, type, default and meaning. The schema, the check for unknown keys, the
//! reference and the typed defaults all come from here.
//!
//! A key that must be given is an `Option` without a default; `check` says so when it is missing, so that all
//! errors come at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::{
    AddressText, DurationText, HeaderName, HeaderText, Name, PathText, PropertyName, PropertyText, SecretText, SizeText,
};

/// Configuration of standpipe.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "standpipe")]
pub(super) struct RawConfig {
    /// Names transactional ids and Kafka topics of our own; two deployments never share one. Must be given:
    /// `[a-z][a-z0-9-]{0,31}`.
    pub deployment: Option<String>,
    /// A directory of our own: instance id and lock, the embedded database, fetched archives.
    pub state_dir: PathText,
    /// How long `run` waits at start for database and brokers before it exits with 3.
    pub startup_timeout: DurationText,
    /// How long a stop may take; what is still busy then is named and cut off.
    pub drain_timeout: DurationText,
    /// The ledger: the PostgreSQL database that every event is recorded in before it is delivered.
    pub ledger: RawLedger,
    /// The bounds of every channel between stages.
    pub channels: RawChannels,
    /// Listeners and API keys.
    pub server: RawServer,
    /// The Sell accounts that are read. At least one.
    pub accounts: IndexMap<Name, RawAccount>,
    /// Where events are delivered.
    pub sinks: IndexMap<Name, RawSink>,
    /// Comparing what was delivered with what the vendor holds.
    pub passthrough: RawPassthrough,
    pub audit: RawAudit,
    /// Logs and traces.
    pub telemetry: RawTelemetry,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            deployment: None,
            state_dir: PathText("/var/lib/standpipe".into()),
            startup_timeout: seconds(30),
            drain_timeout: seconds(30),
            ledger: RawLedger::default(),
            channels: RawChannels::default(),
            server: RawServer::default(),
            accounts: IndexMap::new(),
            sinks: IndexMap::new(),
            passthrough: RawPassthrough::default(),
            audit: RawAudit::default(),
            telemetry: RawTelemetry::default(),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLedger {
    /// `postgres://user@host/database`, or `embedded`: a private PostgreSQL under `state_dir`. This or `url_file`
    /// must be given.
    pub url: Option<SecretText>,
    /// A file that holds `url`.
    pub url_file: Option<PathText>,
    /// The number of shards, fixed when the ledger is created.
    #[schemars(range(min = 1, max = 1024))]
    pub shards: u16,
    /// How long an owner's lease lives without renewal; at least 3s.
    pub lease_ttl: DurationText,
    /// How long events are kept; never past the cursor of a configured sink.
    pub retention: DurationText,
    /// How long event ids are remembered: at least twice the longest `history` of an account, that is the history and
    /// the longest outage that loses nothing.
    pub dedupe_window: DurationText,
    /// The source pauses when events that a sink still needs exceed this.
    pub max_backlog: SizeText,
    /// When a paused source has less than this left of its history, the sink that holds the backlog is cut off,
    /// unless it takes what it holds fast enough for half of that time.
    pub backlog_hold: DurationText,
    /// Whether a transaction-mode pooler such as pgbouncer stands between.
    pub pooler: bool,
    /// Whether `run` applies migrations; else `standpipe migrate` does.
    pub migrate: bool,
}

impl Default for RawLedger {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            shards: 1,
            lease_ttl: seconds(15),
            retention: days(7),
            dedupe_window: days(14),
            max_backlog: SizeText(10 << 30),
            backlog_hold: hours(12),
            pooler: false,
            migrate: true,
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawChannels {
    /// Events in a channel, at most.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub events: u32,
    /// Bytes in a channel, at most.
    pub bytes: SizeText,
}

impl Default for RawChannels {
    fn default() -> Self {
        Self { events: 10_000, bytes: SizeText(64 << 20) }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawServer {
    /// Console and passthrough. Without any key only programs on this machine are served.
    pub listen: AddressText,
    /// `/metrics`, `/livez` and `/readyz`.
    pub metrics_listen: AddressText,
    /// API keys.
    pub keys: IndexMap<Name, RawKey>,
}

impl Default for RawServer {
    fn default() -> Self {
        Self { listen: loopback(8080), metrics_listen: loopback(9464), keys: IndexMap::new() }
    }
}

#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawKey {
    /// The key. This or `token_file` must be given.
    pub token: Option<SecretText>,
    /// A file that holds `token`.
    pub token_file: Option<PathText>,
    /// What the key may do. At least one.
    pub allow: Vec<RawScope>,
    /// For which accounts; none = all.
    pub accounts: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) enum RawScope {
    #[serde(rename = "passthrough:read")]
    PassthroughRead,
    #[serde(rename = "passthrough:write")]
    PassthroughWrite,
    #[serde(rename = "events:read")]
    EventsRead,
    #[serde(rename = "admin")]
    Admin,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAccount {
    /// The vendor's origin; `http` for loopback only.
    pub base_url: String,
    /// Which dialect of the API it speaks; `auto` asks once and remembers.
    pub dialect: RawDialect,
    /// The API token. This, `token_file` or `oauth` must be given.
    pub token: Option<SecretText>,
    /// A file that holds `token`; read again when it changes.
    pub token_file: Option<PathText>,
    /// OAuth 2.0 instead of a token.
    pub oauth: Option<RawOauth>,
    /// The streams that are read, by name: `deals`, `contacts`; `*` = every one.
    pub streams: Vec<String>,
    /// The event types that are recorded: `*`, `deal.*`, `contact.deleted`; others are dropped after the poll.
    pub events: Vec<String>,
    /// What makes an event unique: its id, or resource, record id and sequence.
    pub dedupe_by: RawDedupeBy,
    /// Where a stream that the ledger does not know starts: `tail` = the oldest event kept, `top` = now.
    pub start: RawStreamStart,
    /// How long the source keeps events.
    pub history: DurationText,
    /// What follows a gap once it is recorded and announced: go on, or wait for an operator.
    pub on_gap: RawOnGap,
    /// The pause between polls of a stream that is at its top.
    pub poll_interval: DurationText,
    /// Events in a page, at most; the live dialect gives 100 at most.
    #[schemars(range(min = 1, max = 1000))]
    pub page_limit: u16,
    /// Bytes of an answer that are read, at most.
    pub max_page_bytes: SizeText,
    /// Requests per minute; left out = by dialect (reference 100, live 600).
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<u32>,
    /// Requests per hour; left out = by dialect (reference 6000, live 36000).
    #[schemars(range(min = 1))]
    pub requests_per_hour: Option<u32>,
}

impl Default for RawAccount {
    fn default() -> Self {
        Self {
            base_url: "https://api.getbase.com".to_owned(),
            dialect: RawDialect::Auto,
            token: None,
            token_file: None,
            oauth: None,
            streams: vec!["*".to_owned()],
            events: vec!["*".to_owned()],
            dedupe_by: RawDedupeBy::Id,
            start: RawStreamStart::Tail,
            history: hours(72),
            on_gap: RawOnGap::Continue,
            poll_interval: seconds(5),
            page_limit: 100,
            max_page_bytes: SizeText(32 << 20),
            requests_per_minute: None,
            requests_per_hour: None,
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawOauth {
    /// The application's id. Must be given.
    pub client_id: Option<String>,
    /// The application's secret. This or `client_secret_file` must be given.
    pub client_secret: Option<SecretText>,
    /// A file that holds `client_secret`.
    pub client_secret_file: Option<PathText>,
    /// The refresh token to begin with. This or `refresh_token_file` must be given.
    pub refresh_token: Option<SecretText>,
    /// A file that holds `refresh_token`.
    pub refresh_token_file: Option<PathText>,
    /// The key under which the ledger keeps the tokens: 32 bytes in hex or base64. This or `key_file` must be given.
    pub key: Option<SecretText>,
    /// A file that holds `key`.
    pub key_file: Option<PathText>,
}

/// Declares an enum of lower-case words.
macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        #[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub(super) enum $name {
            $(#[serde(rename = $word)] $variant,)*
        }
    };
}

words!(RawDialect { Auto = "auto", Reference = "reference", Live = "live" });
words!(RawDedupeBy { Id = "id", Sequence = "sequence" });
words!(RawStreamStart { Tail = "tail", Top = "top" });
words!(RawOnGap { Continue = "continue", Halt = "halt" });
words!(RawSinkStart { Oldest = "oldest", Now = "now" });
words!(RawFormat { Event = "event" });
words!(RawNewProducer { OnDoubt = "on-doubt", EveryTransaction = "every-transaction" });
words!(RawOrder { Record = "record", None = "none" });
words!(RawOnMiss { Wait = "wait", Skip = "skip", Null = "null" });
words!(RawLogFormat { Auto = "auto", Json = "json", Text = "text" });
words!(KafkaTag { Kafka = "kafka" });
words!(WebhookTag { Webhook = "webhook" });

/// By `type`: the walk has chosen by it before, so the first that fits is the one.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RawSink {
    Kafka(Box<RawKafka>),
    Webhook(Box<RawWebhook>),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct RawCommon {
    /// CEL over the event, true = take it; left out = every event.
    pub filter: Option<String>,
    /// Headers to add: name → minijinja template over the event.
    pub headers: IndexMap<HeaderName, HeaderText>,
    /// Where a sink that is new to this ledger begins: the oldest event that is kept, or now.
    pub start: RawSinkStart,
    /// The form of what is delivered: the canonical event.
    pub format: RawFormat,
    /// How long dead letters are kept.
    pub dead_letter_retention: DurationText,
    /// Records that are looked up for every event that the sink takes, and delivered with it.
    pub enrich: Vec<RawEnrich>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawEnrich {
    /// A resource of the Core API, as it stands in paths: `contacts`. Must be given.
    pub lookup: Option<String>,
    /// CEL over the event: the id of the record, a list of ids, or null where there is nothing to look up. Must be given.
    pub id: Option<String>,
    /// The name under `enrichment`: `[a-z][a-z0-9_]{0,31}`. Must be given.
    pub r#as: Option<String>,
    /// The members of the record that are delivered; left out = the whole record.
    pub fields: Option<Vec<String>>,
    /// How old an answer may be: what the stream or the cache holds is used as long as it is younger.
    pub max_age: DurationText,
    /// When the vendor gives no answer: `wait` for it, deliver without (`skip`), or with a `null` in its place.
    pub on_miss: RawOnMiss,
}

impl Default for RawEnrich {
    fn default() -> Self {
        Self { lookup: None, id: None, r#as: None, fields: None, max_age: minutes(10), on_miss: RawOnMiss::Wait }
    }
}

impl Default for RawCommon {
    fn default() -> Self {
        Self {
            filter: None,
            headers: IndexMap::new(),
            start: RawSinkStart::Oldest,
            format: RawFormat::Event,
            dead_letter_retention: days(30),
            enrich: Vec::new(),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = false))]
pub(super) struct RawKafka {
    /// What kind of sink it is. Must be given.
    pub r#type: KafkaTag,
    #[serde(flatten)]
    pub common: RawCommon,
    #[serde(flatten)]
    pub own: RawKafkaOwn,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct RawKafkaOwn {
    /// `host:port,host:port`. Must be given.
    pub brokers: Option<String>,
    /// The topic: minijinja over the event, like `sell.{{ resource }}`. Must be given.
    pub topic: Option<String>,
    /// The key: minijinja over the event. Events of one record need one key, or their order is lost.
    pub key: String,
    /// When the producer is discarded and initialised again: after any outcome in doubt, or for every transaction.
    pub new_producer: RawNewProducer,
    /// Whether topics that do not exist are created.
    pub create_topics: bool,
    /// Partitions of created topics; left out = the broker's own.
    #[schemars(range(min = 1, max = 100_000))]
    pub partitions: Option<u32>,
    /// Replication factor of created topics; left out = the broker's own.
    #[schemars(range(min = 1, max = 1000))]
    pub replication: Option<u16>,
    /// Any librdkafka property but those that exactly-once delivery rests on.
    pub properties: IndexMap<PropertyName, PropertyText>,
    /// The same, each from a file: for secrets.
    pub properties_file: IndexMap<PropertyName, PathText>,
}

impl Default for RawKafkaOwn {
    fn default() -> Self {
        Self {
            brokers: None,
            topic: None,
            key: "{{ account }}/{{ resource }}/{{ record_id }}".to_owned(),
            new_producer: RawNewProducer::OnDoubt,
            create_topics: true,
            partitions: None,
            replication: None,
            properties: IndexMap::new(),
            properties_file: IndexMap::new(),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = false))]
pub(super) struct RawWebhook {
    /// What kind of sink it is. Must be given.
    pub r#type: WebhookTag,
    #[serde(flatten)]
    pub common: RawCommon,
    #[serde(flatten)]
    pub own: RawWebhookOwn,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct RawWebhookOwn {
    /// Where events are posted to. This or `url_file` must be given. Secret, because it may hold a token.
    pub url: Option<SecretText>,
    /// A file that holds `url`.
    pub url_file: Option<PathText>,
    /// Signs every attempt: `whsec_` and 24 to 64 bytes in base64. One of the secrets or a signing key must be given.
    pub secret: Option<SecretText>,
    /// A file that holds `secret`; read again when it changes.
    pub secret_file: Option<PathText>,
    /// Several secrets, for a rotation: all sign, the first first.
    pub secrets: Vec<SecretText>,
    /// Files that hold one secret each: all sign, the first first.
    pub secret_files: Vec<PathText>,
    /// An ed25519 key, `whsk_` and 32 or 64 bytes in base64; adds a `v1a` signature.
    pub signing_key: Option<SecretText>,
    /// A file that holds `signing_key`.
    pub signing_key_file: Option<PathText>,
    /// Whether `http://` may be used.
    pub allow_http: bool,
    /// Networks that the guard against requests to internal addresses lets through: `127.0.0.0/8`.
    pub allow_networks: Vec<String>,
    /// The wait before each further attempt, ±20 %; after the last one the event becomes a dead letter.
    pub retry_schedule: Vec<DurationText>,
    /// Attempts at once, per shard.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_in_flight: u32,
    /// Whether events of one record wait for each other.
    pub order: RawOrder,
    /// The circuit breaker.
    pub breaker: RawBreaker,
    /// An endpoint with nothing but failures for this long is disabled; its events are kept. What counts is the time
    /// from one failed attempt to the next: not when standpipe or the sink stood still, nor 30 hours without an attempt.
    pub disable_after: DurationText,
    /// Bound on connecting.
    pub connect_timeout: DurationText,
    /// Bound on a whole attempt.
    pub timeout: DurationText,
}

impl Default for RawWebhookOwn {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            secret: None,
            secret_file: None,
            secrets: Vec::new(),
            secret_files: Vec::new(),
            signing_key: None,
            signing_key_file: None,
            allow_http: false,
            allow_networks: Vec::new(),
            retry_schedule: vec![
                seconds(5),
                minutes(5),
                minutes(30),
                hours(2),
                hours(5),
                hours(10),
                hours(14),
                hours(20),
                hours(24),
            ],
            max_in_flight: 64,
            order: RawOrder::Record,
            breaker: RawBreaker::default(),
            disable_after: days(5),
            connect_timeout: seconds(5),
            timeout: seconds(15),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBreaker {
    /// The share of failures that opens it, above 0 and at most 1.
    pub failure_ratio: f64,
    /// With fewer attempts in the window it stays closed.
    #[schemars(range(min = 1))]
    pub min_attempts: u32,
    /// The window that is looked at.
    pub window: DurationText,
    /// How long it stays open before one attempt is let through.
    pub probe_after: DurationText,
}

impl Default for RawBreaker {
    fn default() -> Self {
        Self { failure_ratio: 0.7, min_attempts: 10, window: minutes(5), probe_after: seconds(30) }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawPassthrough {
    /// Bytes of the vendor's answers that are kept, at most; `0B` keeps none.
    pub cache: SizeText,
    /// How long an answer counts as fresh, unless an event of what it shows is recorded before; `0s` = never.
    pub cache_ttl: DurationText,
    /// How long after that an answer may be given, labelled as stale, while the vendor gives none; `0s` = never.
    pub stale_if_error: DurationText,
}

impl Default for RawPassthrough {
    fn default() -> Self {
        Self { cache: SizeText(32 << 20), cache_ttl: minutes(1), stale_if_error: seconds(0) }
    }
}

#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAudit {
    /// Whether every Kafka sink's topics are read back and judged while it delivers.
    pub enabled: bool,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTelemetry {
    /// A tracing-subscriber filter: `info`, or `info,standpipe::source=debug`.
    pub log: String,
    /// `auto` = text on a terminal, JSON elsewhere.
    pub log_format: RawLogFormat,
    /// Where traces go, as OTLP over HTTP: `http://collector:4318`; empty = nowhere.
    pub otlp_endpoint: String,
}

impl Default for RawTelemetry {
    fn default() -> Self {
        Self { log: "info".to_owned(), log_format: RawLogFormat::Auto, otlp_endpoint: String::new() }
    }
}

const fn seconds(count: u64) -> DurationText {
    DurationText(Duration::from_secs(count))
}

const fn minutes(count: u64) -> DurationText {
    seconds(count * 60)
}

const fn hours(count: u64) -> DurationText {
    minutes(count * 60)
}

const fn days(count: u64) -> DurationText {
    hours(count * 24)
}

const fn loopback(port: u16) -> AddressText {
    AddressText(SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port))
}
