//! Records and events as the vendor's public service spells them.

use super::json::Json;
use super::{Happening, Spelling, amount, event_id};
use crate::simulator::company::{Action, CITY, Details, Kind, OUTCOME, Person, Record, Text, User};
use crate::simulator::options::Dialect;

/// The resource that a record is, and the stream that its events come by; an empty one where they come by none.
pub(in super::super) const fn resource(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Lead => ("lead", "leads"),
        Kind::Contact | Kind::Organization => ("contact", "contacts"),
        Kind::Deal => ("deal", "deals"),
        Kind::Call => ("call", "calls"),
        Kind::Email => ("task", "tasks"),
        Kind::Note => ("note", "notes"),
        Kind::Meeting => ("appointment", "appointments"),
        Kind::User => ("user", "users"),
        Kind::Stage => ("stage", "stages"),
        Kind::Tag => ("tag", "tags"),
        Kind::DealSource | Kind::LeadSource => ("source", "sources"),
        Kind::Visit => ("visit", "visits"),
        Kind::Product => ("product", "products"),
        Kind::Order => ("order", "orders"),
        Kind::LineItem => ("line_item", "line_items"),
        Kind::AssociatedContact => ("associated_contact", "associated_contacts"),
        Kind::Collaboration => ("collaboration", "collaborations"),
        Kind::CustomField => ("custom_field", "custom_fields"),
        Kind::Account => ("account", ""),
        Kind::Pipeline => ("pipeline", ""),
        Kind::LossReason => ("loss_reason", ""),
        Kind::DealUnqualifiedReason => ("deal_unqualified_reason", ""),
        Kind::LeadUnqualifiedReason => ("lead_unqualified_reason", ""),
        Kind::CallOutcome => ("call_outcome", ""),
        Kind::VisitOutcome => ("visit_outcome", ""),
        Kind::TextMessage => ("text_message", ""),
        Kind::LeadConversion => ("lead_conversion", ""),
        Kind::App => ("app", ""),
    }
}

const SPELLING: Spelling = Spelling { dialect: Dialect::Live, fields, value };

/// Writes an attribute as Core does, where that is not the Firehose's way.
pub(super) fn core(name: &str, record: &Record, users: &[User], json: &mut Json<'_>) {
    match (name, &record.of) {
        ("tags", of) if !matches!(of, Details::Row(_)) => super::texts(&record.tags, json),
        ("creator_id" | "last_stage_change_by_id", _) => json.number(users[record.owner].id),
        ("created_at" | "updated_at", _) => value(name, record, users, json),
        ("value", Details::Deal(deal)) => amount(deal.value, json),
        ("added_at", Details::Deal(_)) => json.time(record.created, false),
        ("last_activity_at", Details::Deal(_)) => json.time(record.updated, false),
        ("custom_fields", Details::Deal(deal)) => custom_fields(deal.custom, record.id, json),
        ("custom_fields", Details::Lead(_) | Details::Contact(_) | Details::Organization(_)) => json.raw("{}"),
        ("outcome_id", Details::Activity(activity)) => {
            match OUTCOME.iter().position(|outcome| *outcome == activity.outcome) {
                Some(at) => json.number(outcome_id(at)),
                None => json.raw("null"),
            }
        }
        ("incoming" | "is_important" | "all_day" | "overdue", Details::Activity(_)) => json.boolean(false),
        ("type", Details::Activity(_)) => json.text(&["regular"]),
        _ if fields(record.kind()).split(' ').any(|known| known == name) => value(name, record, users, json),
        _ => json.raw("null"),
    }
}

/// The id of a call's outcome, by its place among the company's words.
pub(in super::super) const fn outcome_id(at: usize) -> u64 {
    3_001 + at as u64
}

/// The id of a lead's source.
pub(in super::super) const fn source_id(name: &str) -> u64 {
    1_000 + name.len() as u64
}

/// The id of the reason why a deal was lost.
pub(in super::super) const fn reason_id(name: &str) -> u64 {
    2_000 + name.len() as u64
}

pub(super) fn element(happening: &Happening, users: &[User], json: &mut Json<'_>) -> usize {
    let change = &happening.change;
    json.raw(r#"{"data":"#);
    let (was, filler) = super::record(happening, users, &SPELLING, json);
    json.raw(r#","meta":{"event_id":"#);
    event_id(happening.id, json);
    let (action, cause) = (change.action.as_str(), change.cause);
    json.format(format_args!(r#","event_type":"{action}","event_cause":"{cause}","event_time":"#));
    json.time(happening.time, true);
    let (sequence, resource) = (change.record.sequence, resource(happening.kind()).0);
    json.format(format_args!(r#","sequence":{sequence},"type":"{resource}""#));
    if change.action == Action::Updated {
        json.raw(r#","previous":{"#);
        json.out.extend_from_slice(&was);
        json.raw("}");
    }
    json.raw("}}");
    filler
}

/// The members of a record, in order, between spaces.
fn fields(kind: Kind) -> &'static str {
    match kind {
        Kind::Lead => {
            "id owner_id first_name last_name organization_name status title email phone address \
             source_id tags created_at"
        }
        Kind::Contact => {
            "id owner_id is_organization contact_id name first_name last_name title email phone \
             address tags created_at updated_at"
        }
        Kind::Organization => {
            "id owner_id is_organization contact_id name industry website phone address tags \
             created_at updated_at"
        }
        Kind::Deal => {
            "id owner_id name value currency hot stage_id last_stage_change_at contact_id \
             organization_id loss_reason_id estimated_close_date tags custom_field_values created_at"
        }
        Kind::Call => {
            "id user_id resource_type resource_id phone_number missed made_at duration summary outcome \
             updated_at"
        }
        Kind::Email => {
            "id owner_id resource_type resource_id content completed completed_at due_date created_at \
             updated_at"
        }
        Kind::Note => "id creator_id resource_type resource_id content created_at updated_at",
        Kind::Meeting => {
            "id owner_id name resource_type resource_id start_at end_at completed created_at \
             updated_at"
        }
        _ => "id",
    }
}

fn value(name: &str, record: &Record, users: &[User], json: &mut Json<'_>) {
    match name {
        "id" => return json.number(record.id),
        "owner_id" | "user_id" | "creator_id" => return json.number(users[record.owner].id),
        "created_at" => return json.time(record.created, false),
        "updated_at" => return json.time(record.updated, false),
        "tags" => return tags(&record.tags, json),
        _ => {}
    }
    match &record.of {
        Details::Lead(lead) => match name {
            "organization_name" => json.text(&[&lead.organization_name]),
            "status" => json.text(&[lead.status.as_str()]),
            "source_id" => json.number(source_id(&lead.source)),
            _ => person(name, &lead.person, json),
        },
        Details::Contact(contact) => match name {
            "is_organization" => json.boolean(false),
            "contact_id" => match &contact.organization {
                Some(organization) => json.number(organization.id),
                None => json.raw("null"),
            },
            _ => person(name, contact, json),
        },
        Details::Organization(organization) => match name {
            "is_organization" => json.boolean(true),
            "contact_id" => json.raw("null"),
            "name" => json.text(&[&organization.name]),
            "industry" => json.text(&[&organization.industry]),
            "website" => json.text(&[&organization.website]),
            "phone" => phone(organization.phone, json),
            _ => address(organization.city, json),
        },
        Details::Deal(_) => deal(name, record, json),
        Details::Activity(_) => activity(name, record, json),
        Details::Row(_) => json.raw("null"),
    }
}

fn deal(name: &str, record: &Record, json: &mut Json<'_>) {
    let Details::Deal(deal) = &record.of else { return };
    match name {
        "name" => json.text(&[&deal.name]),
        "value" => json.format(format_args!("\"{}.{:02}\"", deal.value / 100, deal.value % 100)),
        "currency" => json.text(&[&deal.currency]),
        "hot" => json.boolean(deal.hot),
        "stage_id" => json.number(deal.stage.id()),
        "last_stage_change_at" => json.time(deal.stage_changed, false),
        "contact_id" => json.number(deal.contact.id),
        "organization_id" => match &deal.organization {
            Some(organization) => json.number(organization.id),
            None => json.raw("null"),
        },
        "loss_reason_id" => match &deal.loss_reason {
            Some(reason) => json.number(reason_id(reason)),
            None => json.raw("null"),
        },
        "estimated_close_date" => json.date(deal.close_date),
        _ => custom(deal.custom, record.id, json),
    }
}

fn activity(name: &str, record: &Record, json: &mut Json<'_>) {
    let Details::Activity(activity) = &record.of else { return };
    match name {
        "resource_type" => json.text(&[resource(activity.about_kind).0]),
        "resource_id" => json.number(activity.about.id),
        "phone_number" => phone(activity.phone, json),
        "missed" => json.boolean(activity.outcome == "No answer"),
        "made_at" | "due_date" | "start_at" => json.time(activity.at, false),
        "end_at" => json.time(activity.at + 3_600_000, false),
        "completed_at" => json.time(record.created, false),
        "duration" => json.number(activity.duration),
        "outcome" => json.text(&[&activity.outcome]),
        "completed" => json.boolean(activity.done),
        "name" => json.text(&["Meeting: ", &activity.about.name]),
        _ => json.text(&[&activity.text]),
    }
}

fn person(name: &str, person: &Person, json: &mut Json<'_>) {
    match name {
        "name" => json.text(&[&person.name()]),
        "first_name" => json.text(&[&person.first]),
        "last_name" => json.text(&[&person.last]),
        "title" => json.text(&[&person.title]),
        "email" => json.text(&[&person.email]),
        "phone" => phone(person.phone, json),
        _ => address(person.city, json),
    }
}

fn tags(tags: &[Text], json: &mut Json<'_>) {
    json.raw("[");
    for (at, tag) in tags.iter().enumerate() {
        if at > 0 {
            json.raw(",");
        }
        json.raw(r#"{"data":{"name":"#);
        json.text(&[tag]);
        json.raw(r#","resource_type":"deal"},"meta":{"type":"tag"}}"#);
    }
    json.raw("]");
}

fn phone(number: u64, json: &mut Json<'_>) {
    json.format(format_args!("\"+{number}\""));
}

fn address(city: usize, json: &mut Json<'_>) {
    let (city, country) = CITY[city];
    json.raw(r#"{"line1":null,"city":"#);
    json.text(&[city]);
    json.format(format_args!(r#","country":"{country}"}}"#));
}

/// The same fields as Core gives them: by name.
fn custom_fields(steps: u64, id: u64, json: &mut Json<'_>) {
    json.raw("{");
    if steps > 0 {
        json.format(format_args!(r#""ERP number":18446744073{id:09}"#));
    }
    if steps > 1 {
        json.format(format_args!(r#","Score":{}e-2"#, id % 7));
    }
    json.raw("}");
}

fn custom(steps: u64, id: u64, json: &mut Json<'_>) {
    json.raw("[");
    if steps > 0 {
        json.format(format_args!(
            r#"{{"value":18446744073{id:09},"custom_field":{{"data":{{"id":71001,"name":"ERP number","type":"number"}},"meta":{{"type":"custom_field"}}}}}}"#
        ));
    }
    if steps > 1 {
        json.format(format_args!(
            r#",{{"value":{}e-2,"custom_field":{{"data":{{"id":71002,"name":"Score","type":"number"}},"meta":{{"type":"custom_field"}}}}}}"#,
            id % 7
        ));
    }
    json.raw("]");
}
