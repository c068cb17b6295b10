// SPDX-License-Identifier: GPL-2.0
/*
 * Collapse when something that it needs fails: each of its allocations in turn,
 * allocations of huge pages, charges of a memory cgroup at its limit, reads of bad
 * pages. Each time the error must tell what happened, memory must be intact, nothing
 * may leak, and the next call must succeed.
 *
 * Needs CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC and CONFIG_FAULT_INJECTION_DEBUG_FS;
 * for machine checks CONFIG_THP_COLLAPSE_RUST_DEBUG, for unreadable swap
 * CONFIG_FAIL_MAKE_REQUEST.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "collapse_pages.h"
#include "collapse_util.h"
#include "hugepage_settings.h"

#define NR_WINDOWS	3

#define FAIL_NTH	"/proc/self/fail-nth"
#define CGROUP		"/sys/fs/cgroup/collapse_fault"

/* No request makes more allocations than that. */
#define MAX_ALLOCATIONS	4000

static void write_number(const char *path, unsigned long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", number);
	write_text(path, text);
}

FIXTURE(collapse_fault)
{
	char *mem;
	int pagemap;
	int fail_nth;
};

FIXTURE_SETUP(collapse_fault)
{
	if (read_pmd_pagesize() != WINDOW)
		SKIP(return, "huge pages are not of 2 MiB here");
	if (!choose_faults(false))
		SKIP(return, "faults cannot be injected");
	thp_save_settings();
	thp_write_string("enabled", "never");
	self->mem = reserve(NR_WINDOWS);
	ASSERT_NE(self->mem, NULL);
	self->pagemap = open("/proc/self/pagemap", O_RDONLY);
	self->fail_nth = open(FAIL_NTH, O_RDWR);
	ASSERT_GE(self->fail_nth, 0);
}

FIXTURE_TEARDOWN(collapse_fault)
{
	if (!self->mem)
		return;
	end_faults();
	thp_restore_settings();
}

/* Collapses with the n-th allocation failing; *n is 0 afterwards if one did. */
static int collapse_failing(FIXTURE_DATA(collapse_fault) * self, char *start, size_t len,
			    unsigned int *n)
{
	char text[16];
	ssize_t size;
	int result;

	snprintf(text, sizeof(text), "%u", *n);
	if (pwrite(self->fail_nth, text, strlen(text), 0) < 0)
		return -1;
	result = collapse(start, len);
	/* To write it ends it, be it of use or not; reading does not allocate. */
	size = pread(self->fail_nth, text, sizeof(text) - 1, 0);
	if (size < 0 || pwrite(self->fail_nth, "0", 1, 0) != 1)
		return -1;
	text[size] = '\0';
	*n = atoi(text);
	return result;
}

/* Layouts of one window, each with the stride of its written pages. */
static void lay_dense(FIXTURE_DATA(collapse_fault) * self)
{
	write_pages(self->mem, PAGES, 1);
}

static void lay_holes(FIXTURE_DATA(collapse_fault) * self)
{
	write_pages(self->mem, PAGES, 16);
	force_read_pages(self->mem, PAGES / 2, psize());
}

static void lay_swapped(FIXTURE_DATA(collapse_fault) * self)
{
	write_pages(self->mem, PAGES, 16);
	madvise(self->mem, PAGES / 4 * psize(), MADV_PAGEOUT);
}

static void lay_mapped_by_ptes(FIXTURE_DATA(collapse_fault) * self)
{
	write_pages(self->mem, PAGES, 1);
	collapse_retry(self->mem, WINDOW);
	split_mapping(self->mem);
}

/* Maps shmem, which is left to the C code. */
static void lay_shmem(FIXTURE_DATA(collapse_fault) * self)
{
	mmap(self->mem, WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED,
	     -1, 0);
	write_pages(self->mem, PAGES, 1);
}

static void sweep(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_fault) * self,
		  void (*lay)(FIXTURE_DATA(collapse_fault) * self), size_t stride)
{
	unsigned int failed_calls = 0, n;
	long tables = 0;

	for (n = 1; n < MAX_ALLOCATIONS; n++) {
		unsigned int left = n;
		int result;

		ASSERT_TRUE(map_private(self->mem, WINDOW));
		lay(self);
		result = collapse_failing(self, self->mem, WINDOW, &left);
		/* Many allocations have a second way, some only make things faster. */
		EXPECT_TRUE(result == 0 || result == ENOMEM || result == EBUSY ||
			    result == EAGAIN || result == EINVAL) {
			TH_LOG("allocation %u: %s", n, strerror(result));
		}
		failed_calls += result != 0;
		EXPECT_EQ(is_huge(self->mem), result == 0);
		EXPECT_TRUE(window_intact(self->mem, stride)) {
			TH_LOG("allocation %u: %s", n, strerror(result));
		}
		EXPECT_EQ(collapse_retry(self->mem, WINDOW), 0);
		EXPECT_TRUE(is_huge(self->mem));
		EXPECT_TRUE(window_intact(self->mem, stride));
		if (left) {
			/* The call makes fewer allocations. */
			EXPECT_EQ(result, 0);
			break;
		}
		if (n == 1)
			tables = vmstat_of("nr_page_table_pages");
	}
	TH_LOG("%u allocations failed, %u calls with them", n - 1, failed_calls);
	EXPECT_LT(n, MAX_ALLOCATIONS);
	EXPECT_GE(failed_calls, 2);
	/* They are freed after a grace period. */
	for (int tries = 0; tries < 20 && vmstat_of("nr_page_table_pages") - tables >= 16; tries++)
		sleep(1);
	EXPECT_LT(vmstat_of("nr_page_table_pages") - tables, 16);
}

TEST_F_TIMEOUT(collapse_fault, dense, 300)
{
	sweep(_metadata, self, lay_dense, 1);
}

TEST_F_TIMEOUT(collapse_fault, holes, 300)
{
	sweep(_metadata, self, lay_holes, 16);
}

TEST_F_TIMEOUT(collapse_fault, swapped, 300)
{
	ASSERT_TRUE(map_private(self->mem, WINDOW));
	lay_swapped(self);
	if (!pagemap_is_swapped(self->pagemap, self->mem))
		SKIP(return, "nothing was swapped out: no swap?");
	sweep(_metadata, self, lay_swapped, 16);
}

TEST_F_TIMEOUT(collapse_fault, mapped_by_ptes, 300)
{
	sweep(_metadata, self, lay_mapped_by_ptes, 1);
}

TEST_F_TIMEOUT(collapse_fault, shmem, 300)
{
	sweep(_metadata, self, lay_shmem, 1);
}

/*
 * The allocation of a huge page fails. If other windows can go first, it is tried again
 * after them. Else the range ends there.
 */
TEST_F_TIMEOUT(collapse_fault, huge_pages, 300)
{
	unsigned int ended = 0, went_on = 0;

	choose_faults(true);
	for (unsigned int n = 1; n <= NR_WINDOWS + 1; n++) {
		unsigned int left = n;
		int result;

		ASSERT_TRUE(map_private(self->mem, NR_WINDOWS * WINDOW));
		for (size_t i = 0; i < NR_WINDOWS; i++)
			write_pages(self->mem + i * WINDOW, PAGES, 4);
		result = collapse_failing(self, self->mem, NR_WINDOWS * WINDOW, &left);
		EXPECT_TRUE(result == ENOMEM || result == 0);
		EXPECT_EQ(left == 0, n <= NR_WINDOWS);
		ended += result != 0;
		went_on += !result && !left;
		for (size_t i = 0; i < NR_WINDOWS; i++) {
			EXPECT_EQ(is_huge(self->mem + i * WINDOW), !result || i + 1 < n);
			EXPECT_TRUE(window_intact(self->mem + i * WINDOW, 4));
		}
		EXPECT_EQ(collapse_retry(self->mem, NR_WINDOWS * WINDOW), 0);
		for (size_t i = 0; i < NR_WINDOWS; i++) {
			EXPECT_TRUE(is_huge(self->mem + i * WINDOW));
			EXPECT_TRUE(window_intact(self->mem + i * WINDOW, 4));
		}
	}
	/* No window can go before the first one of the request, so the range ended there. */
	EXPECT_GT(ended, 0);
	EXPECT_GT(went_on, 0);
}

/* Tells of a failure in a child, where the harness cannot. */
#define failed_here()	(ksft_print_msg("%s:%d\n", __FILE__, __LINE__), KSFT_FAIL)

/* Runs in a cgroup of its own: charges of others would change its limit. */
static int collapse_at_limit(FIXTURE_DATA(collapse_fault) * self)
{
	long free_before, lost;

	write_text(CGROUP "/cgroup.procs", "0");
	for (size_t i = 0; i < NR_WINDOWS; i++)
		write_pages(self->mem + i * WINDOW, PAGES, 1);
	write_text(CGROUP "/memory.swap.max", "0");
	free_before = read_field("/proc/meminfo", "MemFree");
	for (int i = 0; i < 64; i++) {
		write_number(CGROUP "/memory.max", read_num(CGROUP "/memory.current") + WINDOW / 2);
		if (collapse_retry(self->mem, 2 * WINDOW) != EBUSY)
			return failed_here();
		if (is_huge(self->mem) || !window_intact(self->mem, 1))
			return failed_here();
	}
	/* A huge page lost each time would be 128 MiB. */
	lost = free_before - read_field("/proc/meminfo", "MemFree");
	if (lost > 64 * 1024) {
		ksft_print_msg("%ld KiB were lost\n", lost);
		return failed_here();
	}
	/* There is room for one window at a time, but not for two. */
	write_number(CGROUP "/memory.max", read_num(CGROUP "/memory.current") + WINDOW * 3 / 2);
	if (collapse_retry(self->mem, NR_WINDOWS * WINDOW))
		return failed_here();
	for (size_t i = 0; i < NR_WINDOWS; i++)
		if (!is_huge(self->mem + i * WINDOW) || !window_intact(self->mem + i * WINDOW, 1))
			return failed_here();
	return 0;
}

/*
 * There is room for two huge pages, but not for pages that are read from swap as well.
 * A window that needs such pages is collapsed alone, be it the first or the last.
 */
static int swap_in_at_limit(FIXTURE_DATA(collapse_fault) * self)
{
	size_t nr = PAGES * 3 / 4;

	write_text(CGROUP "/cgroup.procs", "0");
	for (size_t i = 0; i < 2; i++) {
		char *swapped = self->mem + i * WINDOW;

		madvise(self->mem, 2 * WINDOW, MADV_DONTNEED);
		write_text(CGROUP "/memory.max", "max");
		write_text(CGROUP "/memory.swap.max", "max");
		write_pages(self->mem, PAGES, 1);
		write_pages(self->mem + WINDOW, PAGES, 1);
		madvise(swapped, nr * psize(), MADV_PAGEOUT);
		if (count_pages(swapped, WINDOW, PAGE_IS_SWAPPED) < nr / 2)
			return KSFT_SKIP;
		write_text(CGROUP "/memory.swap.max", "0");
		write_number(CGROUP "/memory.max",
			     read_num(CGROUP "/memory.current") + WINDOW * 9 / 4);
		if (collapse_retry(self->mem, 2 * WINDOW))
			return failed_here();
		if (!is_huge(self->mem) || !is_huge(self->mem + WINDOW))
			return failed_here();
		if (!window_intact(self->mem, 1) || !window_intact(self->mem + WINDOW, 1))
			return failed_here();
	}
	return 0;
}

#define CALLER		"/sys/fs/cgroup/collapse_fault_caller"
#define MANY_WINDOWS	64

/* Kernel memory that the page tables of a cgroup take, known after two seconds at the latest. */
static long page_tables_of(const char *memory_stat)
{
	sleep(3);
	return read_field(memory_stat, "pagetables");
}

/*
 * Another process, in a cgroup of its own, collapses this one. The page tables that are
 * deposited for the huge pages are charged to the target, as were those that they replace.
 */
static int collapse_from_another_cgroup(FIXTURE_DATA(collapse_fault) * self)
{
	size_t size = MANY_WINDOWS * WINDOW, slack = MANY_WINDOWS / 4 * psize();
	int pidfd = syscall(__NR_pidfd_open, getpid(), 0), begin[2], status;
	long own, callers;
	char *mem = reserve(MANY_WINDOWS);
	pid_t caller;

	if (!mem || !map_private(mem, size) || pidfd < 0 || pipe(begin))
		return failed_here();
	write_text(CGROUP "/cgroup.procs", "0");
	/* The child shares none of the memory, which is written to later. */
	caller = fork();
	if (!caller) {
		char byte;

		write_text(CALLER "/cgroup.procs", "0");
		if (read(begin[0], &byte, 1) != 1)
			_exit(failed_here());
		callers = page_tables_of(CALLER "/memory.stat");
		if (collapse_of(pidfd, mem, size, 0) != (ssize_t)size)
			_exit(failed_here());
		callers = page_tables_of(CALLER "/memory.stat") - callers;
		if (callers > (long)slack) {
			ksft_print_msg("the caller's page tables grew by %ld\n", callers);
			_exit(failed_here());
		}
		_exit(0);
	}
	for (size_t i = 0; i < size; i += psize())
		mem[i] = 1;
	own = page_tables_of(CGROUP "/memory.stat");
	if (write(begin[1], "", 1) != 1 || waitpid(caller, &status, 0) != caller)
		return failed_here();
	own = page_tables_of(CGROUP "/memory.stat") - own;
	if (own < -(long)slack) {
		ksft_print_msg("the target's page tables shrank by %ld\n", -own);
		return failed_here();
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : failed_here();
}

/*
 * A huge page that is mapped by a PMD entry again stays charged as it was: the cgroup has as
 * much memory, and as much of it in huge pages, as before its mapping was split.
 */
static int remap_in_cgroup(FIXTURE_DATA(collapse_fault) * self)
{
	static const char * const names[] = { "anon", "anon_thp" };
	long before[ARRAY_SIZE(names)];

	write_text(CGROUP "/cgroup.procs", "0");
	for (size_t i = 0; i < NR_WINDOWS; i++)
		write_pages(self->mem + i * WINDOW, PAGES, 1);
	if (collapse(self->mem, NR_WINDOWS * WINDOW))
		return failed_here();
	/* Touches what these functions need, which is charged as well. */
	if (!is_huge(self->mem) || read_field(CGROUP "/memory.stat", names[0]) < 0)
		return failed_here();
	/* CPUs hold back counts for two seconds at most. */
	sleep(3);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		before[i] = read_field(CGROUP "/memory.stat", names[i]);
	if (before[1] != (long)(NR_WINDOWS * WINDOW))
		return failed_here();
	for (size_t i = 0; i < NR_WINDOWS; i++) {
		char *window = self->mem + i * WINDOW;

		if (!split_mapping(window + psize()) || is_huge(window))
			return failed_here();
	}
	if (collapse(self->mem, NR_WINDOWS * WINDOW))
		return failed_here();
	sleep(3);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		long now = read_field(CGROUP "/memory.stat", names[i]);

		if (now != before[i]) {
			ksft_print_msg("%s was %ld, and is %ld\n", names[i], before[i], now);
			return failed_here();
		}
	}
	if (munmap(self->mem, NR_WINDOWS * WINDOW))
		return failed_here();
	sleep(3);
	return read_field(CGROUP "/memory.stat", names[1]) ? failed_here() : 0;
}

/* Runs it in a child, since it enters the cgroup. Returns how that ended. */
static int run_in_cgroup(FIXTURE_DATA(collapse_fault) * self,
			 int (*run)(FIXTURE_DATA(collapse_fault) * self))
{
	int status = -1;
	pid_t child;

	write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	mkdir(CGROUP, 0755);
	if (access(CGROUP "/memory.max", W_OK)) {
		rmdir(CGROUP);
		return KSFT_SKIP;
	}
	child = fork();
	if (!child)
		_exit(run(self));
	if (waitpid(child, &status, 0) != child || rmdir(CGROUP))
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST_F_TIMEOUT(collapse_fault, cgroup_at_limit, 300)
{
	int result;

	ASSERT_TRUE(map_private(self->mem, NR_WINDOWS * WINDOW));
	result = run_in_cgroup(self, collapse_at_limit);
	if (result == KSFT_SKIP)
		SKIP(return, "no memory cgroup");
	EXPECT_EQ(result, 0);
}

TEST_F_TIMEOUT(collapse_fault, cgroup_of_target, 300)
{
	int result;

	mkdir(CALLER, 0755);
	result = run_in_cgroup(self, collapse_from_another_cgroup);
	rmdir(CALLER);
	if (result == KSFT_SKIP)
		SKIP(return, "no memory cgroup");
	EXPECT_EQ(result, 0);
}

TEST_F_TIMEOUT(collapse_fault, cgroup_of_remapped, 300)
{
	int result;

	ASSERT_TRUE(map_private(self->mem, NR_WINDOWS * WINDOW));
	result = run_in_cgroup(self, remap_in_cgroup);
	if (result == KSFT_SKIP)
		SKIP(return, "no memory cgroup");
	EXPECT_EQ(result, 0);
}

TEST_F_TIMEOUT(collapse_fault, cgroup_at_limit_with_swap, 300)
{
	int result;

	ASSERT_TRUE(map_private(self->mem, NR_WINDOWS * WINDOW));
	result = run_in_cgroup(self, swap_in_at_limit);
	if (result == KSFT_SKIP)
		SKIP(return, "no memory cgroup, or no swap");
	EXPECT_EQ(result, 0);
}

/*
 * Only the window with the bad page is put back: mostly the one that comes at that
 * time, but one of them may have to wait for others. Of one window nothing is left.
 */
static void meet_bad_page(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_fault) * self,
			  size_t windows, size_t bad)
{
	size_t huge = 0;

	ASSERT_TRUE(map_private(self->mem, windows * WINDOW));
	for (size_t i = 0; i < windows; i++)
		write_pages(self->mem + i * WINDOW, PAGES, 1);
	write_number(BAD_COPY, bad);
	EXPECT_EQ(collapse_retry(self->mem, windows * WINDOW), EINVAL);
	EXPECT_EQ(read_num(BAD_COPY), 0);
	for (size_t i = 0; i < windows; i++) {
		huge += is_huge(self->mem + i * WINDOW);
		EXPECT_TRUE(window_intact(self->mem + i * WINDOW, 1));
	}
	EXPECT_EQ(huge, windows - 1);
	EXPECT_EQ(collapse_retry(self->mem, windows * WINDOW), 0);
	for (size_t i = 0; i < windows; i++) {
		EXPECT_TRUE(is_huge(self->mem + i * WINDOW));
		EXPECT_TRUE(window_intact(self->mem + i * WINDOW, 1));
	}
}

TEST_F_TIMEOUT(collapse_fault, machine_check, 300)
{
	if (access(BAD_COPY, W_OK))
		SKIP(return, "no " BAD_COPY);
	for (size_t bad = 1; bad <= NR_WINDOWS * PAGES; bad += PAGES / 2 - 1)
		meet_bad_page(_metadata, self, NR_WINDOWS, bad);
	meet_bad_page(_metadata, self, 1, 1);
}

/* Lost to a memory error before: the window is refused, the range goes on. */
TEST_F_TIMEOUT(collapse_fault, poisoned, 300)
{
	unsigned long pfn;
	char *bad;

	signal(SIGBUS, ignore_signal);
	ASSERT_TRUE(map_private(self->mem, NR_WINDOWS * WINDOW));
	for (size_t i = 0; i < NR_WINDOWS; i++)
		write_pages(self->mem + i * WINDOW, PAGES, 1);
	bad = self->mem + WINDOW + 3 * psize();
	pfn = pagemap_get_pfn(self->pagemap, bad);
	if (madvise(bad, psize(), MADV_HWPOISON))
		SKIP(return, "memory failure cannot be injected");
	EXPECT_EQ(collapse_retry(self->mem, NR_WINDOWS * WINDOW), EINVAL);
	EXPECT_TRUE(is_huge(self->mem));
	EXPECT_FALSE(is_huge(self->mem + WINDOW));
	EXPECT_TRUE(is_huge(self->mem + 2 * WINDOW));
	EXPECT_TRUE(window_intact(self->mem, 1));
	EXPECT_TRUE(window_intact(self->mem + 2 * WINDOW, 1));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_TRUE(i == 3 || page_intact(self->mem + WINDOW + i * psize()));
	/* Without the bad page it is as good as any other. */
	EXPECT_EQ(madvise(bad, psize(), MADV_DONTNEED), 0);
	write_page(bad);
	EXPECT_EQ(collapse_retry(self->mem, NR_WINDOWS * WINDOW), 0);
	EXPECT_TRUE(is_huge(self->mem + WINDOW));
	EXPECT_TRUE(window_intact(self->mem + WINDOW, 1));
	unpoison_memory(pfn);
}

/* Makes reads from swap, and writes to it, succeed or fail. Returns whether the kernel can. */
static bool swap_works(bool succeed)
{
	char device[64], path[128];

	find_swap(device, sizeof(device));
	snprintf(path, sizeof(path), "/sys/block/%s/make-it-fail", basename(device));
	if (access(path, F_OK) || access(FAULTS "fail_make_request", F_OK))
		return false;
	write_num(FAULTS "fail_make_request/verbose", 0);
	write_text(FAULTS "fail_make_request/times", "-1");
	write_num(FAULTS "fail_make_request/probability", 100);
	write_num(path, !succeed);
	return true;
}

/* Swap cannot be read: that window is refused, the range goes on. */
TEST_F_TIMEOUT(collapse_fault, swap_unreadable, 300)
{
	char *window = self->mem + WINDOW, page[psize()];
	int mem = open("/proc/self/mem", O_RDONLY);
	size_t unreadable = 0;

	ASSERT_TRUE(map_private(self->mem, NR_WINDOWS * WINDOW));
	for (size_t i = 0; i < NR_WINDOWS; i++)
		write_pages(self->mem + i * WINDOW, PAGES, 1);
	madvise(window, PAGES / 4 * psize(), MADV_PAGEOUT);
	if (!pagemap_is_swapped(self->pagemap, window))
		SKIP(return, "nothing was swapped out: no swap?");
	if (!swap_works(false))
		SKIP(return, "reads cannot be made to fail: no CONFIG_FAIL_MAKE_REQUEST?");
	EXPECT_EQ(collapse_retry(self->mem, NR_WINDOWS * WINDOW), EINVAL);
	swap_works(true);
	for (size_t i = 0; i < NR_WINDOWS; i++)
		EXPECT_EQ(is_huge(self->mem + i * WINDOW), i != 1);
	EXPECT_TRUE(window_intact(self->mem, 1));
	EXPECT_TRUE(window_intact(self->mem + 2 * WINDOW, 1));
	/* The page that was asked for stays unreadable while it is in the swap cache. */
	for (size_t i = 0; i < PAGES; i++) {
		char *addr = window + i * psize();

		if (pread(mem, page, psize(), (uintptr_t)addr) == psize()) {
			EXPECT_TRUE(page_intact(addr));
			continue;
		}
		unreadable++;
		EXPECT_EQ(madvise(addr, psize(), MADV_DONTNEED), 0);
		write_page(addr);
	}
	EXPECT_LE(unreadable, 1);
	EXPECT_EQ(collapse_retry(self->mem, NR_WINDOWS * WINDOW), 0);
	EXPECT_TRUE(is_huge(window));
	EXPECT_TRUE(window_intact(window, 1));
	close(mem);
}

/*
 * A huge page that cannot be written to swap stays in the swap cache, and is mapped by PTEs
 * from there. It can be mapped by a PMD entry again once it has given up its swap space.
 */
TEST_F_TIMEOUT(collapse_fault, swap_unwritable, 300)
{
	struct frames before;
	size_t swapped;

	ASSERT_TRUE(map_private(self->mem, WINDOW));
	ASSERT_TRUE(map_huge_by_ptes(self->mem));
	write_pages(self->mem, PAGES, 1);
	before = frames_of(self->pagemap, self->mem);
	if (!swap_works(false))
		SKIP(return, "writes cannot be made to fail: no CONFIG_FAIL_MAKE_REQUEST?");
	swapped = swap_out(self->mem, PAGES);
	swap_works(true);
	if (swapped < PAGES)
		SKIP(return, "not all was unmapped: no swap?");
	force_read_pages(self->mem, PAGES, psize());
	EXPECT_TRUE(has_frames(self->pagemap, self->mem, &before));
	EXPECT_EQ(collapse_retry(self->mem, WINDOW), 0);
	EXPECT_TRUE(is_huge(self->mem));
	EXPECT_TRUE(window_intact(self->mem, 1));
	EXPECT_TRUE(has_frames(self->pagemap, self->mem, &before));
}

TEST_HARNESS_MAIN
