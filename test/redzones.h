/*-------------------------------------------------------------------------
 *
 * redzones.h
 *	  For test/fuzz: AddressSanitizer sees what lies behind a palloc'd chunk.
 *
 *	  PostgreSQL hands out pieces of larger blocks, and all of a block is
 *	  addressable.  In a build with this header the extension asks for some
 *	  bytes more than it needs and has them poisoned, until the chunk is freed
 *	  or its context reset.  What the server allocates for itself is as it is.
 *
 *	  Included before everything else by the compiler's -include.
 *
 * IDENTIFICATION
 *	  test/redzones.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_REDZONES_H
#define CDP_REDZONES_H

#include "postgres.h"

#include <sanitizer/asan_interface.h>

#include "utils/memutils.h"

#define REDZONE 32

/* The redzones of one context, in memory that is not the server's. */
typedef struct RedzoneContext
{
	MemoryContextCallback callback;
	MemoryContext context;
	char	  **ends;
	int			n;
	int			room;
	struct RedzoneContext *next;
} RedzoneContext;

/* One list for all files: each has the definition, the linker keeps one. */
__attribute__((weak, visibility("hidden"))) RedzoneContext *cdp_redzones[4096];

static inline RedzoneContext **
cdp_redzone_bucket(MemoryContext context)
{
	return &cdp_redzones[((uintptr_t) context >> 6) % lengthof(cdp_redzones)];
}

static inline void
cdp_redzones_lift(void *arg)
{
	RedzoneContext *zones = (RedzoneContext *) arg;
	RedzoneContext **link = cdp_redzone_bucket(zones->context);

	for (int i = 0; i < zones->n; i++)
		ASAN_UNPOISON_MEMORY_REGION(zones->ends[i], REDZONE);
	while (*link != zones)
		link = &(*link)->next;
	*link = zones->next;
	free(zones->ends);
	free(zones);
}

static inline void *
cdp_redzone_set(MemoryContext context, void *chunk, Size size)
{
	RedzoneContext *zones;

	if (chunk == NULL)
		return NULL;
	for (zones = *cdp_redzone_bucket(context); zones != NULL; zones = zones->next)
		if (zones->context == context)
			break;
	if (zones == NULL)
	{
		zones = (RedzoneContext *) calloc(1, sizeof(RedzoneContext));
		zones->context = context;
		zones->callback.func = cdp_redzones_lift;
		zones->callback.arg = zones;
		zones->next = *cdp_redzone_bucket(context);
		*cdp_redzone_bucket(context) = zones;
		MemoryContextRegisterResetCallback(context, &zones->callback);
	}
	if (zones->n == zones->room)
	{
		zones->room = Max(zones->room * 2, 64);
		zones->ends = (char **) realloc(zones->ends, sizeof(char *) * zones->room);
	}
	zones->ends[zones->n++] = (char *) chunk + size;
	ASAN_POISON_MEMORY_REGION((char *) chunk + size, REDZONE);
	return chunk;
}

/* Zeroed where that is asked for, without what palloc0's macros look at. */
static inline void *
cdp_redzone_alloc(MemoryContext context, Size size, int flags)
{
	void	   *chunk = MemoryContextAllocExtended(context, size + REDZONE, flags | MCXT_ALLOC_HUGE);

	if (!(flags & MCXT_ALLOC_HUGE) && !AllocSizeIsValid(size))
		elog(ERROR, "invalid memory alloc request size %zu", size);
	ASAN_UNPOISON_MEMORY_REGION(chunk, size);
	return cdp_redzone_set(context, chunk, size);
}

static inline void
cdp_redzone_free(void *chunk)
{
	ASAN_UNPOISON_MEMORY_REGION(chunk, GetMemoryChunkSpace(chunk) - 8);
	(pfree) (chunk);
}

static inline void *
cdp_redzone_realloc(void *chunk, Size size)
{
	MemoryContext context = GetMemoryChunkContext(chunk);

	ASAN_UNPOISON_MEMORY_REGION(chunk, GetMemoryChunkSpace(chunk) - 8);
	chunk = repalloc_huge(chunk, size + REDZONE);
	ASAN_UNPOISON_MEMORY_REGION(chunk, size);
	return cdp_redzone_set(context, chunk, size);
}

static inline char *
cdp_redzone_string(MemoryContext context, const char *string, Size length)
{
	char	   *copy = (char *) cdp_redzone_alloc(context, length + 1, 0);

	memcpy(copy, string, length);
	copy[length] = '\0';
	return copy;
}

#define palloc(size)							cdp_redzone_alloc(CurrentMemoryContext, (size), 0)
#undef palloc0fast
#define palloc0fast(size)						cdp_redzone_alloc(CurrentMemoryContext, (size), MCXT_ALLOC_ZERO)
#define palloc0(size)							cdp_redzone_alloc(CurrentMemoryContext, (size), MCXT_ALLOC_ZERO)
#define palloc_extended(size, flags)			cdp_redzone_alloc(CurrentMemoryContext, (size), (flags))
#define MemoryContextAlloc(context, size)		cdp_redzone_alloc((context), (size), 0)
#define MemoryContextAllocZero(context, size)	cdp_redzone_alloc((context), (size), MCXT_ALLOC_ZERO)
#define MemoryContextAllocHuge(context, size)	cdp_redzone_alloc((context), (size), MCXT_ALLOC_HUGE)
#define MemoryContextStrdup(context, string)	cdp_redzone_string((context), (string), strlen(string))
#define pstrdup(string)							cdp_redzone_string(CurrentMemoryContext, (string), strlen(string))
#define pnstrdup(string, length)				cdp_redzone_string(CurrentMemoryContext, (string), strnlen((string), (length)))
#define repalloc(chunk, size)					cdp_redzone_realloc((chunk), (size))
#define repalloc_huge(chunk, size)				cdp_redzone_realloc((chunk), (size))
#define pfree(chunk)							cdp_redzone_free(chunk)

#endif							/* CDP_REDZONES_H */
