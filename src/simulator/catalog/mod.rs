//! The resources of Core as data: under which path each stands, what may be done with it, and its attributes. One
//! table a dialect; validation, lists, Search, Sync and GraphQL read it, and no resource has code of its own but for
//! what it does beside itself.

mod live;
mod reference;
mod setup;

use super::company::Kind;
use super::options::Dialect;

/// What an attribute holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// A text of at most so many characters.
    Text(usize),
    /// One of these texts.
    Choice(&'static [&'static str]),
    Integer,
    /// A number, or a text that is one: what is not negative, to the hundredth.
    Amount,
    /// A number, or a text that is one.
    Decimal,
    Boolean,
    /// `2026-11-24`
    Date,
    /// RFC 3339
    Time,
    /// A list of texts.
    Tags,
    /// An object with texts.
    Address,
    /// An object by the names of the account's custom fields.
    Custom,
    /// Anything.
    Json,
    /// The id of a record of one of these kinds.
    Id(&'static [Kind]),
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a line of a table: each says one thing of an attribute")]
pub(super) struct Attribute {
    pub name: &'static str,
    pub of: Of,
    /// Must be given when the record is created, and not be blank.
    pub required: bool,
    /// Nobody writes it.
    pub read_only: bool,
    /// Cannot be changed once the record is there.
    pub fixed: bool,
    /// Has a value of its own where nothing is given; any other attribute is null then.
    pub defaulted: bool,
    /// Is not shown.
    pub hidden: bool,
}

impl Attribute {
    const fn new(name: &'static str, of: Of) -> Self {
        Self { name, of, required: false, read_only: false, fixed: false, defaulted: false, hidden: false }
    }

    const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    const fn read_only(self) -> Self {
        Self { read_only: true, defaulted: true, ..self }
    }

    const fn fixed(self) -> Self {
        Self { fixed: true, ..self }
    }

    const fn defaulted(self) -> Self {
        Self { defaulted: true, ..self }
    }

    const fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    /// Whether lists can be filtered and sorted by it.
    pub const fn compares(&self) -> bool {
        !matches!(self.of, Of::Tags | Of::Address | Of::Custom | Of::Json)
    }
}

/// What may be done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    List,
    Get,
    Create,
    Update,
    Delete,
    Upsert,
}

const READ: &[Verb] = &[Verb::List, Verb::Get];
const WRITE: &[Verb] = &[Verb::List, Verb::Get, Verb::Create, Verb::Update, Verb::Delete];
const UPSERT: &[Verb] = &[Verb::List, Verb::Get, Verb::Create, Verb::Update, Verb::Delete, Verb::Upsert];

#[derive(Debug)]
pub(super) struct Resource {
    /// Its path, and that of the resource it stands under: (`orders`, `order_id`).
    pub path: &'static str,
    pub under: Option<(&'static str, &'static str)>,
    /// Its name in the singular.
    pub name: &'static str,
    pub kinds: &'static [Kind],
    pub verbs: &'static [Verb],
    pub attributes: &'static [Attribute],
    /// One of each of these must be given: beyond `required`, which holds for one attribute.
    pub either: &'static [&'static str],
}

impl Resource {
    pub fn attribute(&self, name: &str) -> Option<&'static Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    pub fn can(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }
}

/// Every resource of a dialect.
pub(super) fn resources(dialect: Dialect) -> impl Iterator<Item = &'static Resource> {
    let tables: &[&'static [Resource]] = match dialect {
        Dialect::Reference => &[reference::RESOURCES],
        Dialect::Live => &[live::RESOURCES, setup::RESOURCES],
    };
    tables.iter().copied().flatten()
}

/// The resource that a kind of record is in a dialect, under its own path.
pub(super) fn of(dialect: Dialect, kind: Kind) -> Option<&'static Resource> {
    resources(dialect).find(|resource| resource.kinds.contains(&kind))
}

/// The resource at a path.
pub(super) fn at(dialect: Dialect, under: Option<&str>, path: &str) -> Option<&'static Resource> {
    resources(dialect).find(|resource| resource.path == path && resource.under.map(|(path, _)| path) == under)
}
