// SPDX-License-Identifier: GPL-2.0
/*
 * Measures MADV_COLLAPSE of anonymous memory: the C code and that in Rust in turn,
 * on the same memory, in one boot. CONFIG_THP_COLLAPSE_RUST_DEBUG selects the code.
 *
 * usage: collapse_bench work | threads | locks | memory [ROUNDS]
 *
 *   work     time per window, for many kinds of windows. With one CPU, in a QEMU that
 *            counts instructions (-icount shift=0), a microsecond is 1000 of them.
 *   threads  how long another thread of the process waits meanwhile
 *   locks    mmap_lock, LRU locks and interrupts of other CPUs, per window
 *   memory   time per window where free memory is all in pieces
 *
 * Prints lines "PART NAME ENGINE NUMBER...", and after each step "progress PART DONE
 * TOTAL". It judges nothing, hence is no test, and run_vmtests.sh does not run it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/mman.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
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
#include <time.h>
#include <unistd.h>
#include "collapse_util.h"
#include "hugepage_settings.h"

#ifndef MADV_F_COLLAPSE_DEFRAG
#define MADV_F_COLLAPSE_DEFRAG	0x20000
#endif

#define TRACING		"/sys/kernel/tracing/"
#define INSTANCE	TRACING "instances/collapse_bench/"

/* What is mapped in the course of a measurement, at most: for the work, for faults. */
#define MAX_WINDOWS	512
/* 512 MiB, for what others see of it. */
#define NR_WINDOWS	256
#define FAULT_WINDOWS	128

static const char * const engines[] = { "c", "rust" };

static char *mem;
static unsigned int rounds;
static const char *part;
static unsigned int steps_done, steps;

static void set(const char *path, const char *text)
{
	write_file(path, text, strlen(text) + 1);
}

static void step_done(void)
{
	printf("progress %s %u %u\n", part, ++steps_done, steps);
	fflush(stdout);
}

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

/* All memory free and in large blocks, as far as may be, and nothing in it of ours. */
static void map_windows(size_t nr)
{
	set("/proc/sys/vm/compact_memory", "1");
	if (mmap(mem, nr * WINDOW, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != mem)
		ksft_exit_fail_perror("mmap");
}

static void unmap_windows(size_t nr)
{
	if (mmap(mem, nr * WINDOW, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != mem)
		ksft_exit_fail_perror("mmap");
}

static uint64_t *page(size_t i)
{
	return (uint64_t *)(mem + i * psize());
}

static void write_pages(size_t nr_windows, size_t stride)
{
	for (size_t i = 0; i < nr_windows * PAGES; i += stride)
		*page(i) = i + 1;
}

static void expect_pages(size_t nr_windows, size_t stride)
{
	for (size_t i = 0; i < nr_windows * PAGES; i++)
		if (*page(i) != (i % stride ? 0 : i + 1))
			ksft_exit_fail_msg("page %zu reads %#llx\n", i,
					   (unsigned long long)*page(i));
}

static void expect_huge(size_t nr_windows, bool huge)
{
	for (size_t i = 0; i < nr_windows; i++)
		if (is_huge(mem + i * WINDOW) != huge)
			ksft_exit_fail_msg("window %zu is %s\n", i,
					   huge ? "not huge" : "huge, it was to be refused");
}

static void collapse(size_t nr, size_t per_call)
{
	for (size_t i = 0; i < nr; i += per_call)
		if (madvise(mem + i * WINDOW, per_call * WINDOW, MADV_COLLAPSE))
			ksft_exit_fail_perror("MADV_COLLAPSE");
}

/* --- work: what a window costs ---------------------------------------------------- */

static pid_t sharer;
static int ring = -1;

/* No two neighbours of a window are neighbours in memory, if @nr is a power of two. */
static void fill_scattered(size_t nr, size_t stride)
{
	for (size_t i = 0; i < nr * PAGES; i += stride) {
		size_t at = i * 40503 % (nr * PAGES);

		*page(at) = at + 1;
	}
}

static void fill_swapped(size_t nr, size_t stride)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);

	write_pages(nr, stride);
	if (madvise(mem, nr * WINDOW, MADV_PAGEOUT))
		ksft_exit_fail_perror("MADV_PAGEOUT");
	for (size_t i = 0; i < nr * PAGES; i++)
		if (!pagemap_is_swapped(pagemap, (char *)page(i)))
			ksft_exit_fail_msg("page %zu was not swapped out\n", i);
	close(pagemap);
}

static void fill_forked(size_t nr, size_t stride)
{
	write_pages(nr, stride);
	sharer = fork();
	if (!sharer) {
		pause();
		_exit(0);
	}
	/* Until it has come to rest. */
	usleep(10000);
}

static void fill_huge(size_t nr, size_t stride)
{
	write_pages(nr, stride);
	collapse(nr, nr);
}

static void fill_pte_mapped(size_t nr, size_t stride)
{
	fill_huge(nr, stride);
	for (size_t i = 0; i < nr; i++)
		if (mprotect(mem + i * WINDOW, psize(), PROT_NONE) ||
		    mprotect(mem + i * WINDOW, psize(), PROT_READ | PROT_WRITE))
			ksft_exit_fail_perror("mprotect");
}

static void fill_locked(size_t nr, size_t stride)
{
	write_pages(nr, stride);
	if (mlock(mem, nr * WINDOW))
		ksft_exit_fail_perror("mlock");
}

/* One page amidst each window, as a buffer of io_uring: gup_test pins none apart. */
static void fill_pinned(size_t nr, size_t stride)
{
	struct io_uring_params params = {};
	struct iovec pages[MAX_WINDOWS];

	write_pages(nr, stride);
	for (size_t i = 0; i < nr; i++)
		pages[i] = (struct iovec){ page(i * PAGES + PAGES / 2), psize() };
	ring = syscall(__NR_io_uring_setup, 1, &params);
	if (ring < 0 || syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, pages, nr))
		ksft_exit_fail_perror("io_uring");
}

struct kind {
	const char *name;
	void (*fill)(size_t nr, size_t stride);
	/* Every so many'th page is written. */
	size_t stride;
	size_t nr_windows;
	size_t per_call;
	/* How often it can be asked for: it changes nothing. */
	unsigned int repeat;
	bool refused;
};

static const struct kind kinds[] = {
	{ "dense", write_pages, 1, 128, 128, 1, false },
	{ "dense_scattered", fill_scattered, 1, 128, 128, 1, false },
	{ "present_1", write_pages, 512, 128, 128, 1, false },
	{ "present_64", write_pages, 8, 128, 128, 1, false },
	{ "present_256", write_pages, 2, 128, 128, 1, false },
	{ "swapped", fill_swapped, 1, 32, 32, 1, false },
	{ "shared_by_fork", fill_forked, 1, 128, 128, 1, false },
	{ "pte_mapped_huge", fill_pte_mapped, 1, 128, 128, 1, false },
	{ "mlocked", fill_locked, 1, 128, 128, 1, false },
	{ "already_huge", fill_huge, 1, 128, 128, 50, false },
	{ "already_huge_1_per_call", fill_huge, 1, 128, 1, 5, false },
	{ "pinned", fill_pinned, 1, 128, 128, 5, true },
	{ "dense_1_per_call", write_pages, 1, 512, 1, 1, false },
	{ "dense_2_per_call", write_pages, 1, 512, 2, 1, false },
	{ "dense_8_per_call", write_pages, 1, 512, 8, 1, false },
	{ "dense_32_per_call", write_pages, 1, 512, 32, 1, false },
	{ "dense_128_per_call", write_pages, 1, 512, 128, 1, false },
	{ "dense_512_per_call", write_pages, 1, 512, 512, 1, false },
};

/* Returns how long a window took. */
static double measure_kind(const struct kind *kind, const char *engine)
{
	size_t nr = kind->nr_windows;
	double start, end;

	map_windows(nr);
	set(ENGINE, "rust");
	kind->fill(nr, kind->stride);
	set(ENGINE, engine);
	start = now_us();
	for (unsigned int i = 0; i < kind->repeat; i++) {
		if (!kind->refused)
			collapse(nr, kind->per_call);
		else if (!madvise(mem, nr * WINDOW, MADV_COLLAPSE))
			ksft_exit_fail_msg("pinned pages were collapsed\n");
	}
	end = now_us();
	expect_huge(nr, !kind->refused);
	expect_pages(nr, kind->stride);

	if (sharer) {
		kill(sharer, SIGKILL);
		waitpid(sharer, NULL, 0);
		sharer = 0;
	}
	if (ring >= 0) {
		close(ring);
		ring = -1;
	}
	unmap_windows(nr);
	return (end - start) / nr / kind->repeat;
}

/* By words, as copy_page() does on a CPU without ERMS. */
static void copy_by_words(void *to, const void *from, size_t size)
{
#ifdef __x86_64__
	size /= sizeof(uint64_t);
	asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
#else
	memcpy(to, from, size);
#endif
}

/* The least that copying a window may take. */
static void measure_copy(void)
{
	double start;

	map_windows(2);
	write_pages(2, 1);
	start = now_us();
	copy_by_words(mem, mem + WINDOW, WINDOW);
	printf("work copy floor %.4f\n", now_us() - start);
	unmap_windows(2);
}

/*
 * What it takes by the function that the C code copies with: a write to a huge page of
 * hugetlbfs that is shared by fork copies it that way, and does little besides.
 */
static void measure_copy_mc(void)
{
	char *copied;
	double start;

	copied = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (copied == MAP_FAILED)
		ksft_exit_fail_perror("a huge page of hugetlbfs");
	*copied = 1;
	fill_forked(0, 1);
	start = now_us();
	*copied = 2;
	printf("work copy c %.4f\n", now_us() - start);
	kill(sharer, SIGKILL);
	waitpid(sharer, NULL, 0);
	sharer = 0;
	munmap(copied, WINDOW);
}

static void measure_work(void)
{
	const char *only = getenv("COLLAPSE_KIND");
	unsigned int nr_kinds = 0;

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		nr_kinds += !only || !strcmp(only, kinds[i].name);
	if (!nr_kinds)
		ksft_exit_fail_msg("COLLAPSE_KIND=%s: there is no such kind\n", only);
	steps = rounds * (nr_kinds + 1);
	if (!hugetlb_setup_default(2))
		ksft_exit_fail_msg("no huge pages of hugetlbfs\n");
	/* Free memory is in other pieces after the first time than it was before. */
	for (size_t j = 0; j < ARRAY_SIZE(engines); j++)
		measure_kind(&kinds[0], engines[j]);
	for (unsigned int round = 0; round < rounds; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
			if (only && strcmp(only, kinds[i].name))
				continue;
			for (size_t j = 0; j < ARRAY_SIZE(engines); j++)
				printf("work %s %s %.4f\n", kinds[i].name, engines[j],
				       measure_kind(&kinds[i], engines[j]));
			step_done();
		}
		measure_copy();
		measure_copy_mc();
		step_done();
	}
}

/* --- a collapse on a CPU of its own, while this thread does something else --------- */

static atomic_int state;
enum { WAITING, RUNNING, ENDED };

/* What the collapse does is traced, and nothing else. */
static bool traced;

static void run_on(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		ksft_exit_fail_perror("two CPUs are needed");
}

static void *collapse_all(void *engine)
{
	run_on(0);
	if (traced) {
		write_num(INSTANCE "set_event_pid", syscall(__NR_gettid));
		set(INSTANCE "tracing_on", "1");
	}
	atomic_store(&state, RUNNING);
	if (!engine)
		sleep(1);
	/* A page may be in use in passing, by a fork for one. */
	else
		while (madvise(mem, NR_WINDOWS * WINDOW, MADV_COLLAPSE))
			if (errno != EAGAIN)
				ksft_exit_fail_perror("MADV_COLLAPSE");
	atomic_store(&state, ENDED);
	if (traced)
		set(INSTANCE "tracing_on", "0");
	return NULL;
}

static pthread_t begin_collapse(const char *engine)
{
	pthread_t thread;

	atomic_store(&state, WAITING);
	if (pthread_create(&thread, NULL, collapse_all, (void *)engine))
		ksft_exit_fail_perror("pthread_create");
	while (atomic_load(&state) == WAITING)
		;
	return thread;
}

/* --- threads: what another thread waits for ---------------------------------------- */

/* An operation begins so long after the one before has, or when that has ended. */
#define PERIOD_US	50

static void fault(unsigned int i)
{
	*page(NR_WINDOWS * PAGES + i) = 1;
}

static void write_moved(unsigned int i)
{
	/* The same value, to a page at random. */
	size_t at = i * 2654435761U % (NR_WINDOWS * PAGES);

	__atomic_store_n(page(at), at + 1, __ATOMIC_RELAXED);
}

static void map_and_unmap(unsigned int i)
{
	char *area = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED || munmap(area, 65536))
		ksft_exit_fail_perror("mmap");
}

static void fork_once(unsigned int i)
{
	sharer = fork();
	if (!sharer)
		_exit(0);
}

static const struct probe {
	const char *name;
	void (*act)(unsigned int i);
} probes[] = {
	{ "a", fault },
	{ "b", write_moved },
	{ "c", map_and_unmap },
	{ "d", fork_once },
};

static void measure_probe(const struct probe *probe, const char *engine)
{
	static double latencies[FAULT_WINDOWS * (HPAGE_SIZE / 4096)];
	unsigned int nr = 0;
	pthread_t thread;
	double start;

	map_windows(NR_WINDOWS + FAULT_WINDOWS);
	write_pages(NR_WINDOWS, 1);
	if (engine)
		set(ENGINE, engine);
	thread = begin_collapse(engine);
	while (atomic_load(&state) == RUNNING && nr < ARRAY_SIZE(latencies)) {
		start = now_us();
		probe->act(nr);
		latencies[nr++] = now_us() - start;
		if (sharer) {
			waitpid(sharer, NULL, 0);
			sharer = 0;
		}
		while (now_us() < start + PERIOD_US)
			;
	}
	pthread_join(thread, NULL);
	if (engine)
		expect_huge(NR_WINDOWS, true);
	expect_pages(NR_WINDOWS, 1);
	printf("threads %s %s", probe->name, engine ?: "none");
	for (unsigned int i = 0; i < nr; i++)
		printf(" %.1f", latencies[i]);
	printf("\n");
	unmap_windows(NR_WINDOWS + FAULT_WINDOWS);
	step_done();
}

static void measure_threads(void)
{
	steps = rounds * ARRAY_SIZE(probes) * (ARRAY_SIZE(engines) + 1);
	run_on(1);
	for (unsigned int round = 0; round < rounds; round++)
		for (size_t i = 0; i < ARRAY_SIZE(probes); i++) {
			measure_probe(&probes[i], NULL);
			for (size_t j = 0; j < ARRAY_SIZE(engines); j++)
				measure_probe(&probes[i], engines[j]);
		}
}

/* --- locks: what is taken, and who is interrupted ---------------------------------- */

/* The functions that take an LRU lock for a folio; they are called, not inlined. */
static const char * const lru_locks[] = {
	"folio_lruvec_lock", "folio_lruvec_lock_irq", "folio_lruvec_lock_irqsave",
};

/* A row of /proc/interrupts, of all CPUs. */
static double sum_interrupts(const char *row)
{
	FILE *file = fopen("/proc/interrupts", "r");
	char line[1024], *at, *end;
	double sum = 0;

	if (!file)
		ksft_exit_fail_perror("/proc/interrupts");
	while (fgets(line, sizeof(line), file)) {
		at = line + strspn(line, " ");
		if (strncmp(at, row, strlen(row)))
			continue;
		for (at += strlen(row);; at = end) {
			unsigned long count = strtoul(at, &end, 10);

			if (end == at)
				break;
			sum += count;
		}
	}
	fclose(file);
	return sum;
}

static void print_per_window(const char *name, const char *engine, double value)
{
	printf("locks %s %s %.4f\n", name, engine, value / NR_WINDOWS);
}

static void collapse_beside(const char *engine)
{
	pthread_t thread = begin_collapse(engine);

	/* This CPU must have the process's translations, to be told of changes. */
	while (atomic_load(&state) == RUNNING)
		;
	pthread_join(thread, NULL);
}

static void count_interrupts(const char *engine)
{
	double flushes = sum_interrupts("TLB:"), all = sum_interrupts("CAL:");

	collapse_beside(engine);
	flushes = sum_interrupts("TLB:") - flushes;
	all = sum_interrupts("CAL:") - all;
	/* Flushing a TLB is a function that is called, too. */
	print_per_window("ipi_tlb", engine, flushes);
	print_per_window("ipi_call", engine, all - flushes);
}

/* How often probes were hit so far. */
static double lru_hits(void)
{
	FILE *file = fopen(TRACING "kprobe_profile", "r");
	char line[256], name[128];
	unsigned long hits;
	double sum = 0;

	if (!file)
		ksft_exit_fail_perror("kprobe_profile");
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, " %127s %lu", name, &hits) == 2 && !strncmp(name, "lru_lock_", 9))
			sum += hits;
	fclose(file);
	return sum;
}

static void count_lru_locks(const char *engine)
{
	double before;

	set(TRACING "events/collapse_bench/enable", "1");
	before = lru_hits();
	collapse_beside(engine);
	print_per_window("lru_locks", engine, lru_hits() - before);
	set(TRACING "events/collapse_bench/enable", "0");
}

static void trace_mmap_lock(const char *engine)
{
	double taken[2] = { -1, -1 }, longest[2] = { 0, 0 };
	unsigned int locks[2] = { 0, 0 };
	double vma_held = 0;
	char line[512];
	FILE *trace;

	traced = true;
	collapse_beside(engine);
	traced = false;
	/* Not to be waited for: all is there. */
	trace = fdopen(open(INSTANCE "trace_pipe", O_RDONLY | O_NONBLOCK), "r");
	if (!trace)
		ksft_exit_fail_perror(INSTANCE "trace_pipe");
	while (fgets(line, sizeof(line), trace)) {
		char *at = strstr(line, ": mm"), *held = strstr(line, " stable_us=");
		bool write = strstr(line, " write=true");
		double time;

		if (strstr(line, " EVENTS]"))
			ksft_exit_fail_msg("events were lost: %s", line);
		if (!at)
			continue;
		while (at > line && at[-1] != ' ')
			at--;
		time = strtod(at, NULL) * 1e6;
		if (strstr(line, " mmap_lock_acquire_returned: ") &&
		    strstr(line, " success=true")) {
			locks[write]++;
			taken[write] = time;
		} else if (strstr(line, " mmap_lock_released: ") && taken[write] >= 0) {
			if (time - taken[write] > longest[write])
				longest[write] = time - taken[write];
			taken[write] = -1;
		} else if (held && atof(held + strlen(" stable_us=")) > vma_held) {
			vma_held = atof(held + strlen(" stable_us="));
		}
	}
	fclose(trace);
	print_per_window("mmap_lock_read", engine, locks[0]);
	print_per_window("mmap_lock_write", engine, locks[1]);
	printf("locks mmap_lock_read_longest_us %s %.0f\n", engine, longest[0]);
	printf("locks mmap_lock_write_longest_us %s %.0f\n", engine, longest[1]);
	/* The C code holds mmap_lock instead. */
	if (vma_held)
		printf("locks vma_lock_longest_us %s %.0f\n", engine, vma_held);
}

static void (* const counters[])(const char *engine) = {
	count_interrupts, count_lru_locks, trace_mmap_lock,
};

static void set_up_tracing(void)
{
	if (mkdir(INSTANCE, 0700))
		ksft_exit_fail_perror(INSTANCE);
	set(INSTANCE "tracing_on", "0");
	set(INSTANCE "buffer_size_kb", "8192");
	set(INSTANCE "events/mmap_lock/enable", "1");
	set(INSTANCE "events/huge_memory/mm_collapse_batch/enable", "1");
	/* Hits are counted; to record them all would take a buffer. */
	set(TRACING "tracing_on", "0");
	for (size_t i = 0; i < ARRAY_SIZE(lru_locks); i++) {
		char probe[128];
		int fd = open(TRACING "kprobe_events", O_WRONLY | O_APPEND);
		int len = snprintf(probe, sizeof(probe), "p:collapse_bench/lru_lock_%zu %s\n", i,
				   lru_locks[i]);

		if (fd < 0 || write(fd, probe, len) != len)
			ksft_exit_fail_perror(lru_locks[i]);
		close(fd);
	}
}

static void measure_locks(void)
{
	steps = rounds * ARRAY_SIZE(counters) * ARRAY_SIZE(engines);
	run_on(1);
	set_up_tracing();
	for (unsigned int round = 0; round < rounds; round++)
		for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
			for (size_t j = 0; j < ARRAY_SIZE(engines); j++) {
				map_windows(NR_WINDOWS);
				write_pages(NR_WINDOWS, 1);
				set(ENGINE, engines[j]);
				counters[i](engines[j]);
				expect_huge(NR_WINDOWS, true);
				unmap_windows(NR_WINDOWS);
				step_done();
			}
	rmdir(INSTANCE);
	set(TRACING "tracing_on", "1");
}

/* --- memory: when there is no huge page to be had ---------------------------------- */

#define MIN_FREE	"/proc/sys/vm/min_free_kbytes"
#define MIN_FREE_KB	4096
#define POOR_WINDOWS	64

/*
 * Leaves hardly any free memory but single pages: takes all but what the kernel would
 * begin to reclaim for, and gives every other page back.
 */
static char *shatter_memory(size_t *size)
{
	unsigned long free_kb = read_field("/proc/meminfo", "MemFree");
	char *area;

	*size = (free_kb - 8 * MIN_FREE_KB) * 1024;
	area = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	for (size_t at = 0; at < *size; at += psize())
		area[at] = 1;
	for (size_t at = 0; at < *size; at += 2 * psize())
		madvise(area + at, psize(), MADV_DONTNEED);
	return area;
}

static void measure_poor(const char *name, const char *engine, unsigned int flags)
{
	struct iovec range = { mem, POOR_WINDOWS * WINDOW };
	int pidfd = syscall(__NR_pidfd_open, getpid(), 0);
	size_t size, collapsed = 0;
	double start, end;
	char *pieces;

	map_windows(POOR_WINDOWS);
	/* So that no huge page comes of what is given back either. */
	fill_scattered(POOR_WINDOWS, 1);
	pieces = shatter_memory(&size);
	set(ENGINE, engine);
	start = now_us();
	/* That memory is short is what it may say. */
	if (syscall(__NR_process_madvise, pidfd, &range, 1UL, MADV_COLLAPSE, flags) < 0 &&
	    errno != ENOMEM && errno != EAGAIN)
		ksft_exit_fail_perror("process_madvise");
	end = now_us();
	for (size_t i = 0; i < POOR_WINDOWS; i++)
		collapsed += is_huge(mem + i * WINDOW);
	munmap(pieces, size);
	expect_pages(POOR_WINDOWS, 1);
	printf("memory %s_us %s %.1f\n", name, engine, (end - start) / POOR_WINDOWS);
	printf("memory %s_huge %s %.4f\n", name, engine, (double)collapsed / POOR_WINDOWS);
	close(pidfd);
	unmap_windows(POOR_WINDOWS);
	step_done();
}

static void measure_memory(void)
{
	unsigned long min_free = read_num(MIN_FREE);

	steps = rounds * 3;
	write_num(MIN_FREE, MIN_FREE_KB);
	for (unsigned int round = 0; round < rounds; round++) {
		/* The C code knows no flag, and always reclaims. */
		measure_poor("fragmented_defrag", "c", 0);
		measure_poor("fragmented_defrag", "rust", (unsigned int)MADV_F_COLLAPSE_DEFRAG);
		measure_poor("fragmented", "rust", 0);
	}
	write_num(MIN_FREE, min_free);
}

static const struct {
	const char *name;
	void (*measure)(void);
} parts[] = {
	{ "work", measure_work },
	{ "threads", measure_threads },
	{ "locks", measure_locks },
	{ "memory", measure_memory },
};

int main(int argc, char **argv)
{
	char *area, *end = "";

	rounds = argc > 2 ? strtoul(argv[2], &end, 10) : 3;
	if (argc < 2 || argc > 3 || *end || !rounds)
		ksft_exit_fail_msg("usage: %s work | threads | locks | memory [ROUNDS]\n", argv[0]);
	if (read_pmd_pagesize() != WINDOW)
		ksft_exit_fail_msg("huge pages are not of 2 MiB here\n");
	if (access(ENGINE, W_OK))
		ksft_exit_fail_msg("%s: %s; this takes CONFIG_THP_COLLAPSE_RUST_DEBUG\n",
				   ENGINE, strerror(errno));
	thp_save_settings();
	thp_write_string("enabled", "never");
	/* With memory around it that nothing is merged with. */
	area = mmap(NULL, (MAX_WINDOWS + 2) * WINDOW, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	if (area == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	mem = (char *)(((uintptr_t)area + WINDOW) & ~(WINDOW - 1));
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		if (strcmp(argv[1], parts[i].name))
			continue;
		part = parts[i].name;
		parts[i].measure();
		set(ENGINE, "rust");
		return 0;
	}
	ksft_exit_fail_msg("%s: there is no such part: work, threads, locks or memory\n", argv[1]);
}
