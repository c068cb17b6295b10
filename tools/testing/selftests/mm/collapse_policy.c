// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of the policy of MADV_COLLAPSE: the flags of process_madvise(2), the limits
 * of khugepaged and the allocations that they decide about, the settings in sysfs and
 * the flags of VMAs. Where Linux 7.3 behaves otherwise, a test says how.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <linux/magic.h>
#include <pthread.h>
#include <sys/vfs.h>
#include "collapse_policy.h"

/* --- flags ---------------------------------------------------------------- */

/* 7.3: any flag is EINVAL. */
TEST_F(policy, flags_known)
{
	static const unsigned int flags[] = { 0, LIMITS, DEFRAG, LIMITS | DEFRAG };

	touch(self->mem, NR_WINDOWS * PAGES);
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		char *window = self->mem + i * WINDOW;

		EXPECT_EQ(collapse_of(PIDFD_SELF, window, WINDOW, flags[i]), WINDOW);
		EXPECT_TRUE(is_huge(window));
		EXPECT_TRUE(intact(window, PAGES));
	}
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 4);
}

/* EINVAL comes before anything else that is wrong: nothing was touched. */
TEST_F(policy, flags_unknown)
{
	for (int bit = 0; bit < 32; bit++) {
		unsigned int flag = 1U << bit;

		if (flag & (LIMITS | DEFRAG))
			continue;
		EXPECT_EQ(collapse_vector(PIDFD_SELF, NULL, 1, flag), -EINVAL);
		EXPECT_EQ(collapse_vector(-1, NULL, 1, flag | LIMITS), -EINVAL);
		EXPECT_EQ(collapse_of(-1, self->mem, WINDOW, flag | DEFRAG), -EINVAL);
	}
	/* With known flags, a bad vector and a bad pidfd have errors of their own. */
	EXPECT_EQ(collapse_vector(PIDFD_SELF, NULL, 1, LIMITS), -EFAULT);
	EXPECT_EQ(collapse_of(-1, self->mem, WINDOW, LIMITS), -EBADF);
}

TEST_F(policy, flags_with_other_advice)
{
	static const int advice[] = {
		MADV_NORMAL, MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_DONTNEED,
		MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_POPULATE_READ, -1, 1000,
	};
	struct iovec vec = { self->mem, WINDOW };

	touch(self->mem, PAGES);
	for (size_t i = 0; i < ARRAY_SIZE(advice); i++) {
		for (unsigned int flags = LIMITS; flags <= (LIMITS | DEFRAG); flags += LIMITS) {
			EXPECT_EQ(syscall(__NR_process_madvise, PIDFD_SELF, &vec, 1,
					  advice[i], flags), -1);
			EXPECT_EQ(errno, EINVAL);
			EXPECT_EQ(syscall(__NR_process_madvise, -1, NULL, 1,
					  advice[i], flags), -1);
			EXPECT_EQ(errno, EINVAL);
		}
	}
	EXPECT_TRUE(intact(self->mem, PAGES));
}

/* The C code knows no flags: it is the same with the option off. */
TEST_F(policy, flags_with_c_engine)
{
	ssize_t with, without;

	if (access(ENGINE, W_OK))
		SKIP(return, "no " ENGINE);
	touch(self->mem, PAGES);
	use_engine("c");
	with = collapse_of(PIDFD_SELF, self->mem, WINDOW, LIMITS);
	without = collapse_of(PIDFD_SELF, self->mem, WINDOW, 0);
	use_engine("rust");
	EXPECT_EQ(with, -EINVAL);
	EXPECT_EQ(without, WINDOW);
}

/* --- limits --------------------------------------------------------------- */

/* Beyond a limit, at it, and beyond it without LIMITS. */
static bool is_limited(char *over, char *at)
{
	return collapse_of(PIDFD_SELF, over, WINDOW, LIMITS) == -EBUSY &&
	       !is_huge(over) &&
	       collapse_of(PIDFD_SELF, at, WINDOW, LIMITS) == (ssize_t)WINDOW &&
	       is_huge(at) &&
	       collapse_of(PIDFD_SELF, over, WINDOW, 0) == (ssize_t)WINDOW &&
	       is_huge(over);
}

/* 7.3: no way to heed the limits. */
TEST_F(policy, limit_of_holes)
{
	set_limits(100, 0, 0);
	touch(self->mem, PAGES - 101);
	touch(self->mem + WINDOW, PAGES - 100);
	EXPECT_TRUE(is_limited(self->mem, self->mem + WINDOW));
	EXPECT_TRUE(intact(self->mem, PAGES - 101));
}

TEST_F(policy, limit_of_zero_pages)
{
	set_limits(100, 0, 0);
	touch(self->mem, PAGES - 101);
	touch(self->mem + WINDOW, PAGES - 100);
	/* Of the pages that are not written, some are read, and the rest are holes. */
	force_read_pages(self->mem + WINDOW - 50 * psize(), 50, psize());
	force_read_pages(self->mem + 2 * WINDOW - 50 * psize(), 50, psize());
	EXPECT_TRUE(is_limited(self->mem, self->mem + WINDOW));
}

TEST_F(policy, limit_of_swapped_pages)
{
	set_limits(0, 20, 0);
	touch(self->mem, 2 * PAGES);
	if (swap_out(self->mem, 21) < 21 || swap_out(self->mem + WINDOW, 20) < 20)
		SKIP(return, "no swap");
	EXPECT_TRUE(is_limited(self->mem, self->mem + WINDOW));
	EXPECT_TRUE(intact(self->mem, 2 * PAGES));
}

static long collapse_shared(void *arg)
{
	char *mem = arg;

	/* Pages that are written to become private: 31 and 30 pages stay shared. */
	touch(mem, PAGES - 31);
	touch(mem + WINDOW, PAGES - 30);
	if (collapse_of(PIDFD_SELF, mem, WINDOW, LIMITS) != -EBUSY)
		return 1;
	if (collapse_of(PIDFD_SELF, mem + WINDOW, WINDOW, LIMITS) != WINDOW)
		return 2;
	if (is_huge(mem) || !is_huge(mem + WINDOW))
		return 3;
	if (collapse_of(PIDFD_SELF, mem, WINDOW, 0) != WINDOW)
		return 4;
	return 0;
}

TEST_F(policy, limit_of_shared_pages)
{
	set_limits(0, 0, 30);
	touch(self->mem, 2 * PAGES);
	EXPECT_EQ(run_as(&root, collapse_shared, self->mem), 0);
}

/* A limit refuses its window, and the range goes on. */
TEST_F(policy, limit_and_range)
{
	set_limits(0, 0, 0);
	touch(self->mem, PAGES - 1);
	touch(self->mem + WINDOW, PAGES);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, 2 * WINDOW, LIMITS), -EBUSY);
	EXPECT_FALSE(is_huge(self->mem));
	EXPECT_TRUE(is_huge(self->mem + WINDOW));
}

TEST_F(policy, limits_do_not_matter_to_madvise)
{
	set_limits(0, 0, 0);
	touch(self->mem, 1);
	EXPECT_EQ(madvise(self->mem, WINDOW, MADV_COLLAPSE), 0);
	EXPECT_TRUE(is_huge(self->mem));
}

/* The limits at the beginning of the call apply to all of it. */
TEST_F(policy, limit_changed_during_call)
{
	struct call call = { PIDFD_SELF, self->mem, WINDOW, LIMITS };
	pthread_t thread;

	if (access(COLLAPSE_HOLD, W_OK))
		SKIP(return, "no " COLLAPSE_HOLD);
	for (int i = 0; i < NR_WINDOWS; i++)
		touch(self->mem + i * WINDOW, 1);
	set_limits(PAGES - 1, 0, 0);
	hold_after("scan");
	ASSERT_EQ(pthread_create(&thread, NULL, run_call, &call), 0);
	EXPECT_TRUE(wait_held());
	/* Between scan and protect, which counts holes again. */
	set_limits(0, 0, 0);
	hold_after("none");
	ASSERT_EQ(pthread_join(thread, NULL), 0);
	EXPECT_EQ(call.result, WINDOW);
	EXPECT_TRUE(is_huge(self->mem));
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem + WINDOW, WINDOW, LIMITS), -EBUSY);
}

/* --- userfaultfd ---------------------------------------------------------- */

/* The same with LIMITS and without, whatever the limit: as in 7.3 without LIMITS. */
TEST_F(policy, userfaultfd_keeps_its_holes)
{
	set_limits(PAGES - 1, PAGES - 1, PAGES - 1);
	for (int holes = 0; holes <= 1; holes++) {
		char *window = self->mem + holes * WINDOW;
		int uffd;

		touch(window, PAGES - 1);
		uffd = watch(window, WINDOW, holes);
		if (uffd < 0)
			SKIP(return, "no userfaultfd");
		for (unsigned int flags = 0; flags <= (LIMITS | DEFRAG); flags += LIMITS)
			EXPECT_EQ(collapse_of(PIDFD_SELF, window, WINDOW, flags), -EBUSY);
		EXPECT_FALSE(is_huge(window));
		close(uffd);
		EXPECT_EQ(collapse_of(PIDFD_SELF, window, WINDOW, LIMITS), WINDOW);
	}
}

/* --- allocation ----------------------------------------------------------- */

#define ALLOCATIONS TRACING "events/kmem/mm_page_alloc/"

/* Reports the huge pages that this thread allocates from now on. */
static bool trace_allocations(void)
{
	char filter[64];
	int fd;

	if (access(ALLOCATIONS "enable", W_OK))
		return false;
	snprintf(filter, sizeof(filter), "order == 9 && common_pid == %d",
		 (int)syscall(SYS_gettid));
	write_file(ALLOCATIONS "filter", filter, strlen(filter) + 1);
	fd = open(TRACING "trace", O_WRONLY | O_TRUNC);
	if (fd < 0)
		return false;
	close(fd);
	write_file(ALLOCATIONS "enable", "1", 2);
	return true;
}

enum { NOTHING, LIGHT, KSWAPD, DIRECT, DIRECT_NORETRY };

/* Ends the trace. Returns how the last huge page was allocated, and counts all. */
static int last_allocation(int *count)
{
	int how = NOTHING;
	char line[512];
	FILE *trace;

	write_file(ALLOCATIONS "enable", "0", 2);
	write_file(ALLOCATIONS "filter", "0", 2);
	trace = fopen(TRACING "trace", "r");
	*count = 0;
	while (trace && fgets(line, sizeof(line), trace)) {
		char *flags = strstr(line, "gfp_flags=");

		if (!strstr(line, "mm_page_alloc:") || !flags)
			continue;
		++*count;
		if (strstr(flags, "GFP_TRANSHUGE_LIGHT"))
			how = strstr(flags, "__GFP_DIRECT_RECLAIM") ? DIRECT :
			      strstr(flags, "__GFP_KSWAPD_RECLAIM") ? KSWAPD : LIGHT;
		else if (strstr(flags, "GFP_TRANSHUGE"))
			how = strstr(flags, "__GFP_NORETRY") ? DIRECT_NORETRY : DIRECT;
	}
	if (trace)
		fclose(trace);
	return how;
}

static const struct {
	const char *defrag;
	int plain;
	int advised;
} fault_allocations[] = {
	{ "always",	   DIRECT_NORETRY,	DIRECT },
	{ "defer",	   KSWAPD,		KSWAPD },
	{ "defer+madvise", KSWAPD,		DIRECT },
	{ "madvise",	   LIGHT,		DIRECT },
	{ "never",	   LIGHT,		LIGHT },
};

#define EXPECT_ALLOCATION(expected, nr) do {				\
	int __most = (nr);						\
	int __nr, __how = last_allocation(&__nr);			\
									\
	EXPECT_EQ(__how, expected);					\
	EXPECT_GE(__nr, __most ? 1 : 0);				\
	EXPECT_LE(__nr, __most);					\
} while (0)

/* A huge page is allocated as by a page fault. With DEFRAG, and in 7.3: always hard. */
TEST_F(policy, allocation_as_page_fault)
{
	for (size_t mode = 0; mode < ARRAY_SIZE(fault_allocations); mode++) {
		thp_write_string("defrag", fault_allocations[mode].defrag);
		for (int i = 0; i < 4; i++) {
			bool advised = i & 1;
			unsigned int flags = i & 2 ? DEFRAG : LIMITS;
			int expected = flags == DEFRAG ? DIRECT : advised ?
				       fault_allocations[mode].advised :
				       fault_allocations[mode].plain;

			ASSERT_TRUE(map_private(self->mem, WINDOW));
			if (advised)
				ASSERT_EQ(madvise(self->mem, WINDOW, MADV_HUGEPAGE), 0);
			touch(self->mem, PAGES);
			if (!trace_allocations())
				SKIP(return, "no tracing of allocations");
			EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, WINDOW, flags), WINDOW);
			EXPECT_ALLOCATION(expected, 1);
		}
	}
}

/* A VMA that permits reclaim, anywhere in the request, permits it for all of the request. */
TEST_F(policy, allocation_over_vmas_of_range)
{
	for (size_t mode = 0; mode < ARRAY_SIZE(fault_allocations); mode++) {
		/* The window is in the first of two VMAs, then in the last. */
		for (int other = 1; other >= 0; other--) {
			char *window = self->mem + (1 - other) * WINDOW;
			int plain = fault_allocations[mode].plain;
			int advised = fault_allocations[mode].advised;

			thp_write_string("defrag", fault_allocations[mode].defrag);
			ASSERT_TRUE(map_private(self->mem, 2 * WINDOW));
			ASSERT_EQ(madvise(self->mem + other * WINDOW, WINDOW,
					  MADV_HUGEPAGE), 0);
			touch(self->mem, 2 * PAGES);
			/* The other window is collapsed before allocations are traced. */
			ASSERT_EQ(collapse_of(PIDFD_SELF, self->mem + other * WINDOW, WINDOW, 0),
				  WINDOW);
			if (!trace_allocations())
				SKIP(return, "no tracing of allocations");
			EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, 2 * WINDOW, 0), 2 * WINDOW);
			/* A window whose own VMA lets it reclaim goes by that. */
			EXPECT_ALLOCATION(plain >= DIRECT ? plain :
					  advised >= DIRECT ? advised : plain, 1);
			EXPECT_TRUE(is_huge(window));
		}
	}
}

/* The request is all that one call names, not each of its ranges. */
TEST_F(policy, allocation_over_vector)
{
	struct iovec vec[] = {
		{ self->mem, WINDOW },
		{ self->mem + 2 * WINDOW, WINDOW },
		{ self->mem + 4 * WINDOW, psize() },
	};

	touch(self->mem, 3 * PAGES);
	ASSERT_EQ(madvise(self->mem + 4 * WINDOW, WINDOW, MADV_HUGEPAGE), 0);
	if (!trace_allocations())
		SKIP(return, "no tracing of allocations");
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec, 1, 0), WINDOW);
	EXPECT_ALLOCATION(LIGHT, 1);
	trace_allocations();
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec + 1, 2, 0), WINDOW + psize());
	EXPECT_ALLOCATION(DIRECT, 1);
	/* An invalid range ends the call: the VMA of a later range does not count. */
	vec[0].iov_base = self->mem + WINDOW;
	vec[1].iov_base = self->mem + 1;
	trace_allocations();
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec, 3, 0), WINDOW);
	EXPECT_ALLOCATION(LIGHT, 1);
}

/* A window that is huge already costs nothing. 7.3: drains the LRU caches of all CPUs. */
TEST_F(policy, allocation_none_when_huge)
{
	touch(self->mem, PAGES);
	ASSERT_EQ(collapse_of(PIDFD_SELF, self->mem, WINDOW, 0), WINDOW);
	if (!trace_allocations())
		SKIP(return, "no tracing of allocations");
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, WINDOW, 0), WINDOW);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, WINDOW, LIMITS | DEFRAG), WINDOW);
	EXPECT_ALLOCATION(NOTHING, 0);
}

/* --- settings and mappings ------------------------------------------------- */

TEST_F(policy, hugetlb_mapping)
{
	char *mem = mmap(self->mem, WINDOW, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_HUGETLB |
			 MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		SKIP(return, "no hugetlb pages");
	for (unsigned int flags = 0; flags <= (LIMITS | DEFRAG); flags += LIMITS)
		EXPECT_EQ(collapse_of(PIDFD_SELF, mem, WINDOW, flags), -EINVAL);
	munmap(mem, WINDOW);
}

/* The fixture says "never" for all tests. */
TEST_F(policy, sysfs_enabled_does_not_matter)
{
	static const char * const enabled[] = { "never", "madvise", "always" };

	for (size_t i = 0; i < ARRAY_SIZE(enabled); i++) {
		touch(self->mem + i * WINDOW, PAGES);
		thp_write_string("enabled", enabled[i]);
		EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem + i * WINDOW, WINDOW, LIMITS),
			  WINDOW);
	}
}

/* --- files and shmem -------------------------------------------------------- */

FIXTURE(file)
{
	char *mem;
	int fd;
	struct target target;
};

FIXTURE_VARIANT(file)
{
	bool on_disk;
};

FIXTURE_VARIANT_ADD(file, shmem) { .on_disk = false };
FIXTURE_VARIANT_ADD(file, disk) { .on_disk = true };

static int file_fd;

static bool map_file(char *mem)
{
	return mmap(mem, NR_WINDOWS * WINDOW, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED, file_fd, 0) == mem &&
	       /* Page faults bring in only pages that are touched. */
	       !madvise(mem, NR_WINDOWS * WINDOW, MADV_RANDOM);
}

static bool map_file_and_opt_out(char *mem)
{
	return map_file(mem) && opt_out(mem);
}

FIXTURE_SETUP(file)
{
	struct statfs fs;

	self->mem = NULL;
	self->target = (struct target) { -1, -1 };
	if (unfit())
		SKIP(return, "%s", unfit());
	if (variant->on_disk) {
		self->fd = open(".", O_TMPFILE | O_RDWR, 0600);
		if (self->fd < 0 || fstatfs(self->fd, &fs) || fs.f_type == TMPFS_MAGIC)
			SKIP(return, "the working directory is not on a disk");
	} else {
		self->fd = memfd_create("collapse", MFD_CLOEXEC);
		ASSERT_GE(self->fd, 0);
	}
	ASSERT_EQ(ftruncate(self->fd, NR_WINDOWS * WINDOW), 0);
	file_fd = self->fd;
	set_policy();
	self->mem = find_room(NR_WINDOWS);
	ASSERT_NE(self->mem, NULL);
	ASSERT_TRUE(map_file(self->mem));
	if (!variant->on_disk)
		return;
	touch(self->mem + (NR_WINDOWS - 1) * WINDOW, PAGES);
	if (madvise(self->mem + (NR_WINDOWS - 1) * WINDOW, WINDOW, MADV_COLLAPSE))
		SKIP(return, "no huge pages in files of this file system");
}

FIXTURE_TEARDOWN(file)
{
	if (!self->mem)
		return;
	end_target(&self->target);
	munmap(self->mem, NR_WINDOWS * WINDOW);
	close(self->fd);
	thp_restore_settings();
}

TEST_F(file, flags)
{
	for (int i = 0; i < 4; i++) {
		char *window = self->mem + i * WINDOW;

		touch(window, PAGES);
		EXPECT_EQ(collapse_of(PIDFD_SELF, window, WINDOW, i * LIMITS), WINDOW);
		EXPECT_TRUE(is_huge(window));
		EXPECT_TRUE(intact(window, PAGES));
		/* Cheap and no error when it is huge already. */
		EXPECT_EQ(collapse_of(PIDFD_SELF, window, WINDOW, i * LIMITS), WINDOW);
	}
}

TEST_F(file, limit_of_holes)
{
	set_limits(100, PAGES - 1, PAGES - 1);
	touch(self->mem, PAGES - 101);
	touch(self->mem + WINDOW, PAGES - 100);
	EXPECT_TRUE(is_limited(self->mem, self->mem + WINDOW));
	EXPECT_TRUE(intact(self->mem, PAGES - 101));
}

/* A refused window does not end the range. 7.3: most refusals do. */
TEST_F(file, limit_and_range)
{
	set_limits(0, 0, 0);
	touch(self->mem, PAGES - 1);
	touch(self->mem + WINDOW, PAGES);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, 2 * WINDOW, LIMITS), -EBUSY);
	EXPECT_FALSE(is_huge(self->mem));
	EXPECT_TRUE(is_huge(self->mem + WINDOW));
}

/* 7.3: always hard. */
TEST_F(file, allocation)
{
	/* Dirty pages of a file are written out, and then it is tried again. */
	int nr = variant->on_disk ? 2 : 1;
	struct iovec vec[] = {
		{ self->mem + 2 * WINDOW, WINDOW }, { self->mem + 6 * WINDOW, psize() },
	};

	touch(self->mem, 4 * PAGES);
	if (!trace_allocations())
		SKIP(return, "no tracing of allocations");
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, WINDOW, 0), WINDOW);
	EXPECT_ALLOCATION(LIGHT, nr);
	trace_allocations();
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, WINDOW, DEFRAG), WINDOW);
	EXPECT_ALLOCATION(NOTHING, 0);
	trace_allocations();
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem + WINDOW, WINDOW, DEFRAG), WINDOW);
	EXPECT_ALLOCATION(DIRECT, nr);
	/* One VMA of the request permits it. */
	ASSERT_EQ(madvise(self->mem + 6 * WINDOW, WINDOW, MADV_HUGEPAGE), 0);
	trace_allocations();
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec, 2, 0), WINDOW + psize());
	EXPECT_ALLOCATION(DIRECT, nr);
}

/* 7.3: EINVAL, whoever asks. */
TEST_F(file, nohugepage_overruled_by_owner)
{
	ASSERT_TRUE(opt_out(self->mem));
	touch(self->mem, PAGES);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, WINDOW, 0), WINDOW);
	EXPECT_TRUE(is_huge(self->mem));
	EXPECT_TRUE(intact(self->mem, PAGES));
}

TEST_F(file, nohugepage_heeded_by_others)
{
	START_TARGET(map_file_and_opt_out);
	touch(self->mem, PAGES);
	EXPECT_EQ(collapse_as(&agent, self->target.pidfd, self->mem, WINDOW, LIMITS),
		  -EINVAL);
	EXPECT_EQ(nr_huge(self->target.pid, self->mem, 1), 0);
	EXPECT_EQ(collapse_as(&admin, self->target.pidfd, self->mem, WINDOW, LIMITS),
		  WINDOW);
	EXPECT_EQ(nr_huge(self->target.pid, self->mem, 1), 1);
}

static bool map_shmem(char *mem)
{
	bool mapped;

	file_fd = memfd_create("collapse", MFD_CLOEXEC);
	mapped = file_fd >= 0 && !ftruncate(file_fd, NR_WINDOWS * WINDOW) && map_file(mem);
	close(file_fd);
	return mapped;
}

/* Returns how many pages are not in memory. The page table does not tell that of shmem. */
static size_t page_out(char *start, size_t pages)
{
	unsigned char there[32];
	size_t swapped = 0;

	for (int tries = 0; tries < 5 && swapped < pages; tries++) {
		madvise(start, pages * psize(), MADV_PAGEOUT);
		if (pages > sizeof(there) || mincore(start, pages * psize(), there))
			return 0;
		swapped = 0;
		for (size_t i = 0; i < pages; i++)
			swapped += !(there[i] & 1);
	}
	return swapped;
}

TEST_F(policy, limit_of_swapped_pages_of_shmem)
{
	ASSERT_TRUE(map_shmem(self->mem));
	set_limits(PAGES - 1, 20, 0);
	touch(self->mem, 2 * PAGES);
	if (page_out(self->mem, 21) < 21 || page_out(self->mem + WINDOW, 20) < 20)
		SKIP(return, "no swap");
	EXPECT_TRUE(is_limited(self->mem, self->mem + WINDOW));
	EXPECT_TRUE(intact(self->mem, 2 * PAGES));
}

TEST_F(policy, userfaultfd_keeps_holes_of_shmem)
{
	int uffd;

	ASSERT_TRUE(map_shmem(self->mem));
	set_limits(PAGES - 1, PAGES - 1, PAGES - 1);
	touch(self->mem, PAGES - 1);
	uffd = watch(self->mem, WINDOW, true);
	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	for (unsigned int flags = 0; flags <= (LIMITS | DEFRAG); flags += LIMITS)
		EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, WINDOW, flags), -EBUSY);
	close(uffd);
}

TEST_HARNESS_MAIN
