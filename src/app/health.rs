//! What `/readyz` says: every part of the program notes here what keeps it from working, and takes it back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How bad a reason is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// Works.
    Ready,
    /// Works, but a person should look: a sink lags or is halted, an account is refused.
    Degraded,
    /// Does not work (yet, or any more).
    Unready,
}

/// One reason not to be simply ready.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reason {
    /// Which part says so: `ledger`, `shard/0`, `sink/crm/0`, `account/acme`.
    pub part: String,
    /// How bad it is.
    pub readiness: Readiness,
    /// Why, in words.
    pub why: String,
}

/// The notes of all parts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, (Readiness, String)>>>);

impl Health {
    /// Replaces what `part` says; `Ready` takes its note back.
    pub fn note(&self, part: &str, readiness: Readiness, why: impl Into<String>) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if readiness == Readiness::Ready {
            notes.remove(part);
        } else {
            notes.insert(part.to_owned(), (readiness, why.into()));
        }
    }

    /// Takes back the notes of `part` and of all parts below it (`shard/0` of `shard/0/sink/crm`).
    pub fn forget(&self, part: &str) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.retain(|name, _| !is_of(name, part));
    }

    /// Notes one reason in place of all that `part` and the parts below it said; nobody sees anything in between.
    pub fn note_instead(&self, part: &str, readiness: Readiness, why: impl Into<String>) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.retain(|name, _| !is_of(name, part));
        notes.insert(part.to_owned(), (readiness, why.into()));
    }

    /// The worst readiness and all reasons.
    #[must_use]
    pub fn look(&self) -> (Readiness, Vec<Reason>) {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reasons: Vec<Reason> = notes
            .iter()
            .map(|(part, (readiness, why))| Reason { part: part.clone(), readiness: *readiness, why: why.clone() })
            .collect();
        let worst = reasons.iter().map(|reason| reason.readiness).max().unwrap_or(Readiness::Ready);
        (worst, reasons)
    }
}

/// Whether `name` is `part` or one below it.
fn is_of(name: &str, part: &str) -> bool {
    name.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_note_decides_and_a_part_takes_back_what_it_said() {
        let health = Health::default();
        assert_eq!(health.look(), (Readiness::Ready, Vec::new()));
        health.note("shard/0/sink/crm", Readiness::Degraded, "halted");
        health.note("ledger", Readiness::Unready, "out of reach");
        assert_eq!(health.look().0, Readiness::Unready);
        health.note("ledger", Readiness::Ready, "");
        assert_eq!(health.look().0, Readiness::Degraded);
        health.note("shard/01", Readiness::Degraded, "another shard");
        health.forget("shard/0");
        assert_eq!(health.look().1.len(), 1);
        health.note("shard/01/sink/crm", Readiness::Degraded, "halted");
        health.note_instead("shard/01", Readiness::Unready, "this is a copy");
        let told: Vec<_> = health.look().1.into_iter().map(|reason| (reason.part, reason.readiness)).collect();
        assert_eq!(told, [("shard/01".to_owned(), Readiness::Unready)]);
    }
}
