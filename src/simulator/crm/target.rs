//! What a path of Core means, and which verb a method is there.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::super::catalog::{self, Resource, Verb};
use super::super::company::{Kind, Record};
use super::super::encode;
use super::super::options::Dialect;
use super::super::world::World;
use super::call::{Call, nothing};
use super::refusal::Refusal;

/// Records of another resource that a path narrows a list to, in the reference dialect.
const NARROWED: [(&str, Kind, &str); 4] = [
    ("leads", Kind::Lead, "activities"),
    ("deals", Kind::Deal, "activities"),
    ("contacts", Kind::Contact, "activities"),
    ("contacts", Kind::Contact, "deals"),
];

/// What a path means.
#[derive(Debug)]
pub(super) struct Target {
    pub resource: &'static Resource,
    /// What every record of it has there, by attribute.
    pub scope: Vec<(&'static str, Value)>,
    what: What,
    /// A list beside its own path is read there, and no more.
    read_only: bool,
}

#[derive(Debug)]
enum What {
    All,
    One(u64),
    /// The user or the account that the token is of.
    Own,
    Upsert,
}

impl Target {
    /// All of a resource.
    pub const fn of(resource: &'static Resource) -> Self {
        Self { resource, scope: Vec::new(), what: What::All, read_only: false }
    }

    pub fn find(call: &Call<'_>) -> Result<Self, Refusal> {
        let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
        let dialect = call.dialect;
        let at = |under, path| catalog::at(dialect, under, path);
        let target = |resource, scope, what| Self { resource, scope, what, read_only: false };
        let plain = |path| at(None, path).ok_or_else(Refusal::no_path);
        match segments.as_slice() {
            [path] => Ok(target(plain(path)?, Vec::new(), What::All)),
            [of, "custom_fields", rest @ ..] if dialect == Dialect::Live => {
                let fields = at(Some(of), "custom_fields").ok_or_else(Refusal::no_path)?;
                let what = match rest {
                    [] => What::All,
                    [id] => What::One(number(id)?),
                    _ => return Err(Refusal::no_path()),
                };
                Ok(target(fields, vec![("of", json!(of))], what))
            }
            [path @ ("users" | "accounts"), "self"] if dialect == Dialect::Live => {
                Ok(target(plain(path)?, Vec::new(), What::Own))
            }
            [path, "upsert"] if plain(path)?.can(Verb::Upsert) => Ok(target(plain(path)?, Vec::new(), What::Upsert)),
            [path, id] => Ok(target(plain(path)?, Vec::new(), What::One(number(id)?))),
            [parent, id, path] => {
                let owner = plain(parent)?;
                let id = number(id)?;
                exists(call, owner, id)?;
                if let Some(resource) = at(Some(parent), path) {
                    return Ok(target(resource, scope(resource, id), What::All));
                }
                let narrowed = NARROWED.iter().find(|(of, _, list)| of == parent && list == path);
                let Some((_, kind, list)) = narrowed.filter(|_| dialect == Dialect::Reference) else {
                    return Err(Refusal::no_path());
                };
                let scope = if *list == "deals" {
                    vec![("contact_id", json!(id))]
                } else {
                    vec![("resource_type", json!(encode::reference_resource(*kind).0)), ("resource_id", json!(id))]
                };
                Ok(Self { resource: plain(path)?, scope, what: What::All, read_only: true })
            }
            [parent, id, path, own] => {
                let resource = at(Some(parent), path).ok_or_else(Refusal::no_path)?;
                let id = number(id)?;
                exists(call, plain(parent)?, id)?;
                Ok(target(resource, scope(resource, id), What::One(number(own)?)))
            }
            _ => Err(Refusal::no_path()),
        }
    }

    pub fn answer(&self, call: &Call<'_>) -> Result<Response, Refusal> {
        let verb = match (&self.what, &call.method) {
            (What::All, &Method::GET) => Verb::List,
            (What::All, &Method::POST) if !self.read_only => Verb::Create,
            (What::One(_) | What::Own, &Method::GET) => Verb::Get,
            (What::One(_), &Method::PUT) => Verb::Update,
            (What::One(_), &Method::DELETE) => Verb::Delete,
            (What::Upsert, &Method::POST) => Verb::Upsert,
            _ => return Err(Refusal::no_method()),
        };
        if !self.resource.can(verb) && !matches!(self.what, What::Own) {
            return Err(Refusal::no_method());
        }
        if !matches!(verb, Verb::List | Verb::Upsert) {
            call.only(&["includes"])?;
        }
        match verb {
            Verb::List => super::list::answer(self, call),
            Verb::Get => {
                let world = call.shared.world();
                let record = match self.what {
                    What::One(id) => self.record(&world, call.dialect, id),
                    _ => world.company.records(self.resource.kinds[0]).first().copied(),
                };
                Ok(self.gives(call, &world, StatusCode::OK, record.ok_or_else(Refusal::not_found)?))
            }
            Verb::Create => {
                let given = call.attributes()?;
                self.wrote(call, |world, now| super::write::create(world, call.dialect, self, given, now), true)
            }
            Verb::Update => {
                let given = call.attributes()?;
                self.wrote(
                    call,
                    |world, now| super::write::update(world, call.dialect, self, self.id(), given, now),
                    false,
                )
            }
            Verb::Upsert => {
                let given = call.attributes()?;
                let wanted = super::list::conditions(self.resource, call)?;
                if wanted.is_empty() {
                    return Err(Refusal::parameter("query", "must name at least one attribute to look for"));
                }
                self.wrote(
                    call,
                    |world, now| super::write::upsert(world, call.dialect, self, &wanted, given, now),
                    false,
                )
            }
            Verb::Delete => {
                call.shared.write(|world, now| {
                    let id = self.record(world, call.dialect, self.id()).ok_or_else(Refusal::not_found)?;
                    let (kind, id) = (id.kind(), id.id);
                    super::write::delete(world, kind, id, now)
                })?;
                Ok(nothing(StatusCode::NO_CONTENT))
            }
        }
    }

    const fn id(&self) -> u64 {
        match self.what {
            What::One(id) => id,
            _ => 0,
        }
    }

    /// The record of an id, where it is of this resource and scope.
    pub fn record<'a>(&self, world: &'a World, dialect: Dialect, id: u64) -> Option<&'a Record> {
        // A contact of a deal is called by the contact's id.
        if self.resource.name == "associated_contact" {
            let all = world.company.records(Kind::AssociatedContact);
            let called = |record: &&Record| record.wrote("contact_id").and_then(Value::as_u64) == Some(id);
            return all.into_iter().filter(called).find(|record| self.holds(world, dialect, record));
        }
        let found = self.resource.kinds.iter().find_map(|kind| world.company.find(*kind, id));
        found.filter(|record| self.holds(world, dialect, record))
    }

    /// Whether a record is within the scope.
    pub fn holds(&self, world: &World, dialect: Dialect, record: &Record) -> bool {
        let has = |name: &str| encode::attribute(dialect, name, record, world.company.users());
        self.scope.iter().all(|(name, value)| has(name) == *value)
    }

    fn gives(&self, call: &Call<'_>, world: &World, status: StatusCode, record: &Record) -> Response {
        let mut out = Vec::new();
        encode::core(call.dialect, self.resource, record, world.company.users(), &mut out);
        super::one(call, status, self.resource.name, &out)
    }

    /// Answers with the record that a write gives.
    fn wrote(
        &self,
        call: &Call<'_>,
        write: impl FnOnce(&mut World, i64) -> Result<Record, Refusal>,
        new: bool,
    ) -> Result<Response, Refusal> {
        let record = call.shared.write(write)?;
        let created = new && call.dialect == Dialect::Reference;
        let status = if created { StatusCode::CREATED } else { StatusCode::OK };
        let world = call.shared.world();
        Ok(self.gives(call, &world, status, &record))
    }
}

/// What a record has that stands under another.
fn scope(resource: &'static Resource, id: u64) -> Vec<(&'static str, Value)> {
    resource.under.iter().map(|(_, name)| (*name, json!(id))).collect()
}

fn number(text: &str) -> Result<u64, Refusal> {
    text.parse().map_err(|_| Refusal::not_found())
}

/// What something stands under must be there.
fn exists(call: &Call<'_>, resource: &Resource, id: u64) -> Result<(), Refusal> {
    let world = call.shared.world();
    let found = resource.kinds.iter().any(|kind| world.company.find(*kind, id).is_some());
    if found { Ok(()) } else { Err(Refusal::not_found()) }
}
