// SPDX-License-Identifier: GPL-2.0
/*
 * Acts on a window while its collapse is held between two passes, for each pass
 * and each action: CONFIG_THP_COLLAPSE_RUST_DEBUG holds it. Whoever has to wait
 * for the collapse does so until it goes on. Whatever comes of the collapse, the
 * window must then hold what was written, and be writable.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "hugepage_settings.h"
#include "vm_util.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

#define HOLD	"/sys/kernel/debug/thp_collapse/hold"
#define WINDOW	((size_t)HPAGE_SIZE)
#define PAGES	(WINDOW / psize())

/* Slots that are not backed by a page of their own. */
#define HOLE		100
#define ZERO_PAGE	200

static const char * const passes[] = {
	"scan", "provide", "fault_in", "isolate", "copy", "install",
};

FIXTURE(collapse_race)
{
	char *mem;
	/* What a page reads as, throughout; or where .lazy is set, zero. */
	unsigned char expected[HPAGE_SIZE / 4096];
	bool lazy[HPAGE_SIZE / 4096];
	int uffd;
	int result;
};

FIXTURE_VARIANT(collapse_race)
{
	void (*act)(FIXTURE_DATA(collapse_race) * self);
	bool write_protected;
};

static char *page(FIXTURE_DATA(collapse_race) * self, size_t i)
{
	return self->mem + i * psize();
}

static void discard(FIXTURE_DATA(collapse_race) * self, size_t first, size_t pages)
{
	madvise(page(self, first), pages * psize(), MADV_DONTNEED);
	memset(self->expected + first, 0, pages);
}

static void write_page(FIXTURE_DATA(collapse_race) * self, size_t i, unsigned char value)
{
	memset(page(self, i), value, psize());
	self->expected[i] = value;
}

static void act_discard_page(FIXTURE_DATA(collapse_race) * self)
{
	discard(self, 5, 1);
}

static void act_discard_window(FIXTURE_DATA(collapse_race) * self)
{
	discard(self, 0, PAGES);
}

static void act_discard_and_refill(FIXTURE_DATA(collapse_race) * self)
{
	discard(self, 0, PAGES);
	write_page(self, 7, 3);
}

static void act_write(FIXTURE_DATA(collapse_race) * self)
{
	write_page(self, 9, 77);
}

static void act_fill_hole(FIXTURE_DATA(collapse_race) * self)
{
	write_page(self, HOLE, 0x11);
}

static void act_write_zero_page(FIXTURE_DATA(collapse_race) * self)
{
	write_page(self, ZERO_PAGE, 0x12);
}

static void act_install_guard(FIXTURE_DATA(collapse_race) * self)
{
	madvise(page(self, 3), psize(), MADV_GUARD_INSTALL);
	self->expected[3] = 0;
}

static void act_page_out(FIXTURE_DATA(collapse_race) * self)
{
	madvise(page(self, 3), 40 * psize(), MADV_PAGEOUT);
}

static void act_free_lazily(FIXTURE_DATA(collapse_race) * self)
{
	memset(self->lazy + 5, true, 300);
	madvise(page(self, 5), 300 * psize(), MADV_FREE);
}

static void act_clear_soft_dirty(FIXTURE_DATA(collapse_race) * self)
{
	clear_softdirty();
}

static void act_compact(FIXTURE_DATA(collapse_race) * self)
{
	write_num("/proc/sys/vm/compact_memory", 1);
}

static void act_fork(FIXTURE_DATA(collapse_race) * self)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	waitpid(child, NULL, 0);
}

static void act_protect(FIXTURE_DATA(collapse_race) * self)
{
	mprotect(self->mem, WINDOW, PROT_READ);
	mprotect(self->mem, WINDOW, PROT_READ | PROT_WRITE);
}

static void act_write_protect(FIXTURE_DATA(collapse_race) * self)
{
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)self->mem, WINDOW },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	ioctl(self->uffd, UFFDIO_WRITEPROTECT, &wp);
}

FIXTURE_VARIANT_ADD(collapse_race, discard_page)
{
	.act = act_discard_page,
};

FIXTURE_VARIANT_ADD(collapse_race, discard_window)
{
	.act = act_discard_window,
};

FIXTURE_VARIANT_ADD(collapse_race, discard_and_refill)
{
	.act = act_discard_and_refill,
};

FIXTURE_VARIANT_ADD(collapse_race, write)
{
	.act = act_write,
};

FIXTURE_VARIANT_ADD(collapse_race, fill_hole)
{
	.act = act_fill_hole,
};

FIXTURE_VARIANT_ADD(collapse_race, write_zero_page)
{
	.act = act_write_zero_page,
};

FIXTURE_VARIANT_ADD(collapse_race, install_guard)
{
	.act = act_install_guard,
};

FIXTURE_VARIANT_ADD(collapse_race, page_out)
{
	.act = act_page_out,
};

FIXTURE_VARIANT_ADD(collapse_race, free_lazily)
{
	.act = act_free_lazily,
};

FIXTURE_VARIANT_ADD(collapse_race, clear_soft_dirty)
{
	.act = act_clear_soft_dirty,
};

FIXTURE_VARIANT_ADD(collapse_race, compact)
{
	.act = act_compact,
};

FIXTURE_VARIANT_ADD(collapse_race, fork)
{
	.act = act_fork,
};

FIXTURE_VARIANT_ADD(collapse_race, protect)
{
	.act = act_protect,
};

FIXTURE_VARIANT_ADD(collapse_race, write_protect)
{
	.act = act_write_protect,
	.write_protected = true,
};

FIXTURE_SETUP(collapse_race)
{
	char *area;

	if (access(HOLD, W_OK))
		SKIP(return, "no " HOLD);
	thp_save_settings();
	thp_write_string("enabled", "never");
	area = mmap(NULL, 3 * WINDOW, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(area, MAP_FAILED);
	self->mem = (char *)(((uintptr_t)area + WINDOW) & ~(WINDOW - 1));
	self->uffd = -1;
}

FIXTURE_TEARDOWN(collapse_race)
{
	if (!access(HOLD, W_OK)) {
		write_file(HOLD, "none", sizeof("none"));
		thp_restore_settings();
	}
}

/* A fresh window: pages of their own, one hole, one zero page. */
static void fill(struct __test_metadata *_metadata,
		 FIXTURE_DATA(collapse_race) * self, bool write_protected)
{
	ASSERT_EQ(mmap(self->mem, WINDOW, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), self->mem);
	memset(self->expected, 0, sizeof(self->expected));
	memset(self->lazy, 0, sizeof(self->lazy));
	for (size_t i = 0; i < PAGES; i++)
		if (write_protected || (i != HOLE && i != ZERO_PAGE))
			write_page(self, i, 1 + i % 100);
	FORCE_READ(page(self, ZERO_PAGE)[0]);
	if (write_protected) {
		struct uffdio_api api = { .api = UFFD_API };

		self->uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
		ASSERT_GE(self->uffd, 0);
		ASSERT_EQ(ioctl(self->uffd, UFFDIO_API, &api), 0);
		ASSERT_EQ(uffd_register(self->uffd, self->mem, WINDOW, false, true, false), 0);
	}
}

static void *collapse(void *argument)
{
	FIXTURE_DATA(collapse_race) * self = argument;

	self->result = madvise(self->mem, WINDOW, MADV_COLLAPSE) ? errno : 0;
	return NULL;
}

struct actor {
	FIXTURE_DATA(collapse_race) * self;
	void (*act)(FIXTURE_DATA(collapse_race) * self);
};

static void *run_actor(void *argument)
{
	struct actor *actor = argument;

	actor->act(actor->self);
	return NULL;
}

/* Reading the file tells how many collapses are held. */
static bool is_held(void)
{
	char buf[64] = "";
	char *count;

	read_file(HOLD, buf, sizeof(buf));
	count = strchr(buf, ' ');
	return count && atoi(count) > 0;
}

static bool intact(FIXTURE_DATA(collapse_race) * self)
{
	for (size_t i = 0; i < WINDOW; i++) {
		unsigned char now = self->mem[i], expected = self->expected[i / psize()];

		if (now != expected && !(self->lazy[i / psize()] && !now))
			return false;
	}
	return true;
}

TEST_F_TIMEOUT(collapse_race, in_each_pass, 120)
{
	for (size_t i = 0; i < ARRAY_SIZE(passes); i++) {
		struct actor actor = { .self = self, .act = variant->act };
		pthread_t collapser, acting;
		int tries = 0;

		fill(_metadata, self, variant->write_protected);
		write_file(HOLD, passes[i], strlen(passes[i]) + 1);
		ASSERT_EQ(pthread_create(&collapser, NULL, collapse, self), 0);
		while (!is_held() && tries++ < 5000)
			usleep(1000);
		/* Without swap entries there is nothing to fault in, yet the pass is passed. */
		EXPECT_LT(tries, 5000);

		ASSERT_EQ(pthread_create(&acting, NULL, run_actor, &actor), 0);
		/* Time to act, or to begin to wait. */
		usleep(50000);
		write_file(HOLD, "none", sizeof("none"));
		ASSERT_EQ(pthread_join(collapser, NULL), 0);
		ASSERT_EQ(pthread_join(acting, NULL), 0);
		if (self->uffd >= 0) {
			close(self->uffd);
			self->uffd = -1;
		}
		madvise(page(self, 3), psize(), MADV_GUARD_REMOVE);

		EXPECT_TRUE(intact(self)) TH_LOG("after %s, result %d", passes[i], self->result);
		memset(self->mem, 9, WINDOW);
		for (size_t j = 0; j < WINDOW; j++)
			ASSERT_EQ(self->mem[j], 9);
	}
}

TEST_HARNESS_MAIN
