//! What the company's CRM holds.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

/// A text of the company's own words, or of someone who wrote it through Core.
pub type Text = Cow<'static, str>;

/// What a record is. The reference dialect has organizations and activities; in the live one an organization is a
/// contact, and calls, notes, appointments and tasks are resources of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    // What follows has no story: it stands there from the beginning, or comes and changes through Core alone.
    Account,
    User,
    Pipeline,
    Stage,
    Tag,
    DealSource,
    LeadSource,
    LossReason,
    DealUnqualifiedReason,
    LeadUnqualifiedReason,
    CallOutcome,
    VisitOutcome,
    Visit,
    TextMessage,
    Product,
    Order,
    LineItem,
    AssociatedContact,
    Collaboration,
    LeadConversion,
    CustomField,
    App,
}

impl Kind {
    pub const ALL: [Self; 30] = [
        Self::Lead,
        Self::Contact,
        Self::Organization,
        Self::Deal,
        Self::Call,
        Self::Email,
        Self::Note,
        Self::Meeting,
        Self::Account,
        Self::User,
        Self::Pipeline,
        Self::Stage,
        Self::Tag,
        Self::DealSource,
        Self::LeadSource,
        Self::LossReason,
        Self::DealUnqualifiedReason,
        Self::LeadUnqualifiedReason,
        Self::CallOutcome,
        Self::VisitOutcome,
        Self::Visit,
        Self::TextMessage,
        Self::Product,
        Self::Order,
        Self::LineItem,
        Self::AssociatedContact,
        Self::Collaboration,
        Self::LeadConversion,
        Self::CustomField,
        Self::App,
    ];
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
    pub tags: Vec<Text>,
    pub of: Details,
    /// What was written through Core and has no place in `of`, by attribute; goes before what `of` says.
    pub written: Option<Arc<Map<String, Value>>>,
}

#[derive(Clone, Debug)]
pub enum Details {
    Lead(Lead),
    Contact(Person),
    Organization(Organization),
    Deal(Deal),
    Activity(Activity),
    /// A kind without a story: everything about it is written.
    Row(Kind),
}

#[derive(Clone, Debug, Default)]
pub struct Person {
    pub first: Text,
    pub last: Text,
    pub title: Text,
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
    pub source: Text,
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
    pub industry: Text,
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
    pub currency: Text,
    pub stage: Stage,
    pub hot: bool,
    pub contact: Link,
    pub organization: Option<Link>,
    pub loss_reason: Option<Text>,
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

    pub const ALL: [Self; 6] = [Self::Incoming, Self::Qualified, Self::Quote, Self::Negotiation, Self::Won, Self::Lost];

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
    pub text: Text,
    pub outcome: Text,
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
            Details::Row(kind) => *kind,
        }
    }

    pub fn name(&self) -> Arc<str> {
        match &self.of {
            Details::Lead(lead) => lead.person.name().into(),
            Details::Contact(person) => person.name().into(),
            Details::Organization(organization) => organization.name.clone(),
            Details::Deal(deal) => deal.name.clone(),
            Details::Activity(activity) => activity.text.as_ref().into(),
            Details::Row(_) => self.wrote("name").and_then(Value::as_str).unwrap_or_default().into(),
        }
    }

    /// What was written of an attribute.
    pub fn wrote(&self, name: &str) -> Option<&Value> {
        self.written.as_ref()?.get(name)
    }

    pub fn link(&self) -> Link {
        Link { id: self.id, name: self.name() }
    }
}

impl Person {
    pub fn name(&self) -> String {
        // Either may be missing where it was written through Core.
        format!("{} {}", self.first, self.last).trim().to_owned()
    }
}
