// SPDX-License-Identifier: GPL-2.0

//! Huge folios that nobody else knows of yet: allocated, charged, and filled.

use super::{
    Folio,
    FolioPtr,
    PageRef,
    HPAGE_PMD_NR,
    PMD_ORDER, //
};
use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    mm::{
        internal::nodemask::NodeMask,
        virt::VmaRef,
        MmWithUser, //
    },
    prelude::*, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// The only reference to a folio of PMD order, whose contents are undefined at first.
///
/// # Invariants
///
/// The folio is of PMD order, and its only reference is owned.
struct OnlyRef(FolioPtr);

impl Drop for OnlyRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::folio_put(self.0.as_ptr()) };
    }
}

/// A folio of PMD order that belongs to no memory cgroup yet: it cannot be mapped.
///
/// # Examples
///
/// ```
/// use kernel::mm::{
///     internal::{
///         folio::{
///             ChargeError,
///             HugeFolio,
///             UnchargedFolio, //
///         },
///         nodemask::NodeMask, //
///     },
///     MmWithUser, //
/// };
///
/// fn prealloc(mm: &MmWithUser) -> Result<Result<HugeFolio, ChargeError>> {
///     let folio = UnchargedFolio::alloc(GFP_KERNEL, 0, &NodeMask::online())?;
///
///     Ok(folio.charge(mm, GFP_KERNEL))
/// }
///
/// // There may be no such folio free, and that is no error.
/// drop(UnchargedFolio::alloc(GFP_KERNEL, 0, &NodeMask::online()));
/// // But there is no such node.
/// assert!(UnchargedFolio::alloc(GFP_KERNEL, usize::MAX, &NodeMask::online()).is_err());
/// ```
///
/// # Invariants
///
/// The folio is not charged.
pub struct UnchargedFolio(OnlyRef);

impl UnchargedFolio {
    /// Allocates a folio.
    ///
    /// `nodes` are those that may serve when `nid` cannot.
    ///
    /// # Errors
    ///
    /// When none of them can, and when `nid` is not online.
    ///
    /// # Context
    ///
    /// May sleep, reclaim and compact if `gfp` lets it.
    #[inline]
    pub fn alloc(gfp: Flags, nid: usize, nodes: &NodeMask) -> Result<Self, AllocError> {
        if !NodeMask::online().contains(nid) {
            return Err(AllocError);
        }

        let mut nodes = *nodes;
        // SAFETY: The node exists and the nodemask is valid for the call. CAST: Node ids are small.
        let folio = unsafe {
            bindings::__folio_alloc(
                gfp.as_raw(),
                PMD_ORDER,
                nid as core::ffi::c_int,
                &mut nodes.0,
            )
        };

        // INVARIANT: It was allocated just now, and nothing of it is charged.
        NonNull::new(folio)
            .map(|folio| Self(OnlyRef(folio)))
            .ok_or(AllocError)
    }

    /// Charges the folio to the memory cgroup of `mm`, and prepares what the queue of folios to be
    /// split needs, since nothing may be allocated when the folio is mapped.
    ///
    /// # Errors
    ///
    /// Says which of the two failed. The folio is freed then.
    ///
    /// # Context
    ///
    /// May sleep, and reclaim from the cgroup, if `gfp` lets it.
    #[inline]
    pub fn charge(self, mm: &MmWithUser, gfp: Flags) -> Result<HugeFolio, ChargeError> {
        let folio = self.0 .0.as_ptr();

        // SAFETY: The folio and the mm are valid, and by the type invariants nothing of the folio
        // is charged.
        if unsafe { bindings::mem_cgroup_charge(folio, mm.as_raw(), gfp.as_raw()) } != 0 {
            return Err(ChargeError::Limit);
        }
        // SAFETY: The folio is charged.
        if unsafe { bindings::folio_memcg_alloc_deferred(folio) } != 0 {
            return Err(ChargeError::NoMemory);
        }
        // INVARIANT: Both were done just now.
        Ok(HugeFolio(self.0))
    }
}

/// A folio of PMD order that nobody else knows of yet. Its contents are undefined.
///
/// # Examples
///
/// ```
/// use kernel::mm::internal::folio::{
///     FilledFolio,
///     HugeFolio, //
/// };
///
/// fn clear(folio: HugeFolio, addr: usize) -> Option<FilledFolio> {
///     let page_addr = |nr| addr.wrapping_add(nr * kernel::page::PAGE_SIZE);
///
///     folio
///         .fill(|nr, page| Ok::<_, ()>(page.clear(page_addr(nr))))
///         .ok()
/// }
/// ```
///
/// # Invariants
///
/// The folio is charged, and what it needs to be split later is allocated.
pub struct HugeFolio(OnlyRef);

impl HugeFolio {
    #[inline]
    pub(in crate::mm::internal) fn as_ptr(&self) -> *mut bindings::folio {
        self.0 .0.as_ptr()
    }

    /// The NUMA node that it lies on.
    #[inline]
    pub fn nid(&self) -> usize {
        // SAFETY: By the type invariants the folio is referenced.
        unsafe { Folio::from_raw(self.0 .0) }.nid()
    }

    /// The `nr`th page of the folio.
    #[inline(always)]
    fn page_mut(&mut self, nr: usize) -> BlankPage<'_> {
        debug_assert!(nr < HPAGE_PMD_NR);

        BlankPage {
            // SAFETY: By the type invariants the folio has this many pages.
            page: unsafe { bindings::folio_page(self.as_ptr(), nr) },
            _folio: PhantomData,
        }
    }

    /// Has `f` write every page of the folio, in the order of their numbers.
    ///
    /// # Errors
    ///
    /// That of the first page that could not be written, with the folio.
    #[inline(always)]
    pub fn fill<E>(
        mut self,
        mut f: impl FnMut(usize, BlankPage<'_>) -> Result<Written, E>,
    ) -> Result<FilledFolio, (Self, E)> {
        for nr in 0..HPAGE_PMD_NR {
            if let Err(err) = f(nr, self.page_mut(nr)) {
                return Err((self, err));
            }
        }
        // INVARIANT: Every page was written.
        Ok(FilledFolio(self))
    }
}

/// A folio of PMD order that nobody else knows of yet, and whose pages were all written.
///
/// # Invariants
///
/// Every page was written since the folio was allocated.
pub struct FilledFolio(pub(super) HugeFolio);

impl FilledFolio {
    /// The `nr`th page, to be written once more. Returns [`None`] if there is no such page.
    #[inline]
    pub fn page_mut(&mut self, nr: usize) -> Option<BlankPage<'_>> {
        (nr < HPAGE_PMD_NR).then(|| self.0.page_mut(nr))
    }

    /// Returns the folio as one whose contents do not matter.
    #[inline]
    pub fn into_blank(self) -> HugeFolio {
        self.0
    }
}

/// Why a folio could not be charged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChargeError {
    /// The memory cgroup is at its limit.
    Limit,
    /// Memory for bookkeeping is short.
    NoMemory,
}

/// A page that nobody else can see.
pub struct BlankPage<'a> {
    page: *mut bindings::page,
    _folio: PhantomData<&'a mut HugeFolio>,
}

/// Proof that a page was written.
pub struct Written(());

/// A page could not be read: its memory is bad.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineCheck;

impl BlankPage<'_> {
    /// Copies the page `from`, which `vma` maps at `addr`.
    ///
    /// If it is written meanwhile, the copy is a mixture of old and new.
    ///
    /// # Errors
    ///
    /// When the memory of `from` is bad. The contents of `to` are undefined then.
    ///
    /// # Context
    ///
    /// Does not sleep. Folios and page tables may be locked.
    #[inline(always)]
    pub fn copy(
        self,
        from: PageRef<'_>,
        addr: usize,
        vma: &VmaRef,
    ) -> Result<Written, MachineCheck> {
        // SAFETY: Both pages and the VMA are valid, the destination is ours. C code copies pages
        // that user space may write, too.
        let left = unsafe {
            bindings::copy_mc_user_highpage(self.page, from.as_ptr(), addr, vma.as_ptr())
        };

        if left > 0 {
            return Err(MachineCheck);
        }
        Ok(Written(()))
    }

    /// Clears the page, which is to be mapped at `addr`.
    #[inline(always)]
    pub fn clear(self, addr: usize) -> Written {
        // SAFETY: The page is valid and ours.
        unsafe { bindings::clear_user_highpage(self.page, addr) };
        Written(())
    }
}

static_assert!(size_of::<BlankPage<'_>>() == size_of::<usize>());
static_assert!(size_of::<UnchargedFolio>() == size_of::<usize>());
static_assert!(size_of::<HugeFolio>() == size_of::<usize>());
static_assert!(size_of::<FilledFolio>() == size_of::<usize>());
static_assert!(size_of::<Written>() == 0);
