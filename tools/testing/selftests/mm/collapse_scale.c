// SPDX-License-Identifier: GPL-2.0
/*
 * Collapse of much at once: a range of 8 GiB, ten thousand windows in a thousand
 * mappings, many threads that want the same, many processes. And how much memory
 * a request takes, at most. That nothing is busy for too long, the kernel says.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <linux/mman.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "collapse_pages.h"
#include "collapse_util.h"
#include "hugepage_settings.h"

/*
 * The most memory that a request has allocated at a time: that many huge pages, each
 * with a page table and a buffer. See Documentation/mm/collapse.rst.
 */
#define BATCH		16
#define BATCH_BYTES	(BATCH * (WINDOW + psize() + 4 * psize()))

FIXTURE(collapse_scale)
{
	long allocated;
};

FIXTURE_SETUP(collapse_scale)
{
	if (read_pmd_pagesize() != WINDOW)
		SKIP(return, "huge pages are not of 2 MiB here");
	thp_save_settings();
	thp_write_string("enabled", "never");
	self->allocated = read_field("/proc/vmstat", "thp_collapse_alloc");
}

FIXTURE_TEARDOWN(collapse_scale)
{
	if (!access(COLLAPSE_HOLD, W_OK))
		hold_after("none");
	thp_restore_settings();
}

/* Much more than there is memory for, of which little will be used. */
static char *map_windows(size_t windows)
{
	char *area = mmap(NULL, (windows + 1) * WINDOW, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return area == MAP_FAILED ? NULL : (char *)(((uintptr_t)area + WINDOW - 1) & ~(WINDOW - 1));
}

TEST_F_TIMEOUT(collapse_scale, sparse_8gib, 300)
{
	const size_t windows = 4096, stride = 64;
	char *mem = map_windows(windows);

	ASSERT_NE(mem, NULL);
	for (size_t i = 0; i < windows; i += stride)
		write_page(mem + i * WINDOW);
	EXPECT_EQ(madvise(mem, windows * WINDOW, MADV_COLLAPSE), -1);
	EXPECT_EQ(errno, EINVAL);
	for (size_t i = 0; i < windows; i += stride) {
		EXPECT_TRUE(is_huge(mem + i * WINDOW));
		EXPECT_TRUE(window_intact(mem + i * WINDOW, PAGES));
	}
	/* Where there is nothing, nothing was allocated. */
	EXPECT_EQ(read_field("/proc/vmstat", "thp_collapse_alloc") - self->allocated,
		  windows / stride);
	EXPECT_EQ(count_pages(mem, windows * WINDOW, PAGE_IS_PRESENT), windows / stride * PAGES);
}

/*
 * There is no memory for so many huge pages. userfaultfd watches, so that windows with
 * holes are refused: only dense windows become huge.
 */
TEST_F_TIMEOUT(collapse_scale, windows_10000_in_1000_vmas, 300)
{
	const size_t vmas = 1000, per_vma = 10, windows = vmas * per_vma, stride = 250;
	char *mem = map_windows(windows);
	int uffd = open_userfaultfd(0);

	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_NE(mem, NULL);
	for (size_t i = 0; i < vmas; i += 2)
		ASSERT_EQ(madvise(mem + i * per_vma * WINDOW, per_vma * WINDOW, MADV_DONTDUMP), 0);
	for (size_t i = 0; i < windows; i++)
		write_pages(mem + i * WINDOW, i % stride ? 1 : PAGES, 1);
	ASSERT_EQ(uffd_register(uffd, mem, windows * WINDOW, true, false, false), 0);
	EXPECT_EQ(madvise(mem, windows * WINDOW, MADV_COLLAPSE), -1);
	EXPECT_EQ(errno, EBUSY);
	EXPECT_EQ(count_pages(mem, windows * WINDOW, PAGE_IS_HUGE), windows / stride * PAGES);
	for (size_t i = 0; i < windows; i++) {
		ASSERT_TRUE(page_intact(mem + i * WINDOW));
		if (i % stride == 0)
			ASSERT_TRUE(window_intact(mem + i * WINDOW, 1));
	}
	EXPECT_EQ(read_field("/proc/vmstat", "thp_collapse_alloc") - self->allocated,
		  windows / stride);
	close(uffd);
}

#define NR_THREADS	64
#define SHARED_WINDOWS	8

static struct crowd {
	char *mem;
	pthread_barrier_t barrier;
	atomic_int unexpected;
} crowd;

static void *join_crowd(void *unused)
{
	pthread_barrier_wait(&crowd.barrier);
	if (madvise(crowd.mem, SHARED_WINDOWS * WINDOW, MADV_COLLAPSE) &&
	    /* Another thread has the pages, or all the memory. */
	    errno != EAGAIN && errno != ENOMEM)
		crowd.unexpected = errno;
	return NULL;
}

TEST_F_TIMEOUT(collapse_scale, threads_64_on_one_range, 300)
{
	pthread_t threads[NR_THREADS];
	long free_before, lost;

	crowd.mem = map_windows(SHARED_WINDOWS);
	ASSERT_NE(crowd.mem, NULL);
	ASSERT_EQ(pthread_barrier_init(&crowd.barrier, NULL, NR_THREADS), 0);
	free_before = read_field("/proc/meminfo", "MemFree");
	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < SHARED_WINDOWS; i++)
			write_pages(crowd.mem + i * WINDOW, PAGES, 2);
		for (size_t i = 0; i < NR_THREADS; i++)
			ASSERT_EQ(pthread_create(&threads[i], NULL, join_crowd, NULL), 0);
		for (size_t i = 0; i < NR_THREADS; i++)
			ASSERT_EQ(pthread_join(threads[i], NULL), 0);
		EXPECT_EQ(crowd.unexpected, 0);
		for (size_t i = 0; i < SHARED_WINDOWS; i++) {
			EXPECT_TRUE(is_huge(crowd.mem + i * WINDOW));
			EXPECT_TRUE(window_intact(crowd.mem + i * WINDOW, 2));
		}
		ASSERT_EQ(madvise(crowd.mem, SHARED_WINDOWS * WINDOW, MADV_DONTNEED), 0);
	}
	/* Huge pages that were not used are freed. Else up to 3 GiB would be missing. */
	lost = free_before - read_field("/proc/meminfo", "MemFree");
	EXPECT_LT(lost, 256 * 1024);
}

#define NR_PROCESSES	200

static int collapse_for_oneself(char *mem)
{
	write_pages(mem, PAGES, 64);
	write_pages(mem + WINDOW, PAGES, 64);
	for (int tries = 0; tries < 100 && madvise(mem, 2 * WINDOW, MADV_COLLAPSE); tries++) {
		if (errno != EAGAIN && errno != ENOMEM)
			return 1;
		usleep(10000);
	}
	return is_huge(mem) && is_huge(mem + WINDOW) && window_intact(mem, 64) &&
	       window_intact(mem + WINDOW, 64) ? 0 : 2;
}

TEST_F_TIMEOUT(collapse_scale, processes_200, 300)
{
	char *mem = map_windows(2);
	int go[2], status;
	char c;

	ASSERT_NE(mem, NULL);
	ASSERT_EQ(pipe(go), 0);
	for (int i = 0; i < NR_PROCESSES; i++) {
		pid_t child = fork();

		ASSERT_GE(child, 0);
		if (!child) {
			close(go[1]);
			/* Waits until no process has the other end of the pipe open. */
			if (read(go[0], &c, 1))
				_exit(3);
			_exit(collapse_for_oneself(mem));
		}
	}
	close(go[1]);
	for (int i = 0; i < NR_PROCESSES; i++) {
		ASSERT_GT(wait(&status), 0);
		EXPECT_EQ(status, 0);
	}
	close(go[0]);
	EXPECT_GE(read_field("/proc/vmstat", "thp_collapse_alloc") - self->allocated,
		  2 * NR_PROCESSES);
}

/*
 * Enough for a batch to become as large as can be, and for another one after it, even
 * if somebody has waited for the first: each is larger by a window then.
 */
#define NR_WINDOWS	256

static struct {
	char *mem;
	atomic_bool done;
} request;

static void *collapse_all(void *unused)
{
	madvise(request.mem, NR_WINDOWS * WINDOW, MADV_COLLAPSE);
	request.done = true;
	return NULL;
}

/* Stops the request after a pass. Returns whether it came there. */
static bool stop_after(const char *pass)
{
	hold_after(pass);
	return wait_until(nr_held() || request.done) && !request.done;
}

/*
 * A request is stopped whenever it has all that a batch needs, until that was twice as
 * much as it may have. As this batch turns out not to need it, it has that for the next one.
 */
TEST_F_TIMEOUT(collapse_scale, memory_of_a_request, 300)
{
	long allocated, free_before, has = 0, taken = 0;
	size_t huge = 0, left_out = 0;
	int full = 0;
	pthread_t collapser;

	if (access(COLLAPSE_HOLD, W_OK))
		SKIP(return, "no " COLLAPSE_HOLD);
	request.mem = map_windows(NR_WINDOWS);
	ASSERT_NE(request.mem, NULL);
	ASSERT_EQ(stay_on_this_cpu(), 0);
	for (size_t i = 0; i < NR_WINDOWS; i++)
		write_pages(request.mem + i * WINDOW, PAGES, PAGES / 4);
	hold_after("scan");
	ASSERT_EQ(pthread_create(&collapser, NULL, collapse_all, NULL), 0);
	/* The one after a full batch would tell if that was not all it may have. */
	while (full < 2 && has <= BATCH && stop_after("scan")) {
		free_before = read_field("/proc/meminfo", "MemFree");
		if (!stop_after("prealloc"))
			break;
		taken = free_before - read_field("/proc/meminfo", "MemFree");
		allocated = read_field("/proc/vmstat", "thp_collapse_alloc") - self->allocated;
		huge = nr_huge(getpid(), request.mem, NR_WINDOWS);
		has = allocated - huge;
		full += has == BATCH;
	}
	TH_LOG("%zu windows are huge, %ld more allocated, %ld KiB less are free", huge, has, taken);
	EXPECT_EQ(has, BATCH);
	/* Others may have taken some, too. */
	EXPECT_LE(taken, (long)(BATCH_BYTES / 1024 + 8 * 1024));
	for (size_t i = 0; i < NR_WINDOWS && left_out < BATCH; i++) {
		char *window = request.mem + i * WINDOW;

		if (!is_huge(window)) {
			EXPECT_EQ(madvise(window, WINDOW, MADV_DONTNEED), 0);
			left_out++;
		}
	}
	hold_after("none");
	ASSERT_EQ(pthread_join(collapser, NULL), 0);
	EXPECT_EQ(nr_huge(getpid(), request.mem, NR_WINDOWS), NR_WINDOWS - BATCH);
	for (size_t i = 0; i < NR_WINDOWS; i++)
		if (is_huge(request.mem + i * WINDOW))
			EXPECT_TRUE(window_intact(request.mem + i * WINDOW, PAGES / 4));
	EXPECT_EQ(read_field("/proc/vmstat", "thp_collapse_alloc") - self->allocated,
		  NR_WINDOWS - BATCH);
}

TEST_HARNESS_MAIN
