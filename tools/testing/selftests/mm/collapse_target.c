// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of MADV_COLLAPSE of other processes and through others: DAMON, io_uring, and
 * targets that have no memory, or end meanwhile. Where Linux 7.3 behaves otherwise, a
 * test says how.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <linux/io_uring.h>
#include <pthread.h>
#include "collapse_policy.h"

#define DAMON		"/sys/kernel/mm/damon/admin/kdamonds/"

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
	if (!ret && (!is_huge(mem) || !intact(mem, PAGES)))
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

#define MANY 64

static long collapse_many(void *arg)
{
	const struct target *target = arg;
	/* A range of the target's that is not mapped here. */
	return collapse_of(target->pidfd, (char *)0x200000000000, MANY * WINDOW, 0);
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
			if (nr_huge(self->target.pid, many, 1) == 1) {
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
	EXPECT_EQ(collapse_of(pidfd, self->mem, WINDOW, LIMITS), -ESRCH);
	close(pidfd);
	pidfd = sys_pidfd_open(getpid(), PIDFD_THREAD);
	EXPECT_EQ(collapse_of(pidfd, self->mem, WINDOW, LIMITS), WINDOW);
	close(pidfd);
	EXPECT_EQ(collapse_of(PIDFD_SELF_THREAD, self->mem + WINDOW, WINDOW, LIMITS), WINDOW);
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
	EXPECT_EQ(collapse_of(pidfd, self->mem, WINDOW, LIMITS), -ESRCH);
	ASSERT_EQ(waitpid(pid, NULL, 0), pid);
	EXPECT_EQ(collapse_of(pidfd, self->mem, WINDOW, 0), -ESRCH);
	close(pidfd);
}

TEST_F(policy, target_is_kernel_thread)
{
	int pidfd = sys_pidfd_open(2, 0);

	if (pidfd < 0)
		SKIP(return, "no kthreadd in this namespace");
	EXPECT_EQ(collapse_of(pidfd, self->mem, WINDOW, LIMITS), -ESRCH);
	close(pidfd);
}

TEST_F(policy, target_is_none)
{
	int file = open("/proc/self/status", O_RDONLY);

	EXPECT_EQ(collapse_of(file, self->mem, WINDOW, LIMITS), -EBADF);
	EXPECT_EQ(collapse_of(-1, self->mem, WINDOW, 0), -EBADF);
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

/* The target is sent a signal that ends its first mm. Later calls fail with an error. */
static void end_meanwhile(struct __test_metadata *_metadata, FIXTURE_DATA(policy) * self,
			  bool (*prepare)(char *mem), int signal, ssize_t error)
{
	for (size_t i = 0; i < ARRAY_SIZE(passes); i++) {
		struct call call = { .start = self->mem, .len = NR_WINDOWS * WINDOW };
		pthread_t thread;

		START_TARGET(prepare);
		call.pidfd = self->target.pidfd;
		hold_after(passes[i]);
		ASSERT_EQ(pthread_create(&thread, NULL, run_call, &call), 0);
		EXPECT_TRUE(wait_held());
		kill(self->target.pid, signal);
		while (!has_left(self->target.pid))
			usleep(1000);
		hold_after("none");
		ASSERT_EQ(pthread_join(thread, NULL), 0);
		EXPECT_EQ(call.result, -EINVAL);
		EXPECT_EQ(collapse_of(self->target.pidfd, self->mem, WINDOW, 0), error);
		end_target(&self->target);
	}
}

TEST_F_TIMEOUT(policy, target_killed_meanwhile, 120)
{
	if (access(COLLAPSE_HOLD, W_OK))
		SKIP(return, "no " COLLAPSE_HOLD);
	end_meanwhile(_metadata, self, opt_out_half, SIGKILL, -ESRCH);
}

TEST_F_TIMEOUT(policy, target_execs_meanwhile, 120)
{
	if (access(COLLAPSE_HOLD, W_OK))
		SKIP(return, "no " COLLAPSE_HOLD);
	/* The new program has other memory. */
	end_meanwhile(_metadata, self, half_opted_out_and_ready_to_exec, SIGUSR1, -ENOMEM);
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
			ret = collapse_of(self->target.pidfd, self->mem,
				       NR_WINDOWS * WINDOW, 0);
		} while (ret == NR_WINDOWS * WINDOW);
		EXPECT_TRUE(ret == -ESRCH || ret == -EINVAL) TH_LOG("%zd", ret);
		waitpid(killer, NULL, 0);
		end_target(&self->target);
	}
}

TEST_HARNESS_MAIN
