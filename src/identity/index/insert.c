/*-------------------------------------------------------------------------
 *
 * insert.c
 *	  Insertion into an identity_graph index.
 *
 *	  A row has two entries, one for each end.  Both buckets are locked, in the
 *	  order of their numbers, the places are chosen, and one record writes
 *	  both: GenericXLog costs by record and by page.  The two entries do not
 *	  depend on each other: a row with only one of them after an error is a row
 *	  that was never committed, and VACUUM removes entries one by one.
 *
 * IDENTIFICATION
 *	  src/identity/index/insert.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "nodes/execnodes.h"
#include "storage/predicate.h"

#include "identity/index/graph_index.h"

/* where an entry goes */
typedef struct Target
{
	CdpgEntry  *entry;
	Buffer		primary;		/* the bucket's, locked by the caller */
	Buffer		page;			/* gets the entry; may be primary */
	Buffer		owner;			/* HUB_NEW: has the hub's entry; may be primary */
	int			hub;			/* its number there */
	BlockNumber next;			/* of a new page */
	enum
	{
		ADD,					/* to a page that has room */
		OVERFLOW_NEW,			/* to a new overflow page */
		HUB_ADD,				/* to the first page of the hub's chain */
		HUB_NEW					/* to a new first page of it */
	}			how;
} Target;

/*
 * The entries of a row.  A row without any node has one too, under a number
 * made of its place, so that a scan without a key finds it.
 */
int
CdpgMakeEntries(Relation index, const Datum *values, const bool *isnull,
				ItemPointer tid, CdpgEntry entries[2])
{
	int			n = 0;
	int			i;
	BlockNumber block = ItemPointerGetBlockNumber(tid);
	uint16		offset = ItemPointerGetOffsetNumber(tid);

	if (offset > CDPG_OFFSET_MASK)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("index \"%s\" cannot hold rows with item numbers above %d",
						RelationGetRelationName(index), CDPG_OFFSET_MASK)));
	for (i = 0; i < 2; i++)
	{
		CdpgEntry  *entry = &entries[n];

		if (isnull[i])
			continue;
		entry->node = DatumGetInt64(values[i]);
		entry->other = isnull[1 - i] ? 0 : DatumGetInt64(values[1 - i]);
		entry->block = block;
		entry->offset = offset;
		entry->flags = (i == 1 ? CDPG_FROM_B : 0) |
			(isnull[1 - i] ? CDPG_OTHER_NULL : 0);
		n++;
	}
	if (n == 0)
	{
		entries[0].node = (int64) block << 12 | offset;
		entries[0].other = 0;
		entries[0].block = block;
		entries[0].offset = offset;
		entries[0].flags = CDPG_NODE_NULL | CDPG_OTHER_NULL;
		n = 1;
	}
	return n;
}

/*
 * Give a node with many entries on this page a chain of its own, and leave one
 * entry that points at it.
 */
static void
make_hub(Relation index, Buffer buffer, int64 node)
{
	Buffer		hub_buffer = CdpgNewPage(index);
	GenericXLogState *state = GenericXLogStart(index);
	Page		page = GenericXLogRegisterBuffer(state, buffer, 0);
	Page		hub = GenericXLogRegisterBuffer(state, hub_buffer,
												GENERIC_XLOG_FULL_IMAGE);
	int			i;
	CdpgEntry	entry;

	CdpgHubPageInit(hub, node);
	for (i = CdpgPageCount(index, buffer, page); i > 0; i--)
	{
		CdpgPageGet(page, i, &entry);
		if (entry.node != node || (entry.flags & (CDPG_IS_HUB | CDPG_NODE_NULL)) != 0)
			continue;
		CdpgHubAdd(hub, &entry);
		CdpgPageRemove(page, i);
	}
	entry.node = node;
	entry.other = 0;
	entry.block = BufferGetBlockNumber(hub_buffer);
	entry.offset = 0;
	entry.flags = CDPG_IS_HUB;
	if (!CdpgPageAdd(page, &entry))
		elog(ERROR, "no room for a hub's entry");
	GenericXLogFinish(state);
	UnlockReleaseBuffer(hub_buffer);
}

/*
 * Choose where the entry goes, in a bucket whose primary page is locked.  What
 * is chosen stays locked.
 */
static void
choose(Relation index, Target *target)
{
	CdpgEntry  *entry = target->entry;
	bool		null_node = (entry->flags & CDPG_NODE_NULL) != 0;
	uint32		bucket = CdpgPageOpaque(BufferGetPage(target->primary))->bucket;
	bool		tried = false;

	for (;;)
	{
		Buffer		buffer = target->primary;
		Buffer		room = InvalidBuffer;
		bool		crowded = false;
		uint32		steps = 0;

		target->owner = InvalidBuffer;
		for (;;)
		{
			Page		page = BufferGetPage(buffer);
			BlockNumber next = CdpgPageOpaque(page)->next;
			bool		keep = buffer == target->primary;

			(void) CdpgPageCount(index, buffer, page);
			target->hub = null_node ? 0 : CdpgPageFindHub(index, buffer, entry->node);
			if (target->hub != 0)
			{
				target->owner = buffer;
				break;
			}
			if (!BufferIsValid(room) && CdpgPageFits(page, entry))
			{
				room = buffer;
				keep = true;
			}
			else if (!tried && !null_node && !BufferIsValid(room) &&
					 CdpgPageCountNode(index, buffer, entry->node) >= CDPG_HUB_SIZE)
			{
				/* may be in vain if the hub's entry is on a later page */
				crowded = true;
			}
			CdpgChainTick(index, buffer, &steps);
			if (!keep)
				UnlockReleaseBuffer(buffer);
			if (next == InvalidBlockNumber)
				break;
			buffer = CdpgReadChain(index, next, BUFFER_LOCK_EXCLUSIVE,
								   CDPG_OVERFLOW, bucket, NULL);
		}

		if (BufferIsValid(target->owner))
		{
			CdpgEntry	hub;

			if (BufferIsValid(room) && room != target->primary &&
				room != target->owner)
				UnlockReleaseBuffer(room);
			CdpgPageGet(BufferGetPage(target->owner), target->hub, &hub);
			target->page = CdpgReadChain(index, hub.block, BUFFER_LOCK_EXCLUSIVE,
										 CDPG_HUB, 0, NULL);
			if (CdpgHubNode(BufferGetPage(target->page)) != entry->node)
				CdpgReportCorrupt(index, target->page, "page of another node");
			target->how = HUB_ADD;
			if (CdpgPageCount(index, target->page, BufferGetPage(target->page)) >= CDPG_MAX_HUB)
			{
				UnlockReleaseBuffer(target->page);
				target->page = CdpgNewPage(index);
				target->next = hub.block;
				target->how = HUB_NEW;
			}
			return;
		}
		if (BufferIsValid(room))
		{
			target->page = room;
			target->how = ADD;
			return;
		}
		if (crowded)
		{
			/* all pages are full, and one of them of this node */
			buffer = target->primary;
			for (;;)
			{
				BlockNumber next = CdpgPageOpaque(BufferGetPage(buffer))->next;
				bool		found = CdpgPageCountNode(index, buffer, entry->node) >= CDPG_HUB_SIZE;

				if (found)
					make_hub(index, buffer, entry->node);
				if (buffer != target->primary)
					UnlockReleaseBuffer(buffer);
				if (found || next == InvalidBlockNumber)
					break;
				buffer = CdpgReadChain(index, next, BUFFER_LOCK_EXCLUSIVE,
									   CDPG_OVERFLOW, bucket, NULL);
			}
			tried = true;
			continue;
		}
		target->page = CdpgNewPage(index);
		target->next = CdpgPageOpaque(BufferGetPage(target->primary))->next;
		target->how = OVERFLOW_NEW;
		return;
	}
}

static void
unlock_targets(Target *targets, int n)
{
	int			i;

	for (i = 0; i < n; i++)
	{
		Target	   *t = &targets[i];

		if (t->page != t->primary)
			UnlockReleaseBuffer(t->page);
		if (BufferIsValid(t->owner) && t->owner != t->primary)
			UnlockReleaseBuffer(t->owner);
	}
}

/*
 * Write n entries to their places, with one record.  Primary pages are
 * registered first, in the order in which they were locked.
 */
static void
place(Relation index, Target *targets, int n)
{
	GenericXLogState *state;
	Page		primaries[2];
	bool		plain = true;
	int			i;

	for (i = 0; i < n; i++)
		plain &= targets[i].how == ADD || targets[i].how == HUB_ADD;
	if (plain)
	{
		Buffer		pages[2];
		CdpgEntry  *entries[2];
		int			first = n == 2 && targets[0].page != targets[0].primary &&
			targets[1].page == targets[1].primary ? 1 : 0;

		for (i = 0; i < n; i++)
		{
			pages[i] = targets[n == 2 ? first ^ i : i].page;
			entries[i] = targets[n == 2 ? first ^ i : i].entry;
		}
		CdpgAddLogged(index, pages, entries, n);
		unlock_targets(targets, n);
		return;
	}

	state = GenericXLogStart(index);
	for (i = 0; i < n; i++)
	{
		Target	   *t = &targets[i];

		if (t->page == t->primary || t->owner == t->primary || t->how == OVERFLOW_NEW)
			primaries[i] = GenericXLogRegisterBuffer(state, t->primary, 0);
		else
			primaries[i] = NULL;
	}
	for (i = 0; i < n; i++)
	{
		Target	   *t = &targets[i];
		Page		page;

		switch (t->how)
		{
			case ADD:
				page = t->page == t->primary ? primaries[i] :
					GenericXLogRegisterBuffer(state, t->page, 0);
				if (!CdpgPageAdd(page, t->entry))
					elog(ERROR, "no room on a page that had room");
				break;
			case OVERFLOW_NEW:
				page = GenericXLogRegisterBuffer(state, t->page, GENERIC_XLOG_FULL_IMAGE);
				CdpgPageInit(page, CDPG_OVERFLOW,
							 CdpgPageOpaque(primaries[i])->bucket, 0);
				CdpgPageOpaque(page)->next = t->next;
				CdpgPageOpaque(primaries[i])->next = BufferGetBlockNumber(t->page);
				(void) CdpgPageAdd(page, t->entry);
				break;
			case HUB_ADD:
				page = GenericXLogRegisterBuffer(state, t->page, 0);
				CdpgHubAdd(page, t->entry);
				break;
			case HUB_NEW:
				{
					Page		owner = t->owner == t->primary ? primaries[i] :
						GenericXLogRegisterBuffer(state, t->owner, 0);

					page = GenericXLogRegisterBuffer(state, t->page,
													 GENERIC_XLOG_FULL_IMAGE);
					CdpgHubPageInit(page, t->entry->node);
					CdpgPageOpaque(page)->next = t->next;
					CdpgHubAdd(page, t->entry);
					CdpgPageSetBlock(owner, t->hub, BufferGetBlockNumber(t->page));
					break;
				}
		}
	}
	GenericXLogFinish(state);
	unlock_targets(targets, n);
}

/*
 * Both entries of a row in one bucket that is a single page without hubs of
 * theirs: one record.
 */
static bool
place_both(Relation index, Buffer primary, CdpgEntry *x, CdpgEntry *y)
{
	Page		page = BufferGetPage(primary);
	Buffer		pages[2];
	CdpgEntry  *entries[2];

	if (CdpgPageOpaque(page)->next != InvalidBlockNumber ||
		!CdpgPageFitsBoth(page, x, y) ||
		CdpgPageFindHub(index, primary, x->node) != 0 ||
		CdpgPageFindHub(index, primary, y->node) != 0)
		return false;
	pages[0] = pages[1] = primary;
	entries[0] = x;
	entries[1] = y;
	CdpgAddLogged(index, pages, entries, 2);
	return true;
}

/*
 * Lock the bucket of a hash, whose number the caller got from nbuckets; false
 * when that is no longer true, or a split has to be ended first.
 */
static bool
lock_for_insert(Relation index, uint32 bucket, uint32 nbuckets, Buffer *buffer,
				uint32 *unfinished)
{
	CdpgOpaque	opaque;

	*buffer = CdpgLockBucket(index, bucket, BUFFER_LOCK_EXCLUSIVE, NULL);
	opaque = CdpgPageOpaque(BufferGetPage(*buffer));
	if (opaque->stamp > nbuckets)
	{
		UnlockReleaseBuffer(*buffer);
		return false;
	}
	if (opaque->flags & (CDPG_SPLITTING | CDPG_FILLING))
	{
		*unfinished = CdpgUnfinishedSplit(index, *buffer);
		UnlockReleaseBuffer(*buffer);
		return false;
	}
	CheckForSerializableConflictIn(index, NULL, BufferGetBlockNumber(*buffer));
	return true;
}

bool
cdpginsert(Relation index, Datum *values, bool *isnull, ItemPointer heap_tid,
		   Relation heap, IndexUniqueCheck check_unique, bool unchanged,
		   struct IndexInfo *info)
{
	CdpgEntry	entries[2];
	Target		targets[2];
	Buffer		buffers[2];
	uint32		buckets[2];
	bool		overflow = false;
	int			nbuffers;
	int			n;
	int			i;

	n = CdpgMakeEntries(index, values, isnull, heap_tid, entries);
	memset(targets, 0, sizeof(targets));
	for (;;)
	{
		uint32		nbuckets = CdpgCacheGet(index)->nbuckets;
		uint32		unfinished = 0;
		bool		locked;

		for (i = 0; i < n; i++)
			buckets[i] = CdpgBucket(CdpgHash(entries[i].node), nbuckets,
									CdpgCacheGet(index)->base);
		if (n == 2 && buckets[0] > buckets[1])
		{
			CdpgEntry	entry = entries[0];
			uint32		bucket = buckets[0];

			entries[0] = entries[1];
			entries[1] = entry;
			buckets[0] = buckets[1];
			buckets[1] = bucket;
		}
		nbuffers = n == 2 && buckets[0] != buckets[1] ? 2 : 1;

		/* know where they are before anything is locked */
		for (i = 0; i < nbuffers; i++)
			(void) CdpgPrimaryBlock(index, buckets[i]);
		locked = lock_for_insert(index, buckets[0], nbuckets, &buffers[0], &unfinished);
		if (locked && nbuffers == 2 &&
			!lock_for_insert(index, buckets[1], nbuckets, &buffers[1], &unfinished))
		{
			UnlockReleaseBuffer(buffers[0]);
			locked = false;
		}
		if (locked)
			break;
		(void) CdpgCacheRefresh(index);
		if (unfinished != 0)
			CdpgFinishSplitOf(index, unfinished);
		else if (CdpgCacheGet(index)->nbuckets == nbuckets)
			ereport(ERROR,
					(errcode(ERRCODE_INDEX_CORRUPTED),
					 errmsg("a bucket of index \"%s\" was split into more buckets than there are",
							RelationGetRelationName(index)),
					 errhint("Please REINDEX it.")));
	}

	for (i = 0; i < n; i++)
	{
		if (i == 0 && n == 2 && nbuffers == 1 &&
			place_both(index, buffers[0], &entries[0], &entries[1]))
			break;
		targets[i].entry = &entries[i];
		targets[i].primary = buffers[nbuffers == 2 ? i : 0];
		choose(index, &targets[i]);
		overflow |= targets[i].how == OVERFLOW_NEW;
		if (nbuffers == 1)
			place(index, &targets[i], 1);
	}
	if (nbuffers == 2)
		place(index, targets, 2);
	for (i = nbuffers - 1; i >= 0; i--)
		UnlockReleaseBuffer(buffers[i]);

	if (overflow)
	{
		for (i = 0; i < CDPG_SPLITS; i++)
			CdpgSplit(index);
	}
	return false;
}
