// SPDX-License-Identifier: GPL-2.0
/*
 * MADV_COLLAPSE of private anonymous memory: every layout of source pages that
 * userspace can build, every refusal that it can provoke, and threads that use
 * the memory while it is collapsed. After each call, successful or not, each
 * byte must still read as it was written.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "collapse_pages.h"
#include "collapse_util.h"
#include "hugepage_settings.h"
#include "../../../../mm/gup_test.h"

#define NR_WINDOWS	4

FIXTURE(collapse)
{
	/* NR_WINDOWS windows, with a hole of one window on either side. */
	char *mem;
	int pagemap;
	unsigned int seed;
};

FIXTURE_SETUP(collapse)
{
	if (read_pmd_pagesize() != WINDOW)
		SKIP(return, "huge pages are not of 2 MiB here");
	/* Page faults map no huge pages: each huge page that a test sees was collapsed. */
	thp_save_settings();
	thp_write_string("enabled", "never");
	self->mem = find_room(NR_WINDOWS);
	ASSERT_NE(self->mem, NULL);
	ASSERT_TRUE(map_private(self->mem, NR_WINDOWS * WINDOW));
	self->pagemap = open("/proc/self/pagemap", O_RDONLY);
	ASSERT_GE(self->pagemap, 0);
	self->seed = 1;
}

FIXTURE_TEARDOWN(collapse)
{
	if (self->mem)
		munmap(self->mem, NR_WINDOWS * WINDOW);
	close(self->pagemap);
	thp_restore_settings();
}

#define EXPECT_COLLAPSED(window, stride) do {				\
	char *__window = (window);					\
									\
	EXPECT_EQ(collapse(__window, WINDOW), 0);			\
	EXPECT_TRUE(is_huge(__window));					\
	EXPECT_TRUE(window_intact(__window, stride));			\
} while (0)

#define EXPECT_REFUSED(window, error) do {				\
	char *__refused = (window);					\
									\
	EXPECT_EQ(collapse(__refused, WINDOW), error);			\
	EXPECT_FALSE(is_huge(__refused));				\
} while (0)

TEST_F(collapse, dense)
{
	unsigned long rss;

	write_pages(self->mem, NR_WINDOWS * PAGES, 1);
	rss = rss_anon();
	EXPECT_EQ(collapse(self->mem, NR_WINDOWS * WINDOW), 0);
	for (int i = 0; i < NR_WINDOWS; i++) {
		EXPECT_TRUE(is_huge(self->mem + i * WINDOW));
		EXPECT_TRUE(window_intact(self->mem + i * WINDOW, 1));
	}
	/* rss is exact up to the batches of the per-CPU counters. */
	EXPECT_LE(labs((long)(rss_anon() - rss)), 1024);
}

TEST_F(collapse, single_page)
{
	unsigned long rss = rss_anon();

	write_page(self->mem + 77 * psize());
	EXPECT_EQ(collapse(self->mem, WINDOW), 0);
	EXPECT_TRUE(is_huge(self->mem));
	for (size_t i = 0; i < PAGES; i++) {
		char *page = self->mem + i * psize();

		EXPECT_TRUE(i == 77 ? page_intact(page) : page_zero(page));
	}
	/* A hole that is filled counts, as a fault of it would. */
	EXPECT_GE(rss_anon() - rss + 1024, WINDOW / 1024);
}

TEST_F(collapse, holes)
{
	write_pages(self->mem, PAGES, 2);
	EXPECT_COLLAPSED(self->mem, 2);
}

TEST_F(collapse, zero_pages)
{
	force_read_pages(self->mem, PAGES, psize());
	write_pages(self->mem, PAGES, 3);
	EXPECT_COLLAPSED(self->mem, 3);
}

TEST_F(collapse, only_zero_pages)
{
	/* Without any page of its own the mapping has no anon_vma, and is refused. */
	write_page(self->mem + WINDOW);
	force_read_pages(self->mem, PAGES, psize());
	EXPECT_EQ(collapse(self->mem, WINDOW), 0);
	EXPECT_TRUE(is_huge(self->mem));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_TRUE(page_zero(self->mem + i * psize()));
}

TEST_F(collapse, swapped_in_part)
{
	write_pages(self->mem, PAGES, 1);
	if (!swap_out(self->mem + 100 * psize(), 64))
		SKIP(return, "nothing was swapped out: no swap?");
	EXPECT_COLLAPSED(self->mem, 1);
}

TEST_F(collapse, swapped_wholly)
{
	write_pages(self->mem, PAGES, 1);
	if (swap_out(self->mem, PAGES) < PAGES)
		SKIP(return, "not all was swapped out: no swap?");
	EXPECT_COLLAPSED(self->mem, 1);
}

/* Swapped in for reading only: the pages are still in the swap cache. */
TEST_F(collapse, swap_cache)
{
	long cached;

	write_pages(self->mem, PAGES, 1);
	if (!swap_out(self->mem, PAGES))
		SKIP(return, "nothing was swapped out: no swap?");
	force_read_pages(self->mem, PAGES, psize());
	cached = vmstat_of("nr_swapcached");
	EXPECT_COLLAPSED(self->mem, 1);
	/* Nobody needs them there any more. Others' pages may come and go. */
	if (cached >= (long)PAGES)
		EXPECT_LT(vmstat_of("nr_swapcached"), cached - (long)PAGES / 2);
}

/* Runs the test's rest in a child and gives its verdict: 0 is good. */
static int in_child(int (*function)(char *mem), char *mem)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(function(mem));
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static int stay_intact(char *mem)
{
	return !window_intact(mem, 1);
}

static int collapse_shared(char *mem)
{
	if (collapse(mem, WINDOW) || !is_huge(mem) || !window_intact(mem, 1))
		return 1;
	memset(mem, 0xff, WINDOW);
	return 0;
}

TEST_F(collapse, shared_by_fork_in_child)
{
	write_pages(self->mem, PAGES, 1);
	EXPECT_EQ(in_child(collapse_shared, self->mem), 0);
	/* The child's writes to its copy must not be visible here. */
	EXPECT_TRUE(window_intact(self->mem, 1));
	EXPECT_COLLAPSED(self->mem, 1);
}

TEST_F(collapse, shared_by_fork_in_parent)
{
	int go[2], status;
	pid_t child;
	char c;

	write_pages(self->mem, PAGES, 1);
	ASSERT_EQ(pipe(go), 0);
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		close(go[1]);
		if (read(go[0], &c, 1))
			_exit(2);
		_exit(!window_intact(self->mem, 1));
	}
	EXPECT_COLLAPSED(self->mem, 1);
	memset(self->mem, 0xff, WINDOW);
	close(go[0]);
	close(go[1]);
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_EQ(status, 0);
}

/* Huge, intact, and the pages are where they were. */
#define EXPECT_REMAPPED(window, before) do {				\
	char *__whole = (window);					\
									\
	EXPECT_COLLAPSED(__whole, 1);					\
	EXPECT_TRUE(has_frames(self->pagemap, __whole, &(before)));	\
} while (0)

/* Huge, intact, and the pages are elsewhere, as far as page frames are to be had. */
#define EXPECT_COPIED(window, before) do {				\
	const struct frames *__old = &(before);				\
	char *__copied = (window);					\
									\
	EXPECT_COLLAPSED(__copied, 1);					\
	EXPECT_TRUE(!__old->pfns[0] ||					\
		    !has_frames(self->pagemap, __copied, __old));	\
} while (0)

static uint64_t mapcount_of(unsigned long pfn)
{
	int kpagecount = open("/proc/kpagecount", O_RDONLY);
	uint64_t count = 0;

	if (pread(kpagecount, &count, sizeof(count), pfn * sizeof(count)) != sizeof(count))
		count = -1;
	close(kpagecount);
	return count;
}

TEST_F(collapse, huge_page_mapped_by_ptes)
{
	struct frames before;

	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	before = frames_of(self->pagemap, self->mem);
	EXPECT_REMAPPED(self->mem, before);
	/* The huge page can be written to, and its mapping be split again. */
	write_pages(self->mem, PAGES, 1);
	ASSERT_TRUE(split_mapping(self->mem + psize()));
	write_pages(self->mem, PAGES, 1);
	EXPECT_REMAPPED(self->mem, before);
}

/* All that is counted is as it would be, had the page never been mapped by PTEs. */
TEST_F(collapse, huge_page_mapped_by_ptes_is_counted)
{
	static const char * const deferred = "thp_deferred_split_page";
	static const char * const huge = "nr_anon_transparent_hugepages";
	static const char * const anon = "nr_anon_pages";
	long huge_before, huge_after, anon_before, deferred_before;
	unsigned long rss;
	struct frames frames;

	huge_before = vmstat_of(huge);
	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	frames = frames_of(self->pagemap, self->mem);
	if (!frames.pfns[0] || vmstat_of(huge) < 0)
		SKIP(return, "page frames and counters are not to be had");
	rss = rss_anon();
	anon_before = vmstat_of(anon);
	deferred_before = vmstat_of(deferred);
	EXPECT_REMAPPED(self->mem, frames);
	EXPECT_EQ(rss_anon(), rss);
	huge_after = vmstat_of(huge);
	/* Others' memory counts as well. */
	EXPECT_GT(huge_after, huge_before);
	EXPECT_LT(labs(vmstat_of(anon) - anon_before), (long)PAGES / 2);
	EXPECT_EQ(vmstat_of(deferred), deferred_before);
	EXPECT_EQ(mapcount_of(frames.pfns[0]), 1);
	EXPECT_EQ(mapcount_of(frames.pfns[1]), 1);
	EXPECT_EQ(mapcount_of(frames.pfns[PAGES - 1]), 1);
	ASSERT_EQ(madvise(self->mem, WINDOW, MADV_DONTNEED), 0);
	EXPECT_EQ(vmstat_of(huge), huge_after - 1);
}

/* No page moves, so a device that has a page pinned still sees writes to it. */
TEST_F(collapse, huge_page_mapped_by_ptes_and_pinned)
{
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)self->mem,
		.size = WINDOW,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	int gup = open("/sys/kernel/debug/gup_test", O_RDWR);
	char *copy = malloc(WINDOW);
	__u64 to = (uintptr_t)copy;
	struct frames before;

	if (gup < 0)
		SKIP(return, "CONFIG_GUP_TEST is not there");
	ASSERT_NE(copy, NULL);
	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	before = frames_of(self->pagemap, self->mem);
	ASSERT_EQ(ioctl(gup, PIN_LONGTERM_TEST_START, &pin), 0);
	EXPECT_REMAPPED(self->mem, before);
	for (size_t i = 0; i < PAGES; i++)
		memset(self->mem + i * psize(), i, psize());
	ASSERT_EQ(ioctl(gup, PIN_LONGTERM_TEST_READ, &to), 0);
	EXPECT_EQ(memcmp(copy, self->mem, WINDOW), 0);
	EXPECT_EQ(ioctl(gup, PIN_LONGTERM_TEST_STOP), 0);
	free(copy);
	close(gup);
}

/*
 * fork() takes the exclusive flag from the first page of a huge one. If others kept theirs,
 * a process that splits its mapping would write them in place, for both.
 */
TEST_F(collapse, huge_page_mapped_by_ptes_then_shared)
{
	struct frames before;
	int status;
	pid_t child;

	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	before = frames_of(self->pagemap, self->mem);
	EXPECT_REMAPPED(self->mem, before);
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		split_mapping(self->mem + psize());
		memset(self->mem, 0, WINDOW);
		_exit(0);
	}
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_EQ(status, 0);
	EXPECT_TRUE(window_intact(self->mem, 1));
}

/* A page that another process may map has no exclusive flag, a huge page has only one. */
TEST_F(collapse, huge_page_mapped_by_ptes_shared_in_part)
{
	struct frames before;
	int pipes[2];
	char byte;
	pid_t child;

	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	ASSERT_EQ(pipe(pipes), 0);
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		close(pipes[1]);
		_exit(read(pipes[0], &byte, 1) || !window_intact(self->mem, 1));
	}
	close(pipes[0]);
	write_pages(self->mem, PAGES, 2);
	before = frames_of(self->pagemap, self->mem);
	EXPECT_COPIED(self->mem, before);
	memset(self->mem, 0, WINDOW);
	close(pipes[1]);
	EXPECT_EQ(waitpid(child, &pipes[0], 0), child);
	EXPECT_EQ(pipes[0], 0);
}

/*
 * The child has ended, so no page is shared, yet only those that were written since are known
 * to be exclusive. A window that has both is copied. If all pages were written, none is.
 */
TEST_F(collapse, huge_page_mapped_by_ptes_exclusive_in_part)
{
	for (size_t stride = 2; stride >= 1; stride--) {
		struct frames before;

		ASSERT_TRUE(map_huge_by_ptes(self->mem));
		before = frames_of(self->pagemap, self->mem);
		ASSERT_EQ(in_child(stay_intact, self->mem), 0);
		write_pages(self->mem, PAGES, stride);
		/* The pages were written where they are. */
		ASSERT_TRUE(has_frames(self->pagemap, self->mem, &before));
		if (stride > 1)
			EXPECT_COPIED(self->mem, before);
		else
			EXPECT_REMAPPED(self->mem, before);
	}
}

/* mlock() of a part splits the mapping, and so does munlock() of a part. */
TEST_F(collapse, huge_page_mapped_by_ptes_and_mlocked)
{
	struct frames before;
	long locked;

	locked = vmstat_of("nr_mlock");
	if (locked < 0)
		SKIP(return, "no counters");
	write_pages(self->mem, PAGES, 1);
	ASSERT_EQ(collapse(self->mem, WINDOW), 0);
	before = frames_of(self->pagemap, self->mem);
	ASSERT_EQ(mlock(self->mem + psize(), psize()), 0);
	/* None of the mappings holds a window. */
	EXPECT_REFUSED(self->mem, EINVAL);
	ASSERT_EQ(munlock(self->mem + psize(), psize()), 0);
	EXPECT_REMAPPED(self->mem, before);
	EXPECT_EQ(vmstat_of("nr_mlock"), locked);

	ASSERT_EQ(mlock(self->mem, WINDOW), 0);
	ASSERT_TRUE(split_mapping(self->mem + psize()));
	EXPECT_REMAPPED(self->mem, before);
	EXPECT_EQ(vmstat_of("nr_mlock"), locked + (long)PAGES);
	ASSERT_EQ(munlock(self->mem, WINDOW), 0);
	EXPECT_EQ(vmstat_of("nr_mlock"), locked);
}

/* The collapse makes no page soft-dirty, and a later write does. */
TEST_F(collapse, huge_page_mapped_by_ptes_and_soft_dirty)
{
	char *second = self->mem + WINDOW;
	struct frames before;

	if (!softdirty_supported())
		SKIP(return, "soft-dirty is not supported");
	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	before = frames_of(self->pagemap, self->mem);
	clear_softdirty();
	EXPECT_REMAPPED(self->mem, before);
	EXPECT_FALSE(pagemap_is_softdirty(self->pagemap, self->mem));
	EXPECT_FALSE(pagemap_is_softdirty(self->pagemap, self->mem + 9 * psize()));
	write_page(self->mem + 9 * psize());
	EXPECT_TRUE(pagemap_is_softdirty(self->pagemap, self->mem + 9 * psize()));

	ASSERT_TRUE(map_huge_by_ptes(second));
	before = frames_of(self->pagemap, second);
	clear_softdirty();
	write_page(second + 9 * psize());
	EXPECT_REMAPPED(second, before);
	EXPECT_TRUE(pagemap_is_softdirty(self->pagemap, second + 9 * psize()));
}

/* Write-protection of single pages splits the mapping, and stays one until it is lifted. */
TEST_F(collapse, huge_page_mapped_by_ptes_after_write_protection)
{
	int uffd = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *page = self->mem + 9 * psize();
	struct uffdio_writeprotect protect = {
		.range = { .start = (uintptr_t)page, .len = psize() },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct frames before;

	if (uffd < 0)
		SKIP(return, "no userfaultfd that write-protects");
	write_pages(self->mem, PAGES, 1);
	ASSERT_EQ(collapse(self->mem, WINDOW), 0);
	before = frames_of(self->pagemap, self->mem);
	ASSERT_EQ(uffd_register(uffd, self->mem, WINDOW, false, true, false), 0);
	ASSERT_EQ(ioctl(uffd, UFFDIO_WRITEPROTECT, &protect), 0);
	EXPECT_REFUSED(self->mem, EINVAL);
	protect.mode = 0;
	ASSERT_EQ(ioctl(uffd, UFFDIO_WRITEPROTECT, &protect), 0);
	EXPECT_REMAPPED(self->mem, before);
	write_page(page);
	close(uffd);
}

/* The window is tracked for writes, as PAGEMAP_SCAN reports them. */
TEST_F(collapse, huge_page_mapped_by_ptes_and_tracked)
{
	int uffd = open_userfaultfd(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	struct uffdio_writeprotect protect = {
		.range = { .start = (uintptr_t)self->mem, .len = WINDOW },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct frames before;

	if (uffd < 0)
		SKIP(return, "no userfaultfd that tracks writes");
	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	before = frames_of(self->pagemap, self->mem);
	ASSERT_EQ(uffd_register(uffd, self->mem, WINDOW, false, true, false), 0);
	ASSERT_EQ(ioctl(uffd, UFFDIO_WRITEPROTECT, &protect), 0);
	write_pages(self->mem, PAGES, 2);
	EXPECT_EQ(count_pages(self->mem, WINDOW, PAGE_IS_WRITTEN), PAGES / 2);
	/* A PMD entry could not tell which pages were written. */
	EXPECT_REFUSED(self->mem, EINVAL);
	EXPECT_EQ(count_pages(self->mem, WINDOW, PAGE_IS_WRITTEN), PAGES / 2);
	write_pages(self->mem, PAGES, 1);
	EXPECT_REMAPPED(self->mem, before);
	EXPECT_EQ(count_pages(self->mem, WINDOW, PAGE_IS_WRITTEN), PAGES);
	ASSERT_EQ(ioctl(uffd, UFFDIO_WRITEPROTECT, &protect), 0);
	EXPECT_EQ(count_pages(self->mem, WINDOW, PAGE_IS_WRITTEN), 0);
	write_page(self->mem + 9 * psize());
	EXPECT_EQ(count_pages(self->mem, WINDOW, PAGE_IS_WRITTEN), 1);
	close(uffd);
}

/* A page of it is moved away and back, to its place. */
TEST_F(collapse, huge_page_mapped_by_ptes_again)
{
	char *aside = self->mem + 3 * WINDOW, *page = self->mem + 9 * psize();
	struct frames before;

	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	before = frames_of(self->pagemap, self->mem);
	ASSERT_EQ(mremap(page, psize(), psize(), MREMAP_MAYMOVE | MREMAP_FIXED, aside), aside);
	EXPECT_REFUSED(self->mem, ENOMEM);
	ASSERT_EQ(mremap(aside, psize(), psize(), MREMAP_MAYMOVE | MREMAP_FIXED, page), page);
	EXPECT_REMAPPED(self->mem, before);
}

/* Two pages of it have changed places. */
TEST_F(collapse, huge_page_mapped_by_ptes_out_of_order)
{
	char *a = self->mem + 9 * psize(), *b = a + psize(), *aside = self->mem + 3 * WINDOW;
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	ASSERT_EQ(mremap(a, psize(), psize(), flags, aside), aside);
	ASSERT_EQ(mremap(b, psize(), psize(), flags, a), a);
	ASSERT_EQ(mremap(aside, psize(), psize(), flags, b), b);
	/* The pages lie in mappings of their own now. No mapping contains the whole window. */
	EXPECT_REFUSED(self->mem, EINVAL);
}

/* One batch has windows that are mapped again, and windows that are copied. */
TEST_F(collapse, huge_page_mapped_by_ptes_among_others)
{
	struct frames before;

	write_pages(self->mem, NR_WINDOWS * PAGES, 1);
	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	ASSERT_TRUE(map_huge_by_ptes(self->mem + 2 * WINDOW));
	before = frames_of(self->pagemap, self->mem + 2 * WINDOW);
	ASSERT_EQ(collapse(self->mem, NR_WINDOWS * WINDOW), 0);
	for (size_t i = 0; i < NR_WINDOWS; i++) {
		EXPECT_TRUE(is_huge(self->mem + i * WINDOW));
		EXPECT_TRUE(window_intact(self->mem + i * WINDOW, 1));
	}
	EXPECT_EQ(pagemap_get_pfn(self->pagemap, self->mem + 2 * WINDOW), before.pfns[0]);
}

/* Pages that are read from swap need not be pages of one huge page any more. */
TEST_F(collapse, huge_page_mapped_by_ptes_swapped)
{
	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	if (swap_out(self->mem, PAGES) < PAGES)
		SKIP(return, "not all was swapped out: no swap?");
	force_read_pages(self->mem, PAGES, psize());
	EXPECT_COLLAPSED(self->mem, 1);
	EXPECT_EQ(count_pages(self->mem, WINDOW, PAGE_IS_SWAPPED), 0);
}

TEST_F(collapse, huge_page_mapped_in_part)
{
	unsigned long frame;

	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	frame = pagemap_get_pfn(self->pagemap, self->mem);
	ASSERT_EQ(madvise(self->mem + 10 * psize(), 20 * psize(), MADV_DONTNEED), 0);
	write_pages(self->mem + 10 * psize(), 10, 1);
	EXPECT_EQ(collapse(self->mem, WINDOW), 0);
	EXPECT_TRUE(is_huge(self->mem));
	for (size_t i = 0; i < PAGES; i++) {
		char *page = self->mem + i * psize();

		EXPECT_TRUE(i >= 20 && i < 30 ? page_zero(page) : page_intact(page));
	}
	if (frame)
		EXPECT_NE(pagemap_get_pfn(self->pagemap, self->mem), frame);
}

/*
 * Page migration takes away one mapping after the other. So it finds a folio to be mapped in
 * part, which is to be split then, even if it is mapped as before in the end: it is copied.
 */
TEST_F(collapse, huge_page_mapped_by_ptes_to_be_split)
{
	static const char * const deferred = "thp_deferred_split_page";
	int node = 1, status, referring;
	void *pages = self->mem;
	struct frames before;
	long deferred_before;

	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP(return, "pages can only be moved to another node");
	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	before = frames_of(self->pagemap, self->mem);
	deferred_before = vmstat_of(deferred);
	/* Has the migration fail, after it has unmapped the pages. */
	referring = refer_by_pipe(self->mem);
	ASSERT_GE(referring, 0);
	syscall(__NR_move_pages, 0, 1UL, &pages, &node, &status, MPOL_MF_MOVE);
	close(referring);
	if (!before.pfns[0] || vmstat_of(deferred) <= deferred_before)
		SKIP(return, "page frames are not to be had, or nothing tried to move them");
	EXPECT_EQ(pagemap_get_pfn(self->pagemap, self->mem), before.pfns[0]);
	EXPECT_COLLAPSED(self->mem, 1);
	EXPECT_NE(pagemap_get_pfn(self->pagemap, self->mem), before.pfns[0]);
}

/*
 * Folios that lie in two windows each, since their mapping was moved by half a
 * window. A batch that has locked a folio for one window meets it again in the next.
 */
TEST_F(collapse, folios_across_windows)
{
	char *area = find_room(NR_WINDOWS), *moved = area + WINDOW / 2;

	ASSERT_NE(area, NULL);
	ASSERT_TRUE(map_private(area, NR_WINDOWS * WINDOW));
	write_pages(self->mem, NR_WINDOWS * PAGES, 1);
	ASSERT_EQ(collapse(self->mem, NR_WINDOWS * WINDOW), 0);
	ASSERT_EQ(mremap(self->mem, (NR_WINDOWS - 1) * WINDOW, (NR_WINDOWS - 1) * WINDOW,
			 MREMAP_MAYMOVE | MREMAP_FIXED, moved), moved);
	EXPECT_FALSE(is_huge(area + WINDOW));
	EXPECT_EQ(collapse(moved, (NR_WINDOWS - 1) * WINDOW), 0);
	for (int i = 1; i < NR_WINDOWS - 1; i++)
		EXPECT_TRUE(is_huge(area + i * WINDOW));
	for (size_t i = 0; i < (NR_WINDOWS - 1) * WINDOW; i += sizeof(uint64_t)) {
		char *page = self->mem + i / psize() * psize();

		ASSERT_EQ(*(uint64_t *)(moved + i), word(page, i % psize() / sizeof(uint64_t)));
	}
	munmap(area, NR_WINDOWS * WINDOW);
}

TEST_F(collapse, mlocked)
{
	write_pages(self->mem, PAGES, 1);
	if (mlock(self->mem, WINDOW))
		SKIP(return, "mlock is not allowed");
	EXPECT_COLLAPSED(self->mem, 1);
	EXPECT_EQ(munlock(self->mem, WINDOW), 0);
	EXPECT_TRUE(window_intact(self->mem, 1));
}

TEST_F(collapse, lazily_freed)
{
	write_pages(self->mem, PAGES, 1);
	ASSERT_EQ(madvise(self->mem, 8 * psize(), MADV_FREE), 0);
	/* Written after MADV_FREE: these must stay. */
	write_pages(self->mem, 4, 1);
	EXPECT_EQ(collapse(self->mem, WINDOW), 0);
	EXPECT_TRUE(is_huge(self->mem));
	for (size_t i = 0; i < PAGES; i++) {
		char *page = self->mem + i * psize();

		EXPECT_TRUE(page_intact(page) || (i >= 4 && i < 8 && page_zero(page)));
	}
}

TEST_F(collapse, soft_dirty)
{
	if (!softdirty_supported())
		SKIP(return, "soft-dirty is not supported");
	write_pages(self->mem, PAGES, 1);
	clear_softdirty();
	write_page(self->mem + 9 * psize());
	ASSERT_TRUE(pagemap_is_softdirty(self->pagemap, self->mem + 9 * psize()));
	EXPECT_COLLAPSED(self->mem, 1);
	/* Said of too many pages is allowed, of too few is not. */
	EXPECT_TRUE(pagemap_is_softdirty(self->pagemap, self->mem + 9 * psize()));
}

TEST_F(collapse, ksm_pages)
{
	for (size_t i = 0; i < PAGES; i++)
		memset(self->mem + i * psize(), i < 64 ? 0x5a : i, psize());
	ASSERT_EQ(madvise(self->mem, 64 * psize(), MADV_MERGEABLE), 0);
	if (ksm_start() < 0)
		SKIP(return, "KSM is not available");
	EXPECT_GT(ksm_get_self_merging_pages(), 0);
	collapse(self->mem, WINDOW);
	for (size_t i = 0; i < WINDOW; i++) {
		size_t page = i / psize();

		ASSERT_EQ((unsigned char)self->mem[i], page < 64 ? 0x5a : (page & 0xff));
	}
	ksm_stop();
}

TEST_F(collapse, guard_marker)
{
	write_pages(self->mem, PAGES, 1);
	if (madvise(self->mem + 5 * psize(), psize(), MADV_GUARD_INSTALL))
		SKIP(return, "guard regions are not supported");
	EXPECT_REFUSED(self->mem, EINVAL);
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_TRUE(i == 5 || page_intact(self->mem + i * psize()));
}

TEST_F(collapse, userfaultfd_write_protected)
{
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)self->mem + 3 * psize(), psize() },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int uffd = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);

	if (uffd < 0)
		SKIP(return, "userfaultfd is not available");
	write_pages(self->mem, PAGES, 1);
	ASSERT_EQ(uffd_register(uffd, self->mem, WINDOW, false, true, false), 0);
	ASSERT_EQ(ioctl(uffd, UFFDIO_WRITEPROTECT, &wp), 0);
	EXPECT_REFUSED(self->mem, EINVAL);
	EXPECT_TRUE(window_intact(self->mem, 1));
	close(uffd);
}

/* A hole of such a mapping is its owner's to fill. */
TEST_F(collapse, userfaultfd_missing)
{
	int uffd = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);

	if (uffd < 0)
		SKIP(return, "userfaultfd is not available");
	write_pages(self->mem, PAGES, 1);
	write_pages(self->mem + WINDOW, PAGES, 1);
	ASSERT_EQ(madvise(self->mem, psize(), MADV_DONTNEED), 0);
	ASSERT_EQ(uffd_register(uffd, self->mem, 2 * WINDOW, true, false, false), 0);
	EXPECT_REFUSED(self->mem, EBUSY);
	EXPECT_COLLAPSED(self->mem + WINDOW, 1);
	close(uffd);
}

TEST_F(collapse, poisoned)
{
	/* A process is sent SIGBUS when a page that it maps goes bad. */
	signal(SIGBUS, ignore_signal);
	write_pages(self->mem, PAGES, 1);
	if (madvise(self->mem + 4 * psize(), psize(), MADV_HWPOISON))
		SKIP(return, "memory failure cannot be injected");
	EXPECT_REFUSED(self->mem, EINVAL);
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_TRUE(i == 4 || page_intact(self->mem + i * psize()));
}

/* Returns the device that has the pages until it is closed, or -1. */
static int have_on_device(unsigned long request, char *start, size_t pages)
{
	char *data = malloc(pages * psize());
	int device = open(DEVICE, O_RDWR);

	if (device >= 0 && use_by_device(device, request, start, pages, data) < 0) {
		close(device);
		device = -1;
	}
	free(data);
	return device;
}

/* Pages in memory that only a device can access, or to which it has exclusive access. */
TEST_F(collapse, device_memory)
{
	static const unsigned long requests[] = {
		HMM_DMIRROR_MIGRATE_TO_DEV, HMM_DMIRROR_EXCLUSIVE,
	};

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		char *window = self->mem + i * WINDOW;
		int device;

		write_pages(window, PAGES, 1);
		device = have_on_device(requests[i], window + 40 * psize(), 16);
		if (device < 0)
			SKIP(return, "no device with memory");
		EXPECT_REFUSED(window, EINVAL);
		EXPECT_TRUE(window_intact(window, 1));
		close(device);
		EXPECT_COLLAPSED(window, 1);
	}
}

/* Pinned for I/O: a device may write the page at any time, it must stay put. */
TEST_F(collapse, pinned)
{
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)self->mem + 6 * psize(),
		.size = psize(),
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	int gup = open("/sys/kernel/debug/gup_test", O_RDWR);

	if (gup < 0)
		SKIP(return, "CONFIG_GUP_TEST is not there");
	write_pages(self->mem, 2 * PAGES, 1);
	ASSERT_EQ(ioctl(gup, PIN_LONGTERM_TEST_START, &pin), 0);
	EXPECT_REFUSED(self->mem, EAGAIN);
	EXPECT_TRUE(window_intact(self->mem, 1));
	/* One bad window does not end the range. */
	EXPECT_EQ(collapse(self->mem, 2 * WINDOW), EAGAIN);
	EXPECT_TRUE(is_huge(self->mem + WINDOW));
	EXPECT_EQ(ioctl(gup, PIN_LONGTERM_TEST_STOP), 0);
	EXPECT_COLLAPSED(self->mem, 1);
	close(gup);
}

TEST_F(collapse, nothing_there)
{
	/* A window without a page is not collapsed, whether or not it has a page table. */
	EXPECT_REFUSED(self->mem, EINVAL);
	write_pages(self->mem + WINDOW, PAGES, 1);
	EXPECT_EQ(collapse(self->mem, 2 * WINDOW), EINVAL);
	EXPECT_TRUE(is_huge(self->mem + WINDOW));
}

TEST_F(collapse, already_huge)
{
	write_pages(self->mem, PAGES, 1);
	EXPECT_COLLAPSED(self->mem, 1);
	EXPECT_COLLAPSED(self->mem, 1);
}

TEST_F(collapse, range_without_window)
{
	write_pages(self->mem, 2 * PAGES, 1);
	EXPECT_EQ(collapse(self->mem + psize(), WINDOW), 0);
	EXPECT_EQ(collapse(self->mem, WINDOW - psize()), 0);
	EXPECT_EQ(collapse(self->mem, 0), 0);
	EXPECT_FALSE(is_huge(self->mem));
	EXPECT_EQ(collapse(self->mem + 1, WINDOW), EINVAL);
	/* Only the window that lies wholly inside the range is collapsed. */
	EXPECT_EQ(collapse(self->mem + psize(), 2 * WINDOW - psize()), 0);
	EXPECT_FALSE(is_huge(self->mem));
	EXPECT_TRUE(is_huge(self->mem + WINDOW));
}

TEST_F(collapse, gap)
{
	write_pages(self->mem, NR_WINDOWS * PAGES, 1);
	ASSERT_EQ(munmap(self->mem + WINDOW, WINDOW), 0);
	EXPECT_EQ(collapse(self->mem, NR_WINDOWS * WINDOW), ENOMEM);
	for (int i = 0; i < NR_WINDOWS; i++) {
		if (i == 1)
			continue;
		EXPECT_TRUE(is_huge(self->mem + i * WINDOW));
		EXPECT_TRUE(window_intact(self->mem + i * WINDOW, 1));
	}
}

/* The addresses above the stack have no mapping. */
TEST_F(collapse, above_all_mappings)
{
	char *last = (char *)((1UL << 47) - 2 * WINDOW);

	EXPECT_EQ(collapse(last, WINDOW), ENOMEM);
}

TEST_F(collapse, thp_disabled_for_process)
{
	write_pages(self->mem, PAGES, 1);
	ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
	EXPECT_EQ(collapse(self->mem, WINDOW), EINVAL);
	ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
	EXPECT_COLLAPSED(self->mem, 1);
}

/*
 * Threads that use the memory while it is collapsed again and again. Each owns
 * every fourth page. Each must read the value that it wrote last, or zero if it
 * has just discarded the page.
 */
#define NR_USERS	4
#define STRESS_SECONDS	5

struct user {
	char *mem;
	unsigned int id;
	unsigned int seed;
	atomic_bool *stop;
	unsigned long rounds;
	unsigned long lost;
};

static void *use_memory(void *argument)
{
	struct user *user = argument;
	size_t pages = NR_WINDOWS * PAGES / NR_USERS;
	unsigned long *expected = calloc(pages, sizeof(*expected));

	while (expected && !atomic_load(user->stop)) {
		size_t i = rand_r(&user->seed) % pages;
		char *page = user->mem + (i * NR_USERS + user->id) * psize();
		atomic_ulong *first = (atomic_ulong *)page;
		atomic_ulong *last = (atomic_ulong *)(page + psize()) - 1;

		if (atomic_load(first) != expected[i] || atomic_load(last) != expected[i]) {
			user->lost++;
			break;
		}
		switch (rand_r(&user->seed) % 16) {
		case 0:
			madvise(page, psize(), MADV_DONTNEED);
			expected[i] = 0;
			break;
		case 1:
			madvise(page, psize(), MADV_PAGEOUT);
			break;
		case 2:
			mlock(page, psize());
			munlock(page, psize());
			break;
		default:
			expected[i]++;
			atomic_store(first, expected[i]);
			atomic_store(last, expected[i]);
			break;
		}
		user->rounds++;
	}
	free(expected);
	return NULL;
}

static void *fork_often(void *argument)
{
	struct user *user = argument;

	while (!atomic_load(user->stop)) {
		pid_t child = fork();

		if (!child)
			_exit(0);
		if (child > 0)
			waitpid(child, NULL, 0);
		usleep(20000);
		user->rounds++;
	}
	return NULL;
}

TEST_F_TIMEOUT(collapse, used_meanwhile, 120)
{
	struct user users[NR_USERS + 1];
	pthread_t threads[NR_USERS + 1];
	unsigned long calls = 0, done = 0;
	atomic_bool stop = false;
	time_t end;

	for (int i = 0; i <= NR_USERS; i++) {
		users[i] = (struct user){
			.mem = self->mem, .id = i, .seed = self->seed + i, .stop = &stop,
		};
		ASSERT_EQ(pthread_create(&threads[i], NULL,
					 i < NR_USERS ? use_memory : fork_often, &users[i]), 0);
	}
	for (end = time(NULL) + STRESS_SECONDS; time(NULL) < end; calls++) {
		done += !collapse(self->mem, NR_WINDOWS * WINDOW);
		/* Back to base pages, by the window. */
		for (int i = 0; i < NR_WINDOWS; i++) {
			char *page = self->mem + i * WINDOW + psize();

			mprotect(page, psize(), PROT_READ | PROT_WRITE | PROT_EXEC);
			mprotect(page, psize(), PROT_READ | PROT_WRITE);
		}
	}
	atomic_store(&stop, true);
	for (int i = 0; i <= NR_USERS; i++) {
		ASSERT_EQ(pthread_join(threads[i], NULL), 0);
		EXPECT_GT(users[i].rounds, 0);
		EXPECT_EQ(users[i].lost, 0);
	}
	TH_LOG("%lu calls, %lu of them wholly successful", calls, done);
}

TEST_HARNESS_MAIN
