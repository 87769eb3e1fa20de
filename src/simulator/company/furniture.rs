//! What stands in an account from the beginning: its people, its pipeline, and the words to choose from.

use serde_json::{Map, Value, json};

use super::super::dice::Dice;
use super::super::encode::{outcome_id, reason_id, source_id};
use super::words::{FIRST, LAST, LOSS, OUTCOME, PRODUCT, SOURCE, TAG};
use super::{Company, Details, Kind, Record, Stage};

/// The dice's purpose: nothing of this changes the story.
const FURNITURE: u64 = 4;
pub(in super::super) const PIPELINE: u64 = 901_001;

impl Company {
    pub(super) fn furnish(&mut self, seed: u64, at: i64) {
        let mut dice = Dice::new(seed, FURNITURE);
        let account = dice.between(100_000, 900_000);
        let of = json!({
            "name": "Simulated Sales", "currency": "EUR", "time_format": "24h", "timezone": "UTC",
            "subdomain": "simulated",
        });
        self.furniture(Kind::Account, account, at, of);
        self.people(&mut dice, at);
        self.furniture(Kind::Pipeline, PIPELINE, at, json!({ "name": "Sales pipeline", "disabled": false }));
        for (position, stage) in (1_u64..).zip(Stage::ALL) {
            let of = json!({
                "name": stage.name(), "category": category(stage), "position": position, "active": true,
                "likelihood": likelihood(stage), "pipeline_id": PIPELINE,
            });
            self.furniture(Kind::Stage, stage.id(), at, of);
        }
        for source in SOURCE {
            // Two of one length share an id in the story: the first of them gives its name.
            let id = source_id(source);
            if self.find(Kind::LeadSource, id).is_none() {
                self.furniture(Kind::LeadSource, id, at, json!({ "name": source, "resource_type": "lead" }));
            }
        }
        for (id, source) in (1_501..).zip(SOURCE) {
            self.furniture(Kind::DealSource, id, at, json!({ "name": source, "resource_type": "deal" }));
        }
        for reason in LOSS {
            self.furniture(Kind::LossReason, reason_id(reason), at, json!({ "name": reason }));
        }
        for (id, name) in (2_501..).zip(["Too small", "No need", "Wrong contact"]) {
            self.furniture(Kind::DealUnqualifiedReason, id, at, json!({ "name": name }));
            self.furniture(Kind::LeadUnqualifiedReason, id + 100, at, json!({ "name": name }));
        }
        for (at_word, outcome) in OUTCOME.iter().enumerate() {
            self.furniture(Kind::CallOutcome, outcome_id(at_word), at, json!({ "name": outcome }));
        }
        for (id, name) in (3_501..).zip(["Met", "Nobody there", "Postponed"]) {
            self.furniture(Kind::VisitOutcome, id, at, json!({ "name": name }));
        }
        for (id, (tag, of)) in (4_001..).zip(TAG.iter().flat_map(|tag| ["lead", "contact", "deal"].map(|of| (tag, of))))
        {
            self.furniture(Kind::Tag, id, at, json!({ "name": tag, "resource_type": of }));
        }
        for (id, name) in (5_001..).zip(PRODUCT) {
            let amount = format!("{}.00", dice.between(10, 400) * 50);
            let of = json!({
                "name": name, "sku": format!("P-{id}"), "active": true,
                "prices": [{ "amount": amount, "currency": "EUR" }],
            });
            self.furniture(Kind::Product, id, at, of);
        }
        for (id, name, kind) in [
            (71_001, "ERP number", "number"),
            (71_002, "Score", "number"),
            (71_003, "Region", "string"),
            (71_004, "Margin", "number"),
        ] {
            self.furniture(
                Kind::CustomField,
                id,
                at,
                json!({ "name": name, "type": kind, "of": "deal", "resource": "deal" }),
            );
        }
        self.talk(&mut dice, at);
    }

    fn people(&mut self, dice: &mut Dice, at: i64) {
        let ids: Vec<u64> = self.users().iter().map(|user| user.id).collect();
        for (index, id) in ids.iter().enumerate() {
            let (first, last) = (dice.pick(&FIRST), dice.pick(&LAST));
            let of = json!({
                "name": format!("{first} {last}"), "email": format!("user{index}@simulated.example"),
                "role": if index == 0 { "admin" } else { "user" }, "status": "active", "confirmed": true,
                "timezone": "UTC", "reports_to": if index == 0 { None } else { ids.first() },
            });
            self.furniture(Kind::User, *id, at, of);
        }
    }

    /// A few visits and text messages, which nobody writes through Core.
    fn talk(&mut self, dice: &mut Dice, at: i64) {
        let contacts: Vec<u64> = self.records(Kind::Contact).iter().take(5).map(|contact| contact.id).collect();
        let user = self.users().first().map(|user| user.id);
        for (n, contact) in (1..).zip(contacts) {
            let of = json!({
                "resource_type": "contact", "resource_id": contact, "outcome_id": 3_501,
                "summary": "A visit on the way.",
            });
            self.furniture(Kind::Visit, 6_000 + n, at, of);
            let of = json!({
                "resource_type": "contact", "resource_id": contact, "user_id": user, "incoming": dice.chance(0.5),
                "content": "On my way, five minutes late.",
            });
            self.furniture(Kind::TextMessage, 6_500 + n, at, of);
        }
    }

    fn furniture(&mut self, kind: Kind, id: u64, at: i64, of: Value) {
        let written = match of {
            Value::Object(written) => written,
            _ => Map::new(),
        };
        self.stand(Record {
            id,
            sequence: 1,
            owner: 0,
            created: at,
            updated: at,
            tags: Vec::new(),
            of: Details::Row(kind),
            written: Some(written.into()),
        });
    }
}

const fn category(stage: Stage) -> &'static str {
    match stage {
        Stage::Incoming => "incoming",
        Stage::Won => "won",
        Stage::Lost => "lost",
        _ => "in_progress",
    }
}

const fn likelihood(stage: Stage) -> u64 {
    match stage {
        Stage::Incoming => 10,
        Stage::Qualified => 30,
        Stage::Quote => 50,
        Stage::Negotiation => 75,
        Stage::Won => 100,
        Stage::Lost => 0,
    }
}
