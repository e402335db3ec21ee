/*
 * Memory by whole pages and by cells: no malloc, because its arenas never shrink again, and because what lies here must not reach a
 * child (MADV_DONTFORK).
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "shim.h"

/* The sanitizer knows malloc's memory only: cells are handed to it by hand. */
#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, size) ((void)(at))
#define ASAN_UNPOISON_MEMORY_REGION(at, size) ((void)(at))
#endif

#define PAGE 4096u
#define CELLS_PER_PAGE ((PAGE - sizeof(struct cell_page)) / CELL_BYTES)

struct cell_page {
	struct list link;
	uint32_t used; /* one bit per cell */
};

static struct list cell_pages = { &cell_pages, &cell_pages };

void *child_pages_alloc(size_t size)
{
	void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return pages == MAP_FAILED ? NULL : pages;
}

void *pages_alloc(size_t size)
{
	void *pages = child_pages_alloc(size);
	if (pages != NULL)
		madvise(pages, size, MADV_DONTFORK);
	return pages;
}

void pages_free(void *pages, size_t size)
{
	ASAN_UNPOISON_MEMORY_REGION(pages, size);
	munmap(pages, size);
}

static struct cell_page *cell_page_with_room(void)
{
	list_each(at, &cell_pages) {
		struct cell_page *page = container_of(at, struct cell_page, link);
		if (page->used != (1u << CELLS_PER_PAGE) - 1)
			return page;
	}
	struct cell_page *page = pages_alloc(PAGE);
	if (page != NULL)
		list_append(&cell_pages, &page->link);
	return page;
}

void *cell_alloc(void)
{
	struct cell_page *page = cell_page_with_room();
	if (page == NULL)
		return NULL;
	unsigned index = (unsigned)__builtin_ctz(~page->used);
	page->used |= 1u << index;
	char *cell = (char *)(page + 1) + index * CELL_BYTES;
	ASAN_UNPOISON_MEMORY_REGION(cell, CELL_BYTES);
	return memset(cell, 0, CELL_BYTES);
}

void cell_free(void *cell)
{
	if (cell == NULL)
		return;
	struct cell_page *page = (struct cell_page *)((uintptr_t)cell & ~(uintptr_t)(PAGE - 1));
	ASAN_POISON_MEMORY_REGION(cell, CELL_BYTES);
	page->used &= ~(1u << (((char *)cell - (char *)(page + 1)) / CELL_BYTES));
	/* One page stays, so that a lone exec now and then does not map and unmap each time. */
	if (page->used == 0 && page->link.next != page->link.prev) {
		list_remove(&page->link);
		pages_free(page, PAGE);
	}
}
