/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_MM_COLLAPSE_POLICY_H
#define SELFTESTS_MM_COLLAPSE_POLICY_H

/*
 * The fixture of the tests of the rules of MADV_COLLAPSE: some windows, and a process
 * whose memory is collapsed by callers with other credentials.
 */

#include <errno.h>
#include <linux/capability.h>
#include <linux/mman.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "collapse_util.h"
#include "hugepage_settings.h"
#include "../pidfd/pidfd.h"

#define LIMITS		((unsigned int)MADV_F_COLLAPSE_LIMITS)
#define DEFRAG		((unsigned int)MADV_F_COLLAPSE_DEFRAG)

#define NR_WINDOWS	8
#define NOBODY		65534

#define CAP(cap)	(1ULL << CAP_##cap)
#define ALL_CAPS	(~0ULL)

/* The credentials of a caller. */
struct who {
	uid_t uid;
	uint64_t caps;
};

static const struct who root = { 0, ALL_CAPS };
static const struct who nobody = { NOBODY, 0 };
/* The capabilities that an agent needs for a collapse on terms, and no more. */
static const struct who agent = { NOBODY, CAP(SYS_NICE) | CAP(SYS_PTRACE) };
static const struct who admin = {
	NOBODY, CAP(SYS_NICE) | CAP(SYS_PTRACE) | CAP(SYS_ADMIN)
};

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

static inline bool set_caps(uint64_t effective, uint64_t permitted)
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	for (size_t i = 0; i < ARRAY_SIZE(data); i++)
		data[i] = (struct __user_cap_data_struct) {
			.effective = effective >> 32 * i,
			.permitted = permitted >> 32 * i,
		};
	return !syscall(SYS_capset, &header, data);
}

static inline uint64_t own_caps(void)
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2] = {};

	syscall(SYS_capget, &header, data);
	return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

static inline bool become(const struct who *who)
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

/* Runs a function in a child with other credentials, and returns its value. */
static inline long run_as(const struct who *who, long (*function)(void *), void *arg)
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

static inline long do_call(void *arg)
{
	struct call *call = arg;

	run_call(call);
	return call->result;
}

static inline long collapse_as(const struct who *who, int pidfd, char *start, size_t len,
			       unsigned int flags)
{
	struct call call = { pidfd, start, len, flags };

	return run_as(who, do_call, &call);
}

/* Returns the value to be written to a page. It differs between neighbouring pages. */
static inline char mark(const char *page)
{
	return 1 + (uintptr_t)page / psize() % 101;
}

static inline void touch(char *start, size_t pages)
{
	for (char *page = start; page < start + pages * psize(); page += psize())
		*page = mark(page);
}

static inline bool intact(const char *start, size_t pages)
{
	for (const char *page = start; page < start + pages * psize(); page += psize())
		if (*page != mark(page))
			return false;
	return true;
}

/* A child with memory of its own, all of it touched. */
static inline struct target start_target(char *mem, bool (*prepare)(char *mem))
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

static inline void end_target(struct target *target)
{
	if (target->pid > 0) {
		kill(target->pid, SIGKILL);
		waitpid(target->pid, NULL, 0);
	}
	if (target->pidfd >= 0)
		close(target->pidfd);
	*target = (struct target) { -1, -1 };
}

static inline const char *unfit(void)
{
	if (read_pmd_pagesize() != WINDOW)
		return "huge pages are not of 2 MiB here";
	return geteuid() ? "must run as root" : NULL;
}

/* No huge page by a fault or by khugepaged: every one was collapsed. */
static inline void set_policy(void)
{
	thp_save_settings();
	thp_write_string("enabled", "never");
	thp_write_string("shmem_enabled", "never");
	thp_write_string("defrag", "madvise");
}

static inline void set_limits(unsigned int none, unsigned int swap, unsigned int shared)
{
	thp_write_num("khugepaged/max_ptes_none", none);
	thp_write_num("khugepaged/max_ptes_swap", swap);
	thp_write_num("khugepaged/max_ptes_shared", shared);
}

static inline bool opt_out(char *mem)
{
	return !madvise(mem, NR_WINDOWS * WINDOW, MADV_NOHUGEPAGE);
}

/* Returns a userfaultfd, for the holes of a range or for its write-protection, or -1. */
static inline int watch(char *start, size_t len, bool holes)
{
	int uffd = open_userfaultfd(0);

	if (uffd >= 0 && uffd_register(uffd, start, len, holes, !holes, false)) {
		close(uffd);
		return -1;
	}
	return uffd;
}

FIXTURE_SETUP(policy)
{
	self->mem = NULL;
	self->target = (struct target) { -1, -1 };
	if (unfit())
		SKIP(return, "%s", unfit());
	set_policy();
	self->mem = find_room(NR_WINDOWS);
	ASSERT_NE(self->mem, NULL);
	ASSERT_TRUE(map_private(self->mem, NR_WINDOWS * WINDOW));
}

FIXTURE_TEARDOWN(policy)
{
	if (!self->mem)
		return;
	end_target(&self->target);
	if (!access(COLLAPSE_HOLD, W_OK))
		hold_after("none");
	munmap(self->mem, NR_WINDOWS * WINDOW);
	thp_restore_settings();
}

#define START_TARGET(prepare) do {					\
	self->target = start_target(self->mem, prepare);		\
	ASSERT_GE(self->target.pidfd, 0);				\
} while (0)

#endif
