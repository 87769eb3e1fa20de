use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;
use ipnet::IpNet;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::check::Checker;
use super::check_enrich::enrich;
use super::raw::{RawCommon, RawFormat, RawKafkaOwn, RawNewProducer, RawOrder, RawSink, RawSinkStart, RawWebhookOwn};
use super::scalar::{PathText, PropertyName, PropertyText, SecretText};
use super::secret::Secret;
use super::tree::join;
use super::types::{BreakerConfig, KafkaConfig, NewProducer, Order, SinkConfig, SinkKind, SinkStart, WebhookConfig};

/// The librdkafka properties that are ours alone, each with the reason; refused in `properties`.
pub const OWNED_PROPERTIES: &[(&str, &str)] = &[
    ("bootstrap.servers", "the sink's `brokers` set it"),
    ("metadata.broker.list", "the sink's `brokers` set it"),
    ("transactional.id", "it fences off an older owner of the shard, so its form is fixed"),
    ("enable.idempotence", "exactly once rests on it"),
    ("enable.gapless.guarantee", "the transaction already has none"),
    ("acks", "exactly once needs `all`"),
    ("request.required.acks", "exactly once needs `all`"),
    ("transaction.timeout.ms", "the limits of every call follow from it"),
    ("message.timeout.ms", "the limits of every call follow from it"),
    ("delivery.timeout.ms", "the limits of every call follow from it"),
    ("socket.timeout.ms", "what counts as a doubtful commit follows from it"),
    ("request.timeout.ms", "what counts as a doubtful commit follows from it"),
    ("message.send.max.retries", "fewer retries would lose the order"),
    ("retries", "fewer retries would lose the order"),
    ("max.in.flight", "more would lose the order"),
    ("max.in.flight.requests.per.connection", "more would lose the order"),
    ("partitioner", "the Java client's murmur2 is used, so that `standpipe-prev` is known"),
    ("isolation.level", "the cursor is read as each step needs it"),
    ("group.id", "the sink's consumers have a name of their own"),
    ("auto.offset.reset", "a cursor is never read from anywhere else"),
    ("enable.auto.commit", "the sink has a cursor of its own"),
    ("enable.partition.eof", "reading the cursor needs it"),
    ("allow.auto.create.topics", "`create_topics` decides"),
    ("delivery.report.only.error", "every delivery report is counted"),
    ("enable.auto.offset.store", "the sink has a cursor of its own"),
];

/// Whether a librdkafka property's value is a secret: it is redacted wherever it would print.
#[must_use]
pub fn is_secret_property(name: &str) -> bool {
    let telling = ["password", "passphrase", "secret", "private.key", "key.pem", "jaas"];
    telling.iter().any(|word| name.contains(word)) || matches!(name, "sasl.oauthbearer.config" | "ssl.keystore.pem")
}

/// Whether a header's value is a secret more often than not, by its name.
#[must_use]
pub fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["authorization", "cookie", "key", "password", "secret", "token"].iter().any(|word| name.contains(word))
}

/// What has a problem stands empty: nothing but further checks sees it.
pub(super) fn sink(name: &str, raw: RawSink, to: &mut Checker<'_>) -> SinkConfig {
    match raw {
        RawSink::Kafka(raw) => {
            let kind = SinkKind::Kafka(kafka(name, raw.own, to));
            common(name, raw.common, kind, to)
        }
        RawSink::Webhook(raw) => {
            let kind = SinkKind::Webhook(webhook(name, raw.own, to));
            common(name, raw.common, kind, to)
        }
    }
}

fn common(name: &str, raw: RawCommon, kind: SinkKind, to: &mut Checker<'_>) -> SinkConfig {
    let path = |key: &str| format!("sinks.{name}.{key}");
    if raw.filter.as_ref().is_some_and(|filter| filter.trim().is_empty()) {
        to.refuse(&path("filter"), "is empty; leave it out to take every event");
    }
    let RawFormat::Event = raw.format;
    to.at_least(&path("dead_letter_retention"), raw.dead_letter_retention.0, Duration::from_secs(1));
    SinkConfig {
        filter: raw.filter.filter(|filter| !filter.trim().is_empty()),
        headers: raw.headers.into_iter().map(|(name, template)| (name.0, template.0)).collect(),
        start: match raw.start {
            RawSinkStart::Oldest => SinkStart::Oldest,
            RawSinkStart::Now => SinkStart::Now,
        },
        dead_letter_retention: raw.dead_letter_retention.0,
        enrich: enrich(name, raw.enrich, to),
        kind,
    }
}

fn kafka(name: &str, raw: RawKafkaOwn, to: &mut Checker<'_>) -> KafkaConfig {
    let path = |key: &str| format!("sinks.{name}.{key}");
    let mut given = |key: &str, value: Option<String>, example: &str| match value {
        None => {
            to.refuse(&path(key), format!("is missing; for example {key} = \"{example}\""));
            None
        }
        Some(text) if text.trim().is_empty() => {
            to.refuse(&path(key), format!("is empty; for example {key} = \"{example}\""));
            None
        }
        text => text,
    };
    let brokers = given("brokers", raw.brokers, "kafka-1:9092,kafka-2:9092");
    let topic = given("topic", raw.topic, "sell.{{ resource }}");
    if let Some(wrong) = brokers.as_deref().and_then(|list| list.split(',').find(|broker| !is_broker(broker))) {
        to.refuse(&path("brokers"), format!("{}: a broker is host:port", to.shown(&path("brokers"), wrong.trim())));
    }
    let (properties, secret_properties) = properties(name, raw.properties, raw.properties_file, to);
    KafkaConfig {
        brokers: brokers.unwrap_or_default(),
        topic: topic.unwrap_or_else(|| "topic".to_owned()),
        key: raw.key,
        new_producer: match raw.new_producer {
            RawNewProducer::OnDoubt => NewProducer::OnDoubt,
            RawNewProducer::EveryTransaction => NewProducer::EveryTransaction,
        },
        create_topics: raw.create_topics,
        partitions: raw.partitions,
        replication: raw.replication,
        properties,
        secret_properties,
    }
}

/// `host:port`, also `[::1]:port` and with a protocol before it, as librdkafka takes it.
fn is_broker(text: &str) -> bool {
    let text = text.trim();
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

type Properties = (IndexMap<String, String>, IndexMap<String, Secret>);

fn properties(
    name: &str,
    given: IndexMap<PropertyName, PropertyText>,
    files: IndexMap<PropertyName, PathText>,
    to: &mut Checker<'_>,
) -> Properties {
    let (mut open, mut secret) = (IndexMap::new(), IndexMap::new());
    let table = format!("sinks.{name}.properties");
    for (property, value) in given {
        let key = join(&table, &property.0);
        refuse_owned(&key, &property.0, to);
        if is_secret_property(&property.0) {
            if let Some((value, _)) = to.read(&key, Secret::value(value.0)) {
                secret.insert(property.0, value);
            }
        } else {
            open.insert(property.0, value.0);
        }
    }
    let table = format!("sinks.{name}.properties_file");
    for (property, file) in files {
        let key = join(&table, &property.0);
        refuse_owned(&key, &property.0, to);
        if open.contains_key(&property.0) || secret.contains_key(&property.0) {
            to.refuse(&key, "is given in both `properties` and `properties_file`; leave one out");
        } else if let Some((value, _)) = to.read(&key, Secret::file(file.0)) {
            secret.insert(property.0, value);
        }
    }
    (open, secret)
}

fn refuse_owned(key: &str, property: &str, to: &mut Checker<'_>) {
    if let Some((_, why)) = OWNED_PROPERTIES.iter().find(|(owned, _)| *owned == property) {
        to.refuse(key, format!("standpipe sets this property itself: {why}; leave it out"));
    }
}

fn webhook(name: &str, raw: RawWebhookOwn, to: &mut Checker<'_>) -> WebhookConfig {
    let path = |key: &str| format!("sinks.{name}.{key}");
    let url = url(&path("url"), raw.url, raw.url_file, raw.allow_http, to);
    let secrets = secrets(name, raw.secret, raw.secret_file, raw.secrets, raw.secret_files, to);
    let key_path = path("signing_key");
    let has_key = raw.signing_key.is_some() || raw.signing_key_file.is_some();
    let signing_key = to.secret(&key_path, raw.signing_key, raw.signing_key_file, None).map(|(key, text)| {
        if !decodes(text.expose_secret(), "whsk_", |bytes| bytes == 32 || bytes == 64) {
            to.refuse(&key_path, "not a signing key: `whsk_` followed by base64 of 32 or 64 bytes");
        }
        key
    });
    let told = ["secret_file", "secrets", "secret_files", "signing_key", "signing_key_file"];
    if secrets.is_empty() && !has_key && !told.iter().any(|key| to.is_bad(&path(key))) {
        to.refuse(
            &path("secret"),
            "is missing: every attempt is signed; give `secret_file` (or `secret`, `secret_files`, `secrets`) or \
             `signing_key_file`",
        );
    }
    let mut allow_networks = Vec::new();
    for (index, text) in raw.allow_networks.iter().enumerate() {
        let network = text.trim();
        let parsed = network.parse::<IpNet>().or_else(|_| network.parse::<std::net::IpAddr>().map(IpNet::from));
        if let Ok(network) = parsed {
            allow_networks.push(network);
        } else {
            let key = format!("{}[{index}]", path("allow_networks"));
            let shown = to.shown(&key, text);
            to.refuse(&key, format!("{shown}: a network looks like \"10.0.0.0/8\" or \"fd00::/8\""));
        }
    }
    if raw.retry_schedule.is_empty() || raw.retry_schedule.len() > 100 {
        to.refuse(&path("retry_schedule"), "give 1 to 100 waits, like [\"5s\", \"5m\", \"1h\"]");
    }
    let times = [
        ("disable_after", raw.disable_after.0, Duration::from_secs(1)),
        ("connect_timeout", raw.connect_timeout.0, Duration::from_millis(10)),
        ("timeout", raw.timeout.0, Duration::from_millis(10)),
        ("breaker.window", raw.breaker.window.0, Duration::from_secs(1)),
        ("breaker.probe_after", raw.breaker.probe_after.0, Duration::from_millis(10)),
    ];
    for (key, value, least) in times {
        to.at_least(&path(key), value, least);
    }
    if !(raw.breaker.failure_ratio > 0.0 && raw.breaker.failure_ratio <= 1.0) {
        to.refuse(&path("breaker.failure_ratio"), "out of range: above 0 and at most 1");
    }
    WebhookConfig {
        url: url.unwrap_or_else(|| Secret::value("")),
        secrets,
        signing_key,
        allow_http: raw.allow_http,
        allow_networks,
        retry_schedule: raw.retry_schedule.into_iter().map(|wait| wait.0).collect(),
        max_in_flight: raw.max_in_flight as usize,
        order: match raw.order {
            RawOrder::Record => Order::Record,
            RawOrder::None => Order::None,
        },
        breaker: BreakerConfig {
            failure_ratio: raw.breaker.failure_ratio,
            min_attempts: raw.breaker.min_attempts,
            window: raw.breaker.window.0,
            probe_after: raw.breaker.probe_after.0,
        },
        disable_after: raw.disable_after.0,
        connect_timeout: raw.connect_timeout.0,
        timeout: raw.timeout.0,
    }
}

fn url(
    key: &str,
    value: Option<SecretText>,
    file: Option<PathText>,
    allow_http: bool,
    to: &mut Checker<'_>,
) -> Option<Secret> {
    let (secret, text) = to.secret(key, value, file, Some("is missing; give `url` or `url_file`"))?;
    match reqwest::Url::parse(text.expose_secret().trim()) {
        Ok(url) if !url.has_host() || !matches!(url.scheme(), "http" | "https") => {
            to.refuse(key, "not an http(s) URL");
        }
        Ok(url) if url.scheme() == "http" && !allow_http => {
            to.refuse(key, "http would send events in the clear: use https, or set allow_http = true");
        }
        Ok(_) => return Some(secret),
        Err(_) => to.refuse(key, "not a URL; it looks like https://hooks.example.com/sell"),
    }
    None
}

fn secrets(
    name: &str,
    secret: Option<SecretText>,
    secret_file: Option<PathText>,
    secrets: Vec<SecretText>,
    secret_files: Vec<PathText>,
    to: &mut Checker<'_>,
) -> Vec<Secret> {
    let path = |key: &str| format!("sinks.{name}.{key}");
    let mut given: Vec<(String, Secret)> = Vec::new();
    given.extend(secret.map(|text| (path("secret"), Secret::value(text.0))));
    given.extend(secret_file.map(|file| (path("secret_file"), Secret::file(file.0))));
    let ways = given.len() + usize::from(!secrets.is_empty()) + usize::from(!secret_files.is_empty());
    if ways > 1 {
        to.refuse(
            &path("secret"),
            "more than one of `secret`, `secret_file`, `secrets` and `secret_files` is given; keep one",
        );
    }
    let indexed = |key: &str, index: usize| format!("{}[{index}]", path(key));
    given.extend(secrets.into_iter().enumerate().map(|(i, text)| (indexed("secrets", i), Secret::value(text.0))));
    given.extend(
        secret_files.into_iter().enumerate().map(|(i, file)| (indexed("secret_files", i), Secret::file(file.0))),
    );
    given
        .into_iter()
        .map(|(key, secret)| {
            if let Some((_, text)) = to.read(&key, secret.clone())
                && !decodes(text.expose_secret(), "whsec_", |bytes| (24..=64).contains(&bytes))
            {
                to.refuse(&key, "not a Standard Webhooks secret: `whsec_` followed by base64 of 24 to 64 bytes");
            }
            secret
        })
        .collect()
}

fn decodes(text: &str, prefix: &str, fits: impl Fn(usize) -> bool) -> bool {
    let Some(encoded) = text.strip_prefix(prefix) else { return false };
    STANDARD.decode(encoded).map(Zeroizing::new).is_ok_and(|bytes| fits(bytes.len()))
}
