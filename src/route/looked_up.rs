//! What filters and templates may say of `enrichment`: the lookups of their sink, and the members of an answer.

use super::shape::nearest;
use crate::config::EnrichConfig;

/// The members of an answer, as `enrich` writes them.
const ANSWER: [&str; 5] = ["id", "source", "as_of", "age_seconds", RECORD];
/// That of them which is the record.
const RECORD: &str = "data";

/// One lookup, as rules see it.
#[derive(Clone, Debug)]
pub(super) struct LookedUp {
    name: String,
    /// The members of the record that are delivered; none for all.
    fields: Option<Vec<String>>,
}

impl LookedUp {
    pub(super) fn of(config: &EnrichConfig) -> Self {
        Self { name: config.name.clone(), fields: config.fields.clone() }
    }
}

/// What is wrong with the last name of a path of members below `enrichment`, which no event will ever have. The names
/// before it have been asked for by themselves.
pub(super) fn unknown_member(path: &[&str], all: &[LookedUp]) -> Option<String> {
    let [name, below @ ..] = path else { return None };
    let Some(lookup) = all.iter().find(|known| known.name == *name) else {
        let known = all.iter().map(|known| known.name.as_str());
        return (below.is_empty() && !all.is_empty()).then(|| match nearest(name, known.clone()) {
            Some(near) => format!("nothing is looked up as `{name}`; did you mean `{near}`?"),
            None => format!("nothing is looked up as `{name}`, but {}", known.collect::<Vec<_>>().join(", ")),
        });
    };
    match below {
        [member] if !ANSWER.contains(member) => {
            let hint = match nearest(member, ANSWER) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the record is in `{RECORD}`: enrichment.{name}.{RECORD}.{member}"),
            };
            Some(format!("an answer has no member `{member}`, but {}; {hint}", ANSWER.join(", ")))
        }
        [RECORD, member] => {
            let fields = lookup.fields.as_ref().filter(|fields| fields.iter().all(|field| field != member))?;
            Some(format!("`{member}` is not among the `fields` of this lookup: {}", fields.join(", ")))
        }
        _ => None,
    }
}
