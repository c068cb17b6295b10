/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_MM_COLLAPSE_PAGES_H
#define SELFTESTS_MM_COLLAPSE_PAGES_H

/* Content for pages that shows if a page or a word is lost or moved, and their frames. */

#include "collapse_util.h"

/* A word of a page names the page and the word. */
static inline uint64_t word(const char *page, size_t i)
{
	return ((uint64_t)(uintptr_t)page << 12) ^ (i * 0x9e3779b97f4a7c15ULL) ^ 1;
}

static inline void write_page(char *page)
{
	uint64_t *p = (uint64_t *)page;

	for (size_t i = 0; i < psize() / sizeof(*p); i++)
		p[i] = word(page, i);
}

static inline void write_pages(char *start, size_t pages, size_t stride)
{
	for (size_t i = 0; i < pages; i += stride)
		write_page(start + i * psize());
}

static inline bool page_intact(const char *page)
{
	const uint64_t *p = (const uint64_t *)page;

	for (size_t i = 0; i < psize() / sizeof(*p); i++)
		if (p[i] != word(page, i))
			return false;
	return true;
}

static inline bool page_zero(const char *page)
{
	const uint64_t *p = (const uint64_t *)page;

	for (size_t i = 0; i < psize() / sizeof(*p); i++)
		if (p[i])
			return false;
	return true;
}

/* Every stride'th page as written, the others zero. */
static inline bool window_intact(const char *window, size_t stride)
{
	for (size_t i = 0; i < PAGES; i++) {
		const char *page = window + i * psize();

		if (i % stride ? !page_zero(page) : !page_intact(page))
			return false;
	}
	return true;
}

/* Makes a huge page of the window, then has its PTEs map it. */
static inline bool map_huge_by_ptes(char *window)
{
	write_pages(window, PAGES, 1);
	return !collapse(window, WINDOW) && is_huge(window) && split_mapping(window + psize()) &&
	       !is_huge(window);
}

/* The page frames of a window. */
struct frames {
	unsigned long pfns[HPAGE_SIZE / 4096];
};

static inline struct frames frames_of(int pagemap, char *window)
{
	struct frames frames;

	for (size_t i = 0; i < PAGES; i++)
		frames.pfns[i] = pagemap_get_pfn(pagemap, window + i * psize());
	return frames;
}

static inline bool has_frames(int pagemap, char *window, const struct frames *frames)
{
	for (size_t i = 0; i < PAGES; i++)
		if (pagemap_get_pfn(pagemap, window + i * psize()) != frames->pfns[i])
			return false;
	return true;
}

#endif
