/*-------------------------------------------------------------------------
 *
 * walk.c
 *	  Walks over cdp.links: the neighbours of a node, by an identity_graph
 *	  index if a valid one is there, else by the two btrees.
 *
 *	  An index on (a, b) serves every walk; one WHERE status = 'accepted' serves
 *	  walks over accepted evidence and spares them the heap where the
 *	  visibility map allows it.
 *
 * IDENTIFICATION
 *	  src/identity/index/walk.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/visibilitymap.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "pgstat.h"
#include "storage/buf_internals.h"
#include "storage/predicate.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "compat.h"
#include "identity/index/graph_index.h"
#include "identity/index/walk.h"

bool		cdp_enable_graph_index = true;

struct CdpWalk
{
	bool		accepted;
	bool		by_status;		/* rows have to be looked at for their status */
	Relation	links;
	Snapshot	snapshot;
	MemoryContext context;		/* the walk's own */
	AttrNumber	a;
	AttrNumber	b;
	AttrNumber	status;

	/* by index */
	Relation	index;
	IndexFetchTableData *fetch;
	TupleTableSlot *slot;
	Buffer		vm;				/* page of the visibility map, pinned */
	Buffer		page;			/* page of the table that was read last, pinned */
	bool		is_heap;

	/* by btrees */
	Relation	btrees[2];
	IndexScanDesc scans[2];

	int			n;
	int			max;
	CdpNeighbour *found;
	CdpNeighbour few[16];
};

/*
 * What the catalogs say about a walk, remembered until one of these relations
 * changes.  Not remembered while it depends on the snapshot.
 */
typedef struct WalkPlan
{
	bool		valid;
	Oid			links;
	Oid			btrees[2];
	AttrNumber	a;
	AttrNumber	b;
	AttrNumber	status;
	Oid			index[2];		/* of walks over all and over accepted links */
	bool		by_status;		/* of a walk over accepted links by index[1] */
} WalkPlan;

static WalkPlan plan;

/*
 * In which buffers pages of the table were: hints, which the server checks.  A
 * page that is found this way is not looked for in the table of buffers.
 */
#define RECENT_PAGES		32768

typedef struct RecentPage
{
	BlockNumber block;
	Buffer		buffer;
} RecentPage;

static RecentPage recent[RECENT_PAGES];
static RecentPage recent_map;	/* page of the visibility map */

/*
 * Whether an index has the predicate status = 'accepted'.
 */
static bool
predicate_is_accepted(Relation index, AttrNumber status)
{
	List	   *predicate = RelationGetIndexPredicate(index);
	OpExpr	   *op;
	Node	   *left;
	Node	   *right;

	if (list_length(predicate) != 1 || !IsA(linitial(predicate), OpExpr))
		return false;
	op = (OpExpr *) linitial(predicate);
	set_opfuncid(op);
	if (op->opfuncid != F_TEXTEQ)
		return false;
	left = (Node *) linitial(op->args);
	right = (Node *) lsecond(op->args);
	return IsA(left, Var) && ((Var *) left)->varattno == status &&
		IsA(right, Const) && !((Const *) right)->constisnull &&
		strcmp(TextDatumGetCString(((Const *) right)->constvalue), "accepted") == 0;
}

/*
 * Whether an index serves a walk over all links and one over accepted links;
 * is_accepted: it has accepted links only.
 */
static bool
serves(const WalkPlan *made, Relation index, bool *is_accepted, bool *may_change)
{
	Form_pg_index form = index->rd_index;

	if (!CdpIsGraphIndex(index) || !form->indisvalid || !form->indisready ||
		!form->indislive || form->indnatts != 2 ||
		form->indkey.values[0] != made->a || form->indkey.values[1] != made->b)
		return false;
	/* hot chains that are broken for old snapshots */
	if (form->indcheckxmin)
	{
		*may_change = true;
		if (!TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
								   TransactionXmin))
			return false;
	}
	*is_accepted = RelationGetIndexPredicate(index) != NIL;
	return !*is_accepted || predicate_is_accepted(index, made->status);
}

/* a relation has changed: whichever it is that we know of, look again */
static void
forget_plan(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == plan.links || relid == plan.btrees[0] ||
		relid == plan.btrees[1] || relid == plan.index[0] || relid == plan.index[1])
		plan.valid = false;
}

/*
 * Make a plan: the indexes to be used, of several the one with fewer entries.
 * Returns it opened links.
 */
static Relation
make_plan(WalkPlan *made)
{
	static bool registered = false;
	Relation	links;
	List	   *indexes;
	ListCell   *lc;
	bool		may_change = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_plan, (Datum) 0);
		registered = true;
	}
	memset(made, 0, sizeof(WalkPlan));
	made->links = CdpRelationOid("links");
	links = table_open(made->links, AccessShareLock);

	/* valid already now, so that what changes from here on is noticed */
	plan = *made;
	plan.valid = true;
	made->btrees[0] = CdpRelationOid("links_a");
	made->btrees[1] = CdpRelationOid("links_b");
	made->a = get_attnum(made->links, "a");
	made->b = get_attnum(made->links, "b");
	made->status = get_attnum(made->links, "status");
	made->by_status = true;
	indexes = RelationGetIndexList(links);
	foreach (lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		bool		is_accepted;

		if (serves(made, index, &is_accepted, &may_change))
		{
			if (!is_accepted && !OidIsValid(made->index[0]))
				made->index[0] = RelationGetRelid(index);
			if (!OidIsValid(made->index[1]) || (is_accepted && made->by_status))
			{
				made->index[1] = RelationGetRelid(index);
				made->by_status = !is_accepted;
			}
		}
		index_close(index, NoLock);
	}
	list_free(indexes);
	made->valid = plan.valid && !may_change;
	plan = *made;
	return links;
}

CdpWalk *
CdpWalkBegin(bool accepted)
{
	CdpWalk    *walk = palloc(sizeof(CdpWalk));
	WalkPlan	made;
	static uint32 turn = 0;

	memset(walk, 0, offsetof(CdpWalk, few));
	walk->accepted = accepted;
	walk->snapshot = GetActiveSnapshot();
	if (!IsMVCCSnapshot(walk->snapshot))
		elog(ERROR, "walks need an MVCC snapshot");
	walk->context = CurrentMemoryContext;

	/* the lock lets us know of changes */
	if (plan.valid)
		walk->links = try_table_open(plan.links, AccessShareLock);
	if (walk->links != NULL && plan.valid)
		made = plan;
	else
	{
		if (walk->links != NULL)
			table_close(walk->links, NoLock);
		walk->links = make_plan(&made);
	}
	walk->a = made.a;
	walk->b = made.b;
	walk->status = made.status;
	walk->vm = walk->page = InvalidBuffer;
	walk->is_heap = walk->links->rd_tableam == GetHeapamTableAmRoutine();
	walk->by_status = accepted;
	if (cdp_enable_graph_index && OidIsValid(made.index[accepted]))
	{
		walk->index = index_open(made.index[accepted], AccessShareLock);
		walk->by_status = accepted && made.by_status;
		if (!walk->by_status && BufferIsValid(recent_map.buffer) && ++turn % 8 != 0 &&
			ReadRecentBuffer(CdpRelationLocator(walk->links), VISIBILITYMAP_FORKNUM,
							 recent_map.block, recent_map.buffer))
			walk->vm = recent_map.buffer;
		pgstat_count_index_scan(walk->index);
	}
	else
	{
		int			i;

		walk->slot = table_slot_create(walk->links, NULL);
		for (i = 0; i < 2; i++)
		{
			walk->btrees[i] = index_open(made.btrees[i], AccessShareLock);
			walk->scans[i] = CdpIndexBeginScan(walk->links, walk->btrees[i],
											   walk->snapshot, 1, 0);
		}
	}
	walk->max = lengthof(walk->few);
	walk->found = walk->few;
	return walk;
}

bool
CdpWalkByIndex(CdpWalk *walk)
{
	return walk->index != NULL;
}

static void
keep(CdpWalk *walk, const CdpNeighbour *neighbour)
{
	if (walk->n == walk->max)
	{
		walk->max *= 2;
		if (walk->found == walk->few)
		{
			walk->found = MemoryContextAlloc(walk->context,
											 sizeof(CdpNeighbour) * walk->max);
			memcpy(walk->found, walk->few, sizeof(walk->few));
		}
		else
			walk->found = repalloc_huge(walk->found, sizeof(CdpNeighbour) * (Size) walk->max);
	}
	walk->found[walk->n++] = *neighbour;
}

/* CdpgVisit: keep the neighbour, and whether its row need not be read */
static void
keep_entry(const CdpgEntry *entry, void *arg)
{
	CdpWalk    *walk = (CdpWalk *) arg;
	CdpNeighbour neighbour;

	if (entry->flags & CDPG_OTHER_NULL)
		return;
	neighbour.other = entry->other;
	ItemPointerSet(&neighbour.tid, entry->block, entry->offset);

	/* the bucket is locked, so VACUUM has not given this place away */
	neighbour.all_visible = !walk->by_status &&
		VM_ALL_VISIBLE(walk->links, entry->block, &walk->vm);
	if (neighbour.all_visible)
		PredicateLockPage(walk->links, entry->block, walk->snapshot);
	keep(walk, &neighbour);
}

static bool
is_accepted_status(Datum status)
{
	struct varlena *text = (struct varlena *) DatumGetPointer(status);

	return VARSIZE_ANY_EXHDR(text) == 8 &&
		memcmp(VARDATA_ANY(text), "accepted", 8) == 0;
}

static bool
row_counts(CdpWalk *walk)
{
	Datum		status;
	bool		isnull;

	if (!walk->by_status)
		return true;
	status = slot_getattr(walk->slot, walk->status, &isnull);
	return !isnull && is_accepted_status(status);
}

static int64
row_end(CdpWalk *walk, AttrNumber column)
{
	bool		isnull;

	return DatumGetInt64(slot_getattr(walk->slot, column, &isnull));
}

/*
 * The row that an index entry points at, through a hot chain.
 */
TupleTableSlot *
CdpWalkRow(CdpWalk *walk, ItemPointer tid)
{
	bool		again = false;
	bool		all_dead;
	ItemPointerData root = *tid;

	/* a walk that the visibility map answers needs neither */
	if (walk->fetch == NULL || walk->slot == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(walk->context);

		if (walk->fetch == NULL)
			walk->fetch = table_index_fetch_begin(walk->links);
		if (walk->slot == NULL)
			walk->slot = table_slot_create(walk->links, NULL);
		MemoryContextSwitchTo(old);
	}
	return table_index_fetch_tuple(walk->fetch, &root, walk->snapshot, walk->slot,
								   &again, &all_dead)
		? walk->slot : NULL;
}

/*
 * Have the lines of memory fetched that reading a row begins with.
 */
static void
expect_row(const ItemPointerData *tid)
{
	BlockNumber block = ItemPointerGetBlockNumber(tid);
	RecentPage *place = &recent[block % RECENT_PAGES];

	if (place->block == block && place->buffer > 0 && place->buffer <= NBuffers)
	{
		char	   *page = (char *) BufferGetPage(place->buffer);

		CdpgPrefetch(GetBufferDescriptor(place->buffer - 1));
		CdpgPrefetch(page);
		CdpgPrefetch(page + SizeOfPageHeaderData +
					 sizeof(ItemIdData) * (ItemPointerGetOffsetNumber(tid) - 1));
	}
}

/*
 * Pin a page of the table, in place of the one that was read before.
 */
static void
read_page(CdpWalk *walk, BlockNumber block)
{
	RecentPage *place = &recent[block % RECENT_PAGES];
	static uint32 turn = 0;

	if (BufferIsValid(walk->page))
	{
		if (BufferGetBlockNumber(walk->page) == block)
			return;
		ReleaseBuffer(walk->page);
		walk->page = InvalidBuffer;
	}

	/* as CdpgLockBucket does */
	if (place->block == block && BufferIsValid(place->buffer) && ++turn % 8 != 0 &&
		ReadRecentBuffer(CdpRelationLocator(walk->links), MAIN_FORKNUM, block,
						 place->buffer))
		walk->page = place->buffer;
	else
	{
		walk->page = ReadBuffer(walk->links, block);
		place->block = block;
		place->buffer = walk->page;
	}
}

/*
 * Whether the snapshot sees the row of a neighbour, and it is an edge between
 * the two that counts.  What a table access method does for an index scan, with
 * less around it: no slot, no pruning on the way, no search for the buffer.
 */
static bool
edge_counts(CdpWalk *walk, int64 node, const CdpNeighbour *neighbour)
{
	int64		a;
	int64		b;
	bool		counts = true;

	if (walk->is_heap)
	{
		ItemPointerData root = neighbour->tid;
		HeapTupleData tuple;
		bool		all_dead;
		bool		isnull;

		read_page(walk, ItemPointerGetBlockNumber(&root));
		LockBuffer(walk->page, BUFFER_LOCK_SHARE);
		if (!heap_hot_search_buffer(&root, walk->links, walk->page, walk->snapshot,
									&tuple, &all_dead, true))
		{
			LockBuffer(walk->page, BUFFER_LOCK_UNLOCK);
			return false;
		}
		a = DatumGetInt64(heap_getattr(&tuple, walk->a, RelationGetDescr(walk->links), &isnull));
		b = DatumGetInt64(heap_getattr(&tuple, walk->b, RelationGetDescr(walk->links), &isnull));
		if (walk->by_status)
		{
			Datum		status = heap_getattr(&tuple, walk->status,
											  RelationGetDescr(walk->links), &isnull);

			counts = !isnull && is_accepted_status(status);
		}
		LockBuffer(walk->page, BUFFER_LOCK_UNLOCK);
	}
	else
	{
		ItemPointerData root = neighbour->tid;

		if (CdpWalkRow(walk, &root) == NULL)
			return false;
		counts = row_counts(walk);
		a = row_end(walk, walk->a);
		b = row_end(walk, walk->b);
	}
	return counts && ((a == node && b == neighbour->other) ||
					  (b == node && a == neighbour->other));
}

static int
neighbours_by_index(CdpWalk *walk, int64 node, CdpWalkFilter filter, void *arg)
{
	int			n = 0;
	int			counting = 0;
	int			i;

	CdpgVisitNode(walk->index, node, walk->snapshot, keep_entry, walk);

	/*
	 * A walk comes to most edges twice: the index knows before the heap.  What
	 * is left will be read soon, now the row and then the node behind it.
	 */
	for (i = 0; i < walk->n; i++)
	{
		CdpNeighbour *neighbour = &walk->found[i];

		if (filter != NULL && !filter(neighbour->other, arg))
			continue;
		if (!neighbour->all_visible)
			expect_row(&neighbour->tid);
		CdpgExpectNode(walk->index, neighbour->other);
		if (n != i)
			walk->found[n] = *neighbour;
		n++;
	}
	for (i = 0; i < n; i++)
	{
		CdpNeighbour *neighbour = &walk->found[i];

		CHECK_FOR_INTERRUPTS();
		if (!neighbour->all_visible && !edge_counts(walk, node, neighbour))
			continue;
		if (counting != i)
			walk->found[counting] = *neighbour;
		counting++;
	}
	return counting;
}

static void
begin_btree(CdpWalk *walk, int column, int64 node)
{
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(node));
	index_rescan(walk->scans[column], &key, 1, NULL, 0);
}

/* The next visible row, in the walk's slot, with the root of its hot chain. */
static bool
next_by_btree(CdpWalk *walk, int column, ItemPointer root, int64 *other)
{
	for (;;)
	{
		ItemPointer tid = index_getnext_tid(walk->scans[column], ForwardScanDirection);

		CHECK_FOR_INTERRUPTS();
		if (tid == NULL)
			return false;
		*root = *tid;
		if (index_fetch_heap(walk->scans[column], walk->slot))
		{
			*other = row_end(walk, column == 0 ? walk->b : walk->a);
			return true;
		}
	}
}

int
CdpWalkNeighbours(CdpWalk *walk, int64 node, CdpWalkFilter filter, void *arg,
				  CdpNeighbour **neighbours)
{
	walk->n = 0;
	if (walk->index != NULL)
		walk->n = neighbours_by_index(walk, node, filter, arg);
	else
	{
		ItemPointerData tid;
		int64		other;
		int			column;

		for (column = 0; column < 2; column++)
		{
			begin_btree(walk, column, node);
			while (next_by_btree(walk, column, &tid, &other))
			{
				CdpNeighbour neighbour = {other, tid, false};

				if (row_counts(walk) && (filter == NULL || filter(other, arg)))
					keep(walk, &neighbour);
			}
		}
	}
	*neighbours = walk->found;
	return walk->n;
}

void
CdpWalkRows(CdpWalk *walk, int64 node, CdpWalkRowCallback callback, void *arg)
{
	ItemPointerData tid;
	int64		other;
	int			i;

	Assert(!walk->accepted);
	if (walk->index == NULL)
	{
		for (i = 0; i < 2; i++)
		{
			begin_btree(walk, i, node);
			while (next_by_btree(walk, i, &tid, &other))
				callback(walk->slot, other, arg);
		}
		return;
	}

	walk->n = 0;
	CdpgVisitNode(walk->index, node, walk->snapshot, keep_entry, walk);
	for (i = 0; i < walk->n; i++)
		expect_row(&walk->found[i].tid);
	for (i = 0; i < walk->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		other = walk->found[i].other;
		if (CdpWalkRow(walk, &walk->found[i].tid) != NULL)
		{
			int64		a = row_end(walk, walk->a);
			int64		b = row_end(walk, walk->b);

			if ((a == node && b == other) || (b == node && a == other))
				callback(walk->slot, other, arg);
		}
	}
}

/*
 * Locks stay to the end of the transaction, as those of a query do: the next
 * walk of the transaction gets them for nothing.
 */
void
CdpWalkEnd(CdpWalk *walk)
{
	int			i;

	if (walk->slot != NULL)
		ExecDropSingleTupleTableSlot(walk->slot);
	if (walk->fetch != NULL)
		table_index_fetch_end(walk->fetch);
	if (BufferIsValid(walk->vm))
	{
		recent_map.block = BufferGetBlockNumber(walk->vm);
		recent_map.buffer = walk->vm;
		ReleaseBuffer(walk->vm);
	}
	if (BufferIsValid(walk->page))
		ReleaseBuffer(walk->page);
	if (walk->index != NULL)
		index_close(walk->index, NoLock);
	for (i = 0; i < 2; i++)
	{
		if (walk->scans[i] != NULL)
			index_endscan(walk->scans[i]);
		if (walk->btrees[i] != NULL)
			index_close(walk->btrees[i], NoLock);
	}
	table_close(walk->links, NoLock);
	if (walk->found != walk->few)
		pfree(walk->found);
	pfree(walk);
}
