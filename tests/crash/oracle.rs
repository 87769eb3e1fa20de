//! Joins what was emitted with what arrived. It shares no code with the program but the chain's definition.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::str::FromStr as _;
use std::time::SystemTime;

use standpipe::event::{Chain, ContentHash, LedgerId, Seq};

use crate::canonical::{EventKey, Fact, Said};
use crate::receiver::Attempt;
use crate::support::kafka::Message;
use crate::timeline::{Timeline, moment};

const SHOWN: usize = 12;

/// Everything that was emitted: it must arrive, and nothing else may.
pub type Known = HashMap<EventKey, Fact>;

/// Something that is wrong, and when it came about as far as that is known.
#[derive(Debug)]
struct Finding {
    detail: String,
    at: Option<SystemTime>,
}

/// A message of a shard, as far as the chain needs it.
#[derive(Debug)]
struct Link {
    event: String,
    content: ContentHash,
    chain: String,
}

/// Takes what arrived, piece by piece, and judges.
#[derive(Debug)]
pub struct Oracle<'k> {
    known: &'k Known,
    /// The bytes of an event in Kafka, and when it came there.
    in_kafka: HashMap<&'k EventKey, (u64, SystemTime)>,
    last_of_record: HashMap<&'k str, usize>,
    last_in_partition: HashMap<(u16, String, i32), u64>,
    shards: BTreeMap<u16, BTreeMap<u64, Link>>,
    messages: usize,
    replays: usize,
    attempts: usize,
    repeated: usize,
    wrong: BTreeMap<&'static str, Vec<Finding>>,
}

/// What the oracle found.
#[derive(Debug)]
pub struct Verdict {
    emitted: usize,
    messages: usize,
    replays: usize,
    attempts: usize,
    repeated: usize,
    /// Places at which the seqs of a shard jump: the ledger was rewound there, or an event skipped.
    jumps: usize,
    wrong: BTreeMap<&'static str, Vec<Finding>>,
}

impl<'k> Oracle<'k> {
    pub fn new(known: &'k Known) -> Self {
        Self {
            known,
            in_kafka: HashMap::new(),
            last_of_record: HashMap::new(),
            last_in_partition: HashMap::new(),
            shards: BTreeMap::new(),
            messages: 0,
            replays: 0,
            attempts: 0,
            repeated: 0,
            wrong: BTreeMap::new(),
        }
    }

    fn note(&mut self, what: &'static str, detail: String, at: Option<SystemTime>) {
        self.wrong.entry(what).or_default().push(Finding { detail, at });
    }

    /// The event of some bytes, when they are those that were emitted.
    fn event_of(&mut self, said: &Said, place: &str, at: SystemTime) -> Option<(&'k EventKey, &'k Fact)> {
        let known: &'k Known = self.known;
        let Some((key, fact)) = known.get_key_value(&said.key) else {
            self.note("never emitted", format!("{place}: {:?}", said.key), Some(at));
            return None;
        };
        if said.content != fact.content {
            self.note("other bytes than emitted", format!("{place}: {key:?}"), Some(at));
        }
        Some((key, fact))
    }

    /// A message as a `read_committed` consumer sees it; those of a partition come in offset order. It must be an emitted
    /// event, byte for byte, once, in the order of its record, and name the one before it in its partition.
    pub fn message(&mut self, message: &Message) {
        let place = format!("{}/{}@{}", message.topic, message.partition, message.offset);
        let at = moment(message.at);
        self.messages += 1;
        let said = match Said::read(message.body().as_bytes()) {
            Ok(said) => said,
            Err(why) => return self.note("not a canonical event", format!("{place}: {why}"), Some(at)),
        };
        self.link(message, &said, at);
        let Some((key, fact)) = self.event_of(&said, &place, at) else { return };
        if message.header("standpipe-id") != key.1 {
            self.note("wrong header in Kafka", format!("{place}: standpipe-id is not {}", key.1), Some(at));
        }
        if message.key.as_ref() != Some(&fact.record) || message.topic != format!("sell.{}", fact.resource()) {
            let detail = format!("{place}: {:?} is not {}", message.key, fact.record);
            self.note("wrong address in Kafka", detail, Some(at));
        }
        if message.has_header("standpipe-replay") {
            // Outside the order promise; twice is wrong all the same.
            self.replays += 1;
        } else if self.last_of_record.insert(&fact.record, fact.place).is_some_and(|last| last > fact.place) {
            // One record has one key and so one partition; messages come in offset order.
            self.note("out of order in Kafka", format!("{place}: {key:?}"), Some(at));
        }
        if let Some((_, first)) = self.in_kafka.insert(key, (said.bytes, at)) {
            let before = at.duration_since(first).unwrap_or_default().as_secs_f64();
            self.note("duplicate in Kafka", format!("{place}: {key:?}, {before:.1} s after the first"), Some(at));
        }
    }

    /// The headers alone prove exactly once: links within a partition here, the chain over all of them at the end.
    fn link(&mut self, message: &Message, said: &Said, at: SystemTime) {
        let shard = number(message, "standpipe-shard");
        let (seq, previous): (u64, u64) = (number(message, "standpipe-seq"), number(message, "standpipe-prev"));
        let partition = (shard, message.topic.clone(), message.partition);
        let detail = format!("{partition:?}: {seq} names {previous}");
        let last = self.last_in_partition.insert(partition, seq).unwrap_or(0);
        if previous != last {
            self.note("broken link in a partition", format!("{detail}, not {last}"), Some(at));
        }
        let chain = message.header("standpipe-chain").to_owned();
        let link = Link { event: said.key.1.clone(), content: said.content, chain };
        if self.shards.entry(shard).or_default().insert(seq, link).is_some() {
            self.note("a seq twice in Kafka", format!("shard {shard}: {seq}"), Some(at));
        }
    }

    /// Every event accepted, one id each, one body each (that of Kafka), first deliveries in the order of the record. To
    /// be called once, after all messages.
    pub fn attempts(&mut self, attempts: &[Attempt]) {
        let mut event_of_id: HashMap<&str, &EventKey> = HashMap::new();
        let mut id_of_event: HashMap<&EventKey, &str> = HashMap::new();
        let mut accepted: HashMap<&EventKey, usize> = HashMap::new();
        let mut newest_of_record: HashMap<&str, (usize, &EventKey)> = HashMap::new();
        self.attempts = attempts.len();
        for (number, attempt) in attempts.iter().enumerate() {
            let (place, at) = (format!("attempt {number} ({})", attempt.id), attempt.at);
            let said = match &attempt.said {
                Ok(said) => said,
                Err(why) => {
                    self.note("not a canonical event", format!("{place}: {why}"), Some(at));
                    continue;
                }
            };
            let Some((key, fact)) = self.event_of(said, &place, at) else { continue };
            if self.in_kafka.get(key).is_some_and(|(bytes, _)| *bytes != said.bytes) {
                self.note("webhook and Kafka differ", place.clone(), Some(at));
            }
            if event_of_id.insert(&attempt.id, key).is_some_and(|other| other != key)
                || id_of_event.insert(key, &attempt.id).is_some_and(|other| other != attempt.id)
            {
                self.note("webhook id not stable", place.clone(), Some(at));
            }
            let (newest, newest_key) = newest_of_record.entry(&fact.record).or_insert((fact.place, key));
            if fact.place > *newest {
                // The first attempt of a later event: the one before it must have been accepted.
                if !accepted.contains_key(newest_key) {
                    let detail = format!("{place}: before {newest_key:?} was accepted");
                    let finding = Finding { detail, at: Some(at) };
                    self.wrong.entry("webhook overtook an earlier one").or_default().push(finding);
                }
                (*newest, *newest_key) = (fact.place, key);
            } else if fact.place < *newest && !accepted.contains_key(&key) {
                let finding = Finding { detail: format!("{place}: after {newest_key:?}"), at: Some(at) };
                self.wrong.entry("webhook first delivered late").or_default().push(finding);
            }
            if attempt.accepted {
                *accepted.entry(key).or_default() += 1;
            }
        }
        self.repeated = accepted.values().map(|times| times - 1).sum();
        let missing: Vec<_> = self.known.iter().filter(|(key, _)| !accepted.contains_key(key)).collect();
        for (key, fact) in missing {
            let seen = if id_of_event.contains_key(key) { "refused and not tried again" } else { "never tried" };
            let at = self.in_kafka.get(key).map(|(_, at)| *at);
            let at = at.or_else(|| self.about("missing at the webhook", &key.0, fact.place));
            self.note("missing at the webhook", format!("{key:?}, {} of its account, {seen}", fact.place), at);
        }
    }

    /// About when an event that is not in Kafka should have come there: when the next one of its account did. Found for
    /// the findings that are shown: looking is slow.
    fn about(&self, what: &str, account: &str, place: usize) -> Option<SystemTime> {
        if self.wrong.get(what).map_or(0, Vec::len) >= SHOWN {
            return None;
        }
        let later = self.in_kafka.iter().filter(|(key, _)| key.0 == account);
        let later = later.filter(|(key, _)| self.known[*key].place > place);
        later.min_by_key(|(key, _)| self.known[*key].place).map(|(_, (_, at))| *at)
    }

    /// The verdict. `rewound` says that the ledger was: then seqs may jump, where something became void or was skipped;
    /// the chain is followed on both sides of a jump.
    pub fn verdict(mut self, ledger: &LedgerId, shards: u16, rewound: bool) -> Verdict {
        let missing: Vec<_> = self.known.iter().filter(|(key, _)| !self.in_kafka.contains_key(key)).collect();
        for (key, fact) in missing {
            let at = self.about("missing in Kafka", &key.0, fact.place);
            self.note("missing in Kafka", format!("{key:?}, {} of its account", fact.place), at);
        }
        let mut jumps = 0;
        for (shard, by_seq) in std::mem::take(&mut self.shards) {
            if shard >= shards {
                self.note("unknown shard", shard.to_string(), None);
            }
            let mut chain = Chain::start(*ledger);
            let mut expected = 1;
            for (seq, link) in by_seq {
                if seq == expected {
                    chain = chain.link(Seq(seq), &link.event, &link.content);
                } else if rewound {
                    jumps += 1;
                    chain = Chain::from_str(&link.chain).expect("a chain is 64 digits");
                } else {
                    self.note("seq not dense", format!("shard {shard}: {seq} where {expected} was due"), None);
                    break;
                }
                expected = seq + 1;
                if Chain::from_str(&link.chain) != Ok(chain) {
                    self.note("broken chain", format!("shard {shard} at {seq}"), None);
                    break;
                }
            }
        }
        let Self { messages, replays, attempts, repeated, wrong, .. } = self;
        Verdict { emitted: self.known.len(), messages, replays, attempts, repeated, jumps, wrong }
    }
}

impl Verdict {
    /// Panics unless nothing is wrong; tells after which faults, and how the same run is made again.
    pub fn assert_clean(&self, timeline: &Timeline, again: &str) {
        if self.wrong.is_empty() {
            return;
        }
        let mut told = String::new();
        for (what, findings) in &self.wrong {
            writeln!(told, "{what}: {}", findings.len()).expect("a string");
            for Finding { detail, at } in findings.iter().take(SHOWN) {
                let before = at.map_or_else(String::new, |at| timeline.before(at));
                writeln!(told, "    {detail}{before}").expect("a string");
            }
        }
        panic!("the promises are broken\n{told}{self}the same again: {again}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "── oracle ──")?;
        writeln!(f, "{} events emitted, {} messages read committed in Kafka", self.emitted, self.messages)?;
        writeln!(f, "{} webhook attempts, {} of them repeated an accepted one", self.attempts, self.repeated)?;
        if self.jumps > 0 {
            writeln!(f, "{} jumps of seqs (void or skipped), {} replays for Kafka", self.jumps, self.replays)?;
        }
        if self.wrong.is_empty() {
            writeln!(f, "0 missing, 0 duplicates in Kafka, 0 reordered, bytes the same, webhook ids stable")?;
        }
        for (what, findings) in &self.wrong {
            writeln!(f, "{what}: {}", findings.len())?;
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(message: &Message, header: &str) -> T {
    let text = message.header(header);
    text.parse().unwrap_or_else(|_| panic!("{header} is not a number: {text}"))
}
