/*-------------------------------------------------------------------------
 *
 * build.c
 *	  CREATE INDEX and REINDEX of an identity_graph index.
 *
 *	  All entries are sorted by their hash: a bucket is a range of hashes, so its
 *	  entries stand side by side, however many buckets there will be.  Their
 *	  number is chosen when the number of entries is known.  Pages are written through shared buffers without WAL, and logged
 *	  at the end in one go.
 *
 * IDENTIFICATION
 *	  src/identity/index/build.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/tableam.h"
#include "access/tupdesc.h"
#include "access/xloginsert.h"
#include "catalog/index.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/progress.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/smgr.h"
#include "utils/tuplesort.h"

#include "identity/index/graph_index.h"

typedef struct BuildState
{
	Relation	index;
	Tuplesortstate *sort;
	TupleTableSlot *slot;
	double		rows;
	double		entries;

	/* writing */
	BlockNumber *primaries;		/* of buckets */
	BlockNumber nblocks;
	Buffer		primary;		/* of the bucket at work */
	Buffer		tail;			/* last page of its chain, may be primary */
	uint32		bucket;
	uint32		nbuckets;
	/* entries of the node at work, until it is known to be a hub */
	int			nrun;
	CdpgEntry	run[CDPG_HUB_SIZE];
	Buffer		hub;			/* last page of its chain, when it is one */
} BuildState;

/* to a number whose signed order is that of hashes, and back */
#define SortKeyOf(hash) ((int64) ((hash) ^ (UINT64CONST(1) << 63)))
#define HashOf(key) ((uint64) (key) ^ (UINT64CONST(1) << 63))

static void
put_entry(BuildState *state, const CdpgEntry *entry)
{
	TupleTableSlot *slot = state->slot;

	ExecClearTuple(slot);
	slot->tts_values[0] = Int64GetDatum(SortKeyOf(CdpgHash(entry->node)));
	slot->tts_values[1] = Int64GetDatum(entry->other);
	slot->tts_values[2] = Int64GetDatum((int64) entry->block << 16 |
										entry->offset | entry->flags);
	slot->tts_isnull[0] = slot->tts_isnull[1] = slot->tts_isnull[2] = false;
	ExecStoreVirtualTuple(slot);
	tuplesort_puttupleslot(state->sort, slot);
	state->entries += 1;
}

static bool
get_entry(BuildState *state, CdpgEntry *entry)
{
	TupleTableSlot *slot = state->slot;
	uint64		place;

	if (!tuplesort_gettupleslot(state->sort, true, false, slot, NULL))
		return false;
	slot_getallattrs(slot);
	entry->node = CdpgUnhash(HashOf(DatumGetInt64(slot->tts_values[0])));
	entry->other = DatumGetInt64(slot->tts_values[1]);
	place = (uint64) DatumGetInt64(slot->tts_values[2]);
	entry->block = (BlockNumber) (place >> 16);
	entry->offset = place & CDPG_OFFSET_MASK;
	entry->flags = place & 0xFFFF & ~CDPG_OFFSET_MASK;
	return true;
}

static void
build_callback(Relation index, ItemPointer tid, Datum *values, bool *isnull,
			   bool alive, void *arg)
{
	BuildState *state = (BuildState *) arg;
	CdpgEntry	entries[2];
	int			n = CdpgMakeEntries(index, values, isnull, tid, entries);
	int			i;

	for (i = 0; i < n; i++)
		put_entry(state, &entries[i]);
	state->rows += 1;
}

static Buffer
build_page(BuildState *state)
{
	Buffer		buffer = ReadBuffer(state->index, P_NEW);

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	if (BufferGetBlockNumber(buffer) != state->nblocks)
		elog(ERROR, "page %u of a new index is not the next one",
			 BufferGetBlockNumber(buffer));
	state->nblocks++;
	return buffer;
}

static void
finish_page(Buffer buffer)
{
	Page		page = BufferGetPage(buffer);

	if (CdpgPageOpaque(page)->flags & (CDPG_PRIMARY | CDPG_OVERFLOW))
		CdpgPageArrange(page);
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
}

/* Append to the chain of the bucket at work. */
static void
build_add(BuildState *state, const CdpgEntry *entry)
{
	if (!CdpgPageAdd(BufferGetPage(state->tail), entry))
	{
		Buffer		buffer = build_page(state);

		CdpgPageInit(BufferGetPage(buffer), CDPG_OVERFLOW, state->bucket, 0);
		CdpgPageOpaque(BufferGetPage(state->tail))->next = BufferGetBlockNumber(buffer);
		if (state->tail != state->primary)
			finish_page(state->tail);
		state->tail = buffer;
		(void) CdpgPageAdd(BufferGetPage(buffer), entry);
	}
}

/* The node at work is done. */
static void
end_run(BuildState *state)
{
	int			i;

	if (BufferIsValid(state->hub))
		finish_page(state->hub);
	state->hub = InvalidBuffer;
	for (i = 0; i < state->nrun; i++)
		build_add(state, &state->run[i]);
	state->nrun = 0;
}

/* One more entry of the node at work. */
static void
add_to_run(BuildState *state, const CdpgEntry *entry)
{
	int			i;

	if (!BufferIsValid(state->hub))
	{
		CdpgEntry	hub;

		if (state->nrun < CDPG_HUB_SIZE || (entry->flags & CDPG_NODE_NULL))
		{
			if (entry->flags & CDPG_NODE_NULL)
				build_add(state, entry);
			else
				state->run[state->nrun++] = *entry;
			return;
		}
		state->hub = build_page(state);
		CdpgHubPageInit(BufferGetPage(state->hub), entry->node);
		hub.node = entry->node;
		hub.other = 0;
		hub.block = BufferGetBlockNumber(state->hub);
		hub.offset = 0;
		hub.flags = CDPG_IS_HUB;
		build_add(state, &hub);
		for (i = 0; i < state->nrun; i++)
			CdpgHubAdd(BufferGetPage(state->hub), &state->run[i]);
		state->nrun = 0;
	}
	if (CdpgPageCount(state->index, state->hub, BufferGetPage(state->hub)) >= CDPG_MAX_HUB)
	{
		Buffer		buffer = build_page(state);

		CdpgHubPageInit(BufferGetPage(buffer), entry->node);
		CdpgPageOpaque(BufferGetPage(state->hub))->next = BufferGetBlockNumber(buffer);
		finish_page(state->hub);
		state->hub = buffer;
	}
	CdpgHubAdd(BufferGetPage(state->hub), entry);
}

static void
begin_bucket(BuildState *state, uint32 bucket)
{
	state->bucket = bucket;
	state->primary = state->tail = build_page(state);
	CdpgPageInit(BufferGetPage(state->primary), CDPG_PRIMARY, bucket, state->nbuckets);
	state->primaries[bucket] = BufferGetBlockNumber(state->primary);
}

static void
end_bucket(BuildState *state)
{
	end_run(state);
	if (state->tail != state->primary)
		finish_page(state->tail);
	finish_page(state->primary);
}

static void
write_buckets(BuildState *state)
{
	uint32		bucket;
	CdpgEntry	entry;
	bool		more = get_entry(state, &entry);
	uint64		done = 0;

	for (bucket = 0; bucket < state->nbuckets; bucket++)
	{
		int64		node = 0;
		bool		first = true;

		CHECK_FOR_INTERRUPTS();
		begin_bucket(state, bucket);
		while (more && CdpgBucket(CdpgHash(entry.node), state->nbuckets, state->nbuckets) == bucket)
		{
			if (!first && entry.node != node)
				end_run(state);
			first = false;
			node = entry.node;
			add_to_run(state, &entry);
			more = get_entry(state, &entry);
			if ((++done & 0xFFFF) == 0)
			{
				CHECK_FOR_INTERRUPTS();
				pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE,
											 (int64) (done / 2));
			}
		}
		end_bucket(state);
	}
	if (more)
		elog(ERROR, "entries are left after the last bucket");
}

/*
 * Meta page and directory of an index of nbuckets, whose pages are numbered
 * before they are written: they follow the meta page.
 */
static void
write_directory(BuildState *state, uint32 fillfactor)
{
	uint32		n = (state->nbuckets + CDPG_PER_DIRECTORY - 1) / CDPG_PER_DIRECTORY;
	Buffer		buffer;
	Page		page;
	CdpgMeta	meta;
	uint32		i;

	buffer = ReadBuffer(state->index, CDPG_META_BLOCK);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	page = BufferGetPage(buffer);
	CdpgMetaInit(page, state->nbuckets, fillfactor);
	meta = CdpgPageMeta(page);
	meta->ndirectories = n;
	for (i = 0; i < n; i++)
		meta->directories[i] = CDPG_META_BLOCK + 1 + i;
	finish_page(buffer);

	for (i = 0; i < n; i++)
	{
		uint32		first = i * CDPG_PER_DIRECTORY;

		buffer = ReadBuffer(state->index, CDPG_META_BLOCK + 1 + i);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		page = BufferGetPage(buffer);
		CdpgPageInit(page, CDPG_DIRECTORY, 0, 0);
		memset(PageGetContents(page), 0, sizeof(BlockNumber) * CDPG_PER_DIRECTORY);
		memcpy(PageGetContents(page), state->primaries + first,
			   sizeof(BlockNumber) * Min(state->nbuckets - first, CDPG_PER_DIRECTORY));
		((PageHeader) page)->pd_lower += sizeof(BlockNumber) * CDPG_PER_DIRECTORY;
		finish_page(buffer);
	}
}

static int
fillfactor_of(Relation index)
{
	return index->rd_options ? ((CdpgOptions *) index->rd_options)->fillfactor
		: CDPG_FILLFACTOR;
}

static void
check_columns(Relation index)
{
	TupleDesc	desc = RelationGetDescr(index);

	if (desc->natts != 2 || TupleDescAttr(desc, 0)->atttypid != INT8OID ||
		TupleDescAttr(desc, 1)->atttypid != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("an identity_graph index has two columns of type bigint"),
				 errdetail("They are the two ends of an edge.")));
}

IndexBuildResult *
cdpgbuild(Relation heap, Relation index, struct IndexInfo *info)
{
	IndexBuildResult *result;
	BuildState *state;
	TupleDesc	desc;
	AttrNumber	column = 1;
	Oid			lt = Int8LessOperator;
	Oid			collation = InvalidOid;
	bool		nulls_first = false;
	int			fillfactor = fillfactor_of(index);
	double		buckets;
	double		heap_rows;
	uint32		i;

	check_columns(index);

	/* such a constraint looks with a snapshot that sees what is not committed */
	if (info->ii_ExclusionOps != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("access method \"%s\" does not support exclusion constraints",
						"identity_graph")));
	if (RelationGetNumberOfBlocks(index) != 0)
		elog(ERROR, "index \"%s\" already contains data",
			 RelationGetRelationName(index));
	CdpgCacheForget(index);

	desc = CreateTemplateTupleDesc(3);
	TupleDescInitEntry(desc, 1, "key", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 2, "other", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 3, "place", INT8OID, -1, 0);
	state = palloc0(sizeof(BuildState));
	state->index = index;
	state->sort = tuplesort_begin_heap(desc, 1, &column, &lt, &collation, &nulls_first,
									   maintenance_work_mem, NULL, TUPLESORT_NONE);
	state->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);

	pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE,
								 PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE);
	heap_rows = table_index_build_scan(heap, index, info, true, true, build_callback, state, NULL);
	tuplesort_performsort(state->sort);
	ExecDropSingleTupleTableSlot(state->slot);
	state->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);

	buckets = ceil(state->entries * 100.0 / fillfactor / CDPG_MAX_SHORT);
	state->nbuckets = (uint32) Max(1.0, Min(buckets, (double) CDPG_MAX_BUCKETS));
	state->primaries = MemoryContextAllocHuge(CurrentMemoryContext,
											  sizeof(BlockNumber) * (Size) state->nbuckets);

	/* the meta page and the directory come first, and are filled in last */
	for (i = 0; i <= (state->nbuckets + CDPG_PER_DIRECTORY - 1) / CDPG_PER_DIRECTORY; i++)
		UnlockReleaseBuffer(build_page(state));
	write_buckets(state);
	write_directory(state, fillfactor);
	tuplesort_end(state->sort);
	ExecDropSingleTupleTableSlot(state->slot);

	if (RelationNeedsWAL(index))
		log_newpage_range(index, MAIN_FORKNUM, 0, RelationGetNumberOfBlocks(index), true);

	result = (IndexBuildResult *) palloc(sizeof(IndexBuildResult));
	result->heap_tuples = heap_rows;	/* of which a partial index has some */
	result->index_tuples = state->rows;
	pfree(state->primaries);
	pfree(state);
	return result;
}

/*
 * The init fork of an unlogged index: an empty index, written and logged at
 * once, since it must be there after a crash although the relation itself is
 * not logged.
 */
void
cdpgbuildempty(Relation index)
{
	PGAlignedBlock block;
	Page		page = (Page) block.data;
	BlockNumber n;

	check_columns(index);
	for (n = 0; n < 3; n++)
	{
		switch (n)
		{
			case 0:
				{
					CdpgMeta	meta;

					CdpgMetaInit(page, 1, fillfactor_of(index));
					meta = CdpgPageMeta(page);
					meta->ndirectories = 1;
					meta->directories[0] = 1;
					break;
				}
			case 1:
				CdpgPageInit(page, CDPG_DIRECTORY, 0, 0);
				((PageHeader) page)->pd_lower += sizeof(BlockNumber) * CDPG_PER_DIRECTORY;
				CdpgPageDirectory(page)[0] = 2;
				break;
			default:
				CdpgPageInit(page, CDPG_PRIMARY, 0, 1);
		}
		PageSetChecksumInplace(page, n);
		smgrextend(RelationGetSmgr(index), INIT_FORKNUM, n, (char *) page, true);
		log_newpage(&CdpSmgrLocator(RelationGetSmgr(index)), INIT_FORKNUM, n, page, true);
	}
	smgrimmedsync(RelationGetSmgr(index), INIT_FORKNUM);
}
