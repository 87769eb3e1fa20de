//! What a filter or template can see of an event, and the sample events that rules are tried on at start.

use bytes::Bytes;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::event::ports::Dialect;
use crate::event::{Chain, ContentHash, Recorded, Seq};

/// The variables of filters and templates (design.md section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    Id,
    Type,
    Timestamp,
    Account,
    Stream,
    Resource,
    Action,
    RecordId,
    Sequence,
    Cause,
    Data,
    Previous,
    Meta,
    /// What was looked up; only where the sink looks anything up.
    Enrichment,
}

impl Variable {
    pub(super) const ALL: [Self; 14] = [
        Self::Id,
        Self::Type,
        Self::Timestamp,
        Self::Account,
        Self::Stream,
        Self::Resource,
        Self::Action,
        Self::RecordId,
        Self::Sequence,
        Self::Cause,
        Self::Data,
        Self::Previous,
        Self::Meta,
        Self::Enrichment,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Type => "type",
            Self::Timestamp => "timestamp",
            Self::Account => "account",
            Self::Stream => "stream",
            Self::Resource => "resource",
            Self::Action => "action",
            Self::RecordId => "record_id",
            Self::Sequence => "sequence",
            Self::Cause => "cause",
            Self::Data => "data",
            Self::Previous => "previous",
            Self::Meta => "meta",
            Self::Enrichment => "enrichment",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variable| variable.name() == name)
    }

    /// Whether it is text in every event, so that it has no members.
    pub(super) const fn is_text(self) -> bool {
        !matches!(self, Self::Sequence | Self::Cause | Self::Data | Self::Previous | Self::Meta | Self::Enrichment)
    }

    /// The text, where the ledger's row has it apart from the body.
    pub(super) fn of_row(self, event: &Recorded) -> Option<&str> {
        match self {
            Self::Id => Some(&event.id),
            Self::Type => Some(event.event_type.as_str()),
            Self::Account => Some(event.account.as_str()),
            Self::Resource => Some(event.event_type.resource()),
            Self::Action => Some(event.event_type.action()),
            Self::RecordId => Some(&event.record_id),
            Self::Timestamp
            | Self::Stream
            | Self::Sequence
            | Self::Cause
            | Self::Data
            | Self::Previous
            | Self::Meta
            | Self::Enrichment => None,
        }
    }

    /// Whether all events of one account and type have the same value.
    const fn is_of_the_kind(self) -> bool {
        matches!(self, Self::Type | Self::Account | Self::Resource | Self::Action)
    }
}

/// A set of [`Variable`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses(u16);

impl Uses {
    pub(super) fn add(&mut self, variable: Variable) {
        self.0 |= 1 << variable as u16;
    }

    pub(super) const fn has(self, variable: Variable) -> bool {
        self.0 & (1 << variable as u16) != 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Variable> {
        Variable::ALL.into_iter().filter(move |variable| self.has(*variable))
    }

    /// Whether the outcome is the same for all events of one account and type.
    pub(super) fn only_the_kind(self) -> bool {
        self.iter().all(Variable::is_of_the_kind)
    }
}

/// The candidate that `word` was most likely meant to be.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The resources whose events a dialect is known to emit, in the canonical spelling (sell-api.md R4 and L4).
pub(super) const fn resources(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::Reference => &["lead", "deal", "contact", "activity", "organization"],
        Dialect::Live => &[
            "appointment",
            "associated_contact",
            "call",
            "collaboration",
            "contact",
            "custom_field",
            "deal",
            "document",
            "lead",
            "line_item",
            "note",
            "order",
            "product",
            "source",
            "stage",
            "tag",
            "task",
            "user",
            "visit",
        ],
    }
}

/// Sample events of the types that a dialect emits. Values have the JSON types that the vendor gives them.
pub(super) fn samples(dialect: Dialect) -> Vec<Recorded> {
    let actions = ["created", "updated", "deleted"];
    let kinds = resources(dialect).iter().flat_map(|resource| actions.map(|action| (*resource, action)));
    kinds.map(|(resource, action)| sample(dialect, resource, action)).collect()
}

fn sample(dialect: Dialect, resource: &str, action: &str) -> Recorded {
    let fields = match (dialect, resource) {
        (Dialect::Reference, "deal") => {
            r#","name":"Enterprise Deal","value":50000,"currency":"USD","stage_id":12,"owner_id":3,"contact_id":77,"updated_at":"2024-02-14T10:30:00Z""#
        }
        (Dialect::Live, "deal") => {
            r#","name":"Enterprise Deal","value":"50000.00","currency":"USD","stage_id":12,"owner_id":3,"contact_id":77,"hot":false,"tags":[],"custom_field_values":[]"#
        }
        (_, "contact" | "lead" | "organization") => {
            r#","name":"Ann Lee","first_name":"Ann","last_name":"Lee","email":"ann@example.com","owner_id":3,"tags":[]"#
        }
        _ => r#","name":"Sample","owner_id":3"#,
    };
    let (fields, previous) = match action {
        "created" => (fields, ""),
        "updated" => (fields, r#""previous":{"owner_id":2},"#),
        _ => ("", ""),
    };
    let stream = format!("{resource}s");
    let body = format!(
        r#"{{"id":"sample-1","type":"{resource}.{action}","timestamp":"2024-02-14T10:30:00Z","data":{{"{resource}":{{"id":456{fields}}}}},{previous}"meta":{{"account":"sample","stream":"{stream}","sequence":7,"cause":"interaction"}}}}"#
    );
    Recorded {
        seq: Seq(1),
        chain: Chain([0; 32]),
        account: "sample".into(),
        event_type: format!("{resource}.{action}").into(),
        id: "sample-1".into(),
        record_id: "456".into(),
        occurred_at: Some(SAMPLE_TIME),
        recorded_at: SAMPLE_TIME,
        content_hash: ContentHash([0; 16]),
        body: Bytes::from(body),
        replay: None,
    }
}

const SAMPLE_TIME: OffsetDateTime = datetime!(2024-02-14 10:30 UTC);
