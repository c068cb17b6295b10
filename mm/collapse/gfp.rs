// SPDX-License-Identifier: GPL-2.0

//! How the huge pages of a request are allocated.

use crate::{
    outcome::Refusal,
    policy::Policy,
    ranges::Ranges, //
};
use kernel::{
    alloc::Flags,
    mm::{
        internal::thp,
        virt::VmaRef,
        MmWithUser, //
    },
    prelude::*,
    task::cond_resched, //
};

/// The choice of flags for the huge pages of a request.
pub(crate) struct Gfp<'mm> {
    mm: &'mm MmWithUser,
    /// All of the request.
    ranges: Ranges<'mm>,
    defrag: bool,
    /// How a page fault would allocate in the VMA at hand.
    fault: Flags,
    /// The result of [`most_permissive_gfp`], which is called when it first matters: a request
    /// whose memory is huge already does not pay for it.
    most_permissive: Option<Option<Flags>>,
}

impl<'mm> Gfp<'mm> {
    pub(crate) fn new(mm: &'mm MmWithUser, policy: &Policy, ranges: Ranges<'mm>) -> Self {
        Self {
            mm,
            ranges,
            defrag: policy.defrag,
            fault: thp::GFP_TRANSHUGE_LIGHT,
            most_permissive: None,
        }
    }

    /// Huge pages are allocated for this VMA next.
    pub(crate) fn enter(&mut self, vma: &VmaRef) {
        self.fault = vma.thp_gfp();
    }

    /// Returns how to allocate a huge page for the VMA at hand. May sleep.
    pub(crate) fn get(&mut self) -> Result<Flags, Refusal> {
        let Self {
            mm,
            ranges,
            most_permissive,
            ..
        } = self;

        choose(self.defrag, self.fault, || {
            if let Some(gfp) = *most_permissive {
                return Ok(gfp);
            }
            let gfp = most_permissive_gfp(mm, *ranges)?;

            *most_permissive = Some(gfp);
            Ok(gfp)
        })
        .map_err(|_| Refusal::Killed)
    }
}

/// Returns `fault`, the flags that a page fault in the VMA at hand would use.
///
/// But if these may not reclaim and compact, and a fault in any VMA of the request may, returns
/// what `most_permissive` tells of that one; it is asked in no other case. With `defrag`, returns
/// flags that may do all of it.
fn choose(
    defrag: bool,
    fault: Flags,
    most_permissive: impl FnOnce() -> Result<Option<Flags>>,
) -> Result<Flags> {
    if defrag {
        return Ok(thp::GFP_TRANSHUGE);
    }
    if thp::may_reclaim(fault) {
        return Ok(fault);
    }
    Ok(most_permissive()?.unwrap_or(fault))
}

/// How page faults allocate huge pages in the first VMA of a request that lets them reclaim and
/// compact. [`None`] when there is no such VMA.
///
/// # Errors
///
/// `EINTR` when a fatal signal came.
///
/// # Context
///
/// May sleep.
fn most_permissive_gfp(mm: &MmWithUser, ranges: Ranges<'_>) -> Result<Option<Flags>> {
    for segment in ranges.segments() {
        // A request ends at the first segment that cannot be served: see `request::collapse`.
        let range = match ranges.pages(segment) {
            Ok(range) => range,
            Err(EINTR) => return Err(EINTR),
            Err(_) => break,
        };
        let mut addr = range.start;

        while addr < range.end {
            if current!().fatal_signal_pending() {
                return Err(EINTR);
            }
            cond_resched();
            let Some(vma) = mm.find_stable_vma(addr)? else {
                break;
            };
            if vma.start() >= range.end {
                break;
            }
            let gfp = vma.thp_gfp();

            if thp::may_reclaim(gfp) {
                return Ok(Some(gfp));
            }
            addr = vma.end();
        }
    }
    Ok(None)
}

#[cfg(CONFIG_THP_COLLAPSE_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(thp_collapse_gfp)]
mod tests {
    use super::*;
    use kernel::alloc::flags::{
        __GFP_NOWARN,
        GFP_KERNEL,
        GFP_NOWAIT, //
    };

    /// The modes of sysfs' "defrag".
    #[derive(Clone, Copy, PartialEq)]
    enum Defrag {
        Always,
        Defer,
        DeferMadvise,
        Madvise,
        Never,
    }

    // Flags that stand for those of `vma_thp_gfp_mask()`, one for each thing that it says.
    const HARD: Flags = GFP_KERNEL;
    const KSWAPD: Flags = GFP_NOWAIT;
    const NOTHING: Flags = __GFP_NOWARN;

    /// How a page fault allocates in a VMA, marked by MADV_HUGEPAGE or not.
    fn fault(defrag: Defrag, advised: bool) -> Flags {
        match (defrag, advised) {
            // Without the mark it gives up sooner.
            (Defrag::Always, false) => HARD | __GFP_NOWARN,
            (Defrag::Always, true) => HARD,
            (Defrag::Defer, _) => KSWAPD,
            (Defrag::DeferMadvise | Defrag::Madvise, true) => HARD,
            (Defrag::DeferMadvise, false) => KSWAPD,
            (Defrag::Madvise, false) => NOTHING,
            (Defrag::Never, _) => NOTHING,
        }
    }

    /// The result of [`most_permissive_gfp`] for a request with two VMAs.
    fn most_permissive(faults: [Flags; 2]) -> Option<Flags> {
        faults.into_iter().find(|gfp| thp::may_reclaim(*gfp))
    }

    #[test]
    fn allocation_is_that_of_the_most_permissive_fault() {
        let modes = [
            Defrag::Always,
            Defrag::Defer,
            Defrag::DeferMadvise,
            Defrag::Madvise,
            Defrag::Never,
        ];

        for mode in modes {
            for (advised, other_advised) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                for defrag in [false, true] {
                    let (own, other) = (fault(mode, advised), fault(mode, other_advised));
                    let mut walked = false;
                    let gfp = choose(defrag, own, || {
                        walked = true;
                        Ok(most_permissive([own, other]))
                    });
                    let gated = matches!(mode, Defrag::DeferMadvise | Defrag::Madvise);
                    let expected = match (defrag, advised || !gated, other_advised) {
                        (true, _, _) => thp::GFP_TRANSHUGE,
                        // The window's own VMA decides.
                        (false, true, _) => own,
                        (false, false, true) => HARD,
                        (false, false, false) => own,
                    };

                    assert!(gfp == Ok(expected));
                    // Nobody pays for looking at VMAs when it makes no difference.
                    assert_eq!(walked, !defrag && !thp::may_reclaim(own));
                }
            }
        }
    }

    #[test]
    fn a_signal_while_looking_at_vmas_is_passed_on() {
        assert!(choose(false, NOTHING, || Err(EINTR)) == Err(EINTR));
        assert!(choose(false, NOTHING, || Ok(None)) == Ok(NOTHING));
    }
}
