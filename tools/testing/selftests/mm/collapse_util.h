/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_MM_COLLAPSE_UTIL_H
#define SELFTESTS_MM_COLLAPSE_UTIL_H

/* Helpers that the tests of collapse share. */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/mman.h>
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

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#define MADV_GUARD_REMOVE	103
#endif
#ifndef MADV_F_COLLAPSE_LIMITS
#define MADV_F_COLLAPSE_LIMITS	0x10000
#define MADV_F_COLLAPSE_DEFRAG	0x20000
#endif

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

/* Finds room for windows where nothing is mapped, nor in the window on either side. */
static inline char *find_room(size_t windows)
{
	size_t size = (windows + 3) * WINDOW;
	char *area = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED || munmap(area, size))
		return NULL;
	return (char *)(((uintptr_t)area + 2 * WINDOW - 1) & ~(WINDOW - 1));
}

/* Maps fresh memory, with nothing in it, in place of what was there. */
static inline bool map_private(char *start, size_t len)
{
	return mmap(start, len, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == start;
}

/* Returns how many pages of a range a pagemap has in category PAGE_IS_*. */
static inline size_t count_pages_in(int pagemap, const char *start, size_t size,
				    uint64_t category)
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
	size_t count = 0;
	int nr;

	do {
		nr = ioctl(pagemap, PAGEMAP_SCAN, &scan);
		for (int i = 0; i < nr; i++)
			count += (regions[i].end - regions[i].start) / psize();
		scan.start = scan.walk_end;
	} while (nr > 0 && scan.start < scan.end);
	return count;
}

static inline size_t count_pages(const char *start, size_t size, uint64_t category)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	size_t count = count_pages_in(pagemap, start, size, category);

	close(pagemap);
	return count;
}

/* Returns whether a PMD maps the window. smaps would tell only about whole mappings. */
static inline bool is_huge(const char *window)
{
	return count_pages(window, WINDOW, PAGE_IS_HUGE) == PAGES;
}

/* Returns how many windows of a process are mapped by PMDs, or -1. */
static inline int nr_huge(pid_t pid, const char *start, int windows)
{
	int pagemap, huge = 0;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	pagemap = open(path, O_RDONLY);
	if (pagemap < 0)
		return -1;
	for (int i = 0; i < windows; i++)
		huge += count_pages_in(pagemap, start + i * WINDOW, WINDOW, PAGE_IS_HUGE) == PAGES;
	close(pagemap);
	return huge;
}

/* Swaps out a range, as far as the kernel will. Returns how many pages of it are in swap. */
static inline size_t swap_out(char *start, size_t pages)
{
	size_t swapped = 0;

	/* A page may be in use in passing. */
	for (int tries = 0; tries < 5 && swapped < pages; tries++) {
		madvise(start, pages * psize(), MADV_PAGEOUT);
		swapped = count_pages(start, pages * psize(), PAGE_IS_SWAPPED);
	}
	return swapped;
}

/* Has PTEs map a huge page: protecting a page of it splits the mapping, not the huge page. */
static inline bool split_mapping(char *page)
{
	return !mprotect(page, psize(), PROT_READ) &&
	       !mprotect(page, psize(), PROT_READ | PROT_WRITE);
}

/* Returns 0 or an errno. */
static inline int collapse(void *start, size_t len)
{
	return madvise(start, len, MADV_COLLAPSE) ? errno : 0;
}

/* Tries again when a page was in use in passing, as EAGAIN tells. */
static inline int collapse_retry(void *start, size_t len)
{
	int err = EAGAIN;

	for (int tries = 0; err == EAGAIN && tries < 5; tries++)
		err = collapse(start, len);
	return err;
}

static inline void *collapse_window(void *window)
{
	return (void *)(intptr_t)collapse(window, WINDOW);
}

/* Returns how many bytes were served, or minus an errno. */
static inline ssize_t collapse_vector(int pidfd, const struct iovec *vec, size_t n,
				      unsigned int flags)
{
	ssize_t ret = syscall(__NR_process_madvise, pidfd, vec, n, MADV_COLLAPSE, flags);

	return ret < 0 ? -errno : ret;
}

static inline ssize_t collapse_of(int pidfd, void *start, size_t len, unsigned int flags)
{
	struct iovec vec = { start, len };

	return collapse_vector(pidfd, &vec, 1, flags);
}

/* A call of collapse_of() by another thread. */
struct call {
	int pidfd;
	char *start;
	size_t len;
	unsigned int flags;
	/* The thread, and what the call has returned. */
	pid_t tid;
	ssize_t result;
};

static inline void *run_call(void *argument)
{
	struct call *call = argument;

	call->tid = gettid();
	call->result = collapse_of(call->pidfd, call->start, call->len, call->flags);
	return NULL;
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

static inline void use_engine(const char *engine)
{
	write_file(ENGINE, engine, strlen(engine) + 1);
}

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

/* For signals that are expected and are not to end the test. */
static inline void ignore_signal(int signal)
{
}

/* As write_file(), but a test whose write fails goes on. */
static inline bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);
	bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (!written)
		ksft_print_msg("%s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return written;
}

/* Says nothing: a test may have to do without. */
static inline bool append_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_APPEND);
	bool appended = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return appended;
}

#define TRACING		"/sys/kernel/tracing/"

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

/* Returns a counter of /proc/vmstat, exactly: with the counts that CPUs still hold back. */
static inline long vmstat_of(const char *name)
{
	write_num("/proc/sys/vm/stat_refresh", 1);
	return read_field("/proc/vmstat", name);
}

/*
 * Returns how many pins were not released. Other processes may pin pages for a moment:
 * then the count is repeated.
 */
static inline long pins_left(void)
{
	long left = 0;

	for (int tries = 0; !tries || (left && tries < 20); tries++) {
		usleep(tries ? 50000 : 0);
		left = vmstat_of("nr_foll_pin_acquired") -
		       read_field("/proc/vmstat", "nr_foll_pin_released");
	}
	return left;
}

#endif
