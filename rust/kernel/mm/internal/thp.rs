// SPDX-License-Identifier: GPL-2.0

//! The rules of a VMA for transparent huge pages.
//!
//! C header: [`include/linux/huge_mm.h`](srctree/include/linux/huge_mm.h)

use super::folio::PMD_ORDER;
use crate::{
    alloc::Flags,
    bindings,
    mm::{
        virt::{
            flags,
            VmaRef, //
        },
        MmWithUser,
    },
};

impl VmaRef {
    /// Returns whether the VMA has an anon_vma, that is, whether it ever held a page of its own.
    #[inline]
    pub fn has_anon_vma(&self) -> bool {
        // SAFETY: The VMA is stable. That of another page the first fault is to set this does not
        // matter: it is never unset.
        unsafe { !core::ptr::read_volatile(&(*self.as_ptr()).anon_vma).is_null() }
    }

    /// Returns whether userfaultfd watches the VMA.
    #[inline]
    pub fn is_userfaultfd_armed(&self) -> bool {
        // SAFETY: The VMA is stable.
        unsafe { bindings::userfaultfd_armed(self.as_ptr()) }
    }

    /// Returns whether userfaultfd has the VMA registered for write-protection or for access
    /// protection. It may take permissions away from pages, and give them back, under locks for
    /// reading.
    #[inline]
    pub fn is_userfaultfd_protecting(&self) -> bool {
        // SAFETY: The VMA is stable.
        unsafe {
            bindings::userfaultfd_wp(self.as_ptr()) || bindings::userfaultfd_rwp(self.as_ptr())
        }
    }

    /// Returns whether a request may make huge pages of PMD order in the VMA, whatever sysfs says.
    ///
    /// That is no for a VMA too small to hold a window, for VMAs of a special kind, for hardware
    /// without huge pages and for a process that opted out of them. `heed_madvise` also heeds an
    /// earlier MADV_NOHUGEPAGE.
    #[inline]
    pub fn may_collapse(&self, heed_madvise: bool) -> bool {
        let mut vm_flags = self.flags();

        if !heed_madvise {
            vm_flags &= !flags::NOHUGEPAGE;
        }
        // SAFETY: The VMA is stable. The question is whether these flags allow a huge page there.
        unsafe {
            bindings::thp_vma_allowable_orders(
                self.as_ptr(),
                vm_flags,
                bindings::tva_type_TVA_FORCED_COLLAPSE,
                1 << PMD_ORDER,
            ) != 0
        }
    }

    /// How a page fault in this VMA would allocate a huge page.
    #[inline]
    pub fn thp_gfp(&self) -> Flags {
        // SAFETY: The VMA is stable.
        Flags::from_raw(unsafe { bindings::vma_thp_gfp_mask(self.as_ptr()) })
    }
}

impl MmWithUser {
    /// Returns whether nothing but the caller keeps this address space, of which the caller is no
    /// task: the last task of it has exited or executed another program. A task that merely looks
    /// at it may hide this for a while.
    #[inline]
    pub fn is_abandoned(&self) -> bool {
        // SAFETY: The mm is valid. The count is an atomic of C, read like one.
        unsafe {
            core::ptr::read_volatile(&(*self.as_raw()).__bindgen_anon_1.mm_users.counter) == 1
        }
    }

    /// Returns whether the OOM killer took away pages of this address space, so that what is empty
    /// may have held data.
    #[inline]
    pub fn is_unstable(&self) -> bool {
        // SAFETY: The mm is valid.
        unsafe {
            bindings::mm_flags_test(bindings::MMF_UNSTABLE as core::ffi::c_int, self.as_raw())
        }
    }
}

/// How huge pages are allocated when they shall neither cost nor disturb anything.
pub const GFP_TRANSHUGE_LIGHT: Flags = Flags::from_raw(bindings::GFP_TRANSHUGE_LIGHT);

/// How huge pages are allocated when it may take reclaim and compaction.
pub const GFP_TRANSHUGE: Flags = Flags::from_raw(bindings::GFP_TRANSHUGE);

/// These flags as C code has them.
#[inline]
pub fn raw_gfp(gfp: Flags) -> bindings::gfp_t {
    gfp.as_raw()
}

/// Returns whether an allocation may reclaim and compact by itself.
#[inline]
pub fn may_reclaim(gfp: Flags) -> bool {
    gfp.as_raw() & bindings::__GFP_DIRECT_RECLAIM != 0
}

/// The same allocation, as long as it takes neither reclaim nor compaction.
#[inline]
pub fn without_reclaim(gfp: Flags) -> Flags {
    Flags::from_raw(gfp.as_raw() & !bindings::__GFP_DIRECT_RECLAIM)
}

/// Returns whether allocations are to prefer near nodes, even at the price of reclaim.
#[inline]
pub fn node_reclaim_enabled() -> bool {
    // SAFETY: Reads one variable.
    unsafe { bindings::node_reclaim_enabled() }
}

/// Returns whether two NUMA nodes are too far apart for reclaim to reach.
#[inline]
pub fn nodes_too_far(a: usize, b: usize) -> bool {
    // With a single node there is no such distance: the variable is only declared then.
    cfg!(CONFIG_NUMA)
        // SAFETY: Reads tables that are fixed after boot; both are nodes of existing pages.
        && unsafe {
            bindings::node_distance_of(a as core::ffi::c_int, b as core::ffi::c_int)
                > bindings::node_reclaim_distance
        }
}
