/*-------------------------------------------------------------------------
 *
 * wal.c
 *	  The record of a plain insertion.
 *
 *	  GenericXLogFinish finds out what has changed by comparing whole pages
 *	  byte by byte, after copying them: for two entries of 18 bytes that is nine
 *	  tenths of the work.  An insertion knows what it changes.  So it changes
 *	  the pages in place, in a critical section, and writes the same record
 *	  that GenericXLogFinish would have written: of the generic resource
 *	  manager, for each page pieces of (offset, length, bytes).  That form has
 *	  been the same since generic WAL exists (9.6); the tests replay these
 *	  records with wal_consistency_checking.
 *
 * IDENTIFICATION
 *	  src/identity/index/wal.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/generic_xlog.h"
#include "access/rmgr.h"
#include "access/xloginsert.h"
#include "miscadmin.h"

#include "identity/index/graph_index.h"

/* pieces of one page: pd_lower, flags, a head and an entry, twice */
#define MAX_PIECES	8

typedef struct Delta
{
	Buffer		buffer;
	int			size;
	char		data[MAX_PIECES * (2 * sizeof(OffsetNumber) + sizeof(CdpgWideEntry))];
} Delta;

/* Note bytes of the page as they are now. */
static void
note(Delta *delta, Page page, const void *start, int length)
{
	OffsetNumber head[2];

	head[0] = (OffsetNumber) ((const char *) start - (char *) page);
	head[1] = (OffsetNumber) length;
	Assert(delta->size + sizeof(head) + length <= sizeof(delta->data));
	memcpy(delta->data + delta->size, head, sizeof(head));
	memcpy(delta->data + delta->size + sizeof(head), start, length);
	delta->size += sizeof(head) + length;
}

static void
add(Delta *delta, const CdpgEntry *entry)
{
	Page		page = BufferGetPage(delta->buffer);
	PageHeader	header = (PageHeader) page;
	CdpgOpaque	opaque = CdpgPageOpaque(page);
	uint16		lower = header->pd_lower;
	uint16		flags = opaque->flags;

	if (flags & CDPG_HUB)
		CdpgHubAdd(page, entry);
	else
	{
		uint16	   *slots = (uint16 *) PageGetContents(page);

		if (!CdpgPageAdd(page, entry))
			elog(PANIC, "no room on a page that had room");
		note(delta, page, &slots[CdpgSlot(CdpgHash(entry->node))], sizeof(uint16));
		if (opaque->flags != flags)
			note(delta, page, &opaque->flags, sizeof(uint16));
	}
	note(delta, page, (char *) page + lower, header->pd_lower - lower);
	note(delta, page, &header->pd_lower, sizeof(header->pd_lower));
}

/*
 * Add entries to pages that have room (of a bucket or of a hub), with one
 * record.  Two entries may go to the same page, or to two; the second page is
 * after the first in the order of locks.
 */
void
CdpgAddLogged(Relation index, const Buffer *buffers, CdpgEntry *const *entries, int n)
{
	Delta		deltas[2];
	int			npages = 0;
	int			i;

	START_CRIT_SECTION();
	for (i = 0; i < n; i++)
	{
		if (i == 0 || buffers[i] != buffers[0])
		{
			deltas[npages].buffer = buffers[i];
			deltas[npages].size = 0;
			npages++;
		}
		add(&deltas[npages - 1], entries[i]);
	}
	for (i = 0; i < npages; i++)
		MarkBufferDirty(deltas[i].buffer);
	if (RelationNeedsWAL(index))
	{
		XLogRecPtr	lsn;

		XLogBeginInsert();
		for (i = 0; i < npages; i++)
		{
			XLogRegisterBuffer(i, deltas[i].buffer, REGBUF_STANDARD);
			XLogRegisterBufData(i, deltas[i].data, deltas[i].size);
		}
		lsn = XLogInsert(RM_GENERIC_ID, 0);
		for (i = 0; i < npages; i++)
			PageSetLSN(BufferGetPage(deltas[i].buffer), lsn);
	}
	END_CRIT_SECTION();
}
