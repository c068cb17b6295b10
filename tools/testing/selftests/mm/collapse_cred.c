// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of the permissions of process_madvise(MADV_COLLAPSE): which credentials a
 * caller needs for which memory and flags. Where Linux 7.3 behaves otherwise, a test
 * says how.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <sched.h>
#include "collapse_policy.h"

static const struct who admin_not_nice = {
	NOBODY, CAP(SYS_PTRACE) | CAP(SYS_ADMIN)
};

/* CAP_SYS_ADMIN includes reading the memory of others, CAP_SYS_NICE does not. */
static const struct who nice_only = { NOBODY, CAP(SYS_NICE) };

/* --- permission ----------------------------------------------------------- */

/* Own memory takes no permission. */
static long collapse_own(void *arg)
{
	unsigned int flags = *(unsigned int *)arg;
	char *mem = mmap(NULL, 2 * WINDOW, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *window = (char *)(((uintptr_t)mem + WINDOW - 1) & ~(WINDOW - 1));

	touch(window, PAGES);
	return collapse_of(PIDFD_SELF, window, WINDOW, flags);
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
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
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
	long ret = collapse_of(target.pidfd, arg, WINDOW, LIMITS);

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
		ret = collapse_of(target.pidfd, arg, WINDOW, 0);
		if (ret == -EPERM)
			ret = collapse_of(target.pidfd, arg, WINDOW, LIMITS);
		/* Its own memory is its own here as well. */
		if (ret == -EPERM) {
			touch(arg, PAGES);
			ret += collapse_of(PIDFD_SELF, arg, WINDOW, LIMITS);
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
	ret = collapse_of(target.pidfd, arg, WINDOW, 0);
	end_target(&target);
	return ret;
}

TEST_F(policy, permission_for_shared_mm)
{
	EXPECT_EQ(run_as(&nobody, collapse_of_shared_mm, self->mem), WINDOW);
}

/* --- MADV_NOHUGEPAGE ------------------------------------------------------- */

/* 7.3: EINVAL, whoever asks. */
TEST_F(policy, nohugepage_overruled_by_owner)
{
	ASSERT_TRUE(opt_out(self->mem));
	touch(self->mem, 3 * PAGES);
	EXPECT_EQ(madvise(self->mem, WINDOW, MADV_COLLAPSE), 0);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem + WINDOW, WINDOW, LIMITS), WINDOW);
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

TEST_HARNESS_MAIN
