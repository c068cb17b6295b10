/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_MM_COLLAPSE_UTIL_H
#define SELFTESTS_MM_COLLAPSE_UTIL_H

/* What the tests of collapse have in common. */

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "vm_util.h"

#define WINDOW		((size_t)HPAGE_SIZE)
#define PAGES		(WINDOW / psize())

/* Mapped by a PMD: smaps would only tell of whole mappings. */
static inline bool is_huge(const char *window)
{
	struct page_region region;
	struct pm_scan_arg scan = {
		.size = sizeof(scan),
		.start = (uintptr_t)window,
		.end = (uintptr_t)window + WINDOW,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE,
	};
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	int regions = ioctl(pagemap, PAGEMAP_SCAN, &scan);

	close(pagemap);
	return regions == 1 && region.start == scan.start && region.end == scan.end;
}

/* Returns -1 if there is none with these features. */
static inline int open_userfaultfd(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int uffd = syscall(__NR_userfaultfd, O_CLOEXEC);

	if (uffd >= 0 && ioctl(uffd, UFFDIO_API, &api)) {
		close(uffd);
		return -1;
	}
	return uffd;
}

static inline unsigned long env_number(const char *name, unsigned long otherwise)
{
	const char *value = getenv(name);

	return value ? strtoul(value, NULL, 0) : otherwise;
}

/* A line "name value" of a file. */
static inline long read_field(const char *path, const char *name)
{
	char line[256];
	size_t len = strlen(name);
	long value = -1;
	FILE *file = fopen(path, "r");

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, len) && strchr(" :\t", line[len]))
			value = strtol(line + len + 1, NULL, 10);
	if (file)
		fclose(file);
	return value;
}

#endif
