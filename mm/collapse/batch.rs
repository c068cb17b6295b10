// SPDX-License-Identifier: GPL-2.0

//! Windows that pass together, under one hold of the lock that keeps their VMA stable.

use crate::{
    control::{
        Kit,
        Spare, //
    },
    copy::Copied,
    entry::{
        hold_after,
        Pass, //
    },
    install::Hooked,
    isolate::{
        Isolated,
        NotIsolated, //
    },
    outcome::Refusal,
    policy::Limits,
    release::Installed,
    trace, //
};
use kernel::{
    alloc::KVec,
    mm::{
        folio::{
            self,
            FolioPtr, //
        },
        mmu_notifier::InvalidateRange,
        pgtable::{
            PmdKind,
            PMD_SIZE, //
        },
        stable::StableVma,
        tlb::{
            Flushed,
            OwedFlush, //
        },
    },
    prelude::*,
    task::cond_resched,
};

/// How a window left its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is huge.
    Huge,
    /// It was refused.
    Refused(Refusal),
    /// It was put back so that somebody who waits for our lock, or another window that needs the
    /// same folio, comes first; or it lies in another VMA by now.
    Deferred,
}

/// A window as the request knows it.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) addr: usize,
    /// How often it was refused for what may be gone in a moment.
    pub(crate) failed: u8,
}

/// A window with all it needs, about to be isolated.
pub(crate) struct Ready<'mm> {
    pub(crate) window: Attempt,
    pub(crate) kit: Kit<'mm>,
}

/// How far a window has come.
enum Stage<'v, 'mm> {
    Ready(Ready<'mm>),
    Isolated(Isolated<'v, 'mm>),
    Copied(Copied<'v, 'mm>),
    Hooked(Hooked<'v, 'mm>),
    Installed(Installed<'v>),
    /// It is on its way through [`Window::step`], or has left.
    Left(Verdict),
}

struct Window<'v, 'mm> {
    attempt: Attempt,
    stage: Stage<'v, 'mm>,
}

impl<'v, 'mm> Window<'v, 'mm> {
    /// Takes the window one step further.
    fn step(&mut self, f: impl FnOnce(Stage<'v, 'mm>) -> Stage<'v, 'mm>) {
        let stage = core::mem::replace(&mut self.stage, Stage::Left(Verdict::Deferred));

        self.stage = f(stage);
    }

    fn has_recurring(&self, folio: FolioPtr) -> bool {
        match &self.stage {
            Stage::Isolated(window) => window.sources.has_recurring(folio),
            _ => false,
        }
    }
}

/// Takes windows of one PMD table through all passes, and calls `leave` for each. The first of them
/// lies in `vma`.
///
/// Returns whether somebody waited for the lock.
pub(crate) fn run<'mm>(
    spare: &mut Spare<'mm>,
    vma: &StableVma<'mm>,
    limits: Limits,
    ready: KVec<Ready<'mm>>,
    mut leave: impl FnMut(Attempt, Verdict),
) -> bool {
    let (Some(first), Some(last)) = (
        ready.iter().map(|ready| ready.window.addr).min(),
        ready.iter().map(|ready| ready.window.addr).max(),
    ) else {
        return false;
    };
    let Ok(mut windows) = KVec::with_capacity(ready.len(), GFP_KERNEL) else {
        for Ready { window, kit } in ready {
            leave(window, Verdict::Refused(Refusal::NoMemory));
            spare.keep(kit);
        }
        return false;
    };
    for ready in ready {
        // There is room for all of them.
        let _ = windows.push_within_capacity(Window {
            attempt: ready.window,
            stage: Stage::Ready(ready),
        });
    }

    let batch = Batch {
        vma,
        limits,
        start: first,
        end: last.saturating_add(PMD_SIZE),
    };
    let contended = batch.collapse(spare, &mut windows);

    for window in windows {
        // All of them have left.
        if let Stage::Left(verdict) = window.stage {
            leave(window.attempt, verdict);
        }
    }
    contended
}

/// What the windows of a batch have in common.
struct Batch<'v> {
    vma: &'v StableVma<'v>,
    limits: Limits,
    start: usize,
    end: usize,
}

impl<'v> Batch<'v> {
    fn collapse<'mm: 'v>(&self, spare: &mut Spare<'mm>, windows: &mut [Window<'v, 'mm>]) -> bool {
        let mut held = trace::Held::begin();

        // What was faulted in, or mapped lately by this CPU, is referenced by its LRU caches.
        folio::lru_add_drain();

        // Secondary MMUs lose the range before the first PTE is cleared, and get it back when all
        // is mapped. Start and end may sleep: neither page table nor folio is locked there.
        let invalidate = InvalidateRange::clear(self.vma, self.start, self.end);
        pin_init::stack_pin_init!(let range = invalidate);

        // Until the flush, who zaps one of our entries has to flush too, see `OwedFlush`.
        let owed = OwedFlush::begin(self.vma, self.start, self.end);
        held.sources_begin();
        let mut contended = self.isolate(spare, windows, &owed);

        if windows
            .iter()
            .any(|window| matches!(window.stage, Stage::Isolated(_)))
        {
            let flushed = owed.flush();

            hold_after(Pass::Isolate);
            contended |= self.copy(spare, windows, &flushed);
            hold_after(Pass::Copy);
            self.install(spare, windows);
            hold_after(Pass::Install);
            self.release(spare, windows);
        } else {
            // What was cleared was restored under the same hold of its lock.
            owed.void();
        }
        held.sources_end();
        let _ = range;

        trace::batch(
            self.vma.mm(),
            self.start,
            windows.iter().map(|window| match window.stage {
                Stage::Left(verdict) => verdict,
                _ => Verdict::Deferred,
            }),
            &held,
        );
        contended
    }

    fn isolate<'mm: 'v>(
        &self,
        spare: &mut Spare<'mm>,
        windows: &mut [Window<'v, 'mm>],
        owed: &OwedFlush<'v>,
    ) -> bool {
        let mut contended = false;

        for i in 0..windows.len() {
            let Some((before, [window, ..])) = windows.split_at_mut_checked(i) else {
                break;
            };
            window.step(|stage| {
                let Stage::Ready(Ready { window, kit }) = stage else {
                    return stage;
                };
                if contended {
                    spare.keep(kit);
                    return Stage::Left(Verdict::Deferred);
                }
                if !self.vma.has_window(window.addr) {
                    // The VMA was split since the window was found in it. That of the first window
                    // was found anew, so each batch gets on.
                    spare.keep(kit);
                    return Stage::Left(Verdict::Deferred);
                }
                let slot = self.vma.pmd(window.addr);
                let slot = match slot.map(|slot| (slot.read().kind(), slot)) {
                    Some((PmdKind::Table, slot)) => slot,
                    Some((PmdKind::Huge, _)) => {
                        // Somebody else was faster.
                        spare.keep(kit);
                        return Stage::Left(Verdict::Huge);
                    }
                    Some((PmdKind::None, _)) | None => {
                        spare.keep(kit);
                        return Stage::Left(Verdict::Refused(Refusal::Empty));
                    }
                };
                match Isolated::new(slot, kit, &self.limits, owed) {
                    Ok(isolated) => Stage::Isolated(isolated),
                    Err((kit, why)) => {
                        spare.keep(kit);
                        // We may have a folio locked ourselves, for a window that comes before.
                        // The first window of a batch never waits for another one, so that each
                        // batch gets on.
                        Stage::Left(match why {
                            NotIsolated::Locked(folio)
                                if before.iter().any(|window| window.has_recurring(folio)) =>
                            {
                                Verdict::Deferred
                            }
                            why => Verdict::Refused(why.refusal()),
                        })
                    }
                }
            });
            // Who waits for us waits for one window, and for what it takes to finish that.
            contended = contended || (i > 0 && self.vma.is_contended());
        }
        contended
    }

    fn copy<'mm: 'v>(
        &self,
        spare: &mut Spare<'mm>,
        windows: &mut [Window<'v, 'mm>],
        flushed: &Flushed<'v>,
    ) -> bool {
        let (mut contended, mut copied) = (false, false);

        for window in windows {
            let stop = copied && (contended || current!().fatal_signal_pending());

            window.step(|stage| {
                let Stage::Isolated(isolated) = stage else {
                    return stage;
                };
                if stop {
                    if let Some(kit) = isolated.roll_back() {
                        spare.keep(kit);
                    }
                    return Stage::Left(Verdict::Deferred);
                }
                match isolated.copy(flushed) {
                    Ok(window) => {
                        copied = true;
                        // Who waits for a page of it waits for this window, not for all of them.
                        contended |= window.isolated().sources.are_waited_for();
                        Stage::Copied(window)
                    }
                    Err(refusal) => Stage::Left(Verdict::Refused(refusal)),
                }
            });
            cond_resched();
            contended = contended || self.vma.is_contended();
        }
        contended
    }

    fn install<'mm: 'v>(&self, spare: &mut Spare<'mm>, windows: &mut [Window<'v, 'mm>]) {
        let Some(slot) = windows.iter().find_map(|window| match &window.stage {
            Stage::Copied(window) => Some(window.isolated().sources.slot()),
            _ => None,
        }) else {
            return;
        };
        let owed = OwedFlush::begin(self.vma, self.start, self.end);
        let mut pmd = slot.lock();
        let mut hooked = false;

        for window in windows.iter_mut() {
            window.step(|stage| match stage {
                Stage::Copied(copied) => match copied.unhook(&mut pmd, &owed) {
                    Ok(window) => {
                        hooked = true;
                        Stage::Hooked(window)
                    }
                    // To be put back when the PMD lock is not held any more.
                    Err(copied) => Stage::Copied(copied),
                },
                stage => stage,
            });
        }
        if hooked {
            let flushed = owed.flush();

            for window in windows.iter_mut() {
                window.step(|stage| match stage {
                    Stage::Hooked(hooked) => Stage::Installed(hooked.map(&mut pmd, &flushed)),
                    stage => stage,
                });
            }
        } else {
            owed.void();
        }
        drop(pmd);

        for window in windows.iter_mut() {
            window.step(|stage| match stage {
                Stage::Copied(copied) => {
                    if let Some(kit) = copied.into_isolated().roll_back() {
                        spare.keep(kit);
                    }
                    Stage::Left(Verdict::Refused(Refusal::Raced))
                }
                stage => stage,
            });
        }
    }

    fn release<'mm: 'v>(&self, spare: &mut Spare<'mm>, windows: &mut [Window<'v, 'mm>]) {
        for window in windows {
            window.step(|stage| match stage {
                Stage::Installed(installed) => {
                    if let Some(saved) = installed.release() {
                        spare.keep_saved(saved);
                    }
                    Stage::Left(Verdict::Huge)
                }
                stage => stage,
            });
            cond_resched();
        }
    }
}
