//! Joins what was emitted with what arrived. It shares no code with the program but the chain's definition.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr as _;

use serde::Deserialize;
use serde_json::value::RawValue;
use standpipe::event::{Chain, ContentHash, LedgerId, Seq};

use crate::receiver::Attempt;
use crate::support::emitted::Emitted;
use crate::support::kafka::{Kafka, Message};
use crate::world::{Account, DEPLOYMENT, SHARDS, World};

const SHOWN: usize = 12;

/// An event's canonical bytes, taken apart (sell-api.md section 0).
#[derive(Deserialize)]
struct Canonical<'a> {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    timestamp: String,
    #[serde(borrow)]
    data: BTreeMap<String, &'a RawValue>,
    #[serde(borrow)]
    previous: Option<&'a RawValue>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    account: String,
}

type EventKey = (String, String);

/// Everything that all accounts' simulators have emitted until now.
pub async fn emitted(accounts: &[Account]) -> Vec<(&'static str, Emitted)> {
    let mut all = Vec::new();
    for account in accounts {
        all.extend(account.simulator.emitted().await.into_iter().map(|event| (account.name, event)));
    }
    all
}

/// What the oracle found.
#[derive(Debug, Default)]
pub struct Verdict {
    emitted: usize,
    messages: usize,
    attempts: usize,
    repeated_deliveries: usize,
    wrong: BTreeMap<&'static str, Vec<String>>,
}

impl Verdict {
    /// Judges; `expected` is all that was emitted: it must have arrived, and nothing else may have.
    pub async fn reach(world: &World, expected: &[(&'static str, Emitted)]) -> Self {
        let known: HashMap<EventKey, Emitted> = expected
            .iter()
            .map(|(account, event)| (((*account).to_owned(), event.id.clone()), event.clone()))
            .collect();
        let messages = world.kafka_messages().await;
        let attempts = world.receiver.attempts();
        let mut verdict =
            Self { emitted: expected.len(), messages: messages.len(), attempts: attempts.len(), ..Self::default() };
        let bodies = verdict.judge_kafka(&messages, &known);
        verdict.judge_links(&messages, &ledger_id(&world.kafka).await);
        verdict.judge_webhooks(&attempts, &known, &bodies);
        for (account, event) in expected {
            let key = ((*account).to_owned(), event.id.clone());
            if !bodies.contains_key(&key) {
                verdict.note("missing in Kafka", format!("{key:?}"));
            }
        }
        verdict
    }

    fn note(&mut self, what: &'static str, detail: String) {
        self.wrong.entry(what).or_default().push(detail);
    }

    /// Every message is an emitted event, byte for byte, once, in the order of its record. Gives the bodies.
    fn judge_kafka<'a>(
        &mut self,
        messages: &'a [Message],
        known: &HashMap<EventKey, Emitted>,
    ) -> HashMap<EventKey, &'a str> {
        let mut bodies = HashMap::new();
        let mut last_of_record: HashMap<String, usize> = HashMap::new();
        for message in messages {
            let place = format!("{}/{}@{}", message.topic, message.partition, message.offset);
            let Some((key, event)) = self.judge_body(message.body(), known, &place) else { continue };
            if message.header("standpipe-id") != event.id {
                self.note("wrong header in Kafka", format!("{place}: standpipe-id is not {}", event.id));
            }
            let expected_key = format!("{}/{}/{}", key.0, event.resource(), event.record_id);
            if message.key.as_deref() != Some(&expected_key) || message.topic != format!("sell.{}", event.resource()) {
                self.note("wrong address in Kafka", format!("{place}: {:?} is not {expected_key}", message.key));
            }
            // One record has one key and so one partition; messages come in offset order.
            if last_of_record.insert(expected_key, event.place).is_some_and(|last| last > event.place) {
                self.note("out of order in Kafka", format!("{place}: {key:?}"));
            }
            if bodies.contains_key(&key) {
                self.note("duplicate in Kafka", format!("{place}: {key:?}"));
            }
            bodies.insert(key, message.body());
        }
        bodies
    }

    /// The event of a body, when its bytes are those that were emitted.
    fn judge_body<'a>(
        &mut self,
        body: &str,
        known: &'a HashMap<EventKey, Emitted>,
        place: &str,
    ) -> Option<(EventKey, &'a Emitted)> {
        let canonical: Canonical<'_> = match serde_json::from_str(body) {
            Ok(canonical) => canonical,
            Err(error) => {
                self.note("not a canonical event", format!("{place}: {error}: {body}"));
                return None;
            }
        };
        let key = (canonical.meta.account.clone(), canonical.id.clone());
        let Some(event) = known.get(&key) else {
            self.note("never emitted", format!("{place}: {key:?}"));
            return None;
        };
        let record = canonical.data.get(event.resource()).map(|raw| raw.get());
        let same = record == Some(event.record.as_str())
            && canonical.previous.map(RawValue::get) == event.previous.as_deref()
            && (canonical.event_type == event.event_type && canonical.timestamp == event.timestamp);
        if !same {
            self.note("other bytes than emitted", format!("{place}: {body}\n    emitted: {event:?}"));
        }
        Some((key, event))
    }

    /// The headers alone prove exactly once: dense seqs, links within a partition, the chain over all of them.
    fn judge_links(&mut self, messages: &[Message], ledger: &LedgerId) {
        let mut last_in_partition: HashMap<(u16, &str, i32), u64> = HashMap::new();
        let mut shards: BTreeMap<u16, BTreeMap<u64, &Message>> = BTreeMap::new();
        for message in messages {
            let shard = number(message, "standpipe-shard");
            let (seq, previous): (u64, u64) = (number(message, "standpipe-seq"), number(message, "standpipe-prev"));
            let partition = (shard, message.topic.as_str(), message.partition);
            let last = last_in_partition.insert(partition, seq).unwrap_or(0);
            if previous != last {
                self.note("broken link in a partition", format!("{partition:?}: {seq} names {previous}, not {last}"));
            }
            shards.entry(shard).or_default().insert(seq, message);
        }
        for (shard, by_seq) in shards {
            if shard >= SHARDS {
                self.note("unknown shard", shard.to_string());
            }
            let mut chain = Chain::start(*ledger);
            for (expected, (seq, message)) in (1..).zip(&by_seq) {
                if *seq != expected {
                    self.note("seq not dense", format!("shard {shard}: {seq} where {expected} was due"));
                    break;
                }
                chain = chain.link(Seq(*seq), message.header("standpipe-id"), &content_hash(message.body()));
                if Chain::from_str(message.header("standpipe-chain")) != Ok(chain) {
                    self.note("broken chain", format!("shard {shard} at {seq}"));
                    break;
                }
            }
        }
    }

    /// Every event accepted, one id each, one body each (that of Kafka), first deliveries in the order of the record.
    fn judge_webhooks(
        &mut self,
        attempts: &[Attempt],
        known: &HashMap<EventKey, Emitted>,
        bodies: &HashMap<EventKey, &str>,
    ) {
        let mut event_of_id: HashMap<&str, EventKey> = HashMap::new();
        let mut id_of_event: HashMap<EventKey, &str> = HashMap::new();
        let mut accepted: HashMap<EventKey, usize> = HashMap::new();
        let mut last_of_record: HashMap<(String, String, String), (usize, EventKey)> = HashMap::new();
        for (at, attempt) in attempts.iter().enumerate() {
            let place = format!("attempt {at} ({})", attempt.id);
            let body = String::from_utf8_lossy(&attempt.body);
            let Some((key, event)) = self.judge_body(&body, known, &place) else { continue };
            if bodies.get(&key).is_some_and(|in_kafka| **in_kafka != *body) {
                self.note("webhook and Kafka differ", place.clone());
            }
            if event_of_id.insert(&attempt.id, key.clone()).is_some_and(|other| other != key)
                || id_of_event.insert(key.clone(), &attempt.id).is_some_and(|other| other != attempt.id)
            {
                self.note("webhook id not stable", place.clone());
            }
            let record = (key.0.clone(), event.resource().to_owned(), event.record_id.clone());
            let (newest, newest_key) = last_of_record.entry(record).or_insert_with(|| (event.place, key.clone()));
            if event.place > *newest {
                // The first attempt of a later event: the one before it must have been accepted.
                if !accepted.contains_key(newest_key) {
                    let detail = format!("{place}: before {newest_key:?} was accepted");
                    self.wrong.entry("webhook overtook an earlier one").or_default().push(detail);
                }
                (*newest, *newest_key) = (event.place, key.clone());
            } else if event.place < *newest && !accepted.contains_key(&key) {
                let detail = format!("{place}: after {newest_key:?}");
                self.wrong.entry("webhook first delivered late").or_default().push(detail);
            }
            if attempt.accepted {
                *accepted.entry(key).or_default() += 1;
            }
        }
        self.repeated_deliveries = accepted.values().map(|times| times - 1).sum();
        for (key, event) in known.iter().filter(|(key, _)| !accepted.contains_key(*key)) {
            let seen = if id_of_event.contains_key(key) { "refused and not tried again" } else { "never tried" };
            self.note("missing at the webhook", format!("{key:?}, {} of its account, {seen}", event.place));
        }
    }

    /// Panics unless nothing is wrong.
    pub fn assert_clean(&self, seed: u64) {
        assert!(self.wrong.is_empty(), "the promises are broken (CRASH_SEED={seed})\n{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "── oracle ──")?;
        writeln!(f, "{} events emitted, {} messages read committed in Kafka", self.emitted, self.messages)?;
        writeln!(
            f,
            "{} webhook attempts, {} of them repeated an accepted one",
            self.attempts, self.repeated_deliveries
        )?;
        if self.wrong.is_empty() {
            writeln!(f, "0 missing, 0 duplicates in Kafka, order kept, bytes the same, webhook ids stable")?;
        }
        for (what, details) in &self.wrong {
            writeln!(f, "{what}: {}", details.len())?;
            for detail in details.iter().take(SHOWN) {
                writeln!(f, "    {detail}")?;
            }
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(message: &Message, header: &str) -> T {
    let text = message.header(header);
    text.parse().unwrap_or_else(|_| panic!("{header} is not a number: {text}"))
}

fn content_hash(body: &str) -> ContentHash {
    let event: Canonical<'_> = serde_json::from_str(body).expect("judged before");
    let record = event.data.values().next().map_or("", |raw| raw.get());
    let previous = event.previous.map_or("", RawValue::get);
    ContentHash::of(&event.event_type, &event.timestamp, record.as_bytes(), previous.as_bytes())
}

/// The ledger that the Kafka sink's cursor names.
async fn ledger_id(kafka: &Kafka) -> LedgerId {
    #[derive(Deserialize)]
    struct Cursor {
        ledger: LedgerId,
    }
    let cursors = kafka.read_committed(&format!("standpipe.{DEPLOYMENT}.crm.cursor")).await;
    let last = cursors.last().expect("a cursor was committed");
    serde_json::from_str::<Cursor>(last.body()).expect("a cursor is JSON and names its ledger").ledger
}
