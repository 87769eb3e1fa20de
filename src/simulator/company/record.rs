//! What the company's CRM holds.

use std::sync::Arc;

/// What a record is. The reference dialect has organizations and activities; in the live one an organization is a
/// contact, and calls, notes, appointments and tasks are resources of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Lead,
    Contact,
    Organization,
    Deal,
    Call,
    /// In the live dialect a task, done.
    Email,
    Note,
    /// In the live dialect an appointment.
    Meeting,
}

impl Kind {
    pub const ALL: [Self; 8] =
        [Self::Lead, Self::Contact, Self::Organization, Self::Deal, Self::Call, Self::Email, Self::Note, Self::Meeting];
}

/// What happened to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    Created,
    Updated,
    Deleted,
}

impl Action {
    pub const ALL: [Self; 3] = [Self::Created, Self::Updated, Self::Deleted];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }
}

/// A member of the sales team.
#[derive(Clone, Debug)]
pub struct User {
    pub id: u64,
}

/// A reference to another record, with its name as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub id: u64,
    pub name: Arc<str>,
}

/// A record of the CRM. Times are in milliseconds since 1970.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: u64,
    /// Rises with every change, with gaps.
    pub sequence: u64,
    pub owner: usize,
    pub created: i64,
    pub updated: i64,
    pub tags: Vec<&'static str>,
    pub of: Details,
}

#[derive(Clone, Debug)]
pub enum Details {
    Lead(Lead),
    Contact(Person),
    Organization(Organization),
    Deal(Deal),
    Activity(Activity),
}

#[derive(Clone, Debug)]
pub struct Person {
    pub first: &'static str,
    pub last: &'static str,
    pub title: &'static str,
    pub email: String,
    pub phone: u64,
    pub city: usize,
    pub organization: Option<Link>,
}

#[derive(Clone, Debug)]
pub struct Lead {
    pub person: Person,
    pub organization_name: Arc<str>,
    pub status: LeadStatus,
    pub source: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeadStatus {
    New,
    Working,
    Qualified,
    Unqualified,
}

impl LeadStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "New",
            Self::Working => "Working",
            Self::Qualified => "Qualified",
            Self::Unqualified => "Unqualified",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Organization {
    pub name: Arc<str>,
    pub industry: &'static str,
    pub website: String,
    pub employees: u64,
    pub phone: u64,
    pub city: usize,
}

#[derive(Clone, Debug)]
pub struct Deal {
    pub name: Arc<str>,
    /// In hundredths of the currency.
    pub value: u64,
    pub currency: &'static str,
    pub stage: Stage,
    pub hot: bool,
    pub contact: Link,
    pub organization: Option<Link>,
    pub loss_reason: Option<&'static str>,
    /// A day, as milliseconds since 1970.
    pub close_date: i64,
    pub stage_changed: i64,
    /// The custom fields, in steps of how much they hold; 0 = there are none.
    pub custom: u64,
}

/// The pipeline, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    Incoming,
    Qualified,
    Quote,
    Negotiation,
    Won,
    Lost,
}

impl Stage {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Incoming => "Incoming",
            Self::Qualified => "Qualified",
            Self::Quote => "Quote",
            Self::Negotiation => "Negotiation",
            Self::Won => "Won",
            Self::Lost => "Lost",
        }
    }

    pub const fn id(self) -> u64 {
        8_271_001 + self as u64
    }

    pub const fn status(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            _ => "active",
        }
    }

    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Won | Self::Lost)
    }

    pub const fn next(self) -> Self {
        match self {
            Self::Incoming => Self::Qualified,
            Self::Qualified => Self::Quote,
            Self::Quote => Self::Negotiation,
            _ => Self::Won,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Activity {
    pub kind: Kind,
    pub about_kind: Kind,
    pub about: Link,
    pub text: &'static str,
    pub outcome: &'static str,
    /// In seconds.
    pub duration: u64,
    pub phone: u64,
    pub at: i64,
    pub done: bool,
}

impl Record {
    pub const fn kind(&self) -> Kind {
        match &self.of {
            Details::Lead(_) => Kind::Lead,
            Details::Contact(_) => Kind::Contact,
            Details::Organization(_) => Kind::Organization,
            Details::Deal(_) => Kind::Deal,
            Details::Activity(activity) => activity.kind,
        }
    }

    pub fn name(&self) -> Arc<str> {
        match &self.of {
            Details::Lead(lead) => lead.person.name().into(),
            Details::Contact(person) => person.name().into(),
            Details::Organization(organization) => organization.name.clone(),
            Details::Deal(deal) => deal.name.clone(),
            Details::Activity(activity) => activity.text.into(),
        }
    }

    pub fn link(&self) -> Link {
        Link { id: self.id, name: self.name() }
    }
}

impl Person {
    pub fn name(&self) -> String {
        format!("{} {}", self.first, self.last)
    }
}
