//! An event as filters and templates see it.
//!
//! What an event does not have is an empty object where it would be one (`previous`, `meta`), and otherwise null in a
//! filter and undefined in a template, so that `has(previous.value)` and `cause | default('none')` work.

use std::sync::OnceLock;

use cel::common::types::{CelNull, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;

use super::body::{self, Body, Part};
use super::shape::Variable;
use super::value;
use crate::event::Recorded;

/// One event, its body decoded as far as it was asked for.
#[derive(Debug)]
pub(super) struct View<'e> {
    event: &'e Recorded,
    body: Body<'e>,
    decoded: [OnceLock<Option<Box<dyn Val + 'e>>>; Part::COUNT],
    failure: OnceLock<String>,
    /// Whether what is looked up is not known yet: then it is no variable at all.
    before: bool,
}

impl<'e> View<'e> {
    pub(super) fn new(event: &'e Recorded) -> Self {
        Self {
            before: false,
            event,
            body: Body::new(&event.body),
            decoded: [const { OnceLock::new() }; Part::COUNT],
            failure: OnceLock::new(),
        }
    }

    /// Before anything is looked up: what asks for that fails.
    pub(super) fn before_lookups(event: &'e Recorded) -> Self {
        Self { before: true, ..Self::new(event) }
    }

    /// Why a part of the body could not be decoded: CEL itself can only say that the variable is not there.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// A variable as a template sees it; `UNDEFINED` where the event does not have it.
    pub(super) fn template_value(&self, variable: Variable) -> Result<minijinja::Value, String> {
        if let Some(text) = variable.of_row(self.event) {
            return Ok(text.into());
        }
        let part = Part::of(variable);
        match self.body.json(part)? {
            Some(json) => body::decode(json).map_err(|why| unreadable(part, &why)),
            None if part.is_object() => Ok(minijinja::Value::from_pairs(std::iter::empty::<(&str, &str)>())),
            None => Ok(minijinja::Value::UNDEFINED),
        }
    }

    fn filter_value(&self, part: Part) -> Option<&(dyn Val + 'e)> {
        let decoded = self.decoded[part as usize].get_or_init(|| {
            let value = self.body.json(part).and_then(|json| match json {
                Some(json) => value::decode(json),
                None if part.is_object() => Ok(value::empty_map()),
                None => Ok(Box::new(CelNull)),
            });
            value.map_err(|why| self.failure.get_or_init(|| unreadable(part, &why))).ok()
        });
        decoded.as_deref()
    }
}

fn unreadable(part: Part, why: &str) -> String {
    format!("{} of the body cannot be decoded: {why}", part.name())
}

impl VariableResolver for View<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let variable =
            Variable::parse(variable).filter(|variable| *variable != Variable::Enrichment || !self.before)?;
        match variable.of_row(self.event) {
            Some(text) => Some(CowVal::owned(CelString::from(text))),
            None => self.filter_value(Part::of(variable)).map(CowVal::Borrowed),
        }
    }
}
