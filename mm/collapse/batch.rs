// SPDX-License-Identifier: GPL-2.0

//! Windows that pass together, under one hold of the lock that keeps their VMA stable.
//!
//! The passes of a batch are methods of [`Batch`], in the order in which they run. Each consumes
//! the windows that the one before it has produced, whose type says how far they have come:
//!
//! [`Prepared`] → [`Held`] → [`Copied`] → [`Switched`]
//!
//! But windows that map a whole huge page go none of these: see [`crate::remap`].
//!
//! A window that is refused, or put off, gives back what it has and leaves with a [`Verdict`]; the
//! others go on. All memory that the passes need is allocated before the first of them begins.

use crate::{
    copy::Copied,
    hooks::{
        self,
        hold_after,
        Pass, //
    },
    outcome::{
        Refusal,
        Verdict, //
    },
    policy::Limits,
    pool::{
        Pool,
        Prepared,
        PreparedWindows,
        Whole, //
    },
    protect::{
        Judged,
        Pinnable,
        Pinned,
        Reprotected,
        Unflushed, //
    },
    release::Switched,
    remap::{
        remap,
        NotRemapped, //
    },
    sources::{
        Held,
        NotTaken,
        Sources, //
    },
    switch::{
        switch,
        NotSwitched,
        RECOPY_MAX, //
    },
    trace,
    unmap::Unmapped,
    window::{
        Failed,
        Room,
        Way,
        Window, //
    },
};
use kernel::{
    alloc::{
        AllocError,
        KVec, //
    },
    mm::internal::{
        folio::FolioPtr,
        lru,
        mmu_notifier::InvalidateRange,
        pgtable::{
            PmdKind,
            PmdSlot,
            PMD_SIZE, //
        },
        stable::StableVma,
        tlb::OwedFlush,
    },
    prelude::*,
    task::cond_resched,
};

/// How often sources are made read-only once more, where too much of a window was written while it
/// was copied.
const MORE_ROUNDS: usize = 2;

/// Windows that share one hold of the PMD lock and one flush when they are switched. With more of
/// them, each is inaccessible for longer, and there are fewer interrupts.
const WINDOWS_PER_SWITCH: usize = 3;

/// The outcome of a batch.
pub(crate) struct Done {
    /// The windows that are to be told of.
    pub(crate) windows: KVec<(Window, Verdict)>,
    /// Whether something waited for a lock of ours.
    pub(crate) contended: bool,
}

/// Takes windows of one PMD table through all passes. The first of them lies in `vma`. Either all
/// or none of those that are to be copied are to be unmapped.
///
/// # Errors
///
/// When there is no memory for bookkeeping. No window was touched then.
pub(crate) fn run<'mm>(
    pool: &mut Pool<'mm>,
    vma: &StableVma<'mm>,
    limits: Limits,
    windows: PreparedWindows<'mm>,
    held: trace::Held,
) -> Result<Done, AllocError> {
    let nr = windows.len();
    let first = windows.first().map_or(0, |window| window.addr);
    let PreparedWindows { pages, wholes } = windows;
    let start = pages.iter().map(|window| window.window.addr).min();
    let last = pages.iter().map(|window| window.window.addr).max();
    let unmap = pages.iter().any(|window| window.window.way == Way::Unmap);
    let mut batch = Batch {
        pool,
        vma,
        limits,
        start: start.unwrap_or(0),
        end: last.unwrap_or(0).saturating_add(PMD_SIZE),
        done: Room::new(nr)?,
        contended: false,
        held,
    };

    batch.remap(wholes);
    if let Some(pages) = some_of(pages) {
        // This CPU's LRU caches have references to pages that it has faulted in or mapped lately.
        lru::lru_add_drain();
        match Pinnable::of(vma).filter(|_| !unmap && !hooks::unmaps_all()) {
            Some(pinnable) => batch.collapse_mapped(&pinnable, pages)?,
            None => batch.collapse_unmapped(pages)?,
        }
    }

    let Batch {
        done,
        contended,
        held,
        ..
    } = batch;
    let windows = done.into_inner();

    trace::batch(
        vma.mm(),
        first,
        windows.iter().map(|(_, verdict)| *verdict),
        &held,
    );
    Ok(Done { windows, contended })
}

/// The windows, if there are any.
fn some_of<W>(windows: Room<W>) -> Option<KVec<W>> {
    if windows.is_empty() {
        return None;
    }
    Some(windows.into_inner())
}

/// Room for what comes of the windows of a batch when they are switched.
struct SwitchRooms<'v, 'mm, S> {
    switched: Room<Switched<'v>>,
    failed: Room<Failed<Copied<'mm, S>, NotSwitched>>,
}

impl<S> SwitchRooms<'_, '_, S> {
    fn new(nr: usize) -> Result<Self, AllocError> {
        Ok(Self {
            switched: Room::new(nr)?,
            failed: Room::new(nr)?,
        })
    }
}

/// The properties that the windows of a batch share.
struct Batch<'a, 'v, 'mm> {
    pool: &'a mut Pool<'mm>,
    vma: &'v StableVma<'mm>,
    limits: Limits,
    start: usize,
    end: usize,
    done: Room<(Window, Verdict)>,
    contended: bool,
    held: trace::Held,
}

impl<'v, 'mm: 'v> Batch<'_, 'v, 'mm> {
    /// Collapses windows whose sources stay mapped until the switch.
    fn collapse_mapped(
        &mut self,
        pinnable: &Pinnable<'v>,
        windows: KVec<Prepared<'mm>>,
    ) -> Result<(), AllocError> {
        let nr = windows.len();
        let (room, copied) = (Room::new(nr)?, Room::new(nr)?);
        let quiet = Room::new(nr)?;
        let switching = SwitchRooms::new(nr)?;

        self.held.sources_begin();
        if let Some(protected) = self.protect(pinnable, windows, room) {
            hold_after(Pass::Protect);
            let copied = self.copy(protected, copied);

            hold_after(Pass::Copy);
            let quiet = self.recheck(copied.into_inner(), quiet);
            let switched = self.switch(quiet.into_inner(), switching);

            hold_after(Pass::Switch);
            self.release(switched);
        }
        self.held.sources_end();
        Ok(())
    }

    /// Collapses windows whose sources have migration entries in their place from the beginning.
    fn collapse_unmapped(&mut self, windows: KVec<Prepared<'mm>>) -> Result<(), AllocError> {
        let nr = windows.len();
        let (room, copied) = (Room::new(nr)?, Room::new(nr)?);
        let switching = SwitchRooms::new(nr)?;

        self.held.sources_begin();
        if let Some(unmapped) = self.unmap(windows, room) {
            hold_after(Pass::Unmap);
            let copied = self.copy(unmapped, copied);

            hold_after(Pass::Copy);
            let switched = self.switch(copied.into_inner(), switching);

            hold_after(Pass::Switch);
            self.release(switched);
        }
        self.held.sources_end();
        Ok(())
    }

    fn finish(&mut self, window: Prepared<'mm>, verdict: Verdict) {
        self.done.put((window.window, verdict));
        self.pool.keep(window.prealloc);
    }

    /// Where the PMD entry of a window lies, if that is a window to collapse. Otherwise the window
    /// leaves.
    fn find_table(&mut self, window: Prepared<'mm>) -> Option<(PmdSlot<'v>, Prepared<'mm>)> {
        match self.pmd_slot(window.window) {
            Ok(slot) => Some((slot, window)),
            Err(verdict) => {
                self.finish(window, verdict);
                None
            }
        }
    }

    fn pmd_slot(&self, window: Window) -> Result<PmdSlot<'v>, Verdict> {
        if self.contended {
            // Once something waits for our lock, no more windows are begun.
            return Err(Verdict::Deferred);
        }
        if !self.vma.has_window(window.addr) {
            // The VMA was split since the window was found in it. That of the first window was
            // found anew, so each batch makes progress.
            return Err(Verdict::Deferred);
        }
        let slot = self.vma.pmd(window.addr);

        match slot.map(|slot| (slot.read().kind(), slot)) {
            Some((PmdKind::Table, slot)) => Ok(slot),
            // Somebody else was faster.
            Some((PmdKind::Huge, _)) => Err(Verdict::Huge),
            Some((PmdKind::Changing, _)) => Err(Verdict::Refused(Refusal::Locked)),
            Some((PmdKind::None, _)) | None => Err(Verdict::Refused(Refusal::Empty)),
        }
    }

    /// Maps the huge pages of windows by PMD entries again, one after the other: none of them needs
    /// more than a moment.
    fn remap(&mut self, windows: Room<Whole<'mm>>) {
        for (nr, whole) in windows.into_inner().into_iter().enumerate() {
            let Whole {
                mut window,
                deposit,
            } = whole;

            self.contended = self.contended || (nr > 0 && self.vma.is_contended());
            let result = self.pmd_slot(window).and_then(|slot| {
                let end = window.addr.saturating_add(PMD_SIZE);
                let invalidate = InvalidateRange::clear(self.vma, window.addr, end);
                pin_init::stack_pin_init!(let range = invalidate);

                remap(slot, deposit, &range, &mut self.held).map_err(|cause| match cause {
                    NotRemapped::Refused(refusal) => Verdict::Refused(refusal),
                    NotRemapped::Changed => {
                        window.way = Way::Protect;
                        Verdict::Deferred
                    }
                })
            });

            self.held.remapped += usize::from(result.is_ok());
            self.done
                .put((window, result.err().unwrap_or(Verdict::Huge)));
            hold_after(Pass::Remap);
            cond_resched();
        }
    }

    /// A window whose sources could not be had leaves. `earlier` says whether an earlier window of
    /// the batch has that folio locked: the first window never waits for another one, so each batch
    /// makes progress.
    fn not_taken(
        &mut self,
        window: Prepared<'mm>,
        cause: NotTaken,
        earlier: impl Fn(FolioPtr) -> bool,
    ) {
        let verdict = match cause {
            NotTaken::Locked(folio) if earlier(folio) => Verdict::Deferred,
            cause => Verdict::Refused(cause.refusal()),
        };

        self.finish(window, verdict);
    }

    /// Locks, pins and write-protects the sources. Returns [`None`] when no window has got that
    /// far.
    fn protect(
        &mut self,
        pinnable: &Pinnable<'v>,
        windows: KVec<Prepared<'mm>>,
        room: Room<Held<'mm, Pinned<'v>>>,
    ) -> Option<KVec<Held<'mm, Pinned<'v>>>> {
        // Secondary MMUs lose the range before the first PTE is made read-only. Start and end may
        // sleep: neither page table nor folio is locked here.
        let invalidate = InvalidateRange::clear(self.vma, self.start, self.end);
        pin_init::stack_pin_init!(let _range = invalidate);
        let owed = OwedFlush::begin(self.vma, self.start, self.end);
        let mut windows = windows.into_iter();

        // As long as no window could be locked, nothing was changed.
        let first = loop {
            let Some(window) = windows.next() else {
                owed.void();
                return None;
            };
            if let Some(judged) = self.judge(pinnable, window, |_| false) {
                break judged;
            }
        };
        let mut protected = Unflushed::new(owed.touch(), room);

        self.protect_window(&mut protected, first);
        for window in windows {
            self.contended = self.contended || self.vma.is_contended();
            let earlier = |folio| protected.have_multi(folio);

            if let Some(judged) = self.judge(pinnable, window, earlier) {
                self.protect_window(&mut protected, judged);
            }
        }

        some_of(protected.flush())
    }

    fn judge(
        &mut self,
        pinnable: &Pinnable<'v>,
        window: Prepared<'mm>,
        earlier: impl Fn(FolioPtr) -> bool,
    ) -> Option<Judged<'v, 'mm>> {
        let (slot, window) = self.find_table(window)?;

        match Judged::new(slot, window, &self.limits, pinnable) {
            Ok(judged) => Some(judged),
            Err(Failed { window, cause }) => {
                self.not_taken(window, cause, earlier);
                None
            }
        }
    }

    fn protect_window(
        &mut self,
        protected: &mut Unflushed<'v, Room<Held<'mm, Pinned<'v>>>>,
        judged: Judged<'v, 'mm>,
    ) {
        if let Err(Failed { window, cause }) = protected.protect(judged) {
            self.finish(window, Verdict::Refused(cause));
        }
    }

    /// Replaces the sources by migration entries. Returns [`None`] when no window has got that far.
    fn unmap(
        &mut self,
        windows: KVec<Prepared<'mm>>,
        room: Room<Held<'mm, Unmapped<'v>>>,
    ) -> Option<KVec<Held<'mm, Unmapped<'v>>>> {
        // As for `protect()`.
        let invalidate = InvalidateRange::clear(self.vma, self.start, self.end);
        pin_init::stack_pin_init!(let _range = invalidate);
        let owed = OwedFlush::begin(self.vma, self.start, self.end);
        let mut unmapped = Unflushed::new(owed.touch(), room);

        for (i, window) in windows.into_iter().enumerate() {
            self.contended = self.contended || (i > 0 && self.vma.is_contended());
            let Some((slot, window)) = self.find_table(window) else {
                continue;
            };

            if let Err(Failed { window, cause }) = unmapped.unmap(slot, window, &self.limits) {
                self.not_taken(window, cause, |folio| unmapped.have_multi(folio));
            } else {
                self.held.old_way += 1;
            }
        }

        some_of(unmapped.flush())
    }

    /// Copies the sources. The first window is always copied, so each batch makes progress.
    fn copy<S: Sources<'v>>(
        &mut self,
        windows: KVec<Held<'mm, S>>,
        mut copied: Room<Copied<'mm, S>>,
    ) -> Room<Copied<'mm, S>> {
        let mut stop = false;

        for window in windows {
            if stop {
                self.finish(window.give_back(), Verdict::Deferred);
                continue;
            }
            match window.copy() {
                Ok(window) => {
                    // Copy no more windows if something waits for a page of this one.
                    self.contended |= window.sources.are_waited_for();
                    copied.put(window);
                }
                Err(Failed { window, cause }) => self.finish(window, Verdict::Refused(cause)),
            }
            cond_resched();
            self.contended = self.contended || self.vma.is_contended();
            stop = !copied.is_empty() && (self.contended || current!().fatal_signal_pending());
        }
        copied
    }

    /// Has windows wait for the switch of which not more was written than may be copied again
    /// there.
    fn recheck(
        &mut self,
        windows: KVec<Copied<'mm, Pinned<'v>>>,
        mut quiet: Room<Copied<'mm, Pinned<'v>>>,
    ) -> Room<Copied<'mm, Pinned<'v>>> {
        for window in windows {
            match self.copy_what_was_written(window) {
                Ok(window) => quiet.put(window),
                Err(Failed { window, cause }) => self.not_switched(window, cause),
            }
        }
        quiet
    }

    /// If too much of a window was written, makes the sources read-only and copies what was
    /// written, a few times.
    fn copy_what_was_written(
        &mut self,
        mut window: Copied<'mm, Pinned<'v>>,
    ) -> Result<Copied<'mm, Pinned<'v>>, Failed<Prepared<'mm>, NotSwitched>> {
        for round in 0.. {
            match window.sources.count_written() {
                Ok(nr) if nr <= RECOPY_MAX => break,
                Ok(_) if round < MORE_ROUNDS => {}
                Ok(_) => return Err(Failed::new(window.give_back(), NotSwitched::Written)),
                Err(refusal) => return Err(Failed::new(window.give_back(), refusal)),
            }
            self.held.rounds += 1;
            window = self
                .protect_again(window)
                .and_then(|window| {
                    hold_after(Pass::Protect);
                    window.copy_again(&mut self.held)
                })
                .map_err(|failed| Failed::new(failed.window, failed.cause))?;
            hold_after(Pass::Copy);
            cond_resched();
        }
        Ok(window)
    }

    /// Makes read-only what was written of a window, as for the first time: without the notifier, a
    /// secondary MMU could write on through an entry that it has made since.
    fn protect_again(
        &mut self,
        window: Copied<'mm, Pinned<'v>>,
    ) -> Result<Reprotected<'v, 'mm>, Failed<Prepared<'mm>>> {
        let start = window.window.addr;
        let end = start.saturating_add(PMD_SIZE);
        let invalidate = InvalidateRange::clear(self.vma, start, end);
        pin_init::stack_pin_init!(let _range = invalidate);
        let owed = OwedFlush::begin(self.vma, start, end).touch();

        Ok(Unflushed::protect_again(window, owed)?.flush())
    }

    /// A window that was copied, but could not be switched, leaves.
    ///
    /// It goes the old way in a batch to come if it is written all the time, or if something has
    /// come in between for the second time: that is a reference for a moment, or a write to a page
    /// that is not exclusive, which replaces the page as long as we pin it.
    fn not_switched(&mut self, mut window: Prepared<'mm>, cause: NotSwitched) {
        let again = window.window.retries > 0 && window.window.way != Way::Unmap;
        let verdict = match cause {
            NotSwitched::Refused(Refusal::Raced | Refusal::Referenced) if !again => {
                Verdict::Refused(Refusal::Raced)
            }
            NotSwitched::Refused(Refusal::Raced | Refusal::Referenced) | NotSwitched::Written => {
                window.window.way = Way::Unmap;
                Verdict::Deferred
            }
            NotSwitched::Refused(refusal) => Verdict::Refused(refusal),
        };

        self.finish(window, verdict);
    }

    /// Puts the huge pages in the place of the tables, a few at a time.
    fn switch<S: Sources<'v>>(
        &mut self,
        mut copied: KVec<Copied<'mm, S>>,
        rooms: SwitchRooms<'v, 'mm, S>,
    ) -> KVec<Switched<'v>> {
        let SwitchRooms {
            mut switched,
            mut failed,
        } = rooms;

        if !copied.is_empty() {
            let invalidate = InvalidateRange::clear(self.vma, self.start, self.end);
            pin_init::stack_pin_init!(let range = invalidate);

            while !copied.is_empty() {
                let nr = hooks::windows_per_switch().unwrap_or(WINDOWS_PER_SWITCH);

                switch(
                    &mut copied,
                    nr,
                    &range,
                    &mut switched,
                    &mut failed,
                    &mut self.held,
                );
                cond_resched();
            }
        }
        for Failed { window, cause } in failed.into_inner() {
            self.not_switched(window.give_back(), cause);
        }
        switched.into_inner()
    }

    fn release(&mut self, windows: KVec<Switched<'v>>) {
        for window in windows {
            let (window, snapshot) = window.release();

            self.done.put((window, Verdict::Huge));
            self.pool.keep_snapshot(snapshot);
            cond_resched();
        }
    }
}
