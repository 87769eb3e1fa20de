//! What happened, as bytes: an element of a page in either dialect (sell-api.md section 0, R4, L4).

mod bogus;
mod json;
mod live;
mod reference;

use json::Json;

use super::catalog::{self, Resource};
use super::company::{Action, Change, Kind, Record, Text, User};
use super::options::Dialect;

pub(super) use bogus::{bad_utf8, conflicting, malformed};
pub(super) use live::{outcome_id, reason_id, resource as live_resource, source_id};
pub(super) use reference::resource as reference_resource;

/// An event before it is written.
#[derive(Clone, Debug)]
pub(super) struct Happening {
    pub id: u128,
    /// What it says about its time, in milliseconds since 1970.
    pub time: i64,
    pub change: Change,
    pub extra: Extra,
}

/// The stream by which a dialect tells of a kind of record; empty where it does not.
pub(super) const fn stream(dialect: Dialect, kind: Kind) -> &'static str {
    match dialect {
        Dialect::Reference => reference::resource(kind).1,
        Dialect::Live => live::resource(kind).1,
    }
}

/// What a fault adds to a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Extra {
    #[default]
    Nothing,
    /// A text with a NUL.
    Nul,
    /// A text of so many bytes, which are written when a page is.
    Filler(u32),
}

impl Happening {
    pub fn kind(&self) -> Kind {
        self.change.record.kind()
    }

    /// Writes it behind `out`. Gives where [`Extra::Filler`] goes, counted from its beginning.
    pub fn write(&self, dialect: Dialect, users: &[User], out: &mut Vec<u8>) -> usize {
        let start = out.len();
        let mut json = Json { out, ascii: self.change.record.id.is_multiple_of(3) };
        let filler = match dialect {
            Dialect::Reference => reference::element(self, users, &mut json),
            Dialect::Live => live::element(self, users, &mut json),
        };
        filler.saturating_sub(start)
    }
}

fn event_id(id: u128, json: &mut Json<'_>) {
    // As a UUID is written.
    json.format(format_args!("\"{}\"", uuid::Uuid::from_u128(id).hyphenated()));
}

/// How a dialect spells a record.
struct Spelling {
    dialect: Dialect,
    /// Its members, in order, between spaces.
    fields: fn(Kind) -> &'static str,
    /// Writes the value of a field.
    value: fn(&str, &Record, &[User], &mut Json<'_>),
}

impl Spelling {
    /// Writes a field: as it was written through Core, else as the company has it.
    fn spell(&self, name: &str, record: &Record, users: &[User], json: &mut Json<'_>) {
        match record.wrote(name) {
            Some(value) => json.value(value),
            None => (self.value)(name, record, users, json),
        }
    }

    /// The fields that an element has beside those of its kind: what was written through Core.
    fn more(&self, change: &Change) -> Vec<&'static str> {
        let before = change.before.as_ref().and_then(|record| record.written.as_deref());
        let written = change.record.written.as_deref();
        if before.is_none() && written.is_none() {
            return Vec::new();
        }
        let kind = change.record.kind();
        let usual = (self.fields)(kind);
        let mut names = Vec::new();
        for attribute in catalog::of(self.dialect, kind).into_iter().flat_map(|resource| resource.attributes) {
            let name = if attribute.name == "custom_fields" && self.dialect == Dialect::Live {
                "custom_field_values"
            } else {
                attribute.name
            };
            let of_row = matches!(change.record.of, super::company::Details::Row(_));
            let has = [before, written].into_iter().flatten().any(|written| written.contains_key(name));
            if (of_row || has) && !names.contains(&name) && !usual.split(' ').any(|usual| usual == name) {
                names.push(name);
            }
        }
        names
    }
}

/// Writes a record as Core gives it.
pub(super) fn core(dialect: Dialect, resource: &Resource, record: &Record, users: &[User], out: &mut Vec<u8>) {
    let mut json = Json { out, ascii: false };
    json.raw("{");
    let shown = resource.attributes.iter().filter(|attribute| !attribute.hidden);
    for (at, attribute) in shown.enumerate() {
        if at > 0 {
            json.raw(",");
        }
        json.text(&[attribute.name]);
        json.raw(":");
        core_value(dialect, attribute.name, record, users, &mut json);
    }
    json.raw("}");
}

fn core_value(dialect: Dialect, name: &str, record: &Record, users: &[User], json: &mut Json<'_>) {
    match (record.wrote(name), dialect) {
        (Some(value), _) => json.value(value),
        (None, Dialect::Live) => live::core(name, record, users, json),
        (None, Dialect::Reference) => reference::core(name, record, users, json),
    }
}

/// A time as Core gives it.
pub(super) fn time(milliseconds: i64) -> serde_json::Value {
    let mut out = Vec::new();
    Json { out: &mut out, ascii: false }.time(milliseconds, false);
    serde_json::from_slice(&out).unwrap_or_default()
}

/// What Core gives for one attribute.
pub(super) fn attribute(dialect: Dialect, name: &str, record: &Record, users: &[User]) -> serde_json::Value {
    let mut out = Vec::new();
    core_value(dialect, name, record, users, &mut Json { out: &mut out, ascii: false });
    serde_json::from_slice(&out).unwrap_or_default()
}

fn texts(texts: &[Text], json: &mut Json<'_>) {
    json.raw("[");
    for (at, text) in texts.iter().enumerate() {
        if at > 0 {
            json.raw(",");
        }
        json.text(&[text]);
    }
    json.raw("]");
}

/// A number: 50000 where it is whole, 10.25 or 10.50 else.
fn amount(hundredths: u64, json: &mut Json<'_>) {
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    if rest == 0 {
        json.number(whole);
    } else {
        json.format(format_args!("{whole}.{rest:02}"));
    }
}

/// Writes the record of a change, and gives what its changed members were before, as the members of an object.
fn record(happening: &Happening, users: &[User], spelling: &Spelling, json: &mut Json<'_>) -> (Vec<u8>, usize) {
    let change = &happening.change;
    let mut was = Vec::new();
    let (fields, more) = match change.action {
        // A deleted record is gone: half of them say nothing but which one it was.
        Action::Deleted if change.record.id.is_multiple_of(2) => ("id", Vec::new()),
        _ => ((spelling.fields)(change.record.kind()), spelling.more(change)),
    };
    json.raw("{");
    let usual = fields.split(' ').filter(|name| !name.is_empty());
    for (at, name) in usual.chain(more).enumerate() {
        if at > 0 {
            json.raw(",");
        }
        json.text(&[name]);
        json.raw(":");
        let from = json.out.len();
        spelling.spell(name, &change.record, users, json);
        if let Some(before) = change.before.as_ref().filter(|_| name != "updated_at") {
            let (mark, ascii) = (was.len(), json.ascii);
            let mut old = Json { out: &mut was, ascii };
            if mark > 0 {
                old.raw(",");
            }
            old.text(&[name]);
            old.raw(":");
            let value = old.out.len();
            spelling.spell(name, before, users, &mut old);
            if was[value..] == json.out[from..] {
                was.truncate(mark);
            }
        }
    }
    let mut filler = 0;
    match happening.extra {
        Extra::Nothing => {}
        Extra::Nul => json.raw(r#","description":"before \u0000 after""#),
        Extra::Filler(_) => {
            json.raw(r#","description":""#);
            filler = json.out.len();
            json.raw("\"");
        }
    }
    json.raw("}");
    (was, filler)
}
