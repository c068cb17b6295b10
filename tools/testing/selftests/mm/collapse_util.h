/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_MM_COLLAPSE_UTIL_H
#define SELFTESTS_MM_COLLAPSE_UTIL_H

/* Helpers that the tests of collapse share. */

#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "vm_util.h"
#include "../../../../lib/test_hmm_uapi.h"

#define WINDOW		((size_t)HPAGE_SIZE)
#define PAGES		(WINDOW / psize())

/* Every so many'th byte is looked at: in each page many, of each offset some. */
#define PROBE		61

/* Somewhere to map windows, with room before, between and after. */
static inline char *reserve(size_t windows)
{
	char *area = mmap(NULL, (windows + 2) * WINDOW, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);

	return area == MAP_FAILED ? NULL : (char *)(((uintptr_t)area + WINDOW) & ~(WINDOW - 1));
}

/* Returns how many pages of a range pagemap has in category PAGE_IS_*. */
static inline size_t count_pages(const char *start, size_t size, uint64_t category)
{
	struct page_region regions[64];
	struct pm_scan_arg scan = {
		.size = sizeof(scan),
		.start = (uintptr_t)start,
		.end = (uintptr_t)start + size,
		.vec = (uintptr_t)regions,
		.vec_len = ARRAY_SIZE(regions),
		.category_mask = category,
		.return_mask = category,
	};
	int pagemap = open("/proc/self/pagemap", O_RDONLY), nr;
	size_t count = 0;

	do {
		nr = ioctl(pagemap, PAGEMAP_SCAN, &scan);
		for (int i = 0; i < nr; i++)
			count += (regions[i].end - regions[i].start) / psize();
		scan.start = scan.walk_end;
	} while (nr > 0 && scan.start < scan.end);
	close(pagemap);
	return count;
}

/* Returns whether a PMD maps the window. smaps would tell only about whole mappings. */
static inline bool is_huge(const char *window)
{
	return count_pages(window, WINDOW, PAGE_IS_HUGE) == PAGES;
}

/* Selects the pass after which collapses stop. "none" lets them go on. */
#define COLLAPSE_HOLD	"/sys/kernel/debug/thp_collapse/hold"
/* Selects the engine for collapses that begin from now on: "c" or "rust". */
#define ENGINE		"/sys/kernel/debug/thp_collapse/engine"
/* Selects whether sources stay mapped until the switch, in VMAs where they may. */
#define WAY		"/sys/kernel/debug/thp_collapse/way"
/* The number, from now on, of the copy or of the count of references that fails. */
#define BAD_COPY	"/sys/kernel/debug/thp_collapse/bad_copy"
#define BAD_COUNT	"/sys/kernel/debug/thp_collapse/bad_count"

static inline void go_way(const char *way)
{
	write_file(WAY, way, strlen(way) + 1);
}

static inline void hold_after(const char *pass)
{
	write_file(COLLAPSE_HOLD, pass, strlen(pass) + 1);
}

/* Reading the file tells how many collapses are held. */
static inline int nr_held(void)
{
	char buf[64] = "";
	char *count;

	read_file(COLLAPSE_HOLD, buf, sizeof(buf));
	count = strchr(buf, ' ');
	return count ? atoi(count) : 0;
}

#define WAIT_MS		20000

/* Returns whether the condition became true in time. */
#define wait_until(condition)						\
({									\
	int ms_left = WAIT_MS;						\
									\
	while (!(condition) && ms_left-- > 0)				\
		usleep(1000);						\
	ms_left >= 0;							\
})

static inline bool wait_nr_held(int nr)
{
	return wait_until(nr_held() >= nr);
}

static inline bool wait_held(void)
{
	return wait_nr_held(1);
}

/* Lets the held collapse go on, until it is held after @pass. */
static inline bool held_next(const char *pass)
{
	hold_after(pass);
	return wait_held();
}

/* Returns whether a thread waits for a lock. */
static inline bool is_asleep(pid_t tid)
{
	char path[64], stat[512], *state;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	if (!tid || read_file(path, stat, sizeof(stat)) <= 0)
		return false;
	state = strrchr(stat, ')');
	return state && state[2] == 'D';
}

static inline bool wait_asleep(const pid_t *tid)
{
	return wait_until(is_asleep(*tid));
}

/* Returns -1 if there is none with these features. */
static inline int open_userfaultfd(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (uffd >= 0 && ioctl(uffd, UFFDIO_API, &api)) {
		close(uffd);
		return -1;
	}
	return uffd;
}

static inline unsigned long env_number(const char *name, unsigned long otherwise)
{
	const char *value = getenv(name);

	return value ? strtoul(value, NULL, 0) : otherwise;
}

#define FAULTS		"/sys/kernel/debug/"

/*
 * Chooses the allocations that fail-nth of procfs counts: all, or only those of
 * huge pages. Returns whether the kernel can make allocations fail.
 */
static inline bool choose_faults(bool only_huge)
{
	if (access(FAULTS "fail_page_alloc", F_OK) || access(FAULTS "failslab", F_OK))
		return false;
	write_num(FAULTS "fail_page_alloc/min-order", only_huge ? 9 : 0);
	write_num(FAULTS "fail_page_alloc/ignore-gfp-wait", 0);
	write_num(FAULTS "fail_page_alloc/ignore-gfp-highmem", 0);
	write_num(FAULTS "fail_page_alloc/verbose", 0);
	write_num(FAULTS "failslab/cache-filter", only_huge);
	write_num(FAULTS "failslab/ignore-gfp-wait", 0);
	write_num(FAULTS "failslab/verbose", 0);
	return true;
}

/* Makes all chosen allocations fail, of any task, or only those that fail-nth counts. */
static inline void fail_allocations(bool all)
{
	write_num(FAULTS "fail_page_alloc/times", all ? INT_MAX : 1);
	write_num(FAULTS "fail_page_alloc/probability", all ? 100 : 0);
}

static inline void end_faults(void)
{
	write_num(FAULTS "fail_page_alloc/min-order", 1);
	write_num(FAULTS "fail_page_alloc/ignore-gfp-wait", 1);
	write_num(FAULTS "fail_page_alloc/ignore-gfp-highmem", 1);
	write_num(FAULTS "failslab/cache-filter", 0);
	write_num(FAULTS "failslab/ignore-gfp-wait", 1);
}

/* Gives back a page that was taken out of service, if this one was. */
static inline void put_back_in_service(unsigned long pfn)
{
	int kpageflags = open("/proc/kpageflags", O_RDONLY);
	uint64_t flags;

	if (kpageflags >= 0 && !pageflags_get(pfn, kpageflags, &flags) && flags & KPF_HWPOISON)
		unpoison_memory(pfn);
	close(kpageflags);
}

/*
 * A page in the LRU cache of another CPU has an extra reference. If the scheduler moved the
 * thread that writes the pages, that reference might keep a window out of its batch.
 */
static inline int stay_on_this_cpu(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	return sched_setaffinity(0, sizeof(one), &one);
}

/* Finds the first swap device. If there is none, @device is left empty. */
static inline void find_swap(char *device, size_t size)
{
	char line[256] = "";
	FILE *swaps = fopen("/proc/swaps", "r");

	device[0] = '\0';
	if (swaps && fgets(line, sizeof(line), swaps) && fgets(line, sizeof(line), swaps))
		snprintf(device, size, "%.*s", (int)strcspn(line, " \t"), line);
	if (swaps)
		fclose(swaps);
}

/* Moves a page to where there is none. */
static inline bool move_page(int uffd, char *to, char *from)
{
	struct uffdio_move move = {
		.dst = (uintptr_t)to,
		.src = (uintptr_t)from,
		.len = psize(),
	};

	return !ioctl(uffd, UFFDIO_MOVE, &move);
}

#define DEVICE		"/dev/hmm_dmirror0"

/*
 * Has a device with page tables of its own access pages. Returns how many faults the device
 * took for pages that it had no entries for, or -1.
 */
static inline int use_by_device(int device, unsigned long request, char *start, size_t pages,
				void *data)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)start,
		.ptr = (uintptr_t)data,
		.npages = pages,
	};

	return ioctl(device, request, &cmd) ? -1 : (int)cmd.faults;
}

/* Makes a pipe refer to a page without pinning it. Returns its other end, or -1. */
static inline int refer_by_pipe(char *page)
{
	struct iovec data = { page, psize() };
	ssize_t size;
	int ends[2];

	if (pipe(ends))
		return -1;
	size = vmsplice(ends[1], &data, 1, 0);
	close(ends[1]);
	if (size == (ssize_t)psize())
		return ends[0];
	close(ends[0]);
	return -1;
}

/* A line "name value" of a file. */
static inline long read_field(const char *path, const char *name)
{
	char line[256];
	size_t len = strlen(name);
	long value = -1;
	FILE *file = fopen(path, "r");

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, len) && strchr(" :\t", line[len]))
			value = strtol(line + len + 1, NULL, 10);
	if (file)
		fclose(file);
	return value;
}

/*
 * Returns how many pins were not released, with the counts that CPUs hold back added up.
 * Other processes may pin pages for a moment: then the count is repeated.
 */
static inline long pins_left(void)
{
	long left = 0;

	for (int tries = 0; !tries || (left && tries < 20); tries++) {
		usleep(tries ? 50000 : 0);
		write_file("/proc/sys/vm/stat_refresh", "1", sizeof("1"));
		left = read_field("/proc/vmstat", "nr_foll_pin_acquired") -
		       read_field("/proc/vmstat", "nr_foll_pin_released");
	}
	return left;
}

#endif
