//! `POST /v3/graphql`: organizations → contacts → deals, and leads, over what has been told (sell-api.md R7, L7).
//!
//! A type is a resource of the reference dialect and has its attributes; beside them it leads to its relations. Lists
//! take `limit`, `after` (an id) and any attribute. The language is parsed by a library; there is no introspection, no
//! mutation and no subscription.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use graphql_parser::Pos;
use graphql_parser::query::{
    Definition, Directive, Document, Field as Asked, FragmentDefinition, OperationDefinition, Query, Selection,
    SelectionSet, Type, TypeCondition, Value as Argument, parse_query,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::catalog::{self, Resource};
use super::super::company::Record;
use super::super::options::Dialect;
use super::super::world::World;
use super::call::{Call, ok};
use super::predicate::{self, Field};
use super::refusal::Refusal;

/// What can be asked for: (one, many).
const TYPES: [(&str, &str); 4] =
    [("organization", "organizations"), ("contact", "contacts"), ("deal", "deals"), ("lead", "leads")];
/// A type's relations: from, name, to, and the attribute that says it. It is the other's for a list.
const RELATIONS: [(&str, &str, &str, &str); 6] = [
    ("organization", "contacts", "contacts", "organization_id"),
    ("organization", "deals", "deals", "organization_id"),
    ("contact", "deals", "deals", "contact_id"),
    ("contact", "organization", "organizations", "organization_id"),
    ("deal", "contact", "contacts", "contact_id"),
    ("deal", "organization", "organizations", "organization_id"),
];
const USUAL: usize = 25;
const MOST: usize = 100;
/// What one query may cost: values that are given, and records that are looked at.
const MOST_WORK: usize = 1_000_000;
/// Objects and fragments within each other.
const DEEPEST: usize = 16;
/// Brackets within each other: the parser's stack is as deep as its text.
const MOST_BRACKETS: usize = 64;

type Text = String;

#[derive(Deserialize)]
struct Body {
    query: String,
    #[serde(default)]
    variables: Option<Map<String, Value>>,
    #[serde(rename = "operationName")]
    operation: Option<String>,
}

/// What is wrong with a query, and where.
#[derive(Debug)]
struct Fault {
    message: String,
    at: Option<Pos>,
}

fn fault<T>(at: Pos, message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { message: message.into(), at: Some(at) })
}

/// Answers a query: 200 with `data`, or with `errors` and without.
pub(super) fn answer(call: &Call<'_>) -> Result<Response, Refusal> {
    if call.method != Method::POST {
        return Err(Refusal::no_method());
    }
    let body: Body = serde_json::from_slice(&call.body)
        .map_err(|error| Refusal::payload(format!("expected an object with `query`: {error}")))?;
    let body = match run(call, &body) {
        Ok(data) => json!({ "data": data }),
        Err(Fault { message, at }) => {
            let mut error = json!({ "message": message });
            if let Some(at) = at {
                error["locations"] = json!([{ "line": at.line, "column": at.column }]);
            }
            json!({ "data": null, "errors": [error] })
        }
    };
    Ok(ok(StatusCode::OK, body.to_string()))
}

fn run(call: &Call<'_>, body: &Body) -> Result<Value, Fault> {
    let mut open = 0_usize;
    for byte in body.query.bytes() {
        match byte {
            b'{' | b'[' | b'(' => open += 1,
            b'}' | b']' | b')' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MOST_BRACKETS {
            return Err(Fault { message: format!("the query is deeper than {DEEPEST}"), at: None });
        }
    }
    let document: Document<'_, Text> =
        parse_query(&body.query).map_err(|error| Fault { message: error.to_string(), at: None })?;
    let mut variables = body.variables.clone().unwrap_or_default();
    let selected = match operation(&document, body.operation.as_deref())? {
        OperationDefinition::SelectionSet(selected) => selected,
        OperationDefinition::Query(query) => {
            complete(query, &mut variables)?;
            &query.selection_set
        }
        OperationDefinition::Mutation(mutation) => return fault(mutation.position, "only queries are served"),
        OperationDefinition::Subscription(of) => return fault(of.position, "only queries are served"),
    };
    let fragments = document.definitions.iter().filter_map(|definition| match definition {
        Definition::Fragment(fragment) => Some(fragment),
        Definition::Operation(_) => None,
    });
    let world = call.shared.world();
    let mut run = Run { world: &world, variables, fragments: fragments.collect(), left: MOST_WORK };
    run.object(None, selected, 0).map(Value::Object)
}

/// Variables that are not given have their default, or are null where they may be.
fn complete(query: &Query<'_, Text>, variables: &mut Map<String, Value>) -> Result<(), Fault> {
    for definition in query
        .variable_definitions
        .iter()
        .filter(|definition| !variables.contains_key(&definition.name))
        .collect::<Vec<_>>()
    {
        let value = match (&definition.default_value, &definition.var_type) {
            (Some(value), _) => json_of(value, &Map::new()),
            (None, Type::NonNullType(_)) => Err(format!("the variable ${} is required", definition.name)),
            (None, _) => Ok(Value::Null),
        };
        let value = value.map_err(|message| Fault { message, at: Some(definition.position) })?;
        variables.insert(definition.name.clone(), value);
    }
    Ok(())
}

fn operation<'a, 't>(
    document: &'a Document<'t, Text>,
    name: Option<&str>,
) -> Result<&'a OperationDefinition<'t, Text>, Fault> {
    let operations = || {
        document.definitions.iter().filter_map(|definition| match definition {
            Definition::Operation(operation) => Some(operation),
            Definition::Fragment(_) => None,
        })
    };
    let called = |operation: &&OperationDefinition<'t, Text>| match operation {
        OperationDefinition::Query(query) => query.name.as_deref() == name,
        _ => false,
    };
    let found = match name {
        Some(_) => operations().find(called),
        None => operations().next().filter(|_| operations().count() == 1),
    };
    found.ok_or_else(|| Fault { message: "there is no such operation".to_owned(), at: None })
}

/// An argument with its variables put in.
fn json_of(value: &Argument<'_, Text>, variables: &Map<String, Value>) -> Result<Value, String> {
    Ok(match value {
        Argument::Variable(name) => {
            variables.get(name).cloned().ok_or_else(|| format!("there is no variable ${name}"))?
        }
        Argument::Int(number) => json!(number.as_i64()),
        Argument::Float(number) => json!(number),
        Argument::String(text) | Argument::Enum(text) => json!(text),
        Argument::Boolean(value) => json!(value),
        Argument::Null => Value::Null,
        Argument::List(values) => {
            Value::Array(values.iter().map(|value| json_of(value, variables)).collect::<Result<_, _>>()?)
        }
        Argument::Object(values) => {
            let members = values.iter().map(|(name, value)| Ok((name.clone(), json_of(value, variables)?)));
            Value::Object(members.collect::<Result<_, String>>()?)
        }
    })
}

struct Run<'a, 't> {
    world: &'a World,
    variables: Map<String, Value>,
    fragments: Vec<&'a FragmentDefinition<'t, Text>>,
    left: usize,
}

/// A record as an object of its type.
#[derive(Clone, Copy)]
struct Object<'a> {
    resource: &'static Resource,
    record: &'a Record,
}

fn resource(path: &str) -> Option<&'static Resource> {
    catalog::at(Dialect::Reference, None, path)
}

/// `Contact` for `contact`
fn type_name(of: Option<Object<'_>>) -> String {
    let name = of.map_or("query", |object| object.resource.name);
    name[..1].to_ascii_uppercase() + &name[1..]
}

impl<'a, 't> Run<'a, 't> {
    fn spend(&mut self, work: usize, at: Pos) -> Result<(), Fault> {
        match self.left.checked_sub(work) {
            Some(left) => self.left = left,
            None => return fault(at, "the query is too large"),
        }
        Ok(())
    }

    fn field(&self, resource: &'static Resource) -> Field<'a> {
        Field { dialect: Dialect::Reference, resource, world: self.world }
    }

    /// The fields that are selected of a record, or of the query itself.
    fn object(
        &mut self,
        of: Option<Object<'a>>,
        selected: &'a SelectionSet<'t, Text>,
        depth: usize,
    ) -> Result<Map<String, Value>, Fault> {
        let mut out = Map::new();
        self.select(of, selected, depth, &mut out)?;
        Ok(out)
    }

    fn select(
        &mut self,
        of: Option<Object<'a>>,
        selected: &'a SelectionSet<'t, Text>,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        let at = selected.span.0;
        if depth > DEEPEST {
            return fault(at, format!("the query is deeper than {DEEPEST}"));
        }
        let is_of = |condition: &TypeCondition<'t, Text>| {
            let TypeCondition::On(name) = condition;
            *name == type_name(of)
        };
        for selection in &selected.items {
            self.spend(1, at)?;
            match selection {
                Selection::Field(field) => {
                    if self.included(&field.directives)? {
                        let value = self.value(of, field, depth)?;
                        out.insert(field.alias.as_ref().unwrap_or(&field.name).clone(), value);
                    }
                }
                Selection::FragmentSpread(spread) => {
                    let name = &spread.fragment_name;
                    let Some(fragment) = self.fragments.iter().find(|fragment| fragment.name == *name).copied() else {
                        return fault(spread.position, format!("there is no fragment `{name}`"));
                    };
                    if is_of(&fragment.type_condition) && self.included(&spread.directives)? {
                        self.select(of, &fragment.selection_set, depth + 1, out)?;
                    }
                }
                Selection::InlineFragment(inline) => {
                    if inline.type_condition.as_ref().is_none_or(is_of) && self.included(&inline.directives)? {
                        self.select(of, &inline.selection_set, depth + 1, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// `@include(if:)` and `@skip(if:)`
    fn included(&self, directives: &[Directive<'t, Text>]) -> Result<bool, Fault> {
        let mut included = true;
        for directive in directives {
            let wanted = match directive.name.as_str() {
                "include" => true,
                "skip" => false,
                other => return fault(directive.position, format!("there is no directive `@{other}`")),
            };
            let condition = directive.arguments.iter().find(|(name, _)| name == "if");
            match condition.map(|(_, value)| self.argument(value, directive.position)).transpose()? {
                Some(Value::Bool(condition)) => included &= condition == wanted,
                _ => return fault(directive.position, "`if` must be true or false"),
            }
        }
        Ok(included)
    }

    fn argument(&self, value: &Argument<'t, Text>, at: Pos) -> Result<Value, Fault> {
        json_of(value, &self.variables).map_err(|message| Fault { message, at: Some(at) })
    }

    fn value(&mut self, of: Option<Object<'a>>, field: &'a Asked<'t, Text>, depth: usize) -> Result<Value, Fault> {
        let (name, at) = (field.name.as_str(), field.position);
        if name == "__typename" {
            return Ok(json!(type_name(of)));
        }
        let Some(object) = of else { return self.root(name, field, depth) };
        let relation = RELATIONS.iter().find(|(from, known, ..)| *from == object.resource.name && *known == name);
        if let Some((_, _, path, by)) = relation {
            let Some(to) = resource(path) else { return Ok(Value::Null) };
            if name == *path {
                return self.list(to, field, depth, Some((by, json!(object.record.id))));
            }
            let id = self.field(object.resource).value(object.record, by).as_u64();
            return self.one(to, field, depth, id);
        }
        let field_of = self.field(object.resource);
        field_of.knows(name).map_err(|message| Fault { message, at: Some(at) })?;
        if name.contains('.') || !field.selection_set.items.is_empty() {
            return fault(at, format!("`{name}` has no fields"));
        }
        Ok(field_of.value(object.record, name))
    }

    fn root(&mut self, name: &str, field: &'a Asked<'t, Text>, depth: usize) -> Result<Value, Fault> {
        let known = TYPES.iter().find(|(one, many)| *one == name || *many == name);
        let Some((one, path)) = known else { return fault(field.position, format!("there is no field `{name}`")) };
        let Some(to) = resource(path) else { return Ok(Value::Null) };
        if name == *path {
            return self.list(to, field, depth, None);
        }
        let id = field.arguments.iter().find(|(name, _)| name == "id");
        let id = id.map(|(_, value)| self.argument(value, field.position)).transpose()?;
        // Ids are numbers, and texts where a client's type of them is `ID`.
        let id = id.and_then(|id| id.as_u64().or_else(|| id.as_str()?.parse().ok()));
        if id.is_none() {
            return fault(field.position, format!("`{one}` needs an id"));
        }
        self.one(to, field, depth, id)
    }

    fn one(
        &mut self,
        to: &'static Resource,
        field: &'a Asked<'t, Text>,
        depth: usize,
        id: Option<u64>,
    ) -> Result<Value, Fault> {
        self.spend(to.kinds.len(), field.position)?;
        let found = id.and_then(|id| to.kinds.iter().find_map(|kind| self.world.told_one(*kind, id)));
        match found {
            Some(record) => self.shown(Object { resource: to, record }, field, depth),
            None => Ok(Value::Null),
        }
    }

    fn list(
        &mut self,
        to: &'static Resource,
        field: &'a Asked<'t, Text>,
        depth: usize,
        by: Option<(&str, Value)>,
    ) -> Result<Value, Fault> {
        let mut wanted = Map::new();
        wanted.extend(by.map(|(name, value)| (name.to_owned(), value)));
        let (mut limit, mut after) = (USUAL, 0);
        for (name, argument) in &field.arguments {
            let value = self.argument(argument, field.position)?;
            match name.as_str() {
                "limit" => match value.as_u64().and_then(|limit| usize::try_from(limit).ok()) {
                    Some(asked) if (1..=MOST).contains(&asked) => limit = asked,
                    _ => return fault(field.position, format!("`limit` must be a number from 1 to {MOST}")),
                },
                "after" => match value.as_u64() {
                    Some(id) => after = id,
                    None => return fault(field.position, "`after` must be an id"),
                },
                name => drop(wanted.insert(name.to_owned(), json!({ "$eq": value }))),
            }
        }
        let records_of = self.field(to);
        let test = predicate::reference(&Value::Object(wanted), &records_of, 0)
            .map_err(|message| Fault { message, at: Some(field.position) })?;
        let looked_at: usize = to.kinds.iter().map(|kind| self.world.company.count(*kind)).sum();
        self.spend(looked_at, field.position)?;
        let found = records_of.meeting(&test).into_iter().filter(|record| record.id > after).take(limit);
        let shown = found.map(|record| self.shown(Object { resource: to, record }, field, depth));
        shown.collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    fn shown(&mut self, object: Object<'a>, field: &'a Asked<'t, Text>, depth: usize) -> Result<Value, Fault> {
        if field.selection_set.items.is_empty() {
            return fault(field.position, format!("`{}` needs a selection of fields", field.name));
        }
        self.object(Some(object), &field.selection_set, depth + 1).map(Value::Object)
    }
}
