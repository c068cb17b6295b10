// SPDX-License-Identifier: GPL-2.0

//! The state that the actors share: page tables, TLBs, pages and locks of one process with one
//! window.
//!
//! A window has two slots. Pages are numbered: 0 and 1 are the sources, 2 and 3 are handed out by
//! page faults and migration, and so are sources once they are free. From 4 on each collapse has
//! two, the halves of its huge page.

use crate::{fault::Fault, protocol::Engine};
use std::fmt;

pub const SLOTS: usize = 2;
pub const CPUS: usize = 2;
pub const ENGINES: usize = 2;
const HUGE: usize = 4;
const PAGES: usize = HUGE + ENGINES * SLOTS;

/// The page that half `slot` of the huge page of collapse `engine` is.
pub fn huge_page(engine: u8, slot: usize) -> u8 {
    (HUGE + usize::from(engine) * SLOTS + slot) as u8
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    #[default]
    None,
    Zero,
    Page,
    /// `page` is where the data is as long as it is in the swap cache.
    Swap,
    Migration,
}

/// A page table entry. The accessed bit is left out: the protocol does not look at it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Pte {
    pub kind: Kind,
    pub page: u8,
    pub write: bool,
    pub dirty: bool,
    pub protnone: bool,
    pub uffd: bool,
}

impl Pte {
    pub const NONE: Pte = Pte {
        kind: Kind::None,
        page: 0,
        write: false,
        dirty: false,
        protnone: false,
        uffd: false,
    };

    pub fn page(page: u8, write: bool, dirty: bool) -> Pte {
        Pte {
            kind: Kind::Page,
            page,
            write,
            dirty,
            ..Pte::NONE
        }
    }

    pub fn of_kind(kind: Kind, page: u8) -> Pte {
        Pte {
            kind,
            page,
            ..Pte::NONE
        }
    }

    pub fn maps(self, page: u8) -> bool {
        self.kind == Kind::Page && self.page == page
    }

    /// Returns whether a CPU may read through it.
    pub fn is_readable(self) -> bool {
        self.kind == Kind::Page && !self.protnone
    }

    /// Returns whether a CPU, or GUP for writing, may write through it.
    pub fn is_writable(self) -> bool {
        self.is_readable() && self.write
    }
}

impl fmt::Debug for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::None => return write!(f, "-"),
            Kind::Zero => return write!(f, "zero"),
            Kind::Page => write!(f, "p{}", self.page)?,
            Kind::Swap => write!(f, "swap(p{})", self.page)?,
            Kind::Migration => write!(f, "migration(p{})", self.page)?,
        }
        for (set, name) in [
            (self.write, ".W"),
            (self.dirty, ".D"),
            (self.protnone, ".NUMA"),
            (self.uffd, ".uffd"),
        ] {
            if set {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pmd {
    None,
    /// The PTE table.
    Table,
    /// The huge page of a collapse, made invalid.
    Invalid(u8),
    /// The huge page of a collapse.
    Huge(u8),
}

/// The translation of a slot that a CPU has cached.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tlb {
    pub page: u8,
    pub write: bool,
    pub dirty: bool,
}

impl Tlb {
    pub fn as_pte(self) -> Pte {
        Pte::page(self.page, self.write, self.dirty)
    }
}

impl From<Pte> for Tlb {
    fn from(pte: Pte) -> Self {
        Tlb {
            page: pte.page,
            write: pte.write,
            dirty: pte.dirty,
        }
    }
}

/// The holder of a lock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Owner {
    Collapse(u8),
    Reclaim,
    Migration,
    Move,
}

/// Pins are counted apart, as large folios do. For a small one a pin is 1024 references.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Folio {
    pub refs: u8,
    pub pins: u8,
    pub maps: u8,
    pub lock: Option<Owner>,
    pub swapcache: bool,
    pub dirty: bool,
}

impl Folio {
    pub fn is_alive(self) -> bool {
        self.refs + self.pins > 0
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Page {
    pub content: u8,
    /// PageAnonExclusive.
    pub exclusive: bool,
}

/// A page fault that has read the PTE and does not have the lock of the table yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Faulting {
    pub slot: u8,
    pub orig: Pte,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Cpu {
    pub tlb: [Option<Tlb>; SLOTS],
    /// Whether its paging-structure cache has the PTE table.
    pub walks: bool,
    pub fault: Option<Faulting>,
    /// Stores to come.
    pub stores: u8,
    /// Whether the process runs on it at all.
    pub runs: bool,
}

/// The faults that a state may have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Violation {
    /// A CPU, a device or a secondary MMU reads something else than what was written last.
    StaleRead,
    /// A page was used after it was freed.
    UseAfterFree,
    /// A CPU has written after mprotect(PROT_READ), or after userfaultfd has write-protected.
    ForbiddenWrite,
    /// Memory that the OOM reaper has taken reads as zeroes.
    ReapedReadable,
    /// The child of a fork sees what the parent has written since, or the other way round.
    ForkShares,
    /// FOLL_LONGTERM or UFFDIO_MOVE have failed for good because of our pin.
    HardFailure,
    /// More pages were copied while nobody could access the window than is allowed.
    Stall,
    /// A page was copied again that nobody has written.
    NeedlessCopy,
    /// A window was refused, and its table is not as it was.
    TableChanged,
    /// References, mappings, pins or locks are left, or missing, when all is over.
    Unbalanced,
    /// No collapse has succeeded though nothing has come in between but what must not matter.
    NotCollapsed,
}

/// The progress of adversaries that take several steps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Doing {
    #[default]
    Idle,
    /// It has read the entries without a lock.
    Read { slot: u8, orig: Pte },
    /// It has a reference or pin, but may have to give it up.
    Grabbed { slot: u8, orig: Pte },
    /// It may write the page until it lets go.
    Has { slot: u8, page: u8, zaps: u8 },
    /// It also has the folio lock.
    Locked { slot: u8, orig: Pte },
    /// It has come half way, holding the folio lock.
    Halfway { slot: u8, orig: Pte },
    /// A flush is due.
    Unflushed { slot: u8 },
}

/// The adversaries that take several steps. Each can be met once at a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Others {
    pub gup: Doing,
    pub poke: Doing,
    pub longterm: Doing,
    pub reclaim: Doing,
    /// A scan that makes hints, and a fault on one.
    pub numa: Doing,
    pub numa_fault: Doing,
    pub move_page: Doing,
    pub zap: Doing,
    pub secondary: Doing,
    /// Whether a notifier has told the secondary MMU since it looked.
    pub told: bool,
}

/// How often an adversary may still begin, or write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    pub gup: u8,
    pub dma: u8,
    pub poke: u8,
    pub longterm: u8,
    pub reclaim: u8,
    pub swapoff: u8,
    pub numa: u8,
    pub ksm: u8,
    pub uffd: u8,
    pub move_page: u8,
    pub zap: u8,
    pub fork: u8,
    pub mprotect: u8,
    pub secondary: u8,
    pub secondary_writes: u8,
}

impl Budget {
    /// The actions of either of two.
    pub fn with(&self, other: &Budget) -> Budget {
        Budget {
            gup: self.gup.max(other.gup),
            dma: self.dma.max(other.dma),
            poke: self.poke.max(other.poke),
            longterm: self.longterm.max(other.longterm),
            reclaim: self.reclaim.max(other.reclaim),
            swapoff: self.swapoff.max(other.swapoff),
            numa: self.numa.max(other.numa),
            ksm: self.ksm.max(other.ksm),
            uffd: self.uffd.max(other.uffd),
            move_page: self.move_page.max(other.move_page),
            zap: self.zap.max(other.zap),
            fork: self.fork.max(other.fork),
            mprotect: self.mprotect.max(other.mprotect),
            secondary: self.secondary.max(other.secondary),
            secondary_writes: self.secondary_writes.max(other.secondary_writes),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub pmd: Pmd,
    pub pmd_write: bool,
    pub pmd_lock: Option<Owner>,
    /// The PTE table, hooked in or not.
    pub pte: [Pte; SLOTS],
    pub ptl: Option<Owner>,
    pub page: [Page; PAGES],
    pub folio: [Folio; HUGE],
    /// Whether pages 0 and 1 are one folio.
    pub large: bool,
    pub cpu: [Cpu; CPUS],
    pub secondary: [Option<u8>; SLOTS],
    /// Notifier ranges that are open.
    pub ranges: u8,
    /// The contents of the swap device.
    pub swap: [u8; SLOTS],
    /// The pages that the child of a fork maps, and what they held.
    pub child: [Option<(u8, u8)>; SLOTS],
    /// The page that UFFDIO_MOVE has put elsewhere, and what it held.
    pub moved: Option<(u8, u8)>,
    pub vm_write: bool,
    /// userfaultfd write protection, as the process knows it.
    pub uffd_wp: [bool; SLOTS],
    /// MMF_UNSTABLE.
    pub unstable: bool,
    pub reaped: bool,
    pub has_pinned: bool,
    /// The value that was written last to each slot.
    pub truth: [u8; SLOTS],
    /// How often the process has given up the memory of each slot.
    pub zaps: [u8; SLOTS],
    pub engine: [Engine; ENGINES],
    pub others: Others,
    pub budget: Budget,
    pub violation: Option<Violation>,
}

impl State {
    pub fn folio_nr(&self, page: u8) -> usize {
        if self.large && page == 1 {
            0
        } else {
            usize::from(page)
        }
    }

    /// The pages of a folio.
    pub fn folio_pages(&self, nr: usize) -> u8 {
        if self.large && nr == 0 {
            2
        } else {
            1
        }
    }

    pub fn folio_of(&mut self, page: u8) -> &mut Folio {
        let nr = self.folio_nr(page);

        &mut self.folio[nr]
    }

    /// Halves of huge pages are never freed here.
    pub fn is_alive(&self, page: u8) -> bool {
        usize::from(page) >= HUGE || self.folio[self.folio_nr(page)].is_alive()
    }

    /// Notes the first thing that goes wrong.
    pub fn fail(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    pub fn content(&mut self, page: u8) -> u8 {
        if !self.is_alive(page) {
            self.fail(Violation::UseAfterFree);
        }
        self.page[usize::from(page)].content
    }

    /// The process, or a device on its behalf, writes a slot through `page`.
    pub fn store(&mut self, slot: usize, page: u8) {
        if !self.is_alive(page) {
            self.fail(Violation::UseAfterFree);
        }
        self.truth[slot] += 1;
        self.page[usize::from(page)].content = self.truth[slot];
    }

    pub fn get(&mut self, page: u8) {
        if !self.is_alive(page) {
            self.fail(Violation::UseAfterFree);
        }
        self.folio_of(page).refs += 1;
    }

    /// Drops references. A page without any is free, and nothing of it remains.
    pub fn put(&mut self, page: u8, nr: u8) {
        if self.folio_of(page).refs < nr {
            self.fail(Violation::UseAfterFree);
            return;
        }
        self.folio_of(page).refs -= nr;
        self.free_if_unused(page);
    }

    pub fn unpin(&mut self, page: u8) {
        self.folio_of(page).pins -= 1;
        self.free_if_unused(page);
    }

    fn free_if_unused(&mut self, page: u8) {
        let nr = self.folio_nr(page);

        if self.folio[nr].is_alive() {
            return;
        }
        if self.folio[nr].maps > 0 || self.folio[nr].lock.is_some() {
            self.fail(Violation::UseAfterFree);
        }
        self.folio[nr] = Folio::default();
        for page in nr..nr + usize::from(self.folio_pages(nr)) {
            self.page[page] = Page::default();
        }
    }

    /// Returns whether nothing but mappings, swap cache and what is told holds a folio.
    pub fn only_expected(&self, page: u8, refs: u8, pins: u8) -> bool {
        let nr = self.folio_nr(page);
        let folio = self.folio[nr];

        folio.refs == self.expected_refs(nr) + refs && folio.pins == pins
    }

    pub fn expected_refs(&self, nr: usize) -> u8 {
        let folio = self.folio[nr];
        let cached = if folio.swapcache {
            self.folio_pages(nr)
        } else {
            0
        };

        folio.maps + cached
    }

    /// A page that is new, exclusive, and mapped once. None is free in a run that has used all.
    pub fn alloc(&mut self, content: u8) -> Option<u8> {
        let is_named = |page| {
            let mut entries = self.pte.iter().filter(|pte| pte.kind == Kind::Swap);

            entries.any(|pte| pte.page == page)
        };
        let is_taken = |page| self.is_alive(page) || (self.large && page < 2) || is_named(page);
        let free = (0..HUGE as u8).find(|page| !is_taken(*page))?;

        self.page[usize::from(free)] = Page {
            content,
            exclusive: true,
        };
        self.folio[usize::from(free)] = Folio {
            refs: 1,
            maps: 1,
            ..Folio::default()
        };
        Some(free)
    }

    pub fn remove_rmap(&mut self, page: u8) {
        if self.folio_of(page).maps == 0 {
            self.fail(Violation::UseAfterFree);
            return;
        }
        self.folio_of(page).maps -= 1;
    }

    /// Removes a mapping, with its reference.
    pub fn unmap(&mut self, page: u8) {
        self.remove_rmap(page);
        self.put(page, 1);
    }

    /// Drops all translations of a CPU.
    pub fn flush_cpu(&mut self, cpu: usize) {
        self.cpu[cpu].tlb = [None; SLOTS];
        self.cpu[cpu].walks = false;
    }

    pub fn flush_all(&mut self) {
        for cpu in 0..CPUS {
            self.flush_cpu(cpu);
        }
    }

    /// Drops the translations of a slot, and those of secondary MMUs, as any other change of a PTE
    /// does. They flush under their lock here, which is no matter of ours.
    pub fn flush_slot(&mut self, slot: usize) {
        for cpu in &mut self.cpu {
            cpu.tlb[slot] = None;
        }
        self.notify(slot);
    }

    pub fn notify(&mut self, slot: usize) {
        self.secondary[slot] = None;
        self.others.told = self.others.secondary != Doing::Idle;
    }

    /// The page that a walk of the page table finds for a slot, if it maps one.
    pub fn walk(&self, slot: usize) -> Option<Tlb> {
        match self.pmd {
            Pmd::Table if self.pte[slot].is_readable() => Some(self.pte[slot].into()),
            Pmd::Huge(engine) => Some(Tlb {
                page: huge_page(engine, slot),
                write: self.pmd_write,
                dirty: true,
            }),
            _ => None,
        }
    }

    /// The VMA lock can be had for write. All that work on the page table hold it for read but
    /// GUP-fast, which fork() and mprotect() keep out by other means, and reclaim.
    pub fn vma_is_free(&self, fault: Option<Fault>) -> bool {
        let others = &self.others;
        let readers = [
            others.numa,
            others.numa_fault,
            others.move_page,
            others.zap,
            others.longterm,
        ];

        !self.engine.iter().any(|engine| engine.has_vma(fault))
            && self.cpu.iter().all(|cpu| cpu.fault.is_none())
            && readers.iter().all(|doing| *doing == Doing::Idle)
            && !matches!(others.gup, Doing::Read { .. } | Doing::Grabbed { .. })
            && self.ptl.is_none()
    }

    /// Returns whether a collapse holds the folio of a page.
    pub fn is_held_by_us(&self, page: u8) -> bool {
        let nr = self.folio_nr(page);

        self.engine
            .iter()
            .flat_map(Engine::held)
            .any(|(_, source)| self.folio_nr(source.page) == nr)
    }
}
