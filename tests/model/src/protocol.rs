// SPDX-License-Identifier: GPL-2.0

//! The collapse: one step is what nobody can see the inside of.
//!
//! Steps under a PTE table lock are apart where something that takes no lock may come in between:
//! GUP-fast, a CPU that sets a dirty bit or stores through its TLB, a device, a secondary MMU. The
//! names of steps are those of the passes in mm/collapse/.

use crate::{
    fault::Fault,
    scope::Scope,
    state::{huge_page, Kind, Owner, Pmd, Pte, State, Violation, SLOTS},
};

/// The next step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Pc {
    #[default]
    Begin,
    NotifyStart,
    LockTable,
    Judge,
    WriteProtect,
    ReadBack,
    Isolate,
    ReadRefs,
    CompareRefs,
    UnlockTable,
    Flush,
    NotifyEnd,
    Copy,
    Recheck,
    SwitchNotifyStart,
    SwitchLock,
    Hide,
    SwitchFlush,
    SwitchLockTable,
    Compare,
    SwitchReadRefs,
    SwitchCompareRefs,
    CopyAgain,
    Clear,
    Map,
    PutTableBack,
    SwitchNotifyEnd,
    RemoveRmap,
    ReleaseUnlock,
    ReleasePut,
    GiveBackLock,
    GiveBackMapped,
    GiveBackUnlock,
    GiveBackRest,
    Leave,
    Done,
}

/// The outcome of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    Huge,
    Locked,
    Raced,
    Referenced,
    Pinned,
    /// Too much of it is written all the time.
    Written,
    /// There is nothing that could be collapsed, or userfaultfd tracks it.
    Unfit,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Engine {
    pub pc: Pc,
    /// The slot that the step is about.
    slot: u8,
    tries: u8,
    round: u8,
    /// Whether it goes the old way.
    isolates: bool,
    /// Whether an entry was changed since the last flush.
    changed: bool,
    /// Whether the notifier range of a round is open.
    open: bool,
    /// Whether it has come as far as to be switched.
    copied: bool,
    /// The PTEs of the sources; none where there is no source.
    source: [Pte; SLOTS],
    /// The entry that was left in each slot.
    left: [Pte; SLOTS],
    /// The slots whose folio is held for them. A large folio is held for its first slot.
    held: [bool; SLOTS],
    written: [bool; SLOTS],
    /// The references that were read, to be compared.
    refs: (u8, u8),
    pub verdict: Option<Verdict>,
}

/// How an entry has changed.
#[derive(PartialEq, Eq)]
enum Change {
    Same,
    Written,
    Other,
}

/// `Pte::change_since()`.
fn change_since(now: Pte, left: Pte, dirty_only: bool) -> Change {
    if now == left {
        return Change::Same;
    }
    let is_present = |pte: Pte| matches!(pte.kind, Kind::Page | Kind::Zero);

    if !is_present(left)
        || !is_present(now)
        || now.page != left.page
        || now.kind != left.kind
        || now.uffd
        || (now.protnone && !left.protnone)
    {
        return Change::Other;
    }
    if (now.write && !dirty_only) || (now.dirty && !left.dirty) {
        return if now.kind == Kind::Zero {
            Change::Other
        } else {
            Change::Written
        };
    }
    Change::Same
}

impl Engine {
    /// One that does not run at all.
    pub fn absent() -> Self {
        Engine {
            pc: Pc::Done,
            ..Engine::default()
        }
    }

    pub fn runs(&self) -> bool {
        !matches!(self.pc, Pc::Begin | Pc::Done)
    }

    /// The name of its next step.
    pub fn next(&self) -> String {
        match self.pc {
            Pc::WriteProtect
            | Pc::Isolate
            | Pc::ReadRefs
            | Pc::CompareRefs
            | Pc::Copy
            | Pc::SwitchReadRefs
            | Pc::SwitchCompareRefs
            | Pc::CopyAgain => format!("{:?}, slot {}", self.pc, self.slot),
            Pc::Flush | Pc::SwitchFlush => format!("{:?}, CPU {}", self.pc, self.slot),
            _ => format!("{:?}", self.pc),
        }
    }

    pub fn is_done(&self) -> bool {
        self.pc == Pc::Done
    }

    /// Returns whether it keeps the VMA from being changed.
    pub fn has_vma(&self, fault: Option<Fault>) -> bool {
        self.runs() && !(self.pc == Pc::Copy && fault == Some(Fault::H11VmaUnlocked))
    }

    /// The source of a slot, if its folio is held for this slot.
    pub fn held(&self) -> impl Iterator<Item = (usize, Pte)> + '_ {
        (0..SLOTS)
            .filter(|slot| self.held[*slot])
            .map(|slot| (slot, self.source[slot]))
    }

    fn goto(&mut self, pc: Pc) {
        self.pc = pc;
        self.slot = 0;
    }

    /// Goes on to the next slot, or to `pc` after the last one.
    fn next_slot_or(&mut self, pc: Pc) {
        self.slot += 1;
        if usize::from(self.slot) == SLOTS {
            self.goto(pc);
        }
    }
}

/// The state of a collapse.
struct Step<'a> {
    scope: &'a Scope,
    fault: Option<Fault>,
    state: &'a mut State,
    nr: u8,
    me: Owner,
}

/// Does the next step of a collapse, or returns false if it has to wait.
pub fn step(scope: &Scope, fault: Option<Fault>, state: &mut State, nr: usize) -> bool {
    let mut engine = state.engine[nr];
    let nr = nr as u8;
    let mut step = Step {
        scope,
        fault,
        state,
        nr,
        me: Owner::Collapse(nr),
    };
    let done = step.step(&mut engine);

    state.engine[usize::from(nr)] = engine;
    done
}

impl Step<'_> {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn pins(&self, engine: &Engine) -> bool {
        !engine.isolates
            && !self.has(Fault::H2PlainReference)
            && !self.has(Fault::H3PlainReferenceUnlocked)
    }

    fn locks(&self) -> bool {
        !matches!(
            self.fault,
            Some(
                Fault::H3PlainReferenceUnlocked
                    | Fault::H8UnlockedCount
                    | Fault::H10Unlocked
                    | Fault::H13Unlocked
            )
        )
    }

    fn step(&mut self, engine: &mut Engine) -> bool {
        match engine.pc {
            Pc::Begin => self.begin(engine),
            Pc::NotifyStart => {
                if !(engine.round > 0 && self.has(Fault::H5RoundUntold)) {
                    self.notify_start();
                }
                engine.open = true;
                engine.goto(Pc::LockTable);
                true
            }
            Pc::LockTable => self.lock_table(engine),
            Pc::Judge => self.judge(engine),
            Pc::WriteProtect => self.write_protect(engine),
            Pc::ReadBack => self.read_back(engine),
            Pc::Isolate => self.isolate(engine),
            Pc::ReadRefs => self.read_refs(engine, Pc::CompareRefs),
            Pc::CompareRefs => {
                let counted_first = self.has(Fault::CountedThenProtected);
                let next = if counted_first && !engine.changed {
                    Pc::WriteProtect
                } else {
                    Pc::UnlockTable
                };

                self.compare_refs(engine, Pc::ReadRefs, next, Pc::UnlockTable)
            }
            Pc::UnlockTable => self.unlock_table(engine),
            Pc::Flush => {
                let cpu = usize::from(engine.slot);

                self.state.flush_cpu(cpu);
                engine.next_slot_or(Pc::NotifyEnd);
                true
            }
            Pc::NotifyEnd => self.notify_end(engine),
            Pc::Copy => self.copy(engine),
            Pc::Recheck => self.recheck(engine),
            Pc::SwitchNotifyStart => {
                if !self.has(Fault::SwitchUntold) {
                    self.notify_start();
                }
                engine.goto(Pc::SwitchLock);
                true
            }
            Pc::SwitchLock => {
                if self.state.pmd_lock.is_some() {
                    return false;
                }
                self.state.pmd_lock = Some(self.me);
                engine.goto(if self.has(Fault::ComparedThenHidden) {
                    Pc::SwitchLockTable
                } else {
                    Pc::Hide
                });
                true
            }
            Pc::Hide => self.hide(engine),
            Pc::SwitchFlush => {
                let cpu = usize::from(engine.slot);

                if !self.has(Fault::SwitchUnflushed) {
                    self.state.flush_cpu(cpu);
                }
                engine.next_slot_or(if self.has(Fault::ComparedThenHidden) {
                    Pc::CopyAgain
                } else {
                    Pc::SwitchLockTable
                });
                true
            }
            Pc::SwitchLockTable => {
                if self.state.ptl.is_some() {
                    return false;
                }
                self.state.ptl = Some(self.me);
                engine.goto(Pc::Compare);
                true
            }
            Pc::Compare => self.compare(engine),
            Pc::SwitchReadRefs => self.read_refs(engine, Pc::SwitchCompareRefs),
            Pc::SwitchCompareRefs => {
                let next = if self.has(Fault::H6CopiedThenCounted) {
                    Pc::Clear
                } else if self.has(Fault::ComparedThenHidden) {
                    Pc::Hide
                } else {
                    Pc::CopyAgain
                };

                self.compare_refs(engine, Pc::SwitchReadRefs, next, Pc::PutTableBack)
            }
            Pc::CopyAgain => self.copy_again(engine),
            Pc::Clear => self.clear(engine),
            Pc::Map => {
                self.state.pmd = Pmd::Huge(self.nr);
                self.state.pmd_write = self.state.vm_write;
                self.state.pmd_lock = None;
                engine.goto(Pc::SwitchNotifyEnd);
                true
            }
            Pc::PutTableBack => self.put_table_back(engine),
            Pc::SwitchNotifyEnd => {
                if !self.has(Fault::SwitchUntold) {
                    self.notify_stop();
                }
                engine.goto(if engine.verdict.is_some() {
                    Pc::GiveBackLock
                } else {
                    Pc::RemoveRmap
                });
                true
            }
            Pc::RemoveRmap => {
                for source in engine.source.iter().filter(|pte| pte.kind == Kind::Page) {
                    self.state.remove_rmap(source.page);
                }
                engine.goto(Pc::ReleaseUnlock);
                true
            }
            Pc::ReleaseUnlock => self.release_unlock(engine),
            Pc::ReleasePut => self.release_put(engine),
            Pc::GiveBackLock => self.give_back_lock(engine),
            Pc::GiveBackMapped => self.give_back_mapped(engine),
            Pc::GiveBackUnlock => {
                self.state.ptl = None;
                engine.goto(Pc::GiveBackRest);
                true
            }
            Pc::GiveBackRest => self.give_back_rest(engine),
            Pc::Leave => self.leave(engine),
            Pc::Done => false,
        }
    }

    fn notify_start(&mut self) {
        self.state.ranges += 1;
        for slot in 0..SLOTS {
            self.state.notify(slot);
        }
    }

    fn notify_stop(&mut self) {
        self.state.ranges -= 1;
        for slot in 0..SLOTS {
            self.state.notify(slot);
        }
    }

    /// Takes the VMA lock, and looks at the PMD entry.
    fn begin(&mut self, engine: &mut Engine) -> bool {
        let verdict = match self.state.pmd {
            Pmd::Table => {
                let pinnable = (self.state.vm_write || self.has(Fault::H7ReadOnlyVma))
                    && (!self.scope.uffd || self.has(Fault::H7UffdVma));

                engine.isolates |= self.scope.isolates || !pinnable;
                engine.goto(Pc::NotifyStart);
                return true;
            }
            Pmd::Huge(_) => Verdict::Huge,
            Pmd::Invalid(_) => Verdict::Locked,
            Pmd::None => Verdict::Unfit,
        };

        engine.verdict = Some(verdict);
        engine.goto(Pc::Leave);
        true
    }

    fn lock_table(&mut self, engine: &mut Engine) -> bool {
        if self.state.ptl.is_some() {
            return false;
        }
        match self.state.pmd {
            Pmd::Table => {
                self.state.ptl = Some(self.me);
                engine.changed = false;
                engine.goto(if engine.round > 0 {
                    Pc::WriteProtect
                } else {
                    Pc::Judge
                });
                true
            }
            // pte_offset_map_lock() waits for the PMD lock.
            Pmd::Invalid(_) if self.state.pmd_lock.is_some() => false,
            _ => {
                engine.verdict = Some(Verdict::Raced);
                engine.goto(if engine.round > 0 {
                    Pc::GiveBackLock
                } else {
                    Pc::NotifyEnd
                });
                true
            }
        }
    }

    /// Locks and pins all sources, or finds out that it cannot.
    fn judge(&mut self, engine: &mut Engine) -> bool {
        engine.source = [Pte::NONE; SLOTS];
        engine.left = [Pte::NONE; SLOTS];
        engine.held = [false; SLOTS];
        engine.verdict = self.lock_sources(engine).err();

        engine.goto(if engine.verdict.is_some() {
            Pc::UnlockTable
        } else if engine.isolates {
            Pc::Isolate
        } else if self.has(Fault::CountedThenProtected) {
            Pc::ReadRefs
        } else {
            Pc::WriteProtect
        });
        true
    }

    fn lock_sources(&mut self, engine: &mut Engine) -> Result<(), Verdict> {
        let (pins, locks) = (self.pins(engine), self.locks());

        for slot in 0..SLOTS {
            let pte = self.state.pte[slot];

            match pte.kind {
                Kind::None => continue,
                Kind::Zero => {
                    engine.left[slot] = pte;
                    continue;
                }
                Kind::Swap | Kind::Migration => return Err(Verdict::Raced),
                Kind::Page if pte.uffd => return Err(Verdict::Unfit),
                Kind::Page => {}
            }
            let recurs = slot > 0
                && self.state.large
                && engine.held[0]
                && self.state.folio_nr(pte.page) == self.state.folio_nr(engine.source[0].page);

            engine.source[slot] = pte;
            engine.left[slot] = pte;
            if !recurs {
                let (me, isolates) = (self.me, engine.isolates);
                let folio = self.state.folio_of(pte.page);

                if locks {
                    if folio.lock.is_some() {
                        engine.source[slot] = Pte::NONE;
                        return Err(Verdict::Locked);
                    }
                    folio.lock = Some(me);
                }
                if pins {
                    folio.pins += 1;
                } else if !isolates {
                    folio.refs += 1;
                }
                engine.held[slot] = true;
            }
            let exclusive = self.state.page[usize::from(pte.page)].exclusive;
            let folio = self.state.folio_of(pte.page);

            folio.dirty |= pte.dirty && (!exclusive || folio.swapcache);
        }
        if engine.left.iter().all(|pte| pte.kind == Kind::None) {
            return Err(Verdict::Unfit);
        }
        Ok(())
    }

    /// In a later round only what was written.
    fn write_protect(&mut self, engine: &mut Engine) -> bool {
        let slot = usize::from(engine.slot);
        let pte = self.state.pte[slot];

        if engine.round > 0 {
            engine.written[slot] = match self.change(pte, engine.left[slot]) {
                Change::Same => false,
                Change::Written => true,
                Change::Other => {
                    engine.verdict = Some(Verdict::Raced);
                    engine.goto(Pc::UnlockTable);
                    return true;
                }
            };
        }
        if pte.kind == Kind::Page && (engine.round == 0 || engine.written[slot]) {
            engine.changed |= pte.write || pte.protnone;
            self.state.pte[slot].write = false;
            self.state.pte[slot].protnone = false;
        }
        engine.next_slot_or(Pc::ReadBack);
        true
    }

    fn read_back(&mut self, engine: &mut Engine) -> bool {
        for slot in 0..SLOTS {
            if engine.source[slot].kind == Kind::None || (engine.round > 0 && !engine.written[slot])
            {
                continue;
            }
            engine.left[slot] = if self.has(Fault::H12NotReadBack) {
                Pte {
                    write: false,
                    protnone: false,
                    ..engine.left[slot]
                }
            } else {
                self.state.pte[slot]
            };
        }
        engine.goto(if self.has(Fault::CountedThenProtected) {
            Pc::UnlockTable
        } else {
            Pc::ReadRefs
        });
        true
    }

    /// Writes a migration entry.
    fn isolate(&mut self, engine: &mut Engine) -> bool {
        let slot = usize::from(engine.slot);

        if engine.source[slot].kind == Kind::Page {
            let pte = self.state.pte[slot];

            engine.changed = true;
            engine.source[slot] = pte;
            engine.left[slot] = Pte {
                kind: Kind::Migration,
                protnone: false,
                ..pte
            };
            self.state.pte[slot] = engine.left[slot];
        }
        engine.next_slot_or(if self.has(Fault::IsolatedUncounted) {
            Pc::UnlockTable
        } else {
            Pc::ReadRefs
        });
        true
    }

    fn read_refs(&mut self, engine: &mut Engine, next: Pc) -> bool {
        let slot = usize::from(engine.slot);

        if engine.held[slot] {
            let folio = *self.state.folio_of(engine.source[slot].page);

            engine.refs = (folio.refs, folio.pins);
        }
        engine.pc = next;
        true
    }

    /// Compares what was read with what is expected by now.
    fn compare_refs(&mut self, engine: &mut Engine, again: Pc, next: Pc, failed: Pc) -> bool {
        let slot = usize::from(engine.slot);

        if engine.held[slot] {
            let pins = u8::from(self.pins(engine));
            let refs = u8::from(pins == 0 && !engine.isolates);
            let nr = self.state.folio_nr(engine.source[slot].page);
            let expected = self.state.expected_refs(nr) + refs;
            let found = engine.refs;
            let counts = again != Pc::SwitchReadRefs || !self.has(Fault::SwitchUncounted);

            engine.refs = (0, 0);
            if counts && found != (expected, pins) {
                engine.verdict = Some(if found.1 > pins {
                    Verdict::Pinned
                } else {
                    Verdict::Referenced
                });
                engine.goto(failed);
                return true;
            }
        }
        engine.pc = again;
        engine.next_slot_or(next);
        true
    }

    fn unlock_table(&mut self, engine: &mut Engine) -> bool {
        if engine.verdict.is_some() {
            if engine.isolates {
                // The lock was not given up, so every slot is still ours.
                self.restore(engine);
                self.state.ptl = None;
                engine.goto(Pc::GiveBackRest);
            } else {
                self.state.ptl = None;
                engine.goto(Pc::GiveBackLock);
            }
            return true;
        }
        self.state.ptl = None;
        engine.goto(if self.has(Fault::CopiedThenFlushed) {
            Pc::Copy
        } else if self.has(Fault::H4UnchangedUnflushed) && !engine.changed {
            Pc::NotifyEnd
        } else {
            Pc::Flush
        });
        true
    }

    fn notify_end(&mut self, engine: &mut Engine) -> bool {
        if !(engine.round > 0 && self.has(Fault::H5RoundUntold)) {
            self.notify_stop();
        }
        engine.open = false;
        engine.changed = false;
        if engine.verdict.is_some() {
            engine.goto(Pc::Leave);
        } else if self.has(Fault::CopiedThenFlushed) {
            engine.goto(self.after_copy(engine));
        } else {
            engine.goto(Pc::Copy);
        }
        true
    }

    fn after_copy(&self, engine: &Engine) -> Pc {
        if engine.isolates {
            Pc::SwitchNotifyStart
        } else {
            Pc::Recheck
        }
    }

    /// One page. In a later round only what was written.
    fn copy(&mut self, engine: &mut Engine) -> bool {
        let slot = usize::from(engine.slot);

        if engine.round == 0 || engine.written[slot] {
            self.copy_page(engine, slot);
        }
        engine.next_slot_or(if self.has(Fault::CopiedThenFlushed) {
            Pc::Flush
        } else {
            self.after_copy(engine)
        });
        true
    }

    fn copy_page(&mut self, engine: &Engine, slot: usize) {
        let source = engine.source[slot];
        let content = if source.kind == Kind::Page {
            self.state.content(source.page)
        } else {
            0
        };

        self.state.page[usize::from(huge_page(self.nr, slot))].content = content;
    }

    fn change(&self, now: Pte, left: Pte) -> Change {
        change_since(now, left, self.has(Fault::H12DirtyBitOnly))
    }

    /// Returns whether so little was written that it can be copied again in the switch.
    fn recheck(&mut self, engine: &mut Engine) -> bool {
        engine.copied = true;
        if self.state.ptl.is_some() {
            return false;
        }
        let mut written = 0;

        if self.state.pmd != Pmd::Table {
            engine.verdict = Some(Verdict::Raced);
        }
        for slot in 0..SLOTS {
            match self.change(self.state.pte[slot], engine.left[slot]) {
                Change::Same => {}
                Change::Written => written += 1,
                Change::Other => engine.verdict = Some(Verdict::Raced),
            }
        }
        if engine.verdict.is_some() {
            engine.goto(Pc::GiveBackLock);
        } else if written <= self.scope.recopy_max {
            engine.round = 0;
            engine.goto(Pc::SwitchNotifyStart);
        } else if engine.round < self.scope.rounds {
            engine.round += 1;
            engine.goto(Pc::NotifyStart);
        } else {
            engine.verdict = Some(Verdict::Written);
            engine.goto(Pc::GiveBackLock);
        }
        true
    }

    fn hide(&mut self, engine: &mut Engine) -> bool {
        if self.state.pmd != Pmd::Table {
            engine.verdict = Some(Verdict::Raced);
            self.state.pmd_lock = None;
            engine.goto(Pc::SwitchNotifyEnd);
            return true;
        }
        self.state.pmd = if self.has(Fault::HiddenByNone) {
            Pmd::None
        } else {
            Pmd::Invalid(self.nr)
        };
        engine.goto(Pc::SwitchFlush);
        true
    }

    fn compare(&mut self, engine: &mut Engine) -> bool {
        let mut written = 0;

        engine.written = [false; SLOTS];
        for slot in 0..SLOTS {
            let (now, left) = (self.state.pte[slot], engine.left[slot]);

            if self.has(Fault::H12ZeroDroppedEarly) && now == left && left.kind == Kind::Zero {
                self.state.pte[slot] = Pte::NONE;
                continue;
            }
            let change = if engine.isolates {
                if now == left || self.has(Fault::IsolatedUncompared) {
                    Change::Same
                } else {
                    Change::Other
                }
            } else {
                self.change(now, left)
            };

            match change {
                Change::Same => {}
                Change::Written if self.state.page[usize::from(left.page)].exclusive => {
                    // No PTE becomes writable and read-only again while its page is pinned.
                    if self.scope.exact && !now.write {
                        self.state.fail(Violation::NeedlessCopy);
                    }
                    engine.written[slot] = true;
                    written += 1;
                }
                Change::Written | Change::Other => engine.verdict = Some(Verdict::Raced),
            }
        }
        if written > self.scope.recopy_max && !self.has(Fault::H9CopiesWithoutBound) {
            engine.verdict.get_or_insert(Verdict::Written);
        }
        if self.state.unstable && !self.has(Fault::H12UnstableIgnored) {
            engine.verdict.get_or_insert(Verdict::Raced);
        }
        engine.goto(if engine.verdict.is_some() {
            Pc::PutTableBack
        } else if self.has(Fault::H6CopiedThenCounted) {
            Pc::CopyAgain
        } else if engine.isolates {
            Pc::Clear
        } else {
            Pc::SwitchReadRefs
        });
        true
    }

    fn copy_again(&mut self, engine: &mut Engine) -> bool {
        let slot = usize::from(engine.slot);

        if engine.written[slot] {
            self.copy_page(engine, slot);
        }
        if engine.written.iter().filter(|written| **written).count() > self.scope.recopy_max {
            self.state.fail(Violation::Stall);
        }
        engine.next_slot_or(if self.has(Fault::H6CopiedThenCounted) {
            Pc::SwitchReadRefs
        } else {
            Pc::Clear
        });
        true
    }

    /// Clears the slots and unlocks the table.
    fn clear(&mut self, engine: &mut Engine) -> bool {
        if !self.has(Fault::H1SlotsKept) {
            self.state.pte = [Pte::NONE; SLOTS];
        }
        self.state.ptl = None;
        engine.goto(Pc::Map);
        true
    }

    fn put_table_back(&mut self, engine: &mut Engine) -> bool {
        for slot in 0..SLOTS {
            if engine.left[slot].kind == Kind::Zero
                && self.state.pte[slot].kind == Kind::None
                && self.state.zaps[slot] == 0
            {
                self.state.fail(Violation::TableChanged);
            }
        }
        self.state.ptl = None;
        self.state.pmd = Pmd::Table;
        self.state.pmd_lock = None;
        engine.goto(Pc::SwitchNotifyEnd);
        true
    }

    fn release_unlock(&mut self, engine: &mut Engine) -> bool {
        for (_, source) in engine.held() {
            let cached = self.state.folio_pages(self.state.folio_nr(source.page));
            let folio = self.state.folio_of(source.page);

            // folio_free_swap()
            if folio.swapcache && folio.maps == 0 {
                folio.swapcache = false;
                folio.dirty = true;
                folio.refs -= cached;
            }
        }
        self.unlock_all(engine);
        engine.goto(Pc::ReleasePut);
        true
    }

    fn unlock_all(&mut self, engine: &Engine) {
        if self.locks() {
            for (_, source) in engine.held() {
                self.unlock(source.page);
            }
        }
    }

    fn unlock(&mut self, page: u8) {
        let me = self.me;
        let folio = self.state.folio_of(page);

        if folio.lock == Some(me) {
            folio.lock = None;
        }
    }

    /// Drops the pin, or what stands in for it, of a source that is held.
    fn unpin(&mut self, engine: &Engine, page: u8) {
        if self.pins(engine) {
            self.state.unpin(page);
        } else if !engine.isolates {
            self.state.put(page, 1);
        }
    }

    /// The references of the mappings, and the pins.
    fn release_put(&mut self, engine: &mut Engine) -> bool {
        for source in engine.source {
            if source.kind == Kind::Page {
                self.state.put(source.page, 1);
            }
        }
        for (_, source) in engine.held() {
            self.unpin(engine, source.page);
        }
        engine.held = [false; SLOTS];
        engine.verdict = Some(Verdict::Huge);
        engine.goto(Pc::Leave);
        true
    }

    fn give_back_lock(&mut self, engine: &mut Engine) -> bool {
        if self.has(Fault::UnlockedThenUnpinned) && !engine.isolates {
            self.unlock_all(engine);
            engine.goto(Pc::GiveBackRest);
            return true;
        }
        if self.state.ptl.is_some() {
            return false;
        }
        match self.state.pmd {
            Pmd::Table => {
                self.state.ptl = Some(self.me);
                engine.goto(Pc::GiveBackMapped);
            }
            Pmd::Invalid(_) if self.state.pmd_lock.is_some() => return false,
            _ => {
                if engine.isolates {
                    // A zap has taken all entries, and the table is gone.
                    for slot in 0..SLOTS {
                        self.abandon(engine, slot);
                    }
                }
                self.unlock_all(engine);
                engine.goto(Pc::GiveBackRest);
            }
        }
        true
    }

    /// Sources that are still mapped are unpinned, then unlocked. The mapping keeps them.
    fn give_back_mapped(&mut self, engine: &mut Engine) -> bool {
        if engine.isolates {
            self.restore(engine);
        } else {
            for slot in 0..SLOTS {
                let page = engine.source[slot].page;
                let nr = self.state.folio_nr(page);
                let mapped = (0..SLOTS).any(|other| {
                    let pte = self.state.pte[other];

                    pte.maps(engine.source[other].page) && self.state.folio_nr(pte.page) == nr
                });

                if engine.held[slot] && mapped {
                    self.unpin(engine, page);
                    self.unlock(page);
                    engine.held[slot] = false;
                }
            }
        }
        engine.goto(Pc::GiveBackUnlock);
        true
    }

    /// Puts PTEs back where the slots still are ours, and unlocks the folios.
    fn restore(&mut self, engine: &mut Engine) {
        for slot in 0..SLOTS {
            let (now, source) = (self.state.pte[slot], engine.source[slot]);

            if source.kind != Kind::Page {
                continue;
            }
            let saved = self.has(Fault::SavedPteRestored);
            if engine.left[slot].kind == Kind::Page {
                // No entry was written yet.
            } else if now == engine.left[slot] || (saved && now.kind == Kind::Migration) {
                self.state.pte[slot] = source;
            } else if now.kind == Kind::Migration && now.page == source.page {
                // It was changed in place.
                self.state.folio_of(source.page).dirty |= source.dirty;
                self.state.pte[slot] = Pte {
                    kind: Kind::Page,
                    write: now.write && !now.uffd,
                    ..now
                };
            } else {
                self.abandon(engine, slot);
            }
        }
        self.unlock_all(engine);
    }

    /// A slot that was zapped: the rmap is ours to drop, and the reference, in the end.
    fn abandon(&mut self, engine: &mut Engine, slot: usize) {
        if engine.source[slot].kind == Kind::Page {
            self.state.remove_rmap(engine.source[slot].page);
            engine.left[slot] = Pte::NONE;
        }
    }

    fn give_back_rest(&mut self, engine: &mut Engine) -> bool {
        if engine.isolates {
            for slot in 0..SLOTS {
                if engine.source[slot].kind == Kind::Page && engine.left[slot].kind == Kind::None {
                    self.state.put(engine.source[slot].page, 1);
                }
            }
        } else {
            self.unlock_all(engine);
            for slot in 0..SLOTS {
                if engine.held[slot] {
                    self.unpin(engine, engine.source[slot].page);
                }
            }
        }
        engine.held = [false; SLOTS];
        engine.goto(if !engine.open {
            Pc::Leave
        } else if engine.changed && !self.has(Fault::H4RefusedUnflushed) {
            Pc::Flush
        } else {
            Pc::NotifyEnd
        });
        true
    }

    /// Lets go of the VMA, and decides whether to try again, and how.
    fn leave(&mut self, engine: &mut Engine) -> bool {
        let verdict = engine.verdict;
        let mut next = Engine {
            tries: engine.tries + 1,
            isolates: engine.isolates,
            ..Engine::default()
        };
        let ends = match verdict {
            Some(Verdict::Huge | Verdict::Unfit) | None => true,
            Some(Verdict::Written) => {
                next.isolates = true;
                self.has(Fault::H9NoOldWay)
            }
            Some(Verdict::Raced | Verdict::Referenced) if engine.copied => {
                next.isolates |= engine.tries > 0;
                next.tries >= self.scope.tries
            }
            _ => next.tries >= self.scope.tries,
        };

        *engine = if ends {
            Engine {
                verdict,
                ..Engine::absent()
            }
        } else {
            next
        };
        true
    }
}
