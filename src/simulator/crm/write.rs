//! Creating, changing and deleting records through Core, and what follows from it.

use serde_json::{Map, Value, json};

use super::super::catalog::{self, Resource};
use super::super::company::{Details, Kind, Lead, Person, Record};
use super::super::encode;
use super::super::options::Dialect;
use super::super::world::World;
use super::list::{Condition, meets};
use super::refusal::{Problem, Refusal};
use super::target::Target;
use super::validate::validate;

type Given = Map<String, Value>;

/// Creates a record. `now` is in milliseconds since 1970.
pub(super) fn create(
    world: &mut World,
    dialect: Dialect,
    target: &Target,
    given: Given,
    now: i64,
) -> Result<Record, Refusal> {
    room(world)?;
    let resource = target.resource;
    let kind = kind(resource, &given);
    validate(resource, kind, &given, None, world)?;
    unique(world, dialect, target, kind, &given, None)?;
    if kind == Kind::LeadConversion {
        return convert(world, &given, now);
    }
    let mut record = blank(world, kind, &given, now);
    for (name, value) in &target.scope {
        record.write(name, value.clone());
    }
    apply(world, dialect, &mut record, given, now);
    let change = world.company.created_by(record);
    Ok(world.happened(change, now))
}

/// Changes the attributes that are given.
pub(super) fn update(
    world: &mut World,
    dialect: Dialect,
    target: &Target,
    id: u64,
    given: Given,
    now: i64,
) -> Result<Record, Refusal> {
    room(world)?;
    let present = target.record(world, dialect, id).ok_or_else(Refusal::not_found)?.clone();
    let kind = present.kind();
    validate(target.resource, kind, &given, Some((&present, dialect)), world)?;
    unique(world, dialect, target, kind, &given, Some(id))?;
    let mut record = present;
    apply(world, dialect, &mut record, given, now);
    let change = world.company.changed_by(record, now).ok_or_else(Refusal::not_found)?;
    Ok(world.happened(change, now))
}

/// Changes the one record that meets the conditions, or creates one where none does.
pub(super) fn upsert(
    world: &mut World,
    dialect: Dialect,
    target: &Target,
    conditions: &[Condition],
    given: Given,
    now: i64,
) -> Result<Record, Refusal> {
    let records = target.resource.kinds.iter().flat_map(|kind| world.company.records(*kind));
    let found: Vec<u64> =
        records.filter(|record| meets(dialect, conditions, record, world)).map(|record| record.id).take(2).collect();
    match found.as_slice() {
        [] => create(world, dialect, target, given, now),
        [id] => update(world, dialect, target, *id, given, now),
        _ => {
            let details = "More than one record is what the query asks for.".to_owned();
            let problem = Problem { field: None, code: "incorrect_payload", details };
            Err(Refusal::record(target.resource.name, vec![problem]))
        }
    }
}

pub(super) fn delete(world: &mut World, kind: Kind, id: u64, now: i64) -> Result<(), Refusal> {
    let change = world.company.deleted_by(kind, id, now).ok_or_else(Refusal::not_found)?;
    world.happened(change, now);
    if kind == Kind::Order {
        let items = world.company.records(Kind::LineItem).into_iter();
        let of_it = items.filter(|item| item.wrote("order_id").and_then(Value::as_u64) == Some(id));
        for item in of_it.map(|item| item.id).collect::<Vec<_>>() {
            delete(world, Kind::LineItem, item, now)?;
        }
    }
    Ok(())
}

fn room(world: &World) -> Result<(), Refusal> {
    if world.company.has_room() { Ok(()) } else { Err(Refusal::full()) }
}

/// What a record will be, where a resource is of several kinds.
fn kind(resource: &Resource, given: &Given) -> Kind {
    let first = resource.kinds[0];
    let text = |name: &str| given.get(name).and_then(Value::as_str);
    match resource.name {
        "contact" if given.get("is_organization") == Some(&Value::Bool(true)) => Kind::Organization,
        "activity" => match text("type") {
            Some("Email") => Kind::Email,
            Some("Note") => Kind::Note,
            Some("Meeting") => Kind::Meeting,
            _ => first,
        },
        _ => first,
    }
}

/// A record of which only what has a value of its own is known.
fn blank(world: &mut World, kind: Kind, given: &Given, now: i64) -> Record {
    let mut record = Record::blank(kind, world.company.number_of_written(), now);
    for dialect in [Dialect::Live, Dialect::Reference] {
        let attributes = catalog::of(dialect, kind).into_iter().flat_map(|resource| resource.attributes);
        for attribute in attributes.filter(|attribute| !attribute.defaulted && !given.contains_key(attribute.name)) {
            record.write(attribute.name, Value::Null);
        }
    }
    record
}

/// Sets what is given, and what says the same in the other dialect.
fn apply(world: &mut World, dialect: Dialect, record: &mut Record, given: Given, now: i64) {
    for (name, value) in given {
        follow(world, record, &name, &value, now);
        match (name.as_str(), &record.of) {
            // What it is, it is by its kind; and a person is called by first and last name.
            ("is_organization", _) | ("type", Details::Activity(_)) | ("name", Details::Contact(_)) => {}
            ("custom_fields", _) => custom(world, dialect, record, value),
            ("tags", _) => {
                record.assign("tags", value.clone(), world.company.users());
                tags(world, record.kind(), &value, now);
            }
            _ => record.assign(&name, value, world.company.users()),
        }
    }
}

fn follow(world: &World, record: &mut Record, name: &str, value: &Value, now: i64) {
    let users = world.company.users();
    let named = |kind: Kind, id: Option<u64>| world.company.find(kind, id?).and_then(|row| row.wrote("name")).cloned();
    let numbered = |kind: Kind| {
        let rows = world.company.records(kind);
        rows.iter().find(|row| row.wrote("name") == Some(value)).map(|row| json!(row.id)).unwrap_or_default()
    };
    let kind = record.kind();
    match (kind, name) {
        (Kind::Lead, "source_id") => {
            let source = named(Kind::LeadSource, value.as_u64()).unwrap_or_default();
            record.assign("source", source, users);
        }
        (Kind::Lead, "source") => record.write("source_id", numbered(Kind::LeadSource)),
        (Kind::Lead, "address") => {
            let city = value.get("city").cloned().unwrap_or_default();
            record.write("city", city);
        }
        (Kind::Lead, "city") => record.write("address", json!({ "city": value })),
        (Kind::Deal, "loss_reason_id") => {
            let reason = named(Kind::LossReason, value.as_u64()).unwrap_or_default();
            record.assign("loss_reason", reason, users);
        }
        (Kind::Deal, "loss_reason") => record.write("loss_reason_id", numbered(Kind::LossReason)),
        (Kind::Deal, "stage_id") => {
            if let Details::Deal(deal) = &mut record.of
                && Some(deal.stage.id()) != value.as_u64()
            {
                deal.stage_changed = now;
            }
        }
        (Kind::Contact, "contact_id") => record.write("organization_id", value.clone()),
        (Kind::Contact, "organization_id") => record.write("contact_id", value.clone()),
        (Kind::Email, "completed") => {
            let at = if *value == Value::Bool(true) { encode::time(now) } else { Value::Null };
            record.write("completed_at", at);
        }
        (Kind::CustomField, "resource") => record.write("of", value.clone()),
        (Kind::LineItem, "product_id") => {
            let product = value.as_u64().and_then(|id| world.company.find(Kind::Product, id));
            for name in ["name", "sku", "description"] {
                record.write(name, product.and_then(|product| product.wrote(name)).cloned().unwrap_or_default());
            }
        }
        _ => {}
    }
}

/// Sets custom fields by name; those that are not named stay.
fn custom(world: &World, dialect: Dialect, record: &mut Record, value: Value) {
    let Value::Object(values) = value else { return };
    let present = encode::attribute(dialect, "custom_fields", record, world.company.users());
    let mut all = present.as_object().cloned().unwrap_or_default();
    all.extend(values);
    let fields = world.company.records(Kind::CustomField);
    let mut told = Vec::new();
    for (name, value) in &all {
        let field = fields
            .iter()
            .find(|field| field.is_for(record.kind()) && field.wrote("name").and_then(Value::as_str) == Some(name));
        let Some(field) = field else { continue };
        let data = json!({ "id": field.id, "name": name, "type": field.wrote("type") });
        told.push(json!({ "value": value, "custom_field": { "data": data, "meta": { "type": "custom_field" } } }));
    }
    record.write("custom_fields", Value::Object(all));
    record.write("custom_field_values", Value::Array(told));
}

/// A tag comes into being with its first use.
fn tags(world: &mut World, kind: Kind, value: &Value, now: i64) {
    let of = match kind {
        Kind::Lead => "lead",
        Kind::Contact | Kind::Organization => "contact",
        Kind::Deal => "deal",
        _ => return,
    };
    for tag in value.as_array().into_iter().flatten() {
        let known = world.company.records(Kind::Tag).iter().any(|row| {
            row.wrote("name") == Some(tag) && row.wrote("resource_type").and_then(Value::as_str) == Some(of)
        });
        if !known {
            let mut row = Record::blank(Kind::Tag, world.company.number_of_written(), now);
            row.write("name", tag.clone());
            row.write("resource_type", json!(of));
            let change = world.company.created_by(row);
            world.happened(change, now);
        }
    }
}

/// The attributes that no two records of a kind have in common.
fn unique(
    world: &World,
    dialect: Dialect,
    target: &Target,
    kind: Kind,
    given: &Given,
    own: Option<u64>,
) -> Result<(), Refusal> {
    let names: &[&str] = match kind {
        Kind::Tag => &["name", "resource_type"],
        Kind::DealSource | Kind::LeadSource | Kind::LossReason | Kind::DealUnqualifiedReason | Kind::CustomField => {
            &["name"]
        }
        Kind::AssociatedContact => &["contact_id"],
        _ => return Ok(()),
    };
    let present = own.and_then(|id| world.company.find(kind, id));
    let value = |name: &str| given.get(name).or_else(|| present.and_then(|record| record.wrote(name)));
    let taken = world.company.records(kind).into_iter().any(|record| {
        Some(record.id) != own
            && target.holds(world, dialect, record)
            && names.iter().all(|name| record.wrote(name) == value(name))
    });
    if !taken {
        return Ok(());
    }
    let details = "There is such a record already.".to_owned();
    let problem = Problem { field: Some(format!("/{}", names[0])), code: "already_exists", details };
    Err(Refusal::record(target.resource.name, vec![problem]))
}

/// A lead becomes a contact, with an organization and a deal where they are asked for; the lead is gone then.
fn convert(world: &mut World, given: &Given, now: i64) -> Result<Record, Refusal> {
    let number = |name: &str| given.get(name).and_then(Value::as_u64);
    let lead = number("lead_id").and_then(|id| world.company.find(Kind::Lead, id)).cloned();
    let lead = lead.ok_or_else(Refusal::not_found)?;
    let Details::Lead(of) = &lead.of else { return Err(Refusal::not_found()) };
    let organization = match number("organization_id") {
        Some(id) => Some(id),
        None if of.organization_name.is_empty() => None,
        None => {
            let mut record = blank(world, Kind::Organization, given, now);
            record.assign("name", json!(of.organization_name.as_ref()), world.company.users());
            record.owner = lead.owner;
            let change = world.company.created_by(record);
            Some(world.happened(change, now).id)
        }
    };
    let individual = match number("individual_id") {
        Some(id) => id,
        None => person(world, &lead, of, organization, now),
    };
    let deal = if given.get("create_deal") == Some(&Value::Bool(false)) {
        None
    } else {
        let mut record = blank(world, Kind::Deal, given, now);
        record.owner = lead.owner;
        record.assign("name", json!(lead.name().as_ref()), world.company.users());
        record.write("contact_id", json!(individual));
        record.write("organization_id", json!(organization));
        let change = world.company.created_by(record);
        Some(world.happened(change, now).id)
    };
    delete(world, Kind::Lead, lead.id, now)?;
    let mut conversion = Record::blank(Kind::LeadConversion, world.company.number_of_written(), now);
    let owner = world.company.users()[lead.owner].id;
    for (name, value) in [
        ("lead_id", json!(lead.id)),
        ("individual_id", json!(individual)),
        ("organization_id", json!(organization)),
        ("deal_id", json!(deal)),
        ("owner_id", given.get("owner_id").cloned().unwrap_or_else(|| json!(owner))),
    ] {
        conversion.write(name, value);
    }
    let change = world.company.created_by(conversion);
    Ok(world.happened(change, now))
}

/// The contact that a lead becomes, with what was written of it.
fn person(world: &mut World, lead: &Record, of: &Lead, organization: Option<u64>, now: i64) -> u64 {
    let mut record = blank(world, Kind::Contact, &Given::new(), now);
    record.of = Details::Contact(Person { organization: None, ..of.person.clone() });
    (record.owner, record.tags) = (lead.owner, lead.tags.clone());
    for name in ["first_name", "last_name", "title", "email"] {
        record.unwrite(name);
    }
    for (name, value) in lead.written.iter().flat_map(|written| written.iter()) {
        let is_of_contact = catalog::of(Dialect::Live, Kind::Contact).and_then(|of| of.attribute(name)).is_some();
        if is_of_contact {
            record.write(name, value.clone());
        }
    }
    if lead.written.is_none() {
        record.unwrite("phone");
        record.unwrite("address");
    }
    record.write("contact_id", json!(organization));
    record.write("organization_id", json!(organization));
    let change = world.company.created_by(record);
    world.happened(change, now).id
}
