// SPDX-License-Identifier: GPL-2.0
/*
 * Measures MADV_COLLAPSE of anonymous memory: the C code and that in Rust in turn,
 * on the same memory, in one boot. CONFIG_THP_COLLAPSE_RUST_DEBUG selects the code.
 *
 * usage: collapse_bench PART [ROUNDS]
 *
 *   work         time per window, for many kinds of windows. With one CPU, in a QEMU
 *                that counts instructions (-icount shift=0), a microsecond is 1000 of
 *                them; so it is for "untouchable".
 *   untouchable  for how long the memory of a window cannot be touched, for the same
 *                kinds; and by how many windows share a flush at the switch
 *   threads      how long another thread of the process waits meanwhile, or a thread
 *                of another process than the one that asks for the collapse
 *   switch       what other CPUs have of how many windows share a flush at the switch
 *   locks        mmap_lock, LRU locks and interrupts of other CPUs, per window
 *   memory       time per window where free memory is all in pieces
 *
 * COLLAPSE_KIND names the only kind of windows (work, untouchable) or the only
 * operation (threads) to be measured.
 *
 * Prints lines "PART NAME ENGINE NUMBER...", and after each step "progress PART DONE
 * TOTAL". Part "threads" has lines "own" and "schedule" besides. The figures are
 * not checked, so this is no test, and run_vmtests.sh does not run it.
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

#define INSTANCE	TRACING "instances/collapse_bench/"

/* The most windows that a measurement maps. */
#define MAX_WINDOWS	512
/* 512 MiB are collapsed while other threads are measured. */
#define NR_WINDOWS	256
/* Windows beside these, in which a thread has page faults meanwhile. */
#define FAULT_WINDOWS	192

/* How many windows share a flush at the switch. */
#define PER_SWITCH	"/sys/kernel/debug/thp_collapse/per_switch"

static const char * const engines[] = { "c", "rust" };
static const unsigned int per_switch[] = { 1, 2, 3, 4, 8, 16 };

static char *mem;
static unsigned int rounds;
static const char *part;
static unsigned int steps_done, steps;

/* The collapse is traced, and nothing else. */
static bool traced;

static void set(const char *path, const char *text)
{
	write_file(path, text, strlen(text) + 1);
}

static void step_done(void)
{
	printf("progress %s %u %u\n", part, ++steps_done, steps);
	fflush(stdout);
}

/* Returns whether the user has asked for this kind, or for all. */
static bool is_chosen(const char *name)
{
	const char *only = getenv("COLLAPSE_KIND");

	return !only || !*only || !strcmp(only, name);
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
	if (!map_private(mem, nr * WINDOW))
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

static void collapse_windows(size_t nr, size_t per_call)
{
	for (size_t i = 0; i < nr; i += per_call)
		if (madvise(mem + i * WINDOW, per_call * WINDOW, MADV_COLLAPSE))
			ksft_exit_fail_perror("MADV_COLLAPSE");
}

/* --- tracing, in an instance of our own -------------------------------------------- */

static void set_up_tracing(void)
{
	if (mkdir(INSTANCE, 0700))
		ksft_exit_fail_perror(INSTANCE);
	set(INSTANCE "tracing_on", "0");
	set(INSTANCE "buffer_size_kb", "8192");
	set(INSTANCE "trace_clock", "mono");
	set(INSTANCE "events/huge_memory/mm_collapse_batch/enable", "1");
	/* Hits of probes are counted; to record them all would take a buffer. */
	set(TRACING "tracing_on", "0");
}

static void end_tracing(void)
{
	rmdir(INSTANCE);
	set(TRACING "tracing_on", "1");
}

static void trace(bool on)
{
	if (traced)
		set(INSTANCE "tracing_on", on ? "1" : "0");
}

static void add_probe(const char *probe)
{
	if (!append_text(TRACING "kprobe_events", probe))
		ksft_exit_fail_perror(probe);
}

static FILE *open_trace(void)
{
	/* Does not wait for more: the whole trace has been written. */
	FILE *file = fdopen(open(INSTANCE "trace_pipe", O_RDONLY | O_NONBLOCK), "r");

	if (!file)
		ksft_exit_fail_perror(INSTANCE "trace_pipe");
	return file;
}

/*
 * Reads the next line of an event whose name begins with @name, and the time of the event.
 * The time is the first word of a line that ends with a colon, the name the second one.
 */
static bool next_event(FILE *file, char *line, size_t size, const char *name, double *us)
{
	char mark[64], *at;

	snprintf(mark, sizeof(mark), ": %s", name);
	while (fgets(line, size, file)) {
		if (strstr(line, " EVENTS]"))
			ksft_exit_fail_msg("events were lost: %s", line);
		at = strstr(line, mark);
		if (!at)
			continue;
		while (at > line && at[-1] != ' ')
			at--;
		*us = strtod(at, NULL) * 1e6;
		return true;
	}
	return false;
}

/* The number behind "name=", or -1. */
static double field(const char *line, const char *name)
{
	char mark[64];
	const char *at;

	snprintf(mark, sizeof(mark), " %s=", name);
	at = strstr(line, mark);
	return at ? atof(at + strlen(mark)) : -1;
}

/* --- work: the cost of a window --------------------------------------------------- */

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
	collapse_windows(nr, nr);
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

/* Pins a page of each window by io_uring, since gup_test pins only contiguous pages. */
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
	/* The number of equal requests in a measurement: more than one if they change nothing. */
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
	use_engine("rust");
	kind->fill(nr, kind->stride);
	use_engine(engine);
	trace(true);
	start = now_us();
	for (unsigned int i = 0; i < kind->repeat; i++) {
		if (!kind->refused)
			collapse_windows(nr, kind->per_call);
		else if (!madvise(mem, nr * WINDOW, MADV_COLLAPSE))
			ksft_exit_fail_msg("pinned pages were collapsed\n");
	}
	end = now_us();
	trace(false);
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

/* Copies by words, as copy_page() does on a CPU without ERMS. */
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
 * Measures a copy by the function that the C code copies with. A write to a huge page of
 * hugetlbfs that is shared by fork copies it by that function, and does little besides.
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

static void expect_chosen(unsigned int nr)
{
	if (!nr)
		ksft_exit_fail_msg("COLLAPSE_KIND=%s: there is no such kind\n",
				   getenv("COLLAPSE_KIND"));
}

static void measure_work(void)
{
	unsigned int nr_kinds = 0;

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		nr_kinds += is_chosen(kinds[i].name);
	expect_chosen(nr_kinds);
	steps = rounds * (nr_kinds + 1);
	if (!hugetlb_setup_default(2))
		ksft_exit_fail_msg("no huge pages of hugetlbfs\n");
	/* Free memory is in other pieces after the first time than it was before. */
	for (size_t j = 0; j < ARRAY_SIZE(engines); j++)
		measure_kind(&kinds[0], engines[j]);
	for (unsigned int round = 0; round < rounds; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
			if (!is_chosen(kinds[i].name))
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

/* --- untouchable: for how long nobody gets at the memory of a window ---------------- */

/*
 * The C code clears the PMD entry in the first of these functions, and has mapped the huge
 * page when the second returns. The time of the C code includes the cost of the probes.
 */
#define HIDDEN		"p:collapse_untouchable/hidden pmdp_collapse_flush\n"
#define MAPPED		"r:collapse_untouchable/mapped map_anon_folio_pmd_nopf\n"

/*
 * Prints the times of all windows that became huge. The engine in Rust tells the
 * longest time of a batch, which is taken for each of its windows.
 */
static void print_untouchable(const char *name, const char *engine, size_t expected)
{
	double us, hidden = -1, rust;
	FILE *file = open_trace();
	size_t nr = 0;
	char line[512];

	printf("%s %s", name, engine);
	while (next_event(file, line, sizeof(line), "", &us)) {
		if (strstr(line, ": hidden: ")) {
			hidden = us;
		} else if (strstr(line, ": mapped: ") && hidden >= 0) {
			printf(" %.3f", us - hidden);
			hidden = -1;
			nr++;
		} else if (strstr(line, ": mm_collapse_batch: ")) {
			rust = field(line, "untouchable_ns");
			if (rust < 0)
				ksft_exit_fail_msg("no untouchable_ns: %s", line);
			for (int i = field(line, "huge"); i > 0; i--, nr++)
				printf(" %.3f", rust / 1e3);
		}
	}
	printf("\n");
	fclose(file);
	if (nr != expected)
		ksft_exit_fail_msg("%s %s: %zu windows of %zu were traced\n", name, engine, nr,
				   expected);
}

static void measure_kind_untouchable(const struct kind *kind, const char *engine,
				     const char *name, const char *key)
{
	/* The engine in Rust may call the probed functions, and must not bear the probes' cost. */
	set(INSTANCE "events/collapse_untouchable/enable", strcmp(engine, "c") ? "0" : "1");
	traced = true;
	measure_kind(kind, engine);
	traced = false;
	print_untouchable(name, key, kind->nr_windows);
}

/* Memory that the request does not change can be touched all the time: it is left out. */
static bool is_measured_untouchable(const struct kind *kind)
{
	return kind->repeat == 1 && is_chosen(kind->name);
}

static void measure_untouchable(void)
{
	unsigned long usual = read_num(PER_SWITCH);
	unsigned int nr_kinds = 0;
	char name[64], key[16];

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		nr_kinds += is_measured_untouchable(&kinds[i]);
	expect_chosen(nr_kinds);
	steps = rounds * (nr_kinds + 1);
	set_up_tracing();
	add_probe(HIDDEN);
	add_probe(MAPPED);
	for (size_t j = 0; j < ARRAY_SIZE(engines); j++)
		measure_kind(&kinds[0], engines[j]);
	for (unsigned int round = 0; round < rounds; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
			if (!is_measured_untouchable(&kinds[i]))
				continue;
			snprintf(name, sizeof(name), "untouchable %s", kinds[i].name);
			for (size_t j = 0; j < ARRAY_SIZE(engines); j++)
				measure_kind_untouchable(&kinds[i], engines[j], name, engines[j]);
			step_done();
		}
		for (size_t i = 0; i < ARRAY_SIZE(per_switch); i++) {
			write_num(PER_SWITCH, per_switch[i]);
			snprintf(key, sizeof(key), "%u", per_switch[i]);
			measure_kind_untouchable(&kinds[0], "rust", "switch untouchable_insns",
						 key);
		}
		write_num(PER_SWITCH, usual);
		step_done();
	}
	set(INSTANCE "events/collapse_untouchable/enable", "0");
	end_tracing();
}

/* --- a collapse on a CPU of its own, while this thread does something else --------- */

enum { WAITING, RUNNING, ENDED };

/* Shared with the process that collapses, where that is another one. */
static struct {
	atomic_int state;
	double ended_us;
} *collapser;

static void run_on(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		ksft_exit_fail_perror("two CPUs are needed");
}

static bool is_running(void)
{
	return atomic_load(&collapser->state) == RUNNING;
}

/* Collapses the memory of @pidfd, or of this process if @pidfd is negative. */
static int collapse_once(int pidfd)
{
	const size_t len = NR_WINDOWS * WINDOW;
	ssize_t size;

	if (pidfd < 0)
		return madvise(mem, len, MADV_COLLAPSE);
	size = collapse_of(pidfd, mem, len, 0);
	if (size >= 0 && size != len)
		ksft_exit_fail_msg("process_madvise: %zd of %zu bytes\n", size, len);
	return size < 0 ? -1 : 0;
}

static void collapse_all(const char *engine, int pidfd)
{
	run_on(0);
	if (traced) {
		write_num(INSTANCE "set_event_pid", syscall(__NR_gettid));
		trace(true);
	}
	atomic_store(&collapser->state, RUNNING);
	if (!engine)
		sleep(1);
	/* A page may be in use in passing, by a fork for one. */
	else
		while (collapse_once(pidfd))
			if (errno != EAGAIN)
				ksft_exit_fail_perror("MADV_COLLAPSE");
	collapser->ended_us = now_us();
	atomic_store(&collapser->state, ENDED);
	trace(false);
}

static void *collapse_ours(void *engine)
{
	collapse_all(engine, -1);
	return NULL;
}

static pthread_t begin_collapse(const char *engine)
{
	pthread_t thread;

	atomic_store(&collapser->state, WAITING);
	if (pthread_create(&thread, NULL, collapse_ours, (void *)engine))
		ksft_exit_fail_perror("pthread_create");
	while (atomic_load(&collapser->state) == WAITING)
		;
	return thread;
}

/*
 * Starts the process that is to collapse our memory. It is forked before the memory is
 * mapped, so that it shares none. A byte that is written to the pipe has it begin.
 */
static pid_t fork_collapser(const char *engine, int *pipe_to_it)
{
	int ends[2], pidfd = syscall(__NR_pidfd_open, getpid(), 0);
	pid_t child;
	char go;

	if (pidfd < 0 || pipe(ends))
		ksft_exit_fail_perror("pidfd_open or pipe");
	atomic_store(&collapser->state, WAITING);
	fflush(stdout);
	child = fork();
	if (child < 0)
		ksft_exit_fail_perror("fork");
	if (!child) {
		close(ends[1]);
		if (read(ends[0], &go, 1) == 1)
			collapse_all(engine, pidfd);
		_exit(0);
	}
	close(pidfd);
	close(ends[0]);
	*pipe_to_it = ends[1];
	return child;
}

static void begin_remote_collapse(int pipe_to_it)
{
	if (write(pipe_to_it, "", 1) != 1)
		ksft_exit_fail_perror("pipe");
	while (atomic_load(&collapser->state) == WAITING)
		;
	close(pipe_to_it);
}

/* --- threads: the waits of other threads ------------------------------------------- */

/* The window that the operations on a hot window use. It is one of those collapsed. */
#define HOT_WINDOW	(NR_WINDOWS / 2)
/* At most so many operations are measured in one collapse. */
#define MAX_OPERATIONS	262144

static void fault(unsigned int i)
{
	*page(NR_WINDOWS * PAGES + i) = 1;
}

/* A page at random, each as often as any other. */
static size_t any_page(unsigned int i)
{
	return i * 2654435761U % (NR_WINDOWS * PAGES);
}

static size_t hot_page(unsigned int i)
{
	return HOT_WINDOW * PAGES + i * 2654435761U % PAGES;
}

/* Writes the value that the page holds already. */
static void write_page(size_t at)
{
	__atomic_store_n(page(at), at + 1, __ATOMIC_RELAXED);
}

static void read_page(size_t at)
{
	uint64_t value = __atomic_load_n(page(at), __ATOMIC_RELAXED);

	if (value != at + 1)
		ksft_exit_fail_msg("page %zu reads %#llx meanwhile\n", at,
				   (unsigned long long)value);
}

static void write_any(unsigned int i)
{
	write_page(any_page(i));
}

static void write_hot(unsigned int i)
{
	write_page(hot_page(i));
}

static void read_any(unsigned int i)
{
	read_page(any_page(i));
}

static void read_hot(unsigned int i)
{
	read_page(hot_page(i));
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
	/* The time between operations: several times the time that one takes under TCG. */
	unsigned int period_us;
	unsigned int max;
	/* Another process collapses. */
	bool remote;
	/* The time from its beginning to its end is printed, too. */
	bool own;
} probes[] = {
	{ "fault", fault, 50, FAULT_WINDOWS * (HPAGE_SIZE / 4096), false, true },
	{ "write", write_any, 50, MAX_OPERATIONS },
	{ "write_hot", write_hot, 50, MAX_OPERATIONS },
	{ "read", read_any, 50, MAX_OPERATIONS },
	{ "read_hot", read_hot, 50, MAX_OPERATIONS },
	{ "mmap", map_and_unmap, 100, MAX_OPERATIONS, false, true },
	{ "fork", fork_once, 40000, MAX_OPERATIONS, false, true },
	{ "remote_fault", fault, 50, FAULT_WINDOWS * (HPAGE_SIZE / 4096), true, true },
	{ "remote_write", write_any, 50, MAX_OPERATIONS, true },
	{ "remote_read", read_any, 50, MAX_OPERATIONS, true },
	{ "remote_mmap", map_and_unmap, 100, MAX_OPERATIONS, true, true },
};

static const struct probe *find_probe(const char *name)
{
	const struct probe *probe = probes;

	while (strcmp(probe->name, name))
		probe++;
	return probe;
}

/*
 * The time of each operation since it was due, and since it began. The memory is shared,
 * so that fork() does not write-protect it.
 */
static double *due_latencies, *own_latencies;

/*
 * Each operation is due at its time, whether or not the one before has ended, and its
 * latency counts from then. So an operation that is late because the one before had to
 * wait is charged for that, too. Returns how many were due while the collapse ran.
 */
static unsigned int act_on_schedule(const struct probe *probe)
{
	double start = now_us(), due, began, ended;
	unsigned int i;

	for (i = 0; i < probe->max; i++) {
		bool running;

		due = start + (double)i * probe->period_us;
		do {
			running = is_running();
			began = now_us();
		} while (began < due && running);
		if (!running && due > collapser->ended_us)
			return i;
		probe->act(i);
		ended = now_us();
		due_latencies[i] = ended - due;
		own_latencies[i] = ended - began;
		if (sharer) {
			waitpid(sharer, NULL, 0);
			sharer = 0;
		}
	}
	printf("%s: the collapse took longer than %u operations\n", probe->name, i);
	return i;
}

static double mean(const double *values, unsigned int nr)
{
	double sum = 0;

	for (unsigned int i = 0; i < nr; i++)
		sum += values[i];
	return nr ? sum / nr : 0;
}

static void print_latencies(const char *name, const char *key, const double *values,
			    unsigned int nr)
{
	printf("%s %s", name, key);
	for (unsigned int i = 0; i < nr; i++)
		printf(" %.1f", values[i]);
	printf("\n");
}

/* Returns how many operations were measured. */
static unsigned int run_probe(const struct probe *probe, const char *engine)
{
	int pipe_to_it = -1, status;
	unsigned int nr;
	pthread_t thread = 0;
	pid_t child = 0;

	if (engine)
		use_engine(engine);
	if (probe->remote)
		child = fork_collapser(engine, &pipe_to_it);
	map_windows(NR_WINDOWS + FAULT_WINDOWS);
	write_pages(NR_WINDOWS, 1);
	if (probe->remote)
		begin_remote_collapse(pipe_to_it);
	else
		thread = begin_collapse(engine);
	nr = act_on_schedule(probe);
	if (!probe->remote)
		pthread_join(thread, NULL);
	else if (waitpid(child, &status, 0) != child || status)
		ksft_exit_fail_msg("the process that collapses failed\n");
	if (engine)
		expect_huge(NR_WINDOWS, true);
	expect_pages(NR_WINDOWS, 1);
	unmap_windows(NR_WINDOWS + FAULT_WINDOWS);
	return nr;
}

static void measure_probe(const struct probe *probe, const char *engine)
{
	unsigned int nr = run_probe(probe, engine);
	const char *key = engine ?: "none";
	char name[64];

	snprintf(name, sizeof(name), "threads %s", probe->name);
	print_latencies(name, key, due_latencies, nr);
	snprintf(name, sizeof(name), "own %s", probe->name);
	if (probe->own)
		print_latencies(name, key, own_latencies, nr);
	printf("schedule %s %s %u %.2f %u\n", probe->name, key, probe->period_us,
	       mean(own_latencies, nr), nr);
	step_done();
}

static void measure_threads(void)
{
	unsigned int nr_probes = 0;

	for (size_t i = 0; i < ARRAY_SIZE(probes); i++)
		nr_probes += is_chosen(probes[i].name);
	expect_chosen(nr_probes);
	steps = rounds * nr_probes * (ARRAY_SIZE(engines) + 1);
	run_on(1);
	for (unsigned int round = 0; round < rounds; round++)
		for (size_t i = 0; i < ARRAY_SIZE(probes); i++) {
			if (!is_chosen(probes[i].name))
				continue;
			measure_probe(&probes[i], NULL);
			for (size_t j = 0; j < ARRAY_SIZE(engines); j++)
				measure_probe(&probes[i], engines[j]);
		}
}

/* --- locks: locks that are taken, CPUs that are interrupted ------------------------ */

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
	printf("%s %s %s %.4f\n", part, name, engine, value / NR_WINDOWS);
}

static void collapse_beside(const char *engine)
{
	pthread_t thread = begin_collapse(engine);

	/* This CPU must run the process, so that flushes of its translations interrupt it. */
	while (is_running())
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

/* Returns how often the probes of LRU locks were hit so far. */
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
	double us, vma_held = 0;
	char line[512];
	FILE *file;

	traced = true;
	collapse_beside(engine);
	traced = false;
	file = open_trace();
	while (next_event(file, line, sizeof(line), "mm", &us)) {
		bool write = strstr(line, " write=true");

		if (strstr(line, " mmap_lock_acquire_returned: ") &&
		    strstr(line, " success=true")) {
			locks[write]++;
			taken[write] = us;
		} else if (strstr(line, " mmap_lock_released: ") && taken[write] >= 0) {
			if (us - taken[write] > longest[write])
				longest[write] = us - taken[write];
			taken[write] = -1;
		} else if (field(line, "stable_us") > vma_held) {
			vma_held = field(line, "stable_us");
		}
	}
	fclose(file);
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

static void measure_locks(void)
{
	steps = rounds * ARRAY_SIZE(counters) * ARRAY_SIZE(engines);
	run_on(1);
	set_up_tracing();
	set(INSTANCE "events/mmap_lock/enable", "1");
	for (size_t i = 0; i < ARRAY_SIZE(lru_locks); i++) {
		char probe[128];

		snprintf(probe, sizeof(probe), "p:collapse_bench/lru_lock_%zu %s\n", i,
			 lru_locks[i]);
		add_probe(probe);
	}
	for (unsigned int round = 0; round < rounds; round++)
		for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
			for (size_t j = 0; j < ARRAY_SIZE(engines); j++) {
				map_windows(NR_WINDOWS);
				write_pages(NR_WINDOWS, 1);
				use_engine(engines[j]);
				counters[i](engines[j]);
				expect_huge(NR_WINDOWS, true);
				unmap_windows(NR_WINDOWS);
				step_done();
			}
	end_tracing();
}

/* --- switch: how many windows share a flush at the switch --------------------------- */

static void measure_one_switch(const char *windows)
{
	map_windows(NR_WINDOWS);
	write_pages(NR_WINDOWS, 1);
	/* Not by "traced", which interrupts other CPUs itself. */
	set(INSTANCE "tracing_on", "1");
	count_interrupts(windows);
	set(INSTANCE "tracing_on", "0");
	print_untouchable("switch untouchable_us", windows, NR_WINDOWS);
	expect_huge(NR_WINDOWS, true);
	unmap_windows(NR_WINDOWS);
	print_latencies("switch read_us", windows, due_latencies,
			run_probe(find_probe("read"), "rust"));
}

static void measure_switch(void)
{
	unsigned long usual = read_num(PER_SWITCH);
	char windows[16];

	steps = rounds * ARRAY_SIZE(per_switch);
	run_on(1);
	set_up_tracing();
	use_engine("rust");
	for (unsigned int round = 0; round < rounds; round++)
		for (size_t i = 0; i < ARRAY_SIZE(per_switch); i++) {
			write_num(PER_SWITCH, per_switch[i]);
			snprintf(windows, sizeof(windows), "%u", per_switch[i]);
			measure_one_switch(windows);
			step_done();
		}
	write_num(PER_SWITCH, usual);
	end_tracing();
}

/* --- memory: when there is no huge page to be had ---------------------------------- */

#define MIN_FREE	"/proc/sys/vm/min_free_kbytes"
#define MIN_FREE_KB	4096
#define POOR_WINDOWS	64

/*
 * Leaves hardly any free memory but single pages. Takes as much memory as it can without
 * having the kernel reclaim any, and gives every other page back.
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
	int pidfd = syscall(__NR_pidfd_open, getpid(), 0);
	size_t size, collapsed = 0;
	double start, end;
	ssize_t served;
	char *pieces;

	map_windows(POOR_WINDOWS);
	/* Scattered, so that freed sources do not form a huge page, either. */
	fill_scattered(POOR_WINDOWS, 1);
	pieces = shatter_memory(&size);
	use_engine(engine);
	start = now_us();
	/* The call may fail for want of memory. */
	served = collapse_of(pidfd, mem, POOR_WINDOWS * WINDOW, flags);
	end = now_us();
	if (served < 0 && served != -ENOMEM && served != -EAGAIN)
		ksft_exit_fail_msg("process_madvise: %zd\n", served);
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
	{ "untouchable", measure_untouchable },
	{ "threads", measure_threads },
	{ "switch", measure_switch },
	{ "locks", measure_locks },
	{ "memory", measure_memory },
};

static void *map_shared(size_t size)
{
	void *shared = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (shared == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	return shared;
}

int main(int argc, char **argv)
{
	char *area, *end = "";

	rounds = argc > 2 ? strtoul(argv[2], &end, 10) : 3;
	if (argc < 2 || argc > 3 || *end || !rounds)
		ksft_exit_fail_msg("usage: %s PART [ROUNDS]\n", argv[0]);
	if (read_pmd_pagesize() != WINDOW)
		ksft_exit_fail_msg("huge pages are not of 2 MiB here\n");
	if (access(ENGINE, W_OK))
		ksft_exit_fail_msg("%s: %s; this takes CONFIG_THP_COLLAPSE_RUST_DEBUG\n",
				   ENGINE, strerror(errno));
	thp_save_settings();
	thp_write_string("enabled", "never");
	/* PROT_NONE memory around the windows keeps their VMA from being merged with others. */
	area = mmap(NULL, (MAX_WINDOWS + 2) * WINDOW, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	if (area == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	mem = (char *)(((uintptr_t)area + WINDOW) & ~(WINDOW - 1));
	collapser = map_shared(sizeof(*collapser));
	due_latencies = map_shared(MAX_OPERATIONS * sizeof(*due_latencies));
	own_latencies = map_shared(MAX_OPERATIONS * sizeof(*own_latencies));
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		if (strcmp(argv[1], parts[i].name))
			continue;
		part = parts[i].name;
		parts[i].measure();
		use_engine("rust");
		return 0;
	}
	ksft_exit_fail_msg("%s: there is no such part, see the head of its source\n",
			   argv[1]);
}
