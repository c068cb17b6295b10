// SPDX-License-Identifier: GPL-2.0
/*
 * Compares random calls of process_madvise(MADV_COLLAPSE) with a model of the rules.
 *
 * COLLAPSE_SEED and COLLAPSE_CALLS in the environment set the seed and the number of
 * calls.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <time.h>
#include "collapse_policy.h"

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
	       watch(watched, WINDOW, true) >= 0;
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
	call->caps = caps[random_below(ARRAY_SIZE(caps))];
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
			holds &= nr_huge(pid, mem + i * WINDOW, 1) == model->huge[i];
	return holds;
}

TEST_F_TIMEOUT(policy, random_calls, 600)
{
	static const unsigned int max_nones[] = { 0, 510, 511 };
	unsigned long seed = env_number("COLLAPSE_SEED", time(NULL));
	unsigned long calls = env_number("COLLAPSE_CALLS", 100000);
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
			max_none = max_nones[random_below(ARRAY_SIZE(max_nones))];
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
