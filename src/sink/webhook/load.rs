//! What an attempt sends: a message, or an event of which something is looked up first.

use std::borrow::Cow;
use std::sync::Arc;

use super::request::Message;
use crate::event::ports::{Decision, Route, RouteError};
use crate::event::{LookUps, Recorded, Shard};
use crate::sink::enrich::{Enricher, MustWait};

/// What is sent of an event.
#[derive(Debug)]
pub enum Load {
    /// This.
    Message(Message),
    /// What the rules say once these lookups are answered.
    LookUp(Box<Recorded>, Box<LookUps>),
}

/// Why nothing was sent in an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The event is not for this sink.
    Filtered,
    /// It never will be, for this reason: a dead letter.
    Refused(String),
    /// Who must answer a lookup cannot now.
    Waits(MustWait),
}

impl Load {
    /// What the rules make of an event; none where it is not for this sink.
    pub fn of(event: &Recorded, route: &dyn Route, shard: Shard) -> Result<Option<Self>, String> {
        match route.decide(event) {
            Ok(Decision::LookUp(lookups)) => Ok(Some(Self::LookUp(Box::new(event.clone()), lookups))),
            decided => message(event, decided, shard).map(|message| message.map(Self::Message)),
        }
    }

    /// The trace that the receiver sees; empty for a message that is no event.
    #[must_use]
    pub fn traceparent(&self) -> Cow<'_, str> {
        match self {
            Self::Message(message) => message.traceparent().into(),
            Self::LookUp(event, _) => String::from_utf8_lossy(&event.traceparent()).into_owned().into(),
        }
    }

    /// The message, looked up where it must be.
    pub async fn message(
        self,
        route: &dyn Route,
        enricher: Option<Arc<Enricher>>,
        shard: Shard,
    ) -> Result<Message, Unsent> {
        let (event, lookups) = match self {
            Self::Message(message) => return Ok(message),
            Self::LookUp(event, lookups) => (event, lookups),
        };
        let Some(enricher) = enricher else {
            return Err(Unsent::Refused("nobody looks up what its rules want to know".to_owned()));
        };
        let completed = enricher.decided(route, &event, lookups).await.map_err(Unsent::Waits)?;
        message(&completed.event, completed.decision, shard).map_err(Unsent::Refused)?.ok_or(Unsent::Filtered)
    }
}

fn message(event: &Recorded, decided: Result<Decision, RouteError>, shard: Shard) -> Result<Option<Message>, String> {
    match decided {
        Ok(Decision::Deliver(address)) => {
            Message::new(event, shard, &address.headers).map(Some).map_err(|error| error.to_string())
        }
        Ok(Decision::Filtered | Decision::LookUp(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
