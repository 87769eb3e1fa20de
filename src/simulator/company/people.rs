//! How records come into being and change.

use std::sync::Arc;

use super::super::dice::Dice;
use super::record::{Activity, Deal, Details, Kind, Lead, LeadStatus, Link, Organization, Person, Record, Stage, User};
use super::words::{CITY, FIRM, FIRST, FORM, INDUSTRY, LAST, LOSS, NOTE, OUTCOME, PRODUCT, SOURCE, TAG, TITLE, TRADE};
use super::{Company, DAY};

const TEAM: u64 = 7;
const CURRENCIES: [&str; 4] = ["EUR", "EUR", "USD", "GBP"];

/// The sales team.
pub(super) fn team(dice: &mut Dice) -> Vec<User> {
    let first_id = dice.between(1_000_000, 2_000_000);
    (0..TEAM).map(|n| User { id: first_id + n }).collect()
}

impl Company {
    fn blank(&mut self, at: i64, of: Details) -> Record {
        self.next_id += self.dice.between(1, 9);
        let tags = match self.dice.below(4) {
            0 => vec![self.dice.pick(&TAG).into()],
            _ => Vec::new(),
        };
        Record {
            id: self.next_id,
            sequence: self.dice.between(2, 40),
            owner: self.dice.index(self.users.len()),
            created: at,
            updated: at,
            tags,
            of,
            written: None,
        }
    }

    fn person(&mut self) -> Person {
        let dice = &mut self.dice;
        let (first, last) = (dice.pick(&FIRST), dice.pick(&LAST));
        let firm = dice.pick(&FIRM);
        Person {
            first: first.into(),
            last: last.into(),
            title: dice.pick(&TITLE).into(),
            email: format!("{}.{}@{}.example", ascii(first), ascii(last), ascii(firm)),
            phone: phone(dice),
            city: dice.index(CITY.len()),
            organization: None,
        }
    }

    pub(super) fn lead(&mut self, at: i64) -> Record {
        let person = self.person();
        let organization_name = firm(&mut self.dice);
        let source = self.dice.pick(&SOURCE).into();
        self.blank(at, Details::Lead(Lead { person, organization_name, status: LeadStatus::New, source }))
    }

    pub(super) fn contact(&mut self, at: i64) -> Record {
        let mut person = self.person();
        if self.dice.chance(0.8)
            && let Some(index) = self.recent(Kind::Organization)
        {
            person.organization = Some(self.organizations[index].link());
        }
        self.blank(at, Details::Contact(person))
    }

    pub(super) fn organization(&mut self, at: i64) -> Record {
        let name = firm(&mut self.dice);
        let dice = &mut self.dice;
        let organization = Organization {
            website: format!("https://www.{}.example/", ascii(&name)),
            name,
            industry: dice.pick(&INDUSTRY).into(),
            employees: dice.between(2, 900),
            phone: phone(dice),
            city: dice.index(CITY.len()),
        };
        self.blank(at, Details::Organization(organization))
    }

    pub(super) fn deal(&mut self, at: i64, contact: Link, organization: Option<Link>) -> Record {
        let dice = &mut self.dice;
        let product = dice.pick(&PRODUCT);
        let name = match &organization {
            Some(organization) => format!("{}: {product}", organization.name),
            None => format!("{product} for {}", contact.name),
        };
        let deal = Deal {
            name: name.into(),
            value: value(dice),
            currency: dice.pick(&CURRENCIES).into(),
            stage: Stage::Incoming,
            hot: dice.below(6) == 0,
            contact,
            organization,
            loss_reason: None,
            close_date: day(at) + days(dice.between(7, 120)),
            stage_changed: at,
            custom: dice.below(4),
        };
        self.blank(at, Details::Deal(deal))
    }

    pub(super) fn activity(&mut self, kind: Kind, at: i64) -> Record {
        let about_kind = match self.dice.below(10) {
            0..=5 => Kind::Deal,
            6..=7 => Kind::Contact,
            _ => Kind::Lead,
        };
        let about = match self.recent(about_kind) {
            Some(index) => self.kept(about_kind)[index].link(),
            None => Link { id: self.next_id, name: "".into() },
        };
        let dice = &mut self.dice;
        let ahead = if kind == Kind::Meeting { days(dice.between(1, 14)) } else { 0 };
        let activity = Activity {
            kind,
            about_kind,
            about,
            text: dice.pick(&NOTE).into(),
            outcome: dice.pick(&OUTCOME).into(),
            duration: dice.between(20, 2_400),
            phone: phone(dice),
            at: at + ahead,
            done: kind != Kind::Meeting,
        };
        self.blank(at, Details::Activity(activity))
    }
}

pub(super) fn move_lead(lead: &mut Lead, dice: &mut Dice) {
    match dice.below(10) {
        0..=3 => lead.status = LeadStatus::Working,
        4..=5 => lead.status = LeadStatus::Qualified,
        6 => lead.status = LeadStatus::Unqualified,
        7 => lead.source = dice.pick(&SOURCE).into(),
        _ => move_person(&mut lead.person, dice),
    }
}

pub(super) fn move_person(person: &mut Person, dice: &mut Dice) {
    match dice.below(3) {
        0 => person.phone = phone(dice),
        1 => person.title = dice.pick(&TITLE).into(),
        _ => person.city = dice.index(CITY.len()),
    }
}

pub(super) fn move_organization(organization: &mut Organization, dice: &mut Dice) {
    match dice.below(3) {
        0 => organization.employees = (organization.employees + dice.between(1, 20)).min(20_000),
        1 => organization.phone = phone(dice),
        _ => organization.industry = dice.pick(&INDUSTRY).into(),
    }
}

pub(super) fn move_deal(deal: &mut Deal, at: i64, dice: &mut Dice) {
    match dice.below(10) {
        0..=4 if !deal.stage.is_closed() => {
            let lost = dice.below(6) == 0;
            deal.stage = if lost { Stage::Lost } else { deal.stage.next() };
            deal.loss_reason = lost.then(|| dice.pick(&LOSS).into());
            deal.stage_changed = at;
        }
        5..=7 => deal.value = value(dice),
        8 => deal.hot = !deal.hot,
        _ => deal.close_date += days(dice.between(1, 30)),
    }
}

pub(super) fn move_activity(activity: &mut Activity, at: i64, dice: &mut Dice) {
    match activity.kind {
        Kind::Call => {
            activity.outcome = dice.pick(&OUTCOME).into();
            activity.duration += dice.between(1, 300);
        }
        Kind::Meeting if !activity.done && dice.chance(0.5) => activity.done = true,
        Kind::Meeting => activity.at = at + days(dice.between(1, 14)),
        _ => activity.text = dice.pick(&NOTE).into(),
    }
}

pub(super) fn move_tags(record: &mut Record, dice: &mut Dice) {
    if dice.below(10) > 0 || matches!(record.of, Details::Activity(_)) {
        return;
    }
    let tag = dice.pick(&TAG);
    match record.tags.iter().position(|known| *known == tag) {
        Some(at) => drop(record.tags.remove(at)),
        None if record.tags.len() < 3 => record.tags.push(tag.into()),
        None => {}
    }
}

fn firm(dice: &mut Dice) -> Arc<str> {
    format!("{} {} {}", dice.pick(&FIRM), dice.pick(&TRADE), dice.pick(&FORM)).into()
}

fn phone(dice: &mut Dice) -> u64 {
    dice.between(4_930_000_000, 4_939_999_999)
}

/// Round sums mostly, as people write them.
fn value(dice: &mut Dice) -> u64 {
    match dice.below(5) {
        0 => dice.between(9_900, 4_000_000),
        1 => dice.between(10, 90) * 1_000_000,
        _ => dice.between(2, 400) * 50_000,
    }
}

fn days(count: u64) -> i64 {
    i64::try_from(count).unwrap_or_default() * DAY
}

fn day(at: i64) -> i64 {
    at - at.rem_euclid(DAY)
}

/// What remains of a name in an address.
fn ascii(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}
