//! Core's resources (sell-api.md R5, L5).

use crate::event::ports::Dialect;

/// What Core has by id, as it stands in paths, and the resource as events name it.
const REFERENCE: [(&str, &str); 8] = [
    ("activities", "activity"),
    ("apps", "app"),
    ("contacts", "contact"),
    ("deals", "deal"),
    ("leads", "lead"),
    ("organizations", "organization"),
    ("pipelines", "pipeline"),
    ("stages", "stage"),
];
const LIVE: [(&str, &str); 19] = [
    ("calls", "call"),
    ("collaborations", "collaboration"),
    ("contacts", "contact"),
    ("deal_sources", "deal_source"),
    ("deal_unqualified_reasons", "deal_unqualified_reason"),
    ("deals", "deal"),
    ("lead_conversions", "lead_conversion"),
    ("lead_sources", "lead_source"),
    ("lead_unqualified_reasons", "lead_unqualified_reason"),
    ("leads", "lead"),
    ("loss_reasons", "loss_reason"),
    ("notes", "note"),
    ("orders", "order"),
    ("products", "product"),
    ("sources", "source"),
    ("tags", "tag"),
    ("tasks", "task"),
    ("text_messages", "text_message"),
    ("users", "user"),
];

/// The resource whose events tell of the records of a collection; none where it is not known.
#[must_use]
pub fn event_resource(collection: &str) -> Option<&'static str> {
    REFERENCE.iter().chain(&LIVE).find(|(known, _)| *known == collection).map(|(_, resource)| *resource)
}

/// The collections whose records the dialect gives by id.
pub fn collections(dialect: Dialect) -> impl Iterator<Item = &'static str> {
    let known: &'static [(&str, &str)] = match dialect {
        Dialect::Reference => &REFERENCE,
        Dialect::Live => &LIVE,
    };
    known.iter().map(|(collection, _)| *collection)
}

/// Why a dialect gives no records of a collection by id, with what to write instead; none where it does.
#[must_use]
pub fn never_looked_up(dialect: Dialect, collection: &str) -> Option<String> {
    if collections(dialect).any(|known| known == collection) {
        return None;
    }
    Some(match (dialect, collection) {
        (Dialect::Live, "organizations") => {
            "the live dialect has organizations as contacts with `is_organization`: look up contacts".to_owned()
        }
        (Dialect::Live, "activities") => {
            "the live dialect has activities apart: calls, tasks, notes, text_messages".to_owned()
        }
        _ => {
            let likeness = |known: &str| strsim::normalized_damerau_levenshtein(collection, known);
            let nearest = collections(dialect).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
            match nearest.filter(|known| likeness(known) >= 0.7) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the {} dialect is not known to give them by id", dialect.as_str()),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dialect_does_not_give_is_told_with_what_to_write_instead() {
        let told = |dialect, collection| never_looked_up(dialect, collection).unwrap_or_default();
        assert_eq!(told(Dialect::Live, "contacts") + &told(Dialect::Reference, "organizations"), "");
        assert!(told(Dialect::Live, "organizations").contains("look up contacts"));
        assert!(told(Dialect::Live, "activities").contains("calls, tasks"));
        assert_eq!(told(Dialect::Reference, "contact"), "did you mean `contacts`?");
        assert_eq!(told(Dialect::Reference, "users"), "the reference dialect is not known to give them by id");
        assert_eq!(event_resource("contacts"), Some("contact"));
        assert_eq!(event_resource("activities"), Some("activity"));
        assert_eq!(event_resource("weather"), None);
    }
}
