// SPDX-License-Identifier: GPL-2.0
/*
 * Helpers for what memory management keeps to itself: Rust code that is built in
 * can call them, modules cannot. Where helpers are not inlined, they are an object
 * of their own, whose symbols are not exported. Otherwise helpers.c includes them.
 */

#ifndef __rust_helper
#define __rust_helper
#endif

#include "folio.c"

#include "mmu_notifier.c"

#include "pgtable.c"

#include "tlb.c"

#include "vma.c"
