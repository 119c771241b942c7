/*-------------------------------------------------------------------------
 *
 * scan.c
 *	  Reading an identity_graph index.
 *
 *	  A scan takes a copy of everything that matches while it holds the
 *	  bucket's lock, and lets go.  So it needs no place to come back to when
 *	  pages are split or vacuumed, and VACUUM need not wait for it: what was
 *	  copied is judged by an MVCC snapshot, for which a row that took the place
 *	  of a dead one is invisible.  Other snapshots are refused.
 *
 * IDENTIFICATION
 *	  src/identity/index/scan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/itup.h"
#include "access/relscan.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/tidbitmap.h"
#include "pgstat.h"
#include "storage/buf_internals.h"
#include "storage/predicate.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "identity/index/graph_index.h"

typedef struct ScanState
{
	MemoryContext context;		/* of tids */
	bool		started;
	/* what is looked for */
	bool		empty;			/* nothing can match */
	bool		by_a;
	bool		by_b;
	int64		a;
	int64		b;
	/* what was found */
	int			n;
	int			max;
	int			next;
	ItemPointerData *tids;
} ScanState;

IndexScanDesc
cdpgbeginscan(Relation index, int nkeys, int norderbys)
{
	IndexScanDesc scan = RelationGetIndexScan(index, nkeys, norderbys);
	ScanState  *state = palloc0(sizeof(ScanState));

	state->context = AllocSetContextCreate(CurrentMemoryContext,
										   "identity_graph scan",
										   ALLOCSET_SMALL_SIZES);
	scan->opaque = state;
	return scan;
}

static int64
key_value(ScanKey key)
{
	switch (key->sk_subtype)
	{
		case InvalidOid:
		case INT8OID:
			return DatumGetInt64(key->sk_argument);
		case INT4OID:
			return DatumGetInt32(key->sk_argument);
		case INT2OID:
			return DatumGetInt16(key->sk_argument);
		default:
			elog(ERROR, "unexpected type %u of a key", key->sk_subtype);
			return 0;
	}
}

void
cdpgrescan(IndexScanDesc scan, ScanKey keys, int nkeys, ScanKey orderbys,
		   int norderbys)
{
	ScanState  *state = (ScanState *) scan->opaque;
	int			i;

	if (keys && scan->numberOfKeys > 0)
		memmove(scan->keyData, keys, scan->numberOfKeys * sizeof(ScanKeyData));

	state->started = false;
	state->empty = state->by_a = state->by_b = false;
	state->n = state->max = state->next = 0;
	state->tids = NULL;
	MemoryContextReset(state->context);

	for (i = 0; i < scan->numberOfKeys; i++)
	{
		ScanKey		key = &scan->keyData[i];
		bool	   *by = key->sk_attno == 1 ? &state->by_a : &state->by_b;
		int64	   *value = key->sk_attno == 1 ? &state->a : &state->b;
		int64		v;

		/* = is strict */
		if (key->sk_flags & SK_ISNULL)
		{
			state->empty = true;
			continue;
		}
		v = key_value(key);
		if (*by && *value != v)
			state->empty = true;
		*by = true;
		*value = v;
	}
}

/* Take the entries of a page that are a node's. */
static void
visit_page(Relation index, Buffer buffer, int64 node, CdpgVisit visit, void *arg,
		   BlockNumber *hub)
{
	Page		page = BufferGetPage(buffer);
	int			n = CdpgPageCount(index, buffer, page);
	int			left = n;
	int			i;

	for (i = CdpgPageFirst(page, CdpgHash(node)); i != 0; i = CdpgPageNext(page, i))
	{
		CdpgEntry	entry;

		if (i > n || left-- == 0)
			CdpgReportCorrupt(index, buffer, "broken list of entries");
		CdpgPageGet(page, i, &entry);
		if (entry.node != node || (entry.flags & CDPG_NODE_NULL) != 0)
			continue;
		if (entry.flags & CDPG_IS_HUB)
			*hub = entry.block;
		else
			visit(&entry, arg);
	}
}

static void
visit_hub(Relation index, BlockNumber block, int64 node, CdpgVisit visit, void *arg)
{
	uint32		steps = 0;

	while (block != InvalidBlockNumber)
	{
		Buffer		buffer = CdpgReadChain(index, block, BUFFER_LOCK_SHARE, CDPG_HUB, 0, NULL);
		Page		page = BufferGetPage(buffer);
		int			n = CdpgPageCount(index, buffer, page);
		CdpgEntry	entry;
		int			i;

		if (CdpgHubNode(page) != node)
			CdpgReportCorrupt(index, buffer, "page of another node");
		for (i = 1; i <= n; i++)
		{
			CdpgHubGet(page, i, &entry);
			visit(&entry, arg);
		}
		block = CdpgPageOpaque(page)->next;
		CdpgChainTick(index, buffer, &steps);
		UnlockReleaseBuffer(buffer);
	}
}

/* All pages of a bucket that is locked. */
static void
visit_bucket(Relation index, Buffer primary, int64 node, CdpgVisit visit, void *arg)
{
	CdpgOpaque	opaque = CdpgPageOpaque(BufferGetPage(primary));
	uint32		bucket = opaque->bucket;
	BlockNumber next = opaque->next;
	BlockNumber hub = InvalidBlockNumber;
	uint32		steps = 0;

	visit_page(index, primary, node, visit, arg, &hub);
	while (next != InvalidBlockNumber)
	{
		Buffer		buffer = CdpgReadChain(index, next, BUFFER_LOCK_SHARE,
										   CDPG_OVERFLOW, bucket, NULL);

		visit_page(index, buffer, node, visit, arg, &hub);
		next = CdpgPageOpaque(BufferGetPage(buffer))->next;
		CdpgChainTick(index, buffer, &steps);
		UnlockReleaseBuffer(buffer);
	}
	if (hub != InvalidBlockNumber)
		visit_hub(index, hub, node, visit, arg);
}

/*
 * Have the lines of memory fetched that a visit of the node will read first.
 */
void
CdpgExpectNode(Relation index, int64 node)
{
	CdpgCache  *cache = (CdpgCache *) index->rd_amcache;
	uint64		hash = CdpgHash(node);
	Buffer		buffer;

	if (cache == NULL)
		return;
	buffer = cache->primary[CdpgBucket(hash, cache->nbuckets, cache->base)].recent;
	if (buffer > 0 && buffer <= NBuffers)
	{
		CdpgPrefetch(GetBufferDescriptor(buffer - 1));
		CdpgPrefetchPage(BufferGetPage(buffer), hash);
	}
}

/*
 * Visit all entries of a node under the lock of its bucket.  snapshot: for
 * predicate locks, may be NULL.
 */
void
CdpgVisitNode(Relation index, int64 node, Snapshot snapshot, CdpgVisit visit, void *arg)
{
	uint64		hash = CdpgHash(node);

	CdpgExpectNode(index, node);
	for (;;)
	{
		uint32		nbuckets = CdpgCacheGet(index)->nbuckets;
		uint32		base = CdpgCacheGet(index)->base;
		uint32		bucket = CdpgBucket(hash, nbuckets, base);
		Buffer		buffer = CdpgLockBucket(index, bucket, BUFFER_LOCK_SHARE, NULL);
		CdpgOpaque	opaque = CdpgPageOpaque(BufferGetPage(buffer));
		Buffer		old;

		if (opaque->stamp > nbuckets)
		{
			UnlockReleaseBuffer(buffer);
			CdpgCacheRefresh(index);
			if (CdpgCacheGet(index)->nbuckets < opaque->stamp)
				ereport(ERROR,
						(errcode(ERRCODE_INDEX_CORRUPTED),
						 errmsg("bucket %u of index \"%s\" was split into more buckets than there are",
								bucket, RelationGetRelationName(index)),
						 errhint("Please REINDEX it.")));
			continue;
		}
		if ((opaque->flags & CDPG_FILLING) == 0)
		{
			if (snapshot != NULL)
				PredicateLockPage(index, BufferGetBlockNumber(buffer), snapshot);
			visit_bucket(index, buffer, node, visit, arg);
			UnlockReleaseBuffer(buffer);
			return;
		}

		/*
		 * A split that did not end, or, on a standby, has not ended yet: part
		 * of what we look for is still in the old bucket, which comes first in
		 * the order of locks.  Whether the split has ended meanwhile does not
		 * matter: what is where is decided by the two locks together.
		 */
		if (bucket < base)
			CdpgReportCorrupt(index, buffer, "bucket that is being filled but did not split off");
		UnlockReleaseBuffer(buffer);
		old = CdpgLockBucket(index, CdpgParent(bucket, base), BUFFER_LOCK_SHARE, NULL);
		buffer = CdpgLockBucket(index, bucket, BUFFER_LOCK_SHARE, NULL);
		opaque = CdpgPageOpaque(BufferGetPage(buffer));
		if (opaque->stamp > nbuckets)
		{
			/* split again meanwhile */
			UnlockReleaseBuffer(buffer);
			UnlockReleaseBuffer(old);
			CdpgCacheRefresh(index);
			continue;
		}
		if (snapshot != NULL)
		{
			PredicateLockPage(index, BufferGetBlockNumber(old), snapshot);
			PredicateLockPage(index, BufferGetBlockNumber(buffer), snapshot);
		}
		if (opaque->flags & CDPG_FILLING)
			visit_bucket(index, old, node, visit, arg);
		visit_bucket(index, buffer, node, visit, arg);
		UnlockReleaseBuffer(buffer);
		UnlockReleaseBuffer(old);
		return;
	}
}

static void
keep_tid(ScanState *state, const CdpgEntry *entry)
{
	if (state->n == state->max)
	{
		state->max = Max(16, state->max * 2);
		if (state->tids == NULL)
			state->tids = MemoryContextAlloc(state->context,
											 sizeof(ItemPointerData) * state->max);
		else
			state->tids = repalloc_huge(state->tids,
										sizeof(ItemPointerData) * (Size) state->max);
	}
	ItemPointerSet(&state->tids[state->n], entry->block, entry->offset);
	state->n++;
}

/* CdpgVisit: an entry of the node that is looked for */
static void
visit_match(const CdpgEntry *entry, void *arg)
{
	ScanState  *state = (ScanState *) arg;
	bool		from_b = (entry->flags & CDPG_FROM_B) != 0;

	if (from_b == state->by_a)
		return;
	if (state->by_a && state->by_b &&
		((entry->flags & CDPG_OTHER_NULL) != 0 || entry->other != state->b))
		return;
	keep_tid(state, entry);
}

static int
tid_cmp(const void *a, const void *b)
{
	return ItemPointerCompare((ItemPointer) a, (ItemPointer) b);
}

/*
 * Without a key every row is meant.  Buckets that are split while we read may
 * show a row twice, so sort.  The planner thinks this infinitely expensive; it
 * is here to be correct.
 */
static void
collect_all(IndexScanDesc scan, ScanState *state)
{
	Relation	index = scan->indexRelation;
	BlockNumber block;
	int			i;
	int			n = 0;

	PredicateLockRelation(index, scan->xs_snapshot);

	/*
	 * Nothing that a snapshot taken before this scan sees can be inserted
	 * now, but it can move: by buckets, in the order of their numbers, since
	 * entries only move to greater ones.
	 */
	for (i = 0; i < CdpgCacheRefresh(index)->nbuckets; i++)
	{
		Buffer		primary;
		Buffer		buffer;
		BlockNumber next;
		uint32		steps = 0;
		List	   *hubs = NIL;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		primary = CdpgLockBucket(index, i, BUFFER_LOCK_SHARE, NULL);
		buffer = primary;
		for (;;)
		{
			Page		page = BufferGetPage(buffer);
			int			count = CdpgPageCount(index, buffer, page);
			CdpgEntry	entry;
			int			j;

			for (j = 1; j <= count; j++)
			{
				CdpgPageGet(page, j, &entry);
				if (entry.flags & CDPG_IS_HUB)
					hubs = lappend_oid(hubs, entry.block);
				else
					keep_tid(state, &entry);
			}
			next = CdpgPageOpaque(page)->next;
			CdpgChainTick(index, buffer, &steps);
			if (buffer != primary)
				UnlockReleaseBuffer(buffer);
			if (next == InvalidBlockNumber)
				break;
			buffer = CdpgReadChain(index, next, BUFFER_LOCK_SHARE, CDPG_OVERFLOW, i, NULL);
		}
		foreach (lc, hubs)
		{
			block = lfirst_oid(lc);
			while (block != InvalidBlockNumber)
			{
				Page		page;
				CdpgEntry	entry;
				int			count;
				int			j;

				buffer = CdpgReadChain(index, block, BUFFER_LOCK_SHARE, CDPG_HUB, 0, NULL);
				page = BufferGetPage(buffer);
				count = CdpgPageCount(index, buffer, page);
				for (j = 1; j <= count; j++)
				{
					CdpgHubGet(page, j, &entry);
					keep_tid(state, &entry);
				}
				block = CdpgPageOpaque(page)->next;
				CdpgChainTick(index, buffer, &steps);
				UnlockReleaseBuffer(buffer);
			}
		}
		list_free(hubs);
		UnlockReleaseBuffer(primary);
	}

	qsort(state->tids, state->n, sizeof(ItemPointerData), tid_cmp);
	for (i = 0; i < state->n; i++)
	{
		if (n == 0 || !ItemPointerEquals(&state->tids[i], &state->tids[n - 1]))
			state->tids[n++] = state->tids[i];
	}
	state->n = n;
}

static void
start(IndexScanDesc scan)
{
	ScanState  *state = (ScanState *) scan->opaque;
	Relation	index = scan->indexRelation;

	state->started = true;
	pgstat_count_index_scan(index);
#if PG_VERSION_NUM >= 180000
	if (scan->instrument)
		scan->instrument->nsearches++;
#endif
	if (!IsMVCCSnapshot(scan->xs_snapshot))
		elog(ERROR, "identity_graph indexes serve MVCC snapshots only");
	if (state->empty)
		return;
	if (!state->by_a && !state->by_b)
		collect_all(scan, state);
	else
		CdpgVisitNode(index, state->by_a ? state->a : state->b,
					  scan->xs_snapshot, visit_match, state);
}

bool
cdpggettuple(IndexScanDesc scan, ScanDirection dir)
{
	ScanState  *state = (ScanState *) scan->opaque;

	Assert(dir != BackwardScanDirection);
	if (!state->started)
		start(scan);
	if (state->next >= state->n)
		return false;
	scan->xs_heaptid = state->tids[state->next++];
	scan->xs_recheck = true;
	if (scan->xs_want_itup && scan->xs_itup == NULL)
	{
		Datum		values[2] = {0};
		bool		nulls[2] = {true, true};
		MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(state));

		/* As there is no amcanreturn, nothing but the count of rows is wanted. */
		scan->xs_itupdesc = RelationGetDescr(scan->indexRelation);
		scan->xs_itup = index_form_tuple(scan->xs_itupdesc, values, nulls);
		MemoryContextSwitchTo(old);
	}
	return true;
}

int64
cdpggetbitmap(IndexScanDesc scan, TIDBitmap *tbm)
{
	ScanState  *state = (ScanState *) scan->opaque;

	if (!state->started)
		start(scan);
	if (state->n > 0)
		tbm_add_tuples(tbm, state->tids, state->n, true);
	return state->n;
}

void
cdpgendscan(IndexScanDesc scan)
{
	ScanState  *state = (ScanState *) scan->opaque;

	MemoryContextDelete(state->context);
	pfree(state);
}
