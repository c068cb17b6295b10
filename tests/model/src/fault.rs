// SPDX-License-Identifier: GPL-2.0

//! Faults: safeguards that are taken out of the protocol, to show that the model notices.

use clap::ValueEnum;

/// The names that begin with `H` are the holes of a draft of the protocol; the others are
/// safeguards that it has besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Fault {
    /// The slots of a hidden table are not cleared when the huge page is mapped.
    H1SlotsKept,
    /// Sources are referenced, not pinned.
    H2PlainReference,
    /// Sources are referenced, not pinned, and not locked.
    H3PlainReferenceUnlocked,
    /// A window that is refused after it was write-protected is not flushed.
    H4RefusedUnflushed,
    /// There is no flush where no PTE was changed.
    H4UnchangedUnflushed,
    /// Another round tells no secondary MMU.
    H5RoundUntold,
    /// The switch copies again, and then counts.
    H6CopiedThenCounted,
    /// VMAs without VM_WRITE are protected, too.
    H7ReadOnlyVma,
    /// VMAs with userfaultfd write protection are protected, too.
    H7UffdVma,
    /// Sources are pinned, but not locked: others change the swap cache while they are counted.
    H8UnlockedCount,
    /// The switch copies as many pages as were written.
    H9CopiesWithoutBound,
    /// A window that is written all the time is given up.
    H9NoOldWay,
    /// Sources are not locked: two collapses see each other's pins.
    H10Unlocked,
    /// The VMA lock is given up for the copy.
    H11VmaUnlocked,
    /// The entry that is left in a slot is computed, not read back.
    H12NotReadBack,
    /// Zero pages are dropped before the slots are compared.
    H12ZeroDroppedEarly,
    /// A slot is taken for written only if it is dirty.
    H12DirtyBitOnly,
    /// MMF_UNSTABLE is not asked.
    H12UnstableIgnored,
    /// Sources are not locked: others fail for good where they would have waited.
    H13Unlocked,
    /// References are counted before the PTEs are made read-only.
    CountedThenProtected,
    /// The copy does not wait for the flush.
    CopiedThenFlushed,
    /// The switch does not flush.
    SwitchUnflushed,
    /// The switch does not count.
    SwitchUncounted,
    /// The slots are compared before the table is hidden.
    ComparedThenHidden,
    /// The PMD entry is none while the table is hidden.
    HiddenByNone,
    /// The switch is not inside a notifier range.
    SwitchUntold,
    /// Sources that are given back are unlocked before they are unpinned.
    UnlockedThenUnpinned,
    /// The old way does not count.
    IsolatedUncounted,
    /// The old way puts the PTEs back that it has saved.
    SavedPteRestored,
    /// The old way does not compare the slots.
    IsolatedUncompared,
}
