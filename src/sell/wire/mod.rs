//! The only place that knows the vendor's JSON: pages, listings and subscriptions of both dialects.
//!
//! A page becomes [`Event`]s in their canonical bytes (sell-api.md section 0) without a tree in between: members are
//! borrowed slices of the page, records are never looked into beyond their `id`, and everything goes by one copy
//! into one buffer of which each event's body is a slice. A page whose every element is an event is read in one
//! pass. Any other page is first split into its elements as bytes, so that one that is not even UTF-8 costs itself
//! and no other (INV-5).

mod canonical;
mod core;
mod element;
mod live;
mod record;
mod reference;
mod split;
#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;

use crate::config::DedupeBy;
use crate::event::ports::Dialect;
use crate::event::{AccountName, Event, MAX_POSITION_BYTES, Position, Rejected, StreamName};

pub use self::core::{event_resource, never_looked_up};
use canonical::Canonical;
pub use canonical::Unfit;
pub use record::{record, user};
pub use reference::{Subscribed, listing, subscribed, subscription};

/// The streams that the live dialect is known to have. Not a closed list: configuration may name others.
pub const LIVE_STREAMS: [&str; 19] = live::STREAMS;

/// What a page is read for.
#[derive(Clone, Copy, Debug)]
pub struct PageOf<'a> {
    /// Whose it is; stands in `meta.account`.
    pub account: &'a AccountName,
    /// The stream that it came by; stands in `meta.stream`.
    pub stream: &'a StreamName,
    /// What makes an event unique.
    pub dedupe_by: DedupeBy,
    /// The types that are recorded.
    pub wanted: &'a Wanted,
}

/// What a page held.
#[derive(Debug)]
pub struct PageContent {
    /// The position after it.
    pub position: Position,
    /// Whether nothing newer is there.
    pub top: bool,
    /// The events, in page order, in their canonical bytes.
    pub events: Vec<Event>,
    /// Elements that are not events, whole.
    pub rejected: Vec<Rejected>,
    /// Events of types that the account does not want: dropped, counted.
    pub unwanted: usize,
}

impl PageContent {
    /// How many elements the page held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.events.len() + self.rejected.len() + self.unwanted
    }

    /// The memory that it holds, in bytes, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let events: usize = self.events.iter().map(Event::size).sum();
        (events + self.rejected.iter().map(|rejected| rejected.raw.len()).sum::<usize>()) as u64
    }
}

/// An answer that is not what was promised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not JSON at all, cut short, or not of the promised shape.
    #[error("the answer is not {expected}: {why}")]
    Shape {
        /// What was promised.
        expected: &'static str,
        /// What is there instead.
        why: String,
    },
    /// The page gives no position, or one that cannot be held.
    #[error("the page's position cannot be held: {0}")]
    Position(&'static str),
}

/// The event types that an account records: `*`, `deal.*` or `deal.updated`.
#[derive(Clone, Debug, Default)]
pub struct Wanted(Vec<Pattern>);

#[derive(Clone, Debug)]
enum Pattern {
    All,
    Resource(String),
    Type(String),
}

impl Wanted {
    /// From the configured patterns; none of them means nothing.
    #[must_use]
    pub fn new(patterns: &[String]) -> Self {
        let pattern = |text: &String| match text.as_str() {
            "*" | "*.*" => Pattern::All,
            text => match text.strip_suffix(".*") {
                Some(resource) => Pattern::Resource(resource.to_owned()),
                None => Pattern::Type(text.to_owned()),
            },
        };
        Self(patterns.iter().map(pattern).collect())
    }

    /// Whether events of this type are recorded.
    #[must_use]
    pub fn takes(&self, event_type: &str) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::All => true,
            Pattern::Resource(resource) => {
                event_type.strip_prefix(resource.as_str()).is_some_and(|rest| rest.starts_with('.'))
            }
            Pattern::Type(whole) => whole == event_type,
        })
    }
}

/// Reads a page. Never panics and fails only where the page as a whole cannot be read; an element that is not an
/// event is set aside in [`PageContent::rejected`].
pub fn page(dialect: Dialect, body: &Bytes, of: PageOf<'_>) -> Result<PageContent, WireError> {
    match dialect {
        Dialect::Reference => read::<reference::Item>(body, of),
        Dialect::Live => read::<live::Item>(body, of),
    }
}

/// An element of a page in one dialect.
trait Element<'a>: Deserialize<'a> {
    /// Finds the parts of the canonical event in it.
    fn canonical(&self) -> Result<Canonical<'a>, Unfit>;
}

#[derive(Deserialize)]
struct WholePage<'a, E> {
    items: Vec<E>,
    #[serde(borrow)]
    meta: PageMeta<'a>,
}

#[derive(Deserialize)]
struct PageMeta<'a> {
    #[serde(borrow)]
    position: Option<std::borrow::Cow<'a, str>>,
    top: Option<bool>,
}

impl PageMeta<'_> {
    fn position(&self) -> Result<Position, WireError> {
        held_position(self.position.as_deref().unwrap_or_default())
    }
}

/// A position that the ledger can hold; nothing else of it is looked at.
fn held_position(text: &str) -> Result<Position, WireError> {
    if text.is_empty() {
        return Err(WireError::Position("there is none"));
    }
    if text.len() > MAX_POSITION_BYTES {
        return Err(WireError::Position("it is longer than 4 KiB"));
    }
    if text.contains('\0') {
        return Err(WireError::Position("it contains a NUL"));
    }
    Ok(Position::from(text))
}

/// What an event's canonical form adds to its element at most, about: names, account, stream.
const ADDED: usize = 192;

fn read<'a, E: Element<'a>>(body: &'a Bytes, of: PageOf<'_>) -> Result<PageContent, WireError> {
    match serde_json::from_slice::<WholePage<'a, E>>(body) {
        Ok(whole) => match read_whole(body, &whole, of)? {
            Some(content) => Ok(content),
            None => read_apart::<E>(body, of),
        },
        Err(_) => read_apart::<E>(body, of),
    }
}

/// The quick way; none as soon as an element turns out not to be an event.
fn read_whole<'a, E: Element<'a>>(
    body: &Bytes,
    whole: &WholePage<'a, E>,
    of: PageOf<'_>,
) -> Result<Option<PageContent>, WireError> {
    let mut into = Recorder::new(body.len(), whole.items.len(), of);
    for element in &whole.items {
        let Ok(canonical) = element.canonical() else { return Ok(None) };
        if into.take(&canonical).is_err() {
            return Ok(None);
        }
    }
    Ok(Some(into.content(&whole.meta, Vec::new())?))
}

/// The thorough way: split as bytes first, then each element for itself.
fn read_apart<'a, E: Element<'a>>(body: &'a Bytes, of: PageOf<'_>) -> Result<PageContent, WireError> {
    let shape = |why: String| WireError::Shape { expected: "a page of events", why };
    let split = split::page(body).map_err(|why| shape(why.to_string()))?;
    let meta: PageMeta<'_> =
        serde_json::from_slice(split.meta).map_err(|error| shape(format!("in its meta, {error}")))?;
    let mut into = Recorder::new(body.len(), split.items.len(), of);
    let mut rejected = Vec::new();
    for raw in split.items {
        let taken = serde_json::from_slice::<E>(raw)
            .map_err(|error| Unfit::Json(error.to_string()))
            .and_then(|element| into.take(&element.canonical()?));
        if let Err(unfit) = taken {
            rejected.push(Rejected { raw: body.slice_ref(raw), reason: unfit.to_string() });
        }
    }
    into.content(&meta, rejected)
}

/// Collects a page's events and their bytes.
struct Recorder<'p> {
    of: PageOf<'p>,
    bytes: BytesMut,
    events: Vec<Event>,
    types: canonical::Types,
    unwanted: usize,
}

impl<'p> Recorder<'p> {
    fn new(page_bytes: usize, items: usize, of: PageOf<'p>) -> Self {
        Self {
            of,
            bytes: BytesMut::with_capacity(page_bytes + items * ADDED),
            events: Vec::with_capacity(items),
            types: canonical::Types::default(),
            unwanted: 0,
        }
    }

    fn take(&mut self, canonical: &Canonical<'_>) -> Result<(), Unfit> {
        match canonical.event(self.of, &mut self.types, &mut self.bytes)? {
            Some(event) => self.events.push(event),
            None => self.unwanted += 1,
        }
        Ok(())
    }

    fn content(self, meta: &PageMeta<'_>, rejected: Vec<Rejected>) -> Result<PageContent, WireError> {
        Ok(PageContent {
            position: meta.position()?,
            top: meta.top.unwrap_or(false),
            events: self.events,
            rejected,
            unwanted: self.unwanted,
        })
    }
}
