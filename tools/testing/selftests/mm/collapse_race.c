// SPDX-License-Identifier: GPL-2.0
/*
 * Acts on a window while its collapse is held between two passes, for each pass
 * and each action. CONFIG_THP_COLLAPSE_RUST_DEBUG holds the collapse. An action
 * that has to wait for the collapse must wait until it goes on. Afterwards the
 * window must hold the values that were written, and be writable, whether or not
 * it was collapsed. Other tests end a process at such a time: the one that
 * collapses, or the one that is collapsed.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "collapse_util.h"
#include "hugepage_settings.h"
#include "../../../../mm/gup_test.h"

/* Slots that are not backed by a page of their own. */
#define HOLE		100
#define ZERO_PAGE	200

/* The way that the window is collapsed. */
enum way { PROTECT, UNMAP, REMAP, NR_WAYS };

/* The passes of each way. */
static const char * const passes[NR_WAYS][6] = {
	[PROTECT] = { "scan", "prealloc", "fault_in", "protect", "copy", "switch" },
	[UNMAP] = { "scan", "prealloc", "fault_in", "unmap", "copy", "switch" },
	[REMAP] = { "scan", "prealloc", "fault_in", "remap" },
};

FIXTURE(collapse_race)
{
	/* The window's address, its address before it was moved, and room for a page. */
	char *mem, *window, *aside;
	/* How many pages of the window are mapped. */
	size_t mapped;
	/* The value that each page must read as. A page with .lazy set may read as zero. */
	unsigned char expected[HPAGE_SIZE / 4096];
	bool lazy[HPAGE_SIZE / 4096];
	/* The page that was poisoned, or 0. */
	unsigned long poisoned;
	int uffd;
	int gup;
	int result;
	char swap[128];
};

FIXTURE_VARIANT(collapse_race)
{
	void (*act)(FIXTURE_DATA(collapse_race) * self);
	/* Without a hole or zero page. */
	bool dense;
	/* Registered with userfaultfd for write-protection from the beginning. */
	bool write_protected;
	/* KSM may merge the many pages that are alike. */
	bool mergeable;
	/* It has merged them. */
	bool merged;
	/* Some pages are swapped out. */
	bool swapped;
	/* Not writable, except by force. */
	bool read_only;
	/* Pages were freed lazily, and written to again: only their dirty bits show that. */
	bool freed_lazily;
	/* In this many first passes the act does not wait, and the collapse fails with @early. */
	size_t early_passes;
	int early;
	/* The same where sources stay mapped. If it is 0, nothing is expected of later passes. */
	size_t early_mapped;
	/* The error of later passes then, when an act that waits has a reference to a page. */
	int late_mapped;
};

static char *page(FIXTURE_DATA(collapse_race) * self, size_t i)
{
	return self->mem + i * psize();
}

static void discard(FIXTURE_DATA(collapse_race) * self, size_t first, size_t pages)
{
	madvise(page(self, first), pages * psize(), MADV_DONTNEED);
	memset(self->expected + first, 0, pages);
}

static void write_page(FIXTURE_DATA(collapse_race) * self, size_t i, unsigned char value)
{
	memset(page(self, i), value, psize());
	self->expected[i] = value;
}

static void act_discard_page(FIXTURE_DATA(collapse_race) * self)
{
	discard(self, 5, 1);
}

static void act_discard_window(FIXTURE_DATA(collapse_race) * self)
{
	discard(self, 0, PAGES);
}

static void act_discard_and_refill(FIXTURE_DATA(collapse_race) * self)
{
	discard(self, 0, PAGES);
	write_page(self, 7, 3);
}

/* Another page is there then. */
static void act_replace_page(FIXTURE_DATA(collapse_race) * self)
{
	discard(self, 5, 1);
	write_page(self, 5, 3);
}

static void act_write(FIXTURE_DATA(collapse_race) * self)
{
	write_page(self, 9, 77);
}

static void act_fill_hole(FIXTURE_DATA(collapse_race) * self)
{
	write_page(self, HOLE, 0x11);
}

static void act_write_zero_page(FIXTURE_DATA(collapse_race) * self)
{
	write_page(self, ZERO_PAGE, 0x12);
}

static void act_install_guard(FIXTURE_DATA(collapse_race) * self)
{
	madvise(page(self, 3), psize(), MADV_GUARD_INSTALL);
	self->expected[3] = 0;
}

static void act_page_out(FIXTURE_DATA(collapse_race) * self)
{
	madvise(page(self, 3), 40 * psize(), MADV_PAGEOUT);
}

static void act_free_lazily(FIXTURE_DATA(collapse_race) * self)
{
	memset(self->lazy + 5, true, 300);
	madvise(page(self, 5), 300 * psize(), MADV_FREE);
}

static void act_clear_soft_dirty(FIXTURE_DATA(collapse_race) * self)
{
	clear_softdirty();
}

static void act_compact(FIXTURE_DATA(collapse_race) * self)
{
	write_num("/proc/sys/vm/compact_memory", 1);
}

static void act_fork(FIXTURE_DATA(collapse_race) * self)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	waitpid(child, NULL, 0);
}

static void act_protect(FIXTURE_DATA(collapse_race) * self)
{
	mprotect(self->mem, WINDOW, PROT_READ);
	mprotect(self->mem, WINDOW, PROT_READ | PROT_WRITE);
}

static void act_write_protect(FIXTURE_DATA(collapse_race) * self)
{
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)self->mem, WINDOW },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	ioctl(self->uffd, UFFDIO_WRITEPROTECT, &wp);
}

static void act_unmap_half(FIXTURE_DATA(collapse_race) * self)
{
	self->mapped = PAGES / 2;
	munmap(page(self, PAGES / 2), WINDOW / 2);
}

static void act_unmap(FIXTURE_DATA(collapse_race) * self)
{
	self->mapped = 0;
	munmap(self->mem, WINDOW);
}

static void act_move(FIXTURE_DATA(collapse_race) * self)
{
	self->mem = mremap(self->window, WINDOW, WINDOW, MREMAP_MAYMOVE | MREMAP_FIXED,
			   self->window + 2 * WINDOW);
}

static void act_split(FIXTURE_DATA(collapse_race) * self)
{
	mprotect(page(self, PAGES / 2), WINDOW / 2, PROT_READ);
}

static void act_register_missing(FIXTURE_DATA(collapse_race) * self)
{
	self->uffd = open_userfaultfd(0);
	uffd_register(self->uffd, self->mem, WINDOW, true, false, false);
}

static void act_pin(FIXTURE_DATA(collapse_race) * self)
{
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)page(self, 9),
		.size = psize(),
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE | PIN_LONGTERM_TEST_FLAG_USE_FAST,
	};

	self->gup = open("/sys/kernel/debug/gup_test", O_RDWR);
	ioctl(self->gup, PIN_LONGTERM_TEST_START, &pin);
}

static void act_soft_offline(FIXTURE_DATA(collapse_race) * self)
{
	madvise(page(self, 20), psize(), MADV_SOFT_OFFLINE);
}

/* An access to the page would be fatal from now on: see forget_poisoned(). */
static void act_poison(FIXTURE_DATA(collapse_race) * self)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);

	self->poisoned = pagemap_get_pfn(pagemap, page(self, 20));
	close(pagemap);
	madvise(page(self, 20), psize(), MADV_HWPOISON);
}

static void forget_poisoned(FIXTURE_DATA(collapse_race) * self)
{
	if (!self->poisoned)
		return;
	discard(self, 20, 1);
	put_back_in_service(self->poisoned);
	self->poisoned = 0;
}

/* Stops KSM after that, and leaves merged pages merged. */
static void act_merge(FIXTURE_DATA(collapse_race) * self)
{
	ksm_start();
	write_num("/sys/kernel/mm/ksm/run", 0);
}

static void act_unmerge(FIXTURE_DATA(collapse_race) * self)
{
	ksm_stop();
}

static void act_swap_off(FIXTURE_DATA(collapse_race) * self)
{
	if (!swapoff(self->swap))
		swapon(self->swap, 0);
}

static void act_move_page_aside(FIXTURE_DATA(collapse_race) * self)
{
	bool moved;

	self->uffd = open_userfaultfd(0);
	uffd_register(self->uffd, self->aside, psize(), true, false, false);
	while (!(moved = move_page(self->uffd, self->aside, page(self, 9))) && errno == EAGAIN)
		sched_yield();
	/* If the page was not moved as it was, expect a value that no page has: the test fails. */
	moved = moved && (unsigned char)self->aside[psize() - 1] == self->expected[9];
	self->expected[9] = moved ? 0 : 0xff;
}

/* The other code takes mmap_lock for write, and so waits where we have a lock. */
static void act_collapse_in_c(FIXTURE_DATA(collapse_race) * self)
{
	use_engine("c");
	collapse(self->window, WINDOW);
	use_engine("rust");
}

/* The window is huge then, or would have been, and its mapping is split. */
static void act_collapse_and_split(FIXTURE_DATA(collapse_race) * self)
{
	collapse(self->window, WINDOW);
	split_mapping(page(self, 3));
}

/*
 * Written, unmapped by reclaim if that can be, and mapped again by swapoff: which maps
 * pages read-only, whatever they were before.
 */
static void act_write_page_out_swap_off(FIXTURE_DATA(collapse_race) * self)
{
	for (size_t i = 300; i < 350; i++)
		write_page(self, i, 77);
	madvise(page(self, 300), 50 * psize(), MADV_PAGEOUT);
	act_swap_off(self);
}

/* As a debugger does: through a PTE that does not become writable. */
static void act_write_by_force(FIXTURE_DATA(collapse_race) * self)
{
	unsigned char data[HPAGE_SIZE / 512];
	int mem = open("/proc/self/mem", O_RDWR);

	memset(data, 66, psize());
	if (pwrite(mem, data, psize(), (off_t)(uintptr_t)page(self, 9)) == (ssize_t)psize())
		self->expected[9] = 66;
	close(mem);
}

/* To the last node that there is, and back. */
static void act_migrate(FIXTURE_DATA(collapse_race) * self)
{
	int last = access("/sys/devices/system/node/node1", F_OK) ? 0 : 1;
	int nodes[HPAGE_SIZE / 4096], status[HPAGE_SIZE / 4096];
	void *pages[HPAGE_SIZE / 4096];

	for (int node = last; node >= 0; node--) {
		for (size_t i = 0; i < PAGES; i++) {
			pages[i] = page(self, i);
			nodes[i] = node;
		}
		syscall(__NR_move_pages, 0, PAGES, pages, nodes, status, MPOL_MF_MOVE);
	}
}

FIXTURE_VARIANT_ADD(collapse_race, discard_page)
{
	.act = act_discard_page,
};

FIXTURE_VARIANT_ADD(collapse_race, discard_window)
{
	.act = act_discard_window,
};

FIXTURE_VARIANT_ADD(collapse_race, discard_and_refill)
{
	.act = act_discard_and_refill,
};

FIXTURE_VARIANT_ADD(collapse_race, replace_page)
{
	.act = act_replace_page,
};

FIXTURE_VARIANT_ADD(collapse_race, write)
{
	.act = act_write,
};

FIXTURE_VARIANT_ADD(collapse_race, fill_hole)
{
	.act = act_fill_hole,
};

FIXTURE_VARIANT_ADD(collapse_race, write_zero_page)
{
	.act = act_write_zero_page,
};

FIXTURE_VARIANT_ADD(collapse_race, install_guard)
{
	.act = act_install_guard,
};

FIXTURE_VARIANT_ADD(collapse_race, page_out)
{
	.act = act_page_out,
};

FIXTURE_VARIANT_ADD(collapse_race, free_lazily)
{
	.act = act_free_lazily,
};

FIXTURE_VARIANT_ADD(collapse_race, clear_soft_dirty)
{
	.act = act_clear_soft_dirty,
};

FIXTURE_VARIANT_ADD(collapse_race, compact)
{
	.act = act_compact,
};

FIXTURE_VARIANT_ADD(collapse_race, fork)
{
	.act = act_fork,
};

FIXTURE_VARIANT_ADD(collapse_race, protect)
{
	.act = act_protect,
};

FIXTURE_VARIANT_ADD(collapse_race, write_protect)
{
	.act = act_write_protect,
	.write_protected = true,
};

/* A changed entry keeps its dirty bit: else reclaim would discard a page written to. */
FIXTURE_VARIANT_ADD(collapse_race, write_protect_freed_lazily)
{
	.act = act_write_protect,
	.write_protected = true,
	.freed_lazily = true,
};

FIXTURE_VARIANT_ADD(collapse_race, unmap_half)
{
	.act = act_unmap_half,
	.early_passes = 2,
	.early_mapped = 2,
	.early = EINVAL,
};

FIXTURE_VARIANT_ADD(collapse_race, unmap)
{
	.act = act_unmap,
	.early_passes = 2,
	.early_mapped = 2,
	.early = EINVAL,
};

FIXTURE_VARIANT_ADD(collapse_race, move)
{
	.act = act_move,
	.early_passes = 2,
	.early_mapped = 2,
	.early = EINVAL,
};

FIXTURE_VARIANT_ADD(collapse_race, split)
{
	.act = act_split,
	.early_passes = 2,
	.early_mapped = 2,
	.early = EINVAL,
};

FIXTURE_VARIANT_ADD(collapse_race, register_missing)
{
	.act = act_register_missing,
	.early_passes = 2,
	.early_mapped = 2,
	.early = EBUSY,
};

FIXTURE_VARIANT_ADD(collapse_race, pin)
{
	.act = act_pin,
	/* GUP takes no lock that is held for write, and faults the page in to be written. */
	.early_passes = 3,
	.early_mapped = 5,
	.early = EAGAIN,
};

FIXTURE_VARIANT_ADD(collapse_race, soft_offline)
{
	.act = act_soft_offline,
};

FIXTURE_VARIANT_ADD(collapse_race, poison)
{
	.act = act_poison,
	/* The protect pass finds the bad page. */
	.early_passes = 3,
	.early = EINVAL,
};

FIXTURE_VARIANT_ADD(collapse_race, merge)
{
	.act = act_merge,
	.mergeable = true,
	/* KSM waits for none of our locks, and takes no page from us. */
	.early_passes = ARRAY_SIZE(passes[PROTECT]),
	.early = 0,
};

FIXTURE_VARIANT_ADD(collapse_race, unmerge)
{
	.act = act_unmerge,
	.mergeable = true,
	.merged = true,
	.early_passes = 3,
	.early = 0,
};

FIXTURE_VARIANT_ADD(collapse_race, swap_off)
{
	.act = act_swap_off,
	.swapped = true,
	/* Later it waits for pages that are in the swap cache. */
	.early_passes = 2,
	.early = 0,
};

FIXTURE_VARIANT_ADD(collapse_race, write_page_out_swap_off)
{
	.act = act_write_page_out_swap_off,
	.swapped = true,
};

FIXTURE_VARIANT_ADD(collapse_race, write_by_force)
{
	.act = act_write_by_force,
	.read_only = true,
};

FIXTURE_VARIANT_ADD(collapse_race, move_page_aside)
{
	.act = act_move_page_aside,
	.dense = true,
};

FIXTURE_VARIANT_ADD(collapse_race, collapse_in_c)
{
	.act = act_collapse_in_c,
	.early_passes = 2,
	.early_mapped = 2,
	.early = 0,
};

FIXTURE_VARIANT_ADD(collapse_race, collapse_and_split)
{
	.act = act_collapse_and_split,
};

FIXTURE_VARIANT_ADD(collapse_race, migrate)
{
	.act = act_migrate,
	/* Migration entries are passed over. Pages that are mapped are isolated, and waited for. */
	.early_passes = ARRAY_SIZE(passes[PROTECT]),
	.early_mapped = 3,
	.early = 0,
	.late_mapped = EAGAIN,
};

FIXTURE_SETUP(collapse_race)
{
	if (access(COLLAPSE_HOLD, W_OK))
		SKIP(return, "no " COLLAPSE_HOLD);
	thp_save_settings();
	thp_write_string("enabled", "never");
	self->window = reserve(5);
	ASSERT_NE(self->window, NULL);
	self->aside = self->window + 4 * WINDOW;
	self->uffd = -1;
	self->gup = -1;
	find_swap(self->swap, sizeof(self->swap));
	signal(SIGBUS, ignore_signal);
}

FIXTURE_TEARDOWN(collapse_race)
{
	if (!access(COLLAPSE_HOLD, W_OK)) {
		hold_after("none");
		go_way("protect");
		EXPECT_EQ(pins_left(), 0);
		thp_restore_settings();
	}
}

/* A fresh window: pages of their own, one hole, one zero page; or a huge page mapped by PTEs. */
static void fill(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_race) * self,
		 const FIXTURE_VARIANT(collapse_race) * variant, bool whole)
{
	bool dense = variant->dense || variant->write_protected || whole;

	self->mem = self->window;
	self->mapped = PAGES;
	ASSERT_TRUE(map_private(self->mem, WINDOW));
	ASSERT_TRUE(map_private(self->aside, psize()));
	memset(self->expected, 0, sizeof(self->expected));
	memset(self->lazy, 0, sizeof(self->lazy));
	for (size_t i = 0; i < PAGES; i++)
		if (dense || (i != HOLE && i != ZERO_PAGE))
			write_page(self, i, 1 + i % 100);
	FORCE_READ(page(self, ZERO_PAGE)[0]);
	if (whole) {
		ASSERT_EQ(collapse(self->mem, WINDOW), 0);
		ASSERT_TRUE(split_mapping(self->mem));
	}
	if (variant->freed_lazily) {
		madvise(self->mem, WINDOW, MADV_FREE);
		for (size_t i = 0; i < PAGES; i++)
			write_page(self, i, 101 + i % 100);
	}
	if (variant->mergeable)
		ASSERT_EQ(madvise(self->mem, WINDOW, MADV_MERGEABLE), 0);
	if (variant->merged) {
		act_merge(self);
		ASSERT_GT(ksm_get_self_merging_pages(), 0);
	}
	if (variant->swapped)
		madvise(page(self, 300), 50 * psize(), MADV_PAGEOUT);
	if (variant->read_only)
		ASSERT_EQ(mprotect(self->mem, WINDOW, PROT_READ), 0);
	if (variant->write_protected) {
		self->uffd = open_userfaultfd(0);
		ASSERT_GE(self->uffd, 0);
		ASSERT_EQ(uffd_register(self->uffd, self->mem, WINDOW, false, true, false), 0);
	}
}

static void *run_collapse(void *argument)
{
	FIXTURE_DATA(collapse_race) * self = argument;

	self->result = collapse(self->window, WINDOW);
	return NULL;
}

struct actor {
	FIXTURE_DATA(collapse_race) * self;
	void (*act)(FIXTURE_DATA(collapse_race) * self);
	atomic_bool done;
};

static void *run_actor(void *argument)
{
	struct actor *actor = argument;

	actor->act(actor->self);
	actor->done = true;
	return NULL;
}

static bool intact(FIXTURE_DATA(collapse_race) * self)
{
	for (size_t i = 0; i < self->mapped * psize(); i += PROBE) {
		unsigned char now = self->mem[i], expected = self->expected[i / psize()];

		if (now != expected && !(self->lazy[i / psize()] && !now))
			return false;
	}
	return true;
}

/* Returns whether userfaultfd still write-protects all pages. */
static bool write_protected(FIXTURE_DATA(collapse_race) * self)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	bool all = true;

	for (size_t i = 0; i < PAGES; i++)
		all &= !!(pagemap_get_entry(pagemap, page(self, i)) & PM_UFFD_WP);
	close(pagemap);
	return all;
}

/* A device must still see writes to a page that it has pinned. */
static void expect_pinned(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_race) * self)
{
	unsigned char seen[HPAGE_SIZE / 512];
	uint64_t to = (uintptr_t)seen;

	write_page(self, 9, 88);
	EXPECT_EQ(ioctl(self->gup, PIN_LONGTERM_TEST_READ, &to), 0);
	EXPECT_EQ(memcmp(seen, page(self, 9), psize()), 0);
	close(self->gup);
	self->gup = -1;
}

static void act_in_each_pass(struct __test_metadata *_metadata,
			     FIXTURE_DATA(collapse_race) * self,
			     const FIXTURE_VARIANT(collapse_race) * variant, enum way way)
{
	size_t early_passes = variant->early_passes;
	bool unmaps = way == UNMAP;

	if (way == PROTECT && variant->early_mapped)
		early_passes = variant->early_mapped;
	if (way == REMAP)
		early_passes = 0;
	go_way(unmaps ? "unmap" : "protect");
	if (way == PROTECT && (variant->write_protected || variant->read_only))
		way = UNMAP;
	for (size_t i = 0; i < ARRAY_SIZE(passes[way]) && passes[way][i]; i++) {
		struct actor actor = { .self = self, .act = variant->act };
		const char *pass = passes[way][i];
		bool acts_at_once = i < early_passes;
		pthread_t collapser, acting;

		fill(_metadata, self, variant, way == REMAP);
		hold_after(pass);
		ASSERT_EQ(pthread_create(&collapser, NULL, run_collapse, self), 0);
		/* Without swap entries there is nothing to fault in, yet the pass is passed. */
		EXPECT_TRUE(wait_held());

		ASSERT_EQ(pthread_create(&acting, NULL, run_actor, &actor), 0);
		/* Time to act, or to begin to wait. */
		for (int tries = 0; !actor.done && tries < (acts_at_once ? WAIT_MS : 50); tries++)
			usleep(1000);
		EXPECT_TRUE(actor.done || !acts_at_once);
		hold_after("none");
		ASSERT_EQ(pthread_join(collapser, NULL), 0);
		ASSERT_EQ(pthread_join(acting, NULL), 0);
		if (variant->early_passes && way != REMAP &&
		    (unmaps || acts_at_once || variant->early_mapped)) {
			int late = way == PROTECT ? variant->late_mapped : 0;

			EXPECT_TRUE(acts_at_once ? self->result == variant->early :
				    !self->result || self->result == late) {
				TH_LOG("after %s, result %d", pass, self->result);
			}
		}

		if (variant->write_protected) {
			EXPECT_TRUE(write_protected(self)) {
				TH_LOG("after %s, result %d", pass, self->result);
			}
		}
		if (self->uffd >= 0) {
			close(self->uffd);
			self->uffd = -1;
		}
		ASSERT_NE(self->mem, MAP_FAILED);
		if (self->mapped)
			madvise(page(self, 3), psize(), MADV_GUARD_REMOVE);
		forget_poisoned(self);
		if (variant->freed_lazily)
			madvise(self->mem, WINDOW, MADV_PAGEOUT);
		EXPECT_TRUE(intact(self)) {
			TH_LOG("after %s, result %d", pass, self->result);
		}
		if (self->gup >= 0)
			expect_pinned(_metadata, self);
		if (variant->mergeable)
			ksm_stop();

		mprotect(self->mem, self->mapped * psize(), PROT_READ | PROT_WRITE);
		memset(self->mem, 9, self->mapped * psize());
		for (size_t j = 0; j < self->mapped * psize(); j += PROBE)
			ASSERT_EQ(self->mem[j], 9);
	}
}

TEST_F_TIMEOUT(collapse_race, in_each_pass, 300)
{
	act_in_each_pass(_metadata, self, variant, PROTECT);
}

TEST_F_TIMEOUT(collapse_race, in_each_pass_unmapped, 300)
{
	act_in_each_pass(_metadata, self, variant, UNMAP);
}

TEST_F_TIMEOUT(collapse_race, in_each_pass_remapped, 300)
{
	if (variant->merged || variant->swapped)
		SKIP(return, "not a whole huge page then");
	act_in_each_pass(_metadata, self, variant, REMAP);
}

/*
 * Processes that end during a collapse. The one that collapses is killed, or the
 * one that is collapsed exits or executes another program. The range has more than
 * one batch: the call must give up the rest of it.
 */
/* The first batch of a request. */
#define BATCH		2
#define NR_WINDOWS	20
#define SIZE		(NR_WINDOWS * WINDOW)

FIXTURE(collapse_ends)
{
	char *mem;
};

FIXTURE_SETUP(collapse_ends)
{
	char *area;

	if (access(COLLAPSE_HOLD, W_OK))
		SKIP(return, "no " COLLAPSE_HOLD);
	thp_save_settings();
	thp_write_string("enabled", "never");
	/* A batch lies in one PMD table. */
	area = reserve(1024);
	ASSERT_NE(area, NULL);
	self->mem = (char *)(((uintptr_t)area + 512 * WINDOW - 1) & ~(512 * WINDOW - 1));
}

FIXTURE_TEARDOWN(collapse_ends)
{
	if (!access(COLLAPSE_HOLD, W_OK)) {
		hold_after("none");
		go_way("protect");
		EXPECT_EQ(pins_left(), 0);
		thp_restore_settings();
	}
}

/* A few pages a window are enough here. */
#define STRIDE		64

static void fill_windows(struct __test_metadata *_metadata, char *mem)
{
	ASSERT_TRUE(map_private(mem, SIZE));
	for (size_t i = 0; i < NR_WINDOWS * PAGES; i += STRIDE)
		memset(mem + i * psize(), 1 + i % 97, psize());
}

static bool windows_intact(const char *mem)
{
	for (size_t i = 0; i < NR_WINDOWS * PAGES; i++) {
		unsigned char expected = i % STRIDE ? 0 : 1 + i % 97;

		for (size_t j = 0; j < psize(); j += 64)
			if ((unsigned char)mem[i * psize() + j] != expected)
				return false;
	}
	return true;
}

/* The process ends although its collapse is to be held, and does no more than its batch. */
TEST_F_TIMEOUT(collapse_ends, collapser_is_killed, 300)
{
	static const int at_most[] = { 0, 0, 1, 1, BATCH, BATCH };
	int pidfd = syscall(__NR_pidfd_open, getpid(), 0), status;

	for (size_t i = 0; i < ARRAY_SIZE(passes[PROTECT]); i++) {
		pid_t child;
		int huge;

		fill_windows(_metadata, self->mem);
		hold_after(passes[PROTECT][i]);
		child = fork();
		ASSERT_GE(child, 0);
		if (!child)
			_exit(collapse_of(pidfd, self->mem, SIZE, 0) != SIZE);
		EXPECT_TRUE(wait_held());
		kill(child, SIGKILL);
		ASSERT_EQ(waitpid(child, &status, 0), child);
		EXPECT_TRUE(WIFSIGNALED(status));
		hold_after("none");

		huge = nr_huge(getpid(), self->mem, NR_WINDOWS);
		EXPECT_LE(huge, at_most[i]) {
			TH_LOG("after %s", passes[PROTECT][i]);
		}
		EXPECT_GE(huge, at_most[i] == BATCH ? BATCH : 0);
		EXPECT_TRUE(windows_intact(self->mem));
	}
	close(pidfd);
}

/* The pages of the child are shared with us, and must stay intact. */
TEST_F_TIMEOUT(collapse_ends, collapser_of_its_own_is_killed, 300)
{
	for (size_t i = 0; i < ARRAY_SIZE(passes[PROTECT]); i++) {
		pid_t child;

		fill_windows(_metadata, self->mem);
		hold_after(passes[PROTECT][i]);
		child = fork();
		ASSERT_GE(child, 0);
		if (!child)
			_exit(collapse(self->mem, SIZE));
		EXPECT_TRUE(wait_held());
		kill(child, SIGKILL);
		ASSERT_EQ(waitpid(child, NULL, 0), child);
		hold_after("none");
		EXPECT_TRUE(windows_intact(self->mem));
		memset(self->mem, 3, SIZE / 4);
	}
}

static void target_ends(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_ends) * self,
			bool exec)
{
	for (size_t i = 0; i < ARRAY_SIZE(passes[PROTECT]); i++) {
		struct call remote = { .start = self->mem, .len = SIZE };
		pthread_t collapser;
		int go[2], status;
		pid_t child;
		char c;

		fill_windows(_metadata, self->mem);
		ASSERT_EQ(pipe(go), 0);
		child = fork();
		ASSERT_GE(child, 0);
		if (!child) {
			if (read(go[0], &c, 1) == 1 && exec)
				execl("/bin/true", "true", NULL);
			_exit(0);
		}
		remote.pidfd = syscall(__NR_pidfd_open, child, 0);
		hold_after(passes[PROTECT][i]);
		ASSERT_EQ(pthread_create(&collapser, NULL, run_call, &remote), 0);
		EXPECT_TRUE(wait_held());
		EXPECT_EQ(write(go[1], "", 1), 1);
		/* The child need not wait until we are gone. */
		ASSERT_EQ(waitpid(child, &status, 0), child);
		EXPECT_EQ(status, 0);
		hold_after("none");
		ASSERT_EQ(pthread_join(collapser, NULL), 0);
		TH_LOG("after %s: %zd", passes[PROTECT][i], remote.result);
		EXPECT_NE(remote.result, 0);
		EXPECT_TRUE(windows_intact(self->mem));
		close(remote.pidfd);
		close(go[0]);
		close(go[1]);
	}
}

TEST_F_TIMEOUT(collapse_ends, target_exits, 300)
{
	target_ends(_metadata, self, false);
}

TEST_F_TIMEOUT(collapse_ends, target_executes, 300)
{
	target_ends(_metadata, self, true);
}

/* Reaps memory as the OOM reaper does. The process that ends is stopped on its way out. */
TEST_F_TIMEOUT(collapse_ends, target_is_reaped, 300)
{
	for (size_t i = 0; i < ARRAY_SIZE(passes[PROTECT]); i++) {
		struct call remote = { .start = self->mem, .len = SIZE };
		pthread_t collapser;
		int status;
		pid_t child;

		fill_windows(_metadata, self->mem);
		child = fork();
		ASSERT_GE(child, 0);
		if (!child) {
			ptrace(PTRACE_TRACEME, 0, NULL, NULL);
			raise(SIGSTOP);
			_exit(0);
		}
		ASSERT_EQ(waitpid(child, &status, 0), child);
		ASSERT_TRUE(WIFSTOPPED(status));
		ASSERT_EQ(ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACEEXIT), 0);
		remote.pidfd = syscall(__NR_pidfd_open, child, 0);
		hold_after(passes[PROTECT][i]);
		ASSERT_EQ(pthread_create(&collapser, NULL, run_call, &remote), 0);
		EXPECT_TRUE(wait_held());
		ASSERT_EQ(ptrace(PTRACE_CONT, child, NULL, NULL), 0);
		ASSERT_EQ(waitpid(child, &status, 0), child);
		ASSERT_EQ(status >> 8, SIGTRAP | PTRACE_EVENT_EXIT << 8);
		EXPECT_EQ(syscall(__NR_process_mrelease, remote.pidfd, 0), 0);
		hold_after("none");
		ASSERT_EQ(pthread_join(collapser, NULL), 0);
		EXPECT_EQ(remote.result, -EINVAL) {
			TH_LOG("after %s", passes[PROTECT][i]);
		}
		ptrace(PTRACE_CONT, child, NULL, NULL);
		ASSERT_EQ(waitpid(child, &status, 0), child);
		EXPECT_TRUE(windows_intact(self->mem));
		close(remote.pidfd);
	}
}

struct writer {
	atomic_ulong *word;
	atomic_ulong written;
	atomic_bool stop;
};

static void *write_on(void *argument)
{
	struct writer *writer = argument;
	unsigned long n = 0;

	while (!writer->stop) {
		atomic_store(writer->word, ++n);
		writer->written = n;
	}
	return NULL;
}

/*
 * A thread that writes a page all the time has it in the TLB of another CPU. With
 * migration entries, the thread must be stopped before the page is copied. Later it
 * must find the value that it wrote last.
 */
TEST_F_TIMEOUT(collapse_ends, writer_is_stopped, 120)
{
	static const char * const quiet[] = { "unmap", "copy" };

	go_way("unmap");

	for (size_t i = 0; i < ARRAY_SIZE(quiet); i++) {
		struct writer writer = { .word = (atomic_ulong *)(self->mem + 3 * psize()) };
		pthread_t collapser, writing;
		unsigned long before;
		void *result;

		fill_windows(_metadata, self->mem);
		ASSERT_EQ(pthread_create(&writing, NULL, write_on, &writer), 0);
		while (writer.written < 1000)
			usleep(1000);
		hold_after(quiet[i]);
		ASSERT_EQ(pthread_create(&collapser, NULL, collapse_window, self->mem), 0);
		EXPECT_TRUE(wait_held());
		/* One more write may have been on its way. */
		usleep(50000);
		before = writer.written;
		usleep(200000);
		EXPECT_EQ(writer.written, before);
		hold_after("none");
		ASSERT_EQ(pthread_join(collapser, &result), 0);
		EXPECT_EQ(result, NULL);
		EXPECT_TRUE(is_huge(self->mem));
		while (writer.written < before + 1000)
			usleep(1000);
		writer.stop = true;
		ASSERT_EQ(pthread_join(writing, NULL), 0);
		EXPECT_EQ(*writer.word, writer.written);
		*writer.word = 0;
		EXPECT_TRUE(windows_intact(self->mem));
	}
}

/*
 * Where sources stay mapped, the thread goes on all the time, and none of its writes may
 * be lost. Reads never wait, either.
 */
TEST_F_TIMEOUT(collapse_ends, writer_goes_on, 120)
{
	static const char * const mapped[] = { "protect", "copy" };

	for (size_t i = 0; i < ARRAY_SIZE(mapped); i++) {
		struct writer writer = { .word = (atomic_ulong *)(self->mem + 3 * psize()) };
		pthread_t collapser, writing;
		unsigned long before;
		void *result;

		fill_windows(_metadata, self->mem);
		ASSERT_EQ(pthread_create(&writing, NULL, write_on, &writer), 0);
		while (writer.written < 1000)
			usleep(1000);
		hold_after(mapped[i]);
		ASSERT_EQ(pthread_create(&collapser, NULL, collapse_window, self->mem), 0);
		EXPECT_TRUE(wait_held());
		before = writer.written;
		EXPECT_TRUE(wait_until(writer.written > before + 1000));
		FORCE_READ(self->mem[0]);
		hold_after("none");
		ASSERT_EQ(pthread_join(collapser, &result), 0);
		EXPECT_EQ(result, NULL);
		EXPECT_TRUE(is_huge(self->mem));
		before = writer.written;
		while (writer.written < before + 1000)
			usleep(1000);
		writer.stop = true;
		ASSERT_EQ(pthread_join(writing, NULL), 0);
		EXPECT_EQ(*writer.word, writer.written);
		*writer.word = 0;
		EXPECT_TRUE(windows_intact(self->mem));
	}
}

static void end_thread(int signal)
{
	pthread_exit(NULL);
}

static void *refuse_counts(void *argument)
{
	atomic_bool *stop = argument;

	while (!*stop)
		write_file(BAD_COUNT, "1", sizeof("1"));
	write_file(BAD_COUNT, "0", sizeof("0"));
	return NULL;
}

/*
 * A window that is refused when its PTEs are read-only already. mprotect() finds nothing
 * to flush then, and nevertheless no CPU may write when it has returned.
 */
TEST_F_TIMEOUT(collapse_ends, refused_owes_its_flush, 60)
{
	struct writer writer = { .word = (atomic_ulong *)self->mem };
	atomic_bool stop = false;
	pthread_t writing, refusing;
	unsigned long before;

	signal(SIGSEGV, end_thread);
	fill_windows(_metadata, self->mem);
	/* From here on, only PTEs that the collapse changed could let mprotect() not flush. */
	ASSERT_EQ(pthread_create(&writing, NULL, write_on, &writer), 0);
	while (writer.written < 1000)
		usleep(1000);
	ASSERT_EQ(pthread_create(&refusing, NULL, refuse_counts, &stop), 0);
	usleep(10000);
	EXPECT_EQ(collapse(self->mem, WINDOW), EAGAIN);
	EXPECT_EQ(mprotect(self->mem, WINDOW, PROT_READ), 0);
	before = *writer.word;
	usleep(50000);
	EXPECT_EQ(*writer.word, before);
	stop = true;
	ASSERT_EQ(pthread_join(refusing, NULL), 0);
	ASSERT_EQ(pthread_join(writing, NULL), 0);
	EXPECT_EQ(mprotect(self->mem, WINDOW, PROT_READ | PROT_WRITE), 0);
	*writer.word = 0;
	memset(self->mem, 1, psize());
	EXPECT_TRUE(windows_intact(self->mem));
	signal(SIGSEGV, SIG_DFL);
}

/* Writes as many pages as are copied again once nobody can access them, and more. */
TEST_F_TIMEOUT(collapse_ends, written_meanwhile, 120)
{
	static const size_t written[] = { 1, 32, 33, 512 };
	static const char * const mapped[] = { "protect", "copy" };

	for (size_t i = 0; i < ARRAY_SIZE(written) * ARRAY_SIZE(mapped); i++) {
		size_t nr = written[i / ARRAY_SIZE(mapped)];
		pthread_t collapser;
		void *result;

		ASSERT_TRUE(map_private(self->mem, WINDOW));
		memset(self->mem, 1, WINDOW);
		hold_after(mapped[i % ARRAY_SIZE(mapped)]);
		ASSERT_EQ(pthread_create(&collapser, NULL, collapse_window, self->mem), 0);
		EXPECT_TRUE(wait_held());
		for (size_t j = 0; j < nr; j++)
			memset(self->mem + j * psize(), 2, psize());
		hold_after("none");
		ASSERT_EQ(pthread_join(collapser, &result), 0);
		EXPECT_EQ(result, NULL);
		EXPECT_TRUE(is_huge(self->mem));
		for (size_t j = 0; j < WINDOW; j += PROBE) {
			ASSERT_EQ(self->mem[j], j < nr * psize() ? 2 : 1) {
				TH_LOG("%zu written, after %s, byte %zu", nr,
				       mapped[i % ARRAY_SIZE(mapped)], j);
			}
		}
	}
}

/* Pages are written to in each round. Then sources are replaced, so that the collapse ends. */
TEST_F_TIMEOUT(collapse_ends, written_all_the_time, 120)
{
	pthread_t collapser;
	void *result;

	ASSERT_TRUE(map_private(self->mem, WINDOW));
	memset(self->mem, 1, WINDOW);
	hold_after("protect");
	ASSERT_EQ(pthread_create(&collapser, NULL, collapse_window, self->mem), 0);
	for (int round = 0; round < 3; round++) {
		EXPECT_TRUE(wait_held());
		EXPECT_TRUE(held_next("copy"));
		memset(self->mem, 2 + round, WINDOW);
		hold_after(round < 2 ? "protect" : "unmap");
	}
	EXPECT_TRUE(wait_held());
	hold_after("none");
	ASSERT_EQ(pthread_join(collapser, &result), 0);
	EXPECT_EQ(result, NULL);
	EXPECT_TRUE(is_huge(self->mem));
	for (size_t j = 0; j < WINDOW; j += PROBE)
		ASSERT_EQ(self->mem[j], 4);
}

static pid_t fork_paused(void)
{
	pid_t child = fork();

	if (!child) {
		pause();
		_exit(0);
	}
	return child;
}

/* A page that another collapse holds is not waited for. */
TEST_F_TIMEOUT(collapse_ends, shared_with_held_one, 60)
{
	struct call remote = { .start = self->mem, .len = SIZE };
	pthread_t collapser;
	int status;
	pid_t child;

	fill_windows(_metadata, self->mem);
	child = fork_paused();
	ASSERT_GE(child, 0);
	remote.pidfd = syscall(__NR_pidfd_open, child, 0);
	hold_after("protect");
	ASSERT_EQ(pthread_create(&collapser, NULL, run_call, &remote), 0);
	EXPECT_TRUE(wait_held());
	EXPECT_EQ(collapse(self->mem, BATCH * WINDOW), EAGAIN);
	hold_after("none");
	ASSERT_EQ(pthread_join(collapser, NULL), 0);
	EXPECT_EQ(remote.result, SIZE);
	kill(child, SIGKILL);
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_TRUE(windows_intact(self->mem));
	EXPECT_EQ(collapse(self->mem, SIZE), 0);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), NR_WINDOWS);
	EXPECT_TRUE(windows_intact(self->mem));
}

static void *collapse_all(void *mem)
{
	return (void *)(intptr_t)collapse(mem, SIZE);
}

struct toucher {
	char *page;
	/* Changes the mapping instead. */
	bool maps;
	pid_t tid;
	atomic_bool go, done;
};

static void *touch(void *argument)
{
	struct toucher *toucher = argument;

	toucher->tid = gettid();
	while (!toucher->go)
		usleep(1000);
	if (toucher->maps)
		madvise(toucher->page, WINDOW, MADV_DONTDUMP);
	else
		FORCE_READ(toucher->page[0]);
	toucher->done = true;
	return NULL;
}

static bool wait_done(const struct toucher *toucher)
{
	return wait_until(toucher->done);
}

/* The first window of the third batch: the second has twice as many windows as the first. */
#define THIRD_BATCH	(3 * BATCH)

/*
 * A thread that waits for a lock of a batch does not wait for the whole batch: the
 * other windows are put back, and collapsed later.
 */
TEST_F_TIMEOUT(collapse_ends, batch_is_cut_short, 120)
{
	static const struct {
		const char *begun, *cut;
		/* Waits for the lock of the VMA, or for a page. */
		bool maps;
	} cuts[] = {
		{ "fault_in", "unmap", true },
		{ "unmap", "copy", false },
	};

	ASSERT_EQ(stay_on_this_cpu(), 0);
	/* Where sources stay mapped nothing waits for a page. */
	go_way("unmap");
	for (size_t i = 0; i < ARRAY_SIZE(cuts); i++) {
		struct toucher waiting = {
			.page = self->mem + (cuts[i].maps ? NR_WINDOWS - 1 : THIRD_BATCH) * WINDOW,
			.maps = cuts[i].maps,
		};
		struct toucher other = { .page = self->mem + (THIRD_BATCH + 3 * BATCH) * WINDOW };
		pthread_t collapser, waiter, reader;
		void *result;

		fill_windows(_metadata, self->mem);
		hold_after("switch");
		ASSERT_EQ(pthread_create(&collapser, NULL, collapse_all, self->mem), 0);
		EXPECT_TRUE(wait_held());
		EXPECT_TRUE(held_next("scan"));
		EXPECT_TRUE(held_next("switch"));
		EXPECT_TRUE(held_next(cuts[i].begun));
		/* A thread that waits for a VMA's lock keeps mmap_lock meanwhile. */
		ASSERT_EQ(pthread_create(&reader, NULL, touch, &other), 0);
		ASSERT_EQ(pthread_create(&waiter, NULL, touch, &waiting), 0);
		waiting.go = true;
		EXPECT_TRUE(wait_asleep(&waiting.tid));
		EXPECT_TRUE(held_next(cuts[i].cut));
		EXPECT_FALSE(waiting.done);
		other.go = true;
		EXPECT_TRUE(wait_done(&other)) {
			TH_LOG("after %s", cuts[i].cut);
		}
		hold_after("none");
		ASSERT_EQ(pthread_join(collapser, &result), 0);
		ASSERT_EQ(pthread_join(waiter, NULL), 0);
		ASSERT_EQ(pthread_join(reader, NULL), 0);
		EXPECT_EQ(result, NULL);
		EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), NR_WINDOWS);
		EXPECT_TRUE(windows_intact(self->mem));
	}
}

static void replace_window(char *mem)
{
	/* MAP_NORESERVE keeps it from being merged with the mapping beside it. */
	mmap(mem, WINDOW, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
}

/*
 * Windows of a batch come to lie in two mappings. The collapse locks one mapping at a time,
 * and windows of the other wait for their turn. They may have no pages by then.
 */
TEST_F_TIMEOUT(collapse_ends, mapping_is_split, 60)
{
	char *second = self->mem + WINDOW, *aside = reserve(1);
	pthread_t collapser;
	void *result;

	ASSERT_NE(aside, NULL);
	ASSERT_EQ(stay_on_this_cpu(), 0);
	for (int gone = 0; gone <= 1; gone++) {
		fill_windows(_metadata, self->mem);
		hold_after("prealloc");
		ASSERT_EQ(pthread_create(&collapser, NULL, collapse_all, self->mem), 0);
		EXPECT_TRUE(wait_held());
		EXPECT_EQ(madvise(self->mem, WINDOW, MADV_DONTDUMP), 0);
		EXPECT_TRUE(held_next("protect"));
		if (gone) {
			EXPECT_EQ(mremap(second, WINDOW, WINDOW, MREMAP_MAYMOVE | MREMAP_FIXED,
					 aside), aside);
			replace_window(second);
		}
		hold_after("none");
		ASSERT_EQ(pthread_join(collapser, &result), 0);
		EXPECT_EQ(!result, !gone);
		EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), NR_WINDOWS - gone);
		if (gone) {
			EXPECT_EQ(mremap(aside, WINDOW, WINDOW, MREMAP_MAYMOVE | MREMAP_FIXED,
					 second), second);
			EXPECT_EQ(collapse_all(self->mem), NULL);
			EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), NR_WINDOWS);
		}
		EXPECT_TRUE(windows_intact(self->mem));
	}
}

/* The limit of shared pages is checked again when the pages are locked. */
TEST_F_TIMEOUT(collapse_ends, shared_meanwhile, 60)
{
	struct call remote = {
		.start = self->mem, .len = SIZE, .flags = MADV_F_COLLAPSE_LIMITS,
	};
	pthread_t collapser;
	pid_t child;

	thp_write_num("khugepaged/max_ptes_shared", 0);
	fill_windows(_metadata, self->mem);
	remote.pidfd = syscall(__NR_pidfd_open, getpid(), 0);
	hold_after("prealloc");
	ASSERT_EQ(pthread_create(&collapser, NULL, run_call, &remote), 0);
	EXPECT_TRUE(wait_held());
	child = fork_paused();
	ASSERT_GE(child, 0);
	hold_after("none");
	ASSERT_EQ(pthread_join(collapser, NULL), 0);
	EXPECT_EQ(remote.result, -EBUSY);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 0);
	EXPECT_TRUE(windows_intact(self->mem));
	kill(child, SIGKILL);
	ASSERT_EQ(waitpid(child, NULL, 0), child);
	EXPECT_EQ(collapse_of(remote.pidfd, self->mem, SIZE, MADV_F_COLLAPSE_LIMITS), SIZE);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), NR_WINDOWS);
	close(remote.pidfd);
}

/* Acts on a window while the collapse waits for a page of it. */
static void stay(char *mem)
{
}

static void discard_window(char *mem)
{
	madvise(mem, WINDOW, MADV_DONTNEED);
}

static void unmap_window(char *mem)
{
	munmap(mem, WINDOW);
}

/*
 * Two processes have a page in swap. One has read it into the swap cache, and locked it.
 * The other waits for the page without any lock. So anything may have changed after that.
 */
TEST_F_TIMEOUT(collapse_ends, swap_in_waits, 120)
{
	static const struct {
		void (*act)(char *mem);
		ssize_t result;
	} cases[] = {
		{ stay, WINDOW },
		{ discard_window, -EINVAL },
		{ unmap_window, -EINVAL },
		{ replace_window, -EINVAL },
	};
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	char *swapped = self->mem + WINDOW;

	/* Where sources stay mapped, each may refuse for the reference of the other. */
	go_way("unmap");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct call holder = { .start = swapped, .len = WINDOW };
		struct call waiter = { .start = swapped, .len = WINDOW };
		pthread_t holding, waiting;
		pid_t child;

		fill_windows(_metadata, self->mem);
		madvise(swapped, WINDOW, MADV_PAGEOUT);
		if (!pagemap_is_swapped(pagemap, swapped))
			SKIP(break, "nothing was swapped out: no swap?");
		child = fork_paused();
		ASSERT_GE(child, 0);
		holder.pidfd = syscall(__NR_pidfd_open, child, 0);
		waiter.pidfd = syscall(__NR_pidfd_open, getpid(), 0);
		hold_after("unmap");
		ASSERT_EQ(pthread_create(&holding, NULL, run_call, &holder), 0);
		EXPECT_TRUE(wait_held());
		ASSERT_EQ(pthread_create(&waiting, NULL, run_call, &waiter), 0);
		EXPECT_TRUE(wait_asleep(&waiter.tid));
		cases[i].act(swapped);
		hold_after("none");
		ASSERT_EQ(pthread_join(holding, NULL), 0);
		ASSERT_EQ(pthread_join(waiting, NULL), 0);
		EXPECT_EQ(holder.result, WINDOW);
		EXPECT_EQ(waiter.result, cases[i].result) {
			TH_LOG("case %zu", i);
		}
		if (cases[i].act == stay) {
			EXPECT_TRUE(is_huge(swapped));
			EXPECT_TRUE(windows_intact(self->mem));
		}
		kill(child, SIGKILL);
		ASSERT_EQ(waitpid(child, NULL, 0), child);
		close(holder.pidfd);
		close(waiter.pidfd);
	}
	close(pagemap);
}

struct traveller {
	char *mem;
	cpu_set_t home;
	pid_t tid;
	int result;
};

static void *collapse_at_home(void *argument)
{
	struct traveller *traveller = argument;

	traveller->tid = gettid();
	sched_setaffinity(0, sizeof(traveller->home), &traveller->home);
	traveller->result = collapse(traveller->mem, 2 * WINDOW);
	return NULL;
}

/*
 * Pages that were read from swap are in the LRU caches of the CPU that read them. Another
 * CPU may continue the collapse. It has these caches drained, even if it had all LRU caches
 * drained before, for a window that was in use.
 */
TEST_F_TIMEOUT(collapse_ends, drained_after_swap_in, 60)
{
	char *used = self->mem, *swapped = self->mem + WINDOW;
	struct traveller traveller = { .mem = used };
	int pagemap = open("/proc/self/pagemap", O_RDONLY), referring;
	pthread_t collapser;
	cpu_set_t abroad;

	if (sched_getaffinity(0, sizeof(abroad), &abroad) || CPU_COUNT(&abroad) < 2)
		SKIP(return, "one CPU is not enough");
	CPU_ZERO(&traveller.home);
	for (int cpu = 0; !CPU_COUNT(&traveller.home); cpu++) {
		if (CPU_ISSET(cpu, &abroad)) {
			CPU_SET(cpu, &traveller.home);
			CPU_CLR(cpu, &abroad);
		}
	}
	fill_windows(_metadata, self->mem);
	/* Two VMAs, and so two batches. */
	ASSERT_EQ(madvise(swapped, SIZE - WINDOW, MADV_DONTDUMP), 0);
	/* A pin would be told from references that a drain may drop. */
	referring = refer_by_pipe(used);
	ASSERT_GE(referring, 0);
	ASSERT_EQ(madvise(swapped, WINDOW, MADV_PAGEOUT), 0);
	if (!pagemap_is_swapped(pagemap, swapped))
		SKIP(goto out, "nothing was swapped out");

	hold_after("fault_in");
	ASSERT_EQ(pthread_create(&collapser, NULL, collapse_at_home, &traveller), 0);
	EXPECT_TRUE(wait_held());
	EXPECT_TRUE(pagemap_is_populated(pagemap, swapped));
	EXPECT_EQ(sched_setaffinity(traveller.tid, sizeof(abroad), &abroad), 0);
	hold_after("none");
	ASSERT_EQ(pthread_join(collapser, NULL), 0);
	EXPECT_EQ(traveller.result, EAGAIN);
	EXPECT_FALSE(is_huge(used));
	EXPECT_TRUE(is_huge(swapped));
	EXPECT_TRUE(windows_intact(self->mem));
out:
	close(referring);
	close(pagemap);
}

/*
 * Two collapses have found a page unlocked, and both want it. One gets it, and is held
 * with it. The other must not wait, and puts back the pages that it has.
 */
TEST_F_TIMEOUT(collapse_ends, two_unmap_the_same, 60)
{
	struct call remotes[2];
	pthread_t collapsers[ARRAY_SIZE(remotes)];
	int again = 0, status;
	pid_t child;

	fill_windows(_metadata, self->mem);
	child = fork_paused();
	ASSERT_GE(child, 0);
	hold_after("fault_in");
	for (size_t i = 0; i < ARRAY_SIZE(remotes); i++) {
		remotes[i] = (struct call){
			.pidfd = syscall(__NR_pidfd_open, i ? child : getpid(), 0),
			.start = self->mem,
			.len = WINDOW,
		};
		ASSERT_EQ(pthread_create(&collapsers[i], NULL, run_call, &remotes[i]), 0);
	}
	EXPECT_TRUE(wait_nr_held(2));
	hold_after("protect");
	while (!remotes[0].result && !remotes[1].result)
		usleep(1000);
	EXPECT_TRUE(wait_held());
	EXPECT_EQ(nr_held(), 1);
	hold_after("none");
	for (size_t i = 0; i < ARRAY_SIZE(remotes); i++) {
		ASSERT_EQ(pthread_join(collapsers[i], NULL), 0);
		again += remotes[i].result == -EAGAIN;
		close(remotes[i].pidfd);
	}
	EXPECT_EQ(again, 1);
	kill(child, SIGKILL);
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_TRUE(windows_intact(self->mem));
	EXPECT_EQ(collapse(self->mem, SIZE), 0);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), NR_WINDOWS);
}

/*
 * Devices that have page tables of their own keep the memory between two windows that are
 * collapsed together: it may be huge already, or refused, and much.
 */
TEST_F_TIMEOUT(collapse_ends, device_keeps_what_is_between, 60)
{
	/* The first batch collapses two, the next one may collapse twice as many. */
	char *between = self->mem + (BATCH + 1) * WINDOW;
	/* Not the first page: the device also gives up the page behind the end of a range. */
	char *kept = between + STRIDE * psize();
	size_t size = 3 * BATCH * WINDOW;
	static char data[HPAGE_SIZE / 512];
	int device = open(DEVICE, O_RDWR);

	if (device < 0)
		SKIP(return, "no device that mirrors memory");
	ASSERT_EQ(stay_on_this_cpu(), 0);
	for (int huge = 0; huge <= 1; huge++) {
		int referring = -1;

		fill_windows(_metadata, self->mem);
		if (huge) {
			EXPECT_EQ(collapse(between, WINDOW), 0);
		} else {
			referring = refer_by_pipe(between);
			ASSERT_GE(referring, 0);
		}
		EXPECT_EQ(use_by_device(device, HMM_DMIRROR_READ, kept, 1, data), 1);
		EXPECT_EQ(use_by_device(device, HMM_DMIRROR_READ, between - WINDOW, 1, data), 1);
		EXPECT_EQ(collapse(self->mem, size), huge ? 0 : EAGAIN);
		EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 3 * BATCH - !huge);
		EXPECT_EQ(use_by_device(device, HMM_DMIRROR_READ, kept, 1, data), 0) {
			TH_LOG("what is between is %s", huge ? "huge" : "refused");
		}
		EXPECT_EQ(use_by_device(device, HMM_DMIRROR_READ, between - WINDOW, 1, data), 1);
		EXPECT_TRUE(windows_intact(self->mem));
		if (referring >= 0)
			close(referring);
	}
	close(device);
}

/*
 * A window that is in use has all LRU caches drained, once a request. Pages that this CPU
 * maps after that are in its cache again, and must not make another window be refused.
 */
TEST_F_TIMEOUT(collapse_ends, mapped_after_the_drain, 60)
{
	char *used = self->mem, *first = self->mem + WINDOW, *second = self->mem + 2 * WINDOW;
	struct call remote = { .start = self->mem, .len = 3 * WINDOW };
	pthread_t collapser;
	int referring;

	ASSERT_EQ(stay_on_this_cpu(), 0);
	fill_windows(_metadata, self->mem);
	/* Three VMAs, and so three batches. */
	ASSERT_EQ(madvise(first, WINDOW, MADV_DONTDUMP), 0);
	referring = refer_by_pipe(used);
	ASSERT_GE(referring, 0);
	remote.pidfd = syscall(__NR_pidfd_open, getpid(), 0);
	hold_after("switch");
	ASSERT_EQ(pthread_create(&collapser, NULL, run_call, &remote), 0);
	EXPECT_TRUE(wait_held());
	ASSERT_EQ(madvise(second, WINDOW, MADV_DONTNEED), 0);
	for (size_t i = 2 * PAGES; i < 3 * PAGES; i += STRIDE)
		memset(self->mem + i * psize(), 1 + i % 97, psize());
	hold_after("none");
	ASSERT_EQ(pthread_join(collapser, NULL), 0);
	EXPECT_EQ(remote.result, -EAGAIN);
	EXPECT_FALSE(is_huge(used));
	EXPECT_TRUE(is_huge(first));
	EXPECT_TRUE(is_huge(second));
	EXPECT_TRUE(windows_intact(self->mem));
	close(referring);
	close(remote.pidfd);
}

/* The number of tries of an act that may come too late. */
#define TRIES		50

/* A window with a page in each slot, all of which are swapped out. */
static bool swap_out_window(char *mem)
{
	memset(mem, 7, WINDOW);
	return swap_out(mem, PAGES) > PAGES * 3 / 4;
}

static bool swapped_window_intact(const char *mem)
{
	for (size_t i = 0; i < WINDOW; i += PROBE)
		if (mem[i] != 7)
			return false;
	return true;
}

/*
 * Pages can be read from swap without giving up any lock. A thread that waits to change the
 * mapping need not wait until all pages of a window are there.
 */
TEST_F_TIMEOUT(collapse_ends, swap_in_is_interrupted, 120)
{
	bool let_in = false;

	for (int i = 0; i < TRIES && !let_in; i++) {
		struct toucher waiting = {
			.page = self->mem + (NR_WINDOWS - 1) * WINDOW, .maps = true,
		};
		pthread_t collapser, waiter;
		void *result;

		fill_windows(_metadata, self->mem);
		if (!swap_out_window(self->mem))
			SKIP(return, "little was swapped out: no swap?");
		hold_after("fault_in");
		ASSERT_EQ(pthread_create(&waiter, NULL, touch, &waiting), 0);
		ASSERT_EQ(pthread_create(&collapser, NULL, collapse_window, self->mem), 0);
		while (!nr_held() &&
		       count_pages(self->mem, WINDOW, PAGE_IS_SWAPPED) > PAGES * 3 / 4)
			sched_yield();
		waiting.go = true;
		EXPECT_TRUE(wait_held());
		/* It waits for what is held now, or has not begun to wait before. */
		for (int ms = 0; !waiting.done && ms < 200; ms++)
			usleep(1000);
		let_in = waiting.done;
		hold_after("none");
		ASSERT_EQ(pthread_join(collapser, &result), 0);
		ASSERT_EQ(pthread_join(waiter, NULL), 0);
		EXPECT_EQ(result, NULL);
		EXPECT_TRUE(is_huge(self->mem));
		EXPECT_TRUE(swapped_window_intact(self->mem));
		if (let_in)
			TH_LOG("try %d", i + 1);
	}
	EXPECT_TRUE(let_in);
}

/* A caller that is killed meanwhile reads no more pages. */
TEST_F_TIMEOUT(collapse_ends, killed_while_it_swaps_in, 120)
{
	int pidfd = syscall(__NR_pidfd_open, getpid(), 0);
	bool ended = false;

	for (int i = 0; i < TRIES && !ended; i++) {
		pid_t child;

		fill_windows(_metadata, self->mem);
		ASSERT_EQ(madvise(self->mem, WINDOW, MADV_DONTFORK), 0);
		if (!swap_out_window(self->mem))
			SKIP(return, "little was swapped out: no swap?");
		child = fork();
		ASSERT_GE(child, 0);
		if (!child)
			_exit(collapse_of(pidfd, self->mem, WINDOW, 0) != WINDOW);
		while (count_pages(self->mem, WINDOW, PAGE_IS_SWAPPED) > PAGES * 3 / 4)
			sched_yield();
		kill(child, SIGKILL);
		ASSERT_EQ(waitpid(child, NULL, 0), child);
		ended = count_pages(self->mem, WINDOW, PAGE_IS_SWAPPED) > 0;
		EXPECT_TRUE(swapped_window_intact(self->mem));
		if (ended)
			TH_LOG("try %d", i + 1);
	}
	EXPECT_TRUE(ended);
	close(pidfd);
}

#define CORE_PATTERN	"/proc/sys/kernel/core_pattern"
#define NR_DUMPS	5

/* Where memory lies in a core dump that is being written: an offset, or 0 if not known yet. */
static off_t offset_in_core(int core, const char *mem)
{
	Elf64_Ehdr header;

	if (pread(core, &header, sizeof(header), 0) != sizeof(header))
		return 0;
	for (int i = 0; i < header.e_phnum; i++) {
		off_t at = header.e_phoff + i * sizeof(Elf64_Phdr);
		Elf64_Phdr segment;

		if (pread(core, &segment, sizeof(segment), at) != sizeof(segment))
			return 0;
		if (segment.p_type == PT_LOAD && segment.p_vaddr == (uintptr_t)mem &&
		    segment.p_filesz == SIZE)
			return segment.p_offset;
	}
	return 0;
}

/* A core dump, as the process that is dumped and those beside it see it. */
struct dump {
	char *mem;
	/* The window that is being dumped, or NULL before the first. */
	char *_Atomic window;
	atomic_bool ended;
};

/* A process that shares the memory of the one that is dumped. */
static int split_again_and_again(void *argument)
{
	struct dump *dump = argument;

	while (!dump->ended) {
		char *window = dump->window;

		if (window) {
			mprotect(window, psize(), PROT_READ);
			mprotect(window, psize(), PROT_READ | PROT_WRITE);
		}
		sched_yield();
	}
	return 0;
}

/* Collapses a process until its core dump ends. Returns the core dump, or -1. */
static int collapse_while_dumping(pid_t child, int dir, struct dump *dump)
{
	int pidfd = syscall(__NR_pidfd_open, child, 0), core = -1;
	struct stat file = { 0 };
	char name[32];
	off_t offset = 0;

	snprintf(name, sizeof(name), "core.%d", child);
	while (!waitpid(child, NULL, WNOHANG)) {
		if (core < 0)
			core = openat(dir, name, O_RDONLY);
		if (core >= 0 && !offset)
			offset = offset_in_core(core, dump->mem);
		if (offset && !fstat(core, &file) && file.st_size >= offset &&
		    file.st_size < offset + (off_t)SIZE) {
			dump->window = dump->mem + ((file.st_size - offset) & ~(WINDOW - 1));
			collapse_of(pidfd, dump->window, WINDOW, 0);
		}
	}
	dump->ended = true;
	unlinkat(dir, name, 0);
	close(pidfd);
	return core;
}

/*
 * A core dump has no holes where pages are: not even if a page table is replaced, or is not
 * there for a moment, when the dump looks for the next page.
 */
TEST_F_TIMEOUT(collapse_ends, target_dumps_core, 300)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	char pattern[256] = "", path[] = "/tmp/collapse_race.XXXXXX", data[HPAGE_SIZE / 512];
	static char stack[64 * 1024];
	size_t holes = 0;
	int dir;

	read_file(CORE_PATTERN, pattern, sizeof(pattern));
	if (access(CORE_PATTERN, W_OK) || !mkdtemp(path))
		SKIP(return, "core dumps cannot be had");
	dir = open(path, O_RDONLY | O_DIRECTORY);
	write_file(CORE_PATTERN, "core.%p", sizeof("core.%p"));
	for (int i = 0; i < NR_DUMPS; i++) {
		struct dump *dump;
		off_t offset;
		pid_t child;
		int core;

		dump = mmap(NULL, sizeof(*dump), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(dump, MAP_FAILED);
		dump->mem = self->mem;
		child = fork();
		if (!child) {
			setrlimit(RLIMIT_CORE, &unlimited);
			signal(SIGABRT, SIG_DFL);
			fill_windows(_metadata, self->mem);
			memset(self->mem, 1, SIZE);
			clone(split_again_and_again, stack + sizeof(stack), CLONE_VM, dump);
			if (!fchdir(dir))
				abort();
			_exit(1);
		}
		core = collapse_while_dumping(child, dir, dump);
		EXPECT_GE(core, 0);
		offset = offset_in_core(core, self->mem);
		EXPECT_NE(offset, 0);
		for (size_t at = 0; offset && at < SIZE; at += psize()) {
			memset(data, 0, psize());
			EXPECT_EQ(pread(core, data, psize(), offset + at), psize());
			holes += data[0] != 1;
		}
		close(core);
		munmap(dump, sizeof(*dump));
	}
	EXPECT_EQ(holes, 0);
	write_file(CORE_PATTERN, pattern, strlen(pattern) + 1);
	close(dir);
	rmdir(path);
}

TEST_HARNESS_MAIN
