/*-------------------------------------------------------------------------
 *
 * vacuum.c
 *	  Removal of dead entries from an identity_graph index.
 *
 *	  Buckets are visited in the order of their numbers, up to as many as there
 *	  are in the end.  Entries move only to buckets of greater number, so none
 *	  escapes.  No cleanup lock is needed: scans keep no place in the index.
 *
 * IDENTIFICATION
 *	  src/identity/index/vacuum.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "commands/vacuum.h"
#include "miscadmin.h"
#include "storage/indexfsm.h"
#include "storage/lmgr.h"

#include "identity/index/graph_index.h"

typedef struct VacuumState
{
	Relation	index;
	IndexBulkDeleteResult *stats;
	IndexBulkDeleteCallback callback;
	void	   *callback_state;
	BufferAccessStrategy strategy;
} VacuumState;

/*
 * Whether the row of an entry is dead.  Rows are counted by one of their
 * entries.
 */
static bool
is_dead(VacuumState *state, const CdpgEntry *entry)
{
	ItemPointerData tid;
	bool		counts = (entry->flags & CDPG_FROM_B) == 0 ||
		(entry->flags & CDPG_OTHER_NULL) != 0;

	ItemPointerSet(&tid, entry->block, entry->offset);
	if (state->callback(&tid, state->callback_state))
	{
		if (counts)
			state->stats->tuples_removed += 1;
		return true;
	}
	if (counts)
		state->stats->num_index_tuples += 1;
	return false;
}

/*
 * Clean a hub's chain, which begins where entry number i of the page in owner
 * points to, and let go of pages that get empty, at last of that entry.
 */
static void
vacuum_hub(VacuumState *state, Buffer primary, Buffer owner, int i)
{
	Relation	index = state->index;
	Buffer		previous = InvalidBuffer;
	CdpgEntry	hub;
	BlockNumber block;
	uint32		steps = 0;

	CdpgPageGet(BufferGetPage(owner), i, &hub);
	block = hub.block;
	while (block != InvalidBlockNumber)
	{
		Buffer		buffer = CdpgReadChain(index, block, BUFFER_LOCK_EXCLUSIVE,
										   CDPG_HUB, 0, state->strategy);
		Page		page = BufferGetPage(buffer);
		BlockNumber next = CdpgPageOpaque(page)->next;
		int			n = CdpgPageCount(index, buffer, page);
		CdpgEntry	kept[CDPG_MAX_HUB];
		int			nkept = 0;
		int			j;
		GenericXLogState *record;

		if (CdpgHubNode(page) != hub.node)
			CdpgReportCorrupt(index, buffer, "page of another node");
		CdpgChainTick(index, buffer, &steps);
		for (j = 1; j <= n; j++)
		{
			CdpgHubGet(page, j, &kept[nkept]);
			if (!is_dead(state, &kept[nkept]))
				nkept++;
		}

		if (nkept == 0)
		{
			Page		before;
			Page		gone;

			record = GenericXLogStart(index);
			before = GenericXLogRegisterBuffer(record, primary, 0);
			if (BufferIsValid(previous))
			{
				before = GenericXLogRegisterBuffer(record, previous, 0);
				CdpgPageOpaque(before)->next = next;
			}
			else
			{
				if (owner != primary)
					before = GenericXLogRegisterBuffer(record, owner, 0);
				if (next == InvalidBlockNumber)
					CdpgPageRemove(before, i);
				else
					CdpgPageSetBlock(before, i, next);
			}
			gone = GenericXLogRegisterBuffer(record, buffer, 0);
			CdpgPageInit(gone, CDPG_DELETED, 0, 0);
			GenericXLogFinish(record);
			UnlockReleaseBuffer(buffer);
			CdpgFreePage(index, block);
			state->stats->pages_newly_deleted++;
		}
		else
		{
			if (nkept < n)
			{
				record = GenericXLogStart(index);
				page = GenericXLogRegisterBuffer(record, buffer, 0);
				for (j = 0; j < nkept; j++)
					CdpgHubSet(page, j + 1, &kept[j]);
				CdpgHubTruncate(page, nkept);
				GenericXLogFinish(record);
			}
			if (BufferIsValid(previous))
				UnlockReleaseBuffer(previous);
			previous = buffer;
		}
		block = next;
	}
	if (BufferIsValid(previous))
		UnlockReleaseBuffer(previous);
}

/*
 * Clean one page of a bucket, and the chains of hubs whose entries it has.
 */
static void
vacuum_page(VacuumState *state, Buffer primary, Buffer buffer)
{
	Relation	index = state->index;
	Page		page = BufferGetPage(buffer);
	int			n = CdpgPageCount(index, buffer, page);
	bool		dead[CDPG_MAX_SHORT + 1];
	bool		hubs = false;
	bool		any = false;
	CdpgEntry	entry;
	int			i;

	for (i = 1; i <= n; i++)
	{
		CdpgPageGet(page, i, &entry);
		dead[i] = false;
		if (entry.flags & CDPG_IS_HUB)
			hubs = true;
		else
			dead[i] = is_dead(state, &entry);
		any |= dead[i];
	}
	if (any)
	{
		GenericXLogState *record = GenericXLogStart(index);

		/* the last entry, which takes the place of one that goes, stays */
		page = GenericXLogRegisterBuffer(record, buffer, 0);
		for (i = n; i >= 1; i--)
		{
			if (dead[i])
				CdpgPageRemove(page, i);
		}
		GenericXLogFinish(record);
	}
	if (hubs)
	{
		page = BufferGetPage(buffer);
		for (i = CdpgPageCount(index, buffer, page); i >= 1; i--)
		{
			CdpgPageGet(page, i, &entry);
			if (entry.flags & CDPG_IS_HUB)
				vacuum_hub(state, primary, buffer, i);
		}
	}
}

static void
vacuum_bucket(VacuumState *state, uint32 bucket)
{
	Relation	index = state->index;
	Buffer		primary;
	CdpgOpaque	opaque;
	BlockNumber next;
	uint32		steps = 0;

	for (;;)
	{
		uint32		unfinished;

		primary = CdpgLockBucket(index, bucket, BUFFER_LOCK_EXCLUSIVE, state->strategy);
		opaque = CdpgPageOpaque(BufferGetPage(primary));
		if ((opaque->flags & (CDPG_SPLITTING | CDPG_FILLING)) == 0)
			break;
		unfinished = CdpgUnfinishedSplit(index, primary);
		UnlockReleaseBuffer(primary);
		CdpgFinishSplitOf(index, unfinished);
	}

	vacuum_page(state, primary, primary);
	next = CdpgPageOpaque(BufferGetPage(primary))->next;
	if (next != InvalidBlockNumber)
	{
		do
		{
			Buffer		buffer = CdpgReadChain(index, next, BUFFER_LOCK_EXCLUSIVE,
											   CDPG_OVERFLOW, bucket, state->strategy);

			CdpgChainTick(index, buffer, &steps);
			vacuum_page(state, primary, buffer);
			next = CdpgPageOpaque(BufferGetPage(buffer))->next;
			UnlockReleaseBuffer(buffer);
		} while (next != InvalidBlockNumber);
		CdpgSqueeze(index, primary);
	}
	UnlockReleaseBuffer(primary);
}

IndexBulkDeleteResult *
cdpgbulkdelete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats,
			   IndexBulkDeleteCallback callback, void *callback_state)
{
	VacuumState state;
	uint32		bucket;

	if (stats == NULL)
		stats = (IndexBulkDeleteResult *) palloc0(sizeof(IndexBulkDeleteResult));
	stats->estimated_count = false;
	stats->num_index_tuples = 0;
	state.index = info->index;
	state.stats = stats;
	state.callback = callback;
	state.callback_state = callback_state;
	state.strategy = info->strategy;

	for (bucket = 0;; bucket++)
	{
		CdpVacuumDelayPoint();
		if (bucket >= CdpgCacheGet(info->index)->nbuckets &&
			bucket >= CdpgCacheRefresh(info->index)->nbuckets)
			break;
		vacuum_bucket(&state, bucket);
	}
	return stats;
}

IndexBulkDeleteResult *
cdpgvacuumcleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
	Relation	index = info->index;
	BlockNumber nblocks;
	BlockNumber block;
	bool		lock = !RELATION_IS_LOCAL(index);

	if (info->analyze_only)
		return stats;

	/* a page that is being added is locked before we can know of it */
	if (lock)
		LockRelationForExtension(index, ExclusiveLock);
	nblocks = RelationGetNumberOfBlocks(index);
	if (lock)
		UnlockRelationForExtension(index, ExclusiveLock);

	if (stats == NULL)
	{
		stats = (IndexBulkDeleteResult *) palloc0(sizeof(IndexBulkDeleteResult));
		stats->num_pages = nblocks;
		stats->num_index_tuples = info->num_heap_tuples;
		stats->estimated_count = true;
		return stats;
	}

	/* find pages that a crash has left behind */
	stats->num_pages = nblocks;
	stats->pages_free = 0;
	for (block = CDPG_META_BLOCK + 1; block < nblocks; block++)
	{
		Buffer		buffer;
		Page		page;

		CdpVacuumDelayPoint();
		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, info->strategy);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = BufferGetPage(buffer);
		if (PageIsNew(page) ||
			(CdpgPageOpaque(page)->flags & CDPG_KIND) == CDPG_DELETED)
		{
			RecordFreeIndexPage(index, block);
			stats->pages_free++;
		}
		UnlockReleaseBuffer(buffer);
	}
	stats->pages_deleted = stats->pages_free;
	IndexFreeSpaceMapVacuum(index);
	return stats;
}
