// SPDX-License-Identifier: GPL-2.0
/*
 * Memory in use while it is collapsed, by its own process and by another one,
 * again and again: threads write and read it, throw pages and whole tables away,
 * swap out, fork, pin, lock, protect, move, write-protect, merge, migrate, take
 * pages out of service and swap devices out of use, serve missing pages, and end
 * processes that share it. A page must read as the value that was written last, or
 * as zero if it was thrown away. In the end, no counter may include any of the
 * memory.
 *
 * From the environment: COLLAPSE_SEED repeats a run (as far as scheduling lets
 * it), COLLAPSE_SECONDS is how long it takes, and COLLAPSE_ACTORS, a list of
 * names, leaves all other actors out.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <poll.h>
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
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "collapse_util.h"
#include "hugepage_settings.h"
#include "../../../../mm/gup_test.h"

#define NR_WINDOWS	6
#define NR_PAGES	(NR_WINDOWS * PAGES)
#define MAX_PAGES	(NR_WINDOWS * (HPAGE_SIZE / 4096))
#define WORDS		(psize() / sizeof(uint64_t))

#define CGROUP		"/sys/fs/cgroup/collapse_stress"
/* Where one process has not enough. */
#define SMALL_CGROUP	"/sys/fs/cgroup/collapse_stress_small"
#define KSM		"/sys/kernel/mm/ksm/"

/* The memory in use, and where a window of it stays when it was moved. */
static char *mem, *side;

/* The expected content of a page. The thread that has the page locked may use it. */
static struct page {
	atomic_bool locked;
	/* The page was freed lazily. Once it reads as zero, it goes on to do so. */
	bool may_be_zero;
	/* The version that was written last, or 0 for none. */
	unsigned int version;
} pages[MAX_PAGES];

/* Held by a thread that changes mappings, even if only for a moment. */
static pthread_mutex_t layout = PTHREAD_MUTEX_INITIALIZER;

static atomic_bool stop;
static atomic_ulong lost;
static pid_t self;
static char swap_device[128];
static _Thread_local bool makes_bad;

struct actor {
	const char *name;
	void (*act)(struct actor *actor);
	unsigned int threads;
	/* It rests for up to so long after each act. */
	unsigned int rest_us;
	unsigned int seed;
	unsigned long acts;
	/* Acts that had an effect. Not all actors count these. */
	unsigned long done;
};

static unsigned int draw(struct actor *actor, unsigned int below)
{
	return rand_r(&actor->seed) % below;
}

static bool lock_page(size_t nr)
{
	while (atomic_exchange(&pages[nr].locked, true)) {
		if (atomic_load(&stop))
			return false;
		usleep(100);
	}
	return true;
}

static void unlock_pages(size_t first, size_t count)
{
	while (count--)
		atomic_store(&pages[first++].locked, false);
}

/* In ascending order, so that two threads that lock many do not wait for each other. */
static bool lock_pages(size_t first, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (!lock_page(first + i)) {
			unlock_pages(first, i);
			return false;
		}
	}
	return true;
}

static char *address(size_t nr)
{
	return mem + nr * psize();
}

/* Some versions have the same content in all pages, so that KSM can merge them. */
static bool is_alike_in_all(unsigned int version)
{
	return version % 4 == 0;
}

static uint64_t word(size_t nr, unsigned int version, size_t i)
{
	if (!version)
		return 0;
	if (is_alike_in_all(version))
		return 0x5a5a5a5a5a5a5a5aULL;
	return 1ULL << 63 | (uint64_t)nr << 44 | (uint64_t)version << 12 | i;
}

static bool reads_as(const char *at, size_t nr, unsigned int version)
{
	const uint64_t *words = (const uint64_t *)at;

	/* A word of each cache line; which of them, changes. */
	for (size_t i = version % 8; i < WORDS; i += 8)
		if (FORCE_READ(words[i]) != word(nr, version, i))
			return false;
	return true;
}

static void report_lost(const char *at, size_t nr, const char *who)
{
	const uint64_t *words = (const uint64_t *)at;
	size_t wrong = 0, first = 0;

	for (size_t i = WORDS; i-- > 0;) {
		if (FORCE_READ(words[i]) != word(nr, pages[nr].version, i)) {
			first = i;
			wrong++;
		}
	}
	if (atomic_fetch_add(&lost, 1) < 10)
		ksft_print_msg("%s: page %zu, version %u%s: %zu words wrong, first is %zu: %#llx\n",
			       who, nr, pages[nr].version,
			       pages[nr].may_be_zero ? " (or zero)" : "", wrong, first,
			       (unsigned long long)FORCE_READ(words[first]));
}

/* Checks a page that is locked. */
static void check_at(const char *at, size_t nr, const char *who)
{
	if (reads_as(at, nr, pages[nr].version))
		return;
	if (pages[nr].may_be_zero && reads_as(at, nr, 0)) {
		pages[nr].version = 0;
		pages[nr].may_be_zero = false;
		return;
	}
	report_lost(at, nr, who);
}

static void check(size_t nr, const char *who)
{
	check_at(address(nr), nr, who);
}

static unsigned int next_version(size_t nr)
{
	/* word() has room for this many versions. */
	return pages[nr].version % 0xffffffff + 1;
}

static void write_page(size_t nr)
{
	uint64_t *words = (uint64_t *)address(nr);
	unsigned int version = next_version(nr);

	for (size_t i = 0; i < WORDS; i++)
		__atomic_store_n(&words[i], word(nr, version, i), __ATOMIC_RELAXED);
	pages[nr].version = version;
	pages[nr].may_be_zero = false;
}

static void act_write(struct actor *actor)
{
	size_t nr = draw(actor, NR_PAGES);

	if (!lock_page(nr))
		return;
	check(nr, "write");
	write_page(nr);
	check(nr, "after write");
	unlock_pages(nr, 1);
}

/* Runs of pages, so that windows are dense from time to time. */
static void act_fill(struct actor *actor)
{
	size_t first = draw(actor, NR_WINDOWS) * PAGES;

	for (size_t i = 0; i < PAGES && !atomic_load(&stop); i++) {
		if (atomic_exchange(&pages[first + i].locked, true))
			continue;
		if (!pages[first + i].version)
			write_page(first + i);
		unlock_pages(first + i, 1);
	}
}

static void act_write_by_kernel(struct actor *actor)
{
	size_t nr = draw(actor, NR_PAGES);
	uint64_t buf[HPAGE_SIZE / 512 / sizeof(uint64_t)];
	struct iovec from = { buf, psize() }, to = { address(nr), psize() };
	unsigned int version;

	if (!lock_page(nr))
		return;
	check(nr, "write_by_kernel");
	version = next_version(nr);
	for (size_t i = 0; i < WORDS; i++)
		buf[i] = word(nr, version, i);
	if (process_vm_writev(self, &from, 1, &to, 1, 0) == (ssize_t)psize()) {
		pages[nr].version = version;
		pages[nr].may_be_zero = false;
	}
	check(nr, "after write_by_kernel");
	unlock_pages(nr, 1);
}

static void act_read(struct actor *actor)
{
	size_t nr = draw(actor, NR_PAGES);

	if (!lock_page(nr))
		return;
	check(nr, "read");
	unlock_pages(nr, 1);
}

static void discard(size_t first, size_t count)
{
	bool all;

	if (!lock_pages(first, count))
		return;
	all = !madvise(address(first), count * psize(), MADV_DONTNEED);
	for (size_t i = first; i < first + count; i++) {
		/* A mapping that is mlocked ends it midway. */
		if (all || reads_as(address(i), i, 0)) {
			pages[i].version = 0;
			pages[i].may_be_zero = false;
		}
		check(i, "discard");
	}
	unlock_pages(first, count);
}

static size_t draw_run(struct actor *actor, size_t most, size_t *count)
{
	size_t first = draw(actor, NR_PAGES);

	*count = 1 + draw(actor, most);
	if (*count > NR_PAGES - first)
		*count = NR_PAGES - first;
	return first;
}

static void act_discard_pages(struct actor *actor)
{
	size_t count, first = draw_run(actor, draw(actor, 4) ? 4 : 64, &count);

	discard(first, count);
}

static void act_discard_tables(struct actor *actor)
{
	discard(draw(actor, NR_WINDOWS) * PAGES, PAGES);
}

static void act_free_lazily(struct actor *actor)
{
	size_t count, first = draw_run(actor, 32, &count);

	if (!lock_pages(first, count))
		return;
	for (size_t i = first; i < first + count; i++) {
		check(i, "free_lazily");
		pages[i].may_be_zero = true;
	}
	madvise(address(first), count * psize(), MADV_FREE);
	unlock_pages(first, count);
}

static void act_page_out(struct actor *actor)
{
	size_t count, first = draw_run(actor, 300, &count);

	madvise(address(first), count * psize(), MADV_PAGEOUT);
}

static void act_lock(struct actor *actor)
{
	size_t count, first = draw_run(actor, 200, &count);

	pthread_mutex_lock(&layout);
	mlock(address(first), count * psize());
	usleep(draw(actor, 3000));
	munlock(mem, NR_WINDOWS * WINDOW);
	pthread_mutex_unlock(&layout);
}

static void act_protect(struct actor *actor)
{
	size_t count, first = draw_run(actor, 32, &count);

	pthread_mutex_lock(&layout);
	if (lock_pages(first, count)) {
		mprotect(address(first), count * psize(), PROT_READ);
		for (size_t i = first; i < first + count; i++)
			check(i, "protect");
		mprotect(address(first), count * psize(), PROT_READ | PROT_WRITE);
		unlock_pages(first, count);
	}
	pthread_mutex_unlock(&layout);
}

/* To the side and back, as long as one mapping holds the window and more. */
static void act_move(struct actor *actor)
{
	size_t first = draw(actor, NR_WINDOWS) * PAGES;
	char *window = address(first);
	struct procmap_fd maps;

	if (open_procmap(self, &maps))
		return;
	pthread_mutex_lock(&layout);
	if (find_vma_procmap(&maps, window) && maps.query.vma_end >= (uintptr_t)window + WINDOW &&
	    lock_pages(first, PAGES)) {
		const char *from = window;

		if (mremap(window, WINDOW, WINDOW, MREMAP_MAYMOVE | MREMAP_FIXED, side) == side) {
			from = side;
			if (draw(actor, 2))
				madvise(side, WINDOW, MADV_COLLAPSE);
		}
		for (size_t i = 0; i < PAGES; i += 1 + draw(actor, 16))
			check_at(from + i * psize(), first + i, "move");
		if (from == side && mremap(side, WINDOW, WINDOW, MREMAP_MAYMOVE | MREMAP_FIXED,
					   window) != window)
			ksft_exit_fail_msg("a window could not be moved back: %s\n",
					   strerror(errno));
		unlock_pages(first, PAGES);
	}
	pthread_mutex_unlock(&layout);
	close_procmap(&maps);
}

/* Write-protects pages for a moment, and resolves the faults of threads that write. */
static void act_write_protect(struct actor *actor)
{
	size_t window = draw(actor, NR_WINDOWS);
	struct pollfd event = { .events = POLLIN };
	struct uffd_msg msg;

	pthread_mutex_lock(&layout);
	event.fd = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	if (event.fd < 0 ||
	    uffd_register(event.fd, address(window * PAGES), WINDOW, false, true, false))
		goto out;
	for (int i = 0; i < 8; i++) {
		struct uffdio_writeprotect wp = {
			.range = {
				(uintptr_t)address(window * PAGES + draw(actor, PAGES)), psize(),
			},
			.mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		ioctl(event.fd, UFFDIO_WRITEPROTECT, &wp);
		while (poll(&event, 1, 1) == 1 &&
		       read(event.fd, &msg, sizeof(msg)) == sizeof(msg)) {
			wp.range.start = msg.arg.pagefault.address & ~(psize() - 1ULL);
			wp.mode = 0;
			ioctl(event.fd, UFFDIO_WRITEPROTECT, &wp);
		}
	}
out:
	/* Closing it wakes threads that still wait. */
	if (event.fd >= 0)
		close(event.fd);
	pthread_mutex_unlock(&layout);
}

static void act_merge(struct actor *actor)
{
	pthread_mutex_lock(&layout);
	madvise(mem, NR_WINDOWS * WINDOW, draw(actor, 4) ? MADV_MERGEABLE : MADV_UNMERGEABLE);
	pthread_mutex_unlock(&layout);
}

/* A device goes on to access the page that was pinned: that must stay the mapped one. */
static void act_pin(struct actor *actor)
{
	size_t nr = draw(actor, NR_PAGES);
	uint64_t buf[HPAGE_SIZE / 512 / sizeof(uint64_t)];
	uint64_t to = (uintptr_t)buf;
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)address(nr),
		.size = psize(),
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE |
			 (draw(actor, 2) ? PIN_LONGTERM_TEST_FLAG_USE_FAST : 0),
	};
	int gup = open("/sys/kernel/debug/gup_test", O_RDWR);

	if (gup < 0 || !lock_page(nr))
		goto out;
	if (!ioctl(gup, PIN_LONGTERM_TEST_START, &pin)) {
		/* Pinned for writing, it was written as far as anyone knows. */
		check(nr, "pin");
		for (int i = 0; i < 4; i++) {
			write_page(nr);
			usleep(draw(actor, 1000));
			if (!ioctl(gup, PIN_LONGTERM_TEST_READ, &to))
				check_at((char *)buf, nr, "device");
			check(nr, "after pin");
		}
		ioctl(gup, PIN_LONGTERM_TEST_STOP);
	}
	unlock_pages(nr, 1);
out:
	if (gup >= 0)
		close(gup);
}

/* The child has its own copies of some pages to check, collapse and write. */
static void act_fork(struct actor *actor)
{
	size_t count, first = draw_run(actor, 64, &count);
	pid_t child;
	int status;

	if (!lock_pages(first, count))
		return;
	child = fork();
	if (!child) {
		for (int round = 0; round < 2; round++) {
			for (size_t i = first; i < first + count; i++)
				check(i, "child");
			if (draw(actor, 2))
				madvise(mem, NR_WINDOWS * WINDOW, MADV_COLLAPSE);
			for (size_t i = first; i < first + count; i++) {
				if (draw(actor, 2))
					write_page(i);
				check(i, "child after collapse");
			}
		}
		_exit(atomic_load(&lost) != 0);
	}
	for (size_t i = first; i < first + count; i++)
		check(i, "parent");
	unlock_pages(first, count);
	if (child > 0 && (waitpid(child, &status, 0) != child || status))
		atomic_fetch_add(&lost, 1);
}

static void write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return;
	/* Not every file is there, or takes it at every time. */
	if (write(fd, text, strlen(text)) < 0)
		errno = 0;
	close(fd);
}

static void read_all_of(const char *path)
{
	static char buf[1 << 16];
	int fd = open(path, O_RDONLY);

	while (fd >= 0 && read(fd, buf, sizeof(buf)) > 0)
		;
	if (fd >= 0)
		close(fd);
}

/*
 * Writes unique content to a page, so that no other page or process shares its frame,
 * and returns the number of the frame. The frame may change at any time.
 */
static unsigned long write_unique(size_t nr)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	unsigned long pfn;

	do {
		write_page(nr);
	} while (is_alike_in_all(pages[nr].version));
	pfn = pagemap_get_pfn(pagemap, address(nr));
	close(pagemap);
	return pfn;
}

/* The page is replaced by another one, which must hold the same. */
static void act_soft_offline(struct actor *actor)
{
	size_t nr = draw(actor, NR_PAGES);
	unsigned long pfn;

	if (!lock_page(nr))
		return;
	pfn = write_unique(nr);
	actor->done += !madvise(address(nr), psize(), MADV_SOFT_OFFLINE);
	check(nr, "soft_offline");
	unlock_pages(nr, 1);
	put_back_in_service(pfn);
}

static bool is_in_huge_page(size_t nr)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	int kpageflags = open("/proc/kpageflags", O_RDONLY);
	unsigned long pfn = pagemap_get_pfn(pagemap, address(nr));
	uint64_t flags = 0;
	bool is = pfn != -1UL && !pageflags_get(pfn, kpageflags, &flags) && flags & KPF_THP;

	close(kpageflags);
	close(pagemap);
	return is;
}

/*
 * A bad page stays in its huge page if that had another reference. The huge page must
 * not be freed as a whole: its next user would get the bad page, too.
 */
static void split_off(size_t nr)
{
	char range[64];

	snprintf(range, sizeof(range), "%d,%#lx,%#lx", self, (long)address(nr),
		 (long)address(nr + 1));
	for (int tries = 0; is_in_huge_page(nr); tries++) {
		if (tries == 1000)
			ksft_exit_fail_msg("a bad page stays in a huge one\n");
		/* CPUs hold references to pages that they have yet to add to LRU lists. */
		write_to("/proc/sys/vm/compact_memory", "1");
		write_to("/sys/kernel/debug/split_huge_pages", range);
	}
}

/* The content of the page is lost. An access to it before it is discarded gets SIGBUS. */
static void act_poison(struct actor *actor)
{
	size_t nr = draw(actor, NR_PAGES);
	unsigned long pfn, taken_out = 0;

	/* No thread may mlock the page until it is thrown away. */
	pthread_mutex_lock(&layout);
	if (lock_page(nr)) {
		/*
		 * Makes it a small page. A huge page might be on its way to be freed
		 * when this page turns bad, see split_off().
		 */
		madvise(address(nr), psize(), MADV_DONTNEED);
		pfn = write_unique(nr);
		makes_bad = true;
		if (!madvise(address(nr), psize(), MADV_HWPOISON)) {
			actor->done++;
			taken_out = pfn;
		} else {
			split_off(nr);
		}
		makes_bad = false;
		usleep(draw(actor, 20000));
		if (madvise(address(nr), psize(), MADV_DONTNEED))
			ksft_exit_fail_msg("a bad page stays: %s\n", strerror(errno));
		pages[nr].version = 0;
		check(nr, "poison");
		unlock_pages(nr, 1);
	}
	pthread_mutex_unlock(&layout);
	if (taken_out)
		put_back_in_service(taken_out);
}

/* The thread that makes a page bad gets SIGBUS, and others may. No thread may access it. */
static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	if (makes_bad || info->si_code == BUS_MCEERR_AO)
		return;
	ksft_print_msg("a bad page is mapped at %p\n", info->si_addr);
	_exit(KSFT_FAIL);
}

static unsigned int nr_nodes(void)
{
	return access("/sys/devices/system/node/node1", F_OK) ? 1 : 2;
}

static void act_migrate(struct actor *actor)
{
	unsigned int node = draw(actor, nr_nodes());
	size_t count, first = draw_run(actor, 64, &count);
	unsigned long from = 3, to = 1UL << node;
	int nodes[64], status[64];
	void *addresses[64];

	switch (draw(actor, 8)) {
	case 0:
		actor->done += !syscall(__NR_migrate_pages, 0, 64UL, &from, &to);
		break;
	case 1:
		pthread_mutex_lock(&layout);
		first = first / PAGES * PAGES;
		actor->done += !syscall(__NR_mbind, address(first), WINDOW, MPOL_PREFERRED, &to,
					64UL, MPOL_MF_MOVE);
		syscall(__NR_mbind, address(first), WINDOW, MPOL_DEFAULT, NULL, 0UL, 0);
		pthread_mutex_unlock(&layout);
		break;
	default:
		for (size_t i = 0; i < count; i++) {
			addresses[i] = address(first + i);
			nodes[i] = node;
		}
		actor->done += !syscall(__NR_move_pages, 0, count, addresses, nodes, status,
					MPOL_MF_MOVE);
		break;
	}
}

static void act_swap_off(struct actor *actor)
{
	if (!*swap_device || swapoff(swap_device))
		return;
	actor->done++;
	usleep(draw(actor, 20000));
	swapon(swap_device, 0);
}

static bool copy_to_missing(int uffd, size_t nr, const char *from)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)address(nr),
		.src = (uintptr_t)from,
		.len = psize(),
	};

	return !ioctl(uffd, UFFDIO_COPY, &copy);
}

static bool move_aside_and_back(int uffd, size_t nr, char *aside)
{
	if (!move_page(uffd, aside, address(nr)))
		return false;
	check_at(aside, nr, "moved aside");
	/* A page that is shared by now, pinned, or being migrated is not moved. */
	while (!move_page(uffd, address(nr), aside) && !copy_to_missing(uffd, nr, aside))
		sched_yield();
	return true;
}

static void fill_missing(int uffd, size_t nr, char *from)
{
	unsigned int version = next_version(nr);

	for (size_t i = 0; i < WORDS; i++)
		((uint64_t *)from)[i] = word(nr, version, i);
	if (copy_to_missing(uffd, nr, from)) {
		pages[nr].version = version;
		pages[nr].may_be_zero = false;
		check(nr, "filled");
	}
}

/*
 * Watches a window for missing pages for a moment. Gives zeroes to threads that access a
 * missing page, fills some pages before any access, and moves others aside and back.
 */
static void act_serve_missing(struct actor *actor)
{
	size_t first = draw(actor, NR_WINDOWS) * PAGES;
	struct pollfd event = { .events = POLLIN };
	struct uffd_msg msg;
	char *aside;

	pthread_mutex_lock(&layout);
	aside = mmap(NULL, psize(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	event.fd = open_userfaultfd(0);
	if (event.fd < 0 || uffd_register(event.fd, address(first), WINDOW, true, false, false))
		goto out;
	for (int i = 0; i < 8; i++) {
		size_t nr = first + draw(actor, PAGES);

		/* Not waited for: the thread that has the page locked may wait for us. */
		if (!atomic_exchange(&pages[nr].locked, true)) {
			madvise(aside, psize(), MADV_DONTNEED);
			if (!pages[nr].version || pages[nr].may_be_zero)
				fill_missing(event.fd, nr, aside);
			else if (!uffd_register(event.fd, aside, psize(), true, false, false))
				actor->done += move_aside_and_back(event.fd, nr, aside);
			uffd_unregister(event.fd, aside, psize());
			unlock_pages(nr, 1);
		}
		while (poll(&event, 1, 1) == 1 &&
		       read(event.fd, &msg, sizeof(msg)) == sizeof(msg)) {
			struct uffdio_zeropage zero = {
				.range = { msg.arg.pagefault.address & ~(psize() - 1ULL), psize() },
			};

			if (ioctl(event.fd, UFFDIO_ZEROPAGE, &zero))
				ioctl(event.fd, UFFDIO_WAKE, &zero.range);
		}
	}
out:
	/* Closing it wakes threads that still wait. */
	if (event.fd >= 0)
		close(event.fd);
	munmap(aside, psize());
	pthread_mutex_unlock(&layout);
}

static void end_in_small_cgroup(void)
{
	char *mem = mmap(NULL, 16 * WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			 0);

	write_to(SMALL_CGROUP "/cgroup.procs", "0");
	memset(mem, 1, 16 * WINDOW);
}

static void *collapse_until_gone(void *pidfd)
{
	while (collapse_of((int)(intptr_t)pidfd, mem, NR_WINDOWS * WINDOW, 0) != -ESRCH)
		;
	return NULL;
}

/*
 * A child that is collapsed is killed and reaped meanwhile, or dies for want of
 * memory. The pages that it shares with us stay.
 */
static void end_child(struct actor *actor, bool out_of_memory)
{
	pthread_t collapser;
	pid_t child;
	int pidfd;

	/* The child must find no page that it may not write to. */
	pthread_mutex_lock(&layout);
	child = fork();
	pthread_mutex_unlock(&layout);
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		memset(mem + draw(actor, NR_WINDOWS) * WINDOW, 1, WINDOW);
		if (out_of_memory)
			end_in_small_cgroup();
		pause();
		_exit(0);
	}
	if (child < 0)
		return;
	pidfd = syscall(__NR_pidfd_open, child, 0);
	pthread_create(&collapser, NULL, collapse_until_gone, (void *)(intptr_t)pidfd);
	if (!out_of_memory) {
		usleep(draw(actor, 50000));
		kill(child, SIGKILL);
		actor->done += !syscall(__NR_process_mrelease, pidfd, 0);
	}
	waitpid(child, NULL, 0);
	actor->done += out_of_memory;
	pthread_join(collapser, NULL);
	close(pidfd);
}

static void act_reap(struct actor *actor)
{
	end_child(actor, false);
}

static void act_run_out_of_memory(struct actor *actor)
{
	if (!access(SMALL_CGROUP "/memory.max", W_OK))
		end_child(actor, true);
}

static void act_inspect(struct actor *actor)
{
	switch (draw(actor, 4)) {
	case 0:
		write_to("/proc/sys/vm/compact_memory", "1");
		break;
	case 1:
		write_to("/proc/self/clear_refs", "4");
		break;
	case 2:
		read_all_of("/proc/self/smaps");
		break;
	case 3:
		read_all_of("/proc/self/numa_maps");
		break;
	}
}

static bool expected_errno(int error)
{
	switch (error) {
	case EAGAIN:	/* another user has a page */
	case EBUSY:	/* holes that userfaultfd watches */
	case EINVAL:	/* nothing there, write-protected */
	case ENOMEM:	/* moved away */
		return true;
	default:
		return false;
	}
}

static void act_collapse(struct actor *actor)
{
	size_t first = draw(actor, NR_WINDOWS), count = 1 + draw(actor, NR_WINDOWS - first);

	if (draw(actor, 4))
		count = 1;
	if (!madvise(mem + first * WINDOW, count * WINDOW, MADV_COLLAPSE))
		actor->done++;
	else if (!expected_errno(errno) && atomic_fetch_add(&lost, 1) < 10)
		ksft_print_msg("collapse: %s\n", strerror(errno));
}

/* Forked before there was any memory: it has none of it, and collapses it all. */
static pid_t collapse_from_outside(void)
{
	pid_t child = fork();
	int pidfd;

	if (child)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pidfd = syscall(__NR_pidfd_open, self, 0);
	for (;;) {
		collapse_of(pidfd, mem, NR_WINDOWS * WINDOW, 0);
		usleep(40000);
	}
}

static struct actor actors[] = {
	{ "write",		act_write,		2, 0 },
	{ "write_by_kernel",	act_write_by_kernel,	1, 500 },
	{ "fill",		act_fill,		1, 20000 },
	{ "read",		act_read,		1, 200 },
	{ "discard_pages",	act_discard_pages,	1, 3000 },
	{ "discard_tables",	act_discard_tables,	1, 100000 },
	{ "free_lazily",	act_free_lazily,	1, 10000 },
	{ "page_out",		act_page_out,		1, 8000 },
	{ "lock",		act_lock,		1, 20000 },
	{ "protect",		act_protect,		1, 5000 },
	{ "move",		act_move,		1, 20000 },
	{ "write_protect",	act_write_protect,	1, 10000 },
	{ "merge",		act_merge,		1, 100000 },
	{ "pin",		act_pin,		1, 5000 },
	{ "fork",		act_fork,		1, 30000 },
	{ "inspect",		act_inspect,		1, 50000 },
	{ "soft_offline",	act_soft_offline,	1, 500000 },
	{ "poison",		act_poison,		1, 100000 },
	{ "migrate",		act_migrate,		1, 30000 },
	{ "swap_off",		act_swap_off,		1, 2000000 },
	{ "serve_missing",	act_serve_missing,	1, 20000 },
	{ "reap",		act_reap,		1, 500000 },
	{ "run_out_of_memory",	act_run_out_of_memory,	1, 3000000 },
	{ "collapse",		act_collapse,		2, 60000 },
};

#define MAX_THREADS	32

static void *play(void *argument)
{
	struct actor *actor = argument;

	while (!atomic_load(&stop)) {
		actor->act(actor);
		actor->acts++;
		if (actor->rest_us)
			usleep(draw(actor, actor->rest_us));
	}
	return NULL;
}

static size_t count_category(uint64_t category)
{
	return count_pages(mem, NR_WINDOWS * WINDOW, category);
}

FIXTURE(collapse_stress)
{
	bool in_cgroup;
	long huge_before;
	unsigned int seed;
	unsigned int seconds;
};

FIXTURE_SETUP(collapse_stress)
{
	struct sigaction sigbus = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };

	if (read_pmd_pagesize() != WINDOW)
		SKIP(return, "huge pages are not of 2 MiB here");
	thp_save_settings();
	thp_write_string("enabled", "never");
	self->seed = env_number("COLLAPSE_SEED", time(NULL) ^ getpid());
	self->seconds = env_number("COLLAPSE_SECONDS", 60);

	write_to("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	self->in_cgroup = !mkdir(CGROUP, 0755) && !access(CGROUP "/memory.stat", R_OK);
	self->huge_before = read_field("/proc/meminfo", "AnonHugePages");

	write_to(KSM "sleep_millisecs", "20");
	write_to(KSM "pages_to_scan", "100");
	write_to(KSM "run", "1");
	if (!mkdir(SMALL_CGROUP, 0755)) {
		write_to(SMALL_CGROUP "/memory.max", "16M");
		write_to(SMALL_CGROUP "/memory.swap.max", "0");
	}
	find_swap(swap_device, sizeof(swap_device));
	sigaction(SIGBUS, &sigbus, NULL);
}

FIXTURE_TEARDOWN(collapse_stress)
{
	write_to(KSM "run", "2");
	write_to(KSM "run", "0");
	/* The test may have ended while the swap device was off. */
	if (*swap_device)
		swapon(swap_device, 0);
	rmdir(SMALL_CGROUP);
	rmdir(CGROUP);
	thp_restore_settings();
}

static bool takes_part(const struct actor *actor)
{
	const char *list = getenv("COLLAPSE_ACTORS");
	size_t len = strlen(actor->name);

	for (const char *at = list; at && *at; at += strcspn(at, " ,"), at += !!*at)
		if (!strncmp(at, actor->name, len) && strchr(" ,", at[len]))
			return true;
	return !list;
}

/*
 * The rss must match the mapped pages after all collapses and zaps. It is counted once
 * more if it changed: ksmd splits huge pages, and what is zero in them is not ours then.
 */
static void check_rss(struct __test_metadata *_metadata, unsigned long before_kib)
{
	long rss, present, zeroes, before = before_kib;

	do {
		rss = rss_anon();
		present = count_category(PAGE_IS_PRESENT) * psize() / 1024;
		/* The shared zero page is no memory of ours. */
		zeroes = count_category(PAGE_IS_PFNZERO) * psize() / 1024;
	} while (rss_anon() != rss);

	/* Counters are batched. */
	EXPECT_LE(labs(rss - before - (present - zeroes)), 1024) {
		TH_LOG("rss %ld KiB, present %ld KiB, zero pages %ld KiB", rss - before, present,
		       zeroes);
	}
}

static void run(struct __test_metadata *_metadata, unsigned int seed, unsigned int seconds)
{
	static struct actor cast[MAX_THREADS];
	pthread_t threads[MAX_THREADS];
	unsigned long huge_seen = 0, rss;
	size_t size = (NR_WINDOWS + 4) * WINDOW;
	int nr = 0;
	pid_t remote;
	char *area;

	self = getpid();
	area = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(area, MAP_FAILED);
	side = (char *)(((uintptr_t)area + WINDOW - 1) & ~(WINDOW - 1));
	mem = side + 2 * WINDOW;
	ASSERT_EQ(mprotect(mem, NR_WINDOWS * WINDOW, PROT_READ | PROT_WRITE), 0);
	remote = collapse_from_outside();
	ASSERT_GT(remote, 0);
	rss = rss_anon();

	for (size_t i = 0; i < ARRAY_SIZE(actors); i++) {
		for (unsigned int j = 0; j < actors[i].threads && takes_part(&actors[i]); j++) {
			ASSERT_LT(nr, MAX_THREADS);
			cast[nr] = actors[i];
			cast[nr].seed = seed + nr * 7919;
			ASSERT_EQ(pthread_create(&threads[nr], NULL, play, &cast[nr]), 0);
			nr++;
		}
	}
	for (time_t end = time(NULL) + seconds; time(NULL) < end && !atomic_load(&lost);) {
		usleep(100000);
		huge_seen += count_category(PAGE_IS_HUGE) / PAGES;
	}
	atomic_store(&stop, true);
	for (int i = 0; i < nr; i++) {
		ASSERT_EQ(pthread_join(threads[i], NULL), 0);
		EXPECT_GT(cast[i].acts, 0);
		TH_LOG("%-17s %8lu acts, %lu done", cast[i].name, cast[i].acts, cast[i].done);
		if (cast[i].act == act_collapse)
			EXPECT_GT(cast[i].done, 0);
	}
	kill(remote, SIGKILL);
	waitpid(remote, NULL, 0);

	for (size_t i = 0; i < NR_PAGES; i++)
		check(i, "end");
	EXPECT_EQ(atomic_load(&lost), 0);
	EXPECT_GT(huge_seen, 0);
	check_rss(_metadata, rss);
	ASSERT_EQ(munmap(mem, NR_WINDOWS * WINDOW), 0);
	EXPECT_LE(labs((long)(rss_anon() - rss)), 1024);
}

/* Counters of the cgroup that must be zero when the last user of the memory is gone. */
static const char * const fields[] = { "anon", "anon_thp", "pagetables", "swapcached" };

static bool all_gone(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (read_field(CGROUP "/memory.stat", fields[i]))
			return false;
	return true;
}

/* An idle CPU keeps the mm of the process that ran there last, until we run there. */
static void visit_each_cpu(void)
{
	cpu_set_t all, one;

	if (sched_getaffinity(0, sizeof(all), &all))
		return;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (CPU_ISSET(cpu, &all))
			sched_setaffinity(0, sizeof(one), &one);
	}
	sched_setaffinity(0, sizeof(all), &all);
}

/*
 * Page tables are freed after a grace period, CPUs hold back pages until
 * compaction has them drained, and a swap cache page that was locked when its
 * last user went is left to reclaim.
 */
static void settle(bool in_cgroup)
{
	int tries = 0;

	do {
		visit_each_cpu();
		write_to("/proc/sys/vm/compact_memory", "1");
		if (in_cgroup)
			write_to(CGROUP "/memory.reclaim", "64M");
		sleep(1);
	} while (in_cgroup && !all_gone() && ++tries < 20);
}

TEST_F_TIMEOUT(collapse_stress, in_use, 24 * 60 * 60)
{
	long collapses = read_field("/proc/vmstat", "thp_collapse_alloc");
	int status;
	pid_t child;

	TH_LOG("COLLAPSE_SEED=%u COLLAPSE_SECONDS=%u", self->seed, self->seconds);
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		if (self->in_cgroup)
			write_to(CGROUP "/cgroup.procs", "0");
		run(_metadata, self->seed, self->seconds);
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_EQ(status, 0);
	EXPECT_GT(read_field("/proc/vmstat", "thp_collapse_alloc"), collapses);

	settle(self->in_cgroup);
	EXPECT_LE(read_field("/proc/meminfo", "AnonHugePages"), self->huge_before);
	if (!self->in_cgroup)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		long left = read_field(CGROUP "/memory.stat", fields[i]);

		EXPECT_EQ(left, 0) {
			TH_LOG("%ld bytes of %s are left in the cgroup", left, fields[i]);
		}
	}
	/* Charges that CPUs keep in stock, and slab objects that age. */
	EXPECT_LT(read_num(CGROUP "/memory.current"), WINDOW);
	EXPECT_EQ(read_num(CGROUP "/memory.swap.current"), 0);
}

TEST_HARNESS_MAIN
