// SPDX-License-Identifier: GPL-2.0

//! Memory barriers, on machines that order less than x86. Here all accesses are relaxed, as the page
//! table atomics of arm64 are, and only smp_mb() orders them. loom tries every order in which the
//! accesses of two threads may take effect.

use loom::{
    sync::atomic::{
        fence, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
    sync::Arc,
    thread,
};

/// The entry is a writable PTE, or a PMD entry of a table. It is neither once it is read-only, or
/// hidden.
const WRITABLE: usize = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Barrier {
    /// Between the write of the entry and the count.
    Ours,
    /// Between the reference and the second look at the entry.
    GupFast,
    /// Between the count and the copy.
    Copy,
}

fn smp_mb_unless(omitted: bool) {
    if !omitted {
        fence(SeqCst);
    }
}

/// GUP-fast takes a pin, and then reads the entry again. protect() and hide() change the entry, and
/// then count. It must not be that both succeed.
fn pin_beside_count(omitted: Option<Barrier>) {
    loom::model(move || {
        let entry = Arc::new(AtomicUsize::new(WRITABLE));
        let refs = Arc::new(AtomicUsize::new(1));
        let gup_fast = {
            let (entry, refs) = (Arc::clone(&entry), Arc::clone(&refs));

            thread::spawn(move || {
                let found = entry.load(Relaxed);

                refs.fetch_add(1, Relaxed);
                smp_mb_unless(omitted == Some(Barrier::GupFast));
                found == WRITABLE && entry.load(Relaxed) == found
            })
        };

        entry.fetch_and(!WRITABLE, Relaxed);
        smp_mb_unless(omitted == Some(Barrier::Ours));
        let counted = refs.load(Relaxed) == 1;
        let pinned = gup_fast.join().expect("no thread panics");

        assert!(
            !(counted && pinned),
            "a pin for writing was taken, and not counted"
        );
    });
}

/// access_remote_vm() writes a page by a reference of its own, and drops it. The switch counts
/// without that reference, and then copies the page again.
fn copy_after_count(omitted: Option<Barrier>) {
    loom::model(move || {
        let page = Arc::new(AtomicUsize::new(0));
        let refs = Arc::new(AtomicUsize::new(2));
        let other = {
            let (page, refs) = (Arc::clone(&page), Arc::clone(&refs));

            thread::spawn(move || {
                page.store(1, Relaxed);
                // The atomics that return a value are full barriers.
                fence(SeqCst);
                refs.fetch_sub(1, Relaxed);
            })
        };

        if refs.load(Relaxed) == 1 {
            smp_mb_unless(omitted == Some(Barrier::Copy));
            assert_eq!(page.load(Relaxed), 1, "what was written last is not copied");
        }
        other.join().expect("no thread panics");
    });
}

#[test]
fn either_gup_fast_or_the_count_sees_the_other() {
    pin_beside_count(None);
}

#[test]
#[should_panic(expected = "not counted")]
fn h12_no_barrier_before_the_count() {
    pin_beside_count(Some(Barrier::Ours));
}

#[test]
#[should_panic(expected = "not counted")]
fn no_barrier_in_gup_fast() {
    pin_beside_count(Some(Barrier::GupFast));
}

#[test]
fn a_barrier_orders_count_and_copy() {
    copy_after_count(None);
}

/// x86 does not reorder loads, and the code has no barrier here. It would need one elsewhere.
#[test]
#[should_panic(expected = "not copied")]
fn no_barrier_between_count_and_copy() {
    copy_after_count(Some(Barrier::Copy));
}
