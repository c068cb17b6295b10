// SPDX-License-Identifier: GPL-2.0

//! The rights of a request: made once, from its flags, its caller and sysfs, and never looked up
//! again.
//!
//! | question        | rule                                                                     |
//! |-----------------|--------------------------------------------------------------------------|
//! | may it at all   | on memory of its own, or for the kernel, yes; on that of another process |
//! |                 | with LIMITS or CAP_SYS_ADMIN                                             |
//! | limits of sysfs | only with LIMITS, and as they stood when the call began                  |
//! | userfaultfd     | where it is armed no hole is filled, whatever else is asked              |
//! | MADV_NOHUGEPAGE | overruled by the owner of the memory and by CAP_SYS_ADMIN                |
//! | allocation      | as page faults do, see [`crate::gfp`]; with DEFRAG as hard as can be     |
//!
//! CAP_SYS_ADMIN is asked for in the initial user namespace, as process_madvise() asks for
//! CAP_SYS_NICE. A collapse takes memory of the whole system, and the limits are set by the
//! system's administrator: root in a namespace of its own has no say in either.

use kernel::{
    mm::{
        internal::pgtable::PTRS_PER_PTE,
        virt::VmaRef, //
    },
    prelude::*, //
};

/// The flags of process_madvise(), as booleans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    /// MADV_F_COLLAPSE_LIMITS: to heed the limits of sysfs.
    pub(crate) limits: bool,
    /// MADV_F_COLLAPSE_DEFRAG: to reclaim and compact where page faults would not.
    pub(crate) defrag: bool,
}

/// The caller of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Caller {
    /// A task, for memory of its own. That goes for the workers of io_uring too.
    Owner,
    /// A task, for the memory of another process.
    Other {
        /// It has CAP_SYS_ADMIN.
        admin: bool,
    },
    /// The kernel, for nobody, as DAMON does.
    Kernel,
}

/// How many PTEs of each kind a window may have and still be collapsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Holes and zero pages.
    pub(crate) none: usize,
    /// Swapped pages.
    pub(crate) swap: usize,
    /// Pages that other processes map.
    pub(crate) shared: usize,
}

impl Limits {
    /// No limits.
    pub(crate) const NONE: Limits = Limits {
        none: PTRS_PER_PTE,
        swap: PTRS_PER_PTE,
        shared: PTRS_PER_PTE,
    };
}

/// The rights of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Policy {
    limits: Limits,
    /// Whether every allocation may reclaim and compact.
    pub(crate) defrag: bool,
    /// Whether MADV_NOHUGEPAGE is heeded.
    pub(crate) heed_nohugepage: bool,
    /// Whether the memory may be that of another process.
    pub(crate) foreign: bool,
}

impl Policy {
    /// Decides what a request may do. `sysfs` tells the limits that sysfs sets, and is asked only
    /// when they matter.
    ///
    /// # Errors
    ///
    /// `EPERM` when it may do nothing.
    pub(crate) fn new(
        asked: Asked,
        caller: Caller,
        sysfs: impl FnOnce() -> Limits,
    ) -> Result<Self> {
        if caller == (Caller::Other { admin: false }) && !asked.limits {
            return Err(EPERM);
        }
        Ok(Self {
            limits: if asked.limits { sysfs() } else { Limits::NONE },
            defrag: asked.defrag,
            heed_nohugepage: match caller {
                Caller::Owner => false,
                Caller::Other { admin } => !admin,
                Caller::Kernel => true,
            },
            foreign: caller != Caller::Owner,
        })
    }

    /// The limits in a VMA.
    pub(crate) fn limits_in(&self, vma: &VmaRef) -> Limits {
        self.limits_where(vma.is_userfaultfd_armed())
    }

    fn limits_where(&self, userfaultfd_armed: bool) -> Limits {
        if userfaultfd_armed {
            // A process that watches for missing pages has to be asked before a hole is filled.
            return Limits {
                none: 0,
                ..self.limits
            };
        }
        self.limits
    }
}

#[cfg(CONFIG_THP_COLLAPSE_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(thp_collapse_policy)]
mod tests {
    use super::*;

    const SYSFS: Limits = Limits {
        none: 7,
        swap: 5,
        shared: 3,
    };
    const ASKED: [Asked; 4] = [
        asked(false, false),
        asked(true, false),
        asked(false, true),
        asked(true, true),
    ];
    const CALLERS: [Caller; 4] = [
        Caller::Owner,
        Caller::Other { admin: true },
        Caller::Other { admin: false },
        Caller::Kernel,
    ];

    const fn asked(limits: bool, defrag: bool) -> Asked {
        Asked { limits, defrag }
    }

    fn every(mut check: impl FnMut(Asked, Caller, Result<Policy>)) {
        for asked in ASKED {
            for caller in CALLERS {
                check(asked, caller, Policy::new(asked, caller, || SYSFS));
            }
        }
    }

    #[test]
    fn only_others_without_capability_must_accept_the_limits() {
        let mut refused = 0;

        every(|asked, caller, policy| {
            if let Err(err) = policy {
                assert_eq!(err, EPERM);
                assert_eq!(caller, Caller::Other { admin: false });
                assert!(!asked.limits);
                refused += 1;
            }
        });
        // With DEFRAG and without.
        assert_eq!(refused, 2);
    }

    #[test]
    fn limits_are_those_of_sysfs_if_asked_for() {
        every(|asked, _, policy| {
            let Ok(policy) = policy else { return };
            let limits = policy.limits_where(false);

            assert_eq!(limits, if asked.limits { SYSFS } else { Limits::NONE });
        });
    }

    #[test]
    fn no_hole_is_filled_where_userfaultfd_watches() {
        every(|asked, _, policy| {
            let Ok(policy) = policy else { return };
            let limits = policy.limits_where(true);

            assert_eq!(limits.none, 0);
            assert_eq!(limits.swap, if asked.limits { 5 } else { PTRS_PER_PTE });
            assert_eq!(limits.shared, if asked.limits { 3 } else { PTRS_PER_PTE });
        });
    }

    #[test]
    fn reclaim_is_what_was_asked_for() {
        every(|asked, _, policy| {
            if let Ok(policy) = policy {
                assert_eq!(policy.defrag, asked.defrag);
            }
        });
    }

    #[test]
    fn only_owner_and_administrator_overrule_madv_nohugepage() {
        every(|_, caller, policy| {
            let Ok(policy) = policy else { return };

            assert_eq!(
                policy.heed_nohugepage,
                match caller {
                    Caller::Owner | Caller::Other { admin: true } => false,
                    Caller::Other { admin: false } | Caller::Kernel => true,
                }
            );
        });
    }
}
