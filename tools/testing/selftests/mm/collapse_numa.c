// SPDX-License-Identifier: GPL-2.0
/*
 * On which node a huge page comes to lie, and that pages are not gathered from
 * nodes too far apart. Needs two nodes; where CONFIG_THP_COLLAPSE_RUST_DEBUG lets
 * the code be selected, that in C must come to the same results.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "collapse_util.h"
#include "hugepage_settings.h"

#define RECLAIM_MODE	"/proc/sys/vm/zone_reclaim_mode"
/* The value of the kernel on x86. */
#define RECLAIM_DISTANCE 30

#define BALANCING	"/proc/sys/kernel/numa_balancing"
#define BALANCING_SCAN	"/sys/kernel/debug/sched/numa_balancing/"

/* A batch of windows ends there. */
#define PMD_TABLE	(512 * WINDOW)

static const char * const engines[] = { "c", "rust" };

FIXTURE(collapse_numa)
{
	/* The last windows of a PMD table and the first ones of another, as many of each. */
	char *edge, *mem;
	size_t half;
	unsigned long reclaim_mode;
	bool has_engines;
	int result;
};

FIXTURE_SETUP(collapse_numa)
{
	char *area;

	if (read_pmd_pagesize() != WINDOW)
		SKIP(return, "huge pages are not of 2 MiB here");
	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP(return, "there is only one node");
	thp_save_settings();
	thp_write_string("enabled", "never");
	self->reclaim_mode = read_num(RECLAIM_MODE);
	self->has_engines = !access(ENGINE, W_OK);
	area = mmap(NULL, 2 * PMD_TABLE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(area, MAP_FAILED);
	self->edge = (char *)(((uintptr_t)area + PMD_TABLE) & ~(PMD_TABLE - 1));
}

FIXTURE_TEARDOWN(collapse_numa)
{
	if (!self->edge)
		return;
	if (self->has_engines) {
		use_engine("rust");
		hold_after("none");
	}
	write_num(RECLAIM_MODE, self->reclaim_mode);
	thp_restore_settings();
}

static void remap(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_numa) * self,
		  size_t windows)
{
	self->half = windows * WINDOW;
	self->mem = self->edge - self->half;
	ASSERT_TRUE(map_private(self->mem, 2 * self->half));
}

/* Pages that a node has to give. */
static void write_on(struct __test_metadata *_metadata, unsigned int node, char *start,
		     size_t pages)
{
	unsigned long mask = 1UL << node;

	ASSERT_EQ(syscall(__NR_set_mempolicy, MPOL_BIND, &mask, 64UL), 0);
	for (size_t i = 0; i < pages; i++)
		start[i * psize()] = 1 + i % 100;
	ASSERT_EQ(syscall(__NR_set_mempolicy, MPOL_DEFAULT, NULL, 0UL), 0);
}

static int node_of(const char *addr)
{
	int node = -1;

	syscall(__NR_get_mempolicy, &node, NULL, 0UL, addr, MPOL_F_NODE | MPOL_F_ADDR);
	return node;
}

TEST_F(collapse_numa, where_most_pages_are)
{
	static const size_t on_second[] = { 0, 1, 255, 256, 257, 400, 511, 512 };

	write_num(RECLAIM_MODE, 0);
	for (size_t i = 0; i < ARRAY_SIZE(on_second); i++) {
		for (size_t j = 0; j < (self->has_engines ? ARRAY_SIZE(engines) : 1); j++) {
			size_t nr = on_second[i];

			if (self->has_engines)
				use_engine(engines[j]);
			remap(_metadata, self, 1);
			write_on(_metadata, 1, self->mem, nr);
			write_on(_metadata, 0, self->mem + nr * psize(), PAGES - nr);
			EXPECT_EQ(collapse_retry(self->mem, WINDOW), 0);
			EXPECT_TRUE(is_huge(self->mem));
			/* If both nodes have as many pages, it is the first one. */
			EXPECT_EQ(node_of(self->mem), nr > PAGES / 2) {
				TH_LOG("%zu pages on node 1, by %s", nr,
				       self->has_engines ? engines[j] : "the kernel");
			}
		}
	}
}

static int distance_of_nodes(void)
{
	int near = 0, far = 0;
	FILE *file = fopen("/sys/devices/system/node/node0/distance", "r");

	if (file) {
		if (fscanf(file, "%d %d", &near, &far) != 2)
			far = 0;
		fclose(file);
	}
	return far;
}

TEST_F(collapse_numa, nodes_too_far_apart)
{
	if (distance_of_nodes() <= RECLAIM_DISTANCE)
		SKIP(return, "the nodes are near each other");
	for (size_t i = 0; i < (self->has_engines ? ARRAY_SIZE(engines) : 1); i++) {
		if (self->has_engines)
			use_engine(engines[i]);
		remap(_metadata, self, 1);
		write_on(_metadata, 0, self->mem, PAGES - 1);
		write_on(_metadata, 1, self->mem + (PAGES - 1) * psize(), 1);
		write_on(_metadata, 1, self->mem + WINDOW, PAGES);
		write_num(RECLAIM_MODE, 1);
		EXPECT_EQ(collapse_retry(self->mem, WINDOW), EINVAL);
		EXPECT_FALSE(is_huge(self->mem));
		EXPECT_EQ(collapse_retry(self->mem + WINDOW, WINDOW), 0);
		/* Without zone_reclaim_mode the distance of the nodes does not matter. */
		write_num(RECLAIM_MODE, 0);
		EXPECT_EQ(collapse_retry(self->mem, WINDOW), 0);
		EXPECT_TRUE(is_huge(self->mem));
	}
}

static void *collapse_both(void *argument)
{
	FIXTURE_DATA(collapse_numa) * self = argument;

	self->result = collapse(self->mem, 2 * self->half);
	return NULL;
}

/*
 * The windows of the first half are refused after their huge pages were allocated. Those are left
 * over. For the second half, others can be allocated, or not.
 */
static int huge_pages_for_both(struct __test_metadata *_metadata,
			       FIXTURE_DATA(collapse_numa) * self, size_t windows,
			       unsigned int second, bool others)
{
	long before = read_field("/proc/vmstat", "thp_collapse_alloc");
	pthread_t collapser;

	remap(_metadata, self, windows);
	write_on(_metadata, 0, self->mem, windows * PAGES);
	write_on(_metadata, second, self->edge, windows * PAGES);
	hold_after("prealloc");
	ASSERT_EQ(pthread_create(&collapser, NULL, collapse_both, self), 0);
	EXPECT_TRUE(wait_nr_held(1));
	EXPECT_EQ(madvise(self->mem, self->half, MADV_DONTNEED), 0);
	if (!others)
		fail_allocations(true);
	hold_after("none");
	ASSERT_EQ(pthread_join(collapser, NULL), 0);
	if (!others)
		fail_allocations(false);
	EXPECT_EQ(self->result, EINVAL);
	for (size_t i = 0; i < windows; i++) {
		EXPECT_FALSE(is_huge(self->mem + i * WINDOW));
		EXPECT_TRUE(is_huge(self->edge + i * WINDOW));
		EXPECT_EQ(node_of(self->edge + i * WINDOW), others ? second : 0);
	}
	return read_field("/proc/vmstat", "thp_collapse_alloc") - before;
}

TEST_F(collapse_numa, left_over_huge_pages)
{
	if (!self->has_engines)
		SKIP(return, "no " COLLAPSE_HOLD);
	ASSERT_EQ(stay_on_this_cpu(), 0);
	write_num(RECLAIM_MODE, 0);
	/* The huge pages that are left over serve the next windows, if these lie on their node. */
	EXPECT_EQ(huge_pages_for_both(_metadata, self, 1, 0, true), 1);
	EXPECT_EQ(huge_pages_for_both(_metadata, self, 1, 1, true), 2);
	/* Or if there are no others: then all but the first have been put off before. */
	if (!choose_faults(true))
		SKIP(return, "faults cannot be injected");
	EXPECT_EQ(huge_pages_for_both(_metadata, self, 1, 1, false), 1);
	EXPECT_EQ(huge_pages_for_both(_metadata, self, 2, 1, false), 2);
	end_faults();
}

static void *retry_window(void *window)
{
	return (void *)(intptr_t)collapse_retry(window, WINDOW);
}

/*
 * A page is written while its window is copied, and then NUMA balancing would have it
 * fault. It cannot be moved, since it is locked; and a page that cannot be moved is mapped
 * again without write permission. So it would look as if it had not been written to.
 */
TEST_F_TIMEOUT(collapse_numa, balanced_while_it_is_copied, 120)
{
	pthread_t collapser;
	long updates;
	time_t begun;
	void *result;
	char *page;

	if (!self->has_engines || access(BALANCING, W_OK))
		SKIP(return, "no " BALANCING ", or nothing holds a collapse");
	remap(_metadata, self, 1);
	write_on(_metadata, 1, self->mem, 2 * PAGES);
	ASSERT_EQ(node_of(self->mem), 1);
	page = self->mem + 9 * psize();

	write_num(BALANCING_SCAN "scan_delay_ms", 1);
	write_num(BALANCING_SCAN "scan_period_min_ms", 10);
	write_num(BALANCING_SCAN "scan_period_max_ms", 10);
	hold_after("copy");
	ASSERT_EQ(pthread_create(&collapser, NULL, retry_window, self->mem), 0);
	EXPECT_TRUE(wait_nr_held(1));
	memset(page, 77, psize());
	updates = vmstat_of("numa_pte_updates");
	write_num(BALANCING, 1);
	/* A task's memory is scanned while it runs. Two scans reach all of it. */
	for (begun = time(NULL); time(NULL) < begun + 12;)
		for (size_t i = 0; i < PAGES; i++)
			FORCE_READ(self->mem[self->half + i * psize()]);
	EXPECT_GT(vmstat_of("numa_pte_updates"), updates);
	write_num(BALANCING, 0);
	for (size_t i = 0; i < PAGES; i++)
		FORCE_READ(self->mem[i * psize()]);
	hold_after("none");
	ASSERT_EQ(pthread_join(collapser, &result), 0);
	EXPECT_EQ(result, NULL);
	EXPECT_TRUE(is_huge(self->mem));
	for (size_t i = 0; i < psize(); i++)
		ASSERT_EQ(page[i], 77);
}

TEST_HARNESS_MAIN
