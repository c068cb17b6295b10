// SPDX-License-Identifier: GPL-2.0
/*
 * Traces a collapse of 512 MiB. It must not take mmap_lock for write, which would
 * stop the process, and the code in Rust must serve every window. The C code does
 * take mmap_lock for write: its test shows that the trace would tell. That test
 * runs where CONFIG_THP_COLLAPSE_RUST_DEBUG lets the C code be selected.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "collapse_util.h"
#include "hugepage_settings.h"

#define NR_WINDOWS	256
#define SIZE		(NR_WINDOWS * WINDOW)
/* Every so many'th page is written: all windows have sources, and holes. */
#define STRIDE		16

#define INSTANCE	TRACING "instances/collapse_trace/"
#define BATCH_EVENT	"events/huge_memory/mm_collapse_batch/enable"
#define VMA_LOCK	"collapse_vma_lock"

static const char * const events[] = {
	BATCH_EVENT,
	"events/huge_memory/mm_collapse_huge_page/enable",
	"events/mmap_lock/mmap_lock_acquire_returned/enable",
};

FIXTURE(collapse_trace)
{
	char *mem;
	bool tracing;
};

struct counts {
	/* Windows collapsed by any code, and those of them collapsed in batches, by Rust. */
	unsigned int windows;
	unsigned int by_rust;
	unsigned int read_locks;
	unsigned int write_locks;
	/* Only where a test has set the probe. */
	unsigned int vma_locks;
	/* How long a batch has held the lock of its VMA, at most. */
	long stable_us;
};

FIXTURE_SETUP(collapse_trace)
{
	if (read_pmd_pagesize() != WINDOW)
		SKIP(return, "huge pages are not of 2 MiB here");
	if (access(TRACING BATCH_EVENT, W_OK))
		SKIP(return, "no tracepoints of collapse in Rust");
	thp_save_settings();
	thp_write_string("enabled", "never");
	self->mem = reserve(NR_WINDOWS);
	ASSERT_NE(self->mem, NULL);

	self->tracing = !mkdir(INSTANCE, 0700);
	ASSERT_TRUE(self->tracing);
	ASSERT_TRUE(write_text(INSTANCE "buffer_size_kb", "8192"));
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		char path[256];

		snprintf(path, sizeof(path), INSTANCE "%s", events[i]);
		ASSERT_TRUE(write_text(path, "1"));
	}
	ASSERT_TRUE(write_text(INSTANCE "tracing_on", "0"));
}

FIXTURE_TEARDOWN(collapse_trace)
{
	if (!self->tracing)
		return;
	if (!access(ENGINE, W_OK))
		use_engine("rust");
	rmdir(INSTANCE);
	thp_restore_settings();
}

static void fill(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_trace) * self)
{
	ASSERT_TRUE(map_private(self->mem, SIZE));
	for (size_t at = 0; at < SIZE; at += STRIDE * psize())
		self->mem[at] = 1 + at / WINDOW % 100;
}

static void expect_intact(struct __test_metadata *_metadata, FIXTURE_DATA(collapse_trace) * self)
{
	for (size_t at = 0; at < SIZE; at += psize())
		ASSERT_EQ(self->mem[at], at % (STRIDE * psize()) ? 0 : 1 + at / WINDOW % 100);
}

/* Begins to trace the calling task. */
static void begin(struct __test_metadata *_metadata)
{
	char pid[32];

	snprintf(pid, sizeof(pid), "%ld", syscall(__NR_gettid));
	ASSERT_TRUE(write_text(INSTANCE "set_event_pid", pid));
	ASSERT_TRUE(write_text(INSTANCE "trace", ""));
	ASSERT_TRUE(write_text(INSTANCE "tracing_on", "1"));
}

/* Returns counts of the events of the process whose memory was collapsed. */
static struct counts end(struct __test_metadata *_metadata)
{
	char line[512], mm[64] = "", *at;
	struct counts counts = { 0 };
	unsigned long kept, written;
	FILE *trace;

	write_text(INSTANCE "tracing_on", "0");
	trace = fopen(INSTANCE "trace", "r");
	ASSERT_NE(trace, NULL);
	/* Locks may have been taken before the first event that names the process. */
	while (!*mm && fgets(line, sizeof(line), trace)) {
		at = strstr(line, "mm_collapse_huge_page: mm=");
		if (at)
			sscanf(at, "mm_collapse_huge_page: %60[^, ]", mm);
	}
	EXPECT_NE(*mm, '\0');
	fclose(trace);
	/* Opened anew, since rewind() in this file would repeat lines. */
	trace = fopen(INSTANCE "trace", "r");
	ASSERT_NE(trace, NULL);
	while (fgets(line, sizeof(line), trace)) {
		at = strstr(line, "entries-in-buffer/entries-written: ");
		if (at && sscanf(at, "entries-in-buffer/entries-written: %lu/%lu", &kept,
				 &written) == 2)
			EXPECT_EQ(kept, written);
		counts.vma_locks += !!strstr(line, " " VMA_LOCK ": ");
		at = strstr(line, mm);
		if (!at || !strchr(", ", at[strlen(mm)]))
			continue;
		if (strstr(line, " mm_collapse_huge_page: "))
			counts.windows += !!strstr(line, "isolated=1");
		at = strstr(line, " huge=");
		if (at && strstr(line, " mm_collapse_batch: ")) {
			counts.by_rust += atoi(at + strlen(" huge="));
			at = strstr(line, " stable_us=");
			if (at && atol(at + strlen(" stable_us=")) > counts.stable_us)
				counts.stable_us = atol(at + strlen(" stable_us="));
		}
		if (strstr(line, " mmap_lock_acquire_returned: ")) {
			counts.write_locks += !!strstr(line, "write=true");
			counts.read_locks += !!strstr(line, "write=false");
		}
	}
	fclose(trace);
	TH_LOG("%u windows, %u by Rust; mmap_lock: %u reads, %u writes", counts.windows,
	       counts.by_rust, counts.read_locks, counts.write_locks);
	return counts;
}

static void expect_rust(struct __test_metadata *_metadata, struct counts counts)
{
	EXPECT_EQ(counts.windows, NR_WINDOWS);
	EXPECT_EQ(counts.by_rust, NR_WINDOWS);
	EXPECT_EQ(counts.write_locks, 0);
}

TEST_F_TIMEOUT(collapse_trace, own, 300)
{
	fill(_metadata, self);
	begin(_metadata);
	EXPECT_EQ(collapse(self->mem, SIZE), 0);
	expect_rust(_metadata, end(_metadata));
	expect_intact(_metadata, self);
}

TEST_F_TIMEOUT(collapse_trace, of_another_process, 300)
{
	struct counts counts;
	int pidfd, ready[2];
	pid_t child;
	char c;

	ASSERT_EQ(pipe(ready), 0);
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		fill(_metadata, self);
		if (write(ready[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	EXPECT_EQ(read(ready[0], &c, 1), 1);
	pidfd = syscall(__NR_pidfd_open, child, 0);
	begin(_metadata);
	EXPECT_EQ(collapse_of(pidfd, self->mem, SIZE, 0), SIZE);
	counts = end(_metadata);
	expect_rust(_metadata, counts);
	EXPECT_GT(counts.read_locks, 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

/* The number of huge pages of a file before the end of a PMD table, and after it. */
#define BESIDE_END	2
#define FILE_SIZE	(2 * BESIDE_END * WINDOW)

static bool map_huge_file(int file, char *at)
{
	if (mmap(at, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) != at)
		return false;
	memset(at, 1, FILE_SIZE);
	return !collapse(at, FILE_SIZE);
}

/*
 * Windows of a file that are huge already cost no more than a look, and there may be many:
 * the lock under which they are looked at is given up at the end of each PMD table.
 */
TEST_F_TIMEOUT(collapse_trace, huge_file_of_another_process, 60)
{
	size_t table = PAGES * WINDOW;
	char *area = reserve(2 * PAGES), *end_of_table, *files[2], c;
	int file = memfd_create("collapse_trace", 0), pidfd, ready[2], go[2];
	/* The first range is not huge yet, so that its event names the mm of the process. */
	struct iovec ranges[] = { { self->mem, WINDOW }, { NULL, FILE_SIZE } };
	unsigned int locks[2];
	pid_t child;

	ASSERT_NE(area, NULL);
	if (!append_text(TRACING "kprobe_events", "p:" VMA_LOCK " lock_vma_under_rcu") ||
	    !write_text(INSTANCE "events/kprobes/" VMA_LOCK "/enable", "1"))
		SKIP(return, "no kprobes");
	end_of_table = (char *)(((uintptr_t)area + table) & ~(table - 1));
	files[0] = end_of_table - FILE_SIZE / 2;
	files[1] = end_of_table + FILE_SIZE;
	ASSERT_EQ(stay_on_this_cpu(), 0);
	ASSERT_EQ(pipe(ready) || pipe(go), 0);
	ASSERT_EQ(ftruncate(file, FILE_SIZE), 0);
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		if (!map_huge_file(file, files[0]) || !map_huge_file(file, files[1]))
			_exit(1);
		do {
			map_private(self->mem, WINDOW);
			self->mem[0] = 1;
		} while (write(ready[1], "", 1) == 1 && read(go[0], &c, 1) == 1);
		_exit(1);
	}
	close(ready[1]);
	pidfd = syscall(__NR_pidfd_open, child, 0);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		ranges[1].iov_base = files[i];
		ASSERT_EQ(read(ready[0], &c, 1), 1);
		begin(_metadata);
		EXPECT_EQ(collapse_vector(pidfd, ranges, ARRAY_SIZE(ranges), 0),
			  WINDOW + FILE_SIZE);
		locks[i] = end(_metadata).vma_locks;
		EXPECT_EQ(write(go[1], "", 1), 1);
	}
	EXPECT_GT(locks[1], 0);
	EXPECT_EQ(locks[0], locks[1] + 1);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	write_text(INSTANCE "events/kprobes/" VMA_LOCK "/enable", "0");
	append_text(TRACING "kprobe_events", "-:" VMA_LOCK);
}

#define HELD_US		100000

/* Once another thread waits for a page. */
static void *let_go(void *argument)
{
	wait_asleep(argument);
	usleep(HELD_US);
	hold_after("none");
	return NULL;
}

/*
 * A thread that waits for a mapping waits for as long as a collapse holds the lock of its
 * VMA. Page faults that the collapse makes are part of that time. Here they wait for pages
 * that another collapse moves.
 */
TEST_F_TIMEOUT(collapse_trace, time_to_fault_in, 60)
{
	pthread_t first, helper;
	pid_t tid = gettid();
	struct counts counts;
	void *result;

	if (access(COLLAPSE_HOLD, W_OK))
		SKIP(return, "no " COLLAPSE_HOLD);
	ASSERT_TRUE(map_private(self->mem, WINDOW));
	memset(self->mem, 1, WINDOW);
	go_way("unmap");
	hold_after("unmap");
	ASSERT_EQ(pthread_create(&first, NULL, collapse_window, self->mem), 0);
	EXPECT_TRUE(wait_held());
	begin(_metadata);
	ASSERT_EQ(pthread_create(&helper, NULL, let_go, &tid), 0);
	EXPECT_EQ(collapse(self->mem, WINDOW), 0);
	counts = end(_metadata);
	ASSERT_EQ(pthread_join(helper, NULL), 0);
	ASSERT_EQ(pthread_join(first, &result), 0);
	go_way("protect");
	EXPECT_EQ(result, NULL);
	EXPECT_TRUE(is_huge(self->mem));
	EXPECT_GE(counts.stable_us, HELD_US);
}

/* This does not test the C code, but that the other tests would see its locks. */
TEST_F_TIMEOUT(collapse_trace, control, 300)
{
	struct counts counts;

	if (!write_text(ENGINE, "c"))
		SKIP(return, "no " ENGINE);
	fill(_metadata, self);
	begin(_metadata);
	EXPECT_EQ(collapse(self->mem, SIZE), 0);
	counts = end(_metadata);
	EXPECT_EQ(counts.windows, NR_WINDOWS);
	EXPECT_EQ(counts.by_rust, 0);
	EXPECT_GE(counts.write_locks, NR_WINDOWS);
	expect_intact(_metadata, self);
}

TEST_HARNESS_MAIN
