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
	Buffer		vm;

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

	memset(walk, 0, offsetof(CdpWalk, few));
	walk->accepted = accepted;
	walk->snapshot = GetActiveSnapshot();
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
	walk->vm = InvalidBuffer;
	walk->by_status = accepted;
	if (cdp_enable_graph_index && OidIsValid(made.index[accepted]))
	{
		walk->index = index_open(made.index[accepted], AccessShareLock);
		walk->by_status = accepted && made.by_status;
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

int
CdpWalkNeighbours(CdpWalk *walk, int64 node, CdpWalkFilter filter, void *arg,
				  CdpNeighbour **neighbours)
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
			/* a walk comes to most edges twice: the index knows before the heap */
			if (filter != NULL && !filter(neighbour->other, arg))
				continue;
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
				if (filter != NULL && !filter(neighbour.other, arg))
					continue;
				keep(walk, &neighbour);
			}
		}
	}
	*neighbours = walk->found;
	return walk->n;
}

void
CdpWalkExpect(CdpWalk *walk, int64 node)
{
	if (walk->index != NULL)
		CdpgExpectNode(walk->index, node);
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
		ReleaseBuffer(walk->vm);
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
