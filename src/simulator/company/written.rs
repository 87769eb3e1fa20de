//! What is written through Core finds its place in a record: where the story knows the attribute, there; else beside.

use std::sync::Arc;

use serde_json::{Map, Value};
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};

use super::super::encode::attribute;
use super::super::options::Dialect;
use super::record::{Activity, Deal, LeadStatus, Organization};
use super::{Details, Kind, Lead, Link, Person, Record, Stage, Text, User};

impl Record {
    /// A record of which nothing is known.
    pub fn blank(kind: Kind, (id, sequence): (u64, u64), at: i64) -> Self {
        let nobody = Link { id: 0, name: "".into() };
        let of = match kind {
            Kind::Lead => Details::Lead(Lead {
                person: Person::default(),
                organization_name: "".into(),
                status: LeadStatus::New,
                source: Text::default(),
            }),
            Kind::Contact => Details::Contact(Person::default()),
            Kind::Organization => Details::Organization(Organization {
                name: "".into(),
                industry: Text::default(),
                website: String::new(),
                employees: 0,
                phone: 0,
                city: 0,
            }),
            Kind::Deal => Details::Deal(Deal {
                name: "".into(),
                value: 0,
                currency: "EUR".into(),
                stage: Stage::Incoming,
                hot: false,
                contact: nobody,
                organization: None,
                loss_reason: None,
                close_date: at,
                stage_changed: at,
                custom: 0,
            }),
            Kind::Call | Kind::Email | Kind::Note | Kind::Meeting => Details::Activity(Activity {
                kind,
                about_kind: Kind::Contact,
                about: nobody,
                text: Text::default(),
                outcome: Text::default(),
                duration: 0,
                phone: 0,
                at,
                done: false,
            }),
            kind => Details::Row(kind),
        };
        let tags = Vec::new();
        Self { id, sequence, owner: 0, created: at, updated: at, tags, of, written: Some(Arc::new(Map::new())) }
    }

    /// Sets an attribute, whose value was validated.
    pub fn assign(&mut self, name: &str, value: Value, users: &[User]) {
        let known = !value.is_null() && self.known(name, &value, users).is_some();
        if known {
            self.unwrite(name);
        } else {
            self.write(name, value);
        }
    }

    /// Keeps an attribute beside what the story knows.
    pub fn write(&mut self, name: &str, value: Value) {
        Arc::make_mut(self.written.get_or_insert_default()).insert(name.to_owned(), value);
    }

    /// Whether a custom field is one of such records.
    pub fn is_for(&self, kind: Kind) -> bool {
        let of = self.wrote("of").and_then(Value::as_str).unwrap_or_default();
        match kind {
            Kind::Lead => of == "lead",
            Kind::Deal => of == "deal",
            Kind::Contact | Kind::Organization => matches!(of, "contact" | "organization" | "prospect_and_customer"),
            _ => false,
        }
    }

    pub fn unwrite(&mut self, name: &str) {
        if self.wrote(name).is_some()
            && let Some(written) = &mut self.written
        {
            Arc::make_mut(written).remove(name);
        }
    }

    /// Takes an attribute into what the story knows; none where it knows nothing of it.
    fn known(&mut self, name: &str, value: &Value, users: &[User]) -> Option<()> {
        match name {
            "owner_id" | "user_id" => {
                self.owner = users.iter().position(|user| Some(user.id) == value.as_u64())?;
                return Some(());
            }
            "tags" => {
                let tags = value.as_array()?.iter().filter_map(Value::as_str);
                self.tags = tags.map(|tag| Text::from(tag.to_owned())).collect();
                return Some(());
            }
            _ => {}
        }
        match &mut self.of {
            Details::Lead(lead) => lead.take(name, value),
            Details::Contact(person) => person.take(name, value),
            Details::Organization(organization) => organization.take(name, value),
            Details::Deal(deal) => deal.take(name, value),
            Details::Activity(activity) => activity.take(name, value),
            Details::Row(_) => None,
        }
    }

    /// Forgets what was written of attributes that the story has changed since `before`.
    pub(super) fn settle(&mut self, before: &Self, users: &[User]) {
        let Some(written) = self.written.clone() else { return };
        let bare = |record: &Self| Self { written: None, ..record.clone() };
        let (was, is) = (bare(before), bare(self));
        for name in written.keys() {
            let moved = [Dialect::Live, Dialect::Reference]
                .iter()
                .any(|dialect| attribute(*dialect, name, &was, users) != attribute(*dialect, name, &is, users));
            if moved {
                self.unwrite(name);
            }
        }
    }
}

impl Lead {
    fn take(&mut self, name: &str, value: &Value) -> Option<()> {
        match name {
            "organization_name" => self.organization_name = value.as_str()?.into(),
            "source" => self.source = text(value)?,
            "status" => {
                let statuses = [LeadStatus::New, LeadStatus::Working, LeadStatus::Qualified, LeadStatus::Unqualified];
                self.status = statuses.into_iter().find(|status| Some(status.as_str()) == value.as_str())?;
            }
            _ => return self.person.take(name, value),
        }
        Some(())
    }
}

impl Person {
    fn take(&mut self, name: &str, value: &Value) -> Option<()> {
        match name {
            "first_name" => self.first = text(value)?,
            "last_name" => self.last = text(value)?,
            "title" => self.title = text(value)?,
            "email" => value.as_str()?.clone_into(&mut self.email),
            _ => return None,
        }
        Some(())
    }
}

impl Organization {
    fn take(&mut self, name: &str, value: &Value) -> Option<()> {
        match name {
            "name" => self.name = value.as_str()?.into(),
            "industry" => self.industry = text(value)?,
            "website" => value.as_str()?.clone_into(&mut self.website),
            "employees" => self.employees = value.as_u64()?,
            _ => return None,
        }
        Some(())
    }
}

impl Deal {
    fn take(&mut self, name: &str, value: &Value) -> Option<()> {
        match name {
            "name" => self.name = value.as_str()?.into(),
            "value" => self.value = hundredths(value)?,
            "currency" => self.currency = text(value)?,
            "hot" => self.hot = value.as_bool()?,
            "stage_id" => self.stage = Stage::ALL.into_iter().find(|stage| Some(stage.id()) == value.as_u64())?,
            "loss_reason" => self.loss_reason = Some(text(value)?),
            "estimated_close_date" => self.close_date = day(value.as_str()?)?,
            "last_stage_change_at" => self.stage_changed = instant(value.as_str()?)?,
            _ => return None,
        }
        Some(())
    }
}

impl Activity {
    fn take(&mut self, name: &str, value: &Value) -> Option<()> {
        match name {
            "content" | "summary" => self.text = text(value)?,
            "duration" => self.duration = value.as_u64()?,
            "made_at" | "due_date" | "start_at" | "occurs_at" => self.at = instant(value.as_str()?)?,
            "completed" => self.done = value.as_bool()?,
            _ => return None,
        }
        Some(())
    }
}

fn text(value: &Value) -> Option<Text> {
    value.as_str().map(|text| Text::from(text.to_owned()))
}

/// An amount of money in hundredths, from a number or a text.
pub(in super::super) fn hundredths(value: &Value) -> Option<u64> {
    let spelled = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let (whole, rest) = spelled.split_once('.').unwrap_or((&spelled, ""));
    if whole.is_empty() || rest.len() > 2 || !(whole.to_owned() + rest).bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let rest: u64 = format!("{rest:0<2}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(rest)
}

/// A day, `2026-11-24`, in milliseconds since 1970.
pub(in super::super) fn day(text: &str) -> Option<i64> {
    let format = time::macros::format_description!("[year]-[month]-[day]");
    let day = Date::parse(text, format).ok()?;
    Some(day.midnight().assume_utc().unix_timestamp() * 1_000)
}

/// A time of RFC 3339 in milliseconds since 1970.
pub(in super::super) fn instant(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}
