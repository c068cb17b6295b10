/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __MM_COLLAPSE_H
#define __MM_COLLAPSE_H

/*
 * Declarations that khugepaged.c and the Rust code in collapse/ share.
 */

#include <linux/jump_label.h>
#include <linux/mm.h>
#include <linux/types.h>

struct iovec;

enum scan_result {
	SCAN_FAIL,
	SCAN_SUCCEED,
	SCAN_NO_PTE_TABLE,
	SCAN_PMD_MAPPED,
	SCAN_EXCEED_NONE_PTE,
	SCAN_EXCEED_SWAP_PTE,
	SCAN_EXCEED_SHARED_PTE,
	SCAN_PTE_NON_PRESENT,
	SCAN_PTE_UFFD,
	SCAN_PTE_MAPPED_HUGEPAGE,
	SCAN_LACK_REFERENCED_PAGE,
	SCAN_PAGE_NULL,
	SCAN_SCAN_ABORT,
	SCAN_PAGE_COUNT,
	SCAN_PAGE_LRU,
	SCAN_PAGE_LOCK,
	SCAN_PAGE_ANON,
	SCAN_PAGE_LAZYFREE,
	SCAN_PAGE_COMPOUND,
	SCAN_ANY_PROCESS,
	SCAN_VMA_NULL,
	SCAN_VMA_CHECK,
	SCAN_ADDRESS_RANGE,
	SCAN_DEL_PAGE_LRU,
	SCAN_ALLOC_HUGE_PAGE_FAIL,
	SCAN_CGROUP_CHARGE_FAIL,
	SCAN_TRUNCATED,
	SCAN_PAGE_HAS_PRIVATE,
	SCAN_STORE_FAILED,
	SCAN_COPY_MC,
	SCAN_PAGE_FILLED,
	SCAN_PAGE_DIRTY_OR_WRITEBACK,
};

/* The passes of a collapse in Rust that it can be stopped after. */
enum collapse_pass {
	COLLAPSE_PASS_NONE,
	COLLAPSE_PASS_SCAN,
	COLLAPSE_PASS_PREALLOC,
	COLLAPSE_PASS_FAULT_IN,
	COLLAPSE_PASS_REMAP,
	COLLAPSE_PASS_PROTECT,
	COLLAPSE_PASS_UNMAP,
	COLLAPSE_PASS_COPY,
	COLLAPSE_PASS_SWITCH,
};

/* How many PTEs of each kind a window may have, and still be collapsed. */
struct collapse_limits {
	unsigned int none;
	unsigned int swap;
	unsigned int shared;
};

/* The part of a request that the C code needs to serve a window of it. */
struct collapse_policy {
	struct collapse_limits limits;
	gfp_t gfp;
	bool heed_nohugepage;
};

/*
 * In Rust: serves MADV_COLLAPSE of ranges, each page-aligned or refused, with
 * flags MADV_F_COLLAPSE_*. Called without mmap_lock. Returns how many bytes it
 * got through, or an error when these are none.
 */
ssize_t collapse_madvise(struct mm_struct *mm, const struct iovec *ranges,
			 unsigned long nr_ranges, unsigned int flags);

/* In khugepaged.c: serves windows of files. Called without mmap_lock. */
int collapse_file_window(struct mm_struct *mm, unsigned long addr,
			 const struct collapse_policy *policy);
void collapse_sysfs_limits(struct collapse_limits *limits);

/* In memory.c. */
#ifdef CONFIG_THP_COLLAPSE_RUST
vm_fault_t collapse_set_pmd(struct vm_fault *vmf, struct folio *folio,
			    struct page *page, vm_flags_t vm_flags);
#else
static inline vm_fault_t collapse_set_pmd(struct vm_fault *vmf,
					  struct folio *folio, struct page *page,
					  vm_flags_t vm_flags)
{
	return do_set_pmd(vmf, folio, page);
}
#endif

/* Faults that a test wants. Nothing is counted before it has asked for one. */
struct collapse_faults {
	struct static_key_false armed;
	/* The copy of a page that fails, counted from now on; none if 0. */
	atomic_t bad_copy;
	/* The count of a folio's references that finds too many, likewise. */
	atomic_t bad_count;
};

#ifdef CONFIG_THP_COLLAPSE_RUST_DEBUG
DECLARE_STATIC_KEY_FALSE(collapse_engine_c);
void collapse_debug_hold(enum collapse_pass pass);
extern struct collapse_faults collapse_faults;
bool collapse_debug_fail_copy(void);
bool collapse_debug_fail_count(void);
bool collapse_debug_unmaps_all(void);
unsigned int collapse_debug_per_switch(void);
void collapse_debug_count_work(unsigned int recopied, unsigned int rounds,
			       unsigned int old_way, unsigned int remapped);
#endif

static inline bool collapse_in_rust(void)
{
#ifdef CONFIG_THP_COLLAPSE_RUST_DEBUG
	if (static_branch_unlikely(&collapse_engine_c))
		return false;
#endif
	return IS_ENABLED(CONFIG_THP_COLLAPSE_RUST);
}

#endif /* __MM_COLLAPSE_H */
