//! What happened, as bytes: an element of a page in either dialect (sell-api.md section 0, R4, L4).

mod bogus;
mod json;
mod live;
mod reference;

use json::Json;

use super::company::{Action, Change, Kind, Record, User};
use super::options::Dialect;

pub(super) use bogus::{bad_utf8, conflicting, malformed};
pub(super) use live::resource as live_resource;
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
    /// Its members, in order, between spaces.
    fields: fn(Kind) -> &'static str,
    /// Writes the value of a field.
    value: fn(&str, &Record, &[User], &mut Json<'_>),
}

/// Writes the record of a change, and gives what its changed members were before, as the members of an object.
fn record(happening: &Happening, users: &[User], spelling: &Spelling, json: &mut Json<'_>) -> (Vec<u8>, usize) {
    let change = &happening.change;
    let mut was = Vec::new();
    let fields = match change.action {
        // A deleted record is gone: half of them say nothing but which one it was.
        Action::Deleted if change.record.id.is_multiple_of(2) => "id",
        _ => (spelling.fields)(change.record.kind()),
    };
    json.raw("{");
    for (at, name) in fields.split(' ').enumerate() {
        if at > 0 {
            json.raw(",");
        }
        json.text(&[name]);
        json.raw(":");
        let from = json.out.len();
        (spelling.value)(name, &change.record, users, json);
        if let Some(before) = change.before.as_ref().filter(|_| name != "updated_at") {
            let (mark, ascii) = (was.len(), json.ascii);
            let mut old = Json { out: &mut was, ascii };
            if mark > 0 {
                old.raw(",");
            }
            old.text(&[name]);
            old.raw(":");
            let value = old.out.len();
            (spelling.value)(name, before, users, &mut old);
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
