// SPDX-License-Identifier: GPL-2.0

//! Each fault is found, where it should be, and by what it should do.

use collapse_model::{fault::Fault, model::explore, print, scope::short, state::Violation};

/// Has the model find `fault` in `scope`, in less than `steps` steps.
fn finds(fault: Fault, scope: &str, violation: Violation, steps: usize) {
    let scope = short()
        .into_iter()
        .find(|candidate| candidate.name == scope)
        .expect("no such scope");
    let name = scope.name.clone();
    let report = explore(scope, Some(fault));
    let trace = report.trace.as_ref().expect("it was not noticed");

    println!("{fault:?} in {name}: {report}\n{}", print::trace(trace));
    assert_eq!(trace.violation, Some(violation));
    assert!(
        trace.steps.len() < steps,
        "{} steps, that is no less than {steps}",
        trace.steps.len()
    );
}

/// The fault does no harm in `scope`: something else stands in for what was taken out.
fn passes(fault: Fault, scope: &str) {
    let scope = short()
        .into_iter()
        .find(|candidate| candidate.name == scope)
        .expect("no such scope");
    let report = explore(scope, Some(fault));

    println!("{fault:?}: {report}");
    assert!(report.trace.is_none());
}

macro_rules! faults {
    ($($test:ident: $fault:ident in $scope:literal is $violation:ident within $steps:literal;)*) => {
        $(
            #[test]
            fn $test() {
                finds(Fault::$fault, $scope, Violation::$violation, $steps);
            }
        )*
    };
}

faults! {
    h1_slots_kept: H1SlotsKept in "stores" is UseAfterFree within 60;
    h1_slots_kept_and_moved: H1SlotsKept in "move" is UseAfterFree within 60;
    h2_plain_reference: H2PlainReference in "numa" is StaleRead within 60;
    h3_plain_reference_unlocked: H3PlainReferenceUnlocked in "reclaim" is StaleRead within 60;
    h4_refused_unflushed: H4RefusedUnflushed in "mprotect" is ForbiddenWrite within 60;
    h4_unchanged_unflushed: H4UnchangedUnflushed in "numa" is StaleRead within 60;
    h5_round_untold: H5RoundUntold in "secondary" is StaleRead within 60;
    h6_copied_then_counted: H6CopiedThenCounted in "gup" is StaleRead within 60;
    h7_read_only_vma: H7ReadOnlyVma in "force" is StaleRead within 60;
    h7_uffd_vma: H7UffdVma in "userfaultfd" is StaleRead within 60;
    h8_unlocked_count: H8UnlockedCount in "large folio" is StaleRead within 60;
    h9_copies_without_bound: H9CopiesWithoutBound in "writers" is Stall within 60;
    h9_no_old_way: H9NoOldWay in "writers" is NotCollapsed within 80;
    h10_unlocked: H10Unlocked in "two collapses" is NotCollapsed within 90;
    h11_vma_unlocked: H11VmaUnlocked in "fork" is StaleRead within 60;
    h12_not_read_back: H12NotReadBack in "stores" is NeedlessCopy within 60;
    h12_zero_dropped_early: H12ZeroDroppedEarly in "poke" is TableChanged within 60;
    h12_dirty_bit_only: H12DirtyBitOnly in "gup" is StaleRead within 60;
    h12_unstable_ignored: H12UnstableIgnored in "reaper" is ReapedReadable within 60;
    h13_unlocked: H13Unlocked in "longterm" is HardFailure within 60;
    h13_unlocked_and_moved: H13Unlocked in "move" is HardFailure within 60;
    counted_then_protected: CountedThenProtected in "gup" is StaleRead within 60;
    copied_then_flushed: CopiedThenFlushed in "stores" is StaleRead within 60;
    switch_unflushed: SwitchUnflushed in "stores" is StaleRead within 60;
    switch_uncounted: SwitchUncounted in "gup" is StaleRead within 60;
    compared_then_hidden: ComparedThenHidden in "stores" is StaleRead within 60;
    hidden_by_none: HiddenByNone in "zap" is StaleRead within 60;
    switch_untold: SwitchUntold in "secondary" is StaleRead within 60;
    unlocked_then_unpinned: UnlockedThenUnpinned in "move" is HardFailure within 60;
    isolated_uncounted: IsolatedUncounted in "old way, gup" is StaleRead within 60;
    saved_pte_restored: SavedPteRestored in "old way, userfaultfd and gup" is ForbiddenWrite within 60;
    isolated_uncompared: IsolatedUncompared in "old way, userfaultfd and gup" is ForbiddenWrite within 60;
}

/// Reclaim needs the folio lock, so that the lock alone keeps it away from a source.
#[test]
fn the_lock_alone_keeps_reclaim_away() {
    passes(Fault::H2PlainReference, "reclaim");
}

/// And so does the pin alone.
#[test]
fn the_pin_alone_keeps_reclaim_away() {
    passes(Fault::H13Unlocked, "reclaim");
}
