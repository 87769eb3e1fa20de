//! A sales company and what happens in it: leads come in and are qualified, deals move through the pipeline, people
//! call, write and meet, some things are deleted. Its story depends on the seed alone.

mod furniture;
mod people;
mod record;
mod shelf;
mod words;
mod written;

use std::collections::VecDeque;

use super::dice::{COMPANY, Dice};
use record::LeadStatus;
pub(super) use record::{Action, Details, Kind, Lead, Link, Person, Record, Stage, Text, User};
use shelf::Shelf;
pub(super) use words::{CITY, OUTCOME};
pub(super) use written::{day, hundredths, instant};

/// More records of a kind than this are not kept in mind: the others stay as they are for ever. Bounds the memory of
/// a company that lives for weeks.
const IN_MIND: usize = 5_000;
const DAY: i64 = 86_400_000;

/// One thing that happened.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub action: Action,
    pub cause: &'static str,
    /// The record after it; before it where it is deleted.
    pub record: Record,
    /// The record before an update.
    pub before: Option<Record>,
}

/// The company.
#[derive(Debug)]
pub(super) struct Company {
    dice: Dice,
    users: Vec<User>,
    next_id: u64,
    organizations: Vec<Record>,
    contacts: Vec<Record>,
    leads: Vec<Record>,
    deals: Vec<Record>,
    activities: Vec<Record>,
    /// What follows from what happened.
    next: VecDeque<Next>,
    /// What came through Core, and what stands there from the beginning. The story leaves it alone.
    shelf: Shelf,
}

/// What follows from a lead that was qualified.
#[derive(Clone, Debug)]
enum Next {
    Contact(Box<Lead>),
    Deal(Link),
}

impl Company {
    /// A company that is some weeks old at `at`, in milliseconds since 1970.
    pub fn found(seed: u64, at: i64) -> Self {
        let mut dice = Dice::new(seed, COMPANY);
        let users = people::team(&mut dice);
        let next_id = 100_000_000 + dice.below(800_000_000);
        let mut company = Self {
            dice,
            users,
            next_id,
            organizations: Vec::new(),
            contacts: Vec::new(),
            leads: Vec::new(),
            deals: Vec::new(),
            activities: Vec::new(),
            next: VecDeque::new(),
            shelf: Shelf::new(seed),
        };
        for (kind, count) in [(Kind::Organization, 14), (Kind::Contact, 36), (Kind::Lead, 30), (Kind::Deal, 40)] {
            for _ in 0..count {
                let age = i64::try_from(company.dice.below(60 * DAY.unsigned_abs())).unwrap_or_default() + DAY;
                company.create(kind, at - age);
            }
        }
        company.furnish(seed, at - 90 * DAY);
        company
    }

    pub fn users(&self) -> &[User] {
        &self.users
    }

    /// An id that no event has: 128 bits, written as a UUID.
    pub fn event_id(&mut self) -> u128 {
        u128::from(self.dice.number()) << 64 | u128::from(self.dice.number())
    }

    /// `0..n`, from the company's dice.
    pub fn below(&mut self, n: u64) -> u64 {
        self.dice.below(n)
    }

    /// The next thing that happens.
    pub fn step(&mut self, at: i64) -> Change {
        match self.next.pop_front() {
            Some(Next::Contact(lead)) => return self.convert(&lead, at),
            Some(Next::Deal(contact)) => {
                let record = self.deal(at, contact, None);
                return self.created(record, "conversion");
            }
            None => {}
        }
        match self.dice.below(1_000) {
            0..=69 => self.came(Kind::Lead, at),
            70..=109 => self.came(Kind::Contact, at),
            110..=129 => self.came(Kind::Organization, at),
            130..=199 => self.came(Kind::Deal, at),
            200..=269 => self.came(Kind::Call, at),
            270..=319 => self.came(Kind::Note, at),
            320..=349 => self.came(Kind::Email, at),
            350..=369 => self.came(Kind::Meeting, at),
            370..=469 => self.changed(Kind::Lead, at),
            470..=559 => self.changed(Kind::Contact, at),
            560..=589 => self.changed(Kind::Organization, at),
            590..=889 => self.changed(Kind::Deal, at),
            890..=939 => self.changed(Kind::Note, at),
            940..=954 => self.left(Kind::Lead, at),
            955..=966 => self.left(Kind::Contact, at),
            967..=971 => self.left(Kind::Organization, at),
            972..=989 => self.left(Kind::Deal, at),
            _ => self.left(Kind::Note, at),
        }
    }

    fn kept(&mut self, kind: Kind) -> &mut Vec<Record> {
        match kind {
            Kind::Lead => &mut self.leads,
            Kind::Contact => &mut self.contacts,
            Kind::Organization => &mut self.organizations,
            Kind::Deal => &mut self.deals,
            // What has no story is on the shelf.
            _ => &mut self.activities,
        }
    }

    fn came(&mut self, kind: Kind, at: i64) -> Change {
        let record = self.create(kind, at);
        let cause = match (kind, self.dice.below(10)) {
            (Kind::Lead, 0..=3) => "import",
            (_, 0) => "automation",
            _ => "interaction",
        };
        Change { action: Action::Created, cause, record, before: None }
    }

    fn created(&mut self, record: Record, cause: &'static str) -> Change {
        self.keep(record.clone());
        Change { action: Action::Created, cause, record, before: None }
    }

    fn create(&mut self, kind: Kind, at: i64) -> Record {
        let record = match kind {
            Kind::Lead => self.lead(at),
            Kind::Contact => self.contact(at),
            Kind::Organization => self.organization(at),
            Kind::Deal => match self.recent(Kind::Contact) {
                Some(index) => {
                    let contact = &self.contacts[index];
                    let organization = match &contact.of {
                        Details::Contact(person) => person.organization.clone(),
                        _ => None,
                    };
                    let contact = contact.link();
                    self.deal(at, contact, organization)
                }
                None => self.contact(at),
            },
            _ => self.activity(kind, at),
        };
        self.keep(record.clone());
        record
    }

    fn keep(&mut self, record: Record) {
        let kind = record.kind();
        if self.kept(kind).len() >= IN_MIND {
            let forgotten = self.dice.index(IN_MIND / 2);
            self.kept(kind).swap_remove(forgotten);
        }
        self.kept(kind).push(record);
    }

    /// A record that something may happen to: mostly one of the newest.
    fn recent(&mut self, kind: Kind) -> Option<usize> {
        let length = self.kept(kind).len();
        if length == 0 {
            return None;
        }
        let within = if self.dice.chance(0.7) { length.min(40) } else { length };
        Some(length - 1 - self.dice.index(within))
    }

    fn changed(&mut self, kind: Kind, at: i64) -> Change {
        let Some(index) = self.recent(kind) else { return self.came(kind, at) };
        let before = self.kept(kind)[index].clone();
        let mut record = before.clone();
        self.advance(&mut record, at);
        let team = self.users.len();
        match &mut record.of {
            Details::Lead(lead) => {
                people::move_lead(lead, &mut self.dice);
                if lead.status == LeadStatus::Qualified
                    && !matches!(&before.of, Details::Lead(was) if was.status == LeadStatus::Qualified)
                {
                    self.next.push_back(Next::Contact(Box::new(lead.clone())));
                }
            }
            Details::Contact(person) => people::move_person(person, &mut self.dice),
            Details::Organization(organization) => people::move_organization(organization, &mut self.dice),
            Details::Deal(deal) => people::move_deal(deal, at, &mut self.dice),
            Details::Activity(activity) => people::move_activity(activity, at, &mut self.dice),
            Details::Row(_) => {}
        }
        if self.dice.below(12) == 0 {
            record.owner = self.dice.index(team);
        }
        people::move_tags(&mut record, &mut self.dice);
        record.settle(&before, &self.users);
        let cause = if self.dice.below(8) == 0 { "automation" } else { "interaction" };
        self.kept(kind)[index] = record.clone();
        Change { action: Action::Updated, cause, record, before: Some(before) }
    }

    fn left(&mut self, kind: Kind, at: i64) -> Change {
        let fewest = if kind == Kind::Note { 1 } else { 8 };
        if self.kept(kind).len() < fewest {
            return self.came(kind, at);
        }
        let Some(index) = self.recent(kind) else { return self.came(kind, at) };
        let mut record = self.kept(kind).remove(index);
        self.advance(&mut record, at);
        Change { action: Action::Deleted, cause: "interaction", record, before: None }
    }

    /// A qualified lead becomes a contact, and then a deal.
    fn convert(&mut self, lead: &Lead, at: i64) -> Change {
        let mut record = self.contact(at);
        if let Details::Contact(person) = &mut record.of {
            let organization = person.organization.take();
            *person = Person { organization, ..lead.person.clone() };
        }
        self.next.push_back(Next::Deal(record.link()));
        self.created(record, "conversion")
    }

    fn advance(&mut self, record: &mut Record, at: i64) {
        record.sequence += self.dice.between(1, 3);
        record.updated = at;
    }
}
