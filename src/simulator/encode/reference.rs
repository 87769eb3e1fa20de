//! Records and events as the project's user describes them.

use super::json::Json;
use super::{Happening, Spelling, amount, event_id, texts};
use crate::simulator::company::{Action, CITY, Details, Kind, Link, Record, User};
use crate::simulator::options::Dialect;

/// The resource that a record is, and the stream that its events come by; empty where they come by none.
pub(in super::super) const fn resource(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Lead => ("lead", "leads"),
        Kind::Contact => ("contact", "contacts"),
        Kind::Organization => ("organization", "organizations"),
        Kind::Deal => ("deal", "deals"),
        Kind::Call | Kind::Email | Kind::Note | Kind::Meeting => ("activity", "activities"),
        _ => ("", ""),
    }
}

const SPELLING: Spelling = Spelling { dialect: Dialect::Reference, fields, value };

/// Writes an attribute as Core does.
pub(super) fn core(name: &str, record: &Record, users: &[User], json: &mut Json<'_>) {
    let known = matches!(name, "created_at" | "updated_at");
    if known || fields(record.kind()).split(' ').any(|known| known == name) {
        value(name, record, users, json);
    } else {
        json.raw("null");
    }
}

pub(super) fn element(happening: &Happening, users: &[User], json: &mut Json<'_>) -> usize {
    let change = &happening.change;
    let (resource, stream) = resource(happening.kind());
    json.raw(r#"{"id":"#);
    event_id(happening.id, json);
    json.format(format_args!(r#","type":"{resource}.{}","timestamp":"#, change.action.as_str()));
    json.time(happening.time, true);
    json.format(format_args!(r#","data":{{"{resource}":"#));
    let (was, filler) = super::record(happening, users, &SPELLING, json);
    json.raw("}");
    if change.action == Action::Updated {
        json.raw(r#","previous":{"#);
        json.out.extend_from_slice(&was);
        json.raw("}");
    }
    let (sequence, cause) = (change.record.sequence, change.cause);
    json.format(format_args!(r#","meta":{{"stream":"{stream}","sequence":{sequence},"cause":"{cause}"}}}}"#));
    filler
}

/// The members of a record, in order, between spaces.
fn fields(kind: Kind) -> &'static str {
    match kind {
        Kind::Lead => {
            "id first_name last_name organization_name title status source email phone city owner_id \
             tags created_at updated_at"
        }
        Kind::Contact => {
            "id first_name last_name title email phone address organization_id owner_id tags \
             created_at updated_at"
        }
        Kind::Organization => "id name industry website employees phone address owner_id tags created_at updated_at",
        Kind::Deal => {
            "id name value currency status stage_id stage hot contact_id organization_id owner_id \
             estimated_close_date loss_reason tags custom_fields created_at updated_at"
        }
        Kind::Call | Kind::Email | Kind::Note | Kind::Meeting => {
            "id type content resource_type resource_id owner_id occurs_at duration completed \
             created_at updated_at"
        }
        _ => "id",
    }
}

fn value(name: &str, record: &Record, users: &[User], json: &mut Json<'_>) {
    match name {
        "id" => return json.number(record.id),
        "owner_id" => return json.number(users[record.owner].id),
        "created_at" => return json.time(record.created, false),
        "updated_at" => return json.time(record.updated, false),
        "tags" => return texts(&record.tags, json),
        _ => {}
    }
    match &record.of {
        Details::Lead(lead) => match name {
            "organization_name" => json.text(&[&lead.organization_name]),
            "status" => json.text(&[lead.status.as_str()]),
            "source" => json.text(&[&lead.source]),
            "city" => json.text(&[CITY[lead.person.city].0]),
            _ => person(name, &lead.person, json),
        },
        Details::Contact(contact) => match name {
            "organization_id" => link(contact.organization.as_ref(), json),
            _ => person(name, contact, json),
        },
        Details::Organization(organization) => match name {
            "name" => json.text(&[&organization.name]),
            "industry" => json.text(&[&organization.industry]),
            "website" => json.text(&[&organization.website]),
            "employees" => json.number(organization.employees),
            "phone" => phone(organization.phone, json),
            _ => address(organization.city, json),
        },
        Details::Deal(deal) => match name {
            "name" => json.text(&[&deal.name]),
            "value" => amount(deal.value, json),
            "currency" => json.text(&[&deal.currency]),
            "status" => json.text(&[deal.stage.status()]),
            "stage_id" => json.number(deal.stage.id()),
            "stage" => json.text(&[deal.stage.name()]),
            "hot" => json.boolean(deal.hot),
            "contact_id" => json.number(deal.contact.id),
            "organization_id" => link(deal.organization.as_ref(), json),
            "estimated_close_date" => json.date(deal.close_date),
            "loss_reason" => match &deal.loss_reason {
                Some(reason) => json.text(&[reason]),
                None => json.raw("null"),
            },
            _ => custom(deal.custom, record.id, json),
        },
        Details::Activity(activity) => match name {
            "type" => json.text(&[match activity.kind {
                Kind::Call => "Call",
                Kind::Email => "Email",
                Kind::Note => "Note",
                _ => "Meeting",
            }]),
            "content" => json.text(&[&activity.text]),
            "resource_type" => json.text(&[resource(activity.about_kind).0]),
            "resource_id" => json.number(activity.about.id),
            "occurs_at" => json.time(activity.at, false),
            "duration" => json.number(if activity.kind == Kind::Call { activity.duration } else { 0 }),
            _ => json.boolean(activity.done),
        },
        Details::Row(_) => json.raw("null"),
    }
}

fn person(name: &str, person: &crate::simulator::company::Person, json: &mut Json<'_>) {
    match name {
        "first_name" => json.text(&[&person.first]),
        "last_name" => json.text(&[&person.last]),
        "title" => json.text(&[&person.title]),
        "email" => json.text(&[&person.email]),
        "phone" => phone(person.phone, json),
        _ => address(person.city, json),
    }
}

fn link(link: Option<&Link>, json: &mut Json<'_>) {
    match link {
        Some(link) => json.number(link.id),
        None => json.raw("null"),
    }
}

fn phone(number: u64, json: &mut Json<'_>) {
    json.format(format_args!("\"+{number}\""));
}

fn address(city: usize, json: &mut Json<'_>) {
    let (city, country) = CITY[city];
    json.raw(r#"{"city":"#);
    json.text(&[city]);
    json.format(format_args!(r#","country":"{country}"}}"#));
}

/// Numbers as people's integrations spell them: a reader that makes doubles of them and writes them anew changes them.
fn custom(steps: u64, id: u64, json: &mut Json<'_>) {
    json.raw("{");
    if steps > 0 {
        json.format(format_args!(r#""Region":"EMEA","ERP number":18446744073{id:09}"#));
    }
    if steps > 1 {
        json.format(format_args!(r#","Margin":0.{:02}0,"Score":{}e-2"#, id % 100, id % 7));
    }
    json.raw("}");
}
