/* Memory that a forked child does not get, unless it is meant for it. memory.c */
#ifndef CAISSON_SHIM_MEMORY_H
#define CAISSON_SHIM_MEMORY_H

#include <stddef.h>

/* Zeroed pages that children do not get; NULL when there is no memory. */
void *pages_alloc(size_t size);
void pages_free(void *pages, size_t size);
/* Zeroed pages that the next child gets. */
void *child_pages_alloc(size_t size);
/* Small zeroed blocks of CELL_BYTES. A page goes back to the kernel with its last cell. */
#define CELL_BYTES 448
void *cell_alloc(void);
void cell_free(void *cell);

#endif
