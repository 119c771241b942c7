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
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/visibilitymap.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "pgstat.h"
#include "storage/predicate.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
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
	AttrNumber	a;
	AttrNumber	b;
	AttrNumber	status;

	/* by index */
	Relation	index;
	IndexFetchTableData *fetch;
	TupleTableSlot *slot;
	Buffer		vm;

	/* by btrees */
	Relation	btrees[2];
	IndexScanDesc scans[2];

	int			n;
	int			max;
	CdpNeighbour *found;
};

typedef struct VisitState
{
	Relation	heap;
	Snapshot	snapshot;
	Buffer	   *vm;
	CdpNeighbourCallback callback;
	void	   *arg;
} VisitState;

/* CdpgVisit: tell the neighbour, and whether its row need not be read */
static void
visit_neighbour(const CdpgEntry *entry, void *arg)
{
	VisitState *state = (VisitState *) arg;
	CdpNeighbour neighbour;

	if (entry->flags & CDPG_OTHER_NULL)
		return;
	neighbour.other = entry->other;
	ItemPointerSet(&neighbour.tid, entry->block, entry->offset);

	/* the bucket is locked, so VACUUM has not given this place away */
	neighbour.all_visible = VM_ALL_VISIBLE(state->heap, entry->block, state->vm);
	if (neighbour.all_visible)
		PredicateLockPage(state->heap, entry->block, state->snapshot);
	state->callback(&neighbour, state->arg);
}

void
CdpGraphIndexNeighbours(Relation heap, Relation index, int64 node, Snapshot snapshot,
						Buffer *vm, CdpNeighbourCallback callback, void *arg)
{
	VisitState	state;

	if (!IsMVCCSnapshot(snapshot))
		elog(ERROR, "identity_graph indexes serve MVCC snapshots only");
	state.heap = heap;
	state.snapshot = snapshot;
	state.vm = vm;
	state.callback = callback;
	state.arg = arg;
	CdpgVisitNode(index, node, snapshot, visit_neighbour, &state);
}

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

static bool
serves(CdpWalk *walk, Relation index, bool *is_accepted)
{
	Form_pg_index form = index->rd_index;

	if (!CdpIsGraphIndex(index) || !form->indisvalid || !form->indisready ||
		!form->indislive || form->indnatts != 2 ||
		form->indkey.values[0] != walk->a || form->indkey.values[1] != walk->b)
		return false;
	/* hot chains that are broken for old snapshots */
	if (form->indcheckxmin &&
		!TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
							   TransactionXmin))
		return false;
	*is_accepted = false;
	if (RelationGetIndexPredicate(index) == NIL)
		return true;
	*is_accepted = predicate_is_accepted(index, walk->status);
	return walk->accepted && *is_accepted;
}

/*
 * The index to be used, of several the one with fewer entries.
 */
static void
find_index(CdpWalk *walk)
{
	List	   *indexes;
	ListCell   *lc;
	bool		best_accepted = false;

	if (!cdp_enable_graph_index)
		return;
	indexes = RelationGetIndexList(walk->links);
	foreach (lc, indexes)
	{
		Relation	index;
		bool		is_accepted;

		index = index_open(lfirst_oid(lc), AccessShareLock);
		if (serves(walk, index, &is_accepted) &&
			(walk->index == NULL || (is_accepted && !best_accepted)))
		{
			if (walk->index != NULL)
				index_close(walk->index, AccessShareLock);
			walk->index = index;
			best_accepted = is_accepted;
		}
		else
			index_close(index, AccessShareLock);
	}
	list_free(indexes);
	walk->by_status = walk->accepted && !best_accepted;
}

CdpWalk *
CdpWalkBegin(bool accepted)
{
	CdpWalk    *walk = palloc0(sizeof(CdpWalk));

	walk->accepted = walk->by_status = accepted;
	walk->links = table_open(CdpRelationOid("links"), AccessShareLock);
	walk->snapshot = GetActiveSnapshot();
	walk->a = get_attnum(RelationGetRelid(walk->links), "a");
	walk->b = get_attnum(RelationGetRelid(walk->links), "b");
	walk->status = get_attnum(RelationGetRelid(walk->links), "status");
	walk->slot = table_slot_create(walk->links, NULL);
	walk->vm = InvalidBuffer;
	find_index(walk);
	walk->fetch = table_index_fetch_begin(walk->links);
	if (walk->index != NULL)
		pgstat_count_index_scan(walk->index);
	else
	{
		int			i;

		for (i = 0; i < 2; i++)
		{
			walk->btrees[i] = index_open(CdpRelationOid(i == 0 ? "links_a" : "links_b"),
										 AccessShareLock);
			walk->scans[i] = CdpIndexBeginScan(walk->links, walk->btrees[i],
											   walk->snapshot, 1, 0);
		}
	}
	walk->max = 64;
	walk->found = palloc(sizeof(CdpNeighbour) * walk->max);
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
		walk->found = repalloc_huge(walk->found, sizeof(CdpNeighbour) * (Size) walk->max);
	}
	walk->found[walk->n++] = *neighbour;
}

static void
keep_neighbour(const CdpNeighbour *neighbour, void *arg)
{
	keep((CdpWalk *) arg, neighbour);
}

static bool
row_counts(CdpWalk *walk)
{
	Datum		status;
	bool		isnull;

	if (!walk->by_status)
		return true;
	status = slot_getattr(walk->slot, walk->status, &isnull);
	return !isnull && VARSIZE_ANY_EXHDR(DatumGetPointer(status)) == 8 &&
		memcmp(VARDATA_ANY(DatumGetPointer(status)), "accepted", 8) == 0;
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

	return table_index_fetch_tuple(walk->fetch, &root, walk->snapshot, walk->slot,
								   &again, &all_dead)
		? walk->slot : NULL;
}

int
CdpWalkNeighbours(CdpWalk *walk, int64 node, CdpNeighbour **neighbours)
{
	walk->n = 0;
	if (walk->index != NULL)
	{
		int			n = 0;
		int			i;

		CdpGraphIndexNeighbours(walk->links, walk->index, node, walk->snapshot,
								&walk->vm, keep_neighbour, walk);
		for (i = 0; i < walk->n; i++)
		{
			CdpNeighbour *neighbour = &walk->found[i];

			CHECK_FOR_INTERRUPTS();
			if (!neighbour->all_visible || walk->by_status)
			{
				int64		a;
				int64		b;

				if (CdpWalkRow(walk, &neighbour->tid) == NULL || !row_counts(walk))
					continue;
				a = row_end(walk, walk->a);
				b = row_end(walk, walk->b);
				if (!(a == node && b == neighbour->other) &&
					!(b == node && a == neighbour->other))
					continue;
			}
			walk->found[n++] = *neighbour;
		}
		walk->n = n;
	}
	else
	{
		int			i;

		for (i = 0; i < 2; i++)
		{
			ScanKeyData key;

			ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(node));
			index_rescan(walk->scans[i], &key, 1, NULL, 0);
			for (;;)
			{
				ItemPointer tid = index_getnext_tid(walk->scans[i], ForwardScanDirection);
				CdpNeighbour neighbour;

				CHECK_FOR_INTERRUPTS();
				if (tid == NULL)
					break;
				/* the root of a hot chain, from which the row is found again */
				neighbour.tid = *tid;
				if (!index_fetch_heap(walk->scans[i], walk->slot) || !row_counts(walk))
					continue;
				neighbour.other = row_end(walk, i == 0 ? walk->b : walk->a);
				neighbour.all_visible = false;
				keep(walk, &neighbour);
			}
		}
	}
	*neighbours = walk->found;
	return walk->n;
}

void
CdpWalkEnd(CdpWalk *walk)
{
	int			i;

	ExecDropSingleTupleTableSlot(walk->slot);
	table_index_fetch_end(walk->fetch);
	if (BufferIsValid(walk->vm))
		ReleaseBuffer(walk->vm);
	if (walk->index != NULL)
		index_close(walk->index, AccessShareLock);
	for (i = 0; i < 2; i++)
	{
		if (walk->scans[i] != NULL)
			index_endscan(walk->scans[i]);
		if (walk->btrees[i] != NULL)
			index_close(walk->btrees[i], AccessShareLock);
	}
	table_close(walk->links, AccessShareLock);
	pfree(walk->found);
	pfree(walk);
}
