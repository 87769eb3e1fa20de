//! What is built wrong on purpose: a simulation that does not find these finds nothing.

use standpipe::ledger::model;

/// A fault of construction. Those of the ledger are in its model; those of the Kafka sink stand between it and the
/// broker, where its types do not let them be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Ledger(model::Flaw),
    /// INV-8: the cursor is read, then the older producer is fenced.
    CursorBeforeInit,
    /// INV-8: the cursor is read up to the last stable offset.
    LastStable,
    /// INV-7: where to go on is read from the ledger's copy.
    CursorInLedgerOnly,
    /// INV-9: the next start goes on with the producer of the last one.
    ProducerKept,
    /// INV-7: the cursor has a transaction of its own, after that of its events.
    CursorApart,
    /// INV-13: a webhook id that changes with the process.
    RandomWebhookId,
    /// INV-18: one partition is not read back.
    TailLeftOut,
    /// What a sink is reconciled with is not read: everything behind the ledger's oldest event is missing.
    HeldUnread,
}

impl Flaw {
    pub const ALL: [(&'static str, Self); 16] = [
        ("epoch-unchecked", Self::Ledger(model::Flaw::EpochUnchecked)),
        ("position-first", Self::Ledger(model::Flaw::PositionFirst)),
        ("dedupe-forgets", Self::Ledger(model::Flaw::DedupeForgets)),
        ("sequence-object", Self::Ledger(model::Flaw::SequenceObject)),
        ("position-unchecked", Self::Ledger(model::Flaw::PositionUnchecked)),
        ("cursor-before-init", Self::CursorBeforeInit),
        ("last-stable-offset", Self::LastStable),
        ("cursor-in-ledger-only", Self::CursorInLedgerOnly),
        ("producer-kept", Self::ProducerKept),
        ("cursor-apart", Self::CursorApart),
        ("random-webhook-id", Self::RandomWebhookId),
        ("void-unmarked", Self::Ledger(model::Flaw::VoidUnmarked)),
        ("void-too-short", Self::Ledger(model::Flaw::VoidTooShort)),
        ("skips-forgotten", Self::Ledger(model::Flaw::SkipsForgotten)),
        ("tail-left-out", Self::TailLeftOut),
        ("held-unread", Self::HeldUnread),
    ];

    /// The one that `STANDPIPE_MUTANT` names.
    pub fn named(name: &str) -> Self {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.unwrap_or_else(|| panic!("no mutant is called {name}: {:?}", Self::ALL.map(|(name, _)| name))).1
    }

    pub const fn of_ledger(self) -> Option<model::Flaw> {
        match self {
            Self::Ledger(flaw) => Some(flaw),
            _ => None,
        }
    }
}
