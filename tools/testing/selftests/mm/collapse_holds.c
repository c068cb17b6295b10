// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of a collapse whose sources stay mapped until the switch. Other users that find a
 * source locked and pinned must wait, or be refused for a moment, and must not fail for
 * good. Every write meanwhile, by any user and in any way, must be there after the switch.
 * CONFIG_THP_COLLAPSE_RUST_DEBUG holds the collapse. Some tests let it go on while another
 * thread acts, and find by themselves when to act so that both meet.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
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

/* The page that actors use. */
#define PAGE		9

/* More than are copied again once nobody can access the window. */
#define MANY		40

#define RECOPIED	"/sys/kernel/debug/thp_collapse/recopied"
#define ROUNDS		"/sys/kernel/debug/thp_collapse/rounds"
#define OLD_WAY		"/sys/kernel/debug/thp_collapse/old_way"

/* Sources are mapped, locked and pinned after these. */
static const char * const mapped[] = { "protect", "copy" };

/* Lets page faults map folios of four pages, or not. Returns whether they do. */
static bool use_large_folios(bool on)
{
	if (!(thp_supported_orders() & 1 << 2))
		return false;
	thp_write_string("hugepages-16kB/enabled", on ? "always" : "never");
	return on;
}

FIXTURE(collapse_holds)
{
	/* The window, and another one with nothing in it. */
	char *window, *aside;
	/* The value that each page must read as, throughout. */
	unsigned char expected[HPAGE_SIZE / 4096];
	int pagemap, gup, uffd;
	pid_t collapser;
	int result;
};

FIXTURE_SETUP(collapse_holds)
{
	self->window = NULL;
	self->gup = -1;
	self->uffd = -1;
	if (access(COLLAPSE_HOLD, W_OK))
		SKIP(return, "no " COLLAPSE_HOLD);
	thp_save_settings();
	thp_write_string("enabled", "never");
	use_large_folios(false);
	self->window = reserve(3);
	ASSERT_NE(self->window, NULL);
	self->aside = self->window + 2 * WINDOW;
	self->pagemap = open("/proc/self/pagemap", O_RDONLY);
	self->gup = open("/sys/kernel/debug/gup_test", O_RDWR);
}

FIXTURE_TEARDOWN(collapse_holds)
{
	if (!self->window)
		return;
	hold_after("none");
	write_num(BAD_COUNT, 0);
	write_num(BAD_COPY, 0);
	close(self->gup);
	close(self->uffd);
	close(self->pagemap);
	EXPECT_EQ(pins_left(), 0);
	thp_restore_settings();
}

static char *page(FIXTURE_DATA(collapse_holds) * self, size_t i)
{
	return self->window + i * psize();
}

static void write_page(FIXTURE_DATA(collapse_holds) * self, size_t i, unsigned char value)
{
	memset(page(self, i), value, psize());
	self->expected[i] = value;
}

/* Has the first pages written, all but one hole and one zero page. */
static void fill(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_holds) * self,
		 size_t pages)
{
	ASSERT_TRUE(map_private(self->window, WINDOW));
	memset(self->expected, 0, sizeof(self->expected));
	for (size_t i = 0; i < pages; i++)
		if (i != HOLE && i != ZERO_PAGE)
			write_page(self, i, 1 + i % 100);
	FORCE_READ(page(self, ZERO_PAGE)[0]);
}

static bool page_intact(FIXTURE_DATA(collapse_holds) * self, size_t i)
{
	for (size_t j = 0; j < psize(); j += PROBE)
		if ((unsigned char)page(self, i)[j] != self->expected[i])
			return false;
	return true;
}

static bool intact(FIXTURE_DATA(collapse_holds) * self)
{
	for (size_t i = 0; i < PAGES; i++)
		if (!page_intact(self, i))
			return false;
	return true;
}

static void *run_collapse(void *argument)
{
	FIXTURE_DATA(collapse_holds) * self = argument;

	self->collapser = gettid();
	self->result = collapse(self->window, WINDOW);
	return NULL;
}

/* Starts a collapse of the window, which is held after @pass. */
static pthread_t held_collapse(struct __test_metadata *_metadata,
			       FIXTURE_DATA(collapse_holds) * self, const char *pass)
{
	pthread_t thread;

	hold_after(pass);
	ASSERT_EQ(pthread_create(&thread, NULL, run_collapse, self), 0);
	EXPECT_TRUE(wait_held()) {
		TH_LOG("not held after %s", pass);
	}
	return thread;
}

static void let_go(struct __test_metadata *_metadata, pthread_t thread)
{
	hold_after("none");
	ASSERT_EQ(pthread_join(thread, NULL), 0);
}

/* A thread or process that acts while a collapse is held, and may have to wait for it. */
struct actor {
	FIXTURE_DATA(collapse_holds) * self;
	void (*act)(struct actor *actor);
	/* The page that it acts upon, and the mode of the act. */
	size_t page;
	uint64_t mode;
	/* The CPUs to act on, or NULL for any. */
	const cpu_set_t *cpu;
	pid_t child, tid;
	int result;
	atomic_bool done;
	pthread_t thread;
};

static void *run_actor(void *argument)
{
	struct actor *actor = argument;

	actor->tid = gettid();
	if (actor->cpu)
		sched_setaffinity(0, sizeof(*actor->cpu), actor->cpu);
	actor->act(actor);
	actor->done = true;
	return NULL;
}

static void start(struct __test_metadata *_metadata, struct actor *actor)
{
	ASSERT_EQ(pthread_create(&actor->thread, NULL, run_actor, actor), 0);
}

/* Acts at once, or begins to wait. */
static void start_and_wait(struct __test_metadata *_metadata, struct actor *actor)
{
	start(_metadata, actor);
	for (int ms = 0; !actor->done && ms < 50; ms++)
		usleep(1000);
}

static void finish(struct __test_metadata *_metadata, struct actor *actor)
{
	ASSERT_EQ(pthread_join(actor->thread, NULL), 0);
}

static bool register_aside(FIXTURE_DATA(collapse_holds) * self)
{
	if (self->uffd >= 0)
		close(self->uffd);
	self->uffd = open_userfaultfd(0);
	return map_private(self->aside, WINDOW) && self->uffd >= 0 &&
	       !uffd_register(self->uffd, self->aside, WINDOW, true, false, false);
}

/* --- others that want a source ---------------------------------------------------- */

static void move_aside(struct actor *actor)
{
	FIXTURE_DATA(collapse_holds) * self = actor->self;
	struct uffdio_move move = {
		.dst = (uintptr_t)self->aside,
		.src = (uintptr_t)page(self, actor->page),
		.len = psize(),
		.mode = actor->mode,
	};

	actor->result = ioctl(self->uffd, UFFDIO_MOVE, &move) ? errno : 0;
}

/*
 * UFFDIO_MOVE fails for good if it finds a pin. It must not find our pins: it must wait for
 * the lock of the page, or try again, until the page is huge or was put back.
 */
TEST_F_TIMEOUT(collapse_holds, moved_while_held, 60)
{
	for (size_t i = 0; i < 10 * ARRAY_SIZE(mapped); i++) {
		struct actor mover = { .self = self, .act = move_aside, .page = PAGE };
		bool large = use_large_folios(i % 5 == 4);
		unsigned char moved;
		pthread_t collapser;

		fill(_metadata, self, PAGES);
		ASSERT_TRUE(register_aside(self));
		collapser = held_collapse(_metadata, self, mapped[i % ARRAY_SIZE(mapped)]);
		start(_metadata, &mover);
		if (large)
			usleep(10000);
		else
			EXPECT_TRUE(wait_asleep(&mover.tid));
		EXPECT_FALSE(mover.done);
		let_go(_metadata, collapser);
		finish(_metadata, &mover);
		ASSERT_EQ(mover.result, 0) {
			TH_LOG("%s folio, after %s", large ? "large" : "small",
			       mapped[i % ARRAY_SIZE(mapped)]);
		}
		EXPECT_TRUE(self->result == 0 || self->result == EAGAIN);
		moved = self->expected[PAGE];
		self->expected[PAGE] = 0;
		EXPECT_TRUE(intact(self));
		for (size_t j = 0; j < psize(); j += PROBE)
			ASSERT_EQ((unsigned char)self->aside[j], moved);
	}
}

/* --- others that come at the switch ----------------------------------------------- */

/*
 * A thread on a CPU of its own that acts some time after the collapse goes on, or before
 * that. The time is adjusted until the act meets the switch.
 */
struct racer {
	struct actor actor;
	cpu_set_t cpu;
	atomic_bool ready, go;
	int base, delay, step;
	bool was_early;
	unsigned int early;
};

static void pass_time(int loops)
{
	atomic_int passed = 0;

	while (passed < loops)
		passed++;
}

static void *run_racer(void *argument)
{
	struct racer *racer = argument;

	sched_setaffinity(0, sizeof(racer->cpu), &racer->cpu);
	racer->ready = true;
	while (!racer->go)
		;
	pass_time(racer->delay);
	racer->actor.act(&racer->actor);
	racer->actor.done = true;
	return NULL;
}

/* On two CPUs, one for the racer and one for all others. */
static bool part(struct racer *racer)
{
	cpu_set_t all, rest;
	int cpu = 0;

	if (sched_getaffinity(0, sizeof(all), &all) || CPU_COUNT(&all) < 2)
		return false;
	while (!CPU_ISSET(cpu, &all))
		cpu++;
	CPU_ZERO(&rest);
	CPU_SET(cpu, &rest);
	CPU_CLR(cpu, &all);
	while (!CPU_ISSET(cpu, &all))
		cpu++;
	CPU_ZERO(&racer->cpu);
	CPU_SET(cpu, &racer->cpu);
	return !sched_setaffinity(0, sizeof(rest), &rest);
}

/* Sources that are written now are copied again at the switch, which takes so much longer. */
#define REWRITTEN	30

static pthread_t begin_race(struct __test_metadata *_metadata,
			    FIXTURE_DATA(collapse_holds) * self)
{
	pthread_t collapser = held_collapse(_metadata, self, "copy");

	for (size_t i = 0; i < REWRITTEN; i++)
		write_page(self, i + PAGE + 1, 150 + i);
	return collapser;
}

static void end_race(struct __test_metadata *_metadata, struct racer *racer, pthread_t collapser)
{
	racer->ready = false;
	racer->go = false;
	racer->actor.done = false;
	ASSERT_EQ(pthread_create(&racer->actor.thread, NULL, run_racer, racer), 0);
	while (!racer->ready)
		usleep(100);
	racer->go = true;
	pass_time(-racer->delay);
	let_go(_metadata, collapser);
	finish(_metadata, &racer->actor);
}

/*
 * Acts later if the act was early, and earlier if it was late, so that it meets the switch.
 * The switch is short: from one side to the other, steps get smaller.
 */
static void adjust(struct racer *racer, bool was_early)
{
	int most = abs(racer->base) / 6 + 20;

	if (!racer->step || was_early == racer->was_early)
		racer->step = racer->step && racer->step < most / 2 ? racer->step * 2 : most;
	else
		racer->step = racer->step > most / 8 ? racer->step / 2 : most / 8;
	racer->was_early = was_early;
	racer->early += was_early;
	racer->base += was_early ? racer->step : -racer->step;
	racer->delay = racer->base - racer->step + rand() % (2 * racer->step + 1);
}

#define RACES		30

/*
 * UFFDIO_MOVE reads an entry of a page table, and reads it again under the lock. If the page
 * became huge in between, the entries of the old table are none. UFFDIO_MOVE must not take
 * that for a hole of the source.
 */
static void race_to_move(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_holds) * self,
			 size_t from, uint64_t mode)
{
	struct racer mover = {
		.actor = { .self = self, .act = move_aside, .page = from, .mode = mode },
		.base = 1000,
	};

	if (!part(&mover))
		SKIP(return, "one CPU is not enough");
	for (int i = 0; i < RACES; i++) {
		unsigned char moved;
		bool was_early;

		fill(_metadata, self, PAGE + REWRITTEN + 1);
		ASSERT_TRUE(register_aside(self));
		end_race(_metadata, &mover, begin_race(_metadata, self));
		ASSERT_EQ(mover.actor.result, 0) {
			TH_LOG("round %d: %s", i, strerror(mover.actor.result));
		}
		EXPECT_TRUE(self->result == 0 || self->result == EAGAIN);
		ASSERT_TRUE(pagemap_is_populated(self->pagemap, self->aside)) {
			TH_LOG("round %d: moved, and not there", i);
		}
		/* A move after the switch splits the huge page. */
		was_early = is_huge(self->window);
		adjust(&mover, was_early);
		moved = self->expected[from];
		self->expected[from] = 0;
		EXPECT_TRUE(intact(self));
		for (size_t j = 0; j < psize(); j += PROBE)
			ASSERT_EQ((unsigned char)self->aside[j], moved);
	}
	TH_LOG("%u of %u before the switch", mover.early, RACES);
}

TEST_F_TIMEOUT(collapse_holds, moved_while_switched, 60)
{
	race_to_move(_metadata, self, PAGE, 0);
}

TEST_F_TIMEOUT(collapse_holds, zero_page_moved_while_switched, 60)
{
	race_to_move(_metadata, self, ZERO_PAGE, 0);
}

TEST_F_TIMEOUT(collapse_holds, zero_page_moved_as_hole_may, 60)
{
	race_to_move(_metadata, self, ZERO_PAGE, UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES);
}

static void write_late(struct actor *actor)
{
	write_page(actor->self, PAGE, 0x51);
	write_page(actor->self, HOLE, 0x52);
	write_page(actor->self, ZERO_PAGE, 0x53);
}

/* Memory that was freed lately is allocated again, and written. */
static void use_free_pages(void)
{
	char *mem = mmap(NULL, WINDOW / 4, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		return;
	memset(mem, 0xa5, WINDOW / 4);
	munmap(mem, WINDOW / 4);
}

/* Has an act meet the switch of a window. All of the window must be as expected then. */
static void race_to_switch(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_holds) * self,
			   void (*act)(struct actor *actor))
{
	struct racer racer = { .actor = { .self = self, .act = act } };

	if (!part(&racer))
		SKIP(return, "one CPU is not enough");
	for (int i = 0; i < RACES; i++) {
		unsigned long recopied;
		bool was_early;

		fill(_metadata, self, PAGE + REWRITTEN + 1);
		recopied = read_num(RECOPIED);
		end_race(_metadata, &racer, begin_race(_metadata, self));
		EXPECT_TRUE(self->result == 0 || self->result == EAGAIN);
		was_early = self->result || read_num(RECOPIED) != recopied + REWRITTEN;
		adjust(&racer, was_early);
		use_free_pages();
		ASSERT_TRUE(intact(self)) {
			TH_LOG("round %d, result %d", i, self->result);
		}
	}
	TH_LOG("%u of %u before the switch", racer.early, RACES);
}

/*
 * A write fault has read the entry of a source, and gets the lock of its table after the
 * table was replaced and the source freed. It must look again, and write to the huge page.
 */
TEST_F_TIMEOUT(collapse_holds, written_while_switched, 60)
{
	race_to_switch(_metadata, self, write_late);
}

static void discard_late(struct actor *actor)
{
	madvise(page(actor->self, PAGE), psize(), MADV_DONTNEED);
	actor->self->expected[PAGE] = 0;
}

/*
 * Memory that is discarded must be gone when madvise() returns. The PMD entry of a window
 * that nobody can access must not look as if there was nothing to discard.
 */
TEST_F_TIMEOUT(collapse_holds, discarded_while_switched, 60)
{
	race_to_switch(_metadata, self, discard_late);
}

/* --- devices ---------------------------------------------------------------------- */

static bool pin(FIXTURE_DATA(collapse_holds) * self, char *mem, size_t pages,
		unsigned int flags)
{
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)mem,
		.size = pages * psize(),
		.flags = flags,
	};

	return !ioctl(self->gup, PIN_LONGTERM_TEST_START, &pin);
}

static bool unpin(FIXTURE_DATA(collapse_holds) * self)
{
	return !ioctl(self->gup, PIN_LONGTERM_TEST_STOP);
}

/* Returns whether a device sees the same content as a thread. */
static bool pin_sees(FIXTURE_DATA(collapse_holds) * self, const char *mem, size_t pages)
{
	static char seen[4 * HPAGE_SIZE / 512];
	uint64_t to = (uintptr_t)seen;

	return !ioctl(self->gup, PIN_LONGTERM_TEST_READ, &to) &&
	       !memcmp(seen, mem, pages * psize());
}

/* The pages of ZONE_MOVABLE, of the first node that has any. */
static bool find_movable(unsigned long *start, unsigned long *pages)
{
	FILE *file = fopen("/proc/zoneinfo", "r");
	bool movable = false;
	char line[256], zone[32];
	unsigned long n;

	*start = 0;
	*pages = 0;
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "Node %lu, zone %31s", &n, zone) == 2)
			movable = !*pages && !strcmp(zone, "Movable");
		else if (movable && sscanf(line, " spanned %lu", &n) == 1)
			*pages = n;
		else if (movable && sscanf(line, " start_pfn: %lu", &n) == 1)
			*start = n;
	}
	if (file)
		fclose(file);
	return *pages;
}

/* A device that is given a page to write, and gives it back, before the switch. */
TEST_F_TIMEOUT(collapse_holds, pinned_and_unpinned, 60)
{
	unsigned long start, pages;

	if (self->gup < 0)
		SKIP(return, "no gup_test");
	if (find_movable(&start, &pages))
		SKIP(return, "who pins memory has to wait in ZONE_MOVABLE");
	for (size_t i = 0; i < ARRAY_SIZE(mapped); i++) {
		pthread_t collapser;

		fill(_metadata, self, PAGES);
		collapser = held_collapse(_metadata, self, mapped[i]);
		ASSERT_TRUE(pin(self, page(self, PAGE), 1, PIN_LONGTERM_TEST_FLAG_USE_WRITE |
				PIN_LONGTERM_TEST_FLAG_USE_FAST));
		write_page(self, PAGE, 77);
		EXPECT_TRUE(pin_sees(self, page(self, PAGE), 1));
		EXPECT_TRUE(unpin(self));
		let_go(_metadata, collapser);
		EXPECT_EQ(self->result, 0);
		EXPECT_TRUE(is_huge(self->window));
		EXPECT_TRUE(intact(self));
	}
}

/* Writes a page. Its second half is missing until write_second_half() provides it. */
static void write_in_halves(struct actor *actor)
{
	FIXTURE_DATA(collapse_holds) * self = actor->self;
	size_t half = psize() / 2;
	char first[HPAGE_SIZE / 1024];
	struct iovec local[] = { { first, half }, { self->aside, half } };
	struct iovec remote = { page(self, PAGE), psize() };

	memset(first, 77, half);
	actor->result = process_vm_writev(getpid(), local, 2, &remote, 1, 0);
}

/*
 * process_vm_writev() locks a page to mark it dirty before it unpins it, unless the page is
 * dirty already. A page that is used often becomes active, by way of an LRU cache: several
 * writes in advance have made it active already.
 */
static bool make_dirty(FIXTURE_DATA(collapse_holds) * self)
{
	struct iovec iov = { page(self, PAGE), psize() };
	bool done = true;

	for (int times = 0; times < 4; times++)
		done &= process_vm_writev(getpid(), &iov, 1, &iov, 1, 0) == (ssize_t)psize();
	return done;
}

static bool first_half_is_there(FIXTURE_DATA(collapse_holds) * self)
{
	return wait_until(FORCE_READ(page(self, PAGE)[psize() / 2 - 1]) == 77);
}

static void write_second_half(struct actor *actor)
{
	static char second[HPAGE_SIZE / 512];
	struct uffdio_copy copy = {
		.dst = (uintptr_t)actor->self->aside,
		.src = (uintptr_t)second,
		.len = psize(),
	};

	memset(second, 77, psize());
	actor->result = ioctl(actor->self->uffd, UFFDIO_COPY, &copy);
}

/*
 * Half of a page is written through a pin, as by a device. The page must not be replaced
 * while it is pinned. If it is unpinned in time, both halves must be there.
 */
TEST_F_TIMEOUT(collapse_holds, half_written_through_pin, 60)
{
	for (size_t i = 0; i < 2 * ARRAY_SIZE(mapped); i++) {
		struct actor writer = { .self = self, .act = write_in_halves };
		struct actor second = { .self = self, .act = write_second_half };
		unsigned long recopied = read_num(RECOPIED);
		bool in_time = i % 2;
		pthread_t collapser;

		fill(_metadata, self, PAGES);
		ASSERT_TRUE(make_dirty(self));
		ASSERT_TRUE(register_aside(self));
		collapser = held_collapse(_metadata, self, mapped[i / 2]);
		start(_metadata, &writer);
		ASSERT_TRUE(first_half_is_there(self));
		if (!in_time)
			let_go(_metadata, collapser);
		second.act(&second);
		EXPECT_EQ(second.result, 0);
		finish(_metadata, &writer);
		EXPECT_EQ(writer.result, psize());
		if (in_time)
			let_go(_metadata, collapser);
		self->expected[PAGE] = 77;
		EXPECT_EQ(self->result, in_time ? 0 : EAGAIN);
		/* At the first try. */
		EXPECT_EQ(read_num(RECOPIED) - recopied, in_time);
		EXPECT_EQ(is_huge(self->window), in_time);
		EXPECT_TRUE(intact(self));
	}
}

/* The same, but the page is unpinned at the switch, before or after references are counted. */
TEST_F_TIMEOUT(collapse_holds, unpinned_while_switched, 60)
{
	struct racer second = {
		.actor = { .self = self, .act = write_second_half },
		/* The thread that it wakes needs a while until it unpins the page. */
		.base = -200000,
	};

	if (!part(&second))
		SKIP(return, "one CPU is not enough");
	for (int i = 0; i < RACES; i++) {
		struct actor writer = {
			.self = self, .act = write_in_halves, .cpu = &second.cpu,
		};
		unsigned long recopied = read_num(RECOPIED);
		pthread_t collapser;
		bool was_early;

		fill(_metadata, self, PAGE + REWRITTEN + 1);
		ASSERT_TRUE(make_dirty(self));
		ASSERT_TRUE(register_aside(self));
		collapser = begin_race(_metadata, self);
		start(_metadata, &writer);
		ASSERT_TRUE(first_half_is_there(self));
		end_race(_metadata, &second, collapser);
		finish(_metadata, &writer);
		EXPECT_EQ(second.actor.result, 0);
		EXPECT_EQ(writer.result, psize());
		EXPECT_TRUE(self->result == 0 || self->result == EAGAIN);
		was_early = read_num(RECOPIED) == recopied + REWRITTEN + 1;
		adjust(&second, was_early);
		self->expected[PAGE] = 77;
		ASSERT_TRUE(intact(self)) {
			TH_LOG("round %d, result %d", i, self->result);
		}
	}
	TH_LOG("%u of %u before the switch", second.early, RACES);
}

/* Returns how many faults the device took, or -1. */
static int write_by_device(int device, char *to, unsigned char value)
{
	static char data[HPAGE_SIZE / 512];

	memset(data, value, psize());
	return use_by_device(device, HMM_DMIRROR_WRITE, to, 1, data);
}

/*
 * A device with page tables of its own writes through an entry that it has. Our PTEs do not
 * show such a write. So the device must lose its entry each time the window is made read-only.
 */
TEST_F_TIMEOUT(collapse_holds, written_by_device, 60)
{
	int device = open(DEVICE, O_RDWR);
	unsigned long rounds = read_num(ROUNDS);
	pthread_t collapser;

	if (device < 0)
		SKIP(return, "no device that mirrors memory");
	fill(_metadata, self, PAGES);
	EXPECT_EQ(write_by_device(device, page(self, PAGE), 70), 1);
	collapser = held_collapse(_metadata, self, "protect");
	EXPECT_EQ(write_by_device(device, page(self, PAGE), 71), 1);
	EXPECT_TRUE(held_next("copy"));
	EXPECT_EQ(write_by_device(device, page(self, PAGE), 72), 0);
	for (size_t i = 300; i < 300 + MANY; i++)
		write_page(self, i, 78);
	EXPECT_TRUE(held_next("protect"));
	EXPECT_TRUE(held_next("copy"));
	EXPECT_EQ(write_by_device(device, page(self, PAGE), 73), 1);
	let_go(_metadata, collapser);
	self->expected[PAGE] = 73;
	EXPECT_EQ(self->result, 0);
	EXPECT_EQ(read_num(ROUNDS), rounds + 1);
	EXPECT_TRUE(is_huge(self->window));
	EXPECT_TRUE(intact(self));
	/* The device does not write to freed pages, either. */
	EXPECT_EQ(write_by_device(device, page(self, PAGE), 74), 1);
	self->expected[PAGE] = 74;
	EXPECT_TRUE(intact(self));
	close(device);
}

/* --- writes by other ways --------------------------------------------------------- */

/* Writes as a debugger does, to a process that it has stopped. */
static void poke(struct actor *actor)
{
	char *to = page(actor->self, PAGE);
	long word;
	int status;

	actor->result = -1;
	memset(&word, 0x5a, sizeof(word));
	if (ptrace(PTRACE_SEIZE, actor->child, NULL, NULL) ||
	    ptrace(PTRACE_INTERRUPT, actor->child, NULL, NULL) ||
	    waitpid(actor->child, &status, __WALL) != actor->child)
		return;
	actor->result = 0;
	for (size_t i = 0; i < psize(); i += sizeof(word))
		actor->result |= ptrace(PTRACE_POKEDATA, actor->child, to + i, word);
	ptrace(PTRACE_DETACH, actor->child, NULL, NULL);
}

/* Starts a child that fills the window, and then leaves it as it is. */
static pid_t fork_filled(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_holds) * self,
			 int prot)
{
	int filled[2];
	pid_t child;
	char c = 0;

	ASSERT_TRUE(map_private(self->window, WINDOW));
	ASSERT_EQ(pipe(filled), 0);
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		fill(_metadata, self, PAGES);
		mprotect(self->window, WINDOW, prot);
		if (write(filled[1], &c, 1) != 1)
			_exit(1);
		while (1)
			pause();
	}
	EXPECT_EQ(read(filled[0], &c, 1), 1);
	close(filled[0]);
	close(filled[1]);
	return child;
}

/*
 * A debugger writes memory that its process cannot write, and the entry of the page stays
 * read-only, or becomes so again.
 */
TEST_F_TIMEOUT(collapse_holds, poked, 60)
{
	static const struct {
		const char *pass;
		int prot;
	} cases[] = {
		{ "protect", PROT_READ | PROT_WRITE },
		{ "copy", PROT_READ | PROT_WRITE },
		{ "switch", PROT_READ | PROT_WRITE },
		{ "fault_in", PROT_READ },
		{ "unmap", PROT_READ },
		{ "copy", PROT_READ },
		{ "switch", PROT_READ },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		unsigned long old_way = read_num(OLD_WAY);
		struct call call = { .start = self->window, .len = WINDOW };
		struct actor poker = { .self = self, .act = poke };
		struct iovec local = { self->aside, WINDOW }, remote = { self->window, WINDOW };
		pthread_t collapser;

		poker.child = fork_filled(_metadata, self, cases[i].prot);
		call.pidfd = syscall(__NR_pidfd_open, poker.child, 0);
		hold_after(cases[i].pass);
		ASSERT_EQ(pthread_create(&collapser, NULL, run_call, &call), 0);
		EXPECT_TRUE(wait_held());
		start_and_wait(_metadata, &poker);
		let_go(_metadata, collapser);
		finish(_metadata, &poker);
		EXPECT_EQ(poker.result, 0);
		EXPECT_TRUE(call.result == (ssize_t)WINDOW || call.result == -EAGAIN) {
			TH_LOG("case %zu: %zd", i, call.result);
		}
		close(call.pidfd);
		if (!(cases[i].prot & PROT_WRITE))
			EXPECT_GT(read_num(OLD_WAY), old_way);

		/* Both have the same addresses: look at a copy of what the child has. */
		ASSERT_TRUE(map_private(self->aside, WINDOW));
		EXPECT_EQ(process_vm_readv(poker.child, &local, 1, &remote, 1, 0), WINDOW);
		ASSERT_TRUE(map_private(self->window, WINDOW));
		memset(self->expected, 0, sizeof(self->expected));
		for (size_t j = 0; j < PAGES; j++)
			self->expected[j] = j == HOLE || j == ZERO_PAGE ? 0 : 1 + j % 100;
		self->expected[PAGE] = 0x5a;
		memcpy(self->window, self->aside, WINDOW);
		EXPECT_TRUE(intact(self)) {
			TH_LOG("case %zu", i);
		}
		kill(poker.child, SIGKILL);
		ASSERT_EQ(waitpid(poker.child, NULL, __WALL), poker.child);
	}
}

static bool uffd_protect(FIXTURE_DATA(collapse_holds) * self, size_t i, bool protect)
{
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)page(self, i), psize() },
		.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return !ioctl(self->uffd, UFFDIO_WRITEPROTECT, &wp);
}

static bool uffd_rwprotect(FIXTURE_DATA(collapse_holds) * self, size_t i, bool protect)
{
	struct uffdio_rwprotect rwp = {
		.range = { (uintptr_t)page(self, i), psize() },
		.mode = protect ? UFFDIO_RWPROTECT_MODE_RWP : 0,
	};

	return !ioctl(self->uffd, UFFDIO_RWPROTECT, &rwp);
}

/* Protects three pages for a moment: writes one before and after, one before, one after. */
static void write_around(struct actor *actor,
			 bool (*protect)(FIXTURE_DATA(collapse_holds) * self, size_t i, bool on))
{
	FIXTURE_DATA(collapse_holds) * self = actor->self;

	write_page(self, PAGE, 60);
	write_page(self, PAGE + 1, 61);
	for (size_t i = PAGE; i < PAGE + 3; i++)
		actor->result |= !protect(self, i, true);
	for (size_t i = PAGE; i < PAGE + 3; i++)
		actor->result |= !protect(self, i, false);
	write_page(self, PAGE, 62);
	write_page(self, PAGE + 2, 63);
}

static void write_around_protection(struct actor *actor)
{
	write_around(actor, uffd_protect);
}

static void write_around_rwp(struct actor *actor)
{
	write_around(actor, uffd_rwprotect);
	/* Faults are resolved without a handler, and the protection is removed. */
	actor->result |= !uffd_rwprotect(actor->self, PAGE + 4, true);
	write_page(actor->self, PAGE + 4, 64);
	actor->result |= !uffd_rwprotect(actor->self, PAGE + 5, true);
	FORCE_READ(page(actor->self, PAGE + 5)[0]);
}

static size_t scan_written(FIXTURE_DATA(collapse_holds) * self, bool protect)
{
	struct page_region regions[64];
	struct pm_scan_arg scan = {
		.size = sizeof(scan),
		.flags = protect ? PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC : 0,
		.start = (uintptr_t)self->window,
		.end = (uintptr_t)self->window + WINDOW,
		.vec = (uintptr_t)regions,
		.vec_len = ARRAY_SIZE(regions),
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	int nr = ioctl(self->pagemap, PAGEMAP_SCAN, &scan);
	size_t pages = 0;

	for (int i = 0; i < nr; i++)
		pages += (regions[i].end - regions[i].start) / psize();
	return pages;
}

#define WATCHED		3

/* Begins to record writes, and writes pages before and after that. */
static void scan_and_write(struct actor *actor)
{
	FIXTURE_DATA(collapse_holds) * self = actor->self;

	write_page(self, PAGE, 65);
	scan_written(self, true);
	for (size_t i = PAGE; i < PAGE + WATCHED; i++)
		write_page(self, i, 66);
}

static bool register_for(FIXTURE_DATA(collapse_holds) * self, uint64_t features, uint64_t mode)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)self->window, WINDOW },
		.mode = mode,
	};

	if (self->uffd >= 0)
		close(self->uffd);
	self->uffd = open_userfaultfd(features);
	return self->uffd >= 0 && !ioctl(self->uffd, UFFDIO_REGISTER, &reg);
}

/*
 * userfaultfd removes permissions of entries, and restores them, under no lock that a
 * collapse holds. So an entry may look as if its page had not been written to.
 */
static void act_while_protecting(struct __test_metadata *_metadata,
				 FIXTURE_DATA(collapse_holds) * self,
				 void (*act)(struct actor *actor), uint64_t features,
				 uint64_t mode)
{
	static const char * const passes[] = {
		"scan", "prealloc", "fault_in", "unmap", "copy", "switch",
	};

	for (size_t i = 0; i < ARRAY_SIZE(passes); i++) {
		struct actor actor = { .self = self, .act = act };
		pthread_t collapser;

		fill(_metadata, self, PAGES);
		/* userfaultfd wants to be told when a page is missing. */
		write_page(self, HOLE, 58);
		write_page(self, ZERO_PAGE, 59);
		if (!register_for(self, features, mode))
			SKIP(return, "userfaultfd cannot do that");
		collapser = held_collapse(_metadata, self, passes[i]);
		start_and_wait(_metadata, &actor);
		let_go(_metadata, collapser);
		finish(_metadata, &actor);
		EXPECT_EQ(actor.result, 0);
		if (act == scan_and_write) {
			EXPECT_GE(scan_written(self, false), WATCHED) {
				TH_LOG("after %s", passes[i]);
			}
			if (!is_huge(self->window))
				EXPECT_EQ(scan_written(self, false), WATCHED);
		}
		EXPECT_TRUE(intact(self)) {
			TH_LOG("after %s, result %d", passes[i], self->result);
		}
	}
}

TEST_F_TIMEOUT(collapse_holds, write_protected_and_back, 60)
{
	act_while_protecting(_metadata, self, write_around_protection, 0,
			     UFFDIO_REGISTER_MODE_WP);
}

TEST_F_TIMEOUT(collapse_holds, access_protected_and_back, 60)
{
	act_while_protecting(_metadata, self, write_around_rwp,
			     UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC, UFFDIO_REGISTER_MODE_RWP);
}

TEST_F_TIMEOUT(collapse_holds, watched_for_writes, 60)
{
	act_while_protecting(_metadata, self, scan_and_write,
			     UFFD_FEATURE_WP_ASYNC, UFFDIO_REGISTER_MODE_WP);
}

/*
 * PAGEMAP_SCAN write-protects pages while migration entries stand for them. The collapse
 * then puts the pages back, and they have to be write-protected still: nobody has written
 * them.
 */
TEST_F_TIMEOUT(collapse_holds, watched_while_unmapped, 60)
{
	static const char * const unmapped[] = { "unmap", "copy" };

	for (size_t i = 0; i < ARRAY_SIZE(unmapped); i++) {
		pthread_t collapser;

		fill(_metadata, self, PAGES);
		write_page(self, HOLE, 58);
		write_page(self, ZERO_PAGE, 59);
		if (!register_for(self, UFFD_FEATURE_WP_ASYNC, UFFDIO_REGISTER_MODE_WP))
			SKIP(return, "userfaultfd cannot do that");
		collapser = held_collapse(_metadata, self, unmapped[i]);
		EXPECT_EQ(scan_written(self, true), PAGES);
		EXPECT_EQ(scan_written(self, false), 0);
		let_go(_metadata, collapser);
		EXPECT_NE(self->result, 0);
		EXPECT_EQ(scan_written(self, false), 0) {
			TH_LOG("after %s", unmapped[i]);
		}
		write_page(self, PAGE, 60);
		EXPECT_EQ(scan_written(self, false), 1);
		EXPECT_TRUE(intact(self));
	}
}

struct looker {
	FIXTURE_DATA(collapse_holds) * self;
	atomic_bool stop;
	atomic_ulong found, lost;
};

/* Asks on which node pages are, which is a negative number for a page that is not there. */
static void *look_up(void *argument)
{
	struct looker *looker = argument;
	void *pages[64];
	int nodes[64];

	for (size_t i = 0; i < ARRAY_SIZE(pages); i++)
		pages[i] = page(looker->self, i);
	while (!looker->stop) {
		if (syscall(__NR_move_pages, 0, ARRAY_SIZE(pages), pages, NULL, nodes, 0))
			continue;
		for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
			looker->found += nodes[i] >= 0;
			looker->lost += nodes[i] < 0;
		}
	}
	return NULL;
}

#define LOOKED_UP	300

/* A page is there all the time, also for a look-up that meets a page table that is replaced. */
TEST_F_TIMEOUT(collapse_holds, looked_up_while_switched, 60)
{
	struct looker looker = { .self = self };
	pthread_t looking;

	fill(_metadata, self, PAGES);
	ASSERT_EQ(collapse(self->window, WINDOW), 0);
	if (!register_for(self, 0, UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "userfaultfd cannot do that");
	ASSERT_EQ(pthread_create(&looking, NULL, look_up, &looker), 0);
	EXPECT_TRUE(wait_until(looker.found));
	for (int i = 0; i < LOOKED_UP && !looker.lost; i++) {
		int result;

		/* Splits the mapping, but not the page, and takes no lock for write. */
		EXPECT_TRUE(uffd_protect(self, PAGE, true));
		EXPECT_TRUE(uffd_protect(self, PAGE, false));
		result = collapse(self->window, WINDOW);
		EXPECT_TRUE(result == 0 || result == EAGAIN);
	}
	looker.stop = true;
	ASSERT_EQ(pthread_join(looking, NULL), 0);
	EXPECT_EQ(looker.lost, 0);
	EXPECT_TRUE(intact(self));
}

/* --- large folios ----------------------------------------------------------------- */

/* Each user has a third of the pages for its own, in runs of a folio's size. */
#define RUN		4

struct user {
	FIXTURE_DATA(collapse_holds) * self;
	/* The first run that is its own, of three. */
	size_t first;
	unsigned int seed;
	atomic_bool stop;
	unsigned long bad, done;
	pthread_t thread;
};

static size_t draw_run(struct user *user)
{
	size_t runs = PAGES / RUN / 3;

	return RUN * (3 * (rand_r(&user->seed) % runs) + user->first);
}

static bool run_intact(FIXTURE_DATA(collapse_holds) * self, size_t first)
{
	bool good = true;

	for (size_t i = first; i < first + RUN; i++)
		good &= page_intact(self, i);
	return good;
}

static void *write_runs(void *argument)
{
	struct user *user = argument;

	while (!user->stop) {
		size_t i = draw_run(user);

		user->bad += !run_intact(user->self, i);
		for (size_t j = 0; j < RUN; j++)
			write_page(user->self, i + j, rand_r(&user->seed));
		user->done++;
	}
	return NULL;
}

static void *pin_runs(void *argument)
{
	FIXTURE_DATA(collapse_holds) * self = ((struct user *)argument)->self;
	struct user *user = argument;

	while (!user->stop) {
		size_t i = draw_run(user);

		user->bad += !run_intact(self, i);
		if (!pin(self, page(self, i), RUN, rand_r(&user->seed) %
			 (PIN_LONGTERM_TEST_FLAG_USE_FAST + 1) | PIN_LONGTERM_TEST_FLAG_USE_WRITE))
			continue;
		for (size_t j = 0; j < RUN; j++)
			write_page(self, i + j, rand_r(&user->seed));
		usleep(rand_r(&user->seed) % 2000);
		user->bad += !pin_sees(self, page(self, i), RUN);
		unpin(self);
		user->done++;
		/* Time for a collapse. */
		usleep(rand_r(&user->seed) % 50000);
	}
	return NULL;
}

static void *page_runs_out(void *argument)
{
	struct user *user = argument;

	while (!user->stop) {
		madvise(page(user->self, draw_run(user)), 10 * RUN * psize(), MADV_PAGEOUT);
		user->done++;
		usleep(rand_r(&user->seed) % 50000);
	}
	return NULL;
}

#define TRIES		100
#define COLLAPSES	20

/*
 * A large folio has a reference for each entry that maps it, and one per page from the swap
 * cache. A pin must not be taken for one of these references, while reclaim and swap-in
 * change their number.
 */
TEST_F_TIMEOUT(collapse_holds, large_folios_in_use, 100)
{
	struct user users[] = {
		{ .self = self, .first = 0, .seed = 1 },
		{ .self = self, .first = 1, .seed = 2 },
		{ .self = self, .first = 2, .seed = 3 },
	};
	void *(* const uses[])(void *) = { write_runs, pin_runs, page_runs_out };
	unsigned int collapsed = 0, tries = 0;

	if (self->gup < 0 || !use_large_folios(true))
		SKIP(return, "no gup_test, or no folios of four pages");
	ASSERT_TRUE(map_private(self->window, WINDOW));
	for (size_t i = 0; i < PAGES; i++)
		write_page(self, i, 1 + i % 100);
	for (size_t i = 0; i < ARRAY_SIZE(users); i++)
		ASSERT_EQ(pthread_create(&users[i].thread, NULL, uses[i], &users[i]), 0);
	for (; tries < TRIES && collapsed < COLLAPSES; tries++) {
		run_collapse(self);
		EXPECT_TRUE(self->result == 0 || self->result == EAGAIN) {
			TH_LOG("%s", strerror(self->result));
		}
		collapsed += !self->result;
		/* Or later. */
		if (self->result)
			usleep(10000);
		else
			madvise(self->window, WINDOW, MADV_PAGEOUT);
	}
	for (size_t i = 0; i < ARRAY_SIZE(users); i++)
		users[i].stop = true;
	for (size_t i = 0; i < ARRAY_SIZE(users); i++) {
		ASSERT_EQ(pthread_join(users[i].thread, NULL), 0);
		EXPECT_EQ(users[i].bad, 0);
		EXPECT_GT(users[i].done, 0);
	}
	TH_LOG("%u of %u collapsed, %lu writes, %lu pins, %lu times paged out", collapsed, tries,
	       users[0].done, users[1].done, users[2].done);
	EXPECT_TRUE(intact(self));
	for (tries = 0; self->result && tries < 10; tries++)
		run_collapse(self);
	run_collapse(self);
	EXPECT_EQ(self->result, 0);
	EXPECT_TRUE(is_huge(self->window));
	EXPECT_TRUE(intact(self));
}

/* --- others that must wait, or must not ------------------------------------------- */

#define PROBE_NAME	"collapse_holds/drain"

static bool probe_drains(bool on)
{
	if (on && !append_text(TRACING "kprobe_events", "p:" PROBE_NAME " lru_add_drain_all"))
		return false;
	append_text(TRACING "events/" PROBE_NAME "/enable", on ? "1" : "0");
	return on || append_text(TRACING "kprobe_events", "-:" PROBE_NAME);
}

/* How often the LRU caches of all CPUs were drained. */
static long drains(void)
{
	FILE *file = fopen(TRACING "kprobe_profile", "r");
	char line[256], name[128];
	unsigned long hits;
	long drains = -1;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, " %127s %lu", name, &hits) == 2 && !strcmp(name, "drain"))
			drains = hits;
	if (file)
		fclose(file);
	return drains;
}

/*
 * Two threads want the same window. The second is refused, and does not interrupt all CPUs
 * to have them drain their LRU caches: draining could not drop the reference that it found.
 */
TEST_F_TIMEOUT(collapse_holds, second_is_refused_at_once, 60)
{
	long before;

	ASSERT_EQ(stay_on_this_cpu(), 0);
	if (!probe_drains(true))
		SKIP(return, "no kprobes");
	before = drains();
	write_num("/proc/sys/vm/compact_memory", 1);
	EXPECT_GT(drains(), before);
	for (size_t i = 0; i < ARRAY_SIZE(mapped); i++) {
		pthread_t collapser;

		fill(_metadata, self, PAGES);
		collapser = held_collapse(_metadata, self, mapped[i]);
		before = drains();
		EXPECT_EQ(collapse(self->window, WINDOW), EAGAIN);
		EXPECT_EQ(drains(), before);
		EXPECT_EQ(nr_held(), 1);
		let_go(_metadata, collapser);
		EXPECT_EQ(self->result, 0);
		EXPECT_TRUE(is_huge(self->window));
		EXPECT_TRUE(intact(self));
	}
	EXPECT_TRUE(probe_drains(false));
}

/* Nor does a page that a device has pinned interrupt all CPUs. */
TEST_F_TIMEOUT(collapse_holds, pinned_drains_nothing, 60)
{
	long before;

	if (self->gup < 0 || !probe_drains(true))
		SKIP(return, "no gup_test, or no kprobes");
	fill(_metadata, self, PAGES);
	ASSERT_TRUE(pin(self, page(self, PAGE), 1, PIN_LONGTERM_TEST_FLAG_USE_WRITE));
	before = drains();
	EXPECT_EQ(collapse(self->window, WINDOW), EAGAIN);
	EXPECT_EQ(drains(), before);
	EXPECT_TRUE(unpin(self));
	EXPECT_EQ(collapse(self->window, WINDOW), 0);
	EXPECT_TRUE(intact(self));
	EXPECT_TRUE(probe_drains(false));
}

static void do_fork(struct actor *actor)
{
	/* The child writes to the same memory. */
	pid_t child = fork();

	while (!child)
		pause();
	actor->child = child;
}

static void do_mprotect(struct actor *actor)
{
	actor->result = mprotect(actor->self->window, WINDOW, PROT_READ);
}

static void do_clear_refs(struct actor *actor)
{
	clear_softdirty();
}

static void pfns_of(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_holds) * self,
		    pid_t pid, unsigned long *pfns)
{
	char path[32];
	int pagemap;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	pagemap = open(path, O_RDONLY);
	ASSERT_GE(pagemap, 0);
	for (size_t i = 0; i < PAGES; i++)
		pfns[i] = PAGEMAP_PFN(pagemap_get_entry(pagemap, page(self, i)));
	close(pagemap);
}

/*
 * Lets the held collapse go on when a thread has begun to wait for it. A process does so,
 * since a page fault of another thread would wait for fork(), which waits for the collapse
 * with mmap_lock held for write. Returns the process. Its exit status is 0 for success.
 */
static pid_t let_go_once_asleep(const pid_t *tid)
{
	pid_t watcher = fork();

	if (!watcher) {
		bool asleep = wait_asleep(tid);

		hold_after("none");
		_exit(!asleep);
	}
	return watcher;
}

/*
 * fork() copies pinned pages if the process has ever pinned pages. It must not find our
 * pins, whether the window is huge by then or was put back.
 */
static void change_mapping(struct __test_metadata *_metadata,
			   FIXTURE_DATA(collapse_holds) * self,
			   void (*act)(struct actor *actor))
{
	static const char * const passes[] = { "protect", "copy", "switch", "copy" };
	static unsigned long before[HPAGE_SIZE / 4096], after[HPAGE_SIZE / 4096];
	static unsigned long in_child[HPAGE_SIZE / 4096];
	struct actor *actor;

	/* From here on fork() looks for pins. */
	if (self->gup < 0 || !map_private(self->aside, WINDOW) || !pin(self, self->aside, 1, 1) ||
	    !unpin(self))
		SKIP(return, "no gup_test");
	/* Shared with the process that lets the collapse go on. */
	actor = mmap(NULL, sizeof(*actor), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		     -1, 0);
	ASSERT_NE(actor, MAP_FAILED);
	for (size_t i = 0; i < ARRAY_SIZE(passes); i++) {
		bool refused = i == ARRAY_SIZE(passes) - 1;
		pthread_t collapser;
		pid_t watcher;
		int status;

		*actor = (struct actor){ .self = self, .act = act };
		/* Before the window is filled: pages of a process that exits may be refused. */
		watcher = let_go_once_asleep(&actor->tid);
		ASSERT_GT(watcher, 0);
		fill(_metadata, self, PAGES);
		pfns_of(_metadata, self, getpid(), before);
		collapser = held_collapse(_metadata, self, passes[i]);
		if (refused)
			write_num(BAD_COUNT, 1);
		start(_metadata, actor);
		ASSERT_EQ(waitpid(watcher, &status, 0), watcher);
		EXPECT_EQ(status, 0);
		ASSERT_EQ(pthread_join(collapser, NULL), 0);
		finish(_metadata, actor);
		EXPECT_EQ(self->result, refused && act == do_mprotect ? self->result : 0);
		EXPECT_EQ(actor->result, 0);
		if (act == do_fork) {
			ASSERT_GT(actor->child, 0);
			pfns_of(_metadata, self, getpid(), after);
			pfns_of(_metadata, self, actor->child, in_child);
			for (size_t j = 0; j < PAGES; j++) {
				EXPECT_TRUE(in_child[j] == before[j] || in_child[j] == after[j]) {
					TH_LOG("after %s%s: page %zu is a copy", passes[i],
					       refused ? ", refused" : "", j);
					break;
				}
			}
			kill(actor->child, SIGKILL);
			ASSERT_EQ(waitpid(actor->child, NULL, 0), actor->child);
		}
		EXPECT_EQ(pins_left(), 0);
		EXPECT_TRUE(intact(self));
		mprotect(self->window, WINDOW, PROT_READ | PROT_WRITE);
	}
	munmap(actor, sizeof(*actor));
}

TEST_F_TIMEOUT(collapse_holds, fork_waits, 60)
{
	change_mapping(_metadata, self, do_fork);
}

TEST_F_TIMEOUT(collapse_holds, mprotect_waits, 60)
{
	change_mapping(_metadata, self, do_mprotect);
}

TEST_F_TIMEOUT(collapse_holds, clear_refs_waits, 60)
{
	change_mapping(_metadata, self, do_clear_refs);
}

/* --- windows that are put back ---------------------------------------------------- */

#define FIRST_ZEROES	300
#define NR_ZEROES	20
#define USE_ZERO_PAGES	"/sys/kernel/mm/ksm/use_zero_pages"

/*
 * Zero pages are no sources, and zero pages that KSM has made are counted. They must stay
 * mapped and counted until the huge page takes their place.
 */
TEST_F_TIMEOUT(collapse_holds, zero_pages_are_put_back, 60)
{
	unsigned long use_zero_pages;
	pthread_t collapser;
	size_t zero_pages;
	long merged;

	if (access(USE_ZERO_PAGES, W_OK))
		SKIP(return, "no KSM");
	use_zero_pages = read_num(USE_ZERO_PAGES);
	write_num(USE_ZERO_PAGES, 1);
	fill(_metadata, self, PAGES);
	for (size_t i = FIRST_ZEROES; i < FIRST_ZEROES + NR_ZEROES; i++)
		write_page(self, i, 0);
	ASSERT_EQ(madvise(self->window, WINDOW, MADV_MERGEABLE), 0);
	ASSERT_EQ(ksm_start(), 0);
	write_num("/sys/kernel/mm/ksm/run", 0);
	merged = ksm_get_self_zero_pages();
	zero_pages = count_pages(self->window, WINDOW, PAGE_IS_PFNZERO);
	EXPECT_EQ(merged, NR_ZEROES);
	EXPECT_EQ(zero_pages, NR_ZEROES + 1);

	collapser = held_collapse(_metadata, self, "copy");
	EXPECT_EQ(ksm_get_self_zero_pages(), merged);
	write_num(BAD_COUNT, 1);
	/* The window was refused, and is tried again. */
	EXPECT_TRUE(held_next("protect"));
	EXPECT_EQ(read_num(BAD_COUNT), 0);
	EXPECT_EQ(ksm_get_self_zero_pages(), merged);
	EXPECT_EQ(count_pages(self->window, WINDOW, PAGE_IS_PFNZERO), zero_pages);
	EXPECT_FALSE(pagemap_is_populated(self->pagemap, page(self, HOLE)));
	EXPECT_TRUE(intact(self));
	let_go(_metadata, collapser);
	EXPECT_EQ(self->result, 0);
	EXPECT_TRUE(is_huge(self->window));
	EXPECT_EQ(ksm_get_self_zero_pages(), 0);
	EXPECT_TRUE(intact(self));
	ksm_stop();
	write_num(USE_ZERO_PAGES, use_zero_pages);
}

/*
 * Pages that were written to are copied again: in a round of their own, or while nobody can
 * access the window. A page may turn out to be bad in that copy, too.
 */
TEST_F_TIMEOUT(collapse_holds, bad_when_copied_again, 60)
{
	static const size_t written[] = { 1, 30, MANY };

	for (size_t i = 0; i < ARRAY_SIZE(written); i++) {
		pthread_t collapser;

		fill(_metadata, self, PAGES);
		collapser = held_collapse(_metadata, self, "copy");
		for (size_t j = 0; j < written[i]; j++)
			write_page(self, PAGE + j, 67);
		/* The last of them. */
		write_num(BAD_COPY, written[i]);
		let_go(_metadata, collapser);
		EXPECT_EQ(read_num(BAD_COPY), 0);
		EXPECT_EQ(self->result, EINVAL);
		EXPECT_FALSE(is_huge(self->window));
		EXPECT_FALSE(pagemap_is_populated(self->pagemap, page(self, HOLE)));
		EXPECT_EQ(count_pages(self->window, WINDOW, PAGE_IS_PFNZERO), 1);
		EXPECT_TRUE(intact(self));
		write_page(self, PAGE, 68);
		write_page(self, PAGES - 1, 69);
		run_collapse(self);
		EXPECT_EQ(self->result, 0);
		EXPECT_TRUE(is_huge(self->window));
		EXPECT_TRUE(intact(self));
	}
}

/* --- memory that must not be pinned for long -------------------------------------- */

static void pin_for_long(struct actor *actor)
{
	actor->result = pin(actor->self, page(actor->self, PAGE), 1, actor->mode) ? 0 : errno;
}

/*
 * A long-term pin moves a page out of ZONE_MOVABLE first. It waits for a page that is
 * locked. If it found our pin instead, it would have to give up.
 */
TEST_F_TIMEOUT(collapse_holds, pinned_out_of_zone_movable, 60)
{
	static const unsigned int flags[] = {
		PIN_LONGTERM_TEST_FLAG_USE_WRITE,
		PIN_LONGTERM_TEST_FLAG_USE_WRITE | PIN_LONGTERM_TEST_FLAG_USE_FAST,
		PIN_LONGTERM_TEST_FLAG_USE_FAST,
	};
	unsigned long start, pages, pfn;

	if (self->gup < 0 || !find_movable(&start, &pages))
		SKIP(return, "no gup_test, or no ZONE_MOVABLE");
	for (size_t i = 0; i < ARRAY_SIZE(flags) * ARRAY_SIZE(mapped); i++) {
		struct actor pinner = {
			.self = self,
			.act = pin_for_long,
			.mode = flags[i / ARRAY_SIZE(mapped)],
		};
		pthread_t collapser;

		fill(_metadata, self, PAGES);
		pfn = pagemap_get_pfn(self->pagemap, page(self, PAGE));
		if (pfn - start >= pages)
			SKIP(return, "ZONE_MOVABLE is full");
		collapser = held_collapse(_metadata, self, mapped[i % ARRAY_SIZE(mapped)]);
		start_and_wait(_metadata, &pinner);
		EXPECT_TRUE(wait_asleep(&pinner.tid));
		EXPECT_FALSE(pinner.done);
		let_go(_metadata, collapser);
		finish(_metadata, &pinner);
		ASSERT_EQ(pinner.result, 0) {
			TH_LOG("%s", strerror(pinner.result));
		}
		EXPECT_TRUE(self->result == 0 || self->result == EAGAIN);
		pfn = pagemap_get_pfn(self->pagemap, page(self, PAGE));
		EXPECT_GE(pfn - start, pages);
		write_page(self, PAGE, 79);
		EXPECT_TRUE(pin_sees(self, page(self, PAGE), 1));
		EXPECT_TRUE(unpin(self));
		EXPECT_TRUE(intact(self));
	}
}

/* --- limits ------------------------------------------------------------------------ */

static void collapse_with_limits(struct actor *actor)
{
	int pidfd = syscall(__NR_pidfd_open, getpid(), 0);

	actor->result = collapse_of(pidfd, actor->self->window, WINDOW, MADV_F_COLLAPSE_LIMITS);
	close(pidfd);
}

/*
 * Pages that another collapse moves are not swapped out, so no limit of swapped pages is
 * exceeded: they are waited for.
 */
TEST_F_TIMEOUT(collapse_holds, moving_is_not_swapped, 60)
{
	struct actor second = { .self = self, .act = collapse_with_limits };
	long exceeded = read_field("/proc/vmstat", "thp_scan_exceed_swap_pte");
	pthread_t first;

	fill(_metadata, self, PAGES);
	go_way("unmap");
	first = held_collapse(_metadata, self, "unmap");
	start(_metadata, &second);
	usleep(100000);
	EXPECT_FALSE(second.done);
	let_go(_metadata, first);
	finish(_metadata, &second);
	go_way("protect");
	EXPECT_EQ(self->result, 0);
	EXPECT_EQ(second.result, WINDOW);
	EXPECT_EQ(read_field("/proc/vmstat", "thp_scan_exceed_swap_pte"), exceeded);
	EXPECT_TRUE(is_huge(self->window));
	EXPECT_TRUE(intact(self));
}

TEST_HARNESS_MAIN
