// SPDX-License-Identifier: GPL-2.0
/*
 * Random layouts, built twice and collapsed once by the C code and once by that
 * in Rust: both must come to the same result, leave the same content, and say the
 * same of each page in pagemap and of the memory in rss and cgroup.
 *
 * From the environment: COLLAPSE_SEED repeats a run, COLLAPSE_ROUNDS is how many
 * layouts there are. Needs CONFIG_THP_COLLAPSE_RUST_DEBUG, which selects the code.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "collapse_util.h"
#include "hugepage_settings.h"
#include "../../../../mm/gup_test.h"

#define CGROUP		"/sys/fs/cgroup/collapse_diff"
#define NR_WINDOWS	2
#define NR_PAGES	(NR_WINDOWS * PAGES)
#define MAX_PAGES	(NR_WINDOWS * (HPAGE_SIZE / 4096))
#define SIZE		(NR_WINDOWS * WINDOW)

/* Bits of pagemap entries that do not depend on the page frame. */
#define PAGEMAP_BITS	(PM_SOFT_DIRTY | PM_UFFD_WP | PM_GUARD_REGION | PM_FILE | PM_SWAP | \
			 PM_PRESENT)

enum engine { ENGINE_C, ENGINE_RUST, NR_ENGINES };

static const char * const engines[] = { "c", "rust" };

/* The state of the memory that is compared between the engines. */
struct state {
	uint64_t pages[MAX_PAGES];
	/* The first page frame of each window, or 0 if there is none. */
	uint64_t frame[NR_WINDOWS];
	bool huge[NR_WINDOWS];
	long rss;
	long charge;
};

struct result {
	struct state before, after;
	uint64_t content[MAX_PAGES];
	int error[NR_WINDOWS];
};

FIXTURE(collapse_diff)
{
	char *mem;
	bool in_cgroup;
	unsigned int seed;
	unsigned int rounds;
	/* How often each engine has said to try again. */
	unsigned int again[NR_ENGINES];
	/* The means that a layout was built with, to be released with it. */
	pid_t sharer;
	int uffd;
	int gup;
	/* The steps that built the layout, printed when the engines differ. */
	char story[1024];
};

FIXTURE_SETUP(collapse_diff)
{
	if (access(ENGINE, W_OK))
		SKIP(return, "no " ENGINE);
	thp_save_settings();
	thp_write_string("enabled", "never");
	self->mem = reserve(NR_WINDOWS);
	ASSERT_NE(self->mem, NULL);
	self->seed = env_number("COLLAPSE_SEED", time(NULL) ^ getpid());
	self->rounds = env_number("COLLAPSE_ROUNDS", 30);
	write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	self->in_cgroup = !mkdir(CGROUP, 0755) && !access(CGROUP "/memory.stat", R_OK);
	if (self->in_cgroup)
		write_text(CGROUP "/cgroup.procs", "0");
}

FIXTURE_TEARDOWN(collapse_diff)
{
	if (access(ENGINE, W_OK))
		return;
	use_engine("rust");
	write_text("/sys/fs/cgroup/cgroup.procs", "0");
	rmdir(CGROUP);
	thp_restore_settings();
}

static char *page(FIXTURE_DATA(collapse_diff) * self, size_t i)
{
	return self->mem + i * psize();
}

enum step {
	WRITE, READ, DISCARD, PAGE_OUT, PAGE_OUT_AND_READ, FREE_LAZILY, SHARE, CLEAR_SOFT_DIRTY,
	SPLIT_HUGE, LOCK, UNLOCK, INSTALL_GUARD, WRITE_PROTECT, WATCH_MISSING, PROTECT, PIN,
	NR_STEPS,
};

static const struct {
	const char *name;
	/* The weight in the random choice, and the most pages that a step covers. */
	unsigned int weight;
	unsigned int pages;
} steps[NR_STEPS] = {
	[WRITE]			= { "write", 40, 400 },
	[READ]			= { "read", 8, 300 },
	[DISCARD]		= { "discard", 8, 700 },
	[PAGE_OUT]		= { "page out", 8, 300 },
	[PAGE_OUT_AND_READ]	= { "page out and read", 6, 300 },
	[FREE_LAZILY]		= { "free lazily", 3, 100 },
	[SHARE]			= { "share", 4, 1 },
	[CLEAR_SOFT_DIRTY]	= { "clear soft-dirty", 4, 1 },
	[SPLIT_HUGE]		= { "split a huge page", 4, 1 },
	[LOCK]			= { "lock", 3, 200 },
	[UNLOCK]		= { "unlock", 3, 1024 },
	[INSTALL_GUARD]		= { "install guard", 1, 3 },
	[WRITE_PROTECT]		= { "write-protect", 1, 20 },
	[WATCH_MISSING]		= { "watch missing", 1, 1 },
	[PROTECT]		= { "protect", 1, 20 },
	[PIN]			= { "pin", 1, 1 },
};

static void take_step(FIXTURE_DATA(collapse_diff) * self, enum step step, size_t first,
		      size_t count, unsigned int round)
{
	char *start = page(self, first);
	size_t size = count * psize();
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)start, size },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)start,
		.size = psize(),
	};

	switch (step) {
	case WRITE:
		/* Not where it would end us. */
		for (size_t i = first; self->uffd < 0 && i < first + count; i++)
			*(uint64_t *)page(self, i) = (uint64_t)round << 32 | i | 1 << 20;
		break;
	case READ:
		if (self->uffd < 0)
			force_read_pages(start, count, psize());
		break;
	case DISCARD:
		madvise(start, size, MADV_DONTNEED);
		break;
	case PAGE_OUT:
		madvise(start, size, MADV_PAGEOUT);
		break;
	case PAGE_OUT_AND_READ:
		madvise(start, size, MADV_PAGEOUT);
		if (self->uffd < 0)
			force_read_pages(start, count, psize());
		break;
	case FREE_LAZILY:
		madvise(start, size, MADV_FREE);
		break;
	case SHARE:
		if (self->sharer > 0 || self->uffd >= 0 || self->gup >= 0)
			break;
		self->sharer = fork();
		if (!self->sharer) {
			pause();
			_exit(0);
		}
		break;
	case CLEAR_SOFT_DIRTY:
		clear_softdirty();
		break;
	case SPLIT_HUGE:
		start = self->mem + first / PAGES * WINDOW;
		if (madvise(start, WINDOW, MADV_COLLAPSE))
			break;
		mprotect(start, psize(), PROT_NONE);
		mprotect(start, psize(), PROT_READ | PROT_WRITE);
		break;
	case LOCK:
		if (self->uffd < 0)
			mlock(start, size);
		break;
	case UNLOCK:
		munlock(start, size);
		break;
	case INSTALL_GUARD:
		/* Later steps would touch the guarded page: the caller does this last. */
		break;
	case WRITE_PROTECT:
	case WATCH_MISSING:
		if (self->uffd >= 0)
			break;
		self->uffd = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
		uffd_register(self->uffd, self->mem, SIZE, step == WATCH_MISSING, true, false);
		if (step == WRITE_PROTECT)
			ioctl(self->uffd, UFFDIO_WRITEPROTECT, &wp);
		break;
	case PROTECT:
		/* One of the last steps, as are guards. */
		break;
	case PIN:
		if (self->gup >= 0 || self->uffd >= 0)
			break;
		self->gup = open("/sys/kernel/debug/gup_test", O_RDWR);
		ioctl(self->gup, PIN_LONGTERM_TEST_START, &pin);
		break;
	case NR_STEPS:
		break;
	}
}

static void build(FIXTURE_DATA(collapse_diff) * self, unsigned int round)
{
	unsigned int seed = self->seed + round, weights = 0, nr;
	size_t told = 0;

	for (size_t i = 0; i < NR_STEPS; i++)
		weights += steps[i].weight;
	nr = 1 + rand_r(&seed) % 10;
	self->story[0] = '\0';
	for (unsigned int i = 0; i < nr; i++) {
		unsigned int drawn = rand_r(&seed) % weights, step = 0;
		size_t first = rand_r(&seed) % NR_PAGES, count;

		while (drawn >= steps[step].weight)
			drawn -= steps[step++].weight;
		count = 1 + rand_r(&seed) % steps[step].pages;
		if (count > NR_PAGES - first)
			count = NR_PAGES - first;
		take_step(self, step, first, count, round);
		told += snprintf(self->story + told, sizeof(self->story) - told, "%s %zu+%zu, ",
				 steps[step].name, first, count);
		/* No step may touch a page that is guarded or protected: these steps come last. */
		if (step == INSTALL_GUARD) {
			madvise(page(self, first), count * psize(), MADV_GUARD_INSTALL);
			break;
		}
		if (step == PROTECT) {
			mprotect(page(self, first), count * psize(), PROT_READ);
			break;
		}
	}
}

static void look(FIXTURE_DATA(collapse_diff) * self, struct state *state)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);

	if (pread(pagemap, state->pages, NR_PAGES * sizeof(uint64_t),
		  (uintptr_t)self->mem / psize() * sizeof(uint64_t)) < 0)
		ksft_print_msg("pagemap: %s\n", strerror(errno));
	close(pagemap);
	for (size_t i = 0; i < NR_WINDOWS; i++) {
		uint64_t first = state->pages[i * PAGES];

		state->frame[i] = first & PM_PRESENT ? PAGEMAP_PFN(first) : 0;
	}
	for (size_t i = 0; i < NR_PAGES; i++)
		state->pages[i] &= PAGEMAP_BITS;
	for (size_t i = 0; i < NR_WINDOWS; i++)
		state->huge[i] = is_huge(self->mem + i * WINDOW);
	state->rss = rss_anon();
	state->charge = self->in_cgroup ? read_field(CGROUP "/memory.stat", "anon") : 0;
}

static void try(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_diff) * self,
		enum engine engine, unsigned int round, struct result *result)
{
	self->sharer = -1;
	self->uffd = -1;
	self->gup = -1;
	ASSERT_TRUE(map_private(self->mem, SIZE));
	use_engine(engines[engine]);
	build(self, round);
	look(self, &result->before);
	/* One by one: for a range, each engine returns the errno of another window. */
	for (size_t i = 0; i < NR_WINDOWS; i++) {
		char *window = self->mem + i * WINDOW;
		int tries = 3;

		/* Another user may have a page for a moment, with either engine. */
		do {
			result->error[i] = collapse(window, WINDOW);
			self->again[engine] += result->error[i] == EAGAIN;
		} while (result->error[i] == EAGAIN && --tries);
	}
	look(self, &result->after);

	if (self->uffd >= 0)
		close(self->uffd);
	for (size_t i = 0; i < NR_PAGES; i++)
		result->content[i] = result->after.pages[i] & PM_GUARD_REGION ? 0 :
				     FORCE_READ(*(uint64_t *)page(self, i));
	if (self->gup >= 0)
		close(self->gup);
	if (self->sharer > 0) {
		kill(self->sharer, SIGKILL);
		waitpid(self->sharer, NULL, 0);
	}
	munlock(self->mem, SIZE);
	munmap(self->mem, SIZE);
}

/* Reclaim may have made the layouts differ: then the engines need not agree. */
static bool same_start(const struct result *results)
{
	return !memcmp(results[0].before.pages, results[1].before.pages,
		       NR_PAGES * sizeof(uint64_t)) &&
	       !memcmp(results[0].before.huge, results[1].before.huge,
		       sizeof(results[0].before.huge));
}

/* Returns whether a window has only holes. If it has a page table, C maps a huge zeroed page. */
static bool is_empty(const struct state *state, size_t window)
{
	for (size_t i = window * PAGES; i < (window + 1) * PAGES; i++)
		if (state->pages[i] & ~PM_SOFT_DIRTY)
			return false;
	return true;
}

/*
 * If there are several reasons to refuse a window, C returns the first one that it
 * finds. Rust returns that of too many holes only if there is no other reason.
 */
static bool same_error(int c, int rust)
{
	return c == rust || (c == EBUSY && (rust == EAGAIN || rust == EINVAL));
}

/*
 * A huge page that PTEs mapped is mapped by a PMD again, where it is. C copies it, refuses to
 * if a page of it is pinned, and says of all pages of the copy that they were written.
 */
static bool is_remapped(const struct result *rust, size_t window)
{
	return !rust->before.huge[window] && rust->after.huge[window] &&
	       rust->before.frame[window] &&
	       rust->before.frame[window] == rust->after.frame[window];
}

/* Returns whether pagemap may have entry @c with C and entry @rust with Rust. */
static bool same_page(uint64_t c, uint64_t rust, uint64_t before, bool remapped)
{
	/* A page that was soft-dirty must stay so. */
	if (remapped && (rust & PM_SOFT_DIRTY || !(before & PM_SOFT_DIRTY)))
		return (c | PM_SOFT_DIRTY) == (rust | PM_SOFT_DIRTY);
	return c == rust;
}

static int compare(FIXTURE_DATA(collapse_diff) * self, const struct result *results,
		   unsigned int round)
{
	const struct result *c = &results[ENGINE_C], *rust = &results[ENGINE_RUST];
	/* Counters of the cgroup lack the counts that CPUs still hold back. */
	long slack = 64 * psize() * sysconf(_SC_NPROCESSORS_ONLN);
	long rss_c = c->after.rss - c->before.rss, rss_rust = rust->after.rss - rust->before.rss;
	long charge_c = c->after.charge - c->before.charge;
	long charge_rust = rust->after.charge - rust->before.charge;
	bool empty[NR_WINDOWS], remapped[NR_WINDOWS] = {};
	int differences = 0;

#define TELL(format, ...) do {							\
	if (!differences++)							\
		ksft_print_msg("round %u: %s\n", round, self->story);		\
	ksft_print_msg("  " format "\n", ##__VA_ARGS__);			\
} while (0)

	for (size_t i = 0; i < NR_WINDOWS; i++) {
		empty[i] = is_empty(&rust->before, i);
		if (empty[i]) {
			if (rust->error[i] != EINVAL || rust->after.huge[i])
				TELL("window %zu is empty, Rust says \"%s\"", i,
				     strerror(rust->error[i]));
			if (c->after.huge[i]) {
				rss_c -= WINDOW / 1024;
				charge_c -= WINDOW;
			}
			continue;
		}
		remapped[i] = is_remapped(rust, i);
		if (remapped[i] && c->error[i] == EAGAIN && self->gup >= 0)
			continue;
		if (!same_error(c->error[i], rust->error[i]))
			TELL("window %zu: C says \"%s\", Rust \"%s\"", i, strerror(c->error[i]),
			     strerror(rust->error[i]));
		if (c->after.huge[i] != rust->after.huge[i])
			TELL("window %zu: C %d, Rust %d huge", i, c->after.huge[i],
			     rust->after.huge[i]);
	}
	for (size_t i = 0; i < NR_PAGES; i++) {
		if (!empty[i / PAGES] &&
		    !same_page(c->after.pages[i], rust->after.pages[i], rust->before.pages[i],
			       remapped[i / PAGES])) {
			TELL("page %zu: pagemap has %#llx of C, %#llx of Rust, was %#llx", i,
			     (unsigned long long)c->after.pages[i],
			     (unsigned long long)rust->after.pages[i],
			     (unsigned long long)c->before.pages[i]);
			break;
		}
	}
	for (size_t i = 0; i < NR_PAGES; i++) {
		if (c->content[i] != rust->content[i]) {
			TELL("page %zu: reads %#llx of C, %#llx of Rust", i,
			     (unsigned long long)c->content[i],
			     (unsigned long long)rust->content[i]);
			break;
		}
	}
	if (labs(rss_c - rss_rust) > slack / 1024)
		TELL("rss grew by %ld KiB of C, %ld KiB of Rust", rss_c, rss_rust);
	if (labs(charge_c - charge_rust) > slack)
		TELL("charge grew by %ld of C, %ld of Rust", charge_c, charge_rust);
	return differences;
}

TEST_F_TIMEOUT(collapse_diff, c_and_rust, 24 * 60 * 60)
{
	static struct result results[NR_ENGINES];
	unsigned int compared = 0, differing = 0, huge = 0;

	TH_LOG("COLLAPSE_SEED=%u COLLAPSE_ROUNDS=%u", self->seed, self->rounds);
	for (unsigned int round = 0; round < self->rounds; round++) {
		for (int engine = 0; engine < NR_ENGINES; engine++)
			try(_metadata, self, engine, round, &results[engine]);
		if (!same_start(results))
			continue;
		compared++;
		differing += !!compare(self, results, round);
		for (size_t i = 0; i < NR_WINDOWS; i++)
			huge += results[ENGINE_RUST].after.huge[i];
	}
	TH_LOG("%u layouts compared, %u windows huge in the end; C said EAGAIN %u times, Rust %u",
	       compared, huge, self->again[ENGINE_C], self->again[ENGINE_RUST]);
	EXPECT_EQ(differing, 0);
	EXPECT_GT(compared, self->rounds / 2);
	EXPECT_GT(huge, self->rounds / 2);
}

TEST_HARNESS_MAIN
