//! Faults that a test build (feature `failpoints`) carries on purpose, one at a time: `STANDPIPE_MUTANT=NAME`.
//!
//! A suite that passes with one of them proves less than it says. `tests/run mutants` plants each and fails unless the
//! test that `tests/tools/mutants` names for it fails. Where the program's own types make a fault impossible it is
//! planted in a twin of the simulation; where the fault is one of SQL, in the recording function
//! (`tests/support/mutants.rs`). A release holds nothing of this: [`planted`] is `false` there, known to the compiler.

/// What can be built wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// INV-7: where a Kafka sink goes on is read from the ledger's copy.
    CursorInLedgerOnly,
    /// INV-7: the cursor has a transaction of its own, after that of its events.
    CursorApart,
    /// INV-8: the cursor is read, then the older producer is fenced.
    CursorBeforeInit,
    /// INV-8: a start reads the cursor and goes on under the last start's epoch, without `init_transactions`.
    InitSkipped,
    /// INV-8: all shards of a sink keep their cursors in one partition.
    SharedCursorPartition,
    /// INV-8: partitions are read up to the last stable offset, not the high watermark.
    LastStableOffset,
    /// INV-9: what is in doubt is sent again by the producer that is in doubt.
    ProducerKept,
    /// INV-9: a transaction is committed whatever became of its messages.
    ReportsNotCounted,
    /// INV-2: a seq that was given for nothing stays away, as with a sequence object.
    SequenceObject,
    /// INV-1: the position is committed before the events.
    PositionFirst,
    /// INV-1: ids, positions and events are written by one statement whose parts share a snapshot.
    OneStatement,
    /// INV-1: ids are forgotten while the source still gives their events.
    DedupeTooShort,
    /// INV-3: a page is recorded wherever its stream is.
    PositionUnchecked,
    /// INV-6: any owner may write.
    EpochUnchecked,
    /// INV-15: what found no room in a sink's channel is lost to it.
    ChannelDrops,
    /// INV-12: a later event of a record goes out beside an earlier one.
    LaneOvertaken,
    /// INV-13: another webhook id at every start.
    RandomWebhookId,
    /// INV-18: what Kafka has used beyond the head is given again.
    VoidUnmarked,
    /// INV-18: the head is raised once, not to the furthest sink.
    VoidTooShort,
    /// INV-18: nothing of what a sink has delivered is known again.
    SkipsForgotten,
    /// INV-18: a ledger that is rewound once more, to before it noted a rehydration, is taken for one that knows of it.
    RehydrationForgotten,
    /// INV-18: a sink at the end of a void has crossed it, whatever its cursor says.
    CrossingUnread,
    /// A reconciliation goes by seqs alone: it does not ask whether the ledger has what the topics end with.
    StrangerUnread,
    /// INV-8: a partition that was about to get its first message is not looked into.
    OpeningUnread,
    /// INV-18: one partition is not read back.
    TailLeftOut,
    /// What a topic holds is not read before it is mended: everything that the ledger keeps is missing.
    HeldUnread,
    /// A redirect is followed.
    RedirectFollowed,
    /// Addresses are looked at in the URL, and not where a name has led to them.
    AddressUnchecked,
    /// What a replica held that did not come back counts as not spent.
    SliceForgotten,
    /// What the vendor gave is used before it is kept.
    GrantUnkept,
    /// An event drops no kept answer.
    EventUnheard,
    /// An answer that was on its way when its record changed counts as of now.
    OldAnswerKept,
    /// An event that must wait for a lookup goes without.
    WaitSkipped,
}

impl Mutant {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 33] = [
        ("cursor-in-ledger-only", Self::CursorInLedgerOnly),
        ("cursor-apart", Self::CursorApart),
        ("cursor-before-init", Self::CursorBeforeInit),
        ("init-skipped", Self::InitSkipped),
        ("shared-cursor-partition", Self::SharedCursorPartition),
        ("last-stable-offset", Self::LastStableOffset),
        ("producer-kept", Self::ProducerKept),
        ("reports-not-counted", Self::ReportsNotCounted),
        ("sequence-object", Self::SequenceObject),
        ("position-first", Self::PositionFirst),
        ("one-statement", Self::OneStatement),
        ("dedupe-too-short", Self::DedupeTooShort),
        ("position-unchecked", Self::PositionUnchecked),
        ("epoch-unchecked", Self::EpochUnchecked),
        ("channel-drops", Self::ChannelDrops),
        ("lane-overtaken", Self::LaneOvertaken),
        ("random-webhook-id", Self::RandomWebhookId),
        ("void-unmarked", Self::VoidUnmarked),
        ("void-too-short", Self::VoidTooShort),
        ("skips-forgotten", Self::SkipsForgotten),
        ("rehydration-forgotten", Self::RehydrationForgotten),
        ("crossing-unread", Self::CrossingUnread),
        ("stranger-unread", Self::StrangerUnread),
        ("opening-unread", Self::OpeningUnread),
        ("tail-left-out", Self::TailLeftOut),
        ("held-unread", Self::HeldUnread),
        ("redirect-followed", Self::RedirectFollowed),
        ("address-unchecked", Self::AddressUnchecked),
        ("slice-forgotten", Self::SliceForgotten),
        ("grant-unkept", Self::GrantUnkept),
        ("event-unheard", Self::EventUnheard),
        ("old-answer-kept", Self::OldAnswerKept),
        ("wait-skipped", Self::WaitSkipped),
    ];
}

/// Whether this process has the fault.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn planted(_: Mutant) -> bool {
    false
}

#[cfg(feature = "failpoints")]
pub use asked::{planted, read};

#[cfg(feature = "failpoints")]
mod asked {
    use std::sync::LazyLock;

    use super::Mutant;

    /// Names none of them: the run beside which the others are judged.
    const NONE: &str = "none";

    static ASKED: LazyLock<Option<Mutant>> = LazyLock::new(|| {
        let name = std::env::var("STANDPIPE_MUTANT").ok().filter(|name| name != NONE)?;
        let known = Mutant::ALL.iter().find(|(known, _)| *known == name);
        Some(known.unwrap_or_else(|| panic!("no mutant is called {name}: {:?}", Mutant::ALL.map(|(name, _)| name))).1)
    });

    /// Whether this process has the fault.
    ///
    /// # Panics
    /// When `STANDPIPE_MUTANT` names no mutant: a run without the fault would show nothing.
    #[must_use]
    pub fn planted(mutant: Mutant) -> bool {
        *ASKED == Some(mutant)
    }

    /// Reads `STANDPIPE_MUTANT`, so that a wrong name is found at once.
    ///
    /// # Panics
    /// As [`planted`].
    pub fn read() {
        LazyLock::force(&ASKED);
    }
}
