// SPDX-License-Identifier: GPL-2.0
/*
 * usage: redis_load SOCKET KEYS SIZE RATE SECONDS|COMMAND...
 *
 * Sets values of SIZE bytes under "key:N", N below KEYS, in a redis-server: RATE
 * requests a second, each at its time, whether or not those before were answered (an
 * open load; redis-benchmark's clients wait for the answer). Does so for SECONDS, or
 * for as long as COMMAND runs. Prints how many microseconds each request took, from
 * when it was due to its answer, and exits with the status of COMMAND.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Requests go to one after the other. */
#define CONNECTIONS	8
#define MAX_REQUESTS	1048576
#define WARM_UP		200

static redisContext *connections[CONNECTIONS];
static struct pollfd polled[CONNECTIONS + 1];
/* The first request of each that has no answer yet: every CONNECTIONS'th is its. */
static unsigned int unanswered[CONNECTIONS];
static unsigned int requests, answers;
static double due_us[MAX_REQUESTS], latencies[MAX_REQUESTS];
static unsigned long keys;
static size_t size;
static char *value;

static void die(const char *what, const char *why)
{
	fprintf(stderr, "error: redis_load: %s: %s\n", what, why);
	exit(EXIT_FAILURE);
}

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static double positive(const char *text)
{
	char *end;
	double number = strtod(text, &end);

	if (*end || number <= 0)
		die(text, "no number above 0");
	return number;
}

static void connect_all(const char *socket)
{
	for (int i = 0; i < CONNECTIONS; i++) {
		redisContext *connection = redisConnectUnixNonBlock(socket);

		if (!connection || connection->err)
			die(socket, connection ? connection->errstr : "no memory");
		connections[i] = connection;
		polled[i] = (struct pollfd){ .fd = connection->fd, .events = POLLIN };
	}
}

/* Sends as much as the connection takes. The rest is sent once it takes more. */
static void send_some(int i)
{
	int done;

	if (redisBufferWrite(connections[i], &done) != REDIS_OK)
		die("writing", connections[i]->errstr);
	polled[i].events = POLLIN | (done ? 0 : POLLOUT);
}

static void request(double due)
{
	/* A key at random, which need not be as random as that. */
	unsigned long key = requests * 2654435761UL % keys;
	int i = requests % CONNECTIONS;

	due_us[requests++] = due;
	redisAppendCommand(connections[i], "SET key:%lu %b", key, value, size);
	send_some(i);
}

static void take_answers(int i)
{
	void *answer;

	if (redisBufferRead(connections[i]) != REDIS_OK)
		die("reading", connections[i]->errstr);
	for (;;) {
		if (redisGetReplyFromReader(connections[i], &answer) != REDIS_OK)
			die("reading", connections[i]->errstr);
		if (!answer)
			return;
		if (((redisReply *)answer)->type != REDIS_REPLY_STATUS)
			die("SET", ((redisReply *)answer)->str ?: "no status");
		freeReplyObject(answer);
		latencies[unanswered[i]] = now_us() - due_us[unanswered[i]];
		unanswered[i] += CONNECTIONS;
		answers++;
	}
}

/* Waits until there is something to do, or for so long. */
static void serve(double us)
{
	struct timespec timeout;

	if (us < 0)
		us = 0;
	timeout.tv_sec = us / 1e6;
	timeout.tv_nsec = (us - timeout.tv_sec * 1e6) * 1e3;
	if (ppoll(polled, CONNECTIONS + 1, &timeout, NULL) < 0 && errno != EINTR)
		die("ppoll", strerror(errno));
	for (int i = 0; i < CONNECTIONS; i++) {
		if (polled[i].revents & (POLLIN | POLLHUP | POLLERR))
			take_answers(i);
		if (polled[i].revents & POLLOUT)
			send_some(i);
	}
}

static void begin_anew(void)
{
	requests = 0;
	answers = 0;
	for (int i = 0; i < CONNECTIONS; i++)
		unanswered[i] = i;
}

static void warm_up(void)
{
	begin_anew();
	while (requests < WARM_UP) {
		request(now_us());
		while (answers < requests)
			serve(1e6);
	}
	begin_anew();
}

/* The server's own figures are to be of these requests, too. */
static void reset_statistics(const char *socket)
{
	redisContext *control = redisConnectUnix(socket);
	redisReply *reply = NULL;

	if (control && !control->err)
		reply = redisCommand(control, "CONFIG RESETSTAT");
	if (!reply || reply->type != REDIS_REPLY_STATUS)
		die("CONFIG RESETSTAT", "was refused");
	freeReplyObject(reply);
	redisFree(control);
}

/*
 * Starts the command, which waits for the pipe to be closed: from then on this
 * program goes before all others, which the command must not inherit.
 */
static pid_t start_command(char **command, int *pipe_to_it)
{
	int ends[2];
	pid_t child;
	char none;

	if (pipe(ends))
		die("pipe", strerror(errno));
	child = fork();
	if (child < 0)
		die("fork", strerror(errno));
	if (!child) {
		close(ends[1]);
		if (read(ends[0], &none, 1) < 0)
			_exit(EXIT_FAILURE);
		close(ends[0]);
		/* The output of the command must not be taken for latencies. */
		dup2(STDERR_FILENO, STDOUT_FILENO);
		execvp(command[0], command);
		die(command[0], strerror(errno));
	}
	close(ends[0]);
	*pipe_to_it = ends[1];
	return child;
}

/* The load shares its CPU with the task that collapses, and must not wait for it. */
static void go_first(void)
{
	struct sched_param priority = { .sched_priority = 1 };

	if (mlockall(MCL_CURRENT | MCL_FUTURE) ||
	    sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority))
		die("a real-time priority", strerror(errno));
}

/* Requests are due until @seconds have passed or, if that is 0, the command has ended. */
static void load(double period_us, double seconds)
{
	double start = now_us(), end = seconds ? start + seconds * 1e6 : 0, due = start, now;

	while (requests + CONNECTIONS <= MAX_REQUESTS) {
		now = now_us();
		if (!end && polled[CONNECTIONS].revents)
			end = now;
		if (end && due > end)
			break;
		/* Not all late requests at once: answers would wait meanwhile. */
		for (int i = 0; i < CONNECTIONS && now >= due; i++) {
			request(due);
			due = start + requests * period_us;
		}
		serve(due - now);
	}
	if (requests + CONNECTIONS > MAX_REQUESTS)
		die("the command", "it takes too long");
	while (answers < requests)
		serve(1e6);
}

int main(int argc, char **argv)
{
	double rate, seconds = 0;
	int pipe_to_it = -1, status = 0;
	char **command = argv + 5, *end = NULL;
	pid_t child = 0;

	if (argc < 6)
		die("usage", "redis_load SOCKET KEYS SIZE RATE SECONDS|COMMAND...");
	keys = positive(argv[2]);
	size = positive(argv[3]);
	rate = positive(argv[4]);
	value = malloc(size);
	if (!value)
		die("values", strerror(errno));
	memset(value, 'x', size);

	if (argc == 6)
		seconds = strtod(command[0], &end);
	polled[CONNECTIONS] = (struct pollfd){ .fd = -1 };
	if (!end || *end || seconds <= 0) {
		seconds = 0;
		child = start_command(command, &pipe_to_it);
		polled[CONNECTIONS].fd = syscall(SYS_pidfd_open, child, 0);
		polled[CONNECTIONS].events = POLLIN;
		if (polled[CONNECTIONS].fd < 0)
			die("pidfd_open", strerror(errno));
	}
	go_first();
	connect_all(argv[1]);
	warm_up();
	reset_statistics(argv[1]);
	if (child)
		close(pipe_to_it);
	load(1e6 / rate, seconds);
	if (child && waitpid(child, &status, 0) != child)
		die("waitpid", strerror(errno));

	for (unsigned int i = 0; i < requests; i++)
		printf("%.1f%c", latencies[i], i + 1 < requests ? ' ' : '\n');
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
}
