// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of the ranges and vectors that process_madvise(MADV_COLLAPSE) is given, of
 * callers and targets with 32-bit pointers, too. Where Linux 7.3 behaves otherwise, a
 * test says how.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <linux/elf.h>
#include "collapse_policy.h"

/* --- ranges ---------------------------------------------------------------- */

TEST_F(policy, range_without_window)
{
	touch(self->mem, 2 * PAGES);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem + psize(), WINDOW, LIMITS), WINDOW);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, WINDOW - psize(), 0), WINDOW - psize());
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 0);
}

/* 7.3: the same, unless the gap is followed by a refusal. */
TEST_F(policy, range_with_gap)
{
	touch(self->mem, NR_WINDOWS * PAGES);
	ASSERT_EQ(munmap(self->mem + WINDOW, WINDOW), 0);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, NR_WINDOWS * WINDOW, 0), -ENOMEM);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), NR_WINDOWS - 1);
}

/* 7.3: a window without a table is passed over, one with an empty table ends it. */
TEST_F(policy, range_with_nothing_in_it)
{
	touch(self->mem, NR_WINDOWS * PAGES);
	ASSERT_EQ(madvise(self->mem, WINDOW, MADV_DONTNEED), 0);
	ASSERT_TRUE(map_private(self->mem + WINDOW, WINDOW));
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, NR_WINDOWS * WINDOW, 0), -EINVAL);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), NR_WINDOWS - 2);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, WINDOW, 0), -EINVAL);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem + WINDOW, WINDOW, 0), -EINVAL);
}

/* 7.3: returns the last error. Here the most useful one counts: a limit, then a gap. */
TEST_F(policy, range_with_several_refusals)
{
	set_limits(0, 0, 0);
	touch(self->mem, NR_WINDOWS * PAGES);
	ASSERT_EQ(madvise(self->mem + WINDOW, psize(), MADV_DONTNEED), 0);
	ASSERT_EQ(madvise(self->mem + 3 * WINDOW, WINDOW, MADV_DONTNEED), 0);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, 5 * WINDOW, LIMITS), -EBUSY);
	EXPECT_EQ(nr_huge(getpid(), self->mem, 5), 3);
	ASSERT_EQ(munmap(self->mem + 6 * WINDOW, WINDOW), 0);
	EXPECT_EQ(collapse_of(PIDFD_SELF, self->mem, NR_WINDOWS * WINDOW, LIMITS), -ENOMEM);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 5);
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
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec, ARRAY_SIZE(vec), 0), 3 * WINDOW);
	EXPECT_FALSE(is_huge(self->mem + 6 * WINDOW));
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
	EXPECT_EQ(collapse_vector(PIDFD_SELF, kernel, ARRAY_SIZE(kernel), 0), -EFAULT);
	negative[1].iov_len = (size_t)-1;
	EXPECT_EQ(collapse_vector(PIDFD_SELF, negative, ARRAY_SIZE(negative), 0), -EINVAL);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 0);

	EXPECT_EQ(collapse_vector(PIDFD_SELF, unaligned, ARRAY_SIZE(unaligned), 0), WINDOW);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, unaligned + 1, 1, 0), -EINVAL);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, empty, ARRAY_SIZE(empty), 0), WINDOW);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, empty + 1, 1, 0), 0);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, empty + 1, 2, 0), -EINVAL);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, empty, 0, 0), 0);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 1);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, overlapping, ARRAY_SIZE(overlapping), 0), 7 * WINDOW);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 3);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, beyond, ARRAY_SIZE(beyond), 0), WINDOW);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, beyond + 1, 1, 0), -ENOMEM);
	EXPECT_TRUE(is_huge(self->mem + (NR_WINDOWS - 1) * WINDOW));
	EXPECT_TRUE(intact(self->mem, NR_WINDOWS * PAGES));
}

TEST_F(policy, vector_of_any_length)
{
	struct iovec vec[1025];

	touch(self->mem, NR_WINDOWS * PAGES);
	for (size_t i = 0; i < ARRAY_SIZE(vec); i++)
		vec[i] = (struct iovec) { self->mem + i % NR_WINDOWS * WINDOW, WINDOW };
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec, ARRAY_SIZE(vec), LIMITS), -EINVAL);
	EXPECT_EQ(nr_huge(getpid(), self->mem, NR_WINDOWS), 0);
	EXPECT_EQ(collapse_vector(PIDFD_SELF, (void *)1, 2, LIMITS), -EFAULT);
	/* The kernel does no more than 2 GiB less a page in one call. */
	EXPECT_EQ(collapse_vector(PIDFD_SELF, vec, ARRAY_SIZE(vec) - 1, LIMITS),
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

TEST_HARNESS_MAIN
