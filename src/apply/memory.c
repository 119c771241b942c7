/*-------------------------------------------------------------------------
 *
 * memory.c
 *	  The memory of batches, which an applier keeps from one to the next.
 *
 * IDENTIFICATION
 *	  src/apply/memory.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "utils/memutils.h"

#include "apply/apply.h"
#include "apply/batch.h"
#include "statement.h"

/*
 * Memory for a batch.  Its first block is kept for the next batch of this process:
 * given back in between, its pages would have to be cleared again.
 */
static MemoryContext kept_memory = NULL;

/* That many bytes of it: enough for 1,000 entries. */
#define KEPT_MEMORY ((Size) 8 * 1024 * 1024)

/*
 * Below the current context, so that an error lets go of it; and nobody else has it.
 */
MemoryContext
CdpBatchMemoryTake(void)
{
	MemoryContext context = kept_memory;

	kept_memory = NULL;
	if (context != NULL)
		MemoryContextSetParent(context, CurrentMemoryContext);
	else
	{
		context = AllocSetContextCreate(CurrentMemoryContext, "cdp batch",
										KEPT_MEMORY, KEPT_MEMORY, KEPT_MEMORY);
		MemoryContextSetIdentifier(context, CdpBatchMemory);
	}
	return context;
}

void
CdpBatchMemoryKeep(MemoryContext context)
{
	MemoryContextReset(context);
	MemoryContextSetParent(context, TopMemoryContext);
	kept_memory = context;
}

/*
 * The same for what else a batch takes, results of statements and what is larger
 * than that.  These limits are the highest that the C library arrives at by itself.
 * They hold for the whole process, so this is for the applier alone: what a user's
 * session does with its memory is not ours to say.
 */
void
CdpApplierKeepMemory(void)
{
#if defined(M_MMAP_THRESHOLD) && defined(M_TRIM_THRESHOLD)
	mallopt(M_MMAP_THRESHOLD, 32 * 1024 * 1024);
	mallopt(M_TRIM_THRESHOLD, 64 * 1024 * 1024);
#endif
}
