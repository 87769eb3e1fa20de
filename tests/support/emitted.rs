//! What a simulator says that it emitted: the other end of every oracle.
//!
//! `GET /_simulator/emitted` answers a line of JSON for each event that was emitted until now, in order, without
//! repeats (a `duplicate` is the same event again): `{"id", "type", "timestamp", "record_id", "record": RAW,
//! "previous": RAW}`, the id, type and timestamp canonical (sell-api.md section 0), RAW the bytes that were served.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::program::Simulator;

/// An event as its simulator says it emitted it.
#[derive(Clone, Debug)]
pub struct Emitted {
    pub id: String,
    /// The canonical type: `deal.updated`.
    pub event_type: String,
    pub timestamp: String,
    pub record_id: String,
    /// The record's bytes.
    pub record: String,
    /// The bytes of what it was before.
    pub previous: Option<String>,
    /// Its place among the account's events.
    pub place: usize,
}

impl Emitted {
    /// `deal` of `deal.updated`.
    pub fn resource(&self) -> &str {
        self.event_type.split('.').next().unwrap_or_default()
    }
}

/// Events of one answer: a long story would not fit into one.
const PAGE: usize = 20_000;

impl Simulator {
    /// Everything emitted until now, in order.
    pub async fn emitted(&self) -> Vec<Emitted> {
        let mut all = Vec::new();
        self.each_emitted(|event| all.push(event)).await;
        all
    }

    /// The same, one after another.
    pub async fn each_emitted(&self, mut take: impl FnMut(Emitted)) {
        #[derive(Deserialize)]
        struct Line {
            id: String,
            #[serde(rename = "type")]
            event_type: String,
            timestamp: String,
            record_id: String,
            record: Box<RawValue>,
            previous: Option<Box<RawValue>>,
            place: u64,
        }
        let (mut after, mut count) = (0, 0);
        loop {
            let text = self.admin(&format!("emitted?after={after}&limit={PAGE}")).await;
            let before = count;
            for line in text.lines().filter(|line| !line.is_empty()) {
                let line: Line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                let Line { id, event_type, timestamp, record_id, record, previous, place } = line;
                let (record, previous) = (record.get().to_owned(), previous.map(|raw| raw.get().to_owned()));
                take(Emitted { id, event_type, timestamp, record_id, record, previous, place: count });
                (after, count) = (place, count + 1);
            }
            if count - before < PAGE {
                return;
            }
        }
    }

    /// How many events there are, the backlog included.
    pub async fn count(&self) -> usize {
        #[derive(Deserialize)]
        struct Overview {
            events: usize,
        }
        let overview: Overview = serde_json::from_str(&self.admin("").await).expect("the simulator prints JSON");
        overview.events
    }
}
