// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of the permissions and the policy of process_madvise(MADV_COLLAPSE): its
 * flags, its callers and their credentials, the settings in sysfs, and the flags
 * of VMAs. Where Linux 7.3 behaves otherwise, a test says how.
 *
 * COLLAPSE_SEED and COLLAPSE_CALLS in the environment set the seed and the
 * number of calls of the random test.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/elf.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "hugepage_settings.h"
#include "vm_util.h"
#include "../pidfd/pidfd.h"

#ifndef MADV_F_COLLAPSE_LIMITS
#define MADV_F_COLLAPSE_LIMITS	0x10000
#define MADV_F_COLLAPSE_DEFRAG	0x20000
#endif

#define LIMITS		((unsigned int)MADV_F_COLLAPSE_LIMITS)
#define DEFRAG		((unsigned int)MADV_F_COLLAPSE_DEFRAG)

#define WINDOW		((size_t)2 << 20)
#define NR_WINDOWS	8
#define PAGES		(WINDOW / psize())
#define NOBODY		65534

#define HOLD		"/sys/kernel/debug/thp_collapse/hold"
#define ENGINE		"/sys/kernel/debug/thp_collapse/engine"
#define TRACEFS		"/sys/kernel/tracing/"
#define DAMON		"/sys/kernel/mm/damon/admin/kdamonds/"

#define CAP(cap)	(1ULL << CAP_##cap)
#define ALL_CAPS	(~0ULL)

/* The credentials of a caller. */
struct who {
	uid_t uid;
	uint64_t caps;
};

static const struct who root = { 0, ALL_CAPS };
/* The capabilities that an agent needs for a collapse on terms, and no more. */
static const struct who agent = { NOBODY, CAP(SYS_NICE) | CAP(SYS_PTRACE) };

static const struct who admin = {
	NOBODY, CAP(SYS_NICE) | CAP(SYS_PTRACE) | CAP(SYS_ADMIN)
};

static const struct who admin_not_nice = {
	NOBODY, CAP(SYS_PTRACE) | CAP(SYS_ADMIN)
};

/* CAP_SYS_ADMIN includes reading the memory of others, CAP_SYS_NICE does not. */
static const struct who nice_only = { NOBODY, CAP(SYS_NICE) };
static const struct who nobody = { NOBODY, 0 };

/* A process whose memory is collapsed. The memory is at the same address as our own. */
struct target {
	pid_t pid;
	int pidfd;
};

FIXTURE(policy)
{
	/* NR_WINDOWS windows, with unmapped memory on either side. */
	char *mem;
	struct target target;
};

static bool set_caps(uint64_t effective, uint64_t permitted)
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	for (int i = 0; i < 2; i++)
		data[i] = (struct __user_cap_data_struct) {
			.effective = effective >> 32 * i,
			.permitted = permitted >> 32 * i,
		};
	return !syscall(SYS_capset, &header, data);
}

static uint64_t own_caps(void)
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2] = {};

	syscall(SYS_capget, &header, data);
	return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

static bool become(const struct who *who)
{
	if (!who->uid && who->caps == ALL_CAPS)
		return true;
	/* All the capabilities of the caller stay permitted until they are dropped. */
	if (prctl(PR_SET_KEEPCAPS, 1) ||
	    setresgid(who->uid, who->uid, who->uid) ||
	    setresuid(who->uid, who->uid, who->uid))
		return false;
	/* setresuid() cleared this flag, which a process of the user has from its start. */
	return !prctl(PR_SET_DUMPABLE, 1) && set_caps(who->caps, who->caps);
}

static ssize_t collapse_vector(int pidfd, const struct iovec *vec, size_t n,
			       unsigned int flags)
{
	ssize_t ret = syscall(__NR_process_madvise, pidfd, vec, n,
			      MADV_COLLAPSE, flags);

	return ret < 0 ? -errno : ret;
}

static ssize_t collapse(int pidfd, void *start, size_t len, unsigned int flags)
{
	struct iovec vec = { start, len };

	return collapse_vector(pidfd, &vec, 1, flags);
}

/* Runs a function in a child with other credentials, and returns its value. */
static long run_as(const struct who *who, long (*function)(void *), void *arg)
{
	long *result = mmap(NULL, psize(), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	long ret;
	pid_t pid;

	if (result == MAP_FAILED)
		return LONG_MIN;
	*result = LONG_MIN;
	pid = fork();
	if (!pid) {
		if (become(who))
			*result = function(arg);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	ret = *result;
	munmap(result, psize());
	return ret;
}

struct call {
	int pidfd;
	char *start;
	size_t len;
	unsigned int flags;
};

static long do_call(void *arg)
{
	const struct call *call = arg;

	return collapse(call->pidfd, call->start, call->len, call->flags);
}

static long collapse_as(const struct who *who, int pidfd, char *start, size_t len,
			unsigned int flags)
{
	struct call call = { pidfd, start, len, flags };

	return run_as(who, do_call, &call);
}

/* Returns how many whole windows of a process are mapped by PMDs. */
static int nr_huge(pid_t pid, char *start, int windows)
{
	int huge = 0;
	char path[64];
	int pagemap;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	pagemap = open(path, O_RDONLY);
	if (pagemap < 0)
		return -1;
	for (int i = 0; i < windows; i++) {
		struct page_region region;
		struct pm_scan_arg scan = {
			.size = sizeof(scan),
			.start = (uintptr_t)start + i * WINDOW,
			.end = (uintptr_t)start + (i + 1) * WINDOW,
			.vec = (uintptr_t)&region,
			.vec_len = 1,
			.category_mask = PAGE_IS_HUGE,
			.return_mask = PAGE_IS_HUGE,
		};

		huge += ioctl(pagemap, PAGEMAP_SCAN, &scan) == 1 &&
			region.end - region.start == WINDOW;
	}
	close(pagemap);
	return huge;
}

static bool is_huge(pid_t pid, char *window)
{
	return nr_huge(pid, window, 1) == 1;
}

/* Returns the value to be written to a page. It differs between neighbouring pages. */
static char mark(const char *page)
{
	return 1 + (uintptr_t)page / psize() % 101;
}

static void touch(char *start, size_t pages)
{
	for (char *page = start; page < start + pages * psize(); page += psize())
		*page = mark(page);
}

static bool intact(const char *start, size_t pages)
{
	for (const char *page = start; page < start + pages * psize(); page += psize())
		if (*page != mark(page))
			return false;
	return true;
}

static bool map_private(char *start, size_t len)
{
	return mmap(start, len, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == start;
}

/* A child with memory of its own, all of it touched. */
static struct target start_target(char *mem, bool (*prepare)(char *mem))
{
	struct target target = { .pid = -1, .pidfd = -1 };
	int ready[2];
	char byte = 0;

	if (pipe(ready))
		return target;
	target.pid = fork();
	if (!target.pid) {
		bool ok = map_private(mem, NR_WINDOWS * WINDOW);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (ok) {
			touch(mem, NR_WINDOWS * PAGES);
			ok = !prepare || prepare(mem);
		}
		ok = write(ready[1], &ok, 1) == 1;
		while (ok)
			pause();
		_exit(1);
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) == 1 && byte)
		target.pidfd = sys_pidfd_open(target.pid, 0);
	close(ready[0]);
	return target;
}

static void end_target(struct target *target)
{
	if (target->pid > 0) {
		kill(target->pid, SIGKILL);
		waitpid(target->pid, NULL, 0);
	}
	if (target->pidfd >= 0)
		close(target->pidfd);
	*target = (struct target) { -1, -1 };
}

static const char *unfit(void)
{
	if (read_pmd_pagesize() != WINDOW)
		return "huge pages are not of 2 MiB here";
	return geteuid() ? "must run as root" : NULL;
}

/* No huge page by a fault or by khugepaged: every one was collapsed. */
static void set_policy(void)
{
	thp_save_settings();
	thp_write_string("enabled", "never");
	thp_write_string("shmem_enabled", "never");
	thp_write_string("defrag", "madvise");
}

/* Addresses where nothing is mapped, with some to spare on either side. */
static char *find_room(void)
{
	size_t size = (NR_WINDOWS + 3) * WINDOW;
	char *area = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED || munmap(area, size))
		return NULL;
	return (char *)(((uintptr_t)area + 2 * WINDOW - 1) & ~(WINDOW - 1));
}

FIXTURE_SETUP(policy)
{
	self->mem = NULL;
	self->target = (struct target) { -1, -1 };
	if (unfit())
		SKIP(return, "%s", unfit());
	set_policy();
	self->mem = find_room();
	ASSERT_NE(self->mem, NULL);
	ASSERT_TRUE(map_private(self->mem, NR_WINDOWS * WINDOW));
}

FIXTURE_TEARDOWN(policy)
{
	if (!self->mem)
		return;
	end_target(&self->target);
	if (!access(HOLD, W_OK))
		write_file(HOLD, "none", sizeof("none"));
	munmap(self->mem, NR_WINDOWS * WINDOW);
	thp_restore_settings();
}

#define START_TARGET(prepare) do {					\
	self->target = start_target(self->mem, prepare);		\
	ASSERT_GE(self->target.pidfd, 0);				\
} while (0)

/* --- flags ---------------------------------------------------------------- */

/* 7.3: any flag is EINVAL. */
TEST_F(policy, flags_known)
{
	static const unsigned int flags[] = { 0, LIMITS, DEFRAG, LIMITS | DEFRAG };

	touch(self->mem, NR_WINDOWS * PAGES);
	for (int i = 0; i < 4; i++) {
		char *window = self->mem + i * WINDOW;

		EXPECT_EQ(collapse(PIDFD_SELF, window, WINDOW, flags[i]), WINDOW);
		EXPECT_TRUE(is_huge(getpid(), window));
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
		EXPECT_EQ(collapse(-1, self->mem, WINDOW, flag | DEFRAG), -EINVAL);
	}
	/* With known flags, a bad vector and a bad pidfd have errors of their own. */
	EXPECT_EQ(collapse_vector(PIDFD_SELF, NULL, 1, LIMITS), -EFAULT);
	EXPECT_EQ(collapse(-1, self->mem, WINDOW, LIMITS), -EBADF);
}

TEST_F(policy, flags_with_other_advice)
{
	static const int advice[] = {
		MADV_NORMAL, MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_DONTNEED,
		MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_POPULATE_READ, -1, 1000,
	};
	struct iovec vec = { self->mem, WINDOW };

	touch(self->mem, PAGES);
	for (size_t i = 0; i < sizeof(advice) / sizeof(*advice); i++) {
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
	write_file(ENGINE, "c", sizeof("c"));
	with = collapse(PIDFD_SELF, self->mem, WINDOW, LIMITS);
	without = collapse(PIDFD_SELF, self->mem, WINDOW, 0);
	write_file(ENGINE, "rust", sizeof("rust"));
	EXPECT_EQ(with, -EINVAL);
	EXPECT_EQ(without, WINDOW);
}

/* --- permission ----------------------------------------------------------- */

/* Own memory takes no permission. */
static long collapse_own(void *arg)
{
	unsigned int flags = *(unsigned int *)arg;
	char *mem = mmap(NULL, 2 * WINDOW, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *window = (char *)(((uintptr_t)mem + WINDOW - 1) & ~(WINDOW - 1));

	touch(window, PAGES);
	return collapse(PIDFD_SELF, window, WINDOW, flags);
}

TEST_F(policy, permission_for_own_memory)
{
	for (unsigned int flags = 0; flags <= (LIMITS | DEFRAG); flags += LIMITS)
		EXPECT_EQ(run_as(&nobody, collapse_own, &flags), WINDOW);
}

/* 7.3: CAP_SYS_NICE and PTRACE_MODE_READ are all that it takes. */
TEST_F(policy, permission_for_another_process)
{
	static const struct {
		const struct who *who;
		unsigned int flags;
		long result;
	} rows[] = {
		{ &root,		0,			WINDOW },
		{ &admin,		0,			WINDOW },
		{ &admin,		DEFRAG,			WINDOW },
		{ &agent,		LIMITS,			WINDOW },
		{ &agent,		LIMITS | DEFRAG,	WINDOW },
		{ &agent,		0,			-EPERM },
		{ &agent,		DEFRAG,			-EPERM },
		{ &admin_not_nice,	0,			-EPERM },
		{ &admin_not_nice,	LIMITS,			-EPERM },
		{ &nice_only,		0,			-EACCES },
		{ &nice_only,		LIMITS,			-EACCES },
		{ &nobody,		LIMITS,			-EACCES },
	};
	int huge = 0;

	START_TARGET(NULL);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		/* The next window that is not huge. */
		char *window = self->mem + huge * WINDOW;
		/* The size of the request does not matter, nor does its content. */
		long empty = rows[i].result > 0 ? 0 : rows[i].result;

		EXPECT_EQ(collapse_as(rows[i].who, self->target.pidfd, window, WINDOW,
				      rows[i].flags), rows[i].result)
			TH_LOG("row %zu", i);
		EXPECT_EQ(collapse_as(rows[i].who, self->target.pidfd, window, 0,
				      rows[i].flags), empty);
		huge += rows[i].result > 0;
		EXPECT_EQ(nr_huge(self->target.pid, self->mem, NR_WINDOWS), huge);
	}
}

/* A user's own processes are not "own memory": it is the mm that counts. */
static long collapse_of_same_user(void *arg)
{
	struct target target = start_target(arg, NULL);
	long ret = collapse(target.pidfd, arg, WINDOW, LIMITS);

	end_target(&target);
	return ret;
}

TEST_F(policy, permission_for_process_of_same_user)
{
	EXPECT_EQ(run_as(&nobody, collapse_of_same_user, self->mem), -EPERM);
}

/*
 * Root in a user namespace has all capabilities there, but none that counts for
 * the memory of the system, not even for processes in the namespace.
 */
static long collapse_in_user_namespace(void *arg)
{
	long ret = -ENODATA;
	struct target target;

	if (unshare(CLONE_NEWUSER))
		return -errno;
	target = start_target(arg, NULL);
	if (own_caps() & CAP(SYS_ADMIN)) {
		ret = collapse(target.pidfd, arg, WINDOW, 0);
		if (ret == -EPERM)
			ret = collapse(target.pidfd, arg, WINDOW, LIMITS);
		/* Its own memory is its own here as well. */
		if (ret == -EPERM) {
			touch(arg, PAGES);
			ret += collapse(PIDFD_SELF, arg, WINDOW, LIMITS);
		}
	}
	end_target(&target);
	return ret;
}

TEST_F(policy, permission_in_user_namespace)
{
	EXPECT_EQ(run_as(&nobody, collapse_in_user_namespace, self->mem),
		  -EPERM + (long)WINDOW);
}

/* Two processes with one mm: own memory, whichever is named. */
static int sleep_forever(void *arg)
{
	for (;;)
		pause();
	return 0;
}

static long collapse_of_shared_mm(void *arg)
{
	char *stack = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t pid = clone(sleep_forever, stack + (1 << 16), CLONE_VM | SIGCHLD, NULL);
	struct target target = { pid, sys_pidfd_open(pid, 0) };
	long ret;

	touch(arg, PAGES);
	ret = collapse(target.pidfd, arg, WINDOW, 0);
	end_target(&target);
	return ret;
}

TEST_F(policy, permission_for_shared_mm)
{
	EXPECT_EQ(run_as(&nobody, collapse_of_shared_mm, self->mem), WINDOW);
}

/* --- limits --------------------------------------------------------------- */

static void set_limits(unsigned int none, unsigned int swap, unsigned int shared)
{
	thp_write_num("khugepaged/max_ptes_none", none);
	thp_write_num("khugepaged/max_ptes_swap", swap);
	thp_write_num("khugepaged/max_ptes_shared", shared);
}

/* Beyond a limit, at it, and beyond it without LIMITS. */
static bool is_limited(char *over, char *at)
{
	return collapse(PIDFD_SELF, over, WINDOW, LIMITS) == -EBUSY &&
	       !is_huge(getpid(), over) &&
	       collapse(PIDFD_SELF, at, WINDOW, LIMITS) == (ssize_t)WINDOW &&
	       is_huge(getpid(), at) &&
	       collapse(PIDFD_SELF, over, WINDOW, 0) == (ssize_t)WINDOW &&
	       is_huge(getpid(), over);
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

/* Returns how many pages are swapped out. All were touched: those not in memory are. */
static size_t swap_out(char *start, size_t pages)
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
	if (collapse(PIDFD_SELF, mem, WINDOW, LIMITS) != -EBUSY)
		return 1;
	if (collapse(PIDFD_SELF, mem + WINDOW, WINDOW, LIMITS) != WINDOW)
		return 2;
	if (is_huge(getpid(), mem) || !is_huge(getpid(), mem + WINDOW))
		return 3;
	if (collapse(PIDFD_SELF, mem, WINDOW, 0) != WINDOW)
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
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, 2 * WINDOW, LIMITS), -EBUSY);
	EXPECT_FALSE(is_huge(getpid(), self->mem));
	EXPECT_TRUE(is_huge(getpid(), self->mem + WINDOW));
}

TEST_F(policy, limits_do_not_matter_to_madvise)
{
	set_limits(0, 0, 0);
	touch(self->mem, 1);
	EXPECT_EQ(madvise(self->mem, WINDOW, MADV_COLLAPSE), 0);
	EXPECT_TRUE(is_huge(getpid(), self->mem));
}

struct held_call {
	struct call call;
	long result;
};

static void *held_call(void *arg)
{
	struct held_call *held = arg;

	held->result = do_call(&held->call);
	return NULL;
}

/* Waits until a collapse is stopped after a pass. */
static bool wait_held(const char *pass)
{
	char expected[32], now[32];

	snprintf(expected, sizeof(expected), "%s 1", pass);
	for (int i = 0; i < 5000; i++) {
		if (read_file(HOLD, now, sizeof(now)) &&
		    !strncmp(now, expected, strlen(expected)))
			return true;
		usleep(1000);
	}
	return false;
}

/* The limits at the beginning of the call apply to all of it. */
TEST_F(policy, limit_changed_during_call)
{
	struct held_call held = {
		{ PIDFD_SELF, self->mem, NR_WINDOWS * WINDOW, LIMITS }
	};
	pthread_t thread;

	if (access(HOLD, W_OK))
		SKIP(return, "no " HOLD);
	for (int i = 0; i < NR_WINDOWS; i++)
		touch(self->mem + i * WINDOW, 1);
	set_limits(PAGES - 1, 0, 0);
	write_file(HOLD, "scan", sizeof("scan"));
	held.call.len = WINDOW;
	ASSERT_EQ(pthread_create(&thread, NULL, held_call, &held), 0);
	EXPECT_TRUE(wait_held("scan"));
	/* Between scan and protect, which counts holes again. */
	set_limits(0, 0, 0);
	write_file(HOLD, "none", sizeof("none"));
	ASSERT_EQ(pthread_join(thread, NULL), 0);
	EXPECT_EQ(held.result, WINDOW);
	EXPECT_TRUE(is_huge(getpid(), self->mem));
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem + WINDOW, WINDOW, LIMITS), -EBUSY);
}

/* --- userfaultfd ---------------------------------------------------------- */

static int arm_userfaultfd(char *start, size_t len, uint64_t mode)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (uintptr_t)start, len },
		.mode = mode,
	};
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg))
		return -1;
	return fd;
}

/* The same with LIMITS and without, whatever the limit: as in 7.3 without LIMITS. */
TEST_F(policy, userfaultfd_keeps_its_holes)
{
	static const uint64_t modes[] = {
		UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP,
	};

	set_limits(PAGES - 1, PAGES - 1, PAGES - 1);
	for (int i = 0; i < 2; i++) {
		char *window = self->mem + i * WINDOW;
		int uffd;

		touch(window, PAGES - 1);
		uffd = arm_userfaultfd(window, WINDOW, modes[i]);
		if (uffd < 0)
			SKIP(return, "no userfaultfd");
		for (unsigned int flags = 0; flags <= (LIMITS | DEFRAG); flags += LIMITS)
			EXPECT_EQ(collapse(PIDFD_SELF, window, WINDOW, flags), -EBUSY);
		EXPECT_FALSE(is_huge(getpid(), window));
		close(uffd);
		EXPECT_EQ(collapse(PIDFD_SELF, window, WINDOW, LIMITS), WINDOW);
	}
}

/* --- allocation ----------------------------------------------------------- */

#define ALLOCATIONS TRACEFS "events/kmem/mm_page_alloc/"

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
	fd = open(TRACEFS "trace", O_WRONLY | O_TRUNC);
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
	trace = fopen(TRACEFS "trace", "r");
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

#define NR_DEFRAG (sizeof(fault_allocations) / sizeof(*fault_allocations))

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
	for (size_t mode = 0; mode < NR_DEFRAG; mode++) {
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
			EXPECT_EQ(collapse(PIDFD_SELF, self->mem, WINDOW, flags), WINDOW);
			EXPECT_ALLOCATION(expected, 1);
		}
	}
}

/* A VMA that permits reclaim, anywhere in the request, permits it for all of the request. */
TEST_F(policy, allocation_over_vmas_of_range)
{
	for (size_t mode = 0; mode < NR_DEFRAG; mode++) {
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
			ASSERT_EQ(collapse(PIDFD_SELF, self->mem + other * WINDOW, WINDOW, 0),
				  WINDOW);
			if (!trace_allocations())
				SKIP(return, "no tracing of allocations");
			EXPECT_EQ(collapse(PIDFD_SELF, self->mem, 2 * WINDOW, 0), 2 * WINDOW);
			/* A window whose own VMA lets it reclaim goes by that. */
			EXPECT_ALLOCATION(plain >= DIRECT ? plain :
					  advised >= DIRECT ? advised : plain, 1);
			EXPECT_TRUE(is_huge(getpid(), window));
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
	ASSERT_EQ(collapse(PIDFD_SELF, self->mem, WINDOW, 0), WINDOW);
	if (!trace_allocations())
		SKIP(return, "no tracing of allocations");
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, WINDOW, 0), WINDOW);
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, WINDOW, LIMITS | DEFRAG), WINDOW);
	EXPECT_ALLOCATION(NOTHING, 0);
}

/* --- MADV_NOHUGEPAGE ------------------------------------------------------- */

static bool opt_out(char *mem)
{
	return !madvise(mem, NR_WINDOWS * WINDOW, MADV_NOHUGEPAGE);
}

/* 7.3: EINVAL, whoever asks. */
TEST_F(policy, nohugepage_overruled_by_owner)
{
	ASSERT_TRUE(opt_out(self->mem));
	touch(self->mem, 3 * PAGES);
	EXPECT_EQ(madvise(self->mem, WINDOW, MADV_COLLAPSE), 0);
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem + WINDOW, WINDOW, LIMITS), WINDOW);
	EXPECT_EQ(nr_huge(getpid(), self->mem, 3), 2);
	EXPECT_TRUE(intact(self->mem, PAGES));
}

TEST_F(policy, nohugepage_overruled_by_administrator)
{
	START_TARGET(opt_out);
	EXPECT_EQ(collapse_as(&admin, self->target.pidfd, self->mem, WINDOW, 0), WINDOW);
	EXPECT_EQ(collapse_as(&admin, self->target.pidfd, self->mem + WINDOW, WINDOW,
			      LIMITS), WINDOW);
	EXPECT_EQ(nr_huge(self->target.pid, self->mem, NR_WINDOWS), 2);
}

TEST_F(policy, nohugepage_heeded_by_others)
{
	START_TARGET(opt_out);
	EXPECT_EQ(collapse_as(&agent, self->target.pidfd, self->mem, WINDOW, LIMITS),
		  -EINVAL);
	EXPECT_EQ(collapse_as(&agent, self->target.pidfd, self->mem, NR_WINDOWS * WINDOW,
			      LIMITS | DEFRAG), -EINVAL);
	EXPECT_EQ(nr_huge(self->target.pid, self->mem, NR_WINDOWS), 0);
}

/* DAMON collapses on its own account, and heeds the flag. 7.3: heeds it, too. */
static void damon_write(const char *file, unsigned long value)
{
	char path[256];

	snprintf(path, sizeof(path), DAMON "%s", file);
	write_num(path, value);
}

static void damon_write_string(const char *file, const char *value)
{
	char path[256];

	snprintf(path, sizeof(path), DAMON "%s", file);
	write_file(path, value, strlen(value) + 1);
}

static bool opt_out_half(char *mem)
{
	return !madvise(mem + NR_WINDOWS / 2 * WINDOW, NR_WINDOWS / 2 * WINDOW,
			MADV_NOHUGEPAGE);
}

#define CONTEXT "0/contexts/0/"
#define REGIONS CONTEXT "targets/0/regions/"
#define PATTERN CONTEXT "schemes/0/access_pattern/"

TEST_F_TIMEOUT(policy, nohugepage_heeded_by_damon, 120)
{
	const int half = NR_WINDOWS / 2;
	uintptr_t mem = (uintptr_t)self->mem;
	int huge = 0;

	if (access(DAMON "nr_kdamonds", W_OK))
		SKIP(return, "no DAMON in sysfs");
	START_TARGET(opt_out_half);
	damon_write("nr_kdamonds", 1);
	damon_write("0/contexts/nr_contexts", 1);
	damon_write_string(CONTEXT "operations", "fvaddr");
	damon_write(CONTEXT "monitoring_attrs/intervals/sample_us", 5000);
	damon_write(CONTEXT "monitoring_attrs/intervals/aggr_us", 50000);
	/* As few regions as possible: one that is smaller than a window contains none. */
	damon_write(CONTEXT "monitoring_attrs/nr_regions/min", 3);
	damon_write(CONTEXT "targets/nr_targets", 1);
	damon_write(CONTEXT "targets/0/pid_target", self->target.pid);
	damon_write(REGIONS "nr_regions", 2);
	damon_write(REGIONS "0/start", mem);
	damon_write(REGIONS "0/end", mem + half * WINDOW);
	damon_write(REGIONS "1/start", mem + half * WINDOW);
	damon_write(REGIONS "1/end", mem + NR_WINDOWS * WINDOW);
	damon_write(CONTEXT "schemes/nr_schemes", 1);
	damon_write_string(CONTEXT "schemes/0/action", "collapse");
	damon_write(PATTERN "sz/max", NR_WINDOWS * WINDOW);
	damon_write(PATTERN "nr_accesses/max", 1000000);
	damon_write(PATTERN "age/max", 1000000);
	damon_write_string("0/state", "on");

	/* DAMON splits regions as it likes; sooner or later it leaves a window whole. */
	for (int i = 0; i < 300 && huge < 1; i++) {
		usleep(100000);
		huge = nr_huge(self->target.pid, self->mem, half);
	}
	/* DAMON has tried the other windows as often. */
	usleep(500000);
	damon_write_string("0/state", "off");
	damon_write("nr_kdamonds", 0);
	EXPECT_GE(huge, 1);
	EXPECT_EQ(nr_huge(self->target.pid, self->mem + half * WINDOW, half), 0);
}

/* io_uring's workers act for the submitter. 7.3: refuses here, as everywhere. */
#define NO_RING 1000

static int io_uring_collapse(void *start, size_t len)
{
	struct io_uring_params params = {};
	int ring = syscall(__NR_io_uring_setup, 1, &params);
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqe;
	char *sq, *cq;

	if (ring < 0)
		return NO_RING;
	sq = mmap(NULL, params.sq_off.array + params.sq_entries * sizeof(uint32_t),
		  PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		  IORING_OFF_SQ_RING);
	cq = mmap(NULL, params.cq_off.cqes + params.cq_entries * sizeof(*cqe),
		  PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		  IORING_OFF_CQ_RING);
	sqes = mmap(NULL, params.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED)
		return -ENOMEM;

	sqes[0] = (struct io_uring_sqe) {
		.opcode = IORING_OP_MADVISE,
		.addr = (uintptr_t)start,
		.len = len,
		.fadvise_advice = MADV_COLLAPSE,
	};
	*(uint32_t *)(sq + params.sq_off.array) = 0;
	__atomic_store_n((uint32_t *)(sq + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		return -EIO;
	cqe = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
	close(ring);
	return cqe->res;
}

static long io_uring_as_nobody(void *arg)
{
	char *mem = arg;
	int ret;

	touch(mem, PAGES);
	ret = io_uring_collapse(mem, WINDOW);
	if (!ret && (!is_huge(getpid(), mem) || !intact(mem, PAGES)))
		return 1;
	return ret;
}

TEST_F(policy, nohugepage_overruled_through_io_uring)
{
	long ret;

	ASSERT_TRUE(opt_out(self->mem));
	ret = run_as(&nobody, io_uring_as_nobody, self->mem);
	if (ret == NO_RING)
		SKIP(return, "no io_uring");
	EXPECT_EQ(ret, 0);
}

/* --- what is refused whoever asks: as in 7.3 ------------------------------- */

static bool disable_thp(char *mem)
{
	return !prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
}

TEST_F(policy, thp_disabled_for_process)
{
	START_TARGET(disable_thp);
	EXPECT_EQ(collapse_as(&root, self->target.pidfd, self->mem, WINDOW, 0), -EINVAL);
	EXPECT_EQ(collapse_as(&root, self->target.pidfd, self->mem, WINDOW,
			      LIMITS | DEFRAG), -EINVAL);
	EXPECT_EQ(nr_huge(self->target.pid, self->mem, NR_WINDOWS), 0);
}

TEST_F(policy, hugetlb_mapping)
{
	char *mem = mmap(self->mem, WINDOW, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_HUGETLB |
			 MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		SKIP(return, "no hugetlb pages");
	for (unsigned int flags = 0; flags <= (LIMITS | DEFRAG); flags += LIMITS)
		EXPECT_EQ(collapse(PIDFD_SELF, mem, WINDOW, flags), -EINVAL);
	munmap(mem, WINDOW);
}

/* The fixture says "never" for all tests. */
TEST_F(policy, sysfs_enabled_does_not_matter)
{
	static const char * const enabled[] = { "never", "madvise", "always" };

	for (int i = 0; i < 3; i++) {
		touch(self->mem + i * WINDOW, PAGES);
		thp_write_string("enabled", enabled[i]);
		EXPECT_EQ(collapse(PIDFD_SELF, self->mem + i * WINDOW, WINDOW, LIMITS),
			  WINDOW);
	}
}

/* --- ranges ---------------------------------------------------------------- */

TEST_F(policy, range_without_window)
{
	touch(self->mem, 2 * PAGES);
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem + psize(), WINDOW, LIMITS), WINDOW);
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, WINDOW - psize(), 0), WINDOW - psize());
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 0);
}

/* 7.3: the same, unless the gap is followed by a refusal. */
TEST_F(policy, range_with_gap)
{
	touch(self->mem, NR_WINDOWS * PAGES);
	ASSERT_EQ(munmap(self->mem + WINDOW, WINDOW), 0);
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, NR_WINDOWS * WINDOW, 0), -ENOMEM);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), NR_WINDOWS - 1);
}

/* 7.3: a window without a table is passed over, one with an empty table ends it. */
TEST_F(policy, range_with_nothing_in_it)
{
	touch(self->mem, NR_WINDOWS * PAGES);
	ASSERT_EQ(madvise(self->mem, WINDOW, MADV_DONTNEED), 0);
	ASSERT_TRUE(map_private(self->mem + WINDOW, WINDOW));
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, NR_WINDOWS * WINDOW, 0), -EINVAL);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), NR_WINDOWS - 2);
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, WINDOW, 0), -EINVAL);
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem + WINDOW, WINDOW, 0), -EINVAL);
}

/* 7.3: returns the last error. Here the most useful one counts: a limit, then a gap. */
TEST_F(policy, range_with_several_refusals)
{
	set_limits(0, 0, 0);
	touch(self->mem, NR_WINDOWS * PAGES);
	ASSERT_EQ(madvise(self->mem + WINDOW, psize(), MADV_DONTNEED), 0);
	ASSERT_EQ(madvise(self->mem + 3 * WINDOW, WINDOW, MADV_DONTNEED), 0);
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, 5 * WINDOW, LIMITS), -EBUSY);
	EXPECT_EQ(nr_huge(getpid(), self->mem, 5), 3);
	ASSERT_EQ(munmap(self->mem + 6 * WINDOW, WINDOW), 0);
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, NR_WINDOWS * WINDOW, LIMITS), -ENOMEM);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 5);
}

#define MANY 64

static long collapse_many(void *arg)
{
	const struct target *target = arg;
	/* A range of the target's that is not mapped here. */
	return collapse(target->pidfd, (char *)0x200000000000, MANY * WINDOW, 0);
}

static bool map_many(char *mem)
{
	char *many = mmap((void *)0x200000000000, MANY * WINDOW, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (many == MAP_FAILED)
		return false;
	for (int i = 0; i < MANY; i++)
		many[i * WINDOW] = 1;
	return true;
}

/* 7.3: goes on to the end of the range. */
TEST_F_TIMEOUT(policy, fatal_signal_ends_range, 120)
{
	char *many = (char *)0x200000000000;
	int huge = 0;

	/* The killer may come too late, so it may try again. */
	for (int tries = 0; tries < 10 && !huge; tries++) {
		pid_t pid;

		START_TARGET(map_many);
		pid = fork();
		if (!pid) {
			collapse_many(&self->target);
			_exit(0);
		}
		while (!waitpid(pid, NULL, WNOHANG)) {
			if (is_huge(self->target.pid, many)) {
				kill(pid, SIGKILL);
				waitpid(pid, NULL, 0);
				break;
			}
			usleep(100);
		}
		huge = nr_huge(self->target.pid, many, MANY) % MANY;
		end_target(&self->target);
	}
	EXPECT_NE(huge, 0);
}

/* --- vectors --------------------------------------------------------------- */

/* Returns the bytes done, up to the range that was not wholly served: as in 7.3. */
TEST_F(policy, vector_advances)
{
	struct iovec vec[] = {
		{ self->mem, WINDOW },
		{ self->mem + 2 * WINDOW, 2 * WINDOW },
		{ self->mem + 4 * WINDOW, WINDOW },
		{ self->mem + 6 * WINDOW, WINDOW },
	};

	touch(self->mem, NR_WINDOWS * PAGES);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec, 2, 0), 3 * WINDOW);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 3);
	/* An error in the first range is returned. Ranges after an error are not served. */
	ASSERT_EQ(madvise(self->mem + 4 * WINDOW, WINDOW, MADV_DONTNEED), 0);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec + 2, 2, 0), -EINVAL);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec, 4, 0), 3 * WINDOW);
	EXPECT_FALSE(is_huge(getpid(), self->mem + 6 * WINDOW));
}

TEST_F(policy, vector_odd_ranges)
{
	struct iovec unaligned[] = { { self->mem, WINDOW }, { self->mem + 1, WINDOW } };
	struct iovec empty[] = {
		{ self->mem, 0 }, { self->mem + 1, 0 }, { self->mem, WINDOW },
		{ self->mem + 1, 0 },
	};
	struct iovec overlapping[] = {
		{ self->mem, 2 * WINDOW }, { self->mem + WINDOW, 2 * WINDOW },
		{ self->mem, 3 * WINDOW },
	};
	struct iovec beyond[] = {
		{ self->mem, WINDOW },
		{ self->mem + (NR_WINDOWS - 1) * WINDOW, 2 * WINDOW },
	};
	struct iovec kernel[] = { { self->mem, WINDOW }, { (void *)(-1UL << 40), WINDOW } };
	struct iovec negative[] = { { self->mem, WINDOW }, { self->mem, -psize() } };

	touch(self->mem, NR_WINDOWS * PAGES);
	/* Errors that can be seen before any work are returned before any work. */
	EXPECT_EQ(collapse_vector(PIDFD_SELF, kernel, 2, 0), -EFAULT);
	negative[1].iov_len = (size_t)-1;
	EXPECT_EQ(collapse_vector(PIDFD_SELF, negative, 2, 0), -EINVAL);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 0);

	EXPECT_EQ(collapse_vector(PIDFD_SELF, unaligned, 2, 0), WINDOW);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, unaligned + 1, 1, 0), -EINVAL);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, empty, 4, 0), WINDOW);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, empty + 1, 1, 0), 0);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, empty + 1, 2, 0), -EINVAL);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, empty, 0, 0), 0);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 1);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, overlapping, 3, 0), 7 * WINDOW);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 3);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, beyond, 2, 0), WINDOW);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, beyond + 1, 1, 0), -ENOMEM);
	EXPECT_TRUE(is_huge(getpid(), self->mem + (NR_WINDOWS - 1) * WINDOW));
	EXPECT_TRUE(intact(self->mem, NR_WINDOWS * PAGES));
}

TEST_F(policy, vector_of_any_length)
{
	struct iovec vec[1025];

	touch(self->mem, NR_WINDOWS * PAGES);
	for (int i = 0; i < 1025; i++)
		vec[i] = (struct iovec) { self->mem + i % NR_WINDOWS * WINDOW, WINDOW };
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec, 1025, LIMITS), -EINVAL);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 0);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, (void *)1, 2, LIMITS), -EFAULT);
	/* The kernel does no more than 2 GiB less a page in one call. */
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec, 1024, LIMITS),
		  (1UL << 31) - psize());
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), NR_WINDOWS);
	EXPECT_TRUE(intact(self->mem, NR_WINDOWS * PAGES));
}

/* A caller with 32-bit pointers: the vector is read in its layout. */
#ifdef __x86_64__
static long compat_syscall(long nr, long a, long b, long c, long d, long e)
{
	long ret;

	asm volatile("int $0x80" : "=a"(ret)
		     : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
		     : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

/* To a kernel without 32-bit system calls this is a fault. */
static bool has_compat_syscalls(void)
{
	int status = -1;
	pid_t pid = fork();

	if (!pid)
		_exit(compat_syscall(20, 0, 0, 0, 0, 0) != getpid());
	waitpid(pid, &status, 0);
	return !status;
}

TEST_F(policy, vector_of_compat_caller)
{
	struct { uint32_t base, len; } *vec;
	char *low, *window;
	long ret;

	if (!has_compat_syscalls())
		SKIP(return, "no 32-bit system calls");
	/* Room for two windows, and for the vector behind them. */
	low = mmap(NULL, 4 * WINDOW, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	ASSERT_NE(low, MAP_FAILED);
	window = (char *)(((uintptr_t)low + WINDOW - 1) & ~(WINDOW - 1));
	touch(window, 2 * PAGES);
	vec = (void *)(window + 2 * WINDOW);
	vec[0].base = (uintptr_t)window;
	vec[0].len = WINDOW;
	vec[1].base = (uintptr_t)window;
	vec[1].len = 2 * WINDOW;
	/* 440 is process_madvise on every architecture. */
	ret = compat_syscall(440, PIDFD_SELF, (long)vec, 2, MADV_COLLAPSE, LIMITS | DEFRAG);
	EXPECT_EQ(ret, 3 * WINDOW);
	EXPECT_EQ(nr_huge(getpid(), window, 2), 2);
	EXPECT_TRUE(intact(window, 2 * PAGES));
	munmap(low, 4 * WINDOW);
}

/*
 * A target with 32-bit addresses. Its program touches two windows, and sleeps:
 *	loop: mov %edi, (%edi); add $4096, %edi; dec %ecx; jnz loop
 *	wait: mov $29, %eax; int $0x80; jmp wait
 */
#define COMPAT_CODE	0x08048000
#define COMPAT_MEM	0x10000000

static int compat_program(void)
{
	static const uint8_t code[] = {
		0xbf, 0x00, 0x00, 0x00, 0x10,		/* mov $COMPAT_MEM, %edi */
		0xb9, 0x00, 0x04, 0x00, 0x00,		/* mov $1024, %ecx */
		0x89, 0x3f,
		0x81, 0xc7, 0x00, 0x10, 0x00, 0x00,
		0x49,
		0x75, 0xf5,
		0xb8, 0x1d, 0x00, 0x00, 0x00,
		0xcd, 0x80,
		0xeb, 0xf7,
	};
	struct {
		Elf32_Ehdr elf;
		Elf32_Phdr segments[2];
		uint8_t code[sizeof(code)];
	} program = {
		.elf = {
			.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC,
			.e_machine = EM_386,
			.e_version = EV_CURRENT,
			.e_phoff = sizeof(Elf32_Ehdr),
			.e_ehsize = sizeof(Elf32_Ehdr),
			.e_phentsize = sizeof(Elf32_Phdr),
			.e_phnum = 2,
		},
		.segments = {
			{
				.p_type = PT_LOAD,
				.p_vaddr = COMPAT_CODE,
				.p_filesz = sizeof(program),
				.p_memsz = sizeof(program),
				.p_flags = PF_R | PF_X,
				.p_align = 4096,
			},
			{
				.p_type = PT_LOAD,
				.p_vaddr = COMPAT_MEM,
				.p_memsz = 2 * WINDOW,
				.p_flags = PF_R | PF_W,
				.p_align = 4096,
			},
		},
	};
	int fd = memfd_create("compat", MFD_CLOEXEC);

	program.elf.e_entry = COMPAT_CODE + offsetof(typeof(program), code);
	memcpy(program.code, code, sizeof(code));
	if (write(fd, &program, sizeof(program)) != sizeof(program))
		return -1;
	return fd;
}

TEST_F(policy, target_of_other_width)
{
	struct iovec beyond = { self->mem, WINDOW };
	uint32_t last = 0;
	struct iovec local = { &last, sizeof(last) };
	struct iovec remote = { (void *)(COMPAT_MEM + 2 * WINDOW - 4096), sizeof(last) };
	int fd = compat_program();

	ASSERT_GE(fd, 0);
	self->target.pid = fork();
	if (!self->target.pid) {
		char *none = NULL;

		syscall(SYS_execveat, fd, "", &none, &none, AT_EMPTY_PATH);
		_exit(127);
	}
	close(fd);
	self->target.pidfd = sys_pidfd_open(self->target.pid, 0);
	for (int i = 0; i < 5000 && !last; i++) {
		if (waitpid(self->target.pid, NULL, WNOHANG) == self->target.pid) {
			self->target.pid = -1;
			SKIP(return, "no 32-bit programs");
		}
		process_vm_readv(self->target.pid, &local, 1, &remote, 1, 0);
		usleep(1000);
	}
	EXPECT_EQ(last, COMPAT_MEM + 2 * WINDOW - 4096);
	EXPECT_EQ(collapse_as(&agent, self->target.pidfd, (char *)COMPAT_MEM,
			      2 * WINDOW, LIMITS), 2 * WINDOW);
	EXPECT_EQ(nr_huge(self->target.pid, (char *)COMPAT_MEM, 2), 2);
	/* Addresses that it cannot have are a gap. */
	EXPECT_EQ(collapse_vector(self->target.pidfd, &beyond, 1, 0), -ENOMEM);
	last = 0;
	process_vm_readv(self->target.pid, &local, 1, &remote, 1, 0);
	EXPECT_EQ(last, COMPAT_MEM + 2 * WINDOW - 4096);
}
#endif

/* --- targets --------------------------------------------------------------- */

static void *sleep_thread(void *tid)
{
	__atomic_store_n((pid_t *)tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	for (;;)
		pause();
	return NULL;
}

/* All of this is as in 7.3. */
TEST_F(policy, target_is_thread)
{
	pid_t tid = 0;
	pthread_t thread;
	int pidfd;

	touch(self->mem, 2 * PAGES);
	ASSERT_EQ(pthread_create(&thread, NULL, sleep_thread, &tid), 0);
	while (!__atomic_load_n(&tid, __ATOMIC_ACQUIRE))
		usleep(100);
	pidfd = sys_pidfd_open(tid, PIDFD_THREAD);
	ASSERT_GE(pidfd, 0);
	/* This pidfd is that of a thread, and process_madvise() looks for thread groups. */
	EXPECT_EQ(collapse(pidfd, self->mem, WINDOW, LIMITS), -ESRCH);
	close(pidfd);
	pidfd = sys_pidfd_open(getpid(), PIDFD_THREAD);
	EXPECT_EQ(collapse(pidfd, self->mem, WINDOW, LIMITS), WINDOW);
	close(pidfd);
	EXPECT_EQ(collapse(PIDFD_SELF_THREAD, self->mem + WINDOW, WINDOW, LIMITS), WINDOW);
	pthread_cancel(thread);
	pthread_join(thread, NULL);
}

TEST_F(policy, target_is_zombie)
{
	pid_t pid = fork();
	siginfo_t info;
	int pidfd;

	if (!pid)
		_exit(0);
	pidfd = sys_pidfd_open(pid, 0);
	ASSERT_EQ(waitid(P_PID, pid, &info, WEXITED | WNOWAIT), 0);
	EXPECT_EQ(collapse(pidfd, self->mem, WINDOW, LIMITS), -ESRCH);
	ASSERT_EQ(waitpid(pid, NULL, 0), pid);
	EXPECT_EQ(collapse(pidfd, self->mem, WINDOW, 0), -ESRCH);
	close(pidfd);
}

TEST_F(policy, target_is_kernel_thread)
{
	int pidfd = sys_pidfd_open(2, 0);

	if (pidfd < 0)
		SKIP(return, "no kthreadd in this namespace");
	EXPECT_EQ(collapse(pidfd, self->mem, WINDOW, LIMITS), -ESRCH);
	close(pidfd);
}

TEST_F(policy, target_is_none)
{
	int file = open("/proc/self/status", O_RDONLY);

	EXPECT_EQ(collapse(file, self->mem, WINDOW, LIMITS), -EBADF);
	EXPECT_EQ(collapse(-1, self->mem, WINDOW, 0), -EBADF);
	close(file);
}

/*
 * The target ends while the call is stopped between two passes. The call finishes
 * the batch that it has begun, and does no more work on memory that nobody uses.
 * 7.3: goes on to the end of the range.
 */
static void exec_sleep(int signal)
{
	execl("/bin/sleep", "sleep", "1000", NULL);
	_exit(1);
}

static bool half_opted_out_and_ready_to_exec(char *mem)
{
	signal(SIGUSR1, exec_sleep);
	/* Two VMAs. */
	return opt_out_half(mem);
}

/* Returns whether a process has left its first mm: it has ended, or is sleep(1). */
static bool has_left(pid_t pid)
{
	char path[64], line[64] = "";
	siginfo_t info = {};
	int fd;

	/* Its memory cannot be looked at: pages that are being moved would be waited for. */
	if (!waitid(P_PID, pid, &info, WEXITED | WNOWAIT | WNOHANG) && info.si_pid == pid)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY);
	if (read(fd, line, sizeof(line) - 1) < 0)
		line[0] = '\0';
	close(fd);
	return !strcmp(line, "sleep\n");
}

static const char * const passes[] = {
	"scan", "prealloc", "fault_in", "protect", "copy", "switch",
};

#define EXPECT_ENDED_BY(signal) do {					\
	struct held_call held = {					\
		{ self->target.pidfd, self->mem, NR_WINDOWS * WINDOW, 0 } \
	};								\
	pthread_t thread;						\
									\
	write_file(HOLD, passes[i], strlen(passes[i]) + 1);		\
	ASSERT_EQ(pthread_create(&thread, NULL, held_call, &held), 0);	\
	EXPECT_TRUE(wait_held(passes[i]));				\
	kill(self->target.pid, signal);					\
	while (!has_left(self->target.pid))				\
		usleep(1000);						\
	write_file(HOLD, "none", sizeof("none"));			\
	ASSERT_EQ(pthread_join(thread, NULL), 0);			\
	EXPECT_EQ(held.result, -EINVAL);				\
} while (0)

TEST_F_TIMEOUT(policy, target_killed_meanwhile, 120)
{
	if (access(HOLD, W_OK))
		SKIP(return, "no " HOLD);
	for (int i = 0; i < 6; i++) {
		START_TARGET(opt_out_half);
		EXPECT_ENDED_BY(SIGKILL);
		EXPECT_EQ(collapse(self->target.pidfd, self->mem, WINDOW, 0), -ESRCH);
		end_target(&self->target);
	}
}

TEST_F_TIMEOUT(policy, target_execs_meanwhile, 120)
{
	if (access(HOLD, W_OK))
		SKIP(return, "no " HOLD);
	for (int i = 0; i < 6; i++) {
		START_TARGET(half_opted_out_and_ready_to_exec);
		EXPECT_ENDED_BY(SIGUSR1);
		/* The new program has other memory. */
		EXPECT_EQ(collapse(self->target.pidfd, self->mem, WINDOW, 0), -ENOMEM);
		end_target(&self->target);
	}
}

/* Without a way to stop it: somewhere in the range. */
TEST_F_TIMEOUT(policy, target_exits_anywhere, 120)
{
	for (int i = 0; i < 10; i++) {
		pid_t killer;
		ssize_t ret;

		START_TARGET(NULL);
		killer = fork();
		if (!killer) {
			usleep(i * 1000);
			kill(self->target.pid, SIGKILL);
			_exit(0);
		}
		do {
			ret = collapse(self->target.pidfd, self->mem,
				       NR_WINDOWS * WINDOW, 0);
		} while (ret == NR_WINDOWS * WINDOW);
		EXPECT_TRUE(ret == -ESRCH || ret == -EINVAL) TH_LOG("%zd", ret);
		waitpid(killer, NULL, 0);
		end_target(&self->target);
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
	self->mem = find_room();
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
		EXPECT_EQ(collapse(PIDFD_SELF, window, WINDOW, i * LIMITS), WINDOW);
		EXPECT_TRUE(is_huge(getpid(), window));
		EXPECT_TRUE(intact(window, PAGES));
		/* Cheap and no error when it is huge already. */
		EXPECT_EQ(collapse(PIDFD_SELF, window, WINDOW, i * LIMITS), WINDOW);
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
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, 2 * WINDOW, LIMITS), -EBUSY);
	EXPECT_FALSE(is_huge(getpid(), self->mem));
	EXPECT_TRUE(is_huge(getpid(), self->mem + WINDOW));
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
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, WINDOW, 0), WINDOW);
	EXPECT_ALLOCATION(LIGHT, nr);
	trace_allocations();
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, WINDOW, DEFRAG), WINDOW);
	EXPECT_ALLOCATION(NOTHING, 0);
	trace_allocations();
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem + WINDOW, WINDOW, DEFRAG), WINDOW);
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
	EXPECT_EQ(collapse(PIDFD_SELF, self->mem, WINDOW, 0), WINDOW);
	EXPECT_TRUE(is_huge(getpid(), self->mem));
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

TEST_F(policy, limit_of_swapped_pages_of_shmem)
{
	ASSERT_TRUE(map_shmem(self->mem));
	set_limits(PAGES - 1, 20, 0);
	touch(self->mem, 2 * PAGES);
	if (swap_out(self->mem, 21) < 21 || swap_out(self->mem + WINDOW, 20) < 20)
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
	uffd = arm_userfaultfd(self->mem, WINDOW, UFFDIO_REGISTER_MODE_MISSING);
	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	for (unsigned int flags = 0; flags <= (LIMITS | DEFRAG); flags += LIMITS)
		EXPECT_EQ(collapse(PIDFD_SELF, self->mem, WINDOW, flags), -EBUSY);
	close(uffd);
}

/* --- random calls ----------------------------------------------------------- */

/*
 * Random calls are compared with a model of the rules, for two processes that have
 * the same memory at first. It has each kind of window whose result the rules decide.
 */
enum kind {
	HUGE_ONE,	/* is huge */
	EMPTY,		/* has no page */
	SPARSE,		/* has one page */
	OPTED_HUGE,	/* is huge in spite of MADV_NOHUGEPAGE */
	OPTED_SPARSE,	/* has one page, and MADV_NOHUGEPAGE */
	GAP,		/* is not mapped */
	WATCHED,	/* has holes that userfaultfd watches */
	SHMEM_HUGE,	/* a huge page of shmem */
};

static void make_sparse(char *window)
{
	madvise(window, WINDOW, MADV_DONTNEED);
	window[0] = 1;
}

static bool make_kinds(char *mem)
{
	char *opted = mem + OPTED_HUGE * WINDOW;
	char *watched = mem + WATCHED * WINDOW;
	char *shmem = mem + SHMEM_HUGE * WINDOW;
	int fd = memfd_create("collapse", MFD_CLOEXEC);

	if (!map_private(mem, NR_WINDOWS * WINDOW) || fd < 0 ||
	    ftruncate(fd, WINDOW) || munmap(mem + GAP * WINDOW, WINDOW) ||
	    mmap(shmem, WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 fd, 0) != shmem ||
	    madvise(opted, 2 * WINDOW, MADV_NOHUGEPAGE))
		return false;
	close(fd);
	mem[0] = *opted = *watched = *shmem = 1;
	make_sparse(mem + SPARSE * WINDOW);
	make_sparse(mem + OPTED_SPARSE * WINDOW);
	return !madvise(mem, WINDOW, MADV_COLLAPSE) &&
	       !madvise(opted, WINDOW, MADV_COLLAPSE) &&
	       !madvise(shmem, WINDOW, MADV_COLLAPSE) &&
	       arm_userfaultfd(watched, WINDOW, UFFDIO_REGISTER_MODE_MISSING) >= 0;
}

/* The state of a process, as far as it decides about a call. */
struct model {
	bool huge[NR_WINDOWS];
};

static const struct model model_made = {
	.huge = { [HUGE_ONE] = true, [OPTED_HUGE] = true, [SHMEM_HUGE] = true },
};

struct terms {
	bool heed_nohugepage;
	unsigned int max_none;
};

/* The further down, the more useful to know. */
static int rank(int error)
{
	static const int order[] = { 0, -EINVAL, -EAGAIN, -EBUSY, -ENOMEM };
	int i = 0;

	while (order[i] != error)
		i++;
	return i;
}

static int model_window(struct model *model, enum kind kind, const struct terms *terms)
{
	if (model->huge[kind])
		return 0;
	if (kind == EMPTY)
		return -EINVAL;
	if (kind == WATCHED || terms->max_none < PAGES - 1)
		return -EBUSY;
	model->huge[kind] = true;
	return 0;
}

/* The range is in bytes from the first window. */
static int model_range(struct model *model, size_t start, size_t end,
		       const struct terms *terms)
{
	int worst = 0;

	for (int kind = 0; kind < NR_WINDOWS; kind++) {
		size_t first = kind * WINDOW, last = first + WINDOW;
		int error = 0;

		if (start == end || start >= last || end <= first)
			continue;
		if (kind == GAP)
			error = -ENOMEM;
		else if ((kind == OPTED_HUGE || kind == OPTED_SPARSE) &&
			 terms->heed_nohugepage)
			error = -EINVAL;
		else if (start <= first && last <= end)
			error = model_window(model, kind, terms);
		if (rank(error) > rank(worst))
			worst = error;
	}
	return worst;
}

static long model_vector(struct model *model, char *mem, const struct iovec *vec,
			 size_t n, const struct terms *terms)
{
	long bytes = 0;
	bool all_empty = true;

	for (size_t i = 0; i < n; i++)
		all_empty &= !vec[i].iov_len;
	for (size_t i = 0; i < n && !all_empty; i++) {
		size_t start = (char *)vec[i].iov_base - mem;
		size_t len = (vec[i].iov_len + psize() - 1) & ~(size_t)(psize() - 1);
		int error;

		if (i && !len)
			continue;
		error = start % psize() ? -EINVAL :
			model_range(model, start, start + len, terms);
		if (error)
			return bytes ? bytes : error;
		bytes += vec[i].iov_len;
	}
	return bytes;
}

static uint64_t random_state;

static unsigned int random_below(unsigned int n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (random_state >> 20) % n;
}

static unsigned long from_environment(const char *name, unsigned long value)
{
	const char *text = getenv(name);

	return text ? strtoul(text, NULL, 0) : value;
}

enum { SELF, OTHER, NO_FD, ZOMBIE, KTHREAD, NR_TARGETS };

struct random_call {
	int target;
	int pidfd;
	int advice;
	unsigned int flags;
	uint64_t caps;
	struct iovec vec[1025];
	/* The vector that is passed: @vec, or an address that cannot be read. */
	const struct iovec *given;
	size_t n;
};

static void random_vector(struct random_call *call, char *mem)
{
	unsigned int many = random_below(200);

	call->given = random_below(100) ? call->vec : (const struct iovec *)16;
	call->n = many == 0 ? 1025 : many == 1 ? 1024 : random_below(5);
	for (size_t i = 0; i < call->n; i++) {
		size_t start = random_below(NR_WINDOWS) * WINDOW;
		size_t len = random_below(3) * WINDOW;

		if (!random_below(3))
			start += random_below(PAGES) * psize();
		if (!random_below(3))
			len += random_below(WINDOW);
		if (!random_below(30))
			start += 1 + random_below(psize() - 1);
		if (start + len > NR_WINDOWS * WINDOW)
			len = (NR_WINDOWS * WINDOW - start) & ~(size_t)(psize() - 1);
		if (call->n >= 1024)
			len %= WINDOW / 2;
		/* In a last page that is not whole. */
		if (start + len + psize() > NR_WINDOWS * WINDOW)
			len = len / psize() * psize();
		if (!random_below(200))
			len = -1 - (size_t)random_below(1000);
		call->vec[i] = (struct iovec) { mem + start, len };
	}
}

static void random_call(struct random_call *call, char *mem, const int pidfds[])
{
	static const uint64_t caps[] = {
		ALL_CAPS, ALL_CAPS & ~CAP(SYS_ADMIN), ALL_CAPS & ~CAP(SYS_NICE),
		ALL_CAPS & ~(CAP(SYS_ADMIN) | CAP(SYS_NICE)), ALL_CAPS & ~CAP(SYS_PTRACE),
		ALL_CAPS & ~(CAP(SYS_PTRACE) | CAP(PERFMON) | CAP(SYS_ADMIN)), 0,
	};
	unsigned int kind = random_below(100);

	call->target = kind < 45 ? SELF : kind < 90 ? OTHER : NO_FD + kind % 3;
	call->pidfd = pidfds[call->target];
	call->advice = random_below(50) ? MADV_COLLAPSE : (int)(1000 + random_below(1000));
	call->flags = random_below(20) ? random_below(4) * LIMITS :
		      random_below(2) ? 1U << random_below(32) :
		      random_below(1U << 31) * 2 + random_below(2);
	call->caps = caps[random_below(7)];
	random_vector(call, mem);
}

static long model_call(struct model models[], struct random_call *call, char *mem,
		       unsigned int max_none)
{
	bool collapse = call->advice == MADV_COLLAPSE;
	struct terms terms = { .max_none = PAGES };

	if (call->flags & ~(collapse ? LIMITS | DEFRAG : 0))
		return -EINVAL;
	if (call->n > 1024)
		return -EINVAL;
	if (call->n && call->given != call->vec)
		return -EFAULT;
	for (size_t i = 0; i < call->n; i++)
		if ((ssize_t)call->vec[i].iov_len < 0)
			return -EINVAL;
	switch (call->target) {
	case NO_FD:
		return -EBADF;
	case ZOMBIE:
	case KTHREAD:
		return -ESRCH;
	case OTHER:
		/* Reading the memory of others is part of observing them. */
		if (!(call->caps & (CAP(SYS_PTRACE) | CAP(PERFMON) | CAP(SYS_ADMIN))))
			return -EACCES;
		if (collapse && !(call->caps & CAP(SYS_NICE)))
			return -EPERM;
		if (collapse && !(call->caps & CAP(SYS_ADMIN)) && !(call->flags & LIMITS))
			return -EPERM;
		terms.heed_nohugepage = !(call->caps & CAP(SYS_ADMIN));
	}
	if (!collapse)
		return -EINVAL;
	if (call->flags & LIMITS)
		terms.max_none = max_none;
	return model_vector(&models[call->target], mem, call->vec, call->n, &terms);
}

static bool model_holds(const struct model *model, pid_t pid, char *mem)
{
	bool holds = true;

	for (int i = 0; i < NR_WINDOWS; i++)
		if (i != GAP)
			holds &= is_huge(pid, mem + i * WINDOW) == model->huge[i];
	return holds;
}

TEST_F_TIMEOUT(policy, random_calls, 600)
{
	static const unsigned int max_nones[] = { 0, 510, 511 };
	unsigned long seed = from_environment("COLLAPSE_SEED", time(NULL));
	unsigned long calls = from_environment("COLLAPSE_CALLS", 100000);
	struct model models[] = { model_made, model_made };
	unsigned long served = 0, refused = 0;
	uint64_t caps = own_caps();
	unsigned int max_none = 0;
	struct random_call call;
	int pidfds[NR_TARGETS];
	pid_t zombie;

	printf("# %lu calls, seed %lu\n", calls, seed);
	fflush(stdout);
	random_state = seed * 0x9e3779b97f4a7c15ULL | 1;
	zombie = fork();
	if (!zombie)
		_exit(0);
	ASSERT_EQ(waitid(P_PID, zombie, NULL, WEXITED | WNOWAIT), 0);
	pidfds[SELF] = PIDFD_SELF;
	pidfds[OTHER] = -1;
	pidfds[NO_FD] = -1;
	pidfds[ZOMBIE] = sys_pidfd_open(zombie, 0);
	pidfds[KTHREAD] = sys_pidfd_open(2, 0);
	ASSERT_TRUE(make_kinds(self->mem));

	for (unsigned long i = 0; i < calls; i++) {
		long expected, ret;

		if (i % 5000 == 0) {
			end_target(&self->target);
			START_TARGET(make_kinds);
			pidfds[OTHER] = self->target.pidfd;
			models[OTHER] = model_made;
		}
		if (i % 500 == 0) {
			make_sparse(self->mem + SPARSE * WINDOW);
			make_sparse(self->mem + OPTED_SPARSE * WINDOW);
			models[SELF] = model_made;
			max_none = max_nones[random_below(3)];
			set_limits(max_none, PAGES - 1, PAGES - 1);
		}
		random_call(&call, self->mem, pidfds);
		expected = model_call(models, &call, self->mem, max_none);
		ASSERT_TRUE(set_caps(call.caps & caps, caps));
		ret = syscall(__NR_process_madvise, call.pidfd, call.given, call.n,
			      call.advice, call.flags);
		if (ret < 0)
			ret = -errno;
		ASSERT_TRUE(set_caps(caps, caps));
		served += ret > 0;
		refused += ret < 0;
		ASSERT_EQ(ret, expected) {
			TH_LOG("seed %lu, call %lu, max_ptes_none %u", seed, i, max_none);
			TH_LOG("target %d, advice %d, flags %#x, caps %#llx", call.target,
			       call.advice, call.flags, (unsigned long long)call.caps);
			for (size_t j = 0; j < call.n && j < 8; j++)
				TH_LOG("range %#zx + %#zx",
				       (size_t)((char *)call.vec[j].iov_base - self->mem),
				       call.vec[j].iov_len);
		}
		if (i % 500 == 499) {
			ASSERT_TRUE(model_holds(&models[SELF], getpid(), self->mem));
			ASSERT_TRUE(model_holds(&models[OTHER], self->target.pid, self->mem));
		}
	}
	printf("# %lu served, %lu refused\n", served, refused);
	/* The test is of no use when the calls are all of one kind. */
	EXPECT_GT(served, calls / 20);
	EXPECT_GT(refused, calls / 20);
	close(pidfds[ZOMBIE]);
	close(pidfds[KTHREAD]);
	waitpid(zombie, NULL, 0);
}

TEST_HARNESS_MAIN
